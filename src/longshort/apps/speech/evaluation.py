"""How good a recogniser is on recordings whose texts are known."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from longshort.apps.speech import audio, metrics
from longshort.apps.speech.confidence import expected_error
from longshort.apps.speech.data import Drop, Utterance
from longshort.apps.speech.transcript import Transcript
from longshort.apps.speech.units import normal

if TYPE_CHECKING:
    from longshort.apps.speech.recognizer import Recognizer


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Args:
        utterances: those that could be heard.
        truth: their texts.
        spoken: the words of each, as transcripts have them: see `Units.split`.
        transcripts: what was heard.
        words: errors by word.
        characters: errors by character, spaces included.
        dropped: recordings that could not be heard.
        seconds: of audio.
        took: seconds of computing, reading the files included.
    """

    utterances: tuple[Utterance, ...]
    truth: tuple[str, ...]
    spoken: tuple[tuple[str, ...], ...]
    transcripts: tuple[Transcript, ...]
    words: metrics.Score
    characters: metrics.Score
    dropped: tuple[Drop, ...]
    seconds: float
    took: float

    def scores(self) -> dict[str, float]:
        """WER and CER in percent with their 95 % intervals, expected calibration error of word confidences, real-time factor."""
        made: dict[str, float] = {}
        speakers = [u.speaker for u in self.utterances]
        groups = speakers if len(set(speakers)) > 4 and all(speakers) else None
        for name, score in (("WER", self.words), ("CER", self.characters)):
            low, high = score.interval(np.random.default_rng(0), groups=groups)
            made |= {name: 100 * score.rate, f"{name}-lo-95": 100 * low, f"{name}-hi-95": 100 * high}
        return made | {"ECE": 100 * self.calibration_error, "real-time factor": self.took / max(self.seconds, 1e-9)}

    @property
    def calibration_error(self) -> float:
        """Expected calibration error of the confidences of the words that were heard, in [0, 1]."""
        confidence, right = [], []
        for spoken, made in zip(self.spoken, self.transcripts, strict=True):
            pairs = metrics.edits(spoken, [w.text for w in made.words]).pairs
            right += [a == b for a, b in pairs if b is not None]
            confidence += [w.confidence for w in made.words]
        return expected_error(confidence, right)

    def json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        kinds = "hits", "substitutions", "deletions", "insertions"
        return {
            "scores": {k: round(v, 4) if np.isfinite(v) else None for k, v in self.scores().items()},
            "errors": dict(zip(kinds, self.words.counts.sum(0).tolist(), strict=True)),
            "utterances": len(self.utterances), "words": int(self.words.tokens.sum()), "seconds": round(self.seconds, 2),
            "confusions": [{"said": a, "heard": b, "count": n} for (a, b), n in self.words.confusions(20)],
            "worst": [{"id": self.utterances[k].id, "said": self.truth[k], "heard": self.transcripts[k].text}
                      for k in self.words.worst(10)],
            "dropped": [{"id": d.utterance.id, "reason": d.reason, "detail": d.detail} for d in self.dropped],
        }  # fmt: skip


def evaluate(recognizer: Recognizer, utterances: Sequence[Utterance], **how: Any) -> Evaluation:
    """See `Recognizer.evaluate`. A recording that cannot be heard is left out, and listed.

    Raises:
        ValueError: none can be heard.
    """
    kept, dropped, rate, begun = list[Utterance](), list[Drop](), recognizer.config.rate, time.perf_counter()

    def sounds() -> Iterator[NDArray[np.float32]]:
        for u in utterances:
            try:
                made = audio.read(u.audio, rate, u.start, u.duration)
            except audio.AudioError as e:
                dropped.append(Drop(u, "that cannot be heard", str(e)))
                continue
            kept.append(u)
            yield made

    heard = list(recognizer.each(sounds(), rate, **how))
    made = [replace(t, name=u.id) for t, u in zip(heard, kept, strict=True)]
    took = time.perf_counter() - begun
    if not kept:
        raise ValueError(f"none of the {len(utterances)} recordings can be heard. {dropped[0].detail if dropped else ''}")
    truth = [normal(u.text, recognizer.config.fold) for u in kept]
    texts = [t.text for t in made]
    spoken = tuple(tuple(recognizer.units.split(text)) for text in truth)
    return Evaluation(tuple(kept), tuple(truth), spoken, tuple(made), metrics.word_score(truth, texts),
                      metrics.character_score(truth, texts), tuple(dropped), sum(u.duration for u in kept), took)  # fmt: skip
