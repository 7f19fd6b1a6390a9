"""Looking into a recogniser: which moments of the sound each word was heard by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longshort.apps.speech.config import STEP, TAIL
from longshort.apps.speech.decoding import Decoding, Reader
from longshort.apps.speech.model import Network
from longshort.apps.speech.recognizer import Recognizer, Sound
from longshort.apps.speech.task import Recipe
from longshort.inspection import Question, Subject
from longshort.inspection import Sound as Picture

SECONDS = 30.0


def subject(
    recognizer: Recognizer, sound: Sound, rate: int | None = None, *, start: float = 0.0, seconds: float = SECONDS, name: str = ""
) -> Subject:
    """What the words of a recording were heard by.

    The answers are the log-probabilities of the words: of their tokens, each at the step of the encoder at which it was heard
    (of a transducer given the tokens before it). The input is the log-mel frames.

    Args:
        recognizer: a fitted one.
        sound: as in `Recognizer.transcribe`.
        rate: of an array: samples per second.
        start: where to begin, in seconds.
        seconds: how much to look at.
        name: of the recording.

    Raises:
        ValueError: nothing is left of the recording, or a time is out of range.
        AudioError: the file cannot be heard.
    """
    if not (0 <= start < np.inf and seconds > 0):
        raise ValueError(f"start must be 0 or more and seconds more than 0, got {start:g} and {seconds:g}.")
    network, own, reader = recognizer.fitted, recognizer.config.rate, cast(Reader, recognizer.reader)
    whole = recognizer._samples(sound, rate)[1]
    samples = whole[round(start * own) : round(min(start + seconds, len(whole) / own) * own)]
    if not len(samples):
        raise ValueError(f"the recording is {len(whole) / own:.2f} s long: there is nothing from {start:g} s on.")
    features = recognizer.features(samples, own)
    x, frames = torch.from_numpy(features), torch.tensor([len(features)])
    with torch.no_grad():
        encoded, steps, _ = network.encode(x[None], frames)
        search = reader.searches(network, Decoding())()
        search.accept(network.said(encoded)[0][: int(steps[0])])
        heard = search.finish(1)[0]
    transcript = reader.transcript([heard], 0, int(steps[0]) - TAIL)
    at = recognizer.units.words(heard.tokens)
    words = [(w.text, w.start, w.end) for w in transcript.words]
    notes = [f"The recording: {name}."] if name else []
    if len(samples) < len(whole):
        part = f"{len(samples) / own:.1f} s from {start:g} s on, of {len(whole) / own:.1f} s"
        notes.append(f"This is {part}; --start and --seconds take another part.")
    if network.predictor is not None:
        notes.append("Recorded is the encoder, which hears. The predictor, which knows what was said, runs on words, not time.")

    before = _before(network, heard.tokens)

    def score(x: Tensor) -> Tensor:
        encoded, _, _ = network.encode(x, frames.expand(len(x)))
        if not at:
            return encoded[:, -1].sum(-1, keepdim=True)
        logp = _tokens(network, encoded, heard.tokens, heard.times, before)  # [B, U]
        return torch.stack([logp[:, k].sum(1) for k in at], 1)

    def place(trace: str, steps: int) -> NDArray:
        return (np.arange(steps) + 0.5) * STEP

    questions = [Question(*w) for w in words] or [Question("the last output: no word was heard", 0.0, len(features) / 100)]
    hertz = cast(Recipe, recognizer.recipe).filterbank.hertz
    return Subject(
        title=f"“{transcript.text}”" if words else "Nothing was heard", network=network, x=x, score=score, questions=questions,
        main=len(questions) - 1, at=(np.arange(len(features)) + 0.5) / 100, place=place, neutral=network.mean, unit="seconds",
        picture=Picture(samples, own, features, hertz, words), taken="with the mean sound of training in its place", notes=notes,
    )  # fmt: skip


@torch.no_grad()
def _before(network: Network, tokens: Sequence[int]) -> Tensor | None:
    """What a transducer's predictor says before each token, [1, U, J], None without one: it does not depend on the sound."""
    if network.predictor is None:
        return None
    return cast(Tensor, network.predictor(torch.tensor([tokens], dtype=torch.int64)))[:, :-1]


def _tokens(network: Network, encoded: Tensor, tokens: Sequence[int], times: Sequence[int], before: Tensor | None) -> Tensor:
    """The log-probability of each token at its step, [B, U]; before as from `_before`."""
    said = torch.tensor(tokens)
    if before is None:
        return network.log_probs(encoded)[:, list(times), said]
    joined = torch.tanh(network.meet(encoded)[:, list(times)] + before)
    return network.write(joined).log_softmax(-1)[:, torch.arange(len(said)), said]
