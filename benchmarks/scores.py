"""The scores of the M4 competition as its organisers compute them, and the one door to data that only judges may see. NumPy.

Source: Makridakis, Spiliotis & Assimakopoulos 2020, The M4 Competition: 100,000 time series and 61 forecasting methods,
section 2.2; the organisers' R code (Mcompetitions/M4-methods) for Naive2.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.machine import ROOT
from benchmarks.published import LEVEL, M4S
from longshort.apps.forecast.metrics import coverage, mase, msis, naive_error, smape

Z90 = 1.645  # two-sided 90 % of the normal distribution, as rounded in the organisers' code


def folder() -> Path:
    """Where the data lies: $LONGSHORT_DATA, or ../shared/data beside the repository."""
    path = Path(os.environ.get("LONGSHORT_DATA") or ROOT / "../shared/data").resolve()
    if not path.is_dir():
        raise SystemExit(
            "LONGSHORT_DATA must name the folder with the benchmarks' data (m4/, tourism/, ett/, vic_elec/), "
            f"got {path}, which is no folder. Set it, or put the data there."
        )
    return path


def training(name: str) -> pd.DataFrame:
    """A table to learn from, such as 'm4/yearly_train.parquet'."""
    path = folder() / name
    if "test" in path.stem:
        raise ValueError(f"only scoring opens a test part; got {name!r} to train on.")
    with path.open("rb") as f:
        return pd.read_csv(f) if path.suffix == ".csv" else pd.read_parquet(f)


def truth(name: str) -> pd.DataFrame:
    """The test part of 'm4/yearly', 'tourism/monthly', ... Call it when the forecasts are made, and to score them only."""
    with (folder() / f"{name}_test.parquet").open("rb") as f:
        return pd.read_parquet(f)


def rows(frame: pd.DataFrame, column: str = "y") -> dict[str, NDArray]:
    """A long frame as one array per series, ids ascending, each in the order of time, [T]."""
    frame = frame.sort_values(["unique_id", "ds"])
    ids, first = np.unique(frame["unique_id"].to_numpy(str), return_index=True)
    return dict(zip(ids.tolist(), np.split(frame[column].to_numpy(), first[1:]), strict=True))


def stacked(frame: pd.DataFrame, horizon: int, column: str = "y") -> NDArray:
    """A long frame that holds `horizon` steps of every series, ids ascending, [S, H]."""
    return np.stack([v.reshape(horizon) for v in rows(frame, column).values()])


def seasonal(history: NDArray, m: int) -> bool:
    """M4's test: is the autocorrelation at lag m outside the 90 % limits that the shorter lags leave to it?

    Like the organisers' code it finds nothing in fewer than three seasons, nor at lags beyond the 10 log10 n that R looks at.
    """
    n = len(history)
    if m < 2 or n < 3 * m or m > int(10 * np.log10(n)):
        return False
    off = history - history.mean()
    power = off @ off
    r = np.array([off[k:] @ off[:-k] for k in range(1, m + 1)]) / power if power > 0 else np.zeros(m)  # lags 1, ..., m
    return bool(abs(r[-1]) > Z90 * np.sqrt((1 + 2 * (r[:-1] ** 2).sum()) / n))


def factors(history: NDArray, m: int) -> NDArray:
    """Seasonal factors of the classical multiplicative decomposition, R's `decompose`; the first step has factor 0. [m]."""
    weight = np.ones(m) if m % 2 else np.concatenate([[0.5], np.ones(m - 1), [0.5]])
    half, ratio = m // 2, np.full(-(-len(history) // m) * m, np.nan)
    trend = np.convolve(history, weight / m, "valid")  # of the steps half, ..., n - 1 - half
    ratio[half : half + len(trend)] = history[half : half + len(trend)] / trend
    mean = np.nanmean(ratio.reshape(-1, m), 0)
    return mean / mean.mean()


def naive2(history: NDArray, horizon: int, m: int) -> NDArray:
    """The benchmark that OWA divides by: the last value, seasonally adjusted where `seasonal` says so; never negative. [H]."""
    n, factor = len(history), factors(history, m) if seasonal(history, m) else np.ones(m)
    return np.maximum(history[-1] / factor[(n - 1) % m] * factor[(n + np.arange(horizon)) % m], 0)


@dataclass(frozen=True)
class Judge:
    """The truth of one frequency and what scoring needs of the past.

    Args:
        y: truth, [S, H].
        scale: seasonal naive error of each history, [S].
        naive2: sMAPE and MASE of Naive2.
    """

    y: NDArray
    scale: NDArray
    naive2: dict[str, float]

    @classmethod
    def of(cls, past: dict[str, NDArray], future: dict[str, NDArray], m: int) -> Self:
        """From histories and what followed them, by id."""
        if past.keys() != future.keys():
            raise ValueError(f"history and truth must hold the same series, got {len(past)} and {len(future)}.")
        y = np.stack([future[k] for k in past])
        scale = np.array([naive_error(v, m) for v in past.values()])
        flat = np.stack([naive2(v, y.shape[1], m) for v in past.values()])
        return cls(y, scale, {"sMAPE": smape(y, flat), "MASE": mase(y, flat, scale)})

    def score(self, low: NDArray, point: NDArray, high: NDArray) -> dict[str, float]:
        """sMAPE, MASE, OWA, MSIS, coverage of forecasts [S, H] with intervals of LEVEL percent."""
        made = {"sMAPE": smape(self.y, point), "MASE": mase(self.y, point, self.scale)}
        covered = coverage(self.y, low, high)
        return made | {
            "OWA": sum(made[k] / self.naive2[k] for k in ("sMAPE", "MASE")) / 2,
            "MSIS": msis(self.y, low, high, self.scale, LEVEL),
            "coverage": covered,
            "coverage error": abs(covered - LEVEL / 100),
        }


def official(freq: str, past: dict[str, NDArray]) -> Judge:
    """The judge of the test part, opened here, who first proves itself: Naive2 must score what the organisers published.

    Raises:
        SystemExit: it does not; nothing may be scored.
    """
    judge = Judge.of(past, rows(truth(f"m4/{freq}")), M4S[freq].season)
    got, must = ([f"{v:.3f}" for v in pair] for pair in (judge.naive2.values(), M4S[freq].naive2))
    if got != must:
        raise SystemExit(
            f"Naive2 on M4 {freq} must score sMAPE / MASE {' / '.join(must)}, got {' / '.join(got)}: the data or the scorer "
            "is wrong, so nothing is scored."
        )
    return judge


def held_out(frame: pd.DataFrame, horizon: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A training part without and with only the last `horizon` steps of each series; series of up to twice that are left out."""
    frame = frame.sort_values(["unique_id", "ds"], ignore_index=True)
    series = frame.groupby("unique_id")["ds"]
    frame = frame[series.transform("size") > 2 * horizon]
    last = frame.groupby("unique_id").cumcount(ascending=False) < horizon
    return frame[~last], frame[last]
