"""A model of words that judges tokens: complete texts get what the formula says, however and whenever it is given."""

from __future__ import annotations

import math
import random
from functools import cache
from itertools import groupby, product

import numpy as np
import pytest

from longshort import scripts
from longshort.apps.speech.decode import PrefixBeam
from longshort.apps.speech.fusion import Together, WordScorer
from longshort.apps.speech.hotwords import Hotwords
from longshort.apps.speech.ngram import NGram
from longshort.apps.speech.units import Units

WORDS = ["ab", "abc", "ca", "bca", "a", "cab", "cabs"]
STRANGE = ["b", "abcs", "sab", "bc"]


def text(rng: random.Random, words: list[str]) -> str:
    return " ".join(rng.choice(words) for _ in range(rng.randint(0, 6)))


@cache
def ngram() -> NGram:
    rng = random.Random(0)
    return NGram.fit([text(rng, WORDS) for _ in range(200)], 3)


@cache
def units(kind: str) -> Units:
    rng = random.Random(1)
    return Units.fit([text(rng, WORDS + STRANGE) for _ in range(200)], kind, 16)


def walk(scorer, tokens) -> tuple[list[float], float]:
    state, made = scorer.start(), []
    for token in tokens:
        increment, state = scorer.score(state, token)
        hash(state)
        made.append(increment)
    return made, scorer.finish(state)


def judged(line: str, words: list[str], weight: float, bonus: float, unknown: float) -> float:
    known = [w if w in words else "<unk>" for w in line.split()]
    return weight * ngram().sentence(known) + bonus * len(known) + (unknown * known.count("<unk>") if "<unk>" in known else 0)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("lexicon", [None, ["ab", "cab", "bc", "b"]], ids=["model", "given"])
def test_complete_texts_get_what_the_formula_says(kind, ahead, lexicon):
    rng = random.Random(2)
    scorer = WordScorer(ngram(), units(kind), 0.7, 1.3, lexicon, -5.0, ahead)
    for _ in range(300):
        line = text(rng, WORDS + STRANGE)
        increments, end = walk(scorer, units(kind).encode(line))
        assert sum(increments) + end == pytest.approx(judged(line, lexicon or WORDS, 0.7, 1.3, -5.0), abs=1e-9)


SOLID = ["猫", "が", "好", "き", "กิ", "น่", "ข้", "า", "abc", "ab"]
SELDOM = ["犬", "วั", "ca"]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_in_scripts_without_spaces_each_character_is_a_word(kind, ahead):
    """With its marks, and what another script writes between two as well."""
    rng = random.Random(3)

    def line(known: list[str]) -> str:
        return "".join(rng.choice(known) for _ in range(rng.randint(1, 8)))

    model = NGram.fit([scripts.words(line(SOLID)) for _ in range(300)], 3)
    made = Units.fit([line(SOLID + SELDOM) for _ in range(300)], kind, 40)
    scorer = WordScorer(model, made, 0.7, 1.3, None, -5.0, ahead)
    for _ in range(300):
        text = line(SOLID + SELDOM)
        known = [w if w in model else "<unk>" for w in scripts.words(text)]
        wanted = 0.7 * model.sentence(known) + 1.3 * len(known) - 5.0 * known.count("<unk>")
        increments, last = walk(scorer, made.encode(text))
        assert sum(increments) + last == pytest.approx(wanted, abs=1e-9), text


def test_words_of_several_such_characters_stay_whole():
    """A model of words that somebody has found: only spaces end them."""
    model = NGram.fit(["猫 好き です", "犬 好き"], 2)
    made = Units.fit(["猫 好き です 犬"], "char")
    increments, last = walk(WordScorer(model, made, 1.0, 0.0, None, -5.0), made.encode("猫 好き です"))
    assert sum(increments) + last == pytest.approx(model.sentence("猫 好き です"), abs=1e-9)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_spaces_count_where_they_are_written(kind):
    """Characters with spaces between them, as some write Mandarin."""
    lines = ["你 好 吗", "你 好", "吗 你"] * 20
    made = Units.fit(lines, kind, 12)
    assert not made.solid
    solid = Units.fit(["你好吗", "你好"], kind, 12)
    assert solid.solid
    assert Units.from_extra(solid.extra()).solid
    assert not Units.from_extra({k: v for k, v in made.extra().items() if k != "spaced"}).solid, "files from before"
    scorer = WordScorer(NGram.fit(lines, 2), made, 1.0, 0.0, None, -5.0)
    apart, joined = (sum(increments) + last for increments, last in (walk(scorer, made.encode(t)) for t in ("你 好", "你好")))
    assert joined < apart - 4


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_without_ahead_only_ends_of_words_are_judged(kind):
    scorer, u = WordScorer(ngram(), units(kind), 0.7, 1.3, ahead=False), units(kind)
    tokens = u.encode("abc zab cabs".replace("z", "s"))
    increments, _ = walk(scorer, tokens)
    assert [k for k, v in enumerate(increments) if v] == [k for k, t in enumerate(tokens) if k and u.starts_word(t)]


def test_letters_that_begin_no_word_are_unknown_at_once():
    u, scorer = units("char"), WordScorer(ngram(), units("char"), 1.0, 0.0, unknown=-5.0)
    increments, _ = walk(scorer, u.encode("cabca ab"))
    unk = ngram().unigram("<unk>")
    best = [max(ngram().unigram(w) for w in WORDS if w.startswith(s)) for s in ("c", "ca", "cab")]
    assert increments[0] == pytest.approx(best[0])
    assert np.cumsum(increments)[1:3] == pytest.approx(best[1:])
    assert np.cumsum(increments)[3:5] == pytest.approx(unk - 5)
    assert np.cumsum(increments)[5] == pytest.approx(ngram().score(ngram().start(), "<unk>")[0] - 5)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_closed_lexicon_forbids_other_words(ahead):
    u, scorer = units("char"), WordScorer(ngram(), units("char"), unknown=-math.inf, ahead=ahead)
    for line, allowed in (
        ("ab cab", True),
        ("ab b", False),
        ("", True),
        ("ca bca a", True),
        ("sab ab", False),
        ("cab ab bc", False),
    ):
        state, total = scorer.start(), 0.0
        for token in u.encode(line):
            increment, after = scorer.score(state, token)
            total += increment
            if total == -math.inf:
                break
            state = after
        else:
            total += scorer.finish(state)
        assert (total > -math.inf) == allowed, line


def test_spaces_in_a_row_and_at_the_ends_are_no_words():
    u, scorer = units("char"), WordScorer(ngram(), units("char"))
    for line in (" ab  cab ", "ab cab", "  ab cab   "):
        increments, end = walk(scorer, [u.pieces.index(c) for c in line])
        assert sum(increments) + end == pytest.approx(judged("ab cab", WORDS, 0.5, 1.0, -10.0))


@pytest.mark.parametrize("ahead", [False, True])
def test_a_search_with_it_finds_the_best_of_all_texts(ahead):
    u = Units("char", ("<blank>", " ", "a", "b", "c"))
    scorer = Together([WordScorer(ngram(), u, 0.8, 2.0, unknown=-3.0, ahead=ahead), Hotwords({"ca": 1.5, "b": 1.0}, u)])
    for seed in range(3):
        logp = np.log(np.random.default_rng(seed).dirichlet(np.full(5, 0.5), 6))
        truth: dict[tuple[int, ...], float] = {}
        for path in product(range(5), repeat=6):
            tokens = tuple(k for k, _ in groupby(path) if k)
            truth[tokens] = np.logaddexp(truth.get(tokens, -np.inf), sum(logp[t, k] for t, k in enumerate(path)))
        for tokens in truth:
            words = "".join(u.pieces[k] for k in tokens).split()
            truth[tokens] += judged(" ".join(words), WORDS, 0.8, 2.0, -3.0) + 1.5 * words.count("ca") + words.count("b")
        search = PrefixBeam(5, math.inf, scorer, math.inf, math.inf)
        search.accept(logp)
        made = search.finish(len(truth))
        assert {h.tokens: h.score for h in made} == pytest.approx(truth)
        assert made[0].tokens == max(truth, key=truth.__getitem__)
        narrow = PrefixBeam(5, 60, scorer)
        narrow.accept(logp)
        assert narrow.finish()[0].tokens == made[0].tokens


def test_together_is_a_sum():
    u = units("char")
    parts = [WordScorer(ngram(), u), Hotwords({"ab": 2.0}, u), Hotwords({"cab": -1.0}, u)]
    tokens = u.encode("ab cab abc cab")
    each = [walk(s, tokens) for s in parts]
    increments, end = walk(Together(parts), tokens)
    assert increments == pytest.approx(np.sum([e[0] for e in each], 0))
    assert end == pytest.approx(sum(e[1] for e in each))
    assert walk(Together([]), tokens) == ([0] * len(tokens), 0)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_what_is_written_is_what_units_decode(kind):
    rng, u = random.Random(0), units(kind)
    for _ in range(50):
        line = text(rng, WORDS)
        assert "".join(u.written[k] for k in u.encode(line)).strip() == line
    assert u.written[0] == ""


def test_a_model_in_capitals_is_refused():
    model = NGram.fit(["AB CAB", "CABS"])
    with pytest.raises(ValueError, match=r"spell no word.*words like 'AB', 'CAB', 'CABS', but letters 'abcs'.*in capitals\?"):
        WordScorer(model, units("char"))
    with pytest.raises(ValueError, match=r"must be 0 or more, got -1"):
        WordScorer(ngram(), units("char"), -1.0)
