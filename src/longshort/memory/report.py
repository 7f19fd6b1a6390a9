"""What a run came to, as rows: of the table on the terminal, and of the one in the README."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from longshort.artefact import versions

if TYPE_CHECKING:
    from rich.table import Table


def papers() -> dict[str, Any]:
    """What every result carries: kind, date, commit (in a checkout), machine, versions."""
    info = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    cpu = next((v.strip() for k, _, v in lines if k.strip() == "model name"), platform.processor() or platform.machine())
    here = _git("ls-files", __file__)  # nothing where the package is installed, even inside another checkout
    return {
        "kind": "memory",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD") if here else "",
        "dirty": bool(here and _git("status", "--porcelain", "--", ":/src", ":/native", ":/pyproject.toml")),
        "machine": {"cpu": cpu, "cores": cores(), "arch": platform.machine(), "system": platform.system()},
        "versions": versions(),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*words: str) -> str:
    """What git says of the folder that this file is in; nothing, if there is no git or no checkout."""
    try:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def head(result: dict[str, Any]) -> list[str]:
    """Columns: the task, what its paper says, and each net."""
    return ["", "paper", *dict.fromkeys(t["variant"] for t in _ordered(result))]


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Of each task: trials solved of all, and the median of the training sequences that the solved ones took."""
    made = []
    for task in result["tasks"]:
        paper = "; ".join(w for w in (f"{task['sequences']:,}" if task["sequences"] else "", task["paper"]) if w)
        row = [task["title"], paper]
        for name in head(result)[2:]:
            of = [t for t in result["trials"] if (t["task"], t["variant"]) == (task["name"], name)]
            solved = [t["sequences"] for t in of if t["solved"]]
            row.append(f"{len(solved)}/{len(of)}" + (f" {median(solved):,.0f}" if solved else "") if of else "")
        made.append(row)
    return made


def hours(result: dict[str, Any]) -> str:
    """How long the trials took, in words."""
    spent = sum(t["seconds"] for t in result["trials"]) / result["processes"] / 3600
    return f"{spent:.1f} hours"


RECIPE_HEAD = [
    "",
    "T",
    "H",
    "symbols enter as",
    "batch",
    "learning rate",
    "clip",
    "average of weights",
    "T of chrono",
    "at most",
    "RNN at most",
]


def recipe_rows(result: dict[str, Any]) -> list[list[str]]:
    """Of each task: how it was learned, by all nets alike."""
    made = []
    for task in result["tasks"]:
        r = task["recipe"]
        times = f"{r['scale']:g} times " if r["scale"] != 1 else ""
        enter = f"{times}one-hot" + ", to the answer as well" * r["direct"] if task["symbolic"] else ""
        numbers = (
            str(r["batch"]),
            f"{r['lr']:g}" + ", falling to 0" * r["decay"],
            f"{r['clip']:g}",
            f"{r['average']:g}",
            str(round(r["chrono"] * task["steps"])),
            f"{r['most']:,}",
            f"{task['rnn most']:,}",
        )
        made.append([task["title"], str(task["steps"]), str(r["hidden"]), enter, *numbers])
    return made


def _ordered(result: dict[str, Any]) -> list[dict[str, Any]]:
    from longshort.memory.recipes import VARIANTS

    return sorted(result["trials"], key=lambda t: list(VARIANTS).index(t["variant"]))


def table(result: dict[str, Any]) -> Table:
    """For the terminal."""
    from rich.table import Table

    made = Table(title="trials solved, and the median of training sequences until then", title_justify="left", title_style="bold")
    for n, column in enumerate(head(result)):
        made.add_column(column, justify="left" if n == 0 else "right")
    for row in rows(result):
        made.add_row(*row)
    return made
