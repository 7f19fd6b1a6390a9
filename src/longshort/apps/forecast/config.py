"""What to forecast, with which model and how large: one frozen dataclass of plain values. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from longshort import checks
from longshort.apps.forecast.covariates import Names
from longshort.apps.forecast.freq import parse

if TYPE_CHECKING:
    from longshort.apps.forecast.data import Panel

Model = Literal["direct", "deepar", "esrnn"]
Distribution = Literal["student_t", "normal", "negative_binomial"]
DECILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
DAYS = (24, 48, 96)  # seasons of one day that also get the week
LEAST_PAST, LEAST_SERIES = 2, 3  # observed values without which nothing can be forecast, and nothing learned


@dataclass(frozen=True)
class Config:
    """What to forecast, with which model and how large.

    Args:
        horizon: steps to forecast.
        levels: prediction intervals in percent; 80 gives the columns LSTM-lo-80 and LSTM-hi-80.
        model: direct: one network gives quantiles of all steps at once. deepar: it gives the distribution of the next step and
            is walked along sample paths (Salinas et al. 2020). esrnn: exponential smoothing per series, and a network that
            forecasts what is left of the smoothed series (Smyl 2020).
        freq: step between time stamps, as pandas or polars write it (D, W-SAT, MS, 30min) or a whole number for integer ds;
            None infers it from the data.
        season_length: steps per season; None takes the custom of freq: Y 1, Q 4, M 12, W 52, D 7, B 5, h 24, 30min 48.
            Integer ds has no custom: 1. A day of 24, 48 or 96 steps also gets the week.
            Of data that is no longer than that season, None takes 1.
        context: steps before the origin that a forecast is made from; None takes two horizons or three seasons (two weeks,
            where a day has 24, 48 or 96 steps), whichever is longer, and 12 at least. Of direct and deepar the LSTM itself reads
            the last 336 of them.
        history: how many of the newest steps of each series are learned from; None learns from all.
        past: columns of the data that are known up to the origin.
        future: columns that are known for the horizon as well; predict needs them there.
        static: columns that belong to a series as a whole: numbers, or text for categories.
        calendar: also feed the time of day, week and year that each time stamp falls on, as far as the step resolves them.
        hidden: units of each LSTM layer.
        dilations: one encoder layer per entry, which sees the state that many steps back.
        residual: of direct and esrnn: add the input of each encoder layer but the first to its output.
        attention: of direct and esrnn: let the last layer also look back at all steps (Vaswani et al. 2017, one head).
        dropout: dropout in training, in [0, 1).
        batch: windows per update.
        distribution: of deepar: student_t, normal, or negative_binomial for counts.
        samples: sample paths per forecast of deepar.
        inputs: of esrnn: steps of the smoothed series that the network sees at each step; None takes one season, within
            4 and 24.
        multiplicative: of esrnn: smooth logarithms, so that seasons are factors; None does where all values to learn
            from are positive.
        level_penalty: of esrnn: weight of the level's mean squared bend, which keeps it smooth.
        point: the quantile that the column LSTM holds and that point scores judge, in (0, 1).
        ensemble: networks, of seeds seed, seed + 1, ..., whose quantiles are averaged.
        calibrate: stretch the intervals so that they cover the held-out truth as often as they say (split conformal). Series of
            which less is known than of those held out are stretched as these are when cut to as few values.
        holdout: series, at most, whose end is held out to choose the best weights and to calibrate; 0 learns from everything
            and takes the last weights, uncalibrated.
        nonnegative: no forecast falls below zero.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.
    """

    horizon: int = 12
    levels: tuple[float, ...] = (80,)
    model: Model = "direct"
    freq: str | int | None = None
    season_length: int | None = None
    context: int | None = None
    history: int | None = None
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    calendar: bool = False
    hidden: int = 64
    dilations: tuple[int, ...] = (1, 2)
    residual: bool = False
    attention: bool = False
    dropout: float = 0.1
    batch: int = 128
    distribution: Distribution = "student_t"
    samples: int = 200
    inputs: int | None = None
    multiplicative: bool | None = None
    level_penalty: float = 0.0
    point: float = 0.5
    ensemble: int = 1
    calibrate: bool = True
    holdout: int = 1000
    nonnegative: bool = False

    def __post_init__(self) -> None:
        checks.whole(self, horizon=1, hidden=1, batch=1, samples=20, ensemble=1, holdout=0)
        checks.layers(self, "ensemble")
        maybe = {"season_length": 1, "context": LEAST_PAST, "history": 1, "inputs": 1}
        checks.whole(self, **{name: least for name, least in maybe.items() if getattr(self, name) is not None})
        for name in ("levels", "dilations"):
            v = getattr(self, name)
            many = tuple(v) if isinstance(v, list | tuple) else (v,)
            if any(isinstance(x, bool) or not isinstance(x, int | float) for x in many):
                raise TypeError(f"{name} must be numbers, got {v!r}.")
            object.__setattr__(self, name, many)
        for name in ("past", "future", "static"):
            v = getattr(self, name)
            many = (v,) if isinstance(v, str) else tuple(v)
            if any(not isinstance(x, str) for x in many):
                raise TypeError(f"{name} must be names of columns, got {v!r}.")
            object.__setattr__(self, name, many)
        _ = self.names
        if not all(0 < x < 100 and round(ends(x)[1], 6) < 1 for x in self.levels) or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be different percentages between 0 and 100, such as (80, 95), got {self.levels}.")
        if not self.dilations or any(not isinstance(d, int) or d < 1 for d in self.dilations):
            raise ValueError(f"dilations must be whole numbers of at least 1, one per layer, got {self.dilations}.")
        checks.one_of(self, model=Model, distribution=Distribution)
        if self.model == "deepar" and (self.residual or self.attention):
            raise ValueError(
                "residual and attention are of direct and esrnn, deepar has neither. Leave them out, or change model."
            )
        checks.rate(self, "dropout")
        if not 0 < round(self.point, 6) < 1:
            raise ValueError(f"point must be a quantile between 0 and 1, got {self.point}.")
        checks.nonnegative(self, "level_penalty")
        if self.freq is not None:
            parse(self.freq)

    @property
    def names(self) -> Names:
        """The covariates by role."""
        return Names(self.past, self.future, self.static)

    @property
    def counts(self) -> bool:
        """Whether whole numbers of 0 or more are learned and forecast."""
        return self.model == "deepar" and self.distribution == "negative_binomial"

    @property
    def floored(self) -> bool:
        """Whether nothing below 0 is given out."""
        return self.nonnegative or self.counts

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The levels that are forecast, ascending: the deciles, the point forecast, and both ends of each interval."""
        return tuple(sorted({*DECILES, round(self.point, 6), *(round(q, 6) for p in self.levels for q in ends(p))}))

    @property
    def seasons(self) -> tuple[int, ...]:
        """Steps per season, the most important one first. Needs a resolved season_length."""
        m = cast(int, self.season_length)
        return (m, 7 * m) if m in DAYS else (m,)

    def resolve(self, panel: Panel) -> Config:
        """The same with freq, season_length, context, inputs and multiplicative filled in from a panel."""
        m = self.season_length or (panel.freq.season if panel.lengths.max() > panel.freq.season else 1)
        season = 7 * m if m in DAYS else m
        auto = max(2 * self.horizon, (2 if season > m else 3) * season, 12)
        inputs = self.inputs or min(max(m, 4), 24)
        log = bool(np.nanmin(panel.y) > 0) if self.multiplicative is None else self.multiplicative
        return replace(
            self, freq=panel.freq.name, season_length=m, context=self.context or auto, inputs=inputs, multiplicative=log
        )


def ends(level: float) -> tuple[float, float]:
    """The two quantiles that bound a prediction interval, given in percent."""
    return 0.5 - level / 200, 0.5 + level / 200
