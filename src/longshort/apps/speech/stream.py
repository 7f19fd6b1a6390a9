"""Speech that arrives in pieces: each stream keeps a few kilobytes, and what it hears does not depend on the pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from longshort.apps.speech import audio
from longshort.apps.speech.config import STEP, SUBSAMPLING, TAIL
from longshort.apps.speech.features import Filterbank
from longshort.apps.speech.model import Network, State
from longshort.apps.speech.transcript import Token, Transcript

MOST = 2048  # frames that are encoded at once
BEFORE = 256  # likewise where an utterance may be over in them: what follows is encoded again
AGAIN = 12  # steps that the next utterance hears again: a word is written up to half a second after it began
AFTER = 5  # steps after the last token that it does not: they may be the end of a word that is written


class Search(Protocol):
    """What `decode` and `transduce` offer: goes on with what an encoder says, chunk by chunk."""

    def accept(self, said: Any) -> None:
        """Go on with some steps."""

    def best(self, n: int = 1) -> list[Any]:
        """The n best hypotheses so far; nothing changes."""

    def finish(self, n: int = 1) -> list[Any]:
        """The n best hypotheses if the recording ends here."""


@dataclass(frozen=True)
class Endpoint:
    """When an utterance is over, so that the next one begins. All in seconds.

    Args:
        silence: without a new token, after at least one.
        empty: without any token; then nothing is given out.
        longest: of an utterance; from then on a pause of `pause` ends it, and from one and a half times that on anything does.
        pause: without a new token, in a long utterance.

    Raises:
        ValueError: not 0 < pause <= silence, or the others are not positive.

    Source: the rules are those of Kaldi's online decoder (online-endpoint.h).
    """

    silence: float = 1.0
    empty: float = 5.0
    longest: float = 20.0
    pause: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.pause <= self.silence or not min(self.empty, self.longest) > 0:
            raise ValueError(f"0 < pause <= silence and empty, longest > 0 must hold, in seconds; got {self}.")

    def reached(self, steps: int, last: int | None) -> bool:
        """Whether an utterance is over after so many steps, the last token at step `last`."""
        if last is None:
            return steps * STEP >= self.empty
        quiet, length = (steps - 1 - last) * STEP, steps * STEP
        return quiet >= self.silence or (length >= self.longest and quiet >= self.pause) or length >= 1.5 * self.longest


class Stream:
    """One recording as it arrives; `Recognizer.stream()` makes it.

        stream = recognizer.stream()
        for chunk in microphone: stream.accept(chunk, 16000); print(stream.text)
        final = stream.finish()

    Its text so far is `text`. With an `Endpoint`, utterances that are over move to `finished`.

    Args:
        network: a streaming network, in evaluation mode.
        bank: its features.
        search: makes a search.
        transcript: turns hypotheses, the best first, into what a person reads: (hypotheses, first step, steps).
        said: the text of a hypothesis.
        endpoint: when an utterance is over; None: when the recording is.
        most: hypotheses that the search is asked for when an utterance is over.
        space: what is written between two utterances.
    """

    def __init__(
        self, network: Network, bank: Filterbank, search: Callable[[], Search],
        transcript: Callable[[Sequence[Any], int, int], Transcript], said: Callable[[Any], str],
        endpoint: Endpoint | None = None, most: int = 1, space: str = " ",
    ) -> None:  # fmt: skip
        self._network, self._search, self._transcript, self._endpoint = network, search, transcript, endpoint
        self._said, self._most, self._space = said, most, space
        self._bank, self._features = bank, bank.stream()
        self._resampler: audio.Resampler | None = None
        self._rate = 0
        self._pending = self._held = np.empty((0, bank.bins), np.float32)  # frames to be encoded; and the last ones that were
        self._state = network.start(1)
        self._now, self._steps, self._first = search(), 0, 0  # search, steps that it has seen, step at which it began
        self._over = False
        self.finished: list[Transcript] = []

    def accept(self, samples: ArrayLike, rate: int | None = None) -> None:
        """Hear more.

        Args:
            samples: floats in [-1, 1], int16 or int32, [N] or [N, channels].
            rate: samples per second; the same in all calls. None: what the model hears, mostly 16,000.

        Raises:
            ValueError: the stream is finished, the rate has changed, or the samples are no sound.
        """
        self.feed(samples, rate)
        advance([self])

    @property
    def result(self) -> Transcript:
        """What has been heard since the last endpoint; it may still change."""
        return self._transcript(self._now.best(1), self._first, self._steps)

    @property
    def text(self) -> str:
        """All that has been heard so far, finished utterances first."""
        return self._space.join(filter(None, (*(t.text for t in self.finished), self._said(self._now.best(1)[0]))))

    def finish(self) -> Transcript:
        """The recording is over: what is still in the buffers is heard, to the last word.

        Returns:
            All of it; with an Endpoint, the utterances one after another, each of which is in `finished`.
        """
        if not self._over:
            self._over = True
            if self._resampler is not None:  # some sound has come
                self._take(self._features.accept(np.clip(self._resampler.finish(), -1, 1)))
                self._take(self._features.accept(np.zeros(round(TAIL * STEP * self._bank.rate), np.float32)))
                self._take(self._features.finish())
            advance([self])
            steps = max(self._steps - TAIL, 0)
            last = self._transcript(self._now.finish(self._most), self._first, steps)
            if last.text or not self.finished:
                self.finished.append(last)
            self._first, self._steps, self._now = max(self._first + self._steps - TAIL, 0), 0, self._search()
        return _joined(self.finished, self._first * STEP, self._space)

    def feed(self, samples: ArrayLike, rate: int | None = None) -> None:
        """As `accept`, but what comes waits until `advance` is called, for this stream or for many at once."""
        if self._over:
            raise ValueError("this stream is finished; a new recording needs a new one: recognizer.stream().")
        heard, rate = audio.mixed(samples), self._bank.rate if rate is None else rate
        if not len(heard):
            return
        if self._resampler is None:
            self._resampler, self._rate = audio.Resampler(rate, self._bank.rate), rate
        if rate != self._rate:
            raise ValueError(f"all samples of a stream must have one rate, got {rate} after {self._rate} per second.")
        self._take(self._features.accept(np.clip(self._resampler.accept(heard), -1, 1)))

    def _take(self, features: NDArray[np.float32]) -> None:
        self._pending = np.concatenate([self._pending, features])

    @property
    def ready(self) -> int:
        """Frames that can be encoded now."""
        n = min(len(self._pending), MOST if self._endpoint is None else BEFORE)
        return n if self._over and n == len(self._pending) else n // SUBSAMPLING * SUBSAMPLING

    def _heard(self, frames: int, said: Any, state: State) -> None:
        """Go on with the encoder's answer to the first `frames` of the pending features."""
        if self._endpoint is None:
            self._now.accept(said)
            self._steps += len(said)
        else:
            for k in range(len(said)):
                self._now.accept(said[k : k + 1])
                self._steps += 1
                times = self._now.best(1)[0].times
                if self._endpoint.reached(self._steps, times[-1] if times else None):
                    return self._cut(
                        min(SUBSAMPLING * (k + 1), frames), self._steps - 1 - times[-1] - AFTER if times else self._steps
                    )
            self._held = np.concatenate([self._held, self._pending[:frames]])[-AGAIN * SUBSAMPLING :]
        self._pending, self._state = self._pending[frames:], state

    def _cut(self, frames: int, quiet: int) -> None:
        """An utterance is over with the first `frames` of the pending features; nothing of it is in the last `quiet` steps: the
        next one hears those again, for a word may have begun in them."""
        again = max(0, min(AGAIN, quiet, self._steps // 2))
        rest = -(-(len(self._pending) - frames) // SUBSAMPLING)
        behind = max(0, TAIL - rest) if self._over else 0  # steps of the silence that follows the recording
        made = self._transcript(self._now.finish(self._most), self._first, max(self._steps - behind, 0))
        if made.text:
            self.finished.append(made)
        self._first, self._steps, self._now = self._first + self._steps - again, 0, self._search()
        heard = np.concatenate([self._held, self._pending[:frames]])
        self._pending = np.concatenate([heard[len(heard) - again * SUBSAMPLING :], self._pending[frames:]])
        self._held, self._state = heard[:0], self._network.start(1)


@torch.no_grad()
def advance(streams: Sequence[Stream]) -> None:
    """Let streams of one recogniser hear what waits for them, all in one run of the network."""
    while waiting := [s for s in streams if s.ready]:
        network, frames = waiting[0]._network, [s.ready for s in waiting]
        x = np.zeros((len(waiting), max(frames), waiting[0]._bank.bins), np.float32)
        for row, s, n in zip(x, waiting, frames, strict=True):
            row[:n] = s._pending[:n]
        state = State.join([s._state for s in waiting])
        encoded, steps, state = network.encode(torch.from_numpy(x), torch.tensor(frames), state)
        said = network.said(encoded)
        for k, (s, n, t) in enumerate(zip(waiting, frames, steps.tolist(), strict=True)):
            s._heard(n, said[k][:t], state.rows(torch.tensor([k])))


def _joined(parts: Sequence[Transcript], duration: float, space: str) -> Transcript:
    """Transcripts of pieces of a recording, as one; duration: of all of it, seconds."""
    if len(parts) == 1:
        return replace(parts[0], duration=duration)
    words = tuple(itertools.chain.from_iterable(p.words for p in parts))
    tokens = list[Token]()
    for p in parts:
        first, rest = p.tokens[:1], p.tokens[1:]
        there = tokens and first and (tokens[-1].text.endswith(" ") or first[0].text.startswith(" "))
        apart = space if tokens and not there else ""
        tokens += [*(replace(one, text=apart + one.text) for one in first), *rest]
    text, score = space.join(p.text for p in parts), sum(p.score for p in parts)
    return Transcript(text, words, score, duration, name=parts[0].name, tokens=tuple(tokens))
