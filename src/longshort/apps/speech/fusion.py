"""A language model over words as a judge of tokens, and several judges as one. NumPy only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from longshort.apps.speech.ngram import MARKS as OUTSIDE
from longshort.apps.speech.ngram import UNKNOWN, NGram
from longshort.apps.speech.scorer import Scorer
from longshort.apps.speech.units import Units
from longshort.scripts import ALONE, MARKS, words

LOST = "\0"  # begins what stands for letters that no word begins with
LAST = chr(0x10FFFF)  # sorts behind every letter
State = tuple[int, str]  # of the n-gram model; letters of the word that has not ended


class Together:
    """Several scorers as one: their increments are summed.

    Args:
        scorers: in any order.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = tuple(scorers)

    def start(self) -> tuple[Any, ...]:
        """See `Scorer`."""
        return tuple(s.start() for s in self.scorers)

    def score(self, state: tuple[Any, ...], token: int) -> tuple[float, tuple[Any, ...]]:
        """See `Scorer`."""
        total, after = 0.0, []
        for scorer, before in zip(self.scorers, state, strict=True):
            increment, new = scorer.score(before, token)
            total += increment
            after.append(new)
        return total, tuple(after)

    def finish(self, state: tuple[Any, ...]) -> float:
        """See `Scorer`."""
        return sum(s.finish(k) for s, k in zip(self.scorers, state, strict=True))


class WordScorer:
    """An n-gram model over words that judges tokens of characters or of pieces of words.

    A word is judged when it ends: at a space, at a piece that begins the next word, or at the end. Where the units
    are `solid` and the model has characters of such scripts one by one, each of them is a word that ends with it. It gives

        weight * log p(word | words before) + bonus,  and `unknown` on top where it is <unk>: not in the lexicon

    With `ahead`, letters give a part of that beforehand: the weighted log-probability of the most likely word that they can still
    become; letters that no word begins with give `unknown` at once. The end of the word puts it right, so that complete words get
    the same with `ahead` and without; only the search sees sooner where a hypothesis leads.

    Args:
        ngram: the model; its words are spelled as the units spell.
        units: the tokens of the recogniser.
        weight: of the log-probabilities, beside those of the acoustic model; 0 or more.
        bonus: per word, against the model's liking for few words; natural log.
        lexicon: the words there are; None: those of the model.
        unknown: per word that is not in the lexicon; natural log; -inf forbids it.
        ahead: judge words before they end.

    Raises:
        ValueError: the units spell no word of the lexicon, or the weight is negative.
    """

    def __init__(
        self, ngram: NGram, units: Units, weight: float = 0.5, bonus: float = 1.0, lexicon: Iterable[str] | None = None,
        unknown: float = -10.0, ahead: bool = True,
    ) -> None:  # fmt: skip
        if not weight >= 0:
            raise ValueError(f"the weight of a language model must be 0 or more, got {weight}.")
        self.ngram, self.weight, self.bonus, self.unknown, self.ahead = ngram, weight, bonus, unknown, ahead
        self.words = sorted(set(ngram.words if lexicon is None else lexicon) - {*OUTSIDE, ""})
        letters = set("".join(units.written)) - {" "}
        if not any(letters.issuperset(w) for w in self.words):
            raise ValueError(
                f"the units spell no word of the language model: words like {', '.join(map(repr, self.words[:3]))}, but letters "
                f"{''.join(sorted(letters))[:60]!r}. Is one of them in capitals?"
            )
        self.alone = units.solid and all(len(words(w)) == 1 for w in self.words)
        self.parts = [[words(part) if self.alone else [part] for part in text.split(" ")] for text in units.written]
        self.best = weight * np.array([ngram.unigram(w) for w in self.words])
        self.given = {LOST: weight * ngram.unigram(UNKNOWN) if ahead else 0.0, "": 0.0}  # beforehand, by letters

    def start(self) -> State:
        """See `Scorer`."""
        return self.ngram.start(), ""

    def score(self, state: State, token: int) -> tuple[float, State]:
        """See `Scorer`."""
        total, (context, letters) = 0.0, state
        for k, part in enumerate(self.parts[token]):
            for j, piece in enumerate(part or [""]):
                if (k and not j) or self._apart(letters, piece):  # a space, or none is needed
                    more, context = self._end(context, letters)
                    total, letters = total + more, ""
                if piece and not letters.startswith(LOST):
                    before, letters = letters, self._known(letters + piece)
                    total += self.given[letters] - self.given[before]
                    total += self.unknown if letters.startswith(LOST) and self.ahead else 0.0
        return total, (context, letters)

    def finish(self, state: State) -> float:
        """See `Scorer`."""
        total, context = self._end(*state)
        return total + self.weight * self.ngram.finish(context)

    def _apart(self, letters: str, piece: str) -> bool:
        """Whether letters that follow each other without a space are those of two words."""
        return (
            self.alone
            and bool(letters)
            and piece[:1] not in MARKS
            and bool(ALONE.match(letters.lstrip(LOST)) or ALONE.match(piece))
        )

    def _known(self, letters: str) -> str:
        """The letters, if a word begins with them, otherwise LOST, and the first of them where it is a word of its own; and makes
        sure that it is known what they give."""
        if letters in self.given:
            return letters
        low, high = bisect_left(self.words, letters), bisect_left(self.words, letters + LAST)
        if low == high:
            lost = LOST + letters[0] * (self.alone and bool(ALONE.match(letters)))
            self.given[lost] = self.given[LOST]
            return lost
        self.given[letters] = float(self.best[low:high].max()) if self.ahead else 0.0
        return letters

    def _end(self, context: int, letters: str) -> tuple[float, int]:
        """The increment for the end of a word, if these letters are one, and the model's state after it."""
        if not letters:
            return 0.0, context
        k = bisect_left(self.words, letters)
        known = self.words[k : k + 1] == [letters]
        logp, context = self.ngram.score(context, letters if known else UNKNOWN)
        late = not known and not (letters.startswith(LOST) and self.ahead)
        return self.weight * logp + self.bonus + (self.unknown if late else 0.0) - self.given[letters], context
