"""The benchmark of speech on digits that espeak-ng says: it closes its test part, and its JSON holds what it prints."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import forecasting, speech, table

from longshort.apps.speech import Config, data
from longshort.train import Training
from spoken import corpus

TINY = Config(hidden=16, layers=1, channels=4, longest=10.0, seconds=30.0, ngram=2)
BRIEF = Training(steps=4, evaluate=4, patience=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder like that of the benchmark's data."""
    made = tmp_path_factory.mktemp("data")
    corpus(made / "an4", {"train": 30, "test": 6})
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Where trained models lie, so that each is trained once for all tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def _small(home, monkeypatch):
    monkeypatch.setenv("LONGSHORT_DATA", str(home))
    monkeypatch.setattr(speech, "HELD", 8)
    monkeypatch.setattr(speech, "SEEDS", 2)
    monkeypatch.setattr(speech, "CASES", [
        speech.Case("aligner", Config(**{**vars(TINY), "streaming": False}), BRIEF, {}),
        speech.Case("streaming", TINY, BRIEF, {"greedy": {}, "own 3-gram": {"ngram": "own"}}, aligner="aligner"),
        speech.Case("transducer", Config(**{**vars(TINY), "model": "joint"}), BRIEF, {"greedy": {}}, start="streaming"),
    ])  # fmt: skip


def opened(monkeypatch):
    """The manifests that are read from now on, by name."""
    names, read = [], data.read
    monkeypatch.setattr(data, "read", lambda path: names.append(Path(path).name) or read(path))
    return names


@pytest.mark.filterwarnings("ignore:the network (writes nothing|has hardly learned)")
def test_the_held_out_run_never_opens_the_test_part(home, models, tmp_path, monkeypatch):
    names = opened(monkeypatch)
    speech.main(holdout=True, seeds=1, only="transducer", out=tmp_path, models=models)
    assert names == ["train.jsonl"]
    made = json.loads(next(tmp_path.glob("speech-holdout-*.json")).read_text())
    assert [c["name"] for c in made["cases"]] == ["aligner", "streaming", "transducer"], "a case brings those that it needs"
    assert made["partial"]
    assert made["utterances"] == 8


@pytest.mark.filterwarnings("ignore:the network (writes nothing|has hardly learned)")
def test_a_full_run_scores_every_seed_and_way(home, models, tmp_path, monkeypatch):
    monkeypatch.setattr(forecasting, "papers", lambda *_, **__: {"dirty": False, "date": "2026-01-01", "commit": "abc"})
    speech.main(seeds=2, out=tmp_path, models=models, jobs=2)
    made = json.loads((tmp_path / "speech-2026-01-01-abc.json").read_text())
    assert not made["partial"]
    assert made["split"] == "test part"
    assert [c["name"] for c in made["cases"]] == ["aligner", "streaming", "transducer"]
    words = sum(len(u.text.split()) for u in data.read(home / "an4" / "test.jsonl"))
    for case in made["cases"]:
        assert [r["seed"] for r in case["seeds"]] == [0, 1]
        for name in case["mean"]:
            rates = [r["scores"][name]["WER"] for r in case["seeds"]]
            assert case["mean"][name]["WER"]["mean"] == pytest.approx(np.mean(rates), abs=1e-3)
            assert {r["scores"][name]["words"] for r in case["seeds"]} == {words}
        assert (case["seeds"][0]["speed"] is None) == (case["name"] == "aligner")
    rows = table.speech_rows(made)
    assert [r[0] for r in rows[:3]] == ["**streaming**, greedy", "**streaming**, own 3-gram", "**transducer**, greedy"]
    assert {len(r) for r in rows} == {len(table.SPEECH_HEAD)}
    assert rows[0][1].startswith(f"{made['cases'][1]['mean']['greedy']['WER']['mean']:.2f}")


def test_a_run_that_was_stopped_trains_what_is_missing_only(home, models, tmp_path, capsys):
    (models / "aligner-0.json").unlink()
    for trained in (1, 0):
        speech.main(holdout=True, seeds=1, only="aligner", out=tmp_path, models=models)
        assert capsys.readouterr().out.count("held out:") == trained
    assert not list(models.glob("*.resume.*"))


def test_the_test_part_stays_closed_until_all_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(forecasting, "papers", lambda *_, **__: {"dirty": True, "date": "2026-01-01", "commit": "abc"})
    names = opened(monkeypatch)
    with pytest.raises(SystemExit, match="the test part stays closed while"):
        speech.main(out=tmp_path)
    assert names == []


def test_data_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGSHORT_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"holds no train\.jsonl: set LONGSHORT_DATA"):
        speech.main(out=tmp_path)
