"""A picture of one translation: which source tokens each of its tokens attends to."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longshort.scripts import fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 0.27  # inches
LETTER = 0.075  # inches, of a label
MOST = 60.0  # inches, of the matrix
TITLE = 200  # characters


def attention(matrix: ArrayLike, source: Sequence[str], target: Sequence[str], title: str = "") -> Figure:
    """Draw attention as a matrix: source tokens across, target tokens down, the darker the more; a ring is the most of its row.
    `figure.savefig("attention.png", dpi=150)` writes it.

    Args:
        matrix: attention of each target token to each source token, [T, S], rows that sum to at most 1.
        source: S tokens, as they are shown.
        target: T tokens.
        title: stands above, on a line of its own; cut after 200 characters.

    Raises:
        ValueError: the tokens are not as many as the matrix has rows and columns, there is none, or an entry is no share.
        ImportError: matplotlib is not installed.
    """
    a = np.asarray(matrix, np.float64)
    title = title if len(title) <= TITLE else title[: TITLE - 1] + "…"
    if a.shape != (len(target), len(source)) or not a.size:
        tokens = f"{len(target)} target and {len(source)} source tokens"
        raise ValueError(
            f"attention must be [T, S], a row for each target token, none of them 0; got {list(a.shape)} for {tokens}."
        )
    if not ((a >= 0) & (a <= 1 + 1e-4)).all():
        raise ValueError(f"attention must lie in 0 to 1, got {a.min():g} to {a.max():g}.")
    try:
        from matplotlib import rc_context
    except ImportError as e:
        raise ImportError("pictures need matplotlib: pip install 'longshort[plot]'.") from e
    with rc_context({"font.family": fonts("".join([*source, *target, title]))}):
        return _drawn(a, source, target, title)


def _drawn(a: NDArray, source: Sequence[str], target: Sequence[str], title: str) -> Figure:
    from matplotlib.figure import Figure

    T, S = a.shape
    cell = min(CELL, MOST / max(T, S))
    left, above = (0.25 + LETTER * max(map(_wide, tokens)) for tokens in (target, source))
    width, height, bar, head = S * cell, T * cell, 0.75, 0.35 * bool(title)
    total = max(left + width + bar + 0.3, 0.25 + 1.25 * LETTER * _wide(title)), above + height + head + 0.2
    figure = Figure(figsize=total)
    axis: Any = figure.add_axes((left / total[0], 0.1 / total[1], width / total[0], height / total[1]))
    image = axis.imshow(a, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    edges = np.where(a.max(1) > 0.55, "white", "0.35").tolist()
    axis.scatter(a.argmax(1), np.arange(T), s=(33 * cell) ** 2, facecolors="none", edgecolors=edges, linewidths=0.7)
    size = 9 * cell / CELL
    axis.set_xticks(np.arange(S), source, rotation=90, fontsize=size, parse_math=False)
    axis.set_yticks(np.arange(T), target, fontsize=size, parse_math=False)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(S + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(T + 1) - 0.5, minor=True)
    axis.tick_params(which="minor", length=0)
    axis.grid(which="minor", color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[:].set_color("0.7")
    colours = figure.add_axes(((left + width + 0.15) / total[0], 0.1 / total[1], 0.12 / total[0], min(height, 1.6) / total[1]))
    figure.colorbar(image, cax=colours, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=8, length=2)
    if title:
        figure.text(0.12 / total[0], 1 - 0.1 / total[1], title, ha="left", va="top", fontsize=11, parse_math=False)
    return figure


def _wide(text: str) -> int:
    """Letters' widths of a text: characters as of Chinese take two."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
