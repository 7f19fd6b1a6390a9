"""A network that searches: what `Network.step` computes, by layers that were looked at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from longshort.apps.translate import decode
from longshort.apps.translate.attention import Linear
from longshort.apps.translate.model import Memory, Network, State
from longshort.engine.product import able
from longshort.engine.steps import LinearStep, LSTMStep, attend
from longshort.nn import LSTM


@contextmanager
def prepared(networks: Sequence[Network]) -> Iterator[list[decode.Network]]:
    """Networks for one search or several, in which no parameter changes: with `Steps` where the kernels take them; the others
    share what they make of their weights."""
    made: list[decode.Network] = []
    with ExitStack() as stack:
        for network in networks:
            short = _able(network)
            made.append(Steps(network) if short else network)
            if not short:
                stack.enter_context(network.decoder.held())
        yield made


@torch.no_grad()
def _able(network: Network) -> bool:
    layers = [cast(LSTM, layer) for layer in network.decoder]
    asked = any(layer.observer is not None or layer.engine not in ("auto", "cpu") for layer in layers)
    return not asked and not any(m.training for m in network.modules()) and able(*network.parameters())


class Steps:
    """As the network, faster: it can search and do nothing else.

    Args:
        network: in evaluation, of plain float32 parameters on the CPU.
    """

    @torch.no_grad()
    def __init__(self, network: Network) -> None:
        n = self.network = network
        self.remember, self.start = n.remember, n.start
        self.layers = [LSTMStep(layer.cell, layer.layer_params("_l0")) for layer in cast(list[LSTM], n.decoder)]
        self.attentions = [a for a in (n.attention, n.again) if a is not None]
        self.queries = [LinearStep(a.query.weight) if a.kind == "general" else None for a in self.attentions]
        self.readout, self.narrow = _linear(n.readout), None if n.narrow is None else _linear(n.narrow)
        self.write: tuple[Tensor | None, LinearStep] | None = None  # of which tokens, and how

    def step(
        self, tokens: Int[Tensor, "R"], state: State, memory: Memory, only: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """See `Network.step`."""
        n, c = self.network, self.network.config
        if self.write is None or self.write[0] is not only:
            self.write = only, LinearStep(*((n.table, n.bias) if only is None else (n.table[only], n.bias[only])))
        x = n.target.index_select(0, tokens) * math.sqrt(c.embed)
        below, inner, states = x, torch.cat([x, state.fed], -1) if c.feed else x, []
        contexts: list[Tensor] = []
        for k, layer in enumerate(self.layers):
            if k:
                inner = torch.cat([below, contexts[0]], -1)
            h, cell = layer(inner, state.h[k], state.c[k])
            states.append((h, cell))
            below = n.decoder.add(h, below)
            if not k:
                context, weights = self._read(0, h, memory, state.coverage if c.coverage else None)
                contexts.append(context)
        if n.again is not None:
            context, more = self._read(1, h, memory)
            contexts.append(context)
            weights = (weights + more) / 2
        made = self.readout(torch.cat([below, *contexts, x], -1)).tanh_()
        fed, coverage = made if c.feed else state.fed, state.coverage + weights if c.coverage else state.coverage
        made = made if self.narrow is None else self.narrow(made)
        hs, cs = zip(*states, strict=True)
        return F.log_softmax(self.write[1](made), -1), State(hs, cs, fed, coverage), weights

    def _read(self, k: int, h: Tensor, memory: Memory, coverage: Tensor | None = None) -> tuple[Tensor, Tensor]:
        attention, query = self.attentions[k], self.queries[k]
        if attention.kind == "additive" or memory.blank is not None:
            read = attention(h[:, None], memory.keys[k], memory.values[k], memory.blank, coverage)
            return read.context[:, 0], read.weights[:, 0]
        return attend(h if query is None else query(h), memory.keys[k], memory.values[k])


def _linear(layer: Linear) -> LinearStep:
    return LinearStep(layer.weight, layer.bias)
