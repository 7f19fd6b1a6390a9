"""Measures of a `Trace`: how far back it remembers, how its gates and units behave, how far the gradient flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from longshort.probe.record import Trace

LOW, HIGH = 0.1, 0.9


def time_constants(trace: Trace) -> Tensor:
    """How many steps each unit remembers: after tau steps a fraction 1/e of its cell is left, by the forget gate alone.

    tau = -d / mean(ln r), with r = f, or r = p + (1 - p) f under zoneout of c with probability p, the mean over all steps and
    sequences, and d the dilation. The mean of the logarithm is what counts: the product of f over n steps is exp(n mean(ln f)).
    For a distribution over units take `.quantile(q, interpolation="lower")`: one may be infinite.

    Returns:
        Steps of the input, [K] float32; infinite beyond what the gates' dtype can tell, which is `longest_told(trace)`.

    Source:
        Tallec & Ollivier 2018, Can Recurrent Neural Networks Warp Time?, section 2 (there 1 / (1 - f), which is its limit for f
        near 1).
    """
    p = trace.cell.zoneout[1]
    kept = p + (1 - p) * trace.f[trace.mask]
    tau = trace.dilation / kept.log().mean(0).abs()
    return torch.where(tau > longest_told(trace), torch.inf, tau)


def longest_told(trace: Trace) -> float:
    """The longest time constant that a forget gate of its dtype can tell, in steps: 128 in bfloat16, 8 million in float32. Above
    it the next number below 1 is too far away."""
    return trace.dilation / torch.finfo(trace.dtype).eps


class Saturation(NamedTuple):
    """How often a gate is nearly shut or nearly open: shares in [0, 1], per unit, [K] float32.

    low: share of steps below 0.1.
    high: share of steps above 0.9.
    """

    low: Tensor
    high: Tensor


def saturation(trace: Trace) -> dict[str, Saturation]:
    """For each sigmoid gate that was kept (of i, f, o) the share of steps and sequences in which it is below 0.1 and above 0.9.

    Source:
        Karpathy, Johnson & Fei-Fei 2015, Visualizing and Understanding Recurrent Networks, section 4.2.
    """
    kept = {k: getattr(trace, k)[trace.mask] for k in "ifo" if k in trace.cell.gates and k in trace.wish.keep}
    return {k: Saturation((v < LOW).float().mean(0), (v > HIGH).float().mean(0)) for k, v in kept.items()}


def stuck(trace: Trace, share: float = 0.99) -> dict[str, Tensor]:
    """Gates that stand still: 1 where a unit's gate is stuck open (above 0.9 in at least `share` of the steps), -1 where it is
    stuck shut (below 0.1), else 0.

    Returns:
        For each gate that was kept (of i, f, o): int8, [K].

    Source:
        The extremes of Karpathy et al. 2015, section 4.2.
    """
    return {k: (s.high >= share).to(torch.int8) - (s.low >= share).to(torch.int8) for k, s in saturation(trace).items()}


def dead(trace: Trace, tolerance: float = 1e-3) -> Tensor:
    """Units that never move: max - min of the cell, or of the output where there is no projection, over all steps and sequences
    is at most `tolerance`. What was not kept of the two is not asked; a single value counts as moving.

    Returns:
        bool, [K].

    Raises:
        ValueError: neither the cell nor the output was kept.
    """
    letters = [k for k in ("c", "" if trace.cell.projection else "h") if k and k in trace.wish.keep] or ["c"]
    moved = []
    for v in (getattr(trace, k)[trace.mask] for k in letters):
        moved.append(v.amax(0) - v.amin(0) > tolerance if len(v) > 1 else torch.ones(v.shape[-1]) > 0)
    return ~torch.stack(moved).all(0)


def by_lag(trace: Trace, of: Literal["dh", "dc"] = "dc") -> Tensor:
    """The gradient's norm by lag: row k is k steps before the last step that any gradient reaches, which is where the last loss
    is.

    'Last' and 'before' are in the order of processing: a reverse layer's last step is the first one of the input.

    Returns:
        |dLoss/dc_t| or |dLoss/dh_t|, [T, B] float32; NaN before the beginning of a sequence, which is where a
        call without a state from before began, or with a detached one, or where it was reset; and where no gradient came at all.

    Raises:
        ValueError: there was no backward pass, or the recording has gaps (steps=...).
    """
    norm, mask, steps, runs = getattr(trace, of), trace.mask, trace.steps, trace.runs
    if len(steps) > 1 and not bool((steps.diff() == 1).all()):
        raise ValueError(f"{trace.name}: lags need steps that follow each other, and steps={trace.wish.steps} left some out.")
    if trace.reverse:
        norm, mask, runs = norm.flip(0), mask.flip(0), runs.flip(0)
    T = len(norm)
    t = torch.arange(T, device="cpu")[:, None]
    end = torch.where(mask & (norm != 0), t, -1).amax(0) if T else norm.new_zeros(norm.shape[1]).long() - 1
    at = end - t  # [T, B]
    there = (at >= 0) & mask.gather(0, at.clamp(min=0))
    if T:
        there &= runs.gather(0, at.clamp(min=0)) == runs.gather(0, end[None].clamp(min=0))
    return torch.where(there, norm.gather(0, at.clamp(min=0)), torch.nan)


def horizon(trace: Trace, fraction: float = 0.01, of: Literal["dh", "dc"] = "dc") -> Tensor:
    """The lag from which on the gradient's norm stays at or below a fraction of its largest: how far back the loss teaches.

    The lag is counted from where the last loss is (`by_lag`). With a loss at every step each step has a gradient of its own, so
    that the norm never falls: ask about one output, as in `at_step(y).backward()`.

    Returns:
        Steps, [B] float32: infinite where the norm was still above at the first step (one of the first d under a dilation of d,
        which visits but one of them), NaN where no gradient came.

    Source:
        Hochreiter 1991, Untersuchungen zu dynamischen neuronalen Netzen; Pascanu, Mikolov & Bengio 2013, On the Difficulty of
        Training Recurrent Neural Networks, section 2.1: the norm of dLoss/dh_t as a function of the lag.
    """
    norm = by_lag(trace, of)
    if not len(norm):
        return norm.new_full(norm.shape[1:], torch.nan)
    known = ~norm.isnan()
    return _last_above(torch.where(known, norm, -1.0), fraction, known.sum(0) - (trace.dilation - 1))


def _last_above(v: Tensor, fraction: float, known: Tensor) -> Tensor:
    """For v [L, B] one more than the last row above `fraction` of the largest; infinite if that is the last of `known`."""
    largest = v.amax(0)
    rows = torch.arange(len(v), device=v.device)[:, None]
    after = torch.where(v > fraction * largest, rows, -1).amax(0) + 1
    found = torch.where(after >= known, torch.inf, after.float())
    return torch.where(largest > 0, found, torch.nan)


def at_step(
    output: Tensor, step: int = -1, *, lengths: Tensor | Sequence[int] | None = None, batch_first: bool = False
) -> Tensor:
    """The sum of one step's outputs, as a loss whose gradient shows what that step depends on.

    Args:
        output: [T, B, *], or [B, T, *] if batch_first.
        step: which one; negative ones count from the end of each sequence.
        lengths: steps per sequence, [B]; None means T.
        batch_first: how output is laid out.

    Returns:
        A scalar: call its `backward()`.
    """
    y = output.transpose(0, 1) if batch_first else output
    T, B = y.shape[:2]
    ends = torch.full((B,), T, device=y.device) if lengths is None else torch.as_tensor(lengths, device=y.device)
    at = ends + step if step < 0 else torch.full_like(ends, step)
    inside = (at >= 0) & (at < ends)
    return y[at[inside], torch.arange(B, device=y.device)[inside]].sum()


class Occlusion(NamedTuple):
    """What replacing the input of one step does to an output.

    lags: which lags were tried, counted back from the last step of the input, rising, int64, [L].
    change: Euclidean norm of the change of the output, [L, B] float32.
    horizon: the first lag that was tried from which on the change stays at or below the tolerance times its largest, [B]
        float32: infinite where it was still above at the largest lag, NaN where nothing changed at all.
    """

    lags: Tensor
    change: Tensor
    horizon: Tensor


@torch.no_grad()
def occlusion(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    neutral: Tensor | None = None,
    lags: Sequence[int] | None = None,
    tolerance: float = 0.01,
    batch_first: bool = False,
) -> Occlusion:
    """The causal horizon: replace the input at one lag and see whether the output still notices.

    change_k = |fn(x with x_{T-1-k} replaced) - fn(x)|, per sequence. It needs one run of fn per lag.

    Args:
        fn: from an input like x to the output in question, [B, *]: `lambda x: model(x)[0][-1]`. In evaluation mode: it must
            repeat itself.
        x: input, [T, B, I], or [B, T, I] if batch_first.
        neutral: what takes the place of a step: [I], [B, I] or, for another draw, shaped as x. None is the mean over all of x.
        lags: which ones; None is all of them up to 128 steps, and of more steps about 96 whose distance grows with the lag.
        tolerance: the share of the largest change that no longer counts.
        batch_first: how x is laid out.

    Raises:
        ValueError: a lag is out of range, or fn does not repeat itself.

    Source:
        Zeiler & Fergus 2014, Visualizing and Understanding Convolutional Networks, section 2.1 (occlusion); Khandelwal et al.
        2018, Sharp Nearby, Fuzzy Far Away, section 3.
    """
    axis = 1 if batch_first else 0
    T = x.shape[axis]
    if lags is not None:
        tried = torch.as_tensor(lags)
    elif T <= 128:
        tried = torch.arange(T)
    else:
        tried = torch.cat([torch.arange(32), torch.logspace(5, math.log2(T - 1), 64, base=2)]).round()
    at = tried.long().unique()
    if not len(at) or int(at.min()) < 0 or int(at.max()) >= T:
        raise ValueError(f"lags must lie in 0..T-1 = 0..{T - 1}, got {at.tolist()}.")
    fill = x.mean((0, 1)) if neutral is None else neutral
    before = fn(x)
    if not torch.equal(before, fn(x)):
        raise ValueError("fn must give the same output for the same input. Put the model into evaluation mode: model.eval().")
    change = []
    for k in at.tolist():
        other, t = x.clone(), T - 1 - k
        other.select(axis, t).copy_(fill.select(axis, t) if fill.shape == x.shape else fill)
        change.append((fn(other) - before).flatten(1).float().norm(dim=-1).cpu())
    moved = torch.stack(change)
    row = _last_above(moved, tolerance, torch.full((moved.shape[1],), len(at)))
    known = torch.where(row.isfinite(), row, 0).long()
    return Occlusion(at, moved, torch.where(row.isfinite(), at[known].float(), row))


def summary(trace: Trace) -> dict[str, float]:
    """One trace in numbers, by name: as the training log and `compare` have them. What was not kept is left out.

    K.mean, K.low, K.high, K.stuck of the gates i, f, o: mean, shares below 0.1 and above 0.9, share of stuck units. c.rms and
    h.rms: root of the mean square. dead: share of dead units. time_constant and time_constant.90: median over units, and what
    one in ten exceeds, in steps. horizon: median over sequences, in steps. dc.lag0, dc.lag1, dc.lag2, dc.lag4, ...: median over
    sequences of |dLoss/dc_t| at that lag (`by_lag`), and dh.lag0 ... likewise.
    """
    keep, mask = trace.wish.keep, trace.mask
    said: dict[str, float] = {}
    if not bool(mask.any()):
        return said
    stands = stuck(trace)
    for k, s in saturation(trace).items():
        mean, still = getattr(trace, k)[mask].mean(), (stands[k] != 0).float()
        numbers = {"mean": mean, "low": s.low.mean(), "high": s.high.mean(), "stuck": still.mean()}
        said |= {f"{k}.{name}": float(v) for name, v in numbers.items()}
    for k in "ch":
        if k in keep:
            said[f"{k}.rms"] = float(getattr(trace, k)[mask].square().mean().sqrt())
    if set("ch") & set(keep) - ({"h"} if trace.cell.projection else set()):
        said["dead"] = float(dead(trace).float().mean())
    if "f" in keep and trace.cell.forget:
        tau = time_constants(trace).double()
        for key, q in (("time_constant", 0.5), ("time_constant.90", 0.9)):
            said[key] = float(tau.quantile(q, interpolation="lower"))
    if trace.flows and trace.wish.steps is None:
        said["horizon"] = float(horizon(trace).nanquantile(0.5, interpolation="lower"))
        for of in ("dh", "dc"):
            norms = by_lag(trace, of).nanmedian(-1).values
            said |= {f"{of}.lag{k}": float(norms[k]) for k in _doubling(len(norms)) if not norms[k].isnan()}
    return said


def _doubling(n: int) -> list[int]:
    return [k for k in (0, *(2**j for j in range(n.bit_length()))) if k < n]
