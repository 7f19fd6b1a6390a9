"""Trained from scratch, scored as M4 was scored. `python -m benchmarks.m4 [--freq yearly] [--seeds 5] [--holdout] [--baselines]`.

One configuration per frequency, chosen on the held-out end of the training part (--holdout) and committed before the test part
is opened: with changes that are not committed the test part stays closed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from cyclopts import App
from numpy.typing import NDArray

from benchmarks.baselines import statistical
from benchmarks.forecasting import SEEDS, begin, console, peak_mib, write
from benchmarks.published import LEVEL, M4S
from benchmarks.scores import Judge, folder, held_out, official, rows, stacked, training
from benchmarks.stats import mean_sd
from benchmarks.table import m4_tables
from longshort.apps.forecast import Forecaster
from longshort.train import Training


class Setting(NamedTuple):
    """How one frequency is forecast.

    Args:
        fields: of `Forecaster`; horizon, levels and the seed are the benchmark's.
        training: fields of `Training`.
        category: give each series' M4 category to the model, as a static covariate.
    """

    fields: dict[str, Any]
    training: dict[str, Any]
    category: bool = False


SETTINGS = {
    "yearly": Setting(
        {"season_length": 1, "context": 18, "history": 60, "batch": 512},
        {"steps": 2000, "lr": 3e-3, "evaluate": 500, "patience": 0},
        category=True,
    ),
    "weekly": Setting(
        {"season_length": 52, "context": 156, "history": 400, "batch": 256, "holdout": 0},
        {"steps": 600, "lr": 3e-3, "evaluate": 600, "patience": 0},
        category=True,
    ),
    "hourly": Setting(
        {"season_length": 24, "batch": 64, "holdout": 0},
        {"steps": 1000, "lr": 2e-3, "evaluate": 1000, "patience": 0},
        category=True,
    ),
}

app = App(name="benchmarks.m4", help=__doc__)


class Made(NamedTuple):
    """Forecasts of every series, ids ascending: lower bound, median, upper bound, [S, H] each."""

    low: NDArray
    point: NDArray
    high: NDArray


def made(frame: pd.DataFrame, name: str, horizon: int) -> Made:
    """The columns of a frame; what is below 0 becomes 0, since M4's data are positive and its organisers did so."""
    columns = (f"{name}-lo-{LEVEL}", name, f"{name}-hi-{LEVEL}")
    return Made(*(np.maximum(stacked(frame, horizon, c), 0) for c in columns))


def load(freq: str) -> pd.DataFrame:
    """The training part of a frequency, with the column `category` where the setting asks for it."""
    frame = training(f"m4/{freq}_train.parquet")
    if SETTINGS[freq].category:
        info = training("m4/info.parquet").set_index("unique_id")
        frame = frame.assign(category=frame["unique_id"].map(info["category"]))
    return frame


def forecast(freq: str, frame: pd.DataFrame, seed: int) -> tuple[Made, dict[str, float]]:
    """Train one model from scratch; its forecasts, and the seconds that training and forecasting took."""
    fields, how, category = SETTINGS[freq]
    horizon, static = M4S[freq].horizon, {"static": ("category",)} if category else {}
    model = Forecaster(horizon, levels=(LEVEL,), training=Training(seed=seed, **how), **fields, **static)
    start = time.perf_counter()
    model.fit(frame)
    fitted = time.perf_counter()
    frame = model.predict()
    return made(frame, "LSTM", horizon), {"fit": fitted - start, "predict": time.perf_counter() - fitted}


def run(freq: str, seeds: int, holdout: bool, baselines: bool) -> dict[str, Any]:
    """Forecast a frequency with each seed, then score. Only `official` opens the test part, when all forecasts are made."""
    frame, m4 = load(freq), M4S[freq]
    frame, future = held_out(frame, m4.horizon) if holdout else (frame, None)
    each, seconds = [], []
    for seed in range(seeds):
        forecasts, took = forecast(freq, frame, seed)
        each.append(forecasts)
        seconds.append(took)
        console.print(f"{freq}, seed {seed}: trained in {took['fit']:.1f} s, forecast in {took['predict']:.1f} s")
    peak = peak_mib()
    rivals = {}
    if baselines:
        for name, said, took in statistical(frame, m4.horizon, m4.season, [LEVEL]):
            rivals[name] = made(said, name, m4.horizon), took
            console.print(f"{freq}, {name}: {took:.1f} s")

    past = rows(frame)
    judge = official(freq, past) if future is None else Judge.of(past, rows(future), m4.season)
    alone = [judge.score(*v) for v in each]
    return {
        "freq": freq,
        "split": "test part" if future is None else f"last {m4.horizon} steps of the training part",
        "series": len(past),
        "setting": SETTINGS[freq]._asdict(),
        "Naive2": judge.naive2,
        "seeds": [{"seed": k, "seconds": t, **s} for k, (t, s) in enumerate(zip(seconds, alone, strict=True))],
        "one model": {k: mean_sd(s[k] for s in alone) for k in alone[0]} | {"fit seconds": mean_sd(t["fit"] for t in seconds)},
        "ensemble": judge.score(*(np.mean(parts, 0) for parts in zip(*each, strict=True))),
        "baselines": {name: judge.score(*v) | {"seconds": took} for name, (v, took) in rivals.items()},
        "peak MiB": peak,
    }


@app.default
def main(
    *,
    freq: Literal["yearly", "weekly", "hourly", "all"] = "all",
    seeds: int = SEEDS,
    holdout: bool = False,
    baselines: bool = False,
    out: Path | None = None,
) -> None:
    """Train, forecast, score.

    Args:
        freq: which part of M4.
        seeds: models, each with its own seed; their mean is the ensemble.
        holdout: score the last horizon of the training part and leave the test part closed. Settings are chosen this way.
        baselines: run SeasonalNaive, AutoETS and AutoTheta of statsforecast as well.
        out: folder of the JSON; benchmarks/results for a full run on the test part, else out/.
    """
    folder()
    papers = begin("m4", scores_test=not holdout) | {"partial": holdout or seeds < SEEDS}
    results = []
    for f in M4S if freq == "all" else [freq]:
        results.append(result := papers | run(f, seeds, holdout, baselines))
        write(result, f"m4-{f}" + "-holdout" * holdout, out)
    for table in m4_tables(results):
        console.print(table)


if __name__ == "__main__":
    app()
