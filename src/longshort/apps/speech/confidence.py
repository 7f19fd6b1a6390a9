"""How probable it is that a word is right: from the probabilities of its tokens, put right on held-out words. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longshort import logistic

LEAST = 20  # held-out words that are needed
FLOOR = 1e-4  # confidences lie this far from 0 and 1
PRIOR = np.array([1.0, 0.1])  # how much slope and offset hold on to 1 and 0: few errors on few words say little


@dataclass(frozen=True)
class Calibration:
    """confidence = sigmoid(slope * x + offset), where x = logit(p) and p is the probability of the word's least probable token.

    slope and offset are those that make the right and wrong words of held-out recordings most likely, with a prior at 1 and 0.

    Args:
        slope: 0 or more.
        offset: any.

    Source: Platt 1999, Probabilistic outputs for support vector machines (with his smoothed targets); Oneata et al. 2021 compare
    aggregates of token confidences, the minimum among the best.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, logps: Sequence[float]) -> float:
        """Confidence of a word with tokens of these natural log-probabilities."""
        x = self.slope * _logit(np.array([min(logps)]))[0] + self.offset
        return min(max(1 / (1 + math.exp(-x)), FLOOR), 1 - FLOOR)

    @classmethod
    def fit(cls, least: Sequence[float], right: Sequence[bool]) -> Calibration:
        """Calibrate.

        Args:
            least: natural log-probability of each word's least probable token, [N].
            right: whether the word was right, [N].

        Returns:
            The calibration; the identity where fewer than 20 words are given.
        """
        if len(least) < LEAST:
            return cls()
        x, y = _logit(np.array(least)), np.array(right, float)
        n = y.sum()
        y = np.where(y > 0, (n + 1) / (n + 2), 1 / (len(y) - n + 2))
        a, b = logistic.fit(np.stack([x, np.ones_like(x)], 1), y, np.array([1.0, 0.0]), PRIOR)
        if a <= 0:  # surer words are not right more often: each is as sure as all are on average
            return cls(0.0, float(np.log((n + 1) / (len(y) - n + 1))))
        return cls(float(a), float(b))


def _logit(logp: NDArray) -> NDArray:
    p = np.clip(np.exp(np.minimum(logp, 0.0)), FLOOR, 1 - FLOOR)
    return np.log(p) - np.log1p(-p)


def expected_error(confidence: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and share of right words, over bins of like confidence, in [0, 1].

    Source: Naeini et al. 2015, Obtaining well calibrated probabilities using Bayesian binning; Guo et al. 2017.
    """
    c, y = np.asarray(confidence, float), np.asarray(right, float)
    if not len(c):
        return 0.0
    k = np.minimum((c * bins).astype(int), bins - 1)
    n = np.bincount(k, minlength=bins)
    off = np.abs(np.bincount(k, c, bins) - np.bincount(k, y, bins))
    return float(off[n > 0].sum() / len(c))
