"""Laws of the loop. The task is toy.py: dropout, numpy's and Python's randomness, batch norm, missing targets."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from longshort.artefact import ArtefactError, unpack, write
from longshort.cell import Cell
from longshort.process import Interrupted
from longshort.task import Loss
from longshort.train import Result, Training, resume_path, train
from toy import Batch, Config, Toy, keep

SHORT = Training(steps=24, evaluate=5, save_steps=1)


pytestmark = pytest.mark.usefixtures("one_thread")


def same(a: Result, b: Result) -> bool:
    x, y = a.model.state_dict(), b.model.state_dict()
    past = [[{k: v for k, v in line.items() if k != "seconds"} for line in r.history] for r in (a, b)]
    return past[0] == past[1] and a.step == b.step and all(torch.equal(x[k], y[k]) for k in x | y)


def close(a: nn.Module, b: nn.Module, tolerance: float) -> None:
    for (name, x), (_, y) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@dataclass(frozen=True)
class Meddled(Toy):
    """A toy that does something at the n-th loss or score."""

    at_loss: dict = field(default_factory=dict)
    at_score: dict = field(default_factory=dict)
    scripted: tuple = ()
    calls: list = field(default_factory=lambda: [0, 0])

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        self.calls[0] += 1
        self.at_loss.get(self.calls[0], lambda: None)()
        return super().loss(model, batch)

    def score(self, model: nn.Module, split: str) -> dict[str, float]:
        self.calls[1] += 1
        self.at_score.get(self.calls[1], lambda: None)()
        scores = super().score(model, split)
        return scores | {"MSE": self.scripted[self.calls[1] - 1]} if self.scripted else scores


class Killed(BaseException):
    pass


def kill() -> None:
    raise Killed


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


# learning


def test_it_learns_and_twice_the_same() -> None:
    training = Training(steps=400, lr=1e-2, evaluate=50)
    task = Toy(rows=64, dropout=0.0, noise=0.0, norm=False)
    a, b = (train(task, training, progress=False) for _ in range(2))
    assert a.scores["MSE"] < 0.3 * a.history[0]["scores"]["MSE"]
    assert same(a, b)
    assert not same(a, train(task, replace(training, seed=1), progress=False))
    assert not a.model.training


@pytest.mark.parametrize("rates", [{}, {"out.weight": 3.0, "lstm.bias_ih_l0": 0.5}])
def test_the_update_is_that_of_torch_adamw(rates: dict[str, float]) -> None:
    """A parameter with a rate of its own learns so many times as fast, and does not decay."""
    start, batches = [], []

    class Watched(Toy):
        def model(self) -> nn.Module:
            made = Toy.model(self)
            for name, rate in rates.items():
                made.get_parameter(name).rate = rate
            return made

        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            start.append(copy.deepcopy(model))
            batches.append(batch)
            return Toy.loss(self, model, batch)

    task = Watched(dropout=0.0, noise=0.0, norm=False)
    training = Training(steps=12, lr=3e-2, warmup=0.25, average=0.0, weight_decay=0.1, grad_clip=0.5, evaluate=100)
    got = train(task, training, progress=False).model
    model = start[0]
    adamw = torch.optim.AdamW([{"params": [p], "weight_decay": 0.1 if p.ndim > 1 and k not in rates else 0.0,
                                "factor": rates.get(k, 1.0)} for k, p in model.named_parameters()])  # fmt: skip
    for step, batch in enumerate(batches):
        loss = Toy.loss(task, model, batch)
        adamw.zero_grad()
        (loss.total / loss.elements).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in adamw.param_groups:
            group["lr"] = group["factor"] * training.rate(step, 12)
        adamw.step()
    assert len(batches) == 12
    close(got, model, 1e-5)


def test_an_update_counts_as_a_change_of_the_weights() -> None:
    """`engine.linear` keeps packed weights and asks for the count."""
    counts = []

    class Watched(Toy):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            counts.append([p._version for p in model.parameters()])
            return Toy.loss(self, model, batch)

    train(Watched(), Training(steps=4, evaluate=100), progress=False)
    assert all(b > a for one, two in pairwise(counts) for a, b in zip(one, two, strict=True))


def test_the_rate_climbs_then_falls() -> None:
    rates = {d: [Training(lr=2.0, warmup=0.1, decay=d).rate(s, 100) for s in range(100)] for d in ("cosine", "linear", "none")}
    for r in rates.values():
        assert r[:11] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.0])
    assert rates["none"][99] == 2.0
    assert rates["linear"][55] == pytest.approx(1.0)
    assert rates["cosine"][55] == pytest.approx(1.0)
    assert 0 < rates["cosine"][99] < rates["linear"][99] < 0.03


def test_the_result_is_the_running_average_of_the_weights() -> None:
    path: list[torch.Tensor] = []

    class Watched(Toy):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            path.append(model.out.weight.detach().clone())
            return Toy.loss(self, model, batch)

    training = Training(steps=30, evaluate=1000, average=0.6, lr=1e-2)
    result = train(Watched(), training, progress=False)
    last = train(Watched(), replace(training, average=0.0), progress=False).model.out.weight  # the path is the same
    average = path[0]
    for t, w in enumerate([*path[1:30], last], 1):
        decay = min(0.6, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * w
    torch.testing.assert_close(result.model.out.weight, average)
    assert not torch.allclose(average, last, atol=1e-4)


def test_the_best_score_is_kept_and_patience_ends() -> None:
    scripted = (5.0, 3.0, float("nan"), 4.0, 3.0, 9.0, 1.0)
    result = train(Meddled(scripted=scripted), Training(steps=100, evaluate=3, patience=4), progress=False)
    assert (result.step, result.steps, result.scores) == (6, 18, {"MSE": 3.0})
    assert [line["best"] for line in result.history] == [True, True, False, False, False, False]
    assert result.history[2]["scores"] == {"MSE": None}

    stuck = train(Meddled(scripted=(5.0, 6.0, 5.0, 5.0)), Training(steps=12, evaluate=3, patience=0), progress=False)
    assert (stuck.step, [line["best"] for line in stuck.history]) == (12, [True, False, False, False]), "it has learned more"

    class Higher(Meddled):
        better = ("MSE", "max")

    highest = train(Higher(scripted=scripted), Training(steps=20, evaluate=3, patience=0), progress=False)
    assert (highest.step, highest.steps, highest.scores) == (18, 20, {"MSE": 9.0})


@pytest.mark.parametrize(("last", "taken"), [(1.5, "mean"), (2.5, "best")])
def test_the_mean_of_the_best_is_taken_where_it_scores_better(last: float, taken: str) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    @dataclass(frozen=True)
    class Seen(Meddled):
        def score(self, model: nn.Module, split: str) -> dict[str, float]:
            seen.append({k: v.clone() for k, v in model.state_dict().items()})
            return super().score(model, split)

    scripted = (5.0, 3.0, float("nan"), 2.0, 4.0, last)  # the last one is of the mean of the second, fourth and fifth
    result = train(Seen(scripted=scripted), Training(steps=15, evaluate=3, patience=0, best=3), progress=False)
    for k, v in result.model.state_dict().items():
        mean = (seen[1][k] + seen[3][k] + seen[4][k]) / 3
        torch.testing.assert_close(v, mean if taken == "mean" and v.is_floating_point() else seen[3][k])
    assert (result.step, result.scores) == (12, {"MSE": min(last, 2.0)})
    assert [line["best"] for line in result.history] == [True, True, False, True, False]


def test_without_a_validation_split_the_last_weights_are_kept() -> None:
    class Unscored(Toy):
        def score(self, model: nn.Module, split: str) -> dict[str, float]:
            return {}

    result = train(Unscored(), Training(steps=20, evaluate=4, patience=1), progress=False)
    assert (result.step, result.steps, result.scores) == (20, 20, {})


def test_every_batch_has_a_noise_of_its_own() -> None:
    drawn = []

    class Noisy(Toy):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
            return Toy.loss(self, model, batch)

    train(Noisy(), replace(SHORT, epochs=3), progress=False)
    assert len(drawn) == 3 * 6
    for each in zip(*drawn, strict=True):
        assert len(set(each)) == len(each)


def test_buffers_are_those_of_the_training() -> None:
    done = train(Toy(), SHORT, progress=False)
    assert int(done.model.norm.num_batches_tracked) == done.step > 0
    assert done.model.norm.running_mean.abs().sum() > 0


def test_the_log_says_the_rate_of_its_update() -> None:
    for decay in ("linear", "cosine"):
        training = replace(SHORT, decay=decay, warmup=0.3)
        history = train(Toy(), training, progress=False).history
        assert [line["lr"] for line in history] == [training.rate(line["step"] - 1, SHORT.steps) for line in history]


def test_passes_that_grow_are_counted_as_the_last_one() -> None:
    class Growing(Toy):
        def batches(self, split: str, seed: int, epoch: int = 0) -> list[Batch]:
            made = Toy.batches(self, split, seed, epoch)
            return [made[k] for k in range(2 + epoch)]

    assert train(Growing(), replace(SHORT, epochs=3), progress=False).steps == 3 * 4
    assert train(Growing(), replace(SHORT, epochs=3, accumulate=5), progress=False).steps == 3  # 12 batches, 5 a step, rounded up


def test_epochs_count_passes() -> None:
    assert train(Toy(), Training(epochs=3, accumulate=2, patience=0), progress=False).steps == 9  # 6 batches per pass
    line = train(Toy(), Training(steps=12, evaluate=12), progress=False).history[-1]
    assert (line["step"], line["epoch"]) == (12, 1)


def test_two_batches_accumulated_are_one_of_twice_the_size() -> None:
    training = Training(steps=40, lr=1e-2, evaluate=10)
    task = Toy(dropout=0.0, noise=0.0, norm=False)
    small = train(task, replace(training, accumulate=2), progress=False)
    large = train(replace(task, config=Config(batch=8)), training, progress=False)
    close(small.model, large.model, 1e-4)
    assert small.history[0]["loss"] == pytest.approx(large.history[0]["loss"], rel=1e-5)


def test_weight_decay_spares_vectors() -> None:
    class Flat(Toy):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            return Loss(0 * model.out.weight.sum() + 0 * model.out.bias.sum(), 1)

    result = [train(Flat(), Training(steps=10, weight_decay=w, lr=0.1, average=0.0), progress=False).model for w in (0.0, 0.5)]
    assert torch.equal(result[0].out.bias, result[1].out.bias)
    assert (result[1].out.weight.abs() < 0.9 * result[0].out.weight.abs()).all()
    assert (result[1].lstm.weight_hh_l0.abs() < 0.9 * result[0].lstm.weight_hh_l0.abs()).all()  # without a gradient, too


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_is_autocast_around_the_loss_where_it_is_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longshort.train.fast_bf16", lambda device: fast)
    seen = []

    class Watched(Toy):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            y = model.out(torch.ones(1, 8))  # without the LSTM: torch's does not run in bfloat16 on every processor
            seen.append((torch.is_autocast_enabled("cpu"), y.dtype))
            return Loss(y.float().sum(), 1)

        def score(self, model: nn.Module, split: str) -> dict[str, float]:
            seen.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), model.training))
            return Toy.score(self, model, split)

    model = train(Watched(), Training(steps=1, bf16=True), progress=False).model
    assert seen == [(fast, torch.bfloat16 if fast else torch.float32), (False, False, False)]
    assert model.out.weight.dtype == torch.float32


def test_the_callers_randomness_is_left_alone() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    want = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    train(Toy(), Training(steps=3), progress=False)
    assert want == (random.random(), np.random.rand(), torch.rand(()))


# resuming


@pytest.mark.parametrize("at", [1, 2, 5, 6, 7, 11, 12, 13, 24])
def test_killed_before_any_step_it_goes_on_exactly(tmp_path: Path, at: int) -> None:
    path = tmp_path / "run.safetensors"
    whole = train(Toy(), SHORT, progress=False)
    with pytest.raises(Killed):
        train(Meddled(at_loss={at: kill}), SHORT, progress=False, checkpoint=path)
    task = Meddled()
    assert same(train(task, SHORT, progress=False, checkpoint=path, resume=True), whole)
    assert task.calls[0] == (24 if at == 1 else 24 - at + 1)
    again = Meddled(at_loss={1: kill}, at_score={1: kill})
    assert same(train(again, SHORT, progress=False, checkpoint=path, resume=True), whole)  # finished: nothing to do


def test_the_clock_saves_as_well(tmp_path: Path) -> None:
    path = resume_path(tmp_path / "m.safetensors")
    by_clock, never = (replace(SHORT, save_steps=0, save_seconds=s) for s in (0.0, 1e6))
    for training, saved in ((never, False), (by_clock, True)):
        with pytest.raises(Killed):
            train(Meddled(at_loss={9: kill}), training, checkpoint=path, progress=False)
        assert path.exists() == saved
    assert same(train(Toy(), by_clock, checkpoint=path, resume=True, progress=False), train(Toy(), SHORT, progress=False))


@pytest.mark.usefixtures("awake")
def test_no_score_stands_in_the_log_twice(tmp_path: Path) -> None:
    """It stops while it scores, goes on, and dies when the line is written but the state is not saved."""
    path, log = resume_path(tmp_path / "m.safetensors"), tmp_path / "log.jsonl"
    training = replace(SHORT, save_steps=0)

    def die(model: nn.Module) -> None:
        raise Killed

    with pytest.raises(Interrupted):
        train(Meddled(at_score={2: ctrl_c}), training, checkpoint=path, progress=False, log=log)
    with pytest.raises(Killed):
        train(Toy(), training, checkpoint=path, resume=True, progress=False, log=log, preview=die)
    train(Toy(), training, checkpoint=path, resume=True, progress=False, log=log)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [5, 10, 15, 20, 24]


def test_the_best_weights_outlive_a_kill(tmp_path: Path) -> None:
    how = replace(SHORT, best=3)
    whole = train(Toy(), how, progress=False)
    with pytest.raises(Killed):
        train(Meddled(at_loss={20: kill}), how, progress=False, checkpoint=tmp_path / "run.safetensors")
    assert same(train(Toy(), how, progress=False, checkpoint=tmp_path / "run.safetensors", resume=True), whole)


def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at random moments; the final file is that of a process that nobody disturbed."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    words = ["steps=300", "evaluate=15", "nap=0.02", "save_steps=1", "log"]
    command = [sys.executable, str(Path(__file__).with_name("toy.py"))]
    subprocess.run([*command, str(tmp_path / "whole"), *words], check=True, timeout=120)
    folder, draw = tmp_path / "killed", random.Random()
    state = resume_path(folder / "model.safetensors")
    steps = [0]
    for _ in range(3):
        process = subprocess.Popen([*command, str(folder), *words, "resume"])
        moved = time.monotonic() + 60
        while _step(state) == steps[-1] and time.monotonic() < moved:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL, "it ended before it was killed: make the run longer"
        steps.append(_step(state))
    assert not (folder / "model.safetensors").exists()
    assert steps == sorted(set(steps)), "each process went on from where the last one was killed"
    assert steps[-1] < 300
    subprocess.run([*command, str(folder), *words, "resume"], check=True, timeout=120)
    files = sorted(p.name for p in folder.iterdir())
    assert files == ["log.jsonl", "model.resume.safetensors", "model.safetensors"], "no leftovers"
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    logs = [[json.loads(line) for line in (d / "log.jsonl").read_text().splitlines()] for d in (folder, tmp_path / "whole")]
    for line in (*logs[0], *logs[1]):
        del line["seconds"]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 20


def _step(path: Path) -> int:
    if not path.exists():
        return 0
    with unpack(path) as (header, _):
        return header["resume"]["step"]


@pytest.fixture
def awake():
    """Ctrl-C reaches Python, also where the tests run in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("awake")
@pytest.mark.parametrize("where", ["at_loss", "at_score"])
def test_ctrl_c_saves_a_whole_state(tmp_path: Path, where: str) -> None:
    path, training = tmp_path / "run.safetensors", replace(SHORT, save_steps=0)
    whole, handler = train(Toy(), training, progress=False), signal.getsignal(signal.SIGINT)
    with pytest.raises(
        Interrupted, match=r"training stopped after step (8|10) of 24, saved in .*run.safetensors. Start it again "
    ):
        train(Meddled(**{where: {8 if where == "at_loss" else 2: ctrl_c}}), training, progress=False, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert same(train(Toy(), training, progress=False, checkpoint=path, resume=True), whole)


@pytest.mark.usefixtures("awake")
def test_ctrl_c_twice_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="asked twice") as e:
        train(Meddled(at_loss={3: lambda: (ctrl_c(), ctrl_c())}), SHORT, progress=False, checkpoint=tmp_path / "run.safetensors")
    assert not isinstance(e.value, Interrupted)
    assert _step(tmp_path / "run.safetensors") == 2
    with pytest.raises(Interrupted, match="step 3 of 24; there is no checkpoint, so nothing was saved"):
        train(Meddled(at_loss={3: ctrl_c}), SHORT, progress=False)


def test_a_run_is_continued_only_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        train(Meddled(at_loss={9: kill}), SHORT, progress=False, checkpoint=path)
    before = path.read_bytes()
    other = replace(SHORT, lr=0.5, save_seconds=7)
    with pytest.raises(ValueError, match="belongs to another run") as e:
        train(Toy(Config(hidden=9), rows=23, cell=Cell(drop_h=0.5)), other, progress=False, checkpoint=path, resume=True)
    for said in (
        "config.hidden was 8, is 9",
        "cell.drop_h was 0.0, is 0.5",
        "training.lr was 0.001, is 0.5",
        "data.rows was 24, is 23",
    ):
        assert said in str(e.value)
    assert "save_seconds" not in str(e.value)
    with pytest.raises(FileExistsError, match=r"holds an unfinished run \(step 8\). Go on with it by resume=True"):
        train(Toy(), SHORT, progress=False, checkpoint=path)
    assert path.read_bytes() == before
    train(Toy(), replace(SHORT, save_seconds=7), progress=False, checkpoint=path, resume=True)
    train(Toy(), replace(SHORT, lr=0.5), progress=False, checkpoint=path)  # a finished run may be replaced


def test_a_bad_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(Toy(), SHORT, progress=False, checkpoint=path)
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    with pytest.raises(ArtefactError, match="damaged"):
        train(Toy(), SHORT, progress=False, checkpoint=path, resume=True)

    class Wider(Toy):
        def model(self) -> nn.Module:
            return Toy(Config(hidden=9)).model()

    path.write_bytes(good)
    with pytest.raises(ArtefactError, match=r"'model.out.weight' must have shape \[1, 9\], got \[1, 8\]") as e:
        train(Wider(), SHORT, progress=False, checkpoint=path, resume=True)
    assert "moment2.lstm.weight_ih_l0" in str(e.value)
    with unpack(path) as (header, file):
        tensors = {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118
    header["resume"] |= {"step": "9", "history": None}
    write(path, tensors, header)
    with pytest.raises(ArtefactError, match=r"its state must have 'step', got '9'") as e:
        train(Toy(), SHORT, progress=False, checkpoint=path, resume=True)
    assert len(e.value.problems) == 2
    write(path, {"w": torch.zeros(1)}, {"format": 1, "app": "forecast"})
    for resume in (False, True):
        with pytest.raises(ValueError, match="is a model, not a resume state"):
            train(Toy(), SHORT, progress=False, checkpoint=path, resume=resume)
    with pytest.raises(IsADirectoryError, match="is a directory"):
        train(Toy(), SHORT, progress=False, checkpoint=tmp_path)


# what people see


def test_quiet_prints_nothing_and_writes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(Toy(), SHORT, progress=False).scores
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_progress_shows_loss_score_and_time_left(capfd: pytest.CaptureFixture) -> None:
    train(Toy(), SHORT)
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("step 5/24  loss ")
    assert "MSE " in lines[0]
    assert lines[0].endswith("best  left 0:00:00")


def test_the_log_has_one_json_line_per_score(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    for _ in range(2):  # a new run writes a new log
        result = train(Toy(), SHORT, progress=False, log=path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == list(result.history)
    assert [line["step"] for line in result.history] == [5, 10, 15, 20, 24]


@pytest.mark.parametrize("content", [b"ds,y\n1,2\n", b'{"audio_filepath": "a.wav"}\n', b"\xff\x00"])
def test_a_log_overwrites_nothing_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data holds something else than the log of a run\. Give the log another name"):
        train(Toy(), SHORT, progress=False, log=path)
    assert path.read_bytes() == content


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class Wild(Meddled):
        def loss(self, model: nn.Module, batch: Batch) -> Loss:
            total, elements = super().loss(model, batch)
            return Loss(total * float("inf") if self.calls[0] == 7 else total, elements)

    path = tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError, match=r"the training loss became (inf|nan) by step 7 .*Lower lr"):
        train(Wild(), SHORT, progress=False, checkpoint=path)
    assert _step(path) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0. Leave it out"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"warmup": 1.5}, r"warmup must be a share of the steps in \[0, 1\], got 1.5"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        ({"average": 1.0}, r"average must be in \[0, 1\), got 1.0"),
        ({"decay": "step"}, "decay must be one of cosine, linear, none, got 'step'"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"grad_clip": float("inf")}, "grad_clip must be finite, got inf"),
    ],
)
def test_training_checks_itself(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(**wrong)


def test_tasks_that_cannot_be_trained_are_refused() -> None:
    class Misnamed(Toy):
        better = ("MAE", "min")

    with pytest.raises(ValueError, match=r"no training batches"):
        train(Toy(rows=0), SHORT, progress=False)
    with pytest.raises(ValueError, match="must return 'MAE', the metric of `better`; it returned MSE"):
        train(Misnamed(), SHORT, progress=False)
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got 'gpu'"):
        train(Toy(), Training(device="gpu"), progress=False)
    with pytest.raises(ValueError, match="device must be auto, cpu, cuda or cuda:N, got 'meta'"):
        train(Toy(), Training(device="meta"), progress=False)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device 'cuda' was asked for, but torch .* finds no CUDA GPU here"):
            train(Toy(), Training(device="cuda"), progress=False)


# processes


def launch(folder: Path, *words: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, str(Path(__file__).with_name("toy.py")), str(folder), *words], env=environment)


@pytest.mark.parametrize("noisy", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path, noisy: bool) -> None:
    """With dropout it is one process that accumulates two batches: the same random numbers meet the same batch."""
    dropout, noise = (0.3, 0.1) if noisy else (0.0, 0.0)
    assert launch(tmp_path, "steps=40", "evaluate=10", "lr=0.01", "norm=0", f"dropout={dropout}", "log", "again").wait(120) == 0
    training = Training(steps=40, evaluate=10, lr=1e-2, accumulate=2 if noisy else 1)
    task = Toy(Config(batch=4 if noisy else 8), dropout=dropout, noise=noise, norm=False)
    one, two = train(task, training, progress=False), task.model()
    with unpack(tmp_path / "model.safetensors") as (_, file):
        two.load_state_dict({k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
    close(two, one.model, 1e-4)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [x["loss"] for x in log] == pytest.approx([x["loss"] for x in one.history], rel=1e-4)


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_exactly(tmp_path: Path) -> None:
    words = ["steps=200", "evaluate=10", "nap=0.05", "save_steps=1"]
    assert launch(tmp_path / "whole", *words).wait(120) == 0
    process = launch(tmp_path / "stopped", *words)
    state = resume_path(tmp_path / "stopped" / "model.safetensors")
    end = time.monotonic() + 60
    while _step(state) < 20 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert 20 <= _step(state) < 200
    assert launch(tmp_path / "stopped", *words, "resume").wait(120) == 0
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_keep_writes_equal_bytes_for_equal_results(tmp_path: Path) -> None:
    a, b = (keep(str(tmp_path), train(Toy(), SHORT, progress=False)) for _ in range(2))
    assert a == b
