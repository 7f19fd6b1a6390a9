"""The verbs of forecasting on the command line beyond train, eval and predict in their plain form; see test_cli.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from longshort import artefact, cli
from longshort.apps.forecast import Forecaster
from longshort.train import resume_path

SHORT = ["--horizon", "4", "--hidden", "4", "--batch", "8", "--evaluate", "5", "--device", "cpu", "--steps", "10"]


def table(steps: int) -> pd.DataFrame:
    t, rng = np.arange(steps), np.random.default_rng(0)
    parts = []
    for k in range(3):
        price = rng.random(60)[:steps]
        y = 20 + k + 3 * np.sin(2 * np.pi * t / 12 + k) - 4 * price + 0.1 * rng.normal(size=60)[:steps]
        parts.append(pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2020-01-01", periods=steps, freq="MS"), "y": y,
                                   "price": price, "visits": np.round(y * 3)}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables, a plain model and one with covariates of every kind."""
    folder, before = tmp_path_factory.mktemp("cli"), torch.get_num_threads()
    torch.set_num_threads(1)
    all_of_it = table(60)
    known = all_of_it[all_of_it.groupby("unique_id").cumcount() < 56]
    after = all_of_it[all_of_it.groupby("unique_id").cumcount() >= 56]
    known[["unique_id", "ds", "y"]].to_csv(folder / "data.csv", index=False)
    all_of_it[["unique_id", "ds", "y"]].to_csv(folder / "newer.csv", index=False)
    known.to_csv(folder / "rich.csv", index=False)
    after[["unique_id", "ds", "price"]].to_csv(folder / "after.csv", index=False)
    pd.DataFrame({"unique_id": ["s0", "s1", "s2"], "region": ["n", "s", "n"], "size": [1.0, 2.0, 3.0]}).to_csv(
        folder / "shops.csv", index=False)  # fmt: skip
    rich = ["--data", folder / "rich.csv", "--static", "region", "size", "--static-data", folder / "shops.csv", "--future", "price",
            "--past", "visits", "--calendar"]  # fmt: skip
    for words in (["--data", folder / "data.csv", "--out", folder / "m.safetensors"], [*rich, "--out", folder / "f.safetensors"]):
        assert cli.run(["train", "forecast", *map(str, words), "--quiet", *SHORT]) == 0
    (folder / "noise.csv").write_bytes(bytes(range(128, 228)))
    (folder / "noise.parquet").write_bytes(bytes(100))
    torch.set_num_threads(before)
    return folder


def run(capfd: pytest.CaptureFixture, *words: str | Path) -> tuple[int, str, str]:
    code = cli.run([str(w) for w in words])
    return code, *capfd.readouterr()


# flags


@pytest.mark.parametrize("form", [["--levels", "80", "95"], ["--levels", "80", "--levels", "95"], ["--levels=80", "--levels=95"]])
def test_several_values_after_one_flag_or_one_each(home: Path, tmp_path: Path, form: list[str]) -> None:
    words = [
        "--data",
        home / "data.csv",
        "--out",
        tmp_path / "m.safetensors",
        *form,
        "--dilations",
        "1",
        "2",
        "4",
        "--freq",
        "MS",
    ]
    assert cli.run(["train", "forecast", *map(str, words), "--quiet", *SHORT]) == 0
    config = artefact.read(tmp_path / "m.safetensors").config
    assert (config.levels, config.dilations, config.freq) == ((80.0, 95.0), (1, 2, 4), "MS")


def test_covariates_reach_the_model_and_move_its_forecast(home: Path, capfd: pytest.CaptureFixture) -> None:
    config = artefact.read(home / "f.safetensors").config
    assert (config.past, config.future, config.static, config.calendar) == (("visits",), ("price",), ("region", "size"), True)
    words = ["predict", home / "f.safetensors", "--data", home / "rich.csv", "--static-data", home / "shops.csv"]
    code, out, err = run(capfd, *words, "--future-data", home / "after.csv")
    assert (code, err) == (0, "")
    made = Forecaster.load(home / "f.safetensors").predict(
        home / "rich.csv", future=home / "after.csv", static=home / "shops.csv"
    )
    assert out == made.to_csv(index=False)
    dear = pd.read_csv(home / "after.csv").assign(price=5.0)
    dear.to_csv(home / "dear.csv", index=False)
    assert run(capfd, *words, "--future-data", home / "dear.csv")[1] != out
    assert run(capfd, "eval", home / "f.safetensors", "--data", home / "rich.csv", "--static-data", home / "shops.csv")[0] == 0


# an ensemble


def test_an_ensemble_leaves_one_file_and_one_log_per_network(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    model, log = tmp_path / "m.safetensors", tmp_path / "log.jsonl"
    words = ["train", "forecast", "--data", home / "data.csv", "--out", model, *SHORT, "--ensemble", "2"]
    code, out, _ = run(capfd, *words, "--log", log)
    assert code == 0
    assert out.splitlines()[-1] == f"wrote {model} and {tmp_path}/log.0.jsonl and {tmp_path}/log.1.jsonl"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.0.jsonl", "log.1.jsonl", "m.safetensors"]
    again = run(capfd, *words, "--resume")
    assert again[2].splitlines()[0] == f"there is no {tmp_path}/m.resume.0.safetensors to go on with: starting at the beginning"
    assert len(Forecaster.load(model).model.members) == 2
    assert not resume_path(model).exists()


# predict


def test_paths_are_those_of_python_whole_courses_of_every_series(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    code, out, err = run(capfd, "predict", home / "m.safetensors", "--data", home / "data.csv", "--paths", "5")
    assert (code, err) == (0, "")
    assert out == Forecaster.load(home / "m.safetensors").paths(home / "data.csv", 5).to_csv(index=False)
    assert len(out.splitlines()) == 1 + 3 * 5 * 4
    path = tmp_path / "p.parquet"
    assert run(capfd, "predict", home / "m.safetensors", "--data", home / "data.csv", "--paths", "5", "--out", path)[0] == 0
    assert pd.read_parquet(path).columns.to_list() == ["unique_id", "ds", "sample", "LSTM"]


@pytest.mark.parametrize("paths", [None, 3])
def test_pieces_together_are_the_whole(home: Path, paths: int | None) -> None:
    forecaster = Forecaster.load(home / "m.safetensors")
    names = [f"s{k:04}" for k in range(1100)]
    t = np.arange(30)
    many = pd.DataFrame({"unique_id": np.repeat(names, 30), "ds": np.tile(pd.date_range("2020-01-01", periods=30, freq="MS"), 1100),
                         "y": np.concatenate([10 + k % 7 + np.sin(t + k) for k in range(1100)])})  # fmt: skip
    whole = forecaster.predict(many) if paths is None else forecaster.paths(many, paths)
    pieces = list(forecaster.pieces(many, paths, size=300))
    assert [p.unique_id.nunique() for p in pieces] == [300, 300, 300, 200]
    pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), whole)


def test_a_table_of_many_pieces_is_one_table(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours too: the first piece ends at midnight, where pandas by itself leaves the time of day out."""
    from longshort.apps.forecast import cli as room

    hours = pd.date_range("2024-01-01", periods=6, freq="h")
    parts = [pd.DataFrame({"unique_id": ["a"], "ds": hours[:1], "LSTM": [1.5]}),
             pd.DataFrame({"unique_id": ["b"] * 5, "ds": hours[1:], "LSTM": np.arange(5.0)})]  # fmt: skip
    for name in ("x.csv", "x.parquet"):
        room._write(tmp_path / name, iter(parts), "h")
    assert (tmp_path / "x.csv").read_text().splitlines()[:3] == [
        "unique_id,ds,LSTM",
        "a,2024-01-01 00:00:00,1.5",
        "b,2024-01-01 01:00:00,0.0",
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), pd.concat(parts, ignore_index=True))

    quick = pd.date_range("2024-01-01", periods=4, freq="100ms")
    room._write(tmp_path / "x.csv", iter([pd.DataFrame({"unique_id": "a", "ds": quick, "LSTM": range(4)})]), "100ms")
    assert pd.read_csv(tmp_path / "x.csv", parse_dates=["ds"]).ds.tolist() == quick.tolist()
    slow = pd.date_range("2024-01-01 00:00:00.25", periods=4, freq="s")
    room._write(tmp_path / "x.csv", iter([pd.DataFrame({"unique_id": "a", "ds": slow, "LSTM": range(4)})]), "s")
    assert pd.read_csv(tmp_path / "x.csv", parse_dates=["ds"]).ds.tolist() == slow.tolist()
    room._write(tmp_path / "x.csv", iter(parts), "h")

    def broken() -> object:
        yield parts[0]
        raise ValueError("no more")

    for name in ("y.csv", "y.parquet", "x.csv"):
        with pytest.raises(ValueError, match="no more"):
            room._write(tmp_path / name, broken(), "h")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv", "x.parquet"], "half a table is no table"
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 7


# update


def test_update_is_that_of_python_and_remembers_how_fit_trained(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    old, new = home / "m.safetensors", tmp_path / "new.safetensors"
    before = old.read_bytes()
    code, out, err = run(capfd, "update", old, "--data", home / "newer.csv", "--out", new)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {new}")
    assert "step 2/2 " in err, "a fifth of ten steps"
    assert old.read_bytes() == before
    made = Forecaster.load(old).update(home / "newer.csv")
    pd.testing.assert_frame_equal(Forecaster.load(new).predict(home / "newer.csv"), made.predict())
    assert any((a != b).any() for a, b in zip(artefact.read(old).tensors.values(), artefact.read(new).tensors.values(), strict=True)
               if a.shape == b.shape)  # fmt: skip
    assert "step 7/7 " in run(capfd, "update", old, "--data", home / "newer.csv", "--out", new, "--steps", "7", "--lr", "0.01")[2]


def test_columns_of_other_names(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    names = {"unique_id": "store", "ds": "date", "y": "sales"}
    table = pd.read_csv(home / "data.csv")[[*names]].rename(columns=names)
    table.to_csv(tmp_path / "d.csv", index=False)
    named = ["--id-col", "store", "--time-col", "date", "--target-col", "sales"]
    code, _, err = run(capfd, "train", "forecast", "--data", tmp_path / "d.csv", "--horizon", "4")
    assert code == 2
    assert "name them in training: id_col=, time_col=, target_col= (--id-col, --time-col, --target-col)" in err
    base = [
        "--data",
        tmp_path / "d.csv",
        "--horizon",
        "4",
        "--hidden",
        "4",
        "--batch",
        "8",
        "--steps",
        "5",
        "--evaluate",
        "5",
        *named,
    ]
    assert run(capfd, "train", "forecast", *base, "--out", tmp_path / "m.safetensors")[0] == 0
    code, out, _ = run(capfd, "predict", tmp_path / "m.safetensors", "--data", tmp_path / "d.csv")
    assert (code, out.split(",")[:2]) == (0, ["store", "date"])
    assert run(capfd, "crossval", "forecast", *base, "--windows", "2")[0] == 0


# anomalies


def test_anomalies_find_the_spike_in_the_newest_value(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = pd.read_csv(home / "newer.csv")
    last = data.index[data.unique_id == "s1"][-1]
    data.loc[last, "y"] = 500.0
    data.to_csv(tmp_path / "d.csv", index=False)
    words = ["anomalies", home / "m.safetensors", "--data", tmp_path / "d.csv"]
    code, out, err = run(capfd, *words, "--out", tmp_path / "a.csv")
    made = pd.read_csv(tmp_path / "a.csv")
    assert (code, err) == (0, "")
    assert out == f"wrote {tmp_path / 'a.csv'}: {made.anomaly.sum()} of 12 values are anomalies\n"
    flagged = made[made.anomaly]
    assert (flagged.unique_id + flagged.ds).tolist().count("s1" + data.ds[last]) == 1
    assert made.groupby("unique_id").size().tolist() == [4, 4, 4], "as many values as steps are forecast"
    assert len(run(capfd, *words, "--windows", "10")[1].splitlines()) == 1 + 30


# cross-validation and search


def test_crossval_is_that_of_python(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "cv.csv"
    words = ["crossval", "forecast", "--data", home / "data.csv", *SHORT, "--windows", "2", "--step", "3", "--out", path]
    code, out, _ = run(capfd, *words)
    assert code == 0
    assert "2 windows of 4 steps, 3 apart" in out
    assert out.splitlines()[-1] == f"wrote {path}"
    made = pd.read_csv(path)
    assert made.groupby(["unique_id", "cutoff"]).size().tolist() == [4] * 6
    assert "LSTM-lo-80" in made
    assert list(tmp_path.iterdir()) == [path], "no model"


def test_search_writes_the_best_model_and_goes_on_from_its_storage(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    model, trials = tmp_path / "m.safetensors", tmp_path / "trials.csv"
    words = ["search", "forecast", "--data", home / "data.csv", *SHORT, "--space", "hidden=3,5", "lr=0.001:0.1", "dilations=[1],[1,2]",
             "--out", model, "--table", trials, "--storage", tmp_path / "s.log"]  # fmt: skip
    code, out, err = run(capfd, *words, "--trials", "3")
    assert code == 0
    assert [line.split("  ")[0] for line in err.splitlines()[:3]] == ["trial 1/3", "trial 2/3", "trial 3/3"]
    first, made = out.splitlines()[0], pd.read_csv(trials, dtype={"dilations": str})
    best = made.sort_values("MASE").iloc[0]
    assert first.startswith(f"best of 3 trials, MASE {best.MASE:.4g}: --hidden {best.hidden} --lr {best.lr}")
    assert out.splitlines()[-1] == f"wrote {model} and {trials}"
    assert artefact.read(model).config.hidden == best.hidden
    code, _, err = run(capfd, *words, "--trials", "4")
    assert (code, err.splitlines()[0][:9]) == (0, "trial 4/4")
    pd.testing.assert_frame_equal(pd.read_csv(trials, dtype={"dilations": str})[:3], made)


def test_flags_that_say_the_default_stay_as_they_are(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["--dilations", "1", "2", "--lr", "0.001"]
    code, out, _ = run(
        capfd, "search", "forecast", "--data", home / "data.csv", *SHORT, *words, "--out", tmp_path / "m", "--trials", "1"
    )
    assert code == 0
    assert re.search(r"MASE [\d.]+: --dropout [\d.]+\n", out), "only dropout is left to try"


# wrong use

TRAIN = ("train", "forecast", "--data", "HOME/data.csv")
SEARCH = ("search", "forecast", "--data", "HOME/data.csv", *SHORT)
WRONG = {
    (*TRAIN, "--out", "HOME/data.csv"): "data.csv cannot be read and written at the same time.",
    (*TRAIN, "--log", "HOME/data.csv"): "data.csv cannot be read and written at the same time.",
    ("predict", "HOME/m.safetensors", "--data", "HOME/data.csv", "--out", "HOME/data.csv"): "data.csv cannot be read and written",
    ("eval", "HOME/m.safetensors", "--data", "HOME/data.csv", "--out", "HOME/data.csv"): "data.csv cannot be read and written",
    ("anomalies", "HOME/m.safetensors", "--data", "HOME/data.csv", "--out", "HOME/data.csv"): "data.csv cannot be read and written",
    ("update", "HOME/m.safetensors", "--data", "HOME/data.csv", "--out", "HOME/data.csv"): "data.csv cannot be read and written",
    (*TRAIN, "--levels"): "--levels requires at least 1 element",
    (*TRAIN, "--levels", "80", "80"): "levels must be different percentages",
    (*TRAIN, "--model", "lstm"): 'Invalid value "lstm" for --model',
    (*TRAIN, "--freq", "XX"): "freq 'XX' is unknown",
    (*TRAIN, "--freq", "1"): "freq '1' does not fit ds",
    (*TRAIN, "--future", "price", "holiday"): "data lacks the covariates price, holiday",
    (*TRAIN, "--past", "a", "--future", "a"): "a covariate has one role",
    (*TRAIN, "--static", "region", "--static-data", "nowhere.csv"): "data file 'nowhere.csv' does not exist.",
    (*TRAIN, "--static-data", "HOME/shops.csv"): "no static covariates are named",
    ("train", "forecast", "--data", "HOME/rich.csv"): "unknown columns: price, visits",
    ("train", "forecast", "--data", "HOME/noise.csv"): "noise.csv' cannot be read as CSV: ",
    ("train", "forecast", "--data", "HOME/noise.parquet"): "noise.parquet' cannot be read as Parquet: ",
    ("predict", "HOME/m.safetensors", "--data", "HOME/data.csv", "--paths", "0"): "--paths must be at least 1, got 0.",
    ("predict", "HOME/f.safetensors", "--data", "HOME/rich.csv", "--static-data", "HOME/shops.csv"): "--future-data FILE",
    ("predict", "HOME/f.safetensors", "--data", "HOME/rich.csv", "--future-data", "HOME/after.csv"): "lacks the covariates region, size",
    ("eval", "HOME/m.safetensors", "--data", "HOME/data.csv", "--windows", "0"): "--windows must be at least 1, got 0.",
    ("eval", "HOME/m.safetensors", "--data", "HOME/data.csv", "--baselines", "foo"): "baseline 'foo' is unknown.",
    ("eval", "HOME/m.safetensors", "--data", "HOME/data.csv", "--report", "x.pdf"): "--report must end in .html",
    ("update", "HOME/m.safetensors", "--data", "HOME/data.csv"): "--out requires an argument",
    ("update", "HOME/m.safetensors", "--data", "HOME/data.csv", "--out", "n.safetensors", "--steps", "0"): "steps must be at least 1",
    ("anomalies", "HOME/m.safetensors", "--data", "HOME/data.csv", "--level", "100"): "level must be a percentage between",
    ("anomalies", "HOME/m.safetensors", "--data", "HOME/data.csv", "--windows", "99"): "need at least",
    (*SEARCH, "--space", "hidden"): "space must be NAME=CHOICE",
    (*SEARCH, "--space", "hidden=a:b"): "must be two numbers",
    (*SEARCH, "--space", "hidden=0,8"): "hidden must be at least 1, got 0.",
    (*SEARCH, "--space", "nope=1,2"): "which is a field of neither Config",
    (*SEARCH, "--space", "seed=1,2"): "space must not name seed",
    (*SEARCH, "--trials", "0"): "--trials must be at least 1, got 0.",
    (*SEARCH, "--storage", "HOME/data.csv"): "cannot be read as the storage of a search",
    ("crossval", "forecast", "--data", "HOME/data.csv", "--windows", "99"): "need at least",
    ("crossval", "speech"): 'Unknown command "speech"',
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=lambda w: " ".join(w).replace("HOME/", "").replace(" ".join(SHORT), ""))
def test_wrong_use_is_one_line_and_code_2(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (home / "data.csv").read_bytes()
    code, out, err = run(capfd, *(w.replace("HOME", str(home)) for w in words))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert WRONG[words] in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing was written"
    assert (home / "data.csv").read_bytes() == before


def test_paths_of_a_model_that_held_nothing_out(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    model = tmp_path / "m.safetensors"
    assert run(capfd, *TRAIN[:3], home / "data.csv", "--out", model, "--quiet", *SHORT, "--holdout", "0")[0] == 0
    code, out, err = run(capfd, "predict", model, "--data", home / "data.csv", "--paths", "2")
    assert (code, out) == (2, "")
    assert err.startswith("error: sample paths of this model need held-out windows")


def test_an_application_without_a_verb_says_so(home: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    from longshort.apps.forecast import cli as room

    monkeypatch.delattr(room, "anomalies")
    code, out, err = run(capfd, "anomalies", home / "m.safetensors", "--data", home / "data.csv")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: {home}/m.safetensors is a model of forecast, which has no anomalies; it has predict, eval, inspect, update.\n"
    )


def test_every_verb_of_an_application_takes_what_the_command_line_gives(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    quiet = ["--data", home / "data.csv", "--quiet"]
    for words in (["update", home / "m.safetensors", *quiet, "--out", tmp_path / "u.safetensors"],
                  ["anomalies", home / "m.safetensors", *quiet, "--out", tmp_path / "a.parquet"],
                  ["crossval", "forecast", *quiet, *SHORT, "--windows", "1"],
                  ["search", "forecast", *quiet, *SHORT, "--trials", "1", "--out", tmp_path / "s.safetensors"],
                  ["eval", home / "m.safetensors", *quiet, "--out", tmp_path / "e.json"]):  # fmt: skip
        assert run(capfd, *words) == (0, "", "")
    assert "LSTM" in json.loads((tmp_path / "e.json").read_text())
