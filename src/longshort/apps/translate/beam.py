"""The steps of a search: what goes on, what has ended, which sentences are done.

Axes: B sentences, S of which go on (of the source: its tokens), W hypotheses of each, R = S W rows, V tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.translate import pick
from longshort.apps.translate.constraints import Constraints, Glossary, State, allocate, repeats

if TYPE_CHECKING:
    from longshort.apps.translate.decode import Network, Search
from longshort.apps.translate.vocabulary import BOS, EOS, PAD

NEAR = 0.3  # attention to a term's source that makes it the term's turn
Found = tuple[tuple[int, ...], float, tuple[float, ...], float, NDArray, bool, bool]  # the fields of a `Hypothesis`


class Run:
    """A search for sentences whose beams are equally wide.

    Within, tokens are columns of the log-probabilities: with a shortlist these are other numbers.

    Args:
        networks: one, or an ensemble.
        memories: of each network, a row for each sentence.
        how: the search.
        width: hypotheses that go on side by side.
        asked: of each sentence; all have a glossary or none has.
        S: source tokens.
        only: the shortlist, ascending, or None.
        chances: of samples: random numbers in [0, 1) for each sentence and step.
        device: where the networks are.
    """

    def __init__(
        self, networks: Sequence[Network], memories: list[Any], how: Search, width: int, asked: Sequence[Constraints], S: int,
        only: Tensor | None, chances: NDArray, device: torch.device,
    ) -> None:  # fmt: skip
        self.networks, self.memories, self.how, self.width, self.only, self.device = networks, memories, how, width, only, device
        self.states: list[Any] = [n.start(m) for n, m in zip(networks, memories, strict=True)]
        ids = None if only is None else only.cpu().numpy()
        self.ids, self.end = ids, EOS if ids is None else int(ids.searchsorted(EOS))
        B, longest, same = len(asked), max(len(c.prefix) for c in asked), lambda k: k if ids is None else int(ids.searchsorted(k))
        self.prefix = np.array([[same(k) for k in c.prefix] + [-1] * (longest - len(c.prefix)) for c in asked])  # [B, longest]
        self.begun = np.array([len(c.prefix) for c in asked])  # [B]
        self.most = np.maximum(how.most(S), self.begun)
        self.divisor = ((6 + self.most) / 6) ** how.length_penalty  # what divides a score at most
        glued = [c.glued if ids is None else frozenset(np.flatnonzero(np.isin(ids, [*c.glued])).tolist()) for c in asked]
        self.glossaries = [Glossary([[tuple(map(same, p)) for p in term] for term in c.glossary], g,
                                    frozenset(tuple(map(same, p)) for p in c.loose), c.places)
                           for c, g in zip(asked, glued, strict=True)]  # fmt: skip
        self.never = torch.tensor([PAD, BOS], device=device) if only is None else None
        self.termed = bool(asked[0].glossary)  # sentences with and without a glossary have beams of different widths
        self.reached: list[list[State]] = [[g.begin] for g in self.glossaries]  # by the hypotheses of each sentence
        self.chances = chances
        self.alive = np.arange(B)  # sentences that go on
        self.total = np.zeros((B, 1))
        self.tokens = np.full(B, self.end)  # [R]
        self.cover = np.zeros((B, S), np.float32)
        self.history = np.zeros((B, 0), int)
        self.came: list[tuple[NDArray, NDArray, NDArray]] = []  # per step: row before, token, its logp
        self.seen: list[NDArray] = []  # per step: attention
        self.count = np.zeros(B, int)  # that have ended, by sentence
        self.worst = np.full(B, -math.inf)  # score of the last one to be given, when there are enough
        self.ended: list[list[tuple[float, int, int, float, float, bool, bool]]] = [[] for _ in range(B)]

    def __call__(self) -> list[list[Found]]:
        """Search. For each sentence what it found, the best first."""
        t = 0
        while len(self.alive):
            self._step(t)
            t += 1
        ranked = [sorted(ended, key=lambda e: (-e[0], e[1:3])) for ended in self.ended]
        return [[self._trace(*e) for e in ended[: self.how.alternatives]] for ended in ranked]

    def _step(self, t: int) -> None:
        """All hypotheses have t tokens and get one more, or their end."""
        how, alive, total, end = self.how, self.alive, self.total, self.end
        (S, W), width = total.shape, self.width
        ids = self.tokens if self.ids is None else self.ids[self.tokens]
        ids = torch.from_numpy(ids if t else np.full(S, BOS)).to(self.device)
        logp, self.states, attention = ask(self.networks, ids, self.states, self.memories, self.only)
        self.seen.append(attention)
        if how.coverage_penalty:
            self.cover = self.cover + attention
        ends = logp[:, end]
        finish = ends.double().cpu().numpy().reshape(S, W)
        ends.fill_(-math.inf)
        if self.never is not None:
            logp.index_fill_(1, self.never, -math.inf)
        last, begun = t == self.most[alive], t < self.begun[alive]  # [S]
        ending, left, needs = np.ones((S, W), bool), np.zeros((S, W), int), list[list[list[int]]]()
        if self.termed or last.any():
            ending = finish >= logp.amax(1).double().cpu().numpy().reshape(S, W)  # its end is what comes next
        if self.termed:
            left = np.array([[g.left(s) for s in self.reached[k]] for k, g in enumerate(self._each())])
            needs = self._needs(t, left, attention, ending)
        if how.block:
            self._block(logp, needs, np.repeat(begun, W))
        if begun.any():
            row = to(np.nonzero(np.repeat(begun, W))[0], logp)
            must = to(np.repeat(self.prefix[alive[begun], t], W), logp)
            kept = logp[row, must]
            logp[row] = -math.inf
            logp[row, must] = kept
        allowed = np.where((begun | ((t < how.least) & ~last))[:, None], -math.inf, finish)
        if self.termed:
            allowed[(left > 0) & ~last[:, None]] = -math.inf
        if how.sample:
            value, parent, token = self._draw(t, logp, allowed, last)
            accept = token == end
            free = ~accept
        else:
            value, parent, token = pick.best(logp, total, width)
            free, room = np.ones(value.shape, bool), np.full(S, how.beam)
            if self.termed:
                free, room = self._allocate(t, logp, value, parent, token, needs, left)
            value[last] = -math.inf
            accept = self._accept(value, free, room, total + allowed, parent, token, logp.shape[1])
        if (dead := value == -math.inf).any():
            parent[dead], token[dead] = 0, end
            stuck = dead.all(1) & ~accept.any(1) & (self.count[alive] == 0)
            accept |= stuck[:, None] & (total > -math.inf)
        own = (ending | ~last[:, None]) & (allowed > -math.inf)  # ends by itself, not by force
        self._put_aside(t, accept, total, finish, own, left == 0)
        self._go_on(value, parent, token, logp)

    def _each(self) -> list[Glossary]:
        return [self.glossaries[b] for b in self.alive]

    def _needs(self, t: int, left: NDArray, attention: NDArray, ending: NDArray) -> list[list[list[int]]]:
        """What each hypothesis may begin a term with, or must go on with: terms whose source it reads now. Any term, where there
        is no room to wait, or where it would end (ending, [S, W]) and no other one of its sentence has all terms."""
        made = []
        for s, (b, g) in enumerate(zip(self.alive, self._each(), strict=True)):
            late = t + 1 + left[s] > self.most[b]
            if self.count[b] == 0 and left[s].all():
                late |= ending[s]
            rows = attention[s * left.shape[1] :][: left.shape[1]]
            near = np.stack([rows[:, [*at]].sum(1) >= NEAR if at else np.ones(len(rows), bool) for at in g.places], 1)
            made.append([g.needs(state, (n | l).tolist()) for state, n, l in zip(self.reached[s], near, late, strict=True)])
        return made

    def _block(self, logp: Tensor, needs: list[list[list[int]]], begun: NDArray) -> None:
        """Forbid what would repeat a run of tokens, but for the prefix (begun, [R]) and what a glossary needs."""
        row, token = repeats(self.history, self.how.block)
        free = begun[row]
        if self.termed:
            W = self.total.shape[1]
            free |= np.array([k in needs[r // W][r % W] for r, k in zip(row.tolist(), token.tolist(), strict=True)], bool)
        logp[to(row[~free], logp), to(token[~free], logp)] = -math.inf

    def _draw(self, t: int, logp: Tensor, allowed: NDArray, last: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """One token at random for each sentence: as `pick.best` gives them, [S, 1]."""
        how, x = self.how, logp.cpu().numpy().astype(np.float64)
        x[last] = -math.inf
        x[:, self.end] = allowed[:, 0]
        x[x.max(1) == -math.inf, self.end] = 0.0  # nothing is allowed
        token = pick.draw(x, self.chances[self.alive, t], how.temperature, how.top_k, how.top_p)
        value = np.where(token == self.end, -math.inf, self.total[:, 0] + x[np.arange(len(x)), token])
        return value[:, None], np.zeros((len(x), 1), int), token[:, None]

    def _allocate(
        self, t: int, logp: Tensor, value: NDArray, parent: NDArray, token: NDArray, needs: list[list[list[int]]], left: NDArray
    ) -> tuple[NDArray, NDArray]:
        """Choose again, in place: among the best ones, the `beam` best of each hypothesis, and what the glossaries need, but for
        those that could not meet their terms any more. Returns which hold all terms, [S, width], and beside how many such ones an
        end must stand, [S]: `beam`, but no more than have a place, or a sentence would end as soon as its terms are there."""
        (S, W), free = self.total.shape, np.zeros(value.shape, bool)
        room = np.full(S, self.how.beam)
        tried = [(s, w, k) for s in range(S) for w in range(W) for k in needs[s][w]]
        tried += [(r // W, r % W, k) for r, best in enumerate(self._best(logp)) for k in best]
        s, w, k = np.array(tried).T
        p = self.total[s, w] + logp[to(s * W + w, logp), to(k, logp)].double().cpu().numpy()
        found: list[dict[tuple[int, int], float]] = [{} for _ in range(S)]
        for one, slot in zip(*np.nonzero(value > -math.inf), strict=True):
            found[one][int(parent[one, slot]), int(token[one, slot])] = float(value[one, slot])
        for (one, *at), v in zip(tried, p.tolist(), strict=True):
            if v > -math.inf:
                found[one][at[0], at[1]] = v
        value[:] = -math.inf
        for s, (b, g) in enumerate(zip(self.alive, self._each(), strict=True)):
            made = []
            for (w, k), v in sorted(found[s].items()):
                rest = g.left(g.after(self.reached[s][w], k))
                if t < self.begun[b] or t + 1 + rest <= self.most[b] or rest < left[s, w]:
                    made.append((v, rest, w, k))
            chosen = allocate([m[0] for m in made], [m[1] for m in made], self.width)
            for slot, m in enumerate(chosen):
                value[s, slot], rest, parent[s, slot], token[s, slot] = made[m]
                free[s, slot] = rest == 0
            if len(made) > self.width and free[s].any():
                room[s] = min(self.how.beam, free[s].sum())
        return free, room

    def _best(self, logp: Tensor) -> list[list[int]]:
        """The `beam` best tokens of each hypothesis; behind a term those that do not go on with its word."""
        W, n, firm = self.total.shape[1], min(self.how.beam, logp.shape[1]), logp
        each = [(s * W + w, g) for s, g in enumerate(self._each()) for w in range(W) if g.fresh(self.reached[s][w])]
        if each:
            firm = logp.clone()
            for row, g in each:
                firm[row, to(g.glued_tokens, logp)] = -math.inf
        return firm.topk(n).indices.tolist()

    def _accept(
        self, value: NDArray, free: NDArray, room: NDArray, ends: NDArray, parent: NDArray, token: NDArray, V: int
    ) -> NDArray:
        """Which hypotheses end: those whose end, [S, W], is among the `room` best, [S], of what is free to end or has ended."""
        if value.shape[1] >= self.how.beam and free.all() and (ends < value[:, self.how.beam - 1, None]).all():
            return np.zeros(ends.shape, bool)
        merged = np.concatenate([np.where(free, value, -math.inf), ends], 1)
        first = np.concatenate([parent * V + token, np.broadcast_to(np.arange(ends.shape[1]) * V + self.end, ends.shape)], 1)
        rank = np.lexsort((first, -merged)).argsort(1)
        return (rank[:, value.shape[1] :] < room[:, None]) & (ends > -math.inf)

    def _put_aside(self, t: int, accept: NDArray, total: NDArray, finish: NDArray, own: NDArray, met: NDArray) -> None:
        how, W = self.how, total.shape[1]
        if not accept.any():
            return
        for s, w in zip(*accept.nonzero(), strict=True):
            b, row, logp = self.alive[s], int(s * W + w), float(total[s, w] + finish[s, w])
            score = how.score(logp, t + 1, self.cover[row] if how.coverage_penalty else None)
            self.ended[b].append((score, t, row, logp, float(finish[s, w]), bool(own[s, w]), bool(met[s, w])))
        for b in self.alive[accept.any(1)]:
            self.count[b] = len(self.ended[b])
            if self.count[b] >= how.alternatives:
                self.worst[b] = sorted(e[0] for e in self.ended[b])[-how.alternatives]

    def _go_on(self, value: NDArray, parent: NDArray, token: NDArray, logp: Tensor) -> None:
        """Sentences that are done leave; the others take over what was chosen for them, [S, width]."""
        how, alive, (S, W) = self.how, self.alive, self.total.shape
        best = value[:, 0]
        going = (best / self.divisor[alive] > self.worst[alive]) & (best > -math.inf)  # can one become better?
        going &= self.count[alive] < (1 if how.sample else how.beam)
        keep = np.nonzero(going)[0]
        row, made = (keep[:, None] * W + parent[keep]).ravel(), token[keep].ravel()
        index = to(row, logp)
        self.came.append((row, made, logp.take(to(row * logp.shape[1] + made, logp)).cpu().numpy()))
        if self.termed:
            each, old = self._each(), self.reached
            self.reached = [[each[s].after(old[s][w], k) for w, k in zip(parent[s], token[s], strict=True)] for s in keep]
        if len(row) != S * W or (row != np.arange(S * W)).any():
            self.states = [s.rows(index) for s in self.states]
        if self.width != W or len(keep) < S:
            same = to((keep[:, None] * W + np.minimum(np.arange(self.width), W - 1)).ravel(), logp)
            self.memories = [m.rows(same) for m in self.memories]
        if how.coverage_penalty:
            self.cover = self.cover[row]
        if how.block:
            self.history = np.concatenate([self.history[row], made[:, None]], 1)
        self.alive, self.total, self.tokens = alive[keep], value[keep], made

    def _trace(self, score: float, t: int, row: int, logp: float, end: float, finished: bool, met: bool) -> Found:
        """The hypothesis that ended after t tokens in this row."""
        rows, tokens, logps = [row], [], [end]
        for came, token, p in reversed(self.came[:t]):
            tokens.append(token[row])
            logps.append(float(p[row]))
            row = came[row]
            rows.append(row)
        attention = np.stack([seen[r] for seen, r in zip(self.seen, reversed(rows), strict=False)])
        ids = np.array(tokens[::-1], int) if self.ids is None else self.ids[np.array(tokens[::-1], int)]
        return tuple(ids.tolist()), logp, tuple(logps[::-1]), score, attention, finished, met


def ask(
    networks: Sequence[Network], tokens: Tensor, states: Sequence[Any], memories: Sequence[Any], only: Tensor | None
) -> tuple[Tensor, list[Any], NDArray]:
    """One step of all networks: the mean of their probabilities, as a logarithm, the states, and the mean attention."""
    more = () if only is None else (only,)
    said = [n.step(tokens, s, m, *more) for n, s, m in zip(networks, states, memories, strict=True)]
    logps, after, seen = zip(*said, strict=True)
    if len(said) == 1:
        return logps[0], [*after], seen[0].cpu().numpy()
    # One after another: torch's sum over networks adds in an order that depends on how many rows there are.
    peak = torch.stack(logps).amax(0)
    peak = peak.masked_fill(peak == -math.inf, 0.0)
    total, looked = torch.zeros_like(peak), torch.zeros_like(seen[0])
    for p, a in zip(logps, seen, strict=True):
        total, looked = total + (p - peak).exp(), looked + a
    return total.log() + peak - math.log(len(said)), [*after], (looked / len(said)).cpu().numpy()


def to(index: NDArray, like: Tensor) -> Tensor:
    """An index as a tensor where another one is."""
    return torch.from_numpy(np.asarray(index)).to(like.device)
