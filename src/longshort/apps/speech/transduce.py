"""From what a transducer's encoder says to token sequences: greedily, or by modified beam search.

Axes: B streams, T steps of the encoder, J joint width, V tokens of which 0 is the blank; natural logarithms. A time is a step.
Both searches take chunks as they come. Where the chunks were cut changes nothing but the last digits of a log-probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.speech.decode import Hypothesis
from longshort.apps.speech.joiner import Transducer, check, log_probs, start
from longshort.apps.speech.scorer import Scorer

AHEAD = 4, 16  # least and most steps that are looked at together
NODES = 128  # steps that are looked at together for all streams of a batch, about
MEMORY = 20_000  # states of the scorer whose answers are kept
NOT_A_NUMBER = "what the encoder says at step {} leads to NaN. Is the sound finite, and are the weights?"
Masses = tuple[float, float, Any]  # see _Node: mass, path, marks


class Greedy:
    """The best token at each step, until it is the blank; one hypothesis that never changes its mind.

    Args:
        network: the transducer.
        most: tokens at one step at most; then the search goes on without a blank.

    Raises:
        ValueError: the network has no predictor, or most is less than 1.
    """

    def __init__(self, network: Transducer, most: int = 5) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1 token per step, got {most}.")
        check(network)
        self.network, self.most, self.frames, self.logp = network, most, 0, 0.0
        self.tokens: list[int] = []
        self.times: list[int] = []
        self.logps: list[float] = []
        self.heard: tuple[Tensor, Any] | None = None  # what is predicted, [1, J], and the predictor's state

    def accept(self, encoded: Float[Tensor, "T J"]) -> None:
        """Go on with what the encoder says.

        Raises:
            ValueError: the shape is another, or a number is NaN.
        """
        advance([self], encoded[None], [len(encoded)])

    def best(self, n: int = 1) -> list[Hypothesis]:
        """The one hypothesis so far."""
        return [Hypothesis(tuple(self.tokens), tuple(self.times), tuple(self.logps), self.logp)]

    finish = best

    def _take(self, at: int, tokens: list[int], logps: list[float]) -> int:
        """Take the best token of each step, from `at` steps into the chunk on, up to the first that is no blank. Returns the step
        in the chunk where to go on."""
        for k, (token, p) in enumerate(zip(tokens, logps, strict=True), at):
            if math.isnan(p):
                raise ValueError(NOT_A_NUMBER.format(self.frames + k))
            self.logp += p
            if token:
                self.tokens.append(token)
                self.times.append(self.frames + k)
                self.logps.append(p)
                return k + (self.times[-self.most :].count(self.frames + k) == self.most)
        return at + len(tokens)


def greedy(network: Transducer, encoded: Float[Tensor, "B T J"], frames: Int[Tensor, "B"], most: int = 5) -> list[Hypothesis]:
    """Greedy search for a batch of whole utterances.

    Args:
        network: the transducer.
        encoded: the encoder's side of the joint layer; what lies beyond `frames` is not read, [B, T, J].
        frames: steps of each utterance, [B].
        most: tokens at one step at most.

    Returns:
        One hypothesis each; its acoustic score is the log-probability of the path that was taken.

    Raises:
        ValueError: shapes do not fit, a number is NaN, or the network is no transducer.

    Source: Graves 2012, Sequence transduction with recurrent neural networks, section 2.6, with a beam of one.
    """
    searches = [Greedy(network, most) for _ in range(len(encoded))]
    advance(searches, encoded, frames.tolist())
    return [s.best()[0] for s in searches]


@torch.no_grad()
def advance(searches: Sequence[Greedy], encoded: Float[Tensor, "B T J"], frames: Sequence[int]) -> None:
    """Let greedy searches of one network go on side by side, each with its row and as many steps of it as `frames` says.

    As long as no token comes, the prediction stays the same, so that several steps are looked at together. When each search has
    found a token or its end, all that have found one make a step of the predictor together.
    """
    if not searches:
        return
    network, rows, at = searches[0].network, [*range(len(searches))], [0] * len(searches)
    predictor, tensor = check(network, encoded, 3), partial(torch.tensor, device=encoded.device)
    if not all(0 <= n <= encoded.shape[1] for n in frames):
        raise ValueError(f"frames must be 0 to T = {encoded.shape[1]}, got {[*frames]}.")
    fresh, steps = start(network), torch.arange(AHEAD[1], device=encoded.device)
    outs, states = zip(*(s.heard or fresh for s in searches), strict=True)
    predicted, state = torch.cat(outs), predictor.join(states)
    while rows:  # searches that go on, in the order of their predictions
        said = [len(searches[b].tokens) for b in rows]
        while waits := [i for i, b in enumerate(rows) if len(searches[b].tokens) == said[i] and at[b] < frames[b]]:
            who = [rows[i] for i in waits]
            t = tensor([at[b] for b in who])[:, None] + steps[: max(AHEAD[0], NODES // len(who))]
            heard = encoded[tensor(who)[:, None], t.clamp(max=encoded.shape[1] - 1)]  # [waits, ahead, J]
            best, token = log_probs(network, heard, predicted[waits, None]).max(-1)
            for b, tokens, logps in zip(who, token.tolist(), best.tolist(), strict=True):
                n = frames[b] - at[b]
                at[b] = searches[b]._take(at[b], tokens[:n], logps[:n])
        spoke = [i for i, b in enumerate(rows) if len(searches[b].tokens) > said[i]]
        for i in set(range(len(rows))) - set(spoke):
            searches[rows[i]].heard = predicted[i : i + 1], predictor.select(state, tensor([i]))
        rows = [rows[i] for i in spoke]
        if rows:
            last = tensor([searches[b].tokens[-1] for b in rows])
            predicted, state = predictor.step(last, predictor.select(state, tensor(spoke)))
    for search, n in zip(searches, frames, strict=True):
        search.frames += n


class Beam:
    """Modified beam search: each step says the blank or one token, and paths that spell the same tokens are summed.

    With the log-mass m of a hypothesis h and y its log-probabilities at this step,

        m'(h) = logaddexp(m(h) + y(h, blank), m(h without its last token e) + y(h without e, e))

    and the `width` hypotheses with the largest m' + increments of the scorer go on. Without bounds (width, token_beam and
    score_beam infinite) the sums are exact.

    Args:
        network: the transducer.
        width: hypotheses that are kept from step to step.
        scorer: judges tokens; None trusts the acoustic model alone.
        token_beam: tokens that lie this far (natural log) below the step's best one are not tried.
        score_beam: hypotheses that lie this far (natural log) below the best one are dropped.

    Raises:
        ValueError: a bound is out of range, or the network has no predictor.

    Source: Kang et al. 2023, Fast and parallel decoding for transducer (modified beam search); Graves 2012, section 2.6.
    """

    def __init__(
        self, network: Transducer, width: float = 8, scorer: Scorer | None = None,
        token_beam: float = 8.0, score_beam: float = 12.0,
    ) -> None:  # fmt: skip
        for name, bound, least in (("width", width, 1), ("token_beam", token_beam, 0), ("score_beam", score_beam, 0)):
            if not bound >= least:
                raise ValueError(f"{name} must be at least {least}, got {bound}; math.inf is no bound.")
        self.network, self.width, self.scorer = network, width, scorer
        self.token_beam, self.score_beam, self.frames = token_beam, score_beam, 0
        root = _Node(None, 0, 0.0, scorer.start() if scorer else None)
        root.predicted, root.memory = start(network)
        self.beam = [root.enter(0.0, 0.0, None)]
        self.known: dict[Any, dict[int, tuple[float, Any]]] = {}  # by state of the scorer and token: see _ask

    @torch.no_grad()
    def accept(self, encoded: Float[Tensor, "T J"]) -> None:
        """Go on with what the encoder says.

        Raises:
            ValueError: the shape is another, or a number is NaN.
        """
        check(self.network, encoded, 2)
        for window in encoded.split(AHEAD[0]):
            self._look(self.beam, window)
            for k in range(len(window)):
                new = self._grow(k - len(window))
                self.frames += 1
                self._look(new, window[k + 1 :])

    def best(self, n: int = 1) -> list[Hypothesis]:
        """The n best hypotheses so far, best first; fewer if the beam holds fewer. Nothing changes."""
        return self._ranked(n, lambda state: 0.0)

    def finish(self, n: int = 1) -> list[Hypothesis]:
        """The n best hypotheses if the audio ends here: as `best`, and the scorer is asked about the end. Nothing changes."""
        return self._ranked(n, self.scorer.finish if self.scorer else lambda state: 0.0)

    def _look(self, nodes: Sequence[_Node], window: Tensor) -> None:
        """Show nodes the steps of a window."""
        if not nodes or not len(window):
            return
        logp = log_probs(self.network, window, torch.cat([p.predicted for p in nodes])[:, None]).cpu().numpy()  # [nodes, K, V]
        if (lost := np.isnan(logp).any((0, 2))).any():
            raise ValueError(NOT_A_NUMBER.format(self.frames + int(lost.argmax())))
        tried = logp >= logp.max(-1, keepdims=True) - self.token_beam
        tried[..., 0] = False
        for p, y, may in zip(nodes, logp, tried, strict=True):
            step, token = np.nonzero(may)
            order = np.lexsort((-y[step, token], step))  # at each step the most likely first
            pairs = iter(zip(token[order].tolist(), y[step, token][order].tolist(), strict=True))
            p.look = _Look(y, y[:, 0].tolist(), [[*islice(pairs, n)] for n in may.sum(-1).tolist()])

    def _grow(self, k: int) -> list[_Node]:
        """One step, the k-th of the window; k < 0 counts from its end. Returns what is new in the beam."""
        if len(self.known) > MEMORY:
            self.known.clear()
        pool: list[tuple[float, _Node, int, Any]] = []  # score, hypothesis, 0 and its masses or a token to add and its log-p
        for p in self.beam:
            blank = p.look.blank[k]
            made = p.mass + blank, p.path + blank, p.marks
            if p.parent and p.parent.live:
                made = _either(made, p.parent.sends(self.frames, p.token, float(p.parent.look.logp[k, p.token])))
            pool.append((made[0] + p.gain, p, 0, made))
        scores = [m[0] for m in pool]
        cut = max(max(scores) - self.score_beam, min(scores) if len(pool) >= self.width else -math.inf)
        for p in self.beam:
            for c, y in p.look.tried[k]:
                score = p.mass + y + p.gain + (self._ask(p.state, c)[0] if self.scorer else 0.0)
                if score > cut:
                    if not (c in p.children and p.children[c].live):
                        pool.append((score, p, c, y))
                elif not self.scorer:
                    break  # the others are less likely still
        pool.sort(key=itemgetter(0), reverse=True)
        least, pool = pool[0][0] - self.score_beam, pool[: int(min(self.width, len(pool)))]
        kept = [(p, c, p.sends(self.frames, c, m) if c else m) for score, p, c, m in pool if score >= least]
        before, self.beam = self.beam, [(self._child(p, c) if c else p).enter(*m) for p, c, m in kept]
        new = [p for p, (_, c, _) in zip(self.beam, kept, strict=True) if c]
        if new:
            self._say(new)
        stays = {id(p) for p in self.beam}
        for p in before:
            if id(p) not in stays:
                p.leave()
        return new

    def _say(self, new: Sequence[_Node]) -> None:
        """Let the predictor hear the last tokens of new hypotheses."""
        predictor, tensor = check(self.network), partial(torch.tensor, device=self.network.write.weight.device)
        memory = predictor.join([p.parent.memory for p in new if p.parent])
        predicted, memory = predictor.step(tensor([p.token for p in new]), memory)
        for k, p in enumerate(new):
            p.predicted, p.memory = predicted[k : k + 1], predictor.select(memory, tensor([k]))

    def _ask(self, state: Any, token: int) -> tuple[float, Any]:
        """What the scorer says: increment and next state."""
        known = self.known.setdefault(state, {})
        if token not in known and self.scorer:
            known[token] = self.scorer.score(state, token)
        return known[token]

    def _child(self, p: _Node, token: int) -> _Node:
        """A hypothesis with one token more."""
        if token not in p.children:
            increment, state = self._ask(p.state, token) if self.scorer else (0.0, None)
            p.children[token] = _Node(p, token, p.gain + increment, state)
        return p.children[token]

    def _ranked(self, n: int, end: Callable[[Any], float]) -> list[Hypothesis]:
        made = [(p.mass, p.gain + end(p.state), p) for p in self.beam]
        made.sort(key=lambda m: m[0] + m[1], reverse=True)
        return [Hypothesis(tuple(p.tokens()), *p.times(), *both) for *both, p in made[:n]]


class _Look(NamedTuple):
    """What a hypothesis says at K steps.

    logp, blank: log-probabilities, [K, V], and those of the blank.
    tried: tokens to be tried at each step with their log-probabilities, the most likely first.
    """

    logp: NDArray
    blank: list[float]
    tried: list[list[tuple[int, float]]]


class _Node:
    """A hypothesis in the tree of hypotheses.

    mass: log-probability of all paths in the beam that spell it.
    path, marks: of the most likely one, and its steps with the log-probabilities of the tokens there, as links (step,
        log-probability, those before) or None.
    gain, state: sum of the scorer's increments, and its state.
    predicted, memory: the predictor's answer [1, J] and state.
    look: what it says at the steps up to the end of the window.
    live: whether it is in the beam; only then it has all of these.
    """

    __slots__ = ("children", "gain", "live", "look", "marks", "mass", "memory", "parent", "path", "predicted", "state", "token")

    predicted: Tensor
    memory: Any
    look: _Look

    def __init__(self, parent: _Node | None, token: int, gain: float, state: Any) -> None:
        self.parent, self.token, self.gain, self.state = parent, token, gain, state
        self.children: dict[int, _Node] = {}

    def enter(self, mass: float, path: float, marks: Any) -> _Node:
        """Be in the beam with these masses."""
        self.mass, self.path, self.marks, self.live = mass, path, marks, True
        return self

    def leave(self) -> None:
        """Leave the beam, and the tree unless it holds longer hypotheses."""
        self.live, node = False, self
        del self.look, self.predicted, self.memory  # they are large, and others may hang on this one
        while node.parent and not node.live and not node.children:
            del node.parent.children[node.token]
            node = node.parent

    def sends(self, step: int, token: int, y: float) -> Masses:
        """Masses of the paths that go on from here with a token of log-probability y."""
        return self.mass + y, self.path + y, (step, y, self.marks)

    def tokens(self) -> list[int]:
        made, node = [], self
        while node.parent:
            made.append(node.token)
            node = node.parent
        return made[::-1]

    def times(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Step and log-probability of each token on the most likely path."""
        made, link = [], self.marks
        while link:
            step, y, link = link
            made.append((step, y))
        return tuple(step for step, _ in made[::-1]), tuple(y for _, y in made[::-1])


def _either(a: Masses, b: Masses) -> Masses:
    """Masses of two sets of paths together."""
    high, low = max(a[0], b[0]), min(a[0], b[0])
    return high + math.log1p(math.exp(low - high)), *(a if a[1] >= b[1] else b)[1:]
