"""Laws of looking into a translator: its answers are the translator's, its gradients and losses those that a hand finds, and the
page shows the words and the attention."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser

from longshort import Cell, cli, probe
from longshort.apps.translate import Translator
from longshort.apps.translate.inspect import DIRECT, START, subject
from longshort.apps.translate.model import Network
from longshort.apps.translate.vocabulary import Vocabulary
from longshort.inspection import inspect, page
from longshort.inspection.look import gradients, occlusion
from test_inspect import AXES, CLIPPED, OVERLAP, Window, browser, pick  # noqa: F401  (browser is a fixture)

pytestmark = pytest.mark.usefixtures("one_thread")
ENGLISH = ["the small boat sails home", "a red <b>boat</b> & a blue one", "home is a small red house", "the boat is at home"]
GERMAN = [
    "das kleine Boot segelt heim",
    "ein rotes <b>Boot</b> & ein blaues",
    "daheim ist ein kleines rotes Haus",
    "das Boot ist daheim",
]
TEXT, SAID = "the red boat sails home", "das rote Boot ist daheim"


def made(cell: Cell = Cell(), seed: int = 0, **how: object) -> Translator:  # noqa: B008
    """A translator that has learned nothing."""
    torch.manual_seed(seed)
    t = Translator(cell=cell, **{"pieces": 60, "embed": 8, "hidden": 6, "decode": 8, "heads": 2, "shortlist": 0} | how)
    if t.config.shared:
        t.vocabularies = (Vocabulary.fit(ENGLISH + GERMAN, "bpe", 60),) * 2
    else:
        t.vocabularies = Vocabulary.fit(ENGLISH, "bpe", 50), Vocabulary.fit(GERMAN, "bpe", 60)
    t.network = Network(t.config, t.cell, *map(len, t.vocabularies)).eval()
    return t


KINDS = {
    "default": {},
    "feed": {"feed": True},
    "coverage": {"feed": True, "attention": "additive", "coverage": True, "heads": 1},
    "two vocabularies": {"shared": False, "tied": "none", "attention": "dot", "residual": False, "encoder_layers": 1},
    "projection": {"cell": Cell(projection=4, peephole=True), "feed": True, "decoder_layers": 1},
}


@pytest.fixture(params=KINDS, scope="module")
def translator(request: pytest.FixtureRequest) -> Translator:
    return made(**KINDS[request.param])


def test_the_answers_are_those_of_the_translator(translator):
    found = subject(translator, TEXT, translation=SAID)
    with torch.no_grad():
        answers = found.score(found.x[None])[0]
    assert [q.name for q in found.questions] == [*SAID.split(), "the end"]
    for q in found.questions[:-1]:
        assert "".join(found.labels[round(q.start) : round(q.end) + 1]).replace("▁", "") == q.name
    (want,) = translator.score([(TEXT, SAID)])
    assert float(answers.sum()) == pytest.approx(want, rel=1e-4)
    assert np.nansum(found.picture.bars.y) * np.log(2) == pytest.approx(-want, rel=1e-4)
    (best,) = translator.explain(TEXT, beam=3, ratio=1.0)
    own = subject(translator, TEXT, beam=3, ratio=1.0)
    assert own.title == f"“{TEXT}” → “{best.text}”"
    if best.finished:
        with torch.no_grad():
            assert float(own.score(own.x[None]).sum()) == pytest.approx(best.logp, rel=1e-4)
    np.testing.assert_allclose(own.picture.weights[: len(best.attention)], best.attention, atol=1e-5)
    assert own.labels[: len(best.source_pieces) - 1] == list(best.source_pieces[:-1])


def test_with_keep_it_looks_into_what_was_translated(translator):
    text = "see {x}: the <b>red</b> boat, https://a.de/b"
    (best,) = translator.explain(text, keep=True, beam=3)
    found = subject(translator, text, keep=True, beam=3)
    assert found.labels[: len(best.source_pieces) - 1] == [p.replace("<unk>", "⁇") for p in best.source_pieces[:-1]]
    assert len(found.x) == len(best.source_pieces) + len(best.pieces)
    if best.finished:
        with torch.no_grad():
            assert float(found.score(found.x[None]).sum()) == pytest.approx(best.logp, rel=1e-4)


def test_a_word_depends_on_all_of_the_source_and_on_nothing_that_follows(translator):
    found = subject(translator, TEXT, translation=SAID)
    S, asked = len(found.picture.weights[0]), range(len(found.questions))
    for q, v, w in zip(found.questions, gradients(found, asked)[0], occlusion(found), strict=True):
        last = round(q.end)  # the place of its last token, which the decoder has not read
        assert (v[:S] > 0).all()
        assert (v[S:last] > 0).all()
        assert (v[last:] == 0).all()
        assert (w[last:] < 1e-5).all()
    assert found.labels[S] == START
    assert len(found.labels) == len(found.x) + 1


def test_gradient_and_taken_out_are_what_a_hand_finds(translator):
    found = subject(translator, TEXT, translation=SAID)
    net, S, q = found.network, len(found.picture.weights[0]), len(found.questions) - 2
    norm = gradients(found, [q])[0][0]
    out, eps = occlusion(found)[q], 1e-2
    with torch.no_grad():
        before = found.score(found.x[None])[0, q]
    for t in (0, S - 1, S, S + 2):
        x = found.x.clone().requires_grad_()
        (g,) = torch.autograd.grad(found.score(x[None])[0, q], x)
        way = torch.zeros_like(g)
        way[t] = g[t] / g[t].norm()
        with torch.no_grad():
            more, less = (found.score((found.x + sign * eps * way)[None])[0, q] for sign in (1, -1))
            other = found.x.clone()
            other[t] = (net.source if t < S else net.target).mean(0) * 8**0.5
            without = found.score(other[None])[0, q]
        assert float(more - less) / (2 * eps) == pytest.approx(norm[t], rel=0.03, abs=1e-4)
        assert abs(float(without - before)) == pytest.approx(out[t], rel=1e-3, abs=1e-5)


def test_every_layer_shows_each_of_its_steps(translator):
    found = subject(translator, TEXT, translation=SAID)
    S, T = len(found.picture.weights[0]), len(found.picture.weights)
    looked, c = inspect(found), translator.config
    names = [f"encoder.{k}.l0{way}" for k in range(c.encoder_layers) for way in ("", "_reverse")]
    assert [layer["name"] for layer in looked.data["layers"]] == names + [f"decoder.{k}.l0" for k in range(c.decoder_layers)]
    for layer, trace in zip(looked.data["layers"], looked.recording, strict=True):
        first, steps = (0, S) if layer["name"] in names else (S, T)
        at = np.frombuffer(b64decode(layer["at"]["f"]), "<f4")
        assert at.tolist() == list(range(first, first + steps))
        assert layer["plain"]["shape"] == (steps,)
        assert layer["flow"]["shape"] == (len(found.questions), steps)
        assert trace.flows


def test_a_decoder_that_runs_step_by_step_is_recorded_as_one_that_runs_whole():
    net = made().fitted
    tokens, source = torch.tensor([[2, 8, 9, 10, 11]]), torch.tensor([[5, 6, 7, 3]])

    def run(parts: list[torch.Tensor]) -> probe.Recording:
        with probe.record(net) as r:
            memory = net.remember(source, torch.tensor([4]))
            state, y = net.start(memory), None
            for part in parts:
                y, state, _ = net.run(part, state, memory)
            net.write(y)[-1, 0, 5].backward()
        return r

    for whole, joined in zip(run([tokens]), run(list(tokens.split(1, 1))), strict=True):
        for k in "ifgoch":
            assert torch.equal(getattr(whole, k), getattr(joined, k))
        for k in ("dh", "dc"):
            assert (getattr(whole, k) > 0).all()
            torch.testing.assert_close(getattr(joined, k), getattr(whole, k), rtol=1e-4, atol=1e-7)


def test_the_page_shows_words_and_attention(browser: Browser, tmp_path: Path):  # noqa: F811
    t = made(feed=True)
    found = inspect(subject(t, ENGLISH[1], translation=GERMAN[1]))
    assert "mattered most for blaues: " in str(found)
    (tmp_path / "p.html").write_text(page(found))
    window = Window(browser)
    p = window.open(tmp_path / "p.html")
    weights = subject(t, ENGLISH[1], translation=GERMAN[1]).picture.weights
    np.testing.assert_allclose(p.evaluate("D.picture.weights.map(v => Array.from(v))"), weights, atol=1e-6)
    pick(p, "question", "2")
    drawn = "".join(p.locator("#time .annotation-text").all_text_contents())
    assert "what mattered for <b>Boot</b>: gradient" in drawn
    assert "&" in drawn
    assert p.inner_text("h1") == f"“{ENGLISH[1]}” → “{GERMAN[1]}”"
    assert p.locator("#question option").all_inner_texts() == [*GERMAN[1].split(), "the end"]
    box = p.locator("#time").evaluate(
        "e => { const l = e._fullLayout, y = l[S.domains.matrix.axis.replace('y', 'yaxis')], r = e.getBoundingClientRect();"
        "return {x: r.left + l.xaxis._offset + l.xaxis.d2p(1), y: r.top + y._offset + y.d2p(0)}; }"
    )
    p.mouse.move(box["x"], box["y"])
    p.wait_for_selector("#time .hoverlayer .hovertext")
    p.mouse.click(box["x"], box["y"])
    assert p.input_value("#question") == "0"
    for width, scheme in ((1280, "light"), (400, "dark")):
        p.set_viewport_size({"width": width, "height": 900})
        p.emulate_media(color_scheme=scheme)
        p.wait_for_function(f"document.getElementById('time')._fullLayout.width < {width}")
        assert p.evaluate("document.documentElement.scrollWidth") == width
        pick(p, "layer", "decoder.1.l0")
        p.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        assert p.evaluate(AXES) == ["xaxis"]
        assert p.evaluate(OVERLAP) == []
        assert p.evaluate(CLIPPED) == []
    window.close()


def test_what_it_cannot_or_does_not_look_at_is_told():
    t = made()
    with pytest.raises(ValueError, match=r"must be a sentence with a word in it, got ' \\n '"):
        subject(t, " \n ")
    assert subject(t, TEXT).notes == [DIRECT]
    several = t.together(t)
    notes = subject(several, f"{TEXT}\n{TEXT}", translation=SAID).notes
    assert "first of 2 sentences" in notes[1]
    assert "first of 2 networks" in notes[2]
    assert "was given" in notes[3]
    odd = subject(t, TEXT, translation="das Boøt")
    assert [q.name for q in odd.questions] == ["das", "Bo⁇t", "the end"]
    silent = subject(t, TEXT, translation="")
    assert [q.name for q in silent.questions] == ["the end"]
    assert inspect(silent).data["main"] == 0


def test_the_verb_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture):
    model, out = made(feed=True).save(tmp_path / "m.safetensors"), tmp_path / "page.html"
    assert cli.run(["inspect", str(model), TEXT, "--translation", SAID, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"“{TEXT}” → “{SAID}”\n")
    assert "mattered most for daheim: " in told
    assert told.endswith(f"wrote {out}\n")
    assert DIRECT in out.read_text(encoding="utf-8")
    assert cli.run(["inspect", str(model), "..."]) == 2
    assert "must be a sentence with a word in it, got '...'." in capsys.readouterr().err
