"""The verbs of forecasting on the command line; `longshort.cli` finds them here by name."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from longshort.apps.forecast import Config, Forecaster
from longshort.apps.forecast.baselines import add, chosen_name
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.train import Training, chief, resume_path

MEANING = {"MASE": "error / error of repeating the last season, in sample", "sMAPE": "percent, 0 to 200",
           "wQL": "mean weighted quantile loss", "MSIS": "width of the interval plus what lies outside, scaled",
           "coverage": "share of the truth inside the interval"}  # fmt: skip
WHAT = Parameter(name="*", negative_iterable="", group=Group("What to forecast, and with how large a network", sort_key=1))
HOW = Parameter(name="*", negative_iterable="", group=Group("How to train", sort_key=2))
CELL = Parameter(negative_iterable="", group=Group("Variant of the LSTM", sort_key=3))


def train(
    *,
    data: Path,
    out: Path = Path("model.safetensors"),
    resume: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    log: Path | None = None,
    config: Annotated[Config, WHAT] = Config(),  # noqa: B008
    cell: Annotated[Cell, CELL] = Cell(),  # noqa: B008
    training: Annotated[Training, HOW] = Training(),  # noqa: B008
) -> None:
    """Train one network on all series of a table; it then forecasts these series and others.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        data: table with the columns unique_id, ds and y, .csv or .parquet; ds holds time stamps or whole numbers.
        out: file for the model.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score.
    """
    prepare(out)
    state = resume_path(out)
    talks = chief() and not quiet
    if resume and talks and not state.exists():
        print(f"there is no {state} to go on with: starting at the beginning", file=sys.stderr)
    made = Forecaster(config=config, training=training, cell=cell)
    made.fit(data, progress=talks, checkpoint=state, resume=resume, log=log)
    if chief():
        made.save(out)
        state.unlink(missing_ok=True)
    if talks:
        for score in made.scores:
            print("  ".join(f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in score.metrics.items()))
        print(f"wrote {out}" + (f" and {log}" if log else ""))


def predict(model: Path, *, data: Path, out: Path | None, quiet: bool) -> None:
    """Write what follows the end of each series of a table: unique_id, ds, LSTM, LSTM-lo-80, LSTM-hi-80."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out must end in .csv or .parquet, got {str(out)!r}.")
    path = None if out is None else prepare(out)
    frame: Any = Forecaster.load(model).predict(data)
    if path is None:
        frame.to_csv(sys.stdout, index=False)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    if path is not None and not quiet:
        print(f"wrote {path}")


def evaluate(
    model: Path, *, data: Path, out: Path | None, report: Path | None, baselines: Sequence[str], windows: int, step: int,
    quiet: bool,
) -> None:  # fmt: skip
    """Hold out the last steps of each series, forecast them, and set the scores beside those of simple forecasts."""
    if report is not None and report.suffix != ".html":
        raise ValueError(f"--report must end in .html, got {str(report)!r}.")
    for name in baselines:
        chosen_name(name)
    path, target = (None if p is None else prepare(p) for p in (out, report))
    forecaster = Forecaster.load(model)
    backtest, notes = forecaster.backtest(data, windows, step), []
    if baselines:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            backtest = add(backtest, baselines)
        notes = [str(w.message) for w in said]
    scores = backtest.scores()
    if path is not None:
        plain = {name: {k: v if math.isfinite(v) else None for k, v in column.items()} for name, column in scores.items()}
        path.write_text(json.dumps(plain, indent=2) + "\n")
    if target is not None:
        from longshort.apps.forecast.report import report as write

        about = {"model": model.name, "data": data.name, "windows per series": windows, "steps between windows": step}
        write(backtest, target, about=about | {"notes": notes})
    if not quiet:
        H = forecaster.config.horizon
        what = f"the last {H} steps" if windows == 1 else f"{windows} windows of {H} steps, {step} apart,"
        show(scores, f"{what} of each series in {data}")
        for note in notes:
            print(note, file=sys.stderr)
        if path is not None:
            print(f"wrote {path}")
        if target is not None:
            print(f"wrote {target}")


def show(scores: dict[str, dict[str, float]], title: str) -> None:
    """Print a table: one row per metric, one column per forecaster."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right", no_wrap=True)
    roomy = len(scores) < 4
    if roomy:
        table.add_column("what it is")
    for metric in next(iter(scores.values())):
        kind, _, level = metric.partition("-")
        numbers = (f"{column[metric]:.4g}" for column in scores.values())
        meaning = MEANING[kind] + (f" of {level} %" if level else "")
        table.add_row(metric, *numbers, *([meaning] if roomy else []))
    Console().print(table)
