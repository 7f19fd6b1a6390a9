"""Words and phrases that are expected: a search is drawn towards them. NumPy only."""

from __future__ import annotations

import math
import unicodedata
from collections import deque
from collections.abc import Mapping

from longshort.apps.speech.units import Units, normal
from longshort.scripts import ALONE


class Hotwords:
    """Judges tokens by phrases that are expected, letter by letter, however the tokens cut them.

    Each occurrence of a phrase gives its score once, overlapping ones as well; phrases begin and end where words do, and
    punctuation is a word of its own, as is each character of scripts without spaces between words. While the letters of a phrase
    come in, each gives its share of the score beforehand, so that the search does not lose the phrase; what was given is taken
    back when the match fails or the audio ends within it.

    It is an automaton over letters whose states are the longest beginning of a phrase that the text ends with. What was given
    beforehand depends on the state alone, so that nothing of a failed match can stay.

    Args:
        phrases: score of each, natural log: 1 to 10 are useful; below 0 draws away from a phrase. Spelled as the units spell.
        units: the tokens of the recogniser.

    Raises:
        ValueError: a phrase is empty or cannot be spelled, or its score is not finite.

    Source: Aho & Corasick 1975, Efficient string matching: an aid to bibliographic search.
    """

    def __init__(self, phrases: Mapping[str, float], units: Units) -> None:
        texts = units.written
        self.next: list[dict[str, int]] = []  # per state: the state after a letter, where the match goes on
        self.given: list[float] = []  # beforehand
        self.reward: list[float] = []  # for the phrases that end here
        self.spaced: list[bool] = []  # whether a word may begin here
        self._enter(self._enter(None, ""), " ")
        for phrase, score in phrases.items():
            text = " ".join(apart(normal(phrase)).split())
            if not text or not math.isfinite(score):
                raise ValueError(f"a hotword must have letters and a finite score, got {phrase!r}: {score}.")
            if strange := sorted(set(normal(phrase)).difference(*texts)):
                raise ValueError(f"hotword {phrase!r} holds {', '.join(map(repr, strange))}, which the recogniser never writes.")
            state, text = 0, f" {text} "
            for k, letter in enumerate(text):
                state = self._enter(state, letter)
                if k < len(text) - 1:
                    self.given[state] = max(self.given[state], score * k / (len(text) - 2))
            self.reward[state] += score
        self.fallback = self._fallbacks()
        self.texts = [apart(t) for t in texts]

    def start(self) -> int:
        """See `Scorer`."""
        return self.next[0][" "]

    def score(self, state: int, token: int) -> tuple[float, int]:
        """See `Scorer`."""
        return self._read(state, self.texts[token])

    def finish(self, state: int) -> float:
        """See `Scorer`."""
        increment, after = self._read(state, " ")
        return increment - self.given[after]

    def _read(self, state: int, text: str) -> tuple[float, int]:
        total, before = 0.0, state
        for letter in text:
            if letter == " " and self.spaced[state]:
                continue
            while letter not in self.next[state] and state:
                state = self.fallback[state]
            state = self.next[state].get(letter, 0)
            total += self.reward[state]
        return total + self.given[state] - self.given[before], state

    def _enter(self, state: int | None, letter: str) -> int:
        """The state after a letter, made if need be."""
        if state is not None and letter in self.next[state]:
            return self.next[state][letter]
        made = len(self.next)
        if state is not None:
            self.next[state][letter] = made
        self.next.append({})
        self.given.append(0.0)
        self.reward.append(0.0)
        self.spaced.append(letter == " ")
        return made

    def _fallbacks(self) -> list[int]:
        """Where to go on when the match fails: the longest end of a state's letters that is a state. Breadth first."""
        fallback, queue = [0] * len(self.next), deque(self.next[0].values())
        while queue:
            state = queue.popleft()
            for letter, after in self.next[state].items():
                at = fallback[state]
                while letter not in self.next[at] and at:
                    at = fallback[at]
                fallback[after] = at = self.next[at].get(letter, 0)
                self.given[after] = max(self.given[after], self.given[at])
                self.reward[after] += self.reward[at]
                queue.append(after)
        return fallback


def apart(text: str) -> str:
    """Text with spaces around each mark of punctuation, and around each character of scripts without spaces between words;
    hyphens and apostrophes belong to words."""

    def joined(c: str) -> bool:
        return c in " -'\u2019" or (unicodedata.category(c)[0] in "LMNS" and not ALONE.match(c))

    return "".join(c if joined(c) else f" {c} " for c in text)
