"""The instrument: what the memory of an LSTM does. Gates, cells and gradient flow of a running model, and measures of them."""

from __future__ import annotations

from longshort.probe.record import Recording, Trace, record

__all__ = ["Recording", "Trace", "record"]
