"""How good a translator is on sentences whose translations are known."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longshort.apps.translate import metrics
from longshort.apps.translate.data import Pair
from longshort.apps.translate.translation import Translation

if TYPE_CHECKING:
    from longshort.apps.translate.translator import Translator

WORST = 20  # sentences that are shown


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Args:
        pairs: the sentences and their translations.
        outputs: what was made of each sentence, a text.
        translations: what is known of it: one for each sentence that the search saw.
        scores: corpus scores by name, each with its signature and its 95 % interval.
        perplexity: of the known translations, per token and end.
        took: seconds of translating.
    """

    pairs: tuple[Pair, ...]
    outputs: tuple[str, ...]
    translations: tuple[tuple[Translation, ...], ...]
    scores: dict[str, metrics.Score]
    perplexity: float
    took: float

    @property
    def speed(self) -> float:
        """Sentences per second."""
        return len(self.pairs) / max(self.took, 1e-9)

    @property
    def agreement(self) -> float:
        """How well confidences tell good translations from bad ones: Spearman's correlation with chrF of single sentences;
        NaN where all are alike."""
        sure = [min((t.confidence for t in made), default=0.0) for made in self.translations]
        a, b = ranks(sure), ranks(self._each)
        return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) and np.ptp(b) else math.nan

    @cached_property
    def _each(self) -> Any:
        return metrics.sentences([p.target for p in self.pairs], self.outputs)

    def json(self) -> dict[str, Any]:
        """All that one may want to keep, as plain values."""
        each, alike = self._each, self.agreement
        worst = [int(k) for k in np.argsort(each, kind="stable")[:WORST] if self.outputs[k] != self.pairs[k].target]
        return {"sentences": len(self.pairs), "perplexity": self.perplexity, "seconds": self.took,
                "sentences per second": self.speed,
                "confidence and chrF": None if math.isnan(alike) else alike,
                "scores": {k: {"value": s.value, "low": s.low, "high": s.high, "signature": s.signature}
                           for k, s in self.scores.items()},
                "worst": [{"where": self.pairs[k].where, "source": self.pairs[k].source, "target": self.pairs[k].target,
                           "output": self.outputs[k], "chrF": float(each[k])} for k in worst]}  # fmt: skip


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """The rank of each value, the least is 1; equal ones share the mean of theirs. [N]."""
    _, at, many = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(many) - (many - 1) / 2)[at]


def evaluate(translator: Translator, pairs: Sequence[Pair], language: str | None = None, **how: Any) -> Evaluation:
    """See `Translator.evaluate`.

    Raises:
        ValueError: there are no pairs, or the language is not two letters.
    """
    if not pairs:
        raise ValueError("there must be one or more pairs to score, got none.")
    if language is not None:
        metrics.two_letters(language)
    begun = time.perf_counter()
    made = list(translator.explain_each([p.source for p in pairs], **how))
    took = time.perf_counter() - begun
    outputs = [layout.join([t.text for t in of]) for layout, of in made]
    tokens = sum(len(translator.target.encode(p.target)) + 1 for p in pairs)
    perplexity = math.exp(min(-sum(translator.score(pairs)) / tokens, 700.0))
    scores = metrics.scores([p.target for p in pairs], outputs, language)
    return Evaluation(tuple(pairs), tuple(outputs), tuple(tuple(of) for _, of in made), scores, perplexity, took)
