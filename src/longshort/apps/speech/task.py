"""What speech recognition means to the loop: batches of features with their texts, the loss, error rates."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort.apps.speech import audio, augment, decode, metrics
from longshort.apps.speech.config import LEAD, STEP, SUBSAMPLING, TAIL, Config
from longshort.apps.speech.data import Drop, Utterance, buckets, said, screen
from longshort.apps.speech.features import Filterbank
from longshort.apps.speech.model import Batch, Network
from longshort.apps.speech.splice import Phrase, Phrases, phrases
from longshort.apps.speech.transduce import greedy
from longshort.apps.speech.units import Units, normal
from longshort.cell import Cell
from longshort.task import Batches, Input, Loss, Plain, Split

MEMORY = 4 << 30  # bytes of features that are kept, not computed again in each epoch
FRAME = 0.01  # seconds
QUIET = 10  # frames of an utterance that the silence before it is made of
EASY = 1 / 3  # share of the utterances, and of the seconds per batch, in the passes of a curriculum
CHUNK = 200.0  # seconds of audio that are recognised at once
Aligner = Callable[[Utterance], Sequence[tuple[float, float]]]
LEAST = 1.0  # variance of a filter, at least: one that hears nothing is not made loud; natural logarithms
LEARN = 2000  # utterances from which mean and scale of the features are taken, at most


@dataclass(frozen=True)
class Recipe:
    """All that a recogniser is but its weights.

    Args:
        config: what to recognise.
        cell: the variant of the LSTM.
        units: the tokens.
    """

    config: Config
    cell: Cell
    units: Units

    @cached_property
    def filterbank(self) -> Filterbank:
        """From samples to features."""
        return Filterbank(self.config.rate, self.config.bins)

    def network(self) -> Network:
        """The network, freshly drawn."""
        return Network(self.config, self.cell, len(self.units))

    def features(self, u: Utterance) -> NDArray[np.float32]:
        """Log-mel features of an utterance, [T, bins]."""
        return self.whole(audio.read(u.audio, self.config.rate, u.start, u.duration))

    def whole(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Log-mel features of a recording and the silence that follows it, [T, bins]."""
        return self.filterbank(np.concatenate([samples, np.zeros(round(TAIL * STEP * self.config.rate), np.float32)]))


def pad(features: Sequence[NDArray[np.float32]], targets: Sequence[Sequence[int]], lead: Sequence[int] | None = None) -> Batch:
    """Utterances side by side; lead: steps that come before each, none by default."""
    frames, lengths = [len(x) for x in features], [len(t) for t in targets]
    x = np.zeros((len(features), max(frames), features[0].shape[1]), np.float32)
    y = np.zeros((len(targets), max(lengths)), np.int64)
    for k, (one, tokens) in enumerate(zip(features, targets, strict=True)):
        x[k, : len(one)], y[k, : len(tokens)] = one, tokens
    return Batch(torch.from_numpy(x), torch.tensor(frames), torch.from_numpy(y), torch.tensor(lengths),
                 torch.tensor([0] * len(frames) if lead is None else list(lead)))  # fmt: skip


def taken(start: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights that have a place of their name and shape in a network."""
    own = network.state_dict()
    return {k: v for k, v in start.items() if k in own and own[k].shape == v.shape}


def quiet(x: NDArray[np.float32], frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """What is heard around an utterance while nobody speaks: its quietest frames, in random order, [frames, bins]."""
    said = x[: -TAIL * SUBSAMPLING]
    least = np.argsort(said.mean(1))[:QUIET]
    return said[rng.choice(least, frames)]


class SpeechTask:
    """Speech recognition as the loop sees it.

    Args:
        config: what to recognise.
        train: utterances to learn from.
        valid: utterances that tell which weights are best; none takes the last weights.
        cell: the variant of the LSTM.
        units: the tokens; None makes them from the training texts.
        start: weights to start from, by name; those that are missing (or of other shape) are drawn.
        aligner: in which seconds an utterance has each word of its text; ValueError if it cannot tell. With it utterances are
            spliced.

    Raises:
        ValueError: nothing is left to learn from; the message says what was dropped and why.
    """

    better: tuple[str, Literal["min", "max"]] = ("CER", "min")  # of networks that hardly write, WER says that all are alike

    def __init__(
        self, config: Config, train: Sequence[Utterance], valid: Sequence[Utterance] = (), cell: Cell = Cell(),  # noqa: B008
        units: Units | None = None, start: dict[str, Tensor] | None = None, aligner: Aligner | None = None,
    ) -> None:  # fmt: skip
        self.config, self.cell, self.start = config, cell, start
        if start is not None:
            with torch.device("meta"):
                fits = taken(start, Network(config, cell, len(units) if units else 2))
            if not any(name.startswith("lstm") for name in fits):
                said_so = (
                    "the model to start from has an LSTM of other sizes or of another cell, so this one starts from nothing."
                )
                warnings.warn(f"{said_so} Give both the same hidden, layers, streaming and cell.", UserWarning, stacklevel=3)
        units = units or Units.fit([normal(u.text, config.fold) for u in train], config.units, config.pieces)
        self.recipe = Recipe(config, cell, units)
        kept, written = screen(
            train, units, fold=config.fold, shortest=config.shortest, longest=config.longest, speed=min(config.speeds),
            step=STEP, repeats=config.model != "transducer",
        )  # fmt: skip
        self.store = Store(self.recipe, kept)
        self.judge = Judge(self.recipe, valid)
        self.train, self.valid = self.store.utterances, self.judge.utterances
        self.dropped = written + self.store.dropped + self.judge.dropped
        if not self.train:
            raise ValueError(f"there is nothing to learn from. {said(self.dropped)}")
        self.texts = [units.encode(normal(u.text, config.fold)) for u in self.train]
        told, there = np.array([u.duration for u in self.train]), np.array(self.store.frames) * FRAME - TAIL * STEP
        told = np.where(told - there <= FRAME, told, there)  # a file may be a little shorter than it was said to be
        self.seconds = told[:, None] / np.array(config.speeds) + TAIL * STEP  # [N, speeds]
        self.need = np.array([self.steps(t) for t in self.texts])
        if aligner is not None and all(" " not in normal(u.text) for u in self.train):
            raise ValueError("recordings are spliced between words, and these texts have no spaces there. Leave the aligner out.")
        self.phrases = None if aligner is None else self.store.phrases(aligner, config.fold)
        self.fits = np.floor(self.seconds / STEP + 1e-6) >= self.need[:, None]  # the text at that speed, [N, speeds]

    def model(self) -> nn.Module:
        """A fresh network that knows the mean and scale of the features; or one that starts from given weights."""
        made = self.recipe.network()
        mean, scale = self.store.moments
        made.mean.copy_(torch.from_numpy(mean))
        made.scale.copy_(torch.from_numpy(scale))
        made.load_state_dict(taken(self.start or {}, made), strict=False)
        return made

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Batches[Batch]:
        """Each utterance once, at a speed drawn for it, beside others of its length; at first short ones only."""
        if split != "train":
            raise ValueError(f"only split 'train' comes in batches, got {split!r}; score() sees the others whole.")
        rng = np.random.default_rng(seed)
        speed = (rng.random(self.fits.shape) * self.fits).argmax(1)
        seconds = self.seconds[np.arange(len(speed)), speed]
        tempo = rng.uniform(1 - self.config.tempo, 1 + self.config.tempo, len(speed))
        tempo = np.minimum(tempo, np.maximum(np.floor(seconds / STEP) / (self.need + 1), 1))
        seconds = seconds / tempo + LEAD * STEP
        easy = epoch < self.config.curriculum
        share = EASY if easy else 1.0
        some = np.flatnonzero(seconds <= np.quantile(seconds, share))
        lists = buckets(seconds[some], max(share * self.config.seconds, seconds[some].max()), rng)
        return Batches(len(lists), lambda k: self.draw(some[lists[k]], speed, tempo, np.random.default_rng([seed, k]), easy))

    def draw(self, rows: NDArray, speed: NDArray, tempo: NDArray, rng: np.random.Generator, easy: bool = False) -> Batch:
        """One batch; nothing in it is blanked if it is to be easy."""
        c, made, texts, lead = self.config, list[NDArray[np.float32]](), list[Sequence[int]](), list[int]()
        for k in rows:
            x, text = self.said(int(k), c.speeds[speed[k]], tempo[k], rng)
            if c.warp:
                x = self.recipe.filterbank.warp(x, rng.uniform(1 - c.warp, 1 + c.warp))
            x = x + np.float32(rng.uniform(-c.gain, c.gain) * math.log(10) / 10)
            if not easy:
                x = augment.spec_augment(x, rng, c.freq_masks, c.freq_width, c.time_masks, c.time_width / FRAME)
            lead.append(int(rng.integers(LEAD + 1)))
            made.append(np.concatenate([quiet(x, SUBSAMPLING * lead[-1], rng), x]))
            texts.append(text)
        return pad(made, texts, lead)

    def said(self, k: int, speed: float, tempo: float, rng: np.random.Generator) -> tuple[NDArray[np.float32], Sequence[int]]:
        """Features and tokens of an utterance at a speed and tempo, as it is or spliced, and then no longer than it is."""
        x, tail = self.store(k, speed, rng), TAIL * SUBSAMPLING
        made, text = x[:-tail], self.texts[k]
        if self.phrases is not None and rng.random() < self.config.splice:
            parts, words = self.phrases.draw(self.train[k].speaker, len(made), lambda n: self.store(n, speed, rng), speed, rng)
            tokens = self.recipe.units.encode(" ".join(words))
            if parts and (sum(map(len, parts)) / tempo + tail) // SUBSAMPLING > self.steps(tokens):
                made, text = np.concatenate(parts), tokens
        return np.concatenate([augment.tempo(made, tempo), x[-tail:]]), text

    def steps(self, text: Sequence[int]) -> int:
        """Steps that it takes to write some tokens, at least."""
        return len(text) + (self.config.model != "transducer") * sum(a == b for a, b in pairwise(text))

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """CTC, transducer or both, per token."""
        return Loss(cast(Network, model).loss(batch), float(batch.lengths.sum()))

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Word and character error rate in percent, decoded greedily, and the share of steps that say nothing."""
        if split != "valid" or not self.valid:
            return {}
        return self.judge.score(cast(Network, model))

    def predict(self, model: nn.Module, request: Sequence[Utterance]) -> list[str]:
        """The texts of some utterances, decoded greedily."""
        return Judge(self.recipe, request).texts(cast(Network, model))[0]

    def inputs(self) -> dict[str, Input]:
        """The inputs of the network's encoder."""
        return {"features": Input(("B", "T", self.config.bins), "float32", "log-mel filter banks, every 10 ms"),
                "frames": Input(("B",), "int64", "frames of each utterance")}  # fmt: skip

    def data(self) -> dict[str, Plain]:
        """Counts, and a checksum of names, lengths and texts."""
        said = [(u.id, round(u.duration, 3), u.text) for us in (self.train, self.valid) for u in us]
        cut = self.phrases.found if self.phrases else ()
        return {"train": len(self.train), "valid": len(self.valid), "phrases": len(cut),
                "checksum": zlib.crc32(repr((said, cut)).encode())}  # fmt: skip


class Audible:
    """The utterances that can be heard, each read once to know; and their features, kept as long as memory lasts.

    Attributes:
        utterances: those that can be heard.
        frames: of each, with the silence that follows.
        dropped: the others.
    """

    def __init__(self, recipe: Recipe, utterances: Sequence[Utterance]) -> None:
        self.recipe, self.bytes = recipe, 0
        self.kept: dict[tuple[int, float], NDArray[np.float32]] = {}
        self.utterances: list[Utterance] = []
        self.frames: list[int] = []
        self.dropped: list[Drop] = []
        for u in utterances:
            try:
                made = recipe.features(u)
            except audio.AudioError as e:
                self.dropped.append(Drop(u, "that cannot be heard", str(e)))
                continue
            self.keep(len(self.utterances), 1.0, made)
            self.frames.append(len(made))
            self.utterances.append(u)

    def keep(self, k: int, speed: float, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features, which are kept if there is room."""
        if self.bytes < MEMORY:
            self.kept[k, speed] = features
            self.bytes += features.nbytes
        return features

    def plain(self, k: int) -> NDArray[np.float32]:
        """Features of utterance k as it is, [T, bins]."""
        found = self.kept.get((k, 1.0))
        return self.recipe.features(self.utterances[k]) if found is None else found


class Store(Audible):
    """Features of the training utterances, at any speed. With noise or echo they are made anew each time."""

    def __init__(self, recipe: Recipe, utterances: Sequence[Utterance]) -> None:
        c = recipe.config  # wrong folders are said before all recordings are read
        self.wild = augment.Wild(c.rate, noise=c.noise, reverb=c.reverb) if c.noise or c.reverb else None
        super().__init__(recipe, utterances)

    def __call__(self, k: int, speed: float, rng: np.random.Generator) -> NDArray[np.float32]:
        """Features of utterance k, played at a speed, [T, bins]."""
        if self.wild is None and (k, speed) in self.kept:
            return self.kept[k, speed]
        c, u = self.recipe.config, self.utterances[k]
        x = augment.speed(audio.read(u.audio, c.rate, u.start, u.duration), speed)
        if self.wild is not None:
            x = self.wild(x, rng, c.noise_share, c.snr, c.reverb_share)
        made = self.recipe.whole(x)
        return self.keep(k, speed, made) if self.wild is None else made

    def phrases(self, aligner: Aligner, fold: bool) -> Phrases:
        """All utterances cut at their pauses; one that cannot be aligned is a phrase as a whole."""
        found: list[Phrase] = []
        for k, u in enumerate(self.utterances):
            x, words = self.plain(k)[: -TAIL * SUBSAMPLING], normal(u.text, fold).split(" ")
            try:
                spans = [(round(a / FRAME), round(b / FRAME)) for a, b in aligner(u)]
            except ValueError:
                words, spans = [" ".join(words)], [(0, len(x))]
            found += phrases(k, x, words, spans)
        return Phrases(found, [u.speaker for u in self.utterances])

    @cached_property
    def moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and inverse deviation of each filter, over some of the utterances as they are, [bins] each."""
        rng = np.random.default_rng(0)
        some = rng.permutation(len(self.utterances))[:LEARN]
        n, total, squares = 0, np.zeros(self.recipe.config.bins), np.zeros(self.recipe.config.bins)
        for k in some:
            x = self.plain(int(k)).astype(np.float64)
            n, total, squares = n + len(x), total + x.sum(0), squares + (x * x).sum(0)
        mean = total / n
        deviation = np.sqrt(np.maximum(squares / n - mean * mean, LEAST))
        return mean.astype(np.float32), (1 / deviation).astype(np.float32)


class Judge(Audible):
    """Utterances with known texts, recognised greedily and scored: all that can be heard, hard ones too."""

    def __init__(self, recipe: Recipe, utterances: Sequence[Utterance]) -> None:
        super().__init__(recipe, utterances)
        self.truth = [normal(u.text, recipe.config.fold) for u in self.utterances]

    @cached_property
    def batches(self) -> list[tuple[NDArray, Batch]]:
        """All utterances beside others of their length."""
        seconds = np.array([u.duration for u in self.utterances]) + TAIL * STEP
        lists = buckets(seconds, max(CHUNK, seconds.max(initial=0)), np.random.default_rng(0))
        return [(rows, pad([self.plain(int(k)) for k in rows], [[]] * len(rows))) for rows in lists]

    def texts(self, model: Network) -> tuple[list[str], float]:
        """What the network writes, and the share of encoder steps at which it writes nothing."""
        made, steps, written = [""] * len(self.utterances), 0, 0
        for rows, batch in self.batches:
            for k, (tokens, n, busy) in zip(rows, recognise(model, batch), strict=True):
                made[k] = self.recipe.units.decode(tokens)
                steps, written = steps + n, written + busy
        return made, 1 - written / max(steps, 1)

    def score(self, model: Network) -> dict[str, float]:
        """WER and CER in percent, and the share of blanks in percent."""
        made, blank = self.texts(model)
        return {"WER": 100 * metrics.wer(self.truth, made), "CER": 100 * metrics.cer(self.truth, made), "blank": 100 * blank}


@torch.no_grad()
def recognise(model: Network, batch: Batch) -> list[tuple[tuple[int, ...], int, int]]:
    """Greedy tokens of each utterance of a batch, its encoder steps, and those of them at which a token is read or written."""
    device = model.mean.device
    encoded, steps, _ = model.encode(batch.features.to(device), batch.frames.to(device))
    if model.predictor is not None:
        made = greedy(model, model.meet(encoded), steps)
        return [(h.tokens, n, len(set(h.times))) for h, n in zip(made, steps.tolist(), strict=True)]
    logp = [x[:n] for x, n in zip(model.log_probs(encoded).float().cpu().numpy(), steps.tolist(), strict=True)]
    return [(decode.greedy(x).tokens, len(x), int((x.argmax(1) != 0).sum())) for x in logp]
