"""The instrument: what is recorded is what ran, recording changes no bit, and the measures find what was built in."""

import copy
import math
import statistics
import time

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from laws import VARIANTS
from longshort import LSTM, Cell, probe

D = torch.float64


def made(cell=None, engine="auto", **how):
    torch.manual_seed(1)
    how = {"num_layers": 2, "bidirectional": True, "dilation": (1, 3), "dtype": D} | how
    return LSTM(3, 5, cell=cell, engine=engine, **how)


def constant(cell=None, H=4, bias=None, **how):
    """An LSTM whose weights are 0 and whose gates are therefore constant: the activations of these biases."""
    m = LSTM(2, H, cell=cell, **how)
    with torch.no_grad():
        for name, v in m.named_parameters():
            v.zero_()
            if name == "bias_ih_l0":
                for k, value in (bias or {}).items():
                    v.unflatten(0, (-1, H))[m.cell.gates.index(k)] = torch.as_tensor(value, dtype=v.dtype)
    return m


def run(m, x, **how):
    with probe.record(m, **how) as r:
        y, _ = m(x)
        if how.get("gradients", True):
            probe.at_step(y).backward()
    return r


# ---- what is recorded is what ran ----


@pytest.mark.parametrize("cell", VARIANTS, ids=repr)
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_traces_are_the_tapes(cell, engine):
    m, x, lengths = made(cell, engine), torch.randn(7, 4, 3, dtype=D), torch.tensor([7, 3, 0, 5])
    torch.manual_seed(2)
    y, _, tapes = m(x, lengths=lengths, tape=True)
    torch.manual_seed(2)
    with probe.record(m) as r:
        m(x, lengths=lengths)
    assert list(r.traces) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    for t, tape in zip(r, tapes, strict=True):
        for k in "ifgo":
            torch.testing.assert_close(getattr(t, k), tape.gate(k).float(), rtol=0, atol=1e-7 * (k == "i" and cell.coupled))
        assert torch.equal(t.c, tape.cells.float())
        assert t.f.dtype == torch.float32
        assert torch.equal(t.lengths, lengths)
        assert torch.equal(t.mask, torch.arange(7)[:, None] < lengths)
        assert torch.equal(t.steps, torch.arange(7))
    assert torch.equal(torch.cat([r["l1"].h, r["l1_reverse"].h], -1), y.float())
    assert [(t.layer, t.reverse, t.dilation, t.cell) for t in r] == [
        (0, False, 1, m.cell),
        (0, True, 1, m.cell),
        (1, False, 3, m.cell),
        (1, True, 3, m.cell),
    ]


@pytest.mark.parametrize("dilation", [1, (1, 2)])
def test_packed_and_batch_first_are_the_same(dilation):
    """A batch is recorded the same in whatever form it comes: padded, batch first, packed and unsorted."""
    m, x, lengths = made(dilation=dilation), torch.randn(7, 4, 3, dtype=D), torch.tensor([2, 7, 1, 5])
    recordings = []
    for form in ("padded", "batch_first", "packed", "packed for the reference"):
        m.batch_first, m.engine = form == "batch_first", "reference" if "reference" in form else "auto"
        v = x.transpose(0, 1) if m.batch_first else x
        with probe.record(m) as r:
            if "packed" in form:
                y = m(pack_padded_sequence(v, lengths, enforce_sorted=False))[0].data
            else:
                y = m(v, lengths=lengths)[0]
            (y**2).sum().backward()
        recordings.append(r)
    first = recordings[0]
    for other in recordings[1:]:
        for a, b in zip(first, other, strict=True):
            for k in ("i", "f", "g", "o", "c", "h", "dh", "dc"):
                torch.testing.assert_close(getattr(a, k), getattr(b, k))
            assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("d", [1, 3])
def test_gradients_lie_where_the_steps_are(reverse, d):
    """The gradient of one output is at its step and every d steps before it, in the layer's own direction, and nowhere else."""
    m = made(num_layers=1, dilation=d)
    with probe.record(m) as r:
        y, _ = m(torch.randn(11, 2, 3, dtype=D))
        y[5, :, 5 * reverse : 5 * reverse + 5].sum().backward()
    t = r["l0_reverse" if reverse else "l0"]
    steps = range(5, 11, d) if reverse else range(5, -1, -d)
    there = torch.tensor([k in steps for k in range(11)])
    assert torch.equal(t.dh > 0, there[:, None].expand(11, 2))
    assert torch.equal(t.dc > 0, there[:, None].expand(11, 2))
    other = r["l0" if reverse else "l0_reverse"]
    assert not other.dc.any()


@pytest.mark.parametrize("form", ["plain", "recompute", "reference", "noisy", "packed", "bfloat16", "dilated", "inference"])
def test_recording_changes_no_bit(form):
    how = {"engine": "reference" if form == "reference" else "auto", "tape": "recompute" if form == "recompute" else "keep"}
    cell = Cell(zoneout=(0.2, 0.2), drop_g=0.2) if form == "noisy" else None
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    m = LSTM(3, 37, 2, bidirectional=True, cell=cell, dtype=dtype, dilation=2 if form == "dilated" else 1, **how)
    x, got = torch.randn(30, 5, 3, dtype=dtype), []
    for on in (False, True):
        torch.manual_seed(3)
        m.zero_grad()
        with probe.record(m, keep="ifo") if on else torch.enable_grad() as r:
            if form == "inference":
                with torch.no_grad():
                    got.append(m(x))
            else:
                data = pack_padded_sequence(x, torch.tensor([9, 30, 2, 30, 1]), enforce_sorted=False) if form == "packed" else x
                y, _ = m(data)
                ((y.data if form == "packed" else y) ** 2).sum().backward()
                got.append((y.data if form == "packed" else y.detach(), *(p.grad.clone() for p in m.parameters())))
        if on and form != "inference":
            assert all(t.flows for t in r)
    for a, b in zip(*got, strict=True):
        assert all(map(torch.equal, a, b)) if isinstance(a, tuple) else torch.equal(a, b)
    assert all(v.observer is None for v in m.modules() if isinstance(v, LSTM))


# ---- what is kept ----


def test_choosing():
    m, x = made(num_layers=1, dilation=1, bidirectional=False), torch.randn(9, 2, 3, dtype=D)
    whole, part = run(m, x), run(m, x, units=[4, 1], steps=slice(1, 9, 3))
    a, b = whole["l0"], part["l0"]
    for k in "ifgoch":
        assert torch.equal(getattr(b, k), getattr(a, k)[1::3][..., [4, 1]])
    assert torch.equal(b.dh, a.dh[1::3])
    assert torch.equal(b.steps, torch.tensor([1, 4, 7]))
    assert torch.equal(run(m, x, steps=[8, 0, 8])["l0"].c, a.c[[0, 8]])
    assert run(made(Cell(projection=2)), x, units=[3])["l0"].h.shape == (9, 2, 2)
    only = run(m, x, keep="c")["l0"]
    with pytest.raises(ValueError, match=r"l0: 'f' was not kept. Record it: record\(model, keep='cf'\)"):
        _ = only.f
    coupled = run(made(Cell(coupled=True)), x, keep="i")["l0"]
    assert coupled.i.shape == (9, 2, 5)
    with pytest.raises(ValueError, match="'f' was not kept"):
        _ = coupled.f
    assert torch.equal(run(made(Cell(forget=False)), x, keep="f")["l0"].f, torch.ones(9, 2, 5))


def test_calls_append_and_the_newest_stay():
    """A sequence in pieces is recorded as in one; `last` keeps its end; a batch of another size begins anew."""
    m, x = made(bidirectional=False), torch.randn(10, 2, 3, dtype=D)
    whole = run(m, x)["l1"]
    for last in (None, 4, 1, 100):
        with probe.record(m, last=last) as r:
            hx = None
            for a, b in ((0, 3), (3, 4), (4, 4), (4, 10)):
                y, hx = m(x[a:b], hx)
            probe.at_step(y).backward()
        t, n = r["l1"], min(last or 10, 10)
        torch.testing.assert_close(t.c, whole.c[10 - n :])
        torch.testing.assert_close(t.dc, whole.dc[10 - n :])
        assert torch.equal(t.steps, torch.arange(10 - n, 10))
        assert t.dropped == 10 - n
    for last in (None, 6):
        with probe.record(m, last=last) as r:
            m(x)
            m(x[:4, :1])
        assert r["l0"].c.shape == (4, 1, 5)
        assert r["l0"].dropped == 10


def test_the_output_is_kept_as_it_was():
    m = made(num_layers=1, dilation=1)
    with probe.record(m) as r, torch.no_grad():
        y = m(torch.randn(4, 2, 3, dtype=D))[0]
        before = y.clone()
        y.zero_()
    assert torch.equal(torch.cat([r["l0"].h, r["l0_reverse"].h], -1), before.float())


def test_streams():
    """A stream that is made while recording is recorded under the name of its LSTM, as whole sequences are; an older one is not."""
    m, x = made(bidirectional=False, dilation=1), torch.randn(5, 2, 3, dtype=D)
    whole, old = run(m, x)["l1"], m.stream(2)
    with probe.record(m) as r:
        for v in x:
            old.step(v)
        with pytest.raises(
            KeyError, match=r"none of the LSTMs .* has run. A Stream is recorded only if it is made while recording"
        ):
            r["l0"]
        s = m.stream(2)
        for v in x:
            s.step(v)
        with pytest.raises(ValueError, match="the LSTM is being recorded, and packed weights show no gates"):
            m.float().stream(weights="int8")
        m.double()
    s.step(x[0])
    torch.testing.assert_close(r["l1"].c, whole.c)
    assert m.stream(2).step(x[0]).shape == (2, 5)


def test_names_are_paths():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder = LSTM(5, 4), nn.ModuleDict({"lstm": LSTM(3, 5)})

        def forward(self, x):
            return self.decoder(self.encoder["lstm"](x)[0])

    with probe.record(Net()) as r:
        pass
    assert not r.traces
    with probe.record(net := Net()) as r:
        net(torch.randn(3, 2, 3))
    assert list(r.traces) == ["encoder.lstm.l0", "decoder.l0"]
    assert repr(r["decoder.l0"]) == "Trace('decoder.l0', Cell(), T=3, B=2, keep='ifgoch', flows=False)"
    with pytest.raises(KeyError, match=r"no trace 'lstm.l0': there are encoder.lstm.l0, decoder.l0."):
        r["lstm.l0"]


def test_wrong_use_is_said():
    m, x = made(), torch.randn(4, 2, 3, dtype=D)
    for how, said in (({"keep": "xf"}, "keep must be made of the letters ifgoch, got 'xf'"), ({"keep": ""}, "keep must be made"),
                      ({"units": [5]}, r"units must be indices in 0\.\.4"), ({"units": []}, "units must be indices"),
                      ({"last": 0}, "last must be at least 1 step, got 0"), ({"steps": [-1]}, "steps must count from 0"),
                      ({"steps": slice(-3, None)}, "steps must count from 0")):  # fmt: skip
        with pytest.raises(ValueError, match=said), probe.record(m, **how):
            pass
    with pytest.raises(ValueError, match=r"must contain a longshort.LSTM, and LSTM has none"), probe.record(nn.LSTM(2, 3)):
        pass
    with probe.record(m), pytest.raises(ValueError, match="being recorded already"), probe.record(m):
        pass
    with probe.record(m) as r:
        m(x)
    with pytest.raises(ValueError, match=r"l0: no gradient has come by. Call loss.backward\(\)"):
        _ = r["l0"].dh
    with probe.record(m) as r, torch.no_grad():
        m(x)
    with pytest.raises(ValueError, match=r"ran without them. Record with gradients=True and outside torch.no_grad"):
        _ = r["l0"].dc
    gaps = run(m, x, steps=[0, 2])
    with pytest.raises(ValueError, match="lags need steps that follow each other"):
        probe.horizon(gaps["l0"])
    m = LSTM(3, 5, engine="vendor")
    with probe.record(m), pytest.raises(ValueError, match="'vendor' was asked for but refuses"):
        m(x.float())


def test_compiled_and_transformed_models_are_refused():
    m, x = LSTM(3, 5), torch.randn(4, 2, 3)
    with probe.record(m):
        with pytest.raises(ValueError, match="runs eagerly"):
            torch.func.vmap(m)(x[None])
        with pytest.raises(Exception, match="runs eagerly"):
            torch.compile(m, backend="eager", fullgraph=True)(x)
    y = torch.compile(m, backend="eager", fullgraph=True)(x)[0]
    assert torch.equal(y, m(x)[0])


# ---- measures find what was built in ----


def test_time_constants():
    """Constant gates: tau = -1 / ln f exactly; no forget gate: infinite; dilation d counts d input steps; zoneout holds longer."""
    b = torch.tensor([-2.0, 0.0, 3.0, 6.0])
    want, x = -1 / torch.sigmoid(b).log(), torch.randn(5, 2, 2)
    torch.testing.assert_close(probe.time_constants(run(constant(bias={"f": b}), x)["l0"]), want)
    torch.testing.assert_close(probe.time_constants(run(constant(bias={"f": b}, dilation=3), x)["l0"]), 3 * want)
    zone = constant(Cell(zoneout=(0.0, 0.4)), bias={"f": b}).eval()
    torch.testing.assert_close(probe.time_constants(run(zone, x)["l0"]), -1 / (0.4 + 0.6 * torch.sigmoid(b)).log())
    assert probe.time_constants(run(constant(Cell(forget=False)), x)["l0"]).isposinf().all()
    m = LSTM(2, 4)
    t = run(m, x)["l0"]
    torch.testing.assert_close((-5 / probe.time_constants(t)).exp(), t.f.prod(0).log().mean(0).exp())


def test_gradient_through_a_constant_gate_is_its_power():
    """Weights of 0: dc_t = f^k dc_T exactly, k steps back. Without a forget gate it is flat: the carousel."""
    f = 0.8
    for cell, want in ((Cell(), f ** torch.arange(40.0)), (Cell(forget=False), torch.ones(40))):
        m = constant(cell, bias={"f": math.log(f / (1 - f))} if cell.forget else {})
        with probe.record(m) as r:
            _, (_, c) = m(torch.randn(40, 3, 2))
            c.sum().backward()
        t = r["l0"]
        torch.testing.assert_close(probe.by_lag(t), 2 * want[:, None].expand(40, 3))
        reach = math.ceil(math.log(0.01) / math.log(f)) if cell.forget else math.inf
        assert probe.horizon(t).tolist() == [reach] * 3
        assert not t.dh.any()


def test_a_call_without_a_state_is_another_sequence():
    m, batches = LSTM(3, 5, dtype=D), torch.randn(2, 12, 2, 3, dtype=D)
    with probe.record(m) as alone:
        probe.at_step(m(batches[1])[0]).backward()
    with probe.record(m) as both:
        for x in batches:
            probe.at_step(m(x)[0]).backward()
    assert both["l0"].runs.tolist() == [[0, 0]] * 12 + [[1, 1]] * 12
    torch.testing.assert_close(probe.horizon(both["l0"]), probe.horizon(alone["l0"]))
    torch.testing.assert_close(probe.by_lag(both["l0"])[:12], probe.by_lag(alone["l0"]))
    assert probe.by_lag(both["l0"])[12:].isnan().all()
    with probe.record(m) as parts:
        _, state = m(batches[0])
        probe.at_step(m(batches[1], state)[0]).backward()
    assert parts["l0"].runs.tolist() == [[0, 0]] * 24
    assert not probe.by_lag(parts["l0"])[12:].isnan().any()
    with probe.record(m) as detached:  # truncated: no gradient goes back through it
        _, state = m(batches[0])
        probe.at_step(m(batches[1], tuple(v.detach() for v in state))[0]).backward()
    assert detached["l0"].runs.tolist() == [[0, 0]] * 12 + [[1, 1]] * 12
    assert probe.by_lag(detached["l0"])[12:].isnan().all()


@pytest.mark.parametrize(("bidirectional", "dilation"), [(False, 1), (True, 1), (False, 2)])
def test_a_reset_begins_another_sequence(bidirectional, dilation):
    """What lies beyond it is no gradient that has vanished: nothing could flow there."""
    m = LSTM(3, 5, dtype=D, bidirectional=bidirectional, dilation=dilation, init="chrono:100")
    x, resets = torch.randn(20, 3, 3, dtype=D), torch.zeros(20, 3, dtype=torch.bool)
    resets[12, 0] = resets[5, 1] = resets[15, 1] = True
    with probe.record(m) as r:
        y, _ = m(x, resets=resets)
        (y[-1, :, :5].sum() + y[0, :, 5:].sum()).backward()
    assert r["l0"].runs[:, 1].tolist() == [0] * 5 + [1] * 10 + [2] * 5
    known = [8, 5, 20]
    assert (~probe.by_lag(r["l0"]).isnan()).sum(0).tolist() == known
    assert not [f for f in probe.diagnose(r) if f.measure == "vanishing"]
    if bidirectional:
        assert (~probe.by_lag(r["l0_reverse"]).isnan()).sum(0).tolist() == [12, 5, 20]


def test_bfloat16_tells_no_long_time_constants():
    x = torch.randn(30, 2, 4)
    m = LSTM(4, 64, init="chrono:3000")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), probe.record(m) as r:
        m(x)
    tau = probe.time_constants(r["l0"])
    assert tau.isinf().sum() > 32
    assert tau[tau.isfinite()].max() <= 128
    (said,) = [f.said for f in probe.diagnose(r, context=5000) if f.measure == "time_constant"]
    assert said.startswith("half of the units forget after more than 128 steps (bfloat16 tells no more)")


def test_slow_cells_take_in_little_and_are_not_stuck():
    with probe.record(m := LSTM(4, 200, init="chrono:1000")) as r:
        m(torch.randn(50, 8, 4))
    assert (probe.stuck(r["l0"])["i"] < 0).float().mean() > 0.9
    assert not [f for f in probe.diagnose(r) if "input gates stuck shut" in f.said]


def test_cells_that_forget_and_take_in_nothing_are_stuck():
    findings = [f.said for f in probe.diagnose(run(constant(bias={"i": -9.0, "f": 0.0}), torch.randn(5, 2, 2)))]
    assert any(said.startswith("100% of input gates stuck shut") for said in findings)


def test_a_horizon_under_a_dilation_is_known_where_it_ends():
    """Of the first d steps a dilation of d visits but one: a gradient that stays is seen to stay, whatever T is."""
    for T in (18, 19, 20):
        m = constant(Cell(forget=False), dilation=2)
        with probe.record(m) as r:
            m(torch.randn(T, 2, 2))[1][1].sum().backward()
        assert probe.horizon(r["l0"]).isposinf().all(), T


def test_a_recording_lies_on_the_cpu_whatever_the_default_device_is():
    m, x = LSTM(3, 4), torch.randn(6, 2, 3)
    with torch.device("meta"), probe.record(m) as r:  # as good as torch.set_default_device("cuda")
        m(x, lengths=torch.tensor([6, 3], device="cpu"))[0].sum().backward()
        m(x)
        said = [*map(str, probe.diagnose(r)), str(probe.summary(r["l0"]))]
    with probe.record(m) as r:
        m(x, lengths=torch.tensor([6, 3]))[0].sum().backward()
        m(x)
    assert said == [*map(str, probe.diagnose(r)), str(probe.summary(r["l0"]))]


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_a_single_step_that_the_cell_does_not_keep(engine):
    """Zoneout of c: the output's gradient is there, the cell's is zero, and nobody says that there is none."""
    m = LSTM(3, 4, engine=engine, cell=Cell(zoneout=(0.0, 0.5)))
    with probe.record(m) as r:
        m(torch.randn(1, 2, 3))[0].sum().backward()
    assert (r["l0"].dh > 0).all()
    assert not r["l0"].dc.any()
    assert not [f for f in probe.diagnose(r) if "no gradient reaches" in f.said]


def test_a_copy_made_while_recording_is_not_recorded():
    m = LSTM(3, 4)
    with probe.record(m) as r:
        other = copy.deepcopy(m)
        other(torch.randn(5, 2, 3))
    assert not r.traces
    with probe.record(other) as r:
        other(torch.randn(5, 2, 3))
    assert list(r.traces) == ["l0"]


def test_lags_are_counted_from_the_loss_in_the_layers_own_order():
    m = made(num_layers=1, dilation=1)
    x, lengths = torch.randn(8, 3, 3, dtype=D), torch.tensor([8, 5, 0])
    with probe.record(m) as r:
        y, _ = m(x, lengths=lengths)
        (y[6, 0, :5].sum() + y[4, 1, :5].sum() + y[3, :2, 5:].sum()).backward()
    forth, back = r["l0"], r["l0_reverse"]
    torch.testing.assert_close(probe.by_lag(forth)[:7, 0], forth.dc[:7, 0].flip(0))
    torch.testing.assert_close(probe.by_lag(forth, "dh")[:5, 1], forth.dh[:5, 1].flip(0))
    torch.testing.assert_close(probe.by_lag(back)[:5, 0], back.dc[3:, 0])
    torch.testing.assert_close(probe.by_lag(back)[:2, 1], back.dc[3:5, 1])
    for t, n in ((forth, (7, 5, 0)), (back, (5, 2, 0))):
        assert (~probe.by_lag(t).isnan()).sum(0).tolist() == [*n]
        assert probe.horizon(t)[2].isnan()


def test_a_loss_at_every_step_never_falls_and_one_output_does():
    m, x = constant(bias={"f": -1.0, "g": 0.5}), torch.randn(30, 2, 2)
    with probe.record(m) as r:
        m(x)[0].sum().backward()
    assert probe.horizon(r["l0"]).isinf().all()
    assert probe.horizon(run(m, x)["l0"]).isfinite().all()


def test_at_step():
    y = torch.arange(24.0).reshape(4, 3, 2)
    assert probe.at_step(y) == y[3].sum()
    assert probe.at_step(y, 1) == y[1].sum()
    assert probe.at_step(y.transpose(0, 1), -2, batch_first=True) == y[2].sum()
    assert probe.at_step(y, lengths=[4, 1, 0]) == y[3, 0].sum() + y[0, 1].sum()


def test_saturation_stuck_and_dead():
    b = torch.tensor([-9.0, 0.0, 9.0, 2.0])  # sigmoid(2) = .88: neither
    m = constant(bias={"f": b, "i": -b, "g": [0.0, 1.0, 1.0, 1.0]})
    t = run(m, torch.randn(6, 3, 2))["l0"]
    s = probe.saturation(t)
    assert list(s) == ["i", "f", "o"]
    assert s["f"].low.tolist() == [1, 0, 0, 0]
    assert s["f"].high.tolist() == [0, 0, 1, 0]
    assert {k: v.tolist() for k, v in probe.stuck(t).items()} == {"i": [1, 0, -1, 0], "f": [-1, 0, 1, 0], "o": [0, 0, 0, 0]}
    assert probe.dead(t).tolist() == [True, False, True, False]  # no candidate; an input gate that lets nothing in
    assert not probe.dead(run(m, torch.randn(1, 1, 2))["l0"]).any()
    mixed = LSTM(2, 1)
    with torch.no_grad():
        for p in mixed.parameters():
            p.zero_()
        mixed.weight_ih_l0[1] = 10.0  # the forget gate follows the input
    x = torch.tensor([1.0, 1, 1, -1, 0])[:, None, None].expand(5, 1, 2)
    low, high = probe.saturation(run(mixed, x)["l0"])["f"]
    assert low.item() == pytest.approx(0.2)
    assert high.item() == pytest.approx(0.6)
    lengths = torch.tensor([3])
    with probe.record(mixed) as r:
        mixed(x, lengths=lengths)
    assert probe.saturation(r["l0"])["f"].high.item() == 1  # padding does not count


def test_occlusion_finds_a_known_memory():
    x = torch.randn(20, 3, 2)
    window = lambda v: v[-5:].sum((0, 2))[:, None]  # noqa: E731
    for neutral in (None, torch.zeros(2), torch.randn(20, 3, 2)):
        seen = probe.occlusion(window, x, neutral)
        assert seen.horizon.tolist() == [5] * 3
        assert seen.change.shape == (20, 3)
        fill = x.mean((0, 1)) if neutral is None else neutral
        instead = (fill if fill.dim() == 3 else fill.expand_as(x)).flip(0)
        torch.testing.assert_close(seen.change[:5], (instead - x.flip(0)).sum(-1).abs()[:5], atol=1e-5, rtol=0)
    first = probe.occlusion(lambda v: window(v.transpose(0, 1)), x.transpose(0, 1), lags=[0, 3, 10], batch_first=True)
    assert first.horizon.tolist() == [10] * 3  # the next lag that was tried
    assert probe.occlusion(lambda v: v.sum((0, 2))[:, None], x).horizon.isinf().all()
    assert probe.occlusion(lambda v: torch.zeros(3, 1), x).horizon.isnan().all()
    far = probe.occlusion(lambda v: v[-400:].sum((0, 2))[:, None], torch.randn(1000, 2, 1))
    assert len(far.lags) < 110
    assert ((far.horizon > 350) & (far.horizon < 480)).all()
    m = LSTM(2, 4, cell=Cell(drop_g=0.5))
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        probe.occlusion(lambda v: m(v)[0][-1], x)
    with pytest.raises(ValueError, match=r"lags must lie in 0\.\.T-1 = 0\.\.19, got \[20\]"):
        probe.occlusion(window, x, lags=[20])


# ---- diagnosis ----


def said(m, x, context=None, **how):
    return {(f.level, f.measure): str(f) for f in probe.diagnose(run(m, x, **how), context)}


def test_a_vanishing_gradient_is_reported_with_a_remedy():
    got = said(constant(bias={"f": -2.0, "g": 1.0, "i": 2.0}), torch.randn(60, 2, 2), context=96)
    left = (1 + math.exp(2)) ** -7
    assert got["warning", "vanishing"].startswith(
        f"l0: the gradient vanishes: {left:.0e} of it is left after 7 steps; try init='chrono:96'"
    )
    assert "memory horizon 3 steps; your context is 96" in got["warning", "horizon"]
    assert "your context is 96: try init='chrono:96'" in got["warning", "time_constant"]
    got = said(constant(Cell(forget=False), bias={"g": 1.0}), torch.randn(60, 2, 2))  # c = 23: its tanh has no slope left
    assert "no gradient reaches it at any step" in got["warning", "vanishing"]
    got = said(constant(Cell(forget=False), bias={"g": 0.01}), torch.randn(60, 2, 2))
    assert not any(level == "warning" for level, _ in got)
    assert "memory horizon more than 60 steps" in got["note", "horizon"]


def test_an_exploding_gradient_is_reported():
    m = constant(Cell(forget=False), H=1, bias={"i": 50.0, "o": 50.0})
    with torch.no_grad():
        m.weight_hh_l0[1] = 2.0  # at c = 0 each step multiplies the gradient by 1 + 2
    got = said(m, torch.zeros(12, 1, 2))
    assert f"explodes: {3.0**11:.1e} times larger 11 steps before the loss" in got["warning", "exploding"]


def test_dead_and_stuck_units_and_wild_values_are_reported():
    b = torch.tensor([50.0] * 3 + [0.0] * 7)
    m = constant(H=10, bias={"f": b, "o": -b, "g": [0.0] + [1.0] * 9})
    findings = [str(f) for f in probe.diagnose(run(m, torch.randn(5, 2, 2)))]
    assert any("30% of forget gates stuck open: their cells hardly forget" in f for f in findings)
    assert any("30% of output gates stuck shut: their cells are never read" in f for f in findings)
    assert any("3 of 10 units are dead" in f for f in findings)
    levels = [f.level for f in probe.diagnose(run(m, torch.randn(5, 2, 2)))]
    assert levels == sorted(levels, reverse=True)
    x = torch.randn(5, 2, 2)
    x[3, 1] = torch.nan
    assert ("warning", "finite") in said(LSTM(2, 4), x)


@pytest.mark.parametrize("rows", [slice(None), slice(1)])
def test_a_gradient_that_is_no_number_is_not_taken_for_none(rows):
    m = LSTM(2, 4)
    with probe.record(m) as r:
        (m(torch.randn(5, 2, 2))[0][:, rows] * torch.nan).sum().backward()
    (flow,) = [f for f in probe.diagnose(r) if f.level == "warning"]
    assert (flow.measure, flow.said.split(".")[0]) == ("finite", "the gradient is not finite")


@pytest.mark.parametrize("keep", ["f", "c", "h", "io", "ifgoch"])
@pytest.mark.parametrize("cell", [Cell(), Cell(forget=False), Cell(coupled=True), Cell(projection=3)], ids=repr)
def test_it_speaks_of_what_was_kept(keep, cell):
    for gradients in (False, True):
        r = run(made(cell), torch.randn(6, 2, 3, dtype=D), keep=keep, gradients=gradients)
        assert all(f.layer in r.traces for f in probe.diagnose(r, context=4))
        for t in r:
            assert ("horizon" in probe.summary(t)) == gradients
            assert ("f.mean" in probe.summary(t)) == ("f" in keep and cell.forget)


@pytest.mark.parametrize("context", [96, 100, 140, 160, 200])
def test_a_memory_is_short_below_a_third_of_the_context(context):
    b = math.log(math.exp(-1 / 50) / -math.expm1(-1 / 50))  # tau = 50
    short = context / 3 > 50
    got = said(constant(bias={"f": b}), torch.randn(9, 2, 2), context=context)
    assert (("warning", "time_constant") in got) == short
    assert (("note", "time_constant") in got) != short


def test_summary_is_what_its_names_say():
    torch.manual_seed(0)
    m = LSTM(3, 16)
    with torch.no_grad():
        m.weight_hh_l0.mul_(6)
        m.bias_ih_l0[16:32].copy_(torch.linspace(-3, 5, 16))
        m.bias_ih_l0[32:33], m.weight_ih_l0[32:33], m.weight_hh_l0[32:33] = 0, 0, 0  # its candidate: a unit that never moves
        m.bias_hh_l0[32:33] = 0
        m.bias_ih_l0[49:51] = -40.0  # two output gates that never open
    with probe.record(m) as r:
        probe.at_step(m(3 * torch.randn(30, 4, 3), lengths=(n := [30, 7, 30, 21]))[0], lengths=n).backward()
    t = r["l0"]
    got, there, gates = probe.summary(t), t.mask, {k: getattr(t, k)[t.mask] for k in "ifo"}
    for k, v in gates.items():
        want = {"mean": v.mean(), "low": (v < 0.1).float().mean(), "high": (v > 0.9).float().mean()}
        assert {name: got[f"{k}.{name}"] for name in want} == pytest.approx({name: float(x) for name, x in want.items()}), k
    assert got["o.stuck"] == pytest.approx(float(((gates["o"] < 0.1).float().mean(0) >= 0.99).float().mean()))
    assert got["o.stuck"] >= 2 / 16
    assert got["c.rms"] == pytest.approx(float(t.c[there].pow(2).mean() ** 0.5))
    assert got["h.rms"] == pytest.approx(float(t.h[there].pow(2).mean() ** 0.5))
    assert got["dead"] == pytest.approx(3 / 16)
    tau = sorted(probe.time_constants(t).tolist())
    assert (got["time_constant"], got["time_constant.90"]) == (pytest.approx(tau[7]), pytest.approx(tau[13]))
    assert got["horizon"] == sorted(probe.horizon(t).tolist())[1]
    for of in ("dh", "dc"):
        lags = probe.by_lag(t, of)
        assert sorted(int(k.removeprefix(f"{of}.lag")) for k in got if k.startswith(of)) == [0, 1, 2, 4, 8, 16]
        assert all(
            got[f"{of}.lag{k}"] == statistics.median_low([v for v in lags[k].tolist() if v == v]) for k in (0, 1, 2, 4, 8, 16)
        )


def test_compare():
    x = torch.randn(6, 2, 2)
    a, b = run(constant(bias={"f": 0.0}), x), run(constant(bias={"f": 3.0}), x)
    by = {c.measure: c for c in probe.compare(a, b)}
    assert by["f.mean"].before == pytest.approx(0.5)
    assert by["f.high"].after == 1
    assert str(by["time_constant"]) == f"l0: time_constant {1 / math.log(2):.4g} -> {-1 / math.log(1 / (1 + math.exp(-3))):.4g}"
    inside = nn.Sequential(LSTM(2, 3))
    with pytest.raises(ValueError, match=r"must have layers of the same name, got l0 and 0.l0"):
        probe.compare(a, run(inside, x))


# ---- what it costs ----


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("I", "H"), [(64, 128), (256, 256)])
def test_gates_cost_less_than_a_tenth(train, I, H):
    """Interleaved rounds of a training step or of inference, B = 32, T = 100, with and without a recording of the gates."""
    torch.set_num_threads(1)
    m, x = LSTM(I, H), torch.randn(100, 32, I)

    def once():
        if train:
            m.zero_grad()
            (m(x)[0] ** 2).mean().backward()
        else:
            with torch.no_grad():
                m(x)

    def recorded():
        with probe.record(m, keep="ifgo", gradients=False):
            once()

    times = {once: [], recorded: []}
    for k in range(-5, 60):
        for f in (once, recorded) if k % 2 else (recorded, once):
            begun = time.perf_counter()
            f()
            if k >= 0:
                times[f].append(time.perf_counter() - begun)
    without, with_it = (statistics.median(v) for v in times.values())
    assert with_it < 1.1 * without, f"{without * 1e3:.2f} ms without, {with_it * 1e3:.2f} ms with"
