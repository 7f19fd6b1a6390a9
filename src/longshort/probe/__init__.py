"""The instrument: what the memory of an LSTM does. Gates, cells and gradient flow of a running model, and measures of them."""

from __future__ import annotations

from longshort.probe.diagnose import Change, Finding, compare, diagnose
from longshort.probe.measures import (
    Occlusion,
    Saturation,
    at_step,
    by_lag,
    dead,
    horizon,
    occlusion,
    saturation,
    stuck,
    summary,
    time_constants,
)
from longshort.probe.record import Recording, Trace, record, unseen
from longshort.probe.watch import Shown, Watch

__all__ = [
    "Change",
    "Finding",
    "Occlusion",
    "Recording",
    "Saturation",
    "Shown",
    "Trace",
    "Watch",
    "at_step",
    "by_lag",
    "compare",
    "dead",
    "diagnose",
    "horizon",
    "occlusion",
    "record",
    "saturation",
    "stuck",
    "summary",
    "time_constants",
    "unseen",
]
