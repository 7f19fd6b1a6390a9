"""`Stream`: an LSTM run one step at a time, as the steps arrive."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longshort.engine import Call, cpu
from longshort.engine.contract import arithmetic

if TYPE_CHECKING:
    from longshort.nn import LSTM


@contextmanager
def _weights_made(lstm: LSTM) -> Iterator[None]:
    """Pruning and the like make a weight anew before each forward pass only: as in evaluation; then the LSTM is as it was."""
    before, training = {k: v for k, v in vars(lstm).items() if isinstance(v, Tensor)}, lstm.training
    lstm.training = False
    try:
        with torch.no_grad():
            for hook in lstm._forward_pre_hooks.values():
                if type(hook).__module__.startswith("torch.nn.utils."):
                    hook(lstm, ())
        yield
    finally:
        lstm.training = training
        vars(lstm).update(before)


class Stream:
    """B independent streams through all layers of an LSTM, in evaluation mode and without gradients.

    It holds the weights as they are now (packed, where the CPU engine runs it: then a step allocates nothing) and the state.
    Made by `LSTM.stream(batch)`. One that is made inside `probe.record` is recorded, step by step and slower; one that was made
    before it is not.

    Args:
        lstm: a unidirectional LSTM.
        batch: streams B that advance together.
        weights: 'same', or 'int8': the matrices as bytes (CPU engine, float32, no projection), for a quarter of the memory
            traffic and about 1 % of error, more with layer norm: measure it. A state set from outside must have |h| <= 1 there.

    Raises:
        ValueError: the LSTM is bidirectional, its engine is named and refuses, or int8 cannot be had.
    """

    def __init__(self, lstm: LSTM, batch: int = 1, weights: str = "same") -> None:
        if weights not in ("same", "int8"):
            raise ValueError(f"weights must be 'same' or 'int8', got {weights!r}.")
        if lstm.bidirectional:
            raise ValueError("a bidirectional LSTM reads its input from the end, so it cannot stream. Take bidirectional=False.")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be a whole number of streams, at least 1, got {batch!r}.")
        self.batch = batch
        with _weights_made(lstm):
            self._take(lstm, weights)

    def _take(self, lstm: LSTM, weights: str) -> None:
        batch = self.batch
        weight = lstm.layer_params("_l0")["weight_ih"]
        why = cpu.refuse(lstm.cell, Call(weight.detach()[None]))
        if max(lstm.dilation) > 1:
            why = "it keeps one state per layer, and a dilated layer has several."
        if lstm.observer is not None:
            why = "the LSTM is being recorded, and packed weights show no gates."
        if weights == "int8":
            if lstm.engine not in ("auto", "cpu"):
                why = "another one was asked for."
            why = why or cpu.refuse_bytes(lstm.cell, weight.dtype)
            if why is not None:
                raise ValueError(f"weights='int8' runs on engine 'cpu' only, which refuses: {why}")
        if lstm.engine == "cpu" and why is not None:
            raise ValueError(f"engine 'cpu' was asked for but refuses: {why} Use engine='auto' to let another run it.")
        self._native = None
        if why is None and lstm.engine in ("auto", "cpu"):
            self._native = cpu.Stream(lstm.cell, [lstm.layer_params(f"_l{k}") for k in range(lstm.num_layers)], batch, weights)
            self.step = self._native.step  # type: ignore[method-assign]  # one Python frame less
            return
        self._lstm = copy.deepcopy(lstm).eval()
        self._lstm.observer = lstm.observer  # whoever looks on sees the stream as well
        self._lstm.batch_first = False
        S = sum(lstm.dilation)
        self._h = weight.new_zeros(S, batch, lstm.proj_size or lstm.hidden_size).detach()
        self._c = weight.new_zeros(S, batch, lstm.hidden_size, dtype=arithmetic(weight.dtype)).detach()

    @torch.no_grad()
    def step(self, x: Tensor) -> Tensor:
        """One step of every layer.

        Args:
            x: input, [B, I], in the dtype of the weights.

        Returns:
            The last layer's output, [B, P]. The next step may overwrite it: clone it to keep it.

        Raises:
            ValueError: x has another shape, dtype or device.
        """
        shape = [self.batch, self._lstm.input_size]
        if list(x.shape) != shape:
            raise ValueError(f"x must be [B, I] = {shape}, got {list(x.shape)}.")
        y, (self._h, self._c) = self._lstm(x[None], (self._h, self._c))
        return y[0]

    @torch.no_grad()
    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Start streams afresh, with a zero state.

        Args:
            rows: which streams, as indices or bool [B]; None is all of them.
        """
        if self._native is not None:
            return self._native.reset(rows)
        self._h, self._c = self._h.clone(), self._c.clone()  # they may be of an inference mode that is over
        for v in (self._h, self._c):
            v[:, slice(None) if rows is None else rows] = 0

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """(h, c) now, a copy, shaped as the `hx` of `LSTM.forward`; c is float32 where the weights are bfloat16. Can be set."""
        if self._native is not None:
            h, c = zip(*self._native.states, strict=True)
            return torch.stack(h), torch.stack(c)
        return self._h.clone(), self._c.clone()

    @state.setter
    @torch.no_grad()
    def state(self, hx: tuple[Tensor, Tensor]) -> None:
        for name, new, now in zip("hc", hx, self.state, strict=True):
            if new.shape != now.shape:
                raise ValueError(f"state {name} must be {list(now.shape)}, got {list(new.shape)}.")
        if self._native is not None:
            for k, state in enumerate(self._native.states):
                state.h.copy_(hx[0][k])
                state.c.copy_(hx[1][k])
        else:
            self._h, self._c = (new.detach().to(now, copy=True) for new, now in zip(hx, self.state, strict=True))
