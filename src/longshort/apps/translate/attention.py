"""Attention: which source words a decoder reads at a step, for all steps at once or for one.

Axes: B sentences, T target steps, S source words, A width of the query, N heads, W = A / N.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longshort.apps.translate.config import Config
from longshort.engine.product import linear


class Linear(nn.Linear):
    """A linear layer whose rows, in inference, do not depend on each other, bit by bit."""

    def forward(self, input: Tensor) -> Tensor:
        """[*, K] to [*, N]."""
        return linear(input, self.weight, self.bias)


class Read(NamedTuple):
    """What was read, and where.

    context: [B, T, M].
    weights: mean over the heads, [B, T, S].
    """

    context: Tensor
    weights: Tensor


class Attention(nn.Module):
    """Scores each source word by a query, and reads their mean, weighted by the softmax of the scores.

    additive: v . tanh(W q + U m + b [+ w coverage]), Bahdanau et al. 2015; coverage: Tu et al. 2016. dot: q . U m / sqrt(width).
    general: q . W U m / sqrt(width), Luong et al. 2015 without the root. With several heads each has its own part of
    the width, and reads its own part of the values (Vaswani et al. 2017).

    Args:
        config: kind, heads, coverage.
        memory: M, width of a source word's vector.
        query: A, width of the query.
    """

    def __init__(self, config: Config, memory: int, query: int) -> None:
        super().__init__()
        self.kind, self.heads, width = config.attention, config.heads, query // config.heads
        self.key = Linear(memory, query, bias=self.kind == "additive")
        self.value = Linear(memory, query)
        if self.kind != "dot":
            self.query = Linear(query, query, bias=False)
        if self.kind == "additive":
            self.score = nn.Parameter(torch.randn(config.heads, width) / math.sqrt(width))
        if config.coverage:
            self.cover = nn.Parameter(torch.zeros(config.heads, width))

    def remember(self, memory: Float[Tensor, "B S M"]) -> tuple[Float[Tensor, "B N S W"], Float[Tensor, "B N S W"]]:
        """Keys and values of the source, computed once for all steps."""
        keys, values = (f(memory).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.key, self.value))
        return keys, values

    def forward(
        self, query: Float[Tensor, "B T A"], keys: Tensor, values: Tensor, blank: Bool[Tensor, "B S"] | None,
        coverage: Float[Tensor, "B S"] | None = None,
    ) -> Read:  # fmt: skip
        """Read.

        Args:
            query: what is looked for.
            keys, values: what `remember` gave.
            blank: where no source word is; None means nowhere.
            coverage: attention that each source word has had.
        """
        q = query if self.kind == "dot" else self.query(query)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, N, T, W]
        one = q.shape[2] == 1
        if self.kind == "additive":
            inner = q[:, :, :, None] + keys[:, :, None]  # [B, N, T, S, W]
            if coverage is not None:
                inner = inner + coverage[:, None, None, :, None] * self.cover[:, None, None]
            scores = (torch.tanh(inner) * self.score[:, None, None]).sum(-1)
        else:
            scores = _dot(q, keys) if one else q @ keys.transpose(2, 3)
            scores = scores / math.sqrt(q.shape[-1])
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if blank is not None:
            scores = scores.masked_fill(blank[:, None, None], -torch.inf)
        weights = F.softmax(scores, -1)  # [B, N, T, S]
        shares = weights.to(values.dtype)
        context = _mean(shares, values) if one else shares @ values
        return Read(context.transpose(1, 2).flatten(2), weights.mean(1))


def _dot(q: Tensor, keys: Tensor) -> Tensor:
    """q @ keys^T for T = 1, by sums whose order depends on no other row: torch's products of matrices do not promise that."""
    return (q * keys).sum(-1)[:, :, None]


def _mean(shares: Tensor, values: Tensor) -> Tensor:
    """shares @ values for T = 1, likewise."""
    return (shares.transpose(2, 3) * values).sum(2, keepdim=True)
