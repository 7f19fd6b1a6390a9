"""Check first, then time, then JSON. `python -m benchmarks.run engine [--rounds N] [--only PATTERN] [--quick]`."""

from __future__ import annotations

import datetime
import gc
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cyclopts import App
from rich.console import Console

from benchmarks.cases import (
    BUSY,
    PEAK_SIZES,
    QUICK_ROUNDS,
    ROUNDS,
    SAMPLE_SECONDS,
    SETTLE_SECONDS,
    TARGETS,
    Case,
    Target,
    all_cases,
    quick_cases,
)
from benchmarks.check import check, failures
from benchmarks.machine import ROOT, Others, commit, machine, versions
from benchmarks.rivals import Data, build
from benchmarks.stats import geomean, paired, spread
from benchmarks.table import console_tables
from longshort.engine import cpu, fast_bf16

app = App(name="benchmarks.run", help=__doc__)
console = Console(width=150)


@app.command
def engine(*, rounds: int | None = None, only: str = "", quick: bool = False, out: Path | None = None) -> None:
    """The LSTM engines next to torch, ONNX Runtime and a good eager loop.

    Args:
        rounds: how often each contestant of a case is timed, in turn with its rivals.
        only: a regular expression; only the cases whose names it finds run.
        quick: the cheapest case of each block and variant, few rounds.
        out: folder of the JSON; benchmarks/results for a full run on a quiet machine, else out/ (not committed).
    """
    cases = [c for c in (quick_cases() if quick else all_cases()) if re.search(only, c.name)]
    if not cases:
        raise SystemExit(f"--only must match a case, got {only!r}. Cases: {', '.join(c.name for c in all_cases())}")
    if any(c.bf16 for c in cases) and not fast_bf16(torch.device("cpu")):
        console.print("left out: bf16 training. This processor has no products in bfloat16, and torch's LSTM none without them.")
        cases = [c for c in cases if not c.bf16]
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    checked, wrong = {}, 0
    for case in cases:
        checked[case] = worst = check(case)
        wrong += len(lines := failures(worst))
        for line in lines:
            console.print(f"[red]wrong[/red] {case.name}: {line}", highlight=False)
    if wrong:
        raise SystemExit(1)
    console.print(f"checked {len(cases)} cases: outputs and gradients of all contestants are within the error budget")

    rows, others = [], Others()
    for case in cases:
        rows.append(row := {**measure(case, rounds), "strain": {k: share for k, (_, share) in checked[case].items()}})
        said = (f"{k} {v['ms']['median']:.3f} ms" for k, v in row["contestants"].items())
        console.print(f"{case.name}: {', '.join(said)}; {row['contestants']['ours']['how']}", highlight=False)
    part = quick or bool(only) or rounds < ROUNDS
    result = report(rows, rounds, part, machine(), others.share())
    path = (out or ROOT / ("out" if part or result["others"] > BUSY else "benchmarks/results")).resolve()
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"engine-{result['date'][:10]}-{result['commit']}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    for table in console_tables(result):
        console.print(table)
    if result["others"] > BUSY:
        console.print(f"[red]busy[/red]: other programs used {result['others']:.0%} of the cores; these ratios prove nothing")
    console.print(f"wrote {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}", highlight=False)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Time all contestants of a case and the matrix peak, in turn, `rounds` times."""
    data = Data.of(case)
    runs = {who: build(who, case, data) for who in ("ours", *case.rivals)}
    repeats = {who: calibrate(run.call) for who, run in runs.items()}
    seconds: dict[str, list[float]] = {who: [] for who in runs}
    peaks = matrix_peaks(torch.bfloat16 if case.bf16 else torch.float32)
    reached: dict[str, list[float]] = {name: [] for name in peaks}
    gc.collect()
    for _ in range(rounds):
        for who, run in runs.items():
            seconds[who].append(sample(run.call, repeats[who]))
        for name, peak in peaks.items():
            reached[name].append(peak())
    flop, best = case.flop(data.steps(case)), [max(round_) for round_ in zip(*reached.values(), strict=True)]
    contestants = {}
    for who, run in runs.items():
        work = Case(case.block, case.shape).flop(case.shape.B * case.shape.T) if who == "plain" else flop  # it has no lengths
        contestants[who] = {
            "how": run.how,
            "repeats": repeats[who],
            "ms": spread([1e3 * s for s in seconds[who]]),
            "gflops": spread([work / s / 1e9 for s in seconds[who]]),
            "share": spread([work / s / p for s, p in zip(seconds[who], best, strict=True)]),
        }
    return {
        "name": case.name,
        "block": case.block,
        "variant": case.variant,
        "cell": repr(case.cell),
        **case.shape._asdict(),
        "flop": flop,
        "peak_gflops": {name: spread([p / 1e9 for p in each]) for name, each in reached.items()},
        "contestants": contestants,
        "ratios": {who: spread(ratios(who, seconds[who], seconds["ours"])) for who in case.rivals},
    }


def ratios(who: str, rival: list[float], ours: list[float]) -> list[float]:
    """How many times faster ours is, round by round; against our own plain cell, how many times its time a variant costs."""
    return paired(ours, rival) if who == "plain" else paired(rival, ours)


def sample(call: Callable[[], object], repeats: int) -> float:
    """Seconds per call. First the others' threads get time to stop spinning; a short call also runs once unseen."""
    time.sleep(SETTLE_SECONDS)
    if repeats > 1:
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def calibrate(call: Callable[[], object]) -> int:
    """How many calls make one sample last long enough. The first calls, which get their memory, do not count, nor does one that
    was held up: a short call that is timed alone starts from cold caches."""
    stop = time.perf_counter() + 2 * SAMPLE_SECONDS
    call()
    while time.perf_counter() < stop:
        call()
    repeats = 1
    while (took := min(sample(call, repeats) for _ in range(3)) * repeats) < SAMPLE_SECONDS:
        repeats = max(repeats + 1, min(10 * repeats, int(1.2 * repeats * SAMPLE_SECONDS / took)))
    return repeats


def matrix_peaks(dtype: torch.dtype) -> dict[str, Callable[[], float]]:
    """What this machine's matrix product reaches now, in FLOP/s: torch.mm at its best size, and our own kernel in the cache. Both
    warm, for a first call after a pause is a slow one."""
    squares = [tuple(torch.randn(n, n).to(dtype) for _ in range(3)) for n in PEAK_SIZES]
    peaks: dict[str, Callable[[], float]] = {
        "torch.mm": lambda: max(2 * len(a) ** 3 / sample(partial(torch.mm, a, b, out=y), 2) for a, b, y in squares)
    }
    if (native := cpu.native) is not None:
        kind, threads = cpu.TYPES[dtype], torch.get_num_threads()
        rounds = calibrate(partial(native.peak, kind, 1, threads))
        flop = native.peak(kind, rounds, threads)
        peaks["our kernel"] = lambda: flop / sample(partial(native.peak, kind, rounds, threads), 2)
    return peaks


def report(rows: list[dict[str, Any]], rounds: int, part: bool, where: dict[str, Any], others: float) -> dict[str, Any]:
    """What the JSON holds."""
    hash_, dirty = commit()
    return {
        "kind": "engine",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": hash_,
        "dirty": dirty,
        "partial": part,
        "rounds": rounds,
        "others": round(others, 3),  # share of all cores' time that other programs took while this was measured
        "machine": where,
        "versions": versions(),
        "targets": [judge(t, rows, where) for t in TARGETS if any(r["block"] == t.block for r in rows)],
        "cases": rows,
    }


def judge(target: Target, rows: list[dict[str, Any]], where: dict[str, Any]) -> dict[str, Any]:
    """One threshold: the geometric mean that was measured, of how many cases, and what it meets."""
    mine = [r for r in rows if r["block"] == target.block and not (target.rival == "peak" and r["H"] < 256)]
    each: dict[str, list[float]] = {}
    for r in mine:
        ratio = r["contestants"]["ours"]["share"] if target.rival == "peak" else r["ratios"][target.rival]
        each.setdefault(r["variant"], []).append(ratio["median"])
    means = {k: geomean(v) for k, v in each.items()}
    value = max(means.values(), default=None)  # of one variant, or the dearest of many

    def reaches(bound: float | None) -> bool:
        return value is not None and bound is not None and (value <= bound if target.cost else value >= bound)

    met = "aim" if reaches(target.aim) else "at least" if reaches(target.least) else "no"
    if value is None or (target.needs and target.needs not in where["flags"]):
        met = "not judged"
    said = {"means": means} if target.cost else {}
    return {**target._asdict(), "value": value, "cases": len(mine), "met": met, **said}


if __name__ == "__main__":
    app()
