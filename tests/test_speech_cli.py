"""The verbs of speech on the command line as a person meets them, on a few digits that a small network has learned by heart."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf

import longshort
import spoken
from longshort import artefact, cli
from longshort.apps.speech import Config, Endpoint, Recognizer, data
from longshort.apps.speech import cli as room
from longshort.apps.speech.listen import Interrupt
from longshort.apps.speech.recognizer import CELL, DEFAULT
from longshort.apps.speech.transcript import Transcript, Word
from longshort.train import Training, resume_path
from test_cli import run, start, wait_for

TINY = [
    "--hidden",
    "8",
    "--layers",
    "1",
    "--channels",
    "2",
    "--longest",
    "8",
    "--seconds",
    "16",
    "--evaluate",
    "5",
    "--steps",
    "5",
]
LEARN = ["--hidden", "96", "--layers", "2", "--channels", "8", "--dropout", "0", "--seconds", "12", "--longest", "8", "--ngram", "2",
         "--curriculum", "0", "--time-masks", "0", "--freq-masks", "0", "--speeds", "1", "--gain", "0", "--lr", "3e-3", "--warmup", "0.1",
         "--average", "0.9", "--evaluate", "350", "--steps", "700"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with recordings, a manifest train.jsonl, and m.safetensors, which knows most of them by heart."""
    folder = tmp_path_factory.mktemp("speech")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken, "VOICES", ("en-us",))
        made = spoken.corpus(folder, {"train": 24}, most=3)["train"]
    learned = ["--train", made, "--valid", made, "--out", folder / "m.safetensors", "--quiet", *LEARN]
    assert cli.run(["train", "speech", *map(str, learned)]) == 0
    (folder / "broken.wav").write_bytes(b"RIFF no more")
    sf.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    return folder


def recordings(home: Path, n: int) -> tuple[list[Path], list[str]]:
    """The first recordings, and what the recogniser hears in each by itself."""
    paths = [u.audio for u in data.read(home / "train.jsonl")[:n]]
    made = [t.text for t in Recognizer.load(home / "m.safetensors").transcribe(paths)]
    assert all(made)
    return paths, made


def heard(home: Path, sound: bytes, rate: int = 16_000, silence: float = 1.0) -> list[str]:
    """What the recogniser hears in a stream, by itself."""
    stream = Recognizer.load(home / "m.safetensors").stream(endpoint=Endpoint(silence=silence))
    stream.accept(np.frombuffer(sound, np.int16), rate)
    stream.finish()
    made = [t.text for t in stream.finished if t.text]
    assert len(made) > 1
    return made


def raw(home: Path, n: int, pause: float = 1.6) -> bytes:
    """The first recordings one after another with pauses, as 16-bit samples."""
    quiet = np.zeros(int(16_000 * pause), np.int16)
    pieces = [x for path in recordings(home, n)[0] for x in (sf.read(path, dtype="int16")[0], quiet)]
    return np.concatenate(pieces).tobytes()


# the main road


def test_train_eval_predict(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    manifest, model = home / "train.jsonl", tmp_path / "new" / "m.safetensors"
    code, out, err = run(capfd, "train", "speech", "--train", manifest, "--valid", manifest, "--out", model, *TINY, "--log",
                         tmp_path / "log.jsonl")  # fmt: skip
    assert code == 0
    assert re.match(r"WER \d[\d.]*  CER \d[\d.]*  blank \d[\d.]*$", out.splitlines()[0])
    assert out.splitlines()[1] == f"wrote {model} and {tmp_path / 'log.jsonl'}"
    assert "step 5/5" in err
    assert list(model.parent.iterdir()) == [model], "the resume state is gone"
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1

    model = home / "m.safetensors"
    code, out, err = run(capfd, "eval", model, "--data", manifest, "--out", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    assert float(re.match(r"WER ([\d.]+) %", out)[1]) < 40
    assert out.endswith(f"wrote {tmp_path / 'scores.json'}\n")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == json.loads(json.dumps(Recognizer.load(model).evaluate(manifest).json())) | {"scores": scores["scores"]}, (
        "but for the time it took"
    )
    assert (scores["utterances"], f"WER {scores['scores']['WER']:.2f} %") == (24, out[: out.index("%") + 1])

    paths, texts = recordings(home, 20)  # more than are heard together
    assert run(capfd, "predict", model, *paths) == (0, "".join(f"{p}\t{t}\n" for p, t in zip(paths, texts, strict=True)), "")
    assert run(capfd, "predict", model, *paths[:2], "--out", tmp_path / "t.txt") == (0, f"wrote {tmp_path / 't.txt'}\n", "")
    assert (tmp_path / "t.txt").read_text() == "".join(f"{p}\t{t}\n" for p, t in zip(paths[:2], texts[:2], strict=True))


def test_formats(home: Path, capfd: pytest.CaptureFixture) -> None:
    (path, *_), (text, *_) = recordings(home, 1)
    model = home / "m.safetensors"
    made = Recognizer.load(model).transcribe(path)
    said = {kind: run(capfd, "predict", model, path, "--format", kind) for kind in ("json", "srt", "vtt", "ctm")}
    assert {(code, err) for code, _, err in said.values()} == {(0, "")}
    held = json.loads(said["json"][1])
    assert (held["text"], held["name"], [w["text"] for w in held["words"]]) == (text, str(path), text.split())
    assert [w["start"] for w in held["words"]] == [pytest.approx(w.start, abs=1e-3) for w in made.words]
    assert said["srt"][1].startswith("1\n00:00:0")
    assert said["vtt"][1].startswith("WEBVTT\n\n00:00:0")
    assert [line.split()[4] for line in said["ctm"][1].splitlines()] == text.split()
    code, out, _ = run(capfd, "predict", model, path, "--format", "json", "--beam", "8", "--alternatives", "3")
    assert code == 0
    assert len(json.loads(out)["alternatives"]) == 2


def test_language_models_and_hotwords(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    from longshort.apps.speech.ngram import NGram

    (path, *_), (text, *_) = recordings(home, 1)
    arpa = tmp_path / "own.arpa"
    NGram.fit(["one two three", "four five six"], 2).write(arpa)
    for words, how in (
        (["--ngram", "own"], {"ngram": "own"}),
        (
            ["--ngram", arpa, "--ngram-weight", "0.1", "--word-bonus", "-0.5"],
            {"ngram": arpa, "ngram_weight": 0.1, "word_bonus": -0.5},
        ),
        (["--hotwords", "nine", f"{text}:2"], {"hotwords": {"nine": 4.0, text: 2.0}}),
        (["--beam", "4"], {"beam": 4}),
    ):
        made = Recognizer.load(home / "m.safetensors").transcribe(path, **how)
        code, out, err = run(capfd, "predict", home / "m.safetensors", path, "--format", "json", *words)
        assert (code, err) == (0, "")
        assert json.loads(out) == json.loads(json.dumps(made.json())), words
    code, out, _ = run(capfd, "eval", home / "m.safetensors", "--data", home / "train.jsonl", "--ngram", "own")
    assert (code, out[:4]) == (0, "WER ")


def test_pictures(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    paths = recordings(home, 2)[0]
    other = tmp_path / "other" / paths[0].name
    other.parent.mkdir()
    other.write_bytes(paths[0].read_bytes())
    taken = other.with_stem(f"{other.stem}-1")  # as the second one of the same name would be called
    taken.write_bytes(paths[0].read_bytes())
    code, out, err = run(capfd, "predict", home / "m.safetensors", *paths, other, taken, "--picture", tmp_path / "pictures")
    assert (code, err, len(out.splitlines())) == (0, "", 4)
    made = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert made == sorted([*(f"{p.stem}.png" for p in paths), f"{other.stem}-1.png", f"{other.stem}-1-1.png"])
    assert all((tmp_path / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in made)


def test_pictures_of_any_text_and_any_model(home: Path) -> None:
    """Dollars are no mathematics; a transducer without CTC has no probabilities to show."""
    from longshort.apps.speech.plot import utterance

    path = recordings(home, 1)[0][0]
    ours = Recognizer.load(home / "m.safetensors")
    odd = Transcript("$5_{ $x^", (Word("$5_{", 0.1, 0.12, 1.0), Word("$x^", 0.12, 0.14, 0.0)), 0.0, 1.0)
    nothing = Transcript("", (), 0.0, 1.0)
    other = Recognizer(model="transducer", hidden=8, layers=1, channels=2, training=Training(steps=1)).fit(
        data.read(home / "train.jsonl")[:4]
    )
    for recognizer, rows in ((ours, 3), (other, 2)):
        for made in (odd, nothing, None):
            figure = utterance(recognizer, path, made)
            assert len(figure.axes) == rows
            figure.savefig(file := io.BytesIO())
            assert file.getvalue().startswith(b"\x89PNG")


def test_align(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (path, *_), (text, *_) = recordings(home, 1)
    model = home / "m.safetensors"
    code, out, err = run(capfd, "align", model, path, "--text", f"  {text} ")
    assert (code, err) == (0, "")
    words, heard = json.loads(out)["words"], Recognizer.load(model).transcribe(path).words
    assert [w["text"] for w in words] == text.split()
    assert all(abs(a["start"] - b.start) < 0.2 for a, b in zip(words, heard, strict=True))
    out = tmp_path / "a.srt"
    assert run(capfd, "align", model, path, "--text", text, "--format", "srt", "--out", out) == (0, f"wrote {out}\n", "")
    said = [line for line in out.read_text().splitlines() if not re.fullmatch(r"\d*|.* --> .*", line)]
    assert " ".join(said).split() == text.split()


def test_quiet_prints_nothing(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (path, *_), (text, *_) = recordings(home, 1)
    manifest, model = ["--train", home / "train.jsonl", "--valid", home / "train.jsonl"], home / "m.safetensors"
    for words in (["train", "speech", *manifest, "--out", tmp_path / "m.safetensors", *TINY], ["eval", model, "--data", manifest[1]],
                  ["predict", model, path, "--out", tmp_path / "p.txt"], ["align", model, path, "--text", text, "--out", tmp_path / "a"]):  # fmt: skip
        assert run(capfd, *words, "--quiet") == (0, "", ""), words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "m.safetensors", "p.txt"]


# flags


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a recogniser would be made of; nothing is trained."""
    made: list[dict[str, Any]] = []

    class Stop(Recognizer):
        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            if "training" in how:
                made.append(how)

        def fit(self, *_: Any, **how: Any) -> Recognizer:
            made[-1] |= how
            raise ValueError("far enough")

    monkeypatch.setattr(room, "Recognizer", Stop)
    return made


def test_flags_reach_the_recogniser_and_the_others_stay(asked: list, tmp_path: Path) -> None:
    def ask(*words: str) -> dict[str, Any]:
        assert cli.run(["train", "speech", "--train", "t.jsonl", "--out", str(tmp_path / "m"), *words]) == 2
        return asked[-1]

    plain = ask()
    assert (plain["config"], plain["training"], plain["cell"]) == (Config(), DEFAULT, CELL)
    assert {type(plain[k]) for k in ("config", "training", "cell")} == {Config, Training, longshort.Cell}
    assert ask("--lr", "0.5")["training"] == dataclasses.replace(DEFAULT, lr=0.5)
    assert ask("--steps", "7")["training"] == dataclasses.replace(DEFAULT, steps=7, epochs=None)
    assert ask("--epochs", "7")["training"] == dataclasses.replace(DEFAULT, epochs=7)
    assert ask("--cell.drop-h", "0.1")["cell"] == dataclasses.replace(CELL, drop_h=0.1)
    assert not ask("--cell.no-layer-norm")["cell"].layer_norm
    made = ask(
        "--model",
        "joint",
        "--no-streaming",
        "--units",
        "bpe",
        "--pieces",
        "40",
        "--speeds",
        "0.9",
        "1.1",
        "--snr",
        "3",
        "9",
        "--fold",
    )
    assert made["config"] == Config(
        model="joint", streaming=False, units="bpe", pieces=40, speeds=(0.9, 1.1), snr=(3.0, 9.0), fold=True
    )


def test_a_model_to_start_from_brings_its_settings(home: Path, asked: list, tmp_path: Path) -> None:
    words = ["--train", "t.jsonl", "--start", str(home / "m.safetensors"), "--out", str(tmp_path / "m")]
    assert cli.run(["train", "speech", *words, "--model", "joint", "--dropout", "0.2"]) == 2
    held = Recognizer.load(home / "m.safetensors")
    assert asked[-1]["config"] == dataclasses.replace(held.config, model="joint", dropout=0.2)
    assert asked[-1]["cell"] == held.cell
    assert asked[-1]["start"].units == held.units
    assert held.config.hidden != Config.hidden
    assert cli.run(["train", "speech", *words, "--hidden", str(Config.hidden)]) == 2
    assert asked[-1]["config"] == dataclasses.replace(held.config, hidden=Config.hidden), (
        "a flag holds, even one that says the default"
    )


def test_help_tells_the_defaults_that_hold() -> None:
    by_itself = Recognizer()
    assert vars(room.HowFlags()) == vars(by_itself.training) | {"steps": None}
    assert (by_itself.training.epochs, vars(room.CellFlags())) == (100, vars(by_itself.cell))


def test_help_explains_every_field(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capfd, "train", "speech", "--help")
    assert code == 0
    for kind, prefix in ((Config, ""), (Training, ""), (longshort.Cell, "cell.")):
        for field in dataclasses.fields(kind):
            explained(out, f"--{prefix}{field.name.replace('_', '-')}")
    assert out.index("--hidden") < out.index("--steps") < out.index("--cell.forget")
    assert re.search(r"│ --evaluate .*\[default: 200\]", out)
    assert re.search(r"│ --cell.layer-norm[^│]*\[default: True\]", out)


def explained(out: str, flag: str) -> None:
    said = re.search(rf"│ (?:\*| )? *{re.escape(flag)} (.*)", out)
    assert said, f"{flag} has no line"
    assert re.search(r"[a-zA-Z]{2,} [a-zA-Z_]+", said[1]), f"{flag} is not explained"


SEARCH = ("--beam", "--ngram", "--ngram-weight", "--word-bonus", "--language", "--language-weight", "--hotwords")
FLAGS = {
    "predict": ("--out", "--format", "--alternatives", "--endpoint", "--picture", "--quiet", *SEARCH),
    "eval": ("--data", "--out", "--quiet", *SEARCH),
    "align": ("--text", "--out", "--format", "--quiet"),
    "listen": ("--stdin", "--rate", "--device", "--silence", "--format", "--quiet", *SEARCH),
}


@pytest.mark.parametrize("verb", FLAGS)
def test_help_of_the_other_verbs(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = run(capfd, verb, home / "m.safetensors", "--help")
    assert (code, err) == (0, "")
    for flag in FLAGS[verb]:
        explained(out, flag)
    assert set(re.findall(r"(--[a-z-]+) ", out)) <= {*FLAGS[verb], "--help", "--ngram", "--version"}


@pytest.mark.parametrize("verb", ["align", "listen"])
def test_help_without_a_model_comes_fast(verb: str) -> None:
    code = "import sys\nfrom longshort.cli import run\ncode = run(sys.argv[1:])\nassert not {'torch', 'numpy'} & set(sys.modules)\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, verb, "--help"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"longshort {verb} MODEL [FLAGS]" in done.stdout
    assert f"longshort {verb} speech.safetensors" in done.stdout


# wrong use

WRONG = {
    ("train", "speech", "--train", "TRAIN", "--out", "TRAIN"): "train.jsonl cannot be read and written at the same time.",
    ("train", "speech", "--train", "TRAIN", "--log", "TRAIN"): "train.jsonl cannot be read and written at the same time.",
    ("predict", "MODEL", "SOUND", "--out", "SOUND"): "cannot be read and written at the same time.",
    ("predict", "MODEL", "SOUND", "--out", "MODEL"): "m.safetensors cannot be read and written at the same time.",
    ("eval", "MODEL", "--data", "TRAIN", "--out", "TRAIN"): "train.jsonl cannot be read and written at the same time.",
    ("align", "MODEL", "SOUND", "--text", "a", "--out", "SOUND"): "cannot be read and written at the same time.",
    ("train", "speech"): "--train requires an argument",
    ("train", "speech", "--train", "TRAIN", "--hiden", "3"): "Unknown option: --hiden. Did you mean --hidden?",
    ("train", "speech", "--train", "TRAIN", "--hidden", "0"): "hidden must be at least 1, got 0.",
    ("train", "speech", "--train", "TRAIN", "--lr", "-1"): "lr must be a positive number, got -1.0.",
    ("train", "speech", "--train", "TRAIN", "--model", "hmm"): 'Invalid value "hmm" for --model. Choose from: "ctc", "transducer", "joint".',
    ("train", "speech", "--train", "TRAIN", "--cell.drop-h", "1"): "Cell.drop_h must be a probability in [0, 1), got 1.0.",
    ("train", "speech", "--train", "nowhere.jsonl"): "nowhere.jsonl: there is no such file.",
    ("train", "speech", "--train", "TRAIN", "--valid", "nowhere.jsonl"): "nowhere.jsonl: there is no such file.",
    ("train", "speech", "--train", "TRAIN", "--start", "nowhere"): "nowhere cannot be read as a longshort file: there is no such file.",
    ("train", "speech", "--train", "TRAIN", "--out", "."): ". is a directory; give the name of a file in it",
    ("train", "speech", "--train", "TRAIN", "--noise", "nowhere", "--steps", "1"): "nowhere",
    ("train", "speech", "--train", "TRAIN", "--start", "MODEL", "--units", "bpe"): "--start brings its units, which --units cannot change.",
    ("train", "speech", "--train", "TRAIN", "--speeds", "0"): "speeds must be one or more factors in [0.5, 2], got (0.0,).",
    ("train", "speech", "--train", "TRAIN", "--rate", "22050"): "rate must be a multiple of 100, so that a frame lasts 10 ms, got 22050.",
    ("predict", "MODEL", "SOUND", "--alternatives", "3"): "text has room for one text, got --alternatives 3. Take --format json, too.",
    ("predict", "MODEL", "SOUND", "--alternatives", "3", "--format", "json", "--endpoint"): "alternatives are those of one utterance",
    ("predict", "MODEL", "SOUND", "--ngram-weight", "0.9"): "ngram_weight and word_bonus are of an n-gram, which was not asked for.",
    ("predict", "MODEL", "SOUND", "--language-weight", "0.9"): "language_weight is of a language model, which was not asked for.",
    ("predict", "MODEL", "SOUND", "--hotwords", "nine:3000"): "scores of hotwords and word_bonus are natural logarithms of at most 100",
    ("eval", "MODEL"): "--data requires an argument",
    ("eval", "MODEL", "--data", "nowhere.jsonl"): "nowhere.jsonl: there is no such file.",
    ("predict", "MODEL"): "name the recordings: longshort predict MODEL a.wav b.flac",
    ("predict", "MODEL", "SOUND", "SOUND", "--format", "srt"): "srt holds one recording, got 2. Call it once for each, or take json.",
    ("predict", "MODEL", "SOUND", "--format", "docx"): 'Invalid value "docx" for --format. Choose from: "text", "json", "srt", "vtt", "ctm".',
    ("predict", "MODEL", "SOUND", "--beam", "-1"): "beam must be at least 0, got -1.",
    ("predict", "MODEL", "SOUND", "--beam", "0", "--ngram", "own"): "language models, hotwords and alternatives need a beam, got beam=0.",
    ("predict", "MODEL", "SOUND", "--ngram", "nowhere.arpa"): "nowhere.arpa",
    ("predict", "MODEL", "SOUND", "--hotwords", "one:x"): "a hotword must be 'phrase' or 'phrase:score', got 'one:x'.",
    ("predict", "MODEL", "SOUND", "--hotwords", "10:30"): "'10:30' may be a phrase or a phrase with a score. Write '10:30:4', or '10:30.0'.",
    ("align", "MODEL", "SOUND"): "--text requires an argument",
    ("align", "MODEL", "nowhere.wav", "--text", "one"): "nowhere.wav: there is no such file.",
    ("align", "MODEL", "SOUND", "--text", "Q"): "'Q' (U+0051) in 'Q': not among the characters of the training text.",
    ("align", "MODEL", "SOUND", "--text", "nine " * 60): "frames, got",
    ("align", "--text", "one"): "MODEL comes first: longshort align MODEL --text one ...",
    ("listen", "MODEL", "--silence", "0"): "0 < pause <= silence",
    ("listen", "MODEL", "--stdin", "--device", "1"): "--device names a microphone, --stdin takes none.",
    ("listen", "WHOLE", "--stdin"): "this recogniser hears in both directions, so it needs whole recordings",
    ("update", "MODEL"): "is a model of speech, which has no update; it has predict, eval, inspect, align, listen.",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(home: Path) -> Path:
    """A model that hears in both directions."""
    path = home / "whole.safetensors"
    assert (
        cli.run(["train", "speech", "--train", str(home / "train.jsonl"), "--out", str(path), "--quiet", *TINY, "--no-streaming"])
        == 0
    )
    return path


@pytest.mark.parametrize("words", WRONG, ids=lambda words: " ".join(words)[:60])
def test_wrong_use_is_one_line_and_code_2(
    home: Path, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    here = {"TRAIN": home / "train.jsonl", "MODEL": home / "m.safetensors", "SOUND": recordings(home, 1)[0][0], "WHOLE": whole}
    code, out, err = run(capfd, *(here.get(w, w) for w in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert WRONG[words].replace("predict MODEL", f"predict {here['MODEL']}") in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_recordings_that_cannot_be_heard_are_named_and_the_others_go_on(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (a, b), (one, two) = recordings(home, 2)
    bad = [home / "broken.wav", tmp_path / "nowhere.wav", home / "silent.wav", tmp_path]
    code, out, err = run(capfd, "predict", home / "m.safetensors", bad[0], a, *bad[1:], b)
    assert (code, out) == (2, f"{a}\t{one}\n{b}\t{two}\n")
    lines = err.splitlines()
    assert [line.split(": ")[1] for line in lines[:-1]] == list(map(str, bad))
    assert lines[-1] == "error: 4 of 6 recordings could not be heard."
    code, out, _ = run(capfd, "predict", home / "m.safetensors", bad[0], b, "--out", tmp_path / "t.txt")
    assert (code, (tmp_path / "t.txt").read_text()) == (2, f"{b}\t{two}\n")


def test_what_is_left_out_of_training_is_said_before_it_begins(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    manifest = tmp_path / "train.jsonl"
    good = (home / "train.jsonl").read_text().replace('"train/', f'"{home}/train/')
    manifest.write_text(good + json.dumps({"id": "mute", "audio_filepath": str(home / "silent.wav"), "text": "one"}) + "\n")
    code, out, err = run(capfd, "train", "speech", "--train", manifest, "--out", tmp_path / "m.safetensors", *TINY)
    assert (code, out) == (0, f"wrote {tmp_path / 'm.safetensors'}\n")
    assert re.search(r"Left out.*mute.*silent", err)
    assert err.index("Left out") < err.index("step 5/5")


def test_a_network_that_writes_nothing_says_so(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["--train", home / "train.jsonl", "--valid", home / "train.jsonl", "--out", tmp_path / "m.safetensors"]
    code, _, err = run(capfd, "train", "speech", *words, *LEARN[:-2], "--steps", "20")
    assert code == 0
    assert "the network writes nothing: " in err
    paths = recordings(home, 2)[0]
    assert run(capfd, "predict", tmp_path / "m.safetensors", *paths) == (0, "".join(f"{p}\t\n" for p in paths), "")


# things that happen in between


def test_ctrl_c_then_resume_gives_the_same_file(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["train", "speech", "--train", home / "train.jsonl", "--valid", home / "train.jsonl", *TINY[:-4], "--evaluate", "100",
             "--steps", "300", "--save-steps", "20", "--ngram", "2"]  # fmt: skip
    model = tmp_path / "m.safetensors"
    process = start(*words, "--out", model)
    wait_for(resume_path(model).exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert re.match(r"training stopped after step \d+ of 300, saved in ", err.splitlines()[-1]), err
    assert not model.exists()
    code, _, err = run(capfd, *words, "--out", model)
    assert code == 2
    assert re.match(r"error: .* holds an unfinished run \(step \d+\)", err)
    assert run(capfd, *words, "--out", model, "--resume")[0] == 0
    assert not resume_path(model).exists()
    assert run(capfd, *words, "--out", tmp_path / "whole.safetensors", "--resume")[2].startswith("there is no ")
    assert model.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_closed_pipe_is_no_traceback(home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = start("predict", home / "m.safetensors", recordings(home, 1)[0][0], stdout=write)
    os.close(write)
    assert done.communicate(timeout=60)[1] == ""
    assert done.returncode == 1


# listening


def test_listen_to_a_pipe(home: Path) -> None:
    """Utterance by utterance, whatever the pieces; a half sample at the end does not matter."""
    sound = raw(home, 3) + b"\x00"
    texts = heard(home, sound[:-1])
    for kind, pieces in (("text", 1), ("text", 7919), ("json", 100_000)):
        process = start("listen", home / "m.safetensors", "--stdin", "--format", kind, stdin=subprocess.PIPE)
        for at in range(0, len(sound), pieces if pieces > 1 else len(sound)):
            process.stdin.buffer.write(sound[at : at + (pieces if pieces > 1 else len(sound))])
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        if kind == "text":
            assert out.splitlines() == texts
            continue
        held = [json.loads(line) for line in out.splitlines()]
        assert [h["text"] for h in held] == texts
        starts = [w["start"] for h in held for w in h["words"]]
        assert starts == sorted(starts), "seconds since the beginning"


def test_listen_at_another_rate(home: Path) -> None:
    from longshort.apps.speech import audio

    x = audio.mono(np.frombuffer(raw(home, 2), np.int16), 16_000, 44_100)
    sound = (x * 32767).astype("<i2").tobytes()
    process = start("listen", home / "m.safetensors", "--stdin", "--rate", "44100", "--silence", "0.8", stdin=subprocess.PIPE)
    process.stdin.buffer.write(sound)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines(), err) == (0, heard(home, sound, 44_100, 0.8), "")


def test_listen_gives_out_what_is_final_and_ctrl_c_ends_it(home: Path) -> None:
    """The first utterance comes while the second is still spoken; Ctrl-C gives the rest, and is no failure."""
    sound = raw(home, 2)[: -2 * 24_000]
    texts = heard(home, sound)
    with start("listen", home / "m.safetensors", "--stdin", stdin=subprocess.PIPE) as process:
        process.stdin.buffer.write(sound)
        process.stdin.buffer.flush()
        assert process.stdout.readline() == texts[0] + "\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "".join(f"{t}\n" for t in texts[1:])
        assert (process.wait(60), process.stderr.read()) == (0, "")


def test_listen_shows_on_the_terminal_what_may_still_change(home: Path) -> None:
    ours, theirs = pty.openpty()
    process = start("listen", home / "m.safetensors", "--stdin", stdin=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    sound, shown = raw(home, 2), b""
    process.stdin.buffer.write(sound)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()) == (0, heard(home, sound))
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    lines = [part.removesuffix("\x1b[K") for part in shown.decode().split("\r")[1:]]
    assert lines[-1] == "", "the line is empty when it is over"
    assert any(line and out.startswith(line) for line in lines)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # Linux says so when the other end is closed
        return b""


def test_a_line_shows_the_end_of_what_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from longshort.apps.speech.listen import Line

    monkeypatch.setenv("COLUMNS", "20")
    said: list[str] = []
    line = Line(SimpleNamespace(write=said.append, flush=lambda: None, isatty=lambda: True))
    for text in ("short", "short", "x" * 40 + "tail", "漢字" * 20):
        line.show(text)
    assert len(said) == 3
    assert said[1] == f"\r{'x' * 15}tail\x1b[K"
    assert said[2] == f"\r{('漢字' * 20)[-9:]}\x1b[K", "wide letters take two places"


@pytest.mark.parametrize("name", ["WAV", "FLAC", "OGG"])
def test_files_with_headers_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / "a", 0.1 * np.random.default_rng(0).normal(size=16_000), 16_000, format=name)
    with (tmp_path / "a").open("rb") as file:
        out, err = start("listen", home / "m.safetensors", "--stdin", stdin=file).communicate(timeout=60)
    assert out == ""
    assert (
        err
        == "error: standard input is a sound file, but raw 16-bit samples are wanted. arecord: -t raw; FFmpeg: -f s16le -ac 1.\n"
    )


def test_a_terminal_is_no_sound(home: Path) -> None:
    ours, theirs = pty.openpty()
    process = start("listen", home / "m.safetensors", "--stdin", stdin=theirs)
    out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: --stdin hears what is piped in: arecord ")
    assert len(err.splitlines()) == 1


class PortAudioError(Exception):
    pass


class Microphone(ModuleType):
    """What we use of sounddevice: a microphone that plays some sound and is then unplugged."""

    PortAudioError = PortAudioError

    def __init__(self, sound: bytes) -> None:
        super().__init__("sounddevice")
        self.sound, self.opened = sound, []

    def query_devices(self, device: int | str | None, kind: str) -> dict[str, float]:
        if device == "nobody":
            raise ValueError("No input device matching 'nobody'")
        if device == 9:
            raise PortAudioError("Error querying device 9")
        return {"default_samplerate": 16_000.0}

    def RawInputStream(self, rate, block, device, *, channels, dtype, callback, finished_callback):  # noqa: N802
        self.opened.append((rate, block, device, channels, dtype))

        def play() -> None:
            for at in range(0, len(self.sound), 2 * block):
                callback(memoryview(self.sound)[at : at + 2 * block], block, None, None)
            finished_callback()

        thread = threading.Thread(target=play)
        return SimpleNamespace(start=thread.start, stop=thread.join, close=thread.join)


def test_listen_to_a_microphone(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Microphone(raw(home, 2))
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    before, said = signal.getsignal(signal.SIGINT), "".join(f"{t}\n" for t in heard(home, made.sound))
    assert run(capfd, "listen", home / "m.safetensors") == (0, said, "")
    assert run(capfd, "listen", home / "m.safetensors", "--device", "3", "--rate", "16000") == (0, said, "")
    assert made.opened == [(16_000, 1600, None, 1, "int16"), (16_000, 1600, 3, 1, "int16")]
    assert signal.getsignal(signal.SIGINT) == before
    for device, why in (("nobody", "No input device matching 'nobody'"), ("9", "Error querying device 9")):
        code, out, err = run(capfd, "listen", home / "m.safetensors", "--device", device)
        assert (code, out) == (2, "")
        assert err == f"error: the microphone cannot be opened: {why}. `python -m sounddevice` lists them: --device.\n"


def test_what_came_before_ctrl_c_is_heard() -> None:
    came, interrupt = [b"aa", b"bb"], Interrupt()
    waiting = lambda: came.pop(0) if came else b""  # noqa: E731

    def stopped() -> bytes:
        interrupt._came()
        raise AssertionError

    assert interrupt.wait(lambda: b"xx", waiting) == b"xx"
    assert [interrupt.wait(stopped, waiting) for _ in range(3)] == [b"aa", b"bb", b""]


def test_what_a_microphone_needs(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    code, out, err = run(capfd, "listen", home / "m.safetensors")
    assert (code, out) == (1, "")
    assert err == "error: a microphone needs sounddevice: pip install 'longshort[microphone]', or pipe into --stdin.\n"


def test_scores_lie_in_the_file(home: Path) -> None:
    held = artefact.read(home / "m.safetensors")
    assert (held.app, held.scores[0].split) == ("speech", "valid")
    assert held.scores[0].metrics["WER"] < 40
