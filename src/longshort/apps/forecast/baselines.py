"""Classical forecasters beside the LSTM in a backtest: Naive2, SES, Theta, ETS. statsforecast is imported only here.

Each row is forecast from its own history up to its origin. Where these methods cannot do what the LSTM does, a warning says so
with a count: they take no missing values, so gaps of a history are filled by `filled` first; and a history that is too short
for a method, or on which it fails, gets the seasonal naive forecast instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from longshort.apps.forecast.backtest import Backtest, find, seasonal_naive

NAMES = ("Naive2", "SES", "Theta", "ETS")
Method = Callable[[NDArray], NDArray]


def add(backtest: Backtest, names: Sequence[str] = NAMES) -> Backtest:
    """The same backtest with further forecasters.

    Args:
        backtest: forecasts beside the truth.
        names: any of Naive2 (random walk on seasonally adjusted values), SES (ETS with error, no trend, no season), Theta
            (the standard method, seasonally adjusted) and ETS (chosen by AICc); upper or lower case.

    Returns:
        A backtest with the quantiles of these methods after those that it had, in the order of names.

    Raises:
        ValueError: a name is unknown, or comes twice.
        ImportError: statsforecast is not installed; Naive2 alone does without it.

    Warns:
        UserWarning: histories had gaps that were filled, or a method was replaced by the seasonal naive forecast.
    """
    chosen = [chosen_name(n) for n in names]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"each baseline must be named once, got {', '.join(names)}.")
    config, rows = backtest.config, list(zip(backtest.series, backtest.origin, strict=True))
    m, H, q = cast(int, config.season_length), config.horizon, np.array(config.quantiles)
    methods = {name: _method(name, m, H, q) for name in chosen}
    histories = [backtest.panel.history(s, n) for s, n in rows]
    _say(backtest, [not np.isfinite(h).all() for h in histories], "had gaps; the baselines saw them filled from the same phase")
    simple = None
    made = dict(backtest.quantiles)
    for name, method in methods.items():
        out, failed = np.empty((len(rows), H, len(q))), np.zeros(len(rows), bool)
        for k, past in enumerate(histories):
            forecast = _tried(method, filled(past, m))
            failed[k] = forecast is None
            out[k] = 0.0 if forecast is None else forecast
        if failed.any():
            simple = seasonal_naive(config, backtest.panel, backtest.series, backtest.origin) if simple is None else simple
            out[failed] = simple[failed]
            _say(backtest, failed, f"were too short or too odd for {name}, which is the seasonal naive forecast there")
        made[name] = out
    return replace(backtest, quantiles=made)


def chosen_name(name: str) -> str:
    """The baseline that a person means, whatever the case."""
    for known in NAMES:
        if known.lower() == name.lower():
            return known
    raise ValueError(f"baseline {name!r} is unknown. Choose from {', '.join(NAMES)}.")


def filled(past: NDArray, m: int) -> NDArray:
    """A history without gaps: missing values lie on straight lines between their neighbours of the same phase.

    Beyond the first and the last observed value of a phase it stays constant; a phase without any takes the line between
    neighbours in time.

    Args:
        past: at least one value observed, NaN where missing, [T].
        m: steps per season.
    """
    seen = np.isfinite(past)
    if seen.all():
        return past
    t = np.arange(len(past))
    made = np.interp(t, t[seen], past[seen])
    for phase in range(min(m, len(past))):
        part, there = past[phase::m], seen[phase::m]
        if there.any():
            made[phase::m] = np.interp(t[phase::m], t[phase::m][there], part[there])
    return made


def seasonal(y: NDArray, m: int) -> bool:
    """Whether a history has a season of m steps: its autocorrelation there exceeds the limit of 90 % confidence.

    Source: Makridakis et al. 2020, The M4 competition, its benchmark code: three seasons at least, Bartlett's standard error.
    """
    if m < 2 or len(y) < 3 * m:
        return False
    off = y - y.mean()
    power = off @ off
    if power <= 0:
        return False
    r = np.array([off[k:] @ off[:-k] for k in range(1, m + 1)]) / power
    return bool(abs(r[-1]) > 1.645 * np.sqrt((1 + 2 * (r[:-1] ** 2).sum()) / len(y)))


def factors(y: NDArray, m: int) -> tuple[NDArray, bool]:
    """Classical seasonal decomposition.

    Args:
        y: a history without gaps of at least two seasons, [T].
        m: steps per season, at least 2.

    Returns:
        The factor of each phase, [m], or the summand, where values are negative or a factor would be 0; phase 0 is that of y[0].
        And whether they are factors.
    """
    half = m // 2
    weight = np.ones(m + 1 - m % 2) / m
    if m % 2 == 0:
        weight[[0, -1]] /= 2
    trend, inner = np.convolve(y, weight, "valid"), y[half : len(y) - half]

    def phases(off: NDArray) -> NDArray:
        whole = np.full(-(-len(y) // m) * m, np.nan)
        whole[half : len(y) - half] = off
        return np.nanmean(whole.reshape(-1, m), 0)

    if (y >= 0).all() and (trend > 0).all() and (factor := phases(inner / trend)).all():
        return factor / factor.mean(), True
    summand = phases(inner - trend)
    return summand - summand.mean(), False


def naive2(y: NDArray, m: int, horizon: int, levels: NDArray) -> NDArray:
    """Naive2 of the M competitions: the last seasonally adjusted value, with its season put on again if there is one.

    Intervals are those of a random walk with normal steps.

    Args:
        y: a history without gaps, [T].
        m: steps per season.
        horizon: steps to forecast, H.
        levels: quantile levels, [Q].

    Returns:
        Quantiles, [H, Q].

    Source: Makridakis et al. 2020, table 1; Hyndman & Athanasopoulos 2021, Forecasting: principles and practice, 5.5.
    """
    cycle, ratio = factors(y, m) if seasonal(y, m) else (np.ones(1), True)
    phase = np.resize(cycle, len(y) + horizon)
    past, ahead = phase[: len(y)], phase[len(y) :, None]
    adjusted = y / past if ratio else y - past
    steps = np.diff(adjusted)
    spread = np.sqrt(np.mean(steps**2)) if len(steps) else 0.0
    z = np.array([NormalDist().inv_cdf(q) for q in levels])
    walk = adjusted[-1] + spread * np.sqrt(np.arange(1, horizon + 1))[:, None] * z
    return walk * ahead if ratio else walk + ahead


def _method(name: str, m: int, horizon: int, q: NDArray) -> Method:
    """What turns a history without gaps into quantiles [H, Q]."""
    if name == "Naive2":
        return lambda y: naive2(y, m, horizon, q)
    try:
        from statsforecast import models
    except ImportError as e:
        raise ImportError(
            f"baseline {name} needs statsforecast, which is not installed. Install it: pip install 'longshort[baselines]'"
        ) from e
    model = {
        "SES": lambda: models.AutoETS(season_length=1, model="ANN"),
        "Theta": lambda: models.Theta(season_length=m),
        "ETS": lambda: models.AutoETS(season_length=m),
    }[name]()
    return lambda y: _quantiles(model, y, horizon, q)


def _quantiles(model: Any, y: NDArray, horizon: int, q: NDArray) -> NDArray:
    """The point forecast is the median; the others are ends of intervals, kept in order. [H, Q]."""
    levels = [float(round(abs(200 * p - 100), 6)) for p in q]
    said = model.forecast(y, h=horizon, level=sorted({v for v in levels if v > 0}))
    middle = find(q, 0.5)
    made = np.stack(
        [said["mean"] if v == 0 else said[f"{'lo' if p < 0.5 else 'hi'}-{v}"] for p, v in zip(q, levels, strict=True)], 1
    )
    made[:, middle:] = np.maximum.accumulate(made[:, middle:], 1)
    made[:, middle::-1] = np.minimum.accumulate(made[:, middle::-1], 1)
    return made


def _tried(method: Method, past: NDArray) -> NDArray | None:
    """A forecast, or None where the method gives none."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            made = method(past)
        except Exception:  # what a foreign method raises on short or constant series is not documented
            return None
    return made if np.isfinite(made).all() else None


def _say(backtest: Backtest, rows: Any, what: str) -> None:
    """One warning that counts and names the rows."""
    if len(hit := np.flatnonzero(rows)):
        ids = list(dict.fromkeys(backtest.panel.ids[int(backtest.series[k])] for k in hit[:1000]))
        named = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
        count = f"{len(hit)} of {len(backtest.series)} windows (series {named})"
        warnings.warn(f"{count} {what}.", UserWarning, stacklevel=3)
