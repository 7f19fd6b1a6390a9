"""The output layer and its loss in one: cross-entropy with label smoothing, without holding the logits of a batch in float32.

For one position with logits a = W y + b, truth k and smoothing e:

    loss = (1 - e) (lse(a) - a_k) + e (lse(a) - mean(a)),    d loss / d a = softmax(a) - (1 - e) onehot(k) - e / V

Szegedy et al. 2016, Rethinking the Inception architecture. Two passes with other dropout, whose probabilities are p and q, are
held together by what they differ by, with weight r (R-Drop, Wu et al. 2021, Regularized dropout for neural networks):

    loss = (loss_p + loss_q) / 2 + r / 2 (KL(p || q) + KL(q || p)) / 2
    d / d a_p of the last term = r / 4 (p (d - sum(p d)) + p - q),    d = log p - log q

Gradients are made on the way, while the logits of a few rows lie in the caches, and kept in the type of the products, [N, V];
backward multiplies them with y and W.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 128  # positions at a time


def _single(a: Tensor, k: Tensor, e: float) -> tuple[Tensor, list[Tensor]]:
    """The loss of some rows [N, V], and its gradient."""
    p = torch.softmax(a, -1)
    lse = a.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()  # the largest logit has the largest probability
    total = (lse - (1 - e) * a.gather(1, k) - e * a.mean(-1, keepdim=True)).sum(dtype=torch.float64)
    return total, [_less_truth(p, k, e)]


def _double(a: Tensor, b: Tensor, k: Tensor, e: float, r: float) -> tuple[Tensor, list[Tensor]]:
    """As `_single`, of two passes."""
    logs = [torch.log_softmax(v, -1) for v in (a, b)]
    said = sum((-(1 - e) * v.gather(1, k) - e * v.mean(-1, keepdim=True)).sum(dtype=torch.float64) for v in logs)
    (p, q), d, apart = [v.exp() for v in logs], logs[0].sub_(logs[1]), logs[1]
    mean_p, mean_q = ((v * d).sum(-1, keepdim=True) for v in (p, q))  # the two divergences are the first and minus the second
    torch.sub(p, q, out=apart)
    grads = [(d - mean_p).mul_(p).add_(apart), d.sub_(mean_q).neg_().mul_(q).sub_(apart)]
    for v, grad in zip((p, q), grads, strict=True):
        grad.mul_(r / 4).add_(_less_truth(v, k, e), alpha=0.5)
    return said / 2 + r / 4 * (mean_p - mean_q).sum(dtype=torch.float64), grads


def _less_truth(p: Tensor, k: Tensor, e: float) -> Tensor:
    """p - (1 - e) onehot(k) - e / V, in place."""
    p -= e / p.shape[1]
    return p.scatter_add_(1, k, p.new_full(k.shape, e - 1))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, truth: Tensor, e: float, r: float, kind: torch.dtype, *passes: Tensor
    ) -> Tensor:
        # weight [V, E], bias [V], truth [N], passes: y [N, E], one or two
        N, V = len(truth), len(weight)
        ys, wk, bk, wide = [y.to(kind) for y in passes], weight.to(kind), bias.to(kind), torch.promote_types(kind, torch.float32)
        total = weight.new_zeros((), dtype=torch.float64)
        wanted = any(ctx.needs_input_grad)
        grads = [torch.empty(N, V, dtype=kind, device=weight.device) for _ in ys] if wanted else []
        of_bias = torch.zeros(V, dtype=wide, device=weight.device)
        for at in range(0, N, ROWS):
            rows, k = slice(at, at + ROWS), truth[at : at + ROWS, None]
            a, *second = (torch.addmm(bk, y[rows], wk.T).to(wide) for y in ys)
            said, made = _double(a, second[0], k, e, r) if second else _single(a, k, e)
            total += said
            for grad, one in zip(grads, made, strict=wanted):
                grad[rows] = one
                of_bias += one.sum(0)
        if wanted:
            ctx.save_for_backward(wk, of_bias, *ys, *grads)
            ctx.types = weight.dtype, bias.dtype, [y.dtype for y in passes]
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        weight, of_b, *rest = ctx.saved_tensors
        of_weight, of_bias, of_ys = ctx.types
        ys, grads = rest[: len(of_ys)], rest[len(of_ys) :]
        up = upstream[0]
        of_w = sum(g.T @ y for g, y in zip(grads, ys, strict=True)).to(of_weight) * up
        made = [(g @ weight).to(kind) * up for g, kind in zip(grads, of_ys, strict=True)]
        return of_w, of_b.to(of_bias) * up, None, None, None, None, *made


def smoothed(
    y: Float[Tensor, "N E"], weight: Float[Tensor, "V E"], bias: Float[Tensor, "V"], truth: Int[Tensor, "N"], smoothing: float,
    again: Float[Tensor, "N E"] | None = None, rdrop: float = 0.0,
) -> Float[Tensor, ""]:  # fmt: skip
    """The loss above, summed over all positions.

    Args:
        y: what the output layer reads.
        weight, bias: of the output layer.
        truth: tokens, each in 0 .. V - 1.
        smoothing: e, in [0, 1).
        again: what it reads in a second pass; None: there is none.
        rdrop: r, what the divergence of the two passes weighs.

    Returns:
        The sum, float32 (float64 of float64). Under autocast the products are in its type.
    """
    on = torch.is_autocast_enabled(y.device.type)
    kind = torch.get_autocast_dtype(y.device.type) if on else torch.promote_types(y.dtype, weight.dtype)
    passes = [y] if again is None else [y, again]
    with torch.autocast(y.device.type, enabled=False):
        return cast(Tensor, _Loss.apply(weight, bias, truth, smoothing, rdrop, kind, *passes))
