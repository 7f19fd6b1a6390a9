"""What statistics does: seasonal naive, ETS, Theta and MSTL as statsforecast has them. Imported only where asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

MODELS = ("SeasonalNaive", "AutoETS", "AutoTheta")
PARALLEL = 100  # series from which on a pool of processes pays


def statistical(
    df: pd.DataFrame,
    horizon: int,
    season: int,
    levels: Iterable[float],
    freq: str | int = 1,
    models: Iterable[str] = MODELS,
    memory: int | None = None,
    **windows: int,
) -> Iterator[tuple[str, pd.DataFrame, float]]:
    """Forecast with each model, one after another.

    Args:
        df: long frame `unique_id, ds, y`.
        horizon: steps to forecast.
        season: steps per season; MSTL also sees seven of them, the week.
        levels: prediction intervals in percent.
        freq: step between time stamps, as pandas writes it.
        models: names in statsforecast.
        memory: with windows: fit anew at each origin, on that many steps; None fits once, before the first origin, and then
            only updates the state, as our own model does.
        **windows: `n_windows` and `step_size`, to forecast from origins in df; without, what follows its end is forecast.

    Yields:
        Name, the frame `unique_id, ds, NAME, NAME-lo-80, ...` (with windows also `cutoff`), seconds.
    """
    from statsforecast import StatsForecast
    from statsforecast import models as known

    jobs = (os.cpu_count() or 1) if df["unique_id"].nunique() >= PARALLEL else 1
    how: dict[str, Any] = {"df": df[["unique_id", "ds", "y"]], "h": horizon, "level": list(levels)}
    if windows:
        how |= windows | {"input_size": memory, "refit": memory is not None}
    for name in models:
        model = getattr(known, name)(season_length=[season, 7 * season] if name == "MSTL" else season)
        forecaster = StatsForecast([model], freq, n_jobs=jobs, fallback_model=known.SeasonalNaive(season))
        start = time.perf_counter()
        made = (forecaster.cross_validation if windows else forecaster.forecast)(**how)
        yield name, made, time.perf_counter() - start
