"""Every block of code in docs/speech.md runs, in order, on a few spoken digits (with few training steps); and the example."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

from longshort import cli
from longshort.apps.speech import Config, Endpoint, data, language, recognizer
from longshort.apps.speech.decoding import Decoding
from longshort.train import Training, train
from spoken import corpus
from test_speech_cli import Microphone

PAGE = (Path(__file__).parents[1] / "docs" / "speech.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)
HARDLY_TRAINED = pytest.mark.filterwarnings("ignore:the network (writes nothing|has hardly learned):UserWarning")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return corpus(tmp_path_factory.mktemp("digits"), {"train": 30, "valid": 6, "test": 6}, most=3)


@pytest.fixture
def _here(digits: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with all files that the page names, in which training is short."""

    def quick(task: Any, how: Training, **more: Any) -> Any:
        return train(task, replace(how, steps=2, epochs=None, evaluate=2), **more)

    for room in (recognizer, language):
        monkeypatch.setattr(room, "train", quick)
    monkeypatch.chdir(tmp_path)
    for name, path in digits.items():
        data.write(f"{name}.jsonl", data.read(path))
    sounds = [sf.read(u.audio)[0] for u in data.read(digits["test"])]
    for name, x in (("a.wav", sounds[0]), ("b.flac", sounds[1]), ("talk.mp3", np.concatenate(sounds))):
        sf.write(name, x, 16_000)
    Path("corpus.txt").write_text("nine one seven\nseven one nine\none\n" * 20)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@HARDLY_TRAINED
@pytest.mark.usefixtures("_here")
def test_every_block_of_python_runs() -> None:
    held: dict[str, Any] = {}
    before = {p.name for p in Path().iterdir()}
    code = [text for kind, text in BLOCKS if kind == "python"]
    assert len(code) > 8
    for text in code:
        exec(compile(text, "docs/speech.md", "exec"), held)
    assert {"WER", "CER", "ECE", "real-time factor"} <= held["evaluation"].scores().keys()
    assert held["few"].dropped == []
    assert held["second"].units == held["first"].units
    assert [len(t.alternatives) for t in held["several"]] == [2, 2]
    assert [w.text for w in held["aligned"].words] == ["nine", "one", "seven"]
    assert {p.name for p in Path().iterdir()} - before == {"model.safetensors", "a.png", "corpus.arpa"}


@HARDLY_TRAINED
@pytest.mark.usefixtures("_here")
def test_every_command_runs(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from longshort.apps.speech.ngram import NGram

    NGram.fit(Path("corpus.txt").read_text().splitlines(), 2).write("corpus.arpa")
    talk = (sf.read("talk.mp3")[0] * 32767).astype("<i2").tobytes()
    monkeypatch.setitem(sys.modules, "sounddevice", Microphone(talk))
    lines = "".join(text for kind, text in BLOCKS if kind == "sh").replace("\\\n", " ").splitlines()
    assert len(lines) > 8
    for line in lines:
        if " | " in line:  # what comes out of a recorder
            line = line.partition(" | ")[2]
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(talk)))
        program, *words = shlex.split(line)
        assert program == "longshort"
        assert cli.run(words) == 0, (line, capfd.readouterr().err)
        wrote = [Path(w) for flag, w in pairwise(words) if flag in ("--out", "--picture")]
        assert all(path.exists() for path in wrote), line
    assert sorted(p.name for p in Path("pictures").iterdir()) == ["a.png", "b.png"]


def test_what_it_names_is_there() -> None:
    """Settings in backticks with a value are fields; every block has a kind that one of the tests runs, or is for pip, or data."""
    known = {f.name for kind in (Config, Training, Decoding, Endpoint) for f in fields(kind)}
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.S | re.M)
    named = set(re.findall(r"`(\w+)=", prose)) - {"model"}
    assert len(named) > 15
    assert named <= known
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", "json", ""}
    assert all(line.startswith("pip install ") for kind, text in BLOCKS if not kind for line in text.splitlines())
    assert all(json.loads(line)["text"] for kind, text in BLOCKS if kind == "json" for line in text.splitlines())
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(__file__).parents[1] / "docs" / path).exists(), path


def test_defaults_that_it_names_hold() -> None:
    for name, value in (("rate", 16_000), ("longest", 30.0), ("speeds", (0.9, 1.0, 1.1)), ("gain", 6.0), ("freq_masks", 2),
                        ("time_masks", 1.0), ("seconds", 100.0), ("bins", 80), ("front", "conv"), ("units", "char"), ("pieces", 500)):  # fmt: skip
        assert getattr(Config(), name) == value
    assert (Endpoint().silence, Endpoint().longest) == (1.0, 20.0)
    from longshort.apps.speech import config, decoding, task, transcript

    assert (config.STEP, round(config.TAIL * config.STEP, 2), decoding.WIDE, task.MEMORY, transcript.LINE) == (
        0.04,
        0.32,
        8,
        4 << 30,
        42,
    )
    assert round(3600 / task.FRAME * config.Config().bins * 4 / 1e6) == 115
    assert "115 MB" in PAGE


def test_messages_that_it_names_are_ours() -> None:
    """Each message in the table occurs in the source, but for what is filled in."""
    source = "".join(p.read_text() for p in (Path(__file__).parents[1] / "src" / "longshort").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for said in ("the network writes nothing: ", "with more text than there is time for", "that cannot be heard", "without text",
                 "longer than {", "there is nothing to learn from.", "not among the characters of the training text.",
                 "there is no audio file ", "the training loss became ", "Left out: "):  # fmt: skip
        assert said in source, said
        assert said.removesuffix("{") in PAGE, said


def test_every_verb_is_on_the_page() -> None:
    from longshort.apps.speech import cli as room

    for verb in (v for v in ("train", *cli.VERBS) if hasattr(room, cli.FUNCTIONS.get(v, v))):
        assert f"longshort {verb} " in PAGE, verb


@HARDLY_TRAINED
@pytest.mark.usefixtures("_here")
def test_the_example_runs(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "examples" / "speech.py"
    spec = importlib.util.spec_from_file_location("speech_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    rate = example.main(tmp_path / "out", recordings=(24, 4, 4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == f"word error rate {rate:.1f} %"
    assert lines[-1].startswith("wrote ")
    for name in ("model.safetensors", "recording.png", "test.jsonl"):
        assert (tmp_path / "out" / name).exists()
