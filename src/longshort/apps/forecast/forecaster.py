"""`Forecaster`: what a person holds. Frames in, the same kind of frames out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from longshort import artefact
from longshort.apps.forecast import task as tasks
from longshort.apps.forecast.data import Columns, Panel, read
from longshort.apps.forecast.task import Backtest, ForecastTask
from longshort.apps.forecast.task import Config as _Config
from longshort.artefact import Artefact, Score
from longshort.cell import Cell
from longshort.train import Training, train


class Forecaster:
    """A global LSTM that forecasts quantiles of many series at once; series it has never seen included.

    Frames are long, `unique_id, ds, y`, from pandas, polars, or a .csv or .parquet file; ds holds whole numbers or time stamps.
    Absent time stamps and missing values are masked. Scaling looks at the context before each forecast origin only.

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
        if (horizon is None) == (config is None) or (config and fields):
            raise TypeError(
                "Forecaster needs horizon=, the number of steps to forecast, or config=Config(...), which holds all fields."
            )
        if unknown := sorted(set(fields) - set(_Config.__dataclass_fields__)):
            known = ", ".join(_Config.__dataclass_fields__)
            raise TypeError(f"Forecaster has no field {', '.join(unknown)}; it has {known}.")
        self.config = self.asked = config or _Config(horizon=cast(int, horizon), **fields)
        self.columns = Columns()
        self.training, self.cell = training or Training(), cell or Cell()
        self.model: nn.Module | None = None
        self.scores: tuple[Score, ...] = ()
        self.panel: Panel | None = None

    def __repr__(self) -> str:
        return f"Forecaster(config={self.config}, {'fitted' if self.model else 'not fitted'})"

    def fit(
        self, df: Any, *, id_col: str = "unique_id", time_col: str = "ds", target_col: str = "y", progress: bool = False,
        checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None,
    ) -> Self:  # fmt: skip
        """Train on a long frame. The end of each series is held out to choose the best weights; see `ForecastTask`.

        Args:
            df: the frame, or the path of a .csv or .parquet file. It is kept, so that `predict()` can go on from its end.
            id_col: name of the id column.
            time_col: name of the time column.
            target_col: name of the value column.
            progress: show loss, score and time left; otherwise nothing is printed.
            checkpoint: file for the state of the run, so that it can be resumed; None writes nothing.
            resume: go on from the checkpoint.
            log: file that gets one JSON line per validation score.

        Returns:
            Itself; `config` now holds the frequency, season and context that were used, `scores` the validation scores.

        Raises:
            TypeError: df is no frame.
            ValueError: the data is wrong; the message names the series and the row.
        """
        columns = Columns(id_col, time_col, target_col)
        task = ForecastTask(self.asked, read(df, self.asked.freq, columns), self.cell)
        self._train(task, progress=progress, checkpoint=checkpoint, resume=resume, log=log)
        return self

    def _train(self, task: ForecastTask, **how: Any) -> None:
        result = train(task, self.training, **how)
        self.config, self.panel, self.model = task.config, task.panel, result.model.eval()
        self.columns = task.panel.columns
        self.scores = (Score("valid", date.today().isoformat(), result.scores),) if result.scores else ()

    def predict(self, df: Any = None) -> Any:
        """Forecast the `horizon` steps that follow the end of each series.

        Args:
            df: history of old or new series, a frame or a file as in `fit`; None takes the data of `fit`.

        Returns:
            A frame of the same kind: `unique_id, ds, LSTM` (the median), and `LSTM-lo-80, LSTM-hi-80` for each level.

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the data is wrong; the message names the series and the row.
        """
        return tasks.predict(self._fitted, self.config, self._panel(df))

    def backtest(self, df: Any = None, n_windows: int = 1, step_size: int = 1) -> Backtest:
        """Forecast the last `horizon` steps of each series from the fitted model, which is not trained again.

        The truth is honest only if `fit` has not seen it.

        Args:
            df: history with the truth at its end; None takes the data of `fit`.
            n_windows: forecast origins per series; the last one is `horizon` steps before the end.
            step_size: steps between two origins.

        Returns:
            Forecasts and truth: `.frame()` is the long frame, `.scores()` the metrics of LSTM and SeasonalNaive.

        Raises:
            RuntimeError: nothing is fitted, or there is no data.
            ValueError: the data is wrong, or a series is too short for so many windows.
        """
        model, panel = self._fitted, self._panel(df)
        series, origin = _origins(panel, self.config.horizon, n_windows, step_size)
        return tasks.backtest(model, self.config, panel, series, origin)

    def evaluate(self, df: Any = None, n_windows: int = 1, step_size: int = 1) -> dict[str, dict[str, float]]:
        """The scores of `backtest`: MASE, sMAPE, wQL and coverage, of LSTM and of SeasonalNaive."""
        return self.backtest(df, n_windows, step_size).scores()

    def cross_validation(
        self, df: Any, n_windows: int = 1, step_size: int = 1, *, refit: bool = False, id_col: str = "unique_id",
        time_col: str = "ds", target_col: str = "y", progress: bool = False,
    ) -> Any:  # fmt: skip
        """Train on the data before the first cutoff and forecast from every cutoff. This forecaster itself stays as it is.

        Args:
            df: a frame or a file as in `fit`.
            n_windows: cutoffs per series; the last one is `horizon` steps before the end.
            step_size: steps between two cutoffs.
            refit: train anew at every cutoff.
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
        panel = read(df, self.asked.freq, Columns(id_col, time_col, target_col))
        series, origin = _origins(panel, self.config.horizon, n_windows, step_size)
        window, made = np.tile(np.arange(n_windows), len(panel)), []
        for w in range(n_windows if refit else 1):
            chosen = window == w if refit else window >= 0
            other = Forecaster(config=self.asked, training=self.training, cell=self.cell)
            known = panel.head(origin[window == w])
            other._train(ForecastTask(self.asked.resolve(panel), known, self.cell), progress=progress)
            made.append((chosen, tasks.backtest(other._fitted, other.config, panel, series[chosen], origin[chosen])))
        names = made[0][1].quantiles
        joined = {k: np.empty((len(series), *v.shape[1:])) for k, v in names.items()}
        for chosen, part in made:
            for k, v in part.quantiles.items():
                joined[k][chosen] = v
        return Backtest(panel, made[0][1].config, series, origin, joined).frame()

    def plot(self, df: Any = None, forecast: Any = None, **how: Any) -> Any:
        """Plot history, forecast, interval and, where the forecast frame has it, the truth; see `plot.plot`.

        Args:
            df: history; None takes the data of `fit`.
            forecast: what `predict` or `Backtest.frame` returned; None predicts.
            **how: further arguments of `plot.plot`.

        Returns:
            The matplotlib figure.
        """
        from longshort.apps.forecast.plot import plot

        model, panel = self._fitted, self._panel(df)
        return plot(panel, tasks.predict(model, self.config, panel) if forecast is None else forecast, **how)

    def save(self, path: Path | str) -> Path:
        """Write the model to one .safetensors file; the data of `fit` is not in it.

        Raises:
            RuntimeError: nothing is fitted.
            OSError: the file cannot be written.
        """
        weights, extra = self._fitted.state_dict(), {"columns": list(self.columns)}
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
        if config.freq is None or config.season_length is None or config.context is None:
            raise ValueError("config must hold freq, season_length and context, which fit fills in")
        with torch.device("meta"):
            return tasks.network(config, cell).state_dict()

    @classmethod
    def from_artefact(cls, artefact: Artefact) -> Self:
        """The forecaster that a file holds."""
        made = cls(config=artefact.config, cell=artefact.cell)
        with torch.device("meta"):  # draws nothing
            made.model = tasks.network(artefact.config, artefact.cell).eval()
        made.model.load_state_dict(dict(artefact.tensors), assign=True)
        made.scores, made.columns = tuple(artefact.scores), Columns(*artefact.extra["columns"])
        return made

    @property
    def _fitted(self) -> nn.Module:
        if self.model is None:
            raise RuntimeError("this Forecaster is not fitted. Call fit(df) first, or Forecaster.load(path).")
        return self.model

    def _panel(self, df: Any) -> Panel:
        """A frame as a panel of the frequency of `fit`; None is the data of `fit`."""
        if df is not None:
            return read(df, self.config.freq, self.columns)
        if self.panel is None:
            raise RuntimeError("a loaded Forecaster carries no data. Give it the history: predict(df).")
        return self.panel


def _origins(panel: Panel, horizon: int, n_windows: int, step_size: int) -> tuple[Any, Any]:
    """Series and origin of each window, series by series, oldest window first, int64, [S * n_windows] each."""
    for name, v in (("n_windows", n_windows), ("step_size", step_size)):
        if isinstance(v, bool) or not isinstance(v, int) or v < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {v!r}.")
    first = panel.lengths - horizon - (n_windows - 1) * step_size
    need = horizon + (n_windows - 1) * step_size + tasks.LEAST_SERIES
    if len(bad := np.flatnonzero(first < tasks.LEAST_SERIES)):
        raise ValueError(
            f"series {panel.ids[int(bad[0])]!r} has {panel.lengths[bad[0]]} steps; {n_windows} windows of horizon {horizon}, "
            f"{step_size} apart, need at least {need}. Take fewer windows, or leave it out"
            + (f"; {len(bad) - 1} more are as short." if len(bad) > 1 else ".")
        )
    series = np.repeat(np.arange(len(panel)), n_windows)
    return series, first[series] + np.tile(np.arange(n_windows) * step_size, len(panel))
