"""The output layer and its loss in one: cross-entropy with label smoothing, without holding the logits of a batch in float32.

For one position with logits a = W y + b, truth k and smoothing e:

    loss = (1 - e) (lse(a) - a_k) + e (lse(a) - mean(a)),    d loss / d a = softmax(a) - (1 - e) onehot(k) - e / V

Szegedy et al. 2016, Rethinking the Inception architecture. Gradients are made on the way, while the logits of a few rows lie in
the caches, and kept in the type of the products, [N, V]; backward multiplies them with y and W.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 128  # positions at a time


class _Smoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, truth: Tensor, smoothing: float, kind: torch.dtype) -> Tensor:
        # y [N, E], weight [V, E], bias [V], truth [N]
        N, V = len(y), len(weight)
        yk, wk, bk, wide = y.to(kind), weight.to(kind), bias.to(kind), torch.promote_types(kind, torch.float32)
        total = y.new_zeros((), dtype=torch.float64)
        grads = torch.empty(N, V, dtype=kind, device=y.device) if any(ctx.needs_input_grad) else None
        of_bias = torch.zeros(V, dtype=wide, device=y.device)
        for at in range(0, N, ROWS):
            rows, k = slice(at, at + ROWS), truth[at : at + ROWS, None]
            a = torch.addmm(bk, yk[rows], wk.T).to(wide)
            p = torch.softmax(a, -1)
            lse = a.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()  # the largest logit has the largest probability
            total += (lse - (1 - smoothing) * a.gather(1, k) - smoothing * a.mean(-1, keepdim=True)).sum(dtype=torch.float64)
            if grads is not None:
                p -= smoothing / V
                p.scatter_add_(1, k, p.new_full(k.shape, smoothing - 1))
                grads[rows] = p
                of_bias += p.sum(0)
        if grads is not None:
            ctx.save_for_backward(grads, yk, wk, of_bias)
            ctx.types = y.dtype, weight.dtype, bias.dtype
        return total.to(wide)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        grads, y, weight, of_b = ctx.saved_tensors
        of_y, of_weight, of_bias = ctx.types
        up = upstream[0]
        made = (grads @ weight).to(of_y) * up, (grads.T @ y).to(of_weight) * up, of_b.to(of_bias) * up
        return *made, None, None, None


def smoothed(
    y: Float[Tensor, "N E"], weight: Float[Tensor, "V E"], bias: Float[Tensor, "V"], truth: Int[Tensor, "N"], smoothing: float
) -> Float[Tensor, ""]:
    """The loss above, summed over all positions.

    Args:
        y: what the output layer reads.
        weight, bias: of the output layer.
        truth: tokens, each in 0 .. V - 1.
        smoothing: e, in [0, 1).

    Returns:
        The sum, float32 (float64 of float64). Under autocast the products are in its type.
    """
    on = torch.is_autocast_enabled(y.device.type)
    kind = torch.get_autocast_dtype(y.device.type) if on else torch.promote_types(y.dtype, weight.dtype)
    with torch.autocast(y.device.type, enabled=False):
        return cast(Tensor, _Smoothed.apply(y, weight, bias, truth, smoothing, kind))
