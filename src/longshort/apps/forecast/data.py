"""The long frame `unique_id, ds, y` and its form inside: a `Panel` of series on a regular grid. NumPy and narwhals, no torch."""

from __future__ import annotations

import datetime as dt
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.freq import DAY, Freq, Stamps, infer, parse

ISO = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?)?)?")


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
    """

    ids: nw.Series[Any]
    start: Stamps
    offset: NDArray
    y: NDArray
    freq: Freq
    ds_type: nw.dtypes.DType
    columns: Columns

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> NDArray:
        """Steps of each series, gaps included, int64, [S]."""
        return np.diff(self.offset)

    @property
    def checksum(self) -> str:
        """Eight hexadecimal digits over ids, time stamps and values."""
        parts = (repr(self.ids.to_list()).encode(), self.start.tobytes(), self.offset.tobytes(), self.y.tobytes())
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

    def head(self, lengths: NDArray) -> Panel:
        """The first lengths[s] steps of each series s, as a new panel."""
        keep = np.arange(len(self.y)) - np.repeat(self.offset[:-1], self.lengths) < np.repeat(lengths, self.lengths)
        return replace(self, y=self.y[keep], offset=np.concatenate([[0], np.cumsum(np.minimum(lengths, self.lengths))]))

    def observed(self) -> NDArray:
        """Values that are there, for each series, int64, [S]."""
        return np.diff(np.concatenate([[0], np.cumsum(np.isfinite(self.y))])[self.offset])

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


def read(source: Any, freq: str | int | Freq | None = None, columns: Columns = Columns()) -> Panel:  # noqa: B008
    """Check a long frame and lay it on a grid.

    Args:
        source: a pandas, polars or other eager frame that narwhals knows, or the path of a .csv or .parquet file
            (read with pandas). Rows may be in any order. A missing y, and a time stamp that is absent, is a missing value.
        freq: step between time stamps, see `freq.parse`; None infers it.
        columns: names of the id, time and value columns. There must be no others.

    Returns:
        The panel.

    Raises:
        TypeError: the source is no eager frame.
        ValueError: anything about the data is wrong; the message names the series and the row (counted from 0).
    """
    frame = _open(source, columns)
    there, wanted = frame.columns, list(columns)
    if missing := [c for c in wanted if c not in there]:
        raise ValueError(
            f"data must have columns {', '.join(wanted)}; missing: {', '.join(missing)}, found: {', '.join(map(str, there))}. "
            "Rename yours, or name them with id_col=, time_col=, target_col=. A single series also needs an id column."
        )
    if unknown := [str(c) for c in there if c not in wanted]:
        raise ValueError(
            f"unknown columns: {', '.join(unknown)}. The forecaster reads {', '.join(wanted)} and would ignore the rest: "
            f"leave them out, for example df[{wanted!r}]."
        )
    if not len(frame):
        raise ValueError("data must have at least one row, got an empty frame.")
    rows = _Rows(frame[columns.id], frame[columns.ds], columns)
    rows.none_missing(frame[columns.id], columns.id)
    y = _numbers(frame[columns.y], rows)
    step = parse(freq) if isinstance(freq, str | int) else freq
    utc, wall, ds_type = _stamps(frame[columns.ds], rows, step)
    order, series = rows.codes()
    inner = np.lexsort((utc[order], series))
    order, series = order[inner], series[inner]
    utc, wall, y = utc[order], wall[order], y[order]
    if len(twice := np.flatnonzero((series[1:] == series[:-1]) & (utc[1:] == utc[:-1]))):
        one, two = sorted(order[twice[0] : twice[0] + 2])
        rows.blame(two, f"repeats the time stamp of row {one}. Keep one of them, or add them up", len(twice))
    if step is None:
        step = infer(utc, series)
        if step.wall or (step.unit == "us" and step.n > DAY // 2):
            step = infer(wall, series)
    t = wall if step.wall else utc
    first = np.flatnonzero(np.concatenate([[True], series[1:] != series[:-1]]))
    start, count = t[first], np.diff(np.concatenate([first, [len(t)]]))
    if len(bad := np.flatnonzero(step.misfit(t))):
        rows.blame(order[bad[0]], f"does not fit freq {step.name!r}. Correct it, or give another freq=", len(bad))
    position, on_grid = step.positions(t, start[series])
    if len(bad := np.flatnonzero(~on_grid)):
        rows.blame(
            order[bad[0]], f"is not on the grid of step {step.name!r} that starts at {start[series[bad[0]]]}. "
            "Correct it, or give another freq=", len(bad))  # fmt: skip
    lengths = position[first + count - 1] + 1
    if len(bad := np.flatnonzero(lengths > 1000 * count + 10_000)):
        s = bad[0]
        rows.blame(order[first[s]], f"begins a series of {count[s]} rows that spans {lengths[s]} steps of {step.name!r}. "
                   "Is a time stamp wrong? Otherwise give another freq=", len(bad))  # fmt: skip
    offset = np.concatenate([[0], np.cumsum(lengths)])
    grid = np.full(offset[-1], np.nan)
    grid[offset[series] + position] = y
    panel = Panel(frame[columns.id][order[first]], start, offset, grid, step, ds_type, columns)
    if len(bad := np.flatnonzero(panel.observed() == 0)):
        rows.blame(
            order[first[bad[0]]], f"begins a series in which every {columns.y} is missing. Leave that series out", len(bad)
        )
    return panel


class _Rows:
    """Names rows in errors, and groups them by id."""

    def __init__(self, ids: nw.Series[Any], ds: nw.Series[Any], columns: Columns) -> None:
        self.ids, self.ds, self.columns = ids, ds, columns

    def blame(self, row: int | np.integer, what: str, count: int = 1) -> NoReturn:
        more = f" (and {count - 1} more row{'s' if count > 2 else ''} like it)" if count > 1 else ""
        series, stamp = self.ids[int(row)], self.ds[int(row)]
        raise ValueError(f"series {series!r}, row {row} ({self.columns.ds} {stamp}) {what}{more}.")

    def none_missing(self, values: nw.Series[Any], name: str) -> None:
        gone = values.is_null().to_numpy().astype(bool)
        if values.dtype.is_float():
            gone |= values.is_nan().fill_null(True).to_numpy().astype(bool)
        if values.dtype == nw.String:
            gone |= (values == "").fill_null(True).to_numpy().astype(bool)
        if gone.any():
            self.blame(gone.argmax(), f"has no {name}. Fill it in, or leave the row out", int(gone.sum()))

    def codes(self) -> tuple[NDArray, NDArray]:
        """Rows ordered by id, and the number of the series of each row in that order."""
        name = self.columns.id
        try:
            table = self.ids.alias(name).to_frame().with_row_index("__row").sort(name)
        except TypeError:
            kinds = sorted({type(v).__name__ for v in self.ids.to_list()})
            raise ValueError(
                f"{name} must be of one kind to be sorted, got {' and '.join(kinds)}. Make all of them text."
            ) from None
        ids = table[name]
        new = (ids != ids.shift(1)).fill_null(True).to_numpy().astype(bool)
        new[0] = True
        return table["__row"].to_numpy().astype(np.int64), np.cumsum(new) - 1


def _open(source: Any, columns: Columns) -> nw.DataFrame[Any]:
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
        return nw.read_parquet(str(path), backend="pandas")
    if path.suffix == ".csv":  # only y may be written as NA: an id or a time stamp of that name is itself
        gaps = {columns.y: ["", "NA", "N/A", "NaN", "nan", "null", "None"]}
        return nw.read_csv(str(path), backend="pandas", keep_default_na=False, na_values=gaps)
    raise ValueError(f"data file must end in .csv or .parquet, got {str(path)!r}.")


def _numbers(y: nw.Series[Any], rows: _Rows) -> NDArray:
    name = rows.columns.y
    if y.dtype.is_numeric():
        values = y.cast(nw.Float64).to_numpy().astype(np.float64)
    else:  # text, truth values, or a column of Python objects
        values, gone = np.full(len(y), np.nan), y.is_null().to_numpy()
        for k, v in enumerate(y.to_list()):
            if not gone[k]:
                if isinstance(v, bool | np.bool) or not isinstance(v, int | float | Decimal | np.number):
                    rows.blame(k, f"has {name} = {v!r}, which is no number. Convert the column to numbers first")
                values[k] = float(v)
    if len(bad := np.flatnonzero(np.isinf(values))):
        rows.blame(bad[0], f"has {name} = {values[bad[0]]}. It must be finite: correct it, or make it missing", len(bad))
    return values


def _stamps(ds: nw.Series[Any], rows: _Rows, freq: Freq | None) -> tuple[Stamps, Stamps, nw.dtypes.DType]:
    """Time stamps as int64 or datetime64[us], in UTC and by the wall clock (equal without a zone); the dtype to give back."""
    name, kind = rows.columns.ds, ds.dtype
    rows.none_missing(ds, name)
    if kind.is_integer():
        t: Stamps = ds.to_numpy().astype(np.int64)
    elif kind in (nw.Datetime, nw.Date):
        naive = ds.dt.replace_time_zone(None) if getattr(kind, "time_zone", None) else ds
        t = naive.to_numpy().astype("M8[us]")
    elif kind in (nw.String, nw.Object):
        t, kind = _written(ds.to_list(), rows), nw.Datetime("us")
    else:
        raise ValueError(f"{name} must hold whole numbers or time stamps, got a column of {kind}. Convert it first.")
    if freq and (freq.unit == "int") != (t.dtype.kind == "i"):
        holds = "whole numbers" if t.dtype.kind == "i" else "time stamps"
        raise ValueError(f"freq {freq.name!r} does not fit {name}, which holds {holds}. Leave freq out, or convert {name}.")
    if getattr(kind, "time_zone", None):
        utc = ds.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy().astype("M8[us]")
        return utc, t, kind
    return t, t, kind


def _written(values: list[Any], rows: _Rows) -> Stamps:
    name, t = rows.columns.ds, np.empty(len(values), "M8[us]")
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
