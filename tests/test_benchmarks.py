"""The benchmark's own laws: its arithmetic, its rivals, its refusal to time what is wrong, its table."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import table
from benchmarks.cases import BLOCKS, TARGETS, TITLES, Case, Shape, Target, all_cases, quick_cases
from benchmarks.check import check, failures, strain
from benchmarks.onnx_lstm import Bound, Run, session
from benchmarks.rivals import RIVALS, Contestant, Data, build, layer_norm_lstm, ours
from benchmarks.run import judge, measure, report
from benchmarks.stats import geomean, paired, spread

from longshort import LSTM, Cell
from longshort.engine import fast_bf16

ROOT = Path(__file__).resolve().parent.parent
TINY = Shape(3, 7, 5, 6)


def test_geomean():
    assert geomean([2.0, 8.0]) == pytest.approx(4.0)
    assert geomean(1 / v for v in (2.0, 8.0, 3.0)) == pytest.approx(1 / geomean([2.0, 8.0, 3.0]))
    assert math.isfinite(geomean([1e-300] * 9))
    with pytest.raises(ValueError, match="at least one value, got none"):
        geomean([])


def test_paired_ratios_cancel_what_disturbs_a_whole_round():
    calm, slowdown = [2.0, 2.0, 2.0, 2.0], [1.0, 9.0, 1.5, 4.0]
    rival, mine = [3 * a * s for a, s in zip(calm, slowdown, strict=True)], [a * s for a, s in zip(calm, slowdown, strict=True)]
    assert paired(rival, mine) == pytest.approx([3.0] * 4)
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


def test_spread():
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == {"min": 1.0, "q1": 2.0, "median": 3.0, "q3": 4.0, "max": 5.0}
    assert set(spread([7.0]).values()) == {7.0}
    with pytest.raises(ValueError, match="at least one value, got none"):
        spread([])


def test_cases_are_the_rows_that_the_targets_judge():
    cases = all_cases()
    assert len({c.name for c in cases}) == len(cases)
    assert {c.block for c in quick_cases()} == set(BLOCKS)
    assert {(c.block, c.variant) for c in quick_cases()} == {(c.block, c.variant) for c in cases}
    for t in TARGETS:
        assert t.rival == "peak" or t.rival in BLOCKS[t.block].rivals
    assert {r for b in BLOCKS.values() for r in b.rivals} == set(TITLES) == {*RIVALS, "plain"}


def test_work_is_that_of_the_matrix_products():
    B, T, I, H = shape = Shape(2, 3, 5, 4)
    assert Case("infer", shape).flop(B * T) == 2 * B * T * 4 * H * (I + H)
    assert Case("train", shape).flop(B * T) == 3 * Case("infer", shape).flop(B * T)
    assert Case("variant", shape, "projection").flop(1) == 3 * 2 * (4 * H * (I + 2) + H * 2)
    assert Case("variant", shape, "coupled").flop(1) == 3 * 2 * 3 * H * (I + H)
    ragged = Case("ragged", shape, "packed")
    assert Data.of(ragged).steps(ragged) == int(Data.of(ragged).lengths.sum()) <= B * T


def test_the_eager_loop_is_our_layer_norm_cell():
    T, B, I, H = 9, 3, 5, 7
    lstm = LSTM(I, H, cell=Cell(layer_norm=True), engine="reference", dtype=torch.float64)
    for gain in (lstm.gain_ih_l0, lstm.gain_hh_l0, lstm.gain_c_l0):
        torch.nn.init.normal_(gain, 1.0, 0.3)
    x, dy = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True), torch.randn(T, B, H, dtype=torch.float64)
    leaves = [x, *lstm.parameters()]
    y0, (h0, c0) = lstm(x)
    y, h, c = layer_norm_lstm(x, lstm.layer_params("_l0"))
    torch.testing.assert_close((y, h, c), (y0, h0[0], c0[0]))
    torch.testing.assert_close(torch.autograd.grad(y, leaves, dy), torch.autograd.grad(y0, leaves, dy))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("way", [Run, Bound])
@pytest.mark.parametrize("steps", [6, 7])
def test_the_onnx_model_is_ours(way, streaming, steps):
    lstm = LSTM(5, 6)
    x = torch.randn(steps, 1 if streaming else 3, 5)
    with torch.no_grad():
        y0, (h0, c0) = lstm(x)
    xs = list(x[:, None].numpy()) if streaming else [x.numpy()]
    run = way(session(lstm.state_dict()), xs[0], 6, streaming)
    for _ in range(2):  # a second start forgets the first
        run.start()
        outs = []
        for v in xs:
            run.feed(v)
            run()
            outs.append(run.read())
        y = torch.cat([torch.from_numpy(y[:, 0]) for y, _, _ in outs])
        h, c = (torch.from_numpy(v) for v in outs[-1][1:])
        torch.testing.assert_close((y, h, c), (y0, h0, c0), atol=1e-6, rtol=1e-5)


POSSIBLE = [c for c in quick_cases() if fast_bf16(torch.device("cpu")) or not c.bf16]  # torch has a bfloat16 LSTM only there


@pytest.mark.parametrize("case", [Case(c.block, TINY._replace(B=1) if c.mode == "stream" else TINY, c.variant) for c in POSSIBLE],
                         ids=lambda c: f"{c.block}-{c.variant}")  # fmt: skip
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_every_contestant_of_every_case_is_right(case):
    worst = check(case)
    assert list(worst) == ["ours", *case.rivals]
    assert failures(worst) == []


def test_a_wrong_result_is_over_its_budget():
    case = Case("train", TINY)
    good = ours(case, Data.of(case)).results()
    assert max(strain(case, good).values()) <= 1
    for name, v in good.items():
        off = v.clone()
        off.view(-1)[0] += 1e-4
        assert strain(case, {**good, name: off})[name] > 1, name
    nan = strain(case, {"y": good["y"] * torch.nan})
    assert failures({"ours": ("y", nan["y"])}) == ["ours: y is nan times its error budget"]
    with pytest.raises(ValueError, match=r"y must be \[7, 3, 6\], got \[6, 3, 6\]"):
        strain(case, {"y": good["y"][1:]})


def test_nothing_is_timed_while_a_check_is_red(monkeypatch, tmp_path, capsys):
    from benchmarks import run

    def wrong(case, data):
        right = ours(case, data)
        return Contestant("wrong", right.call, lambda: {k: 1.001 * v for k, v in right.results().items()})

    monkeypatch.setitem(RIVALS, "torch", wrong)
    monkeypatch.setattr(run, "all_cases", lambda: [Case("infer", TINY)])
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("timed"))
    with pytest.raises(SystemExit) as stop:
        run.engine(out=tmp_path)
    assert stop.value.code == 1
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    assert "torch: " in said
    assert "times its error budget" in said


def rows(block, values, H=256, rival="torch", variant="plain"):
    return [{"block": block, "variant": variant, "H": H, "ratios": {rival: {"median": v}},
             "contestants": {"ours": {"share": {"median": v / 10}}}} for v in values]  # fmt: skip


def test_judgement():
    speed = Target("train", "torch", 1.7, 2.1)
    for values, met in (([1.0, 2.0], "no"), ([1.0, 4.0], "at least"), ([2.0, 4.0], "aim")):
        said = judge(speed, rows("train", values), {"flags": []})
        assert (said["value"], said["met"], said["cases"]) == (pytest.approx(geomean(values)), met, 2)
    cost = Target("variant", "plain", 1.35, 1.15, cost=True)
    both = rows("variant", [1.0, 1.1], rival="plain", variant="clip") + rows("variant", [1.2, 1.3], rival="plain", variant="tape")
    said = judge(cost, both, {"flags": []})
    assert (said["value"], said["met"]) == (pytest.approx(geomean([1.2, 1.3])), "at least")
    assert said["means"] == pytest.approx({"clip": geomean([1.0, 1.1]), "tape": geomean([1.2, 1.3])})
    peak = Target("train", "peak", None, 0.85)
    assert judge(peak, rows("train", [9.0]) + rows("train", [1.0], H=128), {"flags": []})["met"] == "aim"
    assert judge(peak, rows("train", [9.0], H=128), {"flags": []})["met"] == "not judged"
    amx = Target("bf16", "torch", 1.5, 2.2, needs="amx_bf16")
    assert judge(amx, rows("bf16", [3.0]), {"flags": []})["met"] == "not judged"
    assert judge(amx, rows("bf16", [3.0]), {"flags": ["amx_bf16"]})["met"] == "aim"


@pytest.fixture(scope="module")
def result():
    from benchmarks.machine import machine

    cases = [Case("infer", TINY), Case("variant", TINY, "peephole")]
    return report([{**measure(c, 2), "strain": {}} for c in cases], 2, False, machine(), 0.0)


def test_the_table_is_generated_once_and_stays(result, tmp_path):
    results, readme = tmp_path / "results", tmp_path / "README.md"
    begin, end, *_ = marks = [f"<!-- bench-{name}:{side} -->" for name in table.SECTIONS for side in ("begin", "end")]
    others = "\n".join(marks[2:])
    results.mkdir()
    (results / "engine-2020-01-01-a.json").write_text(json.dumps({**result, "date": "2020-01-01", "commit": "older"}))
    (results / "engine-2020-01-02-b.json").write_text(json.dumps({**result, "commit": "newer"}))
    (results / "engine-2999-01-01-c.json").write_text(
        json.dumps({**result, "date": "2999-01-01", "partial": True, "commit": "part"})
    )
    elsewhere = {**result["machine"], "instruction set": "neon"}
    (results / "engine-2020-01-01-d.json").write_text(
        json.dumps({**result, "date": "2020-01-01", "machine": elsewhere, "commit": "arm"})
    )
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n{others}\n")
    with pytest.raises(SystemExit, match=r"README\.md is older than benchmarks/results"):
        table.main(check=True, results=results, readme=readme)
    table.main(results=results, readme=readme)
    once = readme.read_text()
    assert once.startswith(f"before\n{begin}\n")
    assert f"\n{end}\nafter\n" in once
    assert "newer" in once and "older" not in once and "part)" not in once and "old\n" not in once  # noqa: PT018
    assert once.index("our kernels: neon") < once.index("commit arm") < once.index("commit newer")  # one of each instruction set
    assert once.count("| 3 7 5 6 peephole | ") == 2
    table.main(results=results, readme=readme)
    assert readme.read_text() == once
    table.main(check=True, results=results, readme=readme)
    for cells in ([line.count("|") for line in block.splitlines() if line.startswith("|")] for block in once.split("\n\n")):
        assert len(set(cells)) <= 1


def test_the_table_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"README\.md must hold <!-- bench-engine:begin --> and then .* each once"):
        table.insert("<!-- bench-engine:end --> <!-- bench-engine:begin -->", "")
    with pytest.raises(FileNotFoundError, match=r"must hold a full run \(engine-\*\.json\), found none"):
        table.engine_markdown(tmp_path)


def test_digits():
    assert [table.digits(v) for v in (0.0123, 1.234, 12.34, 123.4, 2210.0)] == ["0.012", "1.23", "12.3", "123", "2210"]


def test_a_quick_run_in_a_process_of_its_own(tmp_path):
    words = [
        sys.executable,
        "-m",
        "benchmarks.run",
        "engine",
        "--quick",
        "--rounds",
        "2",
        "--only",
        "^stream/",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "within the error budget" in done.stdout
    (file,) = tmp_path.glob("engine-*.json")
    said = json.loads(file.read_text())
    assert str(ROOT) not in file.read_text()
    assert said["partial"] is True
    assert [c["name"] for c in said["cases"]] == ["stream/B1-T1-I64-H128"]
    (case,) = said["cases"]
    assert case["contestants"]["ours"]["how"].startswith("engine ")
    for c in case["contestants"].values():
        assert 0 < c["ms"]["min"] <= c["ms"]["q1"] <= c["ms"]["median"] <= c["ms"]["q3"] <= c["ms"]["max"]
    assert {(t["rival"], t["least"], t["aim"]) for t in said["targets"]} == {("torch", 8, 15), ("onnxruntime", 1, 1.5)}


def test_others_are_seen_and_we_are_not_among_them(monkeypatch):
    from benchmarks.machine import Others

    busy = Others()
    subprocess.run(
        [sys.executable, "-c", "import time; t = time.process_time() + 0.4\nwhile time.process_time() < t: pass"], check=True
    )
    cores = os.cpu_count() or 1
    assert busy.share() > 0.2 / cores
    seen = iter([(0.0, 100.0, 10.0), (2.0, 103.0, 11.0)])  # seconds, busy seconds of all cores, our own
    monkeypatch.setattr(Others, "_now", staticmethod(lambda: next(seen)))
    assert Others().share(mine=0.5) == pytest.approx(1.5 / 2 / cores)


def test_a_run_on_a_busy_machine_is_not_kept(monkeypatch, tmp_path, capsys):
    from benchmarks import run

    monkeypatch.setattr(run, "all_cases", lambda: [Case("infer", TINY)])
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "ROUNDS", 1)
    for share, folder in ((0.5, "out"), (0.01, "benchmarks/results")):
        monkeypatch.setattr(run.Others, "share", lambda _, share=share: share)
        run.engine(rounds=1)
        (file,) = (tmp_path / folder).iterdir()
        assert json.loads(file.read_text())["others"] == share
        assert ("other programs used 50% of the cores" in capsys.readouterr().out) == (share == 0.5)


def test_bfloat16_is_left_out_where_the_processor_has_none(monkeypatch, tmp_path, capsys):
    from benchmarks import run

    monkeypatch.setattr(run, "all_cases", lambda: [Case("infer", TINY), Case("bf16", TINY)])
    monkeypatch.setattr(run, "fast_bf16", lambda device: False)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    run.engine(rounds=1)
    (file,) = tmp_path.rglob("engine-*.json")
    said = json.loads(file.read_text())
    assert [c["block"] for c in said["cases"]] == ["infer"]
    assert "bf16" not in {t["block"] for t in said["targets"]}
    assert "left out: bf16 training" in capsys.readouterr().out


def test_an_unknown_pattern_lists_the_cases():
    from benchmarks.run import engine

    with pytest.raises(SystemExit, match=r"--only must match a case, got 'nonsense'. Cases: stream/B1-T1-I64-H128, "):
        engine(only="nonsense")


def test_build_names_its_engine():
    case = Case("variant", TINY, "peephole")
    data = Data.of(case)
    engine = build("ours", case, data).how
    assert build("plain", case, data).how == engine
