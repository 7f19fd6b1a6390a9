"""What was heard: words with their times, and how people write that down. NumPy only.

Times are seconds from the beginning of the audio.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

LINE = 42  # characters per line of a subtitle, at most; BBC subtitle guidelines allow 37 to 42
SHOWN = 6.0  # seconds that a subtitle stands, at most, unless a single word takes longer
READ = 1.0  # seconds that it stands, at least, unless the next one comes sooner
INSTANT = 0.04  # seconds that it stands, at the very least
PAUSE = 0.8  # seconds of silence after which a new subtitle begins


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
    """

    text: str
    words: tuple[Word, ...]
    score: float
    duration: float
    alternatives: tuple[Alternative, ...] = ()
    name: str = ""

    def json(self) -> dict[str, Any]:
        """As plain JSON, numbers rounded to what they are worth."""
        made = asdict(self)
        for word in made["words"]:
            word |= {k: round(word[k], 3) for k in ("start", "end", "confidence")}
        for one in (made, *made["alternatives"]):
            one["score"] = round(one["score"], 3)
        made["duration"] = round(self.duration, 3)
        if not self.alternatives:
            del made["alternatives"]
        return made


def subtitles(words: Sequence[Word], now: float = 0.0) -> Iterator[tuple[float, float, str]]:
    """Words in pieces that can be read: (start, end, text); a piece has two lines at most, of at most 42 characters unless a
    single word is longer, never spans a pause, and ends when the next one begins, or before; none begins before
    `now`."""
    pieces: list[list[Word]] = []
    for word in words:
        piece = pieces[-1] if pieces else []
        if (
            not piece
            or word.start - piece[-1].end > PAUSE
            or word.end - piece[0].start > SHOWN
            or _lines([w.text for w in [*piece, word]]) is None
        ):
            pieces.append([word])
        else:
            piece.append(word)
    # Transducers may write several words in one step, but subtitles do not overlap.
    for piece, after in zip_longest(pieces, pieces[1:]):
        start, last = max(now, piece[0].start), piece[-1].end
        now = max(last, start + READ)
        if after is not None:
            now = max(min(now, after[0].start), last, start + INSTANT)
        texts = [w.text for w in piece]
        yield start, now, _lines(texts) or " ".join(texts)


def _lines(texts: Sequence[str]) -> str | None:
    """Words on one line or, if they are too long, on two lines of like length; None if they do not fit."""
    whole = " ".join(texts)
    if len(whole) <= LINE:
        return whole
    cuts = [(" ".join(texts[:k]), " ".join(texts[k:])) for k in range(1, len(texts))]
    best = min(cuts, key=lambda pair: max(map(len, pair)), default=("", whole))
    return "\n".join(best) if max(map(len, best)) <= LINE else None


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
        for start, end, said in subtitles(one.words, last):
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
