"""Trained from scratch on CMU AN4, scored on its 130 test utterances. `python -m benchmarks.speech [--only PATTERN] [--holdout]`.

The first 100 training utterances are held out: settings were chosen by them, and each run takes its best weights, the confidences
and the weight of the n-gram from them. The test part stays closed until everything is committed, and is heard once.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cyclopts import App

from benchmarks.forecasting import begin, console, peak_mib, write
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
        decodings: ways to decode it, by name.
        start: name of the case whose model of the same seed it starts from.
    """

    name: str
    config: Config
    training: Training
    decodings: dict[str, dict[str, Any]]
    start: str | None = None


STREAM = Config(hidden=320, layers=3, longest=10.0, seconds=40.0, gain=3.0, ngram=3)
LONG = Training(epochs=120, lr=3e-3, warmup=0.02, evaluate=315, patience=0, average=0.998)
CASES = [
    Case("streaming", STREAM, LONG, {"greedy": {}, "own 3-gram": {"ngram": "own", "beam": 16}}),
    Case("offline", replace(STREAM, streaming=False, hidden=224), LONG,
         {"greedy": {}, "own 3-gram": {"ngram": "own", "beam": 16}}),
    Case("streaming transducer", replace(STREAM, model="joint", ngram=0, curriculum=0), replace(LONG, epochs=40, lr=1e-3),
         {"greedy": {}}, start="streaming"),
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


def run(case: Case, seed: int, train: list[Utterance], truth: list[Utterance], made: dict[str, Recognizer]) -> dict[str, Any]:
    """Train one model and score it."""
    begun = time.perf_counter()
    model = Recognizer(config=case.config, training=replace(case.training, seed=seed))
    model.fit(train[HELD:], train[:HELD], start=made[case.start] if case.start else None)
    took, made[case.name] = time.perf_counter() - begun, model
    parameters = sum(p.numel() for p in model.fitted.parameters())
    scores = {}
    for name, how in case.decodings.items():
        evaluation = model.evaluate(truth, **how)
        scores[name] = evaluation.scores() | {
            "errors": int(evaluation.words.errors.sum()),
            "words": int(evaluation.words.tokens.sum()),
        }
        console.print(f"{case.name}, seed {seed}, {name}: WER {scores[name]['WER']:.2f}  CER {scores[name]['CER']:.2f}  "
                      f"({took:.0f} s of training, {parameters / 1e6:.2f} M parameters)")  # fmt: skip
    held = {k: v for s in model.scores for k, v in s.metrics.items()}
    return {"seed": seed, "fit seconds": took, "parameters": parameters, "held out": held, "scores": scores,
            "speed": speed(model, truth[:40]) if case.config.streaming else None}  # fmt: skip


@app.default
def main(*, only: str = "", seeds: int = SEEDS, holdout: bool = False, out: Path | None = None) -> None:
    """Train, recognise, score.

    Args:
        only: a regular expression; only the cases whose names it finds run, and those they start from.
        seeds: models per case, each with its own seed.
        holdout: score the held-out training utterances and leave the test part closed.
        out: folder of the JSON; benchmarks/results for a full run on the test part, else out/.
    """
    cases = [c for c in CASES if re.search(only, c.name)]
    needed = {c.start for c in cases} | {c.name for c in cases}
    cases = [c for c in CASES if c.name in needed]
    path = folder()
    papers = begin("speech", scores_test=not holdout) | {"partial": holdout or seeds < SEEDS or len(cases) < len(CASES)}
    train = data.read(path / "train.jsonl")
    truth = train[:HELD] if holdout else data.read(path / "test.jsonl")
    results: dict[str, list[dict[str, Any]]] = {c.name: [] for c in cases}
    for seed in range(seeds):
        made: dict[str, Recognizer] = {}
        for case in cases:
            results[case.name].append(run(case, seed, train, truth, made))
    rows = []
    for case in cases:
        runs = results[case.name]
        rows.append({"name": case.name, "config": asdict(case.config), "training": asdict(case.training), "start": case.start,
                     "parameters": runs[0]["parameters"], "seeds": runs,
                     "mean": {name: {k: mean_sd(r["scores"][name][k] for r in runs) for k in ("WER", "CER")}
                              for name in case.decodings}})  # fmt: skip
    split = f"first {HELD} training utterances (held out)" if holdout else "test part"
    write(
        papers | {"split": split, "utterances": len(truth), "cases": rows, "peak MiB": peak_mib()},
        "speech" + "-holdout" * holdout,
        out,
    )


if __name__ == "__main__":
    app()
