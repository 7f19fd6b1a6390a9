"""Utterances: read from manifests, Kaldi folders and lhotse cuts, screened, and put into batches of like length. NumPy only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from longshort.apps.speech.audio import SLACK, AudioError, info
from longshort.apps.speech.units import Units, normal
from longshort.corpus import JITTER, numbered, summary, together


@dataclass(frozen=True)
class Utterance:
    """Somebody said something.

    Args:
        id: its name.
        audio: the file it is in.
        text: what was said, as it was written down.
        duration: seconds; NaN where nobody said it and the file cannot be read.
        start: where in the file it begins, seconds.
        speaker: who said it, "" if that is not known.
        where: file and line that it was read from.
    """

    id: str
    audio: Path
    text: str
    duration: float
    start: float = 0.0
    speaker: str = ""
    where: str = ""


@dataclass(frozen=True)
class Drop:
    """An utterance that is left out.

    Args:
        utterance: which.
        reason: why, in words that others left out for the same reason share.
        detail: what was wrong with this one.
    """

    utterance: Utterance
    reason: str
    detail: str = ""


def read(path: str | os.PathLike[str]) -> list[Utterance]:
    """The utterances of a manifest, a Kaldi folder or lhotse cuts. A path that is not absolute is looked for beside the file
    that names it, then in the current folder. Text is UTF-8; files may be gzipped.

    Args:
        path: a file with a JSON object per line: `audio_filepath`, `text` and, if known, `duration`, `offset`, `speaker`, `id`;
            or with a lhotse cut per line, of which each supervision becomes an utterance; or a folder with `wav.scp`, `text` and,
            if there are any, `segments` and `utt2spk`. A command in the place of a file is never executed.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: something cannot be understood or does not exist; the message names file and line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file. Data is a manifest (JSON lines), a Kaldi folder or lhotse cuts.")
    made = list(_kaldi(path) if path.is_dir() else _objects(path))
    if not made:
        raise ValueError(f"{path}: holds no utterance.")
    return made


def write(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> None:
    """Write a manifest that `read` reads. Audio below its folder is named relative to it, other audio by its whole path."""
    path = Path(path)
    home, lines = path.parent.resolve(), []
    for u in utterances:
        audio = u.audio.resolve()
        line: dict[str, Any] = {
            "id": u.id,
            "audio_filepath": str(audio.relative_to(home) if audio.is_relative_to(home) else audio),
            "text": u.text,
        }
        line |= {} if math.isnan(u.duration) else {"duration": u.duration}
        line |= {"offset": u.start} if u.start else {}
        line |= {"speaker": u.speaker} if u.speaker else {}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def screen(
    utterances: Iterable[Utterance], units: Units, *, fold: bool = False, shortest: float = 0.0, longest: float = math.inf,
    speed: float = 1.0, step: float = 0.04, repeats: bool = True,
) -> tuple[list[Utterance], list[Drop]]:  # fmt: skip
    """The utterances that can be learned from, and the others.

    Args:
        utterances: all of them.
        units: the tokens that their texts become.
        fold: texts become lower case first.
        shortest: least duration, seconds.
        longest: greatest duration, seconds.
        speed: how fast they are played at most.
        step: seconds per step of the encoder; each writes one token at most.
        repeats: whether a token that follows itself takes a blank between, as CTC has it.

    Returns:
        (kept, left out), both in order.
    """
    kept, drops = [], []
    for u in utterances:
        text, length, steps = normal(u.text, fold), f"{u.duration:.2f} s", math.inf
        if not math.isnan(u.duration):  # else who reads it will say why it cannot be
            steps = int(u.duration / speed / step + 1e-6)
        tokens = units.encode(text) if units.known(text) else []
        need = len(tokens) + repeats * sum(a == b for a, b in pairwise(tokens))
        if not text:
            drops.append(Drop(u, "without text"))
        elif not tokens:
            drops.append(Drop(u, "with unknown characters", "".join(units.unknown(text))))
        elif u.duration < shortest:
            drops.append(Drop(u, f"shorter than {shortest:g} s", length))
        elif u.duration > longest:
            drops.append(Drop(u, f"longer than {longest:g} s", length))
        elif need > steps:
            drops.append(Drop(u, "with more text than there is time for", f"{need} steps in {length}"))
        else:
            kept.append(u)
    return kept, drops


def said(drops: Sequence[Drop]) -> str:
    """What was left out, in a sentence: how many for each reason, and the first of them."""
    return summary(((d.reason, f"{d.utterance.id}: {d.detail}" if d.detail else d.utterance.id) for d in drops), "utterance")


def buckets(durations: ArrayLike, seconds_per_batch: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Batches of like duration, in random order; each utterance is in one of them.

    Args:
        durations: seconds of each utterance, [N].
        seconds_per_batch: what a batch may last at most: its longest utterance times their number.
        rng: draws the order, and who are neighbours.

    Returns:
        Positions in durations, int64, one array per batch.

    Raises:
        ValueError: an utterance is longer than a batch, or has no length.
    """
    d = np.asarray(durations, np.float64)
    if len(bad := np.flatnonzero(~((d > 0) & (d <= seconds_per_batch)))):
        raise ValueError(
            f"each utterance must last more than 0 and at most {seconds_per_batch:g} s, the length of a batch; number {bad[0]} "
            f"lasts {d[bad[0]]:g} s."
        )
    order = np.argsort(d * rng.uniform(1, 1 + JITTER, len(d)), kind="stable")
    return together(order, d.tolist(), seconds_per_batch, rng)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """File and number of each line that is not blank, and the line."""
    return ((where, text) for where, line in numbered(path) if (text := line.strip()))


def _objects(path: Path) -> Iterator[Utterance]:
    """The utterances of a file with a JSON object per line."""
    for where, line in _lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{where}: is not JSON: {e}. Each line must be one object.") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where}: must be a JSON object, got {line[:40]}. Each line must be one object.")
        if "supervisions" in record or "tracks" in record:
            yield from _cut(record, where, path.parent)
        else:
            yield _entry(record, where, path.parent)


def _entry(record: dict[str, Any], where: str, home: Path) -> Utterance:
    """The utterance of a line of a manifest."""
    audio = _find(_string(record, "audio_filepath", where), where, home)
    start = _seconds(record, "offset", where) or 0.0
    duration = _seconds(record, "duration", where)
    if duration is None:
        duration = _length(audio) - start
    if duration <= 0:
        raise ValueError(f"{where}: duration must be more than 0 s, got {duration:g} s (offset {start:g} s).")
    name = _string(record, "id", where, f"{audio.stem}-{start:g}" if start else audio.stem)
    return Utterance(name, audio, _string(record, "text", where), duration, start, _string(record, "speaker", where, ""), where)


def _cut(record: dict[str, Any], where: str, home: Path) -> Iterator[Utterance]:
    """The utterances of a lhotse cut: one per supervision."""
    recording = record.get("recording")
    sources = recording.get("sources") if isinstance(recording, dict) else None
    if not isinstance(recording, dict) or not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ValueError(f"{where}: a cut must have one recording with one source. Mixed and padded cuts must be saved as audio.")
    source = sources[0]
    if source.get("type") != "file":
        raise ValueError(f"{where}: the source must be of type file, got {source.get('type')!r}. Commands are never executed.")
    if recording.get("transforms"):
        raise ValueError(f"{where}: the recording has transforms, which are not applied here. Save the cuts as audio.")
    if len(channels := source.get("channels") or [0]) > 1:
        raise ValueError(f"{where}: a cut takes one of {len(channels)} channels, but channels are mixed here. Save it as audio.")
    audio = _find(_string(source, "source", where), where, home)
    begin, length = _seconds(record, "start", where) or 0.0, _seconds(record, "duration", where)
    if length is None or not isinstance(spoken := record.get("supervisions"), list):
        raise ValueError(f"{where}: a cut must have a duration and a list of supervisions.")
    for s in spoken:
        if not isinstance(s, dict):
            raise ValueError(f"{where}: a supervision must be a JSON object, got {s!r}.")
        first = _seconds(s, "start", where, signed=True) or 0.0
        last = min(first + (_seconds(s, "duration", where) or 0.0), length)
        if last <= max(first, 0):
            raise ValueError(f"{where}: supervision {s.get('id')!r} lies outside the cut of {length:g} s, or lasts 0 s.")
        name, speaker, first = _string(s, "id", where), _string(s, "speaker", where, ""), max(first, 0)
        yield Utterance(name, audio, _string(s, "text", where), last - first, begin + first, speaker, where)


def _kaldi(folder: Path) -> Iterator[Utterance]:
    """The utterances of a Kaldi folder."""
    for name in ("wav.scp", "text"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: a Kaldi folder must hold wav.scp and text; {name} is missing.")
    sounds, texts, speakers, pieces = (_table(folder / name) for name in ("wav.scp", "text", "utt2spk", "segments"))
    for where, source in sounds.values():
        if "|" in (source[:1], source[-1:]):
            raise ValueError(f"{where}: {source[:60]!r} is a command and is not executed. Name the file that it makes.")
    spans = pieces or {name: (where, f"{name} 0 -1") for name, (where, _) in sounds.items()}
    for name, (where, _) in texts.items():
        if name not in spans:
            raise ValueError(f"{where}: {name} has no sound in {'segments' if pieces else 'wav.scp'}.")
    lengths: dict[str, tuple[Path, float]] = {}
    for name, (where, line) in spans.items():
        if name not in texts:
            raise ValueError(f"{where}: {name} has no text in {folder / 'text'}.")
        try:
            key, *ends = (field for field in line.split(" ") if field)
            start, end = map(float, ends)
        except ValueError:
            raise ValueError(f"{where}: must be utterance, recording, start and end in seconds, got {line[:60]!r}.") from None
        if key not in sounds:
            raise ValueError(f"{where}: recording {key} is not in {folder / 'wav.scp'}.")
        if key not in lengths:
            audio = _find(sounds[key][1], sounds[key][0], folder)
            lengths[key] = audio, _length(audio)
        audio, total = lengths[key]
        end = total if end == -1 else end
        if not (math.isnan(total) or 0 <= start < end <= total + SLACK):
            raise ValueError(f"{where}: must lie in the {total:.2f} s of {audio}, got {start:g} to {end:g} s.")
        yield Utterance(name, audio, texts[name][1], end - start, start, speakers.get(name, ("", ""))[1], where)


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """The lines of a Kaldi table: name, then (where, the rest). None of them if there is no such file."""
    made: dict[str, tuple[str, str]] = {}
    for where, line in _lines(path) if path.exists() else ():
        name, _, rest = line.replace("\t", " ").partition(" ")
        if name in made:
            raise ValueError(f"{where}: {name} was already at {made[name][0]}.")
        made[name] = where, rest.strip()
    return made


def _find(name: str, where: str, home: Path) -> Path:
    for path in (home / name, Path(name)):
        if os.path.isfile(path):
            return path
    raise ValueError(f"{where}: there is no audio file {name!r}, neither in {home} nor in the current folder.")


def _length(audio: Path) -> float:
    """Seconds of a file; NaN where it is damaged, so that it is left out when it is heard, and the others are not."""
    try:
        return info(audio)[0]
    except AudioError:
        return math.nan


def _string(record: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    v = record.get(key, default)
    if v is None and default is not None:
        return default
    if isinstance(v, int) and key in ("id", "speaker"):
        return str(v)
    if not isinstance(v, str):
        names = ", ".join(list(record)[:12])
        raise ValueError(f"{where}: {key} must be text, got {v!r}." if key in record else f"{where}: has no {key}, only {names}.")
    if any("\ud800" <= c <= "\udfff" for c in v):
        raise ValueError(f"{where}: {key} holds half a character (a lone surrogate): {v!r}.")
    return v


def _seconds(record: dict[str, Any], key: str, where: str, signed: bool = False) -> float | None:
    v = record.get(key)
    if v is None:
        return None
    if isinstance(v, bool) or not isinstance(v, int | float) or not (signed or v >= 0) or not abs(v) < 1e9:
        raise ValueError(f"{where}: {key} must be seconds, got {v!r}.")
    return float(v)
