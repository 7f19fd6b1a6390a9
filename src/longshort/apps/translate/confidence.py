"""How sure one may be of a translation: what speaks against it, and one number from that. NumPy only.

All signs are 0 where nothing is suspicious:

    unsure      -log-probability of a token in the mean, the end included
    uncovered   how much of the source was passed over: the mean over its tokens of max(0, 1 - a / FAIR), where a is the attention
                that a token had in all steps
    looped      share of the tokens that repeat what was just said, or a longer run from anywhere before; less the source's share
    copied      share of the words that stand in runs of RUN or more that the source has as well
    cut         1 if it only ended because it was too long

    confidence = 1 / (1 + exp(-(offset - sum of weight * sign)))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from longshort import logistic
from longshort.scripts import words

FAIR = 0.3  # attention in all steps that is enough for a source token
LONG = 4  # tokens of a run that nobody says twice
RUN = 3  # words in a row that are no names any more
MOST = 20.0  # unsure at most
LEAST = 50  # translations that a calibration needs
PRIOR = 1.0  # how much offset and weights hold on to what they are without calibration
SIGNS = ("unsure", "uncovered", "looped", "copied", "cut")


class Judged(Protocol):
    """What is judged: a `Hypothesis`, or what has these fields of it."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens without the end, T."""

    @property
    def token_logp(self) -> tuple[float, ...]:
        """Log-probability of each, and of the end."""

    @property
    def attention(self) -> NDArray:
        """To each source token, and to what else there is after them, float, [T + 1, S or more]."""

    @property
    def finished(self) -> bool:
        """Whether it ended by itself."""


class Confidence(NamedTuple):
    """How sure one may be.

    value: in [0, 1].
    signs: what speaks against the translation, by the names of `SIGNS`; each 0 or more.
    """

    value: float
    signs: dict[str, float]


@dataclass(frozen=True)
class Calibration:
    """What the signs weigh.

    Without `fit` the value is an order of merit: the numbers were chosen so that a translation whose tokens have a probability of
    0.6 in the mean gets about 0.85, one of 0.3 about 0.5, and a quarter of the sentence passed over, looped or copied takes it
    down by as much as a probability that is 1.5 to 4.5 times lower. With `fit` it is the quality that is to be expected.

    Args:
        offset: confidence where nothing is suspicious, as a logit.
        weights: of each sign, by name.

    Raises:
        ValueError: other signs are weighed.
    """

    offset: float = 3.0
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"unsure": 2.5, "uncovered": 4.0, "looped": 15.0, "copied": 6.0, "cut": 2.0}
    )

    def __post_init__(self) -> None:
        if set(self.weights) != set(SIGNS):
            raise ValueError(f"weights must be those of {', '.join(SIGNS)}, got {', '.join(sorted(self.weights))}.")

    def __call__(self, signs: Mapping[str, float]) -> float:
        """Confidence from signs."""
        x = self.offset - sum(self.weights[name] * signs[name] for name in SIGNS)
        return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))

    @classmethod
    def fit(cls, signs: Sequence[Mapping[str, float]], quality: Sequence[float]) -> Calibration:
        """Calibrate on translations whose quality is known.

        Args:
            signs: of each translation, N of them.
            quality: of each, in [0, 1]: chrF / 100 for example.

        Returns:
            The offset and weights of the least cross-entropy, held by a prior at what they are without calibration, so that signs
            which were not seen keep their weight; just that where there are fewer than 50.

        Raises:
            ValueError: the counts differ, or a quality lies outside.
        """
        plain, y = cls(), np.asarray(quality, float)
        if len(y) != len(signs) or not ((y >= 0) & (y <= 1)).all():
            raise ValueError(f"quality must be one number in [0, 1] for each of {len(signs)} translations, got {len(y)} of them"
                             f"{f' from {y.min()} to {y.max()}' if len(y) else ''}.")  # fmt: skip
        if len(y) < LEAST:
            return plain
        X = np.array([[1.0, *(-s[name] for name in SIGNS)] for s in signs])  # [N, 6]
        start = np.array([plain.offset, *(plain.weights[name] for name in SIGNS)])
        w = logistic.fit(X, y, start, PRIOR)
        return cls(float(w[0]), {name: float(v) for name, v in zip(SIGNS, w[1:], strict=True)})


def judge(
    found: Judged, source: Sequence[int], source_pieces: Sequence[str], target_pieces: Sequence[str],
    calibration: Calibration = Calibration(),
) -> Confidence:  # fmt: skip
    """How sure one may be of a translation.

    Args:
        found: the translation.
        source: the source's tokens, without the end, S of them.
        source_pieces: text of each token of the source language; "▁" begins a word.
        target_pieces: of the target language.
        calibration: what the signs weigh.
    """
    said = [_words([pieces[k] for k in of]) for of, pieces in ((source, source_pieces), (found.tokens, target_pieces))]
    signs = {
        "unsure": min(-float(np.mean(found.token_logp)), MOST),
        "uncovered": uncovered(found.attention[:, : len(source)]),
        "looped": max(0.0, looped(found.tokens) - looped(source)),
        "copied": copied(*said),
        "cut": float(not found.finished),
    }
    return Confidence(calibration(signs), signs)


def uncovered(attention: NDArray) -> float:
    """How much of the source was passed over, in [0, 1].

    Args:
        attention: to each source token at each step, float, [T, S].

    Source: Tu et al. 2016, Modeling coverage for neural machine translation, on under-translation; Wu et al. 2016, section 7.
    """
    if not attention.shape[1]:
        return 0.0
    return float(np.maximum(0, 1 - attention.sum(0, dtype=np.float64) / FAIR).mean())


def looped(tokens: Sequence[int]) -> float:
    """Share of the tokens that say again what was said `lag` tokens before, in a run of at least min(lag, 4) tokens; of two where
    one token is said again and again."""
    x = np.asarray(tokens)
    said = np.zeros(len(x), bool)
    for lag in range(1, len(x)):
        said[lag:] |= _in_runs(x[lag:] == x[:-lag], min(max(lag, 2), LONG))
    return float(said.mean()) if len(x) else 0.0


def copied(source: Sequence[str], target: Sequence[str]) -> float:
    """Share of the target's words that stand in runs of `RUN` or more words that the source has as well."""
    numbers = {w: k for k, w in enumerate({*source, *target})}
    a, b = (np.array([numbers[w] for w in words], int) for words in (source, target))
    taken = np.zeros(len(b), bool)
    for shift in range(-len(a) + 1, len(b)):  # the source's first word lies on word `shift` of the target
        low, high = max(0, shift), min(len(b), shift + len(a))
        taken[low:high] |= _in_runs(b[low:high] == a[low - shift : high - shift], RUN)
    return float(taken.mean()) if len(b) else 0.0


def _in_runs(same: NDArray, least: int) -> NDArray:
    """Which lie in runs of at least so many, bool, [N]."""
    if np.count_nonzero(same) < least:
        return np.zeros(len(same), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
    made = np.zeros(len(same), bool)
    for start, end in edges.reshape(-1, 2):
        made[start:end] = end - start >= least
    return made


def _words(pieces: Sequence[str]) -> list[str]:
    """The words of some pieces; in scripts without spaces each character is one."""
    return words("".join(pieces).replace("▁", " "))
