"""What forecasting means to the loop: windows of a panel, the model's loss, scores beside the seasonal naive forecast."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort.apps.forecast.backtest import Backtest, seasonal_naive
from longshort.apps.forecast.config import LEAST_PAST, LEAST_SERIES, Config
from longshort.apps.forecast.covariates import Encoding
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.model import Inputs, Network
from longshort.apps.forecast.recipe import Recipe, run
from longshort.cell import Cell
from longshort.task import Batches, Input, Loss, Plain, Split

WILD = 50.0  # scaled targets are bounded by this, so that no window rules the loss
ORIGINS = 128  # validation origins, of all series together, where these are few
FEW = 16  # series, at most, that are few: of more, one origin each says enough
SHORTEST = 7  # so many lengths of shorter histories at most: 2 to 128 values
SOME = 256  # held-out windows that tell how far to stretch where less of a series is known


class Batch(NamedTuple):
    """Windows with their targets.

    inputs: what the network sees.
    target: scaled future, NaN where missing or not for training, float32, [B, H].
    """

    inputs: Inputs
    target: Tensor


class ForecastTask:
    """Forecasting as the loop sees it. The end of some series is held out for validation and never trained on.

    Held out are the last `horizon` steps, or a tenth of each series, with origins all over it, where series are so few that one
    origin each would say little; of `Config.holdout` series at most, drawn at random. Series too short for that are trained on
    whole.

    Args:
        config: what to forecast; what it leaves open is filled in from the panel.
        panel: the data.
        cell: the variant of the LSTM.
        recipe: of the model to be trained further; None makes a new one.
        start: weights to start from; None draws them.

    Raises:
        ValueError: a series has fewer than three observed values.
    """

    better: tuple[str, Literal["min", "max"]] = ("MASE", "min")

    def __init__(
        self, config: Config, panel: Panel, cell: Cell = Cell(),  # noqa: B008
        recipe: Recipe | None = None, start: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.panel, self.cell, self.start = panel, cell, start
        if len(bad := np.flatnonzero(panel.observed() < LEAST_SERIES)):
            raise ValueError(
                f"series {panel.ids[int(bad[0])]!r} has {panel.observed()[bad[0]]} observed values; at least {LEAST_SERIES} are "
                "needed to learn from it. Leave it out of fit (predict takes it from two values on)"
                + (f"; {len(bad) - 1} more are as short." if len(bad) > 1 else ".")
            )
        self.config = c = config.resolve(panel)
        y, counts = panel.y, c.counts
        if counts and len(bad := np.flatnonzero((y < 0) | (np.isfinite(y) & (y != np.round(y))))):
            one = panel.ids[int(np.searchsorted(panel.offset, bad[0], "right")) - 1]
            raise ValueError(f"negative_binomial is for counts, whole numbers of 0 or more, and series {one!r} has "
                             f"{y[bad[0]]:g}. Take another distribution.")  # fmt: skip
        H, L, n = c.horizon, cast(int, c.context), panel.lengths
        stride = max(1, H // 4)
        room = np.maximum(n // 10 - H, 0)  # between the first and the last validation origin
        many = np.minimum(room // stride + 1, ORIGINS // len(panel) if len(panel) <= FEW else 1)
        stride = room // np.maximum(many - 1, 1)
        end = n - H - (many - 1) * stride  # first validation origin
        held = np.array([np.isfinite(panel.history(s, max(e, 0))).sum() >= LEAST_SERIES for s, e in enumerate(end)])
        if held.sum() > c.holdout:
            held[np.random.default_rng(0).permutation(np.flatnonzero(held))[c.holdout :]] = False
        self.end = np.where(held, end, n)  # training reads no value from here on
        first = np.maximum(LEAST_PAST, np.minimum(L, self.end // 2))  # earliest training origin
        if c.history is not None:
            first = np.maximum(first, self.end - c.history)
        self.first, self.origins = first, np.maximum(self.end - first, 1)
        series = np.repeat(np.flatnonzero(held), many[held])
        step = np.concatenate([[], *(np.arange(k) for k in many[held])]).astype(np.int64)
        origin = self.end[series] + step * stride[series]
        seen = np.isfinite(panel.window(series, origin - L, L)).sum(1) >= LEAST_PAST
        self.held = series[seen], origin[seen]
        ids = tuple(map(str, panel.ids.to_list())) if c.model == "esrnn" else ()
        known = panel.head(self.end) if c.names.all else panel
        self.recipe = recipe or Recipe(c, cell, Encoding.fit(known, c.names, c.calendar), ids)
        self.known = self.recipe.known(panel)

    def apart(self, series: NDArray, origin: NDArray) -> int:
        """How many of some windows have no step in common: those that overlap tell little more than one of them."""
        return len(np.unique(np.stack([series, (origin - self.end[series]) // self.config.horizon]), axis=1).T)

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
        """A fresh network, or the one to be trained further."""
        made = self.recipe.network()
        if self.start is not None:
            made.load_state_dict(self.start)
        return made

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Batches[Batch]:
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
        past[~enough], future[~enough] = 1.0, np.nan
        inputs, window = self.recipe.look(self.panel, past, series, origin, self.known)
        inputs.past[torch.from_numpy(~enough), :, 2] = 0  # and observed is nothing of them, for some models learn from the past
        target = np.clip(window.scaled(future), -WILD, WILD).astype(np.float32)
        return Batch(inputs, torch.from_numpy(target))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """What the model calls its loss: pinball or negative log-likelihood, in scaled units."""
        return cast(Network, model).loss(batch.inputs, batch.target)

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Scores on the held-out end of the series, in real units, and the seasonal naive forecast's MASE."""
        if split != "valid" or not len(self.held[0]):
            return {}
        made = self.judge.score(self.recipe.forecast(model, self.panel, *self.held))
        if not np.isfinite(made["MASE"]):  # every series is constant: nothing to choose by
            return {}
        return made | {"MASE of seasonal naive": self.naive["MASE"]}

    @cached_property
    def shorter(self) -> tuple[int, ...]:
        """Values, 2, 4, 8, ..., that are fewer than half of what most held-out windows hold: what new series may have."""
        if not len(self.held[0]):
            return ()
        most = np.median(self._observed(*self.held)) / 2
        return tuple(2 << k for k in range(SHORTEST) if 2 << k <= most)

    def cut(self, newest: int) -> tuple[NDArray, NDArray]:
        """Windows, series and origin, that hold at least twice as many values: held-out ones, begun up to a season earlier, for
        where all of them end in one phase of it they would tell of this phase alone."""
        n, L = len(self.held[0]), cast(int, self.config.context)
        series, origin = (v[np.unique(np.linspace(0, n - 1, min(n, SOME)).astype(int))] for v in self.held)
        back = np.random.default_rng(0).integers(max(self.config.seasons), size=len(series))
        origin = np.where(origin - back >= L, origin - back, origin)
        enough = self._observed(series, origin) >= 2 * newest
        return series[enough], origin[enough]

    def _observed(self, series: NDArray, origin: NDArray) -> NDArray:
        L = cast(int, self.config.context)
        return np.isfinite(self.panel.window(series, origin - L, L)).sum(1)

    def held_out(self, model: nn.Module, newest: int | None = None) -> tuple[NDArray, NDArray, NDArray, int]:
        """What calibration reads of held-out windows.

        Args:
            model: a network or an ensemble.
            newest: so many values, the newest observed ones, are all that is known (`cut`); None: all that is.

        Returns:
            Scaled forecasts [n, H, Q] and truth [n, H], which of them can be compared with others, bool [n], and how many of
            these have no step in common.
        """
        series, origin = self.held if newest is None else self.cut(newest)
        made, truth, alike, at = [], [], [np.zeros(0, bool)], 0
        future = self.panel.window(series, origin, self.config.horizon)
        for inputs, window in self.recipe.windows(self.panel, series, origin, newest):
            made.append(run(model, inputs))
            truth.append(window.scaled(future[at : at + len(made[-1])]))
            alike.append(window.known_unit)
            at += len(made[-1])
        Q = len(self.config.quantiles)
        empty = np.empty((0, self.config.horizon, Q))
        same = np.concatenate(alike)
        return np.concatenate([empty, *made]), np.concatenate([future[:0], *truth]), same, self.apart(series[same], origin[same])

    def predict(self, model: nn.Module, request: Panel) -> Any:
        """Forecast what follows the end of each series of a panel; a long frame `unique_id, ds, LSTM, LSTM-lo-80, ...`."""
        return self.recipe.predict(model, request)

    def inputs(self) -> dict[str, Input]:
        """The inputs of the network's `forward`."""
        s, H = self.recipe.sizes, self.config.horizon
        return {
            "past": Input(("B", self.recipe.read, s.past), "float32", "value, without season, 1 where seen, change; covariates"),
            "guesses": Input(("B", H, s.guesses), "float32", "simple forecasts, scaled at the origin, 0 where there is none"),
            "known": Input(("B", H, s.guesses), "float32", "1 where there is a guess"),
            "ahead": Input(("B", H, s.ahead), "float32", "future covariates and calendar of the horizon"),
            "static": Input(("B", s.static), "float32", "three numbers of the window, then static covariates"),
            "scale": Input(("B",), "float32", "what one scaled unit is in units of the data"),
            "series": Input(("B",), "int64", "number of the series among those of fit, -1 if it is new"),
        }

    def data(self) -> dict[str, Plain]:
        """Counts and checksum of the panel."""
        return {"series": len(self.panel), "steps": len(self.panel.y), "checksum": self.panel.checksum}
