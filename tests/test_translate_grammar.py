"""The toy language is what it says: always the same, endless, and German that is a function of the English."""

from __future__ import annotations

import numpy as np
import pytest

from translate_grammar import ADVERBS, NOUNS, VERBS, Phrase, clause, date, english_number, german_number, grammar, number, say


def test_the_same_generator_makes_the_same_text():
    assert grammar(300, np.random.default_rng(1)) == grammar(300, np.random.default_rng(1))
    assert not set(grammar(300, np.random.default_rng(1), clause)) & set(grammar(300, np.random.default_rng(2), clause))


def test_german_is_a_function_of_the_english():
    rng, seen = np.random.default_rng(0), {}
    for _ in range(20_000):
        for kind in (number, date, clause):
            english, german = kind(rng)
            assert seen.setdefault(english, german) == german
    assert len(seen) > 30_000


@pytest.mark.parametrize("kind", [number, date, clause])
def test_sentences_are_distinct_and_of_the_kind_asked(kind):
    made = grammar(500, np.random.default_rng(0), kind)
    assert len({english for english, _ in made}) == 500
    for sentence in (text for pair in made for text in pair):
        assert sentence == " ".join(sentence.split())
        assert sentence[0].isupper()
        assert sentence[-1] in ".?"


def test_numbers():
    words = {0: "null", 1: "eins", 21: "einundzwanzig", 37: "siebenunddreißig", 101: "einhunderteins", 123: "einhundertdreiundzwanzig",
             1000: "eintausend", 61_016: "einundsechzigtausendsechzehn", 101_201: "einhunderteintausendzweihunderteins"}  # fmt: skip
    assert {k: german_number(k) for k in words} == words
    assert english_number(123) == "one hundred and twenty-three"
    assert english_number(340_007) == "three hundred and forty thousand and seven"
    for count in (english_number, german_number):
        assert len({count(k) for k in range(20_000)}) == 20_000


def test_words_change_place_and_form():
    noun, verb = {n.one: n for n in NOUNS}, {v.see: v for v in VERBS}
    dog, man = Phrase("the", "small", noun["dog"], 1), Phrase("the", "old", noun["man"], 1)
    woman, girl, mice = (
        Phrase("a", "old", noun["woman"], 1),
        Phrase("my", "", noun["girl"], 1),
        Phrase("some", "big", noun["mouse"], 21),
    )
    now = ("now", ADVERBS["now"])
    assert [
        say(dog, man, verb["see"], "plain", "present"),
        say(man, dog, verb["invite"], "plain", "present", no=True),
        say(woman, mice, verb["call"], "early", "past", when=now),
        say(mice, woman, verb["look for"], "question", "should", no=True, when=now),
        say(girl, man, verb["pick up"], "I know that", "present"),
        say(mice, girl, verb["introduce"], "We hope that", "can", no=True),
    ] == [
        ("The small dog sees the old man.", "Der kleine Hund sieht den alten Mann."),
        ("The old man does not invite the small dog.", "Der alte Mann lädt den kleinen Hund nicht ein."),
        ("Now, an old woman called twenty-one big mice.", "Jetzt hat eine alte Frau einundzwanzig große Mäuse angerufen."),
        ("Should twenty-one big mice not look for an old woman now?", "Sollen einundzwanzig große Mäuse eine alte Frau jetzt nicht suchen?"),
        ("I know that my girl picks up the old man.", "Ich weiß, dass mein Mädchen den alten Mann abholt."),
        ("We hope that twenty-one big mice cannot introduce my girl.", "Wir hoffen, dass einundzwanzig große Mäuse mein Mädchen nicht vorstellen können."),
    ]  # fmt: skip
