"""Gradient flow: what backward leaves at every step is dLoss/dh_t and dLoss/dc_t, on every engine and for every variant."""

from dataclasses import replace

import pytest
import torch

from laws import VARIANTS, Case, same, weights
from longshort.cell import Cell, State, step
from longshort.engine import Flow, run


def loss_of(y, state):
    return sum((v * weights(v)).sum() for v in (y, *state))


def flow(case, tape="keep", engine=None):
    """dh and dc of every step by the engine, and y."""
    leaf = {k: v.detach().clone().requires_grad_() for k, v in case.params.items()}
    into = Flow()
    y, s, _ = run(case.cell, leaf, case.call._replace(flow=into), case.state, engine or case.engine, tape)
    loss_of(y, s).backward()
    return {"y": y.detach(), "dh": into.dh, "dc": into.dc} | {k: v.grad for k, v in leaf.items()}


def by_hand(case):
    """The same by torch.autograd on a loop over the equations."""
    leaf = {k: v.detach().clone().requires_grad_() for k, v in case.params.items()}
    call, state = case.call, case.state
    T, B, _ = call.x.shape
    states, ys = [None] * T, [None] * T
    for t in reversed(range(T)) if call.reverse else range(T):
        before = state if call.resets is None else State(*(v * ~call.resets[t, :, None] for v in state))
        new, _ = step(case.cell, leaf, call.x[t], before, call.masks and call.masks.at(t))
        for v in new:
            v.retain_grad()
        states[t] = new
        alive = (torch.ones(B) > 0 if call.lengths is None else t < call.lengths)[:, None]
        state, ys[t] = State(*(torch.where(alive, a, b) for a, b in zip(new, state, strict=True))), new.h * alive
    loss_of(torch.stack(ys), state).backward()
    grads = [torch.stack([torch.zeros_like(s[k]) if s[k].grad is None else s[k].grad for s in states]) for k in (0, 1)]
    return {"y": torch.stack(ys).detach(), "dh": grads[0], "dc": grads[1]} | {k: v.grad for k, v in leaf.items()}


def ragged(case, reverse):
    T, B = case.call.x.shape[:2]
    return case.with_call(lengths=torch.tensor([T, T - 3, 0, 1])[:B], resets=torch.rand(T, B) < 0.15, reverse=reverse)


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
def test_every_engine_leaves_what_autograd_finds(cell):
    for training in (True, False):
        case = Case.make(cell, "reference", T=7, training=training)
        same(by_hand(case), flow(case))
        for reverse in (False, True):
            case = ragged(case, reverse)
            want = by_hand(case)
            for engine in ("reference", "cpu"):
                for tape in ("keep", "recompute"):
                    same(want, flow(case, tape, engine))


@pytest.mark.parametrize(
    "cell", [Cell(), Cell(projection=9, peephole=True), Cell(layer_norm=True, coupled=True, zoneout=(0.2, 0.3))], ids=repr
)
@pytest.mark.parametrize(("T", "B", "H"), [(1, 1, 1), (40, 3, 63), (3, 37, 100), (0, 2, 5)])
def test_odd_sizes(cell, T, B, H):
    case = Case.make(cell, "cpu", T=T, B=B, I=2, H=H)
    if T == 0:
        assert flow(case)["dh"].shape == (0, B, cell.projection or H)
        return
    want, got = flow(case, engine="reference"), flow(case)
    for k in ("dh", "dc"):
        torch.testing.assert_close(got[k], want[k], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
def test_packed(cell):
    """A packed batch has its flow row by row, as a padded one has it step by step."""
    sizes = torch.tensor([4, 3, 3, 1, 1])
    there = torch.arange(4) < sizes[:, None]
    for reverse in (False, True):
        padded = Case.make(cell, "reference", T=5, training=False).with_call(lengths=there.sum(0), reverse=reverse)
        packed = padded.with_call(x=padded.call.x[there], lengths=None, sizes=sizes)
        weigh = torch.where(there, 1, torch.nan)[..., None]
        got = {}
        for name, case in (("padded", padded), ("reference", packed), ("cpu", replace(packed, engine="cpu"))):
            leaf = {k: v.clone().requires_grad_() for k, v in case.params.items()}
            into = Flow()
            y, s, _ = run(case.cell, leaf, case.call._replace(flow=into), case.state, case.engine)
            ((y**2).sum() + s.c.sum()).backward()
            got[name] = {"dh": into.dh, "dc": into.dc}
        want = {k: (v * weigh)[there] for k, v in got["padded"].items()}
        same(want, got["reference"])
        same(want, got["cpu"])


def test_nothing_changes_and_more_passes_add_up():
    """The flow costs no bit of the gradients; two backward passes add up as in Tensor.grad; create_graph goes through too."""
    case = Case.make(Cell(), "cpu", H=37)
    leaf = {k: v.clone().requires_grad_() for k, v in case.params.items()}
    into = Flow()
    y, s, _ = run(case.cell, leaf, case.call._replace(flow=into), case.state, "cpu")
    loss_of(y, s).backward(retain_graph=True)
    with_flow = {k: v.grad.clone() for k, v in leaf.items()}
    once = into.dh.clone()
    loss_of(y, s).backward(retain_graph=True)
    torch.testing.assert_close(into.dh, 2 * once)
    torch.autograd.grad(loss_of(y, s), [*leaf.values()], create_graph=True)
    torch.testing.assert_close(into.dh, 3 * once)
    assert not into.dh.requires_grad
    without = Case.grads(case, lambda out: loss_of(out["y"], (out["h"], out["c"])))
    assert all(torch.equal(with_flow[k], without["d" + k]) for k in leaf)


def test_bfloat16_is_near():
    case = Case.make(Cell(peephole=True), "cpu", T=9, H=20, dtype=torch.bfloat16)
    exact = replace(case, params={k: v.double() for k, v in case.params.items()},
                    call=case.call._replace(x=case.call.x.double()), state=State(*(v.double() for v in case.state)))  # fmt: skip
    want = flow(exact, engine="reference")
    for engine in ("cpu", "reference"):
        got = flow(case, engine=engine)
        for k in ("dh", "dc"):
            assert (got[k].double() - want[k]).norm() < 0.02 * want[k].norm()


def test_the_vendor_engine_refuses():
    case = Case.make(Cell(), "vendor", dtype=torch.float32)
    with pytest.raises(ValueError, match="'vendor' was asked for but refuses: torch's fused LSTM returns neither gates nor cell"):
        flow(case)
