"""ES-RNN: exponential smoothing for each series, and one dilated LSTM over all of them. Smyl 2020, A hybrid method of
exponential smoothing and recurrent neural networks for time series forecasting (the winner of the M4 competition)."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from longshort.apps.forecast.config import Config
from longshort.apps.forecast.model import Encoder, Inputs, Sizes, pinball, quiet, spread
from longshort.apps.forecast.window import PAST, STATIC
from longshort.cell import Cell
from longshort.task import Loss

LEAST = 1e-3  # smallest size of e, in scaled units
CYCLES = 3  # so many cycles, the first observed ones, tell where the seasons start
WILD = 50.0  # values and targets over the size of e are bounded by this, so that no step rules the loss
RATE = 3.0  # learning rate of the smoothing coefficients, as a multiple of the network's


class Smooth(NamedTuple):
    """A series taken apart, in scaled units.

    level: after each step, [B, T].
    season: of each step and the H that follow, as known one season before, [B, T + H]; of several seasons the sum.
    ahead: season of the H steps after each step, as known then, [B, T, H].
    size: mean |e| of the steps up to each one, where e is what it would be had the step not helped to start the seasons, [B, T].
    """

    level: Tensor
    season: Tensor
    ahead: Tensor
    size: Tensor


class ESRNN(nn.Module):
    """Smooth first, then forecast what is left.

        e_t = z_t - x_t w - l_{t-1} - s_t   z: scaled values, or their logarithms (Config.multiplicative: seasons are factors)
        l_t = l_{t-1} + alpha e_t           alpha, gamma: one of each per series, learned with the network; the mean for new ones
        s_{t+m} = s_t + gamma e_t           for each season m, zero, one or two of them
        x_t w                               what covariates that are known ahead and the calendar do, the same to all series

    At every step t the LSTM sees the last `inputs` values without season, less the level, and gives quantiles of the H values
    that follow, less level and season, both over the mean size of e so far; every step after the cycles that start the seasons
    is a training example. Whatever is scaled by the whole context must not be seen: at an early step it would tell how much is
    still to come.

    Args:
        config: a resolved Config.
        sizes: channels of the inputs.
        cell: the variant of the LSTM.
    """

    def __init__(self, config: Config, sizes: Sizes, cell: Cell) -> None:
        super().__init__()
        self.levels, self.below, self.penalty = config.quantiles, config.quantiles.index(0.5), config.level_penalty
        self.seasons, self.window = tuple(m for m in config.seasons if m > 1), cast(int, config.inputs)
        self.horizon, P = config.horizon, cell.projection or config.hidden
        self.alpha = nn.Parameter(torch.zeros(sizes.series))  # before the sigmoid
        self.gamma = nn.Parameter(torch.full((sizes.series, len(self.seasons)), -1.5))
        self.effect = nn.Parameter(torch.zeros(sizes.ahead))  # w, of logarithms not scaled
        self.alpha.rate = self.gamma.rate = self.effect.rate = RATE  # type: ignore[attr-defined]
        self.log = bool(config.multiplicative)
        extra = sizes.past - PAST + sizes.static - STATIC + config.horizon * sizes.ahead
        self.encoder = Encoder(self.window + 1 + extra, config, cell)
        self.inner = nn.Linear(P, config.hidden)
        self.outer = quiet(nn.Linear(config.hidden, config.horizon * len(config.quantiles)))

    def forward(
        self, past: Float[Tensor, "B L C"], guesses: Float[Tensor, "B H K"], known: Float[Tensor, "B H K"],
        ahead: Float[Tensor, "B H A"], static: Float[Tensor, "B N"], scale: Float[Tensor, "B"],
        series: Tensor,
    ) -> Float[Tensor, "B H Q"]:  # fmt: skip
        """Forecast quantiles in scaled units; the arguments are those of `Inputs`."""
        inputs, effect = self.explained(Inputs(past, guesses, known, ahead, static, scale, series))
        smooth = self.smooth(inputs)
        made = self.network(inputs, smooth, every=False)
        return made * smooth.size[:, -1, None, None] + (smooth.level[:, -1:] + smooth.ahead[:, -1] + effect)[..., None]

    def loss(self, inputs: Inputs, target: Float[Tensor, "B H"]) -> Loss:
        """Pinball loss over the last size of e, at every step of the context that has seen enough, plus the level's bend.

        Enough are the cycles that the seasons were started from: a season that was made of what follows would foretell it. In a
        shorter context only the last step learns.
        """
        inputs, effect = self.explained(inputs)
        smooth = self.smooth(inputs)
        made = self.network(inputs, smooth, every=True)  # [B, T, H, Q]
        z, seen = inputs.past[..., 0], inputs.past[..., 2] > 0
        z = torch.cat([torch.where(seen, z, torch.nan), target - effect], 1)
        future = z[:, 1:].unfold(1, self.horizon, 1)  # [B, T, H]
        there = torch.isfinite(future)
        future = torch.where(there, future, 0)  # a NaN divided by size has a NaN for its gradient, masked or not
        want = ((future - smooth.level[..., None] - smooth.ahead) / smooth.size[..., None]).clamp(-WILD, WILD)
        begun = seen.cumsum(1)
        ready = (begun >= min(self.window, 4)) & (begun >= begun[:, -1:].clamp(max=CYCLES * max(self.seasons, default=0)))
        share = (smooth.size / smooth.size[:, -1:]).detach()[..., None]  # a step that has seen small errors only does not rule
        loss = pinball(self.levels, made * share[..., None], want * share, there & ready[..., None])
        if not self.penalty:
            return loss
        bend = smooth.level.diff(dim=1).diff(dim=1).square().mean()
        return Loss(loss.total + self.penalty * bend * loss.elements, loss.elements)

    def explained(self, inputs: Inputs) -> tuple[Inputs, Float[Tensor, "B H"]]:
        """The inputs without what the covariates did to the values so far; and what they will do in the horizon."""
        C, A = inputs.past.shape[2], inputs.ahead.shape[2]
        unit = inputs.scale[:, None] if self.log else 1
        value, rest = inputs.past[..., 0], inputs.past[..., 1:]
        value = value - (inputs.past[..., C - A :] @ self.effect) / unit * inputs.past[..., 2]
        return inputs._replace(past=torch.cat([value[..., None], rest], -1)), (inputs.ahead @ self.effect) / unit

    def network(self, inputs: Inputs, smooth: Smooth, every: bool) -> Tensor:
        """Quantiles less level and season, over size: of the last step [B, H, Q], or of all [B, T, H, Q]."""
        (B, T, _), W, H = inputs.past.shape, self.window, self.horizon
        seen = inputs.past[..., 2]
        left = (inputs.past[..., 0] - smooth.season[:, :T]) * seen + smooth.level * (1 - seen)  # a gap holds the level
        left = torch.cat([left[:, :1].expand(B, W - 1), left], 1).unfold(1, W, 1) - smooth.level[..., None]
        left = (left / smooth.size[..., None]).clamp(-WILD, WILD)
        size = torch.log(smooth.size * inputs.scale[:, None]) / 4 if self.log else torch.zeros_like(seen)  # a share, or no unit
        future = torch.cat([inputs.past[..., inputs.past.shape[2] - inputs.ahead.shape[2] :], inputs.ahead], 1)
        future = future[:, 1:].unfold(1, H, 1).flatten(2)  # [B, T, A * H]
        static = inputs.static[:, None, STATIC:].expand(B, T, -1)
        x = torch.cat([left, size[..., None], inputs.past[..., PAST:], future, static], -1)
        out = self.outer(F.silu(self.inner(self.encoder(x, seen, every)))).unflatten(-1, (H, len(self.levels)))
        return spread(out[..., 0], out[..., 1:], self.below)

    def smooth(self, inputs: Inputs) -> Smooth:
        """Level and seasons along the context."""
        z, seen = inputs.past[..., 0], inputs.past[..., 2]
        (B, T), H, longest = z.shape, self.horizon, max(self.seasons, default=1)
        alpha, gamma = self.coefficients(inputs.series)
        start, own = first_seasons(z, seen, self.seasons)
        rings = [list(s.unbind(1)) for s in start]
        begun = seen.cumsum(1)
        early = ((begun <= longest) & (seen > 0)).to(z.dtype)
        level = ((z - sum(s[:, torch.arange(T) % m] for s, m in zip(start, self.seasons, strict=True))) * early).sum(1)
        level = level / early.sum(1).clamp(min=1)
        gains, values, there = gamma.unbind(1), z.unbind(1), seen.unbind(1)
        levels, seasons, errors = [], [], []
        for t in range(T):
            now = [ring[t % len(ring)] for ring in rings]
            e = (values[t] - level - sum(now)) * there[t]
            level = level + alpha * e
            for ring, s, gain in zip(rings, now, gains, strict=True):
                ring[t % len(ring)] = s + gain * e
            levels.append(level)
            errors.append((e + own[:, t]).abs() * there[t])
            seasons.append(torch.stack(now, 1) if now else z.new_zeros(B, 0))
        ends = [torch.stack([ring[(T + k) % m] for k in range(max(H, m))], 1)
                for ring, m in zip(rings, self.seasons, strict=True)]  # fmt: skip
        past = torch.stack(seasons, 1)  # [B, T, seasons]
        total, ahead = z.new_zeros(B, T + H), z.new_zeros(B, T, H)
        for k, (m, end) in enumerate(zip(self.seasons, ends, strict=True)):
            known = torch.cat([past[..., k], end], 1)
            total = total + known[:, : T + H]
            phase = torch.arange(H, device=z.device) % m
            ahead = ahead + known[:, 1 : T + m].unfold(1, m, 1)[:, :, phase]  # row t: steps t + 1 ... t + m as known at t
        size = (torch.stack(errors, 1).cumsum(1) / begun.clamp(min=1)).clamp(min=LEAST)
        return Smooth(torch.stack(levels, 1), total, ahead, size)

    def coefficients(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """alpha [B] and gamma [B, seasons] of some series; of new ones (-1) the mean."""
        old, at = series >= 0, series.clamp(min=0)
        alpha = torch.where(old, self.alpha[at], self.alpha.mean())
        gamma = torch.where(old[:, None], self.gamma[at], self.gamma.mean(0))
        return torch.sigmoid(alpha), torch.sigmoid(gamma)


def first_seasons(z: Tensor, seen: Tensor, seasons: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Where each season starts, [B, m]: mean deviation of each phase in the first observed cycles, less what changes from cycle
    to cycle where there are two; of a longer season 0 where there is not even one; shorter seasons first. And how far each step
    has moved the seasons towards itself, [B, T]: what was seen once fits wholly, and tells nothing of errors."""
    made: dict[int, Tensor] = {}
    rest, T, own = z, z.shape[1], torch.zeros_like(z)
    t = torch.arange(T, device=z.device)
    for m in sorted(seasons):
        w = seen * (seen.cumsum(1) <= CYCLES * m)
        phase, n = t % m, w.sum(1, keepdim=True)
        x = (t - (w * t).sum(1, keepdim=True) / n.clamp(min=1)) * w
        center = (rest * w).sum(1, keepdim=True) / n.clamp(min=1)
        pairs = w[:, m:] * w[:, :-m] * (n >= 2 * m)
        slope = ((rest[:, m:] - rest[:, :-m]) * pairs).sum(1, keepdim=True) / (m * pairs.sum(1, keepdim=True)).clamp(min=1)
        off = (rest - center - slope * x) * w * (n >= m if made else 1)
        total, count = (z.new_zeros(len(z), m).index_add(1, phase, v) for v in (off, w))
        s = total / count.clamp(min=1)
        others = (total[:, phase] - off) / (count[:, phase] - 1).clamp(min=1)
        own = own + (s[:, phase] - others) * w
        made[m], rest = s, rest - s[:, phase]
    return [made[m] for m in seasons], own
