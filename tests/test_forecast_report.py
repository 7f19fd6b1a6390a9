"""Laws of the report: it says what the backtest says, also when that is bad news, and it is one harmless file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longshort import cli
from longshort.apps.forecast import Config, Forecaster, baselines, diagnostics, evidence, metrics, plot
from longshort.apps.forecast.data import read
from longshort.apps.forecast.report import PALETTE, page, report, verdict
from longshort.apps.forecast.task import Backtest, seasonal_naive
from longshort.train import Training

EVIL = "<script>alert('x')</script> $\\frac & \"q\""
SECTIONS = ("verdict", "scores", "versus", "calibration", "steps", "worst", "best", "data", "setup")
H, M = 6, 12
Z = np.array(
    [-1.9599639845, -1.2815515655, -0.8416212336, -0.5244005127, -0.2533471031, 0, 0.2533471031, 0.5244005127, 0.8416212336,
     1.2815515655, 1.9599639845]
)  # fmt: skip


class Page(HTMLParser):
    """The page as a browser sees it: tags, sections, cells with their values, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.sections, self.text, self.rows, self.attributes, self.cell = [], [], "", [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "section":
            self.sections.append(named["id"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append([named, ""])
            self.cell = True

    def handle_endtag(self, tag):
        self.text += " " if tag in ("dt", "dd", "p", "b", "h1") else ""
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        self.text += data
        if self.cell:
            self.rows[-1][-1][1] += data

    def row(self, name):
        (found,) = [r for r in self.rows if r[0][1] == name]
        return found[1:]


def backtest(skill: float = 0.3, series: int = 12, spread: float = 1.0, windows: int = 2, ids=None) -> Backtest:
    """Seasons with noise of size 1, one constant series, one gap. The LSTM knows the season but errs by `skill` standard deviations more."""
    rng, tables = np.random.default_rng(0), []
    true = {}
    for s in range(series):
        t = np.arange(60 + s)
        clean = 50 + 10 * np.sin(2 * np.pi * (t + s) / M)
        y = clean + rng.normal(size=len(t))
        if s == series - 1:
            y[:] = 7.0
        if s == 0:
            y[[5, -2]] = np.nan
        name = ids[s] if ids else f"s{s:02}"
        true[name] = clean
        tables.append(pd.DataFrame({"unique_id": name, "ds": t, "y": y}))
    panel = read(pd.concat(tables))
    config = Config(horizon=H, levels=(80, 95), season_length=M, context=36, freq=1)
    number = np.repeat(np.arange(series), windows)
    origin = panel.lengths[number] - H - H * np.tile(np.arange(windows)[::-1], series)
    center = np.stack([true[panel.ids[int(s)]][n : n + H] for s, n in zip(number, origin, strict=True)])
    center = center + skill * rng.normal(size=center.shape)
    lstm = center[..., None] + spread * np.hypot(1, skill) * Z
    naive = seasonal_naive(config, panel, number, origin)
    return Backtest(panel, config, number, origin, {"LSTM": lstm, "SeasonalNaive": naive})


@pytest.fixture(scope="module")
def made() -> Backtest:
    with pytest.warns(UserWarning, match="had gaps"):
        return baselines.add(backtest(), ["Naive2"])


@pytest.fixture(scope="module")
def shown(made) -> Page:
    return Page(page(made, {"model": "m.safetensors"}))


# the numbers


def test_numbers_are_those_of_the_backtest(made, shown):
    scores = made.scores()
    assert [c[1] for c in shown.row("metric")][:3] == list(scores)
    for metric in scores["LSTM"]:
        cells = shown.row(metric)[:3]
        assert [float(c[0]["data-value"]) for c in cells] == [scores[name][metric] for name in scores]
        assert [c[1] for c in cells] == [f"{scores[name][metric]:.4g}" for name in scores]


def test_the_best_of_each_row_is_marked(made, shown):
    for metric in evidence.scores(made)["LSTM"]:
        cells = shown.row(metric)[:3]
        values = np.array([float(c[0]["data-value"]) for c in cells])
        cost = abs(values - float(metric[9:]) / 100) if metric.startswith("coverage") else values
        assert [c[0].get("class") == "best" for c in cells] == (cost == cost.min()).tolist()


def test_msis_by_definition(made):
    low, high = evidence.interval(made, made.quantiles["LSTM"], 95)
    y, want = made.truth, []
    for b in range(len(y)):
        rows = [
            (h - lo) + 40 * max(lo - v, 0) + 40 * max(v - h, 0) for v, lo, h in zip(y[b], low[b], high[b], strict=True) if v == v
        ]
        if made.scale[b] > 0:
            want.append(np.mean(rows) / made.scale[b])
    assert metrics.msis(y, low, high, made.scale, 95) == pytest.approx(np.mean(want))
    assert evidence.scores(made)["LSTM"]["MSIS-95"] == pytest.approx(np.mean(want))


def test_msis_is_least_for_the_true_interval():
    rng = np.random.default_rng(0)
    y, one = rng.normal(size=(4000, 5)), np.ones((4000, 5))
    score = {w: metrics.msis(y, -w * one, w * one, np.ones(4000), 95) for w in (1.2, 1.96, 3.0)}
    assert min(score, key=score.get) == 1.96


def test_change_is_the_ratio_of_the_scores(made, shown):
    scores = made.scores()
    for name in ("SeasonalNaive", "Naive2"):
        v = evidence.versus(made, name)
        assert v.change == pytest.approx(scores["LSTM"]["MASE"] / scores[name]["MASE"] - 1)
        assert v.low <= v.change <= v.high
        cells = shown.row(name)
        assert float(cells[0][0]["data-value"]) == v.better
        assert float(cells[2][0]["data-value"]) == v.change
    itself = evidence.versus(replace(made, quantiles={"LSTM": made.quantiles["LSTM"], "Twin": made.quantiles["LSTM"]}), "Twin")
    assert itself == (0, 1, 0, 0, 0)


def test_better_in_by_definition(made):
    frame = made.frame().dropna(subset="y")
    off = frame.assign(a=(frame.y - frame.LSTM).abs(), b=(frame.y - frame.SeasonalNaive).abs())
    scale = dict(zip(zip(made.series, made.origin, strict=True), made.scale, strict=True))
    ids = made.panel.ids.to_list()
    off["scale"] = [scale[ids.index(i), c + 1] for i, c in zip(off.unique_id, off.cutoff, strict=True)]
    off = off[off.scale > 0]
    row = off.assign(a=off.a / off.scale, b=off.b / off.scale).groupby(["unique_id", "cutoff"])[["a", "b"]].mean()
    each = row.groupby("unique_id").mean()
    assert evidence.versus(made, "SeasonalNaive").better == (each.a < each.b).mean()


def test_errors_are_those_of_the_point_forecast(made):
    high = replace(made, config=replace(made.config, point=0.9))
    off = (high.truth - high.quantiles["LSTM"][..., high.config.quantiles.index(0.9)])[made.scale > 0]
    np.testing.assert_allclose(evidence.errors(high, "LSTM")[made.scale > 0], np.abs(off) / made.scale[made.scale > 0, None])


def test_by_step_and_by_level_by_definition(made):
    y, q = made.truth, made.quantiles["LSTM"]
    good = made.scale > 0
    want = np.nanmean(np.abs(y - q[..., 5])[good] / made.scale[good, None], 0)
    np.testing.assert_allclose(evidence.step_errors(made, "LSTM"), want)
    seen = np.isfinite(y)
    np.testing.assert_allclose(evidence.calibration(made, "LSTM"), [(y < q[..., k])[seen].mean() for k in range(11)])
    inside = evidence.step_coverage(made, "LSTM", 80)
    total = (inside * seen.sum(0)).sum() / seen.sum()
    assert total == pytest.approx(made.scores()["LSTM"]["coverage-80"])


@pytest.mark.parametrize(("n", "p"), [(30, 0.5), (200, 0.9), (1999, 0.1), (5000, 0.975)])
def test_the_band_holds_what_it_promises(n, p):
    low, high = evidence.band(n, p)
    share = np.random.default_rng(0).binomial(n, p, 20_000) / n
    assert 0.94 < ((share >= low) & (share <= high)).mean() < 0.985
    assert evidence.band(0, p) == (0, 1)


def test_a_mass_on_the_quantile_counts_half():
    test = backtest()
    flat = replace(test, quantiles={"LSTM": np.repeat(test.truth[..., None], 11, -1)})
    np.testing.assert_array_equal(evidence.calibration(flat, "LSTM"), np.full(11, 0.5))


def test_extremes_are_the_worst_and_the_best(made):
    series, error = evidence.series_errors(made, "LSTM")
    assert len(series) == 11, "the constant series has none"
    for best in (False, True):
        rows = evidence.extremes(made, 4, best)
        assert made.series[rows].tolist() == series[np.argsort(error if best else -error)][:4].tolist()
        row = evidence.mean(evidence.errors(made, "LSTM"), 1)
        for k in rows:
            assert row[k] == np.nanmax(row[made.series == made.series[k]])


# the words


def test_it_is_honest_about_a_win_a_loss_and_a_draw():
    for skill, tone, said in ((0.3, "good", "LSTM beats SeasonalNaive:"), (6.0, "bad", "LSTM loses to SeasonalNaive:")):
        first = verdict(backtest(skill))[0]
        assert (first.tone, first.head) == (tone, said)
    test = backtest()
    draw = verdict(
        replace(test, quantiles={"LSTM": test.quantiles["SeasonalNaive"], "SeasonalNaive": test.quantiles["SeasonalNaive"]})
    )
    assert (draw[0].tone, draw[0].head) == ("even", "LSTM and SeasonalNaive do not clearly differ.")
    few = verdict(backtest(series=3, windows=1))
    assert "cannot show that this is no luck" in few[0].text
    assert [v.head for v in few if v.tone == "even"] == ["The 80 % interval may be honest.", "Little evidence."]


def test_it_names_a_better_baseline(made):
    better = replace(
        made,
        quantiles={
            "LSTM": made.quantiles["SeasonalNaive"] + 9,
            "SeasonalNaive": made.quantiles["SeasonalNaive"],
            "ETS": made.quantiles["LSTM"],
        },
    )
    second = verdict(better)[1]
    assert (second.tone, second.head) == ("bad", "ETS is more accurate here, and that is more than luck.")
    simple = better.quantiles | {"SeasonalNaive": better.quantiles["ETS"], "ETS": better.quantiles["SeasonalNaive"]}
    assert verdict(replace(made, quantiles=simple))[1].head == "SeasonalNaive is the most accurate here."
    assert verdict(made)[1].head == "LSTM is the most accurate of 3 forecasters here."


@pytest.mark.parametrize(
    ("spread", "tone", "what"), [(1.0, "good", "is honest"), (0.3, "bad", "is too narrow"), (4.0, "bad", "is too wide")]
)
def test_it_says_whether_intervals_keep_their_promise(spread, tone, what):
    said = [v for v in verdict(backtest(spread=spread, windows=4, series=30)) if "80 % interval" in v.head]
    assert [(v.tone, v.head) for v in said] == [(tone, f"The 80 % interval {what}.")]


# the file


def test_all_sections_are_there_and_nothing_is_loaded(made, shown):
    assert shown.sections == list(SECTIONS)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(shown.tags)
    text = page(made, {})
    assert "://" not in text
    assert "@import" not in text
    for name, value in shown.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert shown.tags.count("svg") == 4 + 6 + 4
    assert len(ids := re.findall(r'\bid="([^"]*)"', text)) == len(set(ids))


def test_its_pictures_take_the_colours_of_the_page(made):
    body = page(made, {}).split("</style>")[1]
    assert not re.findall(r"#[0-9a-f]{6}\b", body), "a colour that stays as it is in the dark"
    assert body.count("var(--forecast)") > 10


def test_names_are_escaped_everywhere(made, tmp_path):
    evil = backtest(ids=[EVIL, *(f"s{k}" for k in range(10)), "<b>flat</b>"])
    shown = Page(path := report(evil, tmp_path / "r.html", about={"data": EVIL, "title": EVIL, "notes": [EVIL]}).read_text())
    assert "<script" not in path
    assert "<b>flat" not in path
    assert shown.text.count(EVIL) >= 4, "as text it is there"
    assert "<b>flat</b>" in shown.text


def test_missing_values_and_series_without_a_mase_are_counted(made, shown):
    said = re.sub(r"\s+", " ", shown.text)
    assert "missing values 2 of 786" in said
    assert "truth that is missing 1 of 144 steps" in said
    assert "series without a MASE 1" in said
    assert "Series without a MASE (1)" in said
    assert "s11" in said.split("nothing to divide by:")[1]
    assert made.panel.checksum in said
    assert "m.safetensors" in said


def test_odd_backtests_have_a_page():
    flat = backtest(series=1, windows=1)
    assert "absolute error" in page(flat, {})
    alone = replace(backtest(), quantiles={"LSTM": backtest().quantiles["LSTM"]})
    assert Page(page(alone, {})).sections == [s for s in SECTIONS if s != "versus"]
    nothing = backtest(series=2, windows=1)
    gone = replace(nothing, origin=nothing.panel.lengths[nothing.series])
    with pytest.raises(ValueError, match="a report needs at least one window with truth; this backtest has none"):
        report(gone, "never.html")
    with pytest.raises(ValueError, match="no window of the backtest holds any truth"):
        plot.extremes(gone)


# the pictures


def test_pictures_show_the_numbers(made, tmp_path):
    for draw, numbers in (
        (diagnostics.calibration, lambda n: evidence.calibration(made, n)),
        (diagnostics.step_error, lambda n: evidence.step_errors(made, n)),
    ):
        figure = draw(made, path=tmp_path / f"{draw.__name__}.png")
        lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
        for label, name in (("LSTM", "LSTM"), ("seasonal naive", "SeasonalNaive"), ("Naive2", "Naive2")):
            np.testing.assert_array_equal(lines[label], numbers(name))
        assert (tmp_path / f"{draw.__name__}.png").stat().st_size > 10_000
    lines = {line.get_label(): line.get_ydata() for line in diagnostics.step_coverage(made).axes[0].get_lines()}
    np.testing.assert_array_equal(lines["95 % interval"], evidence.step_coverage(made, "LSTM", 95))
    points = [p.get_offsets() for p in diagnostics.series_error(made).axes[0].collections]
    better = round(11 * evidence.versus(made, "SeasonalNaive").better)
    assert [len(p) for p in points] == [better, 11 - better]
    assert len(plot.extremes(made, 3, path=tmp_path / "x.png").axes) == 3


def luminance(colour: str) -> np.ndarray:
    c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    white = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    x = np.array(white) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


SIGHT = {  # Machado et al. 2009, A physiologically-based model for simulation of color vision deficiency, severity 1
    "all": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("dark", [0, 1])
@pytest.mark.parametrize("sight", SIGHT)
def test_colours_stay_apart_for_everyone(sight, dark):
    lines = [PALETTE[name][dark] for name in ("forecast", "baseline", "naive2", "ses", "theta", "ets")]
    seen = [lab(np.array(SIGHT[sight]) @ luminance(c)) for c in lines]
    apart = min(np.linalg.norm(a - b) for k, a in enumerate(seen) for b in seen[:k])
    assert apart > 15
    assert len({str(style) for _, style in plot.STYLES.values()}) == len(plot.STYLES), "and not by colour alone"


# the command line


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    t, rng = np.arange(60), np.random.default_rng(0)
    table = pd.concat(
        pd.DataFrame({"unique_id": f"s{k}", "ds": t, "y": 10 + k + 3 * np.sin(t * np.pi / 6 + k) + rng.normal(0, 0.1, 60)})
        for k in range(3)
    )
    table.to_csv(folder / "data.csv", index=False)
    Forecaster(horizon=4, season_length=12, hidden=4, batch=8, training=Training(steps=4, evaluate=2)).fit(table).save(
        folder / "m.safetensors"
    )
    return folder


def test_eval_writes_the_report(home, tmp_path, capfd):
    words = ["eval", f"{home}/m.safetensors", "--data", f"{home}/data.csv"]
    assert cli.run([*words, "--report", f"{tmp_path}/new/r.html", "--out", f"{tmp_path}/s.json", "--baselines", "naive2", "ses",
                    "--windows", "3", "--step", "2"]) == 0  # fmt: skip
    out, err = capfd.readouterr()
    assert err == ""
    assert f"wrote {tmp_path}/new/r.html" in out
    assert "3 windows of 4 steps, 2 apart" in out
    scores = json.loads((tmp_path / "s.json").read_text())
    assert list(scores) == ["LSTM", "SeasonalNaive", "Naive2", "SES"]
    assert scores["LSTM"] == Forecaster.load(home / "m.safetensors").evaluate(home / "data.csv", 3, 2)["LSTM"]
    shown = Page((tmp_path / "new" / "r.html").read_text())
    for metric, value in scores["LSTM"].items():
        assert float(shown.row(metric)[0][0]["data-value"]) == value
    assert "from 9 past origins of 3 series" in shown.text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--report", "r.pdf"], "--report must end in .html, got 'r.pdf'."),
        (["--baselines", "prophet"], "baseline 'prophet' is unknown. Choose from Naive2, SES, Theta, ETS."),
        (["--windows", "0"], "--windows must be at least 1, got 0."),
    ],
)
def test_wrong_use_is_named(home, tmp_path, capfd, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["eval", f"{home}/m.safetensors", "--data", f"{home}/data.csv", *more]) == 2
    assert capfd.readouterr().err == f"error: {said}\n"
    assert list(tmp_path.iterdir()) == []
