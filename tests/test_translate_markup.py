"""Tags of a sentence: out of it, and back into its translation."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshort.apps.translate.markup import TAG, Tag, place, strip
from longshort.apps.translate.vocabulary import normal

NAMES = ("b", "i", "a href='x y'")


def tags(text: str) -> list[tuple[int, int]]:
    return [m.span() for m in re.finditer(TAG, text)]


def words(text: str) -> list[tuple[int, int]]:
    return [m.span() for m in re.finditer(r"\S+", text)]


def marked(inner: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[str]]:
    """Words, some of which stand in pairs, or have a single tag before them."""
    pair = st.builds(
        lambda name, within: [f"<{name}>" + " ".join(within) + f"</{name.split()[0]}>"], st.sampled_from(NAMES), inner
    )
    single = st.builds(lambda before: [f"{before}<br/>", "one"], st.sampled_from(["", "two "]))
    return st.lists(st.one_of(inner, pair, single), min_size=1, max_size=3).map(lambda parts: [w for part in parts for w in part])


MARKED = st.recursive(st.lists(st.sampled_from(["red", "ship", "the", "sails"]), min_size=1, max_size=3), marked, max_leaves=12)


@given(MARKED)
def test_where_each_word_stays_where_it_was_so_do_the_tags(parts):
    text = normal(" ".join(parts))
    bare, found = strip(text, tags(text))
    assert not re.search(TAG, bare)
    assert normal(bare) == bare
    here = words(bare)
    attention = np.eye(len(here) + 1, dtype=np.float32)
    assert place(bare, found, here, attention, bare, here) == text


@given(MARKED, st.integers(0, 2**32 - 1))
def test_whatever_was_read_each_tag_is_there_once_and_pairs_are_whole(parts, seed):
    text, rng = normal(" ".join(parts)), np.random.default_rng(seed)
    bare, found = strip(text, tags(text))
    made = " ".join(f"w{k}" for k in range(rng.integers(0, 6)))
    source, target = words(bare), words(made)
    attention = rng.dirichlet(np.full(len(source) + 1, 0.2), len(target) + 1)
    done = place(made, found, target, attention, bare, source)
    spans = tags(done)
    assert sorted(done[a:b] for a, b in spans) == sorted(text[a:b] for a, b in tags(text))
    assert re.sub(TAG, " ", done).split() == made.split()
    again, same = strip(done, spans)
    assert again.split() == made.split()

    def tree(of):
        return sorted((t.open.strip() + t.close.strip(), str(tree(t.within))) for t in of)  # a pair around nothing is one tag

    assert tree(same) == tree(found), "pairs hold what they held"


@pytest.mark.parametrize("text", [
    "Click <i></i> here", "Click <i> </i> here", "Save <i></i>", "<i></i> Save", "Save<i></i> now", "Save <i></i>now",
    "<a><i></i> Save</a> now", "Click<i></i> <b>here</b>", "Go <b><i></i> here</b>.", "Go to <br/> x", "boat.<b>The </b>.",
    "boat<b> The</b> x", "a <b> c </b> d", "a <b> c </b>d", "<b> c</b>",
])  # fmt: skip
def test_blanks_around_tags_stay_as_they_were(text):
    bare, found = strip(text, tags(text))
    spans = [m.span() for m in re.finditer(r"\w+|[^\w\s]", bare)]
    assert place(bare, found, spans, np.eye(len(spans) + 1), bare, spans) == text


def test_no_tag_stands_in_what_must_stay_whole():
    """The link is four tokens, of which the tag's word is read by the third."""
    text, spans = "to a.b/c now", [(0, 2), (3, 4), (4, 5), (5, 6), (6, 8), (9, 12)]
    found, attention = [Tag("<br/>", "", 0, 0, True, True)], np.tile([0.0, 1.0, 0.0], (7, 1))
    attention[3] = [1.0, 0.0, 0.0]
    for joined, want in ((set(), "to a. <br/> b/c now"), ({2, 3, 4}, "to <br/> a.b/c now")):
        assert place(text, found, spans, attention, "x y", [(0, 1), (2, 3)], joined) == want
    found[0] = Tag("<b>", "</b>", 0, 1)
    assert place(text, found, spans, attention, "x y", [(0, 1), (2, 3)], {2, 3, 4}) == "to <b>a.b/c</b> now"


def test_a_pair_goes_where_its_words_went():
    text = 'I saw the <b>old <a href="x">house</a></b> <br> yesterday.'
    bare, found = strip(text, tags(text))
    assert bare == "I saw the old house yesterday."
    source = words(bare)  # I saw the old house yesterday.
    made = "Gestern habe ich das alte Haus gesehen."
    target = words(made)
    read = [5, 1, 0, 2, 3, 4, 1, 6]
    attention = np.full((8, 7), 0.02)
    attention[range(8), read] = 0.88
    assert place(made, found, target, attention, bare, source) == (
        '<br> Gestern habe ich das <b>alte <a href="x">Haus</a></b> gesehen.')  # fmt: skip


def test_marks_stay_outside_where_they_are_in_the_source():
    bare, found = strip("<b>Tim</b>: go", tags("<b>Tim</b>: go"))
    made, target, source = "„Tim“: geh", [(0, 1), (1, 4), (4, 5), (5, 6), (7, 10)], [(0, 3), (3, 4), (5, 7)]
    attention = np.array([[0.9, 0, 0, 0], [0.9, 0, 0, 0], [0.9, 0, 0, 0], [0.6, 0.3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert place(made, found, target, attention, bare, source) == "„<b>Tim</b>“: geh"
    bare, found = strip("<b>Tim:</b> go", tags("<b>Tim:</b> go"))
    assert place(made, found, target, attention, bare, source) == "„<b>Tim“:</b> geh"


def test_no_word_is_cut():
    text = "the <b>steam</b> ship"
    bare, found = strip(text, tags(text))
    made, target = "das Dampfschiff fährt", [(0, 3), (4, 9), (9, 15), (16, 21)]  # das Dampf schiff fährt
    attention = np.array([[0.9, 0.05, 0.05, 0], [0, 0.9, 0.1, 0], [0, 0.1, 0.9, 0], [0, 0, 0.1, 0.9], [0, 0, 0, 1]])
    assert place(made, found, target, attention, bare, words(bare)) == "das <b>Dampfschiff</b> fährt"
    assert place("das 蒸気船 x", found, [(0, 3), (4, 6), (6, 7), (8, 9)], attention, bare, words(bare)) == "das <b>蒸気</b>船 x"


@pytest.mark.parametrize(("text", "bare", "kinds"), [
    ("<b>a <i>b</b> c</i>", "a b c", "<b>:</b> <i>: </i>:"),
    ("</p> x <p>", "x", "</p>: <p>:"),
    ("a<br>b <hr/> c", "a b c", "<br>: <hr/>:"),
    ("<b> a </b>, b", "a , b", "<b> : </b>"),
    ("<b></b>", "", "<b></b>:"),
])  # fmt: skip
def test_tags_that_do_not_match_are_single(text, bare, kinds):
    made, found = strip(text, tags(text))
    assert made == bare

    def said(of):
        return " ".join(" ".join(filter(None, (f"{t.open}:{t.close}", said(t.within)))) for t in of)

    assert said(found) == kinds
