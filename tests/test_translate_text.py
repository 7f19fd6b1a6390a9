"""Raw text: any layout survives, what must appear is found, and unknown words are copied."""

from __future__ import annotations

import io
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longshort.apps.translate.text import Glossary, Keep, copies, lines, required, restored, units, veil

UNK = 1
STRANGE = "\U0010fffd"
LAYOUT = st.text(st.sampled_from(" \t\n\r\v\f\x1c\x85\u2028\u2029\xa0\ufeff\u3000.!?aB1-ß語"), max_size=80)


class Toy:
    """Pieces of at most three characters; "▁" begins a word; capitals are unknown, a run of them one token."""

    def __init__(self):
        self.ids = {}

    def split(self, text):
        made = []
        for word in re.finditer(r"\S+", text):
            for n, m in enumerate(re.finditer(r"[A-Z]+|[^A-Z\s]{1,3}", word.group())):
                piece = UNK if m.group()[0].isupper() else self.ids.setdefault("▁" * (n == 0) + m.group(), len(self.ids) + 4)
                made.append((piece, (word.start() + m.start(), word.start() + m.end())))
        return made

    def encode(self, text):
        return [k for k, _ in self.split(text)]

    def spans(self, text):
        return [span for _, span in self.split(text)]


# ---- layout ----


@given(st.one_of(st.text(max_size=80), LAYOUT))
@example(" a\r\n\r\n\tb \n")
def test_the_same_sentences_make_the_same_text(text):
    layout = units(text)
    assert layout.join(layout.sentences) == text
    for sentence in layout.sentences:
        assert sentence.strip() == sentence
        assert len(sentence.splitlines()) == 1
        assert any(c.isalnum() for c in sentence)
    assert not any(c.isalnum() for blank in layout.blanks for c in blank)


@given(LAYOUT)
def test_translations_stand_where_their_sentences_stood(text):
    layout = units(text)
    made = layout.join([f"<{k}>" for k in range(len(layout.sentences))])
    assert re.sub(r"<\d+>", "", made) == "".join(layout.blanks)
    assert re.findall(r"<(\d+)>", made) == [str(k) for k in range(len(layout.sentences))]
    assert [len(re.findall(c, made)) for c in "\n\t\r"] == [text.count(c) for c in "\n\t\r"]


def test_a_line_is_a_sentence_and_blanks_are_nobodys():
    layout = units("\ufeff  One. Two.\r\n\r\n\tthree\u3000\n---\n 4\tfive\n")
    assert layout.sentences == ("One. Two.", "three", "4", "five")
    assert layout.blanks == ("\ufeff  ", "\r\n\r\n\t", "\u3000\n---\n ", "\t", "\n")
    assert layout.join("abcd") == "\ufeff  a\r\n\r\n\tb\u3000\n---\n c\td\n"
    assert (units("").sentences, units(" \n").blanks) == ((), (" \n",))
    with pytest.raises(ValueError, match="4 sentences needs its translation, got 1"):
        layout.join(["a"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).map("\n".join))
def test_lines_are_the_whole_stream(text):
    made = list(lines(io.BytesIO(text.encode()), "in.txt"))
    assert "".join(made) == text
    assert [line.count("\n") for line in made[:-1]] == [1] * (len(made) - 1)
    assert "".join(units(line).join(units(line).sentences) for line in made) == text


def test_a_line_that_is_not_utf8_is_named_after_those_before_it():
    made = lines(io.BytesIO("gut\nauch gut\nü sch".encode() + b"\xf6n\n"), "in.txt")
    assert [next(made), next(made)] == ["gut\n", "auch gut\n"]
    with pytest.raises(ValueError, match=r"^in.txt:3:6: is not UTF-8: byte 0xF6 at 6 of the line"):
        next(made)
    with pytest.raises(ValueError, match=r"^x:1:2: .*0xE2 at 1"):
        list(lines(io.BytesIO(b"a\xe2\x82"), "x"))


# ---- what must appear ----


def found(glossary, text):
    return [(text[a:b], targets) for a, b, targets in glossary.find(text)]


def test_terms_are_whole_words_and_the_longest_first():
    glossary = Glossary({"bank": ["Ufer"], "river bank": ["Flussufer", "Uferböschung"], "AC/DC": ["AC/DC"], "東京": ["Tokio"]})
    assert found(glossary, "A river  bank, a bank; (bank)s") == [
        ("river  bank", ("Flussufer", "Uferböschung")), ("bank", ("Ufer",)), ("bank", ("Ufer",))]  # fmt: skip
    assert found(glossary, "banks Bank ban embank bank_") == []
    assert found(glossary, "river banks of a river-bank") == [("bank", ("Ufer",))]
    assert found(glossary, "AC/DC is not AC DC") == [("AC/DC", ("AC/DC",))]
    assert found(glossary, "私は東京に住む") == [("東京", ("Tokio",))]
    assert found(Glossary({}), "bank") == []


def test_case_is_exact_unless_folded_and_accents_may_be_composed_in_either_way():
    terms = {"Straße": ["road"], "café": ["pub"]}
    assert found(Glossary(terms), "STRASSE straße Straße") == [("Straße", ("road",))]
    assert [word for word, _ in found(Glossary(terms, fold=True), "STRASSE straße Straße")] == ["STRASSE", "straße", "Straße"]
    assert found(Glossary(terms), "cafe cafe\u0301 cafe\u0301s") == [("cafe\u0301", ("pub",))]
    hindi = "\u0915\u092e"  # its longer form has a vowel sign, which is a mark
    assert [a for a, _, _ in Glossary({hindi: ["x"]}).find(f"{hindi}\u0940 {hindi} {hindi}\u0940{hindi}")] == [4]
    thai = "\u0e14\u0e35"  # a letter with a mark; words are not told apart there
    assert [a for a, _, _ in Glossary({thai: ["x"]}).find(f"{thai}\u0e21{thai}")] == [0, 3]
    assert len(Glossary({"A": ["x"], "a": ["y"]}, fold=True).find("a")[0][2]) == 2


def test_a_glossary_file_has_a_pair_on_each_line(tmp_path):
    path = tmp_path / "terms.tsv"
    path.write_bytes("\ufeffbank\tUfer\r\n\r\nbank\tBöschung\n#1\tNr. 1\n".encode())
    assert Glossary.read(path).terms == {("bank",): ("Ufer", "Böschung"), ("#", "1"): ("Nr. 1",)}
    for bad in ("a b", "a\t", "\tb", "a\tb\tc"):
        path.write_text(f"x\ty\n{bad}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"terms.tsv:2: must be a term, one tab and its translation"):
            Glossary.read(path)
    path.write_bytes(b"x\ty\n\xff\tz\n")
    with pytest.raises(ValueError, match=r"terms.tsv:2:1: is not UTF-8"):
        Glossary.read(path)
    with pytest.raises(FileNotFoundError):
        Glossary.read(tmp_path / "none.tsv")
    with pytest.raises(ValueError, match="not empty, got 'a'"):
        Glossary({"a": []})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("See https://example.org/a_(b)?c=1, or www.example.org.", ["https://example.org/a_(b)?c=1", "www.example.org"]),
        ("Write to a.b+c@mail.example.org!", ["a.b+c@mail.example.org"]),
        ("Dear {name}, ${sum} %(day)s %d {{x}} <b>!</b>", ["{name}", "${sum}", "%(day)s", "%d", "{{x}}", "<b>", "</b>"]),
        ("50% der, 3 < 5 > 4, e.g. a.b, 100%d", []),
    ],
)
def test_what_is_kept_by_default(text, want):
    assert [text[a:b] for a, b in Keep().find(text)] == want


@given(st.lists(st.sampled_from(["a+", "b?a", "[ab]c", "c*", "(?=a)", "."]), max_size=3), st.text("abc ", max_size=30))
def test_what_is_kept_lies_apart_and_matches(patterns, text):
    spans = Keep(tuple(patterns)).find(text)
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start
    for a, b in spans:
        assert a < b
        assert any(re.compile(p).match(text, a) for p in patterns)
    if "." in patterns:
        assert all(any(a <= k < b for a, b in spans) for k in range(len(text)))


def test_a_bad_pattern_is_refused():
    with pytest.raises(ValueError, match=r"regular expression, got '\(': "):
        Keep(("(",))


def test_what_is_required_is_there_in_tokens_and_a_term_counts_more():
    toy = Toy()
    text = "the bank (see www.bank.org, {bank}) is a bank"
    glossary = Glossary({"bank": ["ufer", "böschung"]})
    made = required(text, toy.encode, glossary, Keep())
    assert [(text[r.start : r.end], r.texts[0]) for r in made] == [
        ("bank", "ufer"), ("bank", "ufer"), ("bank", "ufer"), ("bank", "ufer")]  # fmt: skip
    assert made[0].phrases == (tuple(toy.encode("ufer")), tuple(toy.encode("böschung")))
    kept = required(text, toy.encode, None, Keep())
    assert [r.texts for r in kept] == [("www.bank.org",), ("{bank}",)]
    (quoted,) = required("a (xyzab)", toy.encode, Glossary({"xyzab": ["abcd"]}))
    assert quoted.phrases == (tuple(toy.encode("abcd")),)  # "(ab" is one piece here, so nothing goes on after "("
    (after,) = required("a 'xyzab", lambda t: [ord(c) for c in t], Glossary({"xyzab": ["abcd"]}))
    assert after.phrases == (tuple(map(ord, "abcd")),)
    begun = required("a (b", lambda t: [0, *map(ord, t)], Glossary({"b": ["cd"]}))  # 0 begins a word
    assert begun[0].phrases == ((0, ord("c"), ord("d")), (ord("c"), ord("d")))
    assert begun[0].texts == ("cd", "cd")
    assert required(text, toy.encode) == []
    assert required("b", lambda t: [], Glossary({"b": ["c"]})) == []


def test_where_there_are_no_spaces_what_is_required_may_go_on_after_any_word():
    def encode(text):  # 0 begins a word, 家船 is one piece
        return [0, *map(ord, text.replace("家船", "\ue000"))]

    glossary = Glossary({"boat": ["船"], "red": ["赤", "紅"], "船": ["ship"]})
    for solid, ways in (("", 1), ("家山", 2)):
        red, boat = required("the red boat", encode, glossary, solid=solid)
        assert len(boat.phrases) == ways
        assert len(red.phrases) == 2 * ways
        assert boat.phrases[-1] == ((ord("船"),) if solid else (0, ord("船")))
    (url,) = required("see www.bank.org", encode, None, Keep(), "家山")
    assert url.phrases == ((0, *map(ord, "www.bank.org")), (*map(ord, "www.bank.org"),))
    (ship,) = required("船 は", encode, glossary)
    assert ship.phrases == ((0, *map(ord, "ship")),)


def test_a_word_goes_on_behind_what_is_required_where_it_does_in_the_source():
    def encode(text):
        return [0, *map(ord, text)]

    for text, loose in (("see {x} now", 0), ("see {x}s now", 1), ("see {x}.", 0), ("see {x}", 0), ("({x}は", 0), ("<b>go", 1)):
        (one,) = required(text, encode, None, Keep())
        assert (one.loose == one.phrases) == bool(loose), text
        assert (one.loose == ()) == (not loose), text
    (tokyo,) = required("to Tokyo", encode, Glossary({"Tokyo": ["東京", "東京X"]}))  # Korean particles are `Vocabulary.glued`'s
    assert tokyo.loose == ((0, *map(ord, "東京")),)


def test_what_is_kept_is_one_unknown_word_to_the_network():
    def encode(text):  # each character is a token, and one that nobody knows is UNK
        return [0, *(UNK if c == STRANGE else ord(c) for c in text)]

    text = "({x}{y}s) to <b>go</b> and %s at Tim"
    must = required(text, encode, Glossary({"Tim": "Tom"}), Keep(), veil=True)
    assert [(one.texts, one.veiled) for one in must] == [
        (("{x}{y}",) * 2, True), (("<b>",), True), (("</b>",) * 2, True), (("%s",), True), (("Tom",), False)]  # fmt: skip
    assert [one.phrases for one in must[:2]] == [((0, UNK), (UNK,)), ((0, UNK),)]
    assert not any(one.loose for one in must)
    shown, places = veil(text, must)
    assert shown == f"({STRANGE} s) to {STRANGE} go {STRANGE} and {STRANGE} at Tim"
    assert len(places) == len(shown) + 1
    at = [k for k, c in enumerate(shown) if c == STRANGE]
    assert [text[places[k] : places[k + 1]] for k in at] == ["{x}{y}", "<b>", "</b>", "%s"]
    for one in must:
        here = [k for k in range(len(shown)) if places[k] < one.end and one.start < places[k + 1]]
        assert shown[here[0] : here[-1] + 1].strip() in (STRANGE, "Tim")
    assert veil("a {b}", required("a {b}", encode, None, Keep())) == ("a {b}", [0, 1, 2, 3, 4, 5])


def test_what_was_veiled_is_written_where_it_was_read():
    def encode(text):
        return [0, *(UNK if c == STRANGE else ord(c) for c in text)]

    text = "see {x} <i>now</i>"
    must = required(text, encode, None, Keep(), veil=True)
    spans = [(0, 3), (4, 7), (8, 11), (11, 14), (14, 18)]  # see, {x}, <i>, now, </i>
    source = [9, UNK, UNK, 9, UNK]
    reads = [4, 1, 2, 2, 0]  # where each token looks
    attention = np.eye(6)[reads] * 0.8 + 0.02
    made = copies([UNK, UNK, UNK, UNK, 9], attention, text, source, spans, UNK, must, lambda t: [(0, len(t))])
    assert made == [f"{STRANGE}</i>", "{x}", f"<i>{STRANGE}", ""], (
        "each once: what is unknown as well and looks there, is nothing"
    )
    assert restored(f"jetzt {made[0]} {made[1]} da {made[2]} dort", []) == "jetzt</i> {x} da <i>dort"


def test_what_is_kept_stands_there_as_it_was():
    link = "https://example.org/e\u0301"
    keep = Keep((*Keep().patterns, r"\d+\s\d+"))
    assert keep.changed(f"{{a  b}} and {link} and 10\u00a0000 {{c}}") == [
        ("{a b}", "{a  b}"), ("https://example.org/é", link), ("10 000", "10\u00a0000"), ("{c}", "{c}")]  # fmt: skip
    assert keep.changed("{a} {b}") == []
    assert Keep((r" ?\{x\} ?", r"\s+")).changed("a  {x}  \t b {\u00a0}") == []
    assert restored("10 000: {a b}, {a b}!", [("{a b}", "{a  b}"), ("{a b}", "{a\u00a0b}")]) == "10 000: {a  b}, {a\u00a0b}!"
    same, other = ("{a b}", "{a b}"), ("{a b}", "{a  b}")
    for kept, want in (([same, other], "{a b}, {a  b}"), ([other, same], "{a  b}, {a b}"), ([other], "{a  b}, {a b}")):
        assert restored("{a b}, {a b}", kept) == want
    assert restored("x {a}b", [("{a}b", "{a} b"), ("{a}", "{ a}")]) == "x {a} b", "the longer one, and it once"
    assert restored("x", []) == "x"


def test_a_long_line_without_blanks_is_searched_in_no_time():
    begun = time.perf_counter()
    assert Keep().find("a" * 100_000) == []
    assert Keep().find("x" * 1000 + " a.b@c.de") == [(1001, 1009)]
    assert time.perf_counter() - begun < 2


# ---- unknown words ----


@pytest.mark.parametrize(
    ("text", "token", "want"),
    [
        ("नमस्ते दुनिया", "म", "नमस्ते"),
        ("赤い船は家へ", "船", "船"),
        ("家はAnna-Mariaの", "M", "Anna-Maria"),
        ("e\u0323xa b", "x", "e\u0323xa"),
    ],
)
def test_a_word_holds_its_marks_and_ends_where_there_are_no_spaces(text, token, want):
    spans = [(k, k + 1) for k in range(len(text))]
    attention = np.eye(len(text))[[text.index(token)]]
    assert copies([UNK], attention, text, [9] * len(text), spans, UNK) == [want]


def test_an_unknown_token_is_what_it_attends_to_or_the_word_around_that():
    toy, text = Toy(), "in new-york lebt McDonald ,12"
    source, spans = toy.encode(text), toy.spans(text)
    at = {text[a:b]: k for k, (a, b) in enumerate(spans)}
    tokens = [9, UNK, 8, UNK, 7, UNK, UNK, UNK]
    attention = np.full((9, len(spans) + 1), 0.01)
    attention[:, -1] = 0.5  # the end of the source is no word
    for t, piece in ((1, "-yo"), (3, "M"), (5, "leb"), (6, "t"), (7, ",12")):
        attention[t, at[piece]] = 0.4
    assert copies(tokens, attention, text, source, spans, UNK) == ["new-york", "M", "lebt", "", "12"]
    attention[6], attention[7] = attention[1], attention[5]
    assert copies(tokens, attention, text, source, spans, UNK) == ["new-york", "M", "lebt", "new-york", "lebt"]
    assert copies([5, 6], attention, text, source, spans, UNK) == []
    assert copies([UNK], attention, "", [], [], UNK) == [""]


@given(st.text("abC .-", min_size=1, max_size=20), st.integers(0, 9))
def test_a_copy_is_a_piece_of_the_source(source, seed):
    toy, rng = Toy(), np.random.default_rng(seed)
    spans, tokens = toy.spans(source), rng.integers(1, 3, size=6).tolist()
    made = copies(tokens, rng.random((6, len(spans))), source, toy.encode(source), spans, UNK)
    assert len(made) == tokens.count(UNK)
    assert all(text in source for text in made)


def test_in_what_is_required_the_text_is_known():
    toy, source = Toy(), "see www.ABbc.org and www.Xbc.org, Q"
    must = required(source, toy.encode, None, Keep())
    first, second = (list(r.phrases[0]) for r in must)
    tokens = [50, *second, UNK, *first]
    spans = toy.spans(source)
    attention = np.zeros((len(tokens), len(spans)))
    attention[:, -1] = 1
    assert first == second  # they differ in what is unknown
    ids = toy.encode(source)
    made = copies(tokens, attention, source, ids, spans, UNK, must, toy.spans)
    assert made == ["AB", "Q", "X"]
    assert copies(tokens, attention, source, ids, spans, UNK, must) == ["Q", "Q", "Q"]
    assert copies(tokens, attention, source, ids, spans, UNK, must, toy.spans, copy=False) == ["AB", "⁇", "X"]


def test_what_is_required_is_written_where_it_was_read():
    toy, source = Toy(), "Q ab X"
    must, spans = required(source, toy.encode, None, Keep(("X",))), toy.spans(source)
    assert copies([UNK, 50, UNK], np.eye(3), source, toy.encode(source), spans, UNK, must, toy.spans) == ["Q", "X"]
    toy, source = Toy(), "see www.ABbc.org and www.Xbc.org"
    must, spans = required(source, toy.encode, None, Keep()), toy.spans(source)
    first, second = (list(r.phrases[0]) for r in must)
    tokens, attention = [*second, 50, *first], np.zeros((len(first) + 1 + len(second), len(spans)))
    for rows, one in ((slice(0, len(second)), must[1]), (slice(len(second) + 1, None), must[0])):
        attention[rows, [j for j, (a, b) in enumerate(spans) if one.start <= a < one.end]] = 1
    assert copies(tokens, attention, source, toy.encode(source), spans, UNK, must, toy.spans) == ["X", "AB"]
