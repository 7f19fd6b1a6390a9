"""One default configuration, nothing tuned per data set. `python -m benchmarks.forecast [--only PATTERN] [--seeds 5]`.

The forecaster is told the horizon, the season where whole-number time stamps cannot say it, and which columns are covariates.
Nothing of a test part is fitted on: a model is trained once, before the first origin, and forecasts from every origin.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from cyclopts import App

from benchmarks.baselines import MODELS, statistical
from benchmarks.forecasting import SEEDS, begin, console, peak_mib, write
from benchmarks.scores import folder, rows, training, truth
from benchmarks.stats import mean_sd
from benchmarks.table import FORECAST_HEAD, console_table, forecast_rows
from longshort.apps.forecast import Forecaster
from longshort.apps.forecast.metrics import coverage, mase, naive_error, wql
from longshort.train import Training

LEVELS = (20, 40, 60, 80)  # their ends are the deciles, which the default configuration learns anyway
BASIC = ["unique_id", "ds", "y"]


class Case(NamedTuple):
    """One data set.

    Args:
        name: for people; `--only` matches it.
        note: what is forecast from where, for people.
        load: reads what may be learned from, and, where it lies in the same file, the test part that follows.
        horizon: steps to forecast.
        season: steps per season in the scale of MASE.
        step: steps between two origins.
        windows: origins in the test part; 0 means that it is a file of its own, `name` says which, with one origin.
        fields: what else the forecaster is told.
        covariates: fields of a second run, which also sees other columns.
        freq: step between time stamps.
        models: baselines.
        memory: steps before each origin that the baselines, then fitted anew at each, look at; None: fitted once, on all.
    """

    name: str
    note: str
    load: Callable[[], pd.DataFrame]
    horizon: int
    season: int
    step: int = 0
    windows: int = 0
    fields: dict[str, Any] = {}  # noqa: RUF012
    covariates: dict[str, Any] = {}  # noqa: RUF012
    freq: str | int = 1
    models: tuple[str, ...] = MODELS
    memory: int | None = None

    @property
    def held(self) -> int:
        """Steps of the test part, where it follows in the same file."""
        return (self.windows - 1) * self.step + self.horizon if self.windows else 0


def tourism(kind: str) -> Callable[[], pd.DataFrame]:
    """The training part of a frequency of the Tourism competition."""
    return lambda: training(f"tourism/{kind}_train.parquet")


def etth1(*columns: str) -> pd.DataFrame:
    """The 20 months of ETTh1 that the literature uses, each column a series."""
    wide = training("ett/ETTh1.csv").head(14_400)
    long = wide.melt("date", list(columns) or None, var_name="unique_id", value_name="y")
    return long.assign(ds=pd.to_datetime(long["date"]))[BASIC]


def vic_elec() -> pd.DataFrame:
    """Demand of Victoria in eastern standard time, which has no gap where clocks change, with temperature and holidays."""
    table = training("vic_elec/vic_elec.parquet")
    ds = pd.to_datetime(table["Time"]).dt.tz_localize(None) + pd.Timedelta("10h")
    known = {"Temperature": table["Temperature"], "Holiday": table["Holiday"].astype(float)}
    return pd.DataFrame({"unique_id": "Victoria", "ds": ds, "y": table["Demand"], **known})


MONTHS = "trained on 16 months, one origin a day in the four months that follow"
CASES = (
    Case("tourism yearly", "the test file", tourism("yearly"), 4, 1),
    Case("tourism quarterly", "the test file", tourism("quarterly"), 8, 4, fields={"season_length": 4}),
    Case("tourism monthly", "the test file", tourism("monthly"), 24, 12, fields={"season_length": 12}),
    Case("ETTh1 OT", MONTHS, lambda: etth1("OT"), 24, 24, 24, 120, freq="h"),
    Case("ETTh1 all 7", MONTHS, etth1, 24, 24, 24, 120, freq="h"),
    Case(
        "vic_elec", "one origin a day in the last 90 days of 2014; temperature is that which came, as if its forecast were "
        "perfect; the baselines are fitted to the eight weeks before each origin", vic_elec, 48, 48, 48, 90, freq="30min",
        covariates={"future": ("Temperature", "Holiday"), "calendar": True}, models=("SeasonalNaive", "MSTL", "AutoTheta"),
        memory=8 * 7 * 48,
    ),
)  # fmt: skip

app = App(name="benchmarks.forecast", help=__doc__)


def lstm(case: Case, data: pd.DataFrame, seed: int, extra: dict[str, Any]) -> pd.DataFrame:
    """Train before the test part and forecast: the frame `unique_id, ds, LSTM, LSTM-lo-80, ...`, with windows also `cutoff`."""
    data = data[[*BASIC, *extra.get("future", ())]]
    model = Forecaster(case.horizon, levels=LEVELS, training=Training(seed=seed), **case.fields, **extra)
    model.fit(known(case, data))
    return model.backtest(data, case.windows, case.step).frame() if case.windows else model.predict()


def known(case: Case, data: pd.DataFrame) -> pd.DataFrame:
    """What lies before the first origin."""
    return data[data.groupby("unique_id").cumcount(ascending=False) >= case.held]


def baselines(case: Case, data: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """The same from the same origins."""
    windows = {"n_windows": case.windows, "step_size": case.step} if case.windows else {}
    return statistical(data, case.horizon, case.season, LEVELS, case.freq, case.models, case.memory, **windows)


def score(case: Case, frame: pd.DataFrame, name: str, future: pd.DataFrame, scale: dict[str, float]) -> dict[str, float]:
    """MASE, as the Monash archive computes it, mean weighted quantile loss of the deciles, and coverage of the 80 % interval.

    Args:
        case: what was forecast.
        frame: forecasts of every series from each origin, with the columns of `name`.
        name: whose.
        future: the truth, `unique_id, ds, y`.
        scale: seasonal naive error of each series before the test part, by id.
    """
    frame = frame.drop(columns=["y"], errors="ignore").merge(future[BASIC], on=["unique_id", "ds"])
    frame = frame.sort_values([c for c in ("unique_id", "cutoff", "ds") if c in frame])
    ends = [f"{name}-lo-{p}" for p in LEVELS[::-1]], [f"{name}-hi-{p}" for p in LEVELS]
    q = frame[[*ends[0], name, *ends[1]]].to_numpy().reshape(-1, case.horizon, 2 * len(LEVELS) + 1)
    y = frame["y"].to_numpy().reshape(-1, case.horizon)
    of = np.array([scale[k] for k in frame["unique_id"].iloc[:: case.horizon]])
    if len(y) != len(scale) * max(case.windows, 1):
        raise ValueError(f"{name} must forecast {len(scale) * max(case.windows, 1)} windows of {case.name}, got {len(y)}.")
    low, point, high = q[..., 0], q[..., len(LEVELS)], q[..., -1]
    levels = np.linspace(0.1, 0.9, 2 * len(LEVELS) + 1)
    return {"MASE": mase(y, point, of), "wQL": wql(y, q, levels), "coverage": coverage(y, low, high)}


def run(case: Case, seeds: int) -> dict[str, Any]:
    """Forecast with our models and the baselines, then score."""
    data, made = case.load(), []
    ours: dict[str, dict[str, Any]] = {"LSTM": {}}
    if case.covariates:
        ours["LSTM with covariates"] = case.covariates
    for label, extra in ours.items():
        for seed in range(seeds):
            start = time.perf_counter()
            made.append((label, "LSTM", lstm(case, data, seed, extra), time.perf_counter() - start))
            console.print(f"{case.name}, {label}, seed {seed}: {made[-1][-1]:.1f} s")
    peak = peak_mib()
    for name, frame, took in baselines(case, data):
        made.append((name, name, frame, took))
        console.print(f"{case.name}, {name}: {took:.1f} s")

    future = data if case.windows else truth(case.name.replace(" ", "/"))
    scale = {k: naive_error(v, case.season) for k, v in rows(known(case, data)).items()}
    scores: dict[str, list[dict[str, float]]] = {}
    for label, name, frame, took in made:
        scores.setdefault(label, []).append(score(case, frame, name, future, scale) | {"seconds": took})
    return {
        "name": case.name,
        "note": case.note,
        "series": len(scale),
        "peak MiB": peak,
        "seeds": scores,
        "scores": {label: {k: mean_sd(s[k] for s in each) for k in each[0]} for label, each in scores.items()},
    }


@app.default
def main(*, only: str = "", seeds: int = SEEDS, out: Path | None = None) -> None:
    """Train, forecast, score.

    Args:
        only: a regular expression; only the data sets whose names it finds run.
        seeds: models per data set, each with its own seed; mean and spread of their scores are shown.
        out: folder of the JSON; benchmarks/results for a full run, else out/.
    """
    cases = [c for c in CASES if re.search(only, c.name)]
    if not cases:
        raise SystemExit(f"--only must match a data set, got {only!r}. There are: {', '.join(c.name for c in CASES)}")
    folder()
    papers = begin("forecast", scores_test=True) | {"partial": seeds < SEEDS or len(cases) < len(CASES), "seeds": seeds}
    result = papers | {"cases": [run(case, seeds) for case in cases]}
    write(result, "forecast", out)
    console.print(console_table("one default configuration; mean ± standard deviation", FORECAST_HEAD, forecast_rows(result)))


if __name__ == "__main__":
    app()
