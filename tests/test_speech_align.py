"""Forced alignment against all paths there are."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

from longshort.apps.speech.align import align


def random_logp(T: int, V: int, seed: int = 0) -> np.ndarray:
    x = 2 * np.random.default_rng(seed).normal(size=(T, V))
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def spelled(path) -> tuple[int, ...]:
    return tuple(k for k, _ in groupby(path) if k)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("T", "V"), [(0, 3), (1, 2), (1, 4), (4, 3), (6, 3), (7, 2)])
def test_it_is_the_best_of_all_paths(T, V, seed):
    logp = random_logp(T, V, seed)
    best = {}
    for path in product(range(V), repeat=T):
        total = sum(logp[t, k] for t, k in enumerate(path))
        best[spelled(path)] = max(best.get(spelled(path), (-np.inf, ())), (total, path))
    for tokens, (total, path) in best.items():
        made = align(logp, tokens)
        runs, at = [], 0
        for k, run in groupby(path):
            n = len(list(run))
            runs += [(at, at + n, logp[at : at + n, k].mean())] if k else []
            at += n
        assert made.logp == pytest.approx(total)
        assert list(zip(made.start, made.end, strict=True)) == [r[:2] for r in runs]
        assert made.token_logp == pytest.approx([r[2] for r in runs])


@pytest.mark.parametrize(("T", "V", "L"), [(1, 2, 0), (63, 5, 30), (100, 30, 1), (100, 30, 63)])
def test_tokens_come_in_order_and_each_has_a_frame(T, V, L):
    tokens = np.random.default_rng(0).integers(1, V, L)
    made = align(random_logp(T, V), tokens.tolist())
    assert len(made.start) == len(made.end) == len(made.token_logp) == L
    assert (made.start < made.end).all()
    assert (made.end[:-1] <= made.start[1:]).all()
    assert not L or (made.start[0] >= 0 and made.end[-1] <= T)
    again = tokens[1:] == tokens[:-1]
    assert (made.end[:-1][again] < made.start[1:][again]).all()  # a blank stands between


def test_no_text_is_silence():
    logp = random_logp(63, 4)
    assert align(logp, []).logp == pytest.approx(logp[:, 0].sum())
    assert align(logp[:0], []).logp == 0


def test_more_audio_of_certain_blanks_moves_the_times_and_nothing_else():
    logp, tokens = random_logp(20, 4), [1, 2, 2, 3]
    silence = np.full((7, 4), -50.0)
    silence[:, 0] = 0
    made, later = align(logp, tokens), align(np.concatenate([silence, logp, silence]), tokens)
    assert later.logp == pytest.approx(made.logp)
    assert (later.start == made.start + 7).all()


def test_a_text_too_long_is_refused_with_numbers():
    align(random_logp(4, 3), [1, 1, 2])
    with pytest.raises(
        ValueError, match=r"3 tokens with 1 repeated ones need at least 4 frames, got 3.*the text of this audio\?"
    ):
        align(random_logp(3, 3), [1, 1, 2])


def test_ids_and_log_probabilities_are_checked():
    with pytest.raises(ValueError, match=r"from 1 to 2 \(0 is the blank\), got 0 to 1"):
        align(random_logp(5, 3), [1, 0])
    with pytest.raises(ValueError, match=r"from 1 to 2 \(0 is the blank\), got 3 to 3"):
        align(random_logp(5, 3), [3])
    with pytest.raises(ValueError, match="no path spells these tokens"):
        align(np.where(np.arange(3) == 1, -np.inf, random_logp(5, 3)), [1])
    with pytest.raises(ValueError, match="no path spells these tokens"):
        align(np.full((5, 3), np.nan), [1])
