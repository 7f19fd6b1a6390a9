"""Sound from files and arrays: one channel of floats in [-1, 1] at the rate that is asked for. NumPy only.

Shapes: N samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longshort import extras

LEAST = 0.025  # seconds; one window of the filterbank
LONGEST = 4 * 3600.0  # seconds that are read at once: 0.9 GB at 16 kHz
RATES = (1000, 768_000)  # samples per second
SLACK = 0.1  # seconds that a file may be shorter than it was said to be
LOUDEST = 4.0  # floats up to here are sound that was mixed too loud, and clipped; beyond are not in [-1, 1] at all
BLOCK = 2**18  # samples that are decoded together, over all channels
ENDLESS = 0x7FFFF000  # bytes that a WAV header announces when it was written before the sound
need = partial(extras.need, what="speech", extra="speech")


class AudioError(ValueError):
    """A file that cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it, to be read after its name.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = Path(path), reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class SilentError(AudioError):
    """A file, or a piece of one, whose samples are all equal."""


def read(
    path: str | os.PathLike[str], rate: int = 16_000, start: float = 0.0, duration: float | None = None,
    least: float = LEAST,
) -> NDArray[np.float32]:  # fmt: skip
    """The sound of a file or of a piece of it: channels mixed, resampled, clipped to [-1, 1].

    Args:
        path: WAV, FLAC, Ogg (Vorbis, Opus), MP3 and what else libsndfile reads.
        rate: samples per second to give.
        start: where the piece begins, seconds.
        duration: how long it lasts, seconds; None is up to the end.
        least: how long it must last, seconds.

    Returns:
        Samples, float32, [N].

    Raises:
        AudioError: there is no such file, it is broken, cut off or empty; or the piece lies outside, is not finite, shorter than
            `least` or longer than `LONGEST`.
        SilentError: all samples of the piece are equal; an AudioError as well.
    """
    with _opened(path) as f:
        total, own = _samples(f, path), f.samplerate
        resampler = Resampler(own, rate)
        if not 0 <= start < np.inf or (duration is not None and not 0 < duration < np.inf):
            raise AudioError(path, f"a piece must begin at 0 s or later and last, got start {start} s, duration {duration} s.")
        first = round(start * own)
        wanted = total - first if duration is None else round(duration * own)
        if first >= total or first + wanted > total + SLACK * own:
            end = "the end" if duration is None else f"{start + duration:.2f} s"
            raise AudioError(path, f"lasts {total / own:.2f} s, but {start:.2f} s to {end} was asked for.")
        wanted = min(wanted, total - first)
        if wanted > LONGEST * own:
            raise AudioError(
                path, f"{wanted / own / 3600:.1f} hours are more than the {LONGEST / 3600:g} that are read at once. "
                "Read it in pieces, with `start` and `duration`."
            )  # fmt: skip
        f.seek(first)
        made, got, low, high, size = [], 0, np.inf, -np.inf, BLOCK // f.channels
        while got < wanted and len(block := f.read(min(size, wanted - got), "float32", always_2d=True)):
            if fault := _fault(block):
                raise AudioError(path, fault)
            x = block.mean(1)
            got, low, high = got + len(x), min(low, x.min()), max(high, x.max())
            made.append(resampler.accept(x))
    if got < wanted - SLACK * own:
        raise AudioError(path, f"is cut off or damaged: {wanted / own:.2f} s were announced, {got / own:.2f} s could be decoded.")
    if got < least * own:
        raise AudioError(path, f"{got / own:.3f} s are too short: at least {least} s are needed.")
    if low == high:
        raise SilentError(path, f"is silent: all samples are {low:g}.")
    return np.clip(np.concatenate([*made, resampler.finish()]), -1, 1)


def info(path: str | os.PathLike[str]) -> tuple[float, int]:
    """How long a file lasts, seconds, and its own samples per second. Only its header is read, but for an MP3 without a length.

    Raises:
        AudioError: there is no such file, it is broken or empty.
    """
    with _opened(path) as f:
        return _samples(f, path) / f.samplerate, f.samplerate


def mono(samples: ArrayLike, from_rate: int, to_rate: int = 16_000) -> NDArray[np.float32]:
    """The sound of an array: channels mixed, resampled, clipped to [-1, 1].

    Args:
        samples: floats in [-1, 1], int16 or int32 of full scale, [N] or [N, channels].
        from_rate: samples per second of the array.
        to_rate: samples per second to give.

    Returns:
        Samples, float32, [N * to_rate / from_rate].

    Raises:
        TypeError: other numbers than these.
        ValueError: other axes, values that are not finite or not in [-1, 1], rates out of range.
    """
    x, resampler = mixed(samples), Resampler(from_rate, to_rate)
    return np.clip(np.concatenate([resampler.accept(x), resampler.finish()]), -1, 1)


def mixed(samples: ArrayLike) -> NDArray[np.float32]:
    """The sound of an array at its own rate: channels mixed, nothing clipped, float32, [N]. Arguments and errors as in `mono`."""
    x = np.asarray(samples)
    if x.dtype.kind != "f" and x.dtype not in (np.int16, np.int32):
        raise TypeError(f"samples must be floats in [-1, 1], int16 or int32, got {x.dtype}.")
    if x.ndim not in (1, 2) or (x.ndim == 2 and not 1 <= x.shape[1] <= 64):
        raise ValueError(f"samples must be [N] or [N, channels], got {list(x.shape)}. Does the time come first?")
    x = x.astype(np.float32) / np.float32(2.0**15 if x.dtype == np.int16 else 2.0**31 if x.dtype == np.int32 else 1)
    if fault := _fault(x):
        raise ValueError(f"this array {fault}")
    return x.mean(1) if x.ndim == 2 else x


class Resampler:
    """A signal that arrives in pieces, at another rate. What comes out does not depend on the pieces.

    Args:
        from_rate: samples per second that come in.
        to_rate: samples per second that go out.

    Raises:
        ValueError: a rate is out of range.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        for r in (from_rate, to_rate):
            if not RATES[0] <= r <= RATES[1]:
                raise ValueError(f"a rate must lie between {RATES[0]} and {RATES[1]} samples per second, got {r}.")
        self._stream = None if from_rate == to_rate else need("soxr").ResampleStream(from_rate, to_rate, 1, dtype="float32")
        self._over = False

    def accept(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Further samples, float32, [N]; gives what they complete."""
        if self._over:
            raise ValueError("this stream is finished and takes no more samples. Begin a new one.")
        return samples if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(samples))

    def finish(self) -> NDArray[np.float32]:
        """What is still to come after the last sample. The stream takes no more."""
        last, over, self._over = np.empty(0, np.float32), self._over, True
        return last if self._stream is None or over else self._stream.resample_chunk(last, last=True)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    sf = need("soundfile")
    if not os.path.isfile(path):
        raise AudioError(path, "is not a file." if os.path.exists(path) else "there is no such file.")
    if not os.path.getsize(path):
        raise AudioError(path, "is empty: 0 bytes.")
    try:
        f = sf.SoundFile(path)
    except (sf.LibsndfileError, TypeError) as e:  # TypeError: a name that ends in .raw
        words = getattr(e, "error_string", "no header says what is in it.")
        if "does not exist" in words:
            words = "the sound does not follow the header."
        raise AudioError(path, f"cannot be read as sound: {words} FFmpeg turns most formats into WAV or FLAC.") from None
    with f:
        try:
            yield f
        except sf.LibsndfileError as e:
            raise AudioError(path, f"is damaged: {e.error_string}") from None


def _samples(f: Any, path: str | os.PathLike[str]) -> int:
    """How many samples per channel a file has, as far as its header can be believed."""
    if not RATES[0] <= f.samplerate <= RATES[1]:
        raise AudioError(path, f"{f.samplerate} samples per second are out of range: {RATES[0]} to {RATES[1]} are read.")
    if not f.frames:
        raise AudioError(path, "is empty: its header is followed by no sound.")
    if f.frames > 2**60:
        raise AudioError(path, "its header does not say how long it is. FFmpeg writes a new one: ffmpeg -i OLD NEW.")
    if m := re.search(r"^data : (\d+) \(should be (\d+)\)", f.extra_info, re.M):
        said, there = int(m[1]), int(m[2])
        if said < ENDLESS and (lost := f.frames / f.samplerate * (said / there - 1)) > SLACK:
            raise AudioError(path, f"is cut off: its header announces {lost:.2f} s more than there are.")
    if f.format == "MP3" and not _tagged(path):
        n = 0
        while len(block := f.read(BLOCK // f.channels, "float32")):
            n += len(block)
        return n
    return int(f.frames)


def _tagged(path: str | os.PathLike[str]) -> bool:
    """Whether an MP3 says its length; without that libsndfile guesses it from the first bit rate."""
    with open(path, "rb") as f:
        head = f.read(2**12)
    return any(tag in head for tag in (b"Xing", b"Info", b"VBRI"))


def _fault(x: NDArray[np.float32]) -> str | None:
    """What is wrong with samples."""
    peak = np.abs(x).max(initial=0)
    if not np.isfinite(peak):
        return "holds samples that are NaN or infinite."
    return f"holds samples up to {peak:g}, but floats must lie in [-1, 1]: divide them." if peak > LOUDEST else None
