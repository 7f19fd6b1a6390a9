"""A picture of one recording: spectrogram, what the network says at each step, the words over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from longshort.apps.speech.stream import STEP
from longshort.apps.speech.transcript import Transcript

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from longshort.apps.speech.recognizer import Recognizer, Sound

LOUD = 0.05  # posteriors of a token that never gets so far are not drawn


def utterance(recognizer: Recognizer, sound: Sound, made: Transcript | None = None, rate: int | None = None) -> Figure:
    """Draw a recording: the log-mel spectrogram the network hears, the posterior of each token over time (of a model with a CTC
    part), and the words with their confidences.

    Args:
        recognizer: a fitted one.
        sound: as in `Recognizer.transcribe`.
        made: what was heard; None hears it now.
        rate: of an array: samples per second.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("pictures need matplotlib: pip install 'longshort[plot]'.") from e
    made = made or recognizer.transcribe(sound, rate)
    features = recognizer.features(sound, rate)
    network, units = recognizer.fitted, recognizer.units
    rows = [1.0, 1.0, 0.35] if network.head is not None else [1.0, 0.35]
    figure = Figure(figsize=(min(max(6.0, 1.6 * made.duration), 24.0), 2.2 * sum(rows)), layout="constrained")
    axes: Any = figure.subplots(len(rows), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    T = len(features)
    axes[0].imshow(features.T, origin="lower", aspect="auto", cmap="magma", extent=(0, T / 100, 0, features.shape[1]))
    axes[0].set_ylabel("mel filter")
    if network.head is not None:
        with torch.no_grad():
            encoded, _, _ = network.encode(torch.from_numpy(features)[None], torch.tensor([T]))
            p = network.log_probs(encoded)[0].exp().numpy()
        at = (np.arange(len(p)) + 0.5) * STEP
        axes[1].plot(at, p[:, 0], color="0.8", label="blank")
        for token in np.flatnonzero(p.max(0) > LOUD):
            if token:
                peak = int(p[:, token].argmax())
                axes[1].plot(at, p[:, token], lw=1.2)
                axes[1].annotate(units.pieces[token].replace(" ", "_"), (at[peak], p[peak, token]), ha="center", fontsize=8)
        axes[1].set(ylabel="posterior", ylim=(0, 1.15))
    last = axes[-1]
    for word in made.words:
        last.axvspan(word.start, word.end, color="tab:blue", alpha=0.15 + 0.5 * word.confidence, lw=0)
        last.text((word.start + word.end) / 2, 0.5, f"{word.text}\n{word.confidence:.2f}", ha="center", va="center", fontsize=8)
    last.set(xlabel="seconds", yticks=[], ylim=(0, 1), xlim=(0, T / 100), ylabel="words")
    figure.suptitle(made.text or "(nothing was heard)", fontsize=10)
    return figure
