"""The long frame `unique_id, ds, y` and its form inside: a `Panel` of series on a regular grid. NumPy and narwhals, no torch."""

from __future__ import annotations

import datetime as dt
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.covariates import Covariates, Names
from longshort.apps.forecast.freq import DAY, Freq, Stamps, infer, parse

ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?)?")


PIECE = 2**16  # rows of a file that are looked at together


class Columns(NamedTuple):
    """The names of the three columns of a long frame."""

    id: str = "unique_id"
    ds: str = "ds"
    y: str = "y"


@dataclass(frozen=True)
class Panel:
    """Series on a regular grid, gaps as NaN. Sorted by id.

    Args:
        ids: one id per series, in the frame's own dtype, [S].
        start: first time stamp of each series, int64 or datetime64[us], [S].
        offset: series s holds y[offset[s]:offset[s + 1]], int64, [S + 1].
        y: values one after another, NaN where missing, float64, [N].
        freq: the step of the grid.
        ds_type: narwhals dtype of the frame's ds; `frame` gives it back.
        columns: names of the frame's columns.
        covariates: what is known beside y; None if nothing is.
    """

    ids: nw.Series[Any]
    start: Stamps
    offset: NDArray
    y: NDArray
    freq: Freq
    ds_type: nw.dtypes.DType
    columns: Columns
    covariates: Covariates | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> NDArray:
        """Steps of each series, gaps included, int64, [S]."""
        return np.diff(self.offset)

    @property
    def checksum(self) -> str:
        """Eight hexadecimal digits over ids, time stamps, values and covariates."""
        parts = [repr(self.ids.to_list()).encode(), self.start.tobytes(), self.offset.tobytes(), self.y.tobytes()]
        parts += self.covariates.bytes() if self.covariates else ()
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        return f"{crc:08x}"

    def window(self, series: NDArray, first: NDArray, size: int) -> NDArray:
        """Values first, ..., first + size - 1 of some series, NaN where the series has none. float64, [B, size]."""
        at = first[:, None] + np.arange(size)
        inside = (at >= 0) & (at < self.lengths[series][:, None])
        return np.where(inside, self.y[np.where(inside, at + self.offset[series][:, None], 0)], np.nan)

    def history(self, s: int, n: int) -> NDArray:
        """The first n steps of series s, a view."""
        return self.y[self.offset[s] : min(self.offset[s] + n, self.offset[s + 1])]

    def head(self, lengths: NDArray, ahead: int = 0) -> Panel:
        """The first lengths[s] steps of each series s, as a new panel that knows future covariates for `ahead` further steps."""
        kept = np.minimum(lengths, self.lengths)
        keep = np.arange(len(self.y)) - np.repeat(self.offset[:-1], self.lengths) < np.repeat(kept, self.lengths)
        covariates = self.covariates and self.covariates.head(self.lengths, kept, ahead)
        return replace(self, y=self.y[keep], offset=np.concatenate([[0], np.cumsum(kept)]), covariates=covariates)

    def observed(self) -> NDArray:
        """Values that are there, for each series, int64, [S]."""
        gone = np.searchsorted(self.offset, np.flatnonzero(~np.isfinite(self.y)), "right") - 1
        return self.lengths - np.bincount(gone, minlength=len(self))

    def stamps(self, series: NDArray, position: NDArray) -> Stamps:
        """Time stamps of positions on the grids of some series; positions beyond the end are the future. [B]."""
        return self.freq.stamps(self.start[series], position)

    def frame(self, series: NDArray, columns: Mapping[str, NDArray | nw.Series[Any]]) -> Any:
        """A native frame of the kind that came in: the id column of the given series, [B], then these columns.

        int64 and datetime64 columns are taken as time stamps and get the dtype that ds had.
        """
        made = []
        for name, v in columns.items():
            made.append(nw.new_series(name, v, backend=self.ids.implementation) if isinstance(v, np.ndarray) else v.alias(name))
            if isinstance(v, np.ndarray) and v.dtype.kind in "iM":
                made[-1] = self._dress(made[-1])
        table = nw.maybe_reset_index(self.ids[series].alias(self.columns.id).to_frame())
        return table.with_columns(made).to_native()

    def _dress(self, stamps: nw.Series[Any]) -> nw.Series[Any]:
        zone = getattr(self.ds_type, "time_zone", None)
        if not zone:
            return stamps.cast(self.ds_type)
        stamps = stamps.cast(nw.Datetime(getattr(self.ds_type, "time_unit", "us")))
        if self.freq.wall:
            return stamps.dt.replace_time_zone(zone)
        return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def read(
    source: Any, freq: str | int | Freq | None = None, columns: Columns = Columns(), names: Names = Names(),  # noqa: B008
    future: Any = None, static: Any = None,
) -> Panel:  # fmt: skip
    """Check a long frame and lay it on a grid.

    Args:
        source: a pandas, polars or other eager frame that narwhals knows, or the path of a .csv or .parquet file
            (a Parquet file is read piece by piece). Rows may be in any order. A missing y or covariate, and a time stamp that
            is absent, is a missing value.
        freq: step between time stamps, see `freq.parse`; None infers it.
        columns: names of the id, time and value columns.
        names: names of the covariates. There must be no columns but these. Past and future ones are numbers or truth values;
            static ones may be text, and must not change within a series.
        future: frame or file of id, time and the future covariates, for the steps after the end of each series. Steps that it
            leaves out are missing values. What it says of known steps must agree with the data.
        static: frame or file of id and those static covariates that the data lacks; other series in it are ignored.

    Returns:
        The panel.

    Raises:
        TypeError: the source is no eager frame.
        ValueError: anything about the data is wrong; the message names the series and the row (counted from 0).
    """
    total, parts = _parts(source, columns, names)
    table = _Table(columns, names, total)
    step = parse(freq) if isinstance(freq, str | int) else freq
    for part in parts:
        table.add(part, step, elsewhere=static is not None)
    if not table.size:
        raise ValueError("data must have at least one row, got an empty frame.")
    ids, series, utc, wall, values, row = table.sorted()
    if len(twice := np.flatnonzero((series[1:] == series[:-1]) & (utc[1:] == utc[:-1]))):
        one, two = sorted(row(k) for k in (twice[0], twice[0] + 1))
        table.blame(two, f"repeats the time stamp of row {one}. Keep one of them, or add them up", len(twice))
    if step is None:
        step = infer(utc, series)
        if step.wall or (step.unit == "us" and step.n > DAY // 2):
            step = infer(wall, series)
    t = wall if step.wall else utc
    first = np.flatnonzero(np.concatenate([[True], series[1:] != series[:-1]]))
    start, count = t[first], np.diff(np.concatenate([first, [len(t)]]))
    position, fits, on_grid = np.empty(len(t), np.int64), np.empty(len(t), bool), np.empty(len(t), bool)
    for k in range(0, len(t), PIECE):
        here = slice(k, k + PIECE)
        fits[here] = ~step.misfit(t[here])
        position[here], on_grid[here] = step.positions(t[here], start[series[here]])
    if len(bad := np.flatnonzero(~fits)):
        table.blame(row(bad[0]), f"does not fit freq {step.name!r}. Correct it, or give another freq=", len(bad))
    if len(bad := np.flatnonzero(~on_grid)):
        table.blame(
            row(bad[0]), f"is not on the grid of step {step.name!r} that starts at {start[series[bad[0]]]}. "
            "Correct it, or give another freq=", len(bad))  # fmt: skip
    lengths = position[first + count - 1] + 1
    if len(bad := np.flatnonzero(lengths > 1000 * count + 10_000)):
        s = bad[0]
        table.blame(row(first[s]), f"begins a series of {count[s]} rows that spans {lengths[s]} steps of {step.name!r}. "
                    "Is a time stamp wrong? Otherwise give another freq=", len(bad))  # fmt: skip
    offset = np.concatenate([[0], np.cumsum(lengths)])
    if offset[-1] > len(t):  # steps are absent
        position += offset[series]
        for k, v in enumerate(values):
            values[k] = np.full((offset[-1], *v.shape[1:]), np.nan, v.dtype)
            values[k][position] = v
    made = Panel(ids, start, offset, values[0], step, cast(nw.dtypes.DType, table.ds_type), columns)
    if len(bad := np.flatnonzero(made.observed() == 0)):
        table.blame(row(first[bad[0]]), f"begins a series in which every {columns.y} is missing. Leave that series out", len(bad))
    if not names.all:
        for given, role in ((future, "future"), (static, "static")):
            if given is not None:
                raise ValueError(f"{role}= is given, but no {role} covariates are named. Name its columns with {role}=(...).")
        return made
    known = {v: k for k, v in enumerate(ids.to_list())}
    numbers, labels, text = _static(table.static, static, names, columns, known)
    after, ahead = _future(values[2], future, made, names, known)
    return replace(made, covariates=Covariates(names, values[1], after, ahead, numbers, labels, text))


class _Table:
    """Columns of a long frame as arrays, gathered piece by piece."""

    def __init__(self, columns: Columns, names: Names, total: int) -> None:
        self.columns, self.names, self.total = columns, names, total
        self.size = 0
        self.ds_type: nw.dtypes.DType | None = None
        self.known: dict[Any, int] = {}  # id -> number in order of appearance
        self.ids: list[nw.Series[Any]] = []  # the ids that each piece adds
        self.fields: list[NDArray] = []  # series, UTC, y, past, future; and the wall clock where it is not UTC
        self.static: dict[str, dict[int, Any]] = {}  # column -> series -> value

    def add(self, frame: nw.DataFrame[Any], step: Freq | None, elsewhere: bool) -> None:
        """Take over a piece; `elsewhere`: static columns may also stand in another frame."""
        c, n = self.columns, self.names
        if not self.size:
            self.static = {k: {} for k in n.static if k in frame.columns or not elsewhere}
            _complete(frame, list(c), (*n.past, *n.future, *self.static), "data")
        if not len(frame):
            return
        rows = _Rows(frame[c.id], frame[c.ds], c.ds, self.size)
        rows.none_missing(frame[c.id], c.id)
        y = _numbers(frame[c.y], c.y, rows)
        utc, wall, kind = _stamps(frame[c.ds], rows, step)
        self.ds_type = self.ds_type or kind
        begins = _changes(frame[c.id])
        heads = np.flatnonzero(begins)
        before = len(self.known)
        code = np.array([self.known.setdefault(v, len(self.known)) for v in frame[c.id][heads].to_list()], np.int32)
        new, at = np.unique(code, return_index=True)
        self.ids.append(frame[c.id][heads[at[new >= before]]])
        series = code[np.cumsum(begins) - 1]
        past, future = (_covariates(frame, names, rows) for names in (n.past, n.future))
        for name, seen in self.static.items():
            _constant(frame[name], name, series, begins, seen, rows)
        made = [series, utc, y, past, future, *([wall] if wall is not utc else [])]
        if len(frame) == self.total:
            self.fields = made
        else:
            if not self.size:
                self.fields = [np.empty((self.total, *v.shape[1:]), v.dtype) for v in made]
            for whole, piece in zip(self.fields, made, strict=True):
                whole[self.size : self.size + len(frame)] = piece
        self.size += len(frame)

    def sorted(self) -> tuple[nw.Series[Any], NDArray, Stamps, Stamps, list[NDArray], Callable[[Any], int]]:
        """Ids, then by id and time: number of the series, UTC, wall clock, [y, past, future]; and the row that stood there."""
        labels = list(self.known)
        try:
            rank = sorted(range(len(labels)), key=labels.__getitem__)
        except TypeError:
            kinds = sorted({type(v).__name__ for v in labels})
            raise ValueError(
                f"{self.columns.id} must be of one kind to be sorted, got {' and '.join(kinds)}. Make all of them text."
            ) from None
        ids = self.ids[0] if len(self.ids) == 1 else nw.concat([v.to_frame() for v in self.ids])[self.columns.id]
        series, utc, *values = self.fields
        wall = values.pop() if len(values) > 3 else utc
        self.fields = []
        if rank != list(range(len(rank))):
            place = np.empty(len(rank), np.int32)
            place[rank] = np.arange(len(rank), dtype=np.int32)
            series, ids = place[series], ids[rank]
            self.static = {name: {int(place[s]): v for s, v in seen.items()} for name, seen in self.static.items()}
            labels = [labels[k] for k in rank]
        self.label = lambda r: (labels[series[r]], _readable(wall[r]))
        rises = (series[1:] > series[:-1]) | ((series[1:] == series[:-1]) & (utc[1:] > utc[:-1]))
        if rises.all():
            return ids, series, utc, wall, values, int
        order = np.lexsort((utc, series))
        return ids, series[order], utc[order], wall[order], [v[order] for v in values], lambda k: int(order[k])

    def blame(self, row: int, what: str, count: int = 1) -> NoReturn:
        """Raise the error that names a row of the whole."""
        series, stamp = self.label(row)
        _blame(series, row, f" ({self.columns.ds} {stamp})", what, count)


class _Rows:
    """Names rows of one piece in errors."""

    def __init__(self, ids: nw.Series[Any], ds: nw.Series[Any] | None, name: str, before: int = 0, where: str = "") -> None:
        self.ids, self.ds, self.name, self.before, self.where = ids, ds, name, before, where

    def blame(self, row: int | np.integer, what: str, count: int = 1) -> NoReturn:
        stood = "" if self.ds is None else f" ({self.name} {self.ds[int(row)]})"
        _blame(self.ids[int(row)], self.before + int(row), stood, what, count, self.where)

    def none_missing(self, values: nw.Series[Any], name: str) -> None:
        gone = _gone(values)
        if gone.any():
            self.blame(gone.argmax(), f"has no {name}. Fill it in, or leave the row out", int(gone.sum()))


def _blame(series: Any, row: int, stood: str, what: str, count: int, where: str = "") -> NoReturn:
    more = f" (and {count - 1} more row{'s' if count > 2 else ''} like it)" if count > 1 else ""
    raise ValueError(f"{where}series {series!r}, row {row}{stood} {what}{more}.")


def _readable(stamp: Any) -> str:
    return str(stamp.astype("M8[s]")).replace("T", " ") if isinstance(stamp, np.datetime64) else str(stamp)


def _gone(values: nw.Series[Any]) -> NDArray:
    """Where a value is missing, or is empty text."""
    native = values.to_native()
    if values.implementation.is_pandas() and isinstance(native.dtype, np.dtype) and native.dtype.kind in "iuM":
        return np.isnat(native.to_numpy()) if native.dtype.kind == "M" else np.zeros(len(values), bool)
    nulls = values.null_count() > 0
    gone = values.is_null().to_numpy().astype(bool) if nulls else np.zeros(len(values), bool)
    more = values.is_nan() if values.dtype.is_float() else (values == "") if values.dtype == nw.String else None
    if more is not None:
        gone |= (more.fill_null(True) if nulls else more).to_numpy().astype(bool)
    return gone


def _changes(values: nw.Series[Any]) -> NDArray:
    """Where a value differs from that of the row before; the first one does. bool, [N]."""
    made = np.ones(len(values), bool)
    native = values.to_native()
    if values.implementation.is_pandas() and isinstance(native.dtype, np.dtype):
        plain = native.to_numpy()
        if plain.dtype == object and values.null_count():
            plain = np.where(values.is_null().to_numpy(), None, plain)
        made[1:] = plain[1:] != plain[:-1]
    elif len(values) > 1:
        differs = values[1:] != values[:-1]
        made[1:] = (differs.fill_null(True) if values.null_count() else differs).to_numpy()
    return made


def _complete(frame: nw.DataFrame[Any], wanted: list[str], covariates: Sequence[str], what: str) -> None:
    """Raise if a frame lacks a column, or has one more."""
    there = frame.columns
    if missing := [c for c in wanted if c not in there]:
        raise ValueError(
            f"{what} must have columns {', '.join(wanted)}; missing: {', '.join(missing)}, found: {', '.join(map(str, there))}. "
            "Rename yours, or name them with id_col=, time_col=, target_col=. A single series also needs an id column."
        )
    if missing := [c for c in covariates if c not in there]:
        raise ValueError(
            f"{what} lacks the covariates {', '.join(missing)}; found: {', '.join(map(str, there))}. Add these columns, or do "
            "not name them in past=, future= or static=."
        )
    wanted = [*wanted, *covariates]
    if unknown := [str(c) for c in there if c not in wanted]:
        raise ValueError(
            f"{'' if what == 'data' else what + ': '}unknown columns: {', '.join(unknown)}. Name covariates with past=, future= "
            f"or static=; the forecaster reads {', '.join(wanted)} and would ignore the rest: leave them out, for example "
            f"df[{wanted!r}]."
        )


def _covariates(frame: nw.DataFrame[Any], names: Sequence[str], rows: _Rows) -> NDArray:
    """Columns of numbers and truth values, NaN where missing, float32, [N, C]."""
    made = np.empty((len(frame), len(names)), np.float32)
    for k, name in enumerate(names):
        with np.errstate(over="ignore"):
            made[:, k] = _numbers(frame[name], name, rows, flags=True)
        if len(bad := np.flatnonzero(np.isinf(made[:, k]))):
            rows.blame(bad[0], f"has {name} beyond the range of single precision. Rescale the column", len(bad))
    return made


def _constant(values: nw.Series[Any], name: str, series: NDArray, begins: NDArray, seen: dict[int, Any], rows: _Rows) -> None:
    """Note the value of each series; a missing one says nothing."""
    if values.dtype in (nw.Categorical, nw.Enum):
        values = values.cast(nw.String)
    heads = np.flatnonzero(begins | _changes(values))
    part = values[heads]
    for row, s, v, gone in zip(heads, series[heads].tolist(), part.to_list(), _gone(part), strict=True):
        if gone:
            continue
        if not isinstance(v, str | bool | np.bool | int | float | Decimal | np.number):
            rows.blame(row, f"has {name} = {v!r}; a static covariate must be a number, a truth value or text. Convert it first")
        if seen.setdefault(s, v) != v:
            rows.blame(
                row, f"has {name} = {v!r}, but before {seen[s]!r}. A static covariate must not change within a series: "
                "correct it, or make it a past= or future= covariate"
            )  # fmt: skip


def _static(
    seen: dict[str, dict[int, Any]], source: Any, names: Names, columns: Columns, known: dict[Any, int]
) -> tuple[NDArray, tuple[tuple[str | None, ...], ...], tuple[str, ...]]:
    """Static covariates of each series from both frames: numbers [S, n], texts, and the names of the latter."""
    if source is not None:
        frame = _open(source, columns, names)
        rest = [c for c in names.static if c not in seen]
        if twice := [c for c in seen if c in frame.columns]:
            raise ValueError(f"{', '.join(twice)} stands in the data and in static= as well. Leave it out of one of them.")
        _complete(frame, [columns.id], rest, "static=")
        series = np.array([known.get(v, -1) for v in frame[columns.id].to_list()], np.int32)
        have = np.flatnonzero(series >= 0)
        if len(gone := np.setdiff1d(np.arange(len(known)), series)):
            raise ValueError(
                f"static= has no row for series {list(known)[gone[0]]!r}"
                + (f" and {len(gone) - 1} more" if len(gone) > 1 else "")
                + f". Add it (one row a series; its {columns.id} must be of the same kind as in the data)."
            )
        rows = _Rows(frame[columns.id], None, columns.ds, where="static=: ")
        for name in rest:
            seen[name] = {}
            _constant(frame[name][have], name, series[have], np.ones(len(have), bool), seen[name], _Rows(
                frame[columns.id][have], None, columns.ds, where=rows.where))  # fmt: skip
    numbers, labels, text = [], [], []
    for name in names.static:
        values = seen[name]
        kinds = {isinstance(v, str) for v in values.values()}
        if len(kinds) > 1:
            one, other = (next(v for v in values.values() if isinstance(v, str) is k) for k in (True, False))
            raise ValueError(f"static column {name} mixes text and numbers, such as {one!r} and {other!r}. Make all of it text.")
        if kinds == {True}:
            text.append(name)
            labels.append(tuple(values.get(s) for s in range(len(known))))
        else:
            column = np.full(len(known), np.nan, np.float32)
            with np.errstate(over="ignore"):
                column[list(values)] = [float(v) for v in values.values()]
            if len(bad := np.flatnonzero(np.isinf(column))):
                raise ValueError(
                    f"series {list(known)[bad[0]]!r} has {name} = {values[int(bad[0])]}. It must be finite in single precision: "
                    "correct it, or make it missing."
                )
            numbers.append(column)
    stacked = np.stack(numbers, 1) if numbers else np.empty((len(known), 0), np.float32)
    return stacked, tuple(labels), tuple(text)


def _future(held: NDArray, source: Any, panel: Panel, names: Names, known: dict[Any, int]) -> tuple[NDArray, int]:
    """The future covariates [N, Cf] of a panel, followed by those of `source`: [N + S * ahead, Cf], and ahead."""
    if source is None:
        return held, 0
    c, step, where = panel.columns, panel.freq, "future=: "
    frame = _open(source, c, names)
    if not names.future:
        raise ValueError("future= is given, but no future covariates are named. Name its columns with future=(...).")
    _complete(frame, [c.id, c.ds], names.future, "future=")
    if not len(frame):
        return held, 0
    rows = _Rows(frame[c.id], frame[c.ds], c.ds, where=where)
    rows.none_missing(frame[c.id], c.id)
    begins = _changes(frame[c.id])
    heads = np.flatnonzero(begins)
    code = np.array([known.get(v, -1) for v in frame[c.id][heads].to_list()])
    if len(bad := np.flatnonzero(code < 0)):
        rows.blame(
            heads[bad[0]], f"belongs to no series of the data. Leave it out, or give {c.id} the same kind as there", len(bad)
        )
    series = code[np.cumsum(begins) - 1]
    utc, wall, kind = _stamps(frame[c.ds], rows, step)
    if getattr(kind, "time_zone", None) is None and getattr(panel.ds_type, "time_zone", None) is not None:
        rows.blame(0, f"has no time zone, but the data has {panel.ds_type}. Give {c.ds} the same")
    t = wall if step.wall else utc
    at, on_grid = step.positions(t, panel.start[series])
    if len(bad := np.flatnonzero(~on_grid)):
        rows.blame(
            bad[0], f"is not on the grid of step {step.name!r} that starts at {panel.start[series[bad[0]]]}. Correct it", len(bad)
        )
    key = at * len(known) + series
    order = np.argsort(key, kind="stable")
    if len(twice := np.flatnonzero(np.diff(key[order]) == 0)):
        one, two = order[twice[0]], order[twice[0] + 1]
        rows.blame(two, f"repeats the time stamp of row {one}. Keep one of them", len(twice))
    lengths, S = panel.lengths, len(panel)
    beyond = at - lengths[series] + 1
    ahead = max(0, int(beyond.max()))
    if S * ahead > 1000 * len(t) + 10_000:
        rows.blame(beyond.argmax(), f"is {ahead} steps after the end of its series. Is the time stamp wrong? Correct it")
    made = np.full((len(held) + S * ahead, held.shape[1]), np.nan, np.float32)
    own = np.repeat(np.arange(S), lengths)
    made[np.arange(len(held)) + own * ahead] = held
    given, inside = _covariates(frame, names.future, rows), np.flatnonzero(at >= 0)
    place = (panel.offset[series] + series * ahead + at)[inside]
    old, new = made[place], given[inside]
    if len(clash := np.argwhere((old != new) & np.isfinite(old) & np.isfinite(new))):
        k, column = clash[0]
        rows.blame(
            inside[k], f"has {names.future[column]} = {new[k, column]}, but the data has {old[k, column]} for that step. "
            "Correct one of them", len(clash)
        )  # fmt: skip
    made[place] = np.where(np.isfinite(new), new, old)
    return made, ahead


def _parts(source: Any, columns: Columns, names: Names) -> tuple[int, Iterator[nw.DataFrame[Any]]]:
    """How many rows there are, and a frame, or the pieces of a Parquet file."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or path.suffix != ".parquet" or not path.is_file():
        frame = _open(source, columns, names)
        return len(frame), iter([frame])
    file = _parquet(path)
    schema, pandas = file.schema_arrow, file.schema_arrow.pandas_metadata or {}
    index = {v for v in pandas.get("index_columns", ()) if isinstance(v, str) and v.startswith("__index_level_")}
    kept = [v for v in schema.names if v not in index]

    def pieces() -> Iterator[nw.DataFrame[Any]]:
        with file:
            empty = [] if file.metadata.num_rows else [file.read(kept)]
            for piece in empty or file.iter_batches(PIECE, columns=kept):
                yield nw.from_native(piece.to_pandas(ignore_metadata=True), eager_only=True)

    return file.metadata.num_rows, pieces()


def _parquet(path: Path) -> Any:
    _need("pandas", path)
    _need("pyarrow", path)
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except ValueError as e:
        raise ValueError(f"data file {str(path)!r} cannot be read as Parquet: {e}") from None


def _need(library: str, path: Path) -> None:
    try:
        import_module(library)
    except ImportError:
        extra = path.suffix[1:]
        raise ImportError(f"reading {str(path)!r} needs {library}: pip install 'longshort[{extra}]'.") from None


def _open(source: Any, columns: Columns, names: Names) -> nw.DataFrame[Any]:
    if not isinstance(source, str | Path):
        try:
            return nw.from_native(source, eager_only=True)
        except TypeError:
            raise TypeError(
                "data must be a pandas or polars DataFrame (or another eager frame that narwhals knows) or the path of a "
                f".csv or .parquet file, got {type(source).__name__}. A lazy frame must be collected first."
            ) from None
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"data file {str(path)!r} does not exist.")
    if path.suffix == ".parquet":
        with _parquet(path) as file:
            return nw.from_native(file.read().to_pandas(), eager_only=True)
    if path.suffix == ".csv":  # only numbers may be written as NA: an id, a time stamp or a label of that name is itself
        _need("pandas", path)
        numbers = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
        gaps = {c: numbers for c in (columns.y, *names.past, *names.future)} | {c: [""] for c in names.static}
        try:
            return nw.read_csv(str(path), backend="pandas", keep_default_na=False, na_values=gaps, float_precision="round_trip")
        except ValueError as e:
            raise ValueError(f"data file {str(path)!r} cannot be read as CSV: {str(e).strip()}") from None
    raise ValueError(f"data file must end in .csv or .parquet, got {str(path)!r}.")


def _numbers(values: nw.Series[Any], name: str, rows: _Rows, flags: bool = False) -> NDArray:
    """A column as float64, NaN where missing, [N]; `flags`: truth values are 0 and 1."""
    if values.dtype.is_numeric() or (flags and values.dtype == nw.Boolean):
        made = values.cast(nw.Float64).to_numpy().astype(np.float64)
    else:  # text, truth values, or a column of Python objects
        made, gone = np.full(len(values), np.nan), values.is_null().to_numpy()
        for k, v in enumerate(values.to_list()):
            if not gone[k]:
                flag = isinstance(v, bool | np.bool)
                if (flag and not flags) or not (flag or isinstance(v, int | float | Decimal | np.number)):
                    remedy = (
                        "Encode it as numbers; only static= may hold text" if flags else "Convert the column to numbers first"
                    )
                    rows.blame(k, f"has {name} = {v!r}, which is no number. {remedy}")
                made[k] = float(v)
    if len(bad := np.flatnonzero(np.isinf(made))):
        rows.blame(bad[0], f"has {name} = {made[bad[0]]}. It must be finite: correct it, or make it missing", len(bad))
    return made


def _stamps(ds: nw.Series[Any], rows: _Rows, freq: Freq | None) -> tuple[Stamps, Stamps, nw.dtypes.DType]:
    """Time stamps as int64 or datetime64[us], in UTC and by the wall clock (the same without a zone); the dtype to give back."""
    name, kind = rows.name, ds.dtype
    rows.none_missing(ds, name)
    there, native = ds, cast(Any, ds.to_native())
    if kind == nw.Unknown and hasattr(native.dtype, "tz"):  # narwhals does not know zones like America/New_York
        kind = nw.Datetime(native.dtype.unit, str(native.dtype.tz))
        there = nw.from_native(native.dt.tz_convert("UTC"), series_only=True)
    zone = getattr(kind, "time_zone", None)
    if kind.is_integer():
        t: Stamps = ds.to_numpy().astype(np.int64)
    elif kind in (nw.Datetime, nw.Date):
        naive = ds.dt.replace_time_zone(None) if zone else ds
        t = naive.to_numpy().astype("M8[us]")
    elif kind in (nw.String, nw.Object):
        t, kind = _written(ds.to_list(), rows), nw.Datetime("us")
    else:
        raise ValueError(f"{name} must hold whole numbers or time stamps, got a column of {kind}. Convert it first.")
    if freq and (freq.unit == "int") != (t.dtype.kind == "i"):
        holds = "whole numbers" if t.dtype.kind == "i" else "time stamps"
        raise ValueError(f"freq {freq.name!r} does not fit {name}, which holds {holds}. Leave freq out, or convert {name}.")
    if zone:
        utc = there.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy().astype("M8[us]")
        return utc, t, kind
    return t, t, kind


def _written(values: list[Any], rows: _Rows) -> Stamps:
    name, t = rows.name, np.empty(len(values), "M8[us]")
    for k, v in enumerate(values):
        if isinstance(v, str) and ISO.fullmatch(v):
            try:
                t[k] = np.datetime64(v)
                continue
            except ValueError:
                rows.blame(k, "is no date of the calendar. Correct it")
        if isinstance(v, dt.date) and getattr(v, "tzinfo", None) is None:
            t[k] = np.datetime64(v)
            continue
        if isinstance(v, dt.datetime):
            rows.blame(k, f"carries the time zone {v.tzinfo}, in a column of mixed time zones. Convert {name} to one")
        rows.blame(
            k, f"is no time stamp: {name} must hold whole numbers, time stamps, or text like 2024-01-31 or 2024-01-31 13:00"
        )
    return t
