"""The contestants: ours and the others, each built from the same weights and the same data."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import longshort
from benchmarks.cases import Case
from benchmarks.onnx_lstm import Bound, Run, session
from longshort import engine as engines
from longshort.cell import LN_EPS

STREAM_CHECK = 8  # steps that a stream is checked over, from a zero state


@dataclass(frozen=True)
class Contestant:
    """One way to compute a case.

    how: what ran, in words.
    call: one timed pass.
    results: the same pass once more from the start: outputs, states, and gradients as 'd_NAME'.
    """

    how: str
    call: Callable[[], object]
    results: Callable[[], dict[str, Tensor]]


class Data(NamedTuple):
    """What all contestants of a case share. Draws depend on the shape and the cell only.

    weights: parameters of one layer by torch's names with '_l0'; x: input, [T, B, I]; dy: gradient at y, [T, B, P];
    lengths: int64, [B], uniform in 1..T; resets: bool, [T, B].
    """

    weights: dict[str, Tensor]
    x: Tensor
    dy: Tensor
    lengths: Tensor
    resets: Tensor

    @staticmethod
    def of(case: Case) -> Data:
        """The data of a case."""
        B, T, I, H = case.shape
        T = STREAM_CHECK if case.mode == "stream" else T
        torch.manual_seed(zlib.crc32(f"{case.shape} {case.cell}".encode()))
        weights = longshort.LSTM(I, H, cell=case.cell).state_dict()
        for name, w in weights.items():
            if name.startswith("gain"):
                w.mul_(0.3).add_(torch.randn_like(w), alpha=0.05)  # at 1 fresh weights are chaotic, and errors a matter of luck
        return Data(
            weights,
            x=torch.randn(T, B, I),
            dy=torch.randn(T, B, case.cell.projection or H),
            lengths=torch.randint(1, T + 1, (B,)),
            resets=torch.rand(T, B) < 0.02,
        )

    def steps(self, case: Case) -> int:
        """Steps of all sequences that one call computes."""
        if case.extra in ("lengths", "packed"):
            return int(self.lengths.sum())
        return case.shape.B * case.shape.T


def build(rival: str, case: Case, data: Data) -> Contestant:
    """A contestant by name: 'ours', 'plain' (our plain cell on the engine that the variant takes), or one of RIVALS."""
    if rival == "plain":
        plain = replace(case, variant="plain")
        return ours(plain, Data.of(plain), taken(case, data))
    return ours(case, data) if rival == "ours" else RIVALS[rival](case, data)


def taken(case: Case, data: Data, engine: str = "auto") -> str:
    """The name of the engine that runs this case."""
    x = data.x.bfloat16() if case.bf16 else data.x
    masks = case.cell.draw(case.shape.T, case.shape.B, case.shape.H, like=x) if case.mode == "train" else None
    lengths = data.lengths if case.extra in ("lengths", "packed") else None
    resets = data.resets if case.extra == "resets" else None
    with torch.set_grad_enabled(case.mode == "train"):
        return engines.choose(case.cell, engines.Call(x, lengths, resets, masks, False, case.extra == "tape"), engine)


def ours(case: Case, data: Data, engine: str = "auto", dtype: torch.dtype = torch.float32) -> Contestant:
    """longshort.LSTM; in float64 on the reference engine it is what the others are checked against."""
    lstm = longshort.LSTM(case.shape.I, case.shape.H, cell=case.cell, engine=engine, dtype=dtype)
    lstm.load_state_dict(data.weights)
    how = f"engine {taken(case, data, engine)}"
    if case.mode == "stream" and engine == "auto":
        return _stream(lstm, data.x, f"{how}, stream().step(x)")
    return _module(lstm, case, data, f"{how}, one call per step" if case.mode == "stream" else how, dtype)


def torch_lstm(case: Case, data: Data) -> Contestant:
    """torch.nn.LSTM: padded, packed, or under autocast, as the case says."""
    lstm = nn.LSTM(case.shape.I, case.shape.H)
    lstm.load_state_dict(data.weights)
    said = {"packed": ", PackedSequence"}.get(case.extra, "") + (", autocast bf16" if case.bf16 else "")
    return _module(lstm, case, data, "torch.nn.LSTM" + said, torch.float32)


def _module(lstm: nn.Module, case: Case, data: Data, how: str, dtype: torch.dtype) -> Contestant:
    """A module with the face of torch.nn.LSTM."""
    if case.mode == "stream":
        return _step_by_step(lstm, data.x.to(dtype), how)
    x, dy, extra = data.x.to(dtype, copy=True), data.dy.to(dtype), {}
    if case.extra in ("lengths", "resets"):
        extra = {case.extra: getattr(data, case.extra)}
    elif case.extra == "tape":
        extra = {"tape": True}
    sizes: tuple[Any, ...] = ()
    if case.extra == "packed":
        (x, *sizes_), dy = pack_padded_sequence(x, data.lengths, enforce_sorted=False), _pack(dy, data.lengths)
        sizes = tuple(sizes_)

    def forward() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16 and dtype == torch.float32):
            y, (h, c), *tapes = lstm(PackedSequence(x, *sizes) if sizes else x, **extra)
        out = {"y": y.data if sizes else y, "h": h, "c": c}
        return out | {"gates": tapes[0][0].gates, "cells": tapes[0][0].cells} if tapes else out

    if case.mode == "train":
        lstm.train()
        return _trainer(how, forward, x, dict(lstm.named_parameters()), dy)
    lstm.eval()
    return Contestant(how, torch.inference_mode()(forward), torch.inference_mode()(forward))


def _pack(v: Tensor, lengths: Tensor) -> Tensor:
    return pack_padded_sequence(v, lengths, enforce_sorted=False).data


def _trainer(how: str, forward: Callable[[], dict[str, Tensor]], x: Tensor, params: dict[str, Tensor], dy: Tensor) -> Contestant:
    """Forward, then the gradients of x and of all parameters."""
    leaves = {"x": x.requires_grad_(), **params}

    def step() -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        out = forward()
        return out, torch.autograd.grad(out["y"], list(leaves.values()), dy.to(out["y"].dtype))

    def results() -> dict[str, Tensor]:
        torch.manual_seed(0)  # the masks of a variant that draws some
        out, grads = step()
        return {k: v.detach() for k, v in out.items()} | {f"d_{k}": g for k, g in zip(leaves, grads, strict=True)}

    return Contestant(how, step, results)


def _step_by_step(lstm: nn.Module, x: Tensor, how: str) -> Contestant:
    """A stream by calling the module once per step and handing its state back to it."""
    lstm.eval()
    xs = [v[None] for v in x]
    carried: list[Any] = []

    @torch.inference_mode()
    def call() -> None:
        carried[:] = lstm(xs[0], *carried)[1:]

    @torch.inference_mode()
    def results() -> dict[str, Tensor]:
        ys, state = [], None
        for v in xs:
            y, state = lstm(v, state)
            ys.append(y)
        assert state is not None
        return {"y": torch.cat(ys), "h": state[0], "c": state[1]}

    return Contestant(how, call, results)


def _stream(lstm: Any, x: Tensor, how: str) -> Contestant:
    """A stream by our own object, which holds the packed weights and the state."""
    lstm.eval()
    timed, x0 = lstm.stream(batch=x.shape[1]), x[0].contiguous()

    def results() -> dict[str, Tensor]:
        s = lstm.stream(batch=x.shape[1])
        return {"y": torch.stack([s.step(v).clone() for v in x])}

    return Contestant(how, lambda: timed.step(x0), results)


def eager_loop(case: Case, data: Data) -> Contestant:
    """Layer norm as a person writes it who knows PyTorch well: time-major, the input's product and norm before the loop."""
    x, params = data.x.clone(), {k: v.clone().requires_grad_() for k, v in data.weights.items()}

    def forward() -> dict[str, Tensor]:
        y, h, c = layer_norm_lstm(x, {k.removesuffix("_l0"): v for k, v in params.items()})
        return {"y": y, "h": h[None], "c": c[None]}

    return _trainer("PyTorch, time-major, unbind", forward, x, params, data.dy)


def layer_norm_lstm(x: Tensor, p: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cell(layer_norm=True) from a zero state: y [T, B, H], h and c [B, H] of the last step."""
    W, b, gain, gain_c, H = p["weight_hh"], p["bias_hh"], p["gain_hh"], p["gain_c"], p["weight_hh"].shape[1]
    h = c = x.new_zeros(x.shape[1], H)
    ys = []
    for ih in F.layer_norm(F.linear(x, p["weight_ih"], p["bias_ih"]), (4 * H,), p["gain_ih"], eps=LN_EPS).unbind():
        i, f, g, o = (ih + F.layer_norm(F.linear(h, W, b), (4 * H,), gain, eps=LN_EPS)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, (H,), gain_c, eps=LN_EPS))
        ys.append(h)
    return torch.stack(ys), h, c


def onnxruntime(case: Case, data: Data) -> Contestant:
    """ONNX Runtime with torch's number of threads, by plain run or by IO binding, whichever is faster here."""
    streaming, x = case.mode == "stream", data.x.numpy()
    ort, xs = session(data.weights), np.split(x, len(x)) if streaming else [x]
    way = min((kind(ort, xs[0], case.shape.H, streaming) for kind in (Run, Bound)), key=_seconds)

    def results() -> dict[str, Tensor]:
        way.start()
        outs = []
        for v in xs:
            way.feed(v)
            way()
            outs.append(way.read())
        return {"y": torch.from_numpy(np.concatenate([y for y, _, _ in outs])[:, 0]),
                "h": torch.from_numpy(outs[-1][1]), "c": torch.from_numpy(outs[-1][2])}  # fmt: skip

    return Contestant(f"ONNX Runtime, {way.how}", way, results)


def _seconds(call: Callable[[], object]) -> float:
    """The best of a few calls, for choosing only."""
    call()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


RIVALS = {"torch": torch_lstm, "onnxruntime": onnxruntime, "eager_loop": eager_loop}
