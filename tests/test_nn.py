"""longshort.LSTM beside torch.nn.LSTM: the same numbers where torch has them, and what torch has not."""

import copy
import io
import itertools
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from threading import get_ident

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from laws import ALONE, VARIANTS, same
from longshort import LSTM, Cell, probe
from longshort.engine import cpu, engines, linear

KW = [{}, {"num_layers": 3, "bidirectional": True}, {"num_layers": 2, "proj_size": 2}, {"bias": False, "batch_first": True}]
ENGINES = list(engines())


def pair(seed=1, dtype=torch.float64, engine="auto", **kw):
    """torch's LSTM and ours, born from the same seed."""
    torch.manual_seed(seed)
    theirs = torch.nn.LSTM(4, 6, dtype=dtype, **kw)
    torch.manual_seed(seed)
    return theirs, LSTM(4, 6, dtype=dtype, engine=engine, **kw)


def out(result):
    y, (h, c) = result
    return {"y": y, "h": h, "c": c}


@pytest.mark.parametrize("kw", KW)
def test_same_seed_same_weights_same_names(kw):
    theirs, ours = pair(**kw)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert [len(w) for w in theirs.all_weights] == [len(w) for w in ours.all_weights]
    ours.reset_parameters()
    theirs.load_state_dict(ours.state_dict())
    LSTM(4, 6, dtype=torch.float64, **kw).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("kw", KW)
@pytest.mark.parametrize("engine", ENGINES)
def test_same_numbers(kw, engine):
    theirs, ours = pair(engine=engine, **kw)
    D, L, P = 1 + kw.get("bidirectional", False), kw.get("num_layers", 1), kw.get("proj_size", 6) or 6
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    hx = (
        torch.randn(D * L, 7 if ours.batch_first else 3, P).double(),
        torch.randn(D * L, 7 if ours.batch_first else 3, 6).double(),
    )
    same(out(theirs(x)), out(ours(x)))
    same(out(theirs(x, hx)), out(ours(x, hx)))
    alone = tuple(v[:, 0] for v in hx)
    same(out(theirs(x[:, 0], alone)), out(ours(x[:, 0], alone)))


@pytest.mark.parametrize("lengths", [[7, 5, 2], [3, 7, 3], [1, 1, 1]])
@pytest.mark.parametrize("kw", KW)
@pytest.mark.parametrize("engine", ENGINES)
def test_packed_sequences(kw, lengths, engine):
    theirs, ours = pair(engine=engine, **(kw | {"batch_first": False}))
    D, L, P = 1 + kw.get("bidirectional", False), kw.get("num_layers", 1), kw.get("proj_size", 6) or 6
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    hx = (torch.randn(D * L, 3, P).double(), torch.randn(D * L, 3, 6).double())
    n = torch.tensor(lengths)
    packed = pack_padded_sequence(x, n, enforce_sorted=lengths == sorted(lengths, reverse=True))
    a, b = theirs(packed, hx), ours(packed, hx)
    same({"y": a[0].data, "h": a[1][0], "c": a[1][1]}, {"y": b[0].data, "h": b[1][0], "c": b[1][1]})
    for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        u, v = getattr(a[0], field), getattr(b[0], field)
        assert u is v is None or torch.equal(u, v)
    padded = ours(x[: max(lengths)], hx, lengths=lengths)
    same(out(padded), {"y": pad_packed_sequence(b[0])[0], "h": b[1][0], "c": b[1][1]})


def test_packed_tape_is_in_the_callers_order():
    m, x = LSTM(4, 6, 2, dtype=torch.float64), torch.randn(7, 3, 4, dtype=torch.float64)
    _, _, a = m(pack_padded_sequence(x, torch.tensor([3, 7, 5]), enforce_sorted=False), tape=True)
    _, _, b = m(x, lengths=[3, 7, 5], tape=True)
    for s, t in zip(a, b, strict=True):
        same({"gates": s.gates, "cells": s.cells}, {"gates": t.gates, "cells": t.cells})


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
def test_every_variant_with_layers_directions_and_tape(cell):
    """Two directions of two layers equal four layers run by hand."""
    m = LSTM(4, 6, 2, bidirectional=True, cell=cell, dtype=torch.float64).eval()
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    y, (_, c), tapes = m(x, tape=True)
    assert len(tapes) == 4
    low = x
    for k in range(2):
        ways = []
        for end in ("", "_reverse"):
            one = LSTM(low.shape[-1], 6, cell=cell, dtype=torch.float64).eval()
            one.load_state_dict({n: m.get_parameter(n.replace("_l0", f"_l{k}{end}")) for n, _ in one.named_parameters()})
            z, _ = one(low.flip(0) if end else low)
            ways.append(z.flip(0) if end else z)
        low = torch.cat(ways, -1)
    same({"y": low}, {"y": y})
    same({"c": c[2]}, {"c": tapes[2].cells[-1]})
    assert tapes[0].gates.shape == (7, 3, 6 * len(cell.gates))
    for g in "ifgo":
        assert tapes[3].gate(g).shape == (7, 3, 6)
    with pytest.raises(ValueError, match="gate must be one of 'i', 'f', 'g', 'o', got 'x'"):
        tapes[0].gate("x")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", VARIANTS, ids=str)
def test_the_short_way_without_gradients(cell, dtype, monkeypatch):
    m = LSTM(4, 6, 2, bidirectional=True, cell=cell, dtype=dtype).eval()
    width = 2 * sum(m.dilation), 3, cell.projection or 6
    hx = torch.randn(*width).to(dtype), torch.randn(*width[:2], 6)  # of float32, whatever the model is
    short = []
    monkeypatch.setattr(cpu, "infer", lambda *a, real=cpu.infer: short.append(real(*a)) or short[-1])
    for x, given in itertools.product((torch.randn(5, 3, 4), torch.randn(3, 5, 8)[..., 1::2].transpose(0, 1), torch.randn(0, 3, 4)),
                                      ({}, {"hx": hx}, {"lengths": [2, 0, 1]}, {"lengths": [0, 0, 0], "hx": hx})):  # fmt: skip
        x, given = x.to(dtype), given if len(x) or "lengths" not in given else {}
        long = out(m(x, **given))
        assert all(v is None for v in short)
        with torch.no_grad():
            assert {k: v.dtype for k, v in out(m(x, **given)).items()} == {k: v.dtype for k, v in long.items()}
            same({k: v.detach() for k, v in long.items()}, out(m(x, **given)), atol=0)
        assert all(v is not None for v in short[4:]) == (x.stride(2) == 1)
        short.clear()


def test_the_short_way_is_for_nothing_special(monkeypatch):
    monkeypatch.setattr(cpu, "infer", lambda *a: pytest.fail("took the short way"))
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        LSTM(4, 6)(x, tape=True)
        LSTM(4, 6)(x, resets=torch.zeros(5, 3, dtype=torch.bool))
        LSTM(4, 6, dilation=2)(x)
        LSTM(4, 6, cell=Cell(zoneout=(0.5, 0.5)))(x)
        LSTM(4, 6)(pack_padded_sequence(x, [5, 2, 1]))
        LSTM(4, 6, engine="reference")(x)
    with pytest.raises(pytest.fail.Exception), torch.no_grad():
        LSTM(4, 6)(x)


def test_resets_cut_a_bidirectional_batch_into_its_documents():
    m, x = LSTM(4, 6, 2, bidirectional=True, dtype=torch.float64), torch.randn(9, 2, 4, dtype=torch.float64)
    resets = torch.zeros(9, 2, dtype=torch.bool)
    resets[4, :], resets[7, 1] = True, True
    one = LSTM(4, 6, bidirectional=True, dtype=torch.float64)
    one.load_state_dict({k: v for k, v in m.state_dict().items() if "_l0" in k})
    y, _ = one(x, resets=resets)
    for b, cuts in enumerate([(0, 4, 9), (0, 4, 7, 9)]):
        parts = [one(x[i:j, b])[0] for i, j in itertools.pairwise(cuts)]
        same({"y": torch.cat(parts)}, {"y": y[:, b]})
    batch_first = LSTM(4, 6, bidirectional=True, batch_first=True, dtype=torch.float64)
    batch_first.load_state_dict(one.state_dict())
    same({"y": y.transpose(0, 1)}, {"y": batch_first(x.transpose(0, 1), resets=resets.T)[0]})


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
def test_pickle_deepcopy_and_to(cell):
    m = LSTM(4, 6, 2, cell=cell, dilation=(1, 2), init="orthogonal").eval()
    x = torch.randn(5, 3, 4)
    want = out(m(x))
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        same(want, out(twin(x)), atol=0)
        assert repr(twin) == repr(m)
    buffer = io.BytesIO()
    torch.save(m.state_dict(), buffer)
    buffer.seek(0)
    m.load_state_dict(torch.load(buffer))
    wide = out(copy.deepcopy(m).to(torch.float64)(x.double()))
    for k, v in wide.items():
        assert v.dtype == torch.float64
        torch.testing.assert_close(v.float(), want[k], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", ALONE, ids=repr)
def test_bfloat16_and_autocast(cell):
    """bfloat16 outputs near float32's; the cell is float32 inside, and outside too if c_0 is."""
    m, x = LSTM(4, 6, cell=cell).eval(), torch.randn(5, 3, 4)
    want = out(m(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = out(m(x))
    b = out(copy.deepcopy(m).to(torch.bfloat16)(x.to(torch.bfloat16)))
    for k, v in want.items():
        assert a[k].dtype == b[k].dtype == torch.bfloat16
        torch.testing.assert_close(a[k].float(), v, rtol=0.05, atol=0.05)
        torch.testing.assert_close(a[k], b[k], rtol=0, atol=0)
    h0 = torch.zeros(1, 3, cell.projection or 6, dtype=torch.bfloat16)
    half = copy.deepcopy(m).to(torch.bfloat16)
    _, (_, c) = half(x.to(torch.bfloat16), (h0, torch.zeros(1, 3, 6)))
    assert c.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        m.train()(x.requires_grad_())[0].float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in m.parameters() if p.grad is not None)


def test_autocast_leaves_float64_alone():
    m, x = LSTM(4, 6, dtype=torch.float64), torch.randn(5, 3, 4).double()
    want = m(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = m(x)[0]
    assert got.dtype == torch.float64
    assert torch.equal(got, want)


def chained(l, cg, x):
    """Two pieces with the state between them, then a state that was made from the input, and an output that is fed back."""
    _, s = l(x[:3])
    z, _ = l(x[3:], s)
    w, _ = l(x[:2], (x[:1, :, :1].tanh().expand(1, -1, 4).contiguous(), torch.zeros(1, x.shape[1], 4, dtype=x.dtype)))
    fed, s = l(x[:1])
    for _ in range(3):
        fed, s = l(fed[..., :3], s)
    loss = (z**2).sum() + (w**3).sum() + (fed**2).sum()
    return torch.autograd.grad(loss, [x, *l.parameters()], create_graph=cg)


@pytest.mark.parametrize("tape", ["keep", "recompute"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("engine", ["cpu", "reference", "vendor"])
def test_with_create_graph_what_one_call_made_for_another_counts_once(engine, tied, tape):
    """First and second derivatives where inputs of a call depend on each other."""
    torch.manual_seed(0)
    x, r = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True), torch.nn.LSTM(3, 4, dtype=torch.float64)
    l = LSTM(3, 4, dtype=torch.float64, engine=engine, tape=tape)
    l.load_state_dict(r.state_dict())
    if tied:
        for m in (l, r):
            m.bias_hh_l0 = m.bias_ih_l0
    want = chained(r, False, x)
    for cg in (False, True):
        for a, b in zip(chained(l, cg, x), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    if engine != "vendor":  # torch's own has no second derivatives

        def total(v):
            return sum((g**2).sum() for g in chained(l, True, v))

        (twice,) = torch.autograd.grad(total(x), x)
        step = 1e-6 * torch.randn_like(x)
        differences = (total((x + step).detach().requires_grad_()) - total((x - step).detach().requires_grad_())) / 2
        torch.testing.assert_close((twice * step).sum(), differences, rtol=1e-5, atol=0)


def test_a_vectorised_jacobian_through_a_state_that_was_made_from_the_input():
    torch.manual_seed(0)
    l, w = LSTM(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def f(x):
        return l(x, ((x[0] @ w)[None], torch.zeros(1, 2, 4, dtype=x.dtype)))[0].sum((0, 1))

    x = torch.randn(5, 2, 3, dtype=torch.float64)
    plain, fast = (torch.autograd.functional.jacobian(f, x, vectorize=v) for v in (False, True))
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("grad", [True, False])
def test_numbers_that_are_negative_by_a_mark_alone(grad):
    """torch keeps the sign of `conj().imag` as a bit of the tensor."""
    x = torch.randn(5, 2, dtype=torch.complex64).conj().imag.unsqueeze(-1)
    assert x.is_neg()
    l, r = LSTM(1, 4), torch.nn.LSTM(1, 4)
    r.load_state_dict(l.state_dict())
    h = torch._neg_view(torch.randn(1, 2, 4))
    with torch.set_grad_enabled(grad):
        for hx in (None, (h, torch._neg_view(h + 1))):
            same(out(l(x, hx)), out(r(x, hx)), atol=1e-6)
        weights = {k: torch._neg_view(v) for k, v in l.named_parameters()}
        other = {k: v.resolve_neg() for k, v in weights.items()}
        same(out(torch.func.functional_call(l, weights, (x,))), out(torch.func.functional_call(r, other, (x,))), atol=1e-6)
    s, t = l.stream(2), l.stream(2)
    assert torch.equal(s.step(x[0]).clone(), t.step(x[0].resolve_neg()))
    w = torch.randn(5, 3)
    v = torch._neg_view(torch.randn(4, 3))
    torch.testing.assert_close(linear(v, w), torch.nn.functional.linear(v, w))


@pytest.mark.parametrize("engine", ["cpu", "reference", "vendor"])
def test_no_steps_leave_a_state_of_its_own(engine):
    h, c = torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)
    _, (hn, cn) = LSTM(3, 4, engine=engine)(torch.randn(0, 2, 3), (h, c))
    hn += 1
    cn += 1
    assert not h.any()
    assert not c.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_orthogonal_blocks_in_every_dtype(dtype):
    for block in LSTM(3, 8, init="orthogonal", dtype=dtype).weight_hh_l0.detach().double().chunk(4):
        torch.testing.assert_close(block @ block.T, torch.eye(8).double(), rtol=0, atol=1e-12 if dtype == torch.float64 else 0.03)


def test_gains_begin_at_one():
    m = LSTM(4, 6, 2, bidirectional=True, cell=Cell(layer_norm=True))
    gains = {name: p for name, p in m.named_parameters() if name.startswith("gain")}
    assert len(gains) == 3 * 4
    assert all((p == 1).all() for p in gains.values())


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_nothing_to_do(engine):
    m = LSTM(4, 6, 2, bidirectional=True, engine=engine)
    for T, B in ((0, 3), (5, 0), (0, 0)):
        x = torch.randn(T, B, 4, requires_grad=True)
        hx = (torch.randn(4, B, 6, requires_grad=True), torch.randn(4, B, 6, requires_grad=True))
        y, (h, c) = m(x, hx)
        assert y.shape == (T, B, 12)
        assert h.shape == c.shape == (4, B, 6)
        if T == 0:
            same({"h": hx[0], "c": hx[1]}, {"h": h, "c": c})
        (y.sum() + h.sum() + c.sum()).backward()
        assert T == 0 or all(p.grad is not None for p in m.parameters())
    y, (h, _) = m(torch.randn(5, 3, 4), lengths=[0, 0, 0])
    assert not y.any()
    assert not h.any()


def test_dropout_between_layers_and_weight_drop_act_in_training_only():
    x = torch.randn(5, 3, 4)
    for kw in ({"num_layers": 2, "dropout": 0.5}, {"weight_drop": 0.5}, {"cell": Cell(drop_g=0.5)}):
        m = LSTM(4, 6, **kw)
        assert not torch.equal(m(x)[0], m(x)[0])
        m.eval()
        assert torch.equal(m(x)[0], m(x)[0])
    m = LSTM(4, 6, 2, dropout=1.0)
    top = LSTM(6, 6)
    top.load_state_dict({k.replace("_l1", "_l0"): v for k, v in m.state_dict().items() if "_l1" in k})
    torch.testing.assert_close(m(x)[0], top(torch.zeros(5, 3, 6))[0])
    m = LSTM(4, 6, weight_drop=0.4)
    m.bias_hh_l0.data.zero_()
    a = torch.stack([m(x[:1], (torch.ones(1, 3, 6), torch.zeros(1, 3, 6)), tape=True)[2][0].gate("o")[0] for _ in range(4000)])
    logit = torch.logit(a).mean(0)
    torch.testing.assert_close(
        logit, x[0] @ m.weight_ih_l0[18:].T + m.bias_ih_l0[18:] + m.weight_hh_l0[18:].sum(1), rtol=0, atol=0.06
    )


@torch.no_grad()
@pytest.mark.parametrize("cell", [c for c in VARIANTS if c.zoneout != (1.0, 1.0)], ids=str)
def test_held_weights_give_the_same_bits_in_inference(cell):
    """For any number of sequences; when they are let go, others are seen."""
    m = LSTM(4, 6, 2, bidirectional=True, cell=cell).eval()
    xs = [torch.randn(T, B, 4) for T, B in ((1, 1), (7, 3), (2, 40))]
    lengths = torch.tensor([2, 7, 0])
    plain = [m(x) for x in xs] + [m(xs[1], lengths=lengths)]
    with m.held():
        held = [m(x) for x in xs] + [m(xs[1], lengths=lengths)]
        twice = m(xs[1])
        copied = copy.deepcopy(m), pickle.loads(pickle.dumps(m))
    for one in copied:
        assert not one._held
        same(out(one(xs[1])), out(plain[1]), atol=0)
    for a, b in zip(plain, held, strict=True):
        same(out(a), out(b), atol=0)
    same(out(twice), out(plain[1]), atol=0)
    m.weight_hh_l1 *= 2
    with m.held():
        assert not torch.equal(m(xs[1])[0], plain[1][0])
        assert torch.equal(m(xs[1])[0], m(xs[1])[0])


@torch.no_grad()
def test_held_nests_and_is_of_one_thread():
    m, x = LSTM(4, 6, weight_drop=0.5), torch.randn(5, 3, 4)
    with m.held():
        first = m(x)[0]
        with m.held():
            assert torch.equal(m(x)[0], first)
        assert torch.equal(m(x)[0], first)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(torch.no_grad()(m), x).result()[0]
        assert not torch.equal(other, first)  # it draws its own
        assert torch.equal(m(x)[0], first)
    assert not torch.equal(m(x)[0], first)
    copy.deepcopy(m)


@pytest.mark.parametrize("engine", ENGINES)
def test_held_makes_single_steps_one_sequence(engine):
    m = LSTM(4, 6, 2, dtype=torch.float64, engine=engine, weight_drop=0.5)
    x = torch.randn(5, 3, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 3, 6, dtype=torch.float64)

    def steps():
        made, state = [], None
        for one in x.split(1):
            y, state = m(one, state)
            made.append(y)
        return torch.cat(made)

    def grads(y):
        return torch.autograd.grad((y * w).sum(), [x, *m.parameters()])

    torch.manual_seed(0)
    whole = m(x)[0]
    torch.manual_seed(0)
    with m.held():
        parts = steps()
    assert torch.allclose(parts, whole, atol=1e-12)
    for a, b in zip(grads(parts), grads(whole), strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    torch.manual_seed(0)
    assert not torch.allclose(steps(), whole, atol=1e-3)  # outside, each call drops weights of its own
    with m.held(), torch.no_grad():
        first = m(x)[0]
    with torch.no_grad():
        m.weight_hh_l0.zero_()
    assert not torch.equal(m(x)[0], first)  # nothing is held afterwards


@pytest.mark.parametrize("before", [torch.no_grad, torch.inference_mode])
def test_what_runs_without_gradients_first_takes_none_from_what_is_held(before):
    """A burn-in, as in reinforcement learning: the same weights are dropped, and what follows learns."""
    m, x = LSTM(3, 40, weight_drop=0.5, cell=Cell(drop_h=0.2)), torch.randn(6, 2, 3)
    with m.held():
        with before():
            _, state = m(x[:3].clone())
        m(x[3:], tuple(v.clone() for v in state))[0].square().sum().backward()
        masks = {k: v for k, v in m._held[get_ident()].items() if isinstance(k, str)}
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())
    assert list(masks) == ["_l0"]
    assert bool((m.weight_hh_l0.grad[masks["_l0"] == 0] == 0).all())
    with m.held():  # evaluation drops nothing
        m(x)
        m.eval()
        held = m(x)[0]
    assert torch.equal(held, m(x)[0])


def test_held_steps_share_one_drop_h_mask():
    m = LSTM(1, 200, cell=Cell(drop_h=0.5), bias=False)
    torch.nn.init.zeros_(m.weight_ih_l0)
    torch.nn.init.zeros_(m.weight_hh_l0)
    m.weight_hh_l0.data[400:600] = torch.eye(200)  # g_t = tanh of what is left of h_{t-1}
    state, gone = (torch.ones(1, 3, 200), torch.zeros(1, 3, 200)), []
    with m.held():
        for _ in range(4):
            y, _ = m(torch.zeros(1, 3, 1), state)
            gone.append(y == 0)
    assert all(torch.equal(v, gone[0]) for v in gone)
    assert 0.4 < gone[0].float().mean() < 0.6
    assert not torch.equal(gone[0][0, 0], gone[0][0, 1])


def test_a_checkpoint_may_choose_what_it_keeps():
    m, x = LSTM(3, 4), torch.randn(6, 2, 3, requires_grad=True)
    keep = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default])
    checkpoint(lambda x: m(x)[0], x, use_reentrant=False, context_fn=keep).sum().backward()
    (want,) = torch.autograd.grad(m(x)[0].sum(), x)
    assert torch.equal(x.grad, want)


def test_one_drop_h_mask_per_sequence_also_with_dilation():
    m = LSTM(1, 40, cell=Cell(drop_h=0.5), dilation=3, bias=False)
    torch.nn.init.zeros_(m.weight_ih_l0)
    torch.nn.init.zeros_(m.weight_hh_l0)
    m.weight_hh_l0.data[80:120] = torch.eye(40)  # g_t = tanh of what is left of h_{t-d}
    h0, c0 = torch.ones(3, 2, 40), torch.zeros(3, 2, 40)
    _, _, (tape,) = m(torch.zeros(3, 2, 1), (h0, c0), tape=True)
    g = tape.gate("g")
    assert torch.equal(g[0], g[1])
    assert torch.equal(g[0], g[2])
    assert 0.2 < (g[0] == 0).float().mean() < 0.8


@pytest.mark.parametrize("cell", [Cell(), Cell(coupled=True), Cell(peephole=True, projection=3)], ids=repr)
def test_inits(cell):
    m = LSTM(4, 60, 2, bidirectional=True, cell=cell, init="orthogonal+chrono:100")
    for _, suffix in m._stack():
        p = m.layer_params(suffix)
        for block in p["weight_hh"].chunk(len(cell.gates)):
            torch.testing.assert_close(block.T @ block, torch.eye(block.shape[1]), rtol=0, atol=1e-5)
        n = cell.gates.index("f")
        b = p["bias_ih"].unflatten(0, (-1, 60))[n] + p["bias_hh"].unflatten(0, (-1, 60))[n]
        times = 1 + b.exp()  # the time constants, U(2, 100)
        assert times.min() >= 2 - 1e-4
        assert times.max() <= 100 + 1e-3
        assert 40 < times.mean() < 62
        if "i" in cell.gates:
            assert torch.equal(p["bias_ih"][:60], -p["bias_ih"][60:120])
    one = LSTM(4, 60, cell=cell, init="forget_bias")
    b = (one.bias_ih_l0 + one.bias_hh_l0).unflatten(0, (-1, 60))
    assert (b[cell.gates.index("f")] == 1).all()
    assert not (b[cell.gates.index("g")] == 1).any()


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"init": "xavier"}, "init must be made of torch, forget_bias, chrono:T_MAX, orthogonal joined by '\\+', got 'xavier'"),
        ({"init": "chrono"}, "init must be made of"),
        ({"init": "chrono:2"}, "whole T_MAX of at least 3 steps, got '2'"),
        ({"init": "chrono:9", "cell": Cell(layer_norm=True)}, "layer_norm would normalise away"),
        ({"init": "forget_bias", "cell": Cell(forget=False)}, "needs bias=True and Cell\\(forget=True\\)"),
        ({"init": "forget_bias", "bias": False}, "needs bias=True"),
        ({"dilation": (1, 2, 3)}, "one per layer \\(2\\), got 3"),
        ({"dilation": 0}, "whole steps of at least 1, got 0"),
        ({"proj_size": 2, "cell": Cell(projection=3)}, "proj_size=2 and cell.projection=3 differ"),
        ({"engine": "warp"}, "engine must be one of auto, cpu, vendor, reference, got 'warp'"),
        ({"dropout": 1.5}, "dropout must be a number in \\[0, 1\\], got 1.5"),
        ({"weight_drop": 1.0}, "weight_drop must be a number in \\[0, 1\\)"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
    ],
)
def test_bad_arguments(kw, message):
    with pytest.raises(ValueError, match=message):
        LSTM(4, 6, **({"num_layers": 2} | kw))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: m(x[..., :3]), ValueError, r"input_size = 4 features last, got \[5, 3, 3\]"),
        (lambda m, x: m(x[None]), ValueError, "Expected input to be 2D or 3D, got 4D instead"),
        (lambda m, x: m(x, (torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))), ValueError,
         r"state h must be \[L\*D, B, P\] = \[1, 3, 6\], got \[1, 2, 6\]. Did the batch size change"),
        (lambda m, x: m(x, (torch.zeros(1, 6), torch.zeros(1, 6))), ValueError, "hx and cx should also be 3-D"),
        (lambda m, x: m(x, lengths=[5, 6, 1]), ValueError, r"lie in 0..T = 0..5, got values from 1 to 6"),
        (lambda m, x: m(x, lengths=[5, 1]), ValueError, r"lengths must be \[B\] = \[3\], got \[2\]"),
        (lambda m, x: m(x, lengths=[5.0, 1.0, 2.0]), TypeError, "whole numbers of steps"),
        (lambda m, x: m(x[:, 0], lengths=[5]), ValueError, "belong to a batch"),
        (lambda m, x: m(x, resets=torch.zeros(3, 5, dtype=torch.bool)), ValueError, r"resets must be bool, \[5, 3\], got"),
        (lambda m, x: m(x, resets=torch.zeros(5, 3)), ValueError, "resets must be bool"),
        (lambda m, x: m(x.double()), ValueError, "dtype of the weights, torch.float32, got torch.float64"),
    ],
)  # fmt: skip
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(LSTM(4, 6), torch.randn(5, 3, 4))


def test_asked_is_asked():
    m = LSTM(4, 6, cell=Cell(peephole=True), engine="vendor")
    with pytest.raises(
        ValueError, match=r"engine 'vendor' was asked for but refuses: .*plain or projected cell only, not Cell\(peephole=True\)"
    ):
        m(torch.randn(5, 3, 4))
    said = LSTM(4, 6, cell=Cell(peephole=True), dilation=2).explain(torch.randn(5, 3, 4))
    assert "vendor: refuses: torch's fused LSTM has the plain" in said
    assert said.count("chosen") == 1


def test_warns_as_torch_does_where_dropout_does_nothing():
    with pytest.warns(UserWarning, match="num_layers is 1: it does nothing"):
        LSTM(4, 6, dropout=0.5)


COMPILED = """
import torch, longshort
from longshort import LSTM, Cell
class Tagger(torch.nn.Module):
    def __init__(self, cell, **kw):
        super().__init__()
        self.lstm, self.out = LSTM(4, 6, 2, cell=cell, **kw), torch.nn.Linear(6 * (1 + kw.get("bidirectional", False)), 3)
    def forward(self, x, lengths=None):
        return self.out(self.lstm(x, lengths=lengths)[0])
for cell, kw in ((Cell(), {}), (Cell(layer_norm=True, peephole=True, projection=6), {"dilation": 2}), (Cell(), {"bidirectional": True})):
    m, x, lengths = Tagger(cell, **kw), torch.randn(5, 3, 4), torch.tensor([5, 2, 3])
    for args in ((x,), (x, lengths)):
        torch._dynamo.reset()
        fast = torch.compile(m, fullgraph=True, backend="aot_eager")
        for p in m.parameters(): p.grad = None
        want = m(*args); want.sum().backward()
        grads = [p.grad.clone() for p in m.parameters()]
        for p in m.parameters(): p.grad = None
        got = fast(*args); got.sum().backward()
        torch.testing.assert_close(got, want)
        torch.testing.assert_close([p.grad for p in m.parameters()], grads)
        frozen = torch.export.export(m.eval(), args).module()
        torch.testing.assert_close(frozen(*args), m(*args))
        m.train()
print("one graph")
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False])
def test_a_compiled_graph_refuses_lengths_that_do_not_fit(grad):
    m, x = LSTM(3, 4), torch.randn(5, 2, 3)
    fast = torch.compile(m, backend="aot_eager")
    with torch.set_grad_enabled(grad):
        fast(x, lengths=torch.tensor([5, 0]))
        for n in (6, -1):
            with pytest.raises(ValueError, match=rf"lengths must lie in 0..T = 0..5, got {n}\."):
                fast(x, lengths=torch.tensor([2, n]))


def test_compile_and_export_in_one_graph():
    """In a fresh process, as a user has it: without the type checks of this suite."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.stdout == "one graph\n", done.stderr[-3000:]


@pytest.mark.parametrize("count", [1, 3])
def test_a_state_is_a_pair(count):
    with pytest.raises(ValueError, match="argument 2 is"):
        LSTM(3, 4)(torch.zeros(2, 1, 3), (torch.zeros(1, 1, 4),) * count)


@pytest.mark.parametrize("engine", ENGINES)
def test_lengths_may_be_a_slice(engine):
    m, x, table = LSTM(4, 6, engine=engine), torch.randn(7, 3, 4), torch.tensor([[7, 0], [3, 1], [5, 2]])
    same(out(m(x, lengths=[7, 3, 5])), out(m(x, lengths=table[:, 0])))
    with torch.no_grad():
        same(out(m(x, lengths=[7, 3, 5])), out(m(x, lengths=table[:, 0])))
        same(out(m(x, lengths=[4, 4, 4])), out(m(x, lengths=torch.tensor([4]).expand(3))))


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize("grad", [True, False])
def test_all_tensors_are_on_one_device(engine, grad):
    m, x = LSTM(4, 6, engine=engine), torch.randn(7, 3, 4)
    far, resets = torch.zeros(1, 3, 6, device="meta"), torch.zeros(7, 3, dtype=torch.bool, device="meta")
    with torch.set_grad_enabled(grad):
        with pytest.raises(ValueError, match=r"weight_ih is on meta, but the input on cpu. Move one: input.to\('meta'\)."):
            LSTM(4, 6, engine=engine, device="meta")(x)
        with pytest.raises(ValueError, match="h is on meta, but the input on cpu"):
            m(x, (far, far))
        if engine != "vendor":
            with pytest.raises(ValueError, match="resets is on meta, but the input on cpu"):
                m(x, resets=resets)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_default_device_changes_nothing(engine):
    m, x = LSTM(4, 6, 2, engine=engine, dropout=0.5), torch.randn(70, 30, 4)
    ragged = pack_padded_sequence(x, torch.arange(41, 71).flip(0))

    def all_of_it():
        torch.manual_seed(0)
        m.zero_grad()
        y, state = m(x)
        y.sum().backward()
        with torch.no_grad():
            return [y, *state, m.weight_ih_l0.grad.clone(), m(x)[0], m(ragged)[0].data, m.stream(30).step(x[0]).clone()]

    here = all_of_it()
    with torch.device("meta"):
        there = all_of_it()
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True)], ids=repr)
@pytest.mark.parametrize("tape", [True, False])
def test_backward_frees_what_it_needed(cell, tape):
    T, B, H = 50, 8, 64
    m, x, kept = LSTM(4, H, cell=cell), torch.randn(T, B, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda v: kept.append(v.shape) or v, lambda v: v):
        y, *_ = m(x, tape=tape)
    assert (T, B, H) in kept, "cells"
    assert cell.layer_norm or (T, B, 4 * H) in kept, "gates"
    y.sum().backward()
    with pytest.raises(RuntimeError, match="after they have already been freed"):
        y.sum().backward()
    whole = [v.grad.clone() for v in m.parameters()]
    m.zero_grad()
    torch.utils.checkpoint.checkpoint(m, x, use_reentrant=False)[0].sum().backward()
    assert all(torch.equal(a, v.grad) for a, v in zip(whole, m.parameters(), strict=True))


def test_a_packed_batch_fits_its_state_and_its_sizes():
    m, x = LSTM(4, 6), torch.randn(7, 3, 4)
    packed = pack_padded_sequence(x, [3, 7, 5], enforce_sorted=False)
    for B in (2, 4):
        with pytest.raises(ValueError, match=rf"state h must be \[L\*D, B, P\] = \[1, 3, 6\], got \[1, {B}, 6\]"):
            m(packed, (torch.zeros(1, B, 6), torch.zeros(1, B, 6)))
    data, sizes = packed.data, packed.batch_sizes
    for wrong in (
        sizes.int(),
        sizes.flip(0),
        sizes - 1,
        torch.cat([sizes, sizes[:1]]),
        torch.cat([sizes + 1, sizes.new_tensor([-7])]),
    ):
        with pytest.raises(
            ValueError, match="batch_sizes of a PackedSequence must be int64, never rise and add up to its 15 rows"
        ):
            m(torch.nn.utils.rnn.PackedSequence(data, wrong))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_forward_derivatives(engine):
    m, x, v = (
        LSTM(4, 6, engine=engine, dtype=torch.float64).requires_grad_(False),
        torch.randn(7, 3, 4).double(),
        torch.randn(7, 3, 4).double(),
    )
    with torch.autograd.forward_ad.dual_level():
        made = torch.autograd.forward_ad.unpack_dual(m(torch.autograd.forward_ad.make_dual(x, v))[0]).tangent
    e = 1e-6
    same({"y": (m(x + e * v)[0] - m(x - e * v)[0]) / (2 * e)}, {"y": made}, atol=1e-8)
    with pytest.raises(ValueError, match="or differentiated in forward mode"), torch.autograd.forward_ad.dual_level():
        LSTM(4, 6, engine="cpu")(torch.randn(7, 3, 4))


def test_explain_tells_of_the_engine_that_was_asked_for():
    x = torch.randn(7, 3, 4)
    assert "reference: chosen" in LSTM(4, 6, engine="reference").explain(x)
    assert "cpu: could run it, but was not asked for" in LSTM(4, 6, engine="reference").explain(x)
    assert "cpu: chosen" in LSTM(4, 6).explain(x)
    with pytest.raises(ValueError, match="engine 'vendor' was asked for but refuses"):
        LSTM(4, 6, engine="vendor", cell=Cell(peephole=True)).explain(x)


def test_explain_takes_what_a_call_takes():
    x, vendor = torch.randn(7, 3, 4), LSTM(4, 6, engine="vendor")
    for how in ({"resets": torch.zeros(7, 3, dtype=torch.bool)}, {"tape": True}):
        with pytest.raises(ValueError, match="engine 'vendor' was asked for but refuses"):
            vendor.explain(x, **how)
        assert "cpu: chosen" in LSTM(4, 6).explain(x, **how)
    assert "cpu: chosen" in LSTM(4, 6, batch_first=True).explain(x.transpose(0, 1), resets=torch.zeros(3, 7, dtype=torch.bool))
    packed = pack_padded_sequence(x, torch.tensor([7, 4, 2]))
    for lstm in (LSTM(4, 6), LSTM(4, 6, dilation=2), LSTM(4, 6, engine="reference")):
        assert ": chosen" in lstm.explain(packed)
    assert "cpu: chosen" in LSTM(4, 6, dilation=2).explain(x, lengths=[7, 4, 2], resets=torch.zeros(7, 3, dtype=torch.bool))


def test_an_exported_model_has_gradients_even_if_none_were_wanted():
    """In a process of its own: what is read where nothing was kept ends it."""
    program = """
import torch
from longshort import LSTM
x = torch.randn(5, 3, 4)
for frozen in (False, True):
    m = LSTM(4, 6).requires_grad_(not frozen)
    with torch.set_grad_enabled(frozen):
        made = torch.export.export(m, (x,)).module()
    grads = []
    for f in (m, made):
        leaf = x.clone().requires_grad_()
        f(leaf)[0].square().sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "the same\n", done.stderr[-3000:]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("name", "shape"), [("weight_hh_l0", (24, 3)), ("bias_ih_l0", (1,)), ("weight_ih_l0", (24, 5)), ("weight_hh_l0", (12, 6))]
)
def test_weights_of_other_sizes_are_refused(name, shape, grad):
    m = LSTM(4, 6, engine="cpu")
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=r"must be"):
        torch.func.functional_call(m, {name: torch.zeros(shape)}, (torch.randn(5, 3, 4),))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_trace_holds_the_lstm(layers, grad):
    m, x, other = LSTM(4, 6, layers), torch.randn(5, 3, 4), torch.randn(9, 3, 4)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(m, x)
        same(out(m(other)), out(traced(other)), atol=1e-6)


def test_second_derivatives_of_an_exported_model():
    m, x = LSTM(4, 6, dtype=torch.float64), torch.randn(5, 3, 4).double()
    made = []
    for f in (m, torch.export.export(m, (x,)).module()):
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf)[0].square().sum(), leaf, create_graph=True)
        g.square().sum().backward()
        made.append(leaf.grad)
    same({"x": made[0]}, {"x": made[1]})


def test_a_recording_under_a_dispatch_mode_shows_the_flow():
    m, x = LSTM(4, 6), torch.randn(5, 3, 4)
    kept = []
    for mode in (nullcontext(), FlopCounterMode(display=False)):
        with mode, probe.record(m) as r:
            m(x)[0].sum().backward()
        kept.append(r["l0"].dc)
    same({"dc": kept[0]}, {"dc": kept[1]}, atol=1e-5)


def test_lengths_under_vmap_and_a_default_device():
    m, x, n = LSTM(4, 6), torch.randn(2, 5, 3, 4), torch.tensor([[5, 2, 0], [1, 3, 4]])
    made = torch.func.vmap(lambda v, k: m(v, lengths=k)[0])(x, n)
    same({"y": torch.stack([m(v, lengths=k)[0] for v, k in zip(x, n, strict=True)])}, {"y": made}, atol=1e-6)
    with torch.device("meta"):
        there = m(x[0], lengths=n[0])[0], m(x[0], lengths=[5, 2, 0])[0]
    assert all(torch.equal(v, m(x[0], lengths=n[0])[0]) for v in there)


def test_recomputed_gradients_are_added_in_float32():
    torch.manual_seed(0)
    a, x = LSTM(4, 6), torch.randn(3600, 2, 4)
    b = copy.deepcopy(a)
    b.tape = "recompute"
    for m in (a, b):
        with torch.autocast("cpu", torch.bfloat16):
            m(x)[0].float().sum().backward()
    for v, w in zip(a.parameters(), b.parameters(), strict=True):
        assert (v.grad - w.grad).norm() <= 6e-3 * v.grad.norm()
