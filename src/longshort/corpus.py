"""What the data of speech and of translation have in common: lines of text files, batches of like length, what was left out."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

JITTER = 0.1  # lengths are sorted as if they were up to this share longer, so that neighbours change
NAMED = 3  # of what is left out, how many a summary names, per reason


def numbered(path: Path) -> Iterator[tuple[str, str]]:
    """File and number of each line of a text file, UTF-8 and perhaps gzipped, and the line without its end.

    Only \\n and \\r\\n end a line; a mark at the beginning of the file (BOM) is no text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, the message names the line; or it is a damaged gzip file.
    """
    try:
        with open(path, "rb") as raw:  # once, for it may be a pipe
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            for k, line in enumerate(gzip.GzipFile(fileobj=raw) if packed else raw, 1):
                where = f"{path}:{k}"
                try:
                    text = line.decode("utf-8-sig" if k == 1 else "utf-8")
                except UnicodeDecodeError as e:
                    raise ValueError(
                        f"{where}: is not UTF-8: byte 0x{e.object[e.start]:02X} at {e.start}. Convert the file."
                    ) from None
                yield where, text.removesuffix("\n").removesuffix("\r")
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise ValueError(f"{path}: is a damaged gzip file: {e}") from None


def together(order: NDArray[np.int64], sizes: Sequence[float], most: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Neighbours put into batches, as many as fit, and the batches into random order.

    Args:
        order: positions in sizes, those of like size side by side, int64, [N].
        sizes: of each, none above most, [N].
        most: what a batch may hold at most: its largest size times their number.
        rng: draws.
    """
    made: list[NDArray[np.int64]] = []
    first, longest = 0, 0.0
    for k, at in enumerate(order.tolist()):
        longest = max(longest, sizes[at])
        if longest * (k + 1 - first) > most:
            made.append(order[first:k])
            first, longest = k, sizes[at]
    if len(order):
        made.append(order[first:])
    return [made[k] for k in rng.permutation(len(made))]


def summary(drops: Iterable[tuple[str, str]], kind: str) -> str:
    """What was left out, in a sentence: how many for each reason, and the first of them.

    Args:
        drops: reason, and what is said of this one.
        kind: what was left out, one of them.
    """
    reasons: dict[str, list[str]] = {}
    for reason, one in drops:
        reasons.setdefault(reason, []).append(one)
    if not reasons:
        return f"No {kind} is left out."
    parts = [f"{len(of)} {reason} ({', '.join(of[:NAMED])}{', ...' * (len(of) > NAMED)})"
             for reason, of in sorted(reasons.items(), key=lambda item: -len(item[1]))]  # fmt: skip
    return f"Left out: {'; '.join(parts)}."
