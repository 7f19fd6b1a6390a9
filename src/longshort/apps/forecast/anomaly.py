"""Anomalies: values that lie where the forecast made at an earlier origin hardly expected any. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast import conformal
from longshort.apps.forecast.backtest import Backtest, find
from longshort.apps.forecast.tables import free


def anomalies(backtest: Backtest, level: float = 99) -> Any:
    """Flag what the first forecaster of a backtest did not expect.

    A time stamp that was forecast from several origins is judged by the newest, which knows most; so a backtest with windows
    one step apart judges one-step-ahead forecasts. An interval of 99 % flags one value in a hundred where all is well. A value
    is never judged by itself: what is flagged still counts as history for later origins.

    Args:
        backtest: forecasts beside the truth.
        level: flag what lies outside the central interval of this many percent. It may lie beyond the learned quantiles,
            see `position`; learned with levels=(level,) it is surer.

    Returns:
        The long frame `unique_id, ds, y, LSTM, lo, hi, score, anomaly`, sorted by series and time, a frame of the kind that
        came in. lo and hi bound the interval; score is the level, in percent, of the smallest central interval that holds y
        (NaN where y is missing); anomaly is score > level.

    Raises:
        ValueError: level is not between 0 and 100.
    """
    if isinstance(level, bool) or not 0 < level < 100:
        raise ValueError(f"level must be a percentage between 0 and 100, such as 99, got {level!r}.")
    name, forecast = next(iter(backtest.quantiles.items()))
    H, q = backtest.config.horizon, np.array(backtest.config.quantiles)
    series, origin = (np.repeat(v, H) for v in (backtest.series, backtest.origin))
    at = origin + np.tile(np.arange(H), len(backtest.series))
    order = np.lexsort((-origin, at, series))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(series[order]).astype(bool) | np.diff(at[order]).astype(bool)
    first &= at[order] < backtest.panel.lengths[series[order]]  # there is a time stamp
    rows = order[first]
    y, values = backtest.truth.reshape(-1)[rows], forecast.reshape(-1, len(q))[rows]
    low, high = (quantile(values, q, p) for p in (0.5 - level / 200, 0.5 + level / 200))
    if backtest.config.floored:
        low = np.maximum(low, 0)
    score = surprise(y, values, q)
    c = backtest.panel.columns
    free(c, name, "lo", "hi", "score", "anomaly")
    made = {c.ds: backtest.panel.stamps(series[rows], at[rows]), c.y: y, name: values[:, find(q, backtest.config.point)],
            "lo": low, "hi": high}  # fmt: skip
    return backtest.panel.frame(series[rows], made | {"score": score, "anomaly": score > level})


def surprise(y: NDArray, values: NDArray, levels: NDArray) -> NDArray:
    """The level, in percent, of the smallest central interval that holds each value; NaN where it is missing.

    Where several quantiles are equal, as with many zeros, a value on them takes the level nearest to the median.

    Args:
        y: values, [N].
        values: quantiles, ascending along the last axis, [N, Q].
        levels: their levels, ascending, [Q].
    """
    below, above = position(y, values, levels)
    return np.where(np.isfinite(y), 200 * np.maximum(np.maximum(below, above) - 0.5, 0), np.nan)


def position(y: NDArray, values: NDArray, levels: NDArray) -> tuple[NDArray, NDArray]:
    """The mass that a forecast puts strictly below and strictly above each value.

    Straight lines between the quantiles. Beyond the outermost one an exponential tail through the two outermost quantiles:
    above v_Q the mass is (1 - p_Q) exp(-(y - v_Q) / b) with b = (v_Q - v_{Q-1}) / log((1 - p_{Q-1}) / (1 - p_Q)), likewise
    below. It is heavier than a normal tail: of normal noise with deciles alone, a level of 99 flags 0.15 % rather than 1 %.

    Args:
        y: values, [N].
        values: quantiles, ascending along the last axis, [N, Q].
        levels: their levels, ascending, at least two, [Q].

    Returns:
        Both masses in [0, 1], [N] each; their sum is 1 but where the forecast puts a mass on y itself.
    """
    return _below(y, values, levels), _below(-y, -values[:, ::-1], 1 - levels[::-1])


def quantile(values: NDArray, levels: NDArray, p: float) -> NDArray:
    """The quantile at any level: the inverse of `position`.

    Args:
        values: quantiles, ascending along the last axis, [N, Q].
        levels: their levels, ascending, at least two, [Q].
        p: a level in (0, 1).

    Returns:
        Values, [N].
    """
    return conformal.values_at(values[:, None], levels, np.array([[p]]))[:, 0, 0]


def _below(y: NDArray, values: NDArray, levels: NDArray) -> NDArray:
    """The mass strictly below each value, [N]; 0 where it is missing."""
    rows, last = np.arange(len(y)), len(levels) - 1
    k = (values < y[:, None]).sum(1)  # y lies in (v[k - 1], v[k]]
    left, right = np.clip(k - 1, 0, last - 1), np.clip(k, 1, last)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        w = (y - values[rows, left]) / (values[rows, right] - values[rows, left])
        inside = levels[left] + w * (levels[right] - levels[left])
        b0, b1 = conformal.tails(values, levels)
        low = levels[0] * np.exp((y - values[:, 0]) / b0)
        high = 1 - (1 - levels[-1]) * np.exp((values[:, -1] - y) / b1)
    return np.nan_to_num(np.where(k == 0, low, np.where(k > last, high, inside)))
