"""What forecasting means to the loop: windows of a panel, the quantile loss, scores beside the seasonal naive forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort.apps.forecast import metrics
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.freq import parse
from longshort.apps.forecast.model import Network
from longshort.apps.forecast.window import PAST, READ, encode, kinds, phase_values
from longshort.cell import Cell
from longshort.task import Batches, Input, Loss, Plain, Split

DECILES = tuple(round(0.1 * k, 1) for k in range(1, 10))
DAYS = (24, 48, 96)  # seasons of one day that also get the week
LEAST_PAST, LEAST_SERIES = 2, 3  # observed values without which nothing can be forecast, and nothing learned
WILD = 50.0  # scaled targets are bounded by this, so that no window rules the loss
ORIGINS = 8  # validation origins per series where series are few


@dataclass(frozen=True)
class Config:
    """What to forecast and with how large a network.

    Args:
        horizon: steps to forecast.
        levels: prediction intervals in percent; 80 gives the columns LSTM-lo-80 and LSTM-hi-80.
        freq: step between time stamps, as pandas or polars write it (D, W-SAT, MS, 30min) or a whole number for integer ds;
            None infers it from the data.
        season_length: steps per season; None takes the custom of freq: Y 1, Q 4, M 12, W 52, D 7, B 5, h 24, 30min 48.
            Integer ds has no custom: 1. A day of 24, 48 or 96 steps also gets the week.
        context: steps before the origin that a forecast is made from; None takes two horizons or three seasons (two weeks,
            where a day is a season), whichever is longer. The LSTM itself reads the last 336 of them.
        hidden: units of each LSTM layer.
        dilations: one encoder layer per entry, which sees the state that many steps back.
        dropout: dropout in training, in [0, 1).
        batch: windows per update.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.
    """

    horizon: int = 12
    levels: tuple[float, ...] = (80,)
    freq: str | int | None = None
    season_length: int | None = None
    context: int | None = None
    hidden: int = 64
    dilations: tuple[int, ...] = (1, 2)
    dropout: float = 0.1
    batch: int = 64

    def __post_init__(self) -> None:
        for name, least in (("horizon", 1), ("season_length", 1), ("context", LEAST_PAST), ("hidden", 1), ("batch", 1)):
            v = getattr(self, name)
            if v is None and name in ("season_length", "context"):
                continue
            if isinstance(v, bool) or not isinstance(v, int):
                raise TypeError(f"{name} must be a whole number, got {v!r}.")
            if v < least:
                raise ValueError(f"{name} must be at least {least}, got {v}.")
        for name in ("levels", "dilations"):
            v = getattr(self, name)
            many = tuple(v) if isinstance(v, list | tuple) else (v,)
            if any(isinstance(x, bool) or not isinstance(x, int | float) for x in many):
                raise TypeError(f"{name} must be numbers, got {v!r}.")
            object.__setattr__(self, name, many)
        if not all(0 < x < 100 for x in self.levels) or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels must be different percentages between 0 and 100, such as (80, 95), got {self.levels}.")
        if not self.dilations or any(not isinstance(d, int) or d < 1 for d in self.dilations):
            raise ValueError(f"dilations must be whole numbers of at least 1, one per layer, got {self.dilations}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.freq is not None:
            parse(self.freq)

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The levels that the network learns, ascending: the deciles and both ends of each interval."""
        return tuple(sorted({*DECILES, *(round(q, 6) for p in self.levels for q in ends(p))}))

    @property
    def seasons(self) -> tuple[int, ...]:
        """Steps per season, the most important one first. Needs a resolved season_length."""
        m = cast(int, self.season_length)
        return (m, 7 * m) if m in DAYS else (m,)

    def resolve(self, panel: Panel) -> Config:
        """The same with freq, season_length and context filled in from a panel."""
        m = self.season_length or panel.freq.season
        season = 7 * m if m in DAYS else m
        auto = max(2 * self.horizon, (2 if season > m else 3) * season, 12)
        return replace(self, freq=panel.freq.name, season_length=m, context=self.context or auto)


def ends(level: float) -> tuple[float, float]:
    """The two quantiles that bound a prediction interval, given in percent."""
    return 0.5 - level / 200, 0.5 + level / 200


class Batch(NamedTuple):
    """Windows with their targets.

    past, guesses, known: the inputs of `Network`, float32.
    target: scaled future, NaN where missing or not for training, float32, [B, H].
    """

    past: Tensor
    guesses: Tensor
    known: Tensor
    target: Tensor


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
        """What MASE divides by: the seasonal naive error over each row's own history, [B]."""
        m = cast(int, self.config.season_length)
        rows = zip(self.series, self.origin, strict=True)
        return np.array([metrics.naive_error(self.panel.history(s, n), m) for s, n in rows])

    def score(self, forecast: NDArray) -> dict[str, float]:
        """MASE, sMAPE (percent), wQL (mean weighted quantile loss) and the coverage of each interval, of forecasts [B, H, Q]."""
        q, y = np.array(self.config.quantiles), self.truth
        point = forecast[..., find(q, 0.5)]
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
        for name, f in self.quantiles.items():
            made |= columns(name, f, self.config)
        return self.panel.frame(series, made)


def columns(name: str, forecast: NDArray, config: Config) -> dict[str, NDArray]:
    """The columns `NAME, NAME-lo-80, NAME-hi-80, ...` of forecasts [B, H, Q], each [B * H]."""
    q = np.array(config.quantiles)
    made = {name: forecast[..., find(q, 0.5)].reshape(-1)}
    for level in config.levels:
        for side, e in zip(("lo", "hi"), ends(level), strict=True):
            made[f"{name}-{side}-{level:g}"] = forecast[..., find(q, e)].reshape(-1)
    return made


def find(q: NDArray, level: float) -> int:
    """Where a level stands among the quantile levels."""
    return int(np.abs(q - level).argmin())


def network(config: Config, cell: Cell) -> Network:
    """A fresh network for a resolved Config."""
    return Network(PAST, kinds(config.seasons), config.quantiles, config.hidden, config.dilations, config.dropout, cell)


def forecast(model: nn.Module, config: Config, panel: Panel, series: NDArray, origin: NDArray) -> NDArray:
    """Quantiles of the `horizon` steps after the first `origin` ones of some series. Nothing later is read.

    Args:
        model: a `Network`, in evaluation mode.
        config: the resolved Config.
        panel: the series.
        series: number of each row's series, [B].
        origin: how many of its steps are known, [B].

    Returns:
        Quantiles in the units of the data by ascending level, float64, [B, H, Q].

    Raises:
        ValueError: a context holds fewer than two observed values.
    """
    H, L = config.horizon, cast(int, config.context)
    device = next(model.parameters()).device
    made = [np.empty((0, H, len(config.quantiles)))]
    for k in range(0, len(series), 512):
        s, n = series[k : k + 512], origin[k : k + 512]
        past = panel.window(s, n - L, L)
        if len(bad := np.flatnonzero(np.isfinite(past).sum(1) < LEAST_PAST)):
            raise ValueError(
                f"series {panel.ids[int(s[bad[0]])]!r} has fewer than {LEAST_PAST} observed values in the {L} steps up to "
                f"{panel.stamps(s[bad[:1]], n[bad[:1]] - 1)[0]}, so nothing can be forecast from there. Leave it out"
                + (f" (and {len(bad) - 1} more like it)." if len(bad) > 1 else ".")
            )
        window = encode(past, H, config.seasons)
        with torch.no_grad():
            q = model(*(torch.from_numpy(v).to(device) for v in window[:3])).double().cpu().numpy()
        made.append(q * window.scale[:, None, None] + window.level[:, None, None])
    return np.concatenate(made)


def seasonal_naive(config: Config, panel: Panel, series: NDArray, origin: NDArray) -> NDArray:
    """The baseline: the newest value of the same phase, with normal intervals from the errors it made before the origin.

    Args and Returns: as `forecast`.
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


def backtest(model: nn.Module, config: Config, panel: Panel, series: NDArray, origin: NDArray) -> Backtest:
    """Forecast from past origins; the arguments are those of `forecast`."""
    return Backtest(panel, config, series, origin, {"LSTM": forecast(model, config, panel, series, origin),
                                                    "SeasonalNaive": seasonal_naive(config, panel, series, origin)})  # fmt: skip


class ForecastTask:
    """Forecasting as the loop sees it. The end of each series is held out for validation and never trained on.

    Held out are the last `horizon` steps, or more, up to a tenth of the series, where series are so few that one origin each
    would say little. Series too short for that are trained on whole.

    Args:
        config: what to forecast; freq, season_length and context are filled in from the panel.
        panel: the data.
        cell: the variant of the LSTM.

    Raises:
        ValueError: a series has fewer than three observed values.
    """

    better: tuple[str, Literal["min", "max"]] = ("MASE", "min")

    def __init__(self, config: Config, panel: Panel, cell: Cell = Cell()) -> None:  # noqa: B008
        self.config, self.panel, self.cell = config.resolve(panel), panel, cell
        if len(bad := np.flatnonzero(panel.observed() < LEAST_SERIES)):
            raise ValueError(
                f"series {panel.ids[int(bad[0])]!r} has {panel.observed()[bad[0]]} observed values; at least {LEAST_SERIES} are "
                "needed to learn from it. Leave it out of fit (predict takes it from two values on)"
                + (f"; {len(bad) - 1} more are as short." if len(bad) > 1 else ".")
            )
        H, L, n = self.config.horizon, cast(int, self.config.context), panel.lengths
        stride = max(1, H // 4)
        many = np.clip(np.minimum((n // 10 - H) // stride + 1, ORIGINS // len(panel)), 1, ORIGINS)
        end = n - H - (many - 1) * stride  # first validation origin
        held = np.array([np.isfinite(panel.history(s, max(e, 0))).sum() >= LEAST_SERIES for s, e in enumerate(end)])
        self.end = np.where(held, end, n)  # training reads no value from here on
        self.first = np.maximum(LEAST_PAST, np.minimum(L, self.end // 2))  # earliest training origin
        self.origins = np.maximum(self.end - self.first, 1)
        series = np.repeat(np.flatnonzero(held), many[held])
        step = np.concatenate([[], *(np.arange(k) for k in many[held])]).astype(np.int64)
        origin = self.end[series] + step * stride
        seen = np.isfinite(panel.window(series, origin - L, L)).sum(1) >= LEAST_PAST
        self.held = series[seen], origin[seen]

    @cached_property
    def judge(self) -> Backtest:
        """The validation origins with their truth and baseline, which stay the same while the model learns."""
        baseline = seasonal_naive(self.config, self.panel, *self.held)
        return Backtest(self.panel, self.config, *self.held, {"SeasonalNaive": baseline})

    @cached_property
    def naive(self) -> dict[str, float]:
        """The baseline's scores there."""
        return self.judge.score(self.judge.quantiles["SeasonalNaive"])

    def model(self) -> nn.Module:
        """A fresh `Network`."""
        return network(self.config, self.cell)

    def batches(self, split: Split, seed: int) -> Batches[Batch]:
        """Random windows: a series, each as likely as another, then an origin in it. A pass has as many as there are origins."""
        if split != "train":
            raise ValueError(f"only split 'train' comes in batches, got {split!r}; score() sees the others whole.")
        n = -(-int(self.origins.sum()) // self.config.batch)
        return Batches(n, lambda k: self.draw(np.random.default_rng([seed, k])))

    def draw(self, rng: np.random.Generator) -> Batch:
        """One batch of training windows. Targets that are missing or held out are NaN."""
        B, H, L = self.config.batch, self.config.horizon, cast(int, self.config.context)
        series = rng.integers(len(self.panel), size=B)
        origin = self.first[series] + (rng.random(B) * self.origins[series]).astype(np.int64)
        past, future = self.panel.window(series, origin - L, L), self.panel.window(series, origin, H)
        future[origin[:, None] + np.arange(H) >= self.end[series, None]] = np.nan
        enough = np.isfinite(past).sum(1) >= LEAST_PAST
        past[~enough], future[~enough] = 0.0, np.nan
        window = encode(past, H, self.config.seasons)
        target = np.clip((future - window.level[:, None]) / window.scale[:, None], -WILD, WILD).astype(np.float32)
        return Batch(*(torch.from_numpy(v) for v in (*window[:3], target)))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Pinball loss in scaled units, mean over the quantiles, doubled so that the median's part is the absolute error."""
        seen = torch.isfinite(batch.target)
        off = torch.where(seen, batch.target, 0)[..., None] - model(batch.past, batch.guesses, batch.known)  # [B, H, Q]
        q = torch.tensor(self.config.quantiles, device=off.device)
        pinball = 2 * torch.maximum(q * off, (q - 1) * off).mean(-1)
        return Loss(torch.where(seen, pinball, 0).sum(), seen.sum())

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Scores on the held-out end of the series, in real units, and the seasonal naive forecast's MASE."""
        if split != "valid" or not len(self.held[0]):
            return {}
        made = self.judge.score(forecast(model, self.config, self.panel, *self.held))
        if not np.isfinite(made["MASE"]):  # every series is constant: nothing to choose by
            return {}
        return made | {"MASE of seasonal naive": self.naive["MASE"]}

    def predict(self, model: nn.Module, request: Panel) -> Any:
        """Forecast what follows the end of each series of a panel; a long frame `unique_id, ds, LSTM, LSTM-lo-80, ...`."""
        return predict(model, self.config, request)

    def inputs(self) -> dict[str, Input]:
        """The inputs of `Network.forward`."""
        c, K = self.config, kinds(self.config.seasons)
        return {
            "past": Input(
                ("B", min(READ, cast(int, c.context)), PAST), "float32", "value, value without season, 1 where observed"
            ),
            "guesses": Input(("B", c.horizon, K), "float32", "simple forecasts, scaled at the origin, 0 where there is none"),
            "known": Input(("B", c.horizon, K), "float32", "1 where there is a guess"),
        }

    def data(self) -> dict[str, Plain]:
        """Counts and checksum of the panel."""
        return {"series": len(self.panel), "steps": len(self.panel.y), "checksum": self.panel.checksum}


def predict(model: nn.Module, config: Config, panel: Panel) -> Any:
    """Forecast what follows the end of each series of a panel; see `ForecastTask.predict`."""
    H, S = config.horizon, np.arange(len(panel))
    made = columns("LSTM", forecast(model, config, panel, S, panel.lengths), config)
    series, ahead = np.repeat(S, H), np.tile(np.arange(H), len(S))
    return panel.frame(series, {panel.columns.ds: panel.stamps(series, panel.lengths[series] + ahead), **made})
