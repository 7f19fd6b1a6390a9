"""`Translator`: raw text in, raw text out. Train, translate, score, evaluate, save, load."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Self, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from longshort import artefact, checks
from longshort.apps.translate import data
from longshort.apps.translate.confidence import Calibration
from longshort.apps.translate.config import Config as _Config
from longshort.apps.translate.data import Pair
from longshort.apps.translate.decode import force
from longshort.apps.translate.decoding import TOGETHER, Decoding, Reader, alike
from longshort.apps.translate.model import Network
from longshort.apps.translate.shortlist import shortlist
from longshort.apps.translate.steps import prepared
from longshort.apps.translate.task import TranslateTask
from longshort.apps.translate.text import Layout, units
from longshort.apps.translate.translation import Translation
from longshort.apps.translate.tuning import tuned
from longshort.apps.translate.vocabulary import EOS, Vocabulary
from longshort.artefact import Artefact, Score
from longshort.cell import Cell
from longshort.probe import Watch
from longshort.train import Training, train

DEFAULT = Training(epochs=15, lr=2e-3, warmup=0.04, evaluate=500, patience=10, average=0.999, betas=(0.9, 0.98), bf16=True)
ENOUGH = 2000  # updates that a network needs from nothing, however few the pairs
CELL = Cell()
BROUGHT = ("units", "pieces", "shared", "fallback")  # settings that belong to the vocabularies of a model to start from
AHEAD = 1000  # lines that are read before they are translated, those of like length together
Pairs = str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | Sequence[Pair]


class Translator:
    """Machine translation that learns from sentence pairs.

        translator = Translator().fit(("train.en", "train.de"), ("valid.en", "valid.de"))
        translator.translate("A man is riding a bicycle.")
        translator.save("model.safetensors")

    Args:
        config: all settings at once, instead of fields.
        training: how to train; None takes `DEFAULT`, with more passes where those over few pairs would not be enough.
        cell: the variant of the LSTMs; None is the plain one.
        **fields: fields of `Config`.

    Raises:
        TypeError: config and fields are both given, or a field is unknown.
        ValueError: a field is out of range.
    """

    Config = _Config

    def __init__(
        self, *, config: _Config | None = None, training: Training | None = None, cell: Cell | None = None, **fields: Any
    ) -> None:
        self.config = checks.configured(self, _Config, config, fields)
        self.training, self.cell = training or DEFAULT, cell or CELL
        self.more = training is None  # whether few pairs ask for more passes
        self.network: Network | None = None
        self.vocabularies: tuple[Vocabulary, Vocabulary] | None = None
        self.shortlist: Tensor | None = None
        self.length_penalty, self.calibration = 1.0, Calibration()
        self.scores: tuple[Score, ...] = ()
        self.dropped: list[data.Drop] = []
        self.friends: list[Network] = []

    def __repr__(self) -> str:
        return f"Translator(config={self.config}, {'fitted' if self.network else 'not fitted'})"

    def fit(
        self, train_data: Pairs, valid_data: Pairs | None = None, *, start: Translator | str | os.PathLike[str] | None = None,
        progress: bool = False, checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None,
        watch: Watch | None = None, preview: Path | str | None = None,
    ) -> Self:  # fmt: skip
        """Train on sentence pairs.

        Args:
            train_data: two files, of which line n of one translates line n of the other; a TSV file; or a list of `Pair`.
            valid_data: likewise; tells which weights are best, and how much longer translations are to be liked. None: nothing
                does, and the last weights are taken.
            start: a translator, or its file, to start from: its vocabularies with the settings that made them, and all weights
                that have a place here.
            progress: show loss, score and time left.
            checkpoint: file for the state of the run, so that it can be resumed.
            resume: go on from the checkpoint.
            log: file that gets one JSON line per validation score.
            watch: looks at gates and gradient flow while it trains, see `probe.Watch`.
            preview: file for the model as it is at each score, for `longshort inspect FILE ... --serve`.

        Returns:
            Itself; `dropped` lists what was left out, `scores` the validation scores.

        Raises:
            ValueError, OSError: the data is wrong; the message names the file and the line.
        """
        first = start if start is None or isinstance(start, Translator) else Translator.load(Path(start))
        if first is not None:  # what is settled by its vocabularies
            self.config = replace(self.config, **{k: getattr(first.config, k) for k in BROUGHT})
        pairs, valid = _pairs(train_data), data.judges(_pairs(valid_data))
        begin = first.fitted.state_dict() if first else None
        task = TranslateTask(self.config, pairs, valid, self.cell, first.vocabularies if first else None, begin)
        how = self.training
        if self.more and first is None:
            least = math.ceil(ENOUGH * how.accumulate / len(task.batches("train", how.seed)))
            how = replace(how, epochs=max(how.epochs or 0, least))
        self.dropped = task.dropped
        if task.dropped:
            warnings.warn(data.said(task.dropped), UserWarning, stacklevel=2)

        preview = None if preview is None else artefact.prepare(preview)

        def write(network: nn.Module) -> None:
            made = Translator(config=self.config, training=self.training, cell=self.cell)
            made.network, made.vocabularies = cast(Network, network), task.vocabularies
            made.save(cast(Path, preview))

        result = train(task, how, progress=progress, checkpoint=checkpoint, resume=resume, log=log, watch=watch,
                       preview=None if preview is None else write)  # fmt: skip
        self.network, self.vocabularies, self.friends = cast(Network, result.model), task.vocabularies, []
        self.length_penalty, self.calibration = 1.0, Calibration()
        if self.config.shortlist:
            read, written = map(len, task.vocabularies)
            old = None if first is None else first.shortlist  # first may be this one
            self.shortlist = torch.from_numpy(shortlist(*task.plain, read, written, self.config.shortlist))
            if old is not None:  # tokens that these pairs do not hold
                bare, size = self.shortlist[:, 0] < 0, min(self.shortlist.shape[1], old.shape[1])
                self.shortlist[bare, :size] = old[bare, :size]
        if task.valid:
            self.tune(task.valid)
        self.scores = (Score("valid", date.today().isoformat(), result.scores),) if result.scores else ()
        return self

    def tune(self, pairs: Pairs) -> Self:
        """Learn from pairs that were not trained on how longer translations are to be liked, and how sure one may be. `fit` has
        done it with its validation pairs; an ensemble has both from its first model until it is asked.

        Args:
            pairs: as `fit`'s data; up to 500 of them are translated.

        Raises:
            RuntimeError: nothing is fitted.
            ValueError, OSError: the data is wrong, or a translation is empty; the message names the place.
        """
        told = data.judges(_pairs(pairs))
        self.length_penalty, self.calibration = tuned(self.reader().once, told, self.config.metric)
        return self

    @overload
    def translate(self, text: str, **how: Any) -> str: ...
    @overload
    def translate(self, text: Sequence[str], **how: Any) -> list[str]: ...
    def translate(self, text: str | Sequence[str], **how: Any) -> str | list[str]:
        """The translation of a text, or of each of several. Lines, empty lines and blanks around them stay where they are.

        Args:
            text: one or more texts; each line is a sentence.
            **how: fields of `Decoding` and `Search`.
        """
        if isinstance(text, str):
            return next(self.each([text], **how))
        return list(self.each(text, **how))

    def each(self, texts: Iterable[str], **how: Any) -> Iterator[str]:
        """As `translate`, one text after another; some are read ahead. Arguments and errors are the same."""
        for layout, made in self.explain_each(texts, **how):
            yield layout.join([t.text for t in made])

    def explain(self, text: str, **how: Any) -> list[Translation]:
        """All that is known of the translation of each sentence of a text. Arguments and errors are those of `translate`."""
        return next(self.explain_each([text], **how))[1]

    def explain_each(self, texts: Iterable[str], **how: Any) -> Iterator[tuple[Layout, list[Translation]]]:
        """Layout and translations of one text after another."""
        decoding, reader = Decoding.of(**{"length_penalty": self.length_penalty, **how}), self.reader()
        texts = iter(texts)
        while ahead := list(islice(texts, AHEAD)):
            if strange := [t for t in ahead if not isinstance(t, str)]:
                raise TypeError(f"a text must be a string, got {strange[0]!r}.")
            layouts = [units(t, decoding.keep) for t in ahead]
            made = iter(reader([s for layout in layouts for s in layout.sentences], decoding))
            for layout in layouts:
                yield layout, list(islice(made, len(layout.sentences)))

    def score(self, pairs: Pairs) -> list[float]:
        """The natural log-probability of each of some given translations, end included."""
        source, target = self._vocabularies
        told = _pairs(pairs)
        sides = [source.encode(p.source) for p in told], [target.encode(p.target) for p in told]
        made, lengths = np.zeros(len(told)), np.array([len(s) for s in sides[0]])
        with prepared([self.fitted, *self.friends]) as networks:
            for rows in alike(lengths, TOGETHER):
                x = torch.tensor([[*sides[0][k], EOS] for k in rows])
                made[rows] = [h.logp for h in force(networks, x, [sides[1][k] for k in rows])]
        return made.tolist()

    def together(self, *others: Translator | str | os.PathLike[str]) -> Self:
        """An ensemble of this translator and others with the same vocabularies: their probabilities are averaged.

        Raises:
            ValueError: another one has other vocabularies.
        """
        made = type(self)(config=self.config, training=self.training, cell=self.cell)
        made.__dict__ |= self.__dict__
        made.friends = list(self.friends)
        for other in others:
            t = other if isinstance(other, Translator) else Translator.load(Path(other))
            if t._vocabularies != self._vocabularies:
                name = "a translator" if isinstance(other, Translator) else os.fspath(other)
                raise ValueError(f"all of an ensemble must have the same vocabularies, {name} has others. Train them on the same "
                                 "pairs with different seeds, or start one from the other.")  # fmt: skip
            made.friends += [t.fitted, *t.friends]
        return made

    def evaluate(self, pairs: Pairs, language: str | None = None, **how: Any) -> Any:
        """Translate sentences whose translations are known, and compare.

        Args:
            pairs: as `fit`'s data.
            language: two letters of the target language; then the score of papers on Multi30k is there as well.
            **how: as in `translate`.

        Returns:
            An `Evaluation`: BLEU and chrF with their signatures, worst sentences, calibration, speed.
        """
        from longshort.apps.translate.evaluation import evaluate

        return evaluate(self, data.judges(_pairs(pairs)), language, **how)

    def save(self, path: Path | str) -> Path:
        """Write the model as one .safetensors file.

        Raises:
            RuntimeError: nothing is fitted.
            ValueError: it is an ensemble.
            OSError: the file cannot be written.
        """
        if self.friends:
            raise ValueError(f"a file holds one model, and this is an ensemble of {1 + len(self.friends)}. Save each, and open "
                             "them together: Translator.load(one, other).")  # fmt: skip
        source, target = self._vocabularies
        tensors = dict(self.fitted.state_dict())
        if self.config.tied == "all":  # one matrix, one name
            del tensors["source"]
        if self.shortlist is not None:
            tensors["shortlist"] = self.shortlist
        extra = {"source": source.extra(), "target": None if target is source else target.extra(),
                 "length_penalty": self.length_penalty, "confidence": asdict(self.calibration),
                 "shortlist": self.shortlist is not None}  # fmt: skip
        return artefact.save(path, Artefact("translate", self.config, self.cell, tensors, self.scores, extra=extra))

    @classmethod
    def load(cls, path: Path | str, *others: Path | str) -> Self:
        """Open a file that `save` wrote; with others, an ensemble.

        Raises:
            ArtefactError: it is no such file.
            ValueError: one of the others has other vocabularies.
        """
        made = artefact.load(path, "translate")
        return made.together(*others) if others else made

    @classmethod
    def expected(cls, config: Any, cell: Cell, extra: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """See `artefact.Application`."""
        source, target = _opened(extra)
        with torch.device("meta"):
            made = dict(Network(config, cell, len(source), len(target)).state_dict())
            if config.tied == "all":
                del made["source"]
            if extra["shortlist"]:
                made["shortlist"] = torch.empty(len(source), config.shortlist, dtype=torch.int32)
        return made

    @classmethod
    def from_artefact(cls, held: Artefact) -> Self:
        """See `artefact.Application`."""
        made = cls(config=held.config, cell=held.cell)
        made.vocabularies = _opened(held.extra)
        tensors = dict(held.tensors)
        made.shortlist = tensors.pop("shortlist", None)
        made.network = Network(held.config, held.cell, *map(len, made.vocabularies))
        made.network.load_state_dict(tensors | ({"source": tensors["target"]} if held.config.tied == "all" else {}))
        made.network.eval()
        made.calibration = Calibration(**held.extra["confidence"])
        made.length_penalty, made.scores = float(held.extra["length_penalty"]), tuple(held.scores)
        return made

    def reader(self) -> Reader:
        """What translates sentences."""
        return Reader([self.fitted, *self.friends], *self._vocabularies, self.shortlist, self.calibration)

    @property
    def fitted(self) -> Network:
        """The network, in evaluation mode.

        Raises:
            RuntimeError: nothing is fitted.
        """
        if self.network is None:
            raise RuntimeError("nothing is fitted yet: Translator().fit(('train.en', 'train.de')), or Translator.load(file).")
        return self.network

    @property
    def source(self) -> Vocabulary:
        """The tokens that are read."""
        return self._vocabularies[0]

    @property
    def target(self) -> Vocabulary:
        """The tokens that are written."""
        return self._vocabularies[1]

    @property
    def _vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        _ = self.fitted
        return cast(tuple[Vocabulary, Vocabulary], self.vocabularies)


def _pairs(given: Pairs | None) -> Sequence[Pair]:
    if given is None:
        return ()
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(g, str | os.PathLike) for g in given):
        return data.read(*given)
    return data.read(given)


def _opened(extra: Mapping[str, Any]) -> tuple[Vocabulary, Vocabulary]:
    source = Vocabulary.from_extra(extra["source"])
    return source, source if extra["target"] is None else Vocabulary.from_extra(extra["target"])
