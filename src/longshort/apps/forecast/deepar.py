"""DeepAR: the distribution of the next step, walked along sample paths. Salinas, Flunkert, Gasthaus & Januschowski 2020."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import NegativeBinomial, Normal, StudentT

from longshort.apps.forecast.config import Config
from longshort.apps.forecast.model import Inputs, Sizes, quiet, start
from longshort.apps.forecast.window import PAST, READ
from longshort.cell import Cell
from longshort.nn import LSTM
from longshort.task import Loss

SEED = 20_97  # of the noise of forecasts: the same window always gets the same forecast
LEAST = 1e-3  # smallest spread of a distribution, in scaled units: a constant series must not have infinite density


class DeepAR(nn.Module):
    """An autoregressive LSTM. At step t it sees the value before it, values some lags ago, covariates, and says

        student_t           z_t ~ loc + s * T(df), s = softplus, df > 2
        normal              z_t ~ N(loc, s)
        negative_binomial   y_t ~ NB(mean mu, variance mu + alpha mu^2), mu = softplus * scale; y in units of the data

    in training for every step of context and horizon; in forecasting it draws a value, and goes on from there.

    Args:
        config: a resolved Config.
        sizes: channels of the inputs.
        cell: the variant of the LSTM.
    """

    def __init__(self, config: Config, sizes: Sizes, cell: Cell) -> None:
        super().__init__()
        self.levels, self.samples, self.family = config.quantiles, config.samples, config.distribution
        self.lags, self.hidden_past = lags(config), sizes.hidden_past
        size = 2 * len(self.lags) + (sizes.past - PAST) + sizes.static
        self.lstm = LSTM(size, config.hidden, len(config.dilations), batch_first=True, cell=cell, dilation=config.dilations,
                         dropout=config.dropout if len(config.dilations) > 1 else 0.0, init=start(cell))  # fmt: skip
        self.outer = quiet(nn.Linear(cell.projection or config.hidden, 3))

    def forward(
        self, past: Float[Tensor, "B L C"], guesses: Float[Tensor, "B H K"], known: Float[Tensor, "B H K"],
        ahead: Float[Tensor, "B H A"], static: Float[Tensor, "B N"], scale: Float[Tensor, "B"],
        series: Tensor | None = None,
    ) -> Float[Tensor, "B H Q"]:  # fmt: skip
        """Quantiles of the sample paths, in scaled units; the arguments are those of `Inputs`."""
        paths = self.paths(Inputs(past, guesses, known, ahead, static, scale, cast(Tensor, series)), self.samples, SEED)
        q = torch.tensor(self.levels, dtype=paths.dtype, device=paths.device)
        return torch.quantile(paths, q, 1).permute(1, 2, 0)

    def paths(self, inputs: Inputs, n: int, seed: int) -> Float[Tensor, "B n H"]:
        """n sample paths of each row, in scaled units. Rows share the noise, so that none depends on its neighbours."""
        (B, L, _), H = inputs.past.shape, inputs.ahead.shape[1]
        z, seen = inputs.past[..., 0], inputs.past[..., 2]
        x = self.channels(inputs, z, seen)
        out, state = self.lstm(x[:, :L])
        rows = B if self.family == "negative_binomial" else 1  # counts are drawn row by row, see `draw`
        noise = [torch.Generator(z.device).manual_seed(seed) for _ in range(rows)]
        many = (B, n)
        state = cast(tuple[Tensor, Tensor], tuple(v.repeat_interleave(n, 1) for v in state))
        most = max(self.lags)
        z, seen = (F.pad(v, (max(most - L, 0), 0)).repeat_interleave(n, 0) for v in (z, seen))
        scale, made = inputs.scale.repeat_interleave(n), []
        out = out[:, -1].repeat_interleave(n, 0)
        for k in range(H):  # `out` has read everything before step k of the horizon
            value = self.draw(self.outer(out), scale, many, noise)
            made.append(value)
            if k == H - 1:
                break
            z, seen = torch.cat([z, value[:, None]], 1), F.pad(seen, (0, 1), value=1.0)
            back = [v[:, v.shape[1] - lag] for lag in self.lags for v in (z, seen)]
            rest = x[:, L + k, 2 * len(self.lags) :].repeat_interleave(n, 0)
            y, state = self.lstm(torch.cat([torch.stack(back, -1), rest], -1)[:, None], state)
            out = y[:, 0]
        return torch.stack(made, -1).reshape(B, n, H)

    def loss(self, inputs: Inputs, target: Float[Tensor, "B H"]) -> Loss:
        """Negative log-likelihood of every observed step of context and horizon."""
        there = torch.isfinite(target)
        z = torch.cat([inputs.past[..., 0], torch.where(there, target, 0)], 1)
        seen = torch.cat([inputs.past[..., 2], there.to(z.dtype)], 1)
        out, _ = self.lstm(self.channels(inputs, z, seen)[:, :-1])
        each = -self.density(self.outer(out), z[:, 1:], inputs.scale[:, None])
        return Loss(torch.where(seen[:, 1:] > 0, each, 0).sum(), seen[:, 1:].sum())

    def channels(self, inputs: Inputs, z: Tensor, seen: Tensor) -> Float[Tensor, "B T C"]:
        """What the LSTM sees before step t + 1, for each t: lagged values with their masks, covariates of t + 1, static ones.

        Past covariates are of step t, since those of t + 1 are not known. T = L + H; the values of the horizon may be absent.
        """
        (B, L, _), H = inputs.past.shape, inputs.ahead.shape[1]
        T, p = L + H, self.hidden_past
        z, seen = (F.pad(v, (0, T - v.shape[1])) for v in (z, seen))
        back = [F.pad(v, (lag - 1, 0))[:, :T] for lag in self.lags for v in (z, seen)]
        hidden = F.pad(inputs.past[..., PAST : PAST + p], (0, 0, 0, H))
        open_ = torch.cat([inputs.past[..., PAST + p :], inputs.ahead], 1)
        open_ = torch.cat([open_[:, 1:], open_[:, -1:]], 1)
        return torch.cat([torch.stack(back, -1), hidden, open_, inputs.static[:, None].expand(B, T, -1)], -1)

    def density(self, raw: Tensor, z: Tensor, scale: Tensor) -> Tensor:
        """Log-density of scaled values [B, T] under raw outputs [B, T, 3]."""
        a, b, d = raw.unbind(-1)
        if self.family == "negative_binomial":
            return self._counts(a, b, scale).log_prob(torch.round(z * scale).clamp(min=0))
        s = F.softplus(b) + LEAST
        return (Normal(a, s) if self.family == "normal" else StudentT(2 + F.softplus(d), a, s)).log_prob(z)

    def draw(self, raw: Tensor, scale: Tensor, many: tuple[int, int], noise: Sequence[torch.Generator]) -> Tensor:
        """One value for each of B * n paths, in scaled units. Counts take a changing number of random numbers, so each row has
        its own noise; otherwise there is one for all."""
        a, b, d = raw.unbind(-1)
        B, n = many
        if self.family == "negative_binomial":
            counts = self._counts(a, b, scale)
            each = zip(counts.total_count.split(n), torch.exp(counts.logits).split(n), noise, strict=True)
            return torch.cat([torch.poisson(torch._standard_gamma(k, g) * odds, g) for k, odds, g in each]) / scale
        s = F.softplus(b) + LEAST
        u = torch.rand(2, n, generator=noise[0], device=a.device).clamp(min=1e-7).repeat(1, B)  # [2, B * n]
        if self.family == "normal":
            return a + s * torch.sqrt(-2 * torch.log(u[0])) * torch.cos(2 * math.pi * u[1])
        df = 2 + F.softplus(d)  # Bailey 1994, Polar generation of random variates with the t-distribution
        return a + s * torch.sqrt(df * torch.expm1(-2 / df * torch.log(u[0]))) * torch.cos(2 * math.pi * u[1])

    def _counts(self, a: Tensor, b: Tensor, scale: Tensor) -> NegativeBinomial:
        mean, alpha = (F.softplus(a) + 1e-6) * scale, F.softplus(b) + 1e-4
        return NegativeBinomial(1 / alpha, logits=torch.log(alpha * mean))


def lags(config: Config) -> tuple[int, ...]:
    """How far back each step looks: 1 to 3 steps, and around each season, as far as the LSTM reads."""
    near = {k for m in config.seasons if m > 1 for k in (m - 1, m, m + 1)}
    return tuple(sorted({1, 2, 3} | {k for k in near if 0 < k <= min(cast(int, config.context), READ)}))
