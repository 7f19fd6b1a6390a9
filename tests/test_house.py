"""The house: importing it is light, the door offers what it says, and the equations' numbers are the same everywhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import longshort

ROOT = Path(__file__).parent.parent
HEAVY = ("pandas", "polars", "pyarrow", "matplotlib", "triton", "cyclopts", "rich", "onnx", "narwhals")


def fresh(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_and_lstm_only_torch():
    loaded = fresh("import sys, longshort; print(*sys.modules)").split()
    assert not {"torch", "numpy"} & set(loaded)
    code = (
        "import sys; sys.modules['triton'] = None; import longshort; longshort.LSTM(3, 4); longshort.Cell(); print(*sys.modules)"
    )
    loaded = {name for name in fresh(code).split() if "." not in name}
    assert not set(HEAVY) - {"triton"} & loaded
    assert not [m for m in loaded if m.startswith("longshort.apps")]


def test_the_package_itself_adds_little_to_torch():
    """`-X importtime` prints own microseconds per module: ours and jaxtyping together stay under a tenth of torch."""
    code = "import torch; import longshort.nn"

    def share() -> float:
        done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
        own = [(int(m[1]), m[2]) for m in re.finditer(r"import time:\s+(\d+) \|\s+\d+ \| +(\S+)", done.stderr)]
        first = next(i for i, (_, name) in enumerate(own) if name.startswith("jaxtyping") or name.startswith("longshort"))
        return sum(t for t, _ in own[first:]) / sum(t for t, _ in own[:first])

    assert any(share() < 0.1 for _ in range(3)), "three times in a row: the machine may be busy once"


def test_the_door():
    assert set(longshort.__all__) <= set(dir(longshort))
    for name in longshort.__all__:
        assert getattr(longshort, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'GRU'; it offers LSTM, Cell"):
        longshort.GRU  # noqa: B018


@pytest.mark.parametrize("place", ["src/longshort/cell.py", "docs/equations.md"])
def test_all_equations_are_numbered(place):
    text = (ROOT / place).read_text()
    assert [n for n in range(1, 10) if f"({n})" not in text] == []


def test_links_in_the_docs_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_names_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        text = (ROOT / name).read_bytes()
        for path in (b"/wo" + b"rk/", b"/ro" + b"ot/", b"/ho" + b"me/"):
            assert path not in text, f"{name} names {path.decode()}"
