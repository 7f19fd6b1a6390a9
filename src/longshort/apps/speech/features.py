"""Log-mel filterbank features, Kaldi's to the letter, of whole signals and of streams. NumPy only.

Shapes: N samples, T frames, W samples per window, S samples between windows, F = FFT size / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 128  # frames that are transformed together: they stay in the cache, and an hour of sound needs little memory
BEND = 0.6  # share of the range up to which frequencies are moved by a factor, as a whole
FLOOR = np.finfo(np.float32).eps  # the least energy, before the logarithm


@dataclass(frozen=True)
class Filterbank:
    """Windows of 25 ms every 10 ms, centred at 5, 15, 25, ... ms; the log energies of triangles on the mel scale.

    A window that reaches over an end of the signal sees it reflected there. Of each window: the mean is removed, then
    x_t - 0.97 x_{t-1}, the Povey window, zeros up to a power of two, the power spectrum, the triangles, the natural logarithm of
    at least 1.2e-7. No dither, no energy.

    Args:
        rate: samples per second.
        bins: triangles.
        low: where the first begins, Hz.
        high: where the last ends, Hz; 0 or less counts from half the rate downwards.

    Raises:
        ValueError: a field is out of range.

    Source: Povey et al. 2011, The Kaldi speech recognition toolkit; `compute-fbank-feats --dither=0 --snip-edges=false`.
    """

    rate: int = 16_000
    bins: int = 80
    low: float = 20.0
    high: float = -400.0

    def __post_init__(self) -> None:
        if self.rate < 1000 or self.bins < 1:
            raise ValueError(f"a filterbank needs a rate of at least 1000 Hz and one bin, got {self.rate} Hz, {self.bins} bins.")
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise ValueError(
                f"the triangles must lie between 0 and half the rate of {self.rate} Hz, got {self.low:g} to {self.top:g} Hz. "
                "A `high` of 0 or less counts from half the rate downwards."
            )

    @property
    def top(self) -> float:
        """Where the last triangle ends, Hz."""
        return self.high if self.high > 0 else self.rate / 2 + self.high

    @property
    def hertz(self) -> NDArray[np.float64]:
        """Where each triangle is highest, Hz, [bins]."""
        return 700 * np.expm1(self._corners[1:-1] / 1127)

    @property
    def window(self) -> int:
        """Samples per window, W."""
        return self.rate * 25 // 1000

    @property
    def shift(self) -> int:
        """Samples from one window to the next, S."""
        return self.rate // 100

    @property
    def lead(self) -> int:
        """Samples of the first window that lie before the signal."""
        return self.window // 2 - self.shift // 2

    def frames(self, n: int) -> int:
        """Frames of n samples: one per shift, and one more where half a shift is left."""
        return (n + self.shift // 2) // self.shift

    def __call__(self, samples: ArrayLike) -> NDArray[np.float32]:
        """Features of a whole signal.

        Args:
            samples: floats in [-1, 1], [N].

        Returns:
            Natural log energies, float32, [T, bins], T = frames(N).

        Raises:
            TypeError: integers came.
            ValueError: more axes than one came.
        """
        stream = self.stream()
        return np.concatenate([stream.accept(samples), stream.finish()])

    def stream(self) -> FilterbankStream:
        """A signal that arrives in pieces; what they give together equals the features of the whole."""
        return FilterbankStream(self)

    def rows(self, signal: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Features of `count` windows that begin at samples 0, S, 2 S, ... of a signal, [count, bins]."""
        out = np.empty((count, self.bins), np.float32)
        for t in range(0, count, BLOCK):
            n = min(BLOCK, count - t)
            at = signal[t * self.shift :]
            x = np.lib.stride_tricks.as_strided(at, (n, self.window), (self.shift * at.strides[0], at.strides[0]))
            x = x - x.mean(1, keepdims=True, dtype=np.float64)
            x[:, 1:] -= 0.97 * x[:, :-1]  # what becomes of the first sample does not matter: its weight is 0
            spectrum = np.fft.rfft(x * self._weights, self._size)[:, :-1]  # [n, F]
            energy = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ self._triangles
            np.log(np.maximum(energy, FLOOR), out=out[t : t + n])
        return out

    def warp(self, x: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
        """Features of a longer or shorter throat: what was heard at f is heard at factor * f, read between the filters.

        Near the top the factor goes to 1, so that the range is kept.

        Args:
            x: features, [T, bins].
            factor: from about 0.8 to 1.2.

        Returns:
            [T, bins].

        Source: Jaitly & Hinton 2013, Vocal tract length perturbation improves speech recognition.
        """
        heard, bend = self.hertz, BEND * self.top * min(factor, 1)
        above = self.top - (self.top - heard) / (self.top - bend) * (self.top - bend / factor)
        said = np.where(heard <= bend, heard / factor, above)
        return between(x, np.interp(mel(said), self._corners[1:-1], np.arange(self.bins)), axis=1)

    @cached_property
    def _size(self) -> int:
        return 1 << (self.window - 1).bit_length()

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """The Povey window, [W]."""
        angle = 2 * np.pi * np.arange(self.window) / (self.window - 1)
        return (0.5 - 0.5 * np.cos(angle)) ** 0.85

    @cached_property
    def _corners(self) -> NDArray[np.float64]:
        """Where the triangles begin, are highest and end, mel, [bins + 2]."""
        return np.linspace(mel(self.low), mel(self.top), self.bins + 2)

    @cached_property
    def _triangles(self) -> NDArray[np.float32]:
        """Weights of the power spectrum, [F, bins]: each triangle begins and ends at the middle of its neighbours."""
        corner = self._corners
        at = mel(np.arange(self._size // 2) * self.rate / self._size)[:, None]
        width = corner[1] - corner[0]
        return np.maximum(1 - np.abs(at - corner[1:-1]) / width, 0).astype(np.float32)


class FilterbankStream:
    """Features of a signal that arrives in pieces: each frame as soon as the last sample of its window is there.

    Args:
        bank: what to compute.
    """

    def __init__(self, bank: Filterbank) -> None:
        self.bank = bank
        self._held = np.empty(0, np.float32)  # from the first sample of the next window on
        self._seen = self._made = 0  # samples and frames
        self._begun = self._over = False  # begun: what is held begins with the reflection before the signal

    def accept(self, samples: ArrayLike) -> NDArray[np.float32]:
        """Further samples, floats in [-1, 1], [N]; gives the frames that they complete, float32, [t, bins]."""
        x = np.asarray(samples)
        if self._over:
            raise ValueError("this stream is finished and takes no more samples. Begin a new one with Filterbank.stream().")
        if x.dtype.kind != "f":
            raise TypeError(f"samples must be floats in [-1, 1], got {x.dtype}. audio.mono turns integers into them.")
        if x.ndim != 1:
            raise ValueError(f"samples must have one axis, [N], got {list(x.shape)}. audio.mono mixes channels.")
        self._seen += len(x)
        self._held = np.concatenate([self._held, x.astype(np.float32, copy=False)])
        b = self.bank
        if not self._begun:
            if self._seen + b.lead < b.window:
                return np.empty((0, b.bins), np.float32)
            self._held, self._begun = np.pad(self._held, (b.lead, 0), "symmetric"), True
        return self._rows((len(self._held) - b.window) // b.shift + 1)

    def finish(self) -> NDArray[np.float32]:
        """The frames whose windows reach over the end of the signal, float32, [t, bins]. The stream takes no more."""
        b, self._over = self.bank, True
        count = b.frames(self._seen) - self._made
        if count:
            before = 0 if self._begun else b.lead
            after = (count - 1) * b.shift + b.window - before - len(self._held)
            self._held, self._begun = np.pad(self._held, (before, max(after, 0)), "symmetric"), True
        return self._rows(count)

    def _rows(self, count: int) -> NDArray[np.float32]:
        made = self.bank.rows(self._held, count)
        self._made += count
        self._held = self._held[count * self.bank.shift :]
        return made


def mel(hertz: ArrayLike) -> NDArray:
    """Frequencies in Hz on the mel scale."""
    return 1127 * np.log1p(np.asarray(hertz) / 700)


def between(x: NDArray[np.float32], at: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Features read along an axis at places from 0 to the last that need not be whole numbers: linearly between neighbours."""
    last = x.shape[axis] - 1
    low = np.minimum(at.astype(int), max(last - 1, 0))
    share = np.expand_dims((at - low).astype(np.float32), 1 - axis)
    return np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, last), axis) * share
