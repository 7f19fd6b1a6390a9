"""The predictors of a transducer: what the tokens so far say about the next one. Axes: B, U tokens, J joint width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longshort.nn import LSTM

CONTEXT = 2  # tokens that a stateless predictor sees


class StatelessPredictor(nn.Module):
    """Looks at the last two tokens only. Ghodsi et al. 2020, RNN-transducer with stateless prediction network.

    Args:
        tokens: how many there are; 0, the blank, stands for what was before the first.
        width: of the embedding.
        joint: of the output.
    """

    def __init__(self, tokens: int, width: int, joint: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.mix = nn.Linear(CONTEXT * width, width)
        self.out = nn.Linear(width, joint)

    def forward(self, targets: Tensor) -> Tensor:
        """What is predicted before each token and after the last: [B, U] to [B, U + 1, J]."""
        before = F.pad(targets, (CONTEXT, 0))  # [B, U + 2]
        return self._predict(before.unfold(1, CONTEXT, 1))

    def start(self, batch: int) -> Tensor:
        """The state before the first token: the last tokens, [B, CONTEXT]."""
        return torch.zeros(batch, CONTEXT, dtype=torch.int64, device=self.out.weight.device)

    def step(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One more token [B]: the prediction [B, J] and the state."""
        state = torch.cat([state[:, 1:], token[:, None]], 1)
        return self._predict(state), state

    def select(self, state: Tensor, index: Tensor) -> Tensor:
        """The states of some rows."""
        return state[index]

    def join(self, states: Sequence[Tensor]) -> Tensor:
        """One state of all their rows."""
        return torch.cat(list(states))

    def _predict(self, last: Tensor) -> Tensor:
        return self.out(F.relu(self.mix(self.embed(last).flatten(-2))))


class LSTMPredictor(nn.Module):
    """Looks at all tokens so far. Graves 2012, Sequence transduction with recurrent neural networks.

    Args: as StatelessPredictor.
    """

    def __init__(self, tokens: int, width: int, joint: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.lstm = LSTM(width, width, batch_first=True, init="forget_bias+orthogonal")
        self.out = nn.Linear(width, joint)

    def forward(self, targets: Tensor) -> Tensor:
        """What is predicted before each token and after the last: [B, U] to [B, U + 1, J]."""
        return self.out(self.lstm(self.embed(F.pad(targets, (1, 0))))[0])

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """The state before the first token: h and c, [1, B, width] each."""
        zero = self.out.weight.new_zeros(1, batch, self.lstm.hidden_size)
        return zero, zero

    def step(self, token: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One more token [B]: the prediction [B, J] and the state."""
        y, state = self.lstm(self.embed(token)[:, None], state)
        return self.out(y[:, 0]), state

    def select(self, state: tuple[Tensor, Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """The states of some rows."""
        return state[0][:, index], state[1][:, index]

    def join(self, states: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """One state of all their rows."""
        h, c = zip(*states, strict=True)
        return torch.cat(h, 1), torch.cat(c, 1)
