"""The transducer (RNN-T) loss: the negative log-probability of a text, summed over all its alignments with the frames.

Axes: B sequences, T frames, U tokens, V units, J joint size. The lattice has a node (t, u) for every frame t and every count u of
tokens already said. From each the blank leads to (t + 1, u) and the next token to (t, u + 1); an alignment runs from (0, 0) over
the last node (frames - 1, length) and its blank to the end.

    alpha(t, u) = logaddexp(alpha(t - 1, u) + blank(t - 1, u), alpha(t, u - 1) + label(t, u - 1))
    beta(t, u)  = logaddexp(beta(t + 1, u) + blank(t, u), beta(t, u + 1) + label(t, u))

All nodes of an anti-diagonal t + u are known at once, so forward and backward take T + U vector operations, side by side, in
float64. The gradient is closed: with the probability n(t, u) that an alignment leaves (t, u) by the blank or the label,

    d loss / d logits(t, u, k) = (n_blank + n_label) softmax_k - [k = blank] n_blank - [k = label] n_label
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = {"cpu": 3 << 19}  # bytes of a tile: what stays in the cache of a core or two
TILE_ELSEWHERE = 1 << 28
SAFE = 40.0  # exp(2 SAFE) and its inverse are normal numbers in float32
INF = float("inf")


def transducer_loss(
    logits: Float[Tensor, "B T U1 V"], targets: Int[Tensor, "B U"], frames: Int[Tensor, "B"], lengths: Int[Tensor, "B"],
    blank: int = 0, fastemit: float = 0.0,
) -> Float[Tensor, "B"]:  # fmt: skip
    """Negative log-likelihood of each text given the joiner's outputs.

    What lies beyond `frames` and `lengths` is never read and gets a gradient of exactly zero.

    Args:
        logits: unnormalised scores at frame t after u tokens, float32 or float64, [B, T, U + 1, V]. Half types are computed in
            float32.
        targets: token ids, not the blank, int64, [B, U].
        frames: frames per sequence, 1 to T, [B].
        lengths: tokens per sequence, 0 to U, [B].
        blank: id of the blank.
        fastemit: lambda of FastEmit: the gradient through labels is 1 + lambda times as large, which makes a streaming model emit
            early. The value of the loss stays the same.

    Returns:
        Losses in nats, float32 (float64 where logits are), [B].

    Raises:
        TypeError, ValueError: wrong kinds, shapes, lengths or targets; no frames.

    Source: Graves 2012, Sequence transduction with recurrent neural networks, sections 2.4 and 2.5; Yu et al. 2021, FastEmit.
    """
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating point [B, T, U + 1, V], got {_is(logits)}.")
    B, T, W, V = logits.shape
    job = _check((B, T, W, V), logits.device, targets, frames, lengths, blank, fastemit)
    with torch.autocast(logits.device.type, enabled=False):
        return _Dense.apply(logits, job, _wanted(logits))


def joint_loss(
    encoded: Float[Tensor, "B T J"], predicted: Float[Tensor, "B U1 J"], weight: Float[Tensor, "V J"], bias: Float[Tensor, "V"],
    targets: Int[Tensor, "B U"], frames: Int[Tensor, "B"], lengths: Int[Tensor, "B"], blank: int = 0, fastemit: float = 0.0,
) -> Float[Tensor, "B"]:  # fmt: skip
    """`transducer_loss` of the joiner logits = weight tanh(encoded_t + predicted_u) + bias, which never exist as a whole.

    Tiles of some frames of one sequence are computed in turn, and once more in the backward pass, where nodes that no alignment
    is likely to visit (with a probability of less than a thousandth of the rounding error) are left out: of a trained model
    that is most of them. Padding is skipped.

    Memory: 8 B T (U + 1) bytes are kept for the backward pass, half the size of two logits per node. While the lattice is
    summed, about 130 B (T + U) (U + 1) bytes more, and a tile of 1.5 MiB (256 MiB on a GPU), or of one frame, 4 (U + 1) (J + 2 V)
    bytes, if that is larger. The plain way holds at least 4 B T (U + 1) (2 J + 2 V) bytes.

    Args:
        encoded: the encoder's output, projected to the joint size, [B, T, J].
        predicted: the predictor's output after 0 to U tokens, projected likewise, [B, U + 1, J].
        weight: of the joiner's output layer, [V, J].
        bias: likewise, [V].
        targets, frames, lengths, blank, fastemit: as for `transducer_loss`.

    Returns:
        Losses in nats, float32 (float64 where encoded is), [B].

    Raises:
        TypeError, ValueError: wrong kinds, shapes, lengths or targets; no frames.
    """
    named = {"encoded": encoded, "predicted": predicted, "weight": weight, "bias": bias}
    for (name, x), ndim, shape in zip(named.items(), (3, 3, 2, 1), ("B, T, J", "B, U + 1, J", "V, J", "V"), strict=True):
        if x.ndim != ndim or not x.is_floating_point():
            raise ValueError(f"{name} must be floating point [{shape}], got {_is(x)}.")
    (B, T, J), (V, _), W = encoded.shape, weight.shape, predicted.shape[1]
    if predicted.shape != (B, W, J) or weight.shape != (V, J) or bias.shape != (V,):
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in named.items())
        raise ValueError(f"the joiner needs encoded [B, T, J], predicted [B, U + 1, J], weight [V, J], bias [V], got {shapes}.")
    job = _check((B, T, W, V), encoded.device, targets, frames, lengths, blank, fastemit)
    with torch.autocast(encoded.device.type, enabled=False):
        return _Joint.apply(encoded, predicted, weight, bias, job, _wanted(*named.values()))


@dataclass(frozen=True)
class _Job:
    """What stays the same between forward and backward: sizes, and the text of each sequence as int64 [length] on the device."""

    T: int
    W: int  # U + 1
    V: int
    frames: list[int]
    texts: list[Tensor]
    blank: int
    fastemit: float

    def tiles(self, row: int, device: torch.device) -> Iterator[tuple[int, slice]]:
        """Sequence and frames, so that a tile of nodes with `row` bytes each stays within the bound."""
        for b, text in enumerate(self.texts):
            step = max(1, TILE.get(device.type, TILE_ELSEWHERE) // (row * (len(text) + 1)))
            for t in range(0, self.frames[b], step):
                yield b, slice(t, min(t + step, self.frames[b]))


class _Odds(NamedTuple):
    """How likely an alignment leaves a node by its blank and by its label, [B, T, U + 1] each."""

    blank: Tensor
    label: Tensor


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: _Job, wanted: bool) -> Tensor:
        tiles = job.tiles(8 * job.V, logits.device)
        nll, odds = _sum(job, ((b, t, logits[b, t, : len(job.texts[b]) + 1]) for b, t in tiles), logits, wanted)
        ctx.job = job
        ctx.save_for_backward(logits, *odds or ())
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnll: Tensor) -> tuple[Tensor, None, None]:
        (logits, *odds), job = ctx.saved_tensors, ctx.job
        made, slope = torch.zeros_like(logits), _Odds(*(v * dnll[:, None, None] for v in odds))
        for b, t in job.tiles(8 * job.V, logits.device):
            u = slice(len(job.texts[b]) + 1)
            made[b, t, u] = _slope(job, slope, logits[b, t, u], b, t, u)
        return made, None, None


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encoded: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor, job: _Job, wanted: bool) -> Tensor:
        joiner = _Joiner(encoded, predicted, weight, bias, job)
        tiles = ((b, t, joiner(b, t, slice(len(job.texts[b]) + 1))[1]) for b, t in job.tiles(joiner.row, encoded.device))
        nll, odds = _sum(job, tiles, encoded, wanted)
        ctx.job = job
        ctx.save_for_backward(encoded, predicted, weight, bias, *odds or ())
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dnll: Tensor) -> tuple[Tensor | None, ...]:
        (encoded, predicted, weight, bias, *kept), job = ctx.saved_tensors, ctx.job
        joiner, odds = _Joiner(encoded, predicted, weight, bias, job), _Odds(*kept)
        with torch.autocast(encoded.device.type, enabled=False):
            made = joiner.backward(odds, dnll)
        return (*(g.to(x.dtype) for g, x in zip(made, (encoded, predicted, weight, bias), strict=True)), None, None)


class _Joiner:
    """Logits of tiles. With s = sigmoid(2 x), tanh(x) = 2 s - 1, so that logits = 2 W s + (bias - sum of each row of W).

    And sigmoid(2 (e + p)) = 1 / (1 + exp(-2 e) exp(-2 p)): a node costs a product and a reciprocal instead of a tanh.
    """

    def __init__(self, encoded: Tensor, predicted: Tensor, weight: Tensor, bias: Tensor, job: _Job) -> None:
        kind = _kind(encoded)
        self.e, self.p, self.job = encoded, predicted, job
        self.W = 2 * weight.to(kind)
        self.bias = bias.to(kind) - weight.to(kind).sum(1)
        self.row = 4 * (weight.shape[1] + 2 * weight.shape[0])
        self.one = self.W.new_ones(())
        self.b = -1

    def _open(self, b: int) -> None:
        """Make sequence b the current one: exponentials if they are safe, the numbers themselves if not."""
        e, p = (2 * v.to(self.W.dtype) for v in (self.e[b, : self.job.frames[b]], self.p[b, : len(self.job.texts[b]) + 1]))
        self.b, self.factors = b, not e.is_cuda and bool(e.abs().max() < SAFE) and bool(p.abs().max() < SAFE)
        self.x, self.y = ((-e).exp(), (-p).exp()) if self.factors else (e, p)

    def __call__(self, b: int, t: slice, u: slice) -> tuple[Tensor, Tensor]:
        """s [t, u, J] and logits [t, u, V] of a tile."""
        if b != self.b:
            self._open(b)
        x, y = self.x[t, None], self.y[None, u]
        s = torch.addcmul(self.one, x, y).reciprocal_() if self.factors else (x + y).sigmoid_()
        return s, F.linear(s, self.W, self.bias)

    def backward(self, odds: _Odds, dnll: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of encoded, predicted, weight and bias."""
        de, dp = (v.new_zeros(v.shape, dtype=self.W.dtype) for v in (self.e, self.p))
        dW, db = torch.zeros_like(self.W), torch.zeros_like(self.bias)
        first, last = _visited(odds)
        slope = _Odds(*(v * dnll[:, None, None] for v in odds))
        for b, t in self.job.tiles(self.row, self.e.device):
            u = slice(min(first[b][t]), min(max(last[b][t]), len(self.job.texts[b])) + 1)
            s, z = self(b, t, u)
            dz = _slope(self.job, slope, z, b, t, u).flatten(0, 1)  # [t * u, V]
            ds = (dz @ self.W).view_as(s)
            da = torch.ops.aten.sigmoid_backward.grad_input(ds, s, grad_input=ds)
            de[b, t] = da.sum(1)
            dp[b, u] += da.sum(0)
            dW.addmm_(dz.t(), s.sub_(0.5).flatten(0, 1))  # tanh / 2: nothing to cancel
            db += dz.sum(0)
        return 2 * de, 2 * dp, 2 * dW, db


def _visited(odds: _Odds) -> tuple[list[list[int]], list[list[int]]]:
    """The first and the last u that an alignment is likely to visit, for each sequence and frame."""
    kept = ~(odds.blank + odds.label < torch.finfo(odds.blank.dtype).eps / 1000)  # a NaN is kept, so that it shows
    first, after = (k.byte().argmax(-1) for k in (kept, kept.flip(-1)))
    return first.tolist(), (kept.shape[-1] - 1 - after).tolist()


def _slope(job: _Job, odds: _Odds, z: Tensor, b: int, t: slice, u: slice) -> Tensor:
    """The loss differentiated by the logits z of a tile."""
    at_blank, at_label = odds.blank[b, t, u], odds.label[b, t, u]
    dz = z.softmax(-1, dtype=at_blank.dtype).mul_((at_blank + at_label)[..., None])
    dz[..., job.blank] -= at_blank
    text = job.texts[b][u]
    dz[:, : len(text)].scatter_add_(2, text[None, :, None].expand(len(dz), -1, 1), -at_label[:, : len(text), None])
    return dz


def _sum(job: _Job, tiles: Iterator[tuple[int, slice, Tensor]], like: Tensor, wanted: bool) -> tuple[Tensor, _Odds | None]:
    """Losses [B], and if wanted the odds, from the logits of tiles.

    Rows of padding lead on at no cost: along the blank from the end of each sequence to row T, and there along labels to U. So
    all sequences end in one node, and none needs a case of its own.
    """
    B, kind = len(job.frames), _kind(like)
    blank, label = like.new_full((2, B, job.T + 1, job.W), -INF, dtype=kind).unbind(0)
    for b, t, z in tiles:
        text = job.texts[b]
        logp = z.log_softmax(-1, dtype=kind)
        blank[b, t, : len(text) + 1] = logp[..., job.blank]
        label[b, t, : len(text)] = logp[:, :-1].gather(2, text[None, :, None].expand(len(logp), -1, 1))[..., 0]
    for b, text in enumerate(job.texts):
        blank[b, job.frames[b] :, len(text)] = 0
        label[b, job.T, len(text) :] = 0
    return _lattice(blank, label, job.fastemit, wanted)


def _lattice(blank: Tensor, label: Tensor, fastemit: float, wanted: bool) -> tuple[Tensor, _Odds | None]:
    """Sum over all paths from the first node of a lattice [B, T + 1, U + 1] of log-probabilities to the last."""
    B, R, W = blank.shape
    stay, go = _skew(blank), _skew(label)  # [D, B, W]: from diagonal d on, by the blank and by the label
    D, N = len(stay), 2 * B if wanted else B
    step = stay.new_empty(D - 1, 2, N, W)  # into diagonal d + 1
    step[:, 0, :B], step[:, 1, :B] = go[:-1].roll(1, -1), stay[:-1]
    if wanted:  # beta beside alpha: from the other end, into diagonal D - 2 - d
        step[:, 0, B:], step[:, 1, B:] = go.flip(0, 2)[1:], stay.flip(0, 2)[1:]
    s = step.new_full((D, N, W + 1), -INF)  # the first column is the wall at u = -1
    s[0, :, 1] = 0
    came = s.as_strided((D, 2, N, W), (s.stride(0), 1, W + 1, 1)).unbind(0)  # at u - 1 and at u
    x = torch.empty_like(step[0])
    for before, w, out in zip(came, step.unbind(0), s[1:, :, 1:].unbind(0), strict=False):
        torch.add(before, w, out=x)
        torch.logaddexp(x[0], x[1], out=out)
    total = s[-1, :B, -1]
    nll = -total.to(blank.dtype)
    if not wanted:
        return nll, None
    del step, x
    alpha = s[:-1, :B, 1:] - total.clamp(min=torch.finfo(s.dtype).min)[:, None]
    beta = s.flip(0, 2)[1:, B:]  # [D - 1, B, W + 1]: of the next diagonal, the wall at u = U + 1
    at_blank = (alpha + stay[:-1]).add_(beta[..., :-1]).exp_()
    at_label = alpha.add_(go[:-1]).add_(beta[..., 1:]).exp_().mul_(1 + fastemit)
    return nll, _Odds(*(_unskew(v, R - 1).to(blank.dtype) for v in (at_blank, at_label)))


def _skew(x: Tensor) -> Tensor:
    """[B, R, W] to diagonals in float64, [R + W - 1, B, W]: at d, u stands x at d - u, u; -inf where there is none."""
    B, R, W = x.shape
    flat = F.pad(x.transpose(1, 2).double(), (0, W), value=-INF).flatten(1)  # [B, W * (R + W)]
    return flat[:, : W * (R + W - 1)].view(B, W, R + W - 1).permute(2, 0, 1).contiguous()


def _unskew(x: Tensor, rows: int) -> Tensor:
    """The first rows of what diagonals [D, B, W] stood for, [B, rows, W]."""
    D, B, W = x.shape
    flat = F.pad(x.permute(1, 2, 0).reshape(B, -1), (0, W))
    return flat.view(B, W, D + 1)[..., :rows].transpose(1, 2).contiguous()


def _kind(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wanted(*xs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in xs)


def _is(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _check(
    sizes: tuple[int, int, int, int], device: torch.device,
    targets: Tensor, frames: Tensor, lengths: Tensor, blank: int, fastemit: float,
) -> _Job:  # fmt: skip
    B, T, W, V = sizes
    for name, x, shape in (("targets", targets, [B, W - 1]), ("frames", frames, [B]), ("lengths", lengths, [B])):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"{name} must be whole numbers, got {_is(x)}.")
        if list(x.shape) != shape:
            raise ValueError(f"{name} must be {shape}, which the other arguments ask for, got {list(x.shape)}.")
    if not 0 <= blank < V:
        raise ValueError(f"blank must be one of the {V} units, 0 to {V - 1}, got {blank}.")
    if not 0 <= fastemit < INF:
        raise ValueError(f"fastemit must be finite and not negative, got {fastemit}.")
    ends, said = frames.tolist(), lengths.tolist()
    for b, (n, size) in enumerate(zip(ends, said, strict=True)):
        if not 1 <= n <= T:
            remedy = "Leave out what is too short for a frame." if n < 1 else "Are these frames before subsampling?"
            raise ValueError(f"frames must be 1 to T = {T}, got {n} for sequence {b}. {remedy}")
        if not 0 <= size < W:
            raise ValueError(f"lengths must be 0 to U = {W - 1}, got {size} for sequence {b}.")
    meant = torch.arange(W - 1, device=targets.device) < lengths.to(targets.device)[:, None]
    bad = torch.nonzero(meant & ((targets < 0) | (targets >= V) | (targets == blank)))
    if len(bad):
        b, u = bad[0].tolist()
        raise ValueError(
            f"targets must be units 0 to {V - 1}, but not the blank {blank}; got {int(targets[b, u])} at position {u} of "
            f"sequence {b}. Were the texts encoded with the units of this model?"
        )
    return _Job(T, W, V, ends, [v[:n].to(device, torch.int64) for v, n in zip(targets, said, strict=True)], blank, fastemit)
