"""Signs against a translation, one by one; their weights against what they were made from."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest

from longshort.apps.translate.confidence import SIGNS, Calibration, copied, judge, looped, uncovered

PIECES = ["<pad>", "<unk>", "<s>", "</s>", *(f"▁w{k}" for k in range(30)), "ing", "."]


class Found(NamedTuple):
    tokens: tuple[int, ...]
    token_logp: tuple[float, ...]
    attention: np.ndarray
    finished: bool = True


def straight(tokens, S: int, logp: float = -0.4, finished: bool = True) -> Found:
    """Tokens that look at the source one after the other, and at its end at the end."""
    attention = np.zeros((len(tokens) + 1, S + 1), np.float32)
    for t in range(len(tokens) + 1):
        attention[t, min(t, S) if t < len(tokens) else S] = 1
    return Found(tuple(tokens), (logp,) * (len(tokens) + 1), attention, finished)


def test_each_sign_speaks_up_alone():
    source, target = range(4, 12), range(20, 28)
    good = judge(straight(target, 8), source, PIECES, PIECES)
    assert good.signs == {"unsure": pytest.approx(0.4), "uncovered": 0, "looped": 0, "copied": 0, "cut": 0}
    assert good.value > 0.8
    bad = {
        "unsure": straight(target, 8, logp=-2.0),
        "uncovered": straight(range(20, 24), 8),
        "looped": straight([20, 21, 22, 23, 24, 24, 24, 24], 8),
        "copied": straight([20, 21, 22, 23, 4, 5, 6, 7], 8),
        "cut": straight(target, 8, finished=False),
    }
    for name, found in bad.items():
        made = judge(found, source, PIECES, PIECES)
        assert made.signs[name] > good.signs[name] + 0.3
        assert {k: v for k, v in made.signs.items() if k != name} == {k: v for k, v in good.signs.items() if k != name}
        assert made.value < 0.6
    assert judge(straight([], 0), [], PIECES, PIECES).value > 0.8
    assert 0 <= judge(straight([20] * 50, 3, logp=-math.inf), source, PIECES, PIECES).value < 1e-9


@pytest.mark.parametrize(
    ("tokens", "share"),
    [([], 0), ([1], 0), ([1, 1, 2], 0), ([1, 1, 1], 2 / 3), ([1, 2, 1, 2], 1 / 2), ([1, 2, 3, 1, 2], 0), ([1, 2, 3, 1, 2, 3], 1 / 2),
     ([1, 2, 3, 9, 1, 2, 3], 0), ([1, 2, 3, 4, 9, 8, 7, 1, 2, 3, 4], 4 / 11), ([1, 2] * 10, 18 / 20)],
)  # fmt: skip
def test_a_loop_is_what_was_just_said_or_a_long_run(tokens, share):
    assert looped(tokens) == pytest.approx(share)


def test_a_loop_of_the_source_may_be_translated():
    assert judge(straight([20, 20, 20, 20], 4), [4, 4, 4, 4], PIECES, PIECES).signs["looped"] == 0


def test_copies_are_whole_runs_of_words():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = ([f"{k}" for k in rng.integers(0, 4, n)] for n in rng.integers(0, 12, 2))
        runs = {tuple(a[k : k + 3]) for k in range(len(a) - 2)}
        taken = [any(tuple(b[j : j + 3]) in runs for j in range(max(0, k - 2), k + 1)) for k in range(len(b))]
        assert copied(a, b) == pytest.approx(np.mean(taken) if b else 0)
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "▁", "赤い", "船は", "家へ", "帰る", "。"]
    assert judge(straight([*range(4, 10)], 6), [*range(4, 10)], pieces, pieces).signs["copied"] == 1, "no spaces"
    address = [4, 34, 34, 34, 35]  # one word of many pieces
    assert judge(straight([20, *address, 21], 5), address, PIECES, PIECES).signs["copied"] == 0


def test_uncovered_counts_what_had_no_attention():
    assert uncovered(np.array([[1.0, 0, 0, 0], [0, 0.3, 0, 0], [0, 0, 0.15, 0]])) == pytest.approx((0.5 + 1) / 4)
    assert uncovered(np.zeros((2, 0))) == 0


def test_calibration_finds_the_weights_that_made_the_qualities():
    rng = np.random.default_rng(0)
    truth = Calibration(1.5, {"unsure": 1.2, "uncovered": 3.0, "looped": 9.0, "copied": 2.0, "cut": 1.0})
    signs = [dict(zip(SIGNS, rng.random(5) * (2, 0.5, 0.3, 0.5, 1), strict=True)) for _ in range(20000)]
    made = Calibration.fit(signs, [truth(s) for s in signs])
    assert made.offset == pytest.approx(truth.offset, abs=0.2)
    assert made.weights == pytest.approx(dict(truth.weights), rel=0.1)
    unseen = Calibration.fit([{**s, "looped": 0.0} for s in signs[:500]], [truth({**s, "looped": 0.0}) for s in signs[:500]])
    assert unseen.weights["looped"] == pytest.approx(Calibration().weights["looped"])
    assert Calibration.fit(signs[:49], [0.0] * 49) == Calibration()
    with pytest.raises(ValueError, match="one number in"):
        Calibration.fit(signs[:2], [0.5, 1.5])
    with pytest.raises(ValueError, match="weights must be those of unsure"):
        Calibration(1.0, {"unsure": 1.0})
