"""Word and character error rates, how sure they are, and where the errors are. NumPy only.

Shapes: n utterances. Rates are fractions (0.05 is 5 percent) of what stands in the references; they can exceed 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[str]
Pair = tuple[str | None, str | None]  # (said, heard): None on the left is an insertion, None on the right a deletion


class Edits(NamedTuple):
    """One way to turn a reference into a hypothesis with the fewest edits.

    pairs: aligned tokens (reference, hypothesis) in order; a missing side is None.
    hits, substitutions, deletions, insertions: how many pairs of each kind.
    """

    pairs: list[Pair]
    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions: the Levenshtein distance."""
        return self.substitutions + self.deletions + self.insertions


def edits(reference: Tokens, hypothesis: Tokens) -> Edits:
    """Align two token lists with the fewest edits. Among equally short ways it takes the one that jiwer takes.

    Column by column of the table D of distances, its vertical differences +1 and -1 are the bits of two integers, so that
    a column costs a dozen operations on integers as long as the reference.

    Args:
        reference: what was said: words, or characters (a str will do), [m].
        hypothesis: what was recognised, [k].

    Source: Hyyrö 2003, A bit-vector algorithm for computing Levenshtein and Damerau edit distances.
    """
    head, tail = _shared(reference, hypothesis)
    ref, hyp = reference[head : len(reference) - tail], hypothesis[head : len(hypothesis) - tail]
    up, down = _columns(ref, hyp)
    back: list[Pair] = []
    i, j = len(ref), len(hyp)
    while i and j:
        bit = 1 << (i - 1)
        if up[j] & bit:  # D[i, j] = D[i-1, j] + 1
            i -= 1
            back.append((ref[i], None))
        elif down[j - 1] & bit:  # D[i, j-1] = D[i-1, j-1] - 1, so D[i, j] comes from there
            j -= 1
            back.append((None, hyp[j]))
        else:
            i, j = i - 1, j - 1
            back.append((ref[i], hyp[j]))
    back += [(ref[k], None) for k in range(i - 1, -1, -1)]
    back += [(None, hyp[k]) for k in range(j - 1, -1, -1)]
    deletions, insertions = sum(h is None for _, h in back), sum(r is None for r, _ in back)
    hits = head + tail + sum(r == h for r, h in back)
    same = [(t, t) for t in reference]
    pairs = [*same[:head], *reversed(back), *same[len(same) - tail :]]
    return Edits(pairs, hits, len(pairs) - hits - deletions - insertions, deletions, insertions)


def _shared(a: Tokens, b: Tokens) -> tuple[int, int]:
    """How many tokens at the start and, of the others, at the end are the same."""
    most = min(len(a), len(b))
    head = next((k for k in range(most) if a[k] != b[k]), most)
    return head, next((k for k in range(most - head) if a[-1 - k] != b[-1 - k]), most - head)


def _columns(ref: Tokens, hyp: Tokens) -> tuple[list[int], list[int]]:
    """Where the columns of D step up and down: bit i of entry j stands for D[i+1, j] - D[i, j]."""
    where: dict[str, int] = {}
    for i, token in enumerate(ref):
        where[token] = where.get(token, 0) | 1 << i
    mask = (1 << len(ref)) - 1
    vp, vn = mask, 0
    up, down = [vp], [vn]
    for token in hyp:
        x = where.get(token, 0) | vn
        d0 = (((x & vp) + vp) ^ vp) | x  # the diagonal differences that are 0
        hp = (vn | ~(vp | d0)) << 1 | 1  # horizontal +1; the row above the first grows by one per column
        vp, vn = ((vp & d0) << 1 | ~(hp | d0)) & mask, hp & d0 & mask
        up.append(vp)
        down.append(vn)
    return up, down


@dataclass(frozen=True, eq=False)
class Score:
    """The errors of a corpus, utterance by utterance.

    references, hypotheses: the token lists that were compared, n of each.
    counts: hits, substitutions, deletions, insertions per utterance, int64, [n, 4].
    """

    references: Sequence[Tokens]
    hypotheses: Sequence[Tokens]
    counts: NDArray[np.int64]

    @cached_property
    def errors(self) -> NDArray[np.int64]:
        """Errors per utterance, [n]."""
        return self.counts[:, 1:].sum(1)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens per reference, [n]."""
        return self.counts[:, :3].sum(1)

    @property
    def rate(self) -> float:
        """All errors over all reference tokens; NaN where there is no reference token."""
        return float(self.errors.sum() / n) if (n := self.tokens.sum()) else float("nan")

    def interval(
        self, rng: np.random.Generator, level: float = 95.0, draws: int = 1000, groups: Sequence[Hashable] | None = None
    ) -> tuple[float, float]:
        """Bootstrap confidence interval of the rate: utterances are drawn with replacement, as many as there are.

        Args:
            rng: source of the draws; the same seed gives the same interval.
            level: in percent.
            draws: resamples of the corpus.
            groups: what belongs together and is drawn together, such as the speaker of each utterance, [n]; None: nothing.

        Source: Bisani & Ney 2004, Bootstrap estimates for confidence intervals in ASR performance evaluation, section 3.
        """
        errors, tokens = _together(groups, self.errors, self.tokens)
        drawn = _ratio(*_resample(rng, draws, errors, tokens))
        return _middle(drawn, level)

    def worst(self, k: int = 10) -> list[int]:
        """Indices of the k utterances with the most errors; among equals the shorter reference first. None without an error."""
        order = np.lexsort((self.tokens, -self.errors))[:k]
        return [int(i) for i in order if self.errors[i]]

    def confusions(self, k: int = 10) -> list[tuple[Pair, int]]:
        """The k most frequent errors as ((said, heard), count): heard None was deleted, said None was inserted."""
        seen: Counter[Pair] = Counter()
        for i in map(int, np.flatnonzero(self.errors)):
            seen.update(p for p in edits(self.references[i], self.hypotheses[i]).pairs if p[0] != p[1])
        return sorted(seen.items(), key=lambda item: (-item[1], item[0][0] or "", item[0][1] or ""))[:k]


class Difference(NamedTuple):
    """How two systems differ on the same utterances.

    rate: rate of the second minus rate of the first: negative is better.
    low, high: its bootstrap confidence interval.
    improved: share of resamples in which the second made fewer errors ("probability of improvement").
    """

    rate: float
    low: float
    high: float
    improved: float


def compare(
    first: Score, second: Score, rng: np.random.Generator, level: float = 95.0, draws: int = 1000,
    groups: Sequence[Hashable] | None = None,
) -> Difference:  # fmt: skip
    """Is the second system better than the first? Both on the same draws of utterances, which tells much smaller differences.

    Args: as `Score.interval`.

    Raises:
        ValueError: the references differ.

    Source: Bisani & Ney 2004, section 4.
    """
    if list(first.references) != list(second.references):
        raise ValueError("two systems are compared on the same references in the same order, got different ones.")
    errors, tokens = _together(groups, second.errors - first.errors, first.tokens)
    drawn = _resample(rng, draws, errors, tokens)
    return Difference(second.rate - first.rate, *_middle(_ratio(*drawn), level), float((drawn[0] < 0).mean()))


def word_score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Compare texts word by word; words are what white space separates. No case folding, no punctuation removed.

    Args:
        references: what was said, n texts.
        hypotheses: what was recognised, n texts in the same order.

    Raises:
        ValueError: not as many hypotheses as references.
    """
    return _score(references, hypotheses, str.split)


def character_score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Compare texts character by character. The space between two words counts as a character, as in jiwer; runs of white space
    are one space, and none counts at either end. A character is a code point: compose both texts (NFC) alike before.

    Args and Raises: as `word_score`.
    """
    return _score(references, hypotheses, lambda text: " ".join(text.split()))


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of a corpus: all errors over all reference words, as a fraction. Args: as `word_score`."""
    return word_score(references, hypotheses).rate


def cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Character error rate of a corpus, spaces included, as a fraction. Args: as `character_score`."""
    return character_score(references, hypotheses).rate


def _score(references: Sequence[str], hypotheses: Sequence[str], split: Callable[[str], Tokens]) -> Score:
    if len(references) != len(hypotheses):
        raise ValueError(
            f"each reference needs its hypothesis, got {len(references)} references and {len(hypotheses)} hypotheses. "
            "An utterance in which nothing was recognised has the hypothesis ''."
        )
    refs, hyps = [split(t) for t in references], [split(t) for t in hypotheses]
    counts = np.zeros((len(refs), 4), np.int64)
    for i, (r, h) in enumerate(zip(refs, hyps, strict=True)):
        counts[i] = edits(r, h)[1:] if r != h else (len(r), 0, 0, 0)
    return Score(refs, hyps, counts)


def _together(groups: Sequence[Hashable] | None, *counts: NDArray) -> list[NDArray]:
    """Sums per group, [n groups] each."""
    if groups is None:
        return list(counts)
    if len(groups) != len(counts[0]):
        raise ValueError(f"groups must name the group of each of the {len(counts[0])} utterances, got {len(groups)} names.")
    number: dict[Hashable, int] = {}
    at = np.array([number.setdefault(g, len(number)) for g in groups], np.int64)
    return [np.bincount(at, c, len(number)) for c in counts]


def _resample(rng: np.random.Generator, draws: int, errors: NDArray, tokens: NDArray) -> tuple[NDArray, NDArray]:
    """Sums over n draws with replacement, [draws] each."""
    both, n = np.stack([errors, tokens]), len(errors)
    made = np.stack([both[:, rng.integers(n, size=n)].sum(1) for _ in range(draws)], 1) if n else np.zeros((2, draws))
    return made[0], made[1]


def _ratio(errors: NDArray, tokens: NDArray) -> NDArray:
    return np.divide(errors, tokens, out=np.full(len(errors), np.nan), where=tokens > 0)


def _middle(drawn: NDArray, level: float) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.percentile(drawn, [50 - level / 2, 50 + level / 2])
    return float(low), float(high)
