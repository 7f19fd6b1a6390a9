"""Training material made richer: speed, loudness, noise and echo on samples, masks on features. NumPy only.

Shapes: N samples, T frames. All randomness comes from the `rng` that is passed in; no input is changed.
"""

from __future__ import annotations

import math
import warnings
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from longshort.apps.speech import audio
from longshort.apps.speech.features import between

Samples = NDArray[np.float32]
Noise = Literal["white", "pink", "brown", "hum", "babble"]
SYNTHETIC = "synthetic"  # in the place of a folder: made here
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64")
RT60 = (0.1, 0.8)  # seconds; from a small office to a hall
DIRECT = (0.0, 12.0)  # decibels by which the direct sound is stronger than all its echoes
LOWEST = 20.0  # hertz; synthetic noise has nothing below, where no filter hears it
MOST = 0.2  # share of an utterance that one mask blanks at most


def speed(x: Samples, factor: float) -> Samples:
    """The sound played faster by a factor, and so higher: [N / factor]. Source: Ko et al. 2015, Audio augmentation."""
    return x if factor == 1 else audio.need("soxr").resample(x, factor, 1)


def gain(x: Samples, db: float) -> Samples:
    """The sound louder by some decibels."""
    return x * np.float32(10 ** (db / 20))


def add_noise(x: Samples, noise: Samples, snr_db: float) -> Samples:
    """Sound with noise.

    Args:
        x: sound, [N].
        noise: repeated or cut to the length of the sound, [M].
        snr_db: power of the sound over that of the noise, in decibels. Where one of them is silent nothing is added.

    Returns:
        [N].
    """
    noise = np.resize(noise, len(x))
    there = _power(x) * _power(noise)
    return x + noise * np.float32(math.sqrt(_power(x) / _power(noise)) * 10 ** (-snr_db / 20)) if there else x


def reverberate(x: Samples, impulse: Samples) -> Samples:
    """Sound in a room: convolved with an impulse response, at the same times and with the same power as before.

    Args:
        x: sound, [N].
        impulse: what the room answers to a click; its greatest sample is the direct sound, [M].

    Returns:
        [N].

    Source: Ko et al. 2017, A study on data augmentation of reverberant speech for robust speech recognition.
    """
    size = 1 << (len(x) + len(impulse) - 1).bit_length()
    direct = int(np.abs(impulse).argmax())
    y = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(impulse, size), size)[direct : direct + len(x)].astype(np.float32)
    return y * np.float32(math.sqrt(_power(x) / _power(y))) if _power(y) else x


def synthetic_impulse(rate: int, rt60: float, rng: np.random.Generator) -> Samples:
    """The answer of a room to a click: the click, then noise that decays.

    Args:
        rate: samples per second.
        rt60: seconds in which the echo falls by 60 decibels.
        rng: draws the noise, and the strength of the direct sound from `DIRECT`.

    Returns:
        [rt60 * rate].

    Source: Polack 1988, La transmission de l'energie sonore dans les salles.
    """
    t = np.arange(1, max(2, round(rt60 * rate))) / rate
    tail = rng.normal(size=len(t)) * np.exp(-math.log(1000) * t / rt60)
    tail *= 10 ** (-rng.uniform(*DIRECT) / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def synthetic_noise(n: int, kind: Noise, rng: np.random.Generator, rate: int = 16_000) -> Samples:
    """Noise with a root mean square of 0.1, [n].

    Args:
        n: samples.
        kind: white, pink (power 1 / f), brown (1 / f^2), hum (of mains, 50 or 60 Hz and its harmonics) or babble (noise with the
            spectrum of speech, whose loudness varies as fast as syllables do).
        rng: draws it.
        rate: samples per second.

    Raises:
        ValueError: another kind.
    """
    if kind == "hum":
        phase = 2 * np.pi * rng.choice([50, 60]) * np.arange(n) / rate
        x = sum(np.sin(k * phase + rng.uniform(0, 2 * np.pi)) / k for k in range(1, 8))
    elif kind in get_args(Noise):
        f = np.fft.rfftfreq(n, 1 / rate)
        heard = np.maximum(f, LOWEST)
        slope = {"white": heard**0, "pink": heard**-0.5, "brown": 1 / heard, "babble": 1 / (1 + (heard / 500) ** 1.5)}[kind]
        slope[f < LOWEST] = 0
        x = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * slope, n)
        if kind == "babble":
            slow = rng.normal(size=n * 8 // rate + 2)  # 8 changes per second
            x *= np.exp(0.7 * np.interp(np.arange(n) * 8 / rate, np.arange(len(slow)), slow))
    else:
        raise ValueError(f"noise must be one of {', '.join(get_args(Noise))}, got {kind!r}.")
    return (0.1 * x / max(math.sqrt(np.mean(x**2)), 1e-9)).astype(np.float32)


class Wild:
    """Echo and noise as they occur outside the studio. Files are read when they are drawn.

    Args:
        rate: samples per second.
        noise: a folder of recordings (folders within it too), "synthetic", or None for no noise.
        reverb: a folder of room impulse responses, "synthetic", or None for no echo.

    Raises:
        ValueError: a folder is missing or holds no audio.
    """

    def __init__(self, rate: int, noise: str | Path | None = None, reverb: str | Path | None = None) -> None:
        self.rate = rate
        self.noise, self.reverb = (_files(f) if f and f != SYNTHETIC else f for f in (noise, reverb))

    def __call__(
        self, x: Samples, rng: np.random.Generator, noise_share: float = 0.5, snr: tuple[float, float] = (5.0, 30.0),
        reverb_share: float = 0.3,
    ) -> Samples:  # fmt: skip
        """The sound in a room, with some probability, and with noise, with some probability.

        Args:
            x: sound, [N].
            rng: draws what comes to it.
            noise_share: probability of noise.
            snr: least and greatest power of sound over noise, decibels.
            reverb_share: probability of an echo.

        Returns:
            [N].

        A file that cannot be read is passed over, with a warning.
        """
        if self.reverb and rng.random() < reverb_share:
            x = reverberate(x, self.impulse(rng))
        if self.noise and rng.random() < noise_share:
            x = add_noise(x, self.piece(len(x), rng), rng.uniform(*snr))
        return x

    def impulse(self, rng: np.random.Generator) -> Samples:
        """An impulse response."""
        if isinstance(self.reverb, list):
            try:
                return audio.read(path := self.reverb[rng.integers(len(self.reverb))], self.rate, least=0.0)
            except audio.AudioError as e:
                _useless(path, str(e))
                return np.ones(1, np.float32)  # no echo
        return synthetic_impulse(self.rate, rng.uniform(*RT60), rng)

    def piece(self, n: int, rng: np.random.Generator) -> Samples:
        """A piece of noise of n samples, or less if the recording is shorter; zeros where it is silent."""
        if not isinstance(self.noise, list):
            return synthetic_noise(n, get_args(Noise)[rng.integers(len(get_args(Noise)))], rng, self.rate)
        path, wanted = self.noise[rng.integers(len(self.noise))], max(n / self.rate, audio.LEAST)
        try:
            spare = audio.info(path)[0] - wanted
            return audio.read(path, self.rate, rng.uniform(0, spare), wanted) if spare > 0 else audio.read(path, self.rate)
        except audio.SilentError:
            return np.zeros(n, np.float32)
        except audio.AudioError as e:
            _useless(path, str(e))
            return np.zeros(n, np.float32)


@cache
def _useless(path: Path, why: str) -> None:
    """Say once that a file is passed over, so that it does not end hours of training."""
    warnings.warn(f"{why} It is passed over.", UserWarning, stacklevel=4)


def tempo(x: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Features played faster by a factor, at the same pitch: [T, bins] to [T / factor, bins], read between the frames."""
    at = np.clip((np.arange(max(round(len(x) / factor), 1)) + 0.5) * factor - 0.5, 0, len(x) - 1)
    return between(x, at, axis=0)


def spec_augment(
    x: NDArray[np.float32], rng: np.random.Generator, freq_masks: int, freq_width: int, time_masks: float, time_width: float
) -> NDArray[np.float32]:  # fmt: skip
    """Features of which some bands and some stretches are replaced by their mean over the utterance.

    Args:
        x: features, [T, bins].
        rng: draws widths, from 0 to the greatest, and places.
        freq_masks: how many bands.
        freq_width: bins of the widest band.
        time_masks: stretches per second, on average.
        time_width: frames of the longest stretch; it never exceeds a fifth of the utterance.

    Returns:
        A new array, [T, bins].

    Source: Park et al. 2019, SpecAugment; Park et al. 2020, SpecAugment on large scale datasets (stretches by length).
    """
    T, bins = x.shape
    made, mean = x.copy(), x.mean(0)
    for first, last in _spans(freq_masks, freq_width, bins, rng):
        made[:, first:last] = mean[first:last]
    for first, last in _spans(int(time_masks * T / 100 + rng.random()), int(min(time_width, MOST * T)), T, rng):
        made[first:last] = mean
    return made


def _spans(count: int, width: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """First and last of some spans in range(size), [count, 2]."""
    wide = rng.integers(0, min(width, size) + 1, count)
    first = rng.integers(0, size - wide + 1)
    return np.stack([first, first + wide], 1)


def _files(folder: str | Path) -> list[Path]:
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"{folder}: must be a folder with audio files ({' '.join(SUFFIXES)}) or {SYNTHETIC!r}; none is there.")
    return found


def _power(x: Samples) -> float:
    return float(np.mean(np.square(x, dtype=np.float64)))
