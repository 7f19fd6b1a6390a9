"""One model = one .safetensors file: its tensors and one JSON header. Never a pickle, so reading executes nothing.

The file's `__metadata__` has one key, "longshort", with one JSON object:

    format   1, the number of this layout
    app      which application it belongs to, a key of `APPS`
    config   the fields of that application's Config
    cell     the fields of `Cell`
    scores   a list of {"split", "date", "metrics"}
    made_by  versions of what trained it
    extra    whatever else the application keeps that is not a tensor

Equal models give equal bytes. Files are written to a temporary name in the same folder, synced and renamed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import types
import typing
import zlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor

import longshort
from longshort.cell import Cell

FORMAT = 1
APPS = {  # the only modules that a file can name
    "forecast": "longshort.apps.forecast:Forecaster",
    "speech": "longshort.apps.speech:Recognizer",
    "language": "longshort.apps.speech.language:LanguageModel",
    "translate": "longshort.apps.translate:Translator",
}
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip


class ArtefactError(ValueError):
    """A file is not a model that this version can read. The message names the file and lists everything that is wrong.

    path: the file.
    problems: one sentence each.
    """

    def __init__(self, path: Path | str, problems: Sequence[str]) -> None:
        self.path, self.problems = Path(path), tuple(problems)
        said = problems[0] if len(problems) == 1 else "".join(f"\n  - {p}" for p in problems)
        super().__init__(f"{path} cannot be read as a longshort file: {said}")


@dataclass(frozen=True)
class Score:
    """What a model reached on one split.

    Args:
        split: which data: "valid", "test", or a description.
        date: the day it was measured, "2026-01-31".
        metrics: value by name, in real units. None is a value that is not finite.
    """

    split: str
    date: str
    metrics: Mapping[str, float | None]


def versions() -> dict[str, str]:
    """What makes a model here: versions of longshort, torch, numpy and Python."""
    return {"longshort": longshort.__version__, "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version()}  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """A model as it lies in the file.

    Args:
        app: a key of `APPS`.
        config: the application's frozen Config.
        cell: the variant of the LSTM.
        tensors: every tensor by name, on the CPU: weights, buffers, scaler, vocabulary as bytes.
        scores: what it reached, where and when.
        made_by: versions of what trained it.
        extra: plain JSON values that the application needs beside its tensors.
    """

    app: str
    config: Any
    cell: Cell
    tensors: Mapping[str, Tensor]
    scores: Sequence[Score] = ()
    made_by: Mapping[str, str] = field(default_factory=versions)
    extra: Mapping[str, Any] = field(default_factory=dict)


class Application(Protocol):
    """What the class behind an entry of `APPS` offers, so that its files can be checked and opened."""

    Config: type

    @classmethod
    def expected(cls, config: Any, cell: Cell, extra: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Every tensor that such a file holds, by name: build the model on torch.device("meta"), it costs no memory."""

    @classmethod
    def from_artefact(cls, artefact: Artefact) -> Self:
        """The object that `longshort.load` hands out. Names, shapes and dtypes are checked already."""


def save(path: Path | str, artefact: Artefact) -> Path:
    """Write a model. A crash at any moment leaves the old file or the new one, never half of one.

    Args:
        path: the file; its folder must exist.
        artefact: the model.

    Returns:
        The path.

    Raises:
        ValueError: an unknown app, or a header value that is not plain JSON.
        OSError: the file cannot be written.
    """
    if artefact.app not in APPS:
        raise ValueError(f"app must be one of {', '.join(APPS)}, got {artefact.app!r}.")
    scores = [asdict(s) | {"metrics": {k: _finite(v) for k, v in s.metrics.items()}} for s in artefact.scores]
    header = {"format": FORMAT, "app": artefact.app, "config": asdict(artefact.config), "cell": asdict(artefact.cell),
              "scores": scores, "made_by": dict(artefact.made_by), "extra": dict(artefact.extra),
              "checksum": checksum(artefact.tensors)}  # fmt: skip
    return write(path, artefact.tensors, header)


def load(path: Path | str, app: str | None = None) -> Any:
    """Open a model as the object of its application: for app "forecast" a `Forecaster`.

    Args:
        path: a file that `save` wrote.
        app: the application that it must belong to; None takes any.

    Returns:
        The application's object.

    Raises:
        ArtefactError: the file is missing, not ours, damaged or of another application; all that is wrong is listed.
    """
    artefact = read(path)
    if app not in (None, artefact.app):
        raise ArtefactError(path, [f"it holds a model of app {artefact.app!r}, wanted {app!r}. longshort.load(path) opens any."])
    with _blame(path, "its contents contradict each other"):
        return application(artefact.app).from_artefact(artefact)


def read(path: Path | str) -> Artefact:
    """Read and verify a model: the header field by field, then every tensor's name, shape and dtype, then their checksum.

    Args:
        path: a file that `save` wrote.

    Returns:
        What it holds.

    Raises:
        ArtefactError: as `load`.
    """
    with unpack(path) as (header, file):
        if "resume" in header:
            raise ArtefactError(path, ["it is the resume state of a run, not a model. Continue that run with resume (--resume)."])
        if header.get("format") != FORMAT:
            raise ArtefactError(path, [f"its format number is {header.get('format')!r}; longshort {longshort.__version__} "
                                       f"reads {FORMAT}. Install what wrote it: {header.get('made_by')}."])  # fmt: skip
        wrong = [f"header field {k!r} must be {_name(kind)}, got {header.get(k)!r}."
                 for k, kind in {"app": str, "config": dict, "cell": dict, "scores": list, "made_by": dict, "extra": dict}.items()
                 if not isinstance(header.get(k), kind)]  # fmt: skip
        if wrong:
            raise ArtefactError(path, wrong)
        if header["app"] not in APPS:
            raise ArtefactError(path, [f"its app is {header['app']!r}; known are {', '.join(APPS)}."])
        kind = application(header["app"])
        config = _build(kind.Config, header["config"], "config", wrong)
        cell = _build(Cell, header["cell"], "cell", wrong)
        scores = [_build(Score, s, f"scores[{k}]", wrong) for k, s in enumerate(header["scores"])]
        if config is not None and cell is not None:
            with _blame(path, "config, cell and extra do not describe a model"):
                expected = kind.expected(config, cell, header["extra"])
            wrong += mismatches(expected, file)
        if wrong:
            raise ArtefactError(path, wrong)
        tensors = {name: file.get_tensor(name).clone() for name in expected}  # a copy: the file is mapped and may change
        if header.get("checksum", found := checksum(tensors)) != found:  # files of before have none
            raise ArtefactError(path, ["its weights are damaged: their checksum is not that of when they were saved. Get the "
                                       "file again from where it came."])  # fmt: skip
    return Artefact(header["app"], config, cell, tensors, scores, header["made_by"], header["extra"])


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of names and values: finds damage, not malice."""
    total = 0
    for name in sorted(tensors):
        data = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        total = zlib.crc32(data, zlib.crc32(name.encode(), total))
    return total


def application(app: str) -> type[Application]:
    """The class behind a key of `APPS`."""
    module, name = APPS[app].split(":")
    return getattr(import_module(module), name)


def write(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write tensors and one JSON header as one .safetensors file, atomically. The layer under `save`; see there."""
    path = Path(path)
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as e:
        raise ValueError(f"the header of {path} must hold plain JSON values (finite numbers, text, lists, dicts): {e}.") from e
    data = pack({k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}, {"longshort": text})
    with _temporary(path) as (temporary, file):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
    if os.name == "posix":  # the rename itself must reach the disk, where the file system can do that
        with suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    return path


def prepare(path: Path | str, *read: Path | None) -> Path:
    """Make the folder of a file that will be written later, and prove now that it can be: call it before hours of work.

    Args:
        path: of the file.
        read: files that are read meanwhile, or None; it may be none of them.

    Raises:
        OSError: the file could not be written.
        ValueError: it is one that is read.
    """
    path = Path(path)
    if any(other is not None and other.exists() and path.exists() and path.samefile(other) for other in read):
        raise ValueError(f"{path} cannot be read and written at the same time. Write to another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OSError(e.errno, f"cannot make the folder of {path}: {e.strerror}") from e
    if path.exists() and not (path.is_file() or path.is_dir()):  # a device or a pipe is written as it is
        return path
    with _temporary(path):
        return path


@contextmanager
def unpack(path: Path | str) -> typing.Iterator[tuple[dict[str, Any], Any]]:
    """Open a .safetensors file of ours: its JSON header, and safetensors' own handle on the tensors, not yet read.

    Raises:
        ArtefactError: it is missing, a directory, no .safetensors file, or not ours.
    """
    if Path(path).is_dir():
        raise ArtefactError(path, ["it is a directory; a model is one .safetensors file."])
    try:
        opened = _open(path)
    except FileNotFoundError:
        raise ArtefactError(path, ["there is no such file."]) from None
    except (SafetensorError, OSError, RuntimeError) as e:
        raise ArtefactError(path, [f"it is damaged, or no .safetensors file ({e})."]) from e
    with opened as file:
        text = (file.metadata() or {}).get("longshort")
        if text is None:
            raise ArtefactError(path, ["it is a .safetensors file of something else: its metadata has no 'longshort'."])
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise ArtefactError(path, [f"its header is not JSON: {e}."]) from e
        if not isinstance(header, dict):
            raise ArtefactError(path, [f"its header must be a JSON object, got {text[:60]!r}."])
        yield header, file


def mismatches(expected: Mapping[str, Tensor], file: Any) -> list[str]:
    """What differs between the tensors that a file should hold and those it does, by name, shape and dtype."""
    there = set(file.keys())
    wrong = [f"tensor {k!r} of shape {list(v.shape)} is missing." for k, v in expected.items() if k not in there]
    wrong += [f"tensor {k!r} does not belong here." for k in sorted(there - set(expected))]
    for name, want in expected.items():
        if name in there:
            got = file.get_slice(name)
            if list(want.shape) != got.get_shape():
                wrong.append(f"tensor {name!r} must have shape {list(want.shape)}, got {got.get_shape()}.")
            if DTYPES[want.dtype] != got.get_dtype():
                wrong.append(f"tensor {name!r} must be {DTYPES[want.dtype]}, got {got.get_dtype()}.")
    return wrong


def _open(path: Path | str) -> Any:
    """safetensors opens a file twice, for its header and for its tensors: once more, if it was replaced in between."""
    while True:
        before = os.stat(path)
        try:
            opened = safe_open(path, "pt")
        except (SafetensorError, OSError, RuntimeError):
            if _identity(before) == _identity(os.stat(path)):
                raise
        else:
            if _identity(before) == _identity(os.stat(path)):
                return opened


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@contextmanager
def _temporary(path: Path) -> typing.Iterator[tuple[Path, typing.IO[bytes]]]:
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a directory; give the name of a file in it")
    try:
        with open(temporary, "wb") as file:
            try:
                yield temporary, file
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as e:
        raise OSError(e.errno, f"cannot write {path}: {e.strerror}") from e


@contextmanager
def _blame(path: Path | str, what: str) -> typing.Iterator[None]:
    try:
        yield
    except Exception as e:  # whatever a file's contents bring about is the file's fault; the cause stays chained
        raise ArtefactError(path, [f"{what}: {str(e) or type(e).__name__}"]) from e


def _build(kind: type, values: Any, where: str, wrong: list[str]) -> Any:
    """An instance of a frozen dataclass from JSON values, or None with what is wrong appended."""
    if not isinstance(values, dict):
        wrong.append(f"{where} must be an object, got {values!r}.")
        return None
    hints, known, before = typing.get_type_hints(kind), [f.name for f in fields(kind)], len(wrong)
    values = {k: _frozen(v) for k, v in values.items()}
    wrong += [f"{where}.{k} is unknown; known are {', '.join(known)}." for k in values if k not in known]
    wrong += [f"{where}.{k} is missing." for k in known if k not in values]
    wrong += [f"{where}.{k} must be {_name(hints[k])}, got {v!r}."
              for k, v in values.items() if k in known and not _is(v, hints[k])]  # fmt: skip
    if len(wrong) > before:
        return None
    try:
        return kind(**values)
    except (TypeError, ValueError, ArithmeticError) as e:
        wrong.append(f"{where}: {e}")
        return None


def _is(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the kind that a type hint asks for; an int passes for a float, a bool for neither."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Annotated:
        return _is(value, args[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, a) for a in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple and args[-1:] == (Ellipsis,):
        return isinstance(value, tuple) and all(_is(v, args[0]) for v in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(args) and all(map(_is, value, args))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, dict) and all(_is(k, args[0]) and _is(v, args[1]) for k, v in value.items())
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else (origin or hint))


def _name(hint: Any) -> str:
    said = {dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return said.get(hint) or str(hint)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
