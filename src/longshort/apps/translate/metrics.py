"""BLEU and chrF through sacreBLEU, each with the signature that says how it was computed; and, apart from them, BLEU as papers on
Multi30k report it. No torch.

Two protocols that must not be compared with each other:

- `bleu` and `chrf`: of raw text, cased; sacreBLEU itself tokenises (13a). Numbers of different systems are comparable.
- `multi30k`: of text that is first made like the references of the dataset, data/task1/tok in multi30k/dataset: lower case,
  Moses' normalize-punctuation.perl, then its tokenizer.perl, both for the language, without -a: hyphens stay in words. Then
  BLEU of tokens as multi-bleu.perl has it: up to 4-grams, corpus level, no smoothing. sacremoses stands for the two Perl
  scripts: it gives the word counts that the dataset's page prints, for English, German and French, train and val, to the word.
  What differs from the papers: they score what their systems write, which is tokens already; here raw text is lowered and
  tokenised, outputs like references. Where a paper split hyphens (-a), its tokens are not these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from longshort.apps.translate.vocabulary import need

DRAWS = 1000  # resamples of an interval
Metric = Literal["chrf", "bleu"]


class Score(NamedTuple):
    """A score of a corpus.

    name: BLEU, chrF2, or Multi30k BLEU: what may be compared with what.
    value: in [0, 100], more is better.
    signature: how it was computed; two scores are comparable where it is the same, version and resampling apart.
    low, high: 95 % bootstrap interval; None if none was asked for.
    """

    name: str
    value: float
    signature: str
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" (95 % interval {self.low:.2f} to {self.high:.2f})"
        return f"{self.name} {self.value:.2f}{interval} {self.signature}"


def bleu(references: Sequence[str], outputs: Sequence[str], draws: int = 0) -> Score:
    """BLEU of raw text: cased, tokenised by sacreBLEU (13a).

    Args:
        references: what a human wrote, one for each sentence.
        outputs: what was translated, in the same order. An output may be empty: then it is a bad one.
        draws: resamples of the corpus for an interval, 0 for none. SACREBLEU_SEED seeds them.

    Raises:
        ValueError: there is no sentence, a reference is empty, or the counts differ.
        TypeError: a list is a text, or holds something else.
        ImportError: sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018, A call for clarity in reporting BLEU scores.
    """
    return _score("BLEU", need("sacrebleu").BLEU(), references, outputs, draws)


def chrf(references: Sequence[str], outputs: Sequence[str], draws: int = 0) -> Score:
    """chrF2 of raw text, cased: F score of character n-grams up to 6. For morphology it sees more than BLEU.

    Args, Raises: as `bleu`.

    Source: Popovic 2015, chrF: character n-gram F-score for automatic MT evaluation.
    """
    return _score("chrF2", need("sacrebleu").CHRF(), references, outputs, draws)


def multi30k(references: Sequence[str], outputs: Sequence[str], language: str, draws: int = 0) -> Score:
    """BLEU as papers on Multi30k report it: lower-cased, punctuation normalised, tokenised as Moses does; see above.

    Args:
        references, outputs, draws: as in `bleu`, raw text.
        language: of both, two letters: de. Punctuation and abbreviations are its own.

    Raises: as `bleu`; ImportError without sacremoses too.
    """
    _check(references, outputs)
    two_letters(language)
    metric = need("sacrebleu").BLEU(tokenize="none", smooth_method="none", force=True)
    made = _score("Multi30k BLEU", metric, tokenised(references, language), tokenised(outputs, language), draws)
    how = f"norm:moses|tok:moses-{language}|sacremoses:{need('sacremoses').__version__}"
    return made._replace(signature=made.signature.replace("case:mixed", "case:lc").replace("tok:none", how))


def two_letters(language: str) -> None:
    """What a language is called.

    Raises:
        ValueError: it is not two letters.
    """
    if not re.fullmatch("[a-z]{2}", language):
        raise ValueError(f"a language must be two letters, such as de, got {language!r}.")


def tokenised(texts: Sequence[str], language: str) -> list[str]:
    """Texts as Multi30k's own preprocessing makes them: tokens between single spaces, XML escaped (&apos; and such).

    Raises:
        ImportError: sacremoses is not installed.
    """
    normalise, tokenise = _moses(language)
    return [tokenise(normalise(text.lower()), return_str=True) for text in texts]


def scores(
    references: Sequence[str], outputs: Sequence[str], language: str | None = None, draws: int = DRAWS
) -> dict[str, Score]:
    """All scores of a corpus by name: BLEU and chrF2, the more telling one first, and, if the language is given, Multi30k BLEU.
    Args, Raises: as those."""
    made = [bleu(references, outputs, draws), chrf(references, outputs, draws)]
    made = made if telling(references) == "BLEU" else made[::-1]
    if language is not None:
        made.append(multi30k(references, outputs, language, draws))
    return {score.name: score for score in made}


def chosen(metric: str, references: Sequence[str]) -> str:
    """BLEU or chrF: a `Config`'s metric, where `auto` is the more telling one. Without references BLEU."""
    return metric if metric != "auto" else telling(references) if references else "BLEU"


def telling(references: Sequence[str]) -> Literal["BLEU", "chrF"]:
    """Which score tells more about texts like these: BLEU counts runs of up to four tokens, so most of them must have as many.
    Those of languages without spaces between words, numbers and single terms have fewer."""
    tokenise = need("sacrebleu").BLEU().tokenizer
    return "BLEU" if 2 * sum(len(tokenise(r).split()) >= 4 for r in references) >= len(references) else "chrF"


def sentences(references: Sequence[str], outputs: Sequence[str], metric: Metric = "chrf") -> NDArray[np.float64]:
    """The score of each sentence alone, [n], in [0, 100]: to tell good from bad ones, not to be averaged.

    Args:
        references, outputs: as in `bleu`.
        metric: chrf; or bleu, smoothed, of the orders that the sentence has: noisy where it is short.

    Raises: as `bleu`.
    """
    _check(references, outputs)
    if metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}.")
    sb = need("sacrebleu")
    of = sb.CHRF() if metric == "chrf" else sb.BLEU(effective_order=True)
    return np.array([_value(of.sentence_score(o, [r])) for r, o in zip(references, outputs, strict=True)])


def worst(references: Sequence[str], outputs: Sequence[str], k: int = 10, metric: Metric = "chrf") -> list[int]:
    """Positions of the k sentences with the lowest scores, the worst first, no perfect ones. Args, Raises: as `sentences`."""
    made = sentences(references, outputs, metric)
    return [int(i) for i in np.argsort(made, kind="stable")[:k] if references[i] != outputs[i]]


def _score(name: str, metric: Any, references: Sequence[str], outputs: Sequence[str], draws: int) -> Score:
    _check(references, outputs)
    made = metric.corpus_score(list(outputs), [list(references)], n_bootstrap=max(draws, 1))
    signature = str(metric.get_signature())
    value = _value(made)
    if draws < 2:
        return Score(name, value, signature)
    told = json.loads(made.format(width=6, signature=signature, is_json=True))  # sacreBLEU's public way to its interval
    middle, half = told.get("confidence_mean", value), told.get("confidence_var", 0.0)  # absent where all is 0
    return Score(name, value, signature, max(middle - half, 0.0), min(middle + half, 100.0))


def _value(score: Any) -> float:
    return min(max(float(score.score), 0.0), 100.0)  # a perfect one may be 100.00000000000004


def _check(references: Sequence[str], outputs: Sequence[str]) -> None:
    for name, texts in (("references", references), ("outputs", outputs)):
        if isinstance(texts, str | bytes):
            raise TypeError(f"{name} must be a list of texts, got one text. Put it into a list.")
        for k, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be texts, got {text!r} in place {k}.")
    if len(references) != len(outputs):
        raise ValueError(f"each reference needs its output, got {len(references)} references and {len(outputs)} outputs.")
    if not references:
        raise ValueError("a score needs at least one sentence, got none.")
    empty = [k for k, text in enumerate(references) if not text.strip()]
    if empty:
        where = f"{len(empty)} are, the first in place {empty[0]}"
        raise ValueError(f"no reference may be empty: {where}. Leave out the sentence; there is nothing to compare with.")


@lru_cache(maxsize=8)
def _moses(language: str) -> tuple[Any, Any]:
    moses = need("sacremoses")
    # perl_parity: what the Perl scripts do where the port means to do better
    return moses.MosesPunctNormalizer(language, perl_parity=True).normalize, moses.MosesTokenizer(language).tokenize
