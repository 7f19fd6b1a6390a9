"""Trained from scratch on CMU AN4, scored on its 130 test utterances. `python -m benchmarks.speech [--only PATTERN] [--holdout]`.

The first 100 training utterances are held out: settings were chosen by them, and each run takes its best weights, the confidences
and the weight of the n-gram from them. The test part stays closed until everything is committed, and is heard once.
"""

from __future__ import annotations

import json
import os
import re
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from cyclopts import App

from benchmarks.forecasting import begin, console, peak_mib, write
from benchmarks.machine import ROOT, trained
from benchmarks.stats import mean_sd
from longshort.apps.speech import Config, Recognizer, data
from longshort.apps.speech.data import Utterance
from longshort.train import Training

SEEDS, HELD = 3, 100
CHUNK = 0.16  # seconds

app = App(name="benchmarks.speech", help=__doc__)


class Case(NamedTuple):
    """A model and how it is decoded.

    Args:
        name: of the row.
        config: what it is.
        training: how it is trained; the seed is the benchmark's.
        decodings: ways to decode it, by name; without any it only helps others and is not scored.
        start: name of the case whose model of the same seed it starts from.
        aligner: name of the case whose model of the same seed finds the pauses.
    """

    name: str
    config: Config
    training: Training
    decodings: dict[str, dict[str, Any]]
    start: str | None = None
    aligner: str | None = None

    @property
    def needs(self) -> set[str]:
        """Cases that come first."""
        return {v for v in (self.start, self.aligner) if v}


MILD = Config(longest=10.0, seconds=40.0, gain=3.0, tempo=0.0)
WILD = replace(MILD, speeds=(0.8, 0.9, 1.0, 1.1, 1.2), tempo=0.2, warp=0.2, splice=0.3)
STREAM = replace(WILD, hidden=320, layers=4, dropout=0.2, curriculum=0, ngram=3)
LONG = Training(epochs=120, lr=3e-3, warmup=0.02, evaluate=315, patience=0, average=0.998, bf16=True)
NGRAM = {"greedy": {}, "own 3-gram": {"ngram": "own", "beam": 16}}
CASES = [
    Case("aligner", replace(MILD, streaming=False, layers=2, hidden=160, dropout=0.1),
         replace(LONG, epochs=40, average=0.99), {}),
    Case("three layers", replace(STREAM, layers=3, curriculum=15), replace(LONG, epochs=50), {}, aligner="aligner"),
    Case("streaming", STREAM, replace(LONG, lr=2.5e-3), NGRAM, start="three layers", aligner="aligner"),
    Case("offline", replace(WILD, streaming=False, hidden=224, layers=3, dropout=0.3, splice=0.5, ngram=3), LONG, NGRAM,
         aligner="aligner"),
    Case("streaming transducer", replace(STREAM, model="joint", ngram=0), replace(LONG, epochs=40, lr=1e-3), {"greedy": {}},
         start="streaming", aligner="aligner"),
]  # fmt: skip


def folder() -> Path:
    """AN4.

    Raises:
        SystemExit: it is not there.
    """
    path = Path(os.environ.get("LONGSHORT_DATA", "../shared/data")) / "an4"
    if not (path / "train.jsonl").exists():
        raise SystemExit(f"{path} holds no train.jsonl: set LONGSHORT_DATA to the folder of the benchmark's data.")
    return path


def speed(model: Recognizer, utterances: list[Utterance]) -> dict[str, float]:
    """Streaming on one core: real-time factor, features included, and milliseconds per chunk of 160 ms."""
    from longshort.apps.speech import audio

    threads, took, seconds = torch.get_num_threads(), [], 0.0
    torch.set_num_threads(1)
    try:
        for u in utterances:
            x, stream = audio.read(u.audio), model.stream()
            n = int(CHUNK * 16_000)
            for at in range(0, len(x), n):
                begun = time.perf_counter()
                stream.accept(x[at : at + n])
                took.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            stream.finish()
            took[-1] += time.perf_counter() - begun
            seconds += len(x) / 16_000
    finally:
        torch.set_num_threads(threads)
    chunks = 1000 * np.array(took)
    return {"real-time factor": sum(took) / seconds, "chunk ms median": float(np.median(chunks)),
            "chunk ms 95 %": float(np.quantile(chunks, 0.95))}  # fmt: skip


def fit(case: Case, seed: int, train: list[Utterance], valid: list[Utterance], home: Path, threads: int) -> dict[str, Any]:
    """Train one model, in a process of its own, and write it to its file; what that took."""
    torch.set_num_threads(threads)
    begun = time.perf_counter()
    model = Recognizer(config=case.config, training=replace(case.training, seed=seed))
    model.fit(train, valid, **{k: at(home, name, seed) for k in ("start", "aligner") if (name := getattr(case, k))},
              checkpoint=at(home, case.name, seed, "resume"), resume=True)  # fmt: skip
    took = {"seed": seed, "fit seconds": time.perf_counter() - begun, "threads": threads, "peak MiB": peak_mib(),
            "parameters": sum(p.numel() for p in model.fitted.parameters()),
            "held out": {k: v for s in model.scores for k, v in s.metrics.items()}}  # fmt: skip
    model.save(at(home, case.name, seed))
    at(home, case.name, seed, "json").write_text(json.dumps(took))
    at(home, case.name, seed, "resume").unlink()
    return took


def at(home: Path, name: str, seed: int, kind: str = "model") -> Path:
    """Where a model lies, what is known of it (json), and the state of its training (resume)."""
    return home / f"{name.replace(' ', '-')}-{seed}{'.json' if kind == 'json' else f'.{kind}.safetensors'}"


def fit_all(cases: list[Case], seeds: int, train: list[Utterance], home: Path, jobs: int) -> None:
    """Train all models that are not there yet, `jobs` at a time, each after those that it needs."""
    home.mkdir(parents=True, exist_ok=True)
    todo = [(c, seed) for seed in range(seeds) for c in cases if not at(home, c.name, seed, "json").exists()]
    running: dict[Future, tuple[str, int]] = {}
    threads = max((os.cpu_count() or 1) // jobs, 1)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        while todo or running:
            waiting = {(c.name, seed) for c, seed in todo} | set(running.values())
            for case, seed in [(c, seed) for c, seed in todo if not any((n, seed) in waiting for n in c.needs)]:
                if len(running) < jobs:
                    todo.remove((case, seed))
                    running[pool.submit(fit, case, seed, train[HELD:], train[:HELD], home, threads)] = case.name, seed
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name, seed = running.pop(done)
                made = done.result()
                held = "  ".join(f"{k} {v:.1f}" for k, v in made["held out"].items())
                console.print(f"{name}, seed {seed}: {made['fit seconds']:.0f} s; held out: {held}")


def scored(case: Case, seed: int, home: Path, truth: list[Utterance]) -> dict[str, Any]:
    """A trained model judged."""
    model, made = Recognizer.load(at(home, case.name, seed)), json.loads(at(home, case.name, seed, "json").read_text())
    scores = {}
    for name, how in case.decodings.items():
        evaluation = model.evaluate(truth, **how)
        scores[name] = evaluation.scores() | {
            "errors": int(evaluation.words.errors.sum()),
            "words": int(evaluation.words.tokens.sum()),
        }
        console.print(f"{case.name}, seed {seed}, {name}: WER {scores[name]['WER']:.2f}  CER {scores[name]['CER']:.2f}")
    return made | {"scores": scores, "speed": speed(model, truth[:40]) if case.config.streaming else None}


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
    """Train, recognise, score. A run that was stopped goes on where it was.

    Args:
        only: a regular expression; only the cases whose names it finds run, and those they need.
        seeds: models per case, each with its own seed.
        holdout: score the held-out training utterances and leave the test part closed.
        jobs: models that are trained at once, each on its share of the cores.
        models: folder of the models; out/speech-COMMIT if all is committed. What lies there is not trained again.
        out: folder of the JSON; benchmarks/results for a full run on the test part, else out/.
    """
    cases = [c for c in CASES if re.search(only, c.name)]
    for _ in CASES:
        cases = [c for c in CASES if c in cases or any(c.name in other.needs for other in cases)]
    path = folder()
    papers = begin("speech", scores_test=not holdout) | {"partial": holdout or seeds < SEEDS or len(cases) < len(CASES)}
    train = data.read(path / "train.jsonl")
    with TemporaryDirectory() as scratch:
        home = models or (Path(scratch) if papers["dirty"] else ROOT / "out" / f"speech-{papers['commit']}")
        fit_all(cases, seeds, train, home, jobs)
        truth = train[:HELD] if holdout else data.read(path / "test.jsonl")
        results = {c.name: [scored(c, seed, home, truth) for seed in range(seeds)] for c in cases}
    rows = []
    for case in cases:
        runs = results[case.name]
        rows.append({"name": case.name, "config": asdict(case.config), "training": trained(case.training), "start": case.start,
                     "aligner": case.aligner, "parameters": runs[0]["parameters"], "seeds": runs,
                     "mean": {name: {k: mean_sd(r["scores"][name][k] for r in runs) for k in ("WER", "CER")}
                              for name in case.decodings}})  # fmt: skip
    split = f"first {HELD} training utterances (held out)" if holdout else "test part"
    write(papers | {"split": split, "utterances": len(truth), "cases": rows}, "speech" + "-holdout" * holdout, out)


if __name__ == "__main__":
    app()
