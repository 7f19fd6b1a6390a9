"""Laws of the data: three formats say the same, every refusal names file and line, each utterance is in one batch."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lhotse
import lhotse.kaldi
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from longshort.apps.speech.data import Drop, Utterance, buckets, read, said, screen, write
from longshort.apps.speech.units import Units

TEXTS = ["one two", "drei  vier", "五 六", "it's “quoted” \\ \u2028 x", ""]


@pytest.fixture
def sounds(tmp_path):
    """Five files of 1 to 3 seconds, one of them in a folder of its own."""
    rng, made = np.random.default_rng(0), []
    for k, name in enumerate(["a.wav", "b c.wav", "Größe.flac", "sub/d.wav", "e.ogg"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * rng.normal(size=16_000 + 8000 * k), 16_000)
        made.append(path)
    return made


def utterances(sounds: list[Path]) -> list[Utterance]:
    return [Utterance(f"u{k}", path, TEXTS[k], 1 + k / 2, speaker="s" * (k % 2)) for k, path in enumerate(sounds)]


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), encoding="utf-8")
    return path


def nameless(made: list[Utterance]) -> list[Utterance]:
    return [replace(u, where="") for u in made]


# read


def test_what_is_written_is_read(tmp_path, sounds):
    given = [*utterances(sounds), Utterance("part", sounds[1], "x", 0.5, 0.25)]
    write(tmp_path / "train.jsonl", given)
    made = read(tmp_path / "train.jsonl")
    assert nameless(made) == given
    assert [u.where for u in made] == [f"{tmp_path}/train.jsonl:{k}" for k in range(1, 7)]
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "train.jsonl", made)  # the audio lies elsewhere
    assert nameless(read(tmp_path / "other" / "train.jsonl")) == given


def test_a_file_that_cannot_be_read_has_no_duration(tmp_path, sounds):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    lines(tmp_path / "one.jsonl", {"audio_filepath": "broken.wav", "text": "x"})
    write(tmp_path / "two.jsonl", read(tmp_path / "one.jsonl"))
    assert "duration" not in (tmp_path / "two.jsonl").read_text()
    assert math.isnan(read(tmp_path / "two.jsonl")[0].duration)


def test_a_manifest_that_moves_with_its_audio_stays_good(tmp_path, sounds):
    write(tmp_path / "train.jsonl", utterances(sounds))
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    assert [u.audio for u in read(moved / "train.jsonl")] == [moved / s.relative_to(tmp_path) for s in sounds]


def test_what_a_manifest_leaves_out_is_filled_in(tmp_path, sounds):
    path = lines(
        tmp_path / "m.json",
        {"audio_filepath": "a.wav", "text": "x"},
        "",
        {"audio_filepath": str(sounds[1]), "text": "", "offset": 0.5, "duration": None, "lang": "en", "speaker": None},
        {"audio_filepath": "sub/d.wav", "text": "y", "duration": 1, "id": 7, "speaker": 3},
    )
    assert read(path) == [
        Utterance("a", sounds[0], "x", 1.0, where=f"{path}:1"),
        Utterance("b c-0.5", sounds[1], "", 1.0, 0.5, where=f"{path}:3"),
        Utterance("7", sounds[3], "y", 1.0, speaker="3", where=f"{path}:4"),
    ]


def test_paths_may_be_relative_to_the_current_folder(tmp_path, sounds, monkeypatch):
    (tmp_path / "lists").mkdir()
    path = lines(tmp_path / "lists" / "m.jsonl", {"audio_filepath": "a.wav", "text": "x"})
    with pytest.raises(ValueError, match=r"m.jsonl:1: there is no audio file 'a.wav', neither in .* nor in the current folder"):
        read(path)
    monkeypatch.chdir(tmp_path)
    assert read(path)[0].duration == 1.0


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")])
def test_files_may_be_packed_or_come_from_windows(tmp_path, sounds, pack):
    write(tmp_path / "m.jsonl", utterances(sounds))
    (tmp_path / "n").write_bytes(pack((tmp_path / "m.jsonl").read_bytes()))
    assert nameless(read(tmp_path / "n")) == utterances(sounds)


def kaldi(folder: Path, **tables: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        lines(folder / name.replace("wav", "wav.scp"), *rows)
    return folder


def test_kaldi_folders(tmp_path, sounds):
    folder = kaldi(
        tmp_path / "k",
        wav=[f"u{k} {path}" for k, path in enumerate(sounds)],
        text=[f"u{k}\t{text}" for k, text in enumerate(TEXTS)],
        utt2spk=["u1 s", "u3 s"],
    )
    assert nameless(read(folder)) == utterances(sounds)
    assert read(folder)[2].where == f"{folder}/wav.scp:3"


def test_kaldi_segments_are_those_of_lhotse(tmp_path, sounds):
    folder = kaldi(
        tmp_path / "k",
        wav=[f"r{k} {path}" for k, path in enumerate(sounds[:2])],
        segments=["u1 r0 0.1 0.6", "u2 r0 0.6 1.0", "u3 r1  0.25 1.5"],
        text=["u1 one", "u2 two words", "u3 three"],
        utt2spk=["u1 s", "u2 s", "u3 t"],
    )
    recordings, supervisions, _ = lhotse.kaldi.load_kaldi_data_dir(folder, 16_000)
    wanted = [
        Utterance(s.id, Path(recordings[s.recording_id].sources[0].source), s.text, s.duration, s.start, s.speaker)
        for s in supervisions
    ]
    made = read(folder)
    assert [replace(u, duration=round(u.duration, 9)) for u in nameless(made)] == wanted
    kaldi(folder, segments=["u1 r0 0.1 0.6", "u2 r0 0.6 -1", "u3 r1 0.25 1.55"])
    assert read(folder)[1].duration == pytest.approx(0.4)


def cuts(sounds: list[Path]) -> lhotse.CutSet:
    """Cuts with one, two or no supervisions, of which the second begins later in its recording."""
    made = []
    for k, path in enumerate(sounds):
        recording = lhotse.Recording.from_file(path)
        spoken = [
            lhotse.SupervisionSegment(
                f"u{k}-{j}", recording.id, 0.25 + 0.3 * j, 0.25, text=f"{TEXTS[k]} {j}", speaker="s" * j or None
            )
            for j in range((k + 1) % 3)
        ]
        cut = recording.to_cut()
        cut.supervisions = spoken
        made.append(cut if k != 1 else cut.truncate(offset=0.125, preserve_id=True))
    return lhotse.CutSet.from_cuts(made)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_are_those_of_lhotse(tmp_path, sounds, name):
    given = cuts(sounds)
    given.to_file(tmp_path / name)
    wanted = [
        Utterance(s.id, Path(c.recording.sources[0].source), s.text, c.duration, c.start, s.speaker or "")
        for c in given.trim_to_supervisions()
        for s in c.supervisions
    ]
    made = [replace(u, start=round(u.start, 9), duration=round(u.duration, 9)) for u in nameless(read(tmp_path / name))]
    assert made == wanted
    assert len(made) == 6


def test_a_supervision_that_reaches_over_its_cut_is_clipped(tmp_path, sounds):
    cut = json.loads(json.dumps(next(iter(cuts(sounds))).to_dict()))
    cut |= {"start": 0.25, "duration": 0.5, "supervisions": [{"id": "x", "text": "x", "start": -0.1, "duration": 2.0}]}
    (made,) = read(lines(tmp_path / "c.jsonl", cut))
    assert (made.start, made.duration) == (0.25, 0.5)


# refused, by file and line


GOOD = {"audio_filepath": "a.wav", "text": "x", "duration": 1.0}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "is not JSON: .* Each line must be one object"),
        ("x" * 100, "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("1" * 10_000, "is not JSON|must be a JSON object"),
        ("[1, 2]", r"must be a JSON object, got \[1, 2\]"),
        ('"a.wav"', "must be a JSON object"),
        ({"text": "x"}, "has no audio_filepath, only text"),
        ({"audio_filepath": "a.wav", "sentence": "x"}, "has no text, only audio_filepath, sentence"),
        (GOOD | {"text": None}, "text must be text, got None"),
        (GOOD | {"text": 5}, "text must be text, got 5"),
        (GOOD | {"text": "\ud800"}, "text holds half a character"),
        (GOOD | {"audio_filepath": 5}, "audio_filepath must be text, got 5"),
        (GOOD | {"audio_filepath": "gone.wav"}, "there is no audio file 'gone.wav'"),
        (GOOD | {"audio_filepath": "sub"}, "there is no audio file 'sub'"),
        (GOOD | {"audio_filepath": "a\0.wav"}, "there is no audio file"),
        (GOOD | {"audio_filepath": "x" * 10_000}, "there is no audio file"),
        (GOOD | {"audio_filepath": "cat a.wav |"}, "there is no audio file"),
        (GOOD | {"duration": 0}, "duration must be more than 0 s, got 0 s"),
        (GOOD | {"duration": None, "offset": 2}, r"duration must be more than 0 s, got -1 s \(offset 2 s\)"),
        (GOOD | {"duration": -1}, "duration must be seconds, got -1"),
        (GOOD | {"duration": "1.0"}, "duration must be seconds, got '1.0'"),
        (GOOD | {"duration": True}, "duration must be seconds, got True"),
        (GOOD | {"duration": float("nan")}, "duration must be seconds, got nan"),
        (GOOD | {"duration": 10**400}, "duration must be seconds"),
        (GOOD | {"offset": float("inf")}, "offset must be seconds, got inf"),
        (GOOD | {"speaker": ["s"]}, r"speaker must be text, got \['s'\]"),
    ],
)
def test_a_bad_line_of_a_manifest_is_named(tmp_path, sounds, bad, message):
    path = lines(tmp_path / "m.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(ValueError, match=message) as e:
        read(path)
    assert str(e.value).startswith(f"{path}:3: ")


CUT = {
    "id": "c",
    "start": 0.0,
    "duration": 1.0,
    "channel": 0,
    "supervisions": [{"id": "s", "text": "x", "start": 0.0, "duration": 1.0}],
    "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}], "sampling_rate": 16_000},
}


def source(**fields: object) -> dict:
    return {"recording": {"sources": [CUT["recording"]["sources"][0] | fields]}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recording": None}, "must have one recording with one source"),
        ({"recording": {"sources": []}}, "must have one recording with one source"),
        ({"recording": {"sources": [1]}}, "must have one recording with one source"),
        ({"tracks": [], "recording": None}, "Mixed and padded cuts must be saved as audio"),
        (source(type="command", source="cat a.wav"), "type file, got 'command'. Commands are never executed"),
        (source(type="url"), "type file, got 'url'"),
        (source(channels=[0, 1]), "one of 2 channels, but channels are mixed"),
        (source(source="gone.wav"), "there is no audio file 'gone.wav'"),
        ({"recording": CUT["recording"] | {"transforms": [{"name": "Speed"}]}}, "has transforms, which are not applied"),
        ({"duration": None}, "must have a duration and a list of supervisions"),
        ({"supervisions": {}}, "must have a duration and a list of supervisions"),
        ({"supervisions": [3]}, "a supervision must be a JSON object, got 3"),
        ({"supervisions": [{"id": "s", "start": 0, "duration": 1}]}, "has no text, only id, start, duration"),
        (
            {"supervisions": [{"id": "s", "text": "x", "start": 1.5, "duration": 1}]},
            "'s' lies outside the cut of 1 s, or lasts 0 s",
        ),
        ({"supervisions": [{"id": "s", "text": "x", "start": -1, "duration": 1}]}, "'s' lies outside the cut"),
        ({"supervisions": [{"id": "s", "text": "x"}]}, "lies outside the cut of 1 s, or lasts 0 s"),
    ],
)
def test_a_bad_cut_is_named(tmp_path, sounds, change, message):
    path = lines(tmp_path / "c.jsonl", CUT, CUT | change)
    with pytest.raises(ValueError, match=message) as e:
        read(path)
    assert str(e.value).startswith(f"{path}:2: ")


TABLES = {"wav": ["u0 a.wav", "u1 b c.wav"], "text": ["u0 x", "u1 y z"]}


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        (
            {"wav": ["u0 a.wav", "u1 sox a.wav -t wav - |"]},
            "wav.scp:2",
            r"'sox a.wav -t wav - \|' is a command and is not executed",
        ),
        ({"wav": ["u0 a.wav", "u1 | touch made"]}, "wav.scp:2", "is a command and is not executed"),
        ({"wav": ["u0 a.wav", "u1 touch made|"]}, "wav.scp:2", "is a command and is not executed"),
        ({"wav": ["u0 a.wav", "u0 b c.wav"]}, "wav.scp:2", "u0 was already at .*wav.scp:1"),
        ({"wav": ["u0 a.wav", "u1 gone.wav"]}, "wav.scp:2", "there is no audio file 'gone.wav'"),
        ({"wav": ["u0 a.wav", "u1"]}, "wav.scp:2", "there is no audio file ''"),
        ({"wav": ["u0 a.wav"]}, "text:2", "u1 has no sound in wav.scp"),
        ({"text": ["u0 x"]}, "wav.scp:2", "u1 has no text in .*text"),
        ({"text": ["u0 x", "u0 y"]}, "text:2", "u0 was already at .*text:1"),
        ({"segments": ["u0 u0 0 1"]}, "text:2", "u1 has no sound in segments"),
        ({"segments": ["u0 u0 0 1", "u1 u9 0 1"]}, "segments:2", "recording u9 is not in .*wav.scp"),
        (
            {"segments": ["u0 u0 0 1", "u1 u1 0"]},
            "segments:2",
            "must be utterance, recording, start and end in seconds, got 'u1 0'",
        ),
        ({"segments": ["u0 u0 0 1", "u1 u1 0 1 1"]}, "segments:2", "must be utterance, recording, start and end"),
        ({"segments": ["u0 u0 0 1", "u1 u1 0 x"]}, "segments:2", "start and end in seconds"),
        ({"segments": ["u0 u0 0 1", "u1 u1 0 1.7"]}, "segments:2", "must lie in the 1.50 s of .*b c.wav, got 0 to 1.7 s"),
        ({"segments": ["u0 u0 0 1", "u1 u1 1 1"]}, "segments:2", "must lie in the 1.50 s"),
        ({"segments": ["u0 u0 0 1", "u1 u1 nan 1"]}, "segments:2", "must lie in the 1.50 s"),
        ({"segments": ["u0 u0 0 1", "u1 u1 -1 1"]}, "segments:2", "must lie in the 1.50 s"),
    ],
)
def test_a_bad_line_of_a_kaldi_folder_is_named(tmp_path, sounds, monkeypatch, change, where, message):
    monkeypatch.chdir(tmp_path)
    folder = kaldi(tmp_path / "k", **TABLES)
    assert len(read(folder)) == 2
    kaldi(folder, **change)
    with pytest.raises(ValueError, match=message) as e:
        read(folder)
    assert str(e.value).startswith(f"{folder}/{where}: ")
    assert not list(tmp_path.rglob("made"))


def test_what_is_no_data_is_refused(tmp_path, sounds):
    with pytest.raises(FileNotFoundError, match=r"gone: there is no such file. Data is a manifest"):
        read(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"a Kaldi folder must hold wav.scp and text; wav.scp is missing"):
        read(tmp_path)
    with pytest.raises(ValueError, match="text is missing"):
        read(kaldi(tmp_path / "k", wav=["u0 a.wav"]))
    for content in (b"", b"\n \n", gzip.compress(b"")):
        (tmp_path / "m").write_bytes(content)
        with pytest.raises(ValueError, match="m: holds no utterance"):
            read(tmp_path / "m")


def test_text_that_is_not_utf8_is_named(tmp_path, sounds):
    line = json.dumps(GOOD).encode()
    (tmp_path / "m.jsonl").write_bytes(line + b"\n" + line.replace(b'"x"', '"é"'.encode("latin-1")) + b"\n")
    with pytest.raises(ValueError, match=r"m.jsonl:2: is not UTF-8: byte 0xE9 at \d+. Convert the file"):
        read(tmp_path / "m.jsonl")
    folder = kaldi(tmp_path / "k", wav=[f"u0 {sounds[0]}"])
    (folder / "text").write_bytes(b"u0 \xff\xfe")
    with pytest.raises(ValueError, match="text:1: is not UTF-8: byte 0xFF at 3"):
        read(folder)


def test_a_damaged_gzip_file_is_named(tmp_path, sounds):
    write(tmp_path / "m.jsonl", utterances(sounds))
    data = gzip.compress((tmp_path / "m.jsonl").read_bytes())
    for broken in (data[: len(data) // 2], data[:-6] + b"\0" * 6, data[:10] + b"\xff" * 20):
        (tmp_path / "m.gz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"m.gz: is a damaged gzip file"):
            read(tmp_path / "m.gz")


# screened


def speech(text: str, duration: float, id: str = "u") -> Utterance:
    return Utterance(id, Path("a.wav"), text, duration)


def test_screening_by_hand():
    units = Units.fit(["abc AB"], "char")
    cases = [
        (speech("abc", 1.0), None),
        (speech("", 1.0), "without text"),
        (speech(" \n", 1.0), "without text"),
        (speech("abcd é", 1.0), "with unknown characters"),
        (speech("abc", 0.09), "shorter than 0.1 s"),
        (speech("abc", 0.1), "with more text than there is time for"),  # 2 steps
        (speech("abc", 0.12), None),
        (speech("aab", 0.12), "with more text than there is time for"),  # a blank stands between
        (speech("aab", 0.16), None),
        (speech("a", 20.0), None),
        (speech("a", 20.01), "longer than 20 s"),
    ]
    kept, drops = screen([u for u, _ in cases], units, shortest=0.1, longest=20)
    assert kept == [u for u, reason in cases if reason is None]
    assert [(d.utterance, d.reason) for d in drops] == [(u, reason) for u, reason in cases if reason]
    assert drops[2].detail == "dé"
    assert screen([speech("aab", 0.12)], units, repeats=False)[1] == []
    assert len(screen([speech("abc", 0.12)], units, speed=1.1)[1]) == 1
    assert len(screen([speech("abc", 0.12)], units, step=0.08)[1]) == 1
    assert len(screen([speech("C", 1.0)], units)[1]) == 1
    assert screen([speech("C", 1.0)], units, fold=True)[1] == []


@given(st.lists(st.tuples(st.text("ab cé", max_size=12), st.floats(0.01, 3)), max_size=30), st.sampled_from(["char", "bpe"]))
@settings(max_examples=100, deadline=None)
def test_screening_keeps_what_can_be_learned(rows, kind):
    units = Units.fit(["abc", "a b", "ab ab"], kind, 8)
    given = [speech(text, duration, f"u{k}") for k, (text, duration) in enumerate(rows)]
    kept, drops = screen(given, units, shortest=0.1, longest=2.0)
    assert sorted([*kept, *(d.utterance for d in drops)], key=given.index) == given
    assert [u for u in given if u in kept] == kept
    for u in kept:
        tokens = units.encode(u.text)
        assert 0 < len(tokens) + sum(a == b for a, b in pairwise(tokens)) <= u.duration / 0.04 + 1e-6
    counts = {d.reason: sum(e.reason == d.reason for e in drops) for d in drops}
    assert all(f"{n} {reason} (" in said(drops) for reason, n in counts.items())


def test_what_is_left_out_is_said_in_a_sentence():
    drops = [Drop(speech("", 1, f"u{k}"), "without text") for k in range(5)] + [Drop(speech("é", 1, "v"), "strange", "é")]
    assert said(drops) == "Left out: 5 without text (u0, u1, u2, ...); 1 strange (v: é)."
    assert said(drops[::-1]) == "Left out: 5 without text (u4, u3, u2, ...); 1 strange (v: é)."
    assert said([]) == "No utterance is left out."


# batches


@given(st.lists(st.floats(0.01, 30), max_size=200), st.floats(30, 100), st.integers(0, 9))
@settings(max_examples=200)
def test_each_utterance_is_in_one_batch(durations, most, seed):
    made = buckets(durations, most, np.random.default_rng(seed))
    assert sorted(k for batch in made for k in batch) == list(range(len(durations)))
    d = np.array(durations)
    for batch in made:
        assert batch.dtype == np.int64
        assert len(batch)
        assert len(batch) * d[batch].max() <= most
    again = buckets(durations, most, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(made, again, strict=True))


def test_batches_hold_little_padding_and_change():
    d = np.random.default_rng(0).lognormal(1.5, 0.6, 5000).clip(0.5, 25)
    made = buckets(d, 100, np.random.default_rng(1))
    padded = np.array([len(batch) * d[batch].max() for batch in made])
    assert padded.sum() < 1.1 * d.sum()
    assert np.median(padded) > 90  # and they are full
    first = [d[batch].mean() for batch in made]
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.15  # in random order
    other = {frozenset(batch) for batch in buckets(d, 100, np.random.default_rng(2))}
    assert np.mean([frozenset(batch) in other for batch in made]) < 0.05  # and never the same twice


@pytest.mark.parametrize("bad", [0.0, -1.0, 10.1, np.nan, np.inf])
def test_what_fits_in_no_batch_is_named(bad):
    with pytest.raises(ValueError, match=rf"more than 0 and at most 10 s, the length of a batch; number 2 lasts {bad:g} s"):
        buckets([1.0, 10.0, bad, bad], 10, np.random.default_rng(0))


def test_a_file_that_is_no_sound_is_left_to_who_hears_it(tmp_path, sounds, monkeypatch):
    """One of thousands must not stop the others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.jsonl").write_text('{"audio_filepath": "m.jsonl", "text": "a", "offset": 0.5}\n')
    (one,) = read(tmp_path / "m.jsonl")
    assert (one.start, math.isnan(one.duration)) == (0.5, True)
    units = Units.fit(["a b"])
    assert screen([one], units, shortest=1, longest=2) == ([one], [])
    assert [d.reason for d in screen([replace(one, text="")], units)[1]] == ["without text"]
    folder = kaldi(tmp_path / "k", **{**TABLES, "wav": ["u0 a.wav", "u1 text"]})
    assert [math.isnan(u.duration) for u in read(folder)] == [False, True]
    kaldi(folder, segments=["u0 u0 0 1", "u1 u1 0.25 1"])
    assert [(u.start, u.duration) for u in read(folder)] == [(0, 1), (0.25, 0.75)]
