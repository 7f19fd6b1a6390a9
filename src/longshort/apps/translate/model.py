"""The network: a bidirectional LSTM reads, an LSTM writes and looks back by attention.

Axes: B sentences, S source tokens, T target tokens, R rows of a search, V target vocabulary, M width of the encoder's output.
Training runs each LSTM layer once over all steps. A search runs one step at a time, on the same weights and to the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from longshort.apps.translate.attention import Attention, Linear
from longshort.apps.translate.config import Config
from longshort.apps.translate.vocabulary import PAD
from longshort.cell import Cell
from longshort.dropout import dropout
from longshort.engine.product import linear
from longshort.nn import LSTM


class Batch(NamedTuple):
    """Sentence pairs.

    source: tokens and an end, 0 beyond, int64, [B, S].
    lengths: source tokens of each with the end, int64, [B].
    target: a start, tokens and an end, 0 beyond, int64, [B, T + 1].
    """

    source: Tensor
    lengths: Tensor
    target: Tensor


class Memory(NamedTuple):
    """What is known of the source, a row per sentence.

    keys, values: of each attention, [B, N, S, W].
    h, c: where each layer of the decoder starts, [L, B, P] and [L, B, H].
    blank: where no source token is, bool, [B, S]; None: nowhere.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    h: Tensor
    c: Tensor
    blank: Tensor | None

    def rows(self, rows: Tensor) -> Memory:
        """The memories of some sentences; one may be taken several times."""
        blank = None if self.blank is None else self.blank[rows]
        keys, values = (tuple(v.index_select(0, rows) for v in each) for each in (self.keys, self.values))
        return Memory(keys, values, self.h.index_select(1, rows), self.c.index_select(1, rows), blank)


class State(NamedTuple):
    """What a decoder remembers between two steps, a row per hypothesis.

    h, c: of each layer, [R, P] and [R, H].
    fed: what was read at the last step, [R, H], where it is fed to the next; else empty, [R, 0].
    coverage: attention that each source token has had, [R, S], or [R, 0].
    """

    h: tuple[Tensor, ...]
    c: tuple[Tensor, ...]
    fed: Tensor
    coverage: Tensor

    def rows(self, rows: Tensor) -> State:
        """The states of some hypotheses, in this order."""
        h, c = (tuple(v.index_select(0, rows) for v in each) for each in (self.h, self.c))
        return State(h, c, self.fed.index_select(0, rows), self.coverage.index_select(0, rows))


class Stack(nn.ModuleList):
    """LSTM layers, one module each, so that something can come between them."""

    def __init__(self, config: Config, cell: Cell, widths: list[int], hidden: int, both: bool) -> None:
        super().__init__(LSTM(width, hidden, bidirectional=both, cell=cell, init="forget_bias+orthogonal",
                              weight_drop=config.weight_drop) for width in widths)  # fmt: skip
        self.dropout, self.residual = config.dropout, config.residual

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls inside are parts of one sequence; see `LSTM.held`."""
        with ExitStack() as stack:
            for layer in self:
                stack.enter_context(cast(LSTM, layer).held())
            yield

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """A layer's output, and its input where it fits."""
        return y + x if self.residual and y.shape == x.shape else y


class Network(nn.Module):
    """Encoder, attention and decoder.

    Args:
        config: sizes.
        cell: the variant of the LSTMs.
        source: tokens of the source language.
        target: tokens of the target language, V.

    Raises:
        ValueError: heads do not divide what the decoder gives.
    """

    def __init__(self, config: Config, cell: Cell, source: int, target: int) -> None:
        super().__init__()
        c = self.config = config
        P, M = cell.projection or c.decode, 2 * (cell.projection or c.hidden)
        if P % c.heads:
            raise ValueError(f"heads must divide the cell's projection = {P}, got {c.heads}.")
        self.target = nn.Parameter(torch.randn(target, c.embed) / math.sqrt(c.embed))
        self.source = self.target if c.tied == "all" else nn.Parameter(torch.randn(source, c.embed) / math.sqrt(c.embed))
        self.encoder = Stack(c, cell, [c.embed] + [M] * (c.encoder_layers - 1), c.hidden, True)
        self.bridge_h = Linear(M, c.decoder_layers * P)
        self.bridge_c = Linear(2 * c.hidden, c.decoder_layers * c.decode)
        self.attention = Attention(c, M, P)
        self.again = Attention(replace(c, coverage=False), M, P) if c.again else None
        self.decoder = Stack(c, cell, [c.embed + P * c.feed] + [2 * P] * (c.decoder_layers - 1), c.decode, False)
        self.readout = Linear((2 + c.again) * P + c.embed, P * c.feed or c.embed)
        self.narrow = Linear(P, c.embed) if c.feed else None
        self.output = nn.Parameter(torch.randn(target, c.embed) / math.sqrt(c.embed)) if c.tied == "none" else None
        self.bias = nn.Parameter(torch.zeros(target))

    def embed(self, tokens: Int[Tensor, "B T"], table: Tensor) -> Float[Tensor, "T B E"]:
        """Embeddings, time first; in training some are dropped, whole ones too."""
        x = F.embedding(tokens.T, table) * math.sqrt(self.config.embed)
        if self.training and self.config.dropout_word:
            x = x * dropout(x.new_ones(*x.shape[:2], 1), self.config.dropout_word, True)
        return dropout(x, self.config.dropout_embed, self.training)

    def remember(self, source: Int[Tensor, "B S"], lengths: Int[Tensor, "B"]) -> Memory:
        """Read source sentences."""
        whole = bool((lengths == source.shape[1]).all())
        blank = None if whole else torch.arange(source.shape[1], device=source.device) >= lengths[:, None]
        return self.read(self.embed(source, self.source), lengths, blank)

    def read(self, x: Float[Tensor, "S B E"], lengths: Int[Tensor, "B"], blank: Tensor | None) -> Memory:
        """Read embeddings of source sentences; blank as in `Memory`."""
        p = self.config.dropout
        for k, layer in enumerate(self.encoder):
            x = dropout(x, p, self.training) if k else x
            y, (h, c) = layer(x, lengths=lengths)
            x = self.encoder.add(y, x)
        L = self.config.decoder_layers
        start = torch.tanh(self.bridge_h(h.transpose(0, 1).flatten(1))).unflatten(1, (L, -1)).transpose(0, 1)  # [L, B, P]
        cells = self.bridge_c(c.transpose(0, 1).flatten(1)).unflatten(1, (L, -1)).transpose(0, 1)
        x = dropout(x, p, self.training).transpose(0, 1)
        keys, values = zip(*(a.remember(x) for a in (self.attention, self.again) if a is not None), strict=True)
        return Memory(keys, values, start, cells, blank)

    def start(self, memory: Memory) -> State:
        """The state before the first token."""
        B, S = memory.keys[0].shape[0], memory.keys[0].shape[2]
        fed = memory.h.new_zeros(B, memory.h.shape[2] if self.config.feed else 0)
        h, c = memory.h.contiguous().unbind(), memory.c.contiguous().unbind()
        return State(h, c, fed, memory.h.new_zeros(B, S if self.config.coverage else 0))

    def run(
        self, tokens: Int[Tensor, "B T"], state: State, memory: Memory, lengths: Int[Tensor, "B"] | None = None
    ) -> tuple[Float[Tensor, "T B E"], State, Tensor]:
        """The decoder over some tokens.

        Args:
            tokens: of each row.
            state: before them.
            memory: a row for each row of tokens.
            lengths: how many of them count, so that the others need no work; None: all.

        Returns:
            what the output layer reads; the state after the tokens; the attention, [B, T, S], of two the mean.
        """
        return self.go(self.embed(tokens, self.target), state, memory, lengths)

    def go(
        self, x: Float[Tensor, "T B E"], state: State, memory: Memory, lengths: Int[Tensor, "B"] | None = None
    ) -> tuple[Float[Tensor, "T B E"], State, Tensor]:
        """As `run`, over embeddings of tokens: all steps at once if nothing is fed back."""
        if not self.config.feed:
            return self._steps(x, state, memory, lengths)
        made, seen = [], []
        with self.decoder.held():
            for one in x.split(1):
                y, state, weights = self._steps(one, state, memory)
                made.append(y)
                seen.append(weights)
        return torch.cat(made), state, torch.cat(seen, 1)

    def _steps(self, x: Tensor, state: State, memory: Memory, lengths: Tensor | None = None) -> tuple[Tensor, State, Tensor]:
        p, stack = self.config.dropout, self.decoder
        hs, cs, below, context = [], [], x, x
        inner = torch.cat([x, state.fed[None]], -1) if self.config.feed else x
        for k, layer in enumerate(stack):
            if k:
                inner = torch.cat([dropout(below, p, self.training), context], -1)
            y, (h, c) = layer(inner, (state.h[k][None], state.c[k][None]), lengths=lengths)
            hs.append(h[0])
            cs.append(c[0])
            below = stack.add(y, below)
            if not k:
                cover = state.coverage if self.config.coverage else None
                read = self.attention(y.transpose(0, 1), memory.keys[0], memory.values[0], memory.blank, cover)
                context, weights = dropout(read.context, p, self.training).transpose(0, 1), read.weights  # [T, B, P]
        contexts = [context]
        if self.again is not None:
            more = self.again(y.transpose(0, 1), memory.keys[1], memory.values[1], memory.blank)
            contexts.append(dropout(more.context, p, self.training).transpose(0, 1))
            weights = (weights + more.weights) / 2
        made = torch.tanh(self.readout(torch.cat([below, *contexts, x], -1)))
        fed, coverage = state.fed, state.coverage
        if self.narrow is not None:
            fed, made = made[-1], self.narrow(made)
        if self.config.coverage:
            coverage = coverage + weights[:, -1]
        return made, State(tuple(hs), tuple(cs), fed, coverage), weights

    @property
    def table(self) -> Float[Tensor, "V E"]:
        """The weights of the output layer."""
        return self.target if self.output is None else self.output

    def write(self, y: Float[Tensor, "*R E"], only: Tensor | None = None) -> Float[Tensor, "*R V"]:
        """Logits of the next token; of some tokens only, if asked."""
        table, bias = (self.table, self.bias) if only is None else (self.table[only], self.bias[only])
        return linear(y, table, bias)

    def step(
        self, tokens: Int[Tensor, "R"], state: State, memory: Memory, only: Tensor | None = None
    ) -> tuple[Tensor, State, Tensor]:
        """One step of a search.

        Args:
            tokens: the last ones.
            state: after those before them.
            memory: a row for each row of tokens.
            only: tokens that may come next, int64, [K]; None: all.

        Returns:
            log-probabilities of the next token, float32, [R, V] (or [R, K]); the state; the attention, [R, S].
        """
        y, state, weights = self.run(tokens[:, None], state, memory)
        return F.log_softmax(self.write(y[0], only).float(), -1), state, weights[:, 0]

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "N E"], Int[Tensor, "N"]]:
        """What the output layer reads for all target tokens and ends of a batch, and which they are: those of step 0 of all
        sentences, then those of step 1, ..."""
        memory = self.remember(batch.source, batch.lengths)
        truth = batch.target[:, 1:].T  # [T, B]
        there = truth != PAD
        y, _, _ = self.run(batch.target[:, :-1], self.start(memory), memory, there.sum(0))
        return dropout(y[there], self.config.dropout_output, self.training), truth[there]
