"""What a model sees of one forecast origin: all of it computed from the context, so that no future leaks. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PAST, STATIC = 4, 3  # channels of Window.past and Window.static
REGULAR, LEAST_UNIT = 0.25, 1e-3  # a naive error below this share of the scale makes the unit smaller, down to this
ALIKE = 4  # pairs, at least, that tell whether a series repeats itself
FLAT_LOG = 0.05  # the scale of logarithms that never move: 5 %
WILD_LOG = 4.6  # a forecast of logarithms stays below a hundred times the largest value of the context
READ = 336  # longest part of the context that the LSTM reads; the guesses see all of it


class Window(NamedTuple):
    """A batch of contexts, scaled at the forecast origin.

    past: value, value without its season, 1 where observed, and the second's change since the step before; scaled, 0 where
        missing; the last `read` steps at most, float32, [B, min(L, read), PAST].
    guesses: simple forecasts (see `encode`), scaled, 0 where there is none, float32, [B, H, K].
    known: 1 where there is a guess, float32, [B, H, K].
    static: log(scale / |level|) / 4 within -4 to 4; the share of the context that is observed; and the logarithm of the unit of
        corrections and widths: 1, but less for a series that repeats itself (its mean change over a season, in scaled units,
        over REGULAR, within LEAST_UNIT and 1), float32, [B, STATIC].
    level: where the series stands at the origin, float64, [B]; scaled = (y - level) / scale.
    scale: mean distance of the context from the level, positive; where there is none, the size of the level, float64, [B].
    log: whether all this is of log y.
    known_unit: whether scaled values can be compared with those of other windows: where nothing moved, the scale is made up; but
        counts have a unit of their own, bool, [B].
    top: the largest value of the context, its logarithm where all is of log y, float64, [B].
    """

    past: NDArray
    guesses: NDArray
    known: NDArray
    static: NDArray
    level: NDArray
    scale: NDArray
    log: bool
    known_unit: NDArray
    top: NDArray

    def scaled(self, y: NDArray) -> NDArray:
        """Values [B, ...] in scaled units."""
        shape = (-1, *(1,) * (y.ndim - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return ((np.log(y) if self.log else y) - self.level.reshape(shape)) / self.scale.reshape(shape)

    def values(self, scaled: NDArray) -> NDArray:
        """Scaled values [B, ...] in units of the data, float64."""
        shape = (-1, *(1,) * (scaled.ndim - 1))
        scale = np.where(self.known_unit | (self.level != 0) | self.log, self.scale, 0)  # what was always zero stays zero
        y = scaled * scale.reshape(shape) + self.level.reshape(shape)
        return np.exp(np.minimum(y, self.top.reshape(shape) + WILD_LOG)) if self.log else y


def kinds(seasons: tuple[int, ...]) -> int:
    """How many simple forecasts `encode` makes, K: the last value, and two for each season longer than one step."""
    return 1 + 2 * sum(m > 1 for m in seasons)


def encode(
    past: NDArray, horizon: int, seasons: tuple[int, ...], *, level_zero: bool = False, log: bool = False, read: int = READ
) -> Window:
    """Scale contexts and make the simple forecasts that the model mixes and corrects.

    The guesses are: the last value; for each season m > 1 the value one season ago (seasonal naive) and the level plus the
    mean deviation of that phase from a moving average over m steps (classical decomposition).

    Args:
        past: the last L values before the origin, NaN where missing, at least one observed per row, float64, [B, L].
        horizon: steps H to forecast.
        seasons: steps per season, the most important one first.
        level_zero: take 0 as the level, so that scaled values are multiples of the mean size: for counts.
        log: take logarithms first; then all values must be positive.
        read: steps of the context that the LSTM reads, at most.

    Returns:
        The window; it depends on nothing but the arguments.
    """
    (B, L), seen = past.shape, np.isfinite(past)
    past = np.log(past) if log else past
    last = past[np.arange(B), L - 1 - seen[:, ::-1].argmax(1)]
    guesses, adjusted, level = [np.broadcast_to(last[:, None], (B, horizon))], past, last
    for m in reversed([m for m in seasons if m > 1]):
        profile = phases(past, m)  # [B, m], of the steps that follow the origin; NaN where unknown
        ahead = np.resize(np.arange(m), horizon)
        adjusted = past - np.nan_to_num(profile[:, (np.arange(L) - L) % m])
        level = _recent(adjusted, max(1, m // 4))
        guesses[1:1] = [phase_values(past, m)[:, ahead], level[:, None] + profile[:, ahead]]
    if level_zero:
        level = np.zeros(B)
    distance = _mean(np.abs(past - level[:, None]))
    size = np.full(B, FLAT_LOG) if log else np.ones(B) if level_zero else np.where(level != 0, np.abs(level), 1e-9)
    moves = distance > 1e-12 * np.abs(level)
    scale = np.where(moves, distance, size)
    change = np.stack([_change(past, m) / scale for m in seasons], -1)
    unit = np.clip(np.nan_to_num(change, nan=1.0).min(-1) / REGULAR, LEAST_UNIT, 1)
    spread = np.clip(np.log(scale / np.maximum(np.abs(level), 1e-12)) / 4, -4, 4)
    stacked = (np.stack(guesses, -1) - level[:, None, None]) / scale[:, None, None]
    scaled = [np.nan_to_num((v - level[:, None]) / scale[:, None]) for v in (past, adjusted)]
    change = np.nan_to_num(np.diff(adjusted, axis=1, prepend=np.nan) / scale[:, None])
    return Window(
        np.stack([*scaled, seen, change], -1)[:, -read:].astype(np.float32),
        np.nan_to_num(stacked).astype(np.float32),
        np.isfinite(stacked).astype(np.float32),
        np.stack([spread, seen.mean(1), np.log(unit)], -1).astype(np.float32),
        level,
        scale,
        log,
        moves | level_zero,
        np.where(seen, past, -np.inf).max(1),
    )


def phase_values(past: NDArray, m: int) -> NDArray:
    """The newest observed value of each phase of the season; phase 0 follows the origin. [B, m], NaN where there is none."""
    grid = _cycles(past, m)[:, ::-1]
    return np.take_along_axis(grid, np.isfinite(grid).argmax(1)[:, None], 1)[:, 0]


def phases(past: NDArray, m: int) -> NDArray:
    """Mean deviation of each phase from a centred moving average over m steps; phase 0 follows the origin. [B, m]."""
    L, half, seen = past.shape[1], m // 2, np.isfinite(past)
    weight = np.ones(2 * half + 1)
    if m % 2 == 0:
        weight[[0, -1]] = 0.5  # the 2 x m average, so that each phase counts once
    total, count = (_moving(v, weight) for v in (np.nan_to_num(past), seen.astype(float)))  # [B, L]
    inside = (np.arange(L) >= half) & (np.arange(L) < L - half) & (count > 0.75 * m)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(inside & seen, past - total / count, np.nan)
    return _mean(_cycles(off, m), 1)


def _change(v: NDArray, m: int) -> NDArray:
    """Mean |v_t - v_{t-m}| of each row: what MASE divides by; NaN where there are not as many pairs as a season has steps, and
    four, for few may be alike by chance. [B]."""
    change = np.abs(v[:, m:] - v[:, :-m])
    return np.where(np.isfinite(change).sum(1) >= max(m, ALIKE), _mean(change), np.nan)


def _cycles(v: NDArray, m: int) -> NDArray:
    """Rows of L steps as whole cycles of m steps that end at the origin, the first one filled up with NaN. [B, L / m, m]."""
    B, L = v.shape
    return np.concatenate([np.full((B, -L % m), np.nan), v], 1).reshape(B, -1, m)


def _moving(v: NDArray, weight: NDArray) -> NDArray:
    """Weighted sum of each step's neighbourhood, 0 outside. [B, L]; the weights are equal but for the two ends."""
    half = len(weight) // 2
    padded = np.pad(v, ((0, 0), (half + 1, half)))
    sums = np.cumsum(padded, 1)
    whole = sums[:, 2 * half + 1 :] - sums[:, : -2 * half - 1]
    ends = padded[:, 1 : v.shape[1] + 1] + padded[:, 2 * half + 1 :]
    return whole - (1 - weight[0]) * ends


def _recent(v: NDArray, n: int) -> NDArray:
    """Mean of the n newest observed values of each row. [B]."""
    newest = np.cumsum(np.isfinite(v)[:, ::-1], 1)[:, ::-1] <= n
    return _mean(np.where(newest, v, np.nan))


def _mean(v: NDArray, axis: int = -1) -> NDArray:
    """Mean of what is observed, NaN where nothing is."""
    seen = np.isfinite(v)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seen, v, 0).sum(axis) / seen.sum(axis)
