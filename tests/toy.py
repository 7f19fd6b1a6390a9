"""A small task with dropout, numpy and Python randomness in its loss, and a batch norm: everything that a resume can lose.

As a script it trains: `python toy.py FOLDER [resume] [log] [field=value ...]`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from longshort.artefact import write
from longshort.cell import Cell
from longshort.task import Batches, Input, Loss, Split
from longshort.train import Result, Training, resume_path, train


@dataclass(frozen=True)
class Config:
    """The toy.

    Args:
        hidden: width.
        batch: sequences per batch.
        nap: seconds that a score takes.
    """

    hidden: int = 8
    batch: int = 4
    nap: float = 0.0


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    seen: Tensor


class Net(nn.Module):
    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, hidden, batch_first=True)
        self.norm = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.lstm(x)[0][:, -1])))[:, 0]


@dataclass(frozen=True)
class Toy:
    """The sum of a short sequence, some targets missing."""

    config: Config = field(default_factory=Config)
    rows: int = 24
    dropout: float = 0.3
    noise: float = 0.1
    norm: bool = True
    cell: Cell = field(default_factory=Cell)
    better = ("MSE", "min")

    def model(self) -> nn.Module:
        net = Net(self.config.hidden, self.dropout)
        if not self.norm:
            net.norm = nn.Identity()  # type: ignore[assignment]
        return net

    def all(self, split: Split) -> Batch:
        g = torch.Generator().manual_seed({"train": 0, "valid": 1, "test": 2}[split])
        x = torch.randn(self.rows, 5, 2, generator=g)
        return Batch(x, x.sum((1, 2)), torch.rand(self.rows, generator=g) > 0.3)

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Sequence[Batch]:
        data, order = self.all(split), np.random.default_rng(seed).permutation(self.rows)
        size = self.config.batch
        return Batches(-(-self.rows // size), lambda k: Batch(*(t[order[k * size : (k + 1) * size]] for t in data)))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        shake = self.noise * (random.random() + np.random.rand())
        error = (model(batch.x) - batch.y + shake) ** 2 * batch.seen
        return Loss(error.sum(), batch.seen.sum())

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        time.sleep(self.config.nap)
        data = self.all(split)
        return {"MSE": float(((model(data.x) - data.y) ** 2).mean())}

    def predict(self, model: nn.Module, request: Any) -> Any:
        with torch.no_grad():
            return model(request)

    def inputs(self) -> dict[str, Input]:
        return {"x": Input(("B", 5, 2), "float32", "a sequence")}

    def data(self) -> dict[str, int]:
        return {"rows": self.rows}


def keep(folder: str, result: Result) -> bytes:
    path = write(f"{folder}/model.safetensors", result.model.state_dict(), {"scores": result.scores, "step": result.step})
    return path.read_bytes()


def main(folder: str, *words: str) -> None:
    values = dict(w.split("=") for w in words if "=" in w)
    nap, dropout, norm = float(values.pop("nap", 0)), float(values.pop("dropout", 0.3)), bool(int(values.pop("norm", 1)))
    training = Training(**{k: type(getattr(Training(), k))(v) for k, v in values.items()})
    task = Toy(Config(nap=nap), dropout=dropout, noise=0.1 if dropout else 0.0, norm=norm)
    result = train(task, training, checkpoint=resume_path(f"{folder}/model.safetensors"), resume="resume" in words,
                   progress=False, log=f"{folder}/log.jsonl" if "log" in words else None)  # fmt: skip
    keep(folder, result)
    for late in (0, 1) if "again" in words else ():  # one process is always slower to come back
        time.sleep(0.3 * (int(os.environ["RANK"]) == late))
        again = train(task, training, progress=False)
        assert all(torch.equal(v, w) for v, w in zip(again.model.parameters(), result.model.parameters(), strict=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
