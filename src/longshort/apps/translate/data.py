"""Sentence pairs: read from files, screened, put into batches of like length, and split so that nothing leaks. NumPy only."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longshort.apps.translate.vocabulary import normal
from longshort.corpus import JITTER, numbered, summary, together

SHARE = 0.1  # of a held-out part, at most, that is one group, as long as there are others


class Pair(NamedTuple):
    """A sentence and its translation.

    source: the sentence.
    target: its translation.
    where: file and line that they were read from, or their number.
    """

    source: str
    target: str
    where: str = ""


@dataclass(frozen=True)
class Drop:
    """A pair that is left out.

    Args:
        pair: which.
        reason: why, in words that others left out for the same reason share.
        detail: what was wrong with this one.
    """

    pair: Pair
    reason: str
    detail: str = ""


def read(source: Any, target: Any = None, *, columns: tuple[int, int] | None = None) -> list[Pair]:
    """Sentence pairs: line n of two files, or two columns of one file, or lists.

    Files are UTF-8 and may be gzipped. A line ends with \\n or \\r\\n and with nothing else; a mark at the beginning of the file
    (BOM) is no text. Lines of a file are never left out here: `screen` says which are empty.

    Args:
        source: a file with a sentence per line; or, without target, a file with a pair per line, between them a tab; or a list of
            sentences; or, without target, a list of pairs.
        target: a file or list with the translations, as many as there are sentences.
        columns: of a file with tabs: where source and target stand, the first is 1; then lines may have more columns. None:
            there are two, source and target.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: something cannot be understood, or there are more sentences on one side; the message names file and line.
        TypeError: a list holds something other than texts.
    """
    files = [isinstance(side, str | os.PathLike) for side in (source, target) if side is not None]
    if len(set(files)) > 1:
        raise TypeError("source and target must be two files or two lists, got one of each.")
    if columns is not None and (not files[0] or target is not None):
        raise TypeError("columns are those of one file with tabs; of two files or lists there are none.")
    if target is None:
        made = list(_columns(Path(source), columns) if files[0] else _pairs(source))
        name = f"{source}" if files[0] else "the list of pairs"
    else:
        left, right = ([*lines(side)] if files[0] else _texts(side) for side in (source, target))
        names = [f"{side}" if files[0] else side_name for side, side_name in ((source, "source"), (target, "target"))]
        if len(left) != len(right):
            raise ValueError(
                f"{names[0]} has {len(left)} lines, {names[1]} has {len(right)}: line n of both must belong together. "
                f"The first without a partner is {names[len(right) > len(left)]}:{min(len(left), len(right)) + 1}."
            )
        made = [Pair(s, t, f"{names[0]}:{k}") for k, (s, t) in enumerate(zip(left, right, strict=True), 1)]
        name = f"{names[0]} with {names[1]}"
    if not any(not files[0] or (pair.source.strip() and pair.target.strip()) for pair in made):
        raise ValueError(f"{name}: must hold one or more sentence pairs, there is none.")
    return made


def judges(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Pairs that translations are compared with.

    Raises:
        ValueError: one has no translation, the message names its place.
    """
    if empty := [p for p in pairs if not p.target.strip()]:
        where = empty[0].where or f"the pair of {empty[0].source!r}"
        raise ValueError(f"{where}: the translation is empty, there is nothing to compare with. Leave the line out.")
    return pairs


def lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines of a text file, which may be gzipped, without their ends.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8, the message names the line; or it is a folder or a damaged gzip file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    if path.is_dir():
        raise ValueError(f"{path}: must be a text file, is a folder.")
    for _, line in numbered(path):
        yield line


def screen(
    pairs: Sequence[Pair], source: Sequence[int], target: Sequence[int], *, longest: int = 200, ratio: float = math.inf
) -> tuple[NDArray[np.int64], list[Drop]]:
    """The pairs that can be learned from, and the others.

    Args:
        pairs: all of them.
        source: how many tokens the source of each has.
        target: how many the target has.
        longest: tokens of a side at most.
        ratio: how many times as long one side may be as the other.

    Returns:
        (positions of those kept, int64; those left out), both in order.

    Raises:
        ValueError: there are not as many lengths as pairs.
    """
    if not len(pairs) == len(source) == len(target):
        raise ValueError(f"{len(pairs)} pairs must have as many lengths, got {len(source)} and {len(target)}.")
    kept, drops = [], []
    for k, (pair, s, t) in enumerate(zip(pairs, source, target, strict=True)):
        if not (s and t):
            drops.append(Drop(pair, "with an empty side", "both" if s == t else "source" if s == 0 else "target"))
        elif max(s, t) > longest:
            drops.append(Drop(pair, f"longer than {longest} tokens", f"{s} and {t}"))
        elif max(s, t) > ratio * min(s, t):
            drops.append(Drop(pair, f"with one side more than {ratio:g} times as long", f"{s} and {t}"))
        else:
            kept.append(k)
    return np.array(kept, np.int64), drops


def said(drops: Sequence[Drop]) -> str:
    """What was left out, in a sentence: how many for each reason, and the first of them."""
    return summary(((d.reason, ": ".join(filter(None, (d.pair.where, d.detail)))) for d in drops), "pair")


def buckets(source: ArrayLike, target: ArrayLike, tokens: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Batches of like length, in random order; each pair is in one of them.

    Args:
        source: tokens of each source, as many as will stand in the batch, [N].
        target: tokens of each target, [N].
        tokens: what either side of a batch may hold at most, padding included: its longest sentence times their number.
        rng: draws the order, and who are neighbours.

    Returns:
        Positions in source, int64, one array per batch.

    Raises:
        ValueError: a sentence is longer than a batch, or there are not as many targets as sources.
    """
    s, t = np.asarray(source, np.int64), np.asarray(target, np.int64)
    if s.shape != t.shape or s.ndim != 1:
        raise ValueError(f"source and target must be two rows of equal length, got {list(s.shape)} and {list(t.shape)}.")
    most = np.maximum(s, t)
    if len(bad := np.flatnonzero((most > tokens) | (np.minimum(s, t) < 0))):
        raise ValueError(
            f"a sentence must have at most {tokens} tokens, the size of a batch; pair {bad[0]} has {s[bad[0]]} and {t[bad[0]]}."
        )
    mixed = rng.permutation(len(s))
    near = np.round(t * rng.uniform(1, 1 + JITTER, len(t))).astype(np.int64)
    turns = np.where(near % 2, s, -s)  # up and down again from one target length to the next: neighbours are always alike
    order = mixed[np.lexsort((turns[mixed], near[mixed]))]
    return together(order, most.tolist(), tokens, rng)


def split(pairs: Sequence[tuple[str, ...]], sizes: Sequence[float], seed: int = 0) -> list[NDArray[np.int64]]:
    """Parts that have no sentence in common, neither on the source side nor on the target side.

    Pairs that share a sentence hang together, and so do those that hang together with the same pair: such a group is never
    divided. Two sentences are the same if they differ only in case, punctuation and spaces. Groups are drawn in random order;
    a part takes each that it still has room for, but none that is more than a tenth of it until nothing else is left. So a
    part is never larger than asked, and smaller only where no group fits; very large groups stay in the first part.

    Args:
        pairs: (source, target, ...) each.
        sizes: of each part but the first, which gets the rest: a whole number of pairs, or a share in (0, 1).
        seed: draws.

    Returns:
        Positions in pairs, int64, ascending: [the rest, one per size].

    Raises:
        ValueError: sizes do not leave anything, or the pairs hang together so much that a part stays empty.
    """
    wanted = [round(size * len(pairs)) if 0 < size < 1 else size for size in sizes]
    if not all(1 <= n < len(pairs) and n == int(n) for n in wanted) or sum(wanted) >= len(pairs):
        raise ValueError(f"sizes must be pairs, 1 or more, or shares in (0, 1), and leave some of {len(pairs)}, got {[*sizes]}.")
    group = _groups(pairs)
    counts = np.bincount(group)
    part = np.zeros(len(counts), np.int64)
    left = np.random.default_rng(seed).permutation(len(counts)).tolist()
    for k, size in enumerate(map(int, wanted), 1):
        room = size
        for most in (max(1, int(SHARE * size)), size):
            for g in left:
                if part[g] == 0 and counts[g] <= min(room, most):
                    part[g], room = k, room - counts[g]
        left = [g for g in left if part[g] == 0]
        if room == size or not left:
            raise ValueError(
                f"part {k} of {size} pairs cannot be split off: {len(pairs)} pairs make {len(counts)} groups without a common "
                f"sentence, the largest of {counts.max()}. Ask for other sizes or give more pairs."
            )
    return [np.flatnonzero(part[group] == k) for k in range(len(sizes) + 1)]


def _groups(pairs: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    """For each pair the number of its group, [N]: pairs that share a sentence have the same."""
    key, node = _Key(), dict[tuple[int, str], int]()
    ends = [[node.setdefault((side, key(pair[side])), len(node)) for pair in pairs] for side in (0, 1)]
    root = list(range(len(node)))

    def find(k: int) -> int:
        while root[k] != k:
            root[k] = k = root[root[k]]
        return k

    for a, b in zip(*ends, strict=True):
        root[find(a)] = find(b)
    return np.unique([find(a) for a in ends[0]], return_inverse=True)[1].astype(np.int64)


class _Key(dict[int, str]):
    """Texts as they are compared: lower case, without punctuation, single spaces; those without anything else as they are."""

    def __missing__(self, code: int) -> str:
        self[code] = " " if unicodedata.category(chr(code))[0] in "PZC" else chr(code)
        return self[code]

    def __call__(self, text: str) -> str:
        text = normal(text)
        return " ".join(text.casefold().translate(self).split()) or text


def _columns(path: Path, columns: tuple[int, int] | None) -> Iterator[Pair]:
    """The pairs of a file with tabs. A line that is empty is a pair of empty sentences."""
    if columns is not None and (len(columns) != 2 or min(columns) < 1):
        raise ValueError(f"columns must be two numbers, the first column is 1, got {columns}.")
    s, t = columns or (1, 2)
    for k, line in enumerate(lines(path), 1):
        cells = line.split("\t")
        if line and len(cells) < max(s, t):
            raise ValueError(f"{path}:{k}: must have {max(s, t)} columns with tabs between, got {len(cells)}: {line[:60]!r}.")
        if columns is None and len(cells) > 2:
            raise ValueError(f"{path}:{k}: must have 2 columns, got {len(cells)}. Say which: columns=(1, 2), --columns 1,2.")
        yield Pair(cells[s - 1], cells[t - 1], f"{path}:{k}") if line else Pair("", "", f"{path}:{k}")


def _pairs(pairs: Iterable[Any]) -> Iterator[Pair]:
    """Pairs from anything that holds two texts each."""
    for k, pair in enumerate(pairs, 1):
        if not isinstance(pair, tuple | list) or len(pair) < 2:
            raise TypeError(f"pair {k} must be a source and a target, got {pair!r}.")
        source, target = _texts(pair[:2])
        yield Pair(source, target, pair.where if isinstance(pair, Pair) else f"pair {k}")


def _texts(texts: Iterable[Any]) -> list[str]:
    made = list(texts)
    for k, text in enumerate(made, 1):
        if not isinstance(text, str):
            raise TypeError(f"text {k} must be a str, got {type(text).__name__}.")
    return made
