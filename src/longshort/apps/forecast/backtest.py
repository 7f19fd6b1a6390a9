"""Forecasts from past origins beside the truth, their scores, and the baseline that is always there. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast import metrics
from longshort.apps.forecast.config import Config, ends
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.tables import free
from longshort.apps.forecast.window import phase_values


@dataclass(frozen=True)
class Backtest:
    """Forecasts from past origins beside the truth.

    Args:
        panel: the series.
        config: the resolved Config.
        series: number of the series of each row, [B].
        origin: steps of that series that were known, [B].
        quantiles: forecasts by name, LSTM first, each [B, H, Q] at `config.quantiles`.
    """

    panel: Panel
    config: Config
    series: NDArray
    origin: NDArray
    quantiles: Mapping[str, NDArray]

    @cached_property
    def truth(self) -> NDArray:
        """What came, NaN where missing, [B, H]."""
        return self.panel.window(self.series, self.origin, self.config.horizon)

    @cached_property
    def scale(self) -> NDArray:
        """What MASE divides by: the seasonal naive error over each row's own history, or the naive one, of a step, where it holds
        no season and a step, [B]."""
        m = cast(int, self.config.season_length)
        past = [self.panel.history(s, n) for s, n in zip(self.series, self.origin, strict=True)]
        return np.array([metrics.naive_error(y, m if len(y) > m else 1) for y in past])

    def score(self, forecast: NDArray) -> dict[str, float]:
        """MASE, sMAPE (percent), wQL (mean weighted quantile loss) and the coverage of each interval, of forecasts [B, H, Q]."""
        q, y = np.array(self.config.quantiles), self.truth
        point = forecast[..., find(q, self.config.point)]
        made = {"MASE": metrics.mase(y, point, self.scale), "sMAPE": metrics.smape(y, point), "wQL": metrics.wql(y, forecast, q)}
        for level in self.config.levels:
            low, high = (forecast[..., find(q, e)] for e in ends(level))
            made[f"coverage-{level:g}"] = metrics.coverage(y, low, high)
        return made

    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of each forecast by name: LSTM, and SeasonalNaive beside it."""
        return {name: self.score(f) for name, f in self.quantiles.items()}

    def frame(self) -> Any:
        """The long frame `unique_id, ds, cutoff, y, LSTM, LSTM-lo-80, ...`, a frame of the kind that came in."""
        H = self.config.horizon
        rows, ahead = np.repeat(np.arange(len(self.series)), H), np.tile(np.arange(H), len(self.series))
        series, origin = self.series[rows], self.origin[rows]
        c = self.panel.columns
        made = {
            c.ds: self.panel.stamps(series, origin + ahead),
            "cutoff": self.panel.stamps(series, origin - 1),
            c.y: self.truth[rows, ahead],
        }
        forecasts = {k: v for name, f in self.quantiles.items() for k, v in columns(name, f, self.config).items()}
        free(c, "cutoff", *forecasts)
        return self.panel.frame(series, made | forecasts)


def columns(name: str, forecast: NDArray, config: Config) -> dict[str, NDArray]:
    """The columns `NAME, NAME-lo-80, NAME-hi-80, ...` of forecasts [B, H, Q], each [B * H]."""
    q = np.array(config.quantiles)
    made = {name: forecast[..., find(q, config.point)].reshape(-1)}
    for level in config.levels:
        for side, e in zip(("lo", "hi"), ends(level), strict=True):
            made[f"{name}-{side}-{level:g}"] = forecast[..., find(q, e)].reshape(-1)
    return made


def find(q: NDArray, level: float) -> int:
    """Where a level stands among the quantile levels."""
    return int(np.abs(q - level).argmin())


def seasonal_naive(config: Config, panel: Panel, series: NDArray, origin: NDArray) -> NDArray:
    """The baseline: the newest value of the same phase, with normal intervals from the errors it made before the origin.

    Args and Returns: as `Recipe.forecast`.
    Source: Hyndman & Athanasopoulos 2021, Forecasting: principles and practice, 5.2 and 5.5.
    """
    H, m = config.horizon, cast(int, config.season_length)
    z = np.array([NormalDist().inv_cdf(q) for q in config.quantiles])
    years = np.sqrt(np.arange(H) // m + 1)
    made = np.empty((len(series), H, len(z)))
    for k, (s, n) in enumerate(zip(series, origin, strict=True)):
        past = panel.history(s, n)
        point = phase_values(past[None], m)[0][np.arange(H) % m]
        point = np.where(np.isfinite(point), point, past[np.isfinite(past)][-1])
        steps = past[m:] - past[:-m]
        steps = steps[np.isfinite(steps)]
        spread = np.sqrt(np.mean(steps**2)) if len(steps) else 0.0
        made[k] = point[:, None] + spread * years[:, None] * z
    return made
