"""One trial: a net, a task, a seed, and the count of training sequences until the task is solved.

The loop of `longshort.train` is not used: it goes over a finite split in epochs, scores by a schedule and resumes within a run;
here sequences come without end, the score decides when to stop, and a trial is short enough to be begun again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.cell import Cell
from longshort.memory.tasks import Batch, Task
from longshort.nn import LSTM

CHUNK = 500  # sequences that the exam reads at once
PIECE = 10_000  # steps of a stream that it reads at once


@dataclass(frozen=True)
class Variant:
    """A recurrent net.

    Args:
        name: what to call it.
        cell: of the LSTM; None is torch.nn.RNN, tanh.
        init: of the LSTM; T in it is replaced by the task's steps.
    """

    name: str
    cell: Cell | None = Cell()
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
        embed: features by which symbols enter; 0 is one per symbol, fixed.
        horizon: T_MAX of the chrono initialisation; 0 is the task's steps.
    """

    hidden: int
    batch: int
    lr: float
    most: int
    clip: float = 1.0
    average: float = 0.0
    every: int = 50
    embed: int = 0
    horizon: int = 0


class Net(nn.Module):
    """Input, recurrent layer, and a linear answer at every step or at the last."""

    def __init__(self, task: Task, variant: Variant, recipe: Recipe) -> None:
        super().__init__()
        self.each, self.symbols = task.answer == "symbols", task.inputs if task.symbolic else 0
        self.embed = nn.Embedding(task.inputs, recipe.embed) if recipe.embed else None
        I = recipe.embed or task.inputs
        init = variant.init.replace("T", str(recipe.horizon or task.steps))
        self.layer: nn.Module = nn.RNN(I, recipe.hidden) if variant.cell is None else LSTM(I, recipe.hidden, cell=variant.cell, init=init)
        self.head = nn.Linear(recipe.hidden, task.outputs)

    def forward(self, x: Tensor, lengths: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits or values, [T, B, K] or [B, K], and the state."""
        if self.embed is not None:
            x = self.embed(x)
        elif self.symbols:
            x = F.one_hot(x, self.symbols).float()
        if isinstance(self.layer, LSTM):
            ragged = None if int(lengths.min()) == len(x) else lengths
            y, state = self.layer(x, state, lengths=ragged)
            return self.head(y if self.each else state[0][0]), state
        y, state = self.layer(x, state)
        return self.head(y if self.each else y[lengths - 1, torch.arange(len(lengths))]), state


def loss(task: Task, output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy or squared error of a batch."""
    target = torch.from_numpy(batch.target)
    if task.answer == "value":
        return F.mse_loss(output[..., 0], target)
    return F.cross_entropy(output.flatten(0, -2), target.flatten(), ignore_index=-1)


@torch.no_grad()
def examine(net: Net, task: Task, rng: np.random.Generator) -> tuple[int, int, float]:
    """Take the exam, and leave it when it is lost: sequences right, sequences read, mean absolute error (of values)."""
    if task.stream:
        return (*_streams(net, task, rng), 0.0)
    right = read = 0
    errors, first = [], True
    while read < task.exam:
        batch = task.draw(rng, min(max(10, task.exam // 20) if first else CHUNK, task.exam - read), "test")
        first = False
        output, _ = net(torch.from_numpy(batch.x), torch.from_numpy(batch.lengths))
        answer = _answer(task, output)
        right += int(task.right(batch, answer).sum())
        read += batch.x.shape[1]
        if task.error is not None:
            errors.append(np.abs(answer - batch.target))
        if read - right > task.wrong:
            break
    return right, read, float(np.concatenate(errors).mean()) if errors else 0.0


def _streams(net: Net, task: Task, rng: np.random.Generator) -> tuple[int, int]:
    batch, state = task.draw(rng, task.exam, "test"), None
    for t in range(0, len(batch.x), PIECE):
        piece = Batch(*(v if v.ndim == 1 else v[t : t + PIECE] for v in batch if v is not None))
        output, state = net(torch.from_numpy(piece.x), torch.full((task.exam,), len(piece.x)), state)
        right = task.right(piece, _answer(task, output))
        if not right.all():
            return int(right.sum()), task.exam
    return task.exam, task.exam


def _answer(task: Task, output: Tensor) -> np.ndarray:
    return (output[..., 0] if task.answer == "value" else output.softmax(-1)).numpy()


def passed(task: Task, right: int, read: int, error: float) -> bool:
    """Whether an exam was passed."""
    return read >= min(read, task.exam) and read - right <= task.wrong and (task.error is None or error < task.error)


def run(task: Task, variant: Variant, recipe: Recipe, seed: int, seconds: float = float("inf"), say: Any = None) -> dict[str, Any]:
    """Train until solved, or until the trial has failed.

    Args:
        task: what to learn.
        variant: by which net.
        recipe: how.
        seed: of the weights, the training sequences and the exams.
        seconds: of training after which the trial has failed.
        say: called with (sequences, loss) at each exam.

    Returns:
        solved, sequences read in training, the latest exam (right, of), loss, seconds.
    """
    seeds = np.random.SeedSequence(seed).spawn(3)
    torch.manual_seed(int(seeds[0].generate_state(1)[0]))
    learn, exams = np.random.default_rng(seeds[1]), np.random.default_rng(seeds[2])
    net, begun = Net(task, variant, recipe), time.perf_counter()
    judged = Net(task, variant, recipe) if recipe.average else net
    judged.load_state_dict(net.state_dict())
    weights, averages = list(net.parameters()), list(judged.parameters())
    adam = torch.optim.Adam(weights, recipe.lr, fused=True)
    sequences, updates, mean, result = 0, 0, None, None
    while sequences < recipe.most and time.perf_counter() - begun < seconds:
        batch = task.draw(learn, recipe.batch, "train")
        output, _ = net(torch.from_numpy(batch.x), torch.from_numpy(batch.lengths))
        value = loss(task, output, batch)
        adam.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
        adam.step()
        sequences, updates = sequences + recipe.batch, updates + 1
        if recipe.average:
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - min(recipe.average, (1 + updates) / (10 + updates)))
        mean = value.item() if mean is None else mean + (value.item() - mean) / min(updates, recipe.every)
        if updates % recipe.every == 0:
            result = examine(judged, task, exams)
            if say:
                say(sequences, mean, result)
            if passed(task, *result):
                break
    solved = result is not None and passed(task, *result)
    right, read, _ = result or (0, 0, 0.0)
    return {"solved": solved, "sequences": sequences, "right": right, "of": read, "loss": mean, "seconds": round(time.perf_counter() - begun, 2)}
