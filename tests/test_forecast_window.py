"""Laws of what a model sees of one origin, of calibration, and of the scores: all that is NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.apps.forecast import conformal, metrics
from longshort.apps.forecast.window import LEAST_UNIT, PAST, READ, REGULAR, encode, kinds, phase_values, phases

NAN = np.nan


def walk(seed: int, *shape: int, holes: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=shape).cumsum(-1)
    y[rng.random(shape) < holes] = NAN
    y[..., -2:] = rng.normal(size=(*shape[:-1], 2))
    return y


@pytest.mark.parametrize("seasons", [(1,), (4,), (7,), (5, 15)])
@given(seed=st.integers(0, 10**6), a=st.floats(0.01, 1000), b=st.floats(-1000, 1000))
@settings(max_examples=20, deadline=None)
def test_scale_and_level_of_the_data_do_not_matter(seasons, seed, a, b):
    y = walk(seed, 3, 30, holes=0.1)
    one, two = encode(y, 6, seasons), encode(a * y + b, 6, seasons)
    assert one.guesses.shape == (3, 6, kinds(seasons))
    for v, w in zip(one[:3], two[:3], strict=True):
        np.testing.assert_allclose(v, w, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(two.scale, a * one.scale, rtol=1e-6)
    np.testing.assert_allclose(two.level, a * one.level + b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("m", [2, 3, 7, 12])
@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_a_pure_season_is_guessed_exactly(m, horizon):
    t, shape = np.arange(4 * m + 1), np.random.default_rng(m).normal(size=m)
    shape -= shape.mean()
    window = encode(100 + shape[t % m][None], horizon, (m,))
    future = 100 + shape[np.arange(t[-1] + 1, t[-1] + 1 + horizon) % m]
    for k in (1, 2):  # seasonal naive, level plus phase
        np.testing.assert_allclose(window.guesses[0, :, k] * window.scale[0] + window.level[0], future, rtol=1e-5)
    assert window.known.all()


def test_logarithms_that_never_move_have_a_scale_and_forecasts_an_end():
    window = encode(np.full((1, 9), 7.0), 4, (1,), log=True)
    np.testing.assert_allclose(window.values(np.array([[-1.0, 0.0, 1.0]])), [[7 * 0.95, 7, 7 * 1.05]], rtol=2e-3)
    np.testing.assert_allclose(window.values(np.array([[1e2, 1e9, np.inf]])), 7 * np.exp(4.6) * np.ones((1, 3)))


def test_a_low_last_value_bounds_no_forecast_of_logarithms():
    y = np.r_[np.full(11, 200.0), 0.01][None]
    window = encode(y, 2, (1,), log=True)
    np.testing.assert_allclose(window.values(window.scaled(np.array([[200.0, 5000.0]]))), [[200.0, 5000.0]])


def test_a_tiny_constant_is_scaled_as_a_large_one_is():
    for value in (1e-12, 1.0, -1e12):
        np.testing.assert_allclose(encode(np.full((1, 9), value), 2, (1,)).scale, abs(value))


def test_what_is_missing_is_marked_and_guesses_nothing():
    y = np.full((2, 8), NAN)
    y[0, -1], y[1, -3:] = 5.0, [1.0, NAN, 2.0]
    window = encode(y, 3, (4,))
    np.testing.assert_array_equal(window.past[..., 2], np.isfinite(y))
    assert not window.past[~np.isfinite(y)].any()
    np.testing.assert_array_equal(window.known[0], [[1, 0, 0]] * 3)
    np.testing.assert_array_equal(window.known[1, :, 1], [0, 1, 0])
    assert all(np.isfinite(v).all() for v in window)
    assert (window.scale > 0).all()


def test_rows_do_not_see_each_other():
    y = walk(1, 5, 40, holes=0.2)
    together = encode(y, 6, (7,))
    for k in range(5):
        for v, w in zip(together[:6], encode(y[k : k + 1], 6, (7,))[:6], strict=True):
            np.testing.assert_array_equal(v[k], w[0])


def test_newest_value_of_each_phase():
    y = np.array([[1.0, 2, 3, 4, NAN, 6, 7]])  # phase 0 follows the origin: 1, 4, 7 are phase 2 of m = 3
    np.testing.assert_array_equal(phase_values(y, 3), [[2, 6, 7]])
    np.testing.assert_array_equal(phase_values(y[:, 3:], 3), [[NAN, 6, 7]])


@pytest.mark.parametrize("m", [4, 5])
def test_phases_by_definition(m):
    y = walk(3, 1, 23, holes=0.0)[0]
    half, off = m // 2, {p: [] for p in range(m)}
    for t in range(half, 23 - half):
        near = y[t - half : t + half + 1]
        mean = near.mean() if m % 2 else (near[1:-1].sum() + (near[0] + near[-1]) / 2) / m
        off[(t - 23) % m].append(y[t] - mean)
    np.testing.assert_allclose(phases(y[None], m)[0], [np.mean(off[p]) for p in range(m)])


def test_scores_of_a_case_worked_by_hand():
    past, y, f = np.array([1.0, 3, 2, 6]), np.array([[5.0, 7]]), np.array([[4.0, 10]])
    assert metrics.naive_error(past, 1) == pytest.approx((2 + 1 + 4) / 3)
    assert metrics.naive_error(past, 2) == pytest.approx((1 + 3) / 2)
    assert metrics.mase(y, f, np.array([2.0])) == pytest.approx((1 + 3) / 2 / 2)
    assert metrics.smape(y, f) == pytest.approx(100 * (1 / 4.5 + 3 / 8.5) / 2)
    q = np.stack([f - 2, f, f + 2], -1)  # at 0.1, 0.5, 0.9: off by (3, -1), (1, -3), (-1, -5)
    by_level = [2 * (0.1 * 3 + 0.9 * 1) / 12, 2 * (0.5 + 1.5) / 12, 2 * (0.1 * 1 + 0.1 * 5) / 12]
    assert metrics.wql(y, q, np.array([0.1, 0.5, 0.9])) == pytest.approx(np.mean(by_level))
    assert metrics.coverage(y, q[..., 0], q[..., 2]) == 0.5


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_scores_beside_plain_loops(seed):
    """An independent implementation, one number at a time, with missing truth."""
    rng = np.random.default_rng(seed)
    y, f, scale = rng.normal(size=(4, 5)) + 3, rng.normal(size=(4, 5)), rng.random(4) + 0.1
    y[rng.random((4, 5)) < 0.2], y[3], scale[2] = NAN, NAN, 0.0
    y[:3, 0] = 1.0
    levels = np.array([0.1, 0.5, 0.9])
    q = np.sort(rng.normal(size=(4, 5, 3)), -1)
    seen = [[k for k in range(5) if not math.isnan(y[b, k])] for b in range(4)]
    error = [sum(abs(y[b, k] - f[b, k]) for k in seen[b]) / len(seen[b]) for b in range(3)]
    assert metrics.mase(y, f, scale) == pytest.approx((error[0] / scale[0] + error[1] / scale[1]) / 2)
    ratio = [sum(200 * abs(y[b, k] - f[b, k]) / (abs(y[b, k]) + abs(f[b, k])) for k in seen[b]) / len(seen[b]) for b in range(3)]
    assert metrics.smape(y, f) == pytest.approx(sum(ratio) / 3)
    loss, size, inside, count = [0.0, 0.0, 0.0], 0.0, 0, 0
    for b in range(4):
        for k in seen[b]:
            size, count = size + abs(y[b, k]), count + 1
            inside += q[b, k, 0] <= y[b, k] <= q[b, k, 2]
            for j in range(3):
                off = y[b, k] - q[b, k, j]
                loss[j] += levels[j] * off if off >= 0 else (levels[j] - 1) * off
    assert metrics.wql(y, q, levels) == pytest.approx(sum(2 * x / size for x in loss) / 3)
    assert metrics.coverage(y, q[..., 0], q[..., 2]) == pytest.approx(inside / count)


def test_scores_of_nothing_are_nan():
    y = np.full((1, 2), NAN)
    f = np.zeros((1, 2))
    assert math.isnan(metrics.mase(y, f, np.ones(1)))
    assert math.isnan(metrics.mase(f, f, np.zeros(1)))
    assert math.isnan(metrics.smape(y, f))
    assert metrics.smape(f, f) == 0
    assert math.isnan(metrics.wql(y, f[..., None], np.array([0.5])))
    assert math.isnan(metrics.coverage(y, f, f))
    assert math.isnan(metrics.naive_error(np.array([1.0]), 1))


def test_guesses_see_further_than_the_lstm_reads():
    t = np.arange(1200)
    window = encode(np.sin(2 * np.pi * t / 400)[None], 5, (400,))
    assert window.past.shape == (1, READ, PAST)
    assert window.known.all()
    np.testing.assert_allclose(
        window.guesses[0, :, 1] * window.scale + window.level, np.sin(2 * np.pi * np.arange(5) / 400), atol=1e-6
    )


# calibration


LEVELS = np.array([0.1, 0.3, 0.5, 0.8, 0.95])


def fan(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Quantile forecasts that ascend strictly."""
    return np.sort(rng.normal(size=(*shape, len(LEVELS))), -1) + 0.01 * np.arange(len(LEVELS))


def test_stretch_by_definition():
    """Forecasts -2, -1, 0, 1, 2 for truths 1 ... 49: the ceil(50 p)-th smallest, over the distance from the median; below it,
    where nothing lies, the least, at 49 of 80 windows."""
    forecast, truth = np.tile(np.arange(-2.0, 3), (49, 1, 1)), np.arange(1.0, 50)[:, None]
    least = conformal.NARROWEST ** (0.5 * 49 / 80)
    assert least > 0.5
    np.testing.assert_allclose(conformal.stretch(forecast, truth, LEVELS), [[least, least, 1, 40, 48 / 2]])  # 50 * 0.95 = 47.5
    np.testing.assert_allclose(conformal.stretch(forecast, -truth, LEVELS), [[45 / 2, 35, 1, least, least]])
    twice = conformal.stretch(np.tile(forecast, (4, 1, 1)), np.tile(truth, (4, 1)), LEVELS, apart=49)  # worth 98 of 196
    np.testing.assert_allclose(twice, [[least, least, 1, 40, 48 / 2]])  # 198 * 0.8 = 158.4 is the 40th of 49; 198 * 0.95 = 188.1
    one = np.r_[np.full(39, np.nan), np.zeros(10)][:, None]
    np.testing.assert_array_equal(conformal.stretch(forecast, one, LEVELS), np.ones((1, 5)))  # too few to say
    flat = conformal.stretch(0 * forecast, truth, LEVELS)
    np.testing.assert_array_equal(flat, np.ones((1, 5)))  # no distance that could be stretched


def test_steps_share_a_factor_where_windows_are_few():
    rng = np.random.default_rng(0)
    forecast, truth = fan(rng, 79, 6), rng.normal(size=(79, 6)) * np.arange(1, 7)
    few = conformal.stretch(forecast, truth, LEVELS)
    np.testing.assert_array_equal(few, np.tile(few[:1], (6, 1)))
    whole = conformal.stretch(forecast.reshape(-1, 1, 5), truth.reshape(-1, 1), LEVELS, apart=79)
    np.testing.assert_array_equal(few[:1], whole)
    forecast, truth = np.tile(forecast, (2, 1, 1)), np.tile(truth, (2, 1))
    many = conformal.stretch(forecast, truth, LEVELS)
    for k in range(6):
        each = conformal.stretch(forecast[:, k : k + 1], truth[:, k : k + 1], LEVELS)
        np.testing.assert_array_equal(many[k : k + 1], each)
    np.testing.assert_array_equal(conformal.stretch(forecast, truth, LEVELS, apart=158), many)
    overlap = conformal.stretch(forecast, truth, LEVELS, apart=79)
    np.testing.assert_array_equal(overlap, np.tile(overlap[:1], (6, 1)))


def test_the_fewer_windows_are_apart_the_wider_are_the_intervals():
    rng = np.random.default_rng(1)
    forecast, truth = np.tile(np.arange(-2.0, 3), (160, 1, 1)), rng.normal(size=(160, 1))
    for size in (0.1, 1, 10):  # much too wide, right, much too narrow
        made = [conformal.stretch(forecast, size * truth, LEVELS, apart)[0] for apart in (1, 2, 8, 40, 79, 159, 160)]
        assert (np.diff(made, axis=0) <= 0).all()
        assert (size > 0.1) or (made[0] > 0.97).all()
    np.testing.assert_array_equal(made[-1], conformal.stretch(forecast, 10 * truth, LEVELS)[0])


@pytest.mark.parametrize("apart", [8, 16, 41])
def test_coverage_of_one_series_whose_windows_overlap(apart):
    """Errors that last for a few steps; windows a quarter horizon apart calibrate, later ones are covered, on average."""
    rng, H, runs, late, sure = np.random.default_rng(apart), 24, 300, 40, []
    forecast = np.tile(0.3 * np.array([-1.28, -0.52, 0, 0.84, 1.64]), (4 * (apart - 1) + 1, H, 1))
    at = np.arange(len(forecast))[:, None] * (H // 4) + np.arange(H)
    for _ in range(runs):
        error = np.zeros(apart * H + late)
        steps = rng.normal(size=len(error)) * 0.6
        for t in range(1, len(error)):
            error[t] = 0.8 * error[t - 1] + steps[t]
        q = conformal.stretch(forecast, error[at], LEVELS, apart)[0] * forecast[0, 0]
        after = error[-late // 2 :, None]
        sure.append(np.where(LEVELS < 0.5, after >= q, after <= q).mean(0))
    wanted, found = np.maximum(LEVELS, 1 - LEVELS), np.mean(sure, 0)
    noise = 3 * np.std(sure, 0) / np.sqrt(runs)
    assert (found >= wanted - noise)[[0, 1, 3, 4]].all()
    assert (found <= wanted + noise + 0.25 / np.sqrt(apart))[[0, 1, 3, 4]].all()


@pytest.mark.parametrize("n", [40, 99, 400])
@pytest.mark.parametrize("width", [0.2, 1.0, 4.0])
def test_coverage_of_exchangeable_windows_is_at_least_nominal(n, width):
    """Windows that calibrate and a new one, alike but of very different size: the mean over many draws.

    What is too narrow becomes as wide as it says; what is too wide only half the way there.
    """
    rng, runs, sure = np.random.default_rng(n), 1500, np.zeros(5)
    for _ in range(runs):
        size = np.exp(rng.normal(size=(n + 1, 1)))
        forecast = size[..., None] * width * np.array([-2, -0.7, 0, 0.5, 3])
        truth = size * rng.standard_t(3, size=(n + 1, 1))
        factor = conformal.stretch(forecast[:n], truth[:n], LEVELS)
        q = factor * forecast[n]
        sure += np.where(LEVELS < 0.5, truth[n] >= q[0], truth[n] <= q[0])
    wanted, error = np.maximum(LEVELS, 1 - LEVELS), np.sqrt(0.25 / runs)
    assert (sure / runs >= wanted - 3 * error)[[0, 1, 3, 4]].all()
    if width < 1:
        assert (sure / runs <= wanted + 1 / n + 3 * error)[[0, 1, 3, 4]].all()


def test_values_at_inverts_ranks():
    rng = np.random.default_rng(0)
    forecast, at = fan(rng, 7, 4), rng.uniform(1e-3, 1 - 1e-3, size=(60, 4))
    made = conformal.values_at(forecast, LEVELS, at)
    assert made.shape == (7, 60, 4)
    for b in range(7):
        back = conformal.ranks(np.tile(forecast[b], (60, 1, 1)), made[b], LEVELS)
        np.testing.assert_allclose(back, at, rtol=1e-4)
    order = np.argsort(at, 0)
    assert (np.diff(np.take_along_axis(made, order[None], 1), axis=1) >= 0).all()
    np.testing.assert_allclose(conformal.values_at(forecast, LEVELS, np.tile(LEVELS[:, None], 4)).swapaxes(1, 2), forecast)


def test_tails_are_exponential_through_the_outermost_quantiles():
    q = fan(np.random.default_rng(0), 3, 2)
    at = np.array([LEVELS[0] ** 2 / LEVELS[1], 1 - (1 - LEVELS[-1]) ** 2 / (1 - LEVELS[-2])])  # as far out as these two lie apart
    low, high = conformal.values_at(q, LEVELS, np.tile(at[:, None], 2)).swapaxes(0, 1)
    np.testing.assert_allclose(low, 2 * q[..., 0] - q[..., 1])
    np.testing.assert_allclose(high, 2 * q[..., -1] - q[..., -2])


def test_ranks_of_odd_forecasts_are_levels():
    forecast, truth = np.zeros((4, 3, 5)), np.array([[0.0, 1, -1]] * 3 + [[NAN, 0, 0]])
    made = conformal.ranks(forecast, truth, LEVELS)
    assert made.shape == (3, 3)  # a window with a gap is left out
    assert ((made > 0) & (made < 1)).all()
    assert conformal.ranks(forecast[:0], truth[:0], LEVELS).shape == (0, 3)
    assert conformal.ranks(np.zeros((900, 3, 5)), np.zeros((900, 3)), LEVELS).shape == (conformal.MOST_RANKS, 3)


def test_values_are_carried_with_their_quantiles():
    rng = np.random.default_rng(0)
    before, after, drawn = fan(rng, 6, 4), fan(rng, 6, 4), 3 * rng.normal(size=(6, 50, 4))
    made = conformal.carry(drawn, before, after)
    np.testing.assert_allclose(conformal.carry(before.swapaxes(1, 2), before, after), after.swapaxes(1, 2))
    np.testing.assert_allclose(conformal.carry(drawn, before, before), drawn)
    np.testing.assert_allclose(conformal.carry(made, after, before), drawn)
    np.testing.assert_array_equal(np.argsort(made, 1), np.argsort(drawn, 1))
    for level in range(5):  # as many lie below as before
        np.testing.assert_array_equal(made < after[:, None, :, level], drawn < before[:, None, :, level])
    point = np.ones((6, 4, 5))  # quantiles that were one stay one
    np.testing.assert_allclose(conformal.carry(drawn, point, 2 * point), drawn + 1)
    assert np.isfinite(conformal.carry(drawn, before, point)).all()


def test_the_unit_tells_series_that_repeat_themselves():
    rng, t = np.random.default_rng(0), np.arange(96)
    season = np.sin(2 * np.pi * t / 12)[None] * 10
    exact, noisy, walk = season, season + rng.normal(size=(1, 96)) * 0.05, rng.normal(size=(1, 96)).cumsum(1)
    units = [np.exp(encode(v, 6, (12,)).static[0, 2]) for v in (exact, noisy, walk, walk[:, :12])]
    size = np.abs(noisy[:, 12:] - noisy[:, :-12]).mean() / encode(noisy, 6, (12,)).scale[0]
    np.testing.assert_allclose(units, [LEAST_UNIT, size / REGULAR, 1, 1], rtol=1e-5)
    two = np.exp(encode(np.tile(rng.normal(size=(1, 21)) * 9 + 50, 5), 6, (7, 21)).static[0, 2])
    assert two == pytest.approx(LEAST_UNIT)  # the longer season repeats, though the shorter does not


@pytest.mark.parametrize("value", [0.0, 5.0, -1e6])
def test_what_never_moves_has_no_unit_but_counts_have_one(value):
    past = np.stack([np.full(30, value), np.arange(30.0)])
    assert encode(past, 4, (7,)).known_unit.tolist() == [False, True]
    counts = encode(np.abs(past), 4, (7,), level_zero=True)
    assert counts.known_unit.all()
    assert counts.scale[0] == (abs(value) or 1)


def test_the_change_is_that_of_the_value_without_its_season():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(4, 40)).cumsum(1) + 10 * np.tile(np.arange(4), 10)
    y[0, [5, 6, 20]] = np.nan
    past = encode(y, 3, (4,)).past
    seen = past[..., 2] > 0
    both = seen[:, 1:] & seen[:, :-1]
    np.testing.assert_allclose(past[:, 1:, 3][both], np.diff(past[..., 1], axis=1)[both], rtol=1e-4, atol=1e-5)
    assert (past[:, 1:, 3][~both] == 0).all()
    assert (past[:, 0, 3] == 0).all()


def test_what_was_always_zero_stays_zero_and_small_moves_on_a_high_level_are_moves():
    y = np.zeros((3, 30))
    y[1] += 5
    y[2] = 1e10 + np.random.default_rng(0).normal(size=30).cumsum()
    made = encode(y, 4, (1,))
    assert made.known_unit.tolist() == [False, False, True]
    assert 0.1 < made.scale[2] < 100
    values = made.values(np.full((3, 4), -0.3))
    assert not values[0].any()
    assert (values[1] < 5).all()
    assert abs(values[2] - y[2, -1]).max() < 100
