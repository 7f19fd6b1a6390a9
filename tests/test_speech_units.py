"""Laws of the tokens: text comes back, words are whole, and what cannot be written is named."""

from __future__ import annotations

import itertools
import json
import pickle
import sys
import unicodedata

import numpy as np
import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from longshort.apps.speech.units import BLANK, Units, normal

WORDS = "the cat sat on a mat and that cat ate the rat at ten Über 日本 語 naïve don't <unk> <s> 3,5 a-b"
ALPHABET = st.text("abß é日<>/'", min_size=1, max_size=40)


def corpus(seed: int, n: int = 200) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS.split(), rng.integers(1, 9))) for _ in range(n)]


@pytest.fixture(scope="module", params=["char", "bpe"])
def units(request):
    return Units.fit(corpus(0), request.param, 80)


# the text


@given(st.text(), st.booleans())
@settings(max_examples=500)
def test_normal_text_is_a_fixed_point(text, fold):
    made = normal(text, fold)
    assert normal(made, fold) == made
    assert made == " ".join(made.split())
    assert unicodedata.is_normalized("NFC", made)
    assert normal(unicodedata.normalize("NFD", text), fold) == made


def test_normal_changes_nothing_else():
    assert normal("  It's\t2 o'clock \u3000\n \u2013 Ünder\u00adway!  ") == "It's 2 o'clock \u2013 Ünder\u00adway!"
    assert normal("ÀÉ ΑΣ", fold=True) == "àé ας"
    assert normal("e\u0301") == "é"


# there and back


@given(st.lists(ALPHABET, min_size=1, max_size=5), st.sampled_from(["char", "bpe"]), st.integers(12, 40))
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_comes_back(texts, kind, size):
    assume(any(normal(t) for t in texts))
    units = Units.fit(texts, kind, size)
    assert units.pieces[0] == BLANK
    assert kind == "char" or len(units) <= size
    for text in texts:
        ids = units.encode(text)
        assert 0 not in ids
        assert units.known(text)
        assert units.decode(ids) == normal(text)


def test_what_is_encoded_comes_back_from_a_corpus(units):
    for text in corpus(1):
        assert units.decode(units.encode(f"  {text} ")) == text


@given(st.data())
@settings(max_examples=300)
def test_any_tokens_make_normal_text_and_whole_words(units, data):
    """Blanks, spaces in a row and pieces in any order, as a network writes them."""
    ids = data.draw(st.lists(st.integers(0, len(units) - 1), max_size=20))
    text, words = units.decode(ids), units.words(ids)
    assert text == normal(text)
    assert [units.decode([ids[k] for k in word]) for word in words] == text.split()
    at = [k for word in words for k in word]
    assert at == sorted(set(at))
    assert all(units.pieces[ids[k]] in (BLANK, " ", "▁") for k in set(range(len(ids))) - set(at))
    for word in words:
        assert not any(units.starts_word(ids[k]) for k in word[1:])


def test_words_begin_where_they_say(units):
    for text in corpus(2, 20):
        ids = units.encode(text)
        assert len(units.words(ids)) == len(text.split())
        begins = [k for k, token in enumerate(ids) if units.starts_word(token)]
        assert len(begins) == len(text.split()) - (units.kind == "char")  # no space stands before the first
    assert not units.starts_word(0)


def test_pieces_are_those_of_sentencepiece():
    units = Units.fit(corpus(0), "bpe", 80)
    model = sentencepiece.SentencePieceProcessor(model_proto=units.blob)
    assert len(model) == len(units)
    assert [model.id_to_piece(k) for k in range(1, len(units))] == list(units.pieces[1:])
    assert max(map(len, units.pieces[1:])) > 3
    for text in corpus(3):
        assert units.encode(text) == model.encode(text)
        assert units.decode(model.encode(text)) == model.decode(model.encode(text)) == text


def test_characters_are_sorted_and_the_space_is_one():
    units = Units.fit(["b a", "A"], "char")
    assert units.pieces == (BLANK, " ", "A", "a", "b")
    assert units.encode("A b") == [2, 1, 4]
    assert Units.fit(["ab"], "char").unknown("a b") == [" "]


def test_the_same_texts_give_the_same_units(units):
    again = Units.fit((f" {t}\n" for t in corpus(0)), units.kind, 80)
    assert again == units
    assert hash(again) == hash(units)
    assert len(again) == len(units.pieces)


# carried along


def test_units_travel_as_json_and_between_processes(units):
    units.encode("the cat")  # a model that is loaded travels too
    for other in (Units.from_extra(json.loads(json.dumps(units.extra()))), pickle.loads(pickle.dumps(units))):
        assert other == units
        assert other.encode("the cat sat") == units.encode("the cat sat")


def test_only_encoding_pieces_needs_sentencepiece(monkeypatch, units):
    made = Units.from_extra(units.extra())
    ids = units.encode("the cat")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert made.decode(ids) == "the cat"
    assert made.known("the cat")
    if units.kind == "bpe":
        with pytest.raises(ImportError, match=r"speech needs sentencepiece, .*pip install 'longshort\[pieces\]'"):
            made.encode("the cat")
        with pytest.raises(ImportError, match="sentencepiece"):
            Units.fit(["a"], "bpe")


# refused


def test_what_cannot_be_written_is_named(units):
    assert not units.known("cät")
    assert units.unknown("Zebra cät") == ["Z", "ä"]
    with pytest.raises(ValueError, match=r"'Z' \(U\+005A\), 'ä' \(U\+00E4\) in 'Zebra cät': not among .* or learn it too"):
        units.encode("Zebra cät")
    with pytest.raises(ValueError, match="leave it out, or fold it to lower case"):
        units.encode("CAT")
    with pytest.raises(ValueError, match="and 3 more characters in"):
        units.encode("абвгдежз")
    assert units.encode("") == []
    assert units.decode([]) == ""
    assert units.words([]) == []


def test_pieces_need_room_and_characters_that_are_not_reserved():
    with pytest.raises(ValueError, match="bpe needs at least 5 tokens, one for each character of the texts and the blank, got 4"):
        Units.fit(["ab c"], "bpe", 4)
    assert len(Units.fit(["ab c"], "bpe", 5)) == 5
    for c in "▁▅\0":
        with pytest.raises(ValueError, match=r"the texts hold .* \(U\+.{4}\), reserved by SentencePiece"):
            Units.fit(["ab", f"a{c}b"], "bpe", 30)
        assert Units.fit([f"a{c}b"], "char").decode([1, 2]) == "".join(sorted({"a", c, "b"})[:2])


def test_a_text_of_any_length_is_learned_from():
    """SentencePiece leaves out what is longer than four thousand bytes unless it is told otherwise."""
    assert Units.fit(["q" + "ab " * 5000], "bpe", 10).known("q")


@pytest.mark.parametrize("texts", [[], [""], [" ", "\n"]])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_units_need_text(texts, kind):
    with pytest.raises(ValueError, match="texts with at least one character; there is none"):
        Units.fit(texts, kind)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("word", (BLANK, "a")), "one of char, bpe, got 'word'"),
        (("char", ("a", "b")), "must be '<blank>', then one or more"),
        (("char", (BLANK,)), "must be '<blank>', then one or more"),
        (("char", (BLANK, "a", "a")), "each once"),
        (("char", (BLANK, "ab")), "single characters without a model"),
        (("char", (BLANK, "a"), b"x"), "single characters without a model"),
        (("bpe", (BLANK, "a")), "come with their model"),
    ],
)
def test_units_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Units(*fields)
    kind, pieces, blob = (*fields, b"")[:3]
    with pytest.raises(ValueError, match=message):
        Units.from_extra({"kind": kind, "pieces": list(pieces), "blob": "eA==" if blob else ""})


@pytest.mark.parametrize("change", [{"blob": "%"}, {"blob": 3}, {"pieces": None}, {"pieces": [BLANK, 3]}, {"pieces": 7}])
def test_damaged_units_are_refused(change):
    good = Units.fit(["ab"], "char").extra()
    with pytest.raises(ValueError, match=r"must be a kind, pieces and a blob in base64: .* Is the file damaged"):
        Units.from_extra(good | change)
    with pytest.raises(ValueError, match="KeyError"):
        Units.from_extra({k: v for k, v in good.items() if k not in change})


def test_a_damaged_model_is_refused():
    good = Units.fit(["ab ab"], "bpe", 10)
    with pytest.raises(ValueError, match=r"model of the units cannot be read: .* Is the file damaged"):
        Units("bpe", good.pieces, good.blob[: len(good.blob) // 2]).encode("ab")
    with pytest.raises(ValueError, match=f"model has {len(good)} pieces, the units {len(good) - 1}. Is the file damaged"):
        Units("bpe", good.pieces[:-1], good.blob).encode(" ")
    with pytest.raises(ValueError, match=f"model has {len(good)} pieces, the units {len(good) + 1}"):
        Units("bpe", (*good.pieces, "c"), good.blob).encode("c")


def test_pieces_of_a_script_without_spaces_end_where_its_characters_do() -> None:
    """A mark such as Thai's tones belongs to the character before it."""
    text = "ไม่กี่ต้นไม้ดีก่าว"
    for pieces in (14, 20):
        units = Units.fit([text, "ดีไม่ก่า", "ต้นกี่ไม้"] * 5, "bpe", pieces)
        ids = units.encode(text)
        said = [units.decode([ids[k] for k in word]) for word in units.words(ids)]
        assert "".join(said) == text
        starts = {0, *itertools.accumulate(map(len, units.split(text)))}
        assert {0, *itertools.accumulate(map(len, said))} <= starts
        assert len(said) > 4


def test_an_unknown_kind_is_refused_before_it_is_fitted():
    with pytest.raises(ValueError, match="one of char, bpe, got 'words'"):
        Units.fit(["a"], "words")


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_without_spaces_each_character_is_a_word(kind: str) -> None:
    units = Units.fit(["猫が好き", "鳥が歌う", "きた猫ABが好", "ガラスが好き"] * 5, kind, 40)
    assert units.solid
    for text in ("猫が好き", "鳥AB歌う", "ガラス"):
        ids = units.encode(text)
        at = units.words(ids)
        assert [k for word in at for k in word] == [k for k, i in enumerate(ids) if units.written[i]]
        said = [units.decode([ids[k] for k in word]) for word in at]
        assert "".join(said) == text
        assert not any(word.startswith("B") for word in said)
        if kind == "char":
            assert said == units.split(text)
        starts = {0, *itertools.accumulate(map(len, units.split(text)))}
        assert {0, *itertools.accumulate(map(len, said))} <= starts, "a token may hold several words, but none has a part of one"
    assert units.split("猫AB が") == ["猫", "AB", "が"]
    assert Units.fit(["the cat 猫"], "char").split("the 猫が") == ["the", "猫が"]
