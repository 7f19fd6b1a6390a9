"""The memory benchmark: its generators do what the papers say, its criteria judge so, and a run that is cut goes on."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from benchmarks import table as tables

from longshort import cli
from longshort.cell import Cell
from longshort.memory import report, suite, tasks
from longshort.memory.catalogue import tasks as catalogue
from longshort.memory.recipes import LONG, LONG_VARIANTS, QUICK, RECIPES, VARIANTS
from longshort.memory.trial import Net, Recipe, examine, loss, run

ALL = catalogue()
EXECUTE = [sys.executable, "-c", "from longshort.cli import main; main()"]


def rng(seed=0):
    return np.random.default_rng(seed)


pytestmark = pytest.mark.usefixtures("one_thread")


# generators


def is_reber(s):
    """An independent judge: the inner grammar as one regular expression, found by eliminating the nodes of its graph by hand.

    Upper way in: T S* X; lower way in: P T* V. Between the two: X (upper to lower), then T* V, and P (lower to upper).
    """
    lower = "T*V"
    return re.fullmatch(rf"B(?:TS*X(?:X{lower}P)*(?:S|X{lower}V)|P{lower}(?:PX{lower})*(?:V|PS))E", s) is not None


def text(batch, k):
    n = batch.lengths[k]
    return "".join(tasks.SYMBOLS[v] for v in [*batch.x[:n, k], batch.target[n - 1, k]])


@pytest.mark.parametrize("s", ["BTXSE", "BPVVE", "BTSSXXTVVE", "BPVPXVPXVPXVVE", "BTSXXVPSE", "BPTVPXTTVVE", "BPVPSE"])
def test_the_judge_knows_strings_of_the_literature(s):
    assert is_reber(s)
    assert not is_reber(s[:-1])
    assert not is_reber(s.replace("X", "S", 1) if "X" in s else s.replace("V", "T"))


def test_strings_of_the_grammar():
    symbols, _, lengths = tasks.strings(rng(), 3000)
    seen = ["".join(tasks.SYMBOLS[v] for v in symbols[:n, k]) for k, n in enumerate(lengths)]
    for s in seen:
        assert s[0] == "B"
        assert s[1] == s[-2]
        assert s[1] in "TP"
        assert s[-1] == "E"
        assert is_reber(s[2:-2]), s
    assert min(map(len, seen)) == 9
    assert 0.45 < np.mean([s[1] == "T" for s in seen]) < 0.55
    assert {s[2:-2] for s in seen} > {"BTXSE", "BPVVE", "BPVPSE", "BTXXVVE"}


def test_reber_asks_for_every_symbol_and_keeps_its_sets_apart():
    train, test = (tasks.reber(rng(1), 400, split) for split in ("train", "test"))
    learned = {text(train, k) for k in range(400)}
    exam = [text(test, k) for k in range(512)]
    assert learned <= set(exam[:256])
    assert not set(exam[:256]) & set(exam[256:])
    for k, n in enumerate(test.lengths):
        assert is_reber(text(test, k)[2:-2])
        assert (test.target[n:, k] == -1).all()
        assert test.legal[np.arange(n), k, test.target[:n, k]].all(), "what comes is legal"
        last = text(test, k)[1]
        only = np.zeros(7, bool)
        only[tasks.SYMBOLS.index(last)] = True
        assert (test.legal[n - 2, k] == only).all(), "the outer symbol comes back, and nothing else may"


@pytest.mark.parametrize("split", ["train", "test"])
def test_continual_reber_is_strings_after_each_other(split):
    batch = tasks.continual(1500, rng(2), 3, split)
    assert batch.x.shape == ((1500 if split == "test" else tasks.STREAM), 3)
    assert (batch.x[1:] == batch.target[:-1]).all()
    for k in range(3):
        stream = "".join(tasks.SYMBOLS[v] for v in batch.x[:, k])
        whole = re.findall(r"B([TP])(.*?E)\1E", stream)
        assert stream.startswith("".join(f"B{o}{i}{o}E" for o, i in whole))
        assert all(is_reber(i) for _, i in whole)
        assert len(whole) > len(stream) / 25
    assert batch.legal[np.arange(len(batch.x))[:, None], np.arange(3), batch.target].all()


def test_lag():
    batch = tasks.lag(100, rng(), 50, "train")
    assert batch.x.shape == batch.target.shape == (100, 50)
    assert (batch.x[0] == batch.target[-1]).all()
    assert set(batch.x[0]) == {0, 1}
    assert (batch.x[1:] == np.arange(2, 101)[:, None]).all()
    assert (batch.target[:-1] == batch.x[1:]).all()
    assert tasks.lag(100, rng(), 7, "test").x[0].tolist() == [0, 1]


def test_distracted_lag():
    q, p = 20, 30
    batch = tasks.distracted_lag(q, p, rng(), 4000, "train")
    e, b = p + 3, p
    assert (batch.x[0] == b).all()
    assert (batch.x[1] == p + 1 + batch.target).all()
    for k, n in enumerate(batch.lengths[:200]):
        assert batch.x[n - 1, k] == e
        assert (batch.x[2 : n - 1, k] < p).all()
    assert batch.lengths.min() == q + 3, "b, x or y, q distractors, e"
    assert batch.lengths.mean() == pytest.approx(q + 9 + 3, abs=0.5), "q + 14 symbols are expected, with the first and the last"


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("N", [1, 3])
def test_two_sequences(N, noisy):
    train, test = (tasks.two_sequences(N, 100, noisy, rng(3), 4000, split) for split in ("train", "test"))
    assert (train.lengths.min(), train.lengths.max()) == (100, 110)
    first = train.x[:N, :, 0] > 0
    assert np.abs(train.x[:N, :, 0].mean(1)).max() < 0.05
    assert train.x[:N, :, 0].var() == pytest.approx(1.2, abs=0.06), "1 or -1, and noise of variance 0.2"
    assert train.x[N:, :, 0].var() == pytest.approx(0.2, abs=0.005)
    assert set(test.target.tolist()) == ({np.float32(0.2), np.float32(0.8)} if noisy else {0.0, 1.0})
    agree = np.corrcoef(first[0], train.target)[0, 1]
    assert (agree < -0.4) if noisy else (agree > 0.9)
    if noisy:
        assert (train.target - np.where(first.all(0), 0.2, 0.8))[first.all(0) | ~first.any(0)].var() == pytest.approx(
            0.1, abs=0.02
        )


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("T", [30, 100, 1000])
def test_marked(product, T):
    batch = tasks.marked(T, product, rng(4), 300, "train")
    assert (batch.lengths.min() >= T, batch.lengths.max() <= T + T // 10) == (True, True)
    firsts = []
    for k, n in enumerate(batch.lengths):
        value, mark = batch.x[:n, k].astype(float).T
        assert mark[-1] == -1
        where = [t for t in range(n) if mark[t] == 1]
        assert len(where) == 2
        assert where[0] < 10 or where[1] < 10
        assert where[1] < T // 2
        assert mark[0] == (1 if where[0] == 0 else -1)
        assert np.count_nonzero(mark) == (3 if where[0] == 0 else 4)
        a, b = ((float(product) if t == 0 else value[t]) for t in where)
        assert batch.target[k] == pytest.approx(a * b if product else 0.5 + (a + b) / 4, abs=1e-6)
        assert value.min() >= (0 if product else -1)
        firsts.append(where[0])
    assert 0 in firsts, "the rare case is there"


@pytest.mark.parametrize(("name", "places"), [("order-2", [(10, 20), (50, 60)]), ("order-3", [(10, 20), (33, 43), (66, 76)])])
def test_order(name, places):
    batch = ALL[name].draw(rng(5), 500, "train")
    assert {int(batch.lengths.min()), int(batch.lengths.max())} == {100, 110}
    for k, n in enumerate(batch.lengths):
        s = "abcdEBXY"
        s = "".join(s[v] for v in batch.x[:n, k])
        assert re.fullmatch(r"E[abcdXY]*B", s)
        at = [t for t, v in enumerate(s) if v in "XY"]
        assert [low <= t <= high for t, (low, high) in zip(at, places, strict=True)] == [True] * len(places)
        assert batch.target[k] == int("".join("01"["XY".index(s[t])] for t in at), 2)
    assert set(batch.target) == set(range(ALL[name].outputs))


def test_copy():
    T = 50
    batch = tasks.copy(T, rng(), 20, "train")
    assert batch.x.shape == (T + 20, 20)
    assert (batch.target[-10:] == batch.x[:10]).all()
    assert (batch.target[:-10] == tasks.BLANK).all()
    assert (batch.x == tasks.RECALL).sum(0).tolist() == [1] * 20
    assert (batch.x[T + 9] == tasks.RECALL).all(), "T - 1 blanks, then the sign, then ten blanks"
    assert set(batch.x[:10].flat) == set(range(8))


def test_digits():
    plain, permuted = (ALL[n].draw(rng(), 1, "test") for n in ("digits", "digits-permuted"))
    assert plain.x.shape == (64, 360, 1)
    assert len(np.unique(plain.target)) == 10
    assert (plain.x >= 0).all()
    assert (plain.x <= 1).all()
    assert not (plain.x == permuted.x).all()
    assert (np.sort(plain.x, 0) == np.sort(permuted.x, 0)).all(), "the same pixels in another order"
    assert (permuted.x == ALL["digits-permuted"].draw(rng(9), 1, "test").x).all(), "always the same order"
    held = {plain.x[:, k].tobytes() for k in range(360)}
    learned = ALL["digits"].draw(rng(), 3000, "train").x
    assert not held & {learned[:, k].tobytes() for k in range(3000)}


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes())


def test_mnist_from_local_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold MNIST's four \.gz files, train-images-idx3-ubyte\.gz is missing"):
        catalogue(tmp_path)
    images = rng().integers(256, size=(12, 28, 28))
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(12) % 10))
    task = catalogue(tmp_path)["mnist"]
    batch = task.draw(rng(), 5, "test")
    assert batch.x.shape == (784, 12, 1)
    np.testing.assert_allclose(batch.x[:, 3, 0], images[3].ravel() / 255, rtol=1e-6)
    assert batch.target.tolist() == [*range(10), 0, 1]
    assert {"mnist", "mnist-permuted"} <= set(RECIPES)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(images))
    tasks._digits.cache_clear()
    with pytest.raises(ValueError, match="must be an idx file of bytes with 1 axes"):
        task.draw(rng(), 5, "train")


@pytest.mark.parametrize("name", ALL)
def test_a_task_is_a_function_of_its_seed_and_its_table_is_true(name):
    task = ALL[name]
    if task.stream:
        task = replace(task, draw=partial(tasks.continual, 2000))
    for split in ("train", "test"):
        a, b, c = (task.draw(rng(s), 6, split) for s in (1, 1, 2))
        assert all((u == v).all() for u, v in zip(a, b, strict=True) if u is not None)
        if split == "train":
            assert a.x.shape != c.x.shape or not (a.x == c.x).all() or not (a.target == c.target).all() or name == "lag-100"
        T, B = a.x.shape[:2]
        assert a.lengths.shape == (B,)
        assert a.lengths.max() <= T
        assert a.lengths.min() >= min(task.steps - 1, T)
        if task.symbolic:
            assert a.x.min() >= 0
            assert a.x.max() < task.inputs
        else:
            assert a.x.shape[2] == task.inputs
            assert a.x.dtype == np.float32
        if task.answer != "value":
            assert a.target.max() < task.outputs


# criteria


def test_criteria():
    target = np.array([[0, 1], [1, -1]])
    batch = tasks.Batch(target, np.array([2, 1]), target)
    sure = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.1, 0.9], [0.9, 0.1]]])
    assert tasks.close(0.25, batch, sure).tolist() == [True, False], "0.3 is too far off; after the end nothing counts"
    assert tasks.close(0.31, batch, sure).tolist() == [True, True]
    assert tasks.best(batch, sure).tolist() == [True, True]
    assert tasks.best(batch, sure[..., ::-1]).tolist() == [False, False]
    value = tasks.Batch(target, target[0], np.array([0.5, 0.5]))
    assert tasks.close(0.04, value, np.array([0.53, 0.45])).tolist() == [True, False]
    legal = np.array([[[True, True, False], [True, False, False]]])
    grammar = tasks.Batch(np.zeros((1, 2)), np.array([1, 1]), np.array([[0, 0]]), legal)
    assert tasks.foremost(grammar, np.array([[[0.5, 0.3, 0.2], [0.4, 0.5, 0.1]]])).tolist() == [True, False]
    assert tasks.foremost(grammar, np.array([[[0.7, 0.1, 0.2], [0.5, 0.5, 0.0]]])).tolist() == [False, False], (
        "all legal ones; no draw"
    )


class Oracle(torch.nn.Module):
    """Knows the answers of the batch that was drawn last; spoils some."""

    def __init__(self, task, spoil=0):
        super().__init__()
        self.spoil, self.drawn = spoil, []
        self.task = replace(task, draw=lambda *a: self.drawn.append(task.draw(*a)) or self.drawn[-1])
        self.at = 0

    def forward(self, x, lengths, state=None):
        batch = self.drawn[-1]
        if self.task.answer == "value":
            out = torch.from_numpy(batch.target)[:, None].clone()
            out[: self.spoil] += 0.5
            return out, None
        K = self.task.outputs
        if batch.legal is not None:
            out = torch.from_numpy(batch.legal[self.at : self.at + len(x)]).float() * 9
            self.at += len(x)
            out[0, : self.spoil] *= -1
            return out, None
        out = 9 * torch.nn.functional.one_hot(torch.from_numpy(batch.target), K).float()
        out[..., : self.spoil, :] *= -1
        return out, None


@pytest.mark.parametrize("name", ALL)
def test_an_exam_is_passed_by_who_knows_and_lost_by_more_errors_than_allowed(name, monkeypatch):
    task = ALL[name]
    if task.stream:
        monkeypatch.setattr("longshort.memory.trial.PIECE", 100_000)
        task = replace(task, draw=partial(tasks.continual, 300))
    knows = Oracle(replace(task, exam=min(task.exam, 2500) if name != "lag-1000" else 60))
    if task.stream:
        knows.task = replace(knows.task, draw=lambda *a, d=knows.task.draw: setattr(knows, "at", 0) or d(*a))
    exam = examine(knows, knows.task, rng())
    assert exam.passed
    assert exam.right == exam.of
    wrong = Oracle(knows.task, spoil=task.wrong + 1)
    wrong.drawn = knows.drawn
    wrong.task = knows.task
    wrong.at = 0
    if (
        np.isfinite(task.right.keywords.get("tolerance", 0) if isinstance(task.right, partial) else 0)
        and name != "two-sequence-target"
    ):
        lost = examine(wrong, wrong.task, rng())
        assert not lost.passed
        assert lost.right < lost.of


def test_the_mean_error_counts_where_a_paper_asks_for_it():
    task = ALL["two-sequence-target"]
    for off, passed in ((0.01, True), (0.02, False)):
        knows = Oracle(task)
        out = knows.forward
        knows.forward = lambda *a, f=out, off=off: (f(*a)[0] + off, None)
        assert examine(knows, knows.task, rng()).passed is passed


# nets and trials


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_symbol_looked_up_is_a_symbol_one_hot(scale):
    task, recipe = ALL["lag-100"], Recipe(5, 2, 1e-2, 10, scale=scale)
    batch = task.draw(rng(), 3, "train")
    x, n = torch.from_numpy(batch.x), torch.from_numpy(batch.lengths)
    for name in ("rnn", "1997", "default", "coupled", "peephole"):
        net = Net(task, VARIANTS[name], recipe)
        plain = Net(replace(task, inputs=3), VARIANTS[name], recipe)
        plain.symbols, plain.head = task.inputs, net.head
        rest = {k: v for k, v in net.layer.state_dict().items() if k != "weight_ih_l0"}
        kind = type(plain.layer)
        plain.layer = kind(task.inputs, 5) if name == "rnn" else kind(task.inputs, 5, cell=VARIANTS[name].cell)
        plain.layer.load_state_dict(rest | {"weight_ih_l0": net.embed.weight.detach().T})
        torch.testing.assert_close(net(x, n)[0], plain(x, n)[0], atol=1e-6, rtol=1e-5)
        loss(task, net(x, n)[0], batch).backward()
        loss(task, plain(x, n)[0], batch).backward()
        torch.testing.assert_close(net.embed.weight.grad, plain.layer.weight_ih_l0.grad.T, atol=1e-6, rtol=1e-4)
        assert net.layer.weight_ih_l0.grad is None


def test_the_scale_is_that_of_the_inputs():
    """3 times one-hot is one-hot to weights three times as large."""
    task = ALL["reber"]
    batch = task.draw(rng(), 3, "train")
    x, n = torch.from_numpy(batch.x), torch.from_numpy(batch.lengths)
    high, low = (Net(task, VARIANTS["chrono"], Recipe(5, 2, 1e-2, 10, scale=s)) for s in (3.0, 1.0))
    low.load_state_dict(high.state_dict() | {"layer.weight_ih_l0": 3 * high.layer.weight_ih_l0.detach()})
    torch.testing.assert_close(high(x, n)[0], low(x, n)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["adding-100", "reber", "order-2"])
def test_padding_does_not_count(variant, name):
    task = ALL[name]
    net = Net(task, VARIANTS[variant], RECIPES[name])
    batch = task.draw(rng(), 5, "train")
    n = torch.from_numpy(batch.lengths)
    whole, _ = net(torch.from_numpy(batch.x), n)
    for k in range(5):
        alone, _ = net(torch.from_numpy(batch.x[: n[k], k : k + 1]), n[k : k + 1])
        torch.testing.assert_close(whole[: n[k], k : k + 1] if net.each else whole[k : k + 1], alone, atol=1e-5, rtol=1e-4)


EASY = replace(ALL["adding-100"], name="easy", steps=10, draw=partial(tasks.marked, 10, False), exam=200,
               right=partial(tasks.close, 0.3))  # fmt: skip


def test_a_trial_is_a_function_of_its_seed_and_counts_sequences():
    recipe = Recipe(hidden=8, batch=6, lr=1e-2, most=3000, every=20, average=0.9)
    first, second, other = (run(EASY, VARIANTS["chrono"], recipe, s) for s in (5, 5, 6))
    assert first["solved"]
    assert first["exam"]["of"] == 200
    assert first["sequences"] % (6 * 20) == 0
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert first["loss"] != other["loss"]


def test_a_trial_that_fails_ends():
    task = replace(EASY, right=lambda batch, output: np.zeros(len(output), bool))
    done = run(task, VARIANTS["rnn"], Recipe(hidden=4, batch=8, lr=1e-2, most=100, every=5), 0)
    assert (done["solved"], done["sequences"]) == (False, 104)
    begun = time.perf_counter()
    done = run(task, VARIANTS["default"], Recipe(hidden=4, batch=8, lr=1e-2, most=10**9), 0, seconds=0.3)
    assert time.perf_counter() - begun < 5
    assert not done["solved"]
    done = run(task, VARIANTS["default"], Recipe(hidden=4, batch=8, lr=1e30, most=10**9), 0)
    assert (done["solved"], done["loss"]) == (False, None)


@pytest.mark.parametrize("decay", [False, True])
def test_the_rate_stays_or_falls_to_zero(decay, monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def noted(adam, *args):
        rates.append([g["lr"] for g in adam.param_groups])
        return step(adam, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    run(ALL["lag-100"], VARIANTS["1997"], Recipe(hidden=4, batch=2, lr=1e-2, most=20, direct=True, decay=decay), 0)
    share = 1 - np.arange(10) / 10 if decay else np.ones(10)
    np.testing.assert_allclose(rates, np.outer(share, [1e-2, 0.3]))


# the suite


def test_the_plan_is_what_was_asked_for():
    whole = suite.plan(ALL)
    short = [n for n, t in ALL.items() if t.steps < LONG]
    assert len(whole) == len(set(whole)) == 5 * (len(short) * len(VARIANTS) + (len(ALL) - len(short)) * len(LONG_VARIANTS))
    assert {t[2] for t in whole} == set(range(5))
    costs = [suite.effort(ALL[t], v) for t, v, _ in whole]
    assert costs == sorted(costs, reverse=True)
    assert {t for t, _, _ in suite.plan(ALL, quick=True)} == set(QUICK)
    assert suite.plan(ALL, ["adding-1000"], ["peephole"], 1) == [("adding-1000", "peephole", 0)]
    assert set(ALL) <= set(RECIPES)


@pytest.mark.parametrize(("more", "said"), [
    (["--task", "addition"], r"error: task must be one of reber, lag-100, .*; got addition\."),
    (["--variant", "gru"], r"error: variant must be one of rnn, 1997, .*; got gru\."),
    (["--seeds", "0"], r"error: seeds must be at least 1, got 0\."),
    (["--processes", "0"], r"error: processes must be at least 1, got 0\."),
    (["--seconds", "-1"], r"error: seconds must be positive, got -1\.0\."),
    (["--figure", "a.txt"], r"error: figure must end in \.svg, \.png or \.pdf, got 'a\.txt'\."),
    (["--mnist", "nowhere"], r"error: nowhere must hold MNIST's four \.gz files"),
    (["--tusk", "reber"], r"--tusk"),
])  # fmt: skip
def test_wrong_use_is_said(more, said, tmp_path, capfd):
    assert cli.run(["bench", "memory", "--out", str(tmp_path / "o"), *more]) == 2
    assert re.search(said, capfd.readouterr().err)
    assert not (tmp_path / "o").exists()


BRIEF = ["bench", "memory", "--task", "two-sequence", "--variant", "chrono", "--seeds", "3"]


def start(*words, **how):
    awake = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen([*EXECUTE, *map(str, words)], env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True, preexec_fn=awake,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)  # fmt: skip


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_real_run_that_is_cut_goes_on(how, tmp_path):
    process = start(*BRIEF, "--processes", "2", "--out", tmp_path)
    file = tmp_path / "trials.jsonl"
    while not lines(file):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -9), err
    assert "Traceback" not in err
    kept = lines(file)
    with file.open("a") as f:
        f.write('{"task": "two-seq')  # torn
    out, err = start(*BRIEF, "--processes", "1", "--out", tmp_path).communicate(timeout=120)
    made = [json.loads(line) for line in lines(file) if line.endswith("}")]
    assert lines(file)[: len(kept)] == kept, "what was done is not done again"
    assert sorted(m["seed"] for m in made) == [0, 1, 2]
    assert all(m["solved"] for m in made)
    assert len(re.findall(r"two-sequence  chrono  seed \d  solved after [\d,]+ sequences", err)) == 3 - len(kept)
    assert "3/3 " in out
    wrote = next(tmp_path.glob("memory-*.json"))
    assert f"wrote {wrote}" in out
    result = json.loads(wrote.read_text())
    assert result["partial"]
    assert [t["seed"] for t in result["trials"]] == [0, 1, 2]
    assert result["versions"]["torch"] == torch.__version__
    assert {"cpu", "cores"} <= set(result["machine"])


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_chrono_spans_the_steps_of_the_task_times_the_recipe(times):
    torch.manual_seed(0)
    net = Net(ALL["copy-500"], VARIANTS["chrono"], replace(RECIPES["copy-500"], hidden=512, chrono=times))
    longest = (
        net.layer.bias_ih_l0.chunk(4)[1].exp().max() + 1
    )  # f of bias log(t - 1) forgets over t steps: Tallec & Ollivier 2018
    assert 0.95 * times * 500 < longest <= times * 500


def test_another_recipe_is_another_trial(tmp_path, monkeypatch):
    trial, done = ("two-sequence", "chrono", 0), []
    how = {"processes": 1, "seconds": 60.0, "mnist": None, "done": lambda r, new: done.append(new)}
    monkeypatch.setitem(RECIPES, "two-sequence", Recipe(hidden=2, batch=2, lr=1e-2, most=2))
    suite.run([trial], tmp_path / "t.jsonl", **how)
    suite.run([trial], tmp_path / "t.jsonl", **how)
    monkeypatch.setitem(RECIPES, "two-sequence", Recipe(hidden=2, batch=2, lr=1e-2, most=4))
    (result,) = suite.run([trial], tmp_path / "t.jsonl", **how)
    assert done == [True, False, True]
    assert result["sequences"] == 4
    monkeypatch.setitem(RECIPES, "two-sequence", Recipe(hidden=2, batch=2, lr=1e-9, most=10**9))
    done.clear()
    for seconds in (0.2, 0.2, 0.1, 1.5):
        (result,) = suite.run([trial], tmp_path / "t.jsonl", **how | {"seconds": seconds})
    assert done == [True, False, False, True], "what less time has cut is tried again"
    assert not result["solved"]


def test_an_exam_in_pieces_is_the_exam(monkeypatch):
    torch.manual_seed(0)
    net = Net(ALL["digits"], VARIANTS["default"], RECIPES["digits"]).eval()
    lenient = replace(ALL["digits"], wrong=10**6)
    whole = examine(net, lenient, rng())
    monkeypatch.setattr("longshort.memory.trial.TOGETHER", 7)
    assert examine(net, lenient, rng()) == whole
    assert 0 < whole.right < whole.of


# tables and figure


def test_the_table_holds_what_the_trials_came_to(tmp_path):
    assert tables.memory_markdown(tmp_path) == "Not measured yet: `make bench-memory`."
    trials = [{"task": "reber", "variant": v, "seed": s, "solved": v != "rnn", "sequences": 1000 * (s + 1), "seconds": 60.0}
              for v in ("chrono", "rnn") for s in range(3)]  # fmt: skip
    from longshort.memory.cli import _said

    task = _said(ALL["reber"]) | {"recipe": vars(RECIPES["reber"]), "rnn most": 8000}
    made = report.papers() | {"partial": False, "seeds": 3, "processes": 2, "tasks": [task], "trials": trials}
    assert report.head(made) == ["", "paper", "rnn", "chrono"]
    assert report.rows(made) == [["embedded Reber", "8,440; 148 of 150", "0/3", "3/3 2,000"]]
    (tmp_path / "memory-a.json").write_text(json.dumps(made))
    text = tables.memory_markdown(tmp_path)
    assert "| embedded Reber | 8,440; 148 of 150 | 0/3 | 3/3 2,000 |" in text
    grids = [[line.count("|") for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    assert all(len(set(g)) <= 1 for g in grids)
    assert len(report.RECIPE_HEAD) == len(report.recipe_rows(made)[0])
    (tmp_path / "memory-a.json").write_text(json.dumps(made | {"partial": True}))
    without = re.search("a partial run, without (.*)\\.", tables.memory_markdown(tmp_path)).group(1).split("; ")
    assert sorted([*without, "embedded Reber"]) == sorted(t.title for t in ALL.values())


def test_the_figure_shows_what_flows(tmp_path):
    from longshort.memory import figure

    rnn, chrono = figure.flow("rnn"), figure.flow("chrono")
    assert rnn[0] == chrono[0] == 1
    assert rnn[100] < 1e-15
    assert chrono[1000] > 0.05
    torch.manual_seed(0)
    net = Net(ALL["adding-1000"], VARIANTS["rnn"], figure.RECIPE).double()
    drawn = ALL["adding-1000"].draw(rng(), 2, "train")
    x, n = torch.from_numpy(drawn.x).double(), torch.from_numpy(drawn.lengths)
    own = torch.zeros(len(x), 2, figure.RECIPE.hidden, dtype=torch.float64, requires_grad=True)  # added to every h_t
    h, states = x.new_zeros(2, figure.RECIPE.hidden), []
    cell = torch.nn.RNNCell(2, figure.RECIPE.hidden).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in net.layer.state_dict().items()})
    for t, v in enumerate(x):
        h = cell(v, h) + own[t]
        states.append(h)
    batch = drawn._replace(target=drawn.target.astype(float))
    loss(ALL["adding-1000"], net.head(torch.stack(states)[n - 1, torch.arange(2)]), batch).backward()
    got = figure._of_rnn(net, ALL["adding-1000"], x, n, batch)
    for k in range(2):
        torch.testing.assert_close(got[:20, k], own.grad[:, k].norm(dim=1)[: n[k]].flip(0)[:20])
    figure.draw(tmp_path / "new" / "f.svg")
    assert "<svg" in (tmp_path / "new" / "f.svg").read_text()


def test_variants_are_those_of_the_issue():
    assert list(VARIANTS) == ["rnn", "1997", "default", "forget-bias", "chrono", "peephole", "coupled", "layer-norm"]
    assert VARIANTS["1997"].cell == Cell(forget=False)
