"""The small things that tasks and the loop share."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from longshort.task import Batches, Task, move
from toy import Toy


class Pair(NamedTuple):
    x: Tensor
    words: list[str]


def test_batches_are_made_when_asked_for() -> None:
    made: list[int] = []
    batches = Batches(5, lambda k: made.append(k) or k * k)
    assert (len(batches), made) == (5, [])
    assert (batches[3], batches[-1], made) == (9, 16, [3, 4])
    assert list(batches) == [0, 1, 4, 9, 16]
    assert list(batches[3:0:-2]) == [9, 1]
    assert list(reversed(batches)) == [16, 9, 4, 1, 0]
    assert 9 in batches
    assert list(Batches(0, lambda k: k)) == []
    for k in (5, -6):
        with pytest.raises(IndexError, match=f"batch {k} of 5"):
            batches[k]


def test_move_keeps_the_form() -> None:
    batch = {"pair": Pair(torch.zeros(2), ["a"]), "list": [torch.ones(1), (torch.ones(2), None)]}
    moved = move(batch, torch.device("meta"))
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].words == ["a"]
    assert moved["list"][1][1] is None
    assert {t.device.type for t in (moved["pair"].x, moved["list"][0], moved["list"][1][0])} == {"meta"}
    assert batch["pair"].x.device.type == "cpu"  # type: ignore[attr-defined]


def test_the_toy_is_a_task() -> None:
    """The members of the contract, so that whoever copies the toy copies a whole one."""
    members = {k for k in vars(Task) if not k.startswith("_")}
    assert members == {"config", "cell", "better", "model", "batches", "loss", "score", "predict", "inputs", "data"}
    assert all(hasattr(Toy(), k) for k in members)
    first, again = (Toy().batches("train", 7) for _ in range(2))
    assert all(torch.equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].x, Toy().batches("train", 8)[0].x)
