"""Layers that were looked at once, and what else a loop that runs one step at a time calls: a call costs what it returns and the
kernel.

A row of a result depends on its row of the inputs alone, bit by bit, as `linear` promises. Nothing is checked: tensors are plain
ones on the CPU (`product.able`), float32 and contiguous where nothing else is said, and no parameter changes as long as the loop
runs.

Axes: R rows, I and K inputs, N outputs or heads, H hidden units, P projected ones, S keys, W width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from longshort.cell import Cell, Params
from longshort.engine import cpu
from longshort.engine.product import _packed

FLOAT = torch.float32


class LSTMStep:
    """One layer.

    Args:
        cell: the variant.
        params: the tensors of `cell.shapes(I, H)`.
    """

    def __init__(self, cell: Cell, params: Params) -> None:
        own = [None if (v := params.get(name)) is None else v.contiguous() for name in cpu.NAMES]
        layer = cpu._layer(cell, cpu.TYPES[FLOAT], *cpu._sizes(own))
        self._weights = cpu.native.Weights(layer, cpu._addresses(*own), torch.get_num_threads())
        rows, self._P = params["weight_hh"].shape
        self._H = rows // len(cell.gates)

    def __call__(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h [R, P], which is also the output, and c [R, H], from x [R, I] and those before."""
        R, I = x.shape
        y, after, cells = (
            cpu._empty(R, self._P, dtype=FLOAT),
            cpu._empty(R, self._P, dtype=FLOAT),
            cpu._empty(R, self._H, dtype=FLOAT),
        )
        read = (1, R, 0, x.data_ptr(), 0, I, 0, 0, 0, 0, 0, 0, 0, h.data_ptr(), c.data_ptr())
        made = (y.data_ptr(), after.data_ptr(), cells.data_ptr(), 0, 0, 0, 0, 0)
        self._weights.forward(read, made, torch.get_num_threads())
        return after, cells


class LinearStep:
    """x W^T + b.

    Args:
        weight: W, [N, K].
        bias: b, [N], or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._layer, self._N = _packed(weight), weight.shape[0]
        self._bias = None if bias is None else bias.detach().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """[R, K] to [R, N]."""
        y = cpu._empty(x.shape[0], self._N, dtype=FLOAT)
        bias = 0 if self._bias is None else self._bias.data_ptr()
        self._layer.run(x.data_ptr(), x.shape[0], bias, y.data_ptr(), torch.get_num_threads())
        return y


def attend(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Each head of each row reads the mean of its values, weighted by softmax(query . keys / sqrt(W)).

    Args:
        query: [R, N W].
        keys, values: [R, N, S, W], of any strides but the last.

    Returns:
        What was read, [R, N W], and the mean of the weights over the heads, [R, S].
    """
    R, N, S, W = keys.shape
    context, weights = cpu._empty(R, N * W, dtype=FLOAT), cpu._empty(R, S, dtype=FLOAT)
    tensors = (query.data_ptr(), keys.data_ptr(), values.data_ptr(), context.data_ptr(), weights.data_ptr())
    strides = (*keys.stride()[:3], *values.stride()[:3])
    cpu.native.attend((R, N, S, W), tensors, strides, 1 / math.sqrt(W), torch.get_num_threads())
    return context, weights


def best(logp: Tensor, total: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """The k largest sums of each hypothesis of a sentence and its tokens. Axes: S sentences, U hypotheses of each, V tokens.

    Args:
        logp: of each token, [S U, V].
        total: of each hypothesis, float64, [S, U].
        k: how many.

    Returns:
        The sums, float64, the largest first and of equal ones the first hypothesis and token; the hypotheses and the tokens,
        int64; all [S, k]. Where there are fewer than k that are not -inf, the others are -inf. None if a sum is NaN.
    """
    (S, U), V = total.shape, logp.shape[1]
    value = cpu._empty(S, k, dtype=torch.float64)
    parent, token = cpu._empty(S, k, dtype=torch.int64), cpu._empty(S, k, dtype=torch.int64)
    tensors = (logp.data_ptr(), total.data_ptr(), value.data_ptr(), parent.data_ptr(), token.data_ptr())
    return (value, parent, token) if cpu.native.best((S, U, V, k), tensors) else None
