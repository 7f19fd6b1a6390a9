"""A picture of one recording: spectrogram, what the network says at each step, the words over time."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from longshort.apps.speech.config import STEP
from longshort.apps.speech.features import Filterbank, mel
from longshort.apps.speech.transcript import Transcript
from longshort.scripts import fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from longshort.apps.speech.recognizer import Recognizer, Sound

LOUD = 0.05  # posteriors of a token that never gets so far are not drawn
NAMED = 0.2  # a peak that gets so far is named
TICKS = (100, 250, 500, 1000, 2000, 4000, 8000)  # Hz
WORD, QUIET, MARK = "#1f5fa8", "0.55", "0.85"


def utterance(recognizer: Recognizer, sound: Sound, made: Transcript | None = None, rate: int | None = None) -> Figure:
    """Draw a recording: the log-mel spectrogram the network hears, the posterior of each token over time (of a model with a CTC
    part), and the words with their confidences. It is made for seconds of sound, not for minutes.

    Args:
        recognizer: a fitted one.
        sound: as in `Recognizer.transcribe`.
        made: what was heard; None hears it now.
        rate: of an array: samples per second.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError as e:
        raise ImportError("pictures need matplotlib: pip install 'longshort[plot]'.") from e
    made = made or recognizer.transcribe(sound, rate)
    with rc_context({"font.family": fonts(made.text)}):
        return _drawn(recognizer, sound, made, rate)


def _drawn(recognizer: Recognizer, sound: Sound, made: Transcript, rate: int | None) -> Figure:
    from matplotlib.figure import Figure

    features, network = recognizer.features(sound, rate), recognizer.fitted
    T = len(features)
    rows = [1.5, 1.1, 0.5] if network.head is not None else [1.5, 0.5]
    figure = Figure(figsize=(min(max(7.0, 2.2 * T / 100), 40.0), 0.8 + 1.6 * sum(rows)), layout="constrained")
    axes: Any = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    low, high = np.quantile(features, [0.05, 0.999])
    axes[0].imshow(features.T, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
                   extent=(0, T / 100, 0, features.shape[1]))  # fmt: skip
    bank = recognizer.recipe.filterbank if recognizer.recipe else Filterbank()
    at = _row(bank, np.array(TICKS))
    shown = (at > 0) & (at < bank.bins)
    axes[0].set_yticks(at[shown], [f"{f / 1000:g}" for f in np.array(TICKS)[shown]])
    axes[0].set_ylabel("kHz")
    if network.head is not None:
        with torch.no_grad():
            encoded, _, _ = network.encode(torch.from_numpy(features)[None], torch.tensor([T]))
            _posteriors(axes[1], network.log_probs(encoded)[0].float().exp().numpy(), recognizer.units.pieces)
    free, inch = [0.0, 0.0], T / 100 / figure.get_figwidth()  # where the two lines of words end; seconds
    for word in made.words:
        for axis in axes[1:-1]:
            axis.axvspan(word.start, word.end, color=WORD, alpha=0.08, lw=0)
        axes[-1].axvspan(word.start, word.end, color=WORD, alpha=0.08 + 0.4 * word.confidence, lw=0)
        middle, half = (word.start + word.end) / 2, max(0.05 * len(word.text), 0.2) * inch
        line = int(free[0] > middle - half)
        free[line], up = middle + half, 0.77 - 0.48 * line
        axes[-1].text(middle, up, word.text, ha="center", va="center", fontsize=10, parse_math=False)
        axes[-1].text(middle, up - 0.19, f"{100 * word.confidence:.0f} %", ha="center", va="center", fontsize=7, color="0.15")
    axes[-1].set(xlabel="seconds", yticks=[], ylim=(0, 1), xlim=(0, made.duration or T / 100), ylabel="words")
    for axis in axes[1:]:
        axis.spines[["top", "right"]].set_visible(False)
    title = textwrap.fill(made.text, int(11 * figure.get_figwidth())) or "(nothing was heard)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, parse_math=False)
    figure.align_ylabels(axes)
    return figure


def _posteriors(axis: Any, p: NDArray, pieces: tuple[str, ...]) -> None:
    """Probabilities of tokens over time, [N, V]; the blank is a shade."""
    at = (np.arange(len(p)) + 0.5) * STEP
    axis.fill_between(at, p[:, 0], color=MARK, lw=0)
    axis.text(0.995, 0.04, "blank", transform=axis.transAxes, ha="right", fontsize=8, color=QUIET)
    for k, token in enumerate(t for t in np.flatnonzero(p.max(0) > LOUD) if t):
        (line,) = axis.plot(at, p[:, token], lw=1.3, color=f"C{k % 10}")
        x = np.concatenate([[0], p[:, token], [0]])
        for n in np.flatnonzero((x[1:-1] > x[:-2]) & (x[1:-1] >= x[2:]) & (x[1:-1] > NAMED)):
            axis.annotate(pieces[token].replace(" ", "␣"), (at[n], p[n, token]), (0, 2), textcoords="offset points", ha="center",
                          fontsize=8, color=line.get_color(), parse_math=False)  # fmt: skip
    axis.set(ylabel="probability", ylim=(0, 1.2), yticks=[0, 0.5, 1])


def _row(bank: Filterbank, hertz: NDArray) -> NDArray:
    """Where frequencies lie among the filters, counted from the lower edge of the first."""
    low, top = mel(bank.low), mel(bank.top)
    return (mel(hertz) - low) / (top - low) * (bank.bins + 1) - 0.5
