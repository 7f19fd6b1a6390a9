"""Every block of code in docs/forecast.md runs, in order, on a small table (with few training steps)."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from longshort import cli
from longshort.apps.forecast import Config, forecaster, search
from longshort.train import Training, train

PAGE = (Path(__file__).parents[1] / "docs" / "forecast.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)


def tables() -> dict[str, pd.DataFrame]:
    t, rng, parts = np.arange(168), np.random.default_rng(0), []
    for k in range(3):
        price, holiday = rng.random(168).round(2), (rng.random(168) < 0.05).astype(float)
        y = 30 + k + 5 * np.sin(2 * np.pi * t / 7 + k) - 4 * price + 8 * holiday + rng.normal(size=168)
        parts.append(pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2024-01-01", periods=168), "y": y, "price": price,
                                   "holiday": holiday, "visits": (y * 3).round()}))  # fmt: skip
    whole = pd.concat(parts, ignore_index=True)
    known = whole.groupby("unique_id").cumcount() < 140
    three, newer = ["unique_id", "ds", "y"], whole[["unique_id", "ds", "y"]]
    return {"df": whole[known][three], "newer": newer, "sold": newer[known].assign(y=rng.poisson(2.0, known.sum())), "rich": whole[known],
            "plan": whole[~known].drop(columns=["y", "visits"]),
            "shops": pd.DataFrame({"unique_id": ["s0", "s1", "s2"], "region": ["north", "south", "north"]})}  # fmt: skip


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def quick(task: Any, how: Training, **more: Any) -> Any:
        return train(task, replace(how, steps=min(how.steps, 4), evaluate=2), **more)

    for room in (forecaster, search):
        monkeypatch.setattr(room, "train", quick)
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_here")
def test_every_block_of_python_runs() -> None:
    held: dict[str, Any] = tables()
    held["df"].to_parquet("sales.parquet", index=False)
    code = [text for kind, text in BLOCKS if kind == "python"]
    assert len(code) > 8
    for text in code:
        exec(compile(text, "docs/forecast.md", "exec"), held)
    assert held["forecast"].columns.to_list() == ["unique_id", "ds", "LSTM", "LSTM-lo-80", "LSTM-hi-80"]
    assert held["paths"].groupby("unique_id")["sample"].nunique().tolist() == [100] * 3
    assert len(held["total"]) == 3
    assert list(held["scores"]) == ["LSTM", "SeasonalNaive", "Naive2"]
    assert sorted(p.name for p in Path().iterdir()) == [
        "forecast.png",
        "parts.png",
        "sales.html",
        "sales.parquet",
        "sales.safetensors",
    ]


@pytest.mark.usefixtures("_here")
def test_every_command_runs(capfd: pytest.CaptureFixture) -> None:
    for name, frame in tables().items():
        frame.to_csv({"df": "sales"}.get(name, name) + ".csv", index=False)
    lines = "".join(text for kind, text in BLOCKS if kind == "sh").replace("\\\n", " ").splitlines()
    assert len(lines) > 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "longshort"
        assert cli.run(words) == 0, (line, capfd.readouterr().err)
        wrote = [Path(w) for flag, w in pairwise(words) if flag in ("--out", "--report", "--table")]
        assert wrote, line
        assert all(path.exists() for path in wrote), line


def test_what_it_names_is_there() -> None:
    """Settings in backticks with a value are fields; every block has a kind that one of the tests above runs, or is for pip."""
    known = {f.name for kind in (Config, Training) for f in fields(kind)} | {
        "n",
        "future",
        "progress",
        "checkpoint",
        "log",
        "refit",
        "n_windows",
    }
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.S | re.M)
    named = set(re.findall(r"`(\w+)=", prose))
    assert len(named) > 8
    assert named <= known
    assert {kind for kind, _ in BLOCKS} == {"python", "sh", ""}
    assert all(line.startswith("pip install ") for kind, text in BLOCKS if not kind for line in text.splitlines())
    for path in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(__file__).parents[1] / "docs" / path).exists(), path


def test_every_verb_is_on_the_page() -> None:
    from longshort.apps.forecast import cli as room

    for verb in ("train", "search", "crossval", *cli.VERBS):
        assert f"longshort {verb} " in PAGE or not hasattr(room, cli.FUNCTIONS.get(verb, verb)), verb


@pytest.mark.usefixtures("_here")
def test_the_example_of_covariates_runs(capsys: pytest.CaptureFixture) -> None:
    path = Path(__file__).parents[1] / "examples" / "covariates.py"
    spec = importlib.util.spec_from_file_location("covariates", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    scores = example.main(steps=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + example.HORIZON + 1
    assert lines[-1] == f"MASE without promotions {scores['without']:.3f}, with them {scores['with']:.3f}"
    assert list(Path().iterdir()) == []
