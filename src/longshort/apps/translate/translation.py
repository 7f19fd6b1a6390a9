"""A translation and what is known of it. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Alternative(NamedTuple):
    """A translation among several.

    text: it.
    logp: natural log-probability of its tokens and its end.
    score: what it was ranked by.
    tokens: how many tokens, the end included.
    """

    text: str
    logp: float
    score: float
    tokens: int


@dataclass(frozen=True)
class Translation:
    """A sentence translated.

    Args:
        text: the translation.
        source: the sentence.
        logp: natural log-probability of its tokens and its end.
        score: what it was ranked by, see `Search`.
        confidence: how sure one may be of it, in [0, 1].
        signs: what speaks against it, by name; see `confidence.py`.
        source_pieces: the source's tokens, and its end.
        pieces: the translation's tokens, and its end.
        attention: how much each of pieces looked at each of source_pieces, float32, [T + 1, S].
        source_words: each word of the source, and which of source_pieces it is.
        words: likewise of the translation.
        alternatives: different texts, as many as were asked for if they can be found, the best first; of samples all, in the
            order drawn. This one is the first.
        finished: False if it was cut because it became too long.
        met: whether it holds all that was asked for: False only if that was too much for its length.
    """

    text: str
    source: str
    logp: float
    score: float
    confidence: float
    signs: dict[str, float]
    source_pieces: tuple[str, ...]
    pieces: tuple[str, ...]
    attention: NDArray[np.float32] = field(compare=False, repr=False)
    source_words: tuple[tuple[str, tuple[int, ...]], ...] = field(repr=False)
    words: tuple[tuple[str, tuple[int, ...]], ...] = field(repr=False)
    alternatives: tuple[Alternative, ...] = ()
    finished: bool = True
    met: bool = True

    def alignment(self) -> list[tuple[int, int]]:
        """For each word of the translation the source word that it looked at most: (position in source, position in translation)
        of words, as aligners write it. A word that looked most at the end of the source has none."""
        made = []
        for k, (_, at) in enumerate(self.words):
            looked = self.attention[list(at)].sum(0)
            shares = [float(looked[list(of)].sum()) for _, of in self.source_words]
            if shares and max(shares) >= float(looked[-1]):
                made.append((int(np.argmax(shares)), k))
        return made

    def json(self) -> dict[str, Any]:
        """All but the attention as plain values; alignment counts words as they are listed."""
        return {"text": self.text, "source": self.source, "confidence": round(self.confidence, 4), "logp": round(self.logp, 4),
                "score": round(self.score, 4), "signs": {k: round(v, 4) for k, v in self.signs.items()},
                "source words": [word for word, _ in self.source_words], "words": [word for word, _ in self.words],
                "alignment": [list(pair) for pair in self.alignment()], "finished": self.finished, "met": self.met,
                "alternatives": [{"text": a.text, "logp": round(a.logp, 4), "score": round(a.score, 4)}
                                 for a in self.alternatives[1:]]}  # fmt: skip


def words(pieces: Sequence[str], groups: Sequence[Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Words with the positions of their pieces."""
    return tuple(("".join(pieces[k] for k in of).replace("▁", ""), tuple(of)) for of in groups)
