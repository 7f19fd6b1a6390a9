"""Raw text in, raw text out: the layout that a translation keeps, what must stand in it, and what is copied. No torch."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longshort.apps.translate.markup import TAG
from longshort.apps.translate.vocabulary import STRANGE, UNK, normal
from longshort.scripts import ALONE, RUN, SOLID

Phrase = tuple[int, ...]
Encode = Callable[[str], Sequence[int]]

UNSEEN = "\ufeff\u200b\u2060"  # of no width, at the ends of a line as good as blanks
BREAK = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # ends a sentence: lines, pages, cells of a table
TOKEN = re.compile(rf"[{SOLID}]|{RUN}|[^\w\s]")
WORD = re.compile(rf"{RUN}(?:[-'.@_]{RUN})*")

# What is never translated unless it is told otherwise.
PATTERNS: Mapping[str, str] = {
    "url": r"(?:https?://|ftp://|www\.)[^\s<>\"]*[^\s<>\".,;:!?'()\[\]{}]",
    "email": r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "placeholder": r"\{\{[^{}\n]*\}\}|\$?\{[^{}\n]*\}|%\(\w+\)[sdf]|(?<![\w%])%[sdf](?!\w)",
    "tag": TAG,
}


# ---- layout ----


@dataclass(frozen=True)
class Layout:
    """A text as sentences and what stands around them.

    sentences: what is translated, n; none is empty, and none begins or ends with a blank.
    blanks: everything else: before the first sentence, between them, after the last, n + 1.
    """

    sentences: tuple[str, ...]
    blanks: tuple[str, ...]

    def join(self, translations: Sequence[str]) -> str:
        """The text with a translation in the place of each sentence; with the sentences themselves it is the text again.

        Raises:
            ValueError: there are more or fewer translations than sentences.
        """
        if len(translations) != len(self.sentences):
            raise ValueError(f"each of {len(self.sentences)} sentences needs its translation, got {len(translations)}.")
        made = [self.blanks[0]]
        for translation, blank in zip(translations, self.blanks[1:], strict=True):
            made += [translation, blank]
        return "".join(made)


def units(text: str, keep: Keep | None = None) -> Layout:
    """Split a text into what is translated and what stays: line ends of every kind, tabs, empty lines, blanks at the ends of
    lines, and lines that hold neither letter nor digit. A line is a sentence; where it has tabs, each piece between them is one.

    Args:
        text: any text.
        keep: what is not translated: lines that hold nothing else stay as well.
    """
    sentences, blanks, one, kept = [], [], 0, 0  # kept: how much of the text has found its place
    for two, after in [*(m.span() for m in BREAK.finditer(text)), (len(text), len(text))]:
        while one < two and _blank(text[one]):
            one += 1
        while one < two and _blank(text[two - 1]):
            two -= 1
        said = text[one:two] if keep is None else keep.rest(text[one:two])
        if any(c.isalnum() for c in said):
            blanks.append(text[kept:one])
            sentences.append(text[one:two])
            kept = two
        one = after
    return Layout(tuple(sentences), (*blanks, text[kept:]))


def _blank(c: str) -> bool:
    return c.isspace() or c in UNSEEN


def lines(stream: BinaryIO, name: str) -> Iterator[str]:
    r"""The lines of a stream of UTF-8, as they come, with their ends: "".join(lines(...)) is the whole text. "\n" ends a line.

    Args:
        stream: opened to read bytes.
        name: what messages call it.

    Raises:
        ValueError: a line is not UTF-8; the message names line, column and byte.
    """
    for k, line in enumerate(stream, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as e:
            column = len(line[: e.start].decode()) + 1
            raise ValueError(
                f"{name}:{k}:{column}: is not UTF-8: byte 0x{line[e.start]:02X} at {e.start} of the line. Convert it: "
                f"iconv -f LATIN1 -t UTF-8, if it is Latin-1."
            ) from None


# ---- what must appear in a translation ----


class Glossary:
    """Terms and how they are translated.

    Args:
        terms: source term to its translations, of which one must appear.
        fold: find terms whatever their case.

    Raises:
        ValueError: a term or a translation is empty.
    """

    def __init__(self, terms: Mapping[str, str | Sequence[str]], fold: bool = False) -> None:
        self.fold = fold
        self.terms: dict[tuple[str, ...], tuple[str, ...]] = {}
        for source, targets in terms.items():
            targets = [targets] if isinstance(targets, str) else targets
            key = tuple(word for word, _, _ in self._words(source))
            if not key or not targets or not all(t.strip() for t in targets):
                raise ValueError(f"a glossary must pair terms that are not empty, got {source!r} and {list(targets)!r}.")
            self.terms[key] = (*self.terms.get(key, ()), *(t.strip() for t in targets))
        self._most = max(map(len, self.terms), default=0)

    @classmethod
    def read(cls, path: str | os.PathLike[str], fold: bool = False) -> Glossary:
        """The glossary of a file of UTF-8: on each line a term, a tab, its translation. A term may come again with another one.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is not of this form; the message names it.
        """
        terms: dict[str, list[str]] = {}
        with open(path, "rb") as f:
            for k, line in enumerate(lines(f, os.fspath(path)), 1):
                fields = [field.strip() for field in line.strip(UNSEEN + "\r\n").split("\t")]
                if len(fields) == 2 and all(fields):
                    terms.setdefault(fields[0], []).append(fields[1])
                elif any(fields):
                    raise ValueError(f"{path}:{k}: must be a term, one tab and its translation, got {line.rstrip()[:60]!r}.")
        return cls(terms, fold)

    def find(self, text: str) -> list[tuple[int, int, tuple[str, ...]]]:
        """Terms in a text as (start, end, translations): whole words, the longest first where several begin, none in another.
        A hyphen or an apostrophe ends a word; in scripts without spaces each character is one."""
        words, found, k = self._words(text), [], 0
        while k < len(words):
            for n in range(min(self._most, len(words) - k), 0, -1):
                targets = self.terms.get(tuple(word for word, _, _ in words[k : k + n]))
                if targets:
                    found.append((words[k][1], words[k + n - 1][2], targets))
                    k += n - 1
                    break
            k += 1
        return found

    def _words(self, text: str) -> list[tuple[str, int, int]]:
        """Words as they are compared, and where they stand. Marks on letters, no letters to `re`, hold a word together."""
        spans: list[tuple[int, int]] = []
        for m in TOKEN.finditer(text):
            start, end = m.span()
            joined = (
                spans and spans[-1][1] == start and any(unicodedata.category(c)[0] == "M" for c in (text[start - 1], text[start]))
            )
            if joined and not (m.group()[0].isalpha() and ALONE.match(m.group())):
                spans[-1] = spans[-1][0], end
            else:
                spans.append((start, end))
        words = [text[a:b].casefold() if self.fold else text[a:b] for a, b in spans]
        return [(unicodedata.normalize("NFC", word), *span) for word, span in zip(words, spans, strict=True)]


@dataclass(frozen=True)
class Keep:
    """What is not translated.

    Args:
        patterns: regular expressions; where two match from the same place, the first one counts. An empty match is none.

    Raises:
        ValueError: one is not a regular expression.
    """

    patterns: tuple[str, ...] = tuple(PATTERNS.values())

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as e:
                raise ValueError(f"what is kept must be a regular expression, got {pattern!r}: {e}.") from None

    @cached_property
    def _all(self) -> list[re.Pattern[str]]:
        return [re.compile(p) for p in self.patterns]

    def changed(self, text: str) -> list[tuple[str, str]]:
        """The spans of a text, in order, without blanks around them: as `vocabulary.normal` makes them, and as they are. None,
        where all are alike."""
        found = [(normal(one), one) for a, b in self.find(text) if (one := text[a:b].strip())]
        return found if any(made != was for made, was in found) else []

    def rest(self, text: str) -> str:
        """A text without the spans."""
        for a, b in reversed(self.find(text)):
            text = text[:a] + text[b:]
        return text

    def tags(self, text: str) -> list[tuple[int, int]]:
        """Those of the spans that are tags."""
        return [(a, b) for a, b in self.find(text) if re.fullmatch(TAG, text[a:b])]

    def find(self, text: str) -> list[tuple[int, int]]:
        """Spans (start, end) that stay as they are, in order, apart from each other; a match that begins in another is none."""
        all = [(m.start(), k, m.end()) for k, p in enumerate(self._all) for m in p.finditer(text) if m.end() > m.start()]
        spans: list[tuple[int, int]] = []
        for start, _, end in sorted(all):
            if not spans or start >= spans[-1][1]:
                spans.append((start, end))
        return spans


class Required(NamedTuple):
    """Something that must appear in a translation.

    start, end: where its source stands in the sentence.
    texts: what must appear: one of these. A text may be there twice, for it begins in two ways.
    phrases: the tokens of each text, of which one must appear in one piece: as a word of its own and, where the source does not
        follow a blank or the language has none between words, as what goes on after a character.
    loose: those of them after which the word may go on: where it does so in the source, and in scripts without spaces.
    veiled: the network reads and writes an unknown word in its place; `phrases` are that word.
    """

    start: int
    end: int
    texts: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    loose: tuple[Phrase, ...] = ()
    veiled: bool = False


def restored(text: str, kept: Sequence[tuple[str, str]]) -> str:
    """A translation in which what was kept stands as it stood in the source.

    Args:
        text: the translation, with the joints of `copies`.
        kept: what was kept, as `vocabulary.normal` made it, and as it was; of equal ones the first comes first.
    """
    text = text.replace(f" {STRANGE}", "").replace(f"{STRANGE} ", "").replace(STRANGE, "")
    left: dict[str, list[str]] = {}
    for made, was in kept:
        if made:
            left.setdefault(made, []).append(was)
    if not left:
        return text
    every = "|".join(map(re.escape, sorted(left, key=len, reverse=True)))
    return re.sub(every, lambda m: left[m[0]].pop(0) if left[m[0]] else m[0], text)


def required(
    sentence: str, encode: Encode, glossary: Glossary | None = None, keep: Keep | None = None, solid: str = "",
    veil: bool = False,
) -> list[Required]:  # fmt: skip
    """What must appear in the translation of a sentence: the translations of its terms, and what is kept. A term counts more.
    What is kept side by side stays so.

    Args:
        sentence: one of `units`.
        encode: text to tokens of the target language, as `Vocabulary.encode`.
        glossary: terms; None: none.
        keep: what is not translated; None: everything is.
        solid: see `Vocabulary.solid_for`.
        veil: what is kept is `veiled`.
    """
    found = [] if glossary is None else [(*one, False) for one in glossary.find(sentence)]
    if keep is not None:
        taken, kept = [(start, end) for start, end, *_ in found], list[tuple[int, int]]()
        for a, b in (span for span in keep.find(sentence) if all(span[1] <= start or end <= span[0] for start, end in taken)):
            kept.append((kept.pop()[0], b) if kept and kept[-1][1] == a else (a, b))
        found += [(a, b, (sentence[a:b],), veil) for a, b in kept]
    made = []
    for start, end, texts, veiled in sorted(found):
        shown = [STRANGE if veiled else text for text in texts]
        alone = [tuple(encode(text)) for text in shown]
        ways = dict(zip(alone, texts, strict=True))
        for text, show, own in zip(texts, shown, alone, strict=True):
            for before in filter(None, (sentence[start - 1 : start].strip(), *solid)):
                head, joined = tuple(encode(before)), tuple(encode(before + show))
                apart = joined.count(UNK) == head.count(UNK) + own.count(UNK)  # no unknown token is of both
                if apart and joined[: len(head)] == head:
                    ways[joined[len(head) :]] = text
                    break
        ways.pop((), None)
        if ways:
            goes_on = not veiled and re.match(RUN, sentence[end:])
            loose = tuple(phrase for phrase, text in ways.items() if goes_on or ALONE.match(text[-1]))
            made.append(Required(start, end, tuple(ways.values()), tuple(ways), loose, veiled))
    return made


def veil(sentence: str, must: Sequence[Required]) -> tuple[str, list[int]]:
    """A sentence with an unknown word in the place of each part that is `veiled`, and where each of its characters, and its end,
    stands in the sentence."""
    made, places, at = "", list[int](), 0
    for one in (r for r in must if r.veiled):
        before, after = (" " * joint for joint in _joints(sentence, one))
        made += sentence[at : one.start] + before + STRANGE + after
        places += [*range(at, one.start), *(one.start for _ in before), one.start, *(one.end for _ in after)]
        at = one.end
    return made + sentence[at:], [*places, *range(at, len(sentence) + 1)]


def _joints(sentence: str, one: Required) -> tuple[bool, bool]:
    """Whether a word ends where something begins, and whether one begins where it ends."""
    return bool(re.fullmatch(RUN, sentence[max(one.start - 1, 0) : one.start])), bool(re.match(RUN, sentence[one.end :]))


# ---- unknown words ----


def copies(
    tokens: Sequence[int], attention: NDArray, sentence: str, source: Sequence[int], spans: Sequence[tuple[int, int]],
    unknown: int = 1, must: Sequence[Required] = (), pieces: Callable[[str], Sequence[tuple[int, int]]] | None = None,
    copy: bool = True,
) -> list[str]:  # fmt: skip
    """What to write in the place of each unknown token of a translation, in order: what the source token that it attends to most
    stands for, if that is unknown too, else the word that it is part of. Neighbours that attend to the same write it once. In
    what is required the text itself is known.

    Args:
        tokens: of the translation, T, without its end.
        attention: how much each token attends to each source token, [T or more, S or more].
        sentence: the source, as `vocabulary.normal` makes it.
        source: its tokens, S.
        spans: where each of them stands in it, (start, end), S.
        unknown: the unknown token.
        must: what was `required`.
        pieces: where the tokens of a text stand in it, as `Vocabulary.spans`; needed for unknown tokens in what was required.
        copy: whether source words are copied; else an unknown token is written as ⁇ where nothing was required.

    Returns:
        A text for each unknown token, as `Vocabulary.decode` takes them. Where a word goes on beside what was veiled, there is a
        joint for `restored`: the character that no text has.

    Source: Luong et al. 2015, Addressing the rare word problem in neural machine translation; Jean et al. 2015, section 3.3.
    """
    made: list[str] = []
    known = {} if pieces is None or unknown not in tokens else _known(tokens, must, pieces, unknown, attention, spans)
    rest = [t for t, token in enumerate(tokens) if token == unknown and t not in known]
    known |= _unveiled(rest, must, attention, spans, sentence)
    written = {(one.start, one.end) for one in must if one.veiled}  # all of it, where there is a token for each
    before = (-2, (0, 0))  # where the last copy was written, and from where
    for t in (t for t, token in enumerate(tokens) if token == unknown):
        if t in known:
            made.append(known[t])
            continue
        if not copy:
            made.append("⁇")
            continue
        k = int(np.argmax(attention[t, : len(spans)])) if spans else -1
        span = (0, 0) if k < 0 else spans[k] if source[k] == unknown else _word(sentence, *spans[k])
        made.append("" if before == (t - 1, span) or span in written else sentence[slice(*span)])
        before = t, span
    return made


def _word(sentence: str, start: int, end: int) -> tuple[int, int]:
    """The word around a token; the token itself where that is no word."""
    while start < len(sentence) and sentence[start].isspace():
        start += 1
    end = max(end, start + 1)
    flat = ""
    for c in sentence:  # marks are no letters to `re`: they count as what they stand on
        flat += flat[-1:] or c if unicodedata.category(c)[0] == "M" else c
    inside = (m.span() for m in WORD.finditer(flat) if m.start() < end and start < m.end())
    return next(inside, (start, end))


def _known(
    tokens: Sequence[int], must: Sequence[Required], pieces: Callable[[str], Sequence[tuple[int, int]]], unknown: int,
    attention: NDArray, spans: Sequence[tuple[int, int]],
) -> dict[int, str]:  # fmt: skip
    """What unknown tokens stand for that are part of what was required, by their place: of several, where its source was read."""
    made: dict[int, str] = {}
    taken: set[int] = set()
    plain = (one for one in must if not one.veiled)
    for one in sorted(plain, key=lambda r: -len(r.phrases[0])):  # a short phrase may be part of a long one
        here = [j for j, (a, b) in enumerate(spans) if a < one.end and one.start < b]
        for text, phrase in zip(one.texts, one.phrases, strict=True):
            n, own = len(phrase), next(p for t, p in zip(one.texts, one.phrases, strict=True) if t == text)
            lost = [span for token, span in zip(own, pieces(text), strict=False) if token == unknown]
            marks = [i for i, token in enumerate(phrase) if token == unknown]
            at = (k for k in range(len(tokens) - n + 1) if tuple(tokens[k : k + n]) == phrase)
            places = [k for k in at if not taken & {*range(k, k + n)}]
            if marks and len(lost) == len(marks) and places:
                k = places[int(np.argmax([attention[k : k + n, here].sum() for k in places]))]
                taken.update(range(k, k + n))
                made |= {k + i: normal(text)[slice(*span)] for i, span in zip(marks, lost, strict=True)}
                break
    return made


def _unveiled(
    places: Sequence[int], must: Sequence[Required], attention: NDArray, spans: Sequence[tuple[int, int]], sentence: str
) -> dict[int, str]:
    """What was veiled, each at the unknown token where its source was read most, by their place."""
    rest = [one for one in must if one.veiled]
    here = [[j for j, (a, b) in enumerate(spans) if a < one.end and one.start < b] for one in rest]
    read = sorted(((attention[t, at].sum(), -t, -k) for t in places for k, at in enumerate(here)), reverse=True)
    made: dict[int, Required] = {}
    for _, t, k in read:
        if rest[-k] not in made.values() and -t not in made:
            made[-t] = rest[-k]
    texts = {}
    for t, one in made.items():
        before, after = (STRANGE * joint for joint in _joints(sentence, one))
        texts[t] = before + one.texts[0] + after
    return texts
