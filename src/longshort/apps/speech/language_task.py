"""What a language model over a recogniser's tokens is, and what it means to the loop. Axes: B sentences, T tokens, V classes.

Token 0, the blank, is never written. So as an input it stands for the start of a sentence, and as a class for its end.
"""

from __future__ import annotations

import math
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort import checks
from longshort.apps.speech.data import _lines, buckets
from longshort.apps.speech.units import Units, normal
from longshort.cell import Cell
from longshort.dropout import dropout
from longshort.nn import LSTM
from longshort.task import Batches, Input, Loss, Plain, Split

NAMED = 3  # lines that are named of those that are left out
Lines = str | os.PathLike[str] | Iterable[str]


@dataclass(frozen=True)
class LanguageConfig:
    """How large a language model is, and how it learns.

    Args:
        hidden: units of each LSTM layer, and width of the embeddings.
        layers: LSTM layers.
        dropout: dropout on the inputs of each LSTM layer and on the last one's outputs, in training, in [0, 1).
        weight_drop: dropout on the recurrent weights, in [0, 1). Merity et al. 2018.
        tied: one matrix embeds the tokens and predicts them. Press & Wolf 2017; Inan et al. 2017.
        tokens: tokens per batch, padding included; longer lines are left out.
        fold: read lower case only; so it is whenever the recogniser does.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field is of the wrong kind.
    """

    hidden: int = 512
    layers: int = 2
    dropout: float = 0.3
    weight_drop: float = 0.2
    tied: bool = True
    tokens: int = 4000
    fold: bool = False

    def __post_init__(self) -> None:
        checks.whole(self, hidden=1, layers=1, tokens=2)
        checks.layers(self, "layers")
        checks.true_or_false(self, "tied", "fold")
        checks.rate(self, "dropout", "weight_drop")


@dataclass(frozen=True)
class Text:
    """Sentences as tokens.

    Args:
        tokens: of all sentences, one after another, int32, [N].
        ends: where each ends, int64, [S].
        characters: of all, with one for the end of each.
        dropped: lines that were left out.
        said: which, and why; a sentence, or nothing.
    """

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    characters: int
    dropped: int = 0
    said: str = ""

    @classmethod
    def read(cls, source: Lines, units: Units, fold: bool = False, most: float = math.inf) -> Text:
        """The sentences of a text, one per line; blank lines say nothing.

        Args:
            source: a file, UTF-8 and perhaps gzipped; or lines.
            units: the tokens.
            fold: make it lower case.
            most: tokens of a line at most, its end included; longer ones are left out, as are those that units cannot spell.

        Raises:
            ValueError: nothing is left; the message names the first line that was left out and says why.
            OSError: the file cannot be read.
        """
        tokens, ends, characters = array("i"), array("q"), 0
        left: dict[str, list[str]] = {}  # by reason
        for where, line in _numbered(source):
            if not (line := normal(line, fold)):
                continue
            try:
                made = units.encode(line)
            except ValueError as e:
                of = left.setdefault("that the units cannot spell", [])
                of.append(where if of else f"{where}: {e}")
                continue
            if len(made) + 1 > most:
                left.setdefault(f"longer than tokens = {most}", []).append(where)
                continue
            tokens.extend(made)
            ends.append(len(tokens))
            characters += len(line) + 1
        said = "; ".join(f"{len(of)} {why} ({', '.join(of[:NAMED])}{', ...' * (len(of) > NAMED)})" for why, of in left.items())
        said = f"Lines that are left out: {said}." if said else ""
        if not ends:
            name = source if isinstance(source, str | os.PathLike) else "the text"
            raise ValueError(f"{name} has no line that can be read. {said or 'All are blank.'}")
        dropped = sum(map(len, left.values()))
        return cls(np.array(tokens, np.int32), np.array(ends, np.int64), characters, dropped, said)

    @classmethod
    def whole(cls, lines: Iterable[str], units: Units, fold: bool = False) -> Text:
        """A text of all these lines, blank ones too.

        Raises:
            ValueError: there are none, or the units cannot spell one; the message says which.
        """
        tokens, ends, characters = list[int](), list[int](), 0
        for k, line in enumerate(lines, 1):
            line = normal(line, fold)
            try:
                tokens += units.encode(line)
            except ValueError as e:
                raise ValueError(f"line {k}: {e}") from None
            ends.append(len(tokens))
            characters += len(line) + 1
        if not ends:
            raise ValueError("there must be one or more lines, got none.")
        return cls(np.array(tokens, np.int32), np.array(ends, np.int64), characters)

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sentence with its end, [S]."""
        return np.diff(self.ends, prepend=0) + 1

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Some sentences side by side."""
        lengths = self.lengths[rows]
        made = np.zeros((len(rows), lengths.max() + 1), np.int64)  # starts, tokens, ends
        for row, end, n in zip(made, self.ends[rows], lengths, strict=True):
            row[1:n] = self.tokens[end - n + 1 : end]
        return torch.from_numpy(made), torch.from_numpy(lengths)


Batch = tuple[Tensor, Tensor]  # tokens with a 0 at both ends and beyond, int64, [B, T + 1]; lengths with one end, int64, [B]


class LanguageNetwork(nn.Module):
    """Embeddings, an LSTM, and a layer that says which token is next.

    Args:
        config: sizes.
        cell: the variant of the LSTM.
        tokens: V, how many tokens there are, the blank among them.
    """

    def __init__(self, config: LanguageConfig, cell: Cell, tokens: int) -> None:
        super().__init__()
        c, width = config, cell.projection or config.hidden
        self.config = c
        self.embedding = nn.Parameter(torch.randn(tokens, width) / math.sqrt(width))
        self.lstm = LSTM(width, c.hidden, c.layers, dropout=c.dropout if c.layers > 1 else 0.0, batch_first=True, cell=cell,
                         init="forget_bias+orthogonal", weight_drop=c.weight_drop)  # fmt: skip
        if not c.tied:
            self.output = nn.Parameter(torch.randn(tokens, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(tokens))

    @property
    def inputs(self) -> Float[Tensor, "V P"]:
        """What the LSTM reads for each token."""
        return self.embedding * math.sqrt(self.embedding.shape[1])

    def write(self, y: Float[Tensor, "*B P"]) -> Float[Tensor, "*B V"]:
        """From the LSTM's outputs to logits of what is next."""
        return F.linear(y, self.embedding if self.config.tied else self.output, self.bias)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T P"]:
        """The LSTM's outputs after each token; what stands to its right does not matter."""
        p = self.config.dropout
        y, _ = self.lstm(dropout(F.embedding(tokens, self.inputs), p, self.training))
        return dropout(y, p, self.training)

    def losses(self, batch: Batch) -> Float[Tensor, "N"]:
        """Negative log-probability of each token and end of a batch, sentence by sentence, in nats."""
        tokens, lengths = batch
        there = torch.arange(tokens.shape[1] - 1, device=tokens.device) < lengths[:, None]  # [B, T]
        y = self(tokens[:, :-1])[there]  # [N, P]
        return F.cross_entropy(self.write(y).float(), tokens[:, 1:][there], reduction="none")


class LanguageTask:
    """A language model as the loop sees it.

    Args:
        config: how large.
        units: the tokens.
        train: sentences to learn from.
        valid: sentences that tell which weights are best; None takes the last weights.
        cell: the variant of the LSTM.
    """

    better: tuple[str, Literal["min", "max"]] = ("perplexity", "min")

    def __init__(
        self, config: LanguageConfig, units: Units, train: Text, valid: Text | None = None, cell: Cell = Cell()  # noqa: B008
    ) -> None:  # fmt: skip
        self.config, self.units, self.train, self.valid, self.cell = config, units, train, valid, cell

    def model(self) -> LanguageNetwork:
        """A fresh network."""
        return LanguageNetwork(self.config, self.cell, len(self.units))

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Batches[Batch]:
        """Each sentence once, beside others of its length."""
        if split != "train":
            raise ValueError(f"only split 'train' comes in batches, got {split!r}; score() sees the others whole.")
        lists = buckets(self.train.lengths, self.config.tokens, np.random.default_rng(seed))
        return Batches(len(lists), lambda k: self.train.batch(lists[k]))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Per token; the end of a sentence is one."""
        losses = cast(LanguageNetwork, model).losses(batch)
        return Loss(losses.sum(), float(len(losses)))

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Perplexity per token, and bits per character, which compare models of different units."""
        if split != "valid" or self.valid is None:
            return {}
        return scores(self.valid, surprise(cast(LanguageNetwork, model), self.valid))

    def predict(self, model: nn.Module, request: Sequence[str]) -> list[float]:
        """The log-probability of each of some sentences."""
        text = Text.whole(request, self.units, self.config.fold)
        return (-surprise(cast(LanguageNetwork, model), text)).tolist()

    def inputs(self) -> dict[str, Input]:
        """The input of the network."""
        return {"tokens": Input(("B", "T"), "int64", "a 0 for the start, then tokens")}

    def data(self) -> dict[str, Plain]:
        """Counts, and a checksum of the tokens and what they mean."""
        texts = [self.train] + ([self.valid] if self.valid else [])
        total = zlib.crc32(repr(self.units.pieces).encode())
        for text in texts:
            total = zlib.crc32(text.ends.tobytes(), zlib.crc32(text.tokens.tobytes(), total))
        return {"train": len(self.train), "valid": len(self.valid or ()), "checksum": total}


@torch.no_grad()
def surprise(model: LanguageNetwork, text: Text) -> NDArray[np.float64]:
    """Negative log-probability of each sentence, its end included, in nats, [S]. The model is in evaluation mode."""
    made, device = np.zeros(len(text)), model.bias.device
    most = max(model.config.tokens, int(text.lengths.max()))
    for rows in buckets(text.lengths, most, np.random.default_rng(0)):
        tokens, lengths = text.batch(rows)
        losses = model.losses((tokens.to(device), lengths.to(device))).double().cpu()
        made[rows] = [float(one.sum()) for one in losses.split(lengths.tolist())]
    return made


def scores(text: Text, surprises: NDArray[np.float64]) -> dict[str, float]:
    """What `surprise` comes to per token and per character."""
    total, tokens = float(surprises.sum()), int(text.lengths.sum())
    return {"perplexity": math.exp(min(total / tokens, 700.0)), "bits per character": total / math.log(2) / text.characters}


def _numbered(source: Lines) -> Iterator[tuple[str, str]]:
    """Where each line stands, and the line."""
    if isinstance(source, str | os.PathLike):
        return _lines(Path(source))
    return ((f"line {k}", line) for k, line in enumerate(source, 1))
