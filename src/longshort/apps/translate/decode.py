"""From a network to translations: greedy, beam search and sampling, for many sentences side by side.

Axes: B sentences, R rows (hypotheses of all of them), S source tokens, T target tokens, V tokens of the target language; natural
logarithms. What is found for a sentence does not depend on the others, as long as the network's rows do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from longshort import checks
from longshort.apps.translate.beam import Run, ask, to
from longshort.apps.translate.constraints import Constraints
from longshort.apps.translate.vocabulary import BOS, EOS, PAD

STEEP = 10.0  # largest length penalty; anything above 2 is odd
WIDER = 4  # so many times the beam, at most, for a sentence with a glossary; more where its tokens are more
FAINT = 1e-4  # attention that a source token has at least, in the coverage penalty


class Network(Protocol):
    """What a search needs of a network. Memories and states have a method `rows(index)` that gives some of their rows."""

    def remember(self, source: Tensor, lengths: Tensor) -> Any:
        """The memory of source sentences, int64, [B, S] and [B]."""

    def start(self, memory: Any) -> Any:
        """The state before the first token, a row for each row of the memory."""

    def step(self, tokens: Tensor, state: Any, memory: Any, only: Tensor | None = None) -> tuple[Tensor, Any, Tensor]:
        """Log-probabilities of the next token, float32, [R, V], or of `only` these, [R, K]; the state; the attention, [R, S].

        tokens: the last ones, int64, [R]. The log-probabilities are the caller's to write into.
        """


@dataclass(frozen=True)
class Search:
    """How to search.

    A hypothesis y of n tokens and an end is ranked by

        log p(y) / ((5 + n + 1) / 6)^length_penalty + coverage_penalty * sum over source tokens j of log min(a_j, 1)

    where a_j is the attention that j has had in all n + 1 steps.

    Args:
        beam: hypotheses that go on side by side; 1 is greedy.
        alternatives: how many translations to give, the best included; of `sample`, how many to draw. A translator searches on
            with wider beams until so many texts differ.
        length_penalty: 0 ranks by probability, which likes short ones; 1 nearly by the mean of a token.
        coverage_penalty: against source words that are passed over; 0 to 0.5 are useful.
        ratio: a translation has at most ratio * S + extra tokens, where S counts the source tokens as the network gets them.
        extra: see ratio.
        least: tokens of a translation at least, as far as the most are not less.
        block: no run of so many tokens appears twice, unless prefix or glossary ask for it; 0 blocks nothing.
        sample: draw each token at random; the beam is not used then.
        temperature: of sample: log-probabilities are divided by it. Below 1 is more careful.
        top_k: of sample: draw from so many best tokens only; 0 from all.
        top_p: of sample: draw from the fewest best tokens that have this probability together, in (0, 1].
        seed: of sample. The same seed and sentence give the same samples, whatever is translated beside it.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.

    Source: Wu et al. 2016, Google's neural machine translation system, section 7 (both penalties).
    """

    beam: int = 5
    alternatives: int = 1
    length_penalty: float = 1.0
    coverage_penalty: float = 0.0
    ratio: float = 2.0
    extra: int = 10
    least: int = 0
    block: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole(self, beam=1, alternatives=1, extra=0, least=0, block=0, top_k=0, seed=0)
        checks.nonnegative(self, "length_penalty", "coverage_penalty", "ratio")
        if self.length_penalty > STEEP:
            raise ValueError(f"length_penalty must be at most {STEEP:g}, got {self.length_penalty}: 0 is none, 1 a mean.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be more than 0, got {self.temperature}. beam=1 takes the most likely.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be a probability in (0, 1], got {self.top_p}.")
        if not self.sample and self.alternatives > self.beam:
            raise ValueError(f"beam = {self.beam} hypotheses cannot give {self.alternatives} alternatives. Take a larger beam.")

    def most(self, S: int) -> int:
        """Tokens that a translation of S source tokens has at most."""
        return max(1, int(self.ratio * S + self.extra))

    def score(self, logp: float, n: int, attention: NDArray | None = None) -> float:
        """What hypotheses are ranked by.

        Args:
            logp: log-probability of the tokens and the end.
            n: how many those are, the end included.
            attention: what each source token has had in all steps, [S].
        """
        covered = 0.0
        if self.coverage_penalty and attention is not None:
            covered = float(np.log(np.clip(attention.astype(np.float64), FAINT, 1)).sum())
        return logp / ((5 + n) / 6) ** self.length_penalty + self.coverage_penalty * covered


@dataclass(frozen=True)
class Hypothesis:
    """A translation.

    tokens: without beginning and end, T of them.
    logp: natural log-probability of the tokens and the end.
    token_logp: of each token, then of the end; T + 1 numbers.
    score: what it was ranked by; see `Search`.
    attention: to each source token when each token, and the end, was written, float32, [T + 1, S]; the mean of an ensemble's.
    finished: False if it ends only because it had its most tokens (or nothing else was allowed).
    met: whether it holds all terms of the glossary; False only where they are more than the most tokens.
    """

    tokens: tuple[int, ...]
    logp: float
    token_logp: tuple[float, ...]
    score: float
    attention: NDArray = field(compare=False)
    finished: bool = True
    met: bool = True


@torch.no_grad()
def search(
    networks: Sequence[Network], source: Int[Tensor, "B S"], how: Search = Search(),
    constraints: Sequence[Constraints] | None = None, shortlist: Int[Tensor, "K"] | None = None,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Translate sentences of one length.

    All sentences make their steps together; one that is done leaves. A hypothesis that ends is put aside if it is among the
    `beam` best of the step. A sentence is done when `beam` have ended, or when no open one can become better than the best
    `alternatives` that have, whatever follows.

    Args:
        networks: one, or an ensemble over the same tokens, whose probabilities are averaged.
        source: source tokens as the networks learned them, without padding.
        how: the search.
        constraints: one for each sentence; None asks for nothing.
        shortlist: the only tokens that may be written, which saves time; beginning, end and padding do not matter.

    Returns:
        For each sentence up to `alternatives` hypotheses, all different, the best first; or as many samples, in the order drawn.

    Raises:
        ValueError: the shapes do not fit, a network gives NaN, the shortlist lacks a token that is asked for, or samples are to
            hold a glossary.

    Source: Graves 2012, Sequence transduction with recurrent neural networks, section 2.6; Sutskever et al. 2014, section 3.2.
    """
    B, S = _checked(networks, source)
    asked = [Constraints()] * B if constraints is None else [*constraints]
    if len(asked) != B:
        raise ValueError(f"constraints must be one for each of {B} sentences, got {len(asked)}.")
    if how.sample and any(c.glossary for c in asked):
        raise ValueError("samples cannot be made to hold a glossary. Take a beam, or leave one of them out.")
    only = None
    if shortlist is not None:
        only = torch.tensor(sorted({*shortlist.tolist(), EOS} - {PAD, BOS}), device=source.device)
        if lack := sorted(set().union(*(c.tokens for c in asked)) - {*only.tolist()}):
            raise ValueError(f"the shortlist must hold the tokens of prefixes and glossaries, {lack} are missing. Add them.")
    if not B:
        return []
    memories = [n.remember(source, torch.full((B,), S, device=source.device)) for n in networks]
    groups: dict[int, list[int]] = {}  # sentences by the width of their beam
    for b, c in enumerate(asked):
        tokens = sum(min(map(len, term)) for term in c.glossary)
        groups.setdefault(1 if how.sample else max(how.beam * min(tokens + 1, WIDER), tokens + 1), []).append(b)
    made: list[list[Hypothesis]] = [[] for _ in range(B)]
    for width, members in groups.items():
        each = how.alternatives if how.sample else 1
        index = np.repeat(members, each)
        chances = np.zeros((0, 0))
        if how.sample:
            most = max(how.most(S), *(len(c.prefix) for c in asked)) + 1
            keys = [[how.seed, k % each, *source[b].tolist()] for k, b in enumerate(index)]
            chances = np.stack([np.random.default_rng(key).random(most) for key in keys])
        rows = [m if len(index) == B and each == 1 else m.rows(to(index, source)) for m in memories]
        run = Run(networks, rows, how, width, [asked[b] for b in index], S, only, chances, source.device)
        for b, found in zip(index, run(), strict=True):
            made[b] += [Hypothesis(*f) for f in found]
    return made


@torch.no_grad()
def force(
    networks: Sequence[Network], source: Int[Tensor, "B S"], targets: Sequence[Sequence[int]], how: Search = Search()
) -> list[Hypothesis]:
    """What networks think of given translations: their probabilities and alignments.

    Args:
        networks: one, or an ensemble.
        source: source tokens without padding.
        targets: tokens of the translation of each, without beginning and end.
        how: whose penalties make the scores.

    Raises:
        ValueError: shapes do not fit.
    """
    B, S = _checked(networks, source)
    if len(targets) != B:
        raise ValueError(f"targets must be one for each of {B} sentences, got {len(targets)}.")
    if not B:
        return []
    order = sorted(range(B), key=lambda b: -len(targets[b]))  # so that those which go on are the first rows
    index = to(np.array(order), source)
    memories = [n.remember(source[index], torch.full((B,), S, device=source.device)) for n in networks]
    states: list[Any] = [n.start(m) for n, m in zip(networks, memories, strict=True)]
    logps: list[list[float]] = [[] for _ in range(B)]
    seen: list[list[NDArray]] = [[] for _ in range(B)]
    last = [BOS] * B
    for t in range(max(map(len, targets)) + 1):
        n = sum(len(target) >= t for target in targets)
        if n < len(last):
            first = to(np.arange(n), source)
            memories, states = [m.rows(first) for m in memories], [s.rows(first) for s in states]
        tokens = torch.tensor(last[:n], device=source.device)
        logp, states, attention = ask(networks, tokens, states, memories, None)
        last = [targets[b][t] if t < len(targets[b]) else EOS for b in order[:n]]
        found = logp[torch.arange(n, device=source.device), torch.tensor(last, device=source.device)].tolist()
        for b, p, a in zip(order[:n], found, attention, strict=True):
            logps[b].append(p)
            seen[b].append(a)
    made = []
    for target, p, a in zip(targets, logps, map(np.stack, seen), strict=True):
        made.append(Hypothesis(tuple(target), sum(p), tuple(p), how.score(sum(p), len(p), a.sum(0)), a))
    return made


def _checked(networks: Sequence[Network], source: Tensor) -> tuple[int, int]:
    if not networks:
        raise ValueError("networks must be one or more, got none.")
    if source.ndim != 2 or (len(source) and not source.shape[1]):
        raise ValueError(f"source must be tokens, [B, S] with S of at least 1, got {list(source.shape)}.")
    return source.shape[0], source.shape[1]
