"""Searches over CTC log-probabilities against the sum over all paths, and the law that chunks do not matter."""

from __future__ import annotations

import math
from itertools import groupby, product

import numpy as np
import pytest

from longshort.apps.speech import decode
from longshort.apps.speech.align import align
from longshort.apps.speech.decode import Greedy, PrefixBeam, greedy

EXACT = {"width": math.inf, "token_beam": math.inf, "score_beam": math.inf}
CASES = [(0, 3), (1, 2), (1, 4), (4, 3), (6, 3), (5, 4), (8, 2)]


class Pairs:
    """A scorer that looks at the last token; 0 is the start and the end; some pairs are forbidden."""

    def __init__(self, V: int, seed: int = 0, forbidden: float = 0.2) -> None:
        rng = np.random.default_rng(seed)
        self.table = np.where(rng.random((V, V)) < forbidden, -np.inf, 2 * rng.normal(size=(V, V))).tolist()
        self.asked = 0

    def start(self) -> int:
        return 0

    def score(self, state: int, token: int) -> tuple[float, int]:
        self.asked += 1
        return self.table[state][token], token

    def finish(self, state: int) -> float:
        return self.table[state][0]

    def total(self, tokens) -> float:
        return sum(self.table[a][b] for a, b in zip((0, *tokens), tokens, strict=False))


def random_logp(T: int, V: int, seed: int = 0, blank: float = 0.0) -> np.ndarray:
    x = 2 * np.random.default_rng(seed).normal(size=(T, V))
    x[:, 0] += blank
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def all_paths(logp: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log-probability of each token sequence: the sum over its paths."""
    made: dict[tuple[int, ...], float] = {}
    for path in product(range(logp.shape[1]), repeat=len(logp)):
        tokens = tuple(k for k, _ in groupby(path) if k)
        made[tokens] = np.logaddexp(made.get(tokens, -np.inf), sum(logp[t, k] for t, k in enumerate(path)))
    return made


def searched(logp: np.ndarray, cuts=(), n: int = 10**6, look: bool = False, **options):
    search = PrefixBeam(logp.shape[1], **options)
    for chunk in np.split(logp, sorted(cuts)):
        search.accept(chunk)
        if look:
            search.best(), search.finish()
    return search.finish(n)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("T", "V"), CASES)
def test_without_bounds_the_sums_are_exact(T, V, seed):
    logp = random_logp(T, V, seed)
    truth, made = all_paths(logp), searched(logp, **EXACT)
    assert {h.tokens: h.acoustic for h in made} == pytest.approx(truth)
    assert np.logaddexp.reduce([h.acoustic for h in made]) == pytest.approx(0)
    assert all(h.scorer == 0 for h in made)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("T", "V"), CASES)
def test_a_scorer_is_added_and_kept_apart(T, V, seed):
    logp, scorer = random_logp(T, V, seed), Pairs(V, seed)
    truth = {k: p for k, p in all_paths(logp).items() if scorer.total(k) > -np.inf}
    made = searched(logp, scorer=scorer, **EXACT)
    assert {h.tokens: h.acoustic for h in made} == pytest.approx(truth)
    for h in made:
        end = scorer.table[h.tokens[-1] if h.tokens else 0][0]
        assert h.scorer == pytest.approx(scorer.total(h.tokens) + end)
        assert h.score == h.acoustic + h.scorer
    assert [h.score for h in made] == sorted((h.score for h in made), reverse=True)


@pytest.mark.parametrize("scorer", [None, Pairs(4, forbidden=0)], ids=["alone", "scored"])
@pytest.mark.parametrize("T", [1, 5, 8])
def test_times_are_those_of_the_best_path(T, scorer):
    logp = random_logp(T, 4, T)
    for h in searched(logp, scorer=scorer, **EXACT):
        assert h.times == tuple(align(logp, h.tokens).start)


@pytest.mark.parametrize("scorer", [None, Pairs(30)], ids=["alone", "scored"])
@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("T", [1, 63, 100])
def test_the_result_does_not_depend_on_the_chunks(T, width, scorer):
    logp, rng = random_logp(T, 30, T, blank=6).astype(np.float32), np.random.default_rng(0)
    whole = searched(logp, width=width, scorer=scorer)
    for _ in range(5):
        cuts = rng.integers(0, T + 1, rng.integers(0, 9))  # empty chunks among them
        assert searched(logp, cuts, width=width, scorer=scorer, look=True) == whole
    assert searched(logp, range(T), width=width, scorer=scorer) == whole
    assert len(whole) <= width
    assert len({h.tokens for h in whole}) == len(whole)


@pytest.mark.parametrize("T", [1, 7, 10])
def test_a_narrow_beam_never_hears_more_than_there_is(T):
    logp = random_logp(T, 3, T)
    exact = searched(logp, **EXACT)
    truth = {h.tokens: h.acoustic for h in exact}
    for width in (1, 2, 7, 40):
        for h in searched(logp, width=width):
            assert h.acoustic <= truth[h.tokens] + 1e-9
            assert align(logp, h.tokens).logp <= truth[h.tokens] + 1e-9
    assert searched(logp, **EXACT | {"width": len(exact)}) == exact
    assert [h.tokens for h in searched(logp, **EXACT | {"width": 100})[:3]] == [h.tokens for h in exact[:3]]


def test_a_constant_in_a_frame_is_no_news():
    logp, more = random_logp(63, 6, blank=2), np.random.default_rng(0).normal(size=(63, 1)) * 9
    for a, b in zip(searched(logp, width=5), searched(logp + more, width=5), strict=True):
        assert (a.tokens, a.times) == (b.tokens, b.times)
        assert b.acoustic == pytest.approx(a.acoustic + more.sum())


def test_hours_of_audio_neither_vanish_nor_fill_memory():
    search, scorer = PrefixBeam(6, 8, Pairs(6)), Pairs(6)
    block = random_logp(1000, 6, blank=4)
    for _ in range(15):
        search.accept(block)
    made = search.best()[0]
    assert math.isfinite(made.acoustic)
    assert len(made.tokens) == len(made.times) == len(made.logps)
    assert (np.diff(made.times) > 0).all()
    assert made.scorer == pytest.approx(scorer.total(made.tokens))
    nodes, queue = 0, [search.beam[0]]
    while queue[-1].parent:
        queue.append(queue[-1].parent)
    queue = queue[-1:]
    while queue:
        node = queue.pop()
        queue += node.children.values()
        nodes += 1
    assert nodes < len(made.tokens) + 8 * 40  # the prefixes of the beam and what they have in common


def test_a_frame_that_leaves_only_forbidden_tokens_does_not_end_the_search():
    scorer = Pairs(3, forbidden=1.0)
    logp = np.full((5, 3), -np.inf)
    logp[:, 1] = 0
    assert [h.tokens for h in searched(logp, scorer=scorer)] == [()]


def test_the_scorer_is_asked_once_about_a_token_after_a_prefix():
    scorer = Pairs(5)
    search = PrefixBeam(5, 1, scorer)
    search.accept(np.tile([-0.1, -4, -4.5, -5, -5.5], (50, 1)))
    assert search.best()[0].tokens == ()
    assert scorer.asked == 4


def test_what_is_remembered_of_the_scorer_changes_nothing(monkeypatch):
    logp, scorer = random_logp(63, 6, blank=2), Pairs(6)
    made = searched(logp, scorer=scorer)
    monkeypatch.setattr(decode, "MEMORY", 0)
    assert searched(logp, scorer=scorer) == made


@pytest.mark.parametrize(("T", "V"), [(0, 3), (1, 2), (63, 4), (100, 30)])
def test_greedy_is_the_best_path(T, V):
    logp = random_logp(T, V).astype(np.float32)
    path = logp.argmax(1) if T else np.zeros(0, int)
    made = greedy(logp)
    assert made.tokens == tuple(k for k, _ in groupby(path) if k)
    assert made.acoustic == pytest.approx(logp.max(1).sum() if T else 0)
    assert made.acoustic == pytest.approx(align(logp, made.tokens).logp)
    assert made.times == tuple(align(logp, made.tokens).start)
    for cuts in ([], range(T), [T // 3, T // 3, T // 2]):
        search = Greedy(V)
        for chunk in np.split(logp, cuts):
            search.accept(chunk)
        assert search.finish() == search.best() == [made]


@pytest.mark.parametrize("make", [Greedy, PrefixBeam])
def test_log_probabilities_are_checked(make):
    with pytest.raises(ValueError, match=r"must be \[T, V\] with V = 4 tokens, got \[7, 3\]"):
        make(4).accept(random_logp(7, 3))
    for at, value in (((5, 2), np.nan), (5, -np.inf), ((5, 1), np.inf)):
        bad, search = random_logp(7, 4), make(4)
        bad[at] = value
        search.accept(bad[:4])
        before = search.best()
        with pytest.raises(ValueError, match="must be numbers, one of them above -inf in each frame; not so in frame 5"):
            search.accept(bad[4:])
        assert search.best() == before


def test_the_tightest_beam_keeps_one_prefix():
    for options in ({"width": 1}, {"score_beam": 0}, {"token_beam": 0}):
        made = searched(random_logp(63, 5), **options)
        assert math.isfinite(made[0].acoustic)
        assert len(made) == 1 or "token_beam" in options


def test_bounds_are_checked():
    for name in ("width", "token_beam", "score_beam"):
        with pytest.raises(ValueError, match=rf"{name} must be at least [01], got -1; math\.inf is no bound"):
            PrefixBeam(4, **{name: -1})


@pytest.mark.parametrize("seed", range(5))
def test_each_token_comes_with_its_probability_where_it_is_surest(seed):
    logp = random_logp(40, 5, seed)
    path = logp.argmax(1)
    runs = [[logp[t, k] for t in where] for k, where in ((k, list(g)) for k, g in groupby(range(40), lambda t: path[t])) if k]
    for cuts in ((), (3, 4, 17)):
        search = Greedy(5)
        for chunk in np.split(logp, cuts):
            search.accept(chunk)
        assert search.best()[0].logps == pytest.approx([max(r) for r in runs])
    sharp = 40 * logp - np.logaddexp.reduce(40 * logp, axis=1, keepdims=True)  # so sharp that one path outweighs the others
    made = searched(sharp, width=6, cuts=(3, 17))[0]
    assert made.tokens == greedy(sharp).tokens
    assert made.logps == pytest.approx(greedy(sharp).logps)
