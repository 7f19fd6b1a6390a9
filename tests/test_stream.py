"""A stream, step by step, gives what the LSTM gives on the whole sequence; its state can be read, set and reset."""

import pytest
import torch
import torch.nn.utils.prune

from laws import VARIANTS, same
from longshort import LSTM, Cell
from longshort.engine import engines

KW = [{}, {"dilation": (1, 3)}]


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("kw", KW, ids=str)
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_step_by_step_is_the_whole(cell, kw, engine):
    m = LSTM(4, 6, 2, cell=cell, dtype=torch.float64, engine=engine, **kw).eval()
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    s, (y, (h, c)) = m.stream(batch=3), m(x)
    got = torch.stack([s.step(v).clone() for v in x])
    same({"y": y, "h": h, "c": c}, {"y": got, "h": s.state[0], "c": s.state[1]})


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_step_may_be_a_slice(engine):
    m, x = LSTM(4, 6, engine=engine), torch.randn(3, 50, 4)
    with torch.no_grad():
        whole = m(x.transpose(0, 1))[0]
    s = m.stream(3)
    for t in range(50):
        same({"y": whole[t]}, {"y": s.step(x[:, t])})


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_a_stream_belongs_to_no_graph_and_no_mode(engine):
    m, x = LSTM(4, 6, engine=engine), torch.randn(7, 3, 4)
    with torch.inference_mode():
        s = m.stream(3)
        s.step(x[0])
    s.reset((0, 2))
    assert [bool(v.any()) for v in s.state[0][0]] == [False, True, False]
    _, hx = m(x)
    s.state = hx
    assert not s.state[0].requires_grad
    with torch.no_grad():
        same({"y": m(x[:1], hx)[0][0]}, {"y": s.step(x[0])})


def test_all_weights_are_here_and_fit():
    m = LSTM(4, 6, 2)
    m.bias_hh_l1 = torch.nn.Parameter(m.bias_hh_l1.detach().to("meta"))
    with pytest.raises(ValueError, match="engine 'cpu' cannot stream: bias_hh of layer 1 is on meta"):
        m.stream()
    m = LSTM(4, 6, 2)
    m.weight_ih_l1 = torch.nn.Parameter(torch.zeros(24, 7))
    with pytest.raises(ValueError, match=r"weight_ih of layer 1 must be \[\*, 6\], got \[24, 7\]"):
        m.stream()


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("wrap", [lambda m: torch.nn.utils.prune.l1_unstructured(m, "weight_hh_l0", 0.5),
                                  lambda m: torch.nn.utils.weight_norm(m, "weight_hh_l0")], ids=["prune", "norm"])  # fmt: skip
def test_weights_that_hooks_make_are_those_of_now(engine, wrap):
    a, b, x = LSTM(4, 6, engine=engine), LSTM(4, 6, engine=engine), torch.randn(4, 3, 4)
    wrap(a), wrap(b)
    a(x), b(x)  # leaves a weight with a graph
    b.load_state_dict(a.state_dict())  # and now a stale one
    s = b.stream(3)
    with torch.no_grad():
        same({"y": a(x)[0]}, {"y": torch.stack([s.step(v).clone() for v in x])}, atol=1e-6)


def test_weights_may_be_parametrised():
    m, x = torch.nn.utils.parametrizations.weight_norm(LSTM(4, 6), "weight_ih_l0"), torch.randn(1, 3, 4)
    with torch.no_grad():
        same({"y": m(x)[0][0]}, {"y": m.stream(3).step(x[0])})


@pytest.mark.parametrize("kw", KW, ids=str)
def test_reset_and_state(kw):
    m = LSTM(4, 6, 2, dtype=torch.float64, **kw)
    x = torch.randn(7, 3, 4, dtype=torch.float64)
    s = m.stream(3)
    first = [s.step(v).clone() for v in x]
    kept = s.state
    s.reset([1])
    y = s.step(x[0]).clone()
    same({"y": y[1]}, {"y": first[0][1]})
    assert not torch.equal(y[0], first[0][0])
    after = s.state
    s.state = kept
    same({"h": s.state[0], "c": s.state[1]}, {"h": kept[0], "c": kept[1]}, atol=0)
    same({"y": s.step(x[0])[[0, 2]]}, {"y": y[[0, 2]]})
    s.reset()
    same({"y": s.step(x[0])}, {"y": first[0]})
    s.reset(torch.tensor([True, False, True]))
    assert [bool(s.state[0][:, b].any()) for b in range(3)] == [False, True, False]
    with pytest.raises(ValueError, match=r"state h must be .*, got \[1, 3, 6\]"):
        s.state = (after[0][:1], after[1])


def test_bfloat16_keeps_its_cell_exact():
    m = LSTM(4, 6, dtype=torch.bfloat16)
    x = torch.randn(7, 2, 4).to(torch.bfloat16)
    s = m.stream(2)
    got = torch.stack([s.step(v).clone() for v in x])
    zero = torch.zeros(1, 2, 6)
    y, (_, c) = m(x, (zero.to(torch.bfloat16), zero))
    assert s.state[1].dtype == torch.float32
    same({"y": y, "c": c}, {"y": got, "c": s.state[1]}, atol=0)


def test_weights_are_those_of_its_making_and_training_mode_does_not_matter():
    m, x = LSTM(4, 6, cell=Cell(drop_h=0.5, zoneout=(0.2, 0.2)), weight_drop=0.5), torch.randn(1, 2, 4)
    want, s = m.eval()(x)[0], m.train().stream(2)
    m.weight_hh_l0.data.zero_()
    m.weight_ih_l0.data.zero_()
    torch.testing.assert_close(s.step(x[0]), want[0])
    assert not s.step(x[0]).requires_grad


@pytest.mark.parametrize("engine", engines())
def test_a_named_engine_is_obeyed(engine):
    if engine == "cpu":
        assert LSTM(4, 6, engine=engine).stream()._native is not None
        with pytest.raises(ValueError, match=r"engine 'cpu' was asked for but refuses: .*a dilated layer has several"):
            LSTM(4, 6, dilation=2, engine=engine).stream()
    else:
        assert LSTM(4, 6, engine=engine).stream()._native is None


def test_bad_use():
    with pytest.raises(ValueError, match=r"cannot stream\. Take bidirectional=False"):
        LSTM(4, 6, bidirectional=True).stream()
    with pytest.raises(ValueError, match="batch must be a whole number of streams, at least 1, got 0"):
        LSTM(4, 6).stream(0)
    for kw in KW:
        s = LSTM(4, 6, 2, **kw).stream(2)
        with pytest.raises(ValueError, match=r"x must be .*\[2, 4\].*, got \[2, 3\]"):
            s.step(torch.zeros(2, 3))
