"""One HTML page with what a person wants to see before trusting a forecaster. It is one file and loads nothing."""

from __future__ import annotations

import io
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import longshort
from longshort.apps.forecast import diagnostics, evidence, plot
from longshort.apps.forecast.backtest import Backtest

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

MEANING = {
    "MASE": "absolute error over that of repeating the last season, in sample",
    "sMAPE": "symmetric percentage error, 0 to 200",
    "wQL": "quantile loss of all levels over the size of the truth",
    "coverage": "share of the truth inside the {} % interval",
    "MSIS": "width of the {} % interval plus a penalty for truth outside",
}
PALETTE = {  # the colours of plot.py and what becomes of them in the dark
    "ink": (plot.INK, "#e8ebef"),
    "faint": (plot.FAINT, "#98a3b0"),
    "grid": (plot.GRID, "#2b323b"),
    "forecast": (plot.FORECAST, "#ff7b89"),
    "baseline": (plot.BASELINE, "#7fa8d6"),
    "naive2": (plot.STYLES["Naive2"][0], "#7465dc"),
    "ses": (plot.STYLES["SES"][0], "#e0b04a"),
    "theta": (plot.STYLES["Theta"][0], "#bbd3e9"),
    "ets": (plot.STYLES["ETS"][0], "#40d2ae"),
}
FEW = 30  # windows below which scores are mostly luck
NONE, MINUS = "\u2013", "\u2212"  # an en dash, and the minus sign of print
PACKAGES = ("torch", "numpy", "statsforecast")


class Finding(NamedTuple):
    """One sentence of the verdict: its tone (good, bad, even), its first words and the rest."""

    tone: str
    head: str
    text: str


def report(backtest: Backtest, path: Path | str, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write the page.

    Args:
        backtest: forecasts beside the truth; the first forecaster is the one that is judged.
        path: the file to write.
        about: facts to tell in the order given, such as {"model": "m.safetensors", "data": "sales.csv"}; its "title" is the
            headline, and its "notes" are sentences that stand in the verdict as warnings.

    Returns:
        The path.

    Raises:
        ValueError: there is no window with any truth.
        OSError: the file cannot be written.
    """
    if not evidence.windows(backtest):
        raise ValueError("a report needs at least one window with truth; this backtest has none. Give data with its end.")
    target = Path(path)
    target.write_text(page(backtest, dict(about or {})), encoding="utf-8")
    return target


def template() -> Template:
    """The page without its contents.

    Raises:
        ImportError: what draws it is not installed.
    """
    try:
        import_module("matplotlib")  # for the figures
        from jinja2 import Environment, StrictUndefined
    except ImportError as e:
        raise ImportError(f"a report needs {e.name}, which is not installed: pip install 'longshort[report]'") from e
    text = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False).from_string(text)


def page(backtest: Backtest, about: dict[str, Any]) -> str:
    """The page as text; see `report`."""
    title, notes = about.pop("title", None), about.pop("notes", ())
    names, panel, config = list(backtest.quantiles), backtest.panel, backtest.config
    H, n = config.horizon, len(backtest.series)
    scores = evidence.scores(backtest)
    count = _count(len(np.unique(backtest.series)), "series", "series")
    return template().render(
        title=title or f"Can you trust this forecast of {count}?",
        lead=f"{_count(H, 'step')} ahead, from {_count(n, 'past origin')} of {count}, beside what really came.",
        palette=[(k, *v) for k, v in PALETTE.items()],
        verdict=[*verdict(backtest), *(Finding("even", "Note.", str(s)) for s in notes)],
        names=names,
        windows=_count(n, "window"),
        unit=evidence.unit(backtest),
        levels=" and ".join(f"{v:g} %" for v in sorted(config.levels)),
        scores=[_score_row(metric, [scores[name][metric] for name in names]) for metric in scores[names[0]]],
        versus=[_versus_row(name, evidence.versus(backtest, name)) for name in names[1:]],
        figures={
            "calibration": svg(diagnostics.calibration(backtest, title=""), "calibration"),
            "coverage": svg(diagnostics.step_coverage(backtest, title="", size=(5.6, 4.6)), "coverage"),
            "error": svg(diagnostics.step_error(backtest, title="", size=(5.6, 4.6)), "error"),
            "series": svg(diagnostics.series_error(backtest, title="", size=(5.6, 4.6)), "series") if names[1:] else "",
        },
        series=[
            _group(backtest, "worst", "Largest", 6),
            _group(backtest, "best", "Smallest", 4),
        ],
        data=_data(backtest),
        unscaled=[str(panel.ids[int(s)]) for s in _unscaled(backtest)],
        setup=[(k, str(v)) for k, v in _setup(backtest, about)],
        config=[(k, _plain(v)) for k, v in asdict(config).items()],
        version=longshort.__version__,
        today=date.today().isoformat(),
    )  # fmt: skip


def verdict(backtest: Backtest) -> list[Finding]:
    """The result in words, also where it is a bad one: against the simple baseline, among all, of the intervals, and its size."""
    name, *others = backtest.quantiles
    unit, made = evidence.unit(backtest), []
    simple = "SeasonalNaive" if "SeasonalNaive" in others else next(iter(others), None)
    if simple is not None:
        made.append(_against(backtest, name, simple, unit))
    if len(others) > 1:
        error = {k: float(np.mean(evidence.series_errors(backtest, k)[1])) for k in backtest.quantiles}
        if unit == "MASE":
            error = {k: v["MASE"] for k, v in backtest.scores().items()}
        order = sorted(error, key=lambda k: error[k])
        place = order.index(name) + 1
        rest = f"{unit}: {', '.join(f'{k} {error[k]:.3g}' for k in order)}."
        if place == 1:
            made.append(Finding("good", f"{name} is the most accurate of {len(order)} forecasters here.", rest))
        else:
            sure = evidence.versus(backtest, order[0]).low > 0
            more = "and that is more than luck" if sure else "by no more than luck can make with these series"
            what = f"{order[0]} is the most accurate here" if order[0] == simple else f"{order[0]} is more accurate here, {more}"
            made.append(Finding("bad" if sure else "even", f"{what}.", rest))
    n = evidence.windows(backtest)
    for level in sorted(backtest.config.levels):
        share = backtest.score(backtest.quantiles[name])[f"coverage-{level:g}"]
        low, high = evidence.band(n, level / 100)
        fits = low <= share <= high
        what = ("is honest" if n >= FEW else "may be honest") if fits else "is too narrow" if share < low else "is too wide"
        text = f"It held {100 * share:.1f} % of the truth" + (
            "; that is within chance." if fits else f"; chance allows {100 * low:.1f} to {100 * high:.1f} %."
        )
        tone = ("good" if n >= FEW else "even") if fits else "bad"
        made.append(Finding(tone, f"The {level:g} % interval {what}.", text))
    if n < FEW:
        made.append(
            Finding("even", "Little evidence.", f"{_count(n, 'window')} cannot tell skill from luck; take more with --windows.")
        )
    return made


def _against(backtest: Backtest, name: str, other: str, unit: str) -> Finding:
    v = evidence.versus(backtest, other)
    if not math.isfinite(v.change):
        return Finding("even", f"{name} cannot be compared with {other}.", "The errors of the latter are zero.")
    size = f"its {unit} is {abs(100 * v.change):.1f} % {'lower' if v.change < 0 else 'higher'}"
    share = f"it is the better one in {100 * v.better:.0f} % of the series"
    if not math.isfinite(v.low):
        tone = "good" if v.change < 0 else "bad"
        count = len(evidence.series_errors(backtest, name)[0])
        head = f"{name} {'beats' if v.change < 0 else 'loses to'} {other} here."
        return Finding(
            tone, head, f"{size[0].upper()}{size[1:]}, but {_count(count, 'series', 'series')} cannot show that this is no luck."
        )
    bounds = f"95 % interval {_signed(v.low)} to {_signed(v.high)}"
    if v.low <= 0 <= v.high:
        return Finding("even", f"{name} and {other} do not clearly differ.", f"For {name}, {size} ({bounds}); {share}.")
    if v.change < 0:
        return Finding("good", f"{name} beats {other}:", f"{size} ({bounds}); {share}.")
    return Finding(
        "bad", f"{name} loses to {other}:", f"{size} ({bounds}); {share}. The simpler forecast is the better one here."
    )


def svg(figure: Figure, salt: str) -> Any:
    """A figure as inline SVG in the colours of the page; matplotlib has escaped its texts. Salt keeps ids of figures apart."""
    from markupsafe import Markup
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img">', text, count=1)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name})")
    return Markup(text)


def _score_row(metric: str, values: list[float]) -> dict[str, Any]:
    kind, _, level = metric.partition("-")
    cost = [abs(v - float(level) / 100) if kind == "coverage" else v for v in values]
    least = min((c for c in cost if math.isfinite(c)), default=math.nan)
    cells = [
        {"value": repr(v), "text": f"{v:.4g}" if math.isfinite(v) else NONE, "best": c == least}
        for v, c in zip(values, cost, strict=True)
    ]
    return {"metric": metric, "cells": cells, "note": MEANING[kind].format(level)}


def _versus_row(name: str, v: evidence.Versus) -> dict[str, Any]:
    bounds = f"{_signed(v.low)} to {_signed(v.high)}" if math.isfinite(v.low) else "too few series"
    better, equal = (f"{100 * x:.0f} %" if math.isfinite(x) else NONE for x in (v.better, v.equal))
    change = {"change": _signed(v.change), "change_value": repr(v.change), "interval": bounds}
    return {"name": name, "better": better, "better_value": repr(v.better), "equal": equal} | change


def _group(backtest: Backtest, key: str, size: str, count: int) -> dict[str, Any]:
    hint = f"{size} mean error first. For each series the window in which it was furthest off is drawn."
    return {"key": key, "title": f"{key.title()} series", "hint": hint, "rows": _series(backtest, count, key == "best")}


def _series(backtest: Backtest, count: int, best: bool) -> list[dict[str, Any]]:
    name, *others = backtest.quantiles
    error = {k: dict(zip(*evidence.series_errors(backtest, k), strict=True)) for k in backtest.quantiles}
    made = []
    for k in evidence.extremes(backtest, count, best):
        s = int(backtest.series[k])
        cutoff = backtest.panel.clock(backtest.series[k : k + 1], backtest.origin[k : k + 1] - 1)[0]
        figure = svg(plot.window(backtest, int(k)), f"{'best' if best else 'worst'}{k}")
        beside = ", ".join(f"{n} {error[n][s]:.3g}" for n in others)
        made.append({"name": str(backtest.panel.ids[s]), "error": f"{error[name][s]:.3g}", "others": beside,
                     "cutoff": _stamp(cutoff), "figure": figure})  # fmt: skip
    return made


def _unscaled(backtest: Backtest) -> list[int]:
    """Series none of whose windows has a MASE."""
    good = set(backtest.series[evidence.scalable(backtest)].tolist())
    return [s for s in np.unique(backtest.series).tolist() if s not in good]


def _data(backtest: Backtest) -> list[tuple[str, str]]:
    panel, (B, H) = backtest.panel, backtest.truth.shape
    S, N = np.arange(len(panel)), len(panel.y)
    gone, unseen = N - int(panel.observed().sum()), B * H - int(np.isfinite(backtest.truth).sum())
    start, last = panel.clock(S, np.zeros(len(S), np.int64)).min(), panel.clock(S, panel.lengths - 1).max()
    cutoff = panel.clock(backtest.series, backtest.origin - 1)
    lengths = panel.lengths
    return [
        ("series", f"{len(panel):,} of {lengths.min():,} to {lengths.max():,} steps (median {np.median(lengths):,.0f})"),
        ("time", f"{_stamp(start)} to {_stamp(last)}, step {panel.freq.name}"),
        ("forecast from", f"{_stamp(cutoff.min())} to {_stamp(cutoff.max())} (the last known step)"),
        ("missing values", f"{gone:,} of {N:,} ({100 * gone / N:.2g} %); {next(iter(backtest.quantiles))} sees them as missing"),
        ("truth that is missing", f"{unseen:,} of {B * H:,} steps; they count nowhere"),
        ("series without a MASE", f"{len(_unscaled(backtest)):,}"),
    ]  # fmt: skip


def _setup(backtest: Backtest, about: Mapping[str, Any]) -> list[tuple[str, Any]]:
    c = backtest.config
    made = [*about.items(), ("horizon", _count(c.horizon, "step")), ("season", _count(c.season_length or 1, "step"))]
    made += [("quantile levels", ", ".join(f"{q:g}" for q in c.quantiles)), ("checksum of the data", backtest.panel.checksum)]
    said = [f"longshort {longshort.__version__}", f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            said.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return [*made, ("versions", ", ".join(said))]


def _plain(v: Any) -> str:
    return ", ".join(map(str, v)) or "none" if isinstance(v, list | tuple) else "none" if v is None else str(v)


def _stamp(t: Any) -> str:
    said = str(t)
    return re.sub(r"T00:00:00(\.0+)?$", "", said).replace("T", " ").removesuffix(".000000")


def _signed(v: float) -> str:
    return f"{100 * v:+.1f} %".replace("-", MINUS) if math.isfinite(v) else NONE


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
