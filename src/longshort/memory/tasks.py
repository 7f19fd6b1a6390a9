"""The experiments that asked what a recurrent net can remember, as generators: NumPy only.

A task draws sequences without end and says when it is solved. Symbols enter as whole numbers, [T, B]; values as [T, B, I].
Sources, by the letters used below:

    HS  Hochreiter & Schmidhuber 1997, Long Short-Term Memory, Neural Computation 9(8), section 5
    GSC Gers, Schmidhuber & Cummins 2000, Learning to Forget, Neural Computation 12(10), section 4
    ASB Arjovsky, Shah & Bengio 2016, Unitary Evolution Recurrent Neural Networks, section 5
    LJH Le, Jaitly & Hinton 2015, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units, section 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.random import Generator

Split = Literal["train", "test"]


class Batch(NamedTuple):
    """Sequences of one task.

    x: symbols, int64, [T, B], or values, float32, [T, B, I].
    lengths: steps of each sequence, int64, [B]; what comes after them means nothing.
    target: what to answer: symbols at every step, int64, [T, B], -1 where nothing is asked; classes, int64, [B]; or
        values, float32, [B].
    legal: with a grammar: which symbols may come next, bool, [T, B, K].
    """

    x: np.ndarray
    lengths: np.ndarray
    target: np.ndarray
    legal: np.ndarray | None = None


@dataclass(frozen=True)
class Task:
    """One experiment.

    Args:
        name: what to call it on the command line.
        title: what the table says.
        source: where it comes from.
        steps: T, the least number of steps of a sequence.
        inputs: K symbols, or I values per step.
        outputs: size of the answer.
        answer: 'symbols' at every step (cross-entropy), 'class' at the end (cross-entropy), 'value' at the end (squared error).
        draw: (generator, n, split) to n sequences.
        exam: fresh sequences that the criterion looks at.
        right: (batch, output) to bool, [B]: which sequences satisfy it. output is probabilities, [T, B, K] or [B, K], or
            values, [B].
        wrong: how many sequences of the exam may fail.
        error: what the mean absolute error of the exam must stay below; values only.
        paper: what the source reports, in words.
        sequences: the source's number of training sequences until solved.
        symbolic: whether the input is symbols.
        stream: steps of one test stream, where the exam is of streams and the state is carried through.
    """

    name: str
    title: str
    source: str
    steps: int
    inputs: int
    outputs: int
    answer: Literal["symbols", "class", "value"]
    draw: Callable[[Generator, int, Split], Batch]
    exam: int
    right: Callable[[Batch, np.ndarray], np.ndarray]
    wrong: int = 0
    error: float | None = None
    paper: str = ""
    sequences: int | None = None
    symbolic: bool = True
    stream: int = 0


# criteria: which sequences are right


def close(tolerance: float, batch: Batch, output: np.ndarray) -> np.ndarray:
    """Every output unit is off by less than the tolerance; of a class or symbol, the target is 1 and all others 0."""
    if output.ndim == 1:
        return np.abs(output - batch.target) < tolerance
    off = np.abs(output - np.eye(output.shape[-1], dtype=output.dtype)[batch.target]).max(-1) < tolerance
    return off if off.ndim == 1 else (off | (batch.target < 0)).all(0)


def best(batch: Batch, output: np.ndarray) -> np.ndarray:
    """The most active unit is the target, wherever one is asked for."""
    hit = output.argmax(-1) == batch.target
    return hit if hit.ndim == 1 else (hit | (batch.target < 0)).all(0)


def foremost(batch: Batch, output: np.ndarray) -> np.ndarray:
    """The units of the symbols that may come next are always more active than all others."""
    assert batch.legal is not None
    least = np.where(batch.legal, output, np.inf).min(-1)
    return ((least > np.where(batch.legal, -np.inf, output).max(-1)) | (batch.target < 0)).all(0)


# grammar (HS 5.1, after Reber 1967; GSC 4)

SYMBOLS = "BTPSXVE"
INNER = [("B1", "B1"), ("T2", "P3"), ("S2", "X4"), ("T3", "V5"), ("X3", "S6"), ("P4", "V6"), ("E7", "E7")]


def _grammar() -> tuple[np.ndarray, np.ndarray]:
    """The embedded grammar as tables [node, choice]: the symbol on the way, and the next node. Node 0 starts a string."""
    symbol, follow = [[0, 0], [1, 2]], [[1, 1], [2, 2 + len(INNER) + 2]]
    for outer in "TP":
        base = len(symbol)
        for pair in INNER:
            symbol.append([SYMBOLS.index(edge[0]) for edge in pair])
            follow.append([base + int(edge[1]) for edge in pair])
        symbol += [[SYMBOLS.index(outer)] * 2, [SYMBOLS.index("E")] * 2]
        follow += [[base + 8] * 2, [0, 0]]
    return np.array(symbol), np.array(follow)


SYMBOL, FOLLOW = _grammar()
LEGAL = np.zeros((len(SYMBOL), len(SYMBOLS)), bool)
np.put_along_axis(LEGAL, SYMBOL, True, 1)


def strings(rng: Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n strings of the embedded Reber grammar: symbols and the node after each, [L, n], and their lengths, [n]."""
    node, lengths, symbols, nodes = np.zeros(n, np.int64), np.zeros(n, np.int64), [], []
    alive = np.ones(n, bool)
    while alive.any():
        choice = rng.integers(2, size=n)
        symbols.append(SYMBOL[node, choice])
        node = FOLLOW[node, choice]
        nodes.append(node)
        lengths += alive
        alive &= node > 0
        node = np.where(alive, node, 0)
    return np.stack(symbols), np.stack(nodes), lengths


def _predict(symbols: np.ndarray, nodes: np.ndarray, lengths: np.ndarray) -> Batch:
    """Predict each symbol from those before it."""
    steps = np.arange(len(symbols) - 1)[:, None]
    target = np.where(steps < lengths - 1, symbols[1:], -1)
    return Batch(symbols[:-1], lengths - 1, target, LEGAL[nodes[:-1]])


@cache
def _fixed() -> dict[Split, list[tuple[bytes, bytes]]]:
    """256 strings to learn from and 256 others, each as symbols and nodes."""
    rng = np.random.default_rng(1997)
    kept = [_one(rng) for _ in range(256)]
    seen: set[bytes] = {s for s, _ in kept}
    fresh: list[tuple[bytes, bytes]] = []
    while len(fresh) < 256:
        if (made := _one(rng))[0] not in seen:
            fresh.append(made)
    return {"train": kept, "test": kept + fresh}


def _one(rng: Generator) -> tuple[bytes, bytes]:
    symbols, nodes, lengths = strings(rng, 1)
    n = lengths[0]
    return bytes(symbols[:n, 0].tolist()), bytes(nodes[:n, 0].tolist())


def reber(rng: Generator, n: int, split: Split) -> Batch:
    """Embedded Reber grammar (HS 5.1): predict every next symbol of strings from a fixed set of 256.

    Solved, as in the paper: the units of the possible next symbols are always the most active ones, in all 256 training
    strings and all 256 others. The paper used several pairs of sets; here it is one.
    """
    have = _fixed()[split]
    chosen = have if split == "test" else [have[k] for k in rng.integers(len(have), size=n)]
    lengths = np.array([len(s) for s, _ in chosen])
    symbols, nodes = np.zeros((2, lengths.max(), len(chosen)), np.int64)
    for k, (s, v) in enumerate(chosen):
        symbols[: lengths[k], k], nodes[: lengths[k], k] = list(s), list(v)
    return _predict(symbols, nodes, lengths)


STREAM = 200


def continual(steps: int, rng: Generator, n: int, split: Split) -> Batch:
    """Continual embedded Reber (GSC 4.1): strings follow each other, and nothing says where one ends.

    Solved, as in the paper: every prediction right in 10 test streams of 10^6 symbols, right being that the units of the
    possible next symbols are the most active ones. The paper ends a training stream at its first error; here each
    starts at the beginning of a string, with a zero state, and has 200 symbols.
    """
    T = steps if split == "test" else STREAM
    x, nodes = np.empty((2, T + 1, n), np.int8)
    for k in range(n):
        s, v, lengths = strings(rng, T // 8)  # no string is shorter than 9 symbols
        real = (np.arange(len(s))[:, None] < lengths).T
        x[:, k], nodes[:, k] = s.T[real][: T + 1], v.T[real][: T + 1]
    return Batch(x[:-1].astype(np.int64), np.full(n, T), x[1:].astype(np.int64), LEGAL[nodes[:-1]])


# long lags without and with noise (HS 5.2, 5.3)


def lag(p: int, rng: Generator, n: int, split: Split) -> Batch:
    """Noise-free long lag (HS 5.2a): one of (y, a1, ..., a(p-1), y) and (x, a1, ..., a(p-1), x); predict every symbol.

    Solved, as in the paper: no output unit is ever off by 0.25 or more during 10,000 random sequences. There are only two
    sequences, so the exam reads those.
    """
    first = np.arange(2) if split == "test" else rng.integers(2, size=n)
    s = np.concatenate([first[None], np.repeat(np.arange(2, p + 1)[:, None], len(first), 1), first[None]])
    return Batch(s[:-1], np.full(len(first), p), s[1:])


def distracted_lag(q: int, p: int, rng: Generator, n: int, split: Split) -> Batch:
    """Very long lag among distractors (HS 5.2c): b, then x or y, then q + k of p distractors, e, and now: was it x or y?

    k is geometric: after each distractor beyond q, e follows with probability 1/10. Solved, as in the paper: both output
    units off by less than 0.2 for 10,000 random sequences.
    """
    lengths = q + rng.geometric(0.1, n) - 1 + 3
    which = rng.integers(2, size=n)
    s = rng.integers(p, size=(lengths.max(), n))
    s[0], s[1] = p, p + 1 + which
    s[lengths - 1, np.arange(n)] = p + 3
    return Batch(s, lengths, which)


def two_sequences(N: int, T: int, target_noise: bool, rng: Generator, n: int, split: Split) -> Batch:
    """Two-sequence problem, noise and signal on one channel (HS 5.3, after Bengio et al. 1994): T to 1.1 T values, one class.

    Values are Gaussian of variance 0.2; to the first N is added 1 or -1, by the class. In 5.3b the target is 1 or 0; solved,
    as in the paper (its ST2): fewer than 6 of 256 fresh sequences are off by 0.2 or more, and the mean absolute error is
    below 0.04. In 5.3c the target is 0.2 or 0.8, plus Gaussian noise of variance 0.1 in training; solved, as in the paper:
    the mean absolute difference from the target without noise is below 0.015. Both noises together are what is built here
    for 5.3c.
    """
    lengths = rng.integers(T, T + T // 10 + 1, size=n)
    which = rng.integers(2, size=n)
    x = rng.normal(0, np.sqrt(0.2), (lengths.max(), n))
    x[:N] += 2 * which - 1
    target = which.astype(float)
    if target_noise:
        target = 0.8 - 0.6 * which + (rng.normal(0, np.sqrt(0.1), n) if split == "train" else 0)
    return Batch(x[..., None].astype(np.float32), lengths, target.astype(np.float32))


# arithmetic on marked values (HS 5.4, 5.5)


def marked(T: int, product: bool, rng: Generator, n: int, split: Split) -> Batch:
    """Adding (HS 5.4) and multiplication (HS 5.5): T to 1.1 T pairs (value, mark), and of two values the sum or product.

    The first mark is on one of the first 10 pairs, the second on another of the first T/2; the first and the last pair
    have the mark -1. If the first pair is marked, its value counts as 0 (1 in a product). Values are uniform in [-1, 1],
    target 0.5 + (X1 + X2) / 4; in a product uniform in [0, 1], target X1 X2. A sequence is right if the answer is off by
    less than 0.04. Solved, as in the paper: adding, 2,000 of 2,000 right (and a mean squared error below 0.01, which
    follows); multiplication, fewer than 13 of 2,000 wrong. The paper looks at the 2,000 latest training sequences; here
    they are fresh ones.
    """
    lengths, rows = rng.integers(T, T + T // 10 + 1, size=n), np.arange(n)
    x = np.zeros((lengths.max(), n, 2))
    x[..., 0] = rng.uniform(0 if product else -1, 1, x.shape[:2])
    first = rng.integers(10, size=n)
    second = rng.integers(T // 2 - 1, size=n)
    second += second >= first
    values = np.where(first == 0, float(product), x[first, rows, 0]), np.where(second == 0, float(product), x[second, rows, 0])
    x[0, :, 1], x[lengths - 1, rows, 1] = -1, -1
    x[first, rows, 1], x[second, rows, 1] = 1, 1
    target = values[0] * values[1] if product else 0.5 + (values[0] + values[1]) / 4
    return Batch(x.astype(np.float32), lengths, target.astype(np.float32))


# temporal order (HS 5.6)


def order(places: tuple[tuple[int, int], ...], rng: Generator, n: int, split: Split) -> Batch:
    """Temporal order (HS 5.6): E, then symbols a b c d, B at the end, and at two or three places an X or a Y: in which order?

    100 to 110 symbols. Two: at 10 to 20 and 50 to 60, four classes (5.6a); three: at 10 to 20, 33 to 43 and 66 to 76,
    eight classes (5.6b). A sequence is right if no output unit is off by 0.3 or more. Solved, as in the paper: 2,000 of
    2,000 right (and a mean error below 0.1); the paper looks at the latest training sequences, here they are fresh.
    """
    lengths, rows = rng.integers(100, 111, size=n), np.arange(n)
    s = rng.integers(4, size=(lengths.max(), n))
    s[0], s[lengths - 1, rows] = 4, 5
    kind = np.zeros(n, np.int64)
    for low, high in places:
        y = rng.integers(2, size=n)
        s[rng.integers(low, high + 1, size=n), rows] = 6 + y
        kind = 2 * kind + y
    return Batch(s, lengths, kind)


# copying (ASB 5.1)

BLANK, RECALL = 8, 9


def copy(T: int, rng: Generator, n: int, split: Split) -> Batch:
    """Copy memory (ASB 5.1): ten of eight symbols, T - 1 blanks, a sign, ten blanks during which the ten are to be written.

    The answer to all steps before is a blank. The paper shows curves and has no criterion; solved is here: of 100 fresh
    sequences at least 90 right in every symbol and every blank, which takes some 99 % of the symbols.
    """
    s = np.full((T + 20, n), BLANK)
    s[:10] = rng.integers(8, size=(10, n))
    s[T + 9] = RECALL
    target = np.full((T + 20, n), BLANK)
    target[-10:] = s[:10]
    return Batch(s, np.full(n, T + 20), target)


# digits pixel by pixel (LJH 4.2)


@cache
def _digits(folder: Path | None) -> dict[Split, tuple[np.ndarray, np.ndarray]]:
    """Images as [T, n] in 0..1 and their classes."""
    if folder is not None:
        train, test = ((_idx(folder / f"{k}-images-idx3-ubyte.gz", 3), _idx(folder / f"{k}-labels-idx1-ubyte.gz", 1))
                       for k in ("train", "t10k"))  # fmt: skip
        return {"train": train, "test": test}
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the digits come with scikit-learn: pip install 'longshort[memory]'.") from None
    images, classes = load_digits(return_X_y=True)
    test = np.arange(len(classes)) % 5 == 0
    images = (images / 16).astype(np.float32).T
    return {"train": (images[:, ~test], classes[~test]), "test": (images[:, test], classes[test])}


def _idx(file: Path, axes: int) -> np.ndarray:
    """One of MNIST's files: images as [T, n] in 0..1, classes as [n].

    Raises:
        ValueError: the file is not of that format.
    """
    import gzip

    raw = gzip.decompress(file.read_bytes())
    if raw[:4] != bytes([0, 0, 8, axes]):
        raise ValueError(f"{file} must be an idx file of bytes with {axes} axes, its first bytes are {raw[:4].hex()}.")
    shape = np.frombuffer(raw, ">i4", axes, 4)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape)
    return data.astype(np.int64) if axes == 1 else data.reshape(shape[0], -1).T.astype(np.float32) / 255


def digits(permuted: bool, folder: Path | None, rng: Generator, n: int, split: Split) -> Batch:
    """Digits, one pixel a step (LJH 4.2), in scan order or in one fixed random order.

    With scikit-learn's 1,797 images of 8 x 8, a fifth of them held out, there is nothing published; solved is here: 95 % of
    the held-out images right (permuted: 90 %). With MNIST's 28 x 28: what LJH report for their ReLU net on the test part, 97 %
    (permuted: 82 %).
    """
    images, classes = _digits(folder)[split]
    if permuted:
        images = images[np.random.default_rng(0).permutation(len(images))]
    chosen = np.arange(len(classes)) if split == "test" else rng.integers(len(classes), size=n)
    return Batch(images[:, chosen, None], np.full(len(chosen), len(images)), classes[chosen])
