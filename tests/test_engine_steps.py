"""Layers that were looked at once: the numbers of the layers themselves, and rows that do not see each other, bit by bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from laws import VARIANTS
from longshort import LSTM
from longshort.engine import cpu, linear
from longshort.engine.product import able
from longshort.engine.steps import LinearStep, LSTMStep, attend

SIZES = [(1, 1, 1), (1, 4, 3), (3, 17, 16), (4, 5, 64), (2, 130, 33)]  # N, S, W


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What is not written is NaN. Afterwards there are as many threads as before."""
    native, before = cpu.native, torch.get_num_threads()
    monkeypatch.setattr(cpu, "_empty", lambda *shape, dtype, **_: torch.full(shape, torch.nan, dtype=dtype))
    native.poison(True)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)
    native.poison(False)


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("size", [(4, 6), (33, 70), (300, 256)])
def test_a_step_of_an_lstm_is_the_lstms(cell, size):
    m = LSTM(*size, cell=cell).eval()
    x, h, c = torch.randn(9, size[0]), torch.randn(9, m.proj_size or size[1]), torch.randn(9, size[1])
    step = LSTMStep(m.cell, m.layer_params("_l0"))
    got, (_, (want_h, want_c)) = step(x, h, c), m(x[None], (h[None], c[None]))
    assert torch.equal(got[0], want_h[0])
    assert torch.equal(got[1], want_c[0])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        again = LSTMStep(m.cell, m.layer_params("_l0"))
        for rows in (slice(0, 1), slice(5, 9), slice(0, 9)):
            for one in (step, again):
                some = one(x[rows], h[rows], c[rows])
                assert all(torch.equal(a, b[rows]) for a, b in zip(some, got, strict=True))
    m.weight_hh_l0 *= 2  # what nobody should do: it is not looked at again
    assert torch.equal(step(x, h, c)[0], got[0])


@pytest.mark.parametrize("bias", [True, False])
def test_a_step_of_a_linear_layer_is_linear(bias):
    x, w, b = torch.randn(9, 33), torch.randn(70, 33), torch.randn(140)[::2] if bias else None
    assert torch.equal(LinearStep(w, b)(x), linear(x, w, b))
    assert LinearStep(w, b)(x[:0]).shape == (0, 70)


def exact(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = query.double().unflatten(1, (keys.shape[1], -1)), keys.double(), values.double()
    p = torch.einsum("rnw,rnsw->rns", q, k).div(math.sqrt(q.shape[-1])).softmax(-1)
    return torch.einsum("rns,rnsw->rnw", p, v).flatten(1), p.mean(1)


@pytest.mark.parametrize(("N", "S", "W"), SIZES)
@pytest.mark.parametrize("large", [1.0, 30.0])
def test_attention_reads_what_the_formula_says(N, S, W, large):
    query, keys, values = torch.randn(7, N * W) * large, torch.randn(7, N, S, W), torch.randn(7, N, S, W)
    for got, want in zip(attend(query, keys, values), exact(query, keys, values), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5 * large, atol=1e-5)
    turned = [v.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3) for v in (keys, values)]
    wide = [torch.cat([v, v], 1)[:, N:] for v in (keys, values)]
    for others in (turned, wide):
        assert all(map(torch.equal, attend(query, *others), attend(query, keys, values)))


@pytest.mark.parametrize(("N", "S", "W"), SIZES)
def test_what_a_row_reads_is_the_same_in_any_company(N, S, W):
    R = 70
    query, keys, values = torch.randn(R, N * W), torch.randn(R, N, S, W), torch.randn(R, N, S, W)
    torch.set_num_threads(1)
    want = attend(query, keys, values)
    for count in (1, 2, 33, R):
        order = torch.randperm(R)[:count]
        got = attend(query[order], keys[order], values[order])
        assert all(torch.equal(a, b[order]) for a, b in zip(got, want, strict=True))
    assert [v.shape for v in attend(query[:0], keys[:0], values[:0])] == [(0, N * W), (0, S)]


def test_work_for_several_threads_is_cut_without_a_trace():
    query, keys, values = torch.randn(80, 256), torch.randn(80, 4, 100, 64), torch.randn(80, 4, 100, 64)
    torch.set_num_threads(2)
    both = attend(query, keys, values)
    torch.set_num_threads(1)
    assert all(map(torch.equal, both, attend(query, keys, values)))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_is_seen_and_stays_in_its_row(bad):
    query, keys, values = torch.randn(3, 8), torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)
    want = attend(query, keys, values)[0]
    query[1, 0], keys[1, 0, :, 0] = bad, 1
    got = attend(query, keys, values)[0]
    assert got[1, :4].isnan().all()
    assert torch.equal(got[[0, 2]], want[[0, 2]])


def test_who_is_able():
    x = torch.randn(3)
    w = torch.nn.Parameter(x)
    assert able(x, w)
    assert not able(x, x.double())
    assert not able(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not able(x)
    with torch.enable_grad():
        assert able(x)
        assert not able(x, w)


@pytest.mark.parametrize("name", cpu.native.instruction_sets())
def test_each_instruction_set_keeps_the_promise(name):
    code = (
        f"import torch\nfrom longshort.engine import cpu\nfrom longshort.engine.steps import attend\nassert cpu.native.isa() == '{name}'\n"
        "from test_engine_steps import exact\n"
        "q, k, v = torch.randn(20, 4 * 33), torch.randn(20, 4, 19, 33), torch.randn(20, 4, 19, 33)\n"
        "y = attend(q, k, v)\n"
        "assert all(torch.allclose(a.double(), b, atol=1e-5) for a, b in zip(y, exact(q, k, v)))\n"
        "assert all(torch.equal(a[i:i + n], b) for n in (1, 3, 7) for i in (0, 5) for a, b in\n"
        "           zip(y, attend(q[i:i + n], k[i:i + n], v[i:i + n])))\n"
    )
    env = os.environ | {"LONGSHORT_CPU": name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=os.path.dirname(__file__))
    assert done.returncode == 0, done.stderr
