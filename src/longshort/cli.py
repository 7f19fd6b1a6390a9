"""The command line: verbs, and one table of applications. Each application brings its verbs in `apps/NAME/cli.py`.

Nothing heavy is imported before a verb runs. Exit codes: 0 done, 1 a failure of ours, 2 wrong use or bad input,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import longshort

Quiet = Annotated[bool, Parameter(negative="")]
Several = Parameter(consume_multiple=1, negative="", show_default=False)
APPS = {"forecast": "Forecast time series: several quantiles of the next steps of every series in a table."}

EXAMPLES = """Examples:
```
longshort train forecast --data sales.csv --horizon 28 --out sales.safetensors
longshort eval sales.safetensors --data sales.csv --report sales.html
longshort predict sales.safetensors --data sales.csv --out next.csv
longshort update sales.safetensors --data newer.csv --out newer.safetensors
```
"""

app = App(
    name="longshort",
    version=f"longshort {longshort.__version__}",
    help="The LSTM, finished: train models, judge them, use them.",
    help_epilogue=EXAMPLES,
    suppress_keyboard_interrupt=False,
)
train = App(name="train", help="Train a model on your data and write it as one file.")
search = App(
    name="search", help="Try settings, by what they reach on a held-out part of your data, and train with the best ones."
)
crossval = App(name="crossval", help="Judge settings: train on the past of your data and score on what came, several times over.")
for verb in (train, search, crossval):
    app.command(verb)
    for name, doc in APPS.items():
        verb.command(f"longshort.apps.{name}.cli:{verb.name[0]}", name=name, help=doc if verb is train else None)

WRONG, FAILED = (CycloptsError, ValueError, OSError), (FloatingPointError, ImportError)  # exit codes 2 and 1


@app.command
def predict(
    model: Path, /, *, data: Path, out: Path | None = None, future_data: Path | None = None, static_data: Path | None = None,
    paths: int | None = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Use a model: forecast what follows the data.

    Args:
        model: a file that `longshort train` wrote.
        data: the input, in the form that the model was trained on.
        out: file for the answer, .csv or .parquet; without it the answer goes to standard output as CSV.
        future_data: table of the time stamps to forecast with the covariates that are known for them (train --future).
        static_data: table of what belongs to each series as a whole (train --static), where the data does not hold it.
        paths: instead of quantiles, write this many sample paths per series: whole courses, coherent over the steps.
        quiet: say nothing but the answer.
    """
    _verb(model, "predict")(model, data=data, out=out, future_data=future_data, static_data=static_data, paths=paths, quiet=quiet)


@app.command(name="eval")
def evaluate(
    model: Path, /, *, data: Path, out: Path | None = None, report: Path | None = None, static_data: Path | None = None,
    baselines: Annotated[tuple[str, ...], Several] = (), windows: int = 1, step: int = 1, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Score a model on data whose end is held out, beside a simple baseline.

    A forecaster gets each series without its last `horizon` steps and is scored on these. The score is honest if the
    model was trained on data that ends before them.

    Args:
        model: a file that `longshort train` wrote.
        data: the truth, in the form that the model was trained on.
        out: file for the scores as JSON.
        report: file for an HTML page, .html, with what to look at before trusting the model: scores, calibration, error by
            step, worst and best series. It is one file and loads nothing.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        baselines: further forecasters to compare with, any of naive2 ses theta ets; all but naive2 need
            `pip install 'longshort[baselines]'`. The seasonal naive forecast is always there.
        windows: forecast origins per series, the last one `horizon` steps before the end.
        step: steps between two origins.
        quiet: print nothing; only useful with --out or --report.
    """
    _verb(model, "evaluate", "eval")(
        model, data=data, out=out, report=report, static_data=static_data, baselines=baselines, windows=windows, step=step,
        quiet=quiet,
    )  # fmt: skip


@app.command
def update(
    model: Path, /, *, data: Path, out: Path, static_data: Path | None = None, steps: int | None = None,
    lr: float | None = None, device: str = "auto", quiet: Quiet = False,
) -> None:  # fmt: skip
    """Train a model further on newer data.

    Args:
        model: a file that `longshort train` wrote; it stays as it is, unless OUT is the same.
        data: old series that have grown, or others, in the form that the model was trained on.
        out: file for the new model.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        steps: updates of the weights, at most; by default a fifth of those of the first training.
        lr: highest learning rate; by default a third of that of the first training.
        device: cpu, cuda, cuda:1 ...; auto is a GPU if there is one.
        quiet: print nothing.
    """
    _verb(model, "update")(model, data=data, out=out, static_data=static_data, steps=steps, lr=lr, device=device, quiet=quiet)


@app.command
def anomalies(
    model: Path, /, *, data: Path, out: Path | None = None, level: float = 99.0, windows: int | None = None,
    static_data: Path | None = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Flag the newest values of the data that the model, knowing what came before, hardly expected.

    Args:
        model: a file that `longshort train` wrote.
        data: what to look at, in the form that the model was trained on.
        out: file for the values with interval, score and flag, .csv or .parquet; without it they go to standard output as CSV.
        level: flag what lies outside the central interval of this many percent.
        windows: values per series that are judged, at its end, each by a forecast from one step before; by default as many as
            the model forecasts steps.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        quiet: say nothing but the answer.
    """
    _verb(model, "anomalies")(model, data=data, out=out, level=level, windows=windows, static_data=static_data, quiet=quiet)


def _verb(model: Path, function: str, name: str | None = None) -> Callable[..., None]:
    """A verb of the application that a model belongs to."""
    from longshort.artefact import read

    app = read(model).app
    room = import_module(f"longshort.apps.{app}.cli")
    if not hasattr(room, function):
        raise ValueError(f"{model} is a model of {app}, which has no {name or function}.")
    return getattr(room, function)


def main(tokens: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code. LONGSHORT_TRACEBACK=1 shows where an error comes from."""
    sys.exit(run(tokens))


def run(tokens: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        try:
            app(tokens, result_action="return_value", print_error=False, exit_on_error=False)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone (`| head`): nothing more to say, not even while Python shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as e:
        print(str(e) or "stopped", file=sys.stderr)
        return 128 + getattr(e, "signum", 2)
    except (*WRONG, *FAILED) as e:  # anything else is a bug of ours: show where
        if os.environ.get("LONGSHORT_TRACEBACK"):
            raise
        print(_said(e), file=sys.stderr)
        return 2 if isinstance(e, WRONG) else 1
    return 0


def _said(e: Exception) -> str:
    said = str(e) or type(e).__name__
    if isinstance(e, OSError) and e.strerror:
        said = f"{e.filename}: {e.strerror}" if e.filename else e.strerror
    return f"error: {said}"
