"""Error rates: jiwer and a plain table of distances are the oracles."""

from __future__ import annotations

import random

import jiwer
import numpy as np
import pytest

from longshort.apps.speech.metrics import (
    Score,
    cer,
    character_score,
    compare,
    edits,
    wer,
    word_score,
)


def texts(n: int, seed: int, words: str = "a b c dd eee", most: int = 12, least: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(words.split()) for _ in range(rng.randint(least, most))) for _ in range(n)]


def table(a, b) -> int:
    """The Levenshtein distance, straight from its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (x != y)))
    return row[-1]


@pytest.mark.parametrize(("m", "k"), [(0, 0), (0, 3), (3, 0), (1, 1), (5, 63), (63, 64), (65, 64), (130, 100)])
def test_an_alignment_spells_both_sides_with_the_fewest_edits(m, k):
    rng = random.Random(m + 1000 * k)
    for letters in ("ab", "abcdefgh"):
        for _ in range(20):
            a, b = ([rng.choice(letters) for _ in range(n)] for n in (m, k))
            made = edits(a, b)
            assert [r for r, _ in made.pairs if r is not None] == a
            assert [h for _, h in made.pairs if h is not None] == b
            assert made.errors == table(a, b) == edits(b, a).errors
            assert made.hits == sum(r == h for r, h in made.pairs)
            assert (made.hits + made.substitutions + made.deletions, made.hits + made.substitutions + made.insertions) == (m, k)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [3, 12, 70])
def test_counts_and_rates_are_those_of_jiwer(seed, most):
    refs, hyps = texts(200, seed, most=most), texts(200, seed + 10, most=most, least=0)
    words, characters = jiwer.process_words(refs, hyps), jiwer.process_characters(refs, hyps)
    for ours, theirs in ((word_score(refs, hyps), words), (character_score(refs, hyps), characters)):
        assert tuple(ours.counts.sum(0)) == (theirs.hits, theirs.substitutions, theirs.deletions, theirs.insertions)
    assert wer(refs, hyps) == pytest.approx(words.wer)
    assert cer(refs, hyps) == pytest.approx(characters.cer)


def test_the_rate_of_a_corpus_weighs_utterances_by_their_length():
    score = word_score(["a", "a b c d e f g h i"], ["b", "a b c d e f g h i"])
    assert score.rate == 0.1
    assert score.errors.tolist() == [1, 0]
    assert score.tokens.tolist() == [1, 9]


def test_white_space_is_one_space_that_counts_between_words_only():
    assert wer([" a  b\tc "], ["a b c"]) == cer([" a  b\tc "], ["a b c"]) == 0
    assert cer(["a b"], ["ab"]) == pytest.approx(1 / 3)
    assert wer(["a b"], ["A b"]) == 0.5  # nothing is folded


def test_a_rate_can_exceed_one_and_is_nan_without_a_reference():
    assert wer(["a"], ["b c d"]) == 3
    assert np.isnan(wer([""], ["a"]))
    assert np.isnan(wer([], []))
    assert np.isnan(word_score([], []).interval(np.random.default_rng(0))).all()
    assert np.isnan(word_score(["", ""], ["a", ""]).interval(np.random.default_rng(0))).all()


def test_each_reference_needs_its_hypothesis():
    with pytest.raises(ValueError, match="got 2 references and 1 hypotheses"):
        wer(["a", "b"], ["a"])


def synthetic(n: int, rate: float, seed: int, tokens: int = 10) -> Score:
    """n utterances of as many tokens each; errors are substitutions."""
    errors = np.random.default_rng(seed).binomial(tokens, rate, n)
    zero = np.zeros_like(errors)
    return Score([["a"] * tokens] * n, [["b"] * k + ["a"] * (tokens - k) for k in errors],
                 np.stack([tokens - errors, errors, zero, zero], 1))  # fmt: skip


def test_the_bootstrap_interval_is_as_wide_as_theory_says():
    score = synthetic(400, 0.2, 0)
    low, high = score.interval(np.random.default_rng(1), level=95, draws=4000)
    error = score.errors.std() / 10 / 400**0.5
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.06)
    assert (high + low) / 2 == pytest.approx(score.rate, abs=0.2 * error)


def test_an_interval_is_the_same_for_the_same_seed_and_grows_with_the_level():
    score = synthetic(63, 0.3, 0)
    made = [score.interval(np.random.default_rng(5), level) for level in (50, 80, 95, 95)]
    assert made[2] == made[3]
    assert made[2][0] <= made[1][0] <= made[0][0] <= score.rate <= made[0][1] <= made[1][1] <= made[2][1]


def test_utterances_that_err_together_are_drawn_together():
    one, copies = synthetic(60, 0.3, 0), 10
    many = Score(list(one.references) * copies, list(one.hypotheses) * copies, np.tile(one.counts, (copies, 1)))
    groups = [f"speaker {k % 60}" for k in range(60 * copies)]
    alone, together = many.interval(np.random.default_rng(0)), many.interval(np.random.default_rng(0), groups=groups)
    assert together == one.interval(np.random.default_rng(0))
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])
    with pytest.raises(ValueError, match="each of the 600 utterances, got 1 names"):
        many.interval(np.random.default_rng(0), groups=["x"])


def test_a_comparison_turns_round_with_its_systems():
    first, second = synthetic(200, 0.3, 0), synthetic(200, 0.25, 1)
    there, back = compare(first, second, np.random.default_rng(0)), compare(second, first, np.random.default_rng(0))
    assert there.rate == pytest.approx(second.rate - first.rate)
    assert np.allclose([there.rate, there.low, there.high], [-back.rate, -back.high, -back.low])
    assert there.improved > 0.95 > 0.05 > back.improved
    assert compare(first, first, np.random.default_rng(0)) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="same references"):
        compare(first, synthetic(199, 0.3, 0), np.random.default_rng(0))


def test_confusions_are_counted_over_the_corpus_and_the_worst_come_first():
    score = word_score(["a b c", "a b c", "x", "a"], ["a d c", "a d", "x y", "a"])
    assert score.confusions() == [(("b", "d"), 2), ((None, "y"), 1), (("c", None), 1)]
    assert score.confusions(1) == [(("b", "d"), 2)]
    assert score.worst() == [1, 2, 0]
    assert score.worst(1) == [1]


def test_all_errors_are_confusions():
    score = word_score(texts(100, 0), texts(100, 1))
    assert sum(n for _, n in score.confusions(10**6)) == score.errors.sum()
