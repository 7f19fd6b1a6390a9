"""Laws of the one file, for an application made up here."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import longshort
from longshort import artefact
from longshort.artefact import Artefact, ArtefactError, Score, load, prepare, read, save, unpack, write
from longshort.cell import Cell


@dataclass(frozen=True)
class Config:
    hidden: int = 3
    rate: float = 0.5
    seasons: tuple[int, ...] = (7,)
    freq: str | None = None

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}.")


class Parrot:
    """An application that repeats what lay in the file."""

    Config = Config

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        self.words = artefact.extra["words"]

    @classmethod
    def expected(cls, config: Config, cell: Cell, extra: Mapping[str, Any]) -> dict[str, Tensor]:
        shapes = cell.shapes(2, config.hidden)
        return {k: torch.empty(s, device="meta") for k, s in shapes.items()} | {
            "vocabulary": torch.empty(len(extra["words"]), dtype=torch.uint8, device="meta"),
            "scale": torch.empty((), dtype=torch.float64, device="meta"),
        }

    @classmethod
    def from_artefact(cls, artefact: Artefact) -> Parrot:
        return cls(artefact)


@pytest.fixture(autouse=True)
def _app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(artefact.APPS, "parrot", f"{__name__}:Parrot")


def model(cell: Cell | None = None, **config: Any) -> Artefact:
    cell, settings = cell or Cell(peephole=True), Config(**config)
    g = torch.Generator().manual_seed(0)
    tensors = {k: torch.randn(s, generator=g) for k, s in cell.shapes(2, settings.hidden).items()}
    tensors |= {
        "vocabulary": torch.frombuffer(bytearray(b"abc"), dtype=torch.uint8),
        "scale": torch.tensor(2.0, dtype=torch.float64),
    }
    score = Score("valid", "2026-01-31", {"MASE": 0.9, "sMAPE": float("nan")})
    return Artefact("parrot", settings, cell, tensors, [score], extra={"words": "äöü"})


def header(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, "pt") as f:
        return json.loads(f.metadata()["longshort"]), {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118


def forge(path: Path, change: Any) -> Path:
    """Write the file of `model()` with its header, or its tensors, changed by hand."""
    save(path, model())
    said, tensors = header(path)
    change(said, tensors)
    path.write_bytes(safetensors.torch.save(tensors, {"longshort": json.dumps(said)}))
    return path


@pytest.mark.parametrize(
    "cell",
    [Cell(), Cell(peephole=True, coupled=True), Cell(layer_norm=True, zoneout=(0.1, 0.2)), Cell(projection=2, clip=3.0)],
    ids=str,
)
def test_a_model_comes_back_whole(tmp_path: Path, cell: Cell) -> None:
    given = model(cell, rate=1, seasons=(24, 168), freq="h")
    assert save(tmp_path / "m.safetensors", given) == tmp_path / "m.safetensors"
    got = longshort.load(tmp_path / "m.safetensors")
    assert isinstance(got, Parrot)
    back = got.artefact
    assert (back.app, back.config, back.cell, back.extra) == ("parrot", given.config, cell, {"words": "äöü"})
    assert back.scores == [Score("valid", "2026-01-31", {"MASE": 0.9, "sMAPE": None})]
    assert back.made_by["longshort"] == longshort.__version__
    assert back.made_by["torch"] == torch.__version__
    assert back.tensors.keys() == given.tensors.keys()
    for k, t in given.tensors.items():
        assert torch.equal(back.tensors[k], t)
        assert back.tensors[k].dtype == t.dtype


def test_an_infinite_clip_is_no_clip(tmp_path: Path) -> None:
    assert Cell(clip=float("inf")) == Cell()
    assert read(save(tmp_path / "m", model(Cell(clip=float("inf"))))).cell == Cell()


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    given = model()
    turned = replace(given, tensors=dict(reversed(given.tensors.items())))
    files = [save(tmp_path / "0", given).read_bytes(), save(tmp_path / "1", turned).read_bytes()]
    files.append(save(tmp_path / "2", read(tmp_path / "0")).read_bytes())
    assert files[0] == files[1] == files[2]
    words = [{"a": 1, "b": [2]}, {"b": [2], "a": 1}]
    files = [save(tmp_path / str(k), replace(given, extra={"words": w})).read_bytes() for k, w in enumerate(words)]
    assert files[0] == files[1]


def test_views_and_shared_weights_are_saved_by_value(tmp_path: Path) -> None:
    given, whole = model(), torch.arange(48.0).reshape(4, 12)
    tensors = dict(given.tensors) | {"weight_ih": whole[:2].T, "bias_ih": whole[3], "bias_hh": whole[3]}
    tensors["weight_hh"].requires_grad_()
    back = read(save(tmp_path / "m", replace(given, tensors=tensors))).tensors
    assert torch.equal(back["weight_ih"], whole[:2].T)
    assert torch.equal(back["bias_hh"], whole[3])
    assert not back["weight_hh"].requires_grad


def test_a_loaded_model_does_not_hang_on_the_file(tmp_path: Path) -> None:
    got = read(save(tmp_path / "m", model())).tensors["weight_ih"].clone(), read(tmp_path / "m").tensors["weight_ih"]
    size = (tmp_path / "m").stat().st_size
    with (tmp_path / "m").open("r+b") as f:
        f.write(b"\0" * size)
    assert torch.equal(*got)


# everything that can be wrong


def test_all_mismatches_are_told_at_once(tmp_path: Path) -> None:
    def change(said: dict, tensors: dict) -> None:
        said["config"] |= {"hidden": 4}
        del tensors["bias_ih"]
        tensors["extra"] = torch.zeros(1)
        tensors["scale"] = torch.tensor(2.0)

    with pytest.raises(ArtefactError) as e:
        load(forge(tmp_path / "m.safetensors", change))
    assert set(e.value.problems) == {
        "tensor 'bias_ih' of shape [16] is missing.",
        "tensor 'extra' does not belong here.",
        "tensor 'weight_ih' must have shape [16, 2], got [12, 2].",
        "tensor 'weight_hh' must have shape [16, 4], got [12, 3].",
        "tensor 'bias_hh' must have shape [16], got [12].",
        "tensor 'weight_ch' must have shape [3, 4], got [3, 3].",
        "tensor 'scale' must be F64, got F32.",
    }
    assert all(p in str(e.value) for p in (*e.value.problems, str(tmp_path / "m.safetensors")))


def test_all_wrong_fields_are_told_at_once(tmp_path: Path) -> None:
    def change(said: dict, tensors: dict) -> None:
        said["config"] = {"hidden": "4", "rate": True, "seasons": [7, "x"], "color": 1}
        said["cell"] = said["cell"] | {"peephole": 1, "zoneout": [0.1]}
        said["scores"] = [{"split": "valid", "date": "2026", "metrics": {"MASE": "good"}}, 3]

    with pytest.raises(ArtefactError) as e:
        load(forge(tmp_path / "m", change))
    assert list(e.value.problems) == [
        "config.color is unknown; known are hidden, rate, seasons, freq.",
        "config.freq is missing.",
        "config.hidden must be a whole number, got '4'.",
        "config.rate must be a number, got True.",
        "config.seasons must be tuple[int, ...], got (7, 'x').",
        "cell.peephole must be true or false, got 1.",
        "cell.zoneout must be tuple[float, float], got (0.1,).",
        "scores[0].metrics must be collections.abc.Mapping[str, float | None], got {'MASE': 'good'}.",
        "scores[1] must be an object, got 3.",
    ]


CHANGES = {
    "format": (
        lambda s, t: s.update(format=2),
        "its format number is 2; longshort .* reads 1. Install what wrote it: {'longshort'",
    ),
    "no format": (lambda s, t: s.clear(), "its format number is None"),
    "app": (lambda s, t: s.update(app="os:system"), "its app is 'os:system'; known are forecast"),
    "app kind": (lambda s, t: s.update(app=["parrot"], cell=None), "header field 'app' must be text, got"),
    "config": (lambda s, t: s["config"].update(hidden=0), "config: hidden must be at least 1, got 0"),
    "cell": (lambda s, t: s["cell"].update(clip=-1.0), "cell: Cell.clip must be positive"),
    "endless": (lambda s, t: s["cell"].update(zoneout=[10**400, 0.0]), "cell: Cell.zoneout must be two numbers"),
    "contradiction": (lambda s, t: s["cell"].update(coupled=True, forget=False), "contradicts itself"),
    "extra": (lambda s, t: s["extra"].clear(), "config, cell and extra do not describe a model: 'words'"),
    "resume": (lambda s, t: s.update(resume={}), "it is the resume state of a run, not a model. Continue that run"),
    "huge": (lambda s, t: s["config"].update(hidden=10**6), r"'weight_hh' must have shape \[4000000, 1000000\], got \[12, 3\]"),
    "absurd": (lambda s, t: s["config"].update(hidden=10**30), "do not describe a model"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tampered_header_is_told(tmp_path: Path, name: str) -> None:
    change, message = CHANGES[name]
    with pytest.raises(ArtefactError, match=message):
        load(forge(tmp_path / "m", change))


@pytest.mark.parametrize(("app", "field"), [
    ("forecast", "ensemble"), ("speech", "layers"), ("translate", "encoder_layers"), ("translate", "decoder_layers"),
])  # fmt: skip
def test_no_header_asks_for_a_building_without_end(app: str, field: str) -> None:
    config = import_module(f"longshort.apps.{app}").Config
    with pytest.raises(ValueError, match=f"{field} must be at most 1000, got 1000000000."):
        config(**{field: 10**9}, **({"horizon": 3} if app == "forecast" else {}))


def test_a_damaged_weight_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", model())
    whole = path.read_bytes()
    for at in (1, 2, len(whole) // 4):  # from the end, which is where tensors lie
        if at < len(whole) - 8 - int.from_bytes(whole[:8], "little"):
            path.write_bytes(whole[:-at] + bytes([whole[-at] ^ 1]) + whole[len(whole) - at + 1 :])
            with pytest.raises(ArtefactError, match="its weights are damaged"):
                load(path)
    path.write_bytes(whole)
    load(path)
    load(forge(tmp_path / "old", lambda s, t: s.pop("checksum")))


class Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, (str(Path(os.environ["BOMB"])),)


def test_files_of_other_kinds_are_one_clear_error_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "boom"))
    good = save(tmp_path / "good", model()).read_bytes()
    size = int.from_bytes(good[:8], "little")
    torch.save({"w": Bomb()}, tmp_path / "torch.pt")
    files = {"empty": b"", "short": good[:5], "half a header": good[:50], "one byte less": good[:-1], "one byte more": good + b"\0",
             "text": b"unique_id,ds,y\na,1,2\n" * 9, "pickle": pickle.dumps(Bomb()), "torch": (tmp_path / "torch.pt").read_bytes(),
             "other": safetensors.torch.save({"w": torch.zeros(2)}), "nul": b"\0" * 400,
             "huge header": (2**62).to_bytes(8, "little") + good[8:],
             "not utf-8": good[:8] + good[8 : 8 + size].replace("ä".encode(), b"\xff\xfe") + good[8 + size :],
             "not json": safetensors.torch.save({}, {"longshort": "{"}), "a list": safetensors.torch.save({}, {"longshort": "[]"}),
             "deep": safetensors.torch.save({}, {"longshort": "[" * 50_000})}  # fmt: skip
    for name, data in files.items():
        path = tmp_path / "file.safetensors"
        path.write_bytes(data)
        with pytest.raises(ArtefactError) as e:
            load(path)
        assert str(e.value).startswith(f"{path} cannot be read as a longshort file: "), name
        assert len(e.value.problems) == 1, name
    for path, message in ((tmp_path / "nowhere", "there is no such file"), (tmp_path, "it is a directory")):
        with pytest.raises(ArtefactError, match=message):
            load(path)
    assert not (tmp_path / "boom").exists()


def test_every_truncation_and_every_header_byte_is_caught_or_harmless(tmp_path: Path) -> None:
    """Never anything but ArtefactError, whatever byte is cut or turned."""
    path = save(tmp_path / "m", model())
    good, g = path.read_bytes(), torch.Generator().manual_seed(3)
    size = int.from_bytes(good[:8], "little") + 8
    broken = [good[:n] for n in range(0, len(good), 7)]
    for at in torch.randint(0, size, (600,), generator=g).tolist():
        broken.append(good[:at] + bytes([good[at] ^ (1 << (at % 7))]) + good[at + 1 :])
    refused = 0
    for data in broken:
        path.write_bytes(data)
        try:
            assert isinstance(load(path), Parrot)
        except ArtefactError:
            refused += 1
    assert refused > len(broken) * 0.6


def test_the_app_that_was_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "m", model())
    assert isinstance(load(path, "parrot"), Parrot)
    with pytest.raises(ArtefactError, match="it holds a model of app 'parrot', wanted 'forecast'"):
        load(path, "forecast")
    with pytest.raises(ValueError, match="app must be one of forecast, speech, language, translate, parrot, got 'poetry'"):
        save(path, replace(model(), app="poetry"))
    with pytest.raises(ValueError, match=r"header of .*m must hold plain JSON values .* not JSON serializable"):
        save(path, replace(model(), extra={"words": {1, 2}}))
    with pytest.raises(ValueError, match="must hold plain JSON values"):
        save(path, replace(model(), extra={"words": float("nan")}))
    assert load(path).words == "äöü"


# writing


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_crash_while_saving_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    path = save(tmp_path / "m", model())
    before = path.read_bytes()

    def fail(*_: object) -> None:
        assert len(list(tmp_path.iterdir())) == 2, "it writes beside the old file"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match=r"cannot write .*m: No space left on device"):
        save(path, model(hidden=5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_and_its_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda f: (synced.append(os.readlink(f"/proc/self/fd/{f}")), real(f)))
    save(tmp_path / "m", model())
    assert [Path(p).parent == tmp_path for p in synced] == [True, False]
    assert Path(synced[1]) == tmp_path


def test_a_device_is_written_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("beside /dev/null nobody may write"))
    assert prepare(os.devnull) == Path(os.devnull)


def test_places_that_cannot_be_written_are_told_before_the_work(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a" / "b" / "m") == tmp_path / "a" / "b" / "m"
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(IsADirectoryError, match="is a directory; give the name of a file in it"):
        prepare(tmp_path / "a")
    (tmp_path / "file").touch()
    for where in ("file/m", "file/deep/m"):
        with pytest.raises(OSError, match=r"cannot (write|make the folder of) .*m: (Not a directory|File exists)"):
            prepare(tmp_path / where)
    with pytest.raises(OSError, match=r"cannot write .*: No such file or directory"):
        save(tmp_path / "no" / "m", model())


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A real process that may write 1000 bytes per file."""
    code = (
        "import sys, torch, signal\nfrom longshort.artefact import write\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n    write(sys.argv[1], {'w': torch.zeros(4000)}, {})\nexcept OSError as e:\n    print(e.strerror)"
    )
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")], preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"cannot write {tmp_path / 'm'}: File too large\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_while_it_is_read_is_old_or_new_never_both(tmp_path: Path) -> None:
    path, over = tmp_path / "m.safetensors", threading.Event()

    def replace_it() -> None:
        k = 0
        while not over.is_set():
            k += 1
            write(path, {"x": torch.full((k % 7 + 1,), float(k))}, {"k": k})

    write(path, {"x": torch.zeros(1)}, {"k": 0})
    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        seen = set()
        for _ in range(3000):
            with unpack(path) as (header, file):
                assert (file.get_tensor("x") == header["k"]).all()
                seen.add(header["k"])
    finally:
        over.set()
        writer.join()
    assert len(seen) > 1, "nothing was replaced: the test says nothing"
