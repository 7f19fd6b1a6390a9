"""What is known beside the values: columns of past, future and static covariates, and the calendar. NumPy only, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.freq import DAY, Freq, Stamps, parse, wall_clock

if TYPE_CHECKING:
    from longshort.apps.forecast.data import Panel

MOST_LABELS = 1000  # different texts of one static column; each is a channel


@dataclass(frozen=True)
class Names:
    """Which columns of the data are covariates.

    Args:
        past: numbers known up to the forecast origin only.
        future: numbers known beyond it: holidays, prices, weather forecasts.
        static: numbers or text that belong to a series, not to a step.

    Raises:
        ValueError: a name is given twice.
    """

    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for role in ("past", "future", "static"):
            object.__setattr__(self, role, tuple(getattr(self, role)))
        if twice := sorted({c for c in self.all if self.all.count(c) > 1}):
            raise ValueError(
                f"a covariate has one role, but {', '.join(twice)} stands twice in past={self.past}, future={self.future}, "
                f"static={self.static}. Name it once."
            )

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, past first."""
        return self.past + self.future + self.static


@dataclass(frozen=True, eq=False)
class Covariates:
    """The covariates of a panel of S series and N steps. NaN is missing.

    Args:
        names: the columns below, in this order.
        past: on the grid of `Panel.y`, float32, [N, Cp].
        future: on the same grid, but series s goes on for `ahead` steps beyond its end, float32, [N + S * ahead, Cf].
        ahead: steps beyond the end of each series.
        numbers: static columns of numbers and truth values, float32, [S, n].
        labels: static columns of text, S strings each, None where missing.
        text: the static columns that are in `labels`; the others are in `numbers`.
    """

    names: Names
    past: NDArray
    future: NDArray
    ahead: int
    numbers: NDArray
    labels: tuple[tuple[str | None, ...], ...] = ()
    text: tuple[str, ...] = ()

    @property
    def numeric(self) -> tuple[str, ...]:
        """The static columns that are in `numbers`."""
        return tuple(c for c in self.names.static if c not in self.text)

    def head(self, lengths: NDArray, kept: NDArray, ahead: int) -> Covariates:
        """Of series of these lengths, the first kept[s] steps, and `ahead` further steps of the future covariates."""
        size, A = kept + ahead, self.ahead
        end = np.cumsum(size)
        at = np.arange(end[-1]) - np.repeat(end - size, size)
        inside = at < np.repeat(lengths + A, size)
        first = np.concatenate([[0], np.cumsum(lengths + A)[:-1]])
        future = self.future[np.where(inside, at + np.repeat(first, size), 0)]
        future[~inside] = np.nan
        end = np.cumsum(lengths)
        past = self.past[np.arange(end[-1]) - np.repeat(end - lengths, lengths) < np.repeat(kept, lengths)]
        return replace(self, past=past, future=future, ahead=ahead)

    def bytes(self) -> tuple[bytes, ...]:
        """All that is in it, for a checksum."""
        return (
            repr((self.names, self.ahead, self.text, self.labels)).encode(),
            *(v.tobytes() for v in (self.past, self.future, self.numbers)),
        )


class Extra(NamedTuple):
    """What a model sees of covariates and calendar, B windows with L steps before the origin and H after it; float32.

    past: (value, 1 where observed) of each past and each future covariate, then the calendar, [B, L, past_size].
    future: (value, 1 where observed) of each future covariate, then the calendar, [B, H, future_size].
    static: (value, 1 where observed) of each number, then each text one-hot, [B, static_size].
    """

    past: NDArray
    future: NDArray
    static: NDArray


@dataclass(frozen=True)
class Encoding:
    """How covariates become channels: fitted on training data, kept with the model as plain JSON.

    `Encoding(**json.loads(json.dumps(asdict(encoding)))) == encoding`.

    Args:
        past: past covariates.
        future: future covariates.
        numbers: static columns of numbers.
        labels: static columns of text.
        mean: what is subtracted from past, future and numbers, in this order.
        scale: what they are divided by; a column that holds nothing but 0 and 1 stays as it is.
        vocabulary: the texts of each label column, one channel each; others are all zeros.
        calendar: whether there are calendar channels.
        freq: the step that decides which, see `channels`; None without calendar.
    """

    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    vocabulary: tuple[tuple[str, ...], ...] = ()
    calendar: bool = False
    freq: str | None = None

    def __post_init__(self) -> None:
        for name in ("past", "future", "numbers", "labels", "mean", "scale"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "vocabulary", tuple(tuple(v) for v in self.vocabulary))

    @classmethod
    def fit(cls, panel: Panel, names: Names, calendar: bool = False) -> Self:
        """Read off means, scales and vocabularies.

        Args:
            panel: the training part of the data.
            names: the covariates to use.
            calendar: whether to add calendar channels.

        Raises:
            ValueError: the panel lacks a covariate; a text column holds too many texts; ds is integer and calendar is asked for.
        """
        if calendar and panel.freq.unit == "int":
            raise ValueError(
                f"calendar=True needs time stamps, but {panel.columns.ds} holds whole numbers. "
                f"Convert {panel.columns.ds} to dates, or leave calendar out."
            )
        held = _held(panel, names.past, names.future, names.static)
        numbers = tuple(c for c in names.static if held and c in held.numeric)
        labels = tuple(c for c in names.static if held and c in held.text)
        moments, vocabulary = [], []
        if held:
            parts = ((held.past, held.names.past, names.past), (held.future, held.names.future, names.future),
                     (held.numbers, held.numeric, numbers))  # fmt: skip
            moments = [_moments(values[:, have.index(c)]) for values, have, want in parts for c in want]
            vocabulary = [tuple(sorted({v for v in held.labels[held.text.index(c)] if v is not None})) for c in labels]
        for column, words in zip(labels, vocabulary, strict=True):
            if len(words) > MOST_LABELS:
                raise ValueError(
                    f"static column {column} may hold at most {MOST_LABELS} different texts, got {len(words)}. "
                    "Group them, or encode them as numbers."
                )
        mean, scale = zip(*moments, strict=True) if moments else ((), ())
        freq = panel.freq.name if calendar else None
        return cls(names.past, names.future, numbers, labels, mean, scale, tuple(vocabulary), calendar, freq)

    @property
    def calendar_size(self) -> int:
        """Channels of the calendar."""
        return 2 * len(channels(parse(self.freq))) if self.calendar and self.freq is not None else 0

    @property
    def past_size(self) -> int:
        """Channels of `Extra.past`."""
        return 2 * (len(self.past) + len(self.future)) + self.calendar_size

    @property
    def future_size(self) -> int:
        """Channels of `Extra.future`."""
        return 2 * len(self.future) + self.calendar_size

    @property
    def static_size(self) -> int:
        """Channels of `Extra.static`."""
        return 2 * len(self.numbers) + sum(map(len, self.vocabulary))


def encode(encoding: Encoding, panel: Panel, series: NDArray, origin: NDArray, context: int, horizon: int) -> Extra:
    """The channels around some forecast origins. No past covariate at or after its origin is read.

    Args:
        encoding: how.
        panel: the series with their covariates.
        series: number of each row's series, int64, [B].
        origin: how many of its steps are known, int64, [B].
        context: steps L before the origin.
        horizon: steps H after it.

    Returns:
        Channels, float32: past [B, L, past_size], future [B, H, future_size], static [B, static_size].

    Raises:
        ValueError: the panel lacks a covariate, or holds text where there were numbers, or the other way round.
    """
    e, B, L, H = encoding, len(series), context, horizon
    held = _held(panel, e.past, e.future, e.numbers + e.labels)
    P, F, n = len(e.past), len(e.future), len(e.numbers)
    mean, scale = np.array(e.mean, np.float32), np.array(e.scale, np.float32)
    past = np.empty((B, L, e.past_size), np.float32)
    future = np.empty((B, H, e.future_size), np.float32)
    static = np.zeros((B, e.static_size), np.float32)
    if held and P:
        rows, inside = _rows(panel, series, origin - L, L, 0)
        values = _columns(held.past, held.names.past, e.past)
        _pairs(past[..., : 2 * P], values, rows, inside, mean[:P], scale[:P])
    if held and F:
        rows, inside = _rows(panel, series, origin - L, L + H, held.ahead)
        values, m, s = _columns(held.future, held.names.future, e.future), mean[P : P + F], scale[P : P + F]
        _pairs(past[..., 2 * P : 2 * (P + F)], values, rows[:, :L], inside[:, :L], m, s)
        _pairs(future[..., : 2 * F], values, rows[:, L:], inside[:, L:], m, s)
    if e.calendar_size:
        made = _calendar(panel, series, origin - L, L + H)
        past[..., 2 * (P + F) :], future[..., 2 * F :] = made[:, :L], made[:, L:]
    if held and n:
        for name in e.numbers:
            if name in held.text:
                raise ValueError(f"static column {name} held numbers in fit and holds text now. Give it as in fit.")
        values = _columns(held.numbers, held.numeric, e.numbers)
        _pairs(static[:, : 2 * n], values, series, np.ones(B, bool), mean[P + F :], scale[P + F :])
    at = 2 * n
    for name, words in zip(e.labels, e.vocabulary, strict=True):
        if held is None or name not in held.text:
            known = held is not None and np.isfinite(held.numbers[:, held.numeric.index(name)]).any()
            if known:
                raise ValueError(f"static column {name} held text in fit and holds numbers now. Give it as in fit.")
        else:
            where, labels = {w: k for k, w in enumerate(words)}, held.labels[held.text.index(name)]
            code = np.array([where.get(labels[s], -1) for s in series.tolist()], np.int64)
            hit = np.flatnonzero(code >= 0)
            static[hit, at + code[hit]] = 1
        at += len(words)
    return Extra(past, future, static)


def channels(freq: Freq) -> tuple[str, ...]:
    """The cycles of the calendar that a step resolves; each gives a sine and a cosine.

    | step                       | cycle        |
    |----------------------------|--------------|
    | shorter than a day         | time of day  |
    | a day at most (B included) | day of week  |
    | one day (B included)       | day of month |
    | shorter than a year        | time of year |

    Time stamps with a zone are read by its clock.
    """
    n, us, day = freq.n, freq.unit == "us", freq.unit == "bday"
    table = {
        "time of day": us and n < DAY,
        "day of week": day or (us and n <= DAY),
        "day of month": day or (us and n == DAY),
        "time of year": day or (us and n < 365 * DAY) or (freq.unit == "month" and n < 12),
    }
    return tuple(name for name, there in table.items() if there)


def calendar(freq: Freq, t: Stamps) -> NDArray:
    """Sine and cosine of each of `channels(freq)` at time stamps by the wall clock. float32, [..., 2 * K] of datetime64 [...]."""
    day = t.astype("M8[D]")
    month = day.astype("M8[M]")
    year = month.astype("M8[Y]")

    def time_of_year() -> NDArray:
        if freq.unit == "month":
            return (month - year.astype("M8[M]")).astype(np.float64) / 12
        return (day - year.astype("M8[D]")) / ((year + 1).astype("M8[D]") - year.astype("M8[D]"))

    phase = {
        "time of day": lambda: (t - day).astype(np.float64) / DAY,
        "day of week": lambda: (day.astype(np.int64) + 3) % 7 / 7,  # 1970-01-01 was a Thursday
        "day of month": lambda: (day - month.astype("M8[D]")) / ((month + 1).astype("M8[D]") - month.astype("M8[D]")),
        "time of year": time_of_year,
    }
    made = [f(2 * np.pi * phase[name]()) for name in channels(freq) for f in (np.sin, np.cos)]
    return np.stack(made, -1).astype(np.float32) if made else np.empty((*t.shape, 0), np.float32)


def _calendar(panel: Panel, series: NDArray, first: NDArray, size: int) -> NDArray:
    """Calendar of steps first, ..., first + size - 1 of some series. [B, size, 2 * K]."""
    freq, start, step = panel.freq, panel.start[series], np.arange(size)
    zone = None if freq.wall else getattr(panel.ds_type, "time_zone", None)

    def made(begin: Stamps, k: NDArray) -> NDArray:
        return calendar(freq, wall_clock(freq.stamps(begin, k), zone))

    if len(start):
        begin = start.min(keepdims=True)
        k, shared = freq.positions(start, begin)
        k = k + first
        low, high = k.min(), k.max() + size
        if shared.all() and high - low < len(start) * size:  # one grid: each of its stamps is computed once
            return made(begin, np.arange(low, high))[(k - low)[:, None] + step]
    return made(start[:, None], first[:, None] + step)


def _held(panel: Panel, past: Sequence[str], future: Sequence[str], static: Sequence[str]) -> Covariates | None:
    """The covariates of a panel, after a check that these are among them."""
    have = panel.covariates.names if panel.covariates else Names()
    roles = (("past", past, have.past), ("future", future, have.future), ("static", static, have.static))
    if missing := [f"{c} ({role})" for role, want, there in roles for c in want if c not in there]:
        raise ValueError(
            f"the data lacks the covariates {', '.join(missing)}; it has {', '.join(have.all) or 'none'}. Add these columns."
        )
    return panel.covariates


def _columns(values: NDArray, have: tuple[str, ...], want: tuple[str, ...]) -> NDArray:
    return values if have == want else values[:, [have.index(c) for c in want]]


def _rows(panel: Panel, series: NDArray, first: NDArray, size: int, ahead: int) -> tuple[NDArray, NDArray]:
    """Rows of steps first, ..., first + size - 1 where series have `ahead` more, and whether they exist. [B, size]."""
    at = first[:, None] + np.arange(size)
    inside = (at >= 0) & (at < (panel.lengths[series] + ahead)[:, None])
    return np.where(inside, at + (panel.offset[series] + ahead * series)[:, None], 0), inside


def _pairs(out: NDArray, values: NDArray, rows: NDArray, inside: NDArray, mean: NDArray, scale: NDArray) -> None:
    """Fill [..., 2 * C] with (standardised value, 1 where observed) of some rows of [N, C]."""
    v = np.take(values, rows, 0)
    seen = np.isfinite(v) & inside[..., None]
    out[..., 0::2] = np.where(seen, (v - mean) / scale, 0)
    out[..., 1::2] = seen


def _moments(v: NDArray) -> tuple[float, float]:
    v = v[np.isfinite(v)].astype(np.float64)
    if not len(v) or ((v == 0) | (v == 1)).all():
        return 0.0, 1.0
    mean, spread = float(v.mean()), float(v.std())
    return mean, spread if spread > 1e-6 * abs(mean) else 1.0
