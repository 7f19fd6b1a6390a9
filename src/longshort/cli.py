"""The command line: verbs, and one table of applications. Each application brings its verbs in `apps/NAME/cli.py`.

Nothing heavy is imported before a verb runs. Exit codes: 0 done, 1 a failure of ours, 2 wrong use or bad input,
130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import longshort

Quiet = Annotated[bool, Parameter(negative="")]
APPS = {"forecast": "Forecast time series: several quantiles of the next steps of every series in a table."}

EXAMPLES = """Examples:
```
longshort train forecast --data sales.csv --horizon 28 --out sales.safetensors
longshort eval sales.safetensors --data sales.csv --report sales.html
longshort predict sales.safetensors --data sales.csv --out next.csv
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
app.command(train)
for name, doc in APPS.items():
    train.command(f"longshort.apps.{name}.cli:train", name=name, help=doc)

WRONG, FAILED = (CycloptsError, ValueError, OSError), (FloatingPointError, ImportError)  # exit codes 2 and 1


@app.command
def predict(model: Path, /, *, data: Path, out: Path | None = None, quiet: Quiet = False) -> None:
    """Use a model: forecast what follows the data.

    Args:
        model: a file that `longshort train` wrote.
        data: the input, in the form that the model was trained on.
        out: file for the answer, .csv or .parquet; without it the answer goes to standard output as CSV.
        quiet: say nothing but the answer.
    """
    _room(model).predict(model, data=data, out=out, quiet=quiet)


@app.command(name="eval")
def evaluate(
    model: Path, /, *, data: Path, out: Path | None = None, report: Path | None = None,
    baselines: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    windows: int = 1, step: int = 1, quiet: Quiet = False,
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
        baselines: further forecasters to compare with, any of naive2 ses theta ets; all but naive2 need
            `pip install 'longshort[baselines]'`. The seasonal naive forecast is always there.
        windows: forecast origins per series, the last one `horizon` steps before the end.
        step: steps between two origins.
        quiet: print nothing; only useful with --out or --report.
    """
    _room(model).evaluate(model, data=data, out=out, report=report, baselines=baselines, windows=windows, step=step, quiet=quiet)


def _room(model: Path) -> ModuleType:
    """The verbs of the application that a model belongs to."""
    from longshort.artefact import read

    return import_module(f"longshort.apps.{read(model).app}.cli")


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
