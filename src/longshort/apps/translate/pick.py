"""Which tokens come next: the best ones of many hypotheses, or one at random. Equal ones: the first row, then the first token.

Axes: S sentences, W hypotheses of each, R = S W rows, V tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from longshort.engine import steps
from longshort.engine.product import able

BLOCK = 64  # tokens whose best one is looked at first
NOT_A_NUMBER = "the network gives NaN for a log-probability. Are its weights finite?"


def best(logp: Float[Tensor, "R V"], total: NDArray, k: int) -> tuple[NDArray, NDArray, NDArray]:
    """The k best ways to go on, of all hypotheses of a sentence.

    Most tokens are looked at only once: a kernel knows what they would have to be above; without it, the k best tokens lie in the
    k blocks of tokens with the best maxima.

    Args:
        logp: log-probability of each token, float32.
        total: of each hypothesis so far, float64, [S, W]; -inf for an empty slot.
        k: how many.

    Returns:
        Sums of both, best first, float64, [S, k]; hypothesis in [0, W) and token of each, int64, [S, k]. Where there are fewer
        than k, the sums are -inf.

    Raises:
        ValueError: a log-probability is NaN.
    """
    (S, W), V = total.shape, logp.shape[1]
    base = torch.from_numpy(np.ascontiguousarray(total)).to(logp.device)
    if able(logp) and logp.is_contiguous():
        found = steps.best(logp, base, k)
        if found is None:
            raise ValueError(NOT_A_NUMBER)
        return found[0].numpy(), found[1].numpy(), found[2].numpy()
    if k == W == 1:
        peak, one = (x.cpu().numpy() for x in logp.max(1, keepdim=True))
        if np.isnan(peak).any():
            raise ValueError(NOT_A_NUMBER)
        return total + peak, np.zeros((S, 1), int), one
    whole = V // BLOCK * BLOCK
    peaks = logp[:, :whole].unflatten(1, (-1, BLOCK)).amax(2) if whole else logp[:, :0]
    if whole < V:
        peaks = torch.cat([peaks, logp[:, whole:].amax(1, keepdim=True)], 1)
    blocks = peaks.shape[1]
    heads, at = _top((peaks.double().view(S, W, blocks) + base[:, :, None]).flatten(1), k)
    if heads[:, 0].isnan().any():
        raise ValueError(NOT_A_NUMBER)
    at = at.sort(1).values
    parent = at // blocks  # [S, k]
    token = (at % blocks)[:, :, None] * BLOCK + torch.arange(BLOCK, device=at.device)  # [S, k, BLOCK]
    row = torch.arange(S, device=at.device)[:, None] * W + parent
    x = logp[row[:, :, None], token.clamp(max=V - 1)].double() + base.gather(1, parent)[:, :, None]
    value, at = _top(x.masked_fill_(token >= V, -math.inf).flatten(1), k)
    parent, token = parent.gather(1, at // BLOCK), token.flatten(1).gather(1, at)
    made = [value.cpu().numpy(), parent.cpu().numpy(), token.clamp_(max=V - 1).cpu().numpy()]
    if (lack := k - value.shape[1]) > 0:
        fill = np.full((S, lack), -math.inf), np.zeros((S, lack), int), np.zeros((S, lack), int)
        made = [np.concatenate(m, 1) for m in zip(made, fill, strict=True)]
    return made[0], made[1], made[2]


def _top(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of each row and where they stand, the greatest first and, of equal ones, the first first."""
    value, at = x.topk(min(k + 1, x.shape[1]))
    if ((value[:, 1:] == value[:, :-1]) & (value[:, 1:] > -math.inf)).any():
        value, at = x.sort(stable=True, dim=1, descending=True)
    return value[:, :k], at[:, :k]


def draw(logp: NDArray, chance: NDArray, temperature: float, top_k: int, top_p: float) -> NDArray:
    """One token for each row, at random.

    Args:
        logp: log-probability of each token, float, [R, V]; -inf cannot be drawn, and one token can.
        chance: a random number in [0, 1) for each row, [R].
        temperature: log-probabilities are divided by it.
        top_k: draw from so many best tokens only; 0 from all.
        top_p: draw from the fewest best tokens that have this probability together, at this temperature.

    Returns:
        Tokens, int64, [R].

    Raises:
        ValueError: a log-probability is NaN.

    Source: Fan et al. 2018, Hierarchical neural story generation (top k); Holtzman et al. 2020, The curious case of neural text
    degeneration (nucleus).
    """
    x = logp.astype(np.float64)
    x -= x.max(1, keepdims=True)
    if np.isnan(x).any():
        raise ValueError(NOT_A_NUMBER)
    p = np.exp(x / temperature)
    order = None
    if top_k or top_p < 1:
        order = np.argsort(-p, 1, kind="stable")[:, : top_k or None]
        p = np.take_along_axis(p, order, 1)
        p[(p.cumsum(1) - p) >= top_p * p.sum(1, keepdims=True)] = 0
    up = p.cumsum(1)
    at = np.minimum((up <= chance[:, None] * up[:, -1:]).sum(1), (up == up[:, -1:]).argmax(1))
    return at if order is None else order[np.arange(len(order)), at]
