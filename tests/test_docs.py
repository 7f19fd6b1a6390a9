"""Code on README's and the LSTM's page runs, and what docs/one-step.md shows of the source is the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from longshort import LSTM, cli
from longshort.engine import ENGINES
from longshort.engine.cpu import refuse_bytes

ROOT = Path(__file__).parent.parent
README, PAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/lstm.md"))


def blocks(page: str, kind: str) -> list[str]:
    return [text for k, text in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.S | re.M) if k == kind]


def test_the_page_of_the_lstm_runs(capsys: pytest.CaptureFixture) -> None:
    held: dict[str, object] = {}
    code = blocks(PAGE, "python")
    assert len(code) > 6
    for text in code:
        if "int8" not in text:
            exec(compile(text, "docs/lstm.md", "exec"), held)
    assert capsys.readouterr().out.count("cpu: ") == 2
    assert all(f"`{name}`" in PAGE for name in ENGINES)
    lstm = held["lstm"]
    assert isinstance(lstm, LSTM)
    if refuse_bytes(lstm.cell, torch.float32) is None:
        lstm.stream(weights="int8")


def test_the_readme_begins_with_what_runs() -> None:
    first, *others = blocks(README, "python")
    held: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), held)
    assert len(others) == 3
    for text in others:  # the pages of the applications run the same calls, on data
        compile(text, "README.md", "exec")
        exec(text.split("\n\n")[0], held)  # the import


def test_verbs_of_the_readme_are_ours() -> None:
    said = [line.split() for text in blocks(README, "") for line in text.splitlines() if line.startswith("longshort ")]
    assert len(said) > 5
    for _, verb, what, *_ in said:
        assert verb in cli.VERBS or (verb == "train" and what in cli.APPS)
    targets = re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for page in (
        README,
        *(p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md")),
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
    ):
        for target in re.findall(r"`make ([a-z0-9-]+)", page):
            assert target in targets, target


def test_what_one_step_shows_is_the_source() -> None:
    page = (ROOT / "docs" / "one-step.md").read_text(encoding="utf-8")
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "native").iterdir()]
    source = " ".join(" ".join(p.read_text(encoding="utf-8").split()) for p in places)
    lines = [line for kind in ("python", "cpp") for text in blocks(page, kind) for line in text.splitlines() if line.strip()]
    assert len(lines) > 3
    for line in lines:
        assert " ".join(line.split()) in source, line
