"""How tokens are chosen: greedily or by beam search, with a language model, with hotwords. And from hypotheses to transcripts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longshort import checks
from longshort.apps.speech import decode, transduce
from longshort.apps.speech.confidence import Calibration
from longshort.apps.speech.config import STEP
from longshort.apps.speech.fusion import Together, WordScorer
from longshort.apps.speech.hotwords import Hotwords
from longshort.apps.speech.language import LanguageModel, LanguageScorer
from longshort.apps.speech.model import Network
from longshort.apps.speech.ngram import NGram
from longshort.apps.speech.scorer import Scorer
from longshort.apps.speech.stream import Search
from longshort.apps.speech.transcript import Alternative, Token, Transcript, Word
from longshort.apps.speech.units import Units

MOST = 100.0  # of a score; e to this power is still a number after some letters
WIDE = 8  # hypotheses that are kept where a language model, hotwords or alternatives are asked for and no number is


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Args:
        beam: hypotheses that are kept; 0 takes the best token at each step. None: 0, or 8 with a language model, hotwords or
            alternatives.
        alternatives: how many texts to give at most, the best included; more than one needs a beam.
        ngram: n-gram model of words: an ARPA file; or 'own', which the recogniser learned from its training texts.
        ngram_weight: of its log-probabilities; None takes what was best on the validation texts, or 0.5.
        word_bonus: added for each word, against the model's liking for few words; None likewise, or 1.0.
        hotwords: phrases that are expected, each with its score; natural logarithms, 2 to 8 are useful.
        language: LSTM language model over the same tokens, or its file; see `LanguageModel`.
        language_weight: of its log-probabilities.

    Raises:
        ValueError: a field is out of range.
    """

    beam: int | None = None
    alternatives: int = 1
    ngram: str | Path | NGram | None = None
    ngram_weight: float | None = None
    word_bonus: float | None = None
    hotwords: Mapping[str, float] = field(default_factory=dict)
    language: str | Path | LanguageModel | None = None
    language_weight: float = 0.3

    def __post_init__(self) -> None:
        checks.whole(self, alternatives=1, **({} if self.beam is None else {"beam": 0}))
        checks.nonnegative(self, "language_weight", *([] if self.ngram_weight is None else ["ngram_weight"]))
        if self.width == 0 and (self._asks or self.alternatives > 1):
            raise ValueError("language models, hotwords and alternatives need a beam, got beam=0. Leave beam out, or take 8.")
        if self.ngram is None and (self.ngram_weight is not None or self.word_bonus is not None):
            raise ValueError("ngram_weight and word_bonus are of an n-gram, which was not asked for. Give ngram, too.")
        if self.language is None and self.language_weight != Decoding.language_weight:
            raise ValueError("language_weight is of a language model, which was not asked for. Give language, too.")
        if not all(v <= MOST for v in (*(self.hotwords or {}).values(), self.word_bonus or 0.0)):
            raise ValueError(f"scores of hotwords and word_bonus are natural logarithms of at most {MOST:g}; 1 to 10 are useful.")
        if self.width and self.alternatives > self.width:
            raise ValueError(f"beam = {self.width} hypotheses cannot give {self.alternatives} alternatives. Take a larger beam.")

    @property
    def width(self) -> int:
        """Hypotheses that are kept, 0 for greedy."""
        several = self.alternatives > 1
        return self.beam if self.beam is not None else max(WIDE * (self._asks or several), self.alternatives * several)

    @property
    def wanted(self) -> int:
        """Hypotheses that a search is asked for: all that it keeps where other texts are wanted, for several may spell one."""
        return max(self.width, 1) if self.alternatives > 1 else 1

    @property
    def _asks(self) -> bool:
        """Whether anybody judges tokens beside the network."""
        return self.ngram is not None or self.language is not None or bool(self.hotwords)


@dataclass(frozen=True)
class Reader:
    """What a recogniser needs beside its network to make text of what the network says.

    Args:
        units: the tokens.
        calibration: of word confidences.
        with_ngram: likewise where an n-gram judges, too: it makes words right of which the network is not sure.
        ngram: the model of the training texts, None if none was made.
        ngram_weight: what was best on the validation texts.
        word_bonus: likewise.
    """

    units: Units
    calibration: Calibration = Calibration()  # noqa: RUF009
    with_ngram: Calibration = Calibration()  # noqa: RUF009
    ngram: NGram | None = None
    ngram_weight: float = 0.5
    word_bonus: float = 1.0

    def searches(self, network: Network, how: Decoding) -> Callable[[], Search]:
        """What makes a search for each recording.

        Raises:
            ValueError: the recogniser has no n-gram of its own, the file is no ARPA file, the words do not fit the units, or the
                language model has other units.
            OSError: the file cannot be read.
        """
        scorer, V = self.scorer(how), len(self.units)
        if network.predictor is not None:
            if not how.width:
                return lambda: transduce.Greedy(network)
            return lambda: transduce.Beam(network, how.width, scorer)
        if not how.width:
            return lambda: decode.Greedy(V)
        return lambda: decode.PrefixBeam(V, how.width, scorer)

    def scorer(self, how: Decoding) -> Scorer | None:
        """The judges that were asked for, as one."""
        judges: list[Scorer] = []
        if how.ngram is not None:
            weight = self.ngram_weight if how.ngram_weight is None else how.ngram_weight
            bonus = self.word_bonus if how.word_bonus is None else how.word_bonus
            ngram = self._ngram(how.ngram)
            hot = (word for phrase in how.hotwords or () for word in self.units.split(phrase))  # expected, so they are words
            judges.append(WordScorer(ngram, self.units, weight, bonus, lexicon=[*ngram.words, *hot]))
        if how.language is not None:
            judges.append(LanguageScorer(self._language(how.language), how.language_weight))
        if how.hotwords:
            judges.append(Hotwords(how.hotwords, self.units))
        return Together(judges) if len(judges) > 1 else judges[0] if judges else None

    def _ngram(self, asked: str | Path | NGram) -> NGram:
        if isinstance(asked, NGram):
            return asked
        if asked == "own":
            if self.ngram is None:
                raise ValueError("this recogniser has no n-gram of its own. Train it with ngram=3, or name an ARPA file.")
            return self.ngram
        return NGram.read(asked)

    def _language(self, asked: str | Path | LanguageModel) -> LanguageModel:
        model = asked if isinstance(asked, LanguageModel) else LanguageModel.load(asked)
        if model.units != self.units:
            raise ValueError(
                f"the language model must have the units of the recogniser, {len(self.units)} of kind {self.units.kind}; it has "
                f"{len(model.units)} of kind {model.units.kind}, or others. Train it for this recogniser: fit(text, "
                "units_of='model.safetensors'), or longshort train language --recognizer model.safetensors."
            )
        return model

    def transcript(self, found: Sequence[Any], first: int, steps: int, name: str = "", how: Decoding = Decoding()) -> Transcript:
        """Hypotheses, the best first, as a transcript of `steps` encoder steps that begin at step `first`, with as many texts as
        were asked for; hypotheses that spell the same count once."""
        best = found[0]
        sure = self.calibration if how.ngram is None else self.with_ngram
        words = []
        for at in self.units.words(best.tokens):
            end = min(best.times[at[-1]] + 1, max(steps, 1))  # what was written in the tail was said at the end
            start = min(best.times[at[0]], end - 1)
            words.append(Word(self.units.decode([best.tokens[k] for k in at]), (first + start) * STEP, (first + end) * STEP,
                              sure([best.logps[k] for k in at])))  # fmt: skip
        texts: dict[str, float] = {}
        for h in found:
            texts.setdefault(self.units.decode(h.tokens), h.score)
        others = tuple(Alternative(text, score) for text, score in [*texts.items()][1 : how.alternatives])
        heard = zip(best.tokens, best.times, best.logps, strict=True)
        tokens = tuple(Token(self.units.written[k], (first + min(t, max(steps, 1) - 1)) * STEP, logp) for k, t, logp in heard)
        return Transcript(self.units.decode(best.tokens), tuple(words), best.score, steps * STEP, others, name, tokens)
