"""`Forecaster`: what a person holds. Frames in, the same kind of frames out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from longshort import artefact, checks
from longshort.apps.forecast import conformal
from longshort.apps.forecast.backtest import Backtest
from longshort.apps.forecast.config import LEAST_SERIES
from longshort.apps.forecast.config import Config as _Config
from longshort.apps.forecast.covariates import Encoding
from longshort.apps.forecast.data import Panel, read
from longshort.apps.forecast.recipe import CHUNK, Ensemble, Recipe
from longshort.apps.forecast.tables import Columns, free
from longshort.apps.forecast.task import ForecastTask
from longshort.artefact import Artefact, Score
from longshort.cell import Cell
from longshort.probe import Watch
from longshort.train import Training, finished, train

if TYPE_CHECKING:
    from longshort.apps.forecast.search import Search


class Forecaster:
    """A global LSTM that forecasts quantiles of many series at once; series it has never seen included.

    Frames are long, `unique_id, ds, y` and the covariates that the config names, from pandas, polars, or a .csv or .parquet
    file; ds holds whole numbers or time stamps. Absent time stamps and missing values are masked. Scaling looks at the context
    before each forecast origin only.

        forecaster = Forecaster(horizon=12, levels=(80, 95)).fit(df)
        forecaster.predict()             # unique_id, ds, LSTM, LSTM-lo-80, LSTM-hi-80, LSTM-lo-95, LSTM-hi-95
        forecaster.save("model.safetensors")

    Args:
        horizon: steps to forecast.
        config: all settings at once, instead of horizon and fields.
        training: how to train; None takes the defaults of `Training`.
        cell: the variant of the LSTM; None is the plain one.
        **fields: further fields of `Config`.

    Raises:
        TypeError: horizon and config are both given, or neither; or a field is unknown.
        ValueError: a field is out of range.
    """

    Config = _Config

    def __init__(
        self, horizon: int | None = None, *, config: _Config | None = None, training: Training | None = None,
        cell: Cell | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        if (horizon is None) == (config is None):
            raise TypeError(
                "Forecaster needs horizon=, the number of steps to forecast, or config=Config(...), which holds all fields."
            )
        if horizon is not None:
            fields["horizon"] = horizon
        self.config = self.asked = checks.configured(self, _Config, config, fields)
        self.columns = Columns()
        self.training, self.cell = training or Training(), cell or Cell()
        self.model: Ensemble | None = None
        self.recipe: Recipe | None = None
        self.scores: tuple[Score, ...] = ()
        self.panel: Panel | None = None
        self.sources: tuple[Any, Any] = (None, None)
        self.found: Search | None = None

    def __repr__(self) -> str:
        return f"Forecaster(config={self.config}, {'fitted' if self.model else 'not fitted'})"

    def fit(
        self, df: Any, *, static: Any = None, id_col: str = "unique_id", time_col: str = "ds", target_col: str = "y",
        progress: bool = False, checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None,
        watch: Watch | None = None, preview: Path | str | None = None,
    ) -> Self:  # fmt: skip
        """Train on a long frame. The end of series is held out to choose the best weights and to calibrate; see `ForecastTask`.

        Args:
            df: the frame, or the path of a .csv or .parquet file. It is kept, so that `predict()` can go on from its end.
            static: frame or file of id and static covariates, where df does not hold them.
            id_col: name of the id column.
            time_col: name of the time column.
            target_col: name of the value column.
            progress: show loss, score and time left; otherwise nothing is printed.
            checkpoint: file for the state of the run, so that it can be resumed; None writes nothing. Of an ensemble each
                network has a file of its own, see `checkpoints`.
            resume: go on from the checkpoint.
            log: file that gets one JSON line per validation score; of an ensemble one file per network, named likewise.
            watch: looks at gates and gradient flow while it trains, and TensorBoard's files (of an ensemble a folder per network,
                0, 1, ...), see `probe.Watch`.
            preview: file for the model as it is at each score, for `longshort inspect FILE ... --serve`; of an ensemble the
                network that is being trained.

        Returns:
            Itself; `config` now holds the frequency, season and context that were used, `scores` the validation scores.

        Raises:
            TypeError: df is no frame.
            ValueError: the data is wrong; the message names the series and the row.
        """
        columns = Columns(id_col, time_col, target_col)
        task = ForecastTask(self.asked, read(df, self.asked.freq, columns, self.asked.names, static=static), self.cell)
        self._train([task] * self.asked.ensemble, self.training, progress=progress, checkpoint=checkpoint, resume=resume, log=log,
                    watch=watch, preview=preview)  # fmt: skip
        self.sources = (df, static)
        return self

    def update(self, df: Any, *, static: Any = None, training: Training | None = None, progress: bool = False) -> Self:
        """Train further on new data: old series that have grown, or others. Scaling of covariates stays as it was.

        Args:
            df: a frame or a file as in `fit`, with the same columns.
            static: as in `fit`.
            training: how; None takes `further`.
            progress: show loss, score and time left.

        Returns:
            Itself, with the best of the new weights, calibrated anew; `predict()` goes on from the end of df.

        Raises:
            RuntimeError: nothing is fitted.
            ValueError: the data is wrong; the message names the series and the row.
        """
        model, recipe, how = self._fitted, self._recipe, training or self.further
        panel = self._panel(df, None, static)
        tasks = [ForecastTask(self.config, panel, self.cell, recipe, m.state_dict()) for m in model.members]
        self._train(tasks, how, progress=progress, before=model)
        self.sources = (df, static)
        return self

    @property
    def further(self) -> Training:
        """How `update` trains: a fifth of the steps of fit at a third of its learning rate, on whatever device is here."""
        t = self.training
        return replace(t, steps=max(t.steps // 5, 1), epochs=t.epochs and max(t.epochs // 5, 1), lr=t.lr / 3, device="auto")

    def _train(
        self, tasks: Sequence[ForecastTask], training: Training, *, progress: bool = False,
        checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None,
        watch: Watch | None = None, preview: Path | str | None = None, before: Ensemble | None = None,
    ) -> None:  # fmt: skip
        """before: what was fitted, whose intervals and courses stay where the new data hold out too little to tell."""
        n, watch, preview = len(tasks), watch or Watch(every=0), None if preview is None else artefact.prepare(preview)
        board = watch.tensorboard
        held = [p for p in checkpoints(checkpoint, n) if p.exists()] if checkpoint and not resume and n > 1 else []
        if held and not (len(held) == n and all(map(finished, held))):
            raise FileExistsError(f"{held[-1]} is of an unfinished run of {n} networks, or of another run. Go on by resume=True "
                                  "(--resume), or delete the files of all networks to start afresh.")  # fmt: skip
        results = [
            train(task, replace(training, seed=training.seed + k), progress=progress, resume=resume,
                  checkpoint=checkpoint and checkpoints(checkpoint, n)[k], log=log and checkpoints(log, n)[k],
                  watch=watch if n == 1 or board is None else replace(watch, tensorboard=Path(board) / str(k)),
                  preview=None if preview is None else partial(self._preview, task, preview))
            for k, task in enumerate(tasks)
        ]  # fmt: skip
        task, levels = tasks[0], np.array(tasks[0].config.quantiles)
        H, middle = task.config.horizon, task.config.quantiles.index(0.5)
        model = Ensemble([r.model for r in results], torch.ones(H, len(levels)), torch.empty(0, H), middle).eval()
        scores = results[0].scores if n == 1 else task.score(model, "valid")
        made, truth, alike, apart = task.held_out(model)
        if task.config.calibrate:
            few = np.isfinite(truth[alike]).sum() < conformal.LEAST
            factors = torch.from_numpy(conformal.stretch(made[alike], truth[alike], levels, apart))
            if before is not None and few:
                factors, short = before.stretch, before.short
            else:
                short = self._short(task, model, levels)
            model.stretch, model.short = factors.to(model.stretch), short.to(model.stretch)
            made = model.calibrated([torch.from_numpy(made)]).numpy()
        whole = alike & np.isfinite(truth).all(1)  # those that never moved share one rank, which tells nothing of others
        some = whole if whole.any() else np.ones(len(truth), bool)
        model.ranks = torch.from_numpy(conformal.ranks(made[some], truth[some], levels))
        if before is not None and len(model.ranks) < len(before.ranks):
            model.ranks = torch.cat([model.ranks, before.ranks])[: conformal.MOST_RANKS]
        self.config, self.panel, self.model, self.recipe = task.config, task.panel, model, task.recipe
        self.columns = task.panel.columns
        self.scores = (Score("valid", date.today().isoformat(), scores),) if scores else ()

    @staticmethod
    def _short(task: ForecastTask, model: Ensemble, levels: Any) -> Tensor:
        """How far to stretch where less of a series is known than held-out windows hold: by these, cut to newest values."""
        made = []
        for newest in task.shorter:
            forecast, truth, alike, apart = task.held_out(model, newest)
            if np.isfinite(truth[alike]).sum() < conformal.LEAST:
                break
            made.append(conformal.stretch(forecast[alike], truth[alike], levels, apart))
        return torch.from_numpy(np.reshape(made, (-1, *model.stretch.shape)))

    def _preview(self, task: ForecastTask, path: Path | str, network: nn.Module) -> None:
        """Write a network in training as a forecaster of its own, not calibrated."""
        made = Forecaster(config=replace(self.asked, ensemble=1), training=self.training, cell=self.cell)
        made.config, made.columns = replace(task.config, ensemble=1), task.panel.columns
        made.recipe = replace(task.recipe, config=made.config)
        H, quantiles = made.config.horizon, made.config.quantiles
        made.model = Ensemble([network], torch.ones(H, len(quantiles)), torch.empty(0, H), quantiles.index(0.5))
        made.save(path)

    @classmethod
    def search(
        cls, df: Any, *, horizon: int, static_data: Any = None, id_col: str = "unique_id", time_col: str = "ds",
        target_col: str = "y", progress: bool = False, **how: Any,
    ) -> Self:  # fmt: skip
        """Find settings by trying them (see `search.search`), and fit with the best ones.

            Forecaster.search(df, horizon=12, trials=20, space={"hidden": [32, 64], "lr": (1e-3, 1e-2)})

        Args:
            df: a frame or a file as in `fit`.
            horizon: steps to forecast.
            static_data: what `fit` calls static; here static names the columns, as in `Config`.
            id_col: name of the id column.
            time_col: name of the time column.
            target_col: name of the value column.
            progress: show one line per trial, then how the fit goes.
            **how: space, trials, seconds, storage, training and cell of `search.search`, and fields of `Config`.

        Returns:
            The fitted forecaster; its `asked` and `training` are the best settings, its `found` is the `Search`.

        Raises: as `search.search` and `fit`.
        """
        from longshort.apps.forecast.search import search

        columns = Columns(id_col, time_col, target_col)
        found = search(df, horizon=horizon, static_data=static_data, columns=columns, progress=progress, **how)
        made = cls(config=found.config, training=found.training, cell=how.get("cell"))
        made.fit(df, static=static_data, id_col=id_col, time_col=time_col, target_col=target_col, progress=progress)
        made.found = found
        return made

    def predict(self, df: Any = None, *, future: Any = None, static: Any = None) -> Any:
        """Forecast the `horizon` steps that follow the end of each series.

        Args:
            df: history of old or new series, a frame or a file as in `fit`; None takes the data of `fit`.
            future: frame or file of id, time and the future covariates of the horizon; missing values are masked.
            static: as in `fit`.

        Returns:
            A frame of the same kind: `unique_id, ds, LSTM` (the quantile `point`, by default the median), and `LSTM-lo-80,
            LSTM-hi-80` for each level.

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the data is wrong; the message names the series and the row.
        """
        return self._recipe.predict(self._fitted, self._panel(df, future, static, ahead=True))

    def paths(self, df: Any = None, n: int = 100, *, future: Any = None, static: Any = None, seed: int = 0) -> Any:
        """Sample paths of the `horizon` steps that follow the end of each series: whole courses, coherent over the steps.

        Args:
            df: as in `predict`.
            n: paths per series.
            future: as in `predict`.
            static: as in `predict`.
            seed: of the draws.

        Returns:
            A frame of the same kind: `unique_id, ds, sample, LSTM`; sample counts from 0.

        Raises:
            RuntimeError: nothing is fitted, there is no data, or nothing was held out (see `Recipe.paths`).
            ValueError: the data is wrong, or n is less than 1.
        """
        checks.count("n", n)
        panel = self._panel(df, future, static, ahead=True)
        return self._recipe.sample(self._fitted, panel, n, seed)

    def pieces(self, df: Any = None, paths: int | None = None, *, future: Any = None, static: Any = None, seed: int = 0,
               size: int = 8 * CHUNK) -> Iterator[Any]:  # fmt: skip
        """What `predict`, or `paths`, returns, as one frame after another of a few thousand series each: for large panels.

        Args:
            df: as in `predict`.
            paths: sample paths per series; None forecasts quantiles.
            future: as in `predict`.
            static: as in `predict`.
            seed: of the draws.
            size: series per frame.

        Raises: as `predict` and `paths`.
        """
        checks.count("size", size)
        if paths is not None:
            checks.count("paths", paths)
        model, recipe, panel = self._fitted, self._recipe, self._panel(df, future, static, ahead=True)
        for k in range(0, len(panel), size):
            some = np.arange(k, min(k + size, len(panel)))
            yield recipe.predict(model, panel, some) if paths is None else recipe.sample(model, panel, paths, seed, some)

    def backtest(
        self, df: Any = None, n_windows: int = 1, step_size: int = 1, *, baselines: Sequence[str] = (), static: Any = None
    ) -> Backtest:
        """Forecast the last `horizon` steps of each series from the fitted model, which is not trained again.

        The truth is honest only if `fit` has not seen it.

        Args:
            df: history with the truth at its end; None takes the data of `fit`.
            n_windows: forecast origins per series; the last one is `horizon` steps before the end.
            step_size: steps between two origins.
            baselines: further forecasters beside it: Naive2, SES, Theta, ETS; see `baselines.add`.
            static: as in `fit`.

        Returns:
            Forecasts and truth: `.frame()` is the long frame, `.scores()` the metrics of LSTM and SeasonalNaive.

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the data is wrong, or a series is too short for so many windows.
        """
        panel = self._panel(df, None, static)
        series, origin = _origins(panel, self.config.horizon, n_windows, step_size)
        made = self._recipe.backtest(self._fitted, panel, series, origin)
        if not baselines:
            return made
        from longshort.apps.forecast.baselines import add

        return add(made, baselines)

    def evaluate(
        self, df: Any = None, n_windows: int = 1, step_size: int = 1, *, baselines: Sequence[str] = (), static: Any = None
    ) -> dict[str, dict[str, float]]:
        """The scores of `backtest`: MASE, sMAPE, wQL and coverage, of LSTM, SeasonalNaive and further baselines."""
        return self.backtest(df, n_windows, step_size, baselines=baselines, static=static).scores()

    def anomalies(self, df: Any = None, level: float = 99, n_windows: int | None = None, *, static: Any = None) -> Any:
        """Flag the newest values that the forecasts made one step before them hardly expected; see `anomaly.anomalies`.

        Args:
            df: a frame or a file as in `fit`; None takes the data of `fit`.
            level: flag what lies outside the central interval of this many percent.
            n_windows: steps per series that are judged, at its end; None takes `horizon`.
            static: as in `fit`.

        Returns:
            The frame `unique_id, ds, y, LSTM, lo, hi, score, anomaly`.

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the data is wrong, or a series is too short.
        """
        from longshort.apps.forecast.anomaly import anomalies

        panel, n = self._panel(df, None, static), self.config.horizon if n_windows is None else n_windows
        series, origin = _origins(panel, 1, n, 1)
        return anomalies(self._recipe.backtest(self._fitted, panel, series, origin), level)

    def decompose(self, df: Any = None, *, static: Any = None) -> Any:
        """What an esrnn has learned of each series: its level and its season, over the last `context` steps.

        Args:
            df: as in `predict`.
            static: as in `fit`.

        Returns:
            A frame of the same kind: `unique_id, ds, y, level, season`, to be drawn by `plot.decomposition`. The season is
            what comes on top of the level; where `config.multiplicative`, the factor that it is multiplied by. It is the
            season as known one cycle before. Of an ensemble the mean of the networks (of factors the geometric one).

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the model is no esrnn, which alone smooths, or the data is wrong.
        """
        model, recipe = self._fitted, self._recipe
        if self.config.model != "esrnn":
            raise ValueError(
                f"decompose needs a model that smooths each series, esrnn; this one is {self.config.model}. Fit a "
                "Forecaster(..., model='esrnn')."
            )
        panel = self._panel(df, None, static)
        series, at, y, level, season = recipe.decompose(model, panel)
        c = panel.columns
        free(c, "level", "season")
        return panel.frame(series, {c.ds: panel.stamps(series, at), c.y: y, "level": level, "season": season})

    def report(
        self, path: Path | str, df: Any = None, n_windows: int = 1, step_size: int = 1, *, baselines: Sequence[str] = (),
        static: Any = None,
    ) -> Path:  # fmt: skip
        """Write one self-contained HTML page on how far these forecasts can be trusted; see `report.report`.

        Args: as `backtest`; path is the file.
        """
        from longshort.apps.forecast.report import report

        return report(self.backtest(df, n_windows, step_size, baselines=baselines, static=static), path, about=self.about)

    @property
    def about(self) -> dict[str, Any]:
        """What the model is, in plain values: config, cell, scores of fit, versions."""
        return {"config": asdict(self.config), "cell": asdict(self.cell), "scores": [asdict(s) for s in self.scores],
                "made_by": artefact.versions()}  # fmt: skip

    def cross_validation(
        self, df: Any, n_windows: int = 1, step_size: int = 1, *, refit: bool = False, static: Any = None,
        id_col: str = "unique_id", time_col: str = "ds", target_col: str = "y", progress: bool = False,
    ) -> Any:  # fmt: skip
        """Train on the data before the first cutoff and forecast from every cutoff. This forecaster itself stays as it is.

        Args:
            df: a frame or a file as in `fit`.
            n_windows: cutoffs per series; the last one is `horizon` steps before the end.
            step_size: steps between two cutoffs.
            refit: train anew at every cutoff.
            static: as in `fit`.
            id_col: name of the id column.
            time_col: name of the time column.
            target_col: name of the value column.
            progress: show loss, score and time left.

        Returns:
            A frame of the same kind: `unique_id, ds, cutoff, y, LSTM, LSTM-lo-80, LSTM-hi-80, SeasonalNaive, ...`.
            The cutoff is the last time stamp that was known.

        Raises:
            TypeError: df is no frame.
            ValueError: the data is wrong, or a series is too short for so many windows.
        """
        panel = read(df, self.asked.freq, Columns(id_col, time_col, target_col), self.asked.names, static=static)
        return self.cross(panel, n_windows, step_size, refit=refit, progress=progress).frame()

    def cross(self, panel: Panel, n_windows: int, step_size: int, *, refit: bool = False, progress: bool = False) -> Backtest:
        """The backtest whose frame `cross_validation` returns."""
        series, origin = _origins(panel, self.config.horizon, n_windows, step_size)
        asked = replace(self.asked, freq=panel.freq.name)
        window, made = np.tile(np.arange(n_windows), len(panel)), []
        for w in range(n_windows if refit else 1):
            chosen = window == w if refit else window >= 0
            other = Forecaster(config=asked, training=self.training, cell=self.cell)
            task = ForecastTask(asked, panel.head(origin[window == w]), self.cell)
            other._train([task] * asked.ensemble, self.training, progress=progress)
            made.append((chosen, other._recipe.backtest(other._fitted, panel, series[chosen], origin[chosen])))
        names = made[0][1].quantiles
        joined = {k: np.empty((len(series), *v.shape[1:])) for k, v in names.items()}
        for chosen, part in made:
            for k, v in part.quantiles.items():
                joined[k][chosen] = v
        return Backtest(panel, made[0][1].config, series, origin, joined)

    def plot(self, df: Any = None, forecast: Any = None, *, static: Any = None, **how: Any) -> Any:
        """Plot history, forecast, interval and, where the forecast frame has it, the truth; see `plot.plot`.

        Args:
            df: history; None takes the data of `fit`.
            forecast: what `predict` or `Backtest.frame` returned; None predicts.
            static: as in `fit`.
            **how: further arguments of `plot.plot`.

        Returns:
            The matplotlib figure.
        """
        from longshort.apps.forecast.plot import plot

        panel = self._panel(df, None, static, ahead=forecast is None)
        return plot(panel, self._recipe.predict(self._fitted, panel) if forecast is None else forecast, **how)

    def save(self, path: Path | str) -> Path:
        """Write the model to one .safetensors file; the data of `fit` is not in it.

        Raises:
            RuntimeError: nothing is fitted.
            OSError: the file cannot be written.
        """
        weights, recipe = self._fitted.state_dict(), self._recipe
        extra = {"columns": list(self.columns), "encoding": asdict(recipe.encoding), "ids": list(recipe.ids),
                 "ranks": len(self._fitted.ranks), "short": len(self._fitted.short), "asked": asdict(self.asked),
                 "training": asdict(self.training)}  # fmt: skip
        return artefact.save(path, Artefact("forecast", self.config, self.cell, weights, self.scores, extra=extra))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open what `save` wrote.

        Raises:
            ArtefactError: the file is not a forecaster; all that is wrong is listed.
        """
        return artefact.load(path, "forecast")

    @classmethod
    def expected(cls, config: _Config, cell: Cell, extra: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """The tensors that a file of such a forecaster holds, without memory."""
        if None in (config.freq, config.season_length, config.context, config.inputs, config.multiplicative):
            raise ValueError("config must hold freq, season_length, context, inputs and multiplicative, which fit fills in")
        return _blank(config, cell, extra)[1].state_dict()

    @classmethod
    def from_artefact(cls, artefact: Artefact) -> Self:
        """The forecaster that a file holds."""
        how: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in artefact.extra.get("training", {}).items()
               if k in Training.__dataclass_fields__}  # fmt: skip
        made = cls(config=artefact.config, training=Training(**how), cell=artefact.cell)
        made.recipe, made.model = _blank(artefact.config, artefact.cell, artefact.extra)
        made.model.load_state_dict(dict(artefact.tensors), assign=True)
        names = artefact.extra["columns"]
        if len(names) != 3 or len(set(names)) < 3 or not all(isinstance(c, str) for c in names):
            raise ValueError(f"columns must be three different names, got {names!r}")
        made.scores, made.columns, made.asked = tuple(artefact.scores), Columns(*names), _Config(**artefact.extra["asked"])
        if made.asked.horizon != made.config.horizon or made.asked.ensemble != made.config.ensemble:
            raise ValueError(f"config and what was asked for differ: {made.config} and {made.asked}")
        return made

    @property
    def _fitted(self) -> Ensemble:
        if self.model is None:
            raise RuntimeError("this Forecaster is not fitted. Call fit(df) first, or Forecaster.load(path).")
        return self.model

    @property
    def _recipe(self) -> Recipe:
        _ = self._fitted
        return cast(Recipe, self.recipe)

    def _panel(self, df: Any, future: Any = None, static: Any = None, ahead: bool = False) -> Panel:
        """A frame as a panel of the frequency of `fit`; None is the data of `fit`. ahead: future covariates are needed."""
        _ = self._fitted
        if ahead and self.config.future and future is None:
            raise ValueError(
                f"this model reads {', '.join(self.config.future)} of the steps that it forecasts. Give them: "
                f"predict(..., future=frame) with {self.columns.id}, {self.columns.ds} and these columns; to plot, "
                "plot(forecast=predict(..., future=frame))."
            )
        if df is None:
            if self.panel is None:
                raise RuntimeError("a loaded Forecaster carries no data. Give it the history: predict(df).")
            if future is None and static is None:
                return self.panel
            df, static = self.sources[0], static if static is not None else self.sources[1]
        c = self.config
        return read(df, c.freq, self.columns, c.names, future=future, static=static, horizon=c.horizon)


def checkpoints(path: Path | str, n: int) -> list[Path]:
    """The files of an ensemble of n networks: the path itself for one, else NAME.0.safetensors, NAME.1.safetensors, ..."""
    path = Path(path)
    return [path] if n == 1 else [path.with_name(f"{path.stem}.{k}{path.suffix}") for k in range(n)]


def _blank(config: _Config, cell: Cell, extra: Mapping[str, Any]) -> tuple[Recipe, Ensemble]:
    """The recipe and the model of a file, the model without weights or memory."""
    recipe = Recipe(config, cell, Encoding(**extra["encoding"]), tuple(extra["ids"]))
    H, quantiles = config.horizon, config.quantiles
    with torch.device("meta"):  # draws nothing
        members = [recipe.network() for _ in range(config.ensemble)]
        made = Ensemble(members, torch.ones(H, len(quantiles)), torch.empty(extra["ranks"], H), quantiles.index(0.5),
                        torch.empty(extra["short"], H, len(quantiles)))  # fmt: skip
    return recipe, made.eval()


def _origins(panel: Panel, horizon: int, n_windows: int, step_size: int) -> tuple[Any, Any]:
    """Series and origin of each window, series by series, oldest window first, int64, [S * n_windows] each."""
    checks.count("n_windows", n_windows)
    checks.count("step_size", step_size)
    first = panel.lengths - horizon - (n_windows - 1) * step_size
    need = horizon + (n_windows - 1) * step_size + LEAST_SERIES
    if len(bad := np.flatnonzero(first < LEAST_SERIES)):
        raise ValueError(
            f"series {panel.ids[int(bad[0])]!r} has {panel.lengths[bad[0]]} steps; {n_windows} windows of horizon {horizon}, "
            f"{step_size} apart, need at least {need}. Take fewer windows, or leave it out"
            + (f"; {len(bad) - 1} more are as short." if len(bad) > 1 else ".")
        )
    series = np.repeat(np.arange(len(panel)), n_windows)
    return series, first[series] + np.tile(np.arange(n_windows) * step_size, len(panel))
