"""Every block of code in docs/translate.md runs, in order, on a few sentences (with few training steps); and the example."""

from __future__ import annotations

import gzip
import importlib.util
import io
import re
import shlex
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from longshort import cli
from longshort.apps.translate import Config, Decoding, Search, confidence, translator
from longshort.train import Training, train

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "translate.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("translate_example", ROOT / "examples" / "translate.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def _here(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with all files that the page names, in which training is short."""

    def quick(task: Any, how: Training, **more: Any) -> Any:
        return train(task, replace(how, steps=2, epochs=None, evaluate=2, bf16=False), **more)

    monkeypatch.setattr(translator, "train", quick)
    monkeypatch.chdir(tmp_path)
    pairs = [(f"I count {example.english(n)} boats.", f"Ich zähle {example.german(n)} Boote.") for n in range(2, 90)]
    lines = [f"{source}\t{target}\n" for source, target in pairs]
    for name, of in (("train", slice(60)), ("valid", slice(60, 64)), ("test", slice(64, 68))):
        for k, language in enumerate(("en", "de")):
            Path(f"{name}.{language}").write_text("".join(f"{p[k]}\n" for p in pairs[of]))
    Path("pairs.tsv.gz").write_bytes(gzip.compress("".join(lines[:60]).encode()))
    Path("valid.tsv").write_text("".join(lines[60:64]))
    Path("special.tsv").write_text("".join(lines[68:80]))
    Path("wide.tsv").write_text("".join(f"{k}\t{line}" for k, line in enumerate(lines)))
    Path("mono.de").write_text("".join(f"{target}\n" for _, target in pairs[80:]))
    Path("in.txt").write_text("I count two boats.\n\n  I count <b>%s</b> boats.\n")
    Path("terms.tsv").write_text("boats\tKähne\n")


@pytest.mark.usefixtures("_here")
def test_every_block_of_python_runs() -> None:
    held: dict[str, Any] = {}
    before = {p.name for p in Path().iterdir()}
    code = [text for kind, text in BLOCKS if kind == "python"]
    assert len(code) > 10
    for text in code:
        exec(compile(text, "docs/translate.md", "exec"), held)
    assert set(held["evaluation"].scores) == {"BLEU", "chrF2", "Multi30k BLEU"}
    assert held["few"].dropped == []
    assert [len(part) for part in (held["train"], held["valid"], held["test"])] == [68, 10, 10]
    assert held["text"].count("\n") == 3
    assert len(held["made"]) == 8
    assert held["found"].data["questions"][-1]["name"] == "the end"
    assert {p.name for p in Path().iterdir()} - before == {"model.safetensors", "small.safetensors", "special.safetensors",
                                                           "attention.png", "inside.html"}  # fmt: skip


@pytest.mark.usefixtures("_here")
def test_every_command_runs(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(text for kind, text in BLOCKS if kind == "sh").replace("\\\n", " ").splitlines()
    assert len(lines) > 12
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        assert program == "longshort"
        if "<" in words:
            words, (_, file, *_) = words[: words.index("<")], words[words.index("<") :]
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(file).read_bytes())))
        code = cli.run(words)
        out, err = capfd.readouterr()
        assert code == 0, (line, err)
        if words[0] == "predict" and not {"--out", "--format"} & set(words):
            assert out.count("\n") == 3
            assert out.split("\n")[1] == ""
        wrote = [Path(word) for flag, word in pairwise(words) if flag in ("--out", "--outputs", "--picture")]
        assert all(path.exists() for path in wrote), line
    assert len([*Path("pictures").iterdir()]) == 2
    assert Path("synthetic.tsv").read_text(encoding="utf-8").count("\t") <= 8


def test_every_verb_is_on_the_page() -> None:
    from longshort.apps.translate import cli as room

    for verb in (v for v in ("train", *cli.VERBS) if hasattr(room, cli.FUNCTIONS.get(v, v))):
        assert f"longshort {verb} " in PAGE, verb


def test_what_it_names_is_there() -> None:
    """Settings in backticks with a value are fields; every block has a kind that one of the tests runs, or is for pip."""
    known = {f.name for kind in (Config, Training, Decoding, Search) for f in fields(kind)}
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.S | re.M)
    named = set(re.findall(r"`(\w+)=", prose))
    assert len(named) > 15
    assert named <= known
    for row in re.findall(r"^\| (`[^|]*) \|", prose, re.M):
        for name in re.findall(r"`(\w+)(?:=[^`]*)?`", row):
            assert name in known | {"cell", "chrF2", "BLEU"}, name
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", ""}
    assert all(line.startswith("pip install ") for kind, text in BLOCKS if not kind for line in text.splitlines())
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path


def test_defaults_that_it_names_hold() -> None:
    for name, value in (("pieces", 6000), ("sampling", 0.0), ("rdrop", 3.0), ("again", True), ("unknown", 0.1), ("longest", 128), ("ratio", 5.0), ("tokens", 1500),
                        ("units", "bpe"), ("attention", "general"), ("tied", "all"), ("metric", "auto"), ("feed", False)):  # fmt: skip
        assert getattr(Config(), name) == value
    for name, value in (("beam", 5), ("ratio", 2.0), ("extra", 10), ("least", 0), ("block", 0), ("alternatives", 1),
                        ("coverage_penalty", 0.0), ("sample", False)):  # fmt: skip
        assert getattr(Search(), name) == value
    assert (confidence.LEAST, Decoding().fast) == (50, False)
    assert confidence.SIGNS == ("unsure", "uncovered", "looped", "copied", "cut"), "the page tells of each in words"


def test_messages_that_it_names_are_ours() -> None:
    """Each message in the table occurs in the source, but for what is filled in."""
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "longshort").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    for said in (" lines, ", ": line n of both must belong together.", "is not UTF-8: byte 0x", "longer than {", "with an empty side",
                 "with one side more than {", "there is nothing to learn from.", "this translator has no shortlist",
                 "all of an ensemble must have the same vocabularies", "the training loss became ", "Left out: "):  # fmt: skip
        assert said in source, said
        assert said.removesuffix("{") in PAGE, said


def test_the_german_of_the_example_is_german(example: ModuleType) -> None:
    for n, en, de in (
        (7, "seven", "sieben"), (20, "twenty", "zwanzig"), (21, "twenty-one", "einundzwanzig"), (101, "one hundred and one", "einhunderteins"),
        (365, "three hundred and sixty-five", "dreihundertfünfundsechzig"), (1000, "one thousand", "eintausend"),
        (2016, "two thousand and sixteen", "zweitausendsechzehn"), (40_700, "forty thousand seven hundred", "vierzigtausendsiebenhundert"),
        (99_999, "ninety-nine thousand nine hundred and ninety-nine", "neunundneunzigtausendneunhundertneunundneunzig"),
    ):  # fmt: skip
        assert (example.english(n), example.german(n)) == (en, de)


def test_the_example_runs(example: ModuleType, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    score = example.main(tmp_path / "out", pairs=(200, 10, 5), epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert f"BLEU {score:.4g}"[:6] in "\n".join(lines)
    assert re.fullmatch(r"\d of 5 sentences without a mistake", lines[-2])
    assert lines[-1].startswith("wrote ")
    train = [(tmp_path / "out" / f"train.{language}").read_text(encoding="utf-8").splitlines() for language in ("en", "de")]
    assert [len(side) for side in train] == [200, 200]
    assert not any(re.search("count twenty-one ", line) for line in train[0])
    for name in ("model.safetensors", "attention.png", "test.de"):
        assert (tmp_path / "out" / name).exists()
