"""Utterances put together anew: cut where the speaker pauses, and joined in another order. NumPy only.

A small set of recordings is soon known by heart, whole sentences at a time. Phrases in ever new company cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMOOTH = 5  # frames over which loudness is averaged
PAUSE = 4.0  # mean log energy above an utterance's quietest frames up to which nobody speaks
LEAST = 15  # frames of a phrase
TRIES = 6  # phrases that may be too long for what is left of an utterance, before it is full


class Phrase(NamedTuple):
    """What somebody said between two pauses.

    utterance: its number.
    first, last: first frame and the one behind its last.
    words: what was said.
    """

    utterance: int
    first: int
    last: int
    words: tuple[str, ...]


def phrases(k: int, features: NDArray[np.float32], words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[Phrase]:
    """An utterance cut at its pauses.

    Args:
        k: its number.
        features: log-mel, [T, bins].
        words: its text.
        spans: frames in which each word is written, as an aligner finds them; the pause is looked for between them.

    Returns:
        Its phrases in order; one, if it has no pause. Those that are shorter than 0.15 s are left out.
    """
    loud = np.convolve(np.pad(features.mean(1), SMOOTH // 2, mode="edge"), np.full(SMOOTH, 1 / SMOOTH), "valid")
    limit = np.quantile(loud, 0.02) + PAUSE
    cuts, at = [0], [0]
    for n, ((_, low), (high, _)) in enumerate(pairwise(spans), 1):
        low = max(low, cuts[-1] + 1)
        window = loud[low : max(high, low + 1)]
        if len(window) and window.min() < limit:
            cuts.append(low + int(window.argmin()))
            at.append(n)
    cuts.append(len(features))
    at.append(len(words))
    return [
        Phrase(k, first, last, tuple(words[a:b]))
        for (first, last), (a, b) in zip(pairwise(cuts), pairwise(at), strict=True)
        if last - first >= LEAST
    ]


class Phrases:
    """All phrases of a set of recordings, by who said them.

    Args:
        found: the phrases.
        speakers: who said each utterance, "" where that is not known.
    """

    def __init__(self, found: Sequence[Phrase], speakers: Sequence[str]) -> None:
        self.found = tuple(found)
        self.of: dict[str, list[Phrase]] = {}
        for one in found:
            self.of.setdefault(speakers[one.utterance], []).append(one)

    def draw(
        self, speaker: str, room: int, features: Callable[[int], NDArray[np.float32]], speed: float, rng: np.random.Generator
    ) -> tuple[list[NDArray[np.float32]], list[str]]:
        """Phrases of one speaker that fill a given time.

        Args:
            speaker: who.
            room: frames that there are.
            features: of an utterance by its number, at that speed, [T, bins].
            speed: at which the phrases are played.
            rng: draws the phrases.

        Returns:
            The features of each phrase and the words of all; nothing, if no phrase was short enough.
        """
        parts, words, tries = list[NDArray[np.float32]](), list[str](), 0
        pool = self.of.get(speaker, [])
        while pool and tries < TRIES:
            one = pool[rng.integers(len(pool))]
            first, last = int(one.first / speed), int(one.last / speed)
            if last - first > room:
                tries += 1
                continue
            parts.append(features(one.utterance)[first:last])
            words += one.words
            room -= last - first
        return parts, words
