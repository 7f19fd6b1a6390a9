"""The verbs of forecasting on the command line; `longshort.cli` finds them here by name."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Group, Parameter

from longshort.apps.forecast import Config, Forecaster
from longshort.apps.forecast.baselines import add, chosen_name
from longshort.apps.forecast.data import read
from longshort.apps.forecast.forecaster import checkpoints
from longshort.apps.forecast.freq import DAY, parse
from longshort.apps.forecast.recipe import NothingHeldOutError
from longshort.apps.forecast.tables import Columns
from longshort.artefact import prepare
from longshort.cell import Cell
from longshort.flags import HOW, MANY, SHOWN, VARIANT, Flag, begun, ended, flags, given, over, scored, writable
from longshort.probe import Shown
from longshort.train import Training, resume_path

MEANING = {"MASE": "error / error of repeating the last season, in sample", "sMAPE": "percent, 0 to 200",
           "wQL": "mean weighted quantile loss", "MSIS": "width of the interval plus what lies outside, scaled",
           "coverage": "share of the truth inside the interval"}  # fmt: skip
WHAT = Parameter(name="*", **MANY, group=Group("What to forecast, and with how large a network", sort_key=1))
Several = Parameter(consume_multiple=1, negative="", show_default=False)
if TYPE_CHECKING:
    ConfigFlags = Config
    TrainingFlags = Training
else:
    ConfigFlags, TrainingFlags = flags(Config()), flags(Training())


@dataclass(frozen=True)
class Named:
    """How the columns of a table are called.

    Args:
        id_col: name of the column with the ids of the series.
        time_col: name of the column with time stamps or whole numbers.
        target_col: name of the column with the values.
    """

    id_col: str = "unique_id"
    time_col: str = "ds"
    target_col: str = "y"

    @property
    def columns(self) -> Columns:
        """As the reader takes them."""
        return Columns(self.id_col, self.time_col, self.target_col)


def train(
    *,
    data: Path,
    static_data: Path | None = None,
    out: Path = Path("model.safetensors"),
    resume: Flag = False,
    quiet: Flag = False,
    log: Path | None = None,
    named: Annotated[Named, Parameter(name="*")] = Named(),
    shown: Annotated[Shown, SHOWN] = Shown(),  # noqa: B008
    config: Annotated[Config, WHAT] = Config(),  # noqa: B008
    cell: Annotated[Cell, VARIANT] = Cell(),  # noqa: B008
    training: Annotated[Training, HOW] = Training(),  # noqa: B008
) -> None:
    """Train one network on all series of a table; it then forecasts these series and others.

    The state of the run is saved beside OUT, every minute and on Ctrl-C, and deleted when OUT is written.

    Args:
        data: table with the columns unique_id, ds and y, and those of --past, --future and --static; .csv or .parquet. ds holds
            time stamps or whole numbers.
        static_data: table of unique_id and the columns of --static, one row per series, where DATA does not hold them.
        out: file for the model.
        resume: go on with a run that was stopped or killed; repeat its other flags.
        quiet: print nothing.
        log: file for one JSON line per score; of an ensemble one file per network, NAME.0.jsonl, NAME.1.jsonl, ...
    """
    writable((data, static_data), out, log, shown.preview)
    more = shown.ready()
    state, n = resume_path(out), config.ensemble
    states = checkpoints(state, n)
    talks = begun(states, resume, quiet)
    made = Forecaster(config=config, training=training, cell=cell)
    made.fit(data, static=static_data, progress=talks, checkpoint=state, resume=resume, log=log, **asdict(named), **more)
    ended(made, out, states, talks, *(checkpoints(log, n) if log else ()), shown.tensorboard)


def search(
    *,
    data: Path,
    static_data: Path | None = None,
    out: Path = Path("model.safetensors"),
    trials: int = 20,
    seconds: float | None = None,
    space: Annotated[tuple[str, ...], Several] = (),
    storage: Path | None = None,
    table: Path | None = None,
    quiet: Flag = False,
    named: Annotated[Named, Parameter(name="*")] = Named(),
    config: Annotated[ConfigFlags, WHAT] = ConfigFlags(),  # noqa: B008
    cell: Annotated[Cell, VARIANT] = Cell(),  # noqa: B008
    training: Annotated[TrainingFlags, HOW] = TrainingFlags(),  # noqa: B008
) -> None:
    """Find settings of a forecaster by trying them, and train it with the best ones.

    Each trial trains one network and is judged by its MASE on the held-out end of the series, which it has not seen.
    Settings that are given as flags stay as they are, unless --space names them.

    Args:
        data: table with the columns unique_id, ds and y, and those of --past, --future and --static; .csv or .parquet.
        static_data: table of unique_id and the columns of --static, where DATA does not hold them.
        out: file for the model that is trained with the best settings.
        trials: how many settings to try, in all.
        seconds: start no further trial after this many seconds.
        space: what to try: NAME=1,2,4 for choices and NAME=0.001:0.01 for a range, which is logarithmic if it spans a factor of
            ten or more; dilations=[1],[1,2]. By default hidden, dilations, dropout, batch and lr.
        storage: file that keeps the trials, so that the same command goes on with them: .db or .sqlite for SQLite, else a
            journal of JSON lines.
        table: file for the trials, .csv or .parquet.
        quiet: print nothing.
    """
    from longshort.apps.forecast.search import SPACE, read_space
    from longshort.apps.forecast.search import search as find

    _suffix("--table", table)
    _positive(trials=trials)
    writable((data, static_data), out, table)
    fields, fixed = given(config) | {"horizon": config.horizon}, {*given(config), *given(training)}
    tries = read_space(space) if space else {k: v for k, v in SPACE.items() if k not in fixed}
    how = over(Training(), training)
    found = find(data, **fields, space=tries, trials=trials, seconds=seconds, storage=storage, training=how, cell=cell,
                 static_data=static_data, columns=named.columns, progress=not quiet)  # fmt: skip
    if table is not None:
        _write(table, iter([found.trials]))
    if not quiet:
        print(f"best of {len(found.trials)} trials, MASE {found.score:.4g}: {' '.join(found.flags)}")
    made = Forecaster(config=found.config, training=found.training, cell=cell)
    made.fit(data, static=static_data, **asdict(named), progress=not quiet).save(out)
    if not quiet:
        scored(made)
        print(f"wrote {out}" + (f" and {table}" if table else ""))


def crossval(
    *,
    data: Path,
    static_data: Path | None = None,
    out: Path | None = None,
    windows: int = 3,
    step: int = 1,
    refit: Flag = False,
    quiet: Flag = False,
    named: Annotated[Named, Parameter(name="*")] = Named(),
    config: Annotated[Config, WHAT] = Config(),  # noqa: B008
    cell: Annotated[Cell, VARIANT] = Cell(),  # noqa: B008
    training: Annotated[Training, HOW] = Training(),  # noqa: B008
) -> None:
    """Train on what came before the first of several origins, forecast from each, and score. No model is written.

    Args:
        data: table with the columns unique_id, ds and y, and those of --past, --future and --static; .csv or .parquet.
        static_data: table of unique_id and the columns of --static, where DATA does not hold them.
        out: file for the forecasts beside the truth, .csv or .parquet.
        windows: forecast origins per series, the last one `horizon` steps before the end.
        step: steps between two origins.
        refit: train anew at every origin.
        quiet: print nothing; only useful with --out.
    """
    _suffix("--out", out)
    _positive(windows=windows, step=step)
    path = None if out is None else prepare(out, data, static_data)
    made = Forecaster(config=config, training=training, cell=cell)
    panel = read(data, config.freq, named.columns, config.names, static=static_data)
    backtest = made.cross(panel, windows, step, refit=refit, progress=not quiet)
    if path is not None:
        _write(path, iter([backtest.frame()]))
    if not quiet:
        show(backtest.scores(), f"{windows} windows of {config.horizon} steps, {step} apart, of each series in {data}")
        if path is not None:
            print(f"wrote {path}")


def predict(
    model: Path, /, *, data: Path, out: Path | None = None, future_data: Path | None = None, static_data: Path | None = None,
    paths: int | None = None, quiet: Flag = False,
) -> None:  # fmt: skip
    """Forecast what follows the end of each series of a table: unique_id, ds, LSTM, LSTM-lo-80, LSTM-hi-80; or sample paths.

    Args:
        model: a file that `longshort train forecast` wrote.
        data: the input, in the form that the model was trained on.
        out: file for the answer, .csv or .parquet; without it the answer goes to standard output as CSV.
        future_data: table of the time stamps to forecast with the covariates that are known for them (train --future).
        static_data: table of what belongs to each series as a whole (train --static), where the data does not hold it.
        paths: instead of quantiles, write this many sample paths per series: whole courses, coherent over the steps.
        quiet: say nothing but the answer.
    """
    _suffix("--out", out)
    path = None if out is None else prepare(out, model, data, future_data, static_data)
    forecaster = Forecaster.load(model)
    _positive(paths=paths)
    if future_data is None and forecaster.config.future:
        c = forecaster.columns
        raise ValueError(
            f"this model reads {', '.join(forecaster.config.future)} of the steps that it forecasts. Give a table of {c.id}, "
            f"{c.ds} and these columns: --future-data FILE."
        )
    try:
        _write(path, forecaster.pieces(data, paths, future=future_data, static=static_data), forecaster.config.freq)
    except NothingHeldOutError as e:
        raise ValueError(str(e)) from None
    if path is not None and not quiet:
        print(f"wrote {path}")


def inspect(
    model: Path, data: Path, /, *, series: str | None = None, future_data: Path | None = None, static_data: Path | None = None,
    out: Path | None = None, serve: Flag = False, port: int = 0, quiet: Flag = False,
) -> None:  # fmt: skip
    """Look into a forecaster while it forecasts one series: which past steps matter, what gates and cells do, how far gradients
    flow. Prints what to know and writes a page.

    Args:
        model: a file that `longshort train forecast` wrote.
        data: the input, in the form that the model was trained on.
        series: id of the series; without it the first one.
        future_data: table of the time stamps to forecast with the covariates that are known for them.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        out: file for the page, .html; without it inspect.html, or none with --serve.
        serve: serve the page on this machine until Ctrl-C, and look again whenever the file of the model changes.
        port: where to serve it; 0 takes a free one.
        quiet: print nothing but where the page is served.
    """
    from longshort.apps.forecast.inspect import subject
    from longshort.inspection import Inspection, present
    from longshort.inspection import inspect as look

    def make() -> Inspection:
        forecaster = Forecaster.load(model)
        c = forecaster.config
        if c.future and future_data is None:
            raise ValueError(f"this model reads {', '.join(c.future)} of the steps that it forecasts: give --future-data FILE.")
        panel = read(data, c.freq, forecaster.columns, c.names, future=future_data, static=static_data, horizon=c.horizon)
        return look(subject(forecaster, panel, series))

    present(make, model, out=out, serve=serve, port=port, quiet=quiet)


def evaluate(
    model: Path, /, *, data: Path, out: Path | None = None, report: Path | None = None, static_data: Path | None = None,
    baselines: Annotated[tuple[str, ...], Several] = (), windows: int = 1, step: int = 1, quiet: Flag = False,
) -> None:  # fmt: skip
    """Score a forecaster on data whose end is held out, beside a simple baseline.

    It gets each series without its last `horizon` steps and is scored on these. The score is honest if the model was trained
    on data that ends before them.

    Args:
        model: a file that `longshort train forecast` wrote.
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
    if report is not None:
        from longshort.apps.forecast.report import report as draw
        from longshort.apps.forecast.report import template

        if report.suffix != ".html":
            raise ValueError(f"--report must end in .html, got {str(report)!r}.")
        template()  # before the work, not after it
    _positive(windows=windows, step=step)
    for name in baselines:
        chosen_name(name)
    writable((model, data, static_data), out, report)
    forecaster = Forecaster.load(model)
    backtest, notes = forecaster.backtest(data, windows, step, static=static_data), []
    if baselines:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            backtest = add(backtest, baselines)
        notes = [str(w.message) for w in said]
    scores = backtest.scores()
    if out is not None:
        plain = {name: {k: v if math.isfinite(v) else None for k, v in column.items()} for name, column in scores.items()}
        out.write_text(json.dumps(plain, indent=2) + "\n")
    if report is not None:
        about = {"model": model.name, "data": data.name, "windows per series": windows, "steps between windows": step}
        draw(backtest, report, about=about | {"notes": notes})
    if not quiet:
        H = forecaster.config.horizon
        what = f"the last {H} steps" if windows == 1 else f"{windows} windows of {H} steps, {step} apart,"
        show(scores, f"{what} of each series in {data}")
        for note in notes:
            print(note, file=sys.stderr)
        if out is not None:
            print(f"wrote {out}")
        if report is not None:
            print(f"wrote {report}")


def update(
    model: Path, /, *, data: Path, out: Path, static_data: Path | None = None, steps: int | None = None,
    lr: float | None = None, device: str = "auto", quiet: Flag = False,
) -> None:  # fmt: skip
    """Train a forecaster further on newer data.

    Args:
        model: a file that `longshort train forecast` wrote; it stays as it is, unless OUT is the same.
        data: old series that have grown, or others, in the form that the model was trained on.
        out: file for the new model.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        steps: updates of the weights, at most; by default a fifth of those of the first training.
        lr: highest learning rate; by default a third of that of the first training.
        device: cpu, cuda, cuda:1 ...; auto is a GPU if there is one.
        quiet: print nothing.
    """
    prepare(out, data, static_data)
    made = Forecaster.load(model)
    given: dict[str, Any] = {
        "steps": steps,
        "epochs": None if steps is not None else made.further.epochs,
        "lr": lr,
        "device": device,
    }
    how = replace(made.further, **{k: v for k, v in given.items() if v is not None or k == "epochs"})
    made.update(data, static=static_data, training=how, progress=not quiet).save(out)
    if not quiet:
        scored(made)
        print(f"wrote {out}")


def anomalies(
    model: Path, /, *, data: Path, out: Path | None = None, level: float = 99.0, windows: int | None = None,
    static_data: Path | None = None, quiet: Flag = False,
) -> None:  # fmt: skip
    """Flag the newest values of a table that the model, knowing what came before, hardly expected.

    Args:
        model: a file that `longshort train forecast` wrote.
        data: what to look at, in the form that the model was trained on.
        out: file for the values with interval, score and flag, .csv or .parquet; without it they go to standard output as CSV.
        level: flag what lies outside the central interval of this many percent.
        windows: values per series that are judged, at its end, each by a forecast from one step before; by default as many as
            the model forecasts steps.
        static_data: table of what belongs to each series as a whole, where the data does not hold it.
        quiet: say nothing but the answer.
    """
    _suffix("--out", out)
    path = None if out is None else prepare(out, model, data, static_data)
    forecaster = Forecaster.load(model)
    _positive(windows=windows)
    made: Any = forecaster.anomalies(data, level, windows, static=static_data)
    _write(path, iter([made]), forecaster.config.freq)
    if path is not None and not quiet:
        print(f"wrote {path}: {int(made.anomaly.sum())} of {len(made)} values are anomalies")


def _suffix(flag: str, path: Path | None) -> None:
    if path is not None and path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{flag} must end in .csv or .parquet, got {str(path)!r}.")


def _positive(**flags: int | None) -> None:
    for name, v in flags.items():
        if v is not None and v < 1:
            raise ValueError(f"--{name} must be at least 1, got {v}.")


def _write(path: Path | None, frames: Iterator[Any], freq: str | int | None = None) -> None:
    """Write pandas frames one after another as one table; to standard output if there is no path. The file is whole or absent."""
    dates = None
    if freq is not None and (step := parse(freq)).unit == "us" and step.n % DAY:
        dates = "%Y-%m-%d %H:%M:%S" + (".%f" if step.n % 10**6 else "")
    if path is None:
        _csv(sys.stdout, frames, dates)
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".csv":
            with part.open("w", newline="") as file:
                _csv(file, frames, dates)
        else:
            _parquet(part, frames)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _csv(file: TextIO, frames: Iterator[Any], dates: str | None) -> None:
    for k, frame in enumerate(frames):
        plain = all(getattr(kind, "tz", None) is None for kind in frame.dtypes)
        form = dates if plain else None
        if form and ".%f" not in form and any(v.dt.microsecond.any() for _, v in frame.select_dtypes("datetime").items()):
            form += ".%f"
        frame.to_csv(file, index=False, header=not k, date_format=form, lineterminator="\n")


def _parquet(path: Path, frames: Iterator[Any]) -> None:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise ImportError("writing .parquet files needs pyarrow: pip install 'longshort[parquet]'.") from None
    table = pa.Table.from_pandas(next(frames), preserve_index=False)
    with ParquetWriter(path, table.schema) as file:
        file.write_table(table)
        for frame in frames:
            file.write_table(pa.Table.from_pandas(frame, schema=table.schema, preserve_index=False))


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
