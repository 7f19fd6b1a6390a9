"""What a backtest says about its forecasters beyond the scores: by level, by step, by series, and how sure that is. NumPy only.

Shapes: B windows, H steps, Q quantile levels. Nothing is counted where the truth is missing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast import metrics
from longshort.apps.forecast.backtest import Backtest, find
from longshort.apps.forecast.config import ends

RESAMPLES, LEAST_RESAMPLED = 1000, 8  # bootstrap samples, and series without which there is nothing to resample


class Versus(NamedTuple):
    """The first forecaster beside another one.

    better: share of series where its error is smaller.
    equal: share of series where both errors are the same.
    change: its MASE over the other's, less 1; negative is better.
    low: lower end of the 95 % interval of change; NaN for fewer than 8 series.
    high: upper end.
    """

    better: float
    equal: float
    change: float
    low: float
    high: float


def scores(backtest: Backtest) -> dict[str, dict[str, float]]:
    """`Backtest.scores` with the scaled interval score of each level."""
    made = backtest.scores()
    for name, forecast in backtest.quantiles.items():
        for level in backtest.config.levels:
            low, high = interval(backtest, forecast, level)
            made[name][f"MSIS-{level:g}"] = metrics.msis(backtest.truth, low, high, backtest.scale, level)
    return made


def interval(backtest: Backtest, forecast: NDArray, level: float) -> tuple[NDArray, NDArray]:
    """Both ends of a prediction interval of forecasts [B, H, Q], each [B, H]."""
    low, high = (forecast[..., find(np.array(backtest.config.quantiles), e)] for e in ends(level))
    return low, high


def scalable(backtest: Backtest) -> NDArray:
    """Which windows have a MASE: their history changes from season to season. bool, [B]."""
    return np.isfinite(backtest.scale) & (backtest.scale > 0)


def unit(backtest: Backtest) -> str:
    """What `errors` are measured in."""
    return "MASE" if scalable(backtest).any() else "absolute error"


def errors(backtest: Backtest, name: str) -> NDArray:
    """Absolute errors of the point forecast as MASE, or in the unit of the data where no window has one. [B, H],
    NaN where missing."""
    c = backtest.config
    off = np.abs(backtest.truth - backtest.quantiles[name][..., find(np.array(c.quantiles), c.point)])
    good = scalable(backtest)
    return off / np.where(good, backtest.scale, np.nan)[:, None] if good.any() else off


def step_errors(backtest: Backtest, name: str) -> NDArray:
    """Mean of `errors` at each step of the horizon. [H]."""
    return mean(errors(backtest, name), 0)


def calibration(backtest: Backtest, name: str) -> NDArray:
    """Share of the truth below each quantile; on it counts half, as with zeros that were foreseen. [Q]."""
    y, q = backtest.truth[..., None], backtest.quantiles[name]
    return mean(np.where(np.isfinite(y), (y < q) + 0.5 * (y == q), np.nan), (0, 1))


def step_coverage(backtest: Backtest, name: str, level: float) -> NDArray:
    """Share of the truth inside an interval at each step of the horizon. [H]."""
    low, high = interval(backtest, backtest.quantiles[name], level)
    y = backtest.truth
    return mean(np.where(np.isfinite(y), (y >= low) & (y <= high), np.nan), 0)


def windows(backtest: Backtest) -> int:
    """Windows with any truth: the independent observations, if steps of one window err together."""
    return int(np.isfinite(backtest.truth).any(1).sum())


def band(n: int, p: float) -> tuple[float, float]:
    """Between which shares 95 of 100 samples of n lie where the chance is p: the binomial distribution, exact up to n = 2000."""
    if p in (0, 1):
        return float(p), float(p)
    if n < 1:
        return 0.0, 1.0
    if n > 2000:
        spread = 1.96 * math.sqrt(p * (1 - p) / n)
        return max(p - spread, 0.0), min(p + spread, 1.0)
    k = np.arange(n + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in k])
    mass = np.cumsum(np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p)))
    low, high = np.searchsorted(mass, (0.025, 0.975))
    return float(low / n), float(min(high, n) / n)


def series_errors(backtest: Backtest, name: str) -> tuple[NDArray, NDArray]:
    """Numbers of the series that have an error, and the mean of `errors` of each. [S], [S]."""
    series, where = np.unique(backtest.series, return_inverse=True)
    row = mean(errors(backtest, name), 1)
    seen = np.isfinite(row)
    total, count = (np.bincount(where, v, len(series)) for v in (np.where(seen, row, 0), seen))
    kept = count > 0
    return series[kept], total[kept] / count[kept]


def versus(backtest: Backtest, other: str) -> Versus:
    """The first forecaster beside another one, series by series.

    The interval comes from drawing the series again, with replacement: it says how far the result could be luck with these
    series. Windows of one series stay together.
    """
    name = next(iter(backtest.quantiles))
    mine, theirs = series_errors(backtest, name)[1], series_errors(backtest, other)[1]
    if not len(mine):
        return Versus(*[math.nan] * 5)
    near = np.isclose(mine, theirs, rtol=1e-9, atol=0)
    low = high = math.nan
    weight = np.bincount(np.unique(backtest.series, return_inverse=True)[1][np.isfinite(mean(errors(backtest, name), 1))])
    weight = weight[weight > 0]
    mine_sum, theirs_sum = mine * weight, theirs * weight

    def change(a: float, b: float) -> float:
        return float(a / b - 1) if b > 0 else math.nan

    if len(mine) >= LEAST_RESAMPLED:
        rng = np.random.default_rng(0)
        drawn = (rng.integers(len(mine), size=len(mine)) for _ in range(RESAMPLES))
        many = np.array([change(mine_sum[k].sum(), theirs_sum[k].sum()) for k in drawn])
        if np.isfinite(many).all():
            low, high = (float(v) for v in np.quantile(many, (0.025, 0.975)))
    better = float(((mine < theirs) & ~near).mean())
    return Versus(better, float(near.mean()), change(mine_sum.sum(), theirs_sum.sum()), low, high)


def extremes(backtest: Backtest, count: int, best: bool = False) -> NDArray:
    """Windows to look at: the furthest off one of each of the series with the largest (or smallest) mean errors. [<= count]."""
    name = next(iter(backtest.quantiles))
    series, error = series_errors(backtest, name)
    order = series[np.argsort(error if best else -error, kind="stable")][:count]
    row = np.nan_to_num(mean(errors(backtest, name), 1), nan=-1.0)
    return np.array([k[row[k].argmax()] for k in (np.flatnonzero(backtest.series == s) for s in order)], np.int64)


def mean(v: NDArray, axis: int | tuple[int, ...]) -> NDArray:
    """Mean of what is there, NaN where nothing is."""
    seen = np.isfinite(v)
    with np.errstate(invalid="ignore"):
        return np.where(seen, v, 0).sum(axis) / seen.sum(axis)
