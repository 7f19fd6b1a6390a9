"""A linear layer whose rows do not see each other: bits for the promise, float64 for the numbers, torch for everything else."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import linear as torchs

from longshort.engine import cpu, fast_bf16, linear
from longshort.engine.product import _kept

SIZES = [(1, 1), (17, 3), (64, 63), (100, 512), (330, 100), (512, 1100)]  # N, K


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What is not written is NaN. Afterwards there are as many threads as before."""
    native, before = cpu.native, torch.get_num_threads()
    monkeypatch.setattr(cpu, "_empty", lambda *shape, dtype, **_: torch.full(shape, torch.nan, dtype=dtype))
    native.poison(True)
    yield
    torch.set_num_threads(before)
    native.poison(False)


def layer(N: int, K: int, M: int = 70) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(M, K), torch.randn(N, K) / K**0.5, torch.randn(N)


@pytest.mark.parametrize(("N", "K"), SIZES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_is_bit_by_bit_the_same_in_any_company(N, K, bias):
    x, w, b = layer(N, K)
    b = b if bias else None
    torch.set_num_threads(1)
    alone = torch.cat([linear(x[m : m + 1], w, b) for m in range(len(x))])
    assert alone.isfinite().all()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for M in range(1, 71):
            at = int(torch.randint(0, 71 - M, ()))
            assert torch.equal(linear(x[at : at + M], w, b), alone[at : at + M])
        order = torch.randperm(70)
        assert torch.equal(linear(x[order], w, b), alone[order])


def test_large_ones_are_cut_among_threads_without_a_trace():
    x, w, b = layer(1500, 300, 200)
    torch.set_num_threads(2)
    both = linear(x, w, b)
    torch.set_num_threads(1)
    assert torch.equal(both, linear(x, w, b))
    assert torch.equal(both[7:8], linear(x[7:8], w, b))


@pytest.mark.parametrize(("N", "K"), SIZES)
def test_errors_are_within_twice_those_of_torch_and_one_rounding(N, K):
    x, w, b = layer(N, K)
    exact = torchs(x.double(), w.double(), b.double())
    mine, theirs = ((f(x, w, b).double() - exact).square().mean().sqrt() for f in (linear, torchs))
    assert mine <= 2 * theirs + torch.finfo(torch.float32).eps * exact.square().mean().sqrt()


def test_long_sums_are_made_of_shorter_ones():
    x, w, b = torch.ones(3, 100_000), torch.full((5, 100_000), 0.1), torch.zeros(5)
    exact = torchs(x.double(), w.double())
    assert (linear(x, w, b) / exact - 1).abs().max() < 3e-5  # one after another they drift by 1e-4


def test_any_shape_and_stride_will_do():
    x, w, b = torch.randn(4, 5, 9, 30), torch.randn(30, 20).T, torch.randn(60)[::3]
    x, want = x[..., ::2][:, :, 1:, ::1], torchs(x[:, :, 1:, ::2], w[:, :15], b)
    assert torch.allclose(linear(x, w[:, :15], b), want, atol=1e-5)
    assert torch.allclose(linear(x[0, 0, 0], w[:, :15], b), want[0, 0, 0], atol=1e-5)
    assert torch.allclose(linear(x.transpose(0, 1), w[:, :15], b), want.transpose(0, 1), atol=1e-5)
    assert torch.equal(linear(torch.empty(0, 7), torch.ones(3, 7)), torch.empty(0, 3))
    assert torch.equal(linear(torch.empty(2, 0), torch.ones(3, 0), torch.ones(3)), torch.ones(2, 3))


def test_a_nan_in_a_row_stays_in_that_row():
    x, w, b = layer(100, 63)
    want = linear(x, w, b)
    x[11, 5] = torch.nan
    y = linear(x, w, b)
    assert y[11].isnan().all()
    keep = torch.arange(70) != 11
    assert torch.equal(y[keep], want[keep])


def test_where_gradients_are_wanted_it_is_torchs():
    x, w, b = (v.requires_grad_() for v in layer(20, 30))
    y = linear(x, w, b)
    assert torch.equal(y, torchs(x, w, b))
    grads = torch.autograd.grad(y.square().sum(), (x, w, b))
    for mine, theirs in zip(grads, torch.autograd.grad(torchs(x, w, b).square().sum(), (x, w, b)), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert not linear(x, w, b).requires_grad
        assert torch.equal(linear(x, w, b)[:1], linear(x[:1], w, b))


@pytest.mark.parametrize("way", ["sgd", "adam", "foreach", "fused", "load", "copy", "swap", "assign"])
def test_a_weight_that_changes_is_packed_anew(way):
    x, w, _ = layer(20, 30)
    net = torch.nn.Linear(30, 20, bias=False)
    other = copy.deepcopy(net.state_dict())
    net.weight.data = w.clone()

    def now() -> torch.Tensor:
        with torch.no_grad():
            return linear(x, net.weight)

    before = now()
    for _ in range(3):  # memory that is set free is used again
        if way == "load":
            net.load_state_dict({"weight": torch.randn(20, 30)})
        elif way == "assign":
            net.load_state_dict({"weight": torch.randn(20, 30)}, assign=True)
        elif way == "copy":
            with torch.no_grad():
                net.weight.copy_(other["weight"] + torch.randn(()))
        elif way == "swap":
            net.weight.data = torch.randn(20, 30)
        else:
            make = {"sgd": torch.optim.SGD}.get(way, torch.optim.AdamW)
            how = {} if way in ("sgd", "adam") else {way: True}
            step = make(net.parameters(), lr=0.1, **how)
            torchs(x, net.weight).square().sum().backward()
            step.step()
        after = now()
        assert torch.allclose(after, torchs(x, net.weight.detach()), atol=1e-5)
        assert not torch.allclose(before, after, atol=1e-3)
        before = after


def test_a_weight_is_packed_once_and_forgotten_when_it_is_gone(monkeypatch):
    packed = []

    class Counted:
        def __init__(self, *args):
            self.native = real(*args)
            self.run = self.native.run
            packed.append(args)

    real = cpu.native.Linear
    monkeypatch.setattr(cpu, "native", SimpleNamespace(Linear=Counted))
    x, w, b = layer(20, 30)
    for M in (1, 5, 70):
        linear(x[:M], w, b)
    assert len(packed) == 1
    assert id(w) in _kept
    key = id(w)
    del w
    gc.collect()
    assert key not in _kept
    with torch.inference_mode():  # nobody counts changes there
        w = torch.randn(20, 30)
        for k in (1, 2):
            w *= k
            assert torch.allclose(linear(x, w, b), torchs(x, w, b), atol=1e-5)


def test_other_types_and_ways_are_torchs(monkeypatch):
    x, w, b = layer(20, 30)
    for kind in (torch.float64, torch.bfloat16):
        assert torch.equal(linear(x.to(kind), w.to(kind), b.to(kind)), torchs(x.to(kind), w.to(kind), b.to(kind)))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w, b).dtype == torch.bfloat16
    mapped = torch.func.vmap(lambda one: linear(one, w, b))(x)
    assert torch.allclose(mapped, torchs(x, w, b), atol=1e-5)
    meta = linear(x.to("meta"), w.to("meta"))
    assert (meta.shape, meta.device.type) == ((70, 20), "meta")
    monkeypatch.setattr(cpu, "native", None)
    assert torch.equal(linear(x, w, b), torchs(x, w, b))


def test_shapes_that_do_not_belong_together_are_refused():
    x, w, b = layer(20, 30)
    for bad in ((x, w.T, b), (x, w, b[:-1]), (x, w[0]), (torch.tensor(1.0), w)):
        with pytest.raises(ValueError, match=r"weight \[N, K\]"):
            linear(*bad)


@pytest.mark.parametrize("name", cpu.native.instruction_sets())
def test_each_instruction_set_keeps_the_promise(name):
    code = (
        f"import torch\nfrom longshort.engine import cpu, linear\nassert cpu.native.isa() == '{name}'\n"
        "x, w, b = torch.randn(40, 63), torch.randn(130, 63), torch.randn(130)\n"
        "y = linear(x, w, b)\n"
        "assert torch.allclose(y, torch.nn.functional.linear(x, w, b), atol=1e-4)\n"
        "assert all(torch.equal(linear(x[k : k + n], w, b), y[k : k + n]) for n in (1, 2, 3, 7, 20) for k in (0, 5, 20))\n"
    )
    env = os.environ | {"LONGSHORT_CPU": name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fast_bf16_is_what_the_processor_says() -> None:
    has = torch.cpu.get_capabilities()
    assert fast_bf16(torch.device("cpu")) == bool(has.get("avx512_bf16"))


def test_a_weight_that_is_cut_or_turned_is_packed_anew():
    w, x = torch.nn.Parameter(torch.randn(64, 64)), torch.randn(5, 64)
    with torch.no_grad():
        linear(x, w)
        for cut in (lambda v: v.T, lambda v: v[:10], lambda v: v[:, :32]):
            w.data = cut(w.data)
            torch.testing.assert_close(linear(x[:, : w.shape[1]], w), x[:, : w.shape[1]] @ w.T)
