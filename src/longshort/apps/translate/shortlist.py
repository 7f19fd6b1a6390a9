"""Which tokens may translate which: counted from aligned pairs, so that the output layer need not look at all. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longshort.apps.translate.vocabulary import EOS

ROUNDS = 4  # of expectation maximisation
MOST = 20_000_000  # pairs of a source and a target token that are counted: some 1 GB


def shortlist(
    source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], read: int, written: int, size: int
) -> NDArray[np.int32]:
    """For each source token those that translate it most probably, by IBM's model 1 (Brown et al. 1993).

    Args:
        source: tokens of each sentence.
        target: tokens of each translation.
        read: how many source tokens there are.
        written: how many target tokens there are.
        size: K, tokens per source token at most.

    Returns:
        int32, [read, K], the most probable first, -1 where there are no more. The row of EOS, which every sentence has, holds the
        most frequent ones.
    """
    step = max(1, -(-sum((len(s) + 1) * len(t) for s, t in zip(source, target, strict=True)) // MOST))
    pairs = [(np.array([*s, EOS]), np.array(t)) for s, t in zip(source[::step], target[::step], strict=True) if len(t)]
    made = np.full((read, size), -1, np.int32)
    if not pairs:
        return made
    codes = np.concatenate([(s[None] * written + t[:, None]).ravel() for s, t in pairs])  # target by target, its sources together
    many = np.concatenate([np.full(len(t), len(s)) for s, t in pairs])  # sources of each target
    code, at = np.unique(codes, return_inverse=True)
    begin = np.concatenate([[0], np.cumsum(many)[:-1]])
    of = code // written
    p = np.ones(len(code))
    for _ in range(ROUNDS):
        share = p[at]
        share /= np.repeat(np.add.reduceat(share, begin), many)
        counts = np.bincount(at, share, len(code))
        p = counts / np.bincount(of, counts, read)[of]
    order = np.lexsort((-p, of))
    first = np.searchsorted(of[order], np.arange(read))
    rank = np.arange(len(order)) - first[of[order]]
    kept = rank < size
    made[of[order][kept], rank[kept]] = (code % written)[order][kept]
    often = np.argsort(-np.bincount(np.concatenate([t for _, t in pairs]), minlength=written), kind="stable")[:size]
    made[EOS, : len(often)] = often
    return made
