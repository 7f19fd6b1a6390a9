"""Shape types are contracts, enforced here and nowhere else."""

import pytest
import torch
from jaxtyping import install_import_hook

hook = install_import_hook(["longshort.cell", "longshort.engine"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)
