"""A `Panel`: series on a regular grid; and `read`, which lays a long frame on it. NumPy and narwhals, no torch."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.covariates import Covariates, Names
from longshort.apps.forecast.freq import DAY, Freq, Stamps, from_wall, infer, parse, wall_clock
from longshort.apps.forecast.tables import (
    PIECE,
    Columns,
    Rows,
    Table,
    changes,
    complete,
    constant,
    cut,
    floats,
    open_frame,
    stamps,
)


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

    def clock(self, series: NDArray, position: NDArray) -> Stamps:
        """What the clocks of the data's time zone show at `stamps`. [B]."""
        t = self.stamps(series, position)
        return t if self.freq.wall else wall_clock(t, getattr(self.ds_type, "time_zone", None))

    def frame(self, series: NDArray, columns: Mapping[str, NDArray | nw.Series[Any]]) -> Any:
        """A native frame of the kind that came in: the id column of the given series, [B], then these columns.

        int64 and datetime64 columns are taken as time stamps and get the dtype that ds had.
        """
        made = []
        for name, v in columns.items():
            if isinstance(v, np.ndarray) and v.dtype.kind == "M" and self.freq.wall:
                v = from_wall(v, getattr(self.ds_type, "time_zone", None))
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
        return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)


def read(
    source: Any, freq: str | int | Freq | None = None, columns: Columns = Columns(), names: Names = Names(),  # noqa: B008
    future: Any = None, static: Any = None, horizon: int | None = None,
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
        horizon: of future: steps of which at least one must be known; None asks for any later one.

    Returns:
        The panel.

    Raises:
        TypeError: the source is no eager frame.
        ValueError: anything about the data is wrong; the message names the series and the row (counted from 0).
    """
    if both := [c for c in columns if c in names.all]:
        raise ValueError(f"{both[0]} is the id, the time or the value itself. It cannot be a covariate as well.")
    total, parts = cut(source, columns, names)
    table = Table(columns, names, total)
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
    if step.unit == "month" and step.at == "day" and not (ends := replace(step, at="end")).misfit(wall).any():
        step = ends  # M and Q of month ends
    t = wall if step.wall else utc
    first = np.flatnonzero(np.concatenate([[True], series[1:] != series[:-1]]))
    start, count = t[first], np.diff(np.concatenate([first, [len(t)]]))
    zone = getattr(table.ds_type, "time_zone", None)
    if step.wall and zone:  # a series may begin where the clocks skip its time of day
        early = start.astype("M8[D]").astype("M8[us]") + np.minimum.reduceat(t - t.astype("M8[D]"), first)
        start = np.where(from_wall(early, zone) == utc[first], early, start)
    position, fits, on_grid = np.empty(len(t), np.int64), np.empty(len(t), bool), np.empty(len(t), bool)
    for k in range(0, len(t), PIECE):
        here = slice(k, k + PIECE)
        fits[here] = ~step.misfit(t[here])
        position[here], on_grid[here] = _placed(step, utc[here], wall[here], start[series[here]], zone)
    if len(bad := np.flatnonzero(~fits)):
        table.blame(row(bad[0]), f"does not fit freq {step.name!r}. Correct it, or give another freq=", len(bad))
    if len(bad := np.flatnonzero(~on_grid)):
        table.blame(
            row(bad[0]), f"is not on the grid of step {step.name!r} that starts at {start[series[bad[0]]]}. "
            "Correct it, or give another freq=", len(bad))  # fmt: skip
    lengths = position[first + count - 1] + 1
    apart = np.diff(position)[series[1:] == series[:-1]]
    if len(apart) > 2 and (n := int(np.gcd.reduce(apart))) > 1:
        raise ValueError(f"the data have a time stamp at every {n}th step of freq {step.name!r} at most. Data and freq= (for a "
                         "trained model, that of its data) must have the same step.")  # fmt: skip
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
    after, ahead = _future(values[2], future, made, names, known, horizon)
    return replace(made, covariates=Covariates(names, values[1], after, ahead, numbers, labels, text))


def _static(
    seen: dict[str, dict[int, Any]], source: Any, names: Names, columns: Columns, known: dict[Any, int]
) -> tuple[NDArray, tuple[tuple[str | None, ...], ...], tuple[str, ...]]:
    """Static covariates of each series from both frames: numbers [S, n], texts, and the names of the latter."""
    if source is not None:
        frame, known = _alike(source, open_frame(source, columns, names), columns.id, known)
        rest = [c for c in names.static if c not in seen]
        if twice := [c for c in seen if c in frame.columns]:
            raise ValueError(f"{', '.join(twice)} stands in the data and in static= as well. Leave it out of one of them.")
        complete(frame, [columns.id], rest, "static=")
        series = np.array([known.get(v, -1) for v in frame[columns.id].to_list()], np.int32)
        if len(gone := np.setdiff1d(np.arange(len(known)), series)):
            raise ValueError(
                f"static= has no row for series {list(known)[gone[0]]!r}"
                + (f" and {len(gone) - 1} more" if len(gone) > 1 else "")
                + f". Add it (one row a series; its {columns.id} must be of the same kind as in the data)."
            )
        rows = Rows(frame[columns.id], None, columns.ds, where="static=: ")
        for name in rest:
            seen[name] = {}
            constant(frame[name], name, series, np.ones(len(frame), bool), seen[name], rows)
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


def _placed(step: Freq, utc: Stamps, wall: Stamps, start: Stamps, zone: str | None) -> tuple[NDArray, NDArray]:
    """Steps from start, and whether each lies on the grid; a time that the clocks skip is later by what they skip. [N] each."""
    at, fits = step.positions(wall if step.wall else utc, start)
    if step.wall and zone and len(bad := np.flatnonzero(~fits)):
        fits[bad] = from_wall(step.stamps(start[bad], at[bad]), zone) == utc[bad]
    return at, fits


def _alike(source: Any, frame: nw.DataFrame[Any], name: str, known: dict[Any, int]) -> tuple[nw.DataFrame[Any], dict[Any, int]]:
    """A frame, and the numbers of the series by its kind of ids: a CSV file does not say whether 1 is a number."""
    if name in frame.columns:
        if frame[name].dtype.is_integer() and all(isinstance(v, str) for v in known):
            return frame.with_columns(frame[name].cast(nw.String)), known
        if isinstance(source, str | Path) and frame[name].dtype == nw.String and all(isinstance(v, int) for v in known):
            return frame, {str(v): k for v, k in known.items()}  # others among them have made all of them text
    return frame, known


def _future(
    held: NDArray, source: Any, panel: Panel, names: Names, known: dict[Any, int], horizon: int | None
) -> tuple[NDArray, int]:
    """The future covariates [N, Cf] of a panel, followed by those of `source`: [N + S * ahead, Cf], and ahead."""
    if source is None:
        return held, 0
    c, step, where = panel.columns, panel.freq, "future=: "
    frame, known = _alike(source, open_frame(source, c, names), c.id, known)
    if not names.future:
        raise ValueError("future= is given, but no future covariates are named. Name its columns with future=(...).")
    complete(frame, [c.id, c.ds], names.future, "future=")
    if not len(frame):
        return held, 0
    rows = Rows(frame[c.id], frame[c.ds], c.ds, where=where)
    rows.none_missing(frame[c.id], c.id)
    begins = changes(frame[c.id])
    heads = np.flatnonzero(begins)
    code = np.array([known.get(v, -1) for v in frame[c.id][heads].to_list()])
    if len(bad := np.flatnonzero(code < 0)):
        rows.blame(
            heads[bad[0]], f"belongs to no series of the data. Leave it out, or give {c.id} the same kind as there", len(bad)
        )
    series = code[np.cumsum(begins) - 1]
    utc, wall, kind = stamps(frame[c.ds], rows, step)
    zone, own = (getattr(k, "time_zone", None) for k in (kind, panel.ds_type))
    if zone is None and own is not None:
        rows.blame(0, f"has no time zone, but the data has {panel.ds_type}. Give {c.ds} the same")
    if not step.wall and zone is not None and own is None:
        rows.blame(0, f"has the time zone {zone}, but the data has none. Give {c.ds} the same")
    t = wall if step.wall else utc
    at, on_grid = _placed(step, utc, wall, panel.start[series], zone)
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
    if not ahead:
        raise ValueError(
            "future=: no row lies after the end of its series, so nothing is known of what is forecast. Give later ones."
        )
    if horizon is not None and not ((beyond > 0) & (beyond <= horizon)).any():
        first = np.where(beyond > 0, beyond, ahead + 1).argmin()
        rows.blame(
            first, f"is {beyond[first]} steps after the end of its series, and the forecast has {horizon}: of none of them is "
            "anything known. Give the steps that follow the end"
        )  # fmt: skip
    if S * ahead > 1000 * len(t) + 10_000:
        rows.blame(beyond.argmax(), f"is {ahead} steps after the end of its series. Is the time stamp wrong? Correct it")
    made = np.full((len(held) + S * ahead, held.shape[1]), np.nan, np.float32)
    own = np.repeat(np.arange(S), lengths)
    made[np.arange(len(held)) + own * ahead] = held
    given, inside = floats(frame, names.future, rows), np.flatnonzero(at >= 0)
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
