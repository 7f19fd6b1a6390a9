"""From a `Subject` to what the page shows: gradients, occlusion, gates, gradient flow, findings."""

from __future__ import annotations

import base64
import json
import math
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

import longshort
from longshort.inspection.subject import Attention, Bars, Series, Sound, Subject
from longshort.nn import LSTM
from longshort.probe import Finding, Recording, Trace, by_lag, diagnose, record, stuck, summary, time_constants

VALUES = 2_500_000  # gate values that a page holds, at two bytes each, at most
UNITS = 96  # units of a layer that a page holds
ASKED = 48  # questions
WINDOWS = 256  # places where the input is taken out
TOGETHER = 8  # rows that run side by side


@dataclass(frozen=True)
class Inspection:
    """What a look has found.

    title: what was looked at.
    findings: what a person should know, see `probe.diagnose`.
    recording: gates, cells and gradient flow of the main question, one sequence.
    strongest: what mattered most for the main question, in words; the strongest first.
    data: what the page shows, as JSON has it.
    """

    title: str
    findings: list[Finding]
    recording: Recording
    strongest: list[str]
    data: dict[str, Any]

    @cached_property
    def json(self) -> str:
        """`data` as text."""
        return json.dumps(self.data, allow_nan=False, separators=(",", ":"))

    def __str__(self) -> str:
        lines = [self.title, *(f"  {f.level:<8} {f}" for f in self.findings)]
        asked = self.data["questions"][self.data["main"]]["name"]
        return "\n".join([*lines, f"  mattered most for {asked}: {', '.join(self.strongest)}"])


def inspect(subject: Subject) -> Inspection:
    """Look into a network while it answers.

    For each question the norm of the gradient of its answer with respect to each step of the input, |d answer / d x_t|, and how
    much the answer changes without that step (occlusion); for each layer gates, cell and output of every step, and
    |d answer / d c_t| by lag (`probe.by_lag`), beside that of a plain RNN.

    Source:
        Simonyan, Vedaldi & Zisserman 2014, Deep Inside Convolutional Networks (gradient); Zeiler & Fergus 2014, Visualizing and
        Understanding Convolutional Networks (occlusion); Hochreiter 1991 and Pascanu et al. 2013 (gradient flow).
    """
    s, notes = subject, list(subject.notes)
    first = max(0, min(s.main, len(s.questions) - ASKED))
    asked = range(first, min(first + ASKED, len(s.questions)))
    if len(asked) < len(s.questions):
        notes.append(f"{len(asked)} of {len(s.questions)} answers are here: {s.questions[first].name} and those after it.")
    gradient, flows = gradients(s, asked)
    changed = s.changed
    if changed is None:
        changed = occlusion(s)
    changed = changed[asked.start : asked.stop]
    with listening(s.network) as heard, record(s.network) as main:
        x = s.x[None].clone().requires_grad_()
        torch.autograd.grad(s.score(x)[0, s.main], x)
    plain = {path: plain_rnn(v[0], m.hidden_size) for path, (m, v) in heard.items()}
    findings = [f for t in main for f in diagnose([t], s.context and min(s.context, len(t.mask)))]
    layers, more = _layers(s, main, flows, plain)
    lead = s.main - first
    data = {
        "title": s.title,
        "made": datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
        "versions": f"longshort {longshort.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "unit": s.unit,
        "labels": list(s.labels),
        "at": floats(s.at),
        "questions": [asdict(s.questions[k]) for k in asked],
        "main": lead,
        "gradient": floats(gradient),
        "changed": floats(changed),
        "taken": s.taken,
        "picture": _picture(s),
        "layers": layers,
        "findings": [{"layer": f.layer, "level": f.level, "said": f.said} for f in findings],
        "notes": notes + more,
    }
    return Inspection(s.title, findings, main, _strongest(s, changed[lead]), data)


def gradients(s: Subject, asked: Sequence[int]) -> tuple[NDArray, dict[str, list[NDArray]]]:
    """|d answer / d x_t| of some answers, [Q, T]; and |d answer / d c_t| by lag of each trace, [T] for each answer."""
    norms, flows = [], dict[str, list[NDArray]]()
    for k in range(0, len(asked), TOGETHER):
        rows = list(asked)[k : k + TOGETHER]
        x = s.x.expand(len(rows), *s.x.shape).clone().requires_grad_()
        with record(s.network, keep="c") as r:
            (grad,) = torch.autograd.grad(s.score(x)[torch.arange(len(rows)), rows].sum(), x)
        norms.append(grad.norm(dim=-1))
        for t in r:
            at = by_lag(t) if t.flows else torch.full((len(t.mask), len(rows)), torch.nan)  # not on the way from x
            flows.setdefault(t.name, []).extend(at.T.numpy())
    return torch.cat(norms).numpy(), flows


@torch.no_grad()
def occlusion(s: Subject) -> NDArray:
    """|answer(x without step t) - answer(x)|, [Q, T]; of long inputs a few steps at once."""
    T = len(s.x)
    width = -(-T // WINDOWS)
    starts, before, made = range(0, T, width), s.score(s.x[None])[0], []
    for k in range(0, len(starts), TOGETHER):
        some = list(starts)[k : k + TOGETHER]
        x = s.x.expand(len(some), *s.x.shape).clone()
        for row, t in zip(x, some, strict=True):
            row[t : t + width] = s.neutral if s.neutral.dim() == 1 else s.neutral[t : t + width]
        made.append((s.score(x) - before).abs())
    return torch.cat(made).T.repeat_interleave(width, 1)[:, :T].numpy()


@contextmanager
def listening(network: nn.Module) -> Iterator[dict[str, tuple[LSTM, Tensor]]]:
    """What the LSTMs of a network read, by path: [B, T, I]; one call after another, as `probe.record` joins them."""
    heard: dict[str, tuple[LSTM, Tensor]] = {}

    def hook(path: str, m: LSTM) -> Any:
        def hear(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = given[0] if given else named["input"]
            packed = isinstance(x, PackedSequence)
            x = (pad_packed_sequence(x, batch_first=True)[0] if packed else x).detach()
            x = x if packed or m.batch_first else x.transpose(0, 1)
            before = heard[path][1] if path in heard else x[:, :0]
            heard[path] = m, torch.cat([before, x], 1) if len(before) == len(x) else x

        return hear

    lstms = [(path, m) for path, m in network.named_modules() if isinstance(m, LSTM)]
    hooks = [m.register_forward_pre_hook(hook(path, m), with_kwargs=True) for path, m in lstms]
    try:
        yield heard
    finally:
        for one in hooks:
            one.remove()


@torch.no_grad()
def plain_rnn(x: Tensor, hidden: int) -> NDArray:
    """|dL/dh_t| by lag in h_t = tanh(W_ih x_t + b + W_hh h_{t-1}), L the sum of its last output: untrained, its weights as
    torch.nn.RNN draws them. [T]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rnn = nn.RNN(x.shape[1], hidden, batch_first=True)
    h = rnn(x.float().cpu()[None])[0][0]
    d, made = torch.ones(hidden), []
    for row in h.flip(0):
        made.append(float(d.norm()))
        d = (d * (1 - row.square())) @ rnn.weight_hh_l0
    return np.array(made)


def _layers(
    s: Subject, main: Recording, flows: dict[str, list[NDArray]], plain: dict[str, NDArray]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Each trace as JSON has it, and what was left out."""
    notes, chosen, values = [], {}, 0
    for t in main:
        order = _order(t)
        if len(order) > UNITS:
            notes.append(f"{t.name}: {UNITS} of {len(order)} units are drawn, evenly from slow to fast.")
            order = order[np.linspace(0, len(order) - 1, UNITS).round().astype(int)]
        chosen[t.name] = order
        values += len(t.mask) * len(order) * 6
    step = max(1, math.ceil(values / VALUES))
    if step > 1:
        notes.append(f"Of gates, cells and outputs one step in {step} is here; all curves hold every step.")
    made = []
    for t in main:
        path = t.name.rpartition(".")[0]
        said, order = summary(t), chosen[t.name]
        steps = np.arange(0, len(t.mask), step)
        gates = {k: packed(getattr(t, k)[:, 0].numpy()[steps][:, order if k != "h" or not t.cell.projection else slice(UNITS)])
                 for k in "ifgoch"}  # fmt: skip
        tau = time_constants(t).numpy()[order] if t.cell.forget else np.full(len(order), np.inf)
        made.append({
            "name": t.name,
            "cell": _cell(t),
            "exact": step == 1 and t.cell.clip is None and not t.cell.zoneout[1],
            "reverse": t.reverse,
            "dilation": t.dilation,
            "at": floats(s.place(t.name, len(t.mask))[steps]),
            "units": order.tolist(),
            "all": int(t.c.shape[-1]),
            "tau": floats(tau),
            "stuck": {k: int((v != 0).sum()) for k, v in stuck(t).items()},
            "gates": gates,
            "projected": t.cell.projection is not None,
            "flow": floats(np.stack(flows[t.name])),
            "plain": floats(plain[path]),
            "summary": {k: v if math.isfinite(v) else None for k, v in said.items()  # None: no end of steps
                        if not (k.startswith(("dh.", "dc.")) or math.isnan(v))},
        })  # fmt: skip
    return made, notes


def _order(t: Trace) -> NDArray:
    """Units from those that forget slowest to the fastest."""
    return np.argsort(-time_constants(t).numpy(), kind="stable")


def _cell(t: Trace) -> str:
    said = repr(t.cell).removeprefix("Cell")
    dilated = f", every {t.dilation} steps" if t.dilation > 1 else ""
    return f"{'backwards' if t.reverse else 'forwards'}{dilated}{'' if said == '()' else f', {said[1:-1]}'}"


def _picture(s: Subject) -> dict[str, Any]:
    p = s.picture
    if isinstance(p, Series):
        ahead = None if p.ahead is None else [floats(v) for v in p.ahead]
        return {"kind": "series", "y": floats(p.y), "ahead": ahead, "level": p.level}
    if isinstance(p, Sound):
        n = max(1, len(p.samples) // 1500)
        cut = p.samples[: len(p.samples) // n * n].reshape(-1, n)
        low, high = np.quantile(p.features, [0.05, 0.999])
        return {"kind": "sound", "low": floats(cut.min(1)), "high": floats(cut.max(1)), "step": n / p.rate,
                "spectrogram": packed(np.clip(p.features, low, high)), "hertz": floats(p.hertz),
                "words": list(p.words)}  # fmt: skip
    if isinstance(p, Attention):
        return {**_bars(p.bars), "kind": "attention", "weights": floats(p.weights), "first": p.first}
    return _bars(p)


def _bars(p: Bars) -> dict[str, Any]:
    return {"kind": "bars", "y": floats(p.y), "name": p.name}


def _strongest(s: Subject, changed: NDArray, n: int = 3) -> list[str]:
    """The steps of the input without which an answer changes most."""
    made: list[str] = []
    for t in np.argsort(-changed, kind="stable"):
        if not changed[t] > 0:  # what comes after the answer, for one
            break
        at = s.at[t]
        said = s.labels[round(float(at))] if s.labels else f"{at:.1f} s" if s.unit == "seconds" else f"step {at:g}"
        if said not in made:
            made.append(said)
        if len(made) == n:
            break
    return made


def floats(v: ArrayLike) -> dict[str, Any]:
    """float32 as the page reads it: its bytes, least significant first, in base64; what is not finite is NaN there."""
    a = np.ascontiguousarray(v, np.float32)
    return {"shape": a.shape, "f": base64.b64encode(a.astype("<f4").tobytes()).decode()}


def packed(v: NDArray) -> dict[str, Any]:
    """Values as whole numbers from 0 to 65534 between their least and largest, 65535 where one is not finite."""
    there = np.isfinite(v)
    low, high = (float(v[there].min()), float(v[there].max())) if there.any() else (0.0, 1.0)
    share = (np.where(there, v, low).astype(np.float64) - low) / ((high - low) or 1.0)
    whole = np.where(there, np.rint(share * 65534), 65535).astype("<u2")
    return {"shape": v.shape, "low": low, "high": high, "u": base64.b64encode(whole.tobytes()).decode()}
