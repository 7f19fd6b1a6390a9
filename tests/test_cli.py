"""The command line as a person meets it, on a small table of series."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import longshort
from longshort import artefact, cli
from longshort.apps.forecast import Config, Forecaster
from longshort.train import Training, resume_path

SHORT = ["--horizon", "4", "--hidden", "4", "--batch", "8", "--evaluate", "5", "--device", "cpu"]
EXECUTE = [sys.executable, "-c", "from longshort.cli import main; main()"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data.csv and a model trained on it."""
    folder = tmp_path_factory.mktemp("cli")
    t = np.arange(60)
    wave = [pd.DataFrame({"unique_id": f"s{k}", "ds": pd.date_range("2020-01-01", periods=60, freq="MS"),
                          "y": 10 + k + 3 * np.sin(2 * np.pi * t / 12 + k) + 0.1 * np.cos(t * t)}) for k in range(3)]  # fmt: skip
    pd.concat(wave).to_csv(folder / "data.csv", index=False)
    assert cli.run(["train", "forecast", "--data", f"{folder}/data.csv", "--out", f"{folder}/m.safetensors", "--quiet", *SHORT,
                    "--steps", "10"]) == 0  # fmt: skip
    return folder


def run(capfd: pytest.CaptureFixture, *words: str | Path) -> tuple[int, str, str]:
    code = cli.run([str(w) for w in words])
    return code, *capfd.readouterr()


def start(*words: str | Path, **how: object) -> subprocess.Popen:
    """A real process, in which Ctrl-C works even if these tests run in the background of a shell."""
    awake = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*EXECUTE, *map(str, words)], env=environment, text=True, preexec_fn=awake,
                            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how)  # fmt: skip


# the main road


def test_train_eval_predict(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    model = tmp_path / "new" / "m.safetensors"
    code, out, err = run(capfd, "train", "forecast", "--data", home / "data.csv", "--out", model, *SHORT, "--steps", "10",
                         "--log", tmp_path / "log.jsonl")  # fmt: skip
    assert code == 0
    assert out.splitlines()[0].startswith("MASE ")
    assert out.splitlines()[1] == f"wrote {model} and {tmp_path / 'log.jsonl'}"
    assert err.count("step ") == 2
    assert list(model.parent.iterdir()) == [model], "the resume state is gone"
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2

    code, out, err = run(capfd, "eval", model, "--data", home / "data.csv", "--out", tmp_path / "scores.json")
    assert (code, err) == (0, "")
    assert f"wrote {tmp_path / 'scores.json'}" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores == Forecaster.load(model).evaluate(home / "data.csv")
    for metric in ("MASE", "sMAPE", "wQL", "coverage-80"):
        row = next(line for line in out.splitlines() if f"│ {metric} " in line)
        assert f"{scores['LSTM'][metric]:.4g}" in row
        assert f"{scores['SeasonalNaive'][metric]:.4g}" in row

    code, out, err = run(capfd, "predict", model, "--data", home / "data.csv")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "unique_id,ds,LSTM,LSTM-lo-80,LSTM-hi-80"
    assert len(out.splitlines()) == 1 + 3 * 4
    assert out.splitlines()[1].startswith("s0,2025-01-01,")
    for name in ("next.csv", "next.parquet"):
        code, said, err = run(capfd, "predict", model, "--data", home / "data.csv", "--out", tmp_path / name)
        assert (code, said, err) == (0, f"wrote {tmp_path / name}\n", "")
    assert (tmp_path / "next.csv").read_text() == out
    assert len(pd.read_parquet(tmp_path / "next.parquet")) == 12


def test_flags_reach_the_model(home: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    words = [
        "--levels",
        "50",
        "--levels",
        "95",
        "--freq",
        "MS",
        "--dilations",
        "1",
        "--cell.peephole",
        "--cell.zoneout",
        "0.1",
        "0.2",
    ]
    assert cli.run(["train", "forecast", "--data", str(home / "data.csv"), "--out", str(model), "--quiet", *SHORT, "--steps", "3",
                    *words]) == 0  # fmt: skip
    held = artefact.read(model)
    assert held.config == Config(
        horizon=4, levels=(50.0, 95.0), freq="MS", season_length=12, context=36, inputs=12, multiplicative=True, hidden=4,
        dilations=(1,), batch=8,
    )  # fmt: skip
    assert held.cell == longshort.Cell(peephole=True, zoneout=(0.1, 0.2))


def test_help_tells_the_defaults_that_hold() -> None:
    """The parser makes Training() and Config(); both must be what a Forecaster takes by itself."""
    made = Forecaster(horizon=12)
    assert (made.config, made.training, made.cell) == (Config(), Training(), longshort.Cell())


def test_quiet_prints_nothing(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = ["--data", home / "data.csv", "--quiet"]
    model = tmp_path / "m.safetensors"
    for words in (
        ["train", "forecast", *data, "--out", model, *SHORT, "--steps", "3"],
        ["eval", model, *data],
        ["predict", model, *data, "--out", tmp_path / "p.csv"],
    ):
        assert run(capfd, *words) == (0, "", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors", "p.csv"]


# help


@pytest.mark.parametrize("words", [[], ["--help"], ["train"], ["train", "--help"], ["eval", "--help"], ["predict", "--help"]])
def test_help_comes_fast_with_an_example(words: list[str]) -> None:
    code = "import sys\nfrom longshort.cli import run\ncode = run(sys.argv[1:])\nassert not {'torch', 'pandas', 'numpy'} & set(sys.modules)\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "longshort train forecast --data" in done.stdout
    for verb in ("train", "eval", "predict") if words in ([], ["--help"]) else ():
        assert f"│ {verb} " in done.stdout


def test_help_explains_every_field(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run(capfd, "train", "forecast", "--help")
    assert code == 0
    for kind, prefix in ((Config, ""), (Training, ""), (longshort.Cell, "cell.")):
        for field in dataclasses.fields(kind):
            flag = f"--{prefix}{field.name.replace('_', '-')}"
            said = re.search(rf"│ +{re.escape(flag)} (.*)", out)
            assert said, f"{flag} has no line"
            assert re.search(r"[a-z]{2,} [a-zA-Z_]+", said[1]), f"{flag} is not explained"
    assert out.index("--horizon") < out.index("--steps") < out.index("--cell.forget")


def test_help_of_a_verb_depends_on_the_model(home: Path, capfd: pytest.CaptureFixture) -> None:
    assert "`longshort predict MODEL --help`" in cli.MORE.format("predict")
    code, out, err = run(capfd, "predict", home / "m.safetensors", "--help")
    assert (code, err) == (0, "")
    for flag in ("--data", "--paths", "--future-data"):
        assert flag in out


def test_version_and_the_one_table(capfd: pytest.CaptureFixture) -> None:
    assert run(capfd, "--version") == (0, f"longshort {longshort.__version__}\n", "")
    assert cli.APPS.keys() == artefact.APPS.keys()


# wrong use

WRONG = {
    ("trian",): 'Unknown command "trian". Did you mean "train"?',
    ("train", "forcast"): 'Unknown command "forcast". Did you mean "forecast"?',
    ("train", "forecast", "--data", "DATA", "--horizn", "3"): "Unknown option: --horizn. Did you mean --horizon?",
    ("train", "forecast", "--data", "DATA", "--learning-rate", "3"): "Unknown option: --learning-rate",
    ("train", "forecast"): "--data requires an argument",
    (
        "train",
        "forecast",
        "--data",
        "DATA",
        "--horizon",
        "many",
    ): 'Invalid value for --horizon: unable to convert "many" into int',
    (
        "train",
        "forecast",
        "--data",
        "DATA",
        "--decay",
        "step",
    ): 'Invalid value "step" for --decay. Choose from: "cosine", "linear", "none".',
    ("train", "forecast", "--data", "DATA", "--horizon", "0"): "horizon must be at least 1, got 0.",
    ("train", "forecast", "--data", "DATA", "--lr", "-1"): "lr must be a positive number, got -1.0.",
    ("train", "forecast", "--data", "DATA", "--device", "gpu"): "device must be auto, cpu, cuda or cuda:N, got 'gpu'.",
    ("train", "forecast", "--data", "DATA", "--cell.drop-h", "1"): "Cell.drop_h must be a probability in [0, 1), got 1.0.",
    ("train", "forecast", "--data", "nowhere.csv"): "data file 'nowhere.csv' does not exist.",
    ("train", "forecast", "--data", "."): "data file '.' does not exist.",
    ("train", "forecast", "--data", "MODEL"): "data file must end in .csv or .parquet",
    ("train", "forecast", "--data", "DATA", "--out", "."): ". is a directory; give the name of a file in it",
    ("train", "forecast", "--data", "DATA", "--out", "DATA/m"): "cannot make the folder of DATA/m: ",
    ("eval", "MODEL"): "--data requires an argument",
    ("eval", "--data", "DATA"): "MODEL comes first: longshort eval MODEL --data DATA ...",
    ("predict",): "MODEL is missing: longshort predict MODEL ... (--help says more)",
    (
        "eval",
        "nowhere.safetensors",
        "--data",
        "DATA",
    ): "nowhere.safetensors cannot be read as a longshort file: there is no such file.",
    ("eval", ".", "--data", "DATA"): ". cannot be read as a longshort file: it is a directory",
    ("predict", "DATA", "--data", "DATA"): "DATA cannot be read as a longshort file: it is damaged, or no .safetensors file",
    ("predict", "MODEL", "--data", "DATA", "--out", "next.xlsx"): "--out must end in .csv or .parquet, got 'next.xlsx'.",
    ("predict", "MODEL", "--data", "DATA", "more"): "more",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_use_is_one_line_and_code_2(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = {"DATA": str(home / "data.csv"), "MODEL": str(home / "m.safetensors")}

    def fill(text: str) -> str:
        return re.sub("DATA|MODEL(?=$|/| cannot)", lambda m: here[m[0]], text)

    code, out, err = run(capfd, *map(fill, words))
    assert (code, out) == (2, "")
    expected = re.sub("DATA", here["DATA"], WRONG[words]) if "MODEL comes" in WRONG[words] else fill(WRONG[words])
    assert err.startswith("error: ")
    assert expected in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_bad_data_names_the_row(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    data = tmp_path / "data.csv"
    data.write_text("unique_id,ds,y\na,2020-01-01,1\na,2020-01-02,inf\na,2020-01-03,3\n")
    code, out, err = run(capfd, "train", "forecast", "--data", data, "--out", tmp_path / "m.safetensors")
    assert (code, out) == (2, "")
    assert "series 'a', row 1" in err
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(("lacks", "words", "said"), [
    ("narwhals", "train forecast --help", "forecasting needs narwhals, which is not installed: pip install 'longshort[forecast]', or "),
    ("jinja2", "eval {model} --data {data} --report out.html", "a report needs jinja2, which is not installed: pip install 'longshort[report]'"),
])  # fmt: skip
def test_what_is_missing_is_named_with_its_extra(home: Path, tmp_path: Path, lacks: str, words: str, said: str) -> None:
    code = f"import sys; sys.modules[{lacks!r}] = None\nfrom longshort import cli\nsys.exit(cli.run(sys.argv[1:]))"
    words = words.format(model=home / "m.safetensors", data=home / "data.csv")
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stderr[: len(said) + 7]) == (1, f"error: {said}")


def test_a_bug_of_ours_is_not_hidden(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["eval", str(home / "m.safetensors"), "--data", str(home / "data.csv")]
    monkeypatch.setattr(Forecaster, "backtest", lambda *_, **__: {}["x"])
    with pytest.raises(KeyError):
        cli.run(words)
    monkeypatch.setenv("LONGSHORT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cannot be read"):
        cli.run(["eval", "nowhere", "--data", str(home / "data.csv")])


def test_a_folder_that_may_not_be_written(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    where = folder if os.geteuid() else Path("/proc")  # root may write anywhere but there
    done = start("predict", home / "m.safetensors", "--data", home / "data.csv", "--out", where / "next.csv")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, out) == (2, "")
    assert re.fullmatch(rf"error: cannot write {where}/next.csv: .+\n", err)


# things that happen in between


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_ctrl_c_then_resume_gives_the_same_file(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ["train", "forecast", "--data", home / "data.csv", *SHORT, "--steps", "600", "--patience", "0", "--save-steps", "20"]
    model = tmp_path / "m.safetensors"
    process = start(*words, "--out", model)
    wait_for(resume_path(model).exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    state = resume_path(model)
    assert re.fullmatch(rf"training stopped after step \d+ of 600, saved in {state}. Start it again with .*--resume.*", last), err
    code, _, err = run(capfd, *words, "--out", model)
    assert code == 2
    assert re.match(r"error: .* holds an unfinished run \(step \d+\)", err)
    code, _, err = run(capfd, *words, "--out", model, "--resume", "--lr", "0.5")
    assert code == 2
    assert "training.lr was 0.001, is 0.5" in err
    process, before = start(*words, "--out", model, "--resume"), state.stat().st_mtime_ns
    wait_for(lambda: state.stat().st_mtime_ns > before)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert run(capfd, *words, "--out", model, "--resume")[0] == 0
    assert not state.exists()
    assert run(capfd, *words, "--out", tmp_path / "whole.safetensors", "--resume")[2].startswith("there is no ")
    assert model.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_closed_pipe_is_no_traceback(home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = start("predict", home / "m.safetensors", "--data", home / "data.csv", stdout=write)
    os.close(write)
    assert done.communicate(timeout=60)[1] == ""
    assert done.returncode == 1


def test_a_lost_connection_to_standard_output(home: Path) -> None:
    done = start("eval", home / "m.safetensors", "--data", home / "data.csv", stdout=(write := os.open("/dev/full", os.O_WRONLY)))
    os.close(write)
    assert done.communicate(timeout=60)[1] == "error: No space left on device\n"
    assert done.returncode == 2
