"""Translations that must begin with something, hold something, or say nothing twice: against brute force over all of them."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch

from longshort.apps.translate.constraints import BOS, EOS, PAD, Constraints, Glossary, allocate, repeats
from longshort.apps.translate.decode import Search, search
from test_translate_decode import Toy, everything, follow, sources

TERMS = [
    (((4,),),),
    (((4, 5),), ((5, 4),)),
    (((4,),), ((4,),)),
    (((4,),), ((4, 5),)),
    (((4, 5, 4), (1,)), ((5,),)),
    (((4, 4),), ((4, 4),)),
    (((4,), (5,)), ((5,),)),
    (((1, 4),), ((4, 5),), ((5,),)),
]


FIRM = [((), ()), ((5,), ()), ((4,), ((4, 5),)), ((4, 5), ((5,), (4, 4)))]  # tokens that go on with a word, phrases that let them


def holds(tokens, terms, glued=(), loose=()) -> bool:
    """Whether the terms can be laid side by side on the tokens, with no glued one behind a phrase that is not loose."""

    @cache
    def go(at: int, rest: frozenset) -> bool:
        if not rest:
            return True
        return at < len(tokens) and (go(at + 1, rest) or any(
            go(at + len(p), rest - {k}) for k in rest for p in terms[k] if tokens[at : at + len(p)] == p
            and (p in loose or not {*tokens[at + len(p) : at + len(p) + 1]} & {*glued})))  # fmt: skip

    return go(0, frozenset(range(len(terms))))


def repeated(tokens, n: int) -> bool:
    runs = [tokens[k : k + n] for k in range(len(tokens) - n + 1)]
    return len(set(runs)) < len(runs)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize(("glued", "loose"), FIRM)
def test_a_glossary_knows_whether_its_terms_are_met_and_what_is_missing(terms, glued, loose):
    glossary = Glossary(terms, frozenset(glued), frozenset(loose))
    for n in range(7):
        for tokens in product((1, 4, 5), repeat=n):
            state = glossary.begin
            for token in tokens:
                state = glossary.after(state, token)
            left = glossary.left(state)
            assert (left == 0) == holds(tokens, terms, glued, loose)
            if left and not glued:
                assert min(glossary.left(glossary.after(state, k)) for k in glossary.needs(state)) == left - 1
            assert all(glossary.left(glossary.after(state, k)) >= left for k in {1, 4, 5} - {*glossary.needs(state)})


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize(("glued", "loose"), FIRM)
def test_a_wide_beam_finds_the_best_that_holds_a_glossary(terms, glued, loose):
    network, source, V = Toy(6), sources(2, 4), 6
    how = Search(beam=2 * 3**5, alternatives=4, ratio=0, extra=5)
    for one, found in zip(
        source, search([network], source, how, [Constraints((), terms, frozenset(glued), frozenset(loose))] * 2), strict=True
    ):
        truth = everything(network, one, how, V, lambda tokens: holds(tokens, terms, glued, loose))[:4]
        assert [h.tokens for h in found] == [tokens for _, tokens in truth]
        assert [h.score for h in found] == pytest.approx([s for s, _ in truth])
        assert all(h.met for h in found)


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize("placed", [False, True])
def test_terms_appear_whatever_the_network_likes_and_reads(beam, block, placed):
    rng = np.random.default_rng(beam)
    network, source = Toy(70, end=3.0), sources(30, 5)
    asked = []
    for _ in range(30):
        terms = [tuple(tuple(rng.integers(4, 9, rng.integers(1, 4)).tolist()) for _ in range(rng.integers(1, 3)))
                 for _ in range(rng.integers(0, 4))]  # fmt: skip
        terms += terms[:1]
        places = [tuple({*rng.integers(0, 5, rng.integers(0, 3)).tolist()}) for _ in terms] if placed else ()
        prefix = tuple(rng.integers(4, 9, rng.integers(0, 3)).tolist())
        asked.append(Constraints(prefix, (*terms,), places=(*places,)))
    how = Search(beam=beam, alternatives=beam, ratio=1, extra=12, block=block)
    plain = search([network], source, how)
    for one, c, found, free in zip(source, asked, search([network], source, how, asked), plain, strict=True):
        for h in found:
            assert h.met
            assert h.tokens[: len(c.prefix)] == c.prefix
            assert holds(h.tokens, c.glossary)
            assert len(h.tokens) <= 17
            assert h.token_logp == tuple(follow(network, one, h.tokens)[0])
        if not c.prefix and not c.glossary:
            assert found == free


def test_a_glossary_that_just_fits_is_met_and_one_that_is_too_long_says_so():
    network, source = Toy(70), sources(4, 3)
    how = Search(beam=2, ratio=0, extra=6)
    terms = (((10, 11),), ((12, 13, 14),))
    for room in range(3):
        for prefix in ((), (20,)):
            found = search([network], source, how, [Constraints(prefix, (*terms, *(((30 + k,),) for k in range(room))))] * 4)
            for (h,) in found:
                assert h.met == (5 + room + len(prefix) <= 6)
                assert len(h.tokens) <= 6
                assert h.met or {*h.tokens} < {*prefix, *range(10, 15), 30, 31}  # then nothing else is said
                assert h.met or len({*h.tokens}) == 6
    long = tuple(range(20, 40))
    for (h,) in search([network], source, how, [Constraints(long)] * 4):
        assert h.tokens == long
        assert h.met


def test_a_met_term_does_not_have_to_come_at_once():
    """A network that says a sentence with the term in its middle gets to say it; the phrase is not put in front."""
    network, source = Toy(70, end=1.0), sources(12, 4)
    for one, (h,) in zip(source, search([network], source, Search(beam=5)), strict=True):
        if len(h.tokens) >= 3:
            term = h.tokens[len(h.tokens) // 2 :][:2]
            ((again,),) = search([network], one[None], Search(beam=5), [Constraints((), ((term,),))])
            assert again.score >= h.score - 1e-9


class Walker(Toy):
    """Reads source token t % S at step t, and ends after twelve tokens."""

    def start(self, memory):
        return Walked(super().start(memory).hash, torch.zeros(len(memory.kind), dtype=torch.int64))

    def step(self, tokens, state, memory, only=None):
        logp, after, _ = super().step(tokens, state, memory, only)
        S = memory.source.shape[1]
        logp[:, EOS] += 40.0 * (state.t >= 12)
        return logp, Walked(after.hash, state.t + 1), torch.nn.functional.one_hot(state.t % S, S).float()


class Walked(NamedTuple):
    hash: torch.Tensor
    t: torch.Tensor

    def rows(self, index):
        return Walked(self.hash[index], self.t[index])


@pytest.mark.parametrize("beam", [1, 3, 5])
def test_a_term_begins_while_its_source_is_read(beam):
    rng, network, source = np.random.default_rng(0), Walker(70, end=-5.0), sources(40, 6)
    network.table[:, 60:64] -= 20  # what it would never say by itself
    at = rng.integers(0, 6, (40, 2))
    asked = [Constraints((), (((60, 61, 62),), ((63,),)), places=((int(a),), (int(b),))) for a, b in at]
    for (a, b), (h,) in zip(at, search([network], source, Search(beam=beam), asked), strict=True):
        assert h.met
        assert h.tokens.index(60) % 6 == a
        assert h.tokens.index(63) % 6 == b
    anywhere = search([network], source, Search(beam=beam), [Constraints((), c.glossary) for c in asked])
    assert sum(h.tokens.index(60) % 6 == a for (a, _), (h,) in zip(at, anywhere, strict=True)) < 20


def test_equal_terms_share_their_places():
    made = Glossary([((5,),), ((4,),), ((5,), (5,))], places=[(1,), (2,), (0, 3)])
    assert made.places == [(2,), (1, 0, 3), (1, 0, 3)]
    assert made.needs(made.begin, [True, False, False]) == [4]
    assert made.needs(made.begin, [False, True, True]) == [5]
    assert made.needs(made.begin) == [4, 5]


def test_a_sentence_goes_on_behind_a_long_term():
    """A network that says a sentence with a long term in it says all of it: having the term is no reason to end."""
    network, source, lengths = Toy(70, end=-4.0), sources(40, 6), []
    for one, (h,) in zip(source, search([network], source, Search(beam=5)), strict=True):
        ((again,),) = search([network], one[None], Search(beam=5), [Constraints((), ((h.tokens[1:9],),))])
        lengths.append((len(again.tokens), len(h.tokens)))
        assert again.score > h.score - 0.6
    assert np.mean(lengths, 0) == pytest.approx(22, abs=1)


@pytest.mark.parametrize("only", [False, True])
def test_no_token_goes_on_with_the_word_of_a_term(only):
    network, source = Toy(70, end=1.0), sources(30, 5)
    term, glued = (((10, 11),),), frozenset(range(12, 60))
    some = torch.arange(4, 66) if only else None
    loose = search([network], source, Search(), [Constraints((), term)] * 30, some)
    firm = search([network], source, Search(), [Constraints((), term, glued)] * 30, some)
    same = search([network], source, Search(), [Constraints((), term, glued, frozenset(term[0]))] * 30, some)
    assert loose == same
    for (h,) in firm:
        assert h.met
        assert holds(h.tokens, term, glued)
    assert not all(holds(h.tokens, term, glued) for (h,) in loose)


@pytest.mark.parametrize("prefix", [(), (5,), (4, 4, 4), (5, 4, 1, 4)])
def test_a_wide_beam_finds_the_best_that_begins_with_a_prefix(prefix):
    network, source, V = Toy(6), sources(2, 4), 6
    how = Search(beam=2 * 3**5, alternatives=3, ratio=0, extra=5)
    for one, found in zip(source, search([network], source, how, [Constraints(prefix)] * 2), strict=True):
        truth = everything(network, one, how, V, lambda tokens: tokens[: len(prefix)] == prefix)[:3]
        assert [h.tokens for h in found] == [tokens for _, tokens in truth]
        assert [h.score for h in found] == pytest.approx([s for s, _ in truth])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_wide_beam_finds_the_best_without_repetition(n):
    network, source, V = Toy(6), sources(2, 4), 6
    how = Search(beam=2 * 3**5, alternatives=4, ratio=0, extra=5, block=n)
    for one, found in zip(source, search([network], source, how), strict=True):
        truth = everything(network, one, how, V, lambda tokens: not repeated(tokens, n))[:4]
        assert [h.tokens for h in found] == [tokens for _, tokens in truth]


@pytest.mark.parametrize("how", [Search(beam=1, block=2), Search(beam=4, block=3), Search(sample=True, block=1)])
def test_nothing_is_said_twice_even_by_a_network_that_loops(how):
    network, source = Toy(9, end=-6.0), sources(20, 5)
    assert any(repeated(h.tokens, how.block) for (h,) in search([network], source, Search(beam=1)))
    found = search([network], source, how)
    assert not any(repeated(h.tokens, how.block) for (h,) in found)
    if how.block == 1:  # all six tokens are used up, and the end is all that is left
        assert max(len(h.tokens) for (h,) in found) <= 6
    least = search([network], source, Search(beam=2, block=1, least=12))
    assert all(sorted(h.tokens) == [1, 4, 5, 6, 7, 8] and not h.finished for (h,) in least)


def test_repeats_are_those_that_would_be_there():
    rng = np.random.default_rng(0)
    for n, t in product((1, 2, 3), range(9)):
        history = rng.integers(0, 3, size=(20, t))
        made = set(zip(*(x.tolist() for x in repeats(history, n)), strict=True))
        truth = {(r, k) for r in range(20) for k in range(3)
                 if tuple([*history[r], k][-n:]) in {tuple(history[r, j : j + n]) for j in range(t - n + 1)}}  # fmt: skip
        assert made == truth


def test_slots_are_dealt_out_bank_by_bank():
    assert allocate([-1.0, -2.0, -3.0, -9.0, -8.0], [2, 2, 2, 0, 1], 3) == [0, 4, 3]
    assert allocate([-1.0, -2.0, -3.0, -9.0, -8.0], [2, 2, 2, 0, 1], 4) == [0, 1, 4, 3]
    assert allocate([-1.0, -2.0], [1, 1], 5) == [0, 1]
    assert allocate([-1.0, -2.0], [1, 0], 1) == [1]
    assert allocate([], [], 2) == []


def test_constraints_are_checked():
    with pytest.raises(ValueError, match="one or more phrases"):
        Constraints((), ((),))
    with pytest.raises(ValueError, match="one or more tokens"):
        Constraints((), (((4,), ()),))
    for bad in (PAD, BOS, EOS, -1):
        with pytest.raises(ValueError, match="must stand for text"):
            Constraints((4, bad))
        with pytest.raises(ValueError, match="must stand for text"):
            Constraints((), (((5, bad),),))
    with pytest.raises(ValueError, match="places must be one for each of 2 terms, got 1"):
        Constraints((), (((4,),), ((5,),)), places=((0,),))
    assert Constraints((4,), (((5, 6), (7,)),)).tokens == {4, 5, 6, 7}
