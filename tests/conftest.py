"""Shape types are contracts, enforced here and nowhere else."""

from types import FunctionType

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

import longshort.cell

for name, f in vars(longshort.cell).copy().items():
    if isinstance(f, FunctionType) and f.__module__ == "longshort.cell":
        setattr(longshort.cell, name, jaxtyped(f, typechecker=beartype))

import longshort.engine  # noqa: E402  (takes what stands in longshort.cell now)

longshort.engine.Tape.gate = jaxtyped(longshort.engine.Tape.gate, typechecker=beartype)


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """For models that are too small for more: threads in a busy machine cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
