"""longshort: the LSTM, finished. Importing it is light: each name is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longshort import probe
    from longshort.artefact import load
    from longshort.cell import Cell
    from longshort.nn import LSTM

__version__ = "0.1.0"
__all__ = ["LSTM", "Cell", "__version__", "load", "probe"]

_HOME = {"LSTM": "longshort.nn", "Cell": "longshort.cell", "load": "longshort.artefact", "probe": ""}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'longshort' has no attribute {name!r}; it offers {', '.join(__all__)}.")
    return getattr(import_module(_HOME[name]), name) if _HOME[name] else import_module(f"longshort.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
