"""German and English of Tatoeba: 170,000 pairs of short sentences on anything. `python -m benchmarks.tatoeba [--holdout]`.

Many sentences have several translations, so the parts are split by groups that hang together (`data.split`): no sentence that is
trained on, and no other translation of it, is in `val` or in the test part. There each source stands once, with its first
translation. The recipe is Multi30k's without R-Drop, for there are six times as many pairs; nothing was tried here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cyclopts import App

from benchmarks import table, translate
from benchmarks.forecasting import begin, console, write
from benchmarks.machine import ROOT, trained
from benchmarks.translate import Case, at, judged, speed, there
from longshort.apps.translate import Translator, data
from longshort.apps.translate.data import Pair

CASES = [Case("de", "en", 1), Case("en", "de", 1)]
CONFIG = replace(translate.CONFIG, rdrop=0.0)
TRAINING = replace(translate.TRAINING, epochs=5, evaluate=1500)
SIZES = {"val": 1000, "test": 2000}  # pairs at most

app = App(name="benchmarks.tatoeba", help=__doc__)


def pairs(case: Case, split: str) -> list[Pair]:
    """The pairs of a split: train, val or test.

    Raises:
        SystemExit: the data is not there.
    """
    english_german, places = _split()
    made = [english_german[k] for k in places[["train", *SIZES].index(split)]]
    if case.source == "de":
        made = [p._replace(source=p.target, target=p.source) for p in made]
    return made if split == "train" else list({p.source: p for p in reversed(made)}.values())[::-1]


@cache
def _split() -> tuple[list[Pair], list[Any]]:
    read = data.read(there("tatoeba/deu-eng.tsv.gz"))
    return read, data.split(read, [*SIZES.values()])


@app.default
def main(*, holdout: bool = False, jobs: int = 1, models: Path | None = None, out: Path | None = None) -> None:
    """Train, translate, score. A run that was stopped goes on where it was.

    Args:
        holdout: score `val` and leave the test part closed.
        jobs: models that are trained at once, each on its share of the cores.
        models: folder of the models; out/tatoeba-COMMIT if all is committed. What lies there is not trained again.
        out: folder of the JSON; benchmarks/results for a run on the test part, else out/.
    """
    papers = begin("tatoeba", scores_test=not holdout) | {"partial": holdout}
    part = "val" if holdout else "test"
    with TemporaryDirectory() as scratch:
        home = models or (Path(scratch) if papers["dirty"] else ROOT / "out" / f"tatoeba-{papers['commit']}")
        translate.fit_all(CASES, 1, home, jobs, CONFIG, TRAINING, pairs)
        rows = []
        for case in CASES:
            model, truth = Translator.load(at(home, case, 0)), pairs(case, part)
            row = {"name": case.name, "part": part, "pairs": {k: len(pairs(case, k)) for k in ("train", *SIZES)},
                   "config": asdict(CONFIG), "training": trained(TRAINING)}  # fmt: skip
            row |= json.loads(at(home, case, 0, "json").read_text())
            for way, how in (("greedy", {"beam": 1}), ("beam 5", {})):
                row[way] = judged(model, truth, **how)
            rows.append(row | {"speed": speed(model, [p.source for p in truth])})
    made = papers | {"cases": rows}
    console.print(table.console_table("Scores", table.TATOEBA_HEAD, table.tatoeba_rows(made)))
    console.print(table.console_table("What it costs", table.COST_HEAD, table.cost_rows(made)))
    console.print(*(f"{s['name']} {s['signature']}" for s in (rows[0]["beam 5"][k] for k in ("BLEU", "chrF2"))), sep="\n")
    write(made, "tatoeba" + "-holdout" * holdout, out)


if __name__ == "__main__":
    app()
