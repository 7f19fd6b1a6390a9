"""Packages that only some rooms need: imported where they are used, and missed by the name of the extra that brings them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str, *, what: str, extra: str) -> Any:
    """A module of a package that is not always there.

    Args:
        module: its name.
        what: what needs it, for people.
        extra: the extra of longshort that brings it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as e:
        raise ImportError(f"{what} needs {module}, which is not installed: pip install 'longshort[{extra}]'") from e
