"""Long sequences in little memory: keep the state every sqrt(T) steps, run each part again when backward needs its Tape.

Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost. It works on any engine, since a run may be cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from longshort.cell import Cell, Masks, Params, State
from longshort.engine.contract import Call, Flow, Tape, arithmetic, nodes
from longshort.tracing import transformed

Run = Callable[[Cell, Params, Call, State], tuple[Tensor, State, Tape | None]]


def run(engine: Run, cell: Cell, params: Params, call: Call, state: State) -> tuple[Tensor, State, Tape | None]:
    """As `engine(cell, params, call, state)`, with one more forward pass and a Tape of sqrt(T) steps at a time.

    Raises:
        ValueError: it is being compiled, transformed, traced or differentiated in forward mode.
    """
    if transformed():
        raise ValueError("tape='recompute' can be neither compiled, transformed by torch.func, traced by torch.jit, nor "
                         "differentiated in forward mode. Use tape='keep' there.")  # fmt: skip
    if call.sizes is not None:
        raise ValueError("tape='recompute' cuts padded batches: give it as [T, B, I].")
    leaves = (call.x, *state, *params.values())
    unneeded = not torch.is_grad_enabled() or not any(v.requires_grad for v in leaves)
    if unneeded or call.x.shape[0] == 0:
        return engine(cell, params, call, state)
    tapes: list[Tape] = []
    y, h, c = Recompute.apply(
        engine, cell, call._replace(x=call.x.new_empty(0)), list(params), tapes, call.x, *state, *params.values()
    )
    tapes = tapes[::-1] if call.reverse else tapes
    joined = Tape(cell, torch.cat([v.gates for v in tapes]), torch.cat([v.cells for v in tapes])) if call.tape else None
    return y, State(h, c), joined


class Recompute(torch.autograd.Function):
    """One run, whose backward runs its parts again, from the last to the first."""

    @staticmethod
    def forward(ctx: Any, engine: Run, cell: Cell, call: Call, names: list[str], tapes: list[Tape], x: Tensor, h: Tensor,
                c: Tensor, *params: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """y, h, c; the Tape of each part goes to `tapes` where the call wants it."""
        ctx.set_materialize_grads(False)
        ctx.engine, ctx.cell, ctx.names = engine, cell, names
        ctx.call = call._replace(tape=False, lengths=None, resets=None)  # those are saved, so that a change is seen
        named, state, ys, kept = dict(zip(names, params, strict=True)), State(h, c), [], []
        for part in _parts(call, x):
            kept += [*state]
            y, state, tape = engine(cell, named, part, state)
            ys.append(y)
            tapes += [tape] if tape else []
        ctx.save_for_backward(call.lengths, call.resets, x, *kept, *params)
        return torch.cat(ys[::-1] if call.reverse else ys), state.h, state.c

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients; with create_graph those of the whole run at once, which are differentiable again."""
        lengths, resets, x, *rest = ctx.saved_tensors
        whole = ctx.call._replace(x=x, lengths=lengths, resets=resets)
        kept, params = rest[: -len(ctx.names)], rest[-len(ctx.names) :]

        def again(call: Call, state: State, params: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
            y, new, _ = ctx.engine(ctx.cell, dict(zip(ctx.names, params, strict=True)), call, state)
            return y, *new

        if torch.is_grad_enabled():
            own = nodes((x, *kept[:2], *params))
            outs = again(whole._replace(x=own[0]), State(*own[1:3]), own[3:])
            return (None,) * 5 + _grads(outs, (dy, dh, dc), own, create_graph=True)
        parts, spans = _parts(whole, x), _spans(whole.reverse, x.shape[0])
        dx, sums = torch.zeros_like(x), [torch.zeros_like(v, dtype=arithmetic(v.dtype)) for v in params]
        flow, flows = ctx.call.flow, [Flow() for _ in parts]
        for k in reversed(range(len(parts))):
            a, b = spans[k]
            leaves = [v.detach().requires_grad_() for v in (parts[k].x, *kept[2 * k : 2 * k + 2], *params)]
            with torch.enable_grad():
                part = parts[k]._replace(x=leaves[0], flow=flow and flows[k])
                outs = again(part, State(*leaves[1:3]), leaves[3:])
            part_dx, dh, dc, *got = _grads(outs, (None if dy is None else dy[a:b], dh, dc), leaves)
            if part_dx is not None:
                dx[a:b] = part_dx
            for total, g in zip(sums, got, strict=True):
                if g is not None:
                    total += g
        if flow is not None:
            flow.add(*(_joined(flows, name, spans) for name in ("dh", "dc")))
        return (None,) * 5 + (dx, dh, dc, *(v.to(p.dtype) for v, p in zip(sums, params, strict=True)))


def _joined(flows: list[Flow], name: str, spans: list[tuple[int, int]]) -> Tensor | None:
    """One gradient of all parts, in the order of the input; a part that no gradient reached has zeros."""
    some = next((v for f in flows if (v := getattr(f, name)) is not None), None)
    if some is None:
        return None
    made = [some.new_zeros(b - a, *some.shape[1:]) if (v := getattr(f, name)) is None else v
            for f, (a, b) in zip(flows, spans, strict=True)]  # fmt: skip
    return torch.cat(made if spans[0][0] == 0 else made[::-1])


def _grads(
    outs: Sequence[Tensor], given: Sequence[Tensor | None], inputs: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    pairs = [(v, g) for v, g in zip(outs, given, strict=True) if g is not None and v.requires_grad]
    wanted = [v for v in inputs if v.requires_grad]
    if not pairs or not wanted:
        return (None,) * len(inputs)
    to, weights = zip(*pairs, strict=True)
    got = iter(torch.autograd.grad(to, wanted, weights, create_graph=create_graph, allow_unused=True))
    return tuple(next(got) if v.requires_grad else None for v in inputs)


def _spans(reverse: bool, T: int) -> list[tuple[int, int]]:
    """The parts as steps [a, b), in the order of processing: about sqrt(T) parts of about sqrt(T) steps."""
    n = max(1, isqrt(T))
    spans = [(a, min(a + n, T)) for a in range(0, T, n)]
    return spans[::-1] if reverse else spans


def _parts(call: Call, x: Tensor) -> list[Call]:
    parts = []
    for a, b in _spans(call.reverse, x.shape[0]):
        lengths = None if call.lengths is None else (call.lengths - a).clamp(0, b - a)
        masks = call.masks and Masks(call.masks.drop_h, *(None if m is None else m[a:b] for m in call.masks[1:]))
        resets = None if call.resets is None else call.resets[a:b]
        parts.append(call._replace(x=x[a:b], lengths=lengths, resets=resets, masks=masks))
    return parts
