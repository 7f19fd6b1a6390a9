"""What the benchmarks of the applications share: a closed test part until all is committed, papers, a JSON file."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import ROOT, papers

MAKERS = ("src", "native", "benchmarks/*.py", "pyproject.toml")  # what makes a score
SEEDS = 5  # with fewer a run is partial: it goes to out/ and not into the README
console = Console(width=150, highlight=False)


def begin(kind: str, scores_test: bool) -> dict[str, Any]:
    """The papers of a run that begins now.

    Raises:
        SystemExit: the run would open a test part, but what makes the score is not committed: it must have been chosen before.
    """
    made = papers(kind, "numpy", "pandas", "statsforecast", paths=MAKERS)
    if scores_test and made["dirty"]:
        raise SystemExit(f"the test part stays closed while {', '.join(MAKERS)} differ from the commit. Commit first.")
    return made


def write(result: dict[str, Any], name: str, out: Path | None) -> None:
    """Write a run as JSON and say where: benchmarks/results, or out/ (not committed) if it is partial."""
    folder = (out or ROOT / ("out" if result["partial"] else "benchmarks/results")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{result['date'][:10]}-{result['commit']}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"wrote {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}")


def peak_mib() -> int:
    """The most memory that this process has held so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # KiB on Linux
