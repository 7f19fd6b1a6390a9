"""THE LOOP: one for all applications. A task says what to learn (`task.py`); here is everything else.

Randomness is never state. The initial weights, the order of the data in epoch e, and the dropout of batch k of epoch e are
drawn from generators seeded with (seed, e, k), so that a run can stop after any step and go on as if nothing had been, and so
that W processes with accumulation A compute what one process computes with accumulation W*A.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.adamw import adamw

from longshort import checks
from longshort.artefact import FORMAT, ArtefactError, mismatches, prepare, unpack, versions, write
from longshort.engine import fast_bf16
from longshort.probe.record import record
from longshort.probe.watch import Journal, Watch, look
from longshort.process import Interrupted, Signals, mix, own_randomness, processes, seed_all, sum_over_processes
from longshort.progress import Display
from longshort.task import Task, move

B = TypeVar("B")
Decay = Literal["cosine", "linear", "none"]
STATE = {"step": int, "epoch": int, "position": int, "ranked": list, "seconds": float | int, "history": list}
FREE = ("save_steps", "save_seconds")  # the fields of Training that may change when a run is continued


@dataclass(frozen=True)
class Training:
    """How to train. The defaults are a sound start for all applications.

    Args:
        steps: how many updates of the weights, at most.
        epochs: how many passes over the training data; if given, it replaces steps. Short passes at the beginning (a
            curriculum) count for less, and so more are made.
        lr: highest learning rate of AdamW.
        warmup: share of all steps in which the learning rate climbs to lr, in [0, 1].
        decay: how the learning rate falls to zero after the warm-up.
        betas: AdamW's two averaging rates. Loshchilov & Hutter 2019.
        weight_decay: AdamW's weight decay; matrices only, never biases or gains.
        grad_clip: highest norm of the gradient; 0 never clips.
        accumulate: batches per update and process.
        evaluate: updates between two scores on the validation split.
        patience: scores without improvement after which training stops; 0 never stops early.
        average: decay of the running average of the weights, in [0, 1). These averaged weights are what is scored, and
            the best of them are the result. 0 takes the weights as they are. The average forgets the start: the decay of
            step t is at most (1 + t) / (10 + t). Polyak & Juditsky 1992.
        best: how many of the best scored weights are averaged into the result, if their mean scores better than the best alone.
            Vaswani et al. 2017, section 6.1.
        bf16: compute the loss in bfloat16 where that is safe (autocast) and the device has instructions for it, elsewhere in
            float32; the weights stay as they are.
        seed: where all randomness starts.
        device: cpu, cuda, cuda:1 ...; auto is a GPU if there is one.
        save_steps: updates between two savings of the resume state; 0 saves by the clock only.
        save_seconds: seconds between two savings of the resume state.

    Raises:
        ValueError: a field is out of range.
    """

    steps: int = 1000
    epochs: int | None = None
    lr: float = 1e-3
    warmup: float = 0.05
    decay: Decay = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    accumulate: int = 1
    evaluate: int = 50
    patience: int = 8
    average: float = 0.999
    best: int = 1
    bf16: bool = False
    seed: int = 0
    device: str = "auto"
    save_steps: int = 0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        checks.whole(self, steps=1, accumulate=1, evaluate=1, best=1, patience=0, seed=0, save_steps=0)
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}. Leave it out to count steps.")
        checks.nonnegative(self, "weight_decay", "grad_clip")
        if not self.save_seconds >= 0:
            raise ValueError(f"save_seconds must be 0 or more, got {self.save_seconds}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a positive number, got {self.lr}.")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup must be a share of the steps in [0, 1], got {self.warmup}.")
        for name, x in (("average", self.average), ("betas[0]", self.betas[0]), ("betas[1]", self.betas[1])):
            if not 0 <= x < 1:
                raise ValueError(f"{name} must be in [0, 1), got {x}.")
        checks.one_of(self, decay=Decay)

    def rate(self, step: int, total: int) -> float:
        """The learning rate of the update that follows `step` others, 0 <= step < total."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(total - warm, 1)
        return self.lr * {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "none": 1.0}[self.decay]


@dataclass(frozen=True)
class Result:
    """What training came to.

    model: the model with the best averaged weights (or the mean of the best), on the CPU, in evaluation mode.
    scores: the metrics of these weights on the validation split; None is one that is not finite. Empty without a split.
    step: the update after which the best ones were taken.
    steps: updates made in all.
    seconds: time spent, over all resumptions.
    history: one line per score: step, epoch, loss, lr, seconds, scores, best.
    """

    model: nn.Module
    scores: dict[str, float | None]
    step: int
    steps: int
    seconds: float
    history: tuple[dict[str, Any], ...]


def resume_path(path: Path | str) -> Path:
    """Where the resume state of a model lies: model.resume.safetensors beside model.safetensors."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".safetensors") + ".resume.safetensors")


def train(
    task: Task[B],
    training: Training | None = None,
    *,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    progress: bool = True,
    log: Path | str | None = None,
    watch: Watch | None = None,
    preview: Callable[[nn.Module], object] | None = None,
) -> Result:
    """Train a task to its best weights.

    With a checkpoint, the state of the run is saved now and then (`Training.save_*`), on Ctrl-C and at the end. Whatever
    kills the process, the same call with resume=True goes on from there, and its final weights are bit-identical to those
    of an uninterrupted run (same machine, same versions, kernels that repeat themselves: all CPU ones do).
    The file of a finished run stays: resuming it returns the result at once, so nothing is lost if the process dies before
    the model is saved. Delete it when the model is (the command line does).

    Launched by torchrun, the processes share each step: process r of W takes every W-th batch, gradients are summed.

    Args:
        task: what to learn.
        training: how; the defaults if None.
        checkpoint: file of the resume state (see `resume_path`); None never saves.
        resume: go on from the checkpoint; if the file does not exist yet, the run starts at its beginning.
        progress: show loss, score and time left on standard error; False prints nothing.
        log: file that gets one JSON line per score, and one per look at the gates.
        watch: looks at gates and gradient flow, and TensorBoard's files; see `probe.Watch`. None has neither.
        preview: called after each score with the averaged weights as they are now, in evaluation mode; it must not change them.

    Returns:
        The best weights and how they came about.

    Raises:
        ValueError: the checkpoint belongs to another run (all that differs is named) or is damaged (ArtefactError), the
            device is unknown, the task has no training data, or the watch nothing to look at.
        FileExistsError: the checkpoint holds an unfinished run and resume is False.
        FloatingPointError: the loss is no longer finite.
        ImportError: the watch wants TensorBoard's files, and tensorboard is not installed.
        Interrupted: Ctrl-C or SIGTERM.
    """
    training = training or Training()
    with processes(training.device) as (rank, size, device), own_randomness(device):
        path, lines = (None if p is None else Path(p) for p in (checkpoint, log))
        if path is not None and rank == 0:
            for leftover in prepare(path).parent.glob(f".{path.name}.*.tmp"):  # of a process killed while it saved
                leftover.unlink()
        watch = watch or Watch(every=0)
        run = _Run(task, training, rank, size, device, watch)
        if path is not None and path.exists():
            run.restore(path, resume)
        if size > 1:  # nobody writes before all have read, and all have read the same
            steps: list[Any] = [None] * size
            dist.all_gather_object(steps, run.step)
            if len({*steps}) > 1:
                raise ValueError(f"the processes stand at steps {steps}: {path} must lie where all of them can read it.")
        if rank > 0:
            path, lines, progress, watch, preview = None, None, False, Watch(every=0), None
        if lines is not None:
            _cut(prepare(lines), run.step, run.history[-1]["step"] if run.history else 0)
        best = run.ranked[0][0] if run.ranked else None
        shown = Display(run.total, run.step, task.better[0], best) if progress else nullcontext()
        with watch.open(run.model, lines, run.step) as journal, shown as display, Signals() as signals:
            _loop(run, path, journal, display, signals, preview)
        return run.result()


def _loop(
    run: _Run[B], path: Path | None, journal: Journal, display: Display | None, signals: Signals,
    preview: Callable[[nn.Module], object] | None,
) -> None:  # fmt: skip
    begun, saved = time.monotonic() - run.seconds, time.monotonic()
    stop = 0
    try:
        while not run.finished:
            if run.due:
                with signals.at_once() if run.size == 1 else nullcontext():  # the state is whole while the task scores
                    scores = run.score()
                run.seconds = time.monotonic() - begun
                line = run.judge(scores)
                journal.write(line)
                if preview is not None:
                    preview(run.average)
                if display is not None:
                    display.scored(line)
                continue
            if stop:
                raise Interrupted("", stop)
            if path is not None and run.step and (run.save_due or time.monotonic() - saved > run.training.save_seconds):
                run.save(path)
                saved = time.monotonic()
            agreed = run.advance(signals.signum)
            stop = agreed if run.size > 1 else signals.signum
            run.seconds = time.monotonic() - begun
            if run.looked is not None:
                journal.write({"step": run.step, "epoch": run.epoch, "probe": run.looked})
            if display is not None and display.stale:
                display.moved(run.step, run.loss)
        if path is not None:
            run.save(path)
    except Interrupted as e:
        run.seconds = time.monotonic() - begun
        said = f"training stopped after step {run.step} of {run.total}"
        if path is None:
            why = "there is no checkpoint, so nothing was saved" if run.rank == 0 else "the first process says what was saved"
            raise Interrupted(f"{said}; {why}.", e.signum) from None
        run.save(path)
        raise Interrupted(f"{said}, saved in {path}. Start it again with resume=True (--resume) to go on.", e.signum) from None


class _Run(Generic[B]):
    """The whole state of a training run between two steps."""

    def __init__(self, task: Task[B], training: Training, rank: int, size: int, device: torch.device, watch: Watch) -> None:
        self.watch = watch
        self.looked: dict[str, dict[str, float | None]] | None = None  # what the last update's look saw
        self.task, self.training, self.rank, self.size, self.device = task, training, rank, size, device
        self.bf16 = training.bf16 and fast_bf16(device)
        seed_all(device, training.seed, 0)
        self.model = task.model().to(device)
        if size > 1:
            for t in (*self.model.parameters(), *self.model.buffers()):
                dist.broadcast(t.data, 0)
        self.average = copy.deepcopy(self.model)
        self.best = [{k: v.clone() for k, v in self.average.state_dict().items()} for _ in range(training.best)]
        self.names = {k: p for k, p in self.model.named_parameters() if p.requires_grad}
        self.params = list(self.names.values())
        if not self.names:
            raise ValueError("the task's model has no parameter that requires grad: there is nothing to train.")
        self.moments = [{k: torch.zeros_like(p) for k, p in self.names.items()} for _ in range(2)]  # AdamW's two averages
        self.counts = {k: torch.zeros((), device=device) for k in self.names}  # updates made; kernels want one per tensor
        self.step = self.epoch = self.position = 0
        self.ranked: list[tuple[float | None, int, int]] = []  # of the best: score, step, place in self.best
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and elements since the last score
        self.batches = task.batches("train", mix(training.seed, 1, 0), 0)
        if not len(self.batches):
            raise ValueError("the task has no training batches: batches('train', seed) is empty.")
        self.share = training.accumulate * size
        epochs = training.epochs
        self.total = training.steps
        if epochs is not None:  # as many updates as that many passes like the last one have
            last = task.batches("train", mix(training.seed, 1, epochs - 1), epochs - 1)
            self.total = math.ceil(epochs * len(last) / self.share)

    @property
    def due(self) -> bool:
        """Whether the present step must be scored and has not been."""
        here = self.step % self.training.evaluate == 0 or self.step == self.total
        return here and self.step > (self.history[-1]["step"] if self.history else 0)

    @property
    def finished(self) -> bool:
        best_step = max((line["step"] for line in self.history if line["best"]), default=0)
        since = sum(line["step"] > best_step for line in self.history)
        return not self.due and (self.step >= self.total or 0 < self.training.patience <= since)

    @property
    def save_due(self) -> bool:
        return self.training.save_steps > 0 and self.step % self.training.save_steps == 0

    @property
    def loss(self) -> float:
        """Mean training loss since the last score; it must be finite."""
        total, elements = self.sums.tolist()
        if not math.isfinite(total):
            rate = self.training.rate(max(self.step - 1, 0), self.total)
            raise FloatingPointError(f"the training loss became {total} by step {self.step} (learning rate {rate:.2g}). "
                                     "Lower lr, keep grad_clip on, or look for wild values in the data.")  # fmt: skip
        return total / elements if elements else 0.0

    def advance(self, signum: int) -> int:
        """One update of the weights. Returns the signal to stop that any process has seen, or 0."""
        seed = self.training.seed
        self.model.train()
        for p in self.params:
            p.grad = None
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.looked = None
        for k in range(self.share):
            while self.position >= len(self.batches):
                self.epoch, self.position = self.epoch + 1, 0
                self.batches = self.task.batches("train", mix(seed, 1, self.epoch), self.epoch)
            if k % self.size == self.rank:
                seed_all(self.device, seed, 2, self.epoch, self.position)
                batch = move(self.batches[self.position], self.device)
                looks = k == 0 and self.watch.due(self.step + 1)  # of the first process only
                with record(self.model) if looks else nullcontext() as seen:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                        loss = self.task.loss(self.model, batch)
                    loss.total.backward()
                if seen is not None:
                    self.looked = look(seen, float(loss.elements))
                sums[0] += loss.total.detach()
                sums[1] += loss.elements
            self.position += 1
        for p in self.params:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # unused here, perhaps not in another process
        grads = {k: p.grad for k, p in self.names.items() if p.grad is not None}
        if self.size > 1:
            sum_over_processes(list(grads.values()))
            dist.all_reduce(sums)
            stop = torch.tensor(signum, device=self.device)
            dist.all_reduce(stop, dist.ReduceOp.MAX)
            signum = int(stop)
        torch._foreach_mul_(list(grads.values()), 1 / (sums[1] + (sums[1] == 0)))
        if self.training.grad_clip:
            nn.utils.clip_grad_norm_(self.params, self.training.grad_clip)
        self.sums += sums
        with torch.no_grad():
            self.update(grads)
            self.step += 1
            if self.size > 1:
                for b in self.model.buffers():
                    dist.broadcast(b, 0)
            decay = min(self.training.average, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
            for a, b in zip(self.average.buffers(), self.model.buffers(), strict=True):
                a.copy_(b)
        return signum

    @cached_property
    def groups(self) -> dict[tuple[bool, float], list[str]]:
        """Names of the parameters that share (whether weights decay, factor of the learning rate)."""
        made: dict[tuple[bool, float], list[str]] = {}
        for k, p in self.names.items():
            made.setdefault((p.ndim > 1 and not hasattr(p, "rate"), getattr(p, "rate", 1.0)), []).append(k)
        return made

    def update(self, grads: Mapping[str, Tensor]) -> None:
        """One step of AdamW, by torch's function: its class would import the compiler, which takes seconds."""
        rate, (beta1, beta2) = self.training.rate(self.step, self.total), self.training.betas
        for (decays, factor), keys in self.groups.items():
            params, g, count, m1, m2 = ([x[k] for k in keys] for x in (self.names, grads, self.counts, *self.moments))
            adamw(params, g, m1, m2, [], count, fused=True, amsgrad=False, maximize=False, lr=factor * rate, beta1=beta1,
                  beta2=beta2, weight_decay=self.training.weight_decay if decays else 0.0, eps=1e-8)  # fmt: skip
            torch.autograd.graph.increment_version(params)  # the fused kernel does not; who keeps what was made of them asks it

    def score(self) -> dict[str, float]:
        """The task's metrics for the averaged weights; the first process computes them for all."""
        scores: list[dict[str, float]] = [{}]
        if self.rank == 0:
            seed_all(self.device, self.training.seed, 3, self.step)
            with torch.no_grad():
                scores = [dict(self.task.score(self.average.eval(), "valid"))]
        if self.size > 1:
            dist.broadcast_object_list(scores, 0, device=self.device)
        return scores[0]

    def judge(self, scores: Mapping[str, float]) -> dict[str, Any]:
        """Keep the averaged weights if they are among the best so far, or as long as there is no finite score to judge by. Of
        equal scores the first one counts; but as long as none is better than the very first, the last one, which has learned
        more."""
        metric, direction = self.task.better
        if scores and metric not in scores:
            raise ValueError(f"score() must return {metric!r}, the metric of `better`; it returned {', '.join(scores)}.")
        finite = {k: float(v) if math.isfinite(v) else None for k, v in scores.items()}
        value, others, sign = finite.get(metric), [r for r in self.ranked if r[0] is not None], 1 if direction == "min" else -1
        better = False
        if value is not None or not others:
            better = not others or sign * (value or 0.0) < sign * (others[0][0] or 0.0)
            first = self.history[0]["scores"].get(metric) if self.history else None
            rows = sorted(
                [*others, (value, self.step, -1)], key=lambda r: (sign * (r[0] or 0.0), -r[1] if r[0] == first else r[1])
            )[: self.training.best]
            if any(place < 0 for _, _, place in rows):
                free = min({*range(self.training.best)} - {place for _, _, place in rows})
                rows = [(v, step, free if place < 0 else place) for v, step, place in rows]
                self.best[free] = {k: v.clone() for k, v in self.average.state_dict().items()}
            self.ranked = rows
        line = {"step": self.step, "epoch": self.epoch, "loss": self.loss, "lr": self.training.rate(self.step - 1, self.total),
                "seconds": round(self.seconds, 3), "scores": finite, "best": better}  # fmt: skip
        self.history.append(line)
        self.sums.zero_()
        return line

    def result(self) -> Result:
        """The best averaged weights, or the mean of the best, as a model of their own."""
        value, step, place = self.ranked[0] if self.ranked else (None, 0, 0)
        self.average.load_state_dict(self.best[place])
        scores: dict[str, float | None] = next((line["scores"] for line in self.history if line["step"] == step), {})
        if len(self.ranked) > 1 and value is not None:
            many = [self.best[p] for _, _, p in self.ranked]
            self.average.load_state_dict(
                {k: torch.stack([m[k] for m in many]).mean(0) if v.is_floating_point() else v for k, v in many[0].items()}
            )
            metric, direction = self.task.better
            again = {k: float(v) if math.isfinite(v) else None for k, v in self.score().items()}
            mean = again[metric]
            if mean is not None and (mean < value if direction == "min" else mean > value):
                scores = again
            else:
                self.average.load_state_dict(self.best[place])
        model = self.average.to("cpu").eval()
        return Result(model, scores, step, self.step, self.seconds, tuple(self.history))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, not copied."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        parts |= {f"best{k}": held for k, held in enumerate(self.best)}
        parts |= {"moment1": self.moments[0], "moment2": self.moments[1]}
        return {f"{part}.{k}": v for part, content in parts.items() for k, v in content.items()} | {"sums": self.sums}

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be continued, as JSON reads it back."""
        training = {k: v for k, v in asdict(self.training).items() if k not in FREE}
        said = {"config": asdict(self.task.config), "cell": asdict(self.task.cell), "data": dict(self.task.data()),
                "training": training, "processes": self.size, "device": self.device.type}  # fmt: skip
        return json.loads(json.dumps(said))

    def save(self, path: Path) -> None:
        """Write the resume state; the state must be whole and finite."""
        _ = self.loss
        state = {"identity": self.identity, "finished": self.finished} | {k: getattr(self, k) for k in STATE}
        write(path, self.tensors(), {"format": FORMAT, "resume": state, "made_by": versions()})

    def restore(self, path: Path, resume: bool) -> None:
        """Take over a saved state; refuse one of another run, and one that would be lost."""
        with unpack(path) as (header, file):
            state = header.get("resume")
            if not isinstance(state, dict):
                raise ValueError(f"{path} is a model, not a resume state; give the checkpoint another name.")
            if not resume:
                if state.get("finished") is True:
                    return
                raise FileExistsError(f"{path} holds an unfinished run (step {state.get('step')}). Go on with it by resume=True "
                                      "(--resume), or delete it to start afresh.")  # fmt: skip
            if header.get("format") != FORMAT:
                raise ArtefactError(path, [f"its format number is {header.get('format')!r}, wanted {FORMAT}."])
            if wrong := _differences(state.get("identity"), self.identity):
                raise ValueError(f"{path} belongs to another run and cannot be continued: {'; '.join(wrong)}. "
                                 "Call it as before, or delete the file to start afresh.")  # fmt: skip
            wrong = mismatches(self.tensors(), file)
            wrong += [
                f"its state must have {k!r}, got {state.get(k)!r}." for k in STATE if not isinstance(state.get(k), STATE[k])
            ]
            if wrong:
                raise ArtefactError(path, wrong)
            with torch.no_grad():
                for name, t in self.tensors().items():
                    t.copy_(file.get_tensor(name))
        for k in STATE:
            setattr(self, k, state[k])
        self.ranked = [(value, step, place) for value, step, place in self.ranked]  # JSON has no tuples
        for count in self.counts.values():
            count.fill_(self.step)
        self.batches = self.task.batches("train", mix(self.training.seed, 1, self.epoch), self.epoch)


def finished(path: Path) -> bool:
    """Whether a file is the state of a run that has come to its end."""
    with unpack(path) as (header, _):
        state = header.get("resume")
        return isinstance(state, dict) and state.get("finished") is True


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, by dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*now, *before])
        return [d for k in keys for d in _differences(before.get(k), now.get(k), f"{name}.{k}".lstrip("."))]
    return [] if before == now else [f"{name} was {before!r}, is {now!r}"]


def _cut(log: Path, step: int, scored: int) -> None:
    """Drop the lines that the run is about to write again, scores after `scored` and looks after `step`, and one that a crash has
    torn."""
    kept, lines = [], log.read_text(errors="replace").splitlines() if log.exists() else []
    torn = len(lines) == 1 and '{"step"'.startswith(lines[0])
    if lines and not torn and not lines[0].startswith('{"step"'):
        raise ValueError(f"{log} holds something else than the log of a run. Give the log another name.")
    for line in lines:
        try:
            if (held := json.loads(line))["step"] <= (scored if "scores" in held else step):
                kept.append(line + "\n")
        except ValueError:
            break
    log.write_text("".join(kept))
