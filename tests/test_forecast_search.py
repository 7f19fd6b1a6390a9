"""Laws of the search: what it tries, what it keeps, what it leaves alone; and of the decomposition."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import polars as pl
import pytest

from longshort.apps.forecast import Config, Forecaster, cli
from longshort.apps.forecast.plot import decomposition
from longshort.apps.forecast.search import FIXED, OF_CONFIG, OF_TRAINING, SPACE, apply, read_space, search
from longshort.train import Training

QUICK = Training(steps=12, evaluate=3, device="cpu")
SMALL = {"horizon": 4, "hidden": 4, "batch": 8}


pytestmark = pytest.mark.usefixtures("one_thread")


def frame(steps: int = 60, series: int = 3) -> pd.DataFrame:
    t, rng = np.arange(steps), np.random.default_rng(0)
    parts = [pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2015-01-01", periods=steps, freq="MS"),
                           "y": 20 + k + 3 * np.sin(2 * np.pi * t / 12 + k) + 0.3 * rng.normal(size=steps)}) for k in range(series)]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def plain(trials: Any) -> pd.DataFrame:
    return trials.drop(columns="seconds")


# the search


def test_the_best_trial_is_what_a_fit_with_its_settings_scores() -> None:
    found = search(frame(), space={"hidden": [3, 5], "lr": (1e-3, 1e-1), "dilations": [[1], [1, 2]]}, trials=4, training=QUICK,
                   horizon=4, batch=8)  # fmt: skip
    done = found.trials[found.trials.state == "complete"]
    assert found.score == done.MASE.min()
    best = done.loc[done.MASE.idxmin()]
    assert (found.config.hidden, found.training.lr) == (best.hidden, best.lr)
    assert best.dilations == " ".join(map(str, found.config.dilations))
    assert apply(Config(horizon=4, batch=8), QUICK, found.best) == (found.config, found.training)
    made = Forecaster(config=found.config, training=found.training).fit(frame())
    assert Forecaster(config=replace(found.config, calibrate=False), training=found.training).fit(frame()).scores[0].metrics[
        "MASE"] == pytest.approx(found.score, rel=1e-12)  # fmt: skip
    assert made.scores[0].metrics["MASE"] == pytest.approx(found.score, rel=1e-6), "calibration leaves the median alone"


def test_it_is_never_worse_than_the_settings_as_they_are() -> None:
    found = search(frame(), space={"hidden": [2, 4], "dropout": (0.0, 0.5)}, trials=3, training=QUICK, **SMALL)
    first = found.trials.iloc[0]
    assert (first.hidden, first.dropout) == (4, 0.1)
    assert found.score <= first.MASE
    alone = Forecaster(training=QUICK, **SMALL).fit(frame()).scores[0].metrics["MASE"]
    assert alone == pytest.approx(first.MASE, rel=1e-6)


def test_equal_calls_find_the_same_and_another_seed_another() -> None:
    how = {"space": {"hidden": (2, 8), "lr": (1e-3, 1e-1)}, "trials": 3, **SMALL}
    one, two = (search(frame(), training=QUICK, **how) for _ in range(2))
    pd.testing.assert_frame_equal(plain(one.trials), plain(two.trials))
    assert not plain(search(frame(), training=replace(QUICK, seed=1), **how).trials).equals(plain(one.trials))


@pytest.mark.parametrize("name", ["trials.log", "trials.db", "new/trials.sqlite"])
def test_a_storage_goes_on_where_it_was(tmp_path: Path, name: str) -> None:
    how = {"space": {"hidden": (2, 8), "lr": (1e-3, 1e-1)}, "training": QUICK, "storage": tmp_path / name, **SMALL}
    two = search(frame(), trials=2, **how)
    four = search(frame(), trials=4, **how)
    pd.testing.assert_frame_equal(four.trials[:2], two.trials)
    assert len(four.trials) == 4
    assert len(four.trials.drop_duplicates(["hidden", "lr"])) == 4, "the same seed does not draw the same again"
    assert len(search(frame(), trials=3, **how).trials) == 4, "enough: nothing is tried"
    assert {p.name for p in (tmp_path / name).parent.iterdir()} == {Path(name).name}
    for other, what in (
        ({"batch": 16}, "config"),
        ({"training": replace(QUICK, steps=9)}, "training"),
        ({"space": {"hidden": (2, 9)}}, "space"),
    ):
        with pytest.raises(ValueError, match=f"holds a search with another {what}"):
            search(frame(), trials=2, **how | other)
    with pytest.raises(ValueError, match="another data"):
        search(frame(59), trials=2, **how)


def test_an_interrupted_trial_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"space": {"hidden": [3, 4, 5]}, "training": QUICK, "storage": tmp_path / "s.log", **SMALL | {"hidden": 4}}

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("longshort.apps.forecast.search.train", cut)
        with pytest.raises(KeyboardInterrupt):
            search(frame(), trials=2, **how)
    found = search(frame(), trials=2, **how)
    assert found.trials.state.tolist() == ["complete"] * 2
    assert found.trials.hidden.iloc[0] == 4, "first the settings as they are"


def test_whole_numbers_among_others_are_one_column_of_polars() -> None:
    found = search(pl.from_pandas(frame()), space={"level_penalty": [0, 1.5]}, trials=4, training=QUICK, **SMALL)
    assert found.trials["level_penalty"].dtype == pl.Float64
    assert set(found.trials["level_penalty"]) == {0.0, 1.5}


def test_settings_that_exclude_each_other_are_passed_over() -> None:
    space = {"model": ["deepar", "direct"], "attention": [True, False]}
    found = search(frame(), space=space, trials=8, training=QUICK, **SMALL)
    deep = (found.trials.model == "deepar") & found.trials.attention.astype(bool)
    assert set(found.trials.state[deep]) <= {"pruned"}
    assert "complete" in set(found.trials.state[~deep])
    with pytest.raises(ValueError, match=r"all 2 trials were refused: residual and attention are of direct and esrnn"):
        search(frame(), space={"model": ["deepar"], "attention": [True]}, trials=2, training=QUICK, **SMALL)


def test_no_trial_learns_from_what_judges_it() -> None:
    """The held-out end decides nothing but the scores: scale it, and the trials' networks forecast the same."""
    data = frame()
    other = data.copy()
    last = data.groupby("unique_id").cumcount(ascending=False) < 4
    other.loc[last, "y"] += 7.0
    made = [
        search(d, space={"hidden": [4, 5]}, trials=1, training=replace(QUICK, steps=3, average=0.0), **SMALL)
        for d in (data, other)
    ]
    assert made[0].score < made[1].score
    fits = [
        Forecaster(config=replace(m.config, calibrate=False), training=m.training).fit(d)
        for m, d in zip(made, (data, other), strict=True)
    ]
    known = data[~last]
    pd.testing.assert_frame_equal(*(f.predict(known) for f in fits))


def test_what_stays_behind_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After five trials with a sound rate, one that learns nothing ends before its last score."""

    class Slow(optuna.samplers.BaseSampler):
        infer_relative_search_space = lambda *_: {}  # noqa: E731
        sample_relative = lambda *_: {}  # noqa: E731

        def sample_independent(self, study: Any, trial: Any, name: str, over: Any) -> float:
            return over.low if trial.number == 6 else over.high

    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **_: Slow())
    how = replace(QUICK, steps=60, evaluate=6, average=0.0)
    found = search(frame(), space={"lr": (1e-7, 0.03)}, trials=7, training=how, **SMALL)
    assert found.trials.state.tolist() == ["complete"] * 6 + ["pruned"]
    assert found.trials.MASE.iloc[-1] > found.score


def test_a_trial_that_diverges_is_no_result_and_no_end() -> None:
    wild = replace(QUICK, grad_clip=0.0, average=0.0, warmup=0.0, weight_decay=0.0)
    found = search(frame(), space={"lr": [1e-3, 1e30]}, trials=6, training=wild, **SMALL)
    assert set(found.trials.state) == {"complete", "failed"}
    assert found.training.lr == 1e-3
    with pytest.raises(ValueError, match=r"no trial was finished in the time that was given\. Give more seconds"):
        search(frame(), space={"lr": [1e-3, 1e-2]}, trials=2, seconds=1e-9, training=wild, **SMALL)
    with pytest.raises(FloatingPointError, match="diverged in all of 2 trials"):
        search(frame(), space={"lr": [1e30, 1e31]}, trials=2, training=wild, **SMALL)


def test_time_ends_it() -> None:
    found = search(frame(), space={"hidden": (2, 64)}, trials=10_000, seconds=0.5, training=QUICK, **SMALL)
    assert 1 <= len(found.trials) < 100


def test_the_default_space_leaves_what_is_given() -> None:
    found = search(frame(), trials=2, training=replace(QUICK, lr=0.004), **SMALL)
    assert set(found.best) == set(SPACE) - {"hidden", "batch", "lr"}
    assert (found.config.hidden, found.config.batch, found.training.lr) == (4, 8, 0.004)


def test_every_field_of_the_default_space_and_every_refusal_is_a_field() -> None:
    fields = {*OF_CONFIG, *OF_TRAINING}
    assert len(fields) == len(OF_CONFIG) + len(OF_TRAINING), "no name is in both"
    assert set(SPACE) <= fields - set(FIXED)
    assert set(FIXED) <= fields


def test_polars_in_polars_out() -> None:
    found = search(
        pl.from_pandas(frame()), space={"dilations": [[1], [1, 2]], "calendar": [False, True]}, trials=2, training=QUICK, **SMALL
    )
    assert isinstance(found.trials, pl.DataFrame)
    assert found.trials.columns == ["trial", "MASE", "state", "seconds", "dilations", "calendar"]


def test_it_prints_only_when_asked_and_leaves_optuna_as_it_was(capfd: pytest.CaptureFixture) -> None:
    before = optuna.logging.get_verbosity()
    search(frame(), space={"hidden": [2, 3]}, trials=2, training=QUICK, **SMALL)
    assert capfd.readouterr() == ("", "")
    search(frame(), space={"hidden": [2, 3]}, trials=2, training=QUICK, progress=True, **SMALL)
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 2)
    assert optuna.logging.get_verbosity() == before


def test_covariates_and_names_of_columns_take_part() -> None:
    data = frame().rename(columns={"unique_id": "shop", "ds": "day", "y": "sold"}).assign(price=1.0)
    shops = pd.DataFrame({"shop": ["s0", "s1", "s2"], "region": ["n", "s", "n"]})
    made = Forecaster.search(data, horizon=4, static="region", future="price", static_data=shops, id_col="shop", time_col="day",
                             target_col="sold", space={"hidden": [2, 3]}, trials=1, training=QUICK, batch=8)  # fmt: skip
    assert (made.config.static, made.config.future, made.config.batch) == (("region",), ("price",), 8)
    plan = data[["shop", "day", "price"]].assign(day=data.day + pd.DateOffset(months=60))
    after = made.predict(future=plan)
    assert after.columns[:3].to_list() == ["shop", "day", "LSTM"]


def test_forecaster_search_is_search_then_fit() -> None:
    how = {"space": {"hidden": [2, 4]}, "trials": 2, "training": QUICK, "levels": (50, 90)}
    made = Forecaster.search(frame(), horizon=4, **how)
    assert made.found.score == search(frame(), horizon=4, **how).score
    assert made.asked == made.found.config
    alone = Forecaster(config=made.found.config, training=made.found.training).fit(frame())
    pd.testing.assert_frame_equal(made.predict(), alone.predict())
    assert "LSTM-hi-90" in made.predict()


@pytest.mark.parametrize(
    "best", [{"hidden": 8, "dilations": (1, 4), "calendar": True, "residual": False, "lr": 0.01, "context": None}]
)
def test_flags_lead_back_to_the_settings(best: dict[str, Any]) -> None:
    from cyclopts import App

    from longshort.apps.forecast.search import Search

    found = Search(*apply(Config(), Training(), best), 1.0, None, best)
    app = App()
    app.default(cli.train)
    _, bound, *_ = app.parse_args(["--data", "x.csv", *" ".join(found.flags).split()], print_error=False, exit_on_error=False)
    assert (bound.arguments["config"], bound.arguments["training"]) == (found.config, found.training)


@pytest.mark.parametrize(
    ("words", "space"),
    [(["hidden=32,64"], {"hidden": [32, 64]}), (["lr=1e-3:0.01", "hidden=2:8"], {"lr": (1e-3, 0.01), "hidden": (2, 8)}),
     (["model=direct,esrnn"], {"model": ["direct", "esrnn"]}), (["dilations=[1],[1,2]"], {"dilations": [[1], [1, 2]]}),
     (["level-penalty=0,1.5", "multiplicative=true,false,null"], {"level_penalty": [0, 1.5], "multiplicative": [True, False, None]})],
)  # fmt: skip
def test_a_space_in_words(words: list[str], space: dict[str, Any]) -> None:
    assert read_space(words) == space


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"trials": 0}, ValueError, "trials must be a whole number of at least 1, got 0"),
    ({"trials": 1.5}, ValueError, "trials must be a whole number"),
    ({"seconds": 0}, ValueError, "seconds must be positive"),
    ({"hiden": 3}, TypeError, "search has no setting hiden; Config has horizon"),
    ({"space": {}}, ValueError, "space must name at least one setting"),
    ({"space": {"nope": [1]}}, ValueError, "a field of neither Config"),
    ({"space": {"horizon": [4, 8]}}, ValueError, "must not name horizon: it says what is judged"),
    ({"space": {"hidden": 3}}, ValueError, "must be a list of choices or a tuple"),
    ({"space": {"hidden": []}}, ValueError, "must be a list of choices or a tuple"),
    ({"space": {"hidden": (1, 2, 3)}}, ValueError, "two numbers, low < high"),
    ({"space": {"hidden": (8, 2)}}, ValueError, "two numbers, low < high"),
    ({"space": {"hidden": (0, 2)}}, ValueError, "hidden must be at least 1, got 0"),
    ({"space": {"hidden": (0.5, 2.5)}}, ValueError, "hidden must be a whole number, got 0.5"),
    ({"space": {"hidden": [2, 2]}}, ValueError, "different choices"),
    ({"space": {"lr": [-1.0]}}, ValueError, "lr must be a positive number"),
    ({"holdout": 0}, ValueError, "there are none: the series are too short, or holdout is 0"),
    ({"past": ("price",)}, ValueError, "lacks the covariates price"),
]


@pytest.mark.parametrize(("how", "kind", "said"), WRONG, ids=lambda v: str(v) if isinstance(v, dict) else "")
def test_wrong_use(how: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        search(frame(), **{"horizon": 4, "trials": 1, "training": QUICK} | how)


def test_constant_series_have_nothing_to_judge_by() -> None:
    with pytest.raises(ValueError, match="every series is constant"):
        search(frame().assign(y=1.0), space={"hidden": [2]}, trials=1, training=QUICK, **SMALL)


def test_without_optuna_it_says_what_to_install() -> None:
    code = ("import sys; sys.modules['optuna'] = None\nfrom longshort.apps.forecast.search import search\n"
            "try:\n    search(None, horizon=1)\nexcept ImportError as e:\n    print(e)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "search needs Optuna: pip install 'longshort[search]'.\n"


# the decomposition


def seasonal(multiplicative: bool) -> pd.DataFrame:
    t = np.arange(96)
    wave = 0.3 * np.sin(2 * np.pi * t / 12)
    parts = [pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2015-01-01", periods=96, freq="MS"),
                           "y": (50 + 10 * k) * (1 + wave) if multiplicative else 5 * k + 10 * wave}) for k in range(3)]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("multiplicative", [False, True])
@pytest.mark.parametrize("ensemble", [1, 2])
def test_level_and_season_of_clean_series_are_what_made_them(multiplicative: bool, ensemble: int) -> None:
    data = seasonal(multiplicative)
    made = Forecaster(
        horizon=4, model="esrnn", hidden=4, batch=8, ensemble=ensemble, multiplicative=multiplicative, training=QUICK
    ).fit(data)
    parts = made.decompose()
    assert parts.columns.to_list() == ["unique_id", "ds", "y", "level", "season"]
    assert parts.groupby("unique_id").size().tolist() == [made.config.context] * 3
    both = parts.merge(data, on=["unique_id", "ds"], suffixes=("", "_in"))
    assert len(both) == len(parts)
    assert (both.y == both.y_in).all()
    rebuilt = parts.level * parts.season if multiplicative else parts.level + parts.season
    np.testing.assert_allclose(rebuilt, parts.y, rtol=2e-4, atol=2e-3)
    for k, one in enumerate(parts.groupby("unique_id")):
        level = (50 + 10 * k) if multiplicative else 5 * k
        np.testing.assert_allclose(one[1].level, level, rtol=0.06, atol=0.02)
    saved = made.decompose(data[data.unique_id == "s1"])
    pd.testing.assert_frame_equal(saved, parts[parts.unique_id == "s1"].reset_index(drop=True))


def test_no_decomposition_reads_beyond_its_step() -> None:
    """What comes later changes no level: not its value, only the scale in which it is computed."""
    data = seasonal(False)
    made = Forecaster(
        horizon=4, model="esrnn", hidden=4, batch=8, season_length=1, multiplicative=False, context=40, training=QUICK
    ).fit(data)
    later = data.copy()
    end = later.groupby("unique_id").cumcount(ascending=False)
    later.loc[end < 5, "y"] += 3.0
    one, two = made.decompose(data), made.decompose(later)
    early = one.groupby("unique_id").cumcount(ascending=False) >= 5
    np.testing.assert_allclose(one.level[early], two.level[early], rtol=1e-4, atol=1e-4)
    assert (one.season == 0).all()
    assert not np.allclose(one.level[~early], two.level[~early])


def test_short_series_gaps_and_other_models(tmp_path: Path) -> None:
    data = seasonal(True)
    made = Forecaster(horizon=4, model="esrnn", hidden=4, batch=8, training=QUICK).fit(data)
    short = pl.from_pandas(data.head(20)).with_columns(y=pl.when(pl.int_range(20) == 17).then(None).otherwise(pl.col("y")))
    parts = made.decompose(short)
    assert isinstance(parts, pl.DataFrame)
    assert len(parts) == 20
    assert np.isnan(parts["y"].to_numpy()).sum() == 1
    assert np.isfinite(parts["level"].to_numpy()).all()
    other = Forecaster(training=QUICK, **SMALL).fit(data)
    with pytest.raises(ValueError, match=r"decompose needs .* esrnn; this one is direct"):
        other.decompose()
    figure = decomposition(parts, multiplicative=True, path=tmp_path / "d.svg")
    assert [a.get_ylabel() for a in figure.axes] == ["y", "season (factor)", "what is left (factor)"]
    assert (tmp_path / "d.svg").stat().st_size > 1000
    np.testing.assert_array_equal(figure.axes[1].lines[1].get_ydata(), parts["season"].to_numpy())
    with pytest.raises(ValueError, match=r"series 'x' must be in the frame; it has 1 series, such as \['s0'\]"):
        decomposition(parts, "x")
