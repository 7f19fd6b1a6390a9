"""A layer with dilation d as d interleaved layers without: [T, B] folds into [T/d, d*B], a view where d divides T.

Phase k holds the steps k, k + d, k + 2d, ...; a state has d rows in the order in which the coming steps see them.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Dilation:
    """The fold of one layer and direction.

    Args:
        d: the dilation; step t sees step t - d.
        T: steps.
        B: sequences.
        reverse: whether the layer runs from the end of each sequence.
    """

    def __init__(self, d: int, T: int, B: int, reverse: bool = False) -> None:
        self.d, self.T, self.B, self.reverse = d, T, B, reverse

    def fold(self, v: Tensor) -> Tensor:
        """[T, B, *] to [ceil(T/d), d*B, *], padded with zeros."""
        short = -self.T % self.d
        if short:
            v = torch.cat([v, v.new_zeros(short, *v.shape[1:])])
        return v.reshape((self.T + short) // self.d, self.d * self.B, *v.shape[2:])

    def unfold(self, v: Tensor) -> Tensor:
        """[ceil(T/d), d*B, *] to [T, B, *]."""
        return v.reshape(v.shape[0] * self.d, self.B, *v.shape[2:])[: self.T]

    def fold_all(self, x: Tensor, lengths: Tensor | None, resets: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Input, lengths and resets of the folded layer. A reset at t holds for the d steps that would look across it."""
        folded = None
        if lengths is not None or self.T % self.d:
            n = torch.full((self.B,), self.T, device=x.device) if lengths is None else lengths
            k = torch.arange(self.d, device=x.device)[:, None]
            folded = ((n - k + self.d - 1) // self.d).clamp(min=0).reshape(-1)  # [d*B]
        if resets is not None:
            across = self._across(resets, lengths)
            resets = self.fold(across[self.d :] if self.reverse else across[: self.T])
        return self.fold(x), folded, resets

    def enter(self, s: Tensor, lengths: Tensor | None) -> Tensor:
        """Initial state: rows [d, B, *] in the order of the first steps, to phases [d*B, *]."""
        if self.reverse:
            s = self._take(s, (self.T if lengths is None else lengths) - 1 - self._k(s), lengths is None)
        return s.reshape(self.d * self.B, *s.shape[2:])

    def leave(self, s: Tensor, lengths: Tensor | None, resets: Tensor | None) -> Tensor:
        """Final state: phases [d*B, *] to rows [d, B, *] in the order of the steps to come; zero where a reset lies between."""
        s = s.reshape(self.d, self.B, *s.shape[1:])
        n = self.T if lengths is None else lengths
        if self.reverse:
            s = s.flip(0)
        else:
            s = self._take(s, n + self._k(s), lengths is None)
        if resets is None:
            return s
        across = self._across(resets, lengths)
        if self.reverse:
            lost = across[: self.d].flip(0)
        else:
            lost = across.gather(0, (n + self._k(s)).expand(self.d, self.B))
        return torch.where(lost[..., None], 0, s)

    def _k(self, s: Tensor) -> Tensor:
        return torch.arange(self.d, device=s.device)[:, None]  # [d, 1]

    def _take(self, s: Tensor, index: Tensor, same: bool) -> Tensor:
        """Row index[j, b] modulo d of s [d, B, *] for each row j and sequence b; `same` if all sequences agree."""
        index = index % self.d
        return s[index[:, 0]] if same else s.gather(0, index[..., None].expand_as(s))

    def _across(self, resets: Tensor, lengths: Tensor | None) -> Tensor:
        """Whether a reset lies between each step and the one it sees, bool; d virtual steps follow the last one:
        [T + d, B], of which they are the last d, or in reverse the first."""
        if lengths is not None:
            resets = resets & (torch.arange(self.T, device=resets.device)[:, None] < lengths)
        none = resets.new_zeros(self.d, self.B)
        r = torch.cat([resets.flip(0) if self.reverse else resets, none]).to(torch.int32)
        seen = r.cumsum(0)
        across = (seen - torch.cat([none.to(seen.dtype), seen[: -self.d]])) > 0
        return across.flip(0) if self.reverse else across
