"""Dropout, and the bools behind it: on a CPU torch takes longer to draw a number per element than many a layer to compute."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from longshort.tracing import eager

STEPS = 1 << 16  # probabilities are multiples of one over this


def dropout(x: Float[Tensor, "*S"], p: float, training: bool) -> Float[Tensor, "*S"]:
    """x with elements set to 0 at random and the others scaled up, so that the mean stays; x itself if not training.

    Args:
        x: any shape.
        p: share that is dropped, in [0, 1]; on a CPU a multiple of 2^-16.
        training: whether to drop any.

    Source: Srivastava et al. 2014, Dropout.
    """
    if not (training and p):
        return x
    if p == 1 or not _fast(x):
        return F.dropout(x, p, True)
    return x * (bernoulli(1 - p, tuple(x.shape), x, None).to(x.dtype) / (1 - p))


def bernoulli(p: float, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent bools, True with probability p.

    Args:
        p: probability; on a CPU a multiple of 2^-16.
        shape: of the result.
        like: a tensor on the wanted device.
        generator: source of randomness; torch's global one if None. On a CPU it seeds a faster one.
    """
    if _fast(like):
        seed, n = int(torch.randint(2**62, (), generator=generator, device="cpu")), prod(shape)
        bits = np.random.SFC64(seed).random_raw(-(-n // 4)).view(np.uint16)[:n]
        return torch.from_numpy(bits < round(p * STEPS)).view(shape)
    return torch.rand(shape, device=like.device, generator=generator) < p


def _fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and eager()
