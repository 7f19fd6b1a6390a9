"""The laws that every variant obeys on every engine, forward and backward.

A law is a function of a `Case`; `test_laws.py` runs each law for each variant, engine and dtype. To add a variant: a line in VARIANTS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from longshort.cell import Cell, Masks, State
from longshort.engine import Call, run

NOISE = {"zoneout": (0.3, 0.2), "drop_h": 0.4, "drop_g": 0.3}
ALONE = [Cell(), Cell(forget=False), Cell(peephole=True), Cell(coupled=True), Cell(layer_norm=True), Cell(zoneout=(0.3, 0.2)),
         Cell(zoneout=(1.0, 1.0)), Cell(drop_h=0.4), Cell(drop_g=0.3), Cell(projection=3), Cell(projection=9), Cell(clip=0.1)]  # fmt: skip
TOGETHER = [
    Cell(peephole=p, layer_norm=n, projection=r, clip=0.3, **kind, **NOISE)
    for kind, p, n, r in product(({}, {"forget": False}, {"coupled": True}), (False, True), (False, True), (None, 3))
]
VARIANTS = ALONE + TOGETHER


@dataclass(frozen=True)
class Case:
    """A variant, an engine, and everything that a run needs."""

    cell: Cell
    engine: str
    params: dict[str, Tensor]
    call: Call
    state: State

    @staticmethod
    def make(cell: Cell, engine: str, T=6, B=4, I=3, H=5, bias=True, dtype=torch.float64, training=True) -> Case:
        params = {k: torch.randn(s, dtype=dtype) * 0.5 for k, s in cell.shapes(I, H, bias).items()}
        x = torch.randn(T, B, I, dtype=dtype)
        masks = cell.draw(T, B, H, like=x) if training else None
        arithmetic = torch.float32 if dtype == torch.bfloat16 else dtype
        state = State(torch.randn(B, cell.projection or H, dtype=dtype) * 0.5, torch.randn(B, H, dtype=arithmetic))
        return Case(cell, engine, params, Call(x, masks=masks), state)

    def with_call(self, **changes) -> Case:
        return replace(self, call=self.call._replace(**changes))

    def steps(self, a: int, b: int, state: State | None = None) -> Case:
        """Steps a to b only."""
        c = self.call
        masks = c.masks and Masks(c.masks.drop_h, *(None if m is None else m[a:b] for m in c.masks[1:]))
        cut = c._replace(x=c.x[a:b], masks=masks, resets=None if c.resets is None else c.resets[a:b])
        return replace(self, call=cut, state=self.state if state is None else state)

    def rows(self, index: Tensor) -> Case:
        """The given sequences only, in the given order."""
        c = self.call
        masks = c.masks and Masks(*(None if m is None else m.index_select(-2, index) for m in c.masks))
        picked = Call(c.x[:, index], None if c.lengths is None else c.lengths[index],
                      None if c.resets is None else c.resets[:, index], masks, c.reverse, c.tape)  # fmt: skip
        return replace(self, call=picked, state=State(*(v[index] for v in self.state)))

    def run(self) -> dict[str, Tensor]:
        """y, h, c without gradients."""
        y, s, _ = run(self.cell, self.params, self.call, self.state, self.engine)
        return {"y": y, "h": s.h, "c": s.c}

    def grads(self, weigh: Callable[[dict[str, Tensor]], Tensor] | None = None) -> dict[str, Tensor]:
        """y, h, c and the gradients of a weighing of them with respect to everything."""
        leaf = {k: v.detach().clone().requires_grad_() for k, v in self.params.items()}
        x, h0, c0 = (v.detach().clone().requires_grad_() for v in (self.call.x, *self.state))
        out = replace(self, params=leaf, call=self.call._replace(x=x), state=State(h0, c0)).run()
        inputs = leaf | {"x": x, "h0": h0, "c0": c0}
        loss = weigh(out) if weigh else sum((v * weights(v)).sum() for v in out.values())
        got = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return {k: v.detach() for k, v in out.items()} | {"d" + k: g for k, g in zip(inputs, got, strict=True)}


def weights(v: Tensor) -> Tensor:
    """Fixed, uneven weights, so that no two entries of v can stand in for each other."""
    return torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).cos().reshape(v.shape) if v.numel() else torch.zeros_like(v)


def same(a: dict[str, Tensor], b: dict[str, Tensor], keys=None, atol=1e-11) -> None:
    """All named tensors agree; NaN only where both have it. a holds nothing that b lacks."""
    for k in keys or a:
        torch.testing.assert_close(a[k], b[k], rtol=0, atol=atol, equal_nan=True, msg=lambda m, k=k: f"{k}: {m}")


def cut_anywhere(case: Case) -> None:
    """T steps = t steps, then T - t from the state."""
    T = case.call.x.shape[0]
    whole = case.grads()
    for t in range(T + 1):
        leaf = {k: v.clone().requires_grad_() for k, v in case.params.items()}
        x, h0, c0 = (v.clone().requires_grad_() for v in (case.call.x, *case.state))
        both = replace(case, params=leaf, call=case.call._replace(x=x), state=State(h0, c0))
        a = both.steps(0, t).run()
        b = both.steps(t, T, State(a["h"], a["c"])).run()
        out = {"y": torch.cat([a["y"], b["y"]]), "h": b["h"], "c": b["c"]}
        inputs = leaf | {"x": x, "h0": h0, "c0": c0}
        got = torch.autograd.grad(sum((v * weights(v)).sum() for v in out.values()), list(inputs.values()),
                                  allow_unused=True, materialize_grads=True)  # fmt: skip
        same(whole, out | {"d" + k: g for k, g in zip(inputs, got, strict=True)})


def slot_does_not_matter(case: Case) -> None:
    """Sequences in another order give the same outputs in that order."""
    order = torch.tensor([2, 0, 3, 1])
    a, b = case.run(), case.rows(order).run()
    same({"y": a["y"][:, order], "h": a["h"][order], "c": a["c"][order]}, b)
    total = lambda out: (out["y"] ** 2).sum() + out["c"].sin().sum()  # noqa: E731
    a, b = case.grads(total), case.rows(order).grads(total)
    a |= {"y": a["y"][:, order], "dx": a["dx"][:, order]} | {k: a[k][order] for k in ("h", "c", "dh0", "dc0")}
    same(a, b)


def padding_does_not_matter(case: Case) -> None:
    """A shorter sequence among longer ones runs as if alone, whatever stands in the padding, its gradients included."""
    T, B, _ = case.call.x.shape
    lengths = torch.tensor([T, T - 3, 0, 1])[:B]
    for reverse in (False, True):
        ragged = case.with_call(lengths=lengths, reverse=reverse)
        full = ragged.grads()
        poisoned = case.call.x.clone()
        for b, n in enumerate(lengths.tolist()):
            poisoned[n:, b] = torch.nan
            alone = ragged.with_call(lengths=None).rows(torch.tensor([b])).steps(0, n).run()
            same({"y": full["y"][:n, b], "h": full["h"][b], "c": full["c"][b]},
                 {"y": alone["y"][:, 0], "h": alone["h"][0], "c": alone["c"][0]})  # fmt: skip
            assert not full["y"][n:, b].any()
            assert not full["dx"][n:, b].any()
        same(full, ragged.with_call(x=poisoned).grads())


def nan_stays(case: Case) -> None:
    """A NaN in one sequence stays in that sequence: the others' outputs and input gradients are untouched."""
    x = case.call.x.clone()
    x[1, 2] = torch.nan
    clean, dirty = case.grads(), case.with_call(x=x).grads()
    others = torch.tensor([0, 1, 3])
    for k, axis in (("y", 1), ("h", 0), ("c", 0), ("dx", 1), ("dh0", 0), ("dc0", 0)):
        same({k: clean[k].index_select(axis, others)}, {k: dirty[k].index_select(axis, others)})
    if case.cell.zoneout[0] < 1:
        assert dirty["y"][1:, 2].isnan().any()
    assert not dirty["y"][:1].isnan().any()


def reset_is_fresh_start(case: Case) -> None:
    """A reset at t equals starting afresh at t: nothing before it reaches what comes after, nor gradients back."""
    T, B, _ = case.call.x.shape
    for t in (0, 2, T - 1):
        resets = torch.zeros(T, B, dtype=torch.bool)
        resets[t, 1:] = True
        got = case.with_call(resets=resets).grads()
        zero = State(*(torch.zeros_like(v) for v in case.state))
        before, fresh, on = case.steps(0, t).run(), case.steps(t, T, zero).run(), case.run()
        same({"y": got["y"][:t, 1:]}, {"y": before["y"][:, 1:]})
        same({"y": got["y"][t:, 1:], "h": got["h"][1:], "c": got["c"][1:]},
             {"y": fresh["y"][:, 1:], "h": fresh["h"][1:], "c": fresh["c"][1:]})  # fmt: skip
        same({"y": got["y"][:, 0], "c": got["c"][0]}, {"y": on["y"][:, 0], "c": on["c"][0]})
        late = case.with_call(resets=resets).grads(lambda out, t=t: out["y"][t:, 1:].sum() + out["c"][1:].sum())
        assert not late["dx"][:t, 1:].any()
        assert not late["dh0"][1:].any()


def reversed_is_time_reversed(case: Case) -> None:
    """Running from the end = turning time around, running, turning back."""
    c = case.call
    masks = c.masks and Masks(c.masks.drop_h, *(None if m is None else m.flip(0) for m in c.masks[1:]))
    resets = torch.rand(c.x.shape[:2]) < 0.2
    for r in (None, resets):
        back = case.with_call(reverse=True, resets=r).grads(lambda out: (out["y"] ** 2).sum() + out["c"].sin().sum())
        turned = case.with_call(x=c.x.flip(0), masks=masks, resets=None if r is None else r.flip(0))
        forth = turned.grads(lambda out: (out["y"] ** 2).sum() + out["c"].sin().sum())
        same(back, forth | {"y": forth["y"].flip(0), "dx": forth["dx"].flip(0)})


def tape_is_true(case: Case) -> None:
    """The Tape's gates and cells are those of the equations: (5) and (9) rebuild each cell from them."""
    y, state, tape = run(case.cell, case.params, case.call._replace(tape=True), case.state, case.engine)
    same({"c": state.c}, {"c": tape.cells[-1]})
    same({"y": y}, {"y": case.run()["y"]})
    before = torch.cat([case.state.c[None], tape.cells[:-1]])
    g, cell, masks = tape.gate("g"), case.cell, case.call.masks or Masks()
    if masks.drop_g is not None:
        g = g * masks.drop_g / (1 - cell.drop_g)
    c = tape.gate("f") * before + tape.gate("i") * g
    if cell.clip:
        c = c.clamp(-cell.clip, cell.clip)
    if cell.zoneout[1]:
        c = cell.zoneout[1] * before + (1 - cell.zoneout[1]) * c if masks.zone_c is None else torch.where(masks.zone_c, before, c)
    same({"c": c}, {"c": tape.cells})


LAWS = [cut_anywhere, slot_does_not_matter, padding_does_not_matter, nan_stays, reset_is_fresh_start,
        reversed_is_time_reversed, tape_is_true]  # fmt: skip
NEEDS_RESETS = {reset_is_fresh_start, reversed_is_time_reversed}
NEEDS_TAPE = {tape_is_true}
