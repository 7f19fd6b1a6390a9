"""Laws of the classical baselines: they know their own past only, they come in order, and what they cannot do is said."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from longshort.apps.forecast import Config
from longshort.apps.forecast.baselines import NAMES, add, factors, filled, naive2, seasonal
from longshort.apps.forecast.data import Panel, read
from longshort.apps.forecast.task import Backtest, seasonal_naive

H, M = 6, 12
LEVELS = np.array(Config(levels=(80, 95)).quantiles)


def panel(series=3, steps=60, seed=0, gaps=0.0) -> Panel:
    rng, tables = np.random.default_rng(seed), []
    for s in range(series):
        t = np.arange(steps - 3 * s)
        y = (100 + 2 * t) * (1 + 0.3 * np.sin(2 * np.pi * (t + s) / M)) + rng.normal(size=len(t))
        y[1:][rng.random(len(t) - 1) < gaps] = np.nan
        tables.append(pd.DataFrame({"unique_id": f"s{s}", "ds": t, "y": y}))
    return read(pd.concat(tables))


def backtest(data: Panel, windows=2) -> Backtest:
    config = Config(horizon=H, levels=(80, 95), season_length=M, context=36, freq=1)
    series = np.repeat(np.arange(len(data)), windows)
    origin = data.lengths[series] - H - np.tile(np.arange(windows), len(data))
    simple = seasonal_naive(config, data, series, origin)
    return Backtest(data, config, series, origin, {"LSTM": simple, "SeasonalNaive": simple})


@pytest.fixture(scope="module")
def made() -> Backtest:
    return add(backtest(panel()))


def test_they_stand_behind_what_was_there(made):
    assert list(made.quantiles) == ["LSTM", "SeasonalNaive", *NAMES]
    assert list(add(backtest(panel()), ["naive2", "THETA"]).quantiles) == ["LSTM", "SeasonalNaive", "Naive2", "Theta"]
    assert set(made.scores()) == set(made.quantiles)


@pytest.mark.parametrize("name", NAMES)
def test_quantiles_ascend_and_widen(made, name):
    q = made.quantiles[name]
    assert q.shape == (6, H, len(LEVELS))
    assert (np.diff(q, axis=-1) >= 0).all()
    width = q[..., -1] - q[..., 0]
    assert (width > 0).all()
    assert (width[:, -1] > width[:, 0] * 0.9).all()


@pytest.mark.parametrize("seed", range(3))
def test_no_value_after_the_origin_matters(made, seed):
    data, rng = panel(), np.random.default_rng(seed)
    y = data.y.copy()
    for s in range(len(data)):
        y[data.offset[s + 1] - H : data.offset[s + 1]] = rng.normal(size=H) * 10.0 ** rng.integers(-2, 7)
    changed = replace(data, y=y)
    other = add(backtest(changed)).quantiles
    for name in NAMES:
        np.testing.assert_array_equal(other[name], made.quantiles[name])


def test_the_past_does_matter(made):
    data = panel()
    y = data.y.copy()
    y[data.offset[1:] - H - 3] *= 1.2
    other = add(backtest(replace(data, y=y))).quantiles
    assert all(not np.array_equal(other[name], made.quantiles[name]) for name in NAMES)


def test_they_see_trend_and_season(made):
    mase = {name: s["MASE"] for name, s in made.scores().items()}
    assert mase["ETS"] < 0.3 * mase["SeasonalNaive"]
    assert mase["Theta"] < 0.7 * mase["SeasonalNaive"]
    assert mase["SES"] > mase["Theta"], "SES has no season"
    assert mase["Naive2"] < 0.5 * mase["SES"]


@pytest.mark.parametrize("scale", [1e-6, 0.25, 1e9])
def test_naive2_is_scale_equivariant(scale):
    y = panel(1).y
    np.testing.assert_allclose(naive2(scale * y, M, H, LEVELS), scale * naive2(y, M, H, LEVELS), rtol=1e-9)


@pytest.mark.parametrize("m", [4, 7, 12])
def test_naive2_of_a_pure_season_is_that_season(m):
    y = np.tile(np.random.default_rng(m).uniform(1, 9, m), 7)[: 6 * m + 2]
    out = naive2(y, m, 2 * m, LEVELS)
    np.testing.assert_allclose(out, np.resize(np.roll(y[:m], -2), 2 * m)[:, None] * np.ones(len(LEVELS)), rtol=1e-9)
    below = y - y.mean()  # not positive: summands instead of factors
    np.testing.assert_allclose(naive2(below, m, 2 * m, LEVELS)[:, 0], np.resize(np.roll(below[:m], -2), 2 * m), atol=1e-9)


def test_naive2_without_a_season_is_the_last_value():
    y = np.cumsum(np.random.default_rng(0).normal(size=50)) + 100
    for m in (1, 24):
        np.testing.assert_array_equal(naive2(y, m, H, np.array([0.5]))[:, 0], np.full(H, y[-1]))
    walk = naive2(y, 1, 4, LEVELS)
    np.testing.assert_allclose((walk[3] - y[-1]), 2 * (walk[0] - y[-1]), rtol=1e-9)


def test_the_season_is_tested_for():
    rng, t = np.random.default_rng(0), np.arange(60)
    assert seasonal(10 + np.sin(2 * np.pi * t / 12) + 0.1 * rng.normal(size=60), 12)
    assert not seasonal(10 + np.sin(2 * np.pi * t / 12)[:35], 12), "fewer than three seasons"
    assert not seasonal(np.full(60, 3.0), 12)
    assert not seasonal(t + 0.0, 1)
    found = [seasonal(np.random.default_rng(k).normal(size=60), 12) for k in range(400)]
    assert 0.01 < np.mean(found) < 0.12, "a tenth of white noise at most"


@pytest.mark.parametrize("m", [3, 4, 12])
def test_factors_are_found_under_a_trend(m):
    true = np.random.default_rng(m).uniform(0.5, 1.5, m)
    true /= true.mean()
    y = np.tile(true, 8) * (100 + np.arange(8 * m) * 0.01)
    got, ratio = factors(y, m)
    assert ratio
    np.testing.assert_allclose(got, true, rtol=2e-3)


def test_zeros_keep_factors_but_a_phase_of_zeros_does_not():
    y = np.tile([4.0, 6.0, 2.0], 6)
    assert factors(np.where(np.arange(18) == 4, 0.0, y), 3)[1]
    assert not factors(np.tile([4.0, 6.0, 0.0], 6), 3)[1]
    assert not factors(y - 3, 3)[1]
    np.testing.assert_allclose(naive2(np.tile([4.0, 6.0, 0.0], 6), 3, 3, np.array([0.5]))[:, 0], [4, 6, 0], atol=1e-9)


def test_filled_leaves_the_observed_alone_and_follows_the_phase():
    y = np.tile([1.0, 5.0, 9.0], 6)
    gappy = y.copy()
    gappy[[0, 4, 5, 17]] = np.nan
    np.testing.assert_allclose(filled(gappy, 3), y)
    assert filled(y, 3) is y
    np.testing.assert_allclose(filled(np.array([1, np.nan, 3, np.nan]), 4), [1, 2, 3, 3])


def test_gaps_are_named():
    data = panel(gaps=0.1)
    with pytest.warns(UserWarning, match=r"6 of 6 windows \(series 's0', 's1', 's2'\) had gaps; the baselines saw them filled"):
        out = add(backtest(data), ["ETS"])
    assert np.isfinite(out.quantiles["ETS"]).all()
    assert not np.array_equal(out.quantiles["ETS"], out.quantiles["SeasonalNaive"])


def test_what_is_too_short_is_the_seasonal_naive_forecast_and_named():
    table = pd.DataFrame({"unique_id": ["long"] * 60 + ["tiny"] * (H + 3), "ds": [*range(60), *range(H + 3)]})
    table["y"] = np.random.default_rng(0).uniform(5, 9, len(table))
    with pytest.warns(
        UserWarning, match=r"1 of 2 windows \(series 'tiny'\) were too short or too odd for (Theta|ETS|SES)"
    ) as said:
        out = add(backtest(read(table), 1)).quantiles
    assert len(said) == 3
    for name in ("SES", "Theta", "ETS"):
        np.testing.assert_array_equal(out[name][1], out["SeasonalNaive"][1])
        assert not np.array_equal(out[name][0], out["SeasonalNaive"][0])
    assert np.isfinite(out["Naive2"]).all()


@pytest.mark.parametrize("y", [np.zeros(60), np.full(60, 7.0), np.r_[np.zeros(59), 1e6], -np.arange(60.0)])
def test_odd_series_are_forecast(y):
    data = read(pd.DataFrame({"unique_id": "a", "ds": range(60), "y": y}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # who falls back is not this law
        out = add(backtest(data))
    assert all(np.isfinite(q).all() and (np.diff(q) >= 0).all() for q in out.quantiles.values())


def test_wrong_names_and_a_missing_package(monkeypatch):
    test = backtest(panel(1))
    with pytest.raises(ValueError, match=r"baseline 'arima' is unknown\. Choose from Naive2, SES, Theta, ETS\."):
        add(test, ["arima"])
    with pytest.raises(ValueError, match="each baseline must be named once, got ets, ETS"):
        add(test, ["ets", "ETS"])
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(ImportError, match=r"baseline Theta needs statsforecast.*pip install 'longshort\[baselines\]'"):
        add(test, ["theta"])
    assert list(add(test, ["Naive2"]).quantiles) == ["LSTM", "SeasonalNaive", "Naive2"]
