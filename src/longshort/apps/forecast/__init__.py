"""Forecasting: `Forecaster(horizon=12).fit(df).predict()` on the long frame `unique_id, ds, y`. Names load on first use."""

from __future__ import annotations

import gc
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshort.apps.forecast.backtest import Backtest
    from longshort.apps.forecast.config import Config
    from longshort.apps.forecast.forecaster import Forecaster
    from longshort.apps.forecast.task import ForecastTask

if find_spec("narwhals") is None:
    raise ImportError(
        "forecasting needs narwhals, which is not installed: pip install 'longshort[forecast]', or 'longshort[parquet]' for files"
    )

__all__ = ["Backtest", "Config", "ForecastTask", "Forecaster"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'longshort.apps.forecast' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    home = {"Forecaster": "forecaster", "Backtest": "backtest", "Config": "config", "ForecastTask": "task"}[name]
    collects = gc.isenabled()
    gc.disable()  # a collection amid the import would walk through all of torch for nothing: a tenth of a second
    try:
        return getattr(import_module(f"longshort.apps.forecast.{home}"), name)
    finally:
        if collects:
            gc.enable()
