"""One trial: a net, a task, a seed, and the count of training sequences until the task is solved.

The loop of `longshort.train` is not used: it goes over a finite split in epochs, scores by a schedule and resumes within a run;
here sequences come without end, the score decides when to stop, and a trial is short enough to be begun again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cell import Cell
from longshort.memory.tasks import Batch, Task
from longshort.nn import LSTM


class Exam(NamedTuple):
    """How an exam went.

    passed: whether the task is solved.
    right: sequences that were right.
    of: sequences that were read; fewer than the exam has if it was lost before.
    error: mean absolute error, where the criterion asks for it.
    """

    passed: bool
    right: int
    of: int
    error: float | None


DIRECT = 30.0  # how much faster the way past the recurrent layer learns: it has to be done before memory can begin
BETAS = 0.9, 0.99  # of Adam: gradients shrink by orders of magnitude on the way, and 0.999 would remember for too long
CHUNK = 500  # sequences that the exam draws at once
TOGETHER = 1000  # sequences that it reads at once, where a task gives its test part whole
PIECE = 10_000  # steps of a stream that it reads at once


@dataclass(frozen=True)
class Variant:
    """A recurrent net.

    Args:
        name: what to call it.
        cell: of the LSTM; None is torch.nn.RNN, tanh.
        init: of the LSTM; T in it is replaced by the task's steps, times the recipe's `chrono`.
    """

    name: str
    cell: Cell | None
    init: str = "torch"


@dataclass(frozen=True)
class Recipe:
    """How a task is learned: Adam on batches of fresh sequences.

    Args:
        hidden: units H.
        batch: sequences per update.
        lr: learning rate.
        clip: highest norm of the gradient.
        average: decay of the running average of the weights, by which the exam is taken; 0 takes them as they are.
        most: training sequences after which a trial has failed.
        every: updates between two exams.
        direct: whether the answer at every step also sees the symbol itself, as in the paper.
        chrono: what T of a variant's init is, in the task's steps: more than 1 where hardly anything may be lost on the way.
        decay: whether the learning rate falls to zero, in a straight line, over the `most` sequences.
        scale: what stands for the one in one-hot symbols: their number's square root makes the mean square of an input 1.
    """

    hidden: int
    batch: int
    lr: float
    most: int
    clip: float = 1.0
    average: float = 0.0
    every: int = 50
    direct: bool = False
    chrono: float = 1.0
    decay: bool = False
    scale: float = 1.0


class Net(nn.Module):
    """Input, recurrent layer, and a linear answer at every step or at the last."""

    def __init__(self, task: Task, variant: Variant, recipe: Recipe) -> None:
        super().__init__()
        H, cell = recipe.hidden, variant.cell
        self.each, self.symbols, self.scale = task.answer == "symbols", task.inputs if task.symbolic else 0, recipe.scale
        rows = (len(cell.gates) if cell else 1) * H
        lookup = self.symbols > rows
        I = rows if lookup else task.inputs
        init = variant.init.replace("T", str(round(recipe.chrono * task.steps)))
        self.layer: nn.Module = nn.RNN(I, H) if cell is None else LSTM(I, H, cell=cell, init=init)
        self.embed = nn.Embedding(task.inputs, I) if lookup else None
        if self.embed is not None:  # a one-hot vector picks a column of W_ih: the same net, without the zeros
            nn.init.uniform_(self.embed.weight, -(H**-0.5), H**-0.5)
            nn.init.eye_(self.layer.get_parameter("weight_ih_l0")).requires_grad_(False)
        self.head = nn.Linear(H, task.outputs)
        self.direct = nn.Embedding(task.inputs, task.outputs) if recipe.direct else None
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits or values, [T, B, K] or [B, K], and the state."""
        more = 0 if self.direct is None else self.direct(x)
        if self.embed is not None:
            x = self.scale * self.embed(x)
        elif self.symbols:
            x = self.scale * F.one_hot(x, self.symbols)
        if isinstance(self.layer, LSTM):
            y, state = self.layer(x, state, lengths=None if int(lengths.min()) == len(x) else lengths)
            return self.head(y if self.each else state[0][0]) + more, state
        y, state = self.layer(x, state)
        return self.head(y if self.each else y[lengths - 1, torch.arange(len(lengths))]) + more, state


def loss(task: Task, output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy or squared error of a batch."""
    target = torch.from_numpy(batch.target)
    if task.answer == "value":
        return F.mse_loss(output[..., 0], target)
    return F.cross_entropy(output.flatten(0, -2), target.flatten(), ignore_index=-1)


@torch.no_grad()
def examine(net: Net, task: Task, rng: np.random.Generator) -> Exam:
    """Take the exam, and leave it when it is lost."""
    if task.stream:
        brief = _stream(net, task, task.draw(rng, task.exam, "train"))
        return _stream(net, task, task.draw(rng, task.exam, "test")) if brief.passed else brief
    right, read, errors = 0, 0, []
    while read < task.exam and read - right <= task.wrong:
        batch = task.draw(rng, min(CHUNK if read else max(10, task.exam // 20), task.exam - read), "test")
        x, lengths = torch.from_numpy(batch.x), torch.from_numpy(batch.lengths)
        parts = [slice(k, k + TOGETHER) for k in range(0, len(lengths), TOGETHER)]
        answers = [_answer(task, net(x[:, part], lengths[part])[0]) for part in parts]
        answer = np.concatenate(answers, 1 if task.answer == "symbols" else 0)
        right += int(task.right(batch, answer).sum())
        read += batch.x.shape[1]
        errors.append(np.abs(answer - batch.target) if task.error is not None else 0.0)
    error = float(np.concatenate(errors).mean()) if task.error is not None else None
    near = error is None or task.error is None or error < task.error
    return Exam(near and read - right <= task.wrong, right, read, error)


def _stream(net: Net, task: Task, batch: Batch) -> Exam:
    """Read streams piece by piece, carrying the state, up to the first error."""
    state, legal = None, batch.legal
    assert legal is not None
    for t in range(0, len(batch.x), PIECE):
        piece = batch._replace(x=batch.x[t : t + PIECE], target=batch.target[t : t + PIECE], legal=legal[t : t + PIECE])
        output, state = net(torch.from_numpy(piece.x), torch.full((task.exam,), len(piece.x)), state)
        right = int(task.right(piece, _answer(task, output)).sum())
        if right < task.exam:
            return Exam(False, right, task.exam, None)
    return Exam(True, task.exam, task.exam, None)


def _answer(task: Task, output: Tensor) -> np.ndarray:
    return (output[..., 0] if task.answer == "value" else output.softmax(-1)).numpy()


def run(task: Task, variant: Variant, recipe: Recipe, seed: int, seconds: float = math.inf) -> dict[str, Any]:
    """Train until solved, or until the trial has failed.

    Args:
        task: what to learn.
        variant: by which net.
        recipe: how.
        seed: of the weights, the training sequences and the exams.
        seconds: of processor time after which the trial has failed, so that what else runs on the machine does not matter.

    Returns:
        solved, sequences read in training, the latest exam, seconds of processor time, and the mean loss of the latest
        updates; None if that is no longer finite, which ends a trial.
    """
    seeds = np.random.SeedSequence(seed).spawn(3)
    torch.manual_seed(int(seeds[0].generate_state(1)[0]))
    learn, exams = np.random.default_rng(seeds[1]), np.random.default_rng(seeds[2])
    net, begun = Net(task, variant, recipe), time.process_time()
    judged = Net(task, variant, recipe) if recipe.average else net
    judged.load_state_dict(net.state_dict())
    weights: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
    averages: list[Tensor] = [p for p in judged.parameters() if p.requires_grad]
    straight = [] if net.direct is None else [net.direct.weight]
    slow = [w for w in weights if not any(w is d for d in straight)]
    rates = recipe.lr, DIRECT * recipe.lr
    adam = torch.optim.Adam([{"params": slow}, {"params": straight}], recipe.lr, BETAS, fused=True)
    sequences, updates, mean, exam = 0, 0, 0.0, Exam(False, 0, 0, None)
    while not exam.passed and sequences < recipe.most and math.isfinite(mean) and time.process_time() - begun < seconds:
        batch = task.draw(learn, recipe.batch, "train")
        value = loss(task, net(torch.from_numpy(batch.x), torch.from_numpy(batch.lengths))[0], batch)
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - sequences / recipe.most if recipe.decay else 1)
        adam.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(weights, recipe.clip)
        adam.step()
        sequences, updates = sequences + recipe.batch, updates + 1
        if recipe.average:
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - min(recipe.average, (1 + updates) / (10 + updates)))
        mean += (value.item() - mean) / min(updates, recipe.every)
        if updates % recipe.every == 0:
            exam = examine(judged, task, exams)
    took = round(time.process_time() - begun, 2)
    return {"solved": exam.passed, "sequences": sequences, "exam": exam._asdict(), "seconds": took,
            "loss": mean if math.isfinite(mean) else None}  # fmt: skip
