"""What a translator learns from its validation pairs after training: how it likes longer texts, and how sure it may be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from longshort.apps.translate import metrics
from longshort.apps.translate.confidence import Calibration
from longshort.apps.translate.config import Metric
from longshort.apps.translate.data import Pair
from longshort.apps.translate.decode import Search
from longshort.apps.translate.decoding import Decoding
from longshort.apps.translate.translation import Translation

PENALTIES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
MOST = 500  # pairs that are translated


def tuned(
    read: Callable[[Sequence[str], Decoding], list[Translation]], pairs: Sequence[Pair], metric: Metric
) -> tuple[float, Calibration]:
    """The length penalty with the best score (of several the one nearest to 1), and what the signs of bad translations weigh;
    from beams of up to 500 pairs.

    Args:
        read: translates with one search, as `Reader.once`.
        pairs: with known translations.
        metric: of the score, see `Config`.
    """
    some = pairs[:: -(-len(pairs) // MOST)]
    truth = [p.target for p in some]
    judge = metrics.bleu if metrics.chosen(metric, truth) == "BLEU" else metrics.chrf
    found = read([p.source for p in some], Decoding(Search(alternatives=Search.beam)))
    best = []
    for penalty in PENALTIES:
        how = replace(Search(), length_penalty=penalty)
        texts = [max(t.alternatives, key=lambda a: how.score(a.logp, a.tokens)).text for t in found]
        best.append(judge(truth, texts).value)
    quality = metrics.sentences(truth, [t.text for t in found]) / 100
    chosen = max(zip(best, PENALTIES, strict=True), key=lambda b: (b[0], -abs(b[1] - Search.length_penalty)))[1]
    return chosen, Calibration.fit([t.signs for t in found], quality.tolist())
