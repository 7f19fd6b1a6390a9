"""Where each token of a known text is spoken: forced alignment to CTC log-probabilities. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Alignment(NamedTuple):
    """The most likely path that spells the tokens. L tokens; frames of the encoder.

    start, end: first frame of each token and the one behind its last, int64, [L]; start[k] < end[k] <= start[k + 1].
    token_logp: mean natural log-probability of each token over its frames, float64, [L].
    logp: natural log-probability of the path.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    token_logp: NDArray[np.float64]
    logp: float


def align(logp: NDArray, tokens: Sequence[int]) -> Alignment:
    """The most likely path that spells some tokens, by Viterbi.

    States are the tokens with a blank before, between and behind them; from a state a path stays, goes one on, or leaps over a
    blank between tokens that differ. Takes one byte per frame and state.

    Args:
        logp: log-probabilities, the blank's first, float, [T, V].
        tokens: ids without blanks, [L].

    Raises:
        ValueError: the frames are too few for the tokens, no path is possible, or an id is out of range.

    Source: Graves et al. 2006, Connectionist temporal classification, section 4.1 (its forward variables, with max for the sum).
    """
    (T, V), L = logp.shape, len(tokens)
    text = np.asarray(tokens, np.int64)
    if L and not 1 <= text.min() <= text.max() < V:
        raise ValueError(f"tokens must be from 1 to {V - 1} (0 is the blank), got {text.min()} to {text.max()}.")
    repeats = int((text[1:] == text[:-1]).sum())
    if L + repeats > T:
        raise ValueError(
            f"{L} tokens with {repeats} repeated ones need at least {L + repeats} frames, got {T}. "
            "Is it the text of this audio? If so, take units that are longer, or an encoder that keeps more frames."
        )
    label = np.zeros(2 * L + 1, np.int64)  # [S], S = 2 L + 1
    label[1::2] = text
    leap = np.full(len(label), -np.inf)
    leap[3::2] = np.where(text[1:] != text[:-1], 0.0, -np.inf)
    best = np.full(2 + len(label), -np.inf)  # of paths that end in each state; the first two are no states
    best[2] = 0.0
    ways = np.empty((3, len(label)))
    came = np.zeros((T, len(label)), np.uint8)  # by how many states the best path to each state has gone on
    for t in range(T):
        ways[0], ways[1] = best[2:], best[1:-1]
        np.add(best[:-2], leap, out=ways[2])
        came[t] = ways.argmax(0)
        np.add(ways.max(0), logp[t, label], out=best[2:])
    state = len(label) - 1 - int(L > 0 and best[-2] > best[-1])
    total = float(best[2 + state])
    if not np.isfinite(total):
        raise ValueError(f"no path spells these tokens: its log-probability is {total}. Are the log-probabilities finite?")
    path = np.empty(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = state
        state -= int(came[t, state])
    at = np.arange(1, 2 * L + 1, 2)
    start, end = np.searchsorted(path, at), np.searchsorted(path, at, "right")
    heard = np.concatenate([[0.0], np.cumsum(logp[np.arange(T), label[path]], dtype=np.float64)])  # [T + 1]
    return Alignment(start, end, (heard[end] - heard[start]) / (end - start), total)
