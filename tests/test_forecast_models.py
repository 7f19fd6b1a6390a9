"""Laws of the parts: encoder, density, teacher forcing, smoothing. The whole forecaster is judged in test_forecast*.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from longshort.apps.forecast.config import Config, Distribution
from longshort.apps.forecast.deepar import LEAST, lags
from longshort.apps.forecast.esrnn import LEAST as LEAST_SIZE
from longshort.apps.forecast.esrnn import RATE, WILD
from longshort.apps.forecast.model import Encoder, Inputs, Network, Sizes, pinball
from longshort.apps.forecast.recipe import MODELS, Ensemble
from longshort.apps.forecast.window import PAST, READ, STATIC
from longshort.cell import Cell

MODEL = sorted(MODELS)
FAMILY = get_args(Distribution)
KINDS = [("direct", "normal"), ("esrnn", "normal"), *(("deepar", f) for f in FAMILY)]
H, L, S = 5, 20, 4
BASE = Config(horizon=H, levels=(50, 80, 99), freq=1, season_length=4, context=L, inputs=3, multiplicative=False, hidden=8,
              dropout=0.0, samples=40)  # fmt: skip
# past: one past covariate, one future covariate, two channels of calendar; each value comes with its mask
RICH = Sizes(past=PAST + 2 + 2 + 2, guesses=3, ahead=2 + 2, static=STATIC + 3, hidden_past=2, series=S)
PLAIN = Sizes(past=PAST, guesses=3, ahead=0, static=STATIC, hidden_past=0, series=S)


pytestmark = pytest.mark.usefixtures("one_thread")


def inputs(sizes: Sizes, B: int = 6, holes: float = 0.2, seed: int = 0, context: int = L, horizon: int = H) -> Inputs:
    g = torch.Generator().manual_seed(seed)
    seen = (torch.rand(B, context, generator=g) >= holes).float()
    seen[:, -2:] = 1
    seen[0, : context // 2] = 0  # one row begins late
    z = torch.randn(B, context, generator=g).cumsum(1) * seen
    past = torch.cat(
        [
            torch.stack([z, 0.5 * z, seen, F.pad(z.diff(dim=1), (1, 0)) * 0.5], -1),
            torch.randn(B, context, sizes.past - PAST, generator=g),
        ],
        -1,
    )
    known = (torch.rand(B, horizon, sizes.guesses, generator=g) < 0.7).float()
    known[..., 0] = 1
    guesses = torch.randn(B, horizon, sizes.guesses, generator=g) * known
    ahead, static = torch.randn(B, horizon, sizes.ahead, generator=g), torch.randn(B, sizes.static, generator=g)
    return Inputs(past, guesses, known, ahead, static, torch.rand(B, generator=g) + 0.5, torch.arange(B) % (S + 1) - 1)


def made(kind: str, sizes: Sizes = RICH, spread: float = 0.0, seed: int = 0, **fields) -> Network:
    """A network in evaluation mode; spread: of all weights, instead of a careful start."""
    torch.manual_seed(seed)
    model = MODELS[kind](replace(BASE, **fields), sizes, Cell()).eval()
    for p in model.parameters():
        p.data.normal_(0, spread) if spread else None
    return model


# all models


@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_quantiles_never_cross_whatever_the_weights_and_the_stretch(kind, family):
    rng = np.random.default_rng(0)
    for seed in range(5):
        members = [made(kind, spread=0.5 + seed, seed=10 * seed + k, distribution=family) for k in range(2)]
        Q = len(BASE.quantiles)
        stretch = torch.from_numpy(rng.choice([0, 1e-6, 0.5, 1, 3, 1e6], size=(H, Q))).float()
        for model in (members[0], Ensemble(members, stretch, torch.empty(0, H), BASE.quantiles.index(0.5))):
            with torch.no_grad():
                q = model(*inputs(RICH, seed=seed))
            assert q.shape == (6, H, Q)
            assert torch.isfinite(q).all()
            assert (q.diff(dim=-1) >= 0).all()


def test_an_ensemble_is_the_mean_of_its_members_stretched_from_the_median():
    members, x, middle = [made("direct", seed=k) for k in range(3)], inputs(RICH), BASE.quantiles.index(0.5)
    each = torch.stack([m(*x) for m in members])
    stretch = torch.ones(H, len(BASE.quantiles))
    torch.testing.assert_close(Ensemble(members, stretch, torch.empty(0, H), middle)(*x), each.mean(0))
    median = each[0, ..., middle, None]
    wide = Ensemble(members[:1], 2 * stretch, torch.empty(0, H), middle)(*x)
    torch.testing.assert_close(wide, median + 2 * (each[0] - median))


def test_forecasts_from_few_values_are_stretched_by_factors_of_their_own():
    """Those of 2, 4 and 8 values, here 5, 4 and 3, and of many, 2; between them straight lines over the logarithm."""
    member, x, middle = made("direct"), inputs(RICH, B=7, holes=0.0), BASE.quantiles.index(0.5)
    known = [2, 3, 4, 8, 12, 16, L]
    for row, n in zip(x.past, known, strict=True):
        row[: L - n, :PAST] = 0
        row[L - n :, 2] = 1
    stretch = torch.full((H, len(BASE.quantiles)), 2.0)
    short = torch.stack([5 + 0 * stretch, 4 + 0 * stretch, 3 + 0 * stretch])
    plain, wide = member(*x), Ensemble([member], stretch, torch.empty(0, H), middle, short)(*x)
    want = torch.tensor([5, 5 - np.log2(1.5), 4, 3, 3 - np.log2(1.5), 2, 2]).float()[:, None, None]
    median = plain[..., middle, None]
    torch.testing.assert_close(wide, median + want * (plain - median))


@pytest.mark.parametrize("sizes", [RICH, PLAIN], ids=["rich", "plain"])
@pytest.mark.parametrize(("kind", "family"), KINDS)
def test_rows_do_not_see_each_other(kind, family, sizes):
    model, x = made(kind, sizes, spread=0.3, distribution=family), inputs(sizes)
    with torch.no_grad():
        together = model(*x)
        for k in (0, 4):
            torch.testing.assert_close(model(*(v[k : k + 1] for v in x))[0], together[k], rtol=1e-5, atol=1e-5)
        other = Inputs(*(v.flip(0) for v in x))
        torch.testing.assert_close(model(*other).flip(0), together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [RICH, PLAIN], ids=["rich", "plain"])
@pytest.mark.parametrize("kind", MODEL)
def test_gradients_are_finite_with_gaps_and_nothing_to_learn_costs_nothing(kind, sizes):
    model, x = made(kind, sizes, level_penalty=0.1), inputs(sizes, holes=0.6)
    target = torch.randn(6, H)
    target[2], target[3, 1:] = torch.nan, torch.nan
    loss = model.loss(x, target)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    blind = x._replace(past=x.past * (torch.arange(x.past.shape[-1]) > 2))
    nothing = model.loss(blind, torch.full((6, H), torch.nan))
    assert (nothing.total.item(), nothing.elements.item()) == (0, 0)


def test_pinball_by_definition():
    made, target = torch.randn(4, H, 3), torch.randn(4, H)
    seen, want = torch.rand(4, H) < 0.7, 0.0
    target[1, 2], seen[1, 2] = torch.nan, False
    for b, k in seen.nonzero():
        for j, level in enumerate((0.1, 0.5, 0.9)):
            off = (target[b, k] - made[b, k, j]).item()
            want += 2 * max(level * off, (level - 1) * off) / 3
    loss = pinball((0.1, 0.5, 0.9), made, target, seen)
    assert loss.total.item() == pytest.approx(want, rel=1e-5)
    assert loss.elements == seen.sum()
    seen[1, 2] = True
    assert torch.isnan(pinball((0.1, 0.5, 0.9), made, target, seen).total)  # what should be there and is not is no silent zero


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_encoder_reads_forward_only(attention, residual):
    encoder = Encoder(3, replace(BASE, dilations=(1, 2, 3), attention=attention, residual=residual), Cell()).eval()
    x, seen = torch.randn(4, L, 3), (torch.rand(4, L) < 0.6).float()
    seen[0, : L // 2] = 0
    with torch.no_grad():
        all_steps = encoder(x, seen, every=True)
        torch.testing.assert_close(encoder(x, seen), all_steps[:, -1])
        for t in (1, 3, L // 2, L - 1):
            other, gone = x.clone(), seen.clone()
            other[:, t:], gone[:, t:] = 1e3, 1 - gone[:, t:]
            assert torch.equal(encoder(other, gone, every=True)[:, :t], all_steps[:, :t])
            assert not torch.equal(encoder(other, gone, every=True)[:, t], all_steps[:, t])


def test_the_encoder_by_definition():
    """Residual connections around all layers but the first; one head over the observed steps up to this one."""
    encoder = Encoder(3, replace(BASE, dilations=(1, 2, 3), attention=True, residual=True), Cell()).eval()
    x, seen = torch.randn(4, L, 3), (torch.rand(4, L) < 0.6).float()
    seen[0, : L // 2] = 0
    with torch.no_grad():
        y = encoder.layers[0](x)[0]
        for layer in encoder.layers[1:]:
            y = y + layer(y)[0]
        q, k, v = (f(y) for f in encoder.look)
        made = encoder(x, seen, every=True)
        for b in range(4):
            for t in range(L):
                look = [j for j in range(t + 1) if seen[b, j]] or list(range(t + 1))  # nothing observed yet: any
                weight = torch.softmax(torch.stack([q[b, t] @ k[b, j] for j in look]) / math.sqrt(8), 0)
                want = y[b, t] + sum(w * v[b, j] for w, j in zip(weight, look, strict=True))
                torch.testing.assert_close(made[b, t], want, rtol=1e-4, atol=1e-5)


# direct


@pytest.mark.parametrize("sizes", [RICH, PLAIN], ids=["rich", "plain"])
def test_direct_by_definition(sizes):
    """A mixture of the guesses that are known and a correction, and widths outwards: both in the window's unit."""
    model, x, looked, out = made("direct", sizes, spread=0.3, attention=True), inputs(sizes), [], []
    model.encoder.register_forward_pre_hook(lambda _, given: looked.append(given))
    model.outer.register_forward_hook(lambda _, given, result: out.append(result))
    with torch.no_grad():
        got = model(*x)
    ((read, seen),), (raw,) = looked, out
    assert torch.equal(seen, x.past[..., 2])
    assert torch.equal(read, torch.cat([x.past, x.static[:, None].expand(-1, L, -1)], -1))
    K, middle = sizes.guesses, BASE.quantiles.index(0.5)
    for b in range(len(got)):
        u = math.exp(x.static[b, 2])
        for k in range(H):
            there = [j for j in range(K) if x.known[b, k, j]]
            share = torch.softmax(raw[b, k, there], 0)
            want = {
                middle: sum(float(s * x.guesses[b, k, j]) for s, j in zip(share, there, strict=True)) + u * float(raw[b, k, K])
            }
            width = u * F.softplus(raw[b, k, K + 1 :] - 1.5)
            for q in range(middle - 1, -1, -1):
                want[q] = want[q + 1] - float(width[q])
            for q in range(middle + 1, len(BASE.quantiles)):
                want[q] = want[q - 1] + float(width[q - 1])
            assert got[b, k].tolist() == pytest.approx([want[q] for q in sorted(want)], rel=1e-4, abs=1e-4)


# deepar


@pytest.mark.parametrize("family", FAMILY)
def test_density_is_that_of_scipy(family):
    model, raw, scale = made("deepar", distribution=family), torch.randn(50, 4, 3), torch.rand(50, 1) + 0.5
    a, b, d = raw.double().unbind(-1)
    if family == "negative_binomial":
        y = torch.randint(0, 20, (50, 4))
        mean, alpha = (F.softplus(a) + 1e-6) * scale, F.softplus(b) + 1e-4  # variance mean + alpha mean^2
        want = stats.nbinom.logpmf(y, 1 / alpha, 1 / (1 + alpha * mean))
        z = y / scale
    else:
        z = torch.randn(50, 4)
        s = F.softplus(b) + LEAST
        want = stats.norm.logpdf(z, a, s) if family == "normal" else stats.t.logpdf(z, 2 + F.softplus(d), a, s)
    np.testing.assert_allclose(model.density(raw, z.float(), scale).numpy(), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILY)
def test_draws_follow_the_density(family):
    model, n = made("deepar", distribution=family), 20_000
    for seed, raw in enumerate(torch.tensor([[0.3, 0.5, -1.0], [-2.0, 1.5, 3.0]])):
        scale = torch.full((n,), 1.7)
        x = model.draw(raw.expand(n, 3), scale, (1, n), [torch.Generator().manual_seed(seed)]).double()
        a, b, d = raw.double()
        if family == "negative_binomial":
            counts, (mean, alpha) = (x * 1.7).round(), ((F.softplus(a) + 1e-6) * 1.7, F.softplus(b) + 1e-4)
            torch.testing.assert_close(counts, x * 1.7, rtol=0, atol=1e-4)
            want = stats.nbinom.pmf(np.arange(4), 1 / alpha, 1 / (1 + alpha * mean))
            got = [(counts == k).double().mean() for k in range(4)]
            np.testing.assert_allclose(got, want, atol=4 * 0.5 / math.sqrt(n))
            continue
        s = F.softplus(b) + LEAST
        law = stats.norm(a, s) if family == "normal" else stats.t(2 + F.softplus(d), a, s)
        assert stats.kstest(x.numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("sizes", [RICH, PLAIN], ids=["rich", "plain"])
@pytest.mark.parametrize("fields", [{}, {"season_length": 24, "context": 10}, {"season_length": 7, "dilations": (1, 2)}])
def test_teacher_forcing_is_step_by_step(sizes, fields, monkeypatch):
    """Paths whose drawn values are the truth read what training reads: lags, masks, covariates and states agree."""
    model = made("deepar", sizes, spread=0.3, **fields)
    x, truth, T = inputs(sizes, context=fields.get("context", L)), torch.randn(6, H), fields.get("context", L) + H
    raws, read, steps, forward = [], [], iter(truth.T), model.lstm.forward
    monkeypatch.setattr(model.lstm, "forward", lambda v, *state: (read.append(v), forward(v, *state))[1])
    monkeypatch.setattr(model, "draw", lambda raw, *_: (raws.append(raw), next(steps))[1])
    with torch.no_grad():
        walked = model.paths(x, 1, 0)
        assert torch.equal(walked[:, 0], truth)
        z = torch.cat([x.past[..., 0], truth], 1)
        seen = torch.cat([x.past[..., 2], torch.ones(6, H)], 1)
        channels = model.channels(x, z, seen)[:, : T - 1]
        torch.testing.assert_close(torch.cat(read, 1), channels, rtol=0, atol=0)
        taught = model.outer(forward(channels)[0])[:, T - H - 1 :]
        torch.testing.assert_close(torch.stack(raws, 1), taught, rtol=1e-4, atol=1e-5)
        each = model.density(model.outer(forward(channels)[0]), z[:, 1:], x.scale[:, None])
        torch.testing.assert_close(model.loss(x, truth).total, -(each * seen[:, 1:]).sum())


def test_channels_by_definition():
    """Before step t + 1: lagged values with masks, past covariates of t, future ones of t + 1, static ones."""
    model, x = made("deepar"), inputs(RICH)
    z, seen = torch.randn(6, L + H), (torch.rand(6, L + H) < 0.7).float()
    got = model.channels(x, z, seen)
    assert model.lags == (1, 2, 3, 4, 5)
    for t in range(L + H - 1):
        want = [v[:, t + 1 - lag] if t + 1 >= lag else torch.zeros(6) for lag in model.lags for v in (z, seen)]
        want += list((x.past[:, t, PAST : PAST + 2] if t < L else torch.zeros(6, 2)).T)
        want += list((x.past[:, t + 1, PAST + 2 :] if t + 1 < L else x.ahead[:, t + 1 - L]).T)
        assert torch.equal(got[:, t], torch.stack([*want, *x.static.T], -1))


@pytest.mark.parametrize(
    ("season", "context", "want"),
    [(1, 2, ()), (4, 30, (4, 5)), (24, 10, ()), (24, 24, (23, 24)), (24, 336, (23, 24, 25, 167, 168, 169)), (365, 1100, ())],
)
def test_lags_lie_within_what_is_read(season, context, want):
    assert lags(replace(BASE, season_length=season, context=context)) == (1, 2, 3, *want)
    assert all(k <= min(context, READ) for k in want)


# esrnn


def recurrence(z, seen, alpha, gamma, starts, own):
    """The three lines of the docstring, one number at a time: level, season, season ahead as known then, and mean |e| so far."""
    T, rings = len(z), [list(s) for s in starts]
    longest, early = max([len(s) for s in starts], default=1), []
    for t in range(T):
        if seen[t] and len(early) < longest:
            early.append(z[t] - sum(s[t % len(s)] for s in starts))
    level, levels, seasons, ahead, errors, sizes = sum(early) / max(len(early), 1), [], [], [], [], []
    for t in range(T):
        s = sum(ring[t % len(ring)] for ring in rings)
        e = z[t] - level - s if seen[t] else 0.0
        level += alpha * e
        errors += [abs(e + own[t])] if seen[t] else []
        for ring, g in zip(rings, gamma, strict=True):
            ring[t % len(ring)] += g * e
        levels.append(level)
        sizes.append(max(sum(errors) / max(len(errors), 1), LEAST_SIZE))
        seasons.append(s)
        ahead.append([sum(ring[(t + k) % len(ring)] for ring in rings) for k in range(1, H + 1)])
    return levels, seasons + ahead[-1], ahead, sizes


@pytest.mark.parametrize("season", [1, 2, 4, 7, 24])  # none, shorter and longer than the horizon, two: 24 and 168
@pytest.mark.parametrize("holes", [0.0, 0.4])
def test_smoothing_is_the_recurrence(season, holes):
    context = 200 if season == 24 else L
    model = made("esrnn", season_length=season, context=context, level_penalty=0.3)
    with torch.no_grad():
        model.alpha.normal_()
        model.gamma.normal_()
        x = inputs(RICH, holes=holes, context=context)
        smooth, (alpha, gamma) = model.smooth(x), model.coefficients(x.series)
    assert len(model.seasons) == {1: 0, 24: 2}.get(season, 1)
    z, seen = x.past[..., 0].double().numpy(), x.past[..., 2].numpy() > 0
    for b in range(6):
        want = recurrence(z[b], seen[b], float(alpha[b]), gamma[b].tolist(), *starts(z[b], seen[b], model.seasons))
        for got, wanted in zip((smooth.level, smooth.season, smooth.ahead, smooth.size), want, strict=True):
            np.testing.assert_allclose(got[b], wanted, atol=1e-4)


def starts(z, seen, seasons):
    """Mean deviation of each phase in the first three observed cycles, less the change from cycle to cycle (where there are two;
    of a longer season less than one: none), shorter seasons first; and for each step of these what its phase has less without it."""
    rest, found, own = z.copy(), {}, np.zeros(len(z))
    for m in sorted(seasons):
        at = np.flatnonzero(seen)[: 3 * m]
        changes = [(rest[t + m] - rest[t]) / m for t in at if t + m in at and len(at) >= 2 * m]
        line = rest[at].mean() + (np.arange(len(z)) - at.mean()) * (np.mean(changes) if changes else 0.0)
        off = (rest - line) * (len(at) >= m or not found)
        found[m] = [off[at[at % m == p]].mean() if (at % m == p).any() else 0.0 for p in range(m)]
        for t in at:
            others = at[(at % m == t % m) & (at != t)]
            own[t] += found[m][t % m] - (off[others].mean() if len(others) else 0.0)
        rest = rest - np.resize(found[m], len(z))
    return [found[m] for m in seasons], own


def test_coefficients_of_new_series_are_the_mean():
    model = made("esrnn")
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([0.0, 1, 2, 5]))
        model.gamma.copy_(torch.tensor([[0.0], [1], [2], [5]]))
    alpha, gamma = model.coefficients(torch.tensor([3, -1]))
    torch.testing.assert_close(alpha, torch.sigmoid(torch.tensor([5.0, 2])))
    torch.testing.assert_close(gamma, torch.sigmoid(torch.tensor([[5.0], [2]])))
    assert model.alpha.rate == model.gamma.rate == RATE
    assert made("esrnn", season_length=1).gamma.shape == (S, 0)


def test_what_esrnn_sees_by_definition(monkeypatch):
    """The last values less season and level over the size, where a gap holds the level; then covariates of now and ahead."""
    model, x, seen_by = made("esrnn", season_length=4), inputs(RICH), []
    encoder = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda v, *more: (seen_by.append(v), encoder(v, *more))[1])
    with torch.no_grad():
        smooth = model.smooth(x)
        model.network(x, smooth, every=True)
    z, seen, W, future = x.past[..., 0], x.past[..., 2], model.window, torch.cat([x.past[..., PAST + 2 :], x.ahead], 1)
    for b in (0, 3):
        for t in range(L):
            back = [max(k, 0) for k in range(t - W + 1, t + 1)]
            left = [z[b, k] - smooth.season[b, k] if seen[b, k] else smooth.level[b, k] for k in back]
            want = ((torch.stack(left) - smooth.level[b, t]) / smooth.size[b, t]).clamp(-WILD, WILD)
            torch.testing.assert_close(seen_by[0][b, t, :W], want)
            rest = torch.cat([x.past[b, t, PAST:], future[b, t + 1 : t + 1 + H].T.flatten(), x.static[b, STATIC:]])
            assert torch.equal(seen_by[0][b, t, -len(rest) :], rest)


@pytest.mark.parametrize("log", [False, True])
def test_each_step_of_the_context_is_an_origin(log):
    """A forecast from step t on is what the loss of the whole context judges at t, but for the start of the smoothing."""
    fields = {"spread": 0.3, "season_length": 1, "multiplicative": log}
    model, x, target = made("esrnn", **fields), inputs(RICH, holes=0.0), torch.randn(6, H)
    model.effect.data.zero_()
    x.past[0, :, 2], x.past[0, :, 0] = 1, torch.randn(L)
    target[2], target[3, 1:] = torch.nan, torch.nan
    with torch.no_grad():
        smooth = model.smooth(x)
        every, size = model.network(x, smooth, every=True), smooth.size[..., None, None]
        forecast = every * size + (smooth.level[..., None] + smooth.ahead)[..., None]
        torch.testing.assert_close(forecast[:, -1], model(*x))
        for t in (3, 9, L - H - 1):
            head = x._replace(past=x.past[:, : t + 1], ahead=x.past[:, t + 1 : t + 1 + H, PAST + 2 :])
            torch.testing.assert_close(model(*head), forecast[:, t], rtol=1e-4, atol=1e-5)
        full, least, want = torch.cat([x.past[..., 0], target], 1), min(model.window, 4) - 1, 0.0
        seen = torch.isfinite(full)
        for t in range(least, L):
            off = full[:, t + 1 : t + 1 + H] - smooth.level[:, t, None] - smooth.ahead[:, t]
            share = (smooth.size[:, t] / smooth.size[:, -1])[:, None]
            off = (off / smooth.size[:, t, None]).clamp(-WILD, WILD) * share
            want += pinball(model.levels, every[:, t] * share[..., None], off, seen[:, t + 1 : t + 1 + H]).total
        loss = model.loss(x, target)
        torch.testing.assert_close(loss.total, want, rtol=1e-4, atol=1e-4)
        assert loss.elements == sum(seen[:, t + 1 : t + 1 + H].sum() for t in range(least, L))
        bend = np.mean(np.diff(smooth.level.numpy(), 2, 1) ** 2)
        model.penalty = 0.7
        bent = model.loss(x, target)
        assert ((bent.total - loss.total) / loss.elements).item() == pytest.approx(0.7 * bend, rel=1e-2)


@pytest.mark.parametrize("log", [False, True])
def test_what_covariates_do_is_taken_out_and_put_back(log):
    """Values that covariates moved are forecast as those that they did not, and then moved: an effect is one of logarithms."""
    model, x, target = made("esrnn", spread=0.3, multiplicative=log), inputs(RICH), torch.randn(6, H)
    effect = model.effect.detach().clone()
    assert effect.abs().min() > 0
    unit = x.scale[:, None] if log else 1
    moved, ahead = x.past[..., PAST + 2 :] @ effect / unit, x.ahead @ effect / unit
    model.effect.data.zero_()
    with torch.no_grad():
        plain, loss = model(*x), model.loss(x, target)
        x.past[..., 0] += moved * x.past[..., 2]
        model.effect.data.copy_(effect)
        torch.testing.assert_close(model(*x), plain + ahead[..., None], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.loss(x, target + ahead).total, loss.total, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("observed", "learn"), [(L, L - 11), (8, 1), (3, 1), (2, 0)])
def test_what_the_seasons_were_started_from_is_not_learned(observed, learn):
    """Seasons of four steps are started from twelve: at an earlier step they would foretell what follows. A shorter context has
    only its last step."""
    model, x, target = made("esrnn", season_length=4), inputs(RICH, holes=0.0), torch.full((6, H), 0.5)
    x.past[:, : L - observed, :PAST] = 0
    x.past[:, L - observed :, 2] = 1
    assert model.loss(x, target).elements == 6 * H * learn


@pytest.mark.parametrize("log", [False, True])
def test_the_unit_that_the_whole_context_gave_is_not_seen(log):
    model, target = made("esrnn", spread=0.3, multiplicative=log), torch.randn(5, H)
    if not log:
        model.effect.data.zero_()  # without logarithms what covariates do can only be in that unit
    x = Inputs(*(v[1:] for v in inputs(RICH, holes=0.0)))  # observed from the first step on: the size is never at its floor
    other = x._replace(past=x.past.clone(), scale=x.scale / 8, static=x.static.clone())
    other.past[..., 0] *= 8
    other.static[:, :STATIC] = 0
    with torch.no_grad():
        torch.testing.assert_close(model.loss(other, 8 * target).total, model.loss(x, target).total, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(*other), 8 * model(*x), rtol=1e-4, atol=1e-4)
