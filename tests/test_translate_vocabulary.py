"""Laws of the vocabulary: text comes back, spans and words are where they say, sampling is what the papers say."""

from __future__ import annotations

import json
import pickle
import random
import sys
import unicodedata
from collections import Counter
from io import BytesIO
from itertools import combinations, pairwise

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.apps.translate.config import WITH_BYTES, Config
from longshort.apps.translate.vocabulary import BOS, EOS, PAD, SPECIAL, START, UNK, Vocabulary, normal
from longshort.scripts import ALONE
from translate_grammar import grammar

CORPUS = [text for pair in grammar(1500, np.random.default_rng(0)) for text in pair]
FRESH = [text for pair in grammar(400, np.random.default_rng(1)) for text in pair]
MADE = {
    (kind, byte_fallback): Vocabulary.fit(CORPUS, kind, 600, byte_fallback=byte_fallback)
    for kind in ("bpe", "unigram", "char")
    for byte_fallback in (False, True)
}
WRITTEN = st.text("abeinrtAÜß ▁.,1é日\u0301<s>\u2028x", max_size=30) | st.text(max_size=12)
BPE, UNIGRAM = MADE["bpe", False], MADE["unigram", False]


@pytest.fixture(params=MADE, ids=lambda key: f"{key[0]}{'-bytes' * key[1]}")
def vocabulary(request):
    return MADE[request.param]


# the text


@given(st.text())
@settings(max_examples=300)
def test_normal_text_is_a_fixed_point(text):
    made = normal(text)
    assert normal(made) == made == " ".join(made.split())
    assert unicodedata.is_normalized("NFC", made)
    assert normal(unicodedata.normalize("NFD", text)) == made


def test_normal_changes_nothing_else():
    assert normal("  It's\t2 o'clock \u3000\n \u2013 Ünder\u00adway…  ") == "It's 2 o'clock \u2013 Ünder\u00adway…"
    assert normal("½ ﬁ \uff05 ① STRASSE ß İ") == "½ ﬁ \uff05 ① STRASSE ß İ"
    assert normal("e\u0301 a▁b \ud800") == "é a b \ufffd"


# there and back


def test_what_is_encoded_comes_back(vocabulary):
    assert vocabulary.pieces[:4] == SPECIAL
    for text in [*CORPUS, *FRESH]:
        ids = vocabulary.encode(f" {text}  ")
        assert min(ids) >= 4
        assert vocabulary.decode(ids) == vocabulary.decode([BOS, *ids, EOS, PAD]) == text


@given(WRITTEN, st.sampled_from(["bpe", "unigram", "char"]))
@settings(max_examples=400, deadline=None)
def test_any_text_comes_back_from_bytes(text, kind):
    vocabulary = MADE[kind, True]
    ids = vocabulary.encode(text)
    assert min(ids, default=4) >= 4
    assert vocabulary.decode(ids) == normal(text)


@given(WRITTEN, st.sampled_from(["bpe", "unigram", "char"]), st.sampled_from([0, 0.5, 1]), st.integers(0, 9))
@settings(max_examples=400, deadline=None)
def test_what_is_unknown_can_be_put_back(text, kind, rate, seed):
    vocabulary, text = MADE[kind, False], normal(text)
    ids = vocabulary.sample(text, np.random.default_rng(seed), rate)
    spans = vocabulary.spans(text, ids)
    unknown = [text[a:b] for (a, b), k in zip(spans, ids, strict=True) if k == UNK]
    assert all(unknown)
    assert vocabulary.decode(ids, unknown) == text
    assert not {PAD, BOS, EOS} & set(ids)


def test_what_only_looks_special_is_text():
    text = "<s> a </s> <pad> <unk> <0x41> <0x00> ▁ ▅ \0"
    for kind in ("bpe", "unigram", "char"):
        made = Vocabulary.fit([text, "/ a", *CORPUS], kind, 600)
        ids = made.encode(text)
        assert not {PAD, BOS, EOS} & set(ids)
        assert made.decode(ids) == "<s> a </s> <pad> <unk> <0x41> <0x00> ⁇ ⁇"  # the last two SentencePiece needs for itself
        assert MADE[kind, True].decode(MADE[kind, True].encode(text)) == normal(text)
    assert BPE.encode("") == BPE.encode(" \n") == []
    assert BPE.decode([]) == ""


def test_unknown_texts_are_written_in_order():
    ids = BPE.encode("日本 und xΩ!x")
    assert BPE.decode(ids) == "⁇ und x⁇x"
    assert BPE.decode(ids, "") == "und xx"
    assert BPE.decode(ids, ["ein", "-"]) == "ein und x-x"
    assert BPE.decode(ids, [" ein  Hund ", " "]) == "ein Hund und x x"
    with pytest.raises(ValueError, match="a text for each of 2 UNK, got 3"):
        BPE.decode(ids, ["a", "b", "c"])


# words and spans


@given(st.lists(st.integers(0, 599), max_size=20))
@settings(max_examples=300)
def test_words_are_those_of_the_text(ids):
    """Of any tokens in any order, as a network writes them."""
    ids = [k % len(BPE) for k in ids]
    words = BPE.words(ids)
    at = [k for word in words for k in word]
    assert at == sorted(set(at))
    assert [BPE.decode([ids[k] for k in word]) for word in words] == BPE.decode(ids).split()


JAPANESE = ["赤い船は家へ帰る。", "鳥が古い橋の上で歌う。", "Annaは船で1987年に帰る。"] * 20


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
@pytest.mark.parametrize("beside", [[], ["the red ship sails home", "a bird sings on the old bridge"] * 20])
def test_where_there_are_no_spaces_each_token_is_a_word(kind, beside):
    made = Vocabulary.fit(JAPANESE + beside, kind, 90)
    for text in JAPANESE[:3]:
        ids = made.encode(text)
        written = [made.decode([ids[k] for k in word]) for word in made.words(ids)]
        assert "".join(written) == text
        alone = [k for k in ids if ALONE.match(made.pieces[k].removeprefix(START))]
        assert len(written) >= len(alone) > 0
    assert "Anna" in written
    assert len(made.words(made.encode("鳥\U0001f426鳥"))) == 3  # what is unknown is a word of its own
    assert made.solid
    assert made.solid_for("the boat") == made.solid
    assert set(made.solid) <= set("".join(JAPANESE))
    assert not BPE.solid


def test_a_language_without_spaces_is_that_of_the_translation_or_of_the_sentence():
    own = JAPANESE[:2] * 20
    one, shared = Vocabulary.fit(own, size=90), Vocabulary.fit([*own, *["the red ship sails home to old bridges"] * 40], size=90)
    assert one.solid_for("鳥") == one.solid != ""
    assert shared.solid_for("鳥") == "", "the translation is of the other language, which has spaces"
    assert shared.solid_for("a bird") == shared.solid != ""


def test_what_goes_on_with_a_word():
    made = Vocabulary.fit(["can't stop_it, 서울에 船は x-12 नमस्ते"] * 3, "char", 90)
    said = {made.pieces[k] for k in made.glued}
    assert said == set("can'tstop_it,x-12नमस्ते") - set("',-")
    assert {BPE.pieces[k] for k in BPE.glued} == {p for p in BPE.pieces[4:] if p[0].isalnum()}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("zero", ["0", "\u0660", "\u0966", "\u0e50", "\uff10"])
def test_digits_of_all_scripts_stay_single(kind, zero):
    years = ["".join(chr(ord(zero) + int(c)) for c in str(1900 + k % 30)) for k in range(300)]
    made = Vocabulary.fit([f"it was in {year} there" for year in years], kind, 200)
    assert all(sum(c.isdecimal() for c in piece) <= 1 for piece in made.pieces)
    for text in (f"in {years[3]}", years[29]):
        assert made.decode(made.encode(text)) == text
        assert made.decode(made.sample(text, np.random.default_rng(0), 0.5)) == text
        assert [text[a:b] for a, b in made.spans(text)][-4:] == list(text[-4:])


def test_spans_are_those_of_sentencepiece(vocabulary):
    model = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.blob)
    for text in FRESH:
        spans = vocabulary.spans(text)
        for k, (a, b), piece in zip(vocabulary.encode(text), spans, model.encode(text, out_type=str), strict=True):
            assert text[a:b] == piece.replace(START, "")
            assert k == model.piece_to_id(piece)
        at = [a for span in spans for a in span]
        assert at == sorted(at)


def test_the_bytes_of_a_character_have_its_span():
    made = MADE["bpe", True]
    spans = Counter(made.spans("日 ein é"))
    assert (spans[0, 1], spans[2, 5], spans[6, 7]) == (3, 1, 2)
    assert spans.keys() == {(0, 0), (0, 1), (2, 5), (6, 6), (6, 7)}


@pytest.mark.parametrize(("text", "ids"), [("ein", "der"), ("ein Hund", "ein"), ("ein", "ein Hund"), ("", "ein"), ("ein", "")])
def test_tokens_of_another_text_have_no_spans(text, ids):
    with pytest.raises(ValueError, match=r"ids must be tokens of '.*'; number \d is not, or some are missing"):
        BPE.spans(text, BPE.encode(ids))


# sampling


def test_no_sampling_is_encoding_and_merges_are_those_of_sentencepiece():
    words = sorted({word for text in [*CORPUS, *FRESH, "Xylophon aaaaaaaa日本日 ee日ee"] for word in text.split()})
    assert len(words) > 1500
    for key in (("bpe", False), ("bpe", True)):
        for word in words:
            assert MADE[key]._merged(word, 0.0, random.Random(0)) == MADE[key].encode(word)
    for made in MADE.values():
        assert made.sample(FRESH[0], np.random.default_rng(0), 0.0) == made.encode(FRESH[0])


def test_sampling_changes_the_pieces_and_not_the_text(vocabulary):
    rng, lengths = np.random.default_rng(0), []
    for rate in (0, 0.1, 0.3, 0.6, 1):
        made = [vocabulary.sample(text, rng, rate) for text in FRESH]
        assert [vocabulary.decode(ids) for ids in made] == FRESH
        lengths.append(sum(map(len, made)))
    if vocabulary.kind == "char":
        assert len(set(lengths)) == 1
    else:
        assert all(b > 1.01 * a for a, b in pairwise(lengths))
    if vocabulary.kind == "bpe":
        assert lengths[-1] == sum(len(text) + 1 for text in FRESH)  # characters, and what begins a word


def test_sampling_depends_on_the_generator_alone(vocabulary):
    fresh = Vocabulary(vocabulary.kind, vocabulary.blob)
    [vocabulary.sample(text, np.random.default_rng(9), 0.4) for text in FRESH]
    long = ["", "x" * 40 + " Donaudampfschifffahrtsgesellschaftskapitän", *FRESH[:50]]
    made = [[v.sample(text, rng, 0.4) for text in long] for v in (vocabulary, fresh) for rng in [np.random.default_rng(5)]]
    assert made[0] == made[1]
    other = [fresh.sample(text, np.random.default_rng(6), 0.4) for text in long]
    assert (other == made[0]) == (vocabulary.kind == "char")


def dropout(parts: tuple[str, ...], ranks: dict[str, int], p: float, share: float, made: Counter) -> None:
    """Algorithm 1 of Provilkov et al., followed into every way that it can go."""
    merges = [k for k in range(len(parts) - 1) if parts[k] + parts[k + 1] in ranks]
    for n in range(len(merges) + 1):
        for kept in combinations(merges, n):
            chance = share * (1 - p) ** n * p ** (len(merges) - n)
            if not kept:
                made[parts] += chance
                continue
            k = min(kept, key=lambda k: (ranks[parts[k] + parts[k + 1]], k))
            dropout((*parts[:k], parts[k] + parts[k + 1], *parts[k + 2 :]), ranks, p, chance, made)


@pytest.mark.parametrize("word", ["Hund", "einen", "seven"])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bpe_dropout_is_that_of_the_paper(word, rate):
    model, draws, expected = sentencepiece.SentencePieceProcessor(model_proto=BPE.blob), 4000, Counter()
    ranks = {model.id_to_piece(k): -model.get_score(k) for k in range(4, len(model)) if len(model.id_to_piece(k)) > 1}
    dropout((*START, *word), ranks, rate, 1.0, expected)
    assert sum(expected.values()) == pytest.approx(1)
    seen = Counter(tuple(BPE.pieces[k] for k in BPE._merged(word, rate, random.Random(seed))) for seed in range(draws))
    assert set(seen) <= set(expected)
    for parts, share in expected.items():
        assert seen[parts] / draws == pytest.approx(share, abs=4.5 * (share * (1 - share) / draws) ** 0.5 + 1 / draws)


def test_unigram_sampling_is_that_of_the_paper():
    model = sentencepiece.SentencePieceProcessor(model_proto=UNIGRAM.blob)
    best = model.nbest_encode_as_ids("zwanzig", 64)
    weights = np.exp([0.2 * sum(map(model.get_score, ids)) for ids in best])
    rng, draws = np.random.default_rng(0), 20_000
    for rate in (1.0, 0.3):
        expected = rate * weights / weights.sum() + (1 - rate) * (np.arange(len(best)) == 0)
        seen = Counter(tuple(UNIGRAM.sample("zwanzig", rng, rate)) for _ in range(draws))
        assert set(seen) <= set(map(tuple, best))
        for ids, share in zip(best, expected, strict=True):
            assert seen[tuple(ids)] / draws == pytest.approx(share, abs=4.5 * (share * (1 - share) / draws) ** 0.5 + 1 / draws)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got"):
        BPE.sample("a", np.random.default_rng(0), rate)


# fitting


def test_the_same_texts_give_the_same_vocabulary(vocabulary):
    again = Vocabulary.fit((f" {t}\n" for t in CORPUS), vocabulary.kind, 600, byte_fallback=vocabulary._bytes != {})
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert len(again) <= 600
    assert len(again) == 600 or vocabulary.kind == "char"


@given(st.lists(st.text("abß é日<>/1\0▅▁", min_size=1, max_size=30), min_size=1, max_size=4), st.sampled_from(["bpe", "unigram", "char"]),
       st.integers(6, 40), st.booleans())  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_texts_make_a_vocabulary_of_at_most_the_size(texts, kind, size, byte_fallback):
    letters = set("".join(map(normal, texts))) - set(" \0▅")
    if letters:
        made = Vocabulary.fit(texts, kind, size + 256 * byte_fallback, byte_fallback=byte_fallback)
        assert len(made) <= size + 256 * byte_fallback
        assert made.pieces[:4] == SPECIAL
        fits = len(letters) <= (size - 5) // (1 if kind == "char" else 2)
        for text in texts:
            if byte_fallback or (fits and not set("\0▅") & set(text)):
                assert made.decode(made.encode(text)) == normal(text)


def test_the_rarest_characters_become_unknown_where_there_are_many():
    rng, letters = np.random.default_rng(0), [chr(0x4E00 + k) for k in range(400)]
    texts = ["".join(rng.choice(letters[:200], 50)) for _ in range(500)] + letters[200:]
    for kind, size, known in (("bpe", 2000, 400), ("unigram", 2000, 400), ("bpe", 500, 388), ("unigram", 500, 388),
                              ("char", 500, 400), ("char", 300, 295), ("bpe", 150, 145)):  # fmt: skip
        made = Vocabulary.fit(texts, kind, size)
        assert sum(UNK not in made.encode(c) for c in letters) == known
        assert UNK in made.encode("x")


def test_a_vocabulary_needs_room_and_text():
    with pytest.raises(ValueError, match="size must be at least 6, the special tokens and one character, got 5"):
        Vocabulary.fit(["ab"], "bpe", 5)
    with pytest.raises(ValueError, match=r"size must be at least 262, .* got 100"):
        Vocabulary.fit(["ab"], "unigram", 100, byte_fallback=True)
    for texts in ([], [""], [" ", "\n"], ["\0 ▅"]):
        with pytest.raises(ValueError, match="texts with at least one character; there is none"):
            Vocabulary.fit(texts)
    for make in (lambda: Vocabulary.fit(["a"], "words"), lambda: Vocabulary("words", b"")):
        with pytest.raises(ValueError, match="must be one of bpe, unigram, char, got 'words'"):
            make()


@pytest.mark.parametrize(("fallback", "least"), [(False, 6), (True, WITH_BYTES)])
def test_settings_ask_for_as_many_pieces_as_a_vocabulary_needs(fallback, least):
    Vocabulary.fit(["a"], size=Config(pieces=least, fallback=fallback).pieces, byte_fallback=fallback)
    with pytest.raises(ValueError, match=f"pieces must be at least {least}.* got {least - 1}"):
        Config(pieces=least - 1, fallback=fallback)


def test_case_stays_and_digits_are_single():
    made = Vocabulary.fit(["Der der 1998 DER 1998 1998"] * 9, "bpe", 100)
    assert len({tuple(made.encode(text)) for text in ("Der", "der", "DER")}) == 3
    assert [made.pieces[k] for k in made.encode("1998")] == [START, *"1998"]


def test_a_text_of_any_length_is_learned_from():
    """SentencePiece leaves out what is longer than four thousand bytes unless it is told otherwise."""
    made = Vocabulary.fit(["q" + "ab " * 5000], "bpe", 20)
    assert UNK not in made.encode("q")


# carried along


def test_it_travels_as_json_and_between_processes(vocabulary):
    vocabulary.sample(FRESH[0], np.random.default_rng(0), 0.5)  # a model that is loaded travels too
    for other in (Vocabulary.from_extra(json.loads(json.dumps(vocabulary.extra()))), pickle.loads(pickle.dumps(vocabulary))):
        assert other == vocabulary
        assert [other.encode(text) for text in FRESH] == [vocabulary.encode(text) for text in FRESH]
    assert len(repr(vocabulary)) < 80


@pytest.mark.parametrize("change", [{"blob": "%"}, {"blob": 3}, {"blob": None}])
def test_a_damaged_vocabulary_is_refused(change):
    good = BPE.extra()
    with pytest.raises(ValueError, match=r"must be a kind, a crc32 and a blob in base64: .* Is the file damaged"):
        Vocabulary.from_extra(good | change)
    for key in good:
        with pytest.raises(ValueError, match="KeyError"):
            Vocabulary.from_extra({k: v for k, v in good.items() if k != key})
    for blob in (good["blob"][:400], "AAAA" + good["blob"][4:], ""):
        with pytest.raises(ValueError, match=r"checksum of the vocabulary must be \d+, got \d+. Is the file damaged"):
            Vocabulary.from_extra(good | {"blob": blob})


def test_a_foreign_model_is_refused():
    with pytest.raises(ValueError, match=r"cannot be read: .* Is the file damaged"):
        Vocabulary("bpe", b"nonsense").encode("a")
    made = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ab"] * 9), model_writer=made, vocab_size=8, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(ValueError, match=r"must begin with <pad>, <unk>, <s>, </s>, got <unk>, <s>, </s>"):
        Vocabulary("unigram", made.getvalue()).encode("a")


def test_without_sentencepiece_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    for use in (lambda: Vocabulary.fit(["a"]), lambda: Vocabulary("bpe", BPE.blob).encode("a")):
        with pytest.raises(ImportError, match=r"translation needs sentencepiece, .*pip install 'longshort\[translate\]'"):
            use()
