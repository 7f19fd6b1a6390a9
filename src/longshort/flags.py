"""What the flags of the verbs have in common, in all applications: how they are made from dataclasses, and what they come to."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self, get_type_hints

from cyclopts import Group, Parameter

from longshort.artefact import prepare
from longshort.process import chief
from longshort.train import Training

MANY: dict[str, Any] = {"negative_iterable": "", "consume_multiple": 1}
SHOWN = Parameter(name="*")
HOW = Parameter(name="*", **MANY, group=Group("How to train", sort_key=2))
VARIANT = Parameter(**MANY, group=Group("Variant of the LSTM", sort_key=3))
Flag = Annotated[bool, Parameter(negative="")]


class Given:
    """Which fields were given, whatever their values: the command line passes no others."""

    __slots__ = ("given",)
    given: tuple[str, ...]

    def __new__(cls, *_: Any, **fields: Any) -> Self:
        """As the dataclass is made."""
        made = super().__new__(cls)
        object.__setattr__(made, "given", tuple(fields))
        return made


def flags(values: Any, other: Mapping[str, Any] | None = None, told: Mapping[str, str] | None = None) -> Any:
    """The dataclass of some values with these as defaults: what help shows, and what holds where only some flags are given.

    Args:
        values: the defaults.
        other: defaults of some fields that are none of the values, such as None.
        told: what help says of some fields, instead of their docstring.
    """
    hints, other, told = get_type_hints(type(values)), other or {}, told or {}
    made = []
    for f in fields(values):
        kind = hints[f.name] | None if f.name in other else hints[f.name]
        kind = Annotated[kind, Parameter(help=told[f.name])] if f.name in told else kind
        made.append((f.name, kind, field(default=other.get(f.name, getattr(values, f.name)))))
    own = {"__doc__": type(values).__doc__, "__module__": __name__}
    return make_dataclass(type(values).__name__, made, bases=(Given,), namespace=own, frozen=True)


def given(values: Any) -> dict[str, Any]:
    """Those of some flags, made by `flags`, that were given."""
    return {k: getattr(values, k) for k in values.given}


def over(under: Any, values: Any) -> Any:
    """Settings, replaced by the flags that were given."""
    return replace(under, **given(values))


def as_asked(training: Any, default: Training) -> Training:
    """How to train, by flags. Steps are None where they were not given; given ones take the place of the default's epochs."""
    how = dict(vars(training))
    if how["steps"] is None:
        how["steps"] = default.steps
    elif "epochs" not in training.given:
        how["epochs"] = None
    return Training(**how)


def writable(read: Iterable[Path | None], *outs: Path | None) -> None:
    """Prove before hours of work that files can be written, that none of them is read, and that each is a file of its own.

    Raises:
        OSError: one cannot be written.
        ValueError: one is read as well, or written twice.
    """
    made, read = [path for path in outs if path is not None], [*read]
    for path in made:
        prepare(path, *read)
    if len({path.resolve() for path in made}) < len(made):
        raise ValueError(f"{made[0]} cannot be written twice. Give each file a name of its own.")


def begun(states: Sequence[Path], resume: bool, quiet: bool) -> bool:
    """Whether this process talks; if there is nothing to go on with, it says so.

    Args:
        states: files of the states of the run.
        resume: whether it should go on.
        quiet: whether nothing may be said.
    """
    talks = chief() and not quiet
    if resume and talks and not any(p.exists() for p in states):
        print(f"there is no {states[0]} to go on with: starting at the beginning", file=sys.stderr)
    return talks


def ended(made: Any, out: Path, states: Sequence[Path], talks: bool, *others: Path | None) -> None:
    """Save what was trained, delete the states of its run, and tell its scores and all files.

    Args:
        made: has `save` and `scores`.
        out: file for it.
        states: files of the states of the run.
        talks: whether to tell.
        others: files that were written besides.
    """
    if chief():
        made.save(out)
        for path in states:
            path.unlink(missing_ok=True)
    if talks:
        scored(made)
        print(f"wrote {' and '.join(str(p) for p in (out, *others) if p)}")


def scored(made: Any) -> None:
    """Tell the scores of what was trained."""
    for score in made.scores:
        print("  ".join(f"{k} {'-' if v is None else f'{v:.4g}'}" for k, v in score.metrics.items()))


@contextmanager
def warned(talks: bool) -> Iterator[None]:
    """Warnings as lines of their own on standard error, or not at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr) if talks else None
        yield
