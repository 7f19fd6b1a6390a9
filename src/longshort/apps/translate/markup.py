"""Tags such as <b> and <br>: taken out of a sentence before it is translated, and put back where their words went. No torch.

A tag that is opened and closed in a sentence is a pair, and pairs hold others. Of the translation a pair gets the tokens that
read its words more than others, in one piece; any other tag stands before the token that read what follows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from longshort.scripts import RUN

TAG = r"</?[A-Za-z][^<>\n]*>"
_NAME = re.compile(r"</?([^\s/>]+)")


@dataclass
class Tag:
    """A pair of tags, or a single one.

    open, close: their texts, with the blanks that stand within; close is "" of a single one, and of a pair around nothing.
    start, end: what it is around, in the sentence without tags.
    before, after: whether blanks stand around it.
    within: the tags that stand in it, in order.
    """

    open: str
    close: str
    start: int
    end: int
    before: bool = False
    after: bool = False
    within: list[Tag] = field(default_factory=list)


def strip(sentence: str, spans: Sequence[tuple[int, int]]) -> tuple[str, list[Tag]]:
    """A sentence without its tags, and the tags, in order.

    Args:
        sentence: with single blanks, and none at its ends.
        spans: where its tags stand.
    """
    pairs = _pairs([sentence[a:b] for a, b in spans])
    text, at, made, inside = "", 0, list[Tag](), list[Tag]()
    for k, (a, b) in enumerate(spans):
        between = sentence[at:a]
        text, at = text + (between.lstrip() if text[-1:] in ("", " ") else between), b
        blank = sentence[a - 1 : a] == " ", sentence[b : b + 1] == " "
        tag = sentence[a:b]
        if k in pairs.values():
            closed = inside.pop()
            closed.close, closed.end, closed.after = " " * blank[0] + tag, len(text), blank[1]
            if closed.start == closed.end and not closed.within:
                closed.open, closed.close = closed.open.rstrip() + closed.close, ""
            continue
        one = Tag(tag, "", len(text), len(text), *blank)
        (inside[-1].within if inside else made).append(one)
        if k in pairs:
            one.open += " " * blank[1]
            inside.append(one)
        elif text[-1:].strip():
            text += " "  # it parts what stands on both sides
    rest = sentence[at:]
    return (text + (rest.lstrip() if text[-1:] in ("", " ") else rest)).rstrip(), made


def _pairs(tags: Sequence[str]) -> dict[int, int]:
    """Which tag closes which; those of another pair that would reach out of it are single."""
    made: dict[int, int] = {}
    opened: list[tuple[str, int]] = []
    for k, tag in enumerate(tags):
        found = _NAME.match(tag)
        name = found[1] if found else tag
        if not tag.startswith("</"):
            if not tag.endswith("/>"):
                opened.append((name, k))
            continue
        j = next((j for j in range(len(opened) - 1, -1, -1) if opened[j][0] == name), None)
        if j is not None:
            made[opened[j][1]] = k
            del opened[j:]
    return made


def place(
    text: str, tags: Sequence[Tag], pieces: Sequence[tuple[int, int]], attention: NDArray, sentence: str,
    spans: Sequence[tuple[int, int]], joined: Collection[int] = (),
) -> str:  # fmt: skip
    """A translation with the tags of its source, each of them once, and pairs within pairs as they were.

    Args:
        text: the translation of the sentence without tags.
        tags: what `strip` took out.
        pieces: where each token of the translation stands in it, T, (start, end) without the blank before.
        attention: of each of them, and of the end, to each source token, and its end, [T + 1, S + 1].
        sentence: the sentence without tags.
        spans: where each source token stands in it, S.
        joined: tokens of the translation before which no tag may stand, though no letter follows a letter there.
    """
    reads = attention[: len(pieces), : len(spans)].astype(np.float64)
    return _Placed(text, pieces, reads, sentence, spans, joined).among(tags, 0, len(pieces))


class _Placed:
    def __init__(
        self, text: str, pieces: Sequence[tuple[int, int]], attention: NDArray, sentence: str, spans: Sequence[tuple[int, int]],
        joined: Collection[int],
    ) -> None:  # fmt: skip
        self.text, self.pieces, self.attention, self.sentence, self.spans = text, pieces, attention, sentence, spans
        ends = [text[b - 1 : b] + text[a : a + 1] if b == a else "" for (_, b), (a, _) in pairwise(pieces)]
        self.one_word = [False, *(bool(re.fullmatch(RUN, both)) and len(both) == 2 for both in ends), False]  # before each token
        for k in joined:
            self.one_word[k] = True

    def among(self, tags: Sequence[Tag], low: int, high: int) -> str:
        """The text of some tokens, with some tags."""
        free, runs = np.ones(len(self.pieces), bool), list[tuple[int, int]]()
        for tag in tags:
            one, two = self._part(tag, low, high, free) if tag.close else (low, low)
            free[one:two] = False
            runs.append((one, two))
        taken = [run for run in runs if run[0] < run[1]]
        for n, (one, two) in enumerate(runs):
            if one == two:  # a single tag, or a pair around nothing that was read
                at = self._next(tags[n], low, high)
                runs[n] = (next((b for a, b in taken if a < at < b), at),) * 2
        made, at = "", self._start(low)
        for one, two, n in sorted((*run, n) for n, run in enumerate(runs)):
            tag = tags[n]
            here = self._start(one) if one < high else self._end(high)
            made, at = made + self.text[at:here], here
            if tag.close:
                made = made.rstrip() if tag.open.endswith(" ") and not tag.before else made  # its blank stands within
                made, at = made + tag.open + self.among(tag.within, one, two) + tag.close, self._end(two) if two > one else here
                at += tag.close.startswith(" ") and not tag.after and self.text[at : at + 1] == " "
            else:
                blank = " " * (tag.before and made[-1:] != "")
                made = made.rstrip() + blank + tag.open + " " * (tag.after and self.text[at : at + 1].strip() != "")
        return made + self.text[at : self._end(high)] if low < high else made

    def _start(self, k: int) -> int:
        return self.pieces[k][0] if k < len(self.pieces) else len(self.text)

    def _end(self, k: int) -> int:
        """Of the tokens before token k."""
        return self.pieces[k - 1][1] if k else 0

    def _read(self, start: int, end: int) -> NDArray:
        """How much more than half of what each token reads stands in a part of the sentence, [T]."""
        here = [a < end and start < b for a, b in self.spans]
        return self.attention[:, here].sum(1) - self.attention.sum(1) / 2

    def _part(self, tag: Tag, low: int, high: int, free: NDArray) -> tuple[int, int]:
        """The run of free tokens that reads most of what a pair is around; none where it is around nothing that was read."""
        value = np.where(free, self._read(tag.start, tag.end), -np.inf)
        best, total, begin, one, two = 0.0, 0.0, low, low, low
        for k in range(low, high):
            total, begin = (total, begin) if total >= 0 else (0.0, k)
            total += value[k]
            if total > best or total == best > 0:
                best, one, two = total, begin, k + 1
        if one == two:
            return one, two
        ends = self.sentence[tag.start : tag.end].strip()  # a mark beside it belongs to it only if it does so in the source
        while ends[-1:].isalnum() and two - one > 1 and not any(c.isalnum() for c in self.text[slice(*self.pieces[two - 1])]):
            two -= 1
        while ends[:1].isalnum() and two - one > 1 and not any(c.isalnum() for c in self.text[slice(*self.pieces[one])]):
            one += 1
        while one > low and self.one_word[one] and free[one - 1]:
            one -= 1
        while two < high and self.one_word[two] and free[two]:
            two += 1
        return one, two

    def _next(self, tag: Tag, low: int, high: int) -> int:
        """The token that reads most of what comes next in the sentence; the end, where nothing comes or nothing is read."""
        after = next((j for j, (a, b) in enumerate(self.spans) if a >= tag.end and b > a), None)
        if after is None or low == high:
            return high
        at = low + int(self.attention[low:high, after].argmax())
        while at > low and self.one_word[at]:
            at -= 1
        return at
