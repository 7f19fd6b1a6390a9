"""Searches against brute force over all translations, on toy networks whose rows do not see each other."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import torch

from longshort.apps.translate.constraints import BOS, EOS, PAD, Constraints
from longshort.apps.translate.decode import Search, force, search
from longshort.apps.translate.pick import best, draw
from longshort.engine import cpu

P = 1_000_003


class Memory(NamedTuple):
    kind: torch.Tensor  # [B], a number for each source
    source: torch.Tensor  # [B, S]

    def rows(self, index):
        return Memory(self.kind[index], self.source[index])


class State(NamedTuple):
    hash: torch.Tensor  # [R], of all tokens so far

    def rows(self, index):
        return State(self.hash[index])


class Toy:
    """The next token depends on the source and, with `depth`, on a hash of all that was written; attention likewise.

    `steps` keeps how many rows were asked for.
    """

    def __init__(self, V: int, depth: int = 97, seed: int = 0, digits: int | None = None, end: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        x = 2 * rng.normal(size=(depth, V)).astype(np.float32)
        x[:, EOS] += end
        x = x if digits is None else x.round(digits)
        self.table, self.depth, self.steps = torch.from_numpy(x).log_softmax(-1), depth, []

    def remember(self, source, lengths):
        assert (lengths == source.shape[1]).all()
        kind = torch.zeros(len(source), dtype=torch.int64)
        for column in source.T:
            kind = (kind * 31 + column + 7) % P
        return Memory(kind, source)

    def start(self, memory):
        return State(memory.kind)

    def step(self, tokens, state, memory, only=None):
        hashed = (state.hash * 131 + tokens + 1) % P
        self.steps.append(len(tokens))
        assert (memory.source.shape[0],) == tokens.shape
        x = self.table[hashed % self.depth]
        weights = (((memory.source + 1) * (hashed[:, None] % 13 + 1)) % 11 + 0.25).float()
        attention = weights / weights.sum(1, keepdim=True)
        return (x.clone() if only is None else x[:, only].log_softmax(-1)), State(hashed), attention


def follow(network, source, tokens):
    """Log-probabilities of each token and the end, and the attention, one step after the other."""
    memory = network.remember(source[None], torch.tensor([len(source)]))
    state, logps, seen = network.start(memory), [], []
    for token, after in zip((BOS, *tokens), (*tokens, EOS), strict=True):
        logp, state, attention = network.step(torch.tensor([token]), state, memory)
        logps.append(float(logp[0, after]))
        seen.append(attention[0].numpy())
    return logps, np.stack(seen)


def following(network, source, tokens):
    """Log-probabilities of what may follow some tokens, [V]."""
    memory = network.remember(source[None], torch.tensor([len(source)]))
    state = network.start(memory)
    for token in (BOS, *tokens):
        logp, state, _ = network.step(torch.tensor([token]), state, memory)
    logp[0, [PAD, BOS]] = -math.inf
    return logp[0]


def score(how: Search, logps, attention) -> float:
    covered = np.log(np.clip(attention.astype(float).sum(0), 1e-4, 1)).sum() if how.coverage_penalty else 0
    return sum(logps) / ((5 + len(logps)) / 6) ** how.length_penalty + how.coverage_penalty * covered


def everything(network, source, how: Search, V: int, allowed=lambda tokens: True):
    """All translations there are with their scores, best first."""
    made = []
    for n in range(how.least, how.most(len(source)) + 1):
        for tokens in product([k for k in range(V) if k not in (PAD, BOS, EOS)], repeat=n):
            if allowed(tokens):
                made.append((score(how, *follow(network, source, tokens)), tokens))
    return sorted(made, reverse=True)


def sources(B: int, S: int, seed: int = 0):
    return torch.from_numpy(np.random.default_rng(seed).integers(4, 50, size=(B, S)))


PENALTIES = [(0.0, 0.0), (0.6, 0.0), (1.0, 0.0), (2.5, 0.0), (1.0, 0.4)]


@pytest.mark.parametrize(("length", "coverage"), PENALTIES)
@pytest.mark.parametrize(("V", "most", "least"), [(5, 6, 0), (6, 4, 0), (7, 3, 2), (8, 1, 0)])
def test_a_wide_beam_finds_the_best_of_all(V, most, least, length, coverage):
    network, source = Toy(V), sources(3, 4)
    how = Search(beam=(V - 3) ** most * 2, alternatives=5, length_penalty=length, coverage_penalty=coverage,
                 ratio=0, extra=most, least=least)  # fmt: skip
    for one, found in zip(source, search([network], source, how), strict=True):
        truth = everything(network, one, how, V)[:5]
        assert [h.tokens for h in found] == [tokens for _, tokens in truth]
        assert [h.score for h in found] == pytest.approx([s for s, _ in truth])


@pytest.mark.parametrize("digits", [None, 0])
def test_a_beam_of_one_takes_the_most_likely_token(digits):
    network, source, how = Toy(70, digits=digits), sources(40, 3), Search(beam=1, ratio=1, extra=4)
    for one, (found,) in zip(source, search([network], source, how), strict=True):
        tokens: list[int] = []
        while len(tokens) < 7:
            token = int(following(network, one, tokens).argmax())
            if token == EOS:
                break
            tokens.append(token)
        assert found.tokens == tuple(tokens)
        assert found.finished == (token == EOS or following(network, one, tokens).argmax() == EOS)


HOWS = [Search(beam=1), Search(beam=5, alternatives=3), Search(beam=4, alternatives=4, coverage_penalty=0.2, least=3, block=2),
        Search(sample=True, alternatives=3, seed=5), Search(sample=True, temperature=2.0, top_k=9, top_p=0.9)]  # fmt: skip


@pytest.mark.parametrize("how", HOWS, ids=range(len(HOWS)))
def test_an_ensemble_does_not_depend_on_the_batch(how):
    networks, source = [Toy(70, end=1.0, seed=k) for k in range(5)], sources(17, 5)
    for b, found in enumerate(search(networks, source, how)):
        (alone,) = search(networks, source[b : b + 1], how)
        assert found == alone
        assert all((h.attention == o.attention).all() for h, o in zip(found, alone, strict=True))


@pytest.mark.parametrize("how", HOWS, ids=range(len(HOWS)))
def test_what_is_found_is_what_the_network_said(how):
    network, source = Toy(70, end=1.5), sources(20, 5)
    for one, found in zip(source, search([network], source, how), strict=True):
        assert len(found) == how.alternatives
        for h in found:
            logps, attention = follow(network, one, h.tokens)
            assert h.token_logp == tuple(logps)
            np.testing.assert_array_equal(h.attention, attention)
            assert h.logp == pytest.approx(sum(logps))
            assert h.score == pytest.approx(score(how, logps, attention))
            assert how.least <= len(h.tokens) <= how.most(5)
            assert not {PAD, BOS, EOS} & {*h.tokens}
            assert h.finished or len(h.tokens) == how.most(5)
        if not how.sample:
            assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
            assert len({h.tokens for h in found}) == len(found)


@pytest.mark.parametrize("how", HOWS, ids=range(len(HOWS)))
@pytest.mark.parametrize("asks", [False, True])
def test_the_batch_does_not_matter(how, asks):
    network, source = Toy(70, end=1.0, digits=1), sources(17, 5)
    asked = [Constraints((5, 6) * (b % 3 == 0), (((7, 8), (9,)),) * (0 if how.sample else b % 4)) for b in range(17)]
    asked = asked if asks else [Constraints()] * 17
    together = search([network], source, how, asked)
    alone = [search([network], source[b : b + 1], how, asked[b : b + 1])[0] for b in range(17)]
    order = np.random.default_rng(0).permutation(17)
    shuffled = search([network], source[order], how, [asked[b] for b in order])
    for b, found in enumerate(together):
        for other in (alone[b], shuffled[int(np.nonzero(order == b)[0][0])]):
            assert found == other
            assert all((h.attention == o.attention).all() for h, o in zip(found, other, strict=True))


def test_sentences_that_are_done_leave():
    network, source = Toy(70, end=2.0), sources(30, 4)
    found = search([network], source, Search(beam=4))
    assert network.steps[0] == 30
    assert network.steps[1:] == sorted(network.steps[1:], reverse=True)
    assert network.steps[-1] < network.steps[1]
    network.steps.clear()
    greedy = [h for (h,) in search([network], source, Search(beam=1))]
    assert network.steps == [sum(len(h.tokens) >= t for h in greedy) for t in range(max(len(h.tokens) for h in greedy) + 1)]
    assert sum(h.score > g.score for g, (h,) in zip(greedy, found, strict=True)) > 10


def test_an_ensemble_averages_probabilities():
    a, b, source, how = Toy(6, seed=1), Toy(6, seed=2), sources(4, 3), Search(beam=500, alternatives=4, ratio=0, extra=4)
    for one, found in zip(source, search([a, b], source, how), strict=True):
        truth = []
        for n in range(5):
            for tokens in product([1, 4, 5], repeat=n):
                (p, seen), (q, also) = follow(a, one, tokens), follow(b, one, tokens)
                mean = np.log((np.exp(p) + np.exp(q)) / 2)
                truth.append((score(how, mean, seen), tokens, (seen + also) / 2))
        truth.sort(key=lambda m: -m[0])
        assert [h.tokens for h in found] == [m[1] for m in truth[:4]]
        assert [h.score for h in found] == pytest.approx([m[0] for m in truth[:4]])
        np.testing.assert_allclose(found[0].attention, truth[0][2], rtol=1e-6)
    one, two = (search([a] * n, source, Search(beam=3, alternatives=3)) for n in (1, 2))
    assert [[h.tokens for h in found] for found in one] == [[h.tokens for h in found] for found in two]


def test_a_shortlist_of_everything_is_none_and_a_short_one_is_kept():
    network, source, how = Toy(70, end=1.0), sources(9, 3), Search(beam=4, alternatives=2, block=2, least=2)
    asked = [Constraints((9, 12), (((40, 41),),) * (b % 2)) for b in range(9)]

    class Bare(Toy):
        def step(self, tokens, state, memory, only=None):
            x, *rest = super().step(tokens, state, memory)
            return (x if only is None else x[:, only]), *rest

    bare = Bare(70, end=1.0)
    full = search([network], source, how, asked)
    assert full == search([bare], source, how, asked, torch.arange(70))
    few = torch.tensor([41, 40, 12, 9, 66, 7, 9])
    for found in search([bare], source, how, asked, few):
        assert all({*h.tokens} <= {*few.tolist()} for h in found)
        assert found[0].tokens[:2] == (9, 12)
    with pytest.raises(ValueError, match=r"\[12, 40\] are missing"):
        search([network], source, how, asked, torch.tensor([9, 41]))


def test_sampling_goes_by_probability():
    network, how = Toy(9, seed=3), Search(sample=True, alternatives=4000, ratio=0, extra=1, temperature=1.5)
    source = sources(1, 2)
    (found,) = search([network], source, how)
    x = following(network, source[0], []).double() / 1.5
    p = x.softmax(0).numpy()
    counts = np.bincount([h.tokens[0] if h.tokens else EOS for h in found], minlength=9)
    assert abs(counts / 4000 - p).max() < 4 * math.sqrt(0.25 / 4000)
    assert not counts[p == 0].any()
    again = search([network], source, Search(sample=True, alternatives=7, ratio=0, extra=1, temperature=1.5))[0]
    assert again == found[:7]
    one, two = (search([network], source, Search(sample=True, alternatives=50, seed=seed)) for seed in (1, 2))
    assert one != two


def test_cold_samples_are_greedy():
    network, source = Toy(70, end=1.0), sources(20, 4)
    cold = search([network], source, Search(sample=True, temperature=1e-6))
    assert cold == search([network], source, Search(beam=1))
    assert cold == search([network], source, Search(sample=True, top_k=1, temperature=3.0))
    assert cold == search([network], source, Search(sample=True, top_p=1e-6, temperature=3.0))


def test_only_the_best_are_drawn():
    rng = np.random.default_rng(0)
    logp = np.log(rng.dirichlet(np.ones(50) * 0.3, size=3))
    chance = rng.random((3, 4000))
    for top_k, top_p in ((0, 1.0), (7, 1.0), (0, 0.8), (20, 0.6)):
        for row in range(3):
            p = np.exp(logp[row] / 0.7)
            order = np.argsort(-p)[: top_k or None]
            kept = order[np.cumsum(p[order]) - p[order] < top_p * p[order].sum()]
            drawn = draw(np.tile(logp[row], (4000, 1)), chance[row], 0.7, top_k, top_p)
            share = np.bincount(drawn, minlength=50) / 4000
            truth = np.zeros(50)
            truth[kept] = p[kept] / p[kept].sum()
            assert not share[truth == 0].any()
            assert abs(share - truth).max() < 4 * math.sqrt(0.25 / 4000)
    half = np.array([[-math.inf, -0.7, -0.7, -math.inf]] * 2)
    for top_k, top_p in ((0, 1.0), (4, 1.0), (0, 0.99)):
        assert draw(half, np.array([0.0, np.nextafter(1, 0)]), 1.0, top_k, top_p).tolist() == [1, 2]


@pytest.mark.parametrize("V", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("W", [1, 3])
@pytest.mark.parametrize("digits", [0, 1, 6])
@pytest.mark.parametrize("native", [True, False])
def test_the_best_are_those_of_a_sort(V, k, W, digits, native, monkeypatch):
    if not native:
        monkeypatch.setattr(cpu, "native", None)
    rng = np.random.default_rng(V + k)
    logp = np.round(rng.normal(size=(4 * W, V)), digits).astype(np.float32)
    logp[rng.random((4 * W, V)) < 0.2] = -math.inf
    total = np.round(rng.normal(size=(4, W)), digits)
    total[1, W - 1] = -math.inf
    value, parent, token = best(torch.from_numpy(logp), total, k)
    every = (logp.reshape(4, W, V).astype(float) + total[:, :, None]).reshape(4, -1)
    order = np.argsort(-every, 1, kind="stable")[:, :k]
    truth = np.full((4, k), -math.inf)
    truth[:, : order.shape[1]] = np.take_along_axis(every, order, 1)
    np.testing.assert_array_equal(value, truth)
    real = (truth > -math.inf)[:, : order.shape[1]]
    np.testing.assert_array_equal((parent * V + token)[:, : order.shape[1]][real], order[real])
    logp[3 * W, V - 1] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        best(torch.from_numpy(logp), total, k)


def test_forced_translations_are_scored_as_the_search_scores_them():
    networks, source, how = (
        [Toy(70, seed=1), Toy(70, seed=2)],
        sources(11, 4),
        Search(beam=3, length_penalty=0.7, coverage_penalty=0.1),
    )
    found = [h for (h,) in search(networks, source, how)]
    forced = force(networks, source, [h.tokens for h in found], how)
    for h, f in zip(found, forced, strict=True):
        assert (f.tokens, f.token_logp, f.score) == (h.tokens, h.token_logp, pytest.approx(h.score))
        np.testing.assert_array_equal(f.attention, h.attention)
    assert force(networks, source[:0], []) == [] == search(networks, source[:0])


def test_errors_say_what_must_hold():
    network, source = Toy(9), sources(2, 3)
    for fields, message in (({"beam": 0}, "beam must be at least 1"), ({"length_penalty": -1.0}, "length_penalty must be 0 or more"),
                            ({"alternatives": 6}, "Take a larger beam"), ({"top_p": 0.0}, "top_p"), ({"temperature": 0.0}, "beam=1"),
                            ({"ratio": math.nan}, "ratio must be 0 or more")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Search(**fields)
    with pytest.raises(TypeError, match="whole number, got 2"):
        Search(beam=2.5)
    with pytest.raises(ValueError, match="one for each of 2 sentences, got 1"):
        search([network], source, constraints=[Constraints()])
    with pytest.raises(ValueError, match="got none"):
        search([], source)
    with pytest.raises(ValueError, match=r"got \[2, 0\]"):
        search([network], source[:, :0])
    with pytest.raises(ValueError, match="samples cannot"):
        search([network], source, Search(sample=True), [Constraints((), (((5,),),))] * 2)
    network.table[:, 5] = math.nan
    for how in (Search(), Search(sample=True)):
        with pytest.raises(ValueError, match="NaN"):
            search([network], source, how)
