"""Recomputing the Tape changes memory, not numbers: same outputs, same gradients, for every variant, once and twice."""

import pytest
import torch

from laws import VARIANTS, Case, same, weights
from longshort import LSTM, Cell
from longshort.cell import State
from longshort.engine import engines, recompute, run


def grads(case, tape):
    leaf = {k: v.detach().clone().requires_grad_() for k, v in case.params.items()}
    x, h0, c0 = (v.detach().clone().requires_grad_() for v in (case.call.x, *case.state))
    y, s, _ = run(case.cell, leaf, case.call._replace(x=x), State(h0, c0), case.engine, tape)
    inputs = leaf | {"x": x, "h0": h0, "c0": c0}
    loss = sum((v * weights(v)).sum() for v in (y, *s))
    got = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "h": s.h, "c": s.c} | {"d" + k: g for k, g in zip(inputs, got, strict=True)}


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_same_numbers(cell, reverse, engine):
    case = Case.make(cell, engine, T=11)
    resets = torch.rand(11, 4) < 0.1
    case = case.with_call(lengths=torch.tensor([11, 4, 0, 7]), resets=resets, reverse=reverse)
    same(grads(case, "keep"), grads(case, "recompute"))


@pytest.mark.parametrize("engine", [name for name in engines() if name != "vendor"])
def test_twice_differentiable(engine):
    case = Case.make(Cell(peephole=True, layer_norm=True), engine, T=5, B=2, I=2, H=3)
    names = list(case.params)

    def f(x, *params):
        return run(case.cell, dict(zip(names, params, strict=True)), case.call._replace(x=x), case.state, engine, "recompute")[0]

    leaves = [v.clone().requires_grad_() for v in (case.call.x, *case.params.values())]
    assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


def test_module_with_layers_noise_and_only_some_parameters_trained():
    x = torch.randn(20, 3, 4, dtype=torch.float64)
    made = []
    for tape in ("keep", "recompute"):
        torch.manual_seed(5)
        m = LSTM(
            4,
            6,
            2,
            bidirectional=True,
            dilation=(1, 3),
            cell=Cell(drop_g=0.3, zoneout=(0.1, 0.1)),
            dtype=torch.float64,
            tape=tape,
        )
        m.weight_hh_l0.requires_grad_(False)
        y, _ = m(x, lengths=[20, 3, 11])
        (y**2).sum().backward()
        made.append({"y": y} | {n: p.grad for n, p in m.named_parameters() if p.requires_grad})
        assert m.weight_hh_l0.grad is None
    same(*made)


def test_it_keeps_less():
    """What autograd saves between forward and backward falls from T steps of gates to sqrt(T) states."""
    kept = {}
    for tape in ("keep", "recompute"):
        m, sizes = LSTM(4, 32, engine="reference", tape=tape), {}

        def pack(t, sizes=sizes):
            sizes[t.data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            m(torch.randn(400, 2, 4))
        kept[tape] = sum(sizes.values())
    assert kept["recompute"] < kept["keep"] / 10


@pytest.mark.parametrize("reverse", [False, True])
def test_its_parts_are_as_long_as_they_are_many(reverse):
    """Forward and backward see pieces of sqrt(T) steps, T steps in each of the two: no longer ones, and no more of them."""
    case, seen = Case.make(Cell(), "reference", T=400, B=2, I=2, H=3).with_call(reverse=reverse), []
    call = case.call._replace(x=case.call.x.clone().requires_grad_())

    def spy(cell, params, part, state):
        seen.append(len(part.x))
        return engines()["reference"].forward(cell, params, part, state)

    y, *_ = recompute.run(spy, case.cell, case.params, call, case.state)
    assert seen == [20] * 20
    y.sum().backward()
    assert seen == [20] * 40


def test_bad_use():
    with pytest.raises(ValueError, match="tape must be 'keep' or 'recompute', got 'forget'"):
        LSTM(4, 6, tape="forget")
    m = LSTM(4, 6, tape="recompute")
    with pytest.raises(ValueError, match="neither compiled, transformed"):
        torch.func.grad(lambda x: m(x)[0].sum())(torch.randn(5, 3, 4))


@pytest.mark.parametrize("tape", ["keep", "recompute"])
@pytest.mark.parametrize("name", ["lengths", "resets"])
def test_what_cuts_sequences_must_not_change_before_backward(tape, name):
    v = torch.tensor([20, 3, 11]) if name == "lengths" else torch.zeros(20, 3, dtype=torch.bool)
    y, _ = LSTM(4, 6, tape=tape)(torch.randn(20, 3, 4), **{name: v})
    v.fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
