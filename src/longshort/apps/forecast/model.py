"""The network: one LSTM reads the context, another walks the horizon and mixes and corrects simple forecasts at every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from longshort.cell import Cell
from longshort.nn import LSTM

NARROW = 1.5  # softplus(-1.5) = 0.2: the first distance between neighbouring quantiles, in scaled units


class Network(nn.Module):
    """Quantiles of the next H steps of many series, in scaled units. They never cross.

    The encoder reads the context; its last output starts the decoder, which sees the guesses of one step ahead after another:

        median_k = sum_j softmax(a_k)_j guess_kj + r_k       a mixture of simple forecasts, and a correction
        q_k      = median_k -+ sums of softplus(w_k)         outwards, so that order is kept by construction

    Args:
        past: channels of the context, C.
        guesses: simple forecasts per step, K.
        levels: quantile levels, ascending, 0.5 among them, [Q].
        hidden: units of each LSTM layer.
        dilations: one dilation per layer of the encoder.
        dropout: dropout between the encoder's layers and before the head, in [0, 1).
        cell: the variant of both LSTMs.
    """

    def __init__(
        self,
        past: int,
        guesses: int,
        levels: tuple[float, ...],
        hidden: int,
        dilations: tuple[int, ...],
        dropout: float,
        cell: Cell,
    ) -> None:
        super().__init__()
        layers, P = len(dilations), cell.projection or hidden
        self.below = levels.index(0.5)
        self.encoder = LSTM(past, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0,
                            cell=cell, dilation=dilations, init="forget_bias" if cell.forget else "torch")  # fmt: skip
        self.bridge = nn.Linear(P, P + hidden)
        self.decoder = LSTM(2 * guesses + 2, hidden, batch_first=True, cell=cell, init=self.encoder.init)
        self.drop = nn.Dropout(dropout)
        self.inner = nn.Linear(P, hidden)
        self.outer = nn.Linear(hidden, guesses + len(levels))
        nn.init.uniform_(self.outer.weight, -0.02, 0.02)  # the first forecast is the plain mean of the guesses
        nn.init.zeros_(self.outer.bias)

    def forward(
        self, past: Float[Tensor, "B L C"], guesses: Float[Tensor, "B H K"], known: Float[Tensor, "B H K"]
    ) -> Float[Tensor, "B H Q"]:
        """Forecast quantiles in scaled units; see `window.encode` for the inputs.

        Args:
            past: scaled contexts, float32, [B, L, C].
            guesses: simple forecasts, 0 where unknown, float32, [B, H, K].
            known: 1 where a guess is known, float32, [B, H, K].

        Returns:
            Quantiles by ascending level, [B, H, Q].
        """
        (B, H, K), P = guesses.shape, self.bridge.in_features
        seen, _ = self.encoder(past)
        h, c = torch.tanh(self.bridge(seen[:, -1])).split([P, self.inner.out_features], -1)
        k = torch.arange(1, H + 1, device=past.device, dtype=past.dtype)
        place = torch.stack([k / H, 1 / k], -1).expand(B, H, 2)
        y, _ = self.decoder(torch.cat([guesses, known, place], -1), (h[None].contiguous(), c[None].contiguous()))
        out = self.outer(F.silu(self.inner(self.drop(y))))  # [B, H, K + Q]
        a, r, w = out[..., :K], out[..., K], F.softplus(out[..., K + 1 :] - NARROW)
        mix = torch.softmax(a.masked_fill(known == 0, -torch.inf), -1)
        median = ((mix * guesses).sum(-1) + r)[..., None]
        lower = w[..., : self.below].flip(-1).cumsum(-1).flip(-1)
        upper = w[..., self.below :].cumsum(-1)
        return torch.cat([median - lower, median, median + upper], -1)
