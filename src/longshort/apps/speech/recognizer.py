"""`Recognizer`: what a person holds. Recordings in, transcripts out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from longshort import artefact, checks
from longshort.apps.speech import align, audio, data
from longshort.apps.speech.confidence import Calibration
from longshort.apps.speech.config import STEP, TAIL
from longshort.apps.speech.config import Config as _Config
from longshort.apps.speech.data import Utterance
from longshort.apps.speech.decoding import Decoding, Reader
from longshort.apps.speech.model import Network
from longshort.apps.speech.ngram import MARKS, NGram
from longshort.apps.speech.stream import Endpoint, Stream, advance
from longshort.apps.speech.task import CHUNK, Recipe, SpeechTask, pad
from longshort.apps.speech.transcript import Token, Transcript, Word
from longshort.apps.speech.units import Units, normal
from longshort.artefact import Artefact, Score
from longshort.cell import Cell
from longshort.probe import Watch
from longshort.train import Training, train

BROUGHT = ("units", "pieces")  # settings that belong to the units of a model to start from
DEFAULT = Training(epochs=100, lr=1e-3, warmup=0.1, evaluate=200, patience=0, average=0.998)
CELL = Cell(layer_norm=True)
SILENT = 99.0  # percent of blanks from which on a network writes nothing
WRONG = 90.0  # CER in percent from which on a network that is silent has not learned
Sound = str | os.PathLike[str] | ArrayLike | Utterance
TOGETHER = 16  # recordings that a streaming network hears at once


class Recognizer:
    """Speech recognition trained on one's own recordings.

        recognizer = Recognizer().fit("train.jsonl", "valid.jsonl")
        recognizer.transcribe("a.wav").text
        stream = recognizer.stream()
        recognizer.save("model.safetensors")

    Args:
        config: all settings at once, instead of fields.
        training: how to train; None takes `DEFAULT`.
        cell: the variant of the LSTM; None is the one with layer norm.
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
        self.network: Network | None = None
        self.recipe: Recipe | None = None
        self.reader: Reader | None = None
        self.scores: tuple[Score, ...] = ()
        self.dropped: list[data.Drop] = []

    def __repr__(self) -> str:
        return f"Recognizer(config={self.config}, {'fitted' if self.network else 'not fitted'})"

    def fit(
        self, train_data: Any, valid_data: Any = None, *, start: Recognizer | str | os.PathLike[str] | None = None,
        aligner: Recognizer | str | os.PathLike[str] | None = None, progress: bool = False,
        checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None, watch: Watch | None = None,
        preview: Path | str | None = None,
    ) -> Self:  # fmt: skip
        """Train on recordings with their texts.

        Args:
            train_data: manifest, Kaldi folder or lhotse cuts (see `data.read`), or a list of `Utterance`.
            valid_data: likewise; tells which weights are best, how sure words are, and how much an n-gram helps. None: nothing
                does, and the last weights are taken.
            start: a recogniser, or its file, to start from: all weights that have a place here are taken, and its units. So a
                transducer starts from a CTC encoder, and a model is trained further on other data.
            aligner: a recogniser, or its file, that finds the pauses of the training utterances, so that they can be spliced (see
                `Config.splice`): one with a CTC part that was trained on them, best of all with streaming=False.
            progress: show loss, score and time left.
            checkpoint: file for the state of the run, so that it can be resumed.
            resume: go on from the checkpoint.
            log: file that gets one JSON line per validation score.
            watch: looks at gates and gradient flow while it trains, and TensorBoard's files, see `probe.Watch`.
            preview: file for the model as it is at each score, for `longshort inspect FILE ... --serve`.

        Returns:
            Itself; `dropped` lists what was left out, `scores` the validation scores.

        Raises:
            ValueError, OSError: the data is wrong; the message names the file and the line.
        """
        first, cutter = (v if v is None or isinstance(v, Recognizer) else Recognizer.load(Path(v)) for v in (start, aligner))
        if cutter is not None and cutter.fitted.head is None:
            raise ValueError("the aligner must have a CTC part, model='ctc' or model='joint'; this is a transducer.")
        sets = [data.read(d) if isinstance(d, str | os.PathLike) else list(d or ()) for d in (train_data, valid_data)]
        if first is not None:  # what is settled by its units
            self.config = replace(self.config, **{k: getattr(first.config, k) for k in BROUGHT})
        units = first.units if first else None
        start_from = first.fitted.state_dict() if first else None
        spans = None if cutter is None else lambda u: [(w.start, w.end) for w in cutter.align(u, u.text).words]
        task = SpeechTask(self.config, sets[0], sets[1], self.cell, units, start_from, spans)
        self.dropped = task.dropped
        if task.dropped:
            warnings.warn(data.said(task.dropped), UserWarning, stacklevel=2)

        preview = None if preview is None else artefact.prepare(preview)

        def write(network: nn.Module) -> None:
            made = Recognizer(config=self.config, training=self.training, cell=self.cell)
            made.network, made.recipe, made.reader = cast(Network, network), task.recipe, Reader(task.recipe.units)
            made.save(cast(Path, preview))

        told: list[list[str]] = []
        if self.config.ngram:
            told = [task.recipe.units.split(normal(u.text, self.config.fold)) for u in task.train]
            for u, text in zip(task.train, told, strict=True):
                if marks := {*MARKS[1:]}.intersection(text):
                    raise ValueError(
                        f"{u.where or u.id}: the text holds {min(marks)}, which an n-gram keeps for itself. Leave it out, or "
                        "take ngram=0."
                    )
        result = train(task, self.training, progress=progress, checkpoint=checkpoint, resume=resume, log=log, watch=watch,
                       preview=None if preview is None else write)  # fmt: skip
        self.network, self.recipe = cast(Network, result.model), task.recipe
        ngram = NGram.fit(told, self.config.ngram) if self.config.ngram else None
        self.reader = Reader(task.recipe.units, ngram=ngram)
        if task.valid:
            from longshort.apps.speech.tuning import tuned

            self.reader = tuned(self.network, task.judge, self.reader)
        self.scores = (Score("valid", date.today().isoformat(), result.scores),) if result.scores else ()
        blank, wrong = (result.scores.get(k) or 0.0 for k in ("blank", "CER"))
        if blank > SILENT and wrong > WRONG:  # few words in long recordings are mostly blanks, too
            warnings.warn(
                f"the network writes nothing: {blank:.1f} % of its steps are blank. It has not learned to listen yet: train "
                "longer (most need thousands of updates), raise lr, take smaller batches (seconds), or check that texts belong "
                "to their recordings.", UserWarning, stacklevel=2,
            )  # fmt: skip
        elif wrong > WRONG:
            warnings.warn(
                f"the network has hardly learned yet: {wrong:.0f} errors in 100 characters. Train longer: most need thousands of "
                "updates.", UserWarning, stacklevel=2,
            )  # fmt: skip
        return self

    def transcribe(self, sound: Sound | Sequence[Sound], rate: int | None = None, **how: Any) -> Any:
        """What is said in a recording, or in each of several.

        Args:
            sound: a file; samples as an array, floats in [-1, 1] or whole numbers; an `Utterance`; or a list of these.
            rate: of arrays: samples per second.
            **how: fields of `Decoding`, and endpoint=Endpoint(...) for long recordings of a streaming model.

        Returns:
            A `Transcript`, or one for each.

        Raises:
            AudioError: a file cannot be heard; the message names it.
            ValueError: no rate for an array, or a wrong field.
        """
        many = isinstance(sound, list | tuple)
        made = list(self.each(cast(Sequence[Sound], sound) if many else [cast(Sound, sound)], rate, **how))
        return made if many else made[0]

    def each(self, sounds: Iterable[Sound], rate: int | None = None, **how: Any) -> Iterator[Transcript]:
        """As `transcribe`, one after another as they are done. Arguments and errors are the same."""
        endpoint = how.pop("endpoint", None)
        decoding, network = self._decoding(how), self.fitted
        if endpoint is not None and decoding.alternatives > 1:
            raise ValueError("alternatives are those of one utterance, and endpoint cuts a recording into several. Leave one "
                             "out, or take stream(endpoint=...), whose `finished` hold alternatives of each.")  # fmt: skip
        search = self._reader.searches(network, decoding)
        group: list[tuple[str, NDArray]] = []
        for sound in sounds:
            group.append(self._samples(sound, rate))
            if len(group) == TOGETHER or sum(len(x) for _, x in group) > TOGETHER * CHUNK * self.config.rate:
                yield from self._hear(group, search, decoding, endpoint)
                group = []
        if group:
            yield from self._hear(group, search, decoding, endpoint)

    def stream(self, *, endpoint: Endpoint | None = None, **how: Any) -> Stream:
        """Hear a recording while it is made.

        Args:
            endpoint: when an utterance is over and the next begins; None: when the recording is.
            **how: fields of `Decoding`.

        Raises:
            ValueError: the model hears in both directions, or a wrong field.
        """
        if not self.config.streaming:
            raise ValueError("this recogniser hears in both directions, so it needs whole recordings: transcribe(). "
                             "Train one with streaming=True to hear as the sound comes.")  # fmt: skip
        decoding = self._decoding(how)
        return self._open(self._reader.searches(self.fitted, decoding), decoding, endpoint, "")

    def align(self, sound: Sound, text: str, rate: int | None = None) -> Transcript:
        """When each word of a known text is said.

        Args:
            sound: as in `transcribe`.
            text: what is said.
            rate: of an array: samples per second.

        Returns:
            The text with times; confidence is how well the sound fits each word.

        Raises:
            ValueError: the model has no CTC part, there is no sound, or the text is too long for it or has unknown characters.
        """
        network, units = self.fitted, self.units
        if network.head is None:
            raise ValueError("only model='ctc' and model='joint' can align; this is a transducer.")
        name, samples = self._samples(sound, rate)
        if not len(samples):
            raise ValueError("there is no sound to find the text in: the array is empty.")
        features = self._recipe.whole(samples)
        with torch.no_grad():
            encoded, steps, _ = network.encode(torch.from_numpy(features)[None], torch.tensor([len(features)]))
            logp = network.log_probs(encoded)[0].float().numpy()
        tokens = units.encode(normal(text, self.config.fold))
        made = align.align(logp, tokens)
        last, found = int(steps[0]) - TAIL, list[Word]()
        for at in units.words(tokens):
            start, end = min(int(made.start[at[0]]), last - 1), min(int(made.end[at[-1]]), last)
            sure = self._reader.calibration(made.token_logp[at].tolist())
            found.append(Word(units.decode([tokens[k] for k in at]), start * STEP, end * STEP, sure))
        each = tuple(Token(units.written[k], min(int(t), last - 1) * STEP, float(p))
                     for k, t, p in zip(tokens, made.start, made.token_logp, strict=True))  # fmt: skip
        return Transcript(units.decode(tokens), tuple(found), made.logp, last * STEP, name=name, tokens=each)

    def evaluate(self, truth: Any, **how: Any) -> Any:
        """Recognise recordings whose texts are known, and compare.

        Args:
            truth: as `fit`'s data.
            **how: as in `transcribe`.

        Returns:
            An `Evaluation`: rates with intervals, confusions, worst utterances, calibration, speed.
        """
        from longshort.apps.speech.evaluation import evaluate

        return evaluate(self, data.read(truth) if isinstance(truth, str | os.PathLike) else list(truth), **how)

    def save(self, path: Path | str) -> Path:
        """Write the model as one .safetensors file.

        Raises:
            RuntimeError: nothing is fitted.
            OSError: the file cannot be written.
        """
        reader, tensors = self._reader, dict(self.fitted.state_dict())
        if reader.ngram is not None:
            tensors["ngram"] = torch.frombuffer(bytearray(reader.ngram.text().encode()), dtype=torch.uint8)
        sure, with_ngram = reader.calibration, reader.with_ngram
        extra = {"units": reader.units.extra(), "confidence": [sure.slope, sure.offset],
                 "ngram": {"weight": reader.ngram_weight, "bonus": reader.word_bonus,
                           "confidence": [with_ngram.slope, with_ngram.offset],
                           "bytes": len(tensors["ngram"]) if reader.ngram else 0}}  # fmt: skip
        return artefact.save(path, Artefact("speech", self.config, self.cell, tensors, self.scores, extra=extra))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a file that `save` wrote.

        Raises:
            ArtefactError: it is no such file.
        """
        return artefact.load(path, "speech")

    @classmethod
    def expected(cls, config: Any, cell: Cell, extra: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """See `artefact.Application`."""
        with torch.device("meta"):
            made = dict(Network(config, cell, len(Units.from_extra(extra["units"]))).state_dict())
            if n := int(extra["ngram"]["bytes"]):
                made["ngram"] = torch.empty(n, dtype=torch.uint8)
        return made

    @classmethod
    def from_artefact(cls, held: Artefact) -> Self:
        """See `artefact.Application`."""
        made = cls(config=held.config, cell=held.cell)
        units, own = Units.from_extra(held.extra["units"]), held.extra["ngram"]
        tensors = dict(held.tensors)
        text = tensors.pop("ngram", None)
        ngram = None if text is None else NGram.parse(text.numpy().tobytes().decode())
        made.recipe = Recipe(held.config, held.cell, units)
        made.network = made.recipe.network()
        made.network.load_state_dict(tensors)
        made.network.eval()
        sure, with_ngram = (Calibration(*map(float, v)) for v in (held.extra["confidence"], own["confidence"]))
        made.reader = Reader(units, sure, with_ngram, ngram, float(own["weight"]), float(own["bonus"]))
        made.scores = tuple(held.scores)
        return made

    def features(self, sound: Sound, rate: int | None = None) -> NDArray[np.float32]:
        """Log-mel features of a recording, [T, bins]; arguments as in `transcribe`."""
        return self._recipe.whole(self._samples(sound, rate)[1])

    def _decoding(self, how: Mapping[str, Any]) -> Decoding:
        """What was asked for; hotwords spelled as texts are."""
        made = Decoding(**how)
        if not made.hotwords:
            return made
        spelled: dict[str, float] = {}
        for phrase, score in made.hotwords.items():
            phrase = normal(phrase, self.config.fold)
            spelled[phrase] = spelled.get(phrase, 0.0) + score
        return replace(made, hotwords=spelled)

    def _samples(self, sound: Sound, rate: int | None) -> tuple[str, NDArray[np.float32]]:
        """Name and samples of a recording."""
        own = self.config.rate
        if isinstance(sound, Utterance):
            return sound.id, audio.read(sound.audio, own, sound.start, sound.duration)
        if isinstance(sound, str | os.PathLike):
            return str(sound), audio.read(sound, own)
        if rate is None:
            raise ValueError(f"samples need their rate: transcribe(samples, rate={own}).")
        return "", audio.mono(sound, rate, own)

    def _hear(self, group: Sequence[tuple[str, NDArray]], search: Any, how: Decoding, endpoint: Any) -> Iterator[Transcript]:
        network = self.fitted
        if self.config.streaming:
            streams = [self._open(search, how, endpoint, name) for name, _ in group]
            for s, (_, x) in zip(streams, group, strict=True):
                s.feed(x, self.config.rate)
            advance(streams)
            yield from (s.finish() for s in streams)
            return
        if endpoint is not None:
            raise ValueError("only a streaming model hears where utterances end; this one hears in both directions.")
        features = [self._recipe.whole(x) for _, x in group]
        made: dict[int, Transcript] = {}
        seconds = np.array([len(x) / 100 for x in features])
        with torch.no_grad():
            for rows in data.buckets(seconds, max(CHUNK, seconds.max()), np.random.default_rng(0)):
                batch = pad([features[k] for k in rows], [[]] * len(rows))
                encoded, steps, _ = network.encode(batch.features, batch.frames)
                for k, said, n in zip(rows, network.said(encoded), steps.tolist(), strict=True):
                    one = search()
                    one.accept(said[:n])
                    made[k] = self._reader.transcript(one.finish(how.wanted), 0, n - TAIL, group[k][0], how)
        yield from (made[k] for k in range(len(group)))

    def _open(self, search: Any, how: Decoding, endpoint: Endpoint | None, name: str) -> Stream:
        reader = self._reader

        def transcript(found: Sequence[Any], first: int, steps: int) -> Transcript:
            return reader.transcript(found, first, steps, name, how)

        def said(best: Any) -> str:
            return reader.units.decode(best.tokens)

        return Stream(self.fitted, self._recipe.filterbank, search, transcript, said, endpoint, how.wanted,
                      "" if reader.units.solid else " ")  # fmt: skip

    @property
    def units(self) -> Units:
        """The tokens."""
        return self._reader.units

    @property
    def fitted(self) -> Network:
        """The network, in evaluation mode.

        Raises:
            RuntimeError: nothing is fitted.
        """
        if self.network is None:
            raise RuntimeError("nothing is fitted yet: Recognizer().fit('train.jsonl', 'valid.jsonl'), or Recognizer.load(file).")
        return self.network

    @property
    def _reader(self) -> Reader:
        _ = self.fitted
        return cast(Reader, self.reader)

    @property
    def _recipe(self) -> Recipe:
        _ = self.fitted
        return cast(Recipe, self.recipe)
