"""What a translator takes from its validation pairs after training: how much longer translations are to be liked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from longshort.apps.translate import metrics
from longshort.apps.translate.config import Metric
from longshort.apps.translate.data import Pair
from longshort.apps.translate.decode import Search
from longshort.apps.translate.decoding import Decoding, Reader

PENALTIES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
MOST = 500  # pairs that are translated


def tuned(reader: Reader, pairs: Sequence[Pair], metric: Metric) -> float:
    """The length penalty with the best score: one beam search for each, of up to 500 pairs.

    Args:
        reader: translates.
        pairs: with known translations.
        metric: of the score.
    """
    step = -(-len(pairs) // MOST)
    some, judge = pairs[::step], metrics.bleu if metric == "BLEU" else metrics.chrf
    found = reader([p.source for p in some], Decoding(Search(alternatives=Search.beam)))
    best = []
    for penalty in PENALTIES:
        how = replace(Search(), length_penalty=penalty)
        texts = [max(t.alternatives, key=lambda a: how.score(a.logp, a.tokens)).text for t in found]
        best.append(judge([p.target for p in some], texts).value)
    return PENALTIES[int(np.argmax(best))]
