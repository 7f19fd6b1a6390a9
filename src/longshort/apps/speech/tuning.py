"""What is chosen on the validation recordings once the network is trained: how sure words are, and how much an n-gram helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from longshort.apps.speech import decode, metrics
from longshort.apps.speech.confidence import Calibration
from longshort.apps.speech.decoding import Decoding, Reader
from longshort.apps.speech.model import Network
from longshort.apps.speech.task import Judge

WEIGHTS, BONUSES = (0.3, 0.5, 0.7, 1.0, 1.3), (0.0, 1.0, 2.0)
MOST = 200  # recordings with which n-gram weights are tried


def tuned(network: Network, judge: Judge, reader: Reader) -> Reader:
    """The reader with confidences calibrated, and with the weights of its n-gram, if it has one, that give the lowest WER; the
    lowest CER where words have no spaces between them.

    Args:
        network: trained.
        judge: the validation recordings.
        reader: what is to be tuned.
    """
    said = heard(network, judge)
    least, right = judged(reader, judge.truth, [one[0] for one in found(network, reader, said, Decoding())])
    sure = Calibration.fit(least, right)
    reader = replace(reader, calibration=sure, with_ngram=sure)
    truth, said = judge.truth[:MOST], said[:MOST]
    if reader.ngram is None or not any(truth):
        return reader
    least_rate, best, heard_best = np.inf, reader, []
    error = metrics.cer if reader.units.solid else metrics.wer
    for weight, bonus in product(WEIGHTS, BONUSES):
        tried = replace(reader, ngram_weight=weight, word_bonus=bonus)
        first = [one[0] for one in found(network, tried, said, Decoding(ngram="own"))]
        if (rate := error(truth, [reader.units.decode(one.tokens) for one in first])) < least_rate:
            least_rate, best, heard_best = rate, tried, first
    return replace(best, with_ngram=Calibration.fit(*judged(reader, truth, heard_best)))


@torch.no_grad()
def heard(network: Network, judge: Judge) -> list[Any]:
    """What the network says of each recording, ready for a search."""
    made: dict[int, Any] = {}
    for rows, batch in judge.batches:
        encoded, steps, _ = network.encode(batch.features.to(network.mean.device), batch.frames.to(network.mean.device))
        for k, said, n in zip(rows, network.said(encoded), steps.tolist(), strict=True):
            made[int(k)] = said[:n]
    return [made[k] for k in range(len(judge.utterances))]


def found(network: Network, reader: Reader, said: Sequence[Any], how: Decoding) -> list[list[Any]]:
    """Hypotheses of each recording, the best first."""
    search, made = reader.searches(network, how), []
    for one in said:
        now = search()
        now.accept(one)
        made.append(now.finish(how.alternatives))
    return made


def judged(reader: Reader, truth: Sequence[str], best: Sequence[decode.Hypothesis]) -> tuple[list[float], list[bool]]:
    """Of each recognised word: the log-probability of its least probable token, and whether it is right."""
    least: list[float] = []
    right: list[bool] = []
    for text, one in zip(truth, best, strict=True):
        words = reader.units.words(one.tokens)
        spelled = [reader.units.decode([one.tokens[k] for k in at]) for at in words]
        pairs = metrics.edits(reader.units.split(text), spelled).pairs
        right += [a == b for a, b in pairs if b is not None]
        least += [min(one.logps[k] for k in at) for at in words]
    return least, right
