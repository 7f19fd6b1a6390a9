"""Long frames and the files that hold them, checked and turned into arrays; an error names the series and the row. No torch."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.covariates import Names
from longshort.apps.forecast.freq import Freq, Stamps, from_wall
from longshort.extras import need

ISO = re.compile(
    r"(\d{4}-\d\d(?:-\d\d)?)"
    r"|(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?) ?(Z|UTC|[+-](?:0\d|1[0-4]):?[0-5]\d)?"
)
WHOLE = r"0|-?[1-9]\d{0,17}"  # an id of a CSV file that is the same as a number: 001 and 1 are two series
DATES = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])?")  # 202401, 20240131
PIECE = 2**16  # rows of a file that are looked at together


class Columns(NamedTuple):
    """The names of the three columns of a long frame."""

    id: str = "unique_id"
    ds: str = "ds"
    y: str = "y"


def free(columns: Columns, *made: str) -> None:
    """Raise ValueError if a column of the data has the name of one that is made."""
    if both := [c for c in columns if c in made]:
        raise ValueError(f"the result has a column {both[0]} of its own, and so has the data. Rename yours.")


class Table:
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
            complete(frame, list(c), (*n.past, *n.future, *self.static), "data")
        if not len(frame):
            return
        rows = Rows(frame[c.id], frame[c.ds], c.ds, self.size)
        rows.none_missing(frame[c.id], c.id)
        y = _numbers(frame[c.y], c.y, rows)
        utc, wall, kind = stamps(frame[c.ds], rows, step)
        self.ds_type = self.ds_type or kind
        if kind != self.ds_type:  # text that was read in pieces
            rows.blame(0, f"and those after it are {kind}, the rows before {self.ds_type}. Write all of them alike")
        begins = changes(frame[c.id])
        heads = np.flatnonzero(begins)
        before = len(self.known)
        code = np.array([self.known.setdefault(v, len(self.known)) for v in frame[c.id][heads].to_list()], np.int32)
        new, at = np.unique(code, return_index=True)
        self.ids.append(frame[c.id][heads[at[new >= before]]])
        series = code[np.cumsum(begins) - 1]
        past, future = (floats(frame, names, rows) for names in (n.past, n.future))
        for name, seen in self.static.items():
            constant(frame[name], name, series, begins, seen, rows)
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


class Rows:
    """Names rows of one piece in errors."""

    def __init__(self, ids: nw.Series[Any], ds: nw.Series[Any] | None, name: str, before: int = 0, where: str = "") -> None:
        self.ids, self.ds, self.name, self.before, self.where = ids, ds, name, before, where

    def blame(self, row: int | np.integer, what: str, count: int = 1) -> NoReturn:
        """Raise the error that names a row."""
        stood = "" if self.ds is None else f" ({self.name} {self.ds[int(row)]})"
        _blame(self.ids[int(row)], self.before + int(row), stood, what, count, self.where)

    def none_missing(self, values: nw.Series[Any], name: str) -> None:
        """Raise if a value of a column is missing."""
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


def changes(values: nw.Series[Any]) -> NDArray:
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


def complete(frame: nw.DataFrame[Any], wanted: list[str], covariates: Sequence[str], what: str) -> None:
    """Raise if a frame lacks a column, or has one more."""
    there = frame.columns
    if len(there) == 1 and (";" in there[0] or "\t" in there[0]):
        raise ValueError(f"{what} has one column, {there[0]!r}. The separator of a CSV file must be a comma.")
    if missing := [c for c in wanted if c not in there]:
        raise ValueError(
            f"{what} must have columns {', '.join(wanted)}; missing: {', '.join(missing)}, found: {', '.join(map(str, there))}. "
            "Rename yours, or name them in training: id_col=, time_col=, target_col= (--id-col, --time-col, --target-col). A "
            "single series also needs an id column."
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


def floats(frame: nw.DataFrame[Any], names: Sequence[str], rows: Rows) -> NDArray:
    """Columns of numbers and truth values, NaN where missing, float32, [N, C]."""
    made = np.empty((len(frame), len(names)), np.float32)
    for k, name in enumerate(names):
        with np.errstate(over="ignore"):
            made[:, k] = _numbers(frame[name], name, rows, flags=True)
        if len(bad := np.flatnonzero(np.isinf(made[:, k]))):
            rows.blame(bad[0], f"has {name} beyond the range of single precision. Rescale the column", len(bad))
    return made


def constant(values: nw.Series[Any], name: str, series: NDArray, begins: NDArray, seen: dict[int, Any], rows: Rows) -> None:
    """Note the value of each series; a missing one says nothing."""
    if values.dtype in (nw.Categorical, nw.Enum):
        values = values.cast(nw.String)
    heads = np.flatnonzero(begins | changes(values))
    part = values[heads]
    for row, s, v, gone in zip(heads, series[heads].tolist(), part.to_list(), _gone(part), strict=True):
        if gone or s < 0:  # of no series of the data
            continue
        if not isinstance(v, str | bool | np.bool | int | float | Decimal | np.number):
            rows.blame(row, f"has {name} = {v!r}; a static covariate must be a number, a truth value or text. Convert it first")
        if seen.setdefault(s, v) != v:
            rows.blame(
                row, f"has {name} = {v!r}, but before {seen[s]!r}. A static covariate must not change within a series: "
                "correct it, or make it a past= or future= covariate"
            )  # fmt: skip


def _numbers(values: nw.Series[Any], name: str, rows: Rows, flags: bool = False) -> NDArray:
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


def stamps(ds: nw.Series[Any], rows: Rows, freq: Freq | None) -> tuple[Stamps, Stamps, nw.dtypes.DType]:
    """Time stamps as int64 or datetime64[us], in UTC and by the wall clock (the same without a zone); the dtype to give back."""
    name, kind = rows.name, ds.dtype
    rows.none_missing(ds, name)
    there, native = ds, cast(Any, ds.to_native())
    if kind == nw.Unknown and hasattr(native.dtype, "tz"):  # narwhals does not know zones like America/New_York
        kind = nw.Datetime(native.dtype.unit, str(native.dtype.tz))
        there = nw.from_native(native.dt.tz_convert("UTC"), series_only=True)
    zone = getattr(kind, "time_zone", None)
    written: str | None = None  # the zone that text names
    if kind.is_integer():
        t: Stamps = ds.to_numpy().astype(np.int64)
        if freq is None and _dates(t[:1000]):
            rows.blame(0, "looks like a date. Write it as text, 2024-01 or 2024-01-31; or give freq=1 if it counts steps")
        if kind in (nw.Int8, nw.UInt8, nw.Int16, nw.UInt16):  # too narrow for what follows the end
            kind = nw.Int64()
    elif kind in (nw.Datetime, nw.Date):
        naive = ds.dt.replace_time_zone(None) if zone else ds
        t = naive.to_numpy().astype("M8[us]")
    elif kind in (nw.String, nw.Object):
        t, written = _written(ds.to_list(), rows)
        if written not in (None, "UTC") and ds.implementation.is_polars():
            rows.blame(0, f"has {_named(written)}, and a polars column cannot always be that far from UTC. Write {name} in UTC")
        kind = nw.Datetime("us", written)
    else:
        raise ValueError(f"{name} must hold whole numbers or time stamps, got a column of {kind}. Convert it first.")
    if freq and (freq.unit == "int") != (t.dtype.kind == "i"):
        holds = "whole numbers" if t.dtype.kind == "i" else "time stamps"
        raise ValueError(f"freq {freq.name!r} does not fit {name}, which holds {holds}. Leave freq out, or convert {name}.")
    if zone:
        utc = there.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy().astype("M8[us]")
        return utc, t, kind
    return from_wall(t, written) if written else t, t, kind


def _dates(steps: NDArray) -> bool:
    """Whether whole numbers that differ look like months, or all like days."""
    some = {str(v) for v in steps.tolist()}
    return len(some) > 1 and len({len(v) for v in some}) == 1 and all(map(DATES.fullmatch, some))


def _written(values: list[Any], rows: Rows) -> tuple[Stamps, str | None]:
    """Text or dates as time stamps by the wall clock, and the zone that all of them name."""
    name, t, zone = rows.name, np.empty(len(values), "M8[us]"), None
    for k, v in enumerate(values):
        if isinstance(v, str) and (found := ISO.fullmatch(v)):
            try:
                t[k] = np.datetime64(found[1] or found[2])
            except ValueError:
                rows.blame(k, "is no date of the calendar. Correct it")
            own = found[3] and _zone(found[3])
            if k and own != zone:
                rows.blame(
                    k, f"has {_named(own)}, the rows before have {_named(zone)}. Write all of them in UTC, 2024-01-31T13:00Z; "
                    "or take a column of a frame or of a Parquet file, which knows when clocks change"
                )  # fmt: skip
            zone = own
            continue
        if isinstance(v, dt.date) and getattr(v, "tzinfo", None) is None:
            t[k] = np.datetime64(v)
            continue
        if isinstance(v, dt.datetime):
            rows.blame(k, f"carries the time zone {v.tzinfo}, in a column of mixed time zones. Convert {name} to one")
        rows.blame(
            k, f"is no time stamp: {name} must hold whole numbers, time stamps, or text like 2024-01-31 or 2024-01-31 13:00"
        )
    return t, zone


def _named(zone: str | None) -> str:
    return f"the time zone {zone}" if zone else "no time zone"


def _zone(written: str) -> str:
    """The name of an offset from UTC as it is written: Z, UTC, +0200, +02:00."""
    if written in ("Z", "UTC") or not written.strip("+-0:"):
        return "UTC"
    return f"{written[:3]}:{written[-2:]}"


def cut(source: Any, columns: Columns, names: Names) -> tuple[int, Iterator[nw.DataFrame[Any]]]:
    """How many rows there are, and a frame, or the pieces of a Parquet file."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is None or path.suffix != ".parquet" or not path.is_file():
        frame = open_frame(source, columns, names)
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


def open_frame(source: Any, columns: Columns, names: Names) -> nw.DataFrame[Any]:
    """A frame as narwhals sees it, or the whole of a file."""
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
        _needs(path, "pandas")
        import pandas as pd

        numbers = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
        gaps = {c: numbers for c in (columns.y, *names.past, *names.future)} | {c: [""] for c in names.static}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that have more fields than the header
                frame = nw.read_csv(str(path), backend="pandas", keep_default_na=False, na_values=gaps, dtype={columns.id: str},
                                    float_precision="round_trip", index_col=False,
                                    low_memory=False)  # fmt: skip  # so that a column is of one kind, however long it is
        except (ValueError, pd.errors.ParserWarning) as e:
            raise ValueError(f"data file {str(path)!r} cannot be read as CSV: {str(e).strip()}") from None
        if columns.id in frame.columns and frame[columns.id].to_native().str.fullmatch(WHOLE).all():
            frame = frame.with_columns(frame[columns.id].cast(nw.Int64))
        return frame.with_columns(*(_counted(frame[c], numbers) for c in names.static if c in frame.columns))
    raise ValueError(f"data file must end in .csv or .parquet, got {str(path)!r}.")


def _counted(values: nw.Series[Any], gaps: list[str]) -> nw.Series[Any]:
    """A static column of a CSV file that holds numbers and words for gaps, as numbers; any other as it is."""
    import pandas as pd

    native = values.to_native()
    if values.dtype != nw.String or (rest := native[~native.isin(gaps) & native.notna()]).empty:
        return values
    try:
        made = pd.to_numeric(rest).reindex(native.index)
    except ValueError:
        return values
    return nw.from_native(made, series_only=True)


def _needs(path: Path, *packages: str) -> None:
    for package in packages:
        need(package, what=f"reading {str(path)!r}", extra=path.suffix[1:])


def _parquet(path: Path) -> Any:
    _needs(path, "pandas", "pyarrow")
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(path)
    except ValueError as e:
        raise ValueError(f"data file {str(path)!r} cannot be read as Parquet: {e}") from None
