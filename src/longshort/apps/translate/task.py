"""Translation as the loop sees it: sentence pairs in batches of like length, the loss, and the scores of the validation pairs."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort.apps.translate import metrics
from longshort.apps.translate.config import Config
from longshort.apps.translate.data import Pair, buckets, said, screen
from longshort.apps.translate.decode import Search
from longshort.apps.translate.decoding import Decoding, Reader
from longshort.apps.translate.losses import smoothed
from longshort.apps.translate.model import Batch, Network
from longshort.apps.translate.vocabulary import BOS, EOS, STRANGE, Vocabulary
from longshort.cell import Cell
from longshort.probe import unseen
from longshort.scripts import RUN
from longshort.task import Batches, Input, Loss, Plain, Split

Tokens = Sequence[Sequence[int]]
GREEDY = Decoding(Search(beam=1))
WORD = re.compile(RUN)


class TranslateTask:
    """Machine translation as the loop sees it.

    Args:
        config: what to translate with.
        train: pairs to learn from.
        valid: pairs that tell which weights are best, those that are not too long; none takes the last weights.
        cell: the variant of the LSTMs.
        vocabularies: of source and target; None makes them from the training pairs.
        start: weights to start from, by name; those that are missing (or of other shape) are drawn.

    Raises:
        ValueError: nothing is left to learn from, or to validate with; the message says what was left out and why.
    """

    def __init__(
        self, config: Config, train: Sequence[Pair], valid: Sequence[Pair] = (), cell: Cell = Cell(),  # noqa: B008
        vocabularies: tuple[Vocabulary, Vocabulary] | None = None, start: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.cell, self.start = config, cell, start
        self.vocabularies = vocabularies or learned(config, train)
        sides = self._encoded(train)
        kept, self.dropped = screen(train, *_lengths(sides), longest=config.longest, ratio=config.ratio)
        self.train = [train[k] for k in kept]
        if not self.train:
            raise ValueError(f"there is nothing to learn from. {said(self.dropped)}")
        self.plain = [sides[0][k] for k in kept], [sides[1][k] for k in kept]
        judges, dropped = screen(valid, *_lengths(self._encoded(valid)), longest=config.longest)
        self.valid = [valid[k] for k in judges]
        if valid and not self.valid:
            raise ValueError(f"there is nothing to validate with. {said(dropped)}")
        self.dropped += dropped
        self.better: tuple[str, Literal["min", "max"]] = (metrics.chosen(config.metric, [p.target for p in self.valid]), "max")
        self.lengths = [np.array([len(t) + 1 for t in side]) for side in self.plain]

    def model(self) -> nn.Module:
        """A fresh network, or one that starts from given weights."""
        made = Network(self.config, self.cell, *(len(v) for v in self.vocabularies))
        own = made.state_dict()
        if self.config.tied == "all":  # one matrix of two names: the one that writes as well
            del own["source"]
        made.load_state_dict({k: v for k, v in (self.start or {}).items() if k in own and own[k].shape == v.shape}, strict=False)
        return made

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Batches[Batch]:
        """Each pair once, beside others of its length, in pieces drawn for it."""
        if split != "train":
            raise ValueError(f"only split 'train' comes in batches, got {split!r}; score() sees the others whole.")
        lists = buckets(self.lengths[0], self.lengths[1], self.config.tokens, np.random.default_rng(seed))
        return Batches(len(lists), lambda k: self.draw(lists[k], np.random.default_rng([seed, k])))

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """One batch."""
        c, made = self.config, list[tuple[list[int], list[int]]]()
        for k in rows:
            pair = self.train[k] if c.fallback else hidden(self.train[k], c.unknown, rng)
            if c.sampling or pair is not self.train[k]:
                sides = zip(self.vocabularies, pair[:2], strict=True)
                made.append(cast(tuple[list[int], list[int]], tuple(v.sample(text, rng, c.sampling) for v, text in sides)))
            else:
                made.append((self.plain[0][k], self.plain[1][k]))
        return pad(*zip(*made, strict=True))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy with label smoothing, per target token and end."""
        c, net = self.config, cast(Network, model)
        y, truth = net(batch)
        again = None
        if c.rdrop:
            with unseen(net):
                again, _ = net(batch)
        return Loss(smoothed(y, net.table, net.bias, truth, c.smoothing, again, c.rdrop), float(len(truth)))

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """BLEU and chrF of greedy translations, and the perplexity per token of the given ones."""
        if split != "valid" or not self.valid:
            return {}
        net, truth = cast(Network, model), [p.target for p in self.valid]
        made = self.predict(net, [p.source for p in self.valid])
        return {"BLEU": metrics.bleu(truth, made).value, "chrF": metrics.chrf(truth, made).value,
                "perplexity": self.perplexity(net, self.valid)}  # fmt: skip

    @torch.no_grad()
    def perplexity(self, model: Network, pairs: Sequence[Pair]) -> float:
        """Per target token and end, in the best pieces."""
        sides = self._encoded(pairs)
        lengths = [np.array([len(t) + 1 for t in side]) for side in sides]
        total, tokens = 0.0, 0
        most = max(self.config.tokens, *(int(n.max()) for n in lengths))
        for rows in buckets(lengths[0], lengths[1], most, np.random.default_rng(0)):
            batch = pad([sides[0][k] for k in rows], [sides[1][k] for k in rows])
            y, truth = model(Batch(*(v.to(model.bias.device) for v in batch)))
            total += float(smoothed(y, model.table, model.bias, truth, 0.0))
            tokens += len(truth)
        return math.exp(min(total / tokens, 700.0))

    def _encoded(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        source, target = self.vocabularies
        return [source.encode(p.source) for p in pairs], [target.encode(p.target) for p in pairs]

    def predict(self, model: nn.Module, request: Sequence[str]) -> list[str]:
        """Greedy translations of some sentences."""
        reader = Reader([cast(Network, model)], *self.vocabularies)
        return [t.text for t in reader(request, GREEDY)]

    def inputs(self) -> dict[str, Input]:
        """The inputs of the network's encoder."""
        return {"source": Input(("B", "S"), "int64", "tokens and an end"), "lengths": Input(("B",), "int64", "tokens of each")}

    def data(self) -> dict[str, Plain]:
        """Counts, and a checksum of all pairs."""
        total = zlib.crc32(repr([v.pieces for v in self.vocabularies]).encode())
        for pairs in (self.train, self.valid):
            for p in pairs:
                total = zlib.crc32(f"{p.source}\t{p.target}\n".encode("utf-8", "surrogatepass"), total)
        return {"train": len(self.train), "valid": len(self.valid), "checksum": total}


def _lengths(sides: tuple[Tokens, Tokens]) -> tuple[list[int], list[int]]:
    return [len(t) for t in sides[0]], [len(t) for t in sides[1]]


def learned(config: Config, pairs: Sequence[Pair]) -> tuple[Vocabulary, Vocabulary]:
    """The vocabularies of source and target that a configuration asks for, from the training pairs."""
    sides = [p.source for p in pairs], [p.target for p in pairs]

    def fit(texts: list[str]) -> Vocabulary:
        return Vocabulary.fit(texts, config.units, config.pieces, byte_fallback=config.fallback)

    if config.shared:
        made = fit(sides[0] + sides[1])
        return made, made
    return fit(sides[0]), fit(sides[1])


def hidden(pair: Pair, share: float, rng: np.random.Generator) -> Pair:
    """A pair in which some names and numbers that stand on both sides have become unknown characters."""
    if not share:
        return pair
    both = set(WORD.findall(pair.source)) & set(WORD.findall(pair.target))
    for word in sorted(w for w in both if w.isdigit() or (len(w) > 2 and w[0].isupper())):
        if rng.random() < share:
            source, target = (WORD.sub(lambda m, w=word: STRANGE if m[0] == w else m[0], text) for text in pair[:2])  # type: ignore[misc]
            pair = Pair(source, target, pair.where)
    return pair


def pad(source: Tokens, target: Tokens) -> Batch:
    """Sentences side by side, with their starts and ends."""
    lengths = [len(s) + 1 for s in source]
    x = np.zeros((len(source), max(lengths)), np.int64)
    y = np.zeros((len(target), max(map(len, target)) + 2), np.int64)
    for k, (s, t) in enumerate(zip(source, target, strict=True)):
        x[k, : len(s) + 1] = [*s, EOS]
        y[k, : len(t) + 2] = [BOS, *t, EOS]
    return Batch(torch.from_numpy(x), torch.tensor(lengths), torch.from_numpy(y))
