"""What every engine is given and what it leaves behind, in one layout for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from longshort.cell import Cell, Masks, State


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype of c and of all gate arithmetic, where x has this one."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def nodes(tensors: Sequence[Tensor | None]) -> list[Any]:
    """The same tensors as nodes of their own in the graph. One may have been made of another: gradients of these are what a call
    does with each, and what lies behind them is autograd's to walk."""
    with torch.enable_grad():
        return [v if v is None or not v.requires_grad else v.view_as(v) for v in tensors]


class Flow:
    """The gradient of the loss at every step, which backward fills in: dLoss/dh_t and dLoss/dc_t in full, through the output of
    step t and through all that comes later.

    h_t and c_t are the state that step t hands on, after (9); h_t is also its output. Where zoneout acts on c, the output of step
    t is made of the cell before (9), so that dLoss/dc_t is then what comes back from later steps alone. Zero beyond a sequence's
    length. Several backward passes through the same run add up, as they do in `Tensor.grad`.

    dh: [T, B, P], in the dtype of the state or of x; None as long as no gradient has come.
    dc: [T, B, H], likewise.
    """

    def __init__(self) -> None:
        self.dh: Tensor | None = None
        self.dc: Tensor | None = None

    def add(self, dh: Tensor | None, dc: Tensor | None) -> None:
        """What a whole run's backward found."""
        self.dh = dh if self.dh is None else self.dh if dh is None else self.dh + dh
        self.dc = dc if self.dc is None else self.dc if dc is None else self.dc + dc

    def hook(self, state: State, t: int, steps: int, sizes: Tensor | None = None) -> None:
        """Have autograd fill in step t of `steps`, packed if there are sizes; what no gradient reaches stays zero."""

        def fill(name: str, grad: Tensor) -> None:
            if getattr(self, name) is None:
                rows = (steps, len(grad)) if sizes is None else (int(sizes.sum()),)
                setattr(self, name, grad.new_zeros(*rows, grad.shape[1]))
            to = getattr(self, name)
            to = to[t] if sizes is None else to.split(sizes.tolist())[t]
            to += grad[: len(to)].detach()

        for name, v in (("dh", state.h), ("dc", state.c)):
            if v.requires_grad:
                v.register_hook(partial(fill, name))


class Call(NamedTuple):
    """What to run, apart from the cell, its parameters and the initial state.

    x: input, [T, B, I].
    lengths: steps per sequence, int64, [B], on the device of x, each in 0..T; None means T. Beyond them y is 0 and the
        state stands still.
    resets: bool, [T, B]: the state is zeroed before step t, in the order of processing.
    masks: random bits of a training pass; None in evaluation.
    reverse: run from the last step of each sequence to its first.
    tape: return the Tape.
    flow: where backward leaves the gradient of every step, or None.
    sizes: of a packed batch (torch's PackedSequence): sequences alive at each step, int64, [T], on the CPU, never rising. Then
        [T, B, *] everywhere stands for [sum of sizes, *], step after step, the longest sequence first; there are neither
        lengths nor resets.
    """

    x: Tensor
    lengths: Tensor | None = None
    resets: Tensor | None = None
    masks: Masks | None = None
    reverse: bool = False
    tape: bool = False
    sizes: Tensor | None = None
    flow: Flow | None = None

    @property
    def T(self) -> int:  # noqa: N802
        """Steps."""
        return (self.x if self.sizes is None else self.sizes).shape[0]

    @property
    def B(self) -> int:  # noqa: N802
        """Sequences."""
        return self.x.shape[1] if self.sizes is None else int(self.sizes[0])


@dataclass(frozen=True)
class Tape:
    """Every step's gates and cells, as backward keeps them: to be read, not differentiated. Zero beyond a sequence's length.

    cell: the variant that ran.
    gates: activated gates, [T, B, G*H], rows as in the weights, g before its dropout; in the dtype of x.
    cells: cell state after each step, [T, B, H]; in the dtype of the state.
    """

    cell: Cell
    gates: Tensor
    cells: Tensor

    def gate(self, k: str) -> Float[Tensor, "T B H"]:
        """One of the gates i f g o at every step; where the variant has no such rows, what stands for them (coupled i, f = 1)."""
        if len(k) != 1 or k not in "ifgo":
            raise ValueError(f"gate must be one of 'i', 'f', 'g', 'o', got {k!r}.")
        if k in self.cell.gates:
            return self.gates.unflatten(-1, (len(self.cell.gates), -1))[..., self.cell.gates.index(k), :]
        return torch.ones_like(self.cells) if k == "f" else 1 - self.gate("f")
