"""Scores of translations: BLEU from its definition and hand-made tokens are the oracles; signatures say what was done."""

from __future__ import annotations

import math
import sys
from collections import Counter

import numpy as np
import pytest

from longshort.apps.translate.metrics import bleu, chrf, multi30k, scores, sentences, telling, tokenised, worst

WORDS = ["der", "Hund", "die", "Katze", "ein", "Haus", "läuft", "schläft", "schnell", "heute", ",", "."]


def corpus(n: int, seed: int, noise: float = 0.3) -> tuple[list[str], list[str]]:
    """Texts of words that every tokeniser leaves alone but for the punctuation, which stands apart."""
    rng = np.random.default_rng(seed)
    said = [[WORDS[k] for k in rng.integers(len(WORDS), size=rng.integers(1, 25))] for _ in range(n)]
    heard = [
        [WORDS[rng.integers(len(WORDS))] if rng.random() < noise else w for w in s if rng.random() > noise / 4] for s in said
    ]
    return [" ".join(s) for s in said], [" ".join(s) for s in heard]


def by_definition(references: list[str], outputs: list[str]) -> float:
    """Corpus BLEU without smoothing, of what white space separates."""
    hit, made, r, o = [0] * 4, [0] * 4, 0, 0
    for reference, output in zip(references, outputs, strict=True):
        a, b = reference.split(), output.split()
        r, o = r + len(a), o + len(b)
        for n in range(1, 5):
            x, y = (Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1)) for t in (a, b))
            hit[n - 1] += sum((x & y).values())
            made[n - 1] += sum(y.values())
    if min(hit) == 0:
        return 0.0
    return 100 * min(1, math.exp(1 - r / o)) * math.exp(sum(math.log(h / m) for h, m in zip(hit, made, strict=True)) / 4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_both_bleus_are_that_of_the_definition_where_tokens_stand_apart(seed, noise):
    references, outputs = corpus(63, seed, noise)
    want = by_definition(references, outputs)
    assert bleu(references, outputs).value == pytest.approx(want)
    lower = by_definition([r.lower() for r in references], [o.lower() for o in outputs])
    assert multi30k(references, outputs, "de").value == pytest.approx(lower)


def test_bleu_and_chrf_are_cased_and_multi30k_is_not():
    references, outputs = ["Der Hund schläft heute im Haus."], ["der hund schläft heute im haus ."]
    assert multi30k(references, outputs, "de").value == pytest.approx(100)
    assert 0 < bleu(references, outputs).value < 60
    assert 0 < chrf(references, outputs).value < 90
    assert bleu(references, references).value == chrf(references, references).value == pytest.approx(100)


def test_signatures_name_all_that_was_done():
    made = scores(*corpus(20, 0), language="de", draws=0)
    assert list(made) == ["BLEU", "chrF2", "Multi30k BLEU"]
    assert all(score.name == name and score.name in str(score) and score.signature in str(score) for name, score in made.items())
    assert made["BLEU"].signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert made["chrF2"].signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert "|case:lc|eff:no|norm:moses|tok:moses-de|sacremoses:" in made["Multi30k BLEU"].signature
    assert "|smooth:none|" in made["Multi30k BLEU"].signature
    assert list(scores(*corpus(20, 0), draws=0)) == ["BLEU", "chrF2"]


@pytest.mark.parametrize(
    ("language", "raw", "want"),
    [  # Moses' scripts by hand: quotes become ASCII, hyphens stay, apostrophes split as the language has it, XML escapes
        ("en", "The “old” man\u2019s T-shirt isn\u2019t blue, is it?", "the &quot; old &quot; man &apos;s t-shirt isn &apos;t blue , is it ?"),
        ("fr", "L\u2019homme d'Asie «rit».", "l&apos; homme d&apos; asie &quot; rit &quot; ."),
        ("de", "Ein Ä-Hut (rot) kostet 3,50 \u2013 z.B. heute…", "ein ä-hut ( rot ) kostet 3,50 - z.b. heute ..."),
        ("de", "  ", ""),
    ],
)  # fmt: skip
def test_tokens_are_those_of_moses(language, raw, want):
    assert tokenised([raw], language) == [want]


def test_intervals_hold_the_score_shrink_with_the_corpus_and_repeat():
    few, many = corpus(50, 1), corpus(800, 1)
    for score in (bleu, chrf):
        a, b = score(*few, draws=300), score(*many, draws=300)
        assert 0 <= a.low < a.value < a.high <= 100
        assert (a.high - a.low) / (b.high - b.low) == pytest.approx(4, rel=0.35)  # the root of 16
        assert score(*few, draws=300) == a
        assert "bs:300|seed:" in a.signature
        assert (score(*few).low, score(*few).high) == (None, None)
    perfect = chrf(few[0], few[0], draws=30)
    assert (perfect.low, perfect.high) == (100, 100)
    nothing = bleu(["a b c d e"], ["x"], draws=30)
    assert nothing.low == nothing.high == pytest.approx(0, abs=1e-9)
    with_language = multi30k(*few, "de", draws=30)
    assert with_language.low < with_language.value < with_language.high


def test_an_empty_output_is_a_bad_one():
    references, _ = corpus(20, 3)
    outputs = ["", *references[1:]]
    for score in (bleu, chrf):
        assert 0 < score(references, outputs).value < 100
        assert score(references, [""] * 20).value == 0
    assert multi30k(references, [""] * 20, "de").value == 0
    assert worst(references, outputs, 5) == [0]


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
def test_sentences_are_scored_alone_and_the_worst_come_first(metric):
    references, outputs = corpus(40, 5)
    made = sentences(references, outputs, metric)
    assert made.shape == (40,)
    assert ((made >= 0) & (made <= 100)).all()
    assert np.allclose(made[3:7], sentences(references[3:7], outputs[3:7], metric))
    assert (sentences(references, references, metric) == 100).all()
    low = worst(references, outputs, 7, metric)
    assert made[low].tolist() == sorted(made)[:7]
    assert worst(references, references) == []


def test_the_more_telling_score_comes_first():
    long, short = ["a b c d e"] * 3, ["a b", "c", "d e f"]
    assert (telling(long), telling(short), telling([*long, *short]), telling([*short, long[0]])) == (
        "BLEU",
        "chrF",
        "BLEU",
        "chrF",
    )
    assert telling(["Es regnet heute."]) == "BLEU"  # 13a takes the full stop off
    assert [*scores(long, long)] == ["BLEU", "chrF2"]
    assert [*scores(short, short, "de")] == ["chrF2", "BLEU", "Multi30k BLEU"]


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="two letters, such as de, got 'german'"):
        multi30k(["a"], ["a"], "german")
    for score in (bleu, chrf, sentences, lambda r, o: multi30k(r, o, "de"), scores):
        with pytest.raises(ValueError, match="got 2 references and 1 outputs"):
            score(["a", "b"], ["a"])
        with pytest.raises(ValueError, match="at least one sentence, got none"):
            score([], [])
        with pytest.raises(ValueError, match="2 are, the first in place 1"):
            score(["a", " ", ""], ["a", "b", "c"])
        with pytest.raises(TypeError, match="references must be a list of texts, got one text"):
            score("a", ["a"])
        with pytest.raises(TypeError, match="outputs must be texts, got None in place 1"):
            score(["a", "b"], ["a", None])
    with pytest.raises(ValueError, match="one of chrf, bleu, got 'ter'"):
        sentences(["a"], ["a"], "ter")


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"needs sacrebleu.*pip install 'longshort\[translate\]'"):
        bleu(["a"], ["a"])
