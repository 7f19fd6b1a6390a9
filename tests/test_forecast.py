"""Laws of the forecaster, on small panels that are made here."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats

import longshort
from longshort.apps.forecast import Config, Forecaster, ForecastTask, metrics
from longshort.apps.forecast.backtest import seasonal_naive
from longshort.apps.forecast.covariates import Names
from longshort.apps.forecast.data import read
from longshort.apps.forecast.model import Inputs
from longshort.apps.forecast.task import Batch
from longshort.artefact import ArtefactError
from longshort.cell import Cell
from longshort.train import Training

ROOT = Path(__file__).parents[1]
QUICK = Training(steps=4, evaluate=2)
SMALL = {"hidden": 8, "batch": 8, "training": QUICK}


pytestmark = pytest.mark.usefixtures("one_thread")


def panel(series=3, steps=48, seed=0, start="2020-01-01") -> pd.DataFrame:
    """Months with trend, season, noise and gaps; lengths differ."""
    rng, tables = np.random.default_rng(seed), []
    for s in range(series):
        t = np.arange(steps - 5 * (s % 3))
        y = 50 * (s + 1) + (s + 1) * t + 10 * np.sin(2 * np.pi * (t + s) / 12) + rng.normal(size=len(t))
        y[rng.random(len(t)) < 0.05] = np.nan
        ds = pd.date_range(start, periods=len(t), freq="MS")
        tables.append(pd.DataFrame({"unique_id": f"s{s}", "ds": ds, "y": y}).drop(index=[7, 8]))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return panel()


@pytest.fixture(scope="module")
def fitted(table) -> Forecaster:
    return Forecaster(horizon=6, levels=(80, 95), **SMALL).fit(table)


def values(frame) -> np.ndarray:
    return frame.filter(like="LSTM").to_numpy()


def test_predict_gives_the_long_frame(fitted, table):
    out = fitted.predict()
    assert list(out.columns) == ["unique_id", "ds", "LSTM", "LSTM-lo-80", "LSTM-hi-80", "LSTM-lo-95", "LSTM-hi-95"]
    last = table.groupby("unique_id").ds.max()
    for name, rows in out.groupby("unique_id"):
        assert rows.ds.tolist() == pd.date_range(last[name], periods=7, freq="MS")[1:].tolist()
    assert np.isfinite(values(out)).all()
    assert fitted.config.freq == "MS"
    assert fitted.config.season_length == 12
    assert fitted.config.context == 36
    default = Forecaster(horizon=6, **SMALL).fit(table).predict()
    assert list(default.columns) == ["unique_id", "ds", "LSTM", "LSTM-lo-80", "LSTM-hi-80"]


def test_intervals_are_nested(fitted):
    out = fitted.predict()
    order = out[["LSTM-lo-95", "LSTM-lo-80", "LSTM", "LSTM-hi-80", "LSTM-hi-95"]].to_numpy()
    assert (np.diff(order, axis=1) > 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_future_cannot_change_a_forecast(fitted, table, seed):
    """Everything after the origin is replaced; forecasts stay bit-identical. So they do where the past is cut out and predicted."""
    rng = np.random.default_rng(seed)
    changed = table.copy()
    after = changed.groupby("unique_id").cumcount(ascending=False) < 6
    changed.loc[after, "y"] = rng.normal(size=after.sum()) * 10.0 ** rng.integers(-3, 9)
    before = fitted.backtest(table).frame()
    np.testing.assert_array_equal(values(before), values(fitted.backtest(changed).frame()))
    np.testing.assert_array_equal(before["SeasonalNaive"], fitted.backtest(changed).frame()["SeasonalNaive"])
    np.testing.assert_array_equal(values(before), values(fitted.predict(table[~after])))


def test_the_past_does_change_a_forecast(fitted, table):
    changed = table.assign(y=table.y.where(table.ds != "2022-06-01", table.y + 30))
    assert not np.array_equal(values(fitted.predict(table)), values(fitted.predict(changed)))


def test_training_never_reads_what_is_held_out(table):
    config = Config(horizon=6, batch=32)
    task, changed = ForecastTask(config, read(table)), table.copy()
    held = changed.groupby("unique_id").cumcount(ascending=False) < 6
    changed.loc[held, "y"] += 1000
    other = ForecastTask(config, read(changed))
    for seed in range(3):
        for a, b in zip(task.batches("train", seed), other.batches("train", seed), strict=True):
            assert all(torch.equal(v, w) for v, w in zip(a.inputs, b.inputs, strict=True))
            assert torch.allclose(a.target, b.target, rtol=0, atol=0, equal_nan=True)
    assert all(task.panel.lengths[s] - 6 >= n >= task.end[s] for s, n in zip(*task.held, strict=True))


def test_few_long_series_are_judged_from_several_origins():
    """They are spread over a tenth of each series; of many series the last horizon is held out."""
    for series, steps, most in ((1, 400, 128), (1, 2000, 128), (2, 2000, 64), (9, 400, 14), (16, 400, 8), (3, 79, 42)):
        few = ForecastTask(Config(horizon=8), read(panel(series, steps)))
        apart = 0
        for s, (end, n) in enumerate(zip(few.end, few.panel.lengths, strict=True)):
            at = few.held[1][few.held[0] == s]
            room = max(n // 10 - 8, 0)
            assert len(at) == min(room // 2 + 1, most)
            assert at[0] == end
            assert at[-1] == n - 8
            assert len(set(np.diff(at))) <= 1
            assert room - len(at) < at[-1] - at[0] <= room
            apart += sum(k == 0 or at[k] - at[0] >= 8 * ((at[k - 1] - at[0]) // 8 + 1) for k in range(len(at)))
        assert few.apart(*few.held) == apart
    many = ForecastTask(Config(horizon=8), read(panel(17, 400)))
    assert len(many.held[0]) == many.apart(*many.held) == 17
    assert (many.end == many.panel.lengths - 8).all()
    short = ForecastTask(Config(horizon=8), read(panel(1, 9).fillna(1.0)))
    assert len(short.held[0]) == 0  # trained on whole
    assert short.score(short.model().eval(), "valid") == {}


def test_holdout_history_and_calibrate_do_as_they_say(table):
    held = [ForecastTask(Config(horizon=6, holdout=n), read(table)) for n in (0, 1, 2, 3)]
    for n, task in enumerate(held):
        assert len(task.held[0]) == (task.end < task.panel.lengths).sum() == n
        assert (task.panel.lengths[task.held[0]] - 6 == task.held[1]).all()
    assert held[0].score(held[0].model().eval(), "valid") == {}
    recent = ForecastTask(Config(horizon=6, history=3), read(table))
    assert (recent.first == recent.end - 3).all()
    assert (recent.origins == 3).all()
    last = [Forecaster(horizon=6, holdout=n, **SMALL).fit(table) for n in (0, 3)]
    assert [made.scores == () for made in last] == [True, False]
    assert (last[0].model.stretch == 1).all()
    assert [len(made.model.ranks) for made in last] == [0, np.isfinite(last[1].backtest().truth).all(1).sum()]


def test_batches_are_a_pure_function_of_seed_and_number(table):
    task = ForecastTask(Config(horizon=6, batch=4), read(table))
    one, two = task.batches("train", 5), task.batches("train", 5)
    assert len(one) >= 2
    assert torch.equal(one[1].inputs.past, two[1].inputs.past)
    assert not torch.equal(one[1].inputs.past, one[0].inputs.past)
    assert not torch.equal(one[1].inputs.past, task.batches("train", 6)[1].inputs.past)
    with pytest.raises(ValueError, match="only split 'train' comes in batches"):
        task.batches("valid", 0)


def test_missing_targets_count_nowhere(table):
    task = ForecastTask(Config(horizon=6, batch=8, dropout=0.0), read(table))
    batch, model = task.batches("train", 0)[0], task.model()
    gap = batch._replace(target=torch.where(torch.arange(6) < 2, torch.nan, batch.target))
    assert task.loss(model, gap).elements == torch.isfinite(batch.target[:, 2:]).sum()
    nothing = task.loss(model, batch._replace(target=torch.full_like(batch.target, torch.nan)))
    assert (nothing.total.item(), nothing.elements.item()) == (0, 0)
    task.loss(model, gap).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_loss_by_definition(table):
    task = ForecastTask(Config(horizon=6, batch=3), read(table))
    batch, model = task.batches("train", 0)[0], task.model().eval()
    q, want = model(*batch.inputs), 0.0
    for b in range(3):
        for k in range(6):
            for j, level in enumerate(task.config.quantiles):
                off = (batch.target[b, k] - q[b, k, j]).item()
                want += 0.0 if off != off else 2 * (level * off if off > 0 else (level - 1) * off) / len(task.config.quantiles)
    assert task.loss(model, batch).total.item() == pytest.approx(want, rel=1e-4)


def test_new_series_and_single_series_give_the_same_forecast(fitted, table):
    fresh = panel(2, seed=9, start="1990-03-01").assign(unique_id=lambda d: "new-" + d.unique_id)
    assert len(fitted.predict(fresh)) == 12
    together = fitted.predict(table)
    alone = fitted.predict(table[table.unique_id == "s1"])
    np.testing.assert_allclose(values(alone), values(together[together.unique_id == "s1"]), rtol=1e-5)


def test_polars_and_files_as_pandas(fitted, table, tmp_path):
    out = fitted.predict(pl.from_pandas(table))
    assert isinstance(out, pl.DataFrame)
    np.testing.assert_array_equal(values(out.to_pandas()), values(fitted.predict(table)))
    table.to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_allclose(values(fitted.predict(tmp_path / "t.csv")), values(fitted.predict(table)), rtol=1e-6)


def test_units_do_not_matter(fitted, table):
    scaled = fitted.predict(table.assign(y=1000 * table.y))
    np.testing.assert_allclose(values(scaled), 1000 * values(fitted.predict(table)), rtol=1e-4)


def test_saved_and_loaded_is_the_same(fitted, table, tmp_path):
    path = fitted.save(tmp_path / "m.safetensors")
    for other in (Forecaster.load(path), longshort.load(path)):
        pd.testing.assert_frame_equal(other.predict(table), fitted.predict())
        assert (other.config, other.cell, other.scores) == (fitted.config, fitted.cell, fitted.scores)
        with pytest.raises(RuntimeError, match=r"carries no data\. Give it the history"):
            other.predict()
    assert path.read_bytes() == Forecaster.load(path).save(tmp_path / "again.safetensors").read_bytes()
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(ArtefactError, match="damaged"):
        Forecaster.load(path)


def test_same_seed_same_model(table):
    one, two, three = (Forecaster(horizon=3, hidden=4, training=replace(QUICK, seed=s)).fit(table).predict() for s in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(three)


def test_cross_validation_columns_and_cutoffs(table):
    forecaster = Forecaster(horizon=4, **SMALL)
    out = forecaster.cross_validation(table, n_windows=3, step_size=2)
    assert list(out.columns) == ["unique_id", "ds", "cutoff", "y", "LSTM", "LSTM-lo-80", "LSTM-hi-80",
                                 "SeasonalNaive", "SeasonalNaive-lo-80", "SeasonalNaive-hi-80"]  # fmt: skip
    assert len(out) == 3 * 3 * 4
    truth = table.set_index(["unique_id", "ds"]).y
    for (name, cutoff), rows in out.groupby(["unique_id", "cutoff"]):
        assert rows.ds.tolist() == pd.date_range(cutoff, periods=5, freq="MS")[1:].tolist()
        np.testing.assert_array_equal(rows.y, [truth.get((name, d), np.nan) for d in rows.ds])
    last = table.groupby("unique_id").ds.max()
    for name, rows in out.groupby("unique_id"):
        assert rows.cutoff.max() == last[name] - pd.DateOffset(months=4)
        assert rows.cutoff.nunique() == 3
    with pytest.raises(RuntimeError, match="not fitted"):
        forecaster.predict()


@pytest.mark.parametrize("refit", [False, True])
def test_cross_validation_knows_only_what_lies_before_the_cutoff(table, refit):
    changed = table.copy()
    changed.loc[changed.groupby("unique_id").cumcount(ascending=False) < (4 if refit else 6), "y"] *= 7
    forecaster = Forecaster(horizon=4, **SMALL)
    one, two = (forecaster.cross_validation(x, n_windows=2, step_size=2, refit=refit) for x in (table, changed))
    kept = slice(None) if refit else one.cutoff == one.groupby("unique_id").cutoff.transform("min")
    np.testing.assert_array_equal(values(one[kept]), values(two[kept]))


def test_seasonal_naive_by_definition(fitted, table):
    out = fitted.backtest(table.assign(y=table.y.fillna(1.0))).frame()
    full = table.assign(y=table.y.fillna(1.0)).set_index(["unique_id", "ds"]).y
    for row in out.itertuples():
        assert row.SeasonalNaive == full[(row.unique_id, row.ds - pd.DateOffset(years=1))]


def test_seasonal_naive_has_normal_intervals_that_grow_from_season_to_season():
    y = np.random.default_rng(0).normal(size=50).cumsum()
    y[[7, 20]] = np.nan
    data = read(pd.DataFrame({"unique_id": "a", "ds": np.arange(50), "y": y}))
    config = Config(horizon=11, levels=(50, 80), season_length=4).resolve(data)
    for n in (50, 31):
        (made,) = seasonal_naive(config, data, np.array([0]), np.array([n]))
        steps = y[4:n] - y[: n - 4]
        spread = np.sqrt(np.nanmean(steps**2))
        for k in range(11):
            season = k // 4 + 1
            want = stats.norm.ppf(config.quantiles, loc=y[n - 4 + k % 4], scale=spread * season**0.5)
            np.testing.assert_allclose(made[k], want, rtol=1e-6)


@pytest.mark.parametrize("kind", ["direct", "deepar", "esrnn"])
def test_windows_in_which_nothing_is_known_teach_nothing(kind):
    """Every model: as many elements and the same loss, whatever stands for what is missing."""
    y = np.random.default_rng(0).normal(9, 1, size=400)
    y[60:300] = np.nan
    data = read(pd.DataFrame({"unique_id": "a", "ds": np.arange(400), "y": y}))
    task = ForecastTask(Config(horizon=3, batch=64, context=12, model=kind, hidden=4, samples=20, dropout=0.0), data)
    batch, model = task.batches("train", 0)[0], task.model().eval()
    blind = batch.inputs.past[..., 2].sum(1) == 0
    assert 10 < blind.sum() < 60
    rest = Batch(Inputs(*(v[~blind] for v in batch.inputs)), batch.target[~blind])
    whole, some = task.loss(model, batch), task.loss(model, rest)
    assert float(whole.elements) == float(some.elements) > 0
    assert whole.total.item() == pytest.approx(some.total.item(), rel=1e-4)
    whole.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_series_that_repeat_but_for_rounding_have_no_mase():
    t = np.arange(72)
    assert metrics.naive_error(10 + np.sin(2 * np.pi * t / 12), 12) == 0
    assert metrics.naive_error(np.where(t % 2, 0.3, 0.1 + 0.2), 1) == 0
    assert metrics.naive_error(np.r_[np.full(71, 1e6), 1e6 + 1e-3], 1) > 0
    assert metrics.naive_error(np.full(9, 1e-9) * np.arange(9), 1) == pytest.approx(1e-9)


def test_a_season_that_the_data_does_not_hold_is_none():
    for freq, n, want in (("ms", 500, 1), ("min", 2000, 1440), ("min", 1440, 1), ("D", 7, 1), ("D", 8, 7), ("W", 60, 52)):
        ds = pd.date_range("2024-01-01", periods=n, freq=freq)
        made = Config(horizon=4).resolve(read(pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.arange(n) * 1.0})))
        assert made.season_length == want
        assert made.context <= 3 * max(want, 4)
    assert (
        Config(horizon=4, season_length=52).resolve(read(pd.DataFrame({"unique_id": "a", "ds": ds[:20], "y": 1.0}))).season_length
        == 52
    )


def test_month_ends_have_the_old_names_too():
    for freq, old in (("ME", "M"), ("QE", "Q")):
        ds = pd.date_range("2023-02-01", periods=9, freq=freq)  # the first one is short
        data = read(pd.DataFrame({"unique_id": "a", "ds": ds, "y": 1.0}), old)
        assert data.stamps(np.zeros(9, int), np.arange(9)).tolist() == ds.to_numpy().astype("M8[us]").tolist()


def test_a_static_csv_may_hold_other_series(tmp_path):
    (tmp_path / "d.csv").write_text("unique_id,ds,y\n" + "".join(f"{s},{t},{t}.5\n" for s in (1, 2) for t in range(5)))
    (tmp_path / "s.csv").write_text("unique_id,size\nx,9\n2,7\n1,5\n")
    made = read(tmp_path / "d.csv", names=Names(static=("size",)), static=tmp_path / "s.csv")
    assert made.covariates.numbers.tolist() == [[5.0], [7.0]]


def test_counted_months_can_be_drawn_and_reported(tmp_path):
    ds = np.arange(202001, 202041)
    table = pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.sin(ds) + 3})
    made = Forecaster(horizon=4, freq=1, hidden=4, batch=8, training=Training(steps=2, evaluate=2)).fit(table)
    made.plot()
    made.report(tmp_path / "r.html")
    assert (tmp_path / "r.html").exists()


def test_no_wild_value_rules_the_loss():
    y = np.random.default_rng(0).normal(size=400)
    y[100] = 1e9
    task = ForecastTask(Config(horizon=6, batch=64), read(pd.DataFrame({"unique_id": "a", "ds": np.arange(400), "y": y})))
    found = [float(task.batches("train", 0)[k].target.nan_to_num().abs().max()) for k in range(3)]
    assert max(found) == 50.0


def test_scores_agree_with_the_frame(fitted, table):
    test = fitted.backtest(table)
    frame, scores = test.frame(), test.scores()
    known = table[table.groupby("unique_id").cumcount(ascending=False) >= 6]
    for name in ("LSTM", "SeasonalNaive"):
        rows = frame.dropna(subset="y")
        inside = (rows.y >= rows[f"{name}-lo-80"]) & (rows.y <= rows[f"{name}-hi-80"])
        assert scores[name]["coverage-80"] == pytest.approx(inside.mean())
        errors = []
        for s, part in rows.groupby("unique_id"):
            past = known[known.unique_id == s].set_index("ds").y.asfreq("MS")
            errors.append((part.y - part[name]).abs().mean() / past.diff(12).abs().mean())
        assert scores[name]["MASE"] == pytest.approx(np.mean(errors))
    assert set(scores["LSTM"]) == {"MASE", "sMAPE", "wQL", "coverage-80", "coverage-95"}
    assert fitted.evaluate(table) == scores


def test_it_learns_a_trend_that_the_baseline_misses():
    table = panel(12, 72, seed=3)
    known = table[table.groupby("unique_id").cumcount(ascending=False) >= 12]
    training = Training(steps=150, evaluate=50, lr=3e-3)
    scores = Forecaster(horizon=12, hidden=24, batch=32, training=training).fit(known).evaluate(table)
    assert scores["LSTM"]["MASE"] < 0.35 * scores["SeasonalNaive"]["MASE"]
    assert 0.5 < scores["LSTM"]["coverage-80"] <= 1


@pytest.mark.parametrize(("model", "season"), [("direct", 1), ("direct", 4), ("esrnn", 4)])
def test_intervals_of_new_series_are_wide_where_hardly_anything_is_known(model, season):
    """All series that it learns from have forty values; those that it is asked for have two, or six."""
    rng = np.random.default_rng(0)
    t, S, H = np.arange(46), 300, 6
    y = 100 + rng.normal(0, 2, (S, 46)).cumsum(1) + 6 * np.sin(2 * np.pi * (t + rng.integers(0, 4, (S, 1))) / 4) * (season > 1)
    long = pd.DataFrame({"unique_id": np.repeat(np.arange(S), 46), "ds": np.tile(t, S), "y": y.ravel()})
    learned = long[(long.unique_id < 200) & (long.ds < 40)]
    made = Forecaster(horizon=H, model=model, season_length=season, hidden=16, training=Training(steps=150)).fit(learned)
    truth, within = y[200:, 40:].ravel(), []
    for known in (40, 6, 2):
        out = made.predict(long[(long.unique_id >= 200) & (long.ds < 40) & (long.ds >= 40 - known)])
        within.append(((out["LSTM-lo-80"] <= truth) & (truth <= out["LSTM-hi-80"])).mean())
    assert within == pytest.approx([0.8] * 3, abs=0.13)


@pytest.mark.parametrize("cell", [Cell(peephole=True), Cell(projection=3, layer_norm=True), Cell(forget=False)])
def test_every_variant_of_the_cell(table, cell, tmp_path):
    made = Forecaster(horizon=3, context=6, hidden=4, batch=4, cell=cell, training=Training(steps=2, evaluate=2)).fit(table)
    loaded = Forecaster.load(made.save(tmp_path / "m.safetensors"))
    assert loaded.cell == cell
    pd.testing.assert_frame_equal(loaded.predict(table), made.predict())


@pytest.mark.parametrize(
    "y", [np.zeros(30), np.full(30, 7.0), np.r_[np.zeros(29), 1e6], np.r_[1e12, np.ones(29)], np.arange(30) * 1e-12]
)
def test_odd_series_are_forecast(y):
    table = pd.DataFrame({"unique_id": "a", "ds": range(30), "y": y})
    made = Forecaster(horizon=3, season_length=4, **SMALL).fit(table)
    assert np.isfinite(values(made.predict())).all()
    assert len(made.cross_validation(table, 2)) == 6


def test_short_series_are_padded_and_too_short_ones_are_named(fitted):
    def short(*y):
        return pd.DataFrame({"unique_id": "tiny", "ds": pd.date_range("2020-01-01", periods=len(y), freq="MS"), "y": y})

    assert np.isfinite(values(fitted.predict(short(1.0, 2.0)))).all()
    with pytest.raises(ValueError, match=r"series 'tiny' has fewer than 2 observed values in the 36 steps up to 2020-02"):
        fitted.predict(short(1.0, np.nan))
    assert len(Forecaster(horizon=6, **SMALL).fit(short(1.0, 2.0, 3.0)).predict()) == 6
    with pytest.raises(ValueError, match=r"series 'tiny' has 2 observed values; at least 3 are needed to learn"):
        Forecaster(horizon=6, **SMALL).fit(short(1.0, np.nan, 2.0))
    with pytest.raises(ValueError, match=r"series 'tiny' has 9 steps; 2 windows of horizon 6, 1 apart, need at least 10"):
        fitted.backtest(short(*range(9)), n_windows=2)


def test_wrong_use_is_named(table):
    for field, v, message in [
        ("horizon", 0, "horizon must be at least 1, got 0"),
        ("context", 1, "context must be at least 2, got 1"),
        ("levels", (80, 120), r"levels must be different percentages between 0 and 100.*got \(80, 120\)"),
        ("dilations", (), "dilations must be whole numbers of at least 1"),
        ("dropout", 1.0, r"dropout must be in \[0, 1\), got 1.0"),
        ("freq", "X", "freq 'X' is unknown"),
    ]:
        with pytest.raises(ValueError, match=message):
            Config(**{field: v})
    for field in ("residual", "attention"):
        with pytest.raises(ValueError, match="residual and attention are of direct and esrnn, deepar has neither"):
            Config(model="deepar", **{field: True})
    with pytest.raises(TypeError, match=r"horizon must be a whole number, got 1.5"):
        Forecaster(horizon=1.5)
    with pytest.raises(TypeError, match="levels must be numbers, got 'wide'"):
        Config(levels="wide")
    with pytest.raises(TypeError, match=r"needs horizon=.* or config="):
        Forecaster()
    with pytest.raises(TypeError, match=r"no field hiden; it has horizon, levels"):
        Forecaster(horizon=1, hiden=3)
    with pytest.raises(RuntimeError, match=r"not fitted\. Call fit"):
        Forecaster(horizon=1).predict()
    with pytest.raises(ValueError, match="n_windows must be a whole number of at least 1, got 0"):
        Forecaster(horizon=1).cross_validation(table, n_windows=0)


def test_columns_by_other_names(table, tmp_path):
    names = {"unique_id": "shop", "ds": "month", "y": "sales"}
    made = Forecaster(horizon=2, **SMALL).fit(table.rename(columns=names), id_col="shop", time_col="month", target_col="sales")
    assert list(made.predict().columns)[:3] == ["shop", "month", "LSTM"]
    loaded = Forecaster.load(made.save(tmp_path / "m.safetensors"))
    pd.testing.assert_frame_equal(loaded.predict(table.rename(columns=names)), made.predict())


def test_fitted_anew_it_asks_the_new_data(table):
    made = Forecaster(horizon=2, **SMALL).fit(table)
    made.fit(table.assign(ds=table.groupby("unique_id").cumcount()))
    assert (made.config.freq, made.config.season_length) == ("1", 1)


def test_quiet_and_writes_nothing(table, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Forecaster(horizon=2, **SMALL).fit(table).predict()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_plot_draws_what_the_frames_hold(fitted, table, tmp_path):
    test = fitted.backtest(table)
    figure = fitted.plot(table, test.frame(), ids=["s1"], path=tmp_path / "f.png")
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.get_lines()}
    rows = test.frame().query("unique_id == 's1'")
    np.testing.assert_array_equal(lines["LSTM forecast"].get_ydata(), rows.LSTM)
    np.testing.assert_array_equal(lines["truth"].get_ydata(), rows.y)
    np.testing.assert_array_equal(lines["seasonal naive"].get_ydata(), rows.SeasonalNaive)
    assert [t.get_text() for t in axis.get_legend().get_texts()] == [
        "history", "truth", "LSTM forecast", "80 % interval", "95 % interval", "seasonal naive"]  # fmt: skip
    assert (tmp_path / "f.png").stat().st_size > 10_000
    assert len(fitted.plot().axes) == 3
    with pytest.raises(
        ValueError, match=r"series 'x' must be in the data and in the forecast\. The data has 3 series, such as 's0'"
    ):
        fitted.plot(ids=["x"])


@pytest.mark.parametrize(
    ("zone", "step"), [("Europe/Berlin", "h"), ("America/Chicago", "h"), ("America/New_York", "D"), (None, "h")]
)
def test_plots_show_what_the_clocks_show(zone, step):
    ds = pd.date_range("2024-07-01", periods=72, freq=step, tz=zone)
    data = pd.DataFrame({"unique_id": "a", "ds": ds, "y": np.arange(72.0)})
    made = Forecaster(horizon=6, season_length=24, **SMALL).fit(data)
    (axis,) = made.plot(data, made.backtest(data).frame()).axes
    lines, clock = {line.get_label(): line for line in axis.get_lines()}, ds.tz_localize(None).to_numpy()
    for label, n in (("history", 66), ("truth", 6)):
        at = lines[label].get_xdata().astype("M8[ns]")
        np.testing.assert_array_equal(at, clock[np.isin(data.y, lines[label].get_ydata())])
        assert lines[label].get_ydata()[-1] == (65 if n == 66 else 71)


@pytest.mark.parametrize(
    ("name", "role"), [("level", "target_col"), ("sample", "id_col"), ("score", "target_col"), ("LSTM", "target_col")]
)
def test_no_column_of_the_data_is_overwritten(table, name, role):
    own = {"target_col": "y", "id_col": "unique_id"}[role]
    made = Forecaster(horizon=2, model="esrnn", **SMALL).fit(table.rename(columns={own: name}), **{role: name})
    ways = {"level": made.decompose, "sample": made.paths, "score": lambda: made.anomalies(table.rename(columns={own: name})),
            "LSTM": lambda: made.backtest(table.rename(columns={own: name})).frame()}  # fmt: skip
    with pytest.raises(ValueError, match=f"the result has a column {name} of its own, and so has the data. Rename yours"):
        ways[name]()


def test_inputs_are_those_of_the_model(table):
    task = ForecastTask(Config(horizon=6), read(table))
    made = {
        k: torch.ones([2 if n == "B" else n for n in v.shape], dtype=getattr(torch, v.dtype)) for k, v in task.inputs().items()
    }
    assert task.model()(**made).shape == (2, 6, len(task.config.quantiles))


def test_demo_runs(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    demo.main(tmp_path, steps=2)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"MASE longshort=\d+\.\d{3} seasonal_naive=1\.401", last)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["forecast.csv", "forecast.png", "model.safetensors"]
    out = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["ds", "cutoff"])
    assert len(out) == 104
    assert set(out.cutoff) == {pd.Timestamp("2000-01-01")}
    assert longshort.load(tmp_path / "model.safetensors").config.horizon == 104


@pytest.mark.parametrize("bad", [-3.0, 0.5])
def test_counts_are_whole_numbers_that_are_not_negative(table, bad):
    counts = table.assign(y=np.arange(len(table)) % 7.0)
    config = Config(horizon=2, model="deepar", distribution="negative_binomial")
    ForecastTask(config, read(counts))
    ForecastTask(config, read(counts.assign(y=counts.y.where(counts.y != 3))))  # missing ones are no numbers
    counts.loc[5, "y"] = bad
    with pytest.raises(ValueError, match=rf"negative_binomial is for counts, .* series '?{counts.unique_id[5]}'? has {bad:g}\."):
        ForecastTask(config, read(counts))
    ForecastTask(replace(config, distribution="normal"), read(counts))
