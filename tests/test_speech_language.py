"""The language model: what it says are probabilities, stepwise or at once, and a search with it writes fewer words that are none."""

from __future__ import annotations

import gzip
import json
import math
import random
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import longshort
from longshort import cli
from longshort.apps.speech import Config, Recognizer
from longshort.apps.speech.decode import PrefixBeam
from longshort.apps.speech.decoding import Decoding, Reader
from longshort.apps.speech.language import LanguageModel, LanguageScorer
from longshort.apps.speech.language_task import LanguageConfig, LanguageNetwork, LanguageTask, Text, surprise
from longshort.apps.speech.metrics import wer
from longshort.apps.speech.task import Recipe
from longshort.apps.speech.units import Units
from longshort.cell import Cell
from longshort.train import Training
from spoken import DIGITS

FAST = Training(steps=250, lr=5e-3, evaluate=125, patience=0, average=0.98)
BRIEF = replace(FAST, steps=4, evaluate=2)
SMALL = {"hidden": 96, "layers": 1, "dropout": 0.1, "weight_drop": 0.0, "tokens": 1500}
TINY = {"hidden": 10, "layers": 2, "tokens": 200}


pytestmark = pytest.mark.usefixtures("one_thread")


def strings(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(DIGITS, k=rng.randint(1, 6))) for _ in range(n)]


LINES = strings(1500)
CHAR, BPE = Units.fit(LINES), Units.fit(LINES, "bpe", 40)


@pytest.fixture(scope="module")
def learned(one_thread: None) -> LanguageModel:
    """Trained in about four seconds."""
    return LanguageModel(training=FAST, **SMALL).fit(LINES, strings(100, 1), units_of=CHAR)


def drawn(units: Units = CHAR, cell: Cell | None = None, **fields) -> LanguageModel:
    """Weights as they are drawn, some of them larger, so that what it says is far from even."""
    torch.manual_seed(0)
    made = LanguageModel(config=LanguageConfig(**TINY | fields), cell=cell)
    made.network, made._units = LanguageNetwork(made.config, made.cell, len(units)).eval(), units
    with torch.no_grad():
        for p in made.network.parameters():
            p.mul_(2).add_(0.3 * torch.randn_like(p))
    return made


def recognizer(units: Units = CHAR, **fields) -> Recognizer:
    """One that has learned nothing but its units."""
    torch.manual_seed(0)
    made = Recognizer(config=Config(hidden=8, layers=1, channels=2, predict=6, joint=7, **fields))
    made.recipe = Recipe(made.config, made.cell, units)
    made.network, made.reader = made.recipe.network().eval(), Reader(units)
    return made


def walk(scorer: LanguageScorer, tokens: list[int]) -> tuple[list[float], float]:
    state, increments = scorer.start(), []
    for token in tokens:
        more, state = scorer.score(state, token)
        increments.append(more)
    return increments, scorer.finish(state)


KINDS = [{}, {"tied": False}, {"layers": 1}, {"cell": Cell(layer_norm=True)}, {"cell": Cell(projection=5)}, {"units": BPE}]


# probabilities


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_probabilities_of_what_is_next_sum_to_one(kind: dict) -> None:
    model = drawn(**kind)
    scorer, rng = LanguageScorer(model, 1.0), random.Random(0)
    state = scorer.start()
    for _ in range(20):
        logps = [scorer.finish(state), *(scorer.score(state, k)[0] for k in range(1, len(model.units)))]
        assert math.fsum(map(math.exp, logps)) == pytest.approx(1, abs=1e-5)
        assert max(logps) - min(logps) > 1
        state = scorer.score(state, rng.randrange(1, len(model.units)))[1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_steps_give_what_a_whole_line_gives(kind: dict) -> None:
    model = drawn(**kind)
    for weight, bonus in ((1.0, 0.0), (0.3, 0.7)):
        scorer = LanguageScorer(model, weight, bonus)
        for line, logp in zip(["", *LINES[:9]], model.log_probs(["", *LINES[:9]]), strict=True):
            tokens = model.units.encode(line)
            increments, end = walk(scorer, tokens)
            assert math.fsum(increments) + end == pytest.approx(weight * logp + bonus * len(tokens), abs=1e-4)


def test_what_a_scorer_forgets_it_computes_again() -> None:
    """States are asked in any order, most of them after their step was forgotten."""
    model, rng = drawn(), random.Random(0)
    large, small = LanguageScorer(model), LanguageScorer(model, memory=0)
    states = [(large.start(), small.start())]
    for _ in range(300):
        one, two = rng.choice(states)
        token = rng.randrange(1, len(CHAR))
        (a, one), (b, two) = large.score(one, token), small.score(two, token)
        assert a == b
        assert large.finish(one) == small.finish(two)
        states.append((one, two))
    assert sum(s.step is not None for s, _ in states) == 301
    assert sum(s.step is not None for _, s in states) == 2


def test_a_state_costs_one_step_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, steps = LanguageScorer(drawn()), []
    advance = scorer._advance
    monkeypatch.setattr(scorer, "_advance", lambda state: (steps.append(state), advance(state)))
    state = scorer.start()
    for n in range(1, 6):
        after = [scorer.score(state, k)[1] for k in range(1, len(CHAR))]
        scorer.finish(state)
        assert len(steps) == n
        state = after[n]
    assert len({scorer.start(), scorer.start(), *after}) == 1 + len(after)


# batches


@pytest.mark.parametrize("n", [1, 63, 100])
def test_neighbours_and_padding_do_not_matter(n: int) -> None:
    model, lines = drawn(), strings(n, 2)
    alone = [model.log_probs([line])[0] for line in lines]
    order = np.random.default_rng(0).permutation(n)
    assert model.log_probs([lines[k] for k in order]) == pytest.approx(np.array(alone)[order], abs=1e-4)
    assert LanguageTask(model.config, CHAR, Text.whole(lines, CHAR)).predict(model.fitted, lines) == pytest.approx(
        alone, abs=1e-4
    )
    text = Text.whole(lines, CHAR)
    tokens, lengths = text.batch(np.arange(n))
    beyond = torch.arange(tokens.shape[1]) > lengths[:, None]
    with torch.no_grad():
        made = model.fitted.losses((tokens, lengths))
        assert torch.equal(model.fitted.losses((tokens.masked_fill(beyond, 3), lengths)), made)
    assert made.sum() == pytest.approx(-sum(alone), rel=1e-5)
    assert len(made) == text.lengths.sum()


def test_each_sentence_is_in_one_batch() -> None:
    text = Text.read(LINES, CHAR)
    task = LanguageTask(LanguageConfig(**TINY), CHAR, text)
    for epoch in range(2):
        lines = []
        for tokens, lengths in task.batches("train", epoch):
            assert tokens[:, 1:].numel() <= 200
            assert (lengths.float().mean() / lengths.max() > 0.5) or len(lengths) == 1
            assert not tokens[:, 0].any()
            lines += [CHAR.decode(row[1:n].tolist()) for row, n in zip(tokens, lengths, strict=True)]
        assert sorted(lines) == sorted(LINES)
        again = task.batches("train", epoch)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(task.batches("train", epoch), again, strict=True))
    assert not torch.equal(task.batches("train", 0)[0][0], task.batches("train", 1)[0][0])
    assert text.characters == sum(len(line) + 1 for line in LINES)


def test_read_or_whole_a_text_is_the_same() -> None:
    model = drawn()
    read, whole = Text.read(LINES[:30], CHAR), Text.whole(LINES[:30], CHAR)
    assert (surprise(model.fitted, read) == surprise(model.fitted, whole)).all()
    assert read.characters == whole.characters


# learning


def test_perplexity_goes_to_the_entropy() -> None:
    """abc, one to four times, each as likely: ln 4 nats for a line of 8.5 tokens on average."""
    lines = ["abc" * n for n in (1, 2, 3, 4)]
    model = LanguageModel(hidden=24, layers=1, dropout=0.0, weight_drop=0.0, tokens=2000,
                          training=Training(steps=500, lr=2e-2, evaluate=100, patience=0, average=0.9))  # fmt: skip
    model.fit(lines * 30, lines, units_of=Units.fit(lines))
    truth = math.exp(math.log(4) / 8.5)
    assert truth <= model.perplexity(lines) < 1.003 * truth
    assert model.scores[0].metrics["perplexity"] == pytest.approx(model.perplexity(lines), rel=1e-5)
    assert model.evaluate(lines)["bits per character"] == pytest.approx(2 / 8.5, rel=0.02)
    assert model.log_probs([""])[0] < math.log(0.02), "no line is empty"


def test_digits(learned: LanguageModel) -> None:
    assert learned.perplexity(strings(100, 3)) < 1.9
    right, wrong = learned.log_probs(["six nine", "six nien"])
    assert right > wrong + 5


def test_it_learns_in_bfloat16_with_every_dropout() -> None:
    training = replace(BRIEF, bf16=True, steps=20, evaluate=20)
    model = LanguageModel(training=training, **TINY | {"dropout": 0.2, "weight_drop": 0.2}, cell=Cell(zoneout=(0.1, 0.1)))
    model.fit(LINES, LINES[:50], units_of=BPE)
    assert model.perplexity(LINES[:50]) < len(BPE) - 5


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    made = [LanguageModel(training=BRIEF, **TINY).fit(LINES[:50], LINES[:9], units_of=CHAR) for _ in range(2)]
    files = [m.save(tmp_path / f"{k}.safetensors").read_bytes() for k, m in enumerate(made)]
    assert files[0] == files[1]


@pytest.mark.parametrize("at", [1, 3, 8])
def test_killed_anywhere_it_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    training, loss, calls = replace(BRIEF, steps=9, evaluate=3, save_steps=1), LanguageTask.loss, []

    def fit(**how) -> bytes:
        made = LanguageModel(training=training, **TINY).fit(LINES[:60], LINES[:9], units_of=CHAR, **how)
        return made.save(tmp_path / "m.safetensors").read_bytes()

    def killed(self: LanguageTask, *of):
        calls.append(1)
        if len(calls) == at:
            raise RuntimeError("killed")
        return loss(self, *of)

    whole = fit()
    with monkeypatch.context() as m:
        m.setattr(LanguageTask, "loss", killed)
        with pytest.raises(RuntimeError, match="killed"):
            fit(checkpoint=tmp_path / "run.safetensors")
    assert fit(checkpoint=tmp_path / "run.safetensors", resume=True) == whole
    other = LanguageModel(training=training, **TINY)
    with pytest.raises(ValueError, match=r"belongs to another run.*data\.checksum was"):
        other.fit([*LINES[:59], "nine"], LINES[:9], units_of=CHAR, checkpoint=tmp_path / "run.safetensors", resume=True)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_model_is_one_file(tmp_path: Path, kind: dict) -> None:
    model = drawn(**kind)
    path = model.save(tmp_path / "m.safetensors")
    for again in (longshort.load(path), LanguageModel.load(path)):
        assert (again.config, again.cell, again.units, again.scores) == (model.config, model.cell, model.units, model.scores)
        assert (again.log_probs(LINES[:20]) == model.log_probs(LINES[:20])).all()
        assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="it holds a model of app 'language', wanted 'speech'"):
        Recognizer.load(path)


# text


def test_lines_that_cannot_be_spelled_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("one two\n\nNINE\n  three  \ncafé\n" + "nine " * 60 + "\nsix\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="left out") as said:
        model = LanguageModel(training=BRIEF, **TINY).fit(path, units_of=CHAR)
    told = str(said[0].message)
    assert told.startswith(f"Lines that are left out: 2 that the units cannot spell ({path}:3: 'E' (U+0045), 'I'")
    assert told.endswith(f"or fold it to lower case., {path}:5); 1 longer than tokens = 200 ({path}:6).")
    assert model.scores == ()
    text = Text.read(path, CHAR, most=200)
    assert (len(text), text.dropped, text.lengths.tolist()) == (3, 3, [8, 6, 4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert model.evaluate(path) | {"perplexity": 0, "bits per character": 0} == {
            "perplexity": 0, "bits per character": 0, "lines": 4, "tokens": 18 + 300, "dropped": 2}  # fmt: skip
    zipped = tmp_path / "corpus.txt.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert (Text.read(zipped, CHAR, most=200).tokens == text.tokens).all()


def test_text_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\nQUO VADIS\nÄ\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"{path} has no line that can be read\. .*2 that the units cannot spell \({path}:2: 'A'"
    ):
        LanguageModel(**TINY).fit(path, units_of=CHAR)
    with pytest.raises(ValueError, match=r"the text has no line that can be read\. All are blank"):
        LanguageModel(**TINY).fit(["", " "], units_of=CHAR)
    path.write_bytes(b"one\n\xff\n")
    with pytest.raises(ValueError, match=rf"{path}:2: is not UTF-8"):
        LanguageModel(**TINY).fit(path, units_of=CHAR)
    with pytest.raises(ValueError, match=r"line 2: 'Q' \(U\+0051\) in 'Q'"):
        drawn().log_probs(["one", "Q"])
    with pytest.raises(ValueError, match="one or more lines, got none"):
        drawn().log_probs([])


@pytest.mark.parametrize("units", [CHAR, BPE], ids=["char", "bpe"])
def test_units_come_from_a_recogniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, units: Units) -> None:
    held = recognizer(units, fold=True)
    path = held.save(tmp_path / "model.safetensors")
    made = [LanguageModel(training=BRIEF, **TINY).fit(["ONE two", "six"], units_of=of) for of in (held, path, str(path))]
    made.append(LanguageModel(training=BRIEF, **TINY).fit(["one TWO", "six"], units_of=made[0]))
    for model in made:
        assert model.units == units
        assert model.config.fold
        assert (model.log_probs(["Six"]) == made[0].log_probs(["six"])).all()
        Reader(units).searches(held.fitted, Decoding(language=model))
    with pytest.raises(TypeError, match=r"units_of must be a recogniser or its file.*got 3"):
        LanguageModel(**TINY).fit(["one"], units_of=3)
    monkeypatch.setattr("longshort.artefact.load", lambda path: object())
    with pytest.raises(ValueError, match=r"units_of must be a recogniser or its file.*got 'sales"):
        LanguageModel(**TINY).fit(["one"], units_of="sales.safetensors")


def test_wrong_fields_are_named() -> None:
    with pytest.raises(TypeError, match="LanguageModel has no field hiden; it has hidden, layers"):
        LanguageModel(hiden=3)
    with pytest.raises(TypeError, match="hidden must be a whole number"):
        LanguageModel(hidden=3.0)
    for fields, said in (({"layers": 0}, "layers must be at least 1"), ({"dropout": 1.0}, r"dropout must be in \[0, 1\)")):
        with pytest.raises(ValueError, match=said):
            LanguageModel(**fields)
    with pytest.raises(RuntimeError, match="nothing is fitted yet"):
        LanguageModel().perplexity(["one"])
    with pytest.raises(ValueError, match="must be 0 or more, got -1"):
        LanguageScorer(drawn(), -1)


# fusion


def muddled(line: str, rng: np.random.Generator, noise: float) -> np.ndarray:
    """CTC log-probabilities of a line, each token for a frame or two and blanks between them, in much noise, [T, V]."""
    path = []
    for token in CHAR.encode(line):
        path += [token] * int(rng.integers(1, 3)) + [0] * int(rng.integers(1, 3))
    logits = noise * rng.normal(size=(len(path), len(CHAR)))
    logits[np.arange(len(path)), path] += 4
    return logits - np.logaddexp.reduce(logits, 1, keepdims=True)


def test_words_that_are_none_are_forbidden(learned: LanguageModel) -> None:
    rng, truth = np.random.default_rng(0), strings(15, 4)
    made: dict[float, list[str]] = {0.0: [], 0.7: []}
    for line in truth:
        logp = muddled(line, rng, 1.5)
        for weight, texts in made.items():
            search = PrefixBeam(len(CHAR), 12, LanguageScorer(learned, weight, bonus=0.5 * weight) if weight else None)
            search.accept(logp)
            texts.append(CHAR.decode(search.finish()[0].tokens))
    nonsense = {w: np.mean([word not in DIGITS for word in " ".join(texts).split()]) for w, texts in made.items()}
    assert nonsense[0.0] > 0.3
    assert nonsense[0.7] < 0.05
    assert wer(truth, made[0.7]) < 0.3 * wer(truth, made[0.0])


@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_without_weight_it_changes_nothing(learned: LanguageModel, kind: str) -> None:
    held, rng = recognizer(model=kind), np.random.default_rng(0)
    for _ in range(3):
        said = muddled("one two", rng, 2.0) if kind == "ctc" else torch.randn(12, 7)
        found = []
        for how in (Decoding(beam=8), Decoding(beam=8, language=learned, language_weight=0.0)):
            search = Reader(CHAR).searches(held.fitted, how)()
            search.accept(said)
            found.append([(h.tokens, h.times, h.acoustic, h.scorer) for h in search.finish(8)])
        assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_a_search_adds_weight_times_log_probability(learned: LanguageModel, kind: str, tmp_path: Path) -> None:
    held, path = recognizer(model=kind), learned.save(tmp_path / "m.safetensors")
    how = Decoding(language=path, language_weight=0.4, alternatives=5)
    assert how.width == 8
    search = Reader(CHAR).searches(held.fitted, how)()
    said = muddled("five", np.random.default_rng(0), 2.0) if kind == "ctc" else torch.randn(9, 7)
    for k in range(len(said)):  # whatever the chunks
        search.accept(said[k : k + 1])
    for h in search.finish(5):
        increments, end = walk(LanguageScorer(learned, 0.4), list(h.tokens))
        assert h.scorer == pytest.approx(sum(increments) + end, abs=1e-4)


def test_a_recogniser_takes_it(learned: LanguageModel) -> None:
    x = np.random.default_rng(0).normal(size=8000).astype(np.float32) * 0.1
    made = recognizer().transcribe(x, 16_000, language=learned, language_weight=2.0, hotwords={"six": 2.0}, beam=4)
    assert set(made.text) <= set("".join(DIGITS) + " ")


def test_models_that_do_not_fit_are_refused(learned: LanguageModel) -> None:
    held = recognizer(BPE)
    with pytest.raises(ValueError, match=rf"must have the units of the recogniser, {len(BPE)} of kind bpe; .*{len(CHAR)} of kind "
                                         "char, or others. Train it for this recogniser"):  # fmt: skip
        held.transcribe(np.ones(8000), 16_000, language=learned)
    with pytest.raises(ValueError, match="language models, hotwords and alternatives need a beam"):
        Decoding(beam=0, language=learned)
    with pytest.raises(ValueError, match="language_weight must be 0 or more, got nan"):
        Decoding(language=learned, language_weight=math.nan)
    with pytest.raises(ValueError, match="no such file"):
        held.transcribe(np.ones(8000), 16_000, language="nowhere.safetensors")


# the command line


def run(capfd: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    code = cli.run([str(w) for w in words])
    return code, *capfd.readouterr()


def test_train_and_eval(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    corpus, valid, out = tmp_path / "corpus.txt", tmp_path / "valid.txt", tmp_path / "lm.safetensors"
    corpus.write_text("\n".join([*LINES[:60], "Q"]), encoding="utf-8")
    valid.write_text("\n".join(LINES[60:70]), encoding="utf-8")
    held = recognizer().save(tmp_path / "model.safetensors")
    words = ["train", "language", "--text", corpus, "--valid", valid, "--recognizer", held, "--out", out, "--steps", 4, "--evaluate", 2,
             "--hidden", 12, "--layers", 1, "--tokens", 300, "--no-tied", "--cell.layer-norm", "--log", tmp_path / "log.jsonl"]  # fmt: skip
    code, said, err = run(capfd, *words)
    assert code == 0
    assert said.splitlines()[0].startswith("perplexity ")
    assert said.splitlines()[1] == f"wrote {out} and {tmp_path / 'log.jsonl'}"
    assert f"Lines that are left out: 1 that the units cannot spell ({corpus}:61: 'Q'" in err
    model = LanguageModel.load(out)
    assert (model.config, model.cell) == (LanguageConfig(12, 1, tied=False, tokens=300), Cell(layer_norm=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "corpus.txt",
        "lm.safetensors",
        "log.jsonl",
        "model.safetensors",
        "valid.txt",
    ]

    code, said, err = run(capfd, "eval", out, "--data", valid, "--out", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    assert said.splitlines()[0].startswith(f"perplexity {model.perplexity(valid):.4g}  bits per character ")
    assert said.splitlines()[1].startswith(f"10 lines of {valid}, ")
    assert json.loads((tmp_path / "scores.json").read_text()) == model.evaluate(valid)
    assert run(capfd, *words, "--quiet") == (0, "", "")
    assert run(capfd, "eval", out, "--data", corpus, "--quiet") == (0, "", "")
    code, _, err = run(capfd, *["valid.txt" if w == held else w for w in words])
    assert (code, err) == (2, "error: valid.txt cannot be read as a longshort file: there is no such file.\n")
    code, _, err = run(capfd, "listen", out)
    assert (code, err) == (2, f"error: {out} is a model of language, which has no listen; it has eval, inspect.\n")
