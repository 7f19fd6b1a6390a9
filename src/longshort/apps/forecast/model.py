"""The parts that all forecasting networks are made of, and `Direct`: quantiles of all steps of the horizon at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from longshort.apps.forecast.config import Config
from longshort.apps.forecast.window import STATIC
from longshort.cell import Cell
from longshort.nn import LSTM
from longshort.task import Loss

NARROW = 1.5  # softplus(-1.5) = 0.2: the first distance between neighbouring quantiles, in scaled units


class Inputs(NamedTuple):
    """What a network sees of B forecast origins, scaled there; float32 but for series.

    past: value, value without its season, 1 where observed, change (see `window.encode`), then the channels of past and future
        covariates and calendar, [B, L, C].
    guesses: simple forecasts, 0 where unknown, [B, H, K].
    known: 1 where a guess is known, [B, H, K].
    ahead: channels of future covariates and calendar, [B, H, A].
    static: three numbers of the window, then static covariates, [B, N].
    scale: what one scaled unit is in units of the data, [B].
    series: number of the series among those of fit, -1 if it is new, int64, [B].
    """

    past: Tensor
    guesses: Tensor
    known: Tensor
    ahead: Tensor
    static: Tensor
    scale: Tensor
    series: Tensor


class Sizes(NamedTuple):
    """The channels of `Inputs`, and the series that have parameters of their own.

    past, guesses, ahead, static: C, K, A and N.
    hidden_past: how many channels of past belong to past covariates: not known in the horizon.
    series: series of fit, S.
    """

    past: int
    guesses: int
    ahead: int
    static: int
    hidden_past: int
    series: int


class Network(Protocol):
    """What every model of forecasting is: a module with these two."""

    def __call__(self, *inputs: Tensor) -> Float[Tensor, "B H Q"]:
        """Quantiles in scaled units, ascending, of `Inputs`."""

    def loss(self, inputs: Inputs, target: Float[Tensor, "B H"]) -> Loss:
        """The loss of scaled targets; NaN is a target that is missing."""


def start(cell: Cell) -> str:
    """How the LSTMs start: remembering, where there is a forget gate."""
    return "forget_bias" if cell.forget else "torch"


class Encoder(nn.Module):
    """The stack of LSTM layers that reads a sequence, with dropout between them.

    Args:
        size: channels of the input.
        config: hidden, dilations, residual, attention, dropout.
        cell: the variant of the LSTM.
    """

    def __init__(self, size: int, config: Config, cell: Cell) -> None:
        super().__init__()
        P = cell.projection or config.hidden
        init = start(cell)
        self.layers = nn.ModuleList(
            LSTM(P if k else size, config.hidden, batch_first=True, cell=cell, dilation=d, init=init)
            for k, d in enumerate(config.dilations)
        )
        self.residual, self.drop = config.residual, nn.Dropout(config.dropout)
        self.look = nn.ModuleList(nn.Linear(P, P) for _ in range(3 if config.attention else 0))

    def forward(self, x: Float[Tensor, "B T C"], seen: Float[Tensor, "B T"], every: bool = False) -> Tensor:
        """The last output [B, P], or the outputs of every step [B, T, P].

        Args:
            x: the sequence.
            seen: 1 where a step is observed; attention looks at these only.
            every: whether to return all steps.
        """
        for k, layer in enumerate(self.layers):
            y, _ = layer(x)
            y = x + y if k and self.residual else y
            x = self.drop(y) if k < len(self.layers) - 1 else y
        own = x if every else x[:, -1:]
        if self.look:
            q, k, v = (f(z) for f, z in zip(self.look, (own, x, x), strict=True))
            before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()[-own.shape[1] :]
            mask = before & (seen[:, None, :] > 0)
            mask = mask | (before & ~mask.any(-1, keepdim=True))  # where nothing is observed yet, look anywhere: no NaN
            own = own + F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return own if every else own[:, 0]


def spread(median: Float[Tensor, "*N"], widths: Float[Tensor, "*N R"], below: int) -> Float[Tensor, "*N Q"]:
    """Quantiles that never cross: from the median outwards by the softplus of the widths. Q = R + 1, below of them below."""
    w = F.softplus(widths - NARROW)
    lower = w[..., :below].flip(-1).cumsum(-1).flip(-1)
    return torch.cat([median[..., None] - lower, median[..., None], median[..., None] + w[..., below:].cumsum(-1)], -1)


def pinball(
    levels: Sequence[float], made: Float[Tensor, "*N Q"], target: Float[Tensor, "*N"], seen: Tensor | None = None
) -> Loss:
    """Quantile loss, mean over the quantiles, doubled so that the median's part is the absolute error. Koenker & Bassett 1978.

    Counted is what was seen, bool, [*N]: by default what is finite. A NaN that counts makes the loss NaN, which the loop reports.
    """
    seen = torch.isfinite(target) if seen is None else seen
    off = torch.where(seen, target, 0)[..., None] - made
    q = torch.tensor(levels, device=made.device)
    each = 2 * torch.maximum(q * off, (q - 1) * off).mean(-1)
    return Loss(torch.where(seen, each, 0).sum(), seen.sum())


def quiet(layer: nn.Linear) -> nn.Linear:
    """Start a last layer near zero: the first forecast is then the plain one that the network corrects."""
    with torch.no_grad():
        layer.weight.uniform_(-0.02, 0.02)
        layer.bias.zero_()
    return layer


class Direct(nn.Module):
    """Quantiles of the next H steps of many series, in scaled units. They never cross.

    The encoder reads the context; its last output starts the decoder, which sees the guesses of one step ahead after another:

        median_k = sum_j softmax(a_k)_j guess_kj + u r_k     a mixture of simple forecasts, and a correction
        q_k      = median_k -+ u * sums of softplus(w_k)     outwards, so that order is kept by construction

    The unit u is 1, and less for a series that repeats itself (see `Window.static`): that one gets narrow intervals.

    Args:
        config: a resolved Config.
        sizes: channels of the inputs.
        cell: the variant of both LSTMs.
    """

    def __init__(self, config: Config, sizes: Sizes, cell: Cell) -> None:
        super().__init__()
        H, P, K, Q = config.hidden, cell.projection or config.hidden, sizes.guesses, len(config.quantiles)
        self.levels, self.below, self.split = config.quantiles, config.quantiles.index(0.5), (P, H)
        self.encoder = Encoder(sizes.past + sizes.static, config, cell)
        self.bridge = nn.Linear(P + sizes.static, P + H)
        self.decoder = LSTM(2 * K + 2 + sizes.ahead + sizes.static, H, batch_first=True, cell=cell, init=start(cell))
        self.drop = nn.Dropout(config.dropout)
        self.inner, self.outer = nn.Linear(P, H), quiet(nn.Linear(H, K + Q))

    def forward(
        self, past: Float[Tensor, "B L C"], guesses: Float[Tensor, "B H K"], known: Float[Tensor, "B H K"],
        ahead: Float[Tensor, "B H A"], static: Float[Tensor, "B N"], scale: Float[Tensor, "B"] | None = None,
        series: Tensor | None = None,
    ) -> Float[Tensor, "B H Q"]:  # fmt: skip
        """Forecast quantiles in scaled units; the arguments are those of `Inputs`, of which scale and series are not used."""
        (B, L, _), (_, H, K) = past.shape, guesses.shape
        read = self.encoder(torch.cat([past, static[:, None].expand(B, L, -1)], -1), past[..., 2])
        h, c = torch.tanh(self.bridge(torch.cat([read, static], -1))).split(self.split, -1)
        k = torch.arange(1, H + 1, device=past.device, dtype=past.dtype)
        place = torch.stack([k / H, 1 / k], -1).expand(B, H, 2)
        x = torch.cat([guesses, known, place, ahead, static[:, None].expand(B, H, -1)], -1)
        y, _ = self.decoder(x, (h[None].contiguous(), c[None].contiguous()))
        out = self.outer(F.silu(self.inner(self.drop(y))))  # [B, H, K + Q]
        mix = torch.softmax(out[..., :K].masked_fill(known == 0, -torch.inf), -1)
        u = static[:, STATIC - 1, None, None].exp()
        return (mix * guesses).sum(-1, keepdim=True) + u * spread(out[..., K], out[..., K + 1 :], self.below)

    def loss(self, inputs: Inputs, target: Float[Tensor, "B H"]) -> Loss:
        """Pinball loss in scaled units."""
        return pinball(self.levels, self(*inputs), target)
