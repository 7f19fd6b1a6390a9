"""Looking into a forecaster: which past steps a forecast depends on."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.forecast.config import ends
from longshort.apps.forecast.data import Panel
from longshort.apps.forecast.deepar import DeepAR
from longshort.apps.forecast.forecaster import Forecaster
from longshort.apps.forecast.model import Inputs
from longshort.apps.forecast.recipe import CHUNK, Recipe, run
from longshort.inspection import Question, Series, Subject

ALL = "all steps"
NARROW = 128  # windows of a series that are taken out, at most


def subject(forecaster: Forecaster, panel: Panel, series: Any = None) -> Subject:
    """What a forecast of the end of one series depends on.

    The answers are the medians of the steps of the horizon, in scaled units (see `Window`), and their mean; of deepar, which
    draws its paths, only where the next step's distribution lies. The gradient is that by way of what the LSTM reads. Taken out
    is a value of the series itself, as if it had not been observed: so scaling and simple forecasts change as well.

    Args:
        forecaster: fitted; of an ensemble the first network is looked into.
        panel: the data.
        series: id; None takes the first one.

    Raises:
        ValueError: there is no such series, or it is too short.
    """
    ids = [str(v) for v in panel.ids.to_list()]
    if series is not None and str(series) not in ids:
        some = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        raise ValueError(f"there is no series {str(series)!r} in the data; it holds {some}.")
    s = 0 if series is None else ids.index(str(series))
    recipe, whole = cast(Recipe, forecaster.recipe), forecaster.model
    if whole is None:
        raise ValueError("this forecaster is not fitted. Call fit(df) first.")
    network, c = whole.members[0], recipe.config
    S, N, L, H = np.array([s]), panel.lengths[[s]], cast(int, c.context), c.horizon
    inputs, drawn = next(recipe.windows(panel, S, N))[0], isinstance(network, DeepAR)
    names = [_stamp(v) for v in panel.clock(S.repeat(L + H), N[0] - L + np.arange(L + H))]

    def score(x: Tensor) -> Tensor:
        rows = Inputs(x, *(v.expand(len(x), *v.shape[1:]) for v in inputs[1:]))
        if isinstance(network, DeepAR):
            y, _ = network.lstm(network.channels(rows, x[..., 0], x[..., 2])[:, : x.shape[1]])
            return network.outer(y[:, -1])[:, :1]
        made = network(*rows)[..., c.quantiles.index(0.5)]
        return torch.cat([made.mean(1, keepdim=True), made], 1)

    if drawn:
        questions = [Question(names[L], L, L)]
    else:
        questions = [Question(ALL, L, L + H - 1), *(Question(names[L + k], L + k, L + k) for k in range(H))]
    past = panel.window(S, N - L, L)
    made = recipe.forecast(whole, panel, S, N)[0]  # [H, Q]
    level, read = max(c.levels, default=80), inputs.past.shape[1]
    low, high = ends(level)
    edges = [c.quantiles.index(round(q, 6)) for q in (low, 0.5, high)]  # the deciles are among the quantiles too
    notes = [] if len(whole.members) == 1 else [f"This is the first of {len(whole.members)} networks; the forecast is by all."]
    if read < L:
        notes.append(f"The LSTM reads the last {read} of {L} steps; the simple forecasts that it mixes see them all.")
    if drawn:
        notes.append("This model draws its paths: it is asked where the distribution of the next step lies.")

    def place(trace: str, steps: int) -> NDArray:
        return (L if trace.startswith("decoder") else L - read) + np.arange(steps)

    return Subject(
        title=f"Forecast of {ids[s]}", network=network, x=inputs.past[0], score=score, questions=questions, main=0,
        at=L - read + np.arange(read), place=place, neutral=torch.zeros(inputs.past.shape[-1]), labels=names, context=read,
        picture=Series(past[0], made[:, edges].T, level),
        changed=_without(recipe, network, panel, s, past, drawn)[:, L - read :], taken="with that value missing", notes=notes,
    )  # fmt: skip


def _without(recipe: Recipe, network: torch.nn.Module, panel: Panel, s: int, past: NDArray, drawn: bool) -> NDArray:
    """How much the median of each step, and of all on average, changes if one past value is missing, in units of the data.
    [1 + H, L]; [1, L] of the next step alone."""
    L, middle, known = past.shape[1], recipe.config.quantiles.index(0.5), recipe.known(panel)
    width = -(-L // NARROW)
    starts = np.arange(0, L, width)
    rows = past.repeat(len(starts) + 1, 0)
    for k, t in enumerate(starts, 1):
        rows[k, t : t + width] = np.nan
    there = np.isfinite(rows).sum(1) >= min(np.isfinite(past).sum(), 2)
    rows[~there] = past
    made = []
    for k in range(0, len(rows), CHUNK):
        some = rows[k : k + CHUNK]
        S, N = np.full(len(some), s), np.full(len(some), panel.lengths[s])
        inputs, window = recipe.look(panel, some, S, N, known)
        made.append(recipe.values(window, run(network, inputs))[..., middle])
    y = np.concatenate(made)  # [1 + rows, H]
    change = np.abs(y[1:] - y[0]).repeat(width, 0)[:L].T  # [H, L]
    return change[:1] if drawn else np.concatenate([change.mean(0, keepdims=True), change])


def _stamp(v: Any) -> str:
    said = str(v)
    if "T" in said and said[10:].strip("T0:.") == "":
        return said[:10]
    return said.replace("T", " ").removesuffix(".000000").removesuffix(":00")
