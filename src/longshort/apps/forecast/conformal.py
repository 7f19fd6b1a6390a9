"""Split-conformal calibration of quantile forecasts, and sample paths from them. NumPy only.

Shapes: n held-out windows, H steps, Q quantiles; all in scaled units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST = 40  # held-out values below which nothing is calibrated
NARROWEST = 0.25  # no quantile comes nearer to the median than to the root of this share of its distance
EACH = 80  # held-out windows apart from which each step has factors of its own
MOST_RANKS = 256  # held-out windows that are kept as patterns for sample paths


def stretch(forecast: NDArray, truth: NDArray, levels: NDArray, apart: int | None = None) -> NDArray:
    """Factors that make each quantile cover the held-out truth as often as it says.

    With the distance d = q - median of a quantile above the median, r = (y - median) / d says by which factor it should have
    been larger; the factor taken is the ceil((n + 1) p)-th smallest r of n, so that a new truth lies below with a probability of
    at least p, as far as windows are exchangeable. Below the median likewise. A factor below 1 goes half the way (its
    square root, 0.5 at least), and less where windows are few: windows of one panel end together and err together, so that few
    misses there may be luck; and where all of them err to one side, the next ones may err to the other.

    Where windows are few, all steps share a factor. Steps of one window, and windows that overlap, err together, though not
    wholly: n values are then worth m, the geometric mean of n and of how many windows are apart, and a new truth stands for
    n / m of them, so that the ceil((n + n / m) p)-th smallest is taken.

    Args:
        forecast: quantiles, ascending, [n, H, Q].
        truth: NaN where missing, [n, H].
        levels: 0.5 among them, [Q].
        apart: how many of the windows have no step in common; None: all.

    Returns:
        Factors, 1 for the median, [H, Q].

    Source: Romano, Patterson & Candes 2019, Conformalized quantile regression; in its scaled form.
    """
    (_, H, Q), middle = forecast.shape, int(np.abs(levels - 0.5).argmin())
    made = np.ones((H, Q))
    seen = np.isfinite(truth)
    apart = len(truth) if apart is None else apart
    shared = min(apart, seen.sum(0).min()) < EACH
    if seen.sum() < LEAST:
        return made
    off = truth - forecast[..., middle]
    for k in range(Q):
        if k == middle:
            continue
        d = forecast[..., k] - forecast[..., middle]
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.where(seen & (np.abs(d) > 1e-9), off / d, np.nan)
        p = max(levels[k], 1 - levels[k])
        each = [r] if shared else np.split(r, H, 1)
        made[:, k] = [_factor(v[np.isfinite(v)], p, apart) for v in each]
    return made


def _factor(r: NDArray, p: float, apart: int) -> float:
    if not (n := len(r)):
        return 1.0
    worth = np.sqrt(n * min(apart, n))
    rank = min(int(np.ceil((n + n / worth) * p)), n)
    f = max(float(np.partition(r, rank - 1)[rank - 1]), NARROWEST)
    return f if f >= 1 else f ** (0.5 * min(apart / EACH, 1))


def ranks(forecast: NDArray, truth: NDArray, levels: NDArray) -> NDArray:
    """Where the truth of whole windows falls among the quantiles: levels in (0, 1), [m, H], m <= 256.

    Args: as `stretch`, with forecasts already stretched. Windows with missing truth are left out.
    """
    whole = np.flatnonzero(np.isfinite(truth).all(1))
    whole = whole[np.linspace(0, len(whole) - 1, min(len(whole), MOST_RANKS)).astype(int)] if len(whole) else whole
    y, v = truth[whole], forecast[whole]
    k = np.clip((v < y[..., None]).sum(-1) - 1, 0, len(levels) - 2)[..., None]
    low, high = (np.take_along_axis(v, k + j, -1)[..., 0] for j in (0, 1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        w = np.where(high > low, (y - low) / (high - low), 0.5)
        inside = levels[k[..., 0]] + w * (levels[k[..., 0] + 1] - levels[k[..., 0]])
        b0, b1 = tails(v, levels)
        below, above = levels[0] * np.exp((y - v[..., 0]) / b0), 1 - (1 - levels[-1]) * np.exp((v[..., -1] - y) / b1)
    made = np.where(y < v[..., 0], below, np.where(y > v[..., -1], above, inside))
    return np.clip(np.nan_to_num(made, nan=0.5), 1e-4, 1 - 1e-4).astype(np.float32)


def values_at(forecast: NDArray, levels: NDArray, at: NDArray) -> NDArray:
    """The values at given levels of quantile forecasts: straight lines between quantiles, exponential tails beyond them.

    Args:
        forecast: quantiles, ascending, [B, H, Q].
        levels: their levels, [Q].
        at: levels in (0, 1), [n, H].

    Returns:
        Values, [B, n, H].
    """
    k = np.clip(np.searchsorted(levels, at) - 1, 0, len(levels) - 2)  # [n, H]
    step = np.arange(at.shape[1])
    w = (at - levels[k]) / (levels[k + 1] - levels[k])
    inside = (1 - w) * forecast[:, step, k] + w * forecast[:, step, k + 1]
    b0, b1 = (b[:, None] for b in tails(forecast, levels))
    below = forecast[:, None, :, 0] + b0 * np.log(np.minimum(at / levels[0], 1))
    above = forecast[:, None, :, -1] - b1 * np.log(np.minimum((1 - at) / (1 - levels[-1]), 1))
    return np.where(at < levels[0], below, np.where(at > levels[-1], above, inside))


def carry(drawn: NDArray, before: NDArray, after: NDArray) -> NDArray:
    """Values moved as the quantiles around them were moved: at the same level as before. Straight lines between quantiles, and
    beyond the outermost ones as far as these were; with them where two quantiles were one.

    Args:
        drawn: values, [B, n, H].
        before: their quantiles, ascending, [B, H, Q].
        after: where these quantiles were moved to, ascending, [B, H, Q].

    Returns:
        Values in the same order, [B, n, H].
    """
    k = np.zeros(drawn.shape, np.int64)
    for q in range(1, before.shape[-1] - 1):
        k += drawn >= before[:, None, :, q]
    b0, b1, a0, a1 = (np.take_along_axis(v[:, None], k[..., None] + j, -1)[..., 0] for v in (before, after) for j in (0, 1))
    apart = b1 > b0
    inside = a0 + (drawn - b0) * np.where(apart, (a1 - a0) / np.where(apart, b1 - b0, 1), 1)
    return np.where(drawn < b0, drawn + a0 - b0, np.where(drawn > b1, drawn + a1 - b1, inside))


def tails(forecast: NDArray, levels: NDArray) -> tuple[NDArray, NDArray]:
    """Decay lengths of both exponential tails, through the two outermost quantiles, [..., H] each."""
    low = (forecast[..., 1] - forecast[..., 0]) / np.log(levels[1] / levels[0])
    high = (forecast[..., -1] - forecast[..., -2]) / np.log((1 - levels[-2]) / (1 - levels[-1]))
    return low, high
