"""What a translation must begin with, what it must hold, and what it must not say twice. NumPy only.

Tokens are numbers. A glossary is a list of terms, each with the phrases (runs of tokens) of which one will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from longshort.apps.translate.vocabulary import BOS, EOS, PAD

Phrase = tuple[int, ...]
State = frozenset[tuple[int, int, int]]
# Readings of what was written: terms met (bits); the phrase in progress, and how many of its tokens are there. Between phrases
# -1, and 1 if the last one counts only if no token goes on with its word, else 0.


@dataclass(frozen=True)
class Constraints:
    """What is asked of one translation.

    Args:
        prefix: tokens that it begins with.
        glossary: terms that it holds: for each the phrases of which one must appear, in one piece. A term that stands there twice
            must appear twice; no token serves two terms.
        glued: tokens that go on with a word: a phrase that one of them follows does not count.
        loose: phrases that they may follow.
        places: of each term, where its source stands: positions of source tokens. A term begins while these are read, if it can;
            one without positions may begin anywhere.

    Raises:
        ValueError: a term has no phrase, a phrase no token, or a token stands for no text (padding, beginning, end).
    """

    prefix: Phrase = ()
    glossary: tuple[tuple[Phrase, ...], ...] = ()
    glued: frozenset[int] = field(default=frozenset(), repr=False)
    loose: frozenset[Phrase] = frozenset()
    places: tuple[Phrase, ...] = ()

    def __post_init__(self) -> None:
        if self.places and len(self.places) != len(self.glossary):
            raise ValueError(f"places must be one for each of {len(self.glossary)} terms, got {len(self.places)}.")
        for term in self.glossary:
            if not term or not all(term):
                raise ValueError(f"a term must have one or more phrases, each of one or more tokens, got {term!r}.")
        for phrase in (self.prefix, *(p for term in self.glossary for p in term)):
            if bad := sorted(k for k in phrase if k < 0 or k in (PAD, BOS, EOS)):
                raise ValueError(f"tokens must stand for text, got {bad} in {phrase!r}: padding, beginning, end or less than 0.")

    @property
    def tokens(self) -> set[int]:
        """All tokens that are asked for."""
        return {*self.prefix, *(k for term in self.glossary for p in term for k in p)}


class Glossary:
    """How far a translation has come with the terms that it must hold.

    A text can be read in several ways: the first word of a phrase may also be the whole of another. A state holds all readings
    that matter, so that no way of meeting the terms is missed.

    Args:
        terms: the phrases of each.
        glued, loose, places: see `Constraints`.
    """

    def __init__(
        self, terms: Sequence[Sequence[Phrase]], glued: frozenset[int] = frozenset(), loose: frozenset[Phrase] = frozenset(),
        places: Sequence[Phrase] = (),
    ) -> None:  # fmt: skip
        self.glued, self.glued_tokens = glued, _ascending(glued)
        ways = [tuple(sorted(set(term))) for term in terms]
        every = dict[tuple[Phrase, ...], Phrase]()  # of equal terms the places are those of all
        for term, at in zip(ways, places or [()] * len(ways), strict=True):
            every[term] = (*every.get(term, ()), *at)
        terms = sorted(ways)
        self.places = [every[term] for term in terms]
        self.full = (1 << len(terms)) - 1
        self.least = [min(map(len, term)) for term in terms]
        self.twin = [k - 1 if k and terms[k - 1] == term else -1 for k, term in enumerate(terms)]  # which must be met before
        self.phrases = [phrase for term in terms for phrase in term]
        self.firm = [int(bool(glued) and phrase not in loose) for phrase in self.phrases]
        self.term = [k for k, term in enumerate(terms) for _ in term]
        self.begin: State = frozenset({(0, -1, 0)})
        self._after: dict[tuple[State, int], State] = {}
        self._left: dict[State, int] = {}

    def after(self, state: State, token: int) -> State:
        """The state after one more token."""
        if (state, token) not in self._after:
            made = set()
            for met, phrase, at in state:
                if phrase < 0 and at and token in self.glued:
                    continue
                if phrase < 0:
                    made.add((met, -1, 0))
                    made.update(self._go(met, k, 1) for k in self._open(met) if self.phrases[k][0] == token)
                elif self.phrases[phrase][at] == token:
                    made.add(self._go(met, phrase, at + 1))
            idle = [met for met, phrase, at in made if phrase < 0 and not at]
            self._after[state, token] = frozenset(r for r in made if not any(self._beats(met, *r) for met in idle))
        return self._after[state, token]

    @staticmethod
    def fresh(state: State) -> bool:
        """Whether a term was just written that counts only if its word does not go on."""
        return any(phrase < 0 and at for _, phrase, at in state)

    def left(self, state: State) -> int:
        """How many tokens are needed at least until all terms are met; 0: they are."""
        if state not in self._left:
            self._left[state] = min(self._rest(*reading) for reading in state)
        return self._left[state]

    def needs(self, state: State, near: Sequence[bool] | None = None) -> list[int]:
        """The tokens that begin a term or go on with one, ascending. One of them makes `left` less, as long as there are any.

        Args:
            state: what was written.
            near: of each term, in the order of `places`, whether it may begin; None: each one.
        """
        made = set()
        for met, phrase, at in state:
            begin = [k for k in self._open(met) if near is None or near[self.term[k]]] if phrase < 0 else []
            made.update([self.phrases[phrase][at]] if phrase >= 0 else [self.phrases[k][0] for k in begin])
        return sorted(made)

    def _open(self, met: int) -> list[int]:
        """Phrases that may begin."""
        return [k for k, term in enumerate(self.term)
                if not met >> term & 1 and (self.twin[term] < 0 or met >> self.twin[term] & 1)]  # fmt: skip

    def _go(self, met: int, phrase: int, at: int) -> tuple[int, int, int]:
        whole = at == len(self.phrases[phrase])
        return (met | 1 << self.term[phrase], -1, self.firm[phrase]) if whole else (met, phrase, at)

    def _beats(self, idle: int, met: int, phrase: int, at: int) -> bool:
        """Whether having met `idle` for good is as much as another reading can give."""
        goal = met if phrase < 0 else met | 1 << self.term[phrase]
        return goal & idle == goal and (idle, -1, 0) != (met, phrase, at)

    def _rest(self, met: int, phrase: int, at: int) -> int:
        total = 0
        if phrase >= 0:
            total, met = len(self.phrases[phrase]) - at, met | 1 << self.term[phrase]
        return total + sum(n for k, n in enumerate(self.least) if not met >> k & 1)


@lru_cache(maxsize=8)
def _ascending(tokens: frozenset[int]) -> NDArray:
    return np.array(sorted(tokens), int)


def allocate(value: Sequence[float], left: Sequence[int], width: int) -> list[int]:
    """Which candidates go on: the slots are dealt out to those that have equally many tokens of the glossary before them.

    Args:
        value: log-probability of each candidate.
        left: tokens of the glossary that each still needs.
        width: slots.

    Returns:
        Up to `width` positions, the most likely first. Candidates that need equally many are a bank. Each bank has its best one
        in, then its second best, and so on until the slots are full; those that need least come first.

    Source: Post & Vilar 2018, Fast lexically constrained decoding with dynamic beam allocation, section 3; Hokamp & Liu 2017.
    """
    banks: dict[int, list[int]] = {}
    for k in sorted(range(len(value)), key=lambda k: (left[k], -value[k])):
        banks.setdefault(left[k], []).append(k)
    dealt = [k for deal in zip_longest(*banks.values()) for k in deal if k is not None]
    return sorted(dealt[:width], key=lambda k: -value[k])


def repeats(history: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """The tokens that would say n tokens in a row a second time.

    Args:
        history: what each row has written, integer, [R, t].
        n: length of the runs, 1 or more.

    Returns:
        Row and token of each, integer, [N] and [N].
    """
    R, t = history.shape
    if t < n:
        return np.zeros(0, int), np.zeros(0, int)
    same = np.ones((R, t - n + 1), bool)
    for k in range(n - 1):
        same &= history[:, k : t - n + 1 + k] == history[:, t - n + 1 + k, None]
    row, at = np.nonzero(same)
    return row, history[row, at + n - 1]
