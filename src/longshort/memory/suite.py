"""All trials, side by side: one process per core, each result a line of a file, so that a run that was cut goes on."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from longshort.memory.catalogue import tasks
from longshort.memory.recipes import LONG, LONG_VARIANTS, QUICK, QUICK_VARIANTS, RECIPES, RNN_MOST, VARIANTS
from longshort.memory.tasks import Task
from longshort.memory.trial import Recipe
from longshort.memory.trial import run as learn

SEEDS, SECONDS = 5, 900.0


class Trial(NamedTuple):
    """What one process is given: names, a seed, the seconds of processor time that it may take, and the folder of MNIST."""

    task: str
    variant: str
    seed: int
    seconds: float = SECONDS
    mnist: Path | None = None


def recipe(task: str, variant: str) -> Recipe:
    """How a task is learned by a variant: the task's recipe, with another end for the plain RNN."""
    found = RECIPES[task]
    return replace(found, most=RNN_MOST[task]) if variant == "rnn" and task in RNN_MOST else found


def plan(
    known: dict[str, Task], names: Iterable[str] = (), variants: Iterable[str] = (), seeds: int = SEEDS, quick: bool = False
) -> list[tuple[str, str, int]]:
    """Which trials make a run: (task, variant, seed), the longest first.

    Args:
        known: the tasks there are.
        names: only these; none means all.
        variants: only these; none means all eight for short tasks, and three of them for tasks of 500 steps and more.
        seeds: trials of each.
        quick: short lags, few variants, one seed.

    Raises:
        ValueError: a name is not known, or nothing is left.
    """
    names, variants = list(dict.fromkeys(names)), list(dict.fromkeys(variants))
    for kind, given, has in (("task", names, known), ("variant", variants, VARIANTS)):
        if wrong := [n for n in given if n not in has]:
            raise ValueError(f"{kind} must be one of {', '.join(has)}; got {', '.join(wrong)}.")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}.")
    chosen = [known[n] for n in names] if names else [t for n, t in known.items() if not quick or n in QUICK]
    made = []
    for task in chosen:
        of_task = QUICK_VARIANTS if quick else LONG_VARIANTS if task.steps >= LONG else tuple(VARIANTS)
        made += [(task.name, v, s) for v in variants or of_task for s in range(1 if quick else seeds)]
    return sorted(made, key=lambda t: -effort(known[t[0]], t[1]))


def effort(task: Task, variant: str) -> float:
    """Steps that a trial may read: what it costs, roughly."""
    return float(recipe(task.name, variant).most) * task.steps * (3 if variant == "rnn" else 1)


def identity(task: str, variant: str, seed: int) -> dict[str, Any]:
    """What a line of the file is found by when a run goes on: a changed recipe is another trial."""
    return {"task": task, "variant": variant, "seed": seed, "recipe": asdict(recipe(task, variant))}


def read(file: Path) -> list[dict[str, Any]]:
    """The results so far; a line that was torn is dropped."""
    made = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            made.append(json.loads(line))
        except ValueError:
            continue
    return made


def run(
    trials: list[tuple[str, str, int]], file: Path, processes: int, seconds: float, mnist: Path | None,
    done: Callable[[dict[str, Any], bool], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Run what the file does not yet hold, and write it there.

    Args:
        trials: (task, variant, seed), in the order in which they begin.
        file: JSON lines, one per trial; it is made, or gone on with.
        processes: how many run at once.
        seconds: of processor time after which a trial has failed.
        mnist: folder of MNIST, or None.
        done: called with each result, and whether it is new.

    Returns:
        The results of all trials, in their order.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    before, results, left = read(file), {}, []
    for trial in trials:
        who = identity(*trial)
        found = next((r for r in before if {k: r.get(k) for k in who} == who and not _cut(r, seconds)), None)
        if found is None:
            left.append(trial)
        else:
            results[trial] = found
            done(found, False)
    with file.open("a") as out:
        if file.stat().st_size and not file.read_bytes().endswith(b"\n"):
            out.write("\n")
        for result in _side_by_side([Trial(*t, seconds, mnist) for t in left], processes):
            out.write(json.dumps(result) + "\n")
            out.flush()
            results[result["task"], result["variant"], result["seed"]] = result
            done(result, True)
    return [results[t] for t in trials]


def _cut(result: dict[str, Any], seconds: float) -> bool:
    """Whether a trial was ended by less time than it may take now."""
    failed = not result["solved"] and result["loss"] is not None and result["sequences"] < result["recipe"]["most"]
    return bool(failed and result["seconds"] < seconds)


def _side_by_side(trials: list[Trial], processes: int) -> Iterator[dict[str, Any]]:
    processes = min(processes, len(trials))
    if processes <= 1:
        yield from map(_one, trials)
        return
    with ProcessPoolExecutor(processes, mp.get_context("spawn"), _begin) as pool:
        try:
            yield from (f.result() for f in as_completed([pool.submit(_one, t) for t in trials]))
        except BaseException:  # Ctrl-C too: nobody waits for trials that nobody will read
            for worker in mp.active_children():
                worker.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when that does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = mp.parent_process()
    assert parent is not None

    def end_with() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with, daemon=True).start()


def _one(trial: Trial) -> dict[str, Any]:
    name, variant, seed, seconds, mnist = trial
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = learn(tasks(mnist)[name], VARIANTS[variant], recipe(name, variant), seed, seconds)
    finally:
        torch.set_num_threads(threads)
    return identity(name, variant, seed) | result
