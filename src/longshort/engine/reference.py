"""The reference engine: an eager loop over `cell.step`. Slow, always right, never refuses, differentiable twice."""

from __future__ import annotations

import torch
from torch import Tensor

from longshort.cell import Cell, Masks, Params, State, step
from longshort.engine.contract import Call, Tape


def refuse(cell: Cell, call: Call) -> str | None:
    """Never: this engine defines what is right."""
    return None


def forward(cell: Cell, params: Params, call: Call, state: State) -> tuple[Tensor, State, Tape | None]:
    """Lines (1) to (9) for each step in turn; see `engine.run` for shapes."""
    x, T, B = call.x, call.T, call.B
    if call.sizes is not None and x.dim() == 2:  # once padded, only the flow still asks for the sizes
        return _padded(cell, params, call, call.sizes, state)
    alive = None
    if call.lengths is not None:
        alive = (torch.arange(T, device=x.device)[:, None] < call.lengths)[..., None]  # [T, B, 1]
        x = torch.where(alive, x, 0)  # what stands in the padding may be NaN
    ys: list[Tensor] = []
    tape: list[tuple[Tensor, Tensor]] = []
    for t in reversed(range(T)) if call.reverse else range(T):
        s = state if call.resets is None else State(*(torch.where(call.resets[t, :, None], 0, v) for v in state))
        new, gates = step(cell, params, x[t], s, call.masks and call.masks.at(t))
        if call.flow is not None:
            call.flow.hook(new, t, T, call.sizes)
        kept = new if alive is None else State(*(torch.where(alive[t], v, 0) for v in new))
        state = new if alive is None else State(*(torch.where(alive[t], v, v0) for v, v0 in zip(new, state, strict=True)))
        ys.append(kept.h)
        if call.tape:
            a = torch.cat([*gates.values()], -1).detach().to(x.dtype)
            tape.append((a if alive is None else torch.where(alive[t], a, 0), kept.c.detach()))
    if call.reverse:
        ys, tape = ys[::-1], tape[::-1]
    if T == 0:
        a, c = x.new_zeros(0, B, params["weight_ih"].shape[0]), state.c.new_zeros(0, *state.c.shape)
        return x.new_zeros(0, *state.h.shape), State(*(v.clone() for v in state)), Tape(cell, a, c) if call.tape else None
    gates_cells = (torch.stack(v) for v in zip(*tape, strict=True))
    return torch.stack(ys), state, Tape(cell, *gates_cells) if call.tape else None


def _padded(cell: Cell, params: Params, call: Call, sizes: Tensor, state: State) -> tuple[Tensor, State, Tape | None]:
    """A packed batch, by padding it."""
    alive = torch.arange(call.B, device=sizes.device) < sizes[:, None]  # [T, B]
    at = alive.nonzero().to(call.x.device).unbind(1)

    def pad(v: Tensor) -> Tensor:
        return v.new_zeros(*alive.shape, v.shape[-1]).index_put(at, v)

    masks = call.masks and Masks(call.masks.drop_h, *(None if m is None else pad(m) for m in call.masks[1:]))
    padded = call._replace(x=pad(call.x), lengths=alive.sum(0).to(call.x.device), masks=masks)
    y, state, tape = forward(cell, params, padded, state)
    return y[at], state, tape and Tape(cell, tape.gates[at], tape.cells[at])
