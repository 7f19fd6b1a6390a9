"""From CTC log-probabilities to token sequences: greedily, or by prefix beam search. NumPy only.

Shapes: T frames of the encoder, V tokens of which 0 is the blank; natural logarithms. A frame number is the encoder's.
Both searches take chunks as they come, and what they find does not depend on where the chunks were cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longshort.apps.speech.scorer import Scorer

FAINT = 1e-90  # masses are scaled when the best one gets below this, or above its inverse
MEMORY = 20_000  # states of the scorer whose answers are kept


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said.

    tokens: token ids, without blanks.
    times: frame at which each token is first emitted on the most likely path, ascending; as many as tokens.
    logps: natural log-probability of each token, whatever stands before it, at the surest of its frames in a row.
    acoustic: natural log-probability of the tokens given the audio: of all paths in the beam, or of the one path if greedy.
    scorer: what the scorer gave, weighted.
    """

    tokens: tuple[int, ...]
    times: tuple[int, ...]
    logps: tuple[float, ...]
    acoustic: float
    scorer: float = 0.0

    @property
    def score(self) -> float:
        """What hypotheses are ranked by."""
        return self.acoustic + self.scorer


def greedy(logp: NDArray) -> Hypothesis:
    """The most likely path: the best token of each frame, repeats merged, blanks dropped.

    Args:
        logp: log-probabilities, float, [T, V].

    Raises:
        ValueError: the shape is another, or a frame has NaN or gives all tokens a probability of 0.

    Source: Graves et al. 2006, Connectionist temporal classification, section 3.2 (best path decoding).
    """
    search = Greedy(logp.shape[-1])
    search.accept(logp)
    return search.finish()[0]


class Greedy:
    """`greedy` over chunks, with the methods of `PrefixBeam`.

    Args:
        size: V, tokens with the blank.
    """

    def __init__(self, size: int) -> None:
        self.size, self.frames = size, 0
        self.tokens: list[int] = []
        self.times: list[int] = []
        self.logps: list[float] = []
        self.logp, self.last = 0.0, 0

    def accept(self, logp: NDArray) -> None:
        """Go on with log-probabilities, [t, V]."""
        _check(logp, self.size, self.frames)
        if not len(logp):
            return
        for k, (token, p) in enumerate(zip(logp.argmax(1).tolist(), logp.max(1).tolist(), strict=True)):
            self.logp += p
            if token and token != self.last:
                self.tokens.append(token)
                self.times.append(self.frames + k)
                self.logps.append(p)
            elif token:
                self.logps[-1] = max(self.logps[-1], p)
            self.last = token
        self.frames += len(logp)

    def best(self, n: int = 1) -> list[Hypothesis]:
        """The one hypothesis so far."""
        return [Hypothesis(tuple(self.tokens), tuple(self.times), tuple(self.logps), self.logp)]

    finish = best


class PrefixBeam:
    """Prefix beam search: sums over all paths that spell the same tokens, and asks a scorer about each token.

    A prefix has a mass b of the paths that end in a blank and a mass t of those that end in its last token e. A frame y does

        b' = (b + t) y[blank]
        t' = t y[e] + what its parent sends: (b + t) y[e] of the parent's, or b y[e] where the parent ends in e as well

    and only the `width` heaviest prefixes go on. What the scorer gives to a prefix is the same for all its paths, and so it is
    multiplied into the masses. Without bounds (width, token_beam and score_beam infinite) the sums are exact.

    Args:
        size: V, tokens with the blank.
        width: prefixes that are kept from frame to frame.
        scorer: judges tokens; None trusts the acoustic model alone.
        token_beam: tokens that lie this far (natural log) below the frame's best one are not tried.
        score_beam: prefixes that lie this far (natural log) below the best one are dropped.

    Raises:
        ValueError: a bound is out of range.

    Source: Graves et al. 2006, section 3.2 (prefix search); Hannun et al. 2014, First-pass large vocabulary continuous speech
    recognition using bi-directional recurrent DNNs, algorithm 1.
    """

    def __init__(
        self, size: int, width: float = 16, scorer: Scorer | None = None, token_beam: float = 8.0, score_beam: float = 16.0
    ) -> None:
        for name, bound, least in (("width", width, 1), ("token_beam", token_beam, 0), ("score_beam", score_beam, 0)):
            if not bound >= least:
                raise ValueError(f"{name} must be at least {least}, got {bound}; math.inf is no bound.")
        self.size, self.width, self.scorer = size, width, scorer
        self.token_beam, self.least = token_beam, math.exp(-score_beam)
        self.frames, self.scale = 0, 0.0
        root = _Node(None, 0, 0.0, scorer.start() if scorer else None)
        root.enter(0.0, 0.0, None)
        root.b = root.all = root.path_b = 1.0
        self.beam = [root]
        self.known: dict[Any, dict[int, tuple[float, float, Any]]] = {}  # by state of the scorer and token: see _ask

    def accept(self, logp: NDArray) -> None:
        """Go on with log-probabilities, float, [t, V].

        Raises:
            ValueError: the shape is another, or a frame has NaN or gives all tokens a probability of 0.
        """
        _check(logp, self.size, self.frames)
        if not len(logp):
            return
        logp = logp.astype(np.float64)
        top = logp.max(1, keepdims=True)  # [t, 1]
        tried = logp >= top - self.token_beam  # [t, V]
        tried[:, 0] = False
        y = np.exp(logp - top)
        y[:, 0] = np.maximum(y[:, 0], FAINT)  # so that no frame ends all prefixes, whatever the scorer forbids
        at, token = np.nonzero(tried)
        order = np.lexsort((-y[at, token], at))  # in each frame the most likely first
        at, token = at[order], token[order]
        pairs = list(zip(token.tolist(), y[at, token].tolist(), strict=True))
        start = 0
        for row, scale, end in zip(y.tolist(), top[:, 0].tolist(), tried.sum(1).cumsum().tolist(), strict=True):
            if start == end:
                self._stay(row, math.exp(scale))
            else:
                self._grow(row, pairs[start:end], math.exp(scale))
            self.scale += scale
            self.frames += 1
            start = end

    def best(self, n: int = 1) -> list[Hypothesis]:
        """The n best hypotheses so far, best first; fewer if the beam holds fewer. Nothing changes."""
        return self._ranked(n, lambda state: 0.0)

    def finish(self, n: int = 1) -> list[Hypothesis]:
        """The n best hypotheses if the audio ends here: as `best`, and the scorer is asked about the end. Nothing changes."""
        return self._ranked(n, self.scorer.finish if self.scorer else lambda state: 0.0)

    def _stay(self, row: list[float], peak: float) -> None:
        """One frame y, [V], for the prefixes of the beam and what their parents sent them; peak as in `_grow`."""
        blank = row[0]
        for p in self.beam:
            e, path = row[p.token], p.path_t
            if path > p.path_b:
                p.path_b, p.times_b = path, p.times_t
            if p.times_t and e * peak > p.times_t[0][1]:
                p.times_t = ((p.times_t[0][0], e * peak), p.times_t[1])
            p.path_b *= blank
            p.path_t = path * e
            p.b = p.all * blank
            p.t *= e
            if p.more:
                p.t += p.more
                if p.path_more > p.path_t:
                    p.path_t, p.times_t = p.path_more, p.times_more
                p.more = p.path_more = 0.0
            p.all = p.b + p.t

    def _grow(self, row: list[float], tried: list[tuple[int, float]], peak: float) -> None:
        """One frame y, [V], with the tokens that are tried and their y, the most likely first; peak: probability of the best."""
        blank, scorer, frame = row[0], self.scorer, self.frames
        stays = [p.all * blank + p.t * row[p.token] for p in self.beam]  # masses without what the parents send
        cut = max(max(stays) * self.least, min(stays) if len(stays) >= self.width else 0.0)
        pool: list[tuple[float, _Node, int, float]] = []  # mass, prefix, and the token to add with its y; token 0 adds none
        if len(self.known) > MEMORY:
            self.known.clear()
        for p in self.beam:
            last, b, both, children, known = p.token, p.b, p.all, p.children, self.known.setdefault(p.state, {})
            for c, child in children.items():
                if child.live:
                    y = row[c] * (known.get(c) or self._ask(p.state, c))[0] if scorer else row[c]
                    child.more, child.path_more, child.times_more = p.sends(c, y, (frame, row[c] * peak))
            for c, y in tried:
                if scorer:
                    y *= (known.get(c) or self._ask(p.state, c))[0]
                elif both * y <= cut:
                    break  # the others are less likely still
                mass = (both if c != last else b) * y
                if mass > cut and not (c in children and children[c].live):
                    pool.append((mass, p, c, y))
        pool += [(stay + p.more, p, 0, 0.0) for stay, p in zip(stays, self.beam, strict=True)]
        pool.sort(key=itemgetter(0), reverse=True)
        top, n = pool[0][0], int(min(self.width, len(pool)))
        while n > 1 and pool[n - 1][0] <= top * self.least:
            n -= 1
        grown = [(p, c, p.sends(c, y, (frame, row[c] * peak))) for _, p, c, y in pool[:n] if c]
        self._stay(row, peak)
        self.beam = [p for _, p, c, _ in pool[:n] if not c] + [self._join(*g) for g in grown]
        for _, p, c, _ in pool[n:]:
            if not c:
                p.leave()
        first = self.beam[0]
        if not (FAINT < top < 1 / FAINT and FAINT < max(first.path_b, first.path_t) < 1 / FAINT):
            path = max(max(p.path_b, p.path_t) for p in self.beam)
            self.scale += math.log(top)
            for p in self.beam:
                p.divide(top, path)

    def _ask(self, state: Any, token: int) -> tuple[float, float, Any]:
        """What the scorer says: factor, increment and next state."""
        increment, after = self.scorer.score(state, token) if self.scorer else (0.0, None)
        self.known[state][token] = made = (math.exp(increment), increment, after)
        return made

    def _join(self, p: _Node, token: int, sent: tuple[float, float, Any]) -> _Node:
        """A prefix with one token more joins the beam."""
        node = p.children.get(token)
        if node is None:
            _, increment, state = self.known[p.state].get(token) or self._ask(p.state, token)
            node = p.children[token] = _Node(p, token, p.gain + increment, state)
        node.enter(*sent)
        return node

    def _ranked(self, n: int, end: Callable[[Any], float]) -> list[Hypothesis]:
        made = [(math.log(p.all) + self.scale - p.gain, p.gain + end(p.state), p) for p in self.beam if p.all > 0]
        made.sort(key=lambda m: (m[0] + m[1], m[0]), reverse=True)
        return [Hypothesis(tuple(p.tokens()), *p.marks(), acoustic, scorer) for acoustic, scorer, p in made[:n]]


class _Node:
    """A prefix in the tree of prefixes. Masses are probabilities times what the scorer gave, divided by e^scale of the beam.

    b, t, all: mass of the paths that spell the prefix and end in a blank, in its last token, in either.
    path_b, path_t: mass of the heaviest path of each kind, divided by another number; times_b, times_t: its frames with the
      probabilities of the tokens there, as links (last, those before) or None.
    more, path_more, times_more: what the parent sends in this frame.
    gain, state: sum of the scorer's increments, and its state.
    """

    __slots__ = ("all", "b", "children", "gain", "live", "more", "parent", "path_b", "path_more", "path_t", "state", "t",
                 "times_b", "times_more", "times_t", "token")  # fmt: skip

    def __init__(self, parent: _Node | None, token: int, gain: float, state: Any) -> None:
        self.parent, self.token, self.gain, self.state = parent, token, gain, state
        self.children: dict[int, _Node] = {}
        self.more = self.path_more = 0.0
        self.times_more: Any = None

    def enter(self, mass: float, path: float, times: Any) -> None:
        """Join the beam with paths that end in the last token."""
        self.t = self.all = mass
        self.path_t, self.times_t = path, times
        self.b = self.path_b = 0.0
        self.times_b: Any = None
        self.live = True

    def leave(self) -> None:
        """Leave the beam, and the tree unless it holds longer prefixes."""
        self.live = False
        node = self
        while node.parent and not node.live and not node.children:
            del node.parent.children[node.token]
            node = node.parent

    def divide(self, mass: float, path: float) -> None:
        """Scale the masses; those of single paths fall faster, and are compared with each other only."""
        for name, by in (("b", mass), ("t", mass), ("all", mass), ("path_b", path), ("path_t", path)):
            setattr(self, name, getattr(self, name) / by)

    def sends(self, token: int, y: float, mark: tuple[int, float]) -> tuple[float, float, Any]:
        """Mass, heaviest path and times of the paths that go on from here with the token, at a frame and with a probability."""
        same = token == self.token
        mass = (self.b if same else self.all) * y
        if same or self.path_b >= self.path_t:
            return mass, self.path_b * y, (mark, self.times_b)
        return mass, self.path_t * y, (mark, self.times_t)

    def tokens(self) -> list[int]:
        made, node = [], self
        while node.parent:
            made.append(node.token)
            node = node.parent
        return made[::-1]

    def marks(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Frame and log-probability of each token on the heaviest path."""
        made, link = [], self.times_t if self.path_t > self.path_b else self.times_b
        while link:
            mark, link = link
            made.append(mark)
        return tuple(frame for frame, _ in made[::-1]), tuple(math.log(max(p, FAINT)) for _, p in made[::-1])


def _check(logp: NDArray, size: int, before: int) -> None:
    if logp.ndim != 2 or logp.shape[1] != size:
        raise ValueError(f"log-probabilities must be [T, V] with V = {size} tokens, got {list(logp.shape)}.")
    if not (known := np.isfinite(logp.max(1))).all():
        frame = before + int(known.argmin())
        raise ValueError(f"log-probabilities must be numbers, one of them above -inf in each frame; not so in frame {frame}.")
