"""`Recipe`: all that a fitted forecaster is but its weights; and `Ensemble`, the networks with their calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort.apps.forecast import conformal
from longshort.apps.forecast.backtest import Backtest, columns, seasonal_naive
from longshort.apps.forecast.config import LEAST_PAST, Config
from longshort.apps.forecast.covariates import Encoding, encode
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.deepar import DeepAR
from longshort.apps.forecast.esrnn import ESRNN
from longshort.apps.forecast.model import Direct, Inputs, Sizes
from longshort.apps.forecast.tables import free
from longshort.apps.forecast.window import PAST, READ, STATIC, Window, kinds
from longshort.apps.forecast.window import encode as scale
from longshort.cell import Cell

MODELS = {"direct": Direct, "deepar": DeepAR, "esrnn": ESRNN}
CHUNK = 512  # windows that are forecast at once
FEW = 4  # windows that are forecast on one thread
SLOW = 0.9  # correlation of errors of one step and the next, where windows are too few to tell


class NothingHeldOutError(RuntimeError):
    """The model has no held-out windows that would tell how the steps of a path go together."""


@dataclass(frozen=True)
class Recipe:
    """How windows become inputs and outputs become forecasts.

    Args:
        config: a resolved Config.
        cell: the variant of the LSTM.
        encoding: how covariates become channels.
        ids: the series of fit as text, where they have parameters of their own (esrnn).

    Raises:
        ValueError: the parts contradict each other.
    """

    config: Config
    cell: Cell
    encoding: Encoding
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        c, e = self.config, self.encoding
        want, got = (c.past, c.future, set(c.static), c.calendar), (e.past, e.future, {*e.numbers, *e.labels}, e.calendar)
        if want != got:
            raise ValueError(f"the encoding must be of past, future and static covariates and calendar = {want}, got {got}.")
        n, moments = len(e.past + e.future + e.numbers), e.mean + e.scale
        if (len(e.mean), len(e.scale), len(e.vocabulary)) != (n, n, len(e.labels)) or not np.isfinite(
            np.array(moments, float)
        ).all():
            raise ValueError(
                f"the encoding must hold {n} finite means, as many scales, and {len(e.labels)} vocabularies, got {e}."
            )
        if len(set(self.ids)) < len(self.ids) or not all(isinstance(name, str) for name in self.ids):
            raise ValueError("ids must be different texts.")

    @property
    def sizes(self) -> Sizes:
        """Channels of `Inputs`."""
        e = self.encoding
        return Sizes(
            PAST + e.past_size, kinds(self.seasons), e.future_size, STATIC + e.static_size, 2 * len(e.past), len(self.ids)
        )

    @property
    def seasons(self) -> tuple[int, ...]:
        """The seasons that the window takes out: none where the model smooths them itself."""
        return (1,) if self.config.model == "esrnn" else self.config.seasons

    @property
    def log(self) -> bool:
        """Whether the model works on logarithms."""
        return self.config.model == "esrnn" and bool(self.config.multiplicative)

    @property
    def read(self) -> int:
        """Steps of the context that the LSTM reads."""
        L = cast(int, self.config.context)
        return L if self.config.model == "esrnn" else min(L, READ)

    def network(self) -> nn.Module:
        """A fresh network."""
        return MODELS[self.config.model](self.config, self.sizes, self.cell)

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of each series of fit by its id."""
        return {name: k for k, name in enumerate(self.ids)}

    def known(self, panel: Panel) -> NDArray:
        """The number that each series of a panel had in fit, -1 for new ones. int64, [S]."""
        if not self.ids:
            return np.full(len(panel), -1)
        return np.array([self.places.get(str(v), -1) for v in panel.ids.to_list()])

    def look(self, panel: Panel, past: NDArray, series: NDArray, origin: NDArray, known: NDArray) -> tuple[Inputs, Window]:
        """The inputs of some forecast origins.

        Args:
            panel: the series.
            past: their values before the origins, float64, [B, L].
            series: number of each row's series, [B].
            origin: how many of its steps are known, [B].
            known: `known(panel)`.

        Raises:
            ValueError: logarithms are to be taken of values that are not positive.
        """
        c = self.config
        if self.log and len(bad := np.flatnonzero((past <= 0).any(1))):
            raise ValueError(
                f"series {panel.ids[int(series[bad[0]])]!r} has values of zero or less, but this model smooths logarithms. "
                "Fit with multiplicative=False, or leave the series out."
            )
        zero = c.counts
        w = scale(past, c.horizon, self.seasons, level_zero=zero, log=self.log, read=self.read)
        extra = encode(self.encoding, panel, series, origin, self.read, c.horizon)
        values = (np.concatenate([w.past, extra.past], -1), w.guesses, w.known, extra.future,
                  np.concatenate([w.static, extra.static], -1), w.scale.astype(np.float32), known[series])  # fmt: skip
        return Inputs(*(torch.from_numpy(v) for v in values)), w

    def windows(
        self, panel: Panel, series: NDArray, origin: NDArray, newest: int | None = None
    ) -> Iterator[tuple[Inputs, Window]]:
        """The inputs of some forecast origins, `CHUNK` of them at a time; newest: so many observed values of each, at most.

        Raises:
            ValueError: a context holds fewer than two observed values.
        """
        L, known = cast(int, self.config.context), self.known(panel)
        for k in range(0, len(series), CHUNK):
            s, n = series[k : k + CHUNK], origin[k : k + CHUNK]
            past = panel.window(s, n - L, L)
            if newest is not None:
                past[np.isfinite(past)[:, ::-1].cumsum(1)[:, ::-1] > newest] = np.nan
            if len(bad := np.flatnonzero(np.isfinite(past).sum(1) < LEAST_PAST)):
                raise ValueError(
                    f"series {panel.ids[int(s[bad[0]])]!r} has fewer than {LEAST_PAST} observed values in the {L} steps up to "
                    f"{panel.clock(s[bad[:1]], n[bad[:1]] - 1)[0]}, so nothing can be forecast from there. Leave it out"
                    + (f" (and {len(bad) - 1} more like it)." if len(bad) > 1 else ".")
                )
            yield self.look(panel, past, s, n, known)

    def forecast(self, model: nn.Module, panel: Panel, series: NDArray, origin: NDArray) -> NDArray:
        """Quantiles of the `horizon` steps after the first `origin` ones of some series. No later value is read.

        Args:
            model: a network or an `Ensemble`, in evaluation mode.
            panel: the series.
            series: number of each row's series, [B].
            origin: how many of its steps are known, [B].

        Returns:
            Quantiles in the units of the data by ascending level, float64, [B, H, Q].

        Raises:
            ValueError: a context holds fewer than two observed values.
        """
        made = [np.empty((0, self.config.horizon, len(self.config.quantiles)))]
        for inputs, window in self.windows(panel, series, origin):
            made.append(self.values(window, run(model, inputs)))
        return np.concatenate(made)

    def paths(self, model: Ensemble, panel: Panel, series: NDArray, origin: NDArray, n: int, seed: int) -> NDArray:
        """n sample paths of the steps after each origin, in the units of the data, float64, [B, n, H].

        deepar draws them; then they are moved as averaging and calibration move the quantiles around them. The others draw each
        path's ranks, all steps together, from the held-out windows, and read the values at these ranks off the quantiles
        (`courses`): so steps go together as they did there.

        Raises:
            NothingHeldOutError: nothing was held out, so that it is not known how steps go together.
        """
        made = [np.empty((0, n, self.config.horizon))]
        for inputs, window in self.windows(panel, series, origin):
            if self.config.model == "deepar":
                with torch.no_grad():
                    drawn = model.drawn(inputs, n, seed).numpy()
            else:
                if not len(model.ranks):
                    raise NothingHeldOutError(
                        "sample paths of this model need held-out windows, and fit had none: holdout was 0, or the series are "
                        "too short. Fit with more data, or with model='deepar', which draws its paths."
                    )
                ranks = courses(model.ranks, n, np.random.default_rng([seed, 0]))  # of all series the same
                drawn = conformal.values_at(run(model, inputs), np.array(self.config.quantiles), ranks)
            made.append(self.values(window, drawn))
        return np.concatenate(made)

    def decompose(self, model: Ensemble, panel: Panel) -> tuple[NDArray, ...]:
        """Level and season of the last steps of each series, as an esrnn smooths them; `Forecaster.decompose` says more.

        Returns:
            Number of the series, position in it, value, level and season of each step, [N] each.
        """
        S, n, L = np.arange(len(panel)), panel.lengths, self.read
        levels, seasons = [], []
        for inputs, window in self.windows(panel, S, n):
            with torch.no_grad():
                made = [m.smooth(m.explained(inputs)[0]) for m in cast(list[ESRNN], list(model.members))]
            level = torch.stack([s.level for s in made]).mean(0).double().numpy()
            season = torch.stack([s.season for s in made]).mean(0)[:, :L].double().numpy() * window.scale[:, None]
            levels.append(window.values(level))
            seasons.append(np.exp(season) if self.log else season)
        at = n[:, None] - L + np.arange(L)
        rows, k = np.nonzero(at >= 0)
        y = panel.window(S, n - L, L)
        return rows, at[rows, k], y[rows, k], np.concatenate(levels)[rows, k], np.concatenate(seasons)[rows, k]

    def values(self, window: Window, scaled: NDArray) -> NDArray:
        """Scaled forecasts in the units of the data; of counts whole numbers, whatever calibration made of them."""
        y = window.values(scaled)
        y = np.rint(y) if self.config.counts else y
        return np.maximum(y, 0) if self.config.floored else y

    def backtest(self, model: nn.Module, panel: Panel, series: NDArray, origin: NDArray) -> Backtest:
        """Forecast from past origins, beside the seasonal naive forecast; the arguments are those of `forecast`."""
        made, naive = self.forecast(model, panel, series, origin), seasonal_naive(self.config, panel, series, origin)
        return Backtest(panel, self.config, series, origin, {"LSTM": made, "SeasonalNaive": naive})

    def predict(self, model: nn.Module, panel: Panel, series: NDArray | None = None) -> Any:
        """Forecast what follows the end of each series of a panel, or of some of them by number; a long frame `unique_id, ds,
        LSTM, LSTM-lo-80, ...`."""
        H, S = self.config.horizon, np.arange(len(panel)) if series is None else series
        made = columns("LSTM", self.forecast(model, panel, S, panel.lengths[S]), self.config)
        free(panel.columns._replace(y=""), *made)
        rows, ahead = np.repeat(S, H), np.tile(np.arange(H), len(S))
        return panel.frame(rows, {panel.columns.ds: panel.stamps(rows, panel.lengths[rows] + ahead), **made})

    def sample(self, model: Ensemble, panel: Panel, n: int, seed: int, series: NDArray | None = None) -> Any:
        """n sample paths of what follows the end of each series of a panel, or of some of them by number; a long frame
        `unique_id, ds, sample, LSTM`."""
        H, S = self.config.horizon, np.arange(len(panel)) if series is None else series
        free(panel.columns._replace(y=""), "sample", "LSTM")  # the result has no y
        made = self.paths(model, panel, S, panel.lengths[S], n, seed)
        rows, ahead = np.repeat(S, n * H), np.tile(np.arange(H), n * len(S))
        stamps, number = panel.stamps(rows, panel.lengths[rows] + ahead), np.tile(np.repeat(np.arange(n), H), len(S))
        return panel.frame(rows, {panel.columns.ds: stamps, "sample": number.astype(np.uint32), "LSTM": made.reshape(-1)})


def courses(ranks: Tensor, n: int, rng: np.random.Generator) -> NDArray:
    """Levels of n sample paths, [n, H], in (0, 1): those of held-out windows, each as often as another.

    Where paths are more than windows, no two are alike: as normal scores they are mixed with noise, the more the fewer windows
    there are, whose steps go together as those of a slow random walk. A single window does not tell how steps go together;
    then it is noise alone.

    Args:
        ranks: of the windows, see `conformal.ranks`, [m, H], m > 0.
        n: paths.
        rng: draws.

    Source: Clark et al. 2004, The Schaake shuffle; smoothed as a density is, Silverman 1986, section 6.4.
    """
    m, H = ranks.shape
    rows = np.concatenate([rng.permutation(m) for _ in range(-(-n // m))])[:n]
    if n <= m:
        return ranks.numpy()[rows]
    share, noise = m ** (-2 / 5), rng.standard_normal((n, H))  # share of the variance
    for t in range(1, H):
        noise[:, t] = SLOW * noise[:, t - 1] + np.sqrt(1 - SLOW**2) * noise[:, t]
    known = torch.special.ndtri(ranks.double())[torch.from_numpy(rows)]
    mixed = math.sqrt(1 - share) * known + math.sqrt(share) * torch.from_numpy(noise)
    return torch.special.ndtr(mixed).clamp(1e-4, 1 - 1e-4).numpy()


def run(model: nn.Module, inputs: Inputs) -> NDArray:
    """A network's quantiles as float64 on the CPU, [B, H, Q]."""
    device = next(model.parameters()).device
    with torch.no_grad(), ONE if len(inputs.past) <= FEW else nullcontext():
        return model(*(v.to(device) for v in inputs)).double().cpu().numpy()


class _OneThread:
    """Within it torch and the engines compute on one thread: for so little work, waiting for a second one takes longer than
    the work, and far longer where that thread's core is busy. Safe to enter from several Python threads."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = Lock(), 0, 1

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = torch.get_num_threads()
            self.inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            torch.set_num_threads(1 if self.inside else self.before)


ONE = _OneThread()


class Ensemble(nn.Module):
    """Networks whose quantiles are averaged, then stretched by the conformal factors.

    Args:
        members: the networks.
        stretch: factor of each quantile's distance from the median, [H, Q]; ones where not calibrated.
        ranks: where the truth fell among the quantiles of held-out windows, in [0, 1], [n, H].
        below: quantiles below the median.
        short: likewise as stretch, where 2, 4, 8, ... values are known, fewer than held-out windows hold, [G, H, Q].
    """

    stretch: Tensor
    ranks: Tensor
    short: Tensor

    def __init__(
        self, members: Sequence[nn.Module], stretch: Tensor, ranks: Tensor, below: int, short: Tensor | None = None
    ) -> None:
        super().__init__()
        self.members, self.below = nn.ModuleList(members), below
        self.register_buffer("stretch", stretch)
        self.register_buffer("ranks", ranks)
        self.register_buffer("short", stretch.new_empty(0, *stretch.shape) if short is None else short)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Quantiles in scaled units, ascending, [B, H, Q]."""
        return self.calibrated([m(*inputs) for m in self.members], inputs[0][..., 2].sum(1))

    def drawn(self, inputs: Inputs, n: int, seed: int) -> Tensor:
        """n sample paths of networks that can draw them, of each as many; their quantiles are those of `forward`. [B, n, H]."""
        share = -(-n // len(self.members))
        made = [cast(DeepAR, m).paths(inputs, share, seed + k).double() for k, m in enumerate(self.members)]
        if len(made) > 1 or (self.stretch != 1).any() or len(self.short):
            before = [m(*inputs) for m in self.members]
            after = self.calibrated(before, inputs.past[..., 2].sum(1)).double().numpy()
            made = [torch.from_numpy(conformal.carry(v.numpy(), b.double().numpy(), after))
                    for v, b in zip(made, before, strict=True)]  # fmt: skip
        return torch.stack(made, 2).flatten(1, 2)[:, :n]  # in turns

    def calibrated(self, each: Sequence[Tensor], observed: Tensor | None = None) -> Tensor:
        """The mean of the members' quantiles, stretched, ascending; observed: values that each was forecast from, None: many."""
        made = torch.stack(list(each)).mean(0) if len(each) > 1 else each[0]
        median = made[..., self.below : self.below + 1]
        factors = self.stretch if observed is None or not len(self.short) else self.factors(observed)
        made = median + factors * (made - median)
        lower = made[..., : self.below + 1].flip(-1).cummin(-1).values.flip(-1)
        return torch.cat([lower, made[..., self.below + 1 :].cummax(-1).values], -1)

    def factors(self, observed: Tensor) -> Tensor:
        """How far to stretch forecasts from so many values: lines over their logarithm, 2 to 4, 8, ... and many. [B, H, Q]."""
        each, most = torch.cat([self.short, self.stretch[None]]), len(self.short)
        place = (torch.log2(observed.clamp(min=1)) - 1).clamp(0, most).to(each.dtype)
        low = place.long()
        return torch.lerp(each[low], each[(low + 1).clamp(max=most)], (place - low)[:, None, None])
