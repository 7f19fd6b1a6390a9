"""The fit behind all confidences finds the top of the posterior, wherever it begins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from longshort import logistic


@pytest.mark.parametrize("seed", range(20))
def test_it_is_where_a_general_optimiser_ends(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(5, 400)), int(rng.integers(1, 6))
    X, w = rng.normal(size=(n, d)) * 10 ** rng.uniform(-1, 1.3, d), rng.normal(size=d)
    y = rng.random(n) < 1 / (1 + np.exp(-X @ w)) if seed % 2 else rng.random(n)
    start, prior = rng.normal(size=d) * 3, 10 ** rng.uniform(-2, 1, d)

    def loss(v):
        return np.logaddexp(0, X @ v).sum() - y @ (X @ v) + 0.5 * (prior * (v - start) ** 2).sum()

    def down(v):
        return X.T @ (1 / (1 + np.exp(-X @ v)) - y) + prior * (v - start)

    with np.errstate(over="ignore"):
        want = minimize(loss, start, jac=down, method="BFGS", options={"gtol": 1e-7}).x
        found = logistic.fit(X, y.astype(float), start, prior)
        assert loss(found) <= loss(want) + 1e-9 * (1 + abs(loss(want)))
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)


def test_all_alike_is_held_by_the_prior():
    X = np.ones((1000, 1))
    for y in (np.zeros(1000), np.ones(1000)):
        (w,) = logistic.fit(X, y, np.zeros(1), 0.1)
        assert np.isfinite(w)
        assert (w > 0) == bool(y[0])
        assert 1000 / (1 + np.exp(abs(w))) == pytest.approx(0.1 * abs(w))
