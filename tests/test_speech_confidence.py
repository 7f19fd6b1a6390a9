"""Confidences are put right: what they say is how often it is so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from longshort.apps.speech.confidence import LEAST, Calibration, expected_error


def drawn(slope: float, offset: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of words, and whether each is right: with sigmoid(slope * logit + offset)."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, n)
    return -np.logaddexp(0, -x), rng.random(n) < 1 / (1 + np.exp(-(slope * x + offset)))


@pytest.mark.parametrize(("slope", "offset"), [(0.5, -1.0), (1.0, 0.0), (2.0, 1.5)])
def test_the_fit_finds_how_sure_it_may_be(slope, offset):
    least, right = drawn(slope, offset)
    made = Calibration.fit(least, right)
    assert (made.slope, made.offset) == (pytest.approx(slope, abs=0.1), pytest.approx(offset, abs=0.1))
    errors = [expected_error([c([p, 0.0]) for p in least], right) for c in (made, Calibration())]
    assert errors[0] < 0.01
    assert (slope, offset) == (1.0, 0.0) or errors[1] > 0.05


def test_few_words_say_nothing_and_wrong_order_says_no_more_than_the_mean():
    least, right = drawn(0.5, -1.0)
    assert Calibration.fit(least[: LEAST - 1], right[: LEAST - 1]) == Calibration()
    assert Calibration.fit(least[:LEAST], right[:LEAST]) != Calibration()
    made = Calibration.fit(least, least < np.median(least))  # the surer, the more often wrong
    assert made.slope == 0
    assert made([-0.1]) == made([-9.0]) == pytest.approx(0.5, abs=0.01)


def test_a_word_is_as_sure_as_its_least_sure_token():
    made = Calibration(0.7, 0.2)
    x = math.log(0.3 / 0.7)
    assert made([math.log(0.9), math.log(0.3), math.log(0.8)]) == pytest.approx(1 / (1 + math.exp(-(0.7 * x + 0.2))))


def test_the_expected_error_by_definition():
    sure, right = [0.15, 0.11, 0.95, 0.98, 1.0], [False, True, True, True, False]
    assert expected_error(sure, right) == pytest.approx((abs(0.26 - 1) + abs(2.93 - 2)) / 5)
    assert expected_error([], []) == 0
