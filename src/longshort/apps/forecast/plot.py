"""Pictures of forecasts and of backtests. matplotlib is imported only here, without its global state.

Colours stay apart for all kinds of colour blindness (a test measures it), and no two lines differ by colour alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast import evidence
from longshort.apps.forecast.backtest import Backtest
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.freq import Freq
from longshort.apps.forecast.tables import Columns, Rows, stamps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

LEGEND = ("history", "truth", "LSTM forecast", "seasonal naive")  # the intervals stand before the last
INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
FORECAST, BASELINE = "#d1495b", "#6b8fb5"
STYLES: dict[str, tuple[str, Any]] = {  # colour and dashes of each forecaster; the first one of a backtest is FORECAST
    "SeasonalNaive": (BASELINE, (0, (4, 2))),
    "Naive2": ("#185974", (0, (1, 1.5))),
    "SES": ("#c08a1e", (0, (6, 1.5, 1, 1.5))),
    "Theta": ("#6e27ab", (0, (2.5, 1.2))),
    "ETS": ("#2eb48f", (0, (8, 2))),
}


def plot(
    panel: Panel,
    forecast: Any,
    ids: Sequence[Any] | None = None,
    *,
    history: int | None = None,
    title: str | None = None,
    subtitle: str | None = None,
    ylabel: str | None = None,
    path: Path | str | None = None,
) -> Figure:
    """Draw series with their forecasts, one below the other.

    Args:
        panel: the series.
        forecast: a frame as `Forecaster.predict` or `Backtest.frame` returns it; of several cutoffs the last is drawn. Its
            truth y and SeasonalNaive are drawn if it has them.
        ids: which series, by id; None takes the first four.
        history: steps of history to draw; None takes four horizons.
        title: headline; None names the forecast.
        subtitle: a line below it.
        ylabel: what the values are, with their unit.
        path: file to write as well; its ending says the format (.png, .svg, .pdf).

    Returns:
        The figure.

    Raises:
        ValueError: an id is not in the panel or not in the forecast.
    """
    from matplotlib.figure import Figure

    frame, c = nw.from_native(forecast, eager_only=True), panel.columns
    known = panel.ids.to_list()
    chosen = list(dict.fromkeys(frame[c.id].to_list()))[:4] if ids is None else list(ids)
    figure = Figure(figsize=(11, 5.4 if len(chosen) == 1 else 1.2 + 2.8 * len(chosen)), dpi=150, layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(w_pad=0.12, h_pad=0.12, hspace=0.03)
    axes = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axis, name in zip(axes, chosen, strict=True):
        rows = frame.filter(frame[c.id] == name)
        if name not in known or not len(rows):
            raise ValueError(
                f"series {name!r} must be in the data and in the forecast. "
                f"The data has {len(known)} series, such as {known[0]!r}."
            )
        if "cutoff" in rows.columns:
            rows = rows.filter(rows["cutoff"] == rows["cutoff"].max())
        _draw(axis, panel, known.index(name), rows.sort(c.ds), history)
        axis.set_ylabel(ylabel or c.y, color=FAINT, parse_math=False)
        if len(chosen) > 1:
            axis.set_title(str(name), loc="left", color=INK, fontsize=10, fontweight="bold", parse_math=False)
    lines = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    lines = {k: lines[k] for k in sorted(lines, key=lambda k: (LEGEND.index(k) if k in LEGEND else 2.5, k))}
    top, up = axes[0], 16 if len(chosen) > 1 else 0
    what = title or f"Forecast of {chosen[0] if len(chosen) == 1 else f'{len(chosen)} series'}"
    for text, points, style in (
        (what, 44 if subtitle else 27, {"color": INK, "size": 15, "weight": "bold", "parse_math": False}),
        (subtitle, 27, {"color": FAINT, "size": 10, "parse_math": False}),
    ):
        if text:
            top.annotate(text, (0, 1), (0, points + up), "axes fraction", "offset points", **style)
    top.legend(lines.values(), lines.keys(), loc="lower left", bbox_to_anchor=(-0.005, 1.005 + up / 200), ncols=len(lines),
               frameon=False, labelcolor=INK, fontsize=9.5, handlelength=1.6, columnspacing=1.6, borderaxespad=0)  # fmt: skip
    if path is not None:
        figure.savefig(path)
    return figure


def window(backtest: Backtest, row: int, *, size: tuple[float, float] = (5.6, 2.6)) -> Figure:
    """One window of a backtest, by its number, without a legend: history, truth, forecast, intervals, seasonal naive forecast."""
    figure, axis = sheet(size)
    _window(axis, backtest, row)
    return figure


def extremes(backtest: Backtest, count: int = 6, *, best: bool = False, path: Path | str | None = None) -> Figure:
    """The series that are forecast worst, or best, as small multiples; see `evidence.extremes`.

    Args:
        backtest: forecasts beside the truth.
        count: how many series.
        best: the best ones.
        path: file to write as well.

    Raises:
        ValueError: no window holds any truth.
    """
    rows = evidence.extremes(backtest, count, best)
    if not len(rows):
        raise ValueError("no window of the backtest holds any truth, so no series is best or worst. Give data with its end.")
    down = -(-len(rows) // 2)
    figure, axes = sheet((11, 0.9 + 2.5 * down), (down, 2 if len(rows) > 1 else 1))
    name = next(iter(backtest.quantiles))
    error = dict(zip(*evidence.series_errors(backtest, name), strict=True))
    for axis, k in zip(axes.flat, rows, strict=False):
        _window(axis, backtest, int(k))
        s = int(backtest.series[k])
        said = f"{backtest.panel.ids[s]}   {evidence.unit(backtest)} {error[s]:.3g}"
        axis.set_title(said, loc="left", color=INK, fontsize=10, fontweight="bold", parse_math=False)
    for axis in axes.flat[len(rows) :]:
        axis.remove()
    handles = dict(zip(*reversed(axes.flat[0].get_legend_handles_labels()), strict=True))
    title = f"The {len(rows)} series forecast {'best' if best else 'worst'}, each in its worst window"
    figure.suptitle(title, x=0.012, ha="left", color=INK, size=15, weight="bold")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower left", ncols=6, frameon=False, labelcolor=INK, fontsize=9.5
    )
    if path is not None:
        figure.savefig(path)
    return figure


def decomposition(
    frame: Any, name: Any = None, *, multiplicative: bool = False, title: str | None = None, path: Path | str | None = None,
    columns: Columns = Columns(),  # noqa: B008
) -> Figure:  # fmt: skip
    """Draw one series, its level, its season and what is left, one below the other.

    Args:
        frame: what `Forecaster.decompose` returned.
        name: which series, by id; None takes the first.
        multiplicative: whether the season is a factor: `forecaster.config.multiplicative`.
        title: headline; None names the series.
        path: file to write as well; its ending says the format (.png, .svg, .pdf).
        columns: names of the id, time and value columns.

    Raises:
        ValueError: the id is not in the frame.
    """
    table, c = nw.from_native(frame, eager_only=True), columns
    name = table[c.id][0] if name is None and len(table) else name
    rows = table.filter(table[c.id] == name)
    if not len(rows):
        known = list(dict.fromkeys(table[c.id].to_list()))
        raise ValueError(f"series {name!r} must be in the frame; it has {len(known)} series, such as {known[:1]}.")
    rows = rows.sort(c.ds)
    counted = Freq(1, "int") if rows[c.ds].dtype.is_integer() else None  # whole numbers here are no dates
    ds = stamps(rows[c.ds], Rows(rows[c.id], rows[c.ds], c.ds), counted)[1]
    y, level, season = (rows[k].to_numpy() for k in (c.y, "level", "season"))
    none = 1.0 if multiplicative else 0.0
    left = y / (level * season) if multiplicative else y - level - season
    how = "factor" if multiplicative else "added"
    parts = [(f"season ({how})", season), (f"what is left ({how})", left)]
    parts = [(label, v) for label, v in parts if label[0] == "w" or np.ptp(v) > 0]
    figure, axes = sheet((11, 3.2 + 1.7 * len(parts)), (1 + len(parts), 1))
    top, *rest = axes[:, 0]
    top.plot(ds, y, color=INK, lw=1.1, label=c.y)
    top.plot(ds, level, color=FORECAST, lw=1.9, label="level")
    top.legend(loc="lower left", bbox_to_anchor=(-0.005, 1.005), ncols=2, frameon=False, labelcolor=INK, fontsize=9.5)
    for axis, (label, v) in zip(rest, parts, strict=True):
        axis.axhline(none, color=FAINT, lw=0.9)
        if label[0] == "s":
            axis.plot(ds, v, color=FORECAST, lw=1.3)
        else:
            axis.vlines(ds, none, v, color=BASELINE, lw=1.2)
        axis.set_ylabel(label, color=FAINT)
    top.set_ylabel(c.y, color=FAINT, parse_math=False)
    for axis in axes[:, 0]:
        plain(axis)
        _dates(axis, ds)
    figure.suptitle(title or f"What the model has learned of {name}", x=0.012, ha="left", color=INK, size=15, weight="bold",
                    parse_math=False)  # fmt: skip
    if path is not None:
        figure.savefig(path)
    return figure


def sheet(size: tuple[float, float], grid: tuple[int, int] | None = None) -> tuple[Figure, Any]:
    """An empty figure of a size in inches, and its axes, or one if there is no grid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(w_pad=0.1, h_pad=0.1, hspace=0.04, wspace=0.03)
    return figure, figure.subplots(*grid, squeeze=False) if grid else figure.subplots()


def plain(axis: Axes) -> None:
    """The look of all axes: horizontal lines, no frame."""
    axis.grid(axis="y", color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
    axis.tick_params(color=FAINT, labelcolor=FAINT, labelsize=9, left=False)
    axis.margins(x=0.01)


def _window(axis: Axes, backtest: Backtest, row: int) -> None:
    k = slice(row, row + 1)
    made = {n: f[k] for n, f in backtest.quantiles.items()}
    one = replace(backtest, series=backtest.series[k], origin=backtest.origin[k], quantiles=made)
    frame = nw.from_native(one.frame(), eager_only=True)
    _draw(axis, backtest.panel, int(backtest.series[row]), frame, None)


def _draw(axis: Axes, panel: Panel, s: int, rows: nw.DataFrame[Any], history: int | None) -> None:
    c, H = panel.columns, len(rows)
    utc, ds, _ = stamps(rows[c.ds], Rows(rows[c.id], rows[c.ds], c.ds), panel.freq)  # ds: what the clocks show
    first = int(panel.freq.positions((ds if panel.freq.wall else utc)[:1], panel.start[s : s + 1])[0][0])
    begin = max(0, first - (4 * H if history is None else history))
    past, truth = panel.history(s, first)[begin:], panel.window(np.array([s]), np.array([first]), H)[0]
    when = panel.clock(np.full(len(past), s), np.arange(begin, begin + len(past)))
    levels = sorted((float(m[1]) for name in rows.columns if (m := re.fullmatch(r"LSTM-lo-([\d.]+)", name))), reverse=True)
    axis.plot(when, past, color=INK, lw=1.3, label="history")
    for k, level in enumerate(levels):
        low, high = (rows[f"LSTM-{side}-{level:g}"].to_numpy() for side in ("lo", "hi"))
        axis.fill_between(ds, low, high, color=FORECAST, alpha=0.16 + 0.1 * k, lw=0, label=f"{level:g} % interval", zorder=1)
    if "SeasonalNaive" in rows.columns:
        axis.plot(ds, rows["SeasonalNaive"].to_numpy(), color=BASELINE, lw=1.2, ls=(0, (4, 2)), label="seasonal naive", zorder=2)
    if np.isfinite(truth).any():
        axis.plot(ds, truth, color=INK, ls="", marker="o", ms=3, mew=0, alpha=0.75, label="truth", zorder=4)
    axis.plot(ds, rows["LSTM"].to_numpy(), color=FORECAST, lw=1.9, label="LSTM forecast", zorder=3)
    if len(when):
        axis.axvline(when[-1], color=FAINT, lw=0.8, ls=":")
        spot = ("data", "axes fraction")
        axis.annotate("forecast from here ", (when[-1], 0.03), xycoords=spot, ha="right", color=FAINT, fontsize=8.5)
    plain(axis)
    _dates(axis, ds)


def _dates(axis: Axes, ds: NDArray) -> None:
    if ds.dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=5, maxticks=12)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))
