"""Laws of `inspect`: the page shows the numbers that were recorded, in a real browser; and these are what autograd and a hand find."""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import shutil
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from torch import Tensor, nn

import longshort
import spoken
from longshort import Cell, cli
from longshort.apps.forecast import Forecaster
from longshort.apps.forecast.inspect import subject as of_forecast
from longshort.apps.speech import Recognizer
from longshort.apps.speech.decoding import Decoding
from longshort.apps.speech.inspect import _before, _tokens
from longshort.apps.speech.inspect import subject as of_speech
from longshort.apps.speech.language import LanguageModel
from longshort.apps.speech.language_inspect import subject as of_text
from longshort.apps.speech.units import Units
from longshort.inspection import Bars, Inspection, Question, Subject, inspect, page
from longshort.inspection.look import UNITS, floats, gradients, occlusion, packed, plain_rnn
from longshort.inspection.page import _parts
from longshort.probe import by_lag
from longshort.train import Training, train
from test_cli import start
from toy import Toy

ROOT = Path(__file__).parents[1]
EVIL = "</script><script>document.title='hacked'</script> <b>&\"'"
SHORT = Training(steps=10, evaluate=5, device="cpu")
LINES = ["one two three", "two three four", "three one one", "four four two"] * 8


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's own chromium, without a window."""
    found = shutil.which("chromium")
    if found is None:
        raise RuntimeError("these tests need chromium: sudo apt-get install chromium")
    with sync_playwright() as p:
        opened = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


class Window:
    """A page in the browser, and all that it complained of or asked for."""

    def __init__(self, browser: Browser, width: int = 1280, scheme: Any = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 1500}, color_scheme=scheme)
        self.context.set_default_timeout(120_000)  # a busy machine takes its time
        self.page: Page = self.context.new_page()
        self.wrong, self.asked = [], []
        self.page.on("pageerror", lambda e: self.wrong.append(str(e)))
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("request", lambda r: self.asked.append(r.url))

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#time .main-svg")
        return self.page

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
        assert [u for u in self.asked if not u.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="module")
def paper(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page that is open already, for other data."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("paper") / "p.html"
    path.write_text(page(inspect(made(Net(), torch.randn(10, 3)))))
    window = Window(browser)
    yield window.open(path)
    window.close()


def put(paper: Page, data: dict[str, Any]) -> None:
    """Show other data as a fresh page would."""
    paper.evaluate(
        "d => { Object.assign(S, {layer: null, question: null, gate: 'f', unit: null, x: null, range: null}); load(d); }", data
    )


class Net(nn.Module):
    """An LSTM, and two numbers of its last output."""

    def __init__(self, size: int = 3, hidden: int = 5, **how: Any) -> None:
        super().__init__()
        self.lstm = longshort.LSTM(size, hidden, batch_first=True, **how)
        self.last = nn.Linear(self.lstm.proj_size * 2 if how.get("bidirectional") and self.lstm.proj_size else
                              (self.lstm.proj_size or hidden) * (2 if how.get("bidirectional") else 1), 2)  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.lstm(x)[0][:, -1])


def made(net: nn.Module, x: Tensor, **how: Any) -> Subject:
    T = len(x)
    return Subject(**{
        "title": "toy", "network": net, "x": x, "score": net, "questions": [Question("a", T - 1, T - 1), Question("b", T - 1, T - 1)],
        "main": 1, "at": np.arange(T), "place": lambda name, steps: np.arange(steps), "neutral": x.mean(0),
        "picture": Bars(np.arange(T, dtype=float), "number")} | how)  # fmt: skip


def shown(window: Page) -> dict[str, tuple[float, str]]:
    """What the card says of the picked unit and step: the number and its text, by letter."""
    cells = window.locator("#reading dd").all()
    return {d.get_attribute("data-key"): (float(d.get_attribute("data-value")), d.inner_text()) for d in cells}  # type: ignore[misc, arg-type]


NUMBER = "\u2212?[0-9]+[.][0-9]+"


CLIPPED = """[...document.querySelectorAll('#time .annotation-text-g text')].filter(e => {  // titles that leave the figure
  return e.getBoundingClientRect().right > document.getElementById('time').getBoundingClientRect().right;
}).map(e => e.textContent)"""
AXES = "Object.keys(document.getElementById('time')._fullLayout).filter(k => k.startsWith('xaxis'))"
OVERLAP = """(() => {  // names on the time axis that touch each other
  const r = [...document.querySelectorAll('#time .xtick text')].map(e => e.getBoundingClientRect()).sort((a, b) => a.left - b.left);
  return r.filter((b, k) => k && r[k - 1].right > b.left - 1).map(b => b.left);
})()"""


def number(said: str) -> float:
    return float(said.replace("\u2212", "-"))


def pick(window: Page, name: str, value: str) -> None:
    window.select_option(f"#{name}", value)


def slide(window: Page, step: int) -> None:
    window.locator("#step").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", step)


# ---- what is found


def test_gradients_are_those_of_autograd_question_by_question():
    net, x = Net(num_layers=2, bidirectional=True), torch.randn(7, 3)
    got, flows = gradients(made(net, x), range(2))
    assert all(p.grad is None for p in net.parameters())
    for q in range(2):
        leaf = x[None].clone().requires_grad_()
        with longshort.probe.record(net) as r:
            net(leaf)[0, q].backward()
        np.testing.assert_allclose(got[q], leaf.grad[0].norm(dim=-1), rtol=1e-5)
        for t in r:
            np.testing.assert_allclose(flows[t.name][q], by_lag(t)[:, 0], rtol=1e-5)


@pytest.mark.parametrize("T", [1, 9, 300])
def test_taken_out_is_what_a_hand_finds(T):
    net, x = Net(), torch.randn(T, 3)
    got, width = occlusion(made(net, x)), 1 if T <= 256 else 2
    for t in {0, T // 2, T - 1}:
        other = x.clone()
        other[t // width * width : t // width * width + width] = x.mean(0)
        want = (net(other[None]) - net(x[None])).detach().abs()[0]
        np.testing.assert_allclose(got[:, t], want, rtol=1e-4, atol=1e-6)


def test_the_plain_rnn_is_torchs_and_its_gradient_autograds():
    x = torch.randn(6, 3)
    torch.manual_seed(0)
    rnn, h, states = nn.RNN(3, 4), torch.zeros(4), []
    for row in x:
        h = torch.tanh(rnn.weight_ih_l0 @ row + rnn.bias_ih_l0 + rnn.weight_hh_l0 @ h + rnn.bias_hh_l0)
        h.retain_grad()
        states.append(h)
    h.sum().backward()
    before = torch.random.get_rng_state()
    np.testing.assert_allclose(plain_rnn(x, 4), [float(s.grad.norm()) for s in reversed(states)], rtol=1e-5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_forgetting_model_is_told_so_and_a_long_memory_is_not():
    texts = {}
    for bias in (-3.0, 8.0):
        net = Net(hidden=6)
        with torch.no_grad():
            net.lstm.bias_ih_l0.unflatten(0, (4, 6))[1] = bias
            net.lstm.weight_hh_l0.zero_()
        texts[bias] = str(inspect(made(net, torch.randn(60, 3), context=60)))
    assert "your context is 60" in texts[-3.0]
    assert "warning" in texts[-3.0]
    assert re.search(r"memory horizon [12] steps", texts[-3.0])
    assert "100% of forget gates stuck open" in texts[8.0]
    assert "memory horizon more than 60 steps" in texts[8.0]
    assert "warning" not in texts[8.0]


# ---- the page


def test_the_page_shows_the_numbers_that_were_recorded(paper, tmp_path):
    net, x = Net(num_layers=2, bidirectional=True), torch.randn(12, 3)
    found = inspect(made(net, x, labels=[f"day {k}" for k in range(12)]))
    p = paper
    put(p, found.data)
    for name, unit, step in (("lstm.l0", 3, 0), ("lstm.l1_reverse", 0, 7), ("lstm.l1", 4, 11)):
        pick(p, "layer", name)
        p.fill("#unit", str(unit))
        p.locator("#unit").dispatch_event("change")
        slide(p, step)
        t = found.recording[name]
        assert p.inner_text("#which") == f"Unit {unit} of {name} at day {step}"
        for k, (value, text) in shown(p).items():
            v = getattr(t, k)[:, 0]
            assert value == pytest.approx(float(v[step, unit]), abs=float(v.max() - v.min()) / 65534)
            assert number(text) == pytest.approx(value, abs=5.1e-5)
        equation, before = p.inner_text("#equation"), step + (1 if t.reverse else -1)
        if 0 <= before < 12:
            f, c0, i, g, c = map(number, re.findall(NUMBER, equation))
            assert f * c0 + i * g == pytest.approx(c, abs=3e-4)
            assert c0 == pytest.approx(float(t.c[before, 0, unit]), abs=1e-4)
        else:
            assert equation == ""
    for q, leaf in enumerate(found.data["questions"]):
        pick(p, "question", str(q))
        assert leaf["name"] in p.inner_text("#flowing")
    np.testing.assert_allclose(p.evaluate("D.gradient.map(v => Array.from(v))"), gradients(made(net, x), range(2))[0], rtol=1e-6)
    np.testing.assert_allclose(p.evaluate("D.changed.map(v => Array.from(v))"), occlusion(made(net, x)), rtol=1e-6, atol=1e-7)
    assert p.evaluate("Array.from(D.layers[0].plain)") == pytest.approx(plain_rnn(x, 5), rel=1e-6)
    p.click("#faster")
    p.evaluate("$('layers').tBodies[0].rows[0].click()")
    assert p.input_value("#layer") == "lstm.l0"
    p.screenshot(path=tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 20_000


def test_a_click_into_the_heat_map_picks_unit_and_step(paper):
    found = inspect(made(Net(), torch.randn(10, 3)))
    p = paper
    put(p, found.data)
    box = p.locator("#time").evaluate(
        "e => { const l = e._fullLayout, k = +S.domains.heat.axis.slice(1), y = l[`yaxis${k}`], x = l.xaxis, r = e.getBoundingClientRect();"
        "return {x: r.left + x._offset + x.d2p(4), y: r.top + y._offset + y._length * 0.7}; }"
    )
    p.mouse.move(box["x"], box["y"])
    p.wait_for_selector("#time .hoverlayer .hovertext")
    p.mouse.click(box["x"], box["y"])
    units = found.data["layers"][0]["units"]
    assert p.input_value("#unit") == str(units[3])
    assert p.input_value("#step") == "4"


def test_colours_follow_the_system_and_the_switch_and_nothing_is_cut_off_on_a_telephone(browser, tmp_path):
    (tmp_path / "p.html").write_text(page(inspect(made(Net(), torch.randn(10, 3)))))
    colours = []
    window = Window(browser, width=400)
    p = window.open(tmp_path / "p.html")
    for scheme in ("light", "dark"):
        p.emulate_media(color_scheme=scheme)
        assert p.evaluate("document.documentElement.scrollWidth") == 400
        back = "getComputedStyle(document.body).backgroundColor"
        colours.append([p.evaluate(back)])
        for _ in range(2):
            p.click("#theme")
            colours[-1].append(p.evaluate(back))
        p.click("#theme")
    window.close()
    (system, light, dark), (system2, light2, dark2) = colours
    assert system == light == light2 != dark == dark2 == system2


CELLS = [
    {"cell": Cell(forget=False)},
    {"cell": Cell(coupled=True, peephole=True)},
    {"cell": Cell(layer_norm=True, zoneout=(0.1, 0.1))},
    {"cell": Cell(projection=3), "num_layers": 2, "bidirectional": True},
    {"cell": Cell(projection=5)},
    {"dilation": 3, "num_layers": 2},
]


def test_every_cell_has_its_page(paper):
    p = paper
    for how in CELLS:
        found = inspect(made(Net(**how).eval(), torch.randn(11, 3)))
        assert all(layer["exact"] is (how.get("cell", Cell()).zoneout[1] == 0) for layer in found.data["layers"])
        put(p, found.data)
        for layer in found.data["layers"]:
            pick(p, "layer", layer["name"])
            t = found.recording[layer["name"]]
            pick(p, "gate", "h")
            pick(p, "gate", "f")
            slide(p, 5)
            unit = int(p.input_value("#unit"))
            for k, (value, _) in shown(p).items():
                if k == "h" and t.cell.projection:
                    assert np.isnan(value)
                else:
                    assert value == pytest.approx(float(getattr(t, k)[5, 0, unit]), abs=2e-4)
            said = re.findall(NUMBER, p.inner_text("#equation"))
            assert len(said) == 5 * layer["exact"]
            if said:
                f, c0, i, g, c = map(number, said)
                assert f * c0 + i * g == pytest.approx(c, abs=3e-4)


def test_a_long_recording_is_reduced_and_the_page_says_so(paper):
    net, x = Net(hidden=100, num_layers=2, bidirectional=True), torch.randn(1100, 3)
    found = inspect(made(net, x, questions=[Question(f"q{k}", 9, 9) for k in range(60)], main=59, changed=np.zeros((60, 1100)),
                         score=lambda x: net(x)[:, :1].expand(-1, 60)))  # fmt: skip
    p = paper
    put(p, found.data)
    assert len(page(found)) < 15e6
    notes = p.inner_text("#notes")
    assert "48 of 60 answers are here" in notes
    assert f"{UNITS} of 100 units" in notes
    assert "one step in 2" in notes
    slide(p, 300)
    t, unit = found.recording["lstm.l0"], int(p.input_value("#unit"))
    assert "600" in p.inner_text("#which")
    assert shown(p)["f"][0] == pytest.approx(float(t.f[600, 0, unit]), abs=1e-4)
    assert p.inner_text("#equation") == ""


def test_texts_are_texts_and_numbers_that_are_none_do_no_harm(browser, tmp_path):
    net, x = Net(), torch.randn(6, 3)
    x[3] = torch.nan
    found = inspect(
        made(net, x, title=EVIL, labels=[EVIL] * 6, questions=[Question(EVIL, 0, 1), Question("b", 2, 2)], main=0, notes=[EVIL])
    )
    assert any(f.measure == "finite" for f in found.findings)
    (tmp_path / "p.html").write_text(page(found))
    window = Window(browser)
    p = window.open(tmp_path / "p.html")
    assert p.title() == EVIL
    assert p.inner_text("h1").split() == EVIL.split()
    slide(p, 4)
    assert shown(p)["c"][1] == "\u2013"
    window.close()


def test_numbers_survive_the_way():
    v = np.array([[0.0, 1.0, np.nan], [-3.25, 1e3, 7.0]])
    made = packed(v)
    whole = np.frombuffer(base64.b64decode(made["u"]), "<u2").reshape(v.shape)
    back = np.where(whole == 65535, np.nan, made["low"] + whole / 65534 * (made["high"] - made["low"]))
    np.testing.assert_allclose(back, v, atol=1003.25 / 65534)
    same = np.frombuffer(base64.b64decode(floats(v)["f"]), "<f4").reshape(v.shape)
    np.testing.assert_array_equal(same, v.astype(np.float32))


def test_without_plotly_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    _parts.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'longshort\[inspect\]'"):
        page(inspect(made(Net(), torch.randn(4, 3))))


# ---- the applications


def table(n: int = 60) -> pd.DataFrame:
    t, rng = np.arange(n), np.random.default_rng(0)
    parts = [pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2020-01-01", periods=n, freq="MS"),
                           "y": 20 + k + 3 * np.sin(2 * np.pi * t / 12 + k) + 0.1 * rng.normal(size=n)}) for k in range(3)]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with a model of each application, and what to look at."""
    folder = tmp_path_factory.mktemp("inspect")
    table().to_csv(folder / "f.csv", index=False)
    for kind in ("direct", "deepar", "esrnn"):
        Forecaster(horizon=4, hidden=6, model=kind, training=SHORT).fit(table()).save(folder / f"{kind}.safetensors")
    language = LanguageModel(hidden=8, layers=1, training=SHORT).fit(LINES, LINES[:4], units_of=Units.fit(LINES))
    language.save(folder / "language.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoken, "VOICES", ("en-us",))
        heard = spoken.corpus(folder / "sound", {"train": 8}, most=3)["train"]
    how = "--hidden 48 --layers 1 --front stack --dropout 0 --seconds 12 --longest 8 --ngram 0 --curriculum 0 --time-masks 0 --freq-masks 0"
    more = "--speeds 1 --gain 0 --lr 1e-2 --warmup 0.1 --average 0.9 --evaluate 100 --steps 300 --quiet"
    files = ["--train", str(heard), "--valid", str(heard), "--out", str(folder / "speech.safetensors")]
    assert cli.run(["train", "speech", *files, *how.split(), *more.split()]) == 0
    return folder


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("direct", ["f.csv", "--series", "s1"], "mattered most for all steps: 20"),
        ("deepar", ["f.csv"], "mattered most for 2025-01-01: 20"),
        ("esrnn", ["f.csv"], "mattered most for all steps: 20"),
        ("speech", ["sound/train/0000.flac"], "mattered most for "),
        ("language", ["four one two"], "mattered most for two: "),
    ],
)
def test_every_application_has_its_page(browser, home, tmp_path, capsys, monkeypatch, model, given, said):
    monkeypatch.chdir(home)
    out = tmp_path / "page.html"
    assert cli.run(["inspect", f"{model}.safetensors", *given, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert said in told
    assert f"wrote {out}" in told
    assert re.search(r"^  (note|warning) ", told, re.M)
    if model in ("deepar", "esrnn"):
        return  # their pages are like that of direct
    window = Window(browser)
    p = window.open(out)
    for width, scheme in ((1280, "light"), (400, "dark")):
        p.set_viewport_size({"width": width, "height": 900})
        p.emulate_media(color_scheme=scheme)
        p.wait_for_function(f"document.getElementById('time')._fullLayout.width < {width}")
        assert p.evaluate("document.documentElement.scrollWidth") == width
        for k in range(min(2, p.evaluate("D.questions.length"))):
            pick(p, "question", str(k))
        p.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        assert p.evaluate(AXES) == ["xaxis"]  # one time axis for all rows
        assert p.evaluate(OVERLAP) == []
        assert p.evaluate(CLIPPED) == []
    window.close()


@pytest.mark.parametrize("kind", ["direct", "deepar", "esrnn"])
def test_a_forecast_without_a_value_is_the_forecast_of_data_without_it(home, kind):
    forecaster, df = Forecaster.load(home / f"{kind}.safetensors"), table()
    found = of_forecast(forecaster, forecaster._panel(df), "s1")
    T, before = found.x.shape[0], forecaster.predict(df)
    assert found.labels[int(found.at[-1])] == "2024-12-01"
    for back in (1, 2, 13):
        holed = df.copy()
        holed.loc[holed.index[holed.unique_id == "s1"][-back], "y"] = np.nan
        change = (forecaster.predict(holed).LSTM - before.LSTM).abs()[before.unique_id == "s1"].to_numpy()
        want = change[:1] if kind == "deepar" else [change.mean(), *change]
        np.testing.assert_allclose(found.changed[:, T - back], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [(50,), (60, 95), ()])
def test_the_interval_that_is_drawn_is_the_one_that_it_says(levels):
    forecaster = Forecaster(horizon=3, hidden=4, levels=levels, training=SHORT).fit(table())
    picture, made = of_forecast(forecaster, forecaster.panel, "s0").picture, forecaster.predict()
    made = made[made.unique_id == "s0"]
    np.testing.assert_allclose(picture.ahead[1], made.LSTM)
    assert picture.level == max(levels, default=80)
    if levels:
        names = [f"LSTM-{end}-{picture.level}" for end in ("lo", "hi")]
        np.testing.assert_allclose(picture.ahead[[0, 2]].T, made[names])


def test_an_ensemble_is_looked_into_by_its_first_network():
    forecaster = Forecaster(horizon=3, hidden=4, ensemble=2, training=SHORT).fit(table())
    found = of_forecast(forecaster, forecaster.panel)
    assert found.network is forecaster.model.members[0]
    assert "first of 2 networks" in found.notes[0]


def test_a_sentence_depends_on_nothing_that_follows_and_its_surprise_is_the_models(home):
    model = LanguageModel.load(home / "language.safetensors")
    found = of_text(model, "four one two")
    assert np.nansum(found.picture.y) * np.log(2) == pytest.approx(-model.log_probs(["four one two"])[0], rel=1e-5)
    gradient, changed = gradients(found, range(4))[0], occlusion(found)
    assert [q.name for q in found.questions] == ["four", "one", "two", "the end"]
    for q, v, w in zip(found.questions, gradient, changed, strict=True):
        last = round(q.end)  # the place of its last token, which it does not read
        assert (v[:last] > 0).all()
        assert (v[last:] == 0).all()
        assert (w[last:] == 0).all()


def test_a_word_was_heard_by_no_later_sound(home):
    recognizer = Recognizer.load(home / "speech.safetensors")
    found = of_speech(recognizer, home / "sound/train/0000.flac")
    said = recognizer.transcribe(home / "sound/train/0000.flac")
    assert [q.name for q in found.questions] == [w.text for w in said.words]
    assert len(said.words) > 1
    gradient = gradients(found, range(len(found.questions)))[0]
    for w, v in zip(said.words, gradient, strict=True):
        assert v[found.at < w.end].max() > 0
        assert (v[found.at > w.end] == 0).all()
    part = of_speech(recognizer, home / "sound/train/0000.flac", start=0.5, seconds=1.0)
    assert len(part.picture.samples) == 16_000
    assert "1.0 s from 0.5 s on" in part.notes[0]
    with torch.no_grad():
        recognizer.fitted.head.bias[0] += 100
    silent = inspect(of_speech(recognizer, np.zeros(8000, np.float32), 16_000))
    assert silent.data["questions"][0]["name"] == "the last output: no word was heard"


@pytest.mark.parametrize("predictor", ["stateless", "lstm"])
def test_the_tokens_of_a_transducer_are_scored_as_it_wrote_them(home, predictor):
    task_of = Recognizer(model="transducer", predictor=predictor, hidden=8, layers=1, channels=2, training=SHORT)
    recognizer = task_of.fit(home / "sound" / "train.jsonl")
    network = recognizer.fitted
    with torch.no_grad():
        network.write.bias[0] -= 3  # so that it writes something
        x = torch.from_numpy(recognizer.features(home / "sound/train/0000.flac"))[None]
        encoded, steps, _ = network.encode(x, torch.tensor([x.shape[1]]))
        search = recognizer.reader.searches(network, Decoding())()
        search.accept(network.said(encoded)[0][: int(steps[0])])
        heard = search.finish(1)[0]
        assert heard.tokens
        got = _tokens(network, encoded, heard.tokens, heard.times, _before(network, heard.tokens))[0]
        np.testing.assert_allclose(got, heard.logps, rtol=1e-3, atol=1e-4)
    _, flows = gradients(of_speech(recognizer, home / "sound/train/0000.flac"), [0] * 9)
    assert {name: len(v) for name, v in flows.items()} == dict.fromkeys(flows, 9)
    assert all(np.isnan(v).all() == name.startswith("predictor") for name, v in flows.items()), "the predictor hears nothing"


@pytest.mark.parametrize("way", ["packed", "named"])
def test_a_network_may_pack_its_input_or_name_it(way):
    class Own(Net):
        def forward(self, x: Tensor) -> Tensor:
            if way == "named":
                return self.last(self.lstm(input=x)[0][:, -1])
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, [x.shape[1]] * len(x), batch_first=True)
            return self.last(torch.nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0][:, -1])

    net, x = Own().eval(), torch.randn(11, 3)
    plain = Net()
    plain.load_state_dict(net.state_dict())
    one, two = (inspect(made(n.eval(), x)).data for n in (net, plain))
    assert one["layers"][0]["gates"] == two["layers"][0]["gates"]
    assert one["layers"][0]["plain"] == two["layers"][0]["plain"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["direct", "f.csv", "--series", "s9"], r"no series 's9' in the data; it holds s0, s1, s2\."),
        (["direct", "f.csv", "--out", "p.txt"], r"--out must end in \.html, got 'p\.txt'\."),
        (["direct", "f.csv", "--port", "8000"], r"give --serve as well"),
        (["direct", "f.csv", "--serve", "--port", "70000"], r"--port must be in 0\.\.65535, got 70000; 0 takes a free one\."),
        (["language", " "], r"a sentence with a word in it"),
        (["speech", "sound/train/0000.flac", "--start", "60"], r"there is nothing from 60 s on"),
        (["speech", "sound/train/0000.flac", "--seconds", "0"], r"seconds more than 0"),
        (["speech", "sound/train/0000.flac", "--start", "inf", "--seconds", "inf"], r"start must be 0 or more"),
    ],
)
def test_wrong_use_is_told(home, monkeypatch, capsys, command, message):
    monkeypatch.chdir(home)
    assert cli.run(["inspect", f"{command[0]}.safetensors", *command[1:]]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (home / "inspect.html").exists()


# ---- while it is trained


def ask(url: str, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as got:
            return got.status, got.read(), got.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read(), e.headers


def test_a_page_that_is_served_follows_the_model(browser, home, tmp_path):
    model = tmp_path / "live.safetensors"
    shutil.copy(home / "direct.safetensors", model)
    child = start("inspect", model, home / "f.csv", "--serve", cwd=tmp_path)
    try:
        for line in child.stdout:
            if found := re.match(r"serving (http://127\.0\.0\.1:(\d+)) until Ctrl-C", line):
                break
        url = found[1]
        status, body, headers = ask(f"{url}/data?after=0")
        assert status == 200
        first = int(headers["X-Version"])
        assert ask(f"{url}/data?after={first}")[0] == 204
        assert json.loads(body)["title"] == "Forecast of s0"
        assert [ask(f"{url}/{path}")[0] for path in ("data", "data?after=x", "etc/passwd", "../live.safetensors", "?x")] == [
            404
        ] * 5
        assert ask(url, Host="elsewhere.example")[:2] == (403, b"This page is served to 127.0.0.1 and localhost only.")
        assert ask(url, Host="localhost:9000")[0] == 200  # forwarded
        context = browser.new_context()
        p = context.new_page()
        p.goto(url)
        p.wait_for_selector("#time .main-svg")
        pick(p, "layer", "decoder.l0")
        before = shown(p)["c"][0]
        better = Forecaster(horizon=4, hidden=6, training=Training(steps=20, evaluate=10, seed=1)).fit(table(), preview=model)
        p.wait_for_function(f"version > {first} && D.layers[0].name", timeout=60_000)
        p.wait_for_function(f"Math.abs({before} - document.querySelector('dd[data-key=c]').dataset.value) > 1e-6", timeout=60_000)
        assert p.input_value("#layer") == "decoder.l0"
        assert p.inner_text("#live").startswith("live, 20")
        shutil.copy(home / "language.safetensors", tmp_path / "other")
        os.replace(tmp_path / "other", model)  # not a forecaster: it says so, and goes on
        assert any(line.startswith("error: ") for line in child.stderr)
        better.save(model)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0
        assert err.strip().endswith("stopped")
        assert "Traceback" not in err
        assert "has changed: looked again" in out
        p.wait_for_selector("#live.lost")
        context.close()
        assert not (tmp_path / "inspect.html").exists()
    finally:
        child.kill()
        child.wait()


def test_a_preview_is_a_model_and_changes_nothing(tmp_path):
    plain = Forecaster(horizon=3, hidden=4, ensemble=2, training=SHORT).fit(table())
    seen = Forecaster(horizon=3, hidden=4, ensemble=2, training=SHORT).fit(table(), preview=tmp_path / "now.safetensors")
    for k, v in plain.model.state_dict().items():
        assert torch.equal(v, seen.model.state_dict()[k])
    one = Forecaster.load(tmp_path / "now.safetensors")
    assert len(one.model.members) == 1
    assert np.isfinite(one.predict(table()).LSTM).all()
    learned = LanguageModel(hidden=8, layers=1, training=SHORT).fit(
        LINES, LINES[:4], units_of=Units.fit(LINES), preview=tmp_path / "l"
    )
    last = LanguageModel.load(tmp_path / "l")
    assert last.config == learned.config
    assert np.isfinite(last.log_probs(["one two"])).all()
    assert inspect(of_text(last, "one two")).data["layers"]


def test_a_preview_comes_at_each_score():
    seen: list[bool] = []
    train(Toy(), Training(steps=10, evaluate=4), progress=False, preview=lambda m: seen.append(m.training))
    assert seen == [False] * 3


def test_an_inspection_tells_what_mattered():
    found = inspect(made(Net(), torch.randn(5, 3), labels=list("abcde")))
    assert isinstance(found, Inspection)
    assert len(found.strongest) == 3
    assert set(found.strongest) <= set("abcde")


def test_the_example_learns_with_chrono_alone_and_the_page_on_it_says_the_truth(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import remember

    remember.main(tmp_path)
    told = capsys.readouterr().out
    rates = [int(n) for n in re.findall(r"(\d+)% of 1000 first symbols", told)]
    assert rates[0] < 40
    assert rates[1] > 99
    found = remember.look(remember.learn(f"chrono:{remember.T}", 600))
    assert found.strongest[0] == found.data["labels"][0]
    assert (tmp_path / "inspect.html").stat().st_size < 6e6


def test_the_code_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "inspect.md").read_text()
    exec("".join(re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)), {})
    assert "A toy" in capsys.readouterr().out
    assert (tmp_path / "inspect.html").exists()
    verbs = re.findall(r"^longshort (\w+)", text, re.M)
    assert set(verbs) == {"inspect", "train"}


def test_flags_that_the_docs_name_are_there(capsys):
    text = (ROOT / "docs" / "inspect.md").read_text()
    flags = set(re.findall(r"--[a-z]+", text)) - {"--horizon"}
    for command in (["train", "forecast"], ["inspect"]):
        assert cli.run([*command, "--help"]) == 0
    known = capsys.readouterr().out + "".join(inspect_doc(room) for room in cli.ROOMS.values())
    assert [f for f in flags if f.removeprefix("--") not in known] == []


def inspect_doc(room: str) -> str:
    return importlib.import_module(room).inspect.__doc__
