"""`LanguageModel`: which token of a recogniser is likely next. Learned from text alone, it helps to choose what was said."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from longshort import artefact, checks
from longshort.apps.speech.language_task import LanguageConfig, LanguageNetwork, LanguageTask, Lines, Text, scores, surprise
from longshort.apps.speech.units import Units
from longshort.artefact import Artefact, Score
from longshort.cell import Cell
from longshort.probe import Watch
from longshort.train import Training, train

DEFAULT = Training(epochs=20, lr=2e-3, warmup=0.05, evaluate=500, patience=5, average=0.998)
MEMORY = 64 << 20  # bytes that a scorer keeps


class LanguageModel:
    """A language model over the tokens of a recogniser.

        model = LanguageModel().fit("corpus.txt", "valid.txt", units_of="recogniser.safetensors")
        recognizer.transcribe("a.wav", language=model)

    Args:
        config: all settings at once, instead of fields.
        training: how to train; None takes `DEFAULT`.
        cell: the variant of the LSTM; None is the plain one.
        **fields: fields of `LanguageConfig`.

    Raises:
        TypeError: config and fields are both given, or a field is unknown.
        ValueError: a field is out of range.

    Source: Mikolov et al. 2010, Recurrent neural network based language model; Sundermeyer et al. 2012, LSTM neural networks for
        language modeling.
    """

    Config = LanguageConfig

    def __init__(
        self, *, config: LanguageConfig | None = None, training: Training | None = None, cell: Cell | None = None, **fields: Any
    ) -> None:
        self.config = checks.configured(self, LanguageConfig, config, fields)
        self.training, self.cell = training or DEFAULT, cell or Cell()
        self.network: LanguageNetwork | None = None
        self.scores: tuple[Score, ...] = ()
        self._units: Units | None = None

    def __repr__(self) -> str:
        return f"LanguageModel(config={self.config}, {'fitted' if self.network else 'not fitted'})"

    def fit(
        self, text: Lines, valid: Lines | None = None, *, units_of: Any, progress: bool = False,
        checkpoint: Path | str | None = None, resume: bool = False, log: Path | str | None = None,
        watch: Watch | None = None, preview: Path | str | None = None,
    ) -> Self:  # fmt: skip
        """Train on sentences, one per line.

        Args:
            text: a file, UTF-8 and perhaps gzipped, or lines.
            valid: likewise, other sentences: tells which weights are best. None: nothing does, and the last ones are taken.
            units_of: whose tokens to learn: a recogniser or its file; another language model; or `Units`.
            progress: show loss, score and time left.
            checkpoint: file for the state of the run, so that it can be resumed.
            resume: go on from the checkpoint.
            log: file that gets one JSON line per validation score.
            watch: looks at gates and gradient flow while it trains, and TensorBoard's files, see `probe.Watch`.
            preview: file for the model as it is at each score, for `longshort inspect FILE ... --serve`.

        Returns:
            Itself. A warning says which lines were left out.

        Raises:
            ValueError: no line can be read, the message names the first; or the file units_of is of something else.
            TypeError: units_of has no units.
            OSError: a file cannot be read.
        """
        units, fold = _units_of(units_of)
        self.config = replace(self.config, fold=self.config.fold or fold)
        learn = self._read(text, units, self.config.tokens)
        task = LanguageTask(self.config, units, learn, None if valid is None else self._read(valid, units), self.cell)

        preview = None if preview is None else artefact.prepare(preview)

        def write(network: nn.Module) -> None:
            made = LanguageModel(config=self.config, training=self.training, cell=self.cell)
            made.network, made._units = cast(LanguageNetwork, network), units
            made.save(cast(Path, preview))

        result = train(task, self.training, progress=progress, checkpoint=checkpoint, resume=resume, log=log, watch=watch,
                       preview=None if preview is None else write)  # fmt: skip
        self.network, self._units = cast(LanguageNetwork, result.model), units
        self.scores = (Score("valid", date.today().isoformat(), result.scores),) if result.scores else ()
        return self

    def evaluate(self, text: Lines) -> dict[str, float]:
        """Perplexity per token, bits per character, and how many lines and tokens there are; see `fit` for the text.

        Raises:
            ValueError, OSError: as `fit`.
        """
        read = self._read(text, self.units)
        made = scores(read, surprise(self.fitted, read))
        return made | {"lines": len(read), "tokens": int(read.lengths.sum()), "dropped": read.dropped}

    def perplexity(self, text: Lines) -> float:
        """Perplexity per token, ends of sentences included; see `evaluate`."""
        return self.evaluate(text)["perplexity"]

    def log_probs(self, lines: Sequence[str]) -> NDArray[np.float64]:
        """Natural log-probability of each line with its end, [S].

        Raises:
            ValueError: the units cannot spell a line; the message says which.
        """
        return -surprise(self.fitted, Text.whole(lines, self.units, self.config.fold))

    def save(self, path: Path | str) -> Path:
        """Write the model as one .safetensors file.

        Raises:
            RuntimeError: nothing is fitted.
            OSError: the file cannot be written.
        """
        held = Artefact("language", self.config, self.cell, self.fitted.state_dict(), self.scores,
                        extra={"units": self.units.extra()})  # fmt: skip
        return artefact.save(path, held)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Open a file that `save` wrote.

        Raises:
            ArtefactError: it is no such file.
        """
        return artefact.load(path, "language")

    @classmethod
    def expected(cls, config: Any, cell: Cell, extra: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """See `artefact.Application`."""
        with torch.device("meta"):
            return LanguageNetwork(config, cell, len(Units.from_extra(extra["units"]))).state_dict()

    @classmethod
    def from_artefact(cls, held: Artefact) -> Self:
        """See `artefact.Application`."""
        made = cls(config=held.config, cell=held.cell)
        made._units = Units.from_extra(held.extra["units"])
        made.network = LanguageNetwork(held.config, held.cell, len(made._units))
        made.network.load_state_dict(dict(held.tensors))
        made.network.eval()
        made.scores = tuple(held.scores)
        return made

    @property
    def units(self) -> Units:
        """The tokens."""
        _ = self.fitted
        return cast(Units, self._units)

    @property
    def fitted(self) -> LanguageNetwork:
        """The network, in evaluation mode.

        Raises:
            RuntimeError: nothing is fitted.
        """
        if self.network is None:
            raise RuntimeError("nothing is fitted yet: LanguageModel().fit('corpus.txt', units_of='model.safetensors'), or "
                               "LanguageModel.load(file).")  # fmt: skip
        return self.network

    def _read(self, text: Lines, units: Units, most: float = float("inf")) -> Text:
        made = Text.read(text, units, self.config.fold, most)
        if made.said:
            warnings.warn(made.said, UserWarning, stacklevel=3)
        return made


class LanguageScorer:
    """A language model as a judge of tokens: shallow fusion. It gives

        weight * log p(token | tokens before) + bonus,  and at the end  weight * log p(end | tokens)

    The LSTM makes one step for each state that is asked about, however many tokens are asked for.

    Args:
        model: fitted.
        weight: of the log-probabilities, beside those of the acoustic model; 0 or more.
        bonus: per token, against the model's liking for few tokens; natural log.
        memory: bytes of states that are kept; forgotten ones are computed again when they are needed.

    Raises:
        ValueError: the weight is negative.

    Source: Gulcehre et al. 2015, On using monolingual corpora in neural machine translation (shallow fusion).
    """

    def __init__(self, model: LanguageModel, weight: float = 0.3, bonus: float = 0.0, memory: int = MEMORY) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"the weight of a language model must be 0 or more, got {weight}.")
        network = model.fitted
        self.weight, self.bonus, self._network = weight, bonus, network
        self._inputs = network.inputs.detach()  # [V, P]
        self._stream = network.lstm.stream()
        self._zero = self._stream.state
        each = 8 * len(self._inputs) + sum(v.nbytes for v in self._zero)
        self._most = max(memory // each, 2)  # states whose step is kept: the one that is made, and the one before it
        self._kept: OrderedDict[_State, None] = OrderedDict()  # the one used last stands last
        self._root = _State(None, 0)

    def start(self) -> _State:
        """See `Scorer`."""
        return self._root

    def score(self, state: _State, token: int) -> tuple[float, _State]:
        """See `Scorer`."""
        return self.weight * self._logp(state).item(token) + self.bonus, _State(state, token)

    def finish(self, state: _State) -> float:
        """See `Scorer`."""
        return self.weight * self._logp(state).item(0)

    def _logp(self, state: _State) -> NDArray[np.float32]:
        """Log-probabilities of what is next, the end first, [V]."""
        if state.step is None:
            path = [state]
            while (parent := path[-1].parent) is not None and parent.step is None:
                path.append(parent)
            for one in reversed(path):
                self._advance(one)
        return cast(_Step, state.step)[0]

    @torch.no_grad()
    def _advance(self, state: _State) -> None:
        """One step of the LSTM, from the state of the parent."""
        if state.parent is None:
            self._stream.state = self._zero
        else:
            self._stream.state = cast(_Step, state.parent.step)[1:]
            self._kept.move_to_end(state.parent)
        y = self._stream.step(self._inputs[state.token, None])  # [1, P]
        state.step = self._network.write(y)[0].log_softmax(-1).numpy(), *self._stream.state
        self._kept[state] = None
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)[0].step = None


_Step = tuple[NDArray[np.float32], Tensor, Tensor]  # log-probabilities [V], h and c of the LSTM


class _State:
    """Tokens so far: the last one and the state before it. The step is None until it is asked for, and when it is forgotten."""

    __slots__ = ("parent", "step", "token")

    def __init__(self, parent: _State | None, token: int) -> None:
        self.parent, self.token = parent, token
        self.step: _Step | None = None


def _units_of(given: Any) -> tuple[Units, bool]:
    """Tokens, and whether they are lower case only."""
    if isinstance(given, Units):
        return given, False
    file = isinstance(given, str | os.PathLike)
    held = artefact.load(Path(given)) if file else given
    if not isinstance(getattr(held, "units", None), Units):
        kind = ValueError if file else TypeError
        raise kind(f"units_of must be a recogniser or its file, a language model or its file, or Units; got {given!r}.")
    return held.units, held.config.fold
