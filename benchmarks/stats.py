"""The arithmetic of a benchmark."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, quartiles and maximum; a quantile between two values is interpolated."""
    if not values:
        raise ValueError("spread needs at least one value, got none.")
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"min": min(values), "q1": q1, "median": median, "q3": q3, "max": max(values)}


def paired(rival: Sequence[float], ours: Sequence[float]) -> list[float]:
    """rival / ours, round by round: what disturbs a whole round cancels."""
    return [a / b for a, b in zip(rival, ours, strict=True)]


def geomean(values: Iterable[float]) -> float:
    """Geometric mean of positive numbers."""
    logs = [math.log(v) for v in values]
    if not logs:
        raise ValueError("the geometric mean needs at least one value, got none.")
    return math.exp(math.fsum(logs) / len(logs))


def mean_sd(values: Iterable[float]) -> dict[str, float]:
    """Mean and standard deviation, of the sample; that of one value is 0."""
    values = list(values)
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}
