"""Laws of the anomaly flags: the level is kept, a spike is found, nothing else is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pandas as pd
import polars as pl
import pytest

from longshort.apps.forecast import Config
from longshort.apps.forecast.anomaly import anomalies, position, quantile, surprise
from longshort.apps.forecast.data import read
from longshort.apps.forecast.task import Backtest

DECILES = np.array(Config().quantiles)


def laplace(q: np.ndarray) -> np.ndarray:
    return np.where(q < 0.5, np.log(2 * np.minimum(q, 0.5)), -np.log(2 * np.minimum(1 - q, 0.5)))


def normal(q: np.ndarray) -> np.ndarray:
    return np.array([NormalDist().inv_cdf(p) for p in q])


def judged(y: np.ndarray, shape=normal, levels=(80,), first=50, spread=1.0, kind=pd.DataFrame, horizon=1) -> Backtest:
    """One series, forecast from each step on by a distribution that does not change."""
    config = Config(horizon=horizon, levels=levels, season_length=1, context=12, freq=1)
    panel = read(kind({"unique_id": ["a"] * len(y), "ds": np.arange(len(y)), "y": y}))
    origin = np.arange(first, len(y) - horizon + 1)
    q = np.broadcast_to(spread * shape(np.array(config.quantiles)), (len(origin), horizon, len(config.quantiles)))
    return Backtest(panel, config, np.zeros(len(origin), np.int64), origin, {"LSTM": q})


@pytest.mark.parametrize("level", [60, 80, 95, 99, 99.9])
def test_an_exponential_tail_is_flagged_at_the_nominal_rate(level):
    """Beyond the learned deciles too, since the tail there is the true one."""
    y = np.random.default_rng(0).laplace(size=100_050)
    rate = anomalies(judged(y, laplace), level).anomaly.mean()
    p = 1 - level / 100
    assert abs(rate - p) < 4 * np.sqrt(p * (1 - p) / 100_000) + 0.01 * p


@pytest.mark.parametrize(("levels", "rate"), [((99,), 0.01), ((80, 95), 0.006), ((80,), 0.00146)])
def test_normal_noise_is_flagged_at_the_rate_that_is_documented(levels, rate):
    y = np.random.default_rng(1).normal(size=100_050)
    assert anomalies(judged(y, levels=levels)).anomaly.mean() == pytest.approx(rate, rel=0.2)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_planted_spike_is_flagged_alone(sign):
    y = np.random.default_rng(2).uniform(-1.5, 1.5, 120)
    y[77] = sign * 8
    out = anomalies(judged(y))
    assert out[out.anomaly].ds.tolist() == [77]
    assert list(out.columns) == ["unique_id", "ds", "y", "LSTM", "lo", "hi", "score", "anomaly"]
    assert out.score.idxmax() == out.anomaly.idxmax()
    assert out.score[out.anomaly].item() > 99.9


def test_flag_interval_and_score_say_the_same():
    y = np.random.default_rng(3).normal(size=5000) * 2
    for level in (50, 80, 97):
        out = anomalies(judged(y, spread=0.7), level)
        np.testing.assert_array_equal(out.anomaly, (out.y < out.lo) | (out.y > out.hi))
        np.testing.assert_array_equal(out.anomaly, out.score > level)


def test_a_higher_level_flags_less():
    test = judged(np.random.default_rng(4).standard_t(3, 3000))
    flags = [anomalies(test, level).anomaly.to_numpy() for level in (50, 80, 90, 99, 99.99)]
    assert all((a >= b).all() and a.sum() > b.sum() for a, b in pairwise(flags))


@pytest.mark.parametrize("p", [1e-6, 0.004, 0.1, 0.13, 0.5, 0.77, 0.9, 0.98, 1 - 1e-6])
def test_quantile_is_the_inverse_of_position(p):
    values = np.sort(np.random.default_rng(5).normal(size=(40, 9)), 1)
    below, above = position(quantile(values, DECILES, p), values, DECILES)
    np.testing.assert_allclose(below, p, rtol=1e-6)
    np.testing.assert_allclose(below + above, 1, atol=1e-9)


def test_mirrored_and_scaled_it_is_the_same():
    rng = np.random.default_rng(6)
    values, y = np.sort(rng.normal(size=(200, 9)), 1), 3 * rng.normal(size=200)
    one = surprise(y, values, DECILES)
    np.testing.assert_allclose(surprise(-y, -values[:, ::-1], DECILES), one, atol=1e-9)
    np.testing.assert_allclose(surprise(1000 * y + 5, 1000 * values + 5, DECILES), one, atol=1e-6)


def test_no_interval_of_what_is_never_negative_is():
    y = np.abs(np.random.default_rng(0).normal(size=80))
    made = judged(y, lambda q: normal(q) + 1.0)
    free, cut = (anomalies(replace(made, config=replace(made.config, nonnegative=on)), 99) for on in (False, True))
    assert (free.lo < 0).all()
    assert (cut.lo == 0).all()
    for name in ("ds", "y", "LSTM", "hi", "score", "anomaly"):
        assert free[name].equals(cut[name])


def test_a_mass_of_zeros_is_no_surprise_and_certainty_is_taken_at_its_word():
    values = np.array([[0, 0, 0, 0, 0, 0, 0, 1.0, 3.0]] * 2 + [[5.0] * 9] * 2)
    np.testing.assert_allclose(surprise(np.array([0, -0.1, 5, 5.1]), values, DECILES), [0, 100, 0, 100])


def test_each_time_stamp_is_judged_by_the_newest_origin():
    y = np.zeros(60)
    y[59] = np.nan
    test = judged(y, horizon=4, first=50)
    made = test.quantiles["LSTM"] + 100.0 * np.arange(len(test.origin))[:, None, None]
    out = anomalies(Backtest(test.panel, test.config, test.series, test.origin, {"LSTM": made}))
    assert out.ds.tolist() == list(range(50, 60))
    np.testing.assert_allclose(out.LSTM, 100 * np.minimum(np.arange(10), 6))
    assert np.isnan(out.score.iloc[-1])
    assert not out.anomaly.iloc[-1]


def test_polars_and_wrong_levels():
    test = judged(np.zeros(60), kind=pl.DataFrame)
    assert isinstance(anomalies(test), pl.DataFrame)
    assert anomalies(test)["anomaly"].dtype == pl.Boolean
    for level in (0, 100, -3, True):
        with pytest.raises(ValueError, match="level must be a percentage between 0 and 100"):
            anomalies(test, level)
