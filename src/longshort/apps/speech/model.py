"""The networks: features in, one vector per 40 ms out, and what is written there. Axes: B, T feature frames, N encoder steps.

A state holds all that a streaming network remembers, so that cutting the audio anywhere changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.apps.speech.config import SUBSAMPLING, Config
from longshort.apps.speech.predictor import LSTMPredictor, StatelessPredictor
from longshort.apps.speech.transducer import joint_loss
from longshort.cell import Cell
from longshort.dropout import dropout
from longshort.nn import LSTM


class Batch(NamedTuple):
    """Utterances with their texts.

    features: log-mel, zero after the end, float32, [B, T, bins].
    frames: frames of each, int64, [B].
    targets: tokens, 0 after the end, int64, [B, U].
    lengths: tokens of each, int64, [B].
    lead: steps of the encoder that come before each utterance and count for nothing, int64, [B].
    """

    features: Tensor
    frames: Tensor
    targets: Tensor
    lengths: Tensor
    lead: Tensor


class State(NamedTuple):
    """What a streaming encoder remembers between two calls.

    frame: the last normalised frame, [B, 1, bins].
    middle: the last step of the first convolution, [B, channels, 1, bins / 2].
    h, c: of the LSTM layers, [L, B, P] and [L, B, H].
    """

    frame: Tensor
    middle: Tensor
    h: Tensor
    c: Tensor

    def rows(self, rows: Tensor) -> State:
        """The states of some streams."""
        return State(self.frame[rows], self.middle[rows], self.h[:, rows], self.c[:, rows])

    @staticmethod
    def join(states: list[State]) -> State:
        """One state of all streams."""
        return State(*(torch.cat(v, 1 if k > 1 else 0) for k, v in enumerate(zip(*states, strict=True))))


class Conv(nn.Module):
    """Two causal convolutions over time and mel filters, each of stride 2: four frames become one step.

    Step n sees frames up to 4n + 3, and two before 4n.
    """

    def __init__(self, bins: int, channels: int, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, channels, 3, stride=2, padding=(0, 1))
        self.two = nn.Conv2d(channels, channels, 3, stride=2, padding=(0, 1))
        self.held = (channels, 1, (bins + 1) // 2)  # what is remembered of the middle
        self.out = nn.Linear(channels * ((bins + 3) // 4), width)
        for layer in (self.one, self.two, self.out):  # He et al. 2015: the sound must reach the LSTM at full size
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is self.out else "relu")
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor, frame: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 4N, bins] and what came before, to [B, N, width] and the steps in the middle, [B, channels, 1 + 2N, bins / 2]."""
        a = F.relu(self.one(torch.cat([frame, x], 1)[:, None]))  # [B, C, 2N, bins/2]
        a = torch.cat([middle, a], 2)
        b = F.relu(self.two(a))  # [B, C, N, bins/4]
        return self.out(b.permute(0, 2, 1, 3).flatten(2)), a


class Stack(nn.Module):
    """Four frames side by side."""

    def __init__(self, bins: int, width: int) -> None:
        super().__init__()
        self.held = (1, 1, 1)  # nothing, but a state has one form
        self.out = nn.Linear(SUBSAMPLING * bins, width)

    def forward(self, x: Tensor, frame: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 4N, bins] to [B, N, width]; there is no middle."""
        return self.out(x.unflatten(1, (-1, SUBSAMPLING)).flatten(2)), middle.expand(-1, -1, 1 + x.shape[1] // 2, -1)


class Network(nn.Module):
    """The encoder and its heads.

    Args:
        config: sizes.
        cell: the variant of the LSTM.
        tokens: how many tokens there are, the blank (0) among them.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: Config, cell: Cell, tokens: int) -> None:
        super().__init__()
        c, D = config, 1 if config.streaming else 2
        self.config = c
        self.register_buffer("mean", torch.zeros(c.bins))
        self.register_buffer("scale", torch.ones(c.bins))
        self.front: Conv | Stack = Conv(c.bins, c.channels, c.hidden) if c.front == "conv" else Stack(c.bins, c.hidden)
        self.lstm = LSTM(c.hidden, c.hidden, c.layers, dropout=c.dropout if c.layers > 1 else 0.0, bidirectional=D == 2,
                         batch_first=True, cell=cell, init="forget_bias+orthogonal", weight_drop=c.weight_drop)  # fmt: skip
        self.width = D * (cell.projection or c.hidden)
        self.head = nn.Linear(self.width, tokens) if c.model != "transducer" else None
        self.predictor: StatelessPredictor | LSTMPredictor | None = None
        if c.model != "ctc":
            kind = StatelessPredictor if c.predictor == "stateless" else LSTMPredictor
            self.predictor = kind(tokens, c.predict, c.joint)
            self.meet = nn.Linear(self.width, c.joint)
            self.write = nn.Linear(c.joint, tokens)

    def start(self, batch: int) -> State:
        """The state before the first frame."""
        c, new, rows = self.config, self.mean.new_zeros, self.config.layers * (1 if self.config.streaming else 2)
        return State(new(batch, 1, c.bins), new(batch, *self.front.held), new(rows, batch, self.lstm.proj_size or c.hidden),
                     new(rows, batch, c.hidden))  # fmt: skip

    def encode(self, features: Tensor, frames: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Run the encoder over features.

        Args:
            features: log-mel, [B, T, bins]; what lies after the end of an utterance does not matter.
            frames: frames of each, int64, [B]; multiples of 4 where a stream is to be continued.
            state: where the last call ended; None starts afresh.

        Returns:
            encoded [B, N, width], steps of each [B], and the state now.
        """
        B, T, _ = features.shape
        N = -(-T // SUBSAMPLING)
        state = self.start(B) if state is None else state
        x = (features - self.mean) * self.scale
        x = torch.where(torch.arange(T, device=x.device)[:, None] < frames[:, None, None], x, 0)
        x = F.pad(x, (0, 0, 0, N * SUBSAMPLING - T))
        steps = torch.div(frames + SUBSAMPLING - 1, SUBSAMPLING, rounding_mode="floor")
        rows, ends = torch.arange(B, device=x.device), SUBSAMPLING * steps
        y, middles = self.front(x, state.frame, state.middle)
        y = dropout(y, self.config.dropout, self.training)
        y, (h, c) = self.lstm(y, (state.h, state.c), lengths=steps)
        frame = torch.cat([state.frame, x], 1)[rows, ends]  # the last one of each, or that from before
        now = State(frame[:, None], middles[rows, :, ends // 2][:, :, None], h, c)
        return dropout(y, self.config.dropout, self.training), steps, now

    def log_probs(self, encoded: Tensor) -> Tensor:
        """CTC's log-probabilities of each token, [B, N, V]."""
        return F.log_softmax(cast(nn.Linear, self.head)(encoded), -1)

    def said(self, encoded: Tensor) -> Any:
        """What a search reads: of a transducer the encoder's side of the joint layer, [B, N, J]; else log-probabilities as NumPy,
        [B, N, V]."""
        return self.log_probs(encoded).float().cpu().numpy() if self.predictor is None else self.meet(encoded)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Negative log-likelihood of each utterance, by the name of the loss, [B] each."""
        encoded, steps, _ = self.encode(batch.features, batch.frames)
        steps, N = steps - batch.lead, encoded.shape[1]
        at = (batch.lead[:, None] + torch.arange(N, device=encoded.device)).clamp(max=N - 1)  # [B, N]
        encoded = encoded.gather(1, at[..., None].expand_as(encoded))
        made = {}
        if self.head is not None:
            logp = self.log_probs(encoded).transpose(0, 1).float()
            made["ctc"] = F.ctc_loss(logp, batch.targets, steps, batch.lengths, reduction="none", zero_infinity=False)
        if self.predictor is not None:
            predicted = self.predictor(batch.targets)
            made["transducer"] = joint_loss(self.meet(encoded), predicted, self.write.weight, self.write.bias, batch.targets,
                                            steps, batch.lengths)  # fmt: skip
        return made

    def loss(self, batch: Batch) -> Tensor:
        """What is minimised, summed over the utterances."""
        made, w = self.losses(batch), self.config.ctc_weight
        if len(made) == 1:
            return next(iter(made.values())).sum()
        return (w * made["ctc"] + (1 - w) * made["transducer"]).sum()
