"""Hotwords against counting: what a finished text gets is the sum of the phrases in it, and nothing else."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from longshort.apps.speech.decode import PrefixBeam
from longshort.apps.speech.hotwords import Hotwords, apart
from longshort.apps.speech.units import Units

PHRASES = {"ab": 3.0, "ab a": 5.0, "a ab": 2.0, "ba": -4.0, "abba": 7.0, "b a, b": 1.5, "a": 0.25, "b-a": 6.0}
LETTERS = ("<blank>", " ", "'", ",", "-", "a", "b")


@cache
def units(kind: str) -> Units:
    if kind == "char":
        return Units("char", LETTERS)
    rng = random.Random(0)
    return Units.fit([text(rng) for _ in range(300)], "bpe", 30)


def text(rng: random.Random) -> str:
    words = [
        rng.choice(["ab", "ba", "abba", "a", "b", "b-a", "a'b", "a,", "b,", "aab", "abab"]) for _ in range(rng.randint(0, 8))
    ]
    return " ".join(words)


def counted(line: str, phrases: dict[str, float]) -> float:
    """Score times occurrences, at words. Punctuation is a word."""
    words, total = apart(line).split(), 0.0
    for phrase, score in phrases.items():
        part = apart(phrase).split()
        total += score * sum(words[k : k + len(part)] == part for k in range(len(words)))
    return total


def walk(scorer, tokens) -> tuple[list[float], float]:
    """Increments, and the last one."""
    state, made = scorer.start(), []
    for token in tokens:
        increment, state = scorer.score(state, token)
        hash(state)
        made.append(increment)
    return made, scorer.finish(state)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("phrases", [PHRASES, {"abba": 2.0}, {}], ids=["many", "one", "none"])
def test_a_text_gets_the_scores_of_the_phrases_in_it(kind, phrases):
    rng, scorer = random.Random(1), Hotwords(phrases, units(kind))
    for _ in range(500):
        line = text(rng)
        increments, end = walk(scorer, units(kind).encode(line))
        assert sum(increments) + end == pytest.approx(counted(line, phrases), abs=1e-9)


def test_however_the_tokens_cut_a_word_it_gets_the_same():
    rng, u = random.Random(2), units("bpe")
    scorer, pieces = Hotwords(PHRASES, u), {p: k for k, p in enumerate(u.pieces)}
    for _ in range(300):
        line, rest = text(rng), "".join("▁" + w for w in text(rng).split())
        line, tokens = rest.replace("▁", " "), []
        while rest:
            n = rng.choice([n for n in range(1, len(rest) + 1) if rest[:n] in pieces])
            tokens.append(pieces[rest[:n]])
            rest = rest[n:]
        increments, end = walk(scorer, tokens)
        assert sum(increments) + end == pytest.approx(counted(line, PHRASES), abs=1e-9)


def test_each_letter_gives_its_share_and_a_failed_match_gives_it_back():
    u, scorer = units("char"), Hotwords({"abba b": 6.0}, units("char"))

    def so_far(line: str) -> list[float]:
        return np.cumsum(walk(scorer, [u.pieces.index(c) for c in line])[0]).tolist()

    assert so_far("abba b -") == pytest.approx([1, 2, 3, 4, 5, 6, 6, 6])
    assert so_far("abba a") == pytest.approx([1, 2, 3, 4, 5, 1])
    assert so_far("abba ba") == pytest.approx([1, 2, 3, 4, 5, 6, 0])  # it does not end where a word does
    assert so_far("babba b") == pytest.approx([0] * 7)  # nor begin
    assert so_far("abbabba b") == pytest.approx([1, 2, 3, 4, 0, 0, 0, 0, 0])
    assert so_far("  abba") == pytest.approx([0, 0, 1, 2, 3, 4])
    assert walk(scorer, [u.pieces.index(c) for c in "abba "])[1] == pytest.approx(-5)


def test_a_long_phrase_fails_into_a_shorter_one():
    u, scorer = units("char"), Hotwords({"ab ab ab b": 10.0, "ab ab": 1.0}, units("char"))
    made, end = walk(scorer, [u.pieces.index(c) for c in "ab ab ab ab"])
    assert sum(made) + end == pytest.approx(3)


def test_a_scorer_of_nothing_changes_nothing():
    logp = np.log(np.random.default_rng(0).dirichlet(np.ones(len(LETTERS)), 40))
    plain, scored = PrefixBeam(len(LETTERS), 8), PrefixBeam(len(LETTERS), 8, Hotwords({}, units("char")))
    for search in (plain, scored):
        search.accept(logp)
    assert plain.finish(8) == scored.finish(8)


def test_a_search_hears_the_phrase_where_the_audio_is_in_doubt():
    u = units("char")
    line, other = "abba ab", "abba bb"
    logp = np.full((2 * len(line), len(LETTERS)), 1e-4)
    logp[1::2, 0] = 1
    for k, (c, d) in enumerate(zip(line, other, strict=True)):
        logp[2 * k, u.pieces.index(c)] += 0.4
        logp[2 * k, u.pieces.index(d)] += 0.6
    logp = np.log(logp / logp.sum(1, keepdims=True))

    def heard(scorer) -> str:
        search = PrefixBeam(len(u), 8, scorer)
        search.accept(logp)
        return u.decode(search.finish()[0].tokens)

    assert heard(None) == heard(Hotwords({"ab b": 5.0}, u)) == other
    assert heard(Hotwords({"ab": 1.0}, u)) == line
    assert heard(Hotwords({"bb": -1.0}, u)) == line


def test_phrases_are_normalised_and_checked():
    u = Units("char", ("<blank>", " ", "a", "é"))
    assert walk(Hotwords({" a  e\u0301 ": 3.0}, u), [2, 1, 3]) == ([1, 1, 1], 0)
    with pytest.raises(ValueError, match=r"hotword 'ABC' holds 'A', 'B', 'C', which the recogniser never writes"):
        Hotwords({"a": 1.0, "ABC": 1.0}, u)
    for phrase, score in (("", 1.0), ("  ", 1.0), ("a", float("nan")), ("a", float("inf"))):
        with pytest.raises(ValueError, match="must have letters and a finite score"):
            Hotwords({phrase: score}, u)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_where_there_are_no_spaces_a_phrase_may_begin_and_end_anywhere(kind):
    made = Units.fit(["六零四五", "九四二", "六 四 ok"] * 30, kind, 20)
    hot = Hotwords({"六零": 6.0, "ok": 3.0}, made)

    def total(text):
        state, won = hot.start(), 0.0
        for token in made.encode(text):
            gain, state = hot.score(state, token)
            won += gain
        return won + hot.finish(state)

    for text, want in (
        ("六零四", 6),
        ("四六零", 6),
        ("九六零六零二", 12),
        ("六四零", 0),
        ("六四", 0),
        ("四ok六零", 9),
        ("ok", 3),
    ):
        assert total(text) == pytest.approx(want), text
