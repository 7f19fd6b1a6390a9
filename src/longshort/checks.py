"""What settings must hold: each check names the field, what it must be, and what it is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, cast, get_args

C = TypeVar("C")
MANY = 1000  # layers, or networks


def whole(settings: Any, **least: int) -> None:
    """Fields that are whole numbers, by name with the least that each may be.

    Raises:
        TypeError, ValueError: one is not.
    """
    for name, low in least.items():
        v = getattr(settings, name)
        if isinstance(v, bool) or not isinstance(v, int):
            raise TypeError(f"{name} must be a whole number, got {v!r}.")
        if v < low:
            raise ValueError(f"{name} must be at least {low}, got {v}.")


def layers(settings: Any, *names: str) -> None:
    """Fields that say how many layers or networks there are: so few that a file cannot ask for a building without end.

    Raises:
        ValueError: one is more than `MANY`.
    """
    for name in names:
        if (v := getattr(settings, name)) > MANY:
            raise ValueError(f"{name} must be at most {MANY}, got {v}.")


def count(name: str, v: Any) -> None:
    """An argument that says how many.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if isinstance(v, bool) or not isinstance(v, int) or v < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {v!r}.")


def one_of(settings: Any, **kinds: Any) -> None:
    """Fields that are words, by name with the Literal that lists them.

    Raises:
        ValueError: one is none of them.
    """
    for name, kind in kinds.items():
        if (v := getattr(settings, name)) not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {v!r}.")


def rate(settings: Any, *names: str) -> None:
    """Fields in [0, 1), such as dropout.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if not 0 <= (v := getattr(settings, name)) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {v}.")


def share(settings: Any, **most: float) -> None:
    """Fields that are shares, by name with the most that each may be.

    Raises:
        ValueError: one is not.
    """
    for name, high in most.items():
        if not 0 <= (v := getattr(settings, name)) <= high:
            raise ValueError(f"{name} must be a share in [0, {high:g}], got {v}.")


def true_or_false(settings: Any, *names: str) -> None:
    """Fields that are bools.

    Raises:
        TypeError: one is not.
    """
    for name in names:
        if not isinstance(v := getattr(settings, name), bool):
            raise TypeError(f"{name} must be True or False, got {v!r}.")


def nonnegative(settings: Any, *names: str) -> None:
    """Fields that are finite and not negative.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if not 0 <= (v := getattr(settings, name)) < math.inf:
            raise ValueError(f"{name} must be {'finite' if v == math.inf else '0 or more'}, got {v}.")


def configured(owner: object, kind: type[C], config: C | None, fields: dict[str, Any]) -> C:
    """The settings of what is made from a config, or from some fields of one.

    Raises:
        TypeError: both were given, or a field is unknown; the message lists those that are known.
    """
    name, known = type(owner).__name__, [f.name for f in dataclasses.fields(cast(Any, kind))]
    if config is not None and fields:
        raise TypeError(f"{name} takes config={kind.__name__}(...), which holds all fields, or some of these fields, not both.")
    if unknown := sorted(set(fields) - set(known)):
        raise TypeError(f"{name} has no field {', '.join(unknown)}; it has {', '.join(known)}.")
    return kind(**fields) if config is None else config
