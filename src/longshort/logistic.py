"""Logistic regression with a normal prior: what confidences are calibrated by. NumPy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ENOUGH = 1e-12  # of the loss, in which nothing is left to gain


def fit(X: NDArray, y: NDArray, start: NDArray, prior: NDArray | float) -> NDArray:
    """The most probable weights w, where y is 1 with probability sigmoid(X w) and w lies around `start`.

    Newton's method on a convex loss. A step is halved until the loss falls by a share of what it promises: where it is too
    long, as it is far from the solution, it would jump to and fro for ever.

    Args:
        X: features, [N, D].
        y: 0 and 1, or shares between them, [N].
        start: mean of the prior, [D].
        prior: its precision, positive, [D] or one for all.

    Returns:
        w, [D].

    Source: Boyd & Vandenberghe 2004, Convex optimization, 9.5.2.
    """

    def loss(w: NDArray) -> float:
        z = X @ w
        return float(np.logaddexp(0, z).sum() - y @ z + 0.5 * (prior * (w - start) ** 2).sum())

    w, now = start, loss(start)
    for _ in range(100):
        p = 0.5 * (1 + np.tanh(X @ w / 2))
        down = X.T @ (y - p) - prior * (w - start)
        step = np.linalg.solve(X.T @ (X * (p * (1 - p))[:, None]) + prior * np.eye(len(w)), down)
        promised, size = float(down @ step), 1.0
        if promised <= ENOUGH * (1 + abs(now)):
            break
        while (there := loss(w + size * step)) > now - 1e-4 * size * promised and size > 1e-6:
            size /= 2
        w, now = w + size * step, there
    return w
