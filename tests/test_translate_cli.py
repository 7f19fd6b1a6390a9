"""The verbs of translation on the command line as a person meets them, on a language of a dozen words that is learned in seconds."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import json
import os
import pty
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import longshort
from longshort import cli
from longshort.apps.translate import Config, Translator
from longshort.apps.translate import cli as room
from longshort.apps.translate import data as corpus
from longshort.apps.translate.pipe import FIRST, ahead
from longshort.apps.translate.translator import CELL, DEFAULT
from longshort.train import Training, resume_path
from test_cli import run, start, wait_for

SMALL = ["--pieces", "80", "--embed", "32", "--hidden", "32", "--decode", "32", "--encoder-layers", "1", "--decoder-layers", "1",
         "--heads", "1", "--tokens", "1000", "--unknown", "0", "--no-bf16"]  # fmt: skip
PLAIN = ["--dropout", "0", "--dropout-embed", "0", "--dropout-word", "0", "--dropout-output", "0", "--weight-drop", "0",
         "--rdrop", "0"]  # fmt: skip
LEARN = [*SMALL, *PLAIN, "--steps", "250", "--evaluate", "125", "--lr", "1e-2", "--warmup", "0.05", "--average", "0.9"]
TINY = [*SMALL, "--steps", "2", "--evaluate", "2"]
NOUNS = {"dog": "Hund", "man": "Mann", "bird": "Vogel", "horse": "Gaul"}
VERBS = {"sees": "sieht", "likes": "mag", "hears": "hört"}
KINDS = {"": ("", ""), "old ": ("alte ", "alten "), "red ": ("rote ", "roten ")}
TEXT = "The old dog sees the red man.\n\n  The bird likes the horse.\r\n\t- - -\nThe man hears the dog.\tThe dog likes the bird."


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with sentence pairs, train and valid, as .en, .de and .tsv, and m.safetensors, which translates them well."""
    folder = tmp_path_factory.mktemp("translate")
    pairs = [
        (f"The {a}{n} {v} the {b}{m}.", f"Der {KINDS[a][0]}{NOUNS[n]} {VERBS[v]} den {KINDS[b][1]}{NOUNS[m]}.")
        for a, n, v, b, m in itertools.product(KINDS, NOUNS, VERBS, KINDS, NOUNS)
    ]
    random.Random(0).shuffle(pairs)
    for name, some in (("train", pairs[:400]), ("valid", pairs[400:])):
        for suffix, lines in (("en", (s for s, _ in some)), ("de", (t for _, t in some)), ("tsv", map("\t".join, some))):
            (folder / f"{name}.{suffix}").write_text("".join(f"{line}\n" for line in lines))
    assert cli.run(["train", "translate", *files(folder), "--out", str(folder / "m.safetensors"), "--quiet", *LEARN]) == 0
    return folder


@pytest.fixture(scope="module")
def ours(home: Path) -> Translator:
    return Translator.load(home / "m.safetensors")


def files(home: Path, valid: bool = True) -> list[str]:
    flags = [("--src", "train.en"), ("--tgt", "train.de"), ("--valid-src", "valid.en"), ("--valid-tgt", "valid.de")]
    return [word for flag, name in flags[: None if valid else 2] for word in (flag, str(home / name))]


def type_in(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    given = io.BytesIO(text.encode() if isinstance(text, str) else text)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(given, encoding="utf-8"))


# the main road


def test_train_takes_files_of_all_kinds_and_they_give_the_same_model(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for suffix in ("en", "de"):
        (tmp_path / f"train.{suffix}").write_bytes(gzip.compress((home / f"train.{suffix}").read_bytes()))
    lines = (home / "train.tsv").read_text().splitlines()
    for name, some in (("a.tsv", lines[:150]), ("b.tsv.gz", lines[150:])):
        text = "".join("\t".join(("7", *reversed(line.split("\t")), "x")) + "\n" for line in some).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / "c.tsv").write_text("".join(f"{line}\n" for line in lines[150:]))
    (tmp_path / "a.en").write_text("".join(line.split("\t")[0] + "\n" for line in lines[:150]))
    (tmp_path / "a.de").write_text("".join(line.split("\t")[1] + "\n" for line in lines[:150]))
    ways = {
        "files": files(home, valid=False),
        "gzip": ["--src", tmp_path / "train.en", "--tgt", tmp_path / "train.de"],
        "table": ["--data", home / "train.tsv"],
        "columns": ["--data", tmp_path / "a.tsv", tmp_path / "b.tsv.gz", "--columns", "3,2"],
        "more": ["--src", tmp_path / "a.en", "--tgt", tmp_path / "a.de", "--more", tmp_path / "c.tsv"],
    }
    made = {}
    for name, words in ways.items():
        out = tmp_path / "new" / f"{name}.safetensors"
        assert run(capfd, "train", "translate", *words, "--out", out, "--quiet", *TINY) == (0, "", "")
        made[name] = out.read_bytes()
    assert len(set(made.values())) == 1, {k: len(v) for k, v in made.items()}
    assert sorted(p.stem for p in (tmp_path / "new").iterdir()) == sorted(ways), "no resume state is left"


def test_train_says_what_it_does(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    odd = tmp_path / "odd.tsv"
    odd.write_text("The dog.\tDer Hund.\n\nThe man.\t\n")
    out, log = tmp_path / "m.safetensors", tmp_path / "log.jsonl"
    code, said, err = run(capfd, "train", "translate", "--data", home / "train.tsv", "--more", odd, "--valid", home / "valid.tsv", "--out",
                          out, "--log", log, *TINY)  # fmt: skip
    assert code == 0
    assert re.fullmatch(rf"BLEU \S+  chrF \S+  perplexity \S+\nwrote {out} and {log}\n", said)
    assert err.splitlines()[0] == f"Left out: 2 with an empty side ({odd}:2: both, {odd}:3: target)."
    assert "step 2/2" in err
    assert len(log.read_text().splitlines()) == 1


def test_predict_keeps_the_layout(home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    expected = ours.translate(TEXT)
    assert expected == (
        "Der alte Hund sieht den roten Mann.\n\n  Der Vogel mag den Gaul.\r\n\t- - -\nDer Mann hört den Hund.\tDer Hund mag den Vogel."
    )
    (tmp_path / "in.txt").write_bytes(TEXT.encode())
    (tmp_path / "in.gz").write_bytes(gzip.compress(TEXT.encode()))
    for name in ("in.txt", "in.gz"):
        assert run(capfd, "predict", home / "m.safetensors", tmp_path / name) == (0, expected, "")
    with open(tmp_path / "in.gz") as file, open(tmp_path / "out.txt", "wb") as out:
        done = start("predict", home / "m.safetensors", stdin=file, stdout=out)
        assert (done.communicate(timeout=60)[1], done.returncode) == ("", 0)
    assert (tmp_path / "out.txt").read_bytes() == expected.encode()
    both = f"{expected}\n{expected}"  # the line end that a file lacks, so that its last line stays one
    out = tmp_path / "new" / "out.gz"
    words = ["predict", home / "m.safetensors", tmp_path / "in.gz", tmp_path / "in.txt", "--out", out]
    assert run(capfd, *words) == (0, f"wrote {out}\n", "")
    assert gzip.decompress(out.read_bytes()).decode() == both


def test_nothing_in_nothing_out(
    home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("", "\n", "\n \n\t\r\n", "\ufeff", "... - ...\n"):
        type_in(monkeypatch, text)
        assert run(capfd, "predict", home / "m.safetensors") == (0, text, "")
    type_in(monkeypatch, "\ufeffThe dog sees the man.\n")
    assert run(capfd, "predict", home / "m.safetensors")[1] == f"\ufeff{ours.translate('The dog sees the man.')}\n"


def test_more_lines_than_one_group_in_order(home: Path, ours: Translator, capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    lines = (home / "valid.en").read_text().splitlines(keepends=True) * 8
    (tmp_path / "in.txt").write_text("".join(lines))
    code, out, err = run(capfd, "predict", home / "m.safetensors", tmp_path / "in.txt", "--beam", "1")
    assert (code, err) == (0, "")
    assert out.splitlines(keepends=True) == ours.translate(lines[:32], beam=1) * 8


def test_json_tells_all(home: Path, ours: Translator, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, TEXT)
    code, out, err = run(capfd, "predict", home / "m.safetensors", "--format", "json", "--alternatives", "3", "--beam", "12")
    assert (code, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    assert [t.pop("line") for t in told] == [1, 3, 5, 5]
    assert told == [t.json() for t in ours.explain(TEXT, alternatives=3, beam=12)]
    assert any(t["alternatives"] for t in told)


def test_how_it_is_translated(
    home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The old dog sees the red man.\nThe bird of Rome likes the horse, see http://dog.org/x."
    (tmp_path / "terms.tsv").write_text("dog\tKater\nred man\troter Mann\nred man\tIndianer\n")
    terms = {"dog": ["Kater"], "red man": ["roter Mann", "Indianer"]}
    ways: list[tuple[list, dict]] = [
        (["--beam", "1"], {"beam": 1}),
        (["--beam", "7", "--alternatives", "4"], {"beam": 7, "alternatives": 4}),
        (["--alternatives", "8"], {"alternatives": 8}),
        (["--length-penalty", "0", "--coverage-penalty", "0.3"], {"length_penalty": 0.0, "coverage_penalty": 0.3}),
        (["--ratio", "0.2", "--extra", "1"], {"ratio": 0.2, "extra": 1}),
        (["--least", "15", "--block", "2"], {"least": 15, "block": 2}),
        (["--sample", "--seed", "3", "--temperature", "1.5", "--alternatives", "2"], {"sample": True, "seed": 3, "temperature": 1.5, "alternatives": 2}),
        (["--sample", "--top-k", "3", "--top-p", "0.9"], {"sample": True, "top_k": 3, "top_p": 0.9}),
        (["--prefix", "Der Gaul"], {"prefix": "Der Gaul"}),
        (["--glossary", tmp_path / "terms.tsv"], {"glossary": terms}),
        (["--keep"], {"keep": True}),
        (["--keep-pattern", "Rome", "h[a-z]*e", "--no-copy"], {"keep": ["Rome", "h[a-z]*e"], "copy": False}),
        (["--fast"], {"fast": True}),
        (["--ensemble", home / "m.safetensors", home / "m.safetensors"], {}),
    ]  # fmt: skip
    plain = [t.json() for t in ours.explain(text)]
    changed = []
    for words, how in ways:
        by = ours.together(ours, ours) if "--ensemble" in words else ours
        expected = [t.json() for t in by.explain(text, **how)]
        type_in(monkeypatch, text)
        code, out, err = run(capfd, "predict", home / "m.safetensors", "--format", "json", "--quiet", *words)
        assert (code, err) == (0, "")
        assert [json.loads(line) | {"line": 0} for line in out.splitlines()] == [t | {"line": 0} for t in expected], words
        changed.append(expected != plain)
    assert sum(changed) >= len(ways) - 3, "most of it makes a difference here"
    type_in(monkeypatch, text)
    both = run(capfd, "predict", home / "m.safetensors", "--keep", "--keep-pattern", "Rome")[1]
    assert "http://dog.org/x" in both
    assert "Rome" in both


def test_what_went_wrong_is_said_once_at_the_end(
    home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for quiet in ([], ["--quiet"]):
        type_in(monkeypatch, "The dog sees the man.\n" * 3)
        code, out, err = run(capfd, "predict", home / "m.safetensors", "--ratio", "0.1", "--extra", "1", *quiet)
        assert (code, len(out.splitlines())) == (0, 3)
        assert err == ("" if quiet else "3 translations became too long and are cut (--ratio, --extra)\n")


def test_pictures(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    type_in(monkeypatch, TEXT)
    assert run(capfd, "predict", home / "m.safetensors", "--picture", tmp_path / "p")[::2] == (0, "")
    names = ["line-00001.png", "line-00003.png", "line-00005-1.png", "line-00005-2.png"]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == names
    assert all((tmp_path / "p" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_eval(home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    code, out, err = run(capfd, "eval", home / "m.safetensors", "--src", home / "valid.en", "--tgt", home / "valid.de", "--language", "de",
                         "--out", tmp_path / "s.json", "--outputs", tmp_path / "o.txt", "--beam", "1")  # fmt: skip
    assert (code, err) == (0, "")
    made = ours.evaluate((home / "valid.en", home / "valid.de"), "de", beam=1)
    told = json.loads((tmp_path / "s.json").read_text())
    speed = ("seconds", "sentences per second")
    assert {k: v for k, v in told.items() if k not in speed} == {k: v for k, v in made.json().items() if k not in speed}
    assert [*told["scores"]] == ["BLEU", "chrF2", "Multi30k BLEU"]
    assert out.splitlines()[:3] == [str(score) for score in made.scores.values()]
    assert float(re.match(r"BLEU ([\d.]+)", out)[1]) > 80
    assert re.search(r"^32 sentences, [\d.]+ per second; perplexity [\d.]+ per token", out, re.M)
    assert out.splitlines()[-1] == f"wrote {tmp_path / 's.json'} and {tmp_path / 'o.txt'}"
    assert (tmp_path / "o.txt").read_text() == "".join(f"{line}\n" for line in made.outputs)
    (tmp_path / "one.tsv").write_text("The dog sees the man.\tDas [bold]ist[/bold] falsch.\n")
    code, out, err = run(capfd, "eval", home / "m.safetensors", "--data", tmp_path / "one.tsv", "--out", tmp_path / "s.json")
    assert (code, err) == (0, "")
    assert "[bold]ist" in out
    assert json.loads((tmp_path / "s.json").read_text(), parse_constant=pytest.fail)["sentences"] == 1


def test_score(home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    code, out, err = run(capfd, "score", home / "m.safetensors", "--data", home / "valid.tsv")
    assert (code, err) == (0, "")
    assert list(map(float, out.split())) == pytest.approx(ours.score(home / "valid.tsv"), abs=1e-4)
    assert run(capfd, "score", home / "m.safetensors", "--data", home / "valid.tsv", "--quiet", "--out", tmp_path / "n") == (
        0,
        "",
        "",
    )
    assert (tmp_path / "n").read_text() == out


def test_inspect(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["inspect", home / "m.safetensors", "The dog sees the man.", "--out", tmp_path / "p.html"]
    code, out, err = run(capfd, *words)
    assert (code, err) == (0, "")
    assert "“The dog sees the man.” → “Der Hund sieht den Mann.”" in out
    assert run(capfd, *words, "--translation", "Der Mann.")[1].startswith("“The dog sees the man.” → “Der Mann.”")


# back-translation


def test_backtranslate(home: Path, ours: Translator, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The translator takes English for the language of the text."""
    text, out = tmp_path / "mono.gz", tmp_path / "made.tsv"
    lines = [
        "The dog sees the man.",
        "",
        "The bird  hears\tthe horse. ",
        "...",
        "The dog sees the man.",
        "The " * 200,
        "The old man.",
    ]
    text.write_bytes(gzip.compress("\n".join(lines).encode()))
    left = (
        f"2 with nothing to translate ({text}:2, {text}:4); 1 that came before ({text}:5); 1 longer than 128 tokens ({text}:6: "
    )
    clean = ["The dog sees the man.", "The bird hears the horse.", "The old man."]
    for words, how, said in (([], {"sample": True}, "by drawing"), (["--beam", "2"], {"beam": 2}, "by beams of 2"),
                             (["--seed", "4", "--top-k", "2"], {"sample": True, "seed": 4, "top_k": 2}, "by drawing")):  # fmt: skip
        code, told, err = run(capfd, "backtranslate", home / "m.safetensors", text, "--out", out, *words)
        made = [ours.explain(line, **how)[0] for line in clean]
        kept = [t for t in made if t.finished and any(c.isalnum() for c in t.text)]
        assert (code, err) == (0, "")
        assert told.startswith(f"{len(kept)} pairs {said}. Left out: {left}")
        assert out.read_text() == "".join(f"{t.text}\t{t.source}\n" for t in kept)
        assert [p.target for p in corpus.read(out)] == [t.source for t in kept]
    made = sorted((t.confidence, t.source) for t in (ours.explain(line, beam=5)[0] for line in clean))
    least = (made[0][0] + made[1][0]) / 2
    code, told, _ = run(capfd, "backtranslate", home / "m.safetensors", text, "--out", out, "--beam", "5", "--confidence", least)
    assert (code, len(out.read_text().splitlines())) == (0, 2)
    assert f"1 with a confidence below {least:g} ({text}:" in told
    code, told, err = run(capfd, "backtranslate", home / "m.safetensors", text, "--out", out, "--beam", "5", "--confidence", "1")
    assert (code, told) == (2, "")
    assert err.startswith(f"error: {text} gave no pair. Left out: 3 with a confidence below 1")


# flags


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a translator would be made of; nothing is trained."""
    made: list[dict[str, Any]] = []

    class Stop(Translator):
        def __init__(self, **how: Any) -> None:
            super().__init__(**how)
            if "training" in how:
                made.append(how)

        def fit(self, *data: Any, **how: Any) -> Translator:
            made[-1] |= how | {"data": data}
            raise ValueError("far enough")

    monkeypatch.setattr(room, "Translator", Stop)
    return made


def test_flags_reach_the_translator_and_the_others_stay(home: Path, asked: list, tmp_path: Path) -> None:
    def ask(*words: str) -> dict[str, Any]:
        assert cli.run(["train", "translate", *files(home), "--out", str(tmp_path / "m"), *words]) == 2
        return asked[-1]

    plain = ask()
    assert (plain["config"], plain["training"], plain["cell"], plain["start"]) == (Config(), DEFAULT, CELL, None)
    assert {type(plain[k]) for k in ("config", "training", "cell")} == {Config, Training, longshort.Cell}
    assert [*map(len, plain["data"])] == [400, 32]
    assert ask("--steps", "7")["training"] == dataclasses.replace(DEFAULT, steps=7, epochs=None)
    assert ask("--steps", "7", "--epochs", "15")["training"] == dataclasses.replace(DEFAULT, steps=7, epochs=15)
    assert ask("--epochs", "7", "--lr", "0.5")["training"] == dataclasses.replace(DEFAULT, epochs=7, lr=0.5)
    assert ask("--cell.layer-norm")["cell"] == dataclasses.replace(CELL, layer_norm=True)
    made = ask(
        "--units",
        "unigram",
        "--no-shared",
        "--tied",
        "output",
        "--attention",
        "additive",
        "--feed",
        "--coverage",
        "--no-residual",
    )
    assert made["config"] == Config(
        units="unigram", shared=False, tied="output", attention="additive", feed=True, coverage=True, residual=False
    )


def test_a_model_to_start_from_brings_its_settings(home: Path, ours: Translator, asked: list, tmp_path: Path) -> None:
    words = ["train", "translate", *files(home), "--start", str(home / "m.safetensors"), "--out", str(tmp_path / "m")]
    assert cli.run([*words, "--dropout", "0.2", "--pieces", "80"]) == 2
    assert asked[-1]["config"] == dataclasses.replace(ours.config, dropout=0.2)
    assert (asked[-1]["cell"], asked[-1]["start"].vocabularies) == (ours.cell, ours.vocabularies)
    assert ours.config.hidden != Config.hidden
    assert cli.run([*words, "--hidden", str(Config.hidden)]) == 2
    assert asked[-1]["config"] == dataclasses.replace(ours.config, hidden=Config.hidden), (
        "a flag holds, even one that says the default"
    )


def test_training_goes_on_from_a_model(home: Path, ours: Translator, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    words = ["--start", str(home / "m.safetensors"), "--lr", "1e-6", "--steps", "1", "--average", "0", "--quiet"]
    assert cli.run(["train", "translate", *files(home), "--out", str(out), *words]) == 0
    made = Translator.load(out)
    assert made.vocabularies == ours.vocabularies
    assert made.score(home / "valid.tsv") == pytest.approx(ours.score(home / "valid.tsv"), abs=0.01)


def test_help_tells_the_defaults_that_hold() -> None:
    by_itself = Translator()
    assert vars(room.HowFlags()) == vars(by_itself.training) | {"steps": None}
    assert (vars(room.ConfigFlags()), vars(room.CellFlags())) == (vars(by_itself.config), vars(by_itself.cell))


def test_help_explains_every_field(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capfd, "train", "translate", "--help")
    assert code == 0
    for kind, prefix in ((Config, ""), (Training, ""), (longshort.Cell, "cell.")):
        for field in dataclasses.fields(kind):
            explained(out, f"--{prefix}{field.name.replace('_', '-')}")
    assert out.index("--hidden") < out.index("--steps") < out.index("--cell.forget")
    assert re.search(r"│ --evaluate .*\[default: 500\]", out)


def explained(out: str, flag: str) -> None:
    said = re.search(rf"│ (?:\*| )? *{re.escape(flag)} (.*)", out)
    assert said, f"{flag} has no line"
    assert re.search(r"[a-zA-Z]{2,} [a-zA-Z_]+", said[1]), f"{flag} is not explained"


PAIRS = ("--src", "--tgt", "--data", "--columns", "--out", "--quiet")
SEARCH = ("--beam", "--alternatives", "--length-penalty", "--coverage-penalty", "--ratio", "--extra", "--least", "--block", "--sample",
          "--temperature", "--top-k", "--top-p", "--seed", "--glossary", "--keep", "--keep-pattern", "--prefix", "--copy", "--fast",
          "--ensemble")  # fmt: skip
FLAGS = {
    "predict": ("--out", "--format", "--picture", "--quiet", *SEARCH),
    "eval": (*PAIRS, "--language", "--outputs", *SEARCH),
    "score": (*PAIRS, "--ensemble"),
    "backtranslate": ("--out", "--confidence", "--longest", "--beam", "--temperature", "--top-k", "--top-p", "--seed", "--quiet"),
    "inspect": ("--translation", "--out", "--serve", "--port", "--quiet"),
}


@pytest.mark.parametrize("verb", FLAGS)
def test_help_of_the_other_verbs(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, err = run(capfd, verb, home / "m.safetensors", "--help")
    assert (code, err) == (0, "")
    for flag in FLAGS[verb]:
        explained(out, flag)
    assert set(re.findall(r"(--[a-z-]+) ", out)) <= {*FLAGS[verb], "--help", "--no-copy", "--more", "--beam"}


# wrong use

WRONG = {
    ("train", "translat"): 'Unknown command "translat". Did you mean "translate"?',
    ("train", "translate"): "sentence pairs must come from --src with --tgt, or from --data, got neither.",
    ("train", "translate", "--src", "EN"): "--src needs --tgt, the file with the other side of each pair.",
    ("train", "translate", "--tgt", "DE"): "--tgt needs --src, the file with the other side of each pair.",
    ("train", "translate", "--src", "EN", "--tgt", "DE", "--data", "TSV"): "from --src with --tgt, or from --data, got both.",
    ("train", "translate", "--src", "EN", "EN", "--tgt", "DE"): "--src and --tgt must name as many files, got 2 and 1.",
    ("train", "translate", "--data", "TSV", "--valid-src", "EN"): "--valid-src needs --valid-tgt",
    ("train", "translate", "--data", "TSV", "--valid", "TSV", "--valid-tgt", "DE"): "from --valid-src with --valid-tgt, or from --valid, got both.",
    ("train", "translate", "--data", "TSV", "--columns", "1"): "--columns must be two numbers such as 1,2, source and target, got '1'.",
    ("train", "translate", "--data", "TSV", "--columns", "1,3"): "train.tsv:1: must have 3 columns with tabs between, got 2",
    ("train", "translate", "--src", "EN", "--tgt", "DE", "--columns", "1,2"): "--columns are those of --data: of two files there are none.",
    ("train", "translate", "--src", "EN", "--tgt", "VALID"): "train.en has 400 lines, ",
    ("train", "translate", "--src", "nowhere", "--tgt", "DE"): "nowhere: there is no such file.",
    ("train", "translate", "--data", "TSV", "--more", "EN"): "train.en:1: must have 2 columns with tabs between, got 1",
    ("train", "translate", "--data", "TSV", "--valid", "nowhere"): "nowhere: there is no such file.",
    ("train", "translate", "--data", "TSV", "--start", "nowhere"): "nowhere cannot be read as a longshort file: there is no such file.",
    ("train", "translate", "--data", "TSV", "--start", "MODEL", "--pieces", "70"): "--start brings its vocabularies, which --pieces cannot change.",
    ("train", "translate", "--data", "TSV", "--out", "."): ". is a directory; give the name of a file in it",
    ("train", "translate", "--data", "TSV", "--hiden", "3"): "Unknown option: --hiden. Did you mean --hidden?",
    ("train", "translate", "--data", "TSV", "--hidden", "0"): "hidden must be at least 1, got 0.",
    ("train", "translate", "--data", "TSV", "--attention", "hard"): 'Invalid value "hard" for --attention. Choose from: "additive", "dot", "general".',
    ("predict", "MODEL", "nowhere.txt", "--out", "o"): "nowhere.txt: there is no such file.",
    ("predict", "MODEL", "A dog's bone."): """Text itself comes in like this: echo 'A dog'"'"'s bone.' | longshort predict""",
    ("predict", "MODEL", "EN", "--sample", "--keep"): "--sample draws words and cannot be made to write what --glossary or --keep asks for.",
    ("predict", "MODEL", "."): ".: Is a directory",
    ("predict", "MODEL", "EN", "--out", "EN"): "train.en cannot be read and written at the same time. Write to another name.",
    ("predict", "MODEL", "EN", "--format", "xml"): 'Invalid value "xml" for --format. Choose from: "text", "json".',
    ("predict", "MODEL", "EN", "--alternatives", "3"): "text has room for one translation, got --alternatives 3. Take --format json, too.",
    ("predict", "MODEL", "EN", "--beam", "0"): "beam must be at least 1, got 0.",
    ("predict", "MODEL", "EN", "--temperature", "2"): "--temperature is of samples: give --sample, too.",
    ("predict", "MODEL", "EN", "--sample", "--beam", "2"): "--sample draws words and has no beam. Give --sample or --beam.",
    ("predict", "MODEL", "EN", "--keep-pattern", "("): "what is kept must be a regular expression, got '('",
    ("predict", "MODEL", "EN", "--glossary", "nowhere.tsv"): "nowhere.tsv: No such file or directory",
    ("predict", "MODEL", "EN", "--glossary", "EN"): "train.en:1: must be a term, one tab and its translation",
    ("predict", "MODEL", "EN", "--ensemble", "EN"): "train.en cannot be read as a longshort file",
    ("predict", "EN"): "train.en cannot be read as a longshort file",
    ("eval", "MODEL"): "sentence pairs must come from --src with --tgt, or from --data, got neither.",
    ("eval", "MODEL", "--data", "HOLE"): "hole.tsv:2: the translation is empty, there is nothing to compare with.",
    ("train", "translate", "--data", "TSV", "--valid", "HOLE"): "hole.tsv:2: the translation is empty, there is nothing to compare with.",
    ("train", "translate", "--data", "TSV", "--start", "MODEL", "--pieces", "6000"): "--start brings its vocabularies, which --pieces cannot change.",
    ("score", "MODEL", "--src", "EN"): "--src needs --tgt",
    ("score", "MODEL", "--data", "TSV", "--out", "TSV"): "train.tsv cannot be read and written at the same time. Write to another name.",
    ("eval", "MODEL", "--data", "TSV", "--outputs", "TSV"): "train.tsv cannot be read and written at the same time.",
    ("train", "translate", "--src", "EN", "--tgt", "DE", "--out", "EN"): "train.en cannot be read and written at the same time.",
    ("train", "translate", "--data", "TSV", "--valid", "VALID", "--log", "VALID"): "valid.de cannot be read and written at the same time.",
    ("train", "translate", "--data", "TSV", "--no-shared"): "without shared=True take tied='output'.",
    ("predict", "MODEL", "EN", "--out", "MODEL"): "m.safetensors cannot be read and written at the same time.",
    ("eval", "MODEL", "--data", "TSV", "--out", "MODEL"): "m.safetensors cannot be read and written at the same time.",
    ("eval", "MODEL", "--data", "TSV", "--out", "o", "--outputs", "o"): "o cannot be written twice.",
    ("eval", "MODEL", "--data", "TSV", "--language", "deutsch"): "a language must be two letters, such as de, got 'deutsch'.",
    ("backtranslate", "MODEL", "EN"): "--out requires an argument",
    ("backtranslate", "MODEL", "EN", "--out", "EN"): "train.en cannot be read and written at the same time.",
    ("backtranslate", "MODEL", "nowhere", "--out", "o"): "nowhere: No such file or directory",
    ("backtranslate", "MODEL", "EN", "--out", "o", "--confidence", "2"): "--confidence must be in [0, 1], got 2.",
    ("backtranslate", "MODEL", "EN", "--out", "o", "--beam", "2", "--top-k", "2"): "--top-k is of draws, and --beam draws nothing.",
    ("inspect", "MODEL", "..."): "the text must be a sentence with a word in it, got '...'.",
    ("listen", "MODEL"): "is a model of translate, which has no listen; it has predict, eval, inspect, backtranslate, score.",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=lambda words: " ".join(words)[:60])
def test_wrong_use_is_one_line_and_code_2(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    (home / "hole.tsv").write_text("a\tb\nc\t \n")
    here = {
        "EN": "train.en",
        "DE": "train.de",
        "TSV": "train.tsv",
        "VALID": "valid.de",
        "MODEL": "m.safetensors",
        "HOLE": "hole.tsv",
    }
    before = {p: p.stat().st_size for p in home.iterdir()}
    code, out, err = run(capfd, *(home / here[w] if w in here else w for w in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert WRONG[words] in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing was written"
    assert {p: p.stat().st_size for p in home.iterdir()} == before


# things that happen in between


def test_what_is_typed_is_translated_at_once_and_ctrl_c_ends_it(home: Path, ours: Translator) -> None:
    process = start("predict", home / "m.safetensors", stdin=-1)
    for line in (home / "valid.en").read_text().splitlines()[:3]:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{ours.translate(line)}\n"
    process.send_signal(signal.SIGINT)
    assert (*process.communicate(timeout=60), process.returncode) == ("", "stopped\n", 130)


def test_what_is_no_utf8_is_named_after_the_lines_before_it(
    home: Path, ours: Translator, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "The dog sees the man.\n"
    for given, before, said in (
        (line.encode() + b"\nThe dog \xe4 man.\n", f"{line}\n", ":3:9: is not UTF-8: byte 0xE4 at 8 of the line. Convert it"),
        (gzip.compress(line.encode() * 90)[:-9], line * 90, ": is a damaged gzip file: "),
    ):
        type_in(monkeypatch, given)
        code, out, err = run(capfd, "predict", home / "m.safetensors", "--beam", "1")
        assert (code, len(err.splitlines())) == (2, 1)
        assert err.startswith(f"error: standard input{said}")
        assert out == ours.translate(before, beam=1)[: len(out)]
        assert out or before != f"{line}\n"
    wrong = ["train", "translate", "--src", home / "bad.en", "--tgt", home / "train.de", "--out", home / "none"]
    (home / "bad.en").write_bytes(b"The dog.\n\xff\n")
    code, _, err = run(capfd, *wrong)
    assert (code, err.startswith(f"error: {home / 'bad.en'}:2: is not UTF-8: byte 0xFF at 0")) == (2, True)


def test_a_closed_pipe_is_no_traceback(home: Path) -> None:
    process = start("predict", home / "m.safetensors", "--beam", "1", stdin=-1)
    line = (home / "valid.en").read_text().splitlines(keepends=True)[0]
    process.stdin.write(line)
    process.stdin.flush()
    assert process.stdout.readline()
    process.stdout.close()
    process.stdin.write(line)
    process.stdin.flush()
    wait_for(lambda: process.poll() is not None)
    assert (process.stderr.read(), process.returncode) == ("", 1)
    process.stdin.close()
    process.stderr.close()


def test_a_terminal_sees_how_far_it_is(home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("The dog sees the man.\n" * 300)
    main, terminal = pty.openpty()
    process = start("predict", home / "m.safetensors", tmp_path / "in", "--out", tmp_path / "out", stderr=terminal)
    os.close(terminal)
    shown = b""
    while (piece := _heard(main)) or process.poll() is None:
        shown += piece
    os.close(main)
    assert (process.communicate(timeout=60)[0], process.returncode) == (f"wrote {tmp_path / 'out'}\n", 0)
    assert b"translated" in shown
    assert len((tmp_path / "out").read_text().splitlines()) == 300


def _heard(main: int) -> bytes:
    try:
        return os.read(main, 1000)
    except OSError:  # the other side is closed
        return b""


def test_ctrl_c_then_resume_gives_the_same_file(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["train", "translate", *files(home), *SMALL, "--steps", "120", "--evaluate", "60", "--save-steps", "10"]
    model = tmp_path / "m.safetensors"
    process = start(*words, "--out", model)
    wait_for(resume_path(model).exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert re.fullmatch(r"training stopped after step \d+ of 120, saved in .*--resume.*", err.splitlines()[-1]), err
    assert run(capfd, *words, "--out", model)[0] == 2
    assert run(capfd, *words, "--out", model, "--resume")[0] == 0
    assert not resume_path(model).exists()
    code, _, err = run(capfd, *words, "--out", tmp_path / "whole.safetensors", "--resume")
    assert code == 0
    assert err.startswith("there is no ")
    assert model.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_groups_hold_what_is_there() -> None:
    groups = list(ahead(range(10_000), 1000))
    assert [x for group in groups for x in group] == [*range(10_000)]
    assert max(map(len, groups)) <= 1000
    assert len(groups[0]) <= FIRST
    assert list(ahead([], 5)) == []

    more = threading.Event()

    def slow() -> Iterator[int]:
        yield from (1, 2)
        assert more.wait(60)
        yield 3
        raise ValueError("the fourth")

    found = ahead(slow(), 1000)
    some = list(next(found))
    if some == [1]:  # a busy machine
        some += next(found)
    assert some == [1, 2], "the third is not waited for"
    more.set()
    assert next(found) == [3], "what came before an error is there"
    with pytest.raises(ValueError, match="the fourth"):
        next(found)


def test_a_reader_that_nobody_wants_any_more_ends() -> None:
    before = threading.active_count()
    found = ahead(itertools.count(), 4)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    end = time.monotonic() + 60
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.02)
