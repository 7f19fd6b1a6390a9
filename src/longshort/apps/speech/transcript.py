"""What was heard: words with their times, and how people write that down. No torch.

Times are seconds from the beginning of the audio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise, zip_longest
from typing import Any, NamedTuple
from unicodedata import category

from rich.cells import cell_len

from longshort.scripts import ALONE

LINE = 42  # columns per line of a subtitle, at most; BBC subtitle guidelines allow 37 to 42
SHOWN = 6.0  # seconds that a subtitle stands, at most, unless a single word takes longer
READ = 1.0  # seconds that it stands, at least, unless the next one comes sooner
INSTANT = 0.04  # seconds that it stands, at the very least
PAUSE = 0.8  # seconds of silence after which a new subtitle begins
# What belongs to the letter after it, or before it, beside marks: vowels of Thai and Lao, stacked letters of Khmer and Burmese,
# small letters of Japanese.
HELD = "\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4\u1039\u17d2"
HOLDS = "\u0e30\u0e32\u0e33\u0eb0\u0eb2\u0eb3ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ"


@dataclass(frozen=True)
class Word:
    """One word.

    Args:
        text: as it is written.
        start: when its first token was heard, seconds.
        end: when the step of its last token ends, seconds.
        confidence: how probable it is that the word is right, in [0, 1].
    """

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Token:
    """One token.

    Args:
        text: what it writes, with a space where a word begins.
        start: when it was heard, seconds.
        logp: its natural log-probability.
    """

    text: str
    start: float
    logp: float


@dataclass(frozen=True)
class Alternative:
    """Another way to hear it.

    Args:
        text: what may have been said.
        score: natural log-probability, language model and hotwords included.
    """

    text: str
    score: float


@dataclass(frozen=True)
class Transcript:
    """What was heard in one recording, or in one piece of a stream.

    Args:
        text: all of it.
        words: with their times.
        score: natural log-probability, language model and hotwords included.
        duration: how long the audio is, seconds.
        alternatives: other texts, the best first, if they were asked for.
        name: which recording, where it has a name.
        tokens: what the words are made of, with their times.
    """

    text: str
    words: tuple[Word, ...]
    score: float
    duration: float
    alternatives: tuple[Alternative, ...] = ()
    name: str = ""
    tokens: tuple[Token, ...] = ()

    def json(self) -> dict[str, Any]:
        """As plain JSON, numbers rounded to what they are worth."""
        made = asdict(self)
        for word in made["words"]:
            word |= {k: round(word[k], 3) for k in ("start", "end", "confidence")}
        for token in made["tokens"]:
            token |= {k: round(token[k], 3) for k in ("start", "logp")}
        for one in (made, *made["alternatives"]):
            one["score"] = round(one["score"], 3)
        made["duration"] = round(self.duration, 3)
        if not self.alternatives:
            del made["alternatives"]
        return made


class _Part(NamedTuple):
    """A word, or a piece of one that is written without spaces and is too long for a subtitle."""

    text: str
    start: float
    end: float
    gap: str  # between the part before it and this one


def subtitles(words: Sequence[Word], now: float = 0.0, space: str = " ") -> Iterator[tuple[float, float, str]]:
    """Words in pieces that can be read: (start, end, text); a piece has two lines at most, of at most 42 columns (characters of
    Chinese, Japanese and Korean take two) unless a single word is longer, never spans a pause, and ends when the next one begins,
    or before; none begins before `now`. `space` stands between two words. What is written without spaces and is too long is cut
    between characters, as if each took the same time."""
    pieces: list[list[_Part]] = []
    for part in _whole(part for word in words for part in _parts(word, space)):
        piece = pieces[-1] if pieces else []
        if not piece or part.start - piece[-1].end > PAUSE or part.end - piece[0].start > SHOWN or _lines([*piece, part]) is None:
            pieces.append([part])
        else:
            piece.append(part)
    # Transducers may write several words in one step, but subtitles do not overlap.
    for piece, after in zip_longest(pieces, pieces[1:]):
        start, last = max(now, piece[0].start), piece[-1].end
        now = max(last, start + READ)
        if after is not None:
            now = max(min(now, after[0].start), last, start + INSTANT)
        yield start, now, _lines(piece) or _joined(piece)


def _whole(parts: Iterable[_Part]) -> Iterator[_Part]:
    """Parts without a space between them, of which the second may not begin a line, as one."""
    held: _Part | None = None
    for part in parts:
        if held and not part.gap and not _may_part(held.text[-1], part.text[0]) and part.start - held.end <= PAUSE:
            held = held._replace(text=held.text + part.text, end=part.end)
            continue
        if held:
            yield held
        held = part
    if held:
        yield held


def _parts(word: Word, space: str) -> Iterator[_Part]:
    whole = _Part(word.text, word.start, word.end, space)
    if (_lines([whole]) is not None and word.end - word.start <= SHOWN) or not ALONE.search(word.text):
        yield whole
        return
    cuts = [k for k in range(1, len(word.text)) if _may_part(word.text[k - 1], word.text[k])]
    each = (word.end - word.start) / len(word.text)
    for a, b in pairwise([0, *cuts, len(word.text)]):
        yield _Part(word.text[a:b], word.start + a * each, word.start + b * each, "" if a else space)


def _may_part(before: str, after: str) -> bool:
    """Whether a line may end between two characters: at one of a script without spaces; but marks, vowels and small letters that
    belong to what stands before or after, and punctuation, stay with it."""
    stays = (
        before in HELD
        or after in HOLDS
        or category(after) in ("Mn", "Mc", "Lm", "Pe", "Pf", "Po")
        or category(before) in ("Ps", "Pi")
    )
    return not stays and bool(ALONE.match(before) or ALONE.match(after))


def _lines(parts: Sequence[_Part]) -> str | None:
    """Parts on one line or, if they are too long, on two lines of like length; None if they do not fit."""
    ends = [*accumulate(len(part.gap) * (k > 0) + cell_len(part.text) for k, part in enumerate(parts))]
    if ends[-1] <= LINE:
        return _joined(parts)
    longer, k = min(
        ((max(ends[k - 1], ends[-1] - ends[k - 1] - len(parts[k].gap)), k) for k in range(1, len(parts))), default=(LINE + 1, 0)
    )
    return f"{_joined(parts[:k])}\n{_joined(parts[k:])}" if longer <= LINE else None


def _joined(parts: Sequence[_Part]) -> str:
    return "".join(part.gap * (k > 0) + part.text for k, part in enumerate(parts))


def _clock(seconds: float, point: str) -> str:
    ms = round(1000 * seconds)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def text(made: Iterable[Transcript]) -> Iterator[str]:
    """One line per recording: its text; with its name and a tab before it where there is a name."""
    for one in made:
        yield f"{one.name}\t{one.text}\n" if one.name else f"{one.text}\n"


def jsonl(made: Iterable[Transcript]) -> Iterator[str]:
    """One JSON object per recording."""
    for one in made:
        yield json.dumps(one.json(), ensure_ascii=False) + "\n"


def _following(made: Iterable[Transcript]) -> Iterator[tuple[float, float, str]]:
    """Subtitles of utterances that follow each other: none begins before the one before it has ended."""
    last = 0.0
    for one in made:
        space = " " if len(one.words) < 2 or " " in one.text.strip() else ""
        for start, end, said in subtitles(one.words, last, space):
            yield start, end, said
            last = end


def srt(made: Iterable[Transcript]) -> Iterator[str]:
    """SubRip subtitles of one recording."""
    for k, (start, end, said) in enumerate(_following(made), 1):
        yield f"{k}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{said}\n\n"


def vtt(made: Iterable[Transcript]) -> Iterator[str]:
    """WebVTT subtitles of one recording. Source: W3C, WebVTT: The Web Video Text Tracks Format."""
    yield "WEBVTT\n\n"
    for start, end, said in _following(made):
        safe = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{_clock(start, '.')} --> {_clock(end, '.')}\n{safe}\n\n"


def ctm(made: Iterable[Transcript]) -> Iterator[str]:
    """NIST's conversation time marks: recording, channel, start, duration, word, confidence."""
    for one in made:
        name = "_".join(one.name.split()) or "-"
        for w in one.words:
            yield f"{name} 1 {w.start:.2f} {w.end - w.start:.2f} {w.text} {w.confidence:.3f}\n"


FORMATS: dict[str, Callable[[Iterable[Transcript]], Iterator[str]]] = {
    "text": text, "json": jsonl, "srt": srt, "vtt": vtt, "ctm": ctm
}  # fmt: skip
SINGLE = ("srt", "vtt")  # formats that hold one recording
