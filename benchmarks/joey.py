"""How fast our translator trains (one pass, one attention), beside JoeyNMT's LSTM of equal size on the same batches of Multi30k.
`python -m benchmarks.joey [--rounds N] [--batches N]`.

Each contestant is a process of its own; they take turns, and all have all cores. Data stays in the padded batches that our task
made, so that reading and cutting text into pieces is not measured. Both draw dropout, smooth the labels, clip and update.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from cyclopts import App

from benchmarks.cases import BUSY, SETTLE_SECONDS
from benchmarks.forecasting import console, write
from benchmarks.machine import ROOT, Others, papers
from benchmarks.stats import paired, spread
from benchmarks.translate import CASES, TRAINING, pairs
from benchmarks.translate import CONFIG as RECIPE
from longshort.apps.translate.task import TranslateTask
from longshort.engine import fast_bf16

ROUNDS, BATCHES = 7, 12
CONFIG = replace(RECIPE, rdrop=0.0, again=False)  # what both have
THEIRS = ROOT / "out/joey/bin/python"  # `make bench-joey` installs it
CONTESTANTS: dict[str, dict[str, Any]] = {
    "ours": {"who": "ours", "bf16": True},
    "ours, float32": {"who": "ours", "bf16": False},
    "JoeyNMT": {"who": "joey", "bf16": False, "feed": True},  # its default
    "JoeyNMT, no input feeding": {"who": "joey", "bf16": False, "feed": False},
    "JoeyNMT, no input feeding, bf16": {"who": "joey", "bf16": True, "feed": False},
}

app = App(name="benchmarks.joey", help=__doc__)


def drawn(n: int) -> tuple[dict[str, np.ndarray], int, int]:
    """Arrays of n batches drawn evenly from a pass over the training part, by name; target tokens and ends in them; all tokens
    that the vocabulary has."""
    task = TranslateTask(replace(CONFIG, sampling=0.0, unknown=0.0), pairs(CASES[0], "train"))
    every = task.batches("train", 0)
    made, written = dict[str, np.ndarray](), 0
    for k, at in enumerate(np.linspace(0, len(every) - 1, n).astype(int)):
        for name, v in zip("xny", every[int(at)], strict=True):
            made[f"{name}{k}"] = v.numpy()
        written += int((made[f"y{k}"][:, 1:] > 0).sum())
    return made, written, len(task.vocabularies[1])


def ask(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that a worker writes.

    Raises:
        SystemExit: it ended instead.
    """
    assert process.stdout
    if not (line := process.stdout.readline()):
        raise SystemExit(f"a contestant has ended with {process.wait()}; see above.")
    return dict(json.loads(line))


@app.default
def main(*, rounds: int = ROUNDS, batches: int = BATCHES, only: str = "", out: Path | None = None) -> None:
    """Time all contestants in turn.

    Args:
        rounds: how often each goes over the batches.
        batches: how many make a pass.
        only: names of contestants that run must hold this.
        out: folder of the JSON; benchmarks/results for a full run on a quiet machine, else out/.
    """
    if not THEIRS.exists():
        raise SystemExit(f"{THEIRS.relative_to(ROOT)} is missing: `make bench-joey` installs JoeyNMT there.")
    fast = fast_bf16(torch.device("cpu"))
    left = [name for name, given in CONTESTANTS.items() if given["who"] == "joey" and given["bf16"] and not fast]
    names = [name for name in CONTESTANTS if only in name and name not in left]
    if left:
        console.print("left out: JoeyNMT in bfloat16. This processor has no products in it, and torch's LSTM none without them.")
    arrays, tokens, vocabulary = drawn(batches)
    with TemporaryDirectory() as scratch, ExitStack() as stack:
        file = Path(scratch) / "batches.npz"
        np.savez(file, **arrays)
        shared = {"batches": str(file), "scratch": scratch, "tokens": vocabulary, "threads": torch.get_num_threads(),
                  "config": asdict(CONFIG), "training": asdict(TRAINING)}  # fmt: skip
        runs = dict[str, subprocess.Popen[str]]()
        for name in names:
            given = shared | CONTESTANTS[name]
            command = [
                THEIRS if given["who"] == "joey" else sys.executable,
                ROOT / "benchmarks/joey_worker.py",
                json.dumps(given),
            ]
            runs[name] = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(runs[name].kill)
        about = {name: ask(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        losses: dict[str, list[float]] = {name: [] for name in names}
        others, cpu = Others(), 0.0
        for k in range(rounds + 1):  # the first one warms up
            for name, run in runs.items():
                assert run.stdin
                time.sleep(SETTLE_SECONDS)  # the others' threads stop spinning
                run.stdin.write("go\n")
                run.stdin.flush()
                made = ask(run)
                cpu += made["cpu"]
                losses[name].append(made["loss"])
                if k:
                    seconds[name].append(made["seconds"])
            if k:
                console.print(f"round {k} of {rounds}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()))
        busy = others.share(cpu)
    for name, of in losses.items():  # both do learn, from what a guess costs
        if not (math.isfinite(of[-1]) and of[-1] < math.log(vocabulary) + 0.5):
            raise SystemExit(f"{name} does not learn: its loss per token is {of[-1]}, a guess has {math.log(vocabulary):.2f}.")
    rows = {name: {"bf16": CONTESTANTS[name]["bf16"] and fast, **about[name], "seconds": spread(s), "loss": losses[name],
                   "tokens per second": spread([tokens / v for v in s])} for name, s in seconds.items()}  # fmt: skip
    ratios = {name: spread(paired(s, seconds[names[0]])) for name, s in seconds.items() if name != names[0]}
    for name, row in rows.items():
        said = f"; {names[0]} is {ratios[name]['median']:.2f} times as fast" if name in ratios else ""
        console.print(f"{name}: {row['tokens per second']['median']:.0f} target tokens per second{said}")
    if busy > BUSY:
        console.print(f"[red]busy[/red]: other programs used {busy:.0%} of the cores; these ratios prove nothing")
    partial = bool(only) or rounds < ROUNDS or batches < BATCHES or busy > BUSY
    write(papers("joey") | {"partial": partial, "rounds": rounds, "batches": batches, "target tokens": tokens,
                            "vocabulary": vocabulary, "others": round(busy, 3), "config": asdict(CONFIG), "contestants": rows,
                            "ratios": ratios}, "joey", out)  # fmt: skip


if __name__ == "__main__":
    app()
