"""Watching a training run: the weights stay as they were, bit for bit; what is looked at is in the log and in the event files."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import toy
from longshort import LSTM, cli, probe
from longshort.train import Training, resume_path, train


class Net(toy.Net):
    def __init__(self, hidden, dropout):
        super().__init__(hidden, dropout)
        self.lstm = LSTM(2, hidden, batch_first=True)


class Toy(toy.Toy):
    def model(self):
        net = Net(self.config.hidden, self.dropout)
        if not self.norm:
            net.norm = nn.Identity()
        return net


HOW = Training(steps=14, evaluate=7, accumulate=2, device="cpu", save_steps=5)


def lines(path, key):
    return [line for line in map(json.loads, path.read_text().splitlines()) if key in line]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def weights(result):
    return [*result.model.state_dict().values()]


@pytest.mark.parametrize("bf16", [False, True])
def test_it_changes_no_bit_and_writes_what_it_sees(tmp_path: Path, bf16: bool) -> None:
    how = replace(HOW, bf16=bf16)
    plain = train(Toy(), how, progress=False)
    log, board = tmp_path / "log.jsonl", tmp_path / "board"
    seen = train(Toy(), how, progress=False, log=log, watch=probe.Watch(every=4, tensorboard=board))
    assert all(map(torch.equal, weights(plain), weights(seen)))
    assert [line["step"] for line in lines(log, "scores")] == [7, 14]
    looks = lines(log, "probe")
    assert [line["step"] for line in looks] == [4, 8, 12]
    assert [*looks[0]["probe"]] == ["lstm.l0"]
    numbers = looks[0]["probe"]["lstm.l0"]
    assert {"f.mean", "f.low", "f.stuck", "c.rms", "h.rms", "dead", "time_constant", "horizon", "dc.lag0", "dh.lag4"} <= {
        *numbers
    }
    assert 0 < numbers["f.mean"] < 1
    shown = events(board)
    assert [step for step, _ in shown["score/MSE"]] == [7, 14]
    assert shown["loss"] == [(line["step"], pytest.approx(line["loss"])) for line in lines(log, "scores")]
    assert {"lr", "loss", "score/MSE"} <= {*shown}
    for k, v in numbers.items():
        assert v is None or shown[f"lstm.l0/{k}"][0] == (4, pytest.approx(v))


def test_a_look_is_the_mean_loss_of_the_first_batch(tmp_path: Path) -> None:
    """Before any update the gradients in the log are those of that batch's mean loss."""
    task = Toy(dropout=0.0, noise=0.0)
    model = None

    class Kept(Toy):
        def model(self):
            nonlocal model
            net = super().model()
            model = {k: v.clone() for k, v in net.state_dict().items()}
            return net

        def batches(self, split, seed, epoch=0):
            made = super().batches(split, seed, epoch)
            if split == "train" and epoch == 0:
                kept.append(made[0])
            return made

    kept = []
    train(Kept(dropout=0.0, noise=0.0), replace(HOW, steps=1), progress=False, log=tmp_path / "log", watch=probe.Watch(every=1))
    net = task.model()
    net.load_state_dict(model)
    with probe.record(net.train()) as r:
        loss = task.loss(net, kept[0])
        (loss.total / loss.elements).backward()
    want = probe.summary(r["lstm.l0"])
    got = lines(tmp_path / "log", "probe")[0]["probe"]["lstm.l0"]
    assert got == {k: pytest.approx(v) if math.isfinite(v) else None for k, v in want.items()}


def test_a_resumed_run_writes_each_look_once(tmp_path: Path) -> None:
    """A run that dies and goes on leaves the same weights, log and curves as one that does not."""
    found = []
    for name, dies in (("whole", False), ("cut", True)):
        folder = tmp_path / name
        watch = probe.Watch(every=2, tensorboard=folder / "board")
        how = {
            "progress": False,
            "log": folder / "log.jsonl",
            "watch": watch,
            "checkpoint": resume_path(folder / "m.safetensors"),
        }

        class Dying(Toy):
            def loss(self, model, batch):
                self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
                if self.calls == 18:  # in the first batch of update 9: updates 6 to 8 are lost
                    raise RuntimeError("died")
                return super().loss(model, batch)

        if dies:
            with pytest.raises(RuntimeError, match="died"):
                train(Dying(), HOW, **how)
        result = train(Toy(), HOW, resume=True, **how)
        shown = events(folder / "board")
        found.append((weights(result), [line["probe"] for line in lines(folder / "log.jsonl", "probe")], shown))
    (w1, looks1, shown1), (w2, looks2, shown2) = found
    assert all(map(torch.equal, w1, w2))
    assert len(looks1) == 7
    assert looks1 == looks2
    assert shown1 == shown2


def test_wrong_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="every must be 0 or more updates, got -1"):
        probe.Watch(every=-1)
    with pytest.raises(ValueError, match="give at least one of them"):
        train(Toy(), HOW, progress=False, watch=probe.Watch(every=5))
    with pytest.raises(ValueError, match=r"must contain a longshort.LSTM, and Net has none"):
        train(toy.Toy(), HOW, progress=False, log=tmp_path / "log", watch=probe.Watch(every=5))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'longshort\[tensorboard\]'"):
        train(Toy(), HOW, progress=False, watch=probe.Watch(0, tmp_path / "board"))
    assert train(Toy(), replace(HOW, steps=1), progress=False, watch=probe.Watch(every=0)).steps == 1


def test_training_alone_does_not_import_tensorboard() -> None:
    said = "import sys, longshort.train, longshort.probe; print([m for m in sys.modules if 'tensorboard' in m])"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "[]\n"


SHORT = ["--hidden", "4", "--batch", "8", "--evaluate", "5", "--device", "cpu", "--steps", "10", "--quiet"]


@pytest.mark.parametrize("members", [1, 2])
def test_flags_of_forecasting(tmp_path: Path, members: int) -> None:
    t = np.arange(60)
    table = pd.DataFrame({"unique_id": "a", "ds": t, "y": np.sin(t / 3) + 0.01 * t})
    table.to_csv(tmp_path / "data.csv", index=False)
    words = ["train", "forecast", "--data", "data.csv", "--horizon", "4", "--out", "m.safetensors", *SHORT]
    words += ["--log", "log.jsonl", "--probe", "5", "--tensorboard", "board", "--ensemble", str(members)]
    folder = str(tmp_path)
    assert cli.run([folder + "/" + w if w in ("data.csv", "m.safetensors", "log.jsonl", "board") else w for w in words]) == 0
    for k in range(members):
        log = tmp_path / (f"log.{k}.jsonl" if members > 1 else "log.jsonl")
        assert [line["step"] for line in lines(log, "probe")] == [5, 10]
        shown = events(tmp_path / "board" / (str(k) if members > 1 else ""))
        assert any(tag.endswith(".l0/f.mean") for tag in shown)


def test_flags_of_forecasting_that_write_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pd.DataFrame({"unique_id": "a", "ds": range(60), "y": range(60)}).to_csv(tmp_path / "data.csv", index=False)
    words = ["train", "forecast", "--data", str(tmp_path / "data.csv"), "--horizon", "4", "--out", str(tmp_path / "m"), *SHORT]
    assert cli.run([*words, "--probe", "5"]) == 2
    assert "give at least one of them" in capfd.readouterr().err
    assert cli.run([*words, "--probe", "-5"]) == 2
    assert "every must be 0 or more updates, got -5" in capfd.readouterr().err


def test_two_processes_look_once(tmp_path: Path) -> None:
    """Launched by torchrun, the first process alone looks and writes, and the weights are those of one process."""
    script = tmp_path / "run.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch; torch.set_num_threads(1)
from test_watch import Toy, HOW, probe, replace, train
from longshort.artefact import write
from longshort.process import chief
made = train(Toy(norm=False), replace(HOW, accumulate=1), progress=False, log={str(tmp_path)!r} + "/log", watch=probe.Watch(every=4))
if chief():
    write({str(tmp_path)!r} + "/m.safetensors", made.model.state_dict(), {{}})
""")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    subprocess.run(words, check=True, capture_output=True, timeout=300)
    assert [line["step"] for line in lines(tmp_path / "log", "probe")] == [4, 8, 12]
    alone = train(Toy(norm=False), HOW, progress=False).model.state_dict()
    for k, v in load_file(tmp_path / "m.safetensors").items():
        torch.testing.assert_close(v, alone[k])


def test_the_speech_and_language_commands_take_the_flags(capsys: pytest.CaptureFixture) -> None:
    for kind in ("forecast", "speech", "language"):
        assert cli.run(["train", kind, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--probe" in shown
        assert "--tensorboard" in shown
