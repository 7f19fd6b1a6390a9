"""Scores of point and probabilistic forecasts. NumPy only. NaN is a missing truth; it counts nowhere.

Shapes: y and point forecasts [B, H], quantile forecasts [B, H, Q], one row per forecast origin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-12  # of the largest value


def naive_error(past: NDArray, m: int) -> float:
    """The error that MASE divides by: mean of |y_t - y_{t-m}| over a history. NaN if it has no such pair; 0 where it is no more
    than rounding.

    Args:
        past: the history up to the origin, NaN where missing, [T].
        m: steps per season.

    Source: Hyndman & Koehler 2006, Another look at measures of forecast accuracy, section 3.
    """
    steps = np.abs(past[m:] - past[:-m])
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return float("nan")
    error = float(steps.mean())
    return error if error > ROUNDING * np.nanmax(np.abs(past)) else 0.0


def mase(y: NDArray, forecast: NDArray, scale: NDArray) -> float:
    """Mean absolute scaled error: each row's mean absolute error over its `naive_error`, then the mean over rows.

    Args:
        y: truth, [B, H].
        forecast: point forecast, [B, H].
        scale: `naive_error` of each row's history, [B]. Rows where it is 0 or NaN have no MASE and are left out.

    Source: Hyndman & Koehler 2006.
    """
    error = _row_mean(np.abs(y - forecast))
    rows = np.isfinite(error) & np.isfinite(scale) & (scale > 0)
    return float(np.mean(error[rows] / scale[rows])) if rows.any() else float("nan")


def smape(y: NDArray, forecast: NDArray) -> float:
    """Symmetric mean absolute percentage error in percent, 0 to 200: 200 |y - f| / (|y| + |f|), 0 where both are 0.

    Source: Makridakis et al. 2020, The M4 competition, section 2 (mean over steps, then over rows).
    """
    size = np.abs(y) + np.abs(forecast)
    error = np.abs(y - forecast)
    ratio = np.divide(error, size, out=np.zeros_like(error), where=(size > 0) & np.isfinite(error))
    return 200 * _mean(_row_mean(np.where(np.isfinite(error), ratio, np.nan)))


def wql(y: NDArray, quantiles: NDArray, levels: NDArray) -> float:
    """Mean weighted quantile loss: 2 * sum of pinball losses / sum of |y|, averaged over the quantile levels.

    Args:
        y: truth, [B, H].
        quantiles: forecasts, [B, H, Q].
        levels: the Q levels, in (0, 1).

    Source: Park et al. 2022, Learning Quantile Functions without Quantile Crossing, section 5; GluonTS' mean_wQuantileLoss.
    """
    off = y[..., None] - quantiles
    loss = np.nansum(np.maximum(levels * off, (levels - 1) * off), (0, 1))
    total = np.nansum(np.abs(y))
    return float(np.mean(2 * loss / total)) if total > 0 else float("nan")


def coverage(y: NDArray, low: NDArray, high: NDArray) -> float:
    """Share of the observed truth that lies in [low, high]."""
    inside = (y >= low) & (y <= high)
    return _mean(np.where(np.isfinite(y), inside, np.nan))


def msis(y: NDArray, low: NDArray, high: NDArray, scale: NDArray, level: float) -> float:
    """Mean scaled interval score: the width of the interval, and 2 / alpha times what the truth lies outside, alpha = 1 - level.

    Args:
        y: truth, [B, H].
        low: lower end, [B, H].
        high: upper end, [B, H].
        scale: `naive_error` of each row's history, [B]. Rows where it is 0 or NaN have no score and are left out.
        level: the interval's level in percent.

    Source: Gneiting & Raftery 2007, section 6.2; Makridakis et al. 2020, The M4 competition, section 2.
    """
    beyond = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return mase(np.zeros_like(y), high - low + 200 / (100 - level) * beyond, scale)


def _row_mean(v: NDArray) -> NDArray:
    seen = np.isfinite(v)
    with np.errstate(invalid="ignore"):
        return np.where(seen, v, 0).sum(1) / seen.sum(1)


def _mean(v: NDArray) -> float:
    v = v[np.isfinite(v)]
    return float(v.mean()) if len(v) else float("nan")
