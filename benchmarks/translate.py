"""Multi30k from its 29,000 training pairs alone, scored once on test_2016_flickr and test_2017_flickr.
`python -m benchmarks.translate [--only PATTERN] [--holdout]`.

Everything is chosen on `val`: the recipe, the weights of each run, and the length penalty. The test parts stay closed until
all is committed.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from cyclopts import App

from benchmarks import table
from benchmarks.forecasting import begin, console, peak_mib, write
from benchmarks.machine import ROOT, trained
from benchmarks.stats import mean_sd
from longshort.apps.translate import Config, Translator, data
from longshort.apps.translate.data import Pair
from longshort.train import Training

SEEDS = 4  # three for the mean, and one more in the ensemble
TESTS = ("test_2016_flickr", "test_2017_flickr")
CONFIG = Config()
TRAINING = Training(epochs=11, lr=2e-3, warmup=0.04, evaluate=704, patience=0, average=0.999, betas=(0.9, 0.98), bf16=True)
REPEATS = 5

app = App(name="benchmarks.translate", help=__doc__)


class Case(NamedTuple):
    """A direction: two letters of the source language, two of the target language, and how many models at most."""

    source: str
    target: str
    seeds: int

    @property
    def name(self) -> str:
        """en-de"""
        return f"{self.source}-{self.target}"


Read = Callable[[Case, str], list[Pair]]  # the pairs of a split
CASES = [Case("en", "de", SEEDS), Case("en", "fr", 1), Case("de", "en", 1)]  # the last two take the recipe of the first


def pairs(case: Case, split: str) -> list[Pair]:
    """The pairs of a split: train, val, or one of `TESTS`.

    Raises:
        SystemExit: the data is not there.
    """
    return data.read(*(there(f"multi30k/{split}.{language}.gz") for language in (case.source, case.target)))


def there(name: str) -> Path:
    """A file of the benchmark's data.

    Raises:
        SystemExit: it is not there.
    """
    path = Path(os.environ.get("LONGSHORT_DATA", "../shared/data")) / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: set LONGSHORT_DATA to the folder of the benchmark's data.")
    return path


def at(home: Path, case: Case, seed: int, kind: str = "model") -> Path:
    """Where a model lies, what is known of it (json), and the state of its training (resume)."""
    return home / f"{case.name}-{seed}{'.json' if kind == 'json' else f'.{kind}.safetensors'}"


def fit(case: Case, seed: int, home: Path, threads: int, config: Config, training: Training, read: Read) -> dict[str, Any]:
    """Train one model, in a process of its own, and write it to its file; what that took."""
    torch.set_num_threads(threads)
    begun, resumed = time.perf_counter(), at(home, case, seed, "resume").exists()
    train, valid = read(case, "train"), read(case, "val")
    log = at(home, case, seed).with_suffix(".jsonl")
    model = Translator(config=config, training=replace(training, seed=seed))
    model.fit(train, valid, checkpoint=at(home, case, seed, "resume"), resume=True, log=log)
    seconds = json.loads(log.read_text().splitlines()[-1])["seconds"]  # over all resumptions
    tokens = sum(len(model.target.encode(p.target)) + 1 for p in train)
    took = {"seed": seed, "fit seconds": seconds, "threads": threads, "peak MiB": peak_mib(),
            "parameters": sum(p.numel() for p in model.fitted.parameters()), "target tokens": tokens,
            "tokens per second": tokens * (training.epochs or 0) / seconds, "length penalty": model.length_penalty,
            "val": {k: v for s in model.scores for k, v in s.metrics.items()}}  # fmt: skip
    model.save(at(home, case, seed))
    if not resumed:
        took["seconds from text to file"] = time.perf_counter() - begun
    at(home, case, seed, "json").write_text(json.dumps(took))
    at(home, case, seed, "resume").unlink()
    return took


def fit_all(
    cases: list[Case], seeds: int, home: Path, jobs: int, config: Config, training: Training, read: Read,
) -> None:  # fmt: skip
    """Train all models that are not there yet, `jobs` at a time."""
    home.mkdir(parents=True, exist_ok=True)
    todo = [(c, s) for c in cases for s in range(min(seeds, c.seeds)) if not at(home, c, s, "json").exists()]
    threads = max((os.cpu_count() or 1) // jobs, 1)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for (case, seed), made in zip(
            todo, [pool.submit(fit, *one, home, threads, config, training, read) for one in todo], strict=True
        ):
            took = made.result()
            said = "  ".join(f"{k} {v:.2f}" for k, v in took["val"].items())
            console.print(f"{case.name}, seed {seed}: {took['fit seconds']:.0f} s; val: {said}")


def judged(model: Translator, truth: list[Pair], language: str | None = None, **how: Any) -> dict[str, Any]:
    """All scores of a model on some pairs, and its perplexity; the language asks for the score of papers on Multi30k, too."""
    evaluation = model.evaluate(truth, language, **how)
    return {k: s._asdict() for k, s in evaluation.scores.items()} | {"perplexity": evaluation.perplexity}


def scored(model: Translator, case: Case, parts: tuple[str, ...], **how: Any) -> dict[str, Any]:
    """A model judged on some parts of the data."""
    made = {}
    for part in parts:
        made[part] = judged(model, pairs(case, part), case.target, **how)
    return made


def speed(model: Translator, texts: list[str]) -> dict[str, float]:
    """Sentences per second, and milliseconds for one sentence alone; medians over some repetitions."""
    made: dict[str, float] = {}
    ways = {"greedy": {"beam": 1}, "beam 5": {"beam": 5}, "greedy, shortlist": {"beam": 1, "fast": True}}
    for name, how in ways.items() if model.shortlist is not None else [*ways.items()][:2]:
        model.translate(texts[:64], **how)
        took, alone = [], []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            model.translate(texts, **how)
            took.append(time.perf_counter() - begun)
        for text in texts[:200]:
            begun = time.perf_counter()
            model.translate(text, **how)
            alone.append(time.perf_counter() - begun)
        made |= {f"{name}, sentences per second": len(texts) / float(np.median(took)),
                 f"{name}, one sentence ms": 1000 * float(np.median(alone))}  # fmt: skip
    return made


@app.default
def main(
    *,
    only: str = "",
    seeds: int = SEEDS,
    holdout: bool = False,
    jobs: int = 1,
    models: Path | None = None,
    out: Path | None = None,
) -> None:
    """Train, translate, score. A run that was stopped goes on where it was.

    Args:
        only: a regular expression; only the directions whose names (en-de) it finds run.
        seeds: models per direction at most, each with its own seed.
        holdout: score `val` and leave the test parts closed.
        jobs: models that are trained at once, each on its share of the cores.
        models: folder of the models; out/translate-COMMIT if all is committed. What lies there is not trained again.
        out: folder of the JSON; benchmarks/results for a full run on the test parts, else out/.
    """
    cases = [c for c in CASES if re.search(only, c.name)]
    papers = begin("translate", scores_test=not holdout) | {"partial": holdout or seeds < SEEDS or len(cases) < len(CASES)}
    parts = ("val",) if holdout else TESTS
    with TemporaryDirectory() as scratch:
        home = models or (Path(scratch) if papers["dirty"] else ROOT / "out" / f"translate-{papers['commit']}")
        fit_all(cases, seeds, home, jobs, CONFIG, TRAINING, pairs)
        rows = []
        for case in cases:
            runs = []
            for seed in range(min(seeds, case.seeds)):
                model = Translator.load(at(home, case, seed))
                runs.append(json.loads(at(home, case, seed, "json").read_text())
                            | {"greedy": scored(model, case, parts, beam=1), "beam 5": scored(model, case, parts)})  # fmt: skip
                if not seed:
                    runs[0]["speed"] = speed(model, [p.source for p in pairs(case, parts[0])])
            mean = {part: {k: mean_sd(r["beam 5"][part][k]["value"] for r in runs[:3]) for k in runs[0]["beam 5"][part]
                           if k != "perplexity"} for part in parts}  # fmt: skip
            rows.append({"name": case.name, "config": asdict(CONFIG), "training": trained(TRAINING), "seeds": runs, "mean": mean})
            if len(runs) > 1:
                whole = Translator.load(*(at(home, case, seed) for seed in range(len(runs)))).tune(pairs(case, "val"))
                rows[-1]["ensemble"] = {"models": len(runs), "length penalty": whole.length_penalty} | scored(whole, case, parts)
    made = papers | {"cases": rows}
    if rows:
        console.print(table.console_table("Scores", table.translate_head(made), table.translate_rows(made)))
        console.print(table.console_table("What it costs", table.COST_HEAD, table.cost_rows(made)))
        found = rows[0]["seeds"][0]["beam 5"][parts[0]]
        console.print(*(f"{found[k]['name']} {found[k]['signature']}" for k in table.TRANSLATE_SCORES), sep="\n")
    write(made, "translate" + "-holdout" * holdout, out)


if __name__ == "__main__":
    app()
