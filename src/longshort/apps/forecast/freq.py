"""Time as whole steps: a frequency maps time stamps to positions on a grid and back. NumPy only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray  # int64, or datetime64[us]

DAY = 86_400_000_000  # in microseconds, the unit of all fixed steps
_FIXED = {"us": 1, "ms": 1000, "s": 10**6, "S": 10**6, "min": 60 * 10**6, "T": 60 * 10**6, "m": 60 * 10**6,
          "h": 3600 * 10**6, "H": 3600 * 10**6, "d": DAY, "D": DAY, "w": 7 * DAY, "W": 7 * DAY}  # fmt: skip
_MONTHS = {"mo": 1, "M": 1, "ME": 1, "MS": 1, "q": 3, "Q": 3, "QE": 3, "QS": 3, "y": 12, "Y": 12, "A": 12, "YE": 12, "YS": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTH_NAMES = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


@dataclass(frozen=True)
class Freq:
    """The step between two time stamps.

    Args:
        n: length of the step, in units of `unit`.
        unit: 'int' (whole numbers), 'us' (fixed spans), 'month', or 'bday' (Monday to Friday).
        at: of months, 'start', 'end' or 'day' (the day of the month at which a series begins).
        anchor: weekday (0 is Monday) or month (0 is January) that the stamps must fall on, if the user named one.
    """

    n: int
    unit: str
    at: str = "day"
    anchor: int | None = None

    @property
    def name(self) -> str:
        """The canonical name: `parse(freq.name) == freq`."""
        if self.unit == "int":
            return str(self.n)
        if self.unit == "bday":
            return "B"
        if self.unit == "month":
            years, quarters = self.n % 12 == 0, self.n % 3 == 0
            letter, size = ("Y", 12) if years else ("Q", 3) if quarters else ("M", 1)
            end = {"start": "S", "end": "E", "day": ""}[self.at]
            tail = "" if self.anchor is None else f"-{_MONTH_NAMES[self.anchor]}"
            return f"{_times(self.n // size)}{letter}{end}{tail}"
        for unit in ("W", "D", "h", "min", "s", "ms", "us"):
            if self.n % _FIXED[unit] == 0:
                tail = "" if self.anchor is None else f"-{_WEEKDAYS[self.anchor]}"
                return f"{_times(self.n // _FIXED[unit])}{unit}{tail}"
        raise AssertionError(self)

    @property
    def wall(self) -> bool:
        """True if the step is counted on the wall clock (days and longer), so that a change to summer time is no gap."""
        return self.unit in ("month", "bday") or (self.unit == "us" and self.n % DAY == 0)

    @property
    def season(self) -> int:
        """Steps per season by custom: Y 1, Q 4, M 12, W 52, D 7, B 5, below that one day, below a minute one hour; else 1."""
        if self.unit == "bday":
            return 5
        if self.unit == "month":
            return _ratio(12, self.n)
        if self.unit == "int":
            return 1
        if self.n % (7 * DAY) == 0:
            return _ratio(52, self.n // (7 * DAY))
        span = 7 * DAY if self.n >= DAY else DAY if self.n >= _FIXED["min"] else _FIXED["h"]
        return _ratio(span, self.n)

    def positions(self, t: Stamps, start: Stamps) -> tuple[NDArray, NDArray]:
        """Steps from start to t (rounded down), and whether t lies on the grid that starts there. int64 and bool, [N]."""
        if self.unit == "int":
            span = t - start
        elif self.unit == "us":
            span = (t - start).astype(np.int64)
        elif self.unit == "bday":
            span = np.busday_count(start.astype("M8[D]"), t.astype("M8[D]"))
        else:
            span = (t.astype("M8[M]") - start.astype("M8[M]")).astype(np.int64)
        k = span // (1 if self.unit == "bday" else self.n)
        return k, self.stamps(start, k) == t

    def stamps(self, start: Stamps, k: NDArray) -> Stamps:
        """The time stamps k steps after start. [N]."""
        if self.unit == "int":
            return start + k * self.n
        if self.unit == "us":
            return start + (k * self.n).astype("m8[us]")
        day = start.astype("M8[D]")
        clock = start - day.astype("M8[us]")
        if self.unit == "bday":
            return np.busday_offset(day, k, roll="forward").astype("M8[us]") + clock
        month = start.astype("M8[M]") + (k * self.n).astype("m8[M]")
        first, last = month.astype("M8[D]"), (month + 1).astype("M8[D]") - 1
        offset = (day - start.astype("M8[M]").astype("M8[D]")).astype("m8[D]")
        there = {"start": first, "end": last, "day": np.minimum(first + offset, last)}[self.at]
        return there.astype("M8[us]") + clock

    def misfit(self, t: Stamps) -> NDArray:
        """Where t does not fit: off the named weekday or month, off the month's start or end, or on a weekend."""
        if self.unit == "int":
            return np.zeros(len(t), bool)
        day, month = t.astype("M8[D]"), t.astype("M8[M]")
        bad = np.zeros(len(t), bool)
        if self.unit == "bday":
            bad |= ~np.is_busday(day)
        if self.unit == "us" and self.anchor is not None:
            bad |= (day.astype(np.int64) + 3) % 7 != self.anchor  # 1970-01-01 was a Thursday
        if self.unit == "month":
            if self.anchor is not None:
                bad |= (month.astype(np.int64) - self.anchor) % np.gcd(self.n, 12) != 0
            if self.at == "start":
                bad |= day != month.astype("M8[D]")
            if self.at == "end":
                bad |= day != (month + 1).astype("M8[D]") - 1
        return bad


def parse(name: str | int) -> Freq:
    """Read a frequency as pandas ('W-SAT', 'MS', '30min'), polars ('1mo', '15m') or a whole number (for integer ds) writes it.

    Raises:
        ValueError: the name is unknown.
        TypeError: it is neither text nor a whole number.
    """
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise TypeError(f"freq must be text like 'D', 'W', 'MS', '30min' or a whole number for integer ds, got {name!r}.")
    found = re.fullmatch(r"(\d*)([A-Za-z]*)(?:-([A-Z]{3}))?", str(name))
    digits, unit, tail = found.groups() if found else ("", "", "")
    n = int(digits or 1)
    if found and n > 0 and (digits or unit):
        if not unit and not tail:
            return Freq(n, "int")
        if unit in _FIXED and (tail is None or (unit in "wW" and tail in _WEEKDAYS)):
            return Freq(n * _FIXED[unit], "us", anchor=None if tail is None else _WEEKDAYS.index(tail))
        if unit in ("B", "b") and n == 1 and tail is None:
            return Freq(1, "bday")
        if unit in _MONTHS and (tail is None or (unit[0] in "qQyYA" and tail in _MONTH_NAMES)):
            at = "day" if len(unit) == 1 or unit == "mo" else {"S": "start", "E": "end"}[unit[1]]
            return Freq(n * _MONTHS[unit], "month", at, None if tail is None else _MONTH_NAMES.index(tail))
    raise ValueError(
        f"freq {name!r} is unknown. Write a whole number for integer ds, or a count and one of "
        "Y YS YE, Q QS QE, M MS ME, W (W-SUN ...), D, B, h, min, s, ms, us: 'D', '30min', 'W-SAT', 'MS'."
    )


def infer(t: Stamps, series: NDArray) -> Freq:
    """The frequency of sorted time stamps.

    Args:
        t: time stamps, sorted within each series, without repetition; int64 or datetime64[us], [N].
        series: number of the series of each stamp, ascending, [N].

    Returns:
        For integers their greatest common step. For time stamps whole months if all stamps stand on one day of the month
        (or on its last), business days if weekends alone are missing, otherwise the most common step.

    Raises:
        ValueError: no series has two stamps.
    """
    counts: dict[int, int] = {}
    for piece, inner in _pieces(t, series):
        values, n = np.unique(np.diff(piece)[inner].astype(np.int64), return_counts=True)
        for gap, k in zip(values.tolist(), n.tolist(), strict=True):
            counts[gap] = counts.get(gap, 0) + k
    if not counts:
        raise ValueError("freq cannot be inferred: no series has two time stamps. Give freq=, for example freq='D'.")
    gaps = sorted(counts)
    if t.dtype.kind != "M":
        return Freq(math.gcd(*gaps), "int")
    usual = max(gaps, key=counts.__getitem__)
    if gaps[0] >= 28 * DAY and (month := _months(t, series)):
        return month
    if usual == DAY and counts.get(3 * DAY, 0) >= 2 and all(np.is_busday(p.astype("M8[D]")).all() for p, _ in _pieces(t, series)):
        return Freq(1, "bday")
    return Freq(usual, "us")


def _months(t: Stamps, series: NDArray) -> Freq | None:
    """The step in months, if all stamps of a series stand on one day of the month, or all on its last."""
    last = first = same = True
    n = 0
    for piece, inner in _pieces(t, series):
        day, month = piece.astype("M8[D]"), piece.astype("M8[M]")
        dom = (day - month.astype("M8[D]")).astype(np.int64)
        last &= bool((((month + 1).astype("M8[D]") - 1) == day).all())
        first &= not dom.any()
        same &= bool((dom[1:] == dom[:-1])[inner].all())
        n = math.gcd(n, int(np.gcd.reduce(np.diff(month.astype(np.int64))[inner])))
    return Freq(n, "month", "end" if last else "start" if first else "day") if last or same else None


def _pieces(t: Stamps, series: NDArray) -> Iterator[tuple[Stamps, NDArray]]:
    """Runs of stamps that overlap by one, and which neighbours in them are of one series: little memory, however many."""
    for k in range(0, len(t) - 1, 2**18):
        here = slice(k, k + 2**18 + 1)
        yield t[here], series[here][1:] == series[here][:-1]


def wall_clock(t: Stamps, zone: str | None) -> Stamps:
    """What the clocks of a time zone show at time stamps in UTC, datetime64[us]. Without a zone: t itself."""
    if zone in (None, "UTC") or not t.size:
        return t
    if fixed := re.fullmatch(r"(?:UTC)?([+-]?)(\d\d):(\d\d)|pytz.FixedOffset\((-?\d+)\)", str(zone)):
        sign, hours, minutes, all_minutes = fixed.groups()
        shift = int(all_minutes) if all_minutes else (-1 if sign == "-" else 1) * (60 * int(hours) + int(minutes))
        return t + np.timedelta64(shift, "m")
    low, high = (int(v.astype("M8[h]").astype(np.int64)) for v in (t.min(), t.max()))
    since, offset = _offsets(str(zone), low // _YEAR * _YEAR, (high // _YEAR + 1) * _YEAR)
    return t + offset[np.searchsorted(since, t, "right") - 1]


def from_wall(t: Stamps, zone: str | None) -> Stamps:
    """When, in UTC, the clocks of a time zone show t, datetime64[us]; where they skip t, later by what they
    skip. Without a zone: t."""
    early = t - (wall_clock(t, zone) - t)
    made = t - (wall_clock(early, zone) - early)
    return np.where(wall_clock(made, zone) == t, made, np.maximum(early, made))


_YEAR = 366 * 24  # in hours


@lru_cache(64)
def _offsets(zone: str, low: int, high: int) -> tuple[Stamps, NDArray]:
    """When the offset of a zone changes between two hours since 1970, and to what; the first entry is the beginning."""
    from zoneinfo import ZoneInfo

    where = ZoneInfo(zone)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)

    def offset(hour: int) -> timedelta:
        return (epoch + timedelta(hours=hour)).astimezone(where).utcoffset() or timedelta()

    changes = [(low, offset(low))]
    for day in range(low + 24, high + 24, 24):
        if offset(day) != changes[-1][1]:
            a, b = day - 24, day  # the change lies in (a, b]
            while b - a > 1:
                a, b = ((a + b) // 2, b) if offset((a + b) // 2) == changes[-1][1] else (a, (a + b) // 2)
            changes.append((b, offset(b)))
    hours = np.array([h for h, _ in changes]).astype("M8[h]").astype("M8[us]")
    return hours, np.array([o // timedelta(microseconds=1) for _, o in changes]).astype("m8[us]")


def _times(n: int) -> str:
    return "" if n == 1 else str(n)


def _ratio(whole: int, part: int) -> int:
    return whole // part if part <= whole and whole % part == 0 else 1
