"""The laws of the forecasting benchmarks: scores that prove themselves, test parts that stay closed, baselines from the same origins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from benchmarks import forecast, forecasting, m4, scores, table
from benchmarks.baselines import statistical
from benchmarks.published import LEVEL, M4S
from benchmarks.scores import Judge, factors, held_out, naive2, official, rows, seasonal, stacked, training

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LONGSHORT_DATA") or ROOT / "../shared/data")


def positive(steps, seed=0):
    return np.exp(np.random.default_rng(seed).normal(3, 0.3, steps))


def judged(factor=1.0, m=1, horizon=5):
    past = {f"s{k}": factor * positive(30 + k, k) for k in range(4)}
    return Judge.of(past, {k: factor * positive(horizon, 99 + n) for n, k in enumerate(past)}, m), past


def frame(lengths, start=1, **columns):
    ids = np.repeat([f"W{k}" for k in range(len(lengths))], lengths)
    ds = np.concatenate([np.arange(start, start + n) for n in lengths]).astype(np.int32)
    return pd.DataFrame({"unique_id": ids, "ds": ds, "y": positive(len(ids)), **columns})


# scores


def test_scores_by_hand():
    judge = Judge.of({"a": np.array([1.0, 3.0, 2.0])}, {"a": np.array([4.0, 4.0])}, 1)
    assert judge.scale == pytest.approx([1.5])
    assert judge.naive2 == pytest.approx({"sMAPE": 200 * 2 / 6, "MASE": 2 / 1.5})
    said = judge.score(*(np.array([v]) for v in ([3.0, 5.0], [5.0, 2.0], [6.0, 7.0])))
    assert said["sMAPE"] == pytest.approx(200 * (1 / 9 + 2 / 6) / 2)
    assert said["MASE"] == pytest.approx(1.5 / 1.5)
    assert said["OWA"] == pytest.approx((said["sMAPE"] / (200 / 3) + 1.5 / 2) / 2)
    assert said["MSIS"] == pytest.approx((3 + 2 + 2 / 0.05 * 1) / 2 / 1.5)
    assert (said["coverage"], said["coverage error"]) == (0.5, pytest.approx(0.45))


def test_owa_of_naive2_is_1_and_of_the_truth_0():
    judge, past = judged()
    flat = np.stack([naive2(v, 5, 1) for v in past.values()])
    assert judge.score(flat, flat, flat)["OWA"] == pytest.approx(1)
    best = judge.score(judge.y, judge.y, judge.y)
    assert (best["OWA"], best["MSIS"], best["coverage"]) == (0, 0, 1)


def test_msis_of_an_interval_that_holds_the_truth_is_its_width_and_an_escape_costs_its_distance_40_times():
    judge, _ = judged()
    wide = judge.score(judge.y - 1, judge.y, judge.y + 2)["MSIS"]
    assert wide == pytest.approx(np.mean(3 / judge.scale))
    for low, high in ((0.5, 3.5), (-3.5, -0.5)):
        assert judge.score(judge.y + low, judge.y, judge.y + high)["MSIS"] == pytest.approx(
            wide + np.mean(40 * 0.5 / judge.scale)
        )


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e6])
def test_units_do_not_matter(factor):
    (one, _), (other, _) = judged(), judged(factor)
    parts = [np.exp(v) for v in np.random.default_rng(5).normal(3, 0.3, (3, *one.y.shape))]
    assert other.score(*(factor * v for v in parts)) == pytest.approx(one.score(*parts))


def test_history_and_truth_must_hold_the_same_series():
    with pytest.raises(ValueError, match="must hold the same series, got 1 and 2"):
        Judge.of({"a": positive(9)}, {"a": positive(2), "b": positive(2)}, 1)


# Naive2


@pytest.mark.parametrize("m", [4, 7, 12, 24])
def test_factors_are_those_of_the_classical_decomposition(m):
    from statsmodels.tsa.seasonal import seasonal_decompose

    history = positive(5 * m + 3) * (2 + np.sin(2 * np.pi * np.arange(5 * m + 3) / m))
    theirs = seasonal_decompose(history, model="multiplicative", period=m).seasonal
    np.testing.assert_allclose(factors(history, m), theirs[:m])


@pytest.mark.parametrize("m", [4, 7, 24])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_naive2_of_a_pure_season_goes_on_with_it(m, cut):
    n = 12 * m - cut
    wave = 5 * (2 + np.sin(2 * np.pi * np.arange(n + 30) / m))
    assert seasonal(wave[:n], m)
    np.testing.assert_allclose(naive2(wave[:n], 30, m), wave[n:])


def test_naive2_without_a_season_is_the_last_value():
    wave = 2 + np.sin(2 * np.pi * np.arange(40) / 24)
    for history, m in ((positive(300), 24), (wave, 24), (np.full(100, 3.0), 24), (wave, 1)):
        assert not seasonal(history, m)
        np.testing.assert_array_equal(naive2(history, 3, m), np.full(3, history[-1]))


def test_the_season_test_finds_one_in_ten_where_there_is_none():
    found = np.mean([seasonal(np.random.default_rng(k).normal(size=400), 12) for k in range(2000)])
    assert found == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("freq", M4S)
@pytest.mark.skipif(not DATA.is_dir(), reason="LONGSHORT_DATA names no folder: the M4 data is not part of this repository")
def test_naive2_scores_what_the_organisers_published(freq):
    judge = official(freq, rows(training(f"m4/{freq}_train.parquet")))
    assert [f"{v:.3f}" for v in judge.naive2.values()] == [f"{v:.3f}" for v in M4S[freq].naive2]


# data


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A small weekly M4 and a yearly Tourism whose test parts cannot be read."""
    for folder, kind, lengths in (("m4", "weekly", [60, 70, 80, 26]), ("tourism", "yearly", [20, 25])):
        (tmp_path / folder).mkdir()
        frame(lengths).to_parquet(tmp_path / folder / f"{kind}_train.parquet")
        (tmp_path / folder / f"{kind}_test.parquet").write_text("closed")
    pd.DataFrame({"unique_id": [f"W{k}" for k in range(4)], "category": list("abab")}).to_parquet(tmp_path / "m4/info.parquet")
    monkeypatch.setenv("LONGSHORT_DATA", str(tmp_path))
    return tmp_path


TRAIN = """
import sys
import pandas as pd

def guard(event, args):
    if event == "open" and str(args[0]).endswith("_test.parquet"):
        raise PermissionError(f"opened {args[0]}")

def peep(name):
    exec(sys.argv[1], {"pd": pd, "path": str(scores.folder() / name.replace("_train", "_test"))})
    return scores.training(name)

sys.addaudithook(guard)
from benchmarks import forecast, m4, scores
from longshort.train import Training

m4.training = peep
m4.SETTINGS["weekly"] = m4.Setting({"season_length": 1, "hidden": 4}, {"steps": 2, "evaluate": 2})
forecast.Training = lambda seed: Training(seed=seed, steps=2, evaluate=2)
m4.forecast("weekly", m4.load("weekly"), 0)
m4.run("weekly", 2, holdout=True, baselines=False)
tourism = forecast.CASES[0]
forecast.lstm(tourism, tourism.load(), 0, {})
print("trained")
try:
    forecast.run(tourism._replace(models=()), 1)
except PermissionError as error:
    print(error)
m4.run("weekly", 1, holdout=False, baselines=False)
"""


def trained(peep):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TRAIN, peep], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)  # fmt: skip
    assert done.returncode == 1
    return done.stdout, done.stderr


def test_training_opens_no_test_part_and_scoring_does(data):
    out, err = trained("pass")
    assert "trained" in out, err
    assert f"opened {data}/tourism/yearly_test.parquet" in out
    assert err.rstrip().endswith(f"PermissionError: opened {data}/m4/weekly_test.parquet")


@pytest.mark.parametrize(
    ("peep", "seen"), [("open(path)", "PermissionError: opened"), ("pd.read_parquet(path)", "weekly_test.parquet")]
)
@pytest.mark.usefixtures("data")
def test_training_that_peeps_is_caught(peep, seen):
    out, err = trained(peep)
    assert "trained" not in out
    assert seen in err


def test_one_function_knows_where_test_parts_lie():
    where = {f.name: f.read_text().count("_test.") for f in (ROOT / "benchmarks").glob("*.py")}
    assert {k: n for k, n in where.items() if n} == {"scores.py": 1}
    assert not [f for f in (ROOT / "src").rglob("*.py") if "_test.parquet" in f.read_text()]


@pytest.mark.usefixtures("data")
def test_a_test_part_is_not_for_training():
    with pytest.raises(ValueError, match=r"only scoring opens a test part; got 'm4/weekly_test\.parquet' to train on"):
        training("m4/weekly_test.parquet")


def test_data_that_is_absent_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGSHORT_DATA", str(tmp_path / "nowhere"))
    for run in (lambda: m4.main(holdout=True), forecast.main):
        with pytest.raises(SystemExit, match=r"LONGSHORT_DATA must name the folder .*nowhere, which is no folder"):
            run()


def test_nothing_is_scored_unless_naive2_is_right(data):
    past = rows(training("m4/weekly_train.parquet"))
    frame([13] * 4, start=100).to_parquet(data / "m4/weekly_test.parquet")
    with pytest.raises(
        SystemExit, match=r"Naive2 on M4 weekly must score sMAPE / MASE 9\.161 / 2\.777, got .* nothing is scored"
    ):
        official("weekly", past)


def test_the_test_part_stays_closed_until_all_is_committed(monkeypatch):
    monkeypatch.setattr(forecasting, "papers", lambda *_, **__: {"dirty": True})
    with pytest.raises(SystemExit, match=r"the test part stays closed while src, native, .* differ from the commit"):
        forecasting.begin("m4", scores_test=True)
    assert forecasting.begin("m4", scores_test=False) == {"dirty": True}


def test_held_out_is_the_end_of_each_series_that_is_long_enough():
    whole = frame([30, 26, 27])
    known, future = held_out(whole.sample(frac=1, random_state=0), 13)
    assert known.groupby("unique_id").size().to_dict() == {"W0": 17, "W2": 14}
    assert future.groupby("unique_id").size().to_dict() == {"W0": 13, "W2": 13}
    pd.testing.assert_frame_equal(pd.concat([known, future]).sort_index().reset_index(drop=True),
                                  whole[whole["unique_id"] != "W1"].reset_index(drop=True))  # fmt: skip
    assert (future.groupby("unique_id")["ds"].min() > known.groupby("unique_id")["ds"].max()).all()


def test_rows_are_in_the_order_of_ids_and_time():
    whole = frame([5, 5, 5])
    mixed = whole.sample(frac=1, random_state=1)
    assert list(rows(mixed)) == ["W0", "W1", "W2"]
    np.testing.assert_array_equal(stacked(mixed, 5), whole["y"].to_numpy().reshape(3, 5))


@pytest.mark.usefixtures("data")
def test_category_is_joined_where_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(m4.SETTINGS, "weekly", m4.Setting({}, {}))
    assert "category" not in m4.load("weekly")
    monkeypatch.setitem(m4.SETTINGS, "weekly", m4.Setting({}, {}, category=True))
    assert m4.load("weekly").groupby("unique_id")["category"].agg(set).to_dict() == {
        "W0": {"a"},
        "W1": {"b"},
        "W2": {"a"},
        "W3": {"b"},
    }


def test_m4_forecasts_are_not_negative():
    said = pd.DataFrame(
        {"unique_id": "a", "ds": [1, 2], "LSTM": [-1.0, 2.0], f"LSTM-lo-{LEVEL}": [-3.0, -1.0], f"LSTM-hi-{LEVEL}": 5.0}
    )
    low, point, high = m4.made(said, "LSTM", 2)
    assert (low.tolist(), point.tolist(), high.tolist()) == ([[0, 0]], [[0, 2]], [[5, 5]])


# the default configuration


def windowed():
    n = 24 * 12
    ds = pd.date_range("2020-01-01", periods=n, freq="h")
    data = pd.concat([pd.DataFrame({"unique_id": k, "ds": ds, "y": positive(n, s)}) for s, k in enumerate("ab")])
    return forecast.Case("two", "", lambda: data, 24, 24, 24, 3, freq="h", models=("SeasonalNaive",)), data


@pytest.mark.parametrize("case", forecast.CASES, ids=lambda c: c.name)
def test_what_is_trained_on_ends_before_the_first_origin(case):
    data = pd.DataFrame({"unique_id": np.repeat(["a", "b"], 9000), "ds": np.tile(np.arange(9000), 2)})
    assert forecast.known(case, data).groupby("unique_id")["ds"].max().to_dict() == dict.fromkeys("ab", 8999 - case.held)
    assert case.held == (0 if not case.windows else case.step * case.windows), "windows follow one another"


def test_baselines_forecast_from_the_same_origins_and_scores_see_them():
    case, data = windowed()
    ((name, made, seconds),) = forecast.baselines(case, data)
    assert (name, len(made), seconds > 0) == ("SeasonalNaive", 2 * 3 * 24, True)
    ends = data.groupby("unique_id")["ds"].max().iloc[0] - pd.to_timedelta([72, 48, 24], "h")
    assert sorted(made["cutoff"].unique()) == list(ends)
    scale = {k: scores.naive_error(v, 24) for k, v in rows(forecast.known(case, data)).items()}
    said = forecast.score(case, made, name, data, scale)
    y = np.stack(list(rows(data).values()))
    error = np.abs(y[:, -72:] - y[:, -96:-24]).mean(1)
    assert said["MASE"] == pytest.approx(np.mean(error / list(scale.values())))
    assert 0 < said["wQL"] < 1
    assert 0.5 < said["coverage"] < 1
    with pytest.raises(ValueError, match="SeasonalNaive must forecast 6 windows of two, got 5"):
        forecast.score(case, made.iloc[24:], name, data, scale)


def test_baselines_go_on_after_the_end():
    data = frame([30, 40])
    ((_, made, _),) = statistical(data, 6, 4, [LEVEL], models=["SeasonalNaive"])
    for k, past in rows(data).items():
        np.testing.assert_allclose(rows(made, "SeasonalNaive")[k], np.resize(past[-4:], 6))
    assert (made["SeasonalNaive-lo-95"] < made["SeasonalNaive"]).all()


def test_a_perfect_forecast_scores_zero():
    case, data = windowed()
    levels = {f"LSTM-{side}-{p}": data["y"] for side in ("lo", "hi") for p in forecast.LEVELS}
    made = forecast.known(case._replace(windows=0), data).assign(LSTM=data["y"], **levels)
    made = made[made.groupby("unique_id").cumcount(ascending=False) < case.held]
    assert forecast.score(case, made, "LSTM", data, {"a": 1.0, "b": 2.0}) == {"MASE": 0, "wQL": 0, "coverage": 1}


def test_an_unknown_pattern_lists_the_data_sets():
    with pytest.raises(SystemExit, match=r"--only must match a data set, got 'nonsense'\. There are: tourism yearly, "):
        forecast.main(only="nonsense")


# tables


@pytest.mark.usefixtures("data")
def test_tables(tmp_path, monkeypatch):
    monkeypatch.setitem(m4.SETTINGS, "weekly", m4.Setting({"season_length": 1, "hidden": 4}, {"steps": 2, "evaluate": 2}))
    assert (table.m4_markdown(tmp_path), table.forecast_markdown(tmp_path)) == (
        "Not measured yet: `make bench-m4`.", "Not measured yet: `make bench-forecast`.")  # fmt: skip
    result = forecasting.papers("m4") | {"partial": True} | m4.run("weekly", 2, holdout=True, baselines=False)
    assert (result["series"], len(result["seeds"])) == (3, 2)
    assert all(s["seconds"]["fit"] > 0 for s in result["seeds"])
    forecasting.write(result, "m4-weekly-holdout", tmp_path)
    assert "Not measured yet" in table.m4_markdown(tmp_path)
    forecasting.write(result | {"partial": False}, "m4-weekly", tmp_path)
    text = table.m4_markdown(tmp_path)
    assert f"| **ours, 2 models** |  | {result['ensemble']['OWA']:.3f} |  |  |" in text
    assert "| must | 0.786 | 0.850 | 0.600 | 0.745 |" in text
    case, _ = windowed()
    monkeypatch.setattr(forecast, "lstm", lambda case, data, *_: next(forecast.baselines(case, data))[1].rename(
        columns=lambda c: c.replace("SeasonalNaive", "LSTM")))  # fmt: skip
    said = forecasting.papers("forecast") | {"partial": False, "seeds": 2, "cases": [forecast.run(case, 2)]}
    forecasting.write(said, "forecast", tmp_path)
    mase = said["cases"][0]["scores"]["SeasonalNaive"]["MASE"]["mean"]
    assert f"| two: **LSTM** | {mase:.3f} |" in table.forecast_markdown(tmp_path)
    for text in (table.m4_markdown(tmp_path), table.forecast_markdown(tmp_path)):
        grids = [[line.count("|") for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
        assert all(len(set(g)) <= 1 for g in grids)
        assert any(grids)
    assert all(json.loads(f.read_text())["machine"]["cores"] for f in tmp_path.glob("*.json"))


def test_losses_are_named_and_noise_is_called_so():
    result = {"freq": "yearly", "ensemble": {"OWA": 0.770}}
    assert table.m4_losses(result) == "yearly 0.770: N-BEATS, 360 models 0.762, N-BEATS, 36 models 0.767 (noise)"
    assert table.m4_losses({"freq": "hourly", "ensemble": {"OWA": 0.3}}) == "hourly 0.300: none of these"
