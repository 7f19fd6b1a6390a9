"""`longshort bench memory`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from longshort.memory.catalogue import tasks
from longshort.memory.report import cores, papers, table
from longshort.memory.suite import SECONDS, SEEDS, effort, plan, recipe, run

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


def memory(
    *,
    task: Names = (),
    variant: Names = (),
    seeds: int = SEEDS,
    quick: bool = False,
    processes: int | None = None,
    seconds: float = SECONDS,
    mnist: Path | None = None,
    out: Path = Path("out/memory"),
    results: Path | None = None,
    figure: Path | None = None,
) -> None:
    """What can a recurrent net remember? The experiments of the LSTM's paper of 1997 and of those after it.

    Each trial trains one net until it solves the task by the paper's own criterion, and counts the training sequences. What
    is done stands in OUT/trials.jsonl: a run that was cut goes on by the same command.

    Args:
        task: only these tasks.
        variant: only these nets.
        seeds: trials of each net on each task.
        quick: a few tasks of short lags, three nets, one seed: two minutes.
        processes: trials side by side; one per core if not given.
        seconds: of processor time after which a trial has failed, whatever it has read.
        mnist: folder with MNIST's four .gz files: two tasks more.
        out: folder of the trials and of the result.
        results: folder of the result of a whole run instead of OUT.
        figure: also draw gradient norm against lag, RNN and LSTM, into this file (.svg, .png, .pdf).
    """
    known, begun, result = tasks(mnist), time.perf_counter(), papers()
    if figure is not None:
        from longshort.memory.figure import check

        check(figure)
    if processes is not None and processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}.")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}.")
    trials = plan(known, task, variant, seeds, quick)
    for name in {"digits", "digits-permuted"}.intersection(t[0] for t in trials):  # asks for scikit-learn now, not in an hour
        known[name].draw(np.random.default_rng(0), 1, "train")
    processes = processes or cores()
    made = run(trials, out / "trials.jsonl", processes, seconds, mnist, _Progress(known, trials))
    names = [n for n in known if any(t[0] == n for t in trials)]
    whole = not (task or variant or quick) and seeds >= SEEDS and seconds >= SECONDS
    result |= {
        "partial": not whole,
        "seeds": 1 if quick else seeds,
        "processes": processes,
        "most seconds": seconds,
        "seconds": round(time.perf_counter() - begun, 1),
        "tasks": [_said(known[n]) | {"recipe": asdict(recipe(n, "default")), "rnn most": recipe(n, "rnn").most} for n in names],
        "trials": made,
    }
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    console.print(table(result))
    folder = results if results is not None and whole else out
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "-".join(
        ["memory", result["date"][:10], *([result["commit"]] if result["commit"] else []), *([] if whole else ["partial"])]
    )
    file = file.with_suffix(".json")
    file.write_text(json.dumps(result, indent=1) + "\n")
    wrote = [str(file)]
    if figure is not None:
        from longshort.memory.figure import draw

        draw(figure)
        wrote.append(str(figure))
    console.print(f"wrote {' and '.join(wrote)}", soft_wrap=True)


def _said(task: Any) -> dict[str, Any]:
    return {k: getattr(task, k) for k in ("name", "title", "source", "steps", "symbolic", "paper", "sequences")}


class _Progress:
    """One line on standard error per trial: what it came to, and how long the others will take."""

    def __init__(self, known: dict[str, Any], trials: list[tuple[str, str, int]]) -> None:
        self.cost = {t: effort(known[t[0]], t[1]) for t in trials}
        self.done, self.left, self.fresh, self.begun = 0, sum(self.cost.values()), 0.0, time.monotonic()

    def __call__(self, r: dict[str, Any], new: bool) -> None:
        self.done += 1
        cost = self.cost[r["task"], r["variant"], r["seed"]]
        self.left -= cost
        if not new:
            return
        self.fresh += cost
        left = timedelta(seconds=round((time.monotonic() - self.begun) * self.left / self.fresh))
        came = f"solved after {r['sequences']:,}" if r["solved"] else f"not solved by {r['sequences']:,}"
        print(f"{self.done}/{len(self.cost)}  {r['task']}  {r['variant']}  seed {r['seed']}  {came} sequences  "
              f"{r['seconds']:.0f} s  left about {left}", file=sys.stderr, flush=True)  # fmt: skip
