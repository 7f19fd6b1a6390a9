"""Pictures that judge forecasters: calibration, error and coverage by step, error by series; of a `Backtest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longshort.apps.forecast import evidence
from longshort.apps.forecast.backtest import Backtest
from longshort.apps.forecast.plot import FAINT, FORECAST, INK, STYLES, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def calibration(backtest: Backtest, *, title: str = "Calibration", size: tuple[float, float] = (5.6, 4.6),
                path: Path | str | None = None) -> Figure:  # fmt: skip
    """Share of the truth below each quantile against the quantile's level, with a band that 95 of 100 honest forecasters keep.

    The band is binomial in the number of windows, as if all steps of a window erred together: it is wide rather than narrow.
    """
    figure, axis = sheet(size)
    q, n = np.array(backtest.config.quantiles), evidence.windows(backtest)
    fine = np.linspace(0, 1, 21)
    low, high = np.array([evidence.band(n, p) for p in fine]).T
    axis.fill_between(fine, low, high, color=FAINT, alpha=0.16, lw=0, label="within chance", zorder=0)
    axis.plot([0, 1], [0, 1], color=FAINT, lw=0.9)
    for name, look in _looks(backtest).items():
        axis.plot(q, evidence.calibration(backtest, name), label=_called(name), marker="o", ms=2.4 * look["lw"], **look)
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
    _axes(axis, "level of the quantile", "share of the truth below it")
    return _done(figure, path, axis, title)


def step_error(backtest: Backtest, *, title: str = "Error by step", size: tuple[float, float] = (5.6, 3.4),
               path: Path | str | None = None) -> Figure:  # fmt: skip
    """Mean absolute error at each step of the horizon, in units of MASE, of all forecasters."""
    figure, axis = sheet(size)
    steps = np.arange(1, backtest.config.horizon + 1)
    mark = "o" if len(steps) < 3 else ""
    for name, look in _looks(backtest).items():
        axis.plot(steps, evidence.step_errors(backtest, name), label=_called(name), marker=mark, **look)
    axis.set_ylim(bottom=0)
    _axes(axis, "steps ahead", evidence.unit(backtest))
    return _done(figure, path, axis, title)


def step_coverage(backtest: Backtest, *, title: str = "Coverage by step", size: tuple[float, float] = (5.6, 3.4),
                  path: Path | str | None = None) -> Figure:  # fmt: skip
    """Share of the truth inside each interval of the first forecaster, by step, with a band that 95 of 100 honest ones keep."""
    figure, axis = sheet(size)
    steps, name = np.arange(1, backtest.config.horizon + 1), next(iter(backtest.quantiles))
    seen = np.isfinite(backtest.truth).sum(0)
    for k, level in enumerate(sorted(backtest.config.levels)):
        low, high = np.array([evidence.band(int(n), level / 100) for n in seen]).T
        axis.fill_between(
            steps, low, high, color=FAINT, alpha=0.13 + 0.1 * (k % 2), lw=0, label="" if k else "within chance", zorder=0
        )
        axis.axhline(level / 100, color=FAINT, lw=0.9, zorder=1)
        look = {
            "color": FORECAST,
            "lw": 1.9,
            "ls": ["-", (0, (4, 2)), (0, (1, 1.5))][k % 3],
            "marker": "os^"[k % 3] if len(steps) <= 24 else "",
            "ms": 4,
        }
        axis.plot(steps, evidence.step_coverage(backtest, name, level), label=f"{level:g} % interval", **look)
    axis.set_ylim(top=1.02)
    _axes(axis, "steps ahead", "share inside")
    return _done(figure, path, axis, title)


def series_error(backtest: Backtest, *, title: str = "Error by series", size: tuple[float, float] = (5.6, 4.2),
                 path: Path | str | None = None) -> Figure:  # fmt: skip
    """Each series as a point: the error of the first forecaster against that of the simple baseline, on logarithmic axes.

    The baseline is SeasonalNaive, or the second forecaster where there is none.

    Raises:
        ValueError: the backtest has one forecaster only.
    """
    name, *others = backtest.quantiles
    if not others:
        raise ValueError("series_error compares two forecasters; this backtest has one.")
    other = "SeasonalNaive" if "SeasonalNaive" in others else others[0]
    figure, axis = sheet(size)
    mine, theirs = (evidence.series_errors(backtest, k)[1] for k in (name, other))
    good = (mine > 0) & (theirs > 0)
    mine, theirs = mine[good], theirs[good]
    both = np.concatenate([mine, theirs, [1.0] if not good.any() else []])
    ends = np.array([both.min() / 1.3, both.max() * 1.3])
    axis.plot(ends, ends, color=FAINT, lw=0.9, zorder=1)
    below, area = mine < theirs, float(np.clip(900 / max(len(mine), 1), 4, 28))
    for where, color, mark, label in ((below, FORECAST, "o", f"{name} better"), (~below, FAINT, "x", f"{_called(other)} better")):
        look = {"lw": 0} if mark == "o" else {"lw": 1.2}
        axis.scatter(theirs[where], mine[where], s=area, color=color, marker=mark, alpha=0.75, label=label, zorder=2, **look)
    axis.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    decades = 10.0 ** np.arange(np.floor(np.log10(ends[0])), np.ceil(np.log10(ends[1])) + 1)
    marks = decades if len(decades) > 4 else np.outer(decades, [1, 2, 5]).ravel()
    marks = marks[(marks >= ends[0]) & (marks <= ends[1])]
    for side in (axis.xaxis, axis.yaxis):
        side.set_ticks([], minor=True)
        side.set_ticks(marks, [f"{v:g}" for v in marks])
    unit = evidence.unit(backtest)
    _axes(axis, f"{unit} of {_called(other)}", f"{unit} of {name}")
    return _done(figure, path, axis, title)


def _looks(backtest: Backtest) -> dict[str, dict[str, Any]]:
    """Colour, dashes and width of each forecaster; the first one is drawn last, above the others."""
    first, *others = backtest.quantiles
    made = {n: dict(zip(("color", "ls"), STYLES.get(n, (FAINT, "-")), strict=True)) | {"lw": 1.3, "zorder": 2} for n in others}
    return {first: {"color": FORECAST, "ls": "-", "lw": 2.1, "zorder": 3}} | made


def _called(name: str) -> str:
    return "seasonal naive" if name == "SeasonalNaive" else name


def _axes(axis: Axes, x: str, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    plain(axis)
    axis.set_xlabel(x, color=FAINT)
    axis.set_ylabel(y, color=FAINT)
    if x == "steps ahead":
        axis.margins(x=0.03)
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _legend(axis: Axes, columns: int) -> int:
    """A legend above the axes, its band last; its number of lines."""
    handles, labels = axis.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: labels[k] == "within chance")
    handles, labels = [handles[k] for k in order], [labels[k] for k in order]
    axis.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.01), ncols=columns, frameon=False, labelcolor=INK,
                fontsize=9, handlelength=2.2, columnspacing=1.4, labelspacing=0.3, borderaxespad=0)  # fmt: skip
    return -(-len(labels) // columns)


def _done(figure: Figure, path: Path | str | None, axis: Axes | None = None, title: str = "") -> Figure:
    if axis is not None:
        lines = _legend(axis, 4)
        if title:
            axis.annotate(
                title, (0, 1), (0, 12 + 14 * lines), "axes fraction", "offset points", color=INK, size=13, weight="bold"
            )
    if path is not None:
        figure.savefig(path)
    return figure
