"""Laws of the whole forecaster that hold for every model, with and without covariates, on small panels that are made here."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from longshort import artefact
from longshort.apps.forecast import Forecaster, ForecastTask
from longshort.apps.forecast.config import Distribution
from longshort.apps.forecast.data import read
from longshort.apps.forecast.recipe import MODELS, courses
from longshort.artefact import ArtefactError
from longshort.train import Training, train

H = 4
QUICK = Training(steps=4, evaluate=4)  # one score, so that the held-out part chooses nothing
SMALL = {"hidden": 8, "batch": 8, "samples": 40, "training": QUICK}
RICH = {"past": ("traffic",), "future": ("promo",), "static": ("size", "kind"), "calendar": True}
KINDS = [("direct", "student_t"), ("esrnn", "student_t"), *(("deepar", f) for f in get_args(Distribution))]
CASES = [
    pytest.param(kind, rich, id=f"{kind}-{'rich' if rich else 'plain'}") for kind in sorted(MODELS) for rich in (False, True)
]


pytestmark = pytest.mark.usefixtures("one_thread")


def panel(series: int = 4, steps: int = 44, seed: int = 0, start: str = "2024-01-01", gaps: float = 0.05) -> pd.DataFrame:
    """Days with a week, a promotion that counts, traffic that follows it, gaps in all of them; H days more than are known."""
    rng, tables = np.random.default_rng(seed), []
    for s in range(series):
        t = np.arange(steps - 3 * (s % 3) + H)
        promo = (rng.random(len(t)) < 0.3).astype(float)
        y = 30 * (s + 1) + 5 * np.sin(2 * np.pi * (t + s) / 7) + 8 * promo + rng.normal(size=len(t))
        traffic = 100 + y + rng.normal(size=len(t))
        for v in (y, promo, traffic):
            v[1:-H][rng.random(len(t) - 1 - H) < gaps] = np.nan
        tables.append(pd.DataFrame({"unique_id": f"s{s}", "ds": pd.date_range(start, periods=len(t)), "y": y, "promo": promo,
                                    "traffic": traffic, "size": 10.0 * s if s else np.nan, "kind": "ab"[s % 2]}))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def late(table: pd.DataFrame, steps: int = H) -> pd.Series:
    """Which rows are the last steps of their series."""
    return table.groupby("unique_id").cumcount(ascending=False) < steps


FULL = {True: panel()}  # by whether there are covariates
FULL[False] = FULL[True][["unique_id", "ds", "y"]]
TABLE = {rich: table[~late(table)].reset_index(drop=True) for rich, table in FULL.items()}
AFTER = FULL[True].loc[late(FULL[True]), ["unique_id", "ds", "promo"]]


def fresh(kind: str, rich: bool, **fields) -> Forecaster:
    return Forecaster(horizon=H, model=kind, **{**SMALL, **(RICH if rich else {}), **fields})


@cache
def fitted(kind: str, rich: bool) -> Forecaster:
    return fresh(kind, rich).fit(TABLE[rich])


def predict(made: Forecaster, table: pd.DataFrame | None = None, future: pd.DataFrame = AFTER) -> pd.DataFrame:
    rich = bool(made.config.future)
    return made.predict(TABLE[rich] if table is None else table, future=future if rich else None)


def values(frame: pd.DataFrame) -> np.ndarray:
    return frame.filter(like="LSTM").to_numpy()


def meddle(table: pd.DataFrame, steps: int, seed: int = 0) -> pd.DataFrame:
    """Other values and other traffic in the last steps, of any size but of the same sign."""
    rng, changed, rows = np.random.default_rng(seed), table.copy(), late(table, steps)
    for name in {"y", "traffic"} & {*table}:
        changed.loc[rows, name] = rng.exponential(size=rows.sum()) * 10.0 ** rng.integers(-3, 9, size=rows.sum())
    return changed


def weights(made: Forecaster) -> dict[str, torch.Tensor]:
    return {k: v for k, v in made.model.state_dict().items() if k.startswith("members")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# nothing of the future is read


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_the_future_cannot_change_a_forecast(kind, rich):
    made, full = fitted(kind, rich), FULL[rich]
    before = made.backtest(full)
    for seed in range(3):
        after = made.backtest(meddle(full, H, seed))
        for name, q in before.quantiles.items():
            np.testing.assert_array_equal(q, after.quantiles[name])
    gone = made.backtest(full.assign(**{k: full[k].mask(late(full)) for k in {"y", "traffic"} & {*full}}))
    np.testing.assert_array_equal(before.quantiles["LSTM"], gone.quantiles["LSTM"])
    np.testing.assert_array_equal(values(predict(made)), values(before.frame()[predict(made).columns]))


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_fit_learns_nothing_from_what_is_held_out(kind, rich):
    one, two = fitted(kind, rich), fresh(kind, rich).fit(meddle(TABLE[rich], H))
    assert same(weights(one), weights(two))
    assert one.recipe == two.recipe
    three = fresh(kind, rich).fit(meddle(TABLE[rich], H + 1))
    assert not same(weights(one), weights(three))


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_cross_validation_knows_only_what_lies_before_the_cutoff(kind, rich, refit):
    one, two = (fresh(kind, rich).cross_validation(table, n_windows=2, step_size=2, refit=refit)
                for table in (TABLE[rich], meddle(TABLE[rich], H if refit else H + 2)))  # fmt: skip
    kept = slice(None) if refit else one.cutoff == one.groupby("unique_id").cutoff.transform("min")
    np.testing.assert_array_equal(values(one[kept]), values(two[kept]))
    assert not refit or not np.array_equal(one.y, two.y, equal_nan=True)


@pytest.mark.parametrize("kind", sorted(MODELS))
@pytest.mark.parametrize("step", range(H))
def test_future_covariates_reach_their_steps(kind, step):
    made, other, out = fitted(kind, True), AFTER.copy(), predict(fitted(kind, True))
    rows = other.groupby("unique_id").cumcount() == step
    other.loc[rows, "promo"] = 1 - other.loc[rows, "promo"]
    differs = (values(out) != values(predict(made, future=other))).any(1).reshape(-1, H)
    assert differs[:, step].all()
    assert kind == "esrnn" or not differs[:, :step].any()  # the others walk through the horizon


def test_a_plan_of_later_steps_than_are_forecast_is_refused():
    later = AFTER.assign(ds=AFTER.ds + pd.Timedelta(days=H))
    with pytest.raises(ValueError, match=rf"is {H + 1} steps after the end of its series, and the forecast has {H}: of none of"):
        predict(fitted("direct", True), future=later)
    both = pd.concat([AFTER, later])
    assert np.array_equal(values(predict(fitted("direct", True), future=both)), values(predict(fitted("direct", True))))


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_past_and_static_covariates_and_the_past_are_read(kind):
    made, out, t = fitted(kind, True), values(predict(fitted(kind, True))), TABLE[True]
    for changed in ({"traffic": 2 * t.traffic}, {"promo": 1 - t.promo}, {"kind": "b"}, {"size": 5.0}, {"y": t.y + (t.index % 3)}):
        changed = t.assign(**changed)
        assert not np.array_equal(out, values(predict(made, changed)))
    moved = [t.assign(ds=t.ds + pd.Timedelta(days=1)) for t in (t, AFTER)]
    assert not np.array_equal(out, values(predict(made, *moved)))  # the calendar


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_a_forecast_does_not_depend_on_the_other_series(kind, rich):
    made, together = fitted(kind, rich), predict(fitted(kind, rich))
    for name in ("s0", "s3"):
        alone = predict(made, *(t[t.unique_id == name] for t in (TABLE[rich], AFTER)))
        np.testing.assert_allclose(values(alone), values(together[together.unique_id == name]), rtol=1e-5)
    stranger = panel(1, seed=5, start="2019-05-05").assign(unique_id="a stranger", kind="unheard of")
    known = stranger.loc[~late(stranger), [*TABLE[rich]]]
    out = predict(made, pd.concat([known, TABLE[rich]]), pd.concat([stranger[late(stranger)], AFTER])[AFTER.columns])
    np.testing.assert_allclose(values(out[out.unique_id != "a stranger"]), values(together), rtol=1e-5)
    assert np.isfinite(values(out)).all()
    assert len(out) == 5 * H


def test_esrnn_knows_its_series_again_by_name():
    made, table = fresh("esrnn", False).fit(TABLE[False]), TABLE[False]
    net = made.model.members[0]
    with torch.no_grad():
        net.alpha.copy_(torch.tensor([-6.0, -2, 2, 8]))
        net.gamma.copy_(torch.tensor([[-8.0], [-1], [1], [5]]))
    together = made.predict(table)
    other = [table[table.unique_id == name] for name in ("s3", "s1")]  # fewer of them, by another number
    new = other[0].assign(unique_id="new")
    out = made.predict(pd.concat([new, *other]))
    for name in ("s1", "s3"):
        np.testing.assert_allclose(values(out[out.unique_id == name]), values(together[together.unique_id == name]), rtol=1e-5)
    assert not np.allclose(values(out[out.unique_id == "new"]), values(out[out.unique_id == "s3"]), rtol=1e-4)
    with torch.no_grad():
        net.alpha[3], net.gamma[3] = net.alpha.mean(), net.gamma.mean()
    as_mean = made.predict(other[0])
    np.testing.assert_allclose(values(out[out.unique_id == "new"]), values(as_mean), rtol=1e-5)


# odd data


ODD = {
    "zero": np.zeros(40),
    "constant": np.full(40, 7.0),
    "one step": np.r_[np.zeros(20), np.full(20, 3.0)],
    "mostly zero": np.where(np.random.default_rng(2).random(40) < 0.15, np.random.default_rng(3).poisson(5, 40), 0.0),
    "a late blow": np.r_[np.zeros(39), 1e6],
    "tiny": np.arange(1, 41) * 1e-12,
    "gaps": np.where(np.random.default_rng(4).random(40) < 0.7, np.nan, 20 + np.arange(40.0)),
    "three values": np.r_[np.full(36, np.nan), 5.0, np.nan, 6.0, 4.0],
}


@pytest.mark.parametrize(("kind", "distribution"), KINDS)
def test_odd_series_are_learned_and_forecast(kind, distribution):
    counts = distribution == "negative_binomial"
    odd = {k: y for k, y in ODD.items() if not (counts and k == "tiny")}
    table = pd.concat([pd.DataFrame({"unique_id": k, "ds": range(40), "y": y}) for k, y in odd.items()]).dropna()
    for name in (None, *odd):  # together and each alone
        part = table if name is None else table[table.unique_id == name]
        made = fresh(kind, False, distribution=distribution, season_length=7, levels=(80, 95)).fit(part)
        out = made.predict()
        order = out[["LSTM-lo-95", "LSTM-lo-80", "LSTM", "LSTM-hi-80", "LSTM-hi-95"]].to_numpy()
        assert np.isfinite(order).all()
        assert (np.diff(order, axis=1) >= 0).all()
        if name in (None, "zero") and not counts:
            assert not values(out[out.unique_id == "zero"]).any()


def test_counts_are_counts_whatever_calibration_does():
    rng = np.random.default_rng(0)
    table = pd.concat([pd.DataFrame({"unique_id": f"n{s}", "ds": range(60), "y": rng.poisson(0.9, 60) * 1.0}) for s in range(12)])
    made = fresh("deepar", False, distribution="negative_binomial", levels=(80,)).fit(table)
    assert (made.model.stretch != 1).any()
    for found in (made.predict(), made.paths(n=50), made.backtest(table).frame()):
        y = found[[name for name in found if name.startswith("LSTM")]].to_numpy()
        np.testing.assert_array_equal(y, np.rint(y))
        assert (y >= 0).all()


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_nonnegative_cuts_at_zero(kind):
    rng = np.random.default_rng(0)
    table = pd.concat([pd.DataFrame({"unique_id": f"n{s}", "ds": range(40), "y": rng.poisson(0.7, 40) * 1.0}) for s in range(12)])
    free, cut = (fresh(kind, False, levels=(95,), nonnegative=on).fit(table) for on in (False, True))
    low = free.predict()["LSTM-lo-95"]
    assert (low < 0).any()
    np.testing.assert_array_equal(cut.predict()["LSTM-lo-95"], np.maximum(low, 0))
    np.testing.assert_array_equal(cut.paths(n=20).LSTM, np.maximum(free.paths(n=20).LSTM, 0))
    assert (values(cut.backtest(table).frame()[cut.predict().columns]) >= 0).all()


def test_logarithms_are_refused_where_there_are_none():
    zero = TABLE[False].assign(y=TABLE[False].y.where(TABLE[False].ds != "2024-02-01", 0.0))
    with pytest.raises(ValueError, match=r"series 's\d' has values of zero or less, .* Fit with multiplicative=False"):
        fresh("esrnn", False, multiplicative=True).fit(zero)
    assert not fresh("esrnn", False).fit(zero).config.multiplicative
    assert fitted("esrnn", False).config.multiplicative
    with pytest.raises(ValueError, match=r"series 's0' has values of zero or less, but this model smooths logarithms"):
        fitted("esrnn", False).predict(zero)


# files


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_saved_and_loaded_is_the_same(kind, rich, tmp_path):
    table = panel(16)
    made = fresh(kind, rich, ensemble=2).fit(table.loc[~late(table), [*TABLE[rich]]])
    loaded = Forecaster.load(made.save(tmp_path / "m.safetensors"))
    assert (loaded.recipe, loaded.config, loaded.asked) == (made.recipe, made.config, made.asked)
    assert same(made.model.state_dict(), loaded.model.state_dict())
    assert not torch.equal(made.model.stretch, torch.ones_like(made.model.stretch))
    assert len(made.model.ranks)
    assert made.recipe.ids == (tuple(sorted(f"s{k}" for k in range(16))) if kind == "esrnn" else ())
    pd.testing.assert_frame_equal(predict(loaded), predict(made))
    future = AFTER if rich else None
    pd.testing.assert_frame_equal(loaded.paths(TABLE[rich], 5, future=future), made.paths(TABLE[rich], 5, future=future))


DAMAGE = {
    "no encoding": (lambda e: e.pop("encoding"), "'encoding'"),
    "unknown field of encoding": (lambda e: e["encoding"].update(colour="red"), "unexpected keyword argument 'colour'"),
    "encoding is a list": (lambda e: e.update(encoding=[]), "Encoding"),
    "a covariate too many": (lambda e: e["encoding"]["past"].append("more"), "the encoding must be of past"),
    "a mean too few": (lambda e: e["encoding"]["mean"].pop(), "must hold 3 finite means"),
    "a scale is text": (lambda e: e["encoding"]["scale"].__setitem__(0, "wide"), "'wide'"),
    "a word too few": (lambda e: e["encoding"]["vocabulary"][0].pop(), "weight_ih_l0'"),
    "no frequency of the calendar": (lambda e: e["encoding"].update(freq=None), "members.0.effect"),
    "another covariate": (lambda e: e["encoding"].update(past=["speed"]), "the encoding must be of past"),
    "no calendar": (lambda e: e["encoding"].update(calendar=False), "the encoding must be of past"),
    "no ids": (lambda e: e.pop("ids"), "'ids'"),
    "an id too few": (lambda e: e["ids"].pop(), "members.0.alpha"),
    "ids are numbers": (lambda e: e.update(ids=[1, 2, 3, 4]), "ids must be different texts"),
    "ids twice": (lambda e: e.update(ids=["s0"] * 4), "ids must be different texts"),
    "ranks": (lambda e: e.update(ranks=e["ranks"] + 1), "tensor 'ranks'"),
    "negative ranks": (lambda e: e.update(ranks=-1), "negative dimension"),
    "ranks are text": (lambda e: e.update(ranks="many"), "empty()"),
    "short histories": (lambda e: e.update(short=e["short"] + 1), "tensor 'short'"),
    "nothing was asked": (lambda e: e.pop("asked"), "'asked'"),
    "unknown field asked": (lambda e: e["asked"].update(colour="red"), "unexpected keyword argument 'colour'"),
    "horizon asked": (lambda e: e["asked"].update(horizon=0), "horizon must be at least 1, got 0"),
    "two columns": (lambda extra: extra["columns"].pop(), "columns must be three different names"),
    "a column twice": (lambda extra: extra.update(columns=["unique_id", "ds", "ds"]), "columns must be three different names"),
    "a column that is a number": (
        lambda extra: extra.update(columns=["unique_id", "ds", 3]),
        "columns must be three different names",
    ),
    "another horizon was asked for": (lambda extra: extra["asked"].update(horizon=99), "config and what was asked for differ"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_header_is_named(damage, tmp_path):
    path = fitted("esrnn", True).save(tmp_path / "m.safetensors")
    held, (change, why) = artefact.read(path), DAMAGE[damage]
    Forecaster.load(artefact.save(path, held))
    change(held.extra)
    artefact.save(path, held)
    with pytest.raises(ArtefactError, match=rf"(?s)m\.safetensors.*{re.escape(why)}"):
        Forecaster.load(path)


# ensembles


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_an_ensemble_is_the_mean_of_networks_of_seeds_in_a_row(kind, rich):
    training = replace(QUICK, seed=7)
    both = fresh(kind, rich, ensemble=2, calibrate=False, training=training).fit(TABLE[rich])
    each = [fresh(kind, rich, calibrate=False, training=replace(training, seed=7 + k)).fit(TABLE[rich]) for k in range(2)]
    for member, one in zip(both.model.members, each, strict=True):
        assert same(member.state_dict(), one.model.members[0].state_dict())
    assert not same(weights(each[0]), weights(each[1]))
    want = np.mean([one.backtest(TABLE[rich]).quantiles["LSTM"] for one in each], 0)
    np.testing.assert_allclose(both.backtest(TABLE[rich]).quantiles["LSTM"], want, rtol=1e-4)  # esrnn's are means of logarithms


@pytest.mark.parametrize("stop", [3, 9])  # in the first network, in the second
def test_an_ensemble_goes_on_where_it_stopped(stop, tmp_path, monkeypatch):
    training, path = Training(steps=6, evaluate=2, save_steps=1), tmp_path / "run.safetensors"
    whole = fresh("esrnn", True, ensemble=2, training=training).fit(TABLE[True])
    loss, calls = ForecastTask.loss, []

    def interrupted(task, model, batch):
        calls.append(batch)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return loss(task, model, batch)

    monkeypatch.setattr(ForecastTask, "loss", interrupted)
    made = fresh("esrnn", True, ensemble=2, training=training)
    with pytest.raises(KeyboardInterrupt):
        made.fit(TABLE[True], checkpoint=path)
    with pytest.raises(FileExistsError, match=r"run\.[01]\.safetensors is of an unfinished run of 2 networks"):
        made.fit(TABLE[True], checkpoint=path)
    made.fit(TABLE[True], checkpoint=path, resume=True)
    assert len(calls) in (12 + 1, 12 + 2)  # at most the step that was cut off is made twice
    assert same(whole.model.state_dict(), made.model.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.0.safetensors", "run.1.safetensors"]


# update


@pytest.mark.parametrize(("kind", "rich"), CASES)
def test_an_update_starts_from_the_weights_of_fit(kind, rich, tmp_path):
    still = Training(steps=2, evaluate=2, lr=1e-30)
    made = fresh(kind, rich, ensemble=2).fit(TABLE[rich])
    before, out = {k: v.clone() for k, v in weights(made).items()}, predict(made)
    loaded = Forecaster.load(made.save(tmp_path / "m.safetensors"))
    for forecaster in (made, loaded):
        assert forecaster.update(TABLE[rich], training=still) is forecaster
        assert same(before, weights(forecaster))
        pd.testing.assert_frame_equal(predict(forecaster), out)
    recipe = made.recipe
    grown = pd.concat([TABLE[rich], TABLE[rich].assign(unique_id="z" + TABLE[rich].unique_id, y=2 * TABLE[rich].y)])
    made.update(grown)
    assert made.recipe == recipe
    assert not same(before, weights(made))
    known, new = predict(made), made.predict(grown, future=AFTER if rich else None)
    assert np.isfinite(values(new)).all()
    assert len(new) == 2 * len(known)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_an_update_learns_what_has_changed(kind):
    """Series that fell now rise: half as wrong after the update, as their last steps tell."""
    rng, t = np.random.default_rng(0), np.arange(40)

    def slope(s: float) -> pd.DataFrame:
        return pd.concat([pd.DataFrame({"unique_id": f"s{k}", "ds": t, "y": 500 + 5 * s * t + rng.normal(size=40)})
                          for k in range(8)])  # fmt: skip

    up, training = slope(1), Training(steps=60, evaluate=60, lr=1e-2)
    seen = up[~late(up)]
    made = fresh(kind, False, batch=16, training=training, distribution="normal").fit(slope(-1))
    before = made.evaluate(up)["LSTM"]["MASE"]
    after = made.update(seen, training=replace(training, steps=120, evaluate=120)).evaluate(up)["LSTM"]["MASE"]
    assert after < 0.5 * before


# sample paths


STEPS = np.random.default_rng(0).normal(size=(80, 60))
WALKS = pd.concat([pd.DataFrame({"unique_id": f"w{k:02}", "ds": range(60), "y": STEPS[k].cumsum()}) for k in range(80)])


@cache
def walker(kind: str) -> Forecaster:
    how = Training(steps=150 if kind == "deepar" else 60, evaluate=150, lr=1e-2)
    fields = {"batch": 64, "samples": 2000, "distribution": "normal", "ensemble": 2, "training": how}
    return fresh(kind, False, **fields).fit(WALKS)


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_paths_agree_with_quantiles_and_hang_together(kind):
    """Of two networks, calibrated. Where ranks come from held-out windows, these are a sample of 80."""
    made, table, n = walker(kind), WALKS[WALKS.unique_id < "w10"], 4000
    frame, out = made.paths(table, n=n), made.predict(table)
    assert list(frame.columns) == ["unique_id", "ds", "sample", "LSTM"]
    assert len(frame) == 10 * n * H
    paths = frame.LSTM.to_numpy().reshape(10, n, H)
    assert (frame["sample"].to_numpy().reshape(10, n, H) == np.arange(n)[:, None]).all()
    assert frame.ds.tolist()[: 2 * H] == 2 * out.ds.tolist()[:H]
    for column, level in (("LSTM-lo-80", 0.1), ("LSTM", 0.5), ("LSTM-hi-80", 0.9)):
        below = (paths <= out[column].to_numpy().reshape(10, 1, H)).mean(1)  # [10, H]
        assert (np.abs(below.mean(0) - level) < (0.05 if kind == "deepar" else 0.1)).all()
    off = paths - np.median(paths, 1, keepdims=True)
    together = [np.corrcoef(off[..., k].ravel(), off[..., k + 1].ravel())[0, 1] for k in range(H - 1)]
    assert min(together) > 0.4  # of a random walk: sqrt(k / (k + 1)), 0.71 at first
    pd.testing.assert_frame_equal(made.paths(table, n=9, seed=3), made.paths(table, n=9, seed=3))
    assert not made.paths(table, n=9, seed=3).equals(made.paths(table, n=9, seed=4))
    assert not made.paths(table, n=1, seed=3).equals(made.paths(table, n=1, seed=4)), "all held-out windows are drawn from"


@pytest.mark.parametrize("before", [0.0, 5.0])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_what_moves_for_the_first_time_widens_no_interval(kind, before):
    table = panel(20)[["unique_id", "ds", "y"]]
    new = table.unique_id == "s3"
    table.loc[new, "y"] = np.where(late(table)[new], 6.0, before)
    made = fresh(kind, False, levels=(95,)).fit(table)
    assert made.model.stretch.max() < 50
    assert len(made.paths(table[new], n=3)) == 3 * H


@pytest.mark.parametrize("m", [1, 2, 10, 100])
def test_few_held_out_windows_do_not_repeat_themselves(m):
    """Levels of paths are as uniform as those of the windows, and steps go together."""
    rng, n = np.random.default_rng(m), 4000
    walk = torch.from_numpy(rng.normal(size=(m, 12)).cumsum(1) / np.sqrt(np.arange(1, 13)))
    ranks = torch.special.ndtr(walk).float()
    made = courses(ranks, n, np.random.default_rng(0))
    assert made.shape == (n, 12)
    assert len(np.unique(made, axis=0)) == n
    assert ((made > 0) & (made < 1)).all()
    if m in (1, 100):
        assert np.abs(np.quantile(made, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.06
    assert np.corrcoef(made[:, 5], made[:, 6])[0, 1] > 0.6
    few = courses(ranks, m, np.random.default_rng(0))
    assert sorted(few[:, 0]) == sorted(ranks[:, 0].tolist()), "where windows are enough, they are the courses"


def test_an_update_with_little_keeps_intervals_and_courses():
    table = panel(60)[["unique_id", "ds", "y"]]
    made = fresh("direct", False).fit(table)
    stretch, short, ranks = made.model.stretch.clone(), made.model.short.clone(), made.model.ranks.clone()
    assert (stretch != 1).any()
    assert (short != 1).any()
    made.update(table[table.unique_id == "s3"])
    assert torch.equal(made.model.stretch, stretch)
    assert torch.equal(made.model.short, short)
    assert len(made.model.ranks) >= len(ranks)


def test_short_histories_are_judged_by_steps():
    table = pd.concat([pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2024-01-01", periods=9, freq="W"),
                                     "y": np.arange(9.0) + k}) for k in range(6)])  # fmt: skip
    made = fresh("direct", False, season_length=52).fit(table)
    assert made.scores[0].metrics["MASE"] > 0
    assert np.isfinite(made.evaluate(table)["LSTM"]["MASE"])


def test_what_never_moves_has_no_say_in_paths_and_intervals():
    table = panel(30)[["unique_id", "ds", "y"]]
    flat = table.unique_id.isin([f"s{k}" for k in range(25)])
    table.loc[flat, "y"] = 7.0
    both, few = fresh("direct", False).fit(table), table[~flat]
    assert len(both.model.ranks) == 5
    paths = both.paths(few, n=40).LSTM.to_numpy().reshape(5, 40, H)
    assert len(np.unique(paths[0], axis=0)) == 40, "no two are alike, though windows are five"


def test_new_static_covariates_count_without_new_data():
    static, bare = (
        TABLE[True].groupby("unique_id")[["size", "kind"]].first().reset_index(),
        TABLE[True].drop(columns=["size", "kind"]),
    )
    made, other = fresh("direct", True).fit(bare, static=static), static.assign(size=[4.0, 3.0, 2.0, 1.0])
    pd.testing.assert_frame_equal(made.predict(future=AFTER, static=other), made.predict(bare, future=AFTER, static=other))
    assert not made.predict(future=AFTER, static=other).equals(made.predict(future=AFTER))
    with pytest.raises(
        ValueError, match=r"this model reads promo of the steps that it forecasts. Give them.*to plot, plot\(forecast="
    ):
        made.plot()
    assert len(made.plot(bare, made.predict(bare, future=AFTER, static=other), static=other).axes) == 4


def test_paths_need_held_out_windows():
    made = fresh("direct", False, holdout=0).fit(TABLE[False])
    assert torch.equal(made.model.stretch, torch.ones_like(made.model.stretch))
    with pytest.raises(RuntimeError, match=r"sample paths .*need held-out windows, and fit had none"):
        made.paths(n=5)
    with pytest.raises(ValueError, match=r"n must be a whole number .*, got 0"):
        fitted("direct", False).paths(n=0)
    assert len(fresh("deepar", False, holdout=0).fit(TABLE[False]).paths(n=5)) == 4 * 5 * H


# calibration and smoothing


@pytest.mark.parametrize("kind", sorted(MODELS))
def test_calibrated_intervals_cover_what_was_held_out(kind):
    made, plain = (fresh(kind, False, levels=(50, 80, 95), calibrate=on).fit(panel(30)[["unique_id", "ds", "y"]])
                   for on in (True, False))  # fmt: skip
    assert same(weights(made), weights(plain))
    test = made.backtest()  # the windows that were held out, one per series
    scores = test.scores()["LSTM"]
    for level in (50, 80, 95):
        assert level / 100 <= scores[f"coverage-{level}"] + 0.01  # in-sample: at least nominal by construction
    assert (np.diff(test.quantiles["LSTM"], axis=-1) >= 0).all()
    middle = made.config.quantiles.index(0.5)
    np.testing.assert_array_equal(test.quantiles["LSTM"][..., middle], plain.backtest().quantiles["LSTM"][..., middle])


def test_a_level_penalty_keeps_the_level_smooth():
    task = [ForecastTask(fresh("esrnn", False, level_penalty=p).config, read(TABLE[False])) for p in (0.0, 100.0)]
    bends = []
    for t in task:
        model = train(t, Training(steps=40, evaluate=40, lr=3e-2), progress=False).model
        with torch.no_grad():
            bends.append(model.smooth(t.batches("train", 0)[0].inputs).level.diff(dim=1).diff(dim=1).square().mean())
    assert bends[1] < 0.5 * bends[0]
