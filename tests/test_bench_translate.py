"""The benchmark of translation on a toy language: it closes its test parts, and its JSON holds what it prints and the README shows."""

import gzip
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from benchmarks import forecasting, joey, table, tatoeba, translate

from longshort.apps.translate import Config, data, metrics
from longshort.train import Training
from translate_grammar import grammar, number

TINY = Config(
    pieces=120, embed=16, hidden=16, decode=16, encoder_layers=1, decoder_layers=1, heads=1, tokens=300, longest=60, shortlist=0
)
BRIEF = Training(epochs=2, evaluate=4, patience=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder like that of the benchmark's data."""
    made = tmp_path_factory.mktemp("data")
    (made / "multi30k").mkdir()
    rng = np.random.default_rng(0)
    for split, n in (("train", 60), ("val", 6), *((part, 8) for part in translate.TESTS)):
        sides = zip(*grammar(n, rng, number), strict=True)
        for language, texts in zip(("en", "de"), sides, strict=True):
            (made / "multi30k" / f"{split}.{language}.gz").write_bytes(gzip.compress("".join(t + "\n" for t in texts).encode()))
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where trained models lie, so that each is trained once for all tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _small(home, monkeypatch):
    monkeypatch.setenv("LONGSHORT_DATA", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(translate, "CASES", [translate.Case("en", "de", 2), translate.Case("de", "en", 1)])
    for module in (translate, joey):
        monkeypatch.setattr(module, "CONFIG", TINY)
        monkeypatch.setattr(module, "TRAINING", BRIEF)
    monkeypatch.setattr(translate, "SEEDS", 2)
    monkeypatch.setattr(translate, "REPEATS", 1)
    monkeypatch.setattr(translate.os, "cpu_count", lambda: 1)  # threads of a training
    monkeypatch.setattr(metrics, "scores", partial(metrics.scores, draws=20))  # of the bootstrap


def opened(monkeypatch):
    """The files that are read from now on, by name."""
    names, read = set(), data.read
    monkeypatch.setattr(data, "read", lambda *of: names.update(Path(p).name for p in of if not isinstance(p, list)) or read(*of))
    return names


def test_the_held_out_run_never_opens_the_test_parts(models, tmp_path, monkeypatch):
    names = opened(monkeypatch)
    translate.main(holdout=True, seeds=1, only="en-de", out=tmp_path, models=models)
    assert names == {"val.en.gz", "val.de.gz"}
    made = json.loads(next(tmp_path.glob("translate-holdout-*.json")).read_text())
    assert made["partial"]
    assert [(c["name"], len(c["seeds"])) for c in made["cases"]] == [("en-de", 1)]
    assert list(made["cases"][0]["mean"]) == ["val"]


def test_a_full_run_scores_every_seed_and_the_readme_shows_it(models, tmp_path, monkeypatch):
    real = forecasting.papers
    monkeypatch.setattr(
        forecasting, "papers", lambda *a, **k: real(*a, **k) | {"dirty": False, "date": "2026-01-01", "commit": "abc"}
    )
    translate.main(seeds=2, out=tmp_path, models=models)
    made = json.loads((tmp_path / "translate-2026-01-01-abc.json").read_text())
    assert not made["partial"]
    assert [(c["name"], len(c["seeds"])) for c in made["cases"]] == [("en-de", 2), ("de-en", 1)]
    for case in made["cases"]:
        for part in translate.TESTS:
            for name, mean in case["mean"][part].items():
                values = [r["beam 5"][part][name]["value"] for r in case["seeds"]]
                assert mean["mean"] == pytest.approx(np.mean(values))
        assert all(r["threads"] > 0 and r["tokens per second"] > 0 for r in case["seeds"])
    assert made["cases"][0]["ensemble"]["models"] == 2
    assert "ensemble" not in made["cases"][1]
    rows = table.translate_rows(made)
    head = table.translate_head(made)
    assert head[1:3] == ["Multi30k BLEU 2016", "Multi30k BLEU 2017"]
    ours = [r[0] for r in rows if r[0].startswith("**")]
    assert ours == [
        "**en-de**, greedy",
        "**en-de**, beam 5",
        "**en-de**, ensemble of 2, beam 5",
        "**de-en**, greedy",
        "**de-en**, beam 5",
    ]
    assert {len(r) for r in rows} == {len(head)}
    assert rows[1][1].startswith(f"{made['cases'][0]['mean'][translate.TESTS[0]]['Multi30k BLEU']['mean']:.2f}")
    assert {len(r) for r in table.cost_rows(made)} == {len(table.COST_HEAD)}
    text = table.translate_markdown(tmp_path)
    assert "tok:moses-de" in text
    assert "JoeyNMT" not in text
    assert table.translate_markdown(tmp_path / "nothing") == "Not measured yet: `make bench-translate`."


def test_tatoeba_is_split_by_groups_and_each_source_is_scored_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    lines = ["\t".join(pair) for pair in dict.fromkeys(grammar(150, rng, number))]
    lines += [
        f"{line.split(chr(9))[0]}\tandere Zahl, {k} oder so" for k, line in enumerate(lines[::3])
    ]  # many have two translations
    (tmp_path / "tatoeba").mkdir()
    (tmp_path / "tatoeba/deu-eng.tsv.gz").write_bytes(gzip.compress("".join(t + "\n" for t in lines).encode()))
    real = forecasting.papers
    monkeypatch.setattr(
        forecasting, "papers", lambda *a, **k: real(*a, **k) | {"dirty": False, "date": "2026-01-01", "commit": "abc"}
    )
    monkeypatch.setenv("LONGSHORT_DATA", str(tmp_path))
    monkeypatch.setattr(tatoeba, "SIZES", {"val": 8, "test": 12})
    monkeypatch.setattr(tatoeba, "CONFIG", TINY)
    monkeypatch.setattr(tatoeba, "TRAINING", BRIEF)
    monkeypatch.setattr(tatoeba, "CASES", [case := translate.Case("en", "de", 1)])
    tatoeba._split.cache_clear()
    parts = {part: tatoeba.pairs(case, part) for part in ("train", "val", "test")}
    for side in (0, 1):
        for other in ("val", "test"):
            assert not {p[side] for p in parts["train"]} & {p[side] for p in parts[other]}
    sources = [p.source for p in parts["test"]]
    assert len(set(sources)) == len(sources) > 1
    back = tatoeba.pairs(translate.Case("de", "en", 1), "train")
    assert [(p.target, p.source) for p in back] == [(p.source, p.target) for p in parts["train"]]
    monkeypatch.setattr(translate, "fit_all", lambda cases, seeds, home, jobs, *how: translate.fit(cases[0], 0, home, 1, *how))
    tatoeba.main(out=tmp_path, models=tmp_path)
    made = json.loads((tmp_path / "tatoeba-2026-01-01-abc.json").read_text())
    assert not made["partial"]
    (one,) = made["cases"]
    assert one["pairs"] == {part: len(found) for part, found in parts.items()}
    text = "\n".join(table._grid(table.TATOEBA_HEAD, table.tatoeba_rows(made)))
    assert f"| **en-de**, beam 5 | {len(parts['test'])} | {one['beam 5']['BLEU']['value']:.1f} | " in text
    assert {len(r) for r in table.cost_rows(made)} == {len(table.COST_HEAD)}


def test_the_race_runs_on_the_same_batches_and_the_readme_shows_it(tmp_path, monkeypatch):
    arrays, tokens, vocabulary = joey.drawn(2)
    assert sorted(arrays) == ["n0", "n1", "x0", "x1", "y0", "y1"]
    assert tokens == sum(int((arrays[k][:, 1:] != 0).sum()) for k in ("y0", "y1"))
    assert max(v.max() for v in arrays.values()) < vocabulary
    monkeypatch.setattr(joey, "THEIRS", Path(sys.executable))
    joey.main(rounds=2, batches=2, only="ours", out=tmp_path)
    made = json.loads(next(tmp_path.glob("joey-*.json")).read_text())
    assert made["partial"]
    assert list(made["contestants"]) == ["ours", "ours, float32"]
    assert made["target tokens"] == tokens
    for row in made["contestants"].values():
        assert row["tokens per second"]["max"] == pytest.approx(tokens / row["seconds"]["min"])
        assert len(set(row["loss"])) == 1  # from the same weights each time
    full = made | {"partial": False, "contestants": made["contestants"] | {"JoeyNMT": made["contestants"]["ours"]}}
    (tmp_path / "joey-2026-01-01-abc.json").write_text(
        json.dumps(full | {"ratios": {"JoeyNMT": made["ratios"]["ours, float32"]}})
    )
    text = table.translate_markdown(tmp_path)
    assert "Training beside JoeyNMT" in text
    assert "| **ours** | " in text


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(joey, "THEIRS", joey.ROOT / "out/nobody/bin/python")
    with pytest.raises(SystemExit, match=r"out/nobody/bin/python is missing: `make bench-joey` installs"):
        joey.main()
    monkeypatch.setenv("LONGSHORT_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"train\.en\.gz is missing: set LONGSHORT_DATA"):
        joey.drawn(2)
