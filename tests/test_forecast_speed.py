"""What keeps forecasting light: nothing is imported before it is used, and little work runs on one thread."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from longshort.apps.forecast.model import Inputs
from longshort.apps.forecast.recipe import FEW, run

HEAVY = {"rich", "cyclopts", "pandas", "polars", "pyarrow", "matplotlib", "jinja2", "optuna", "statsforecast", "scipy", "triton"}


def test_import_brings_nothing_that_only_some_need() -> None:
    code = ("import sys, torch\nbefore = set(sys.modules)\nfrom longshort.apps.forecast import Forecaster\nForecaster(horizon=3)\n"
            "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "narwhals" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())


def test_the_collector_is_left_as_it_was() -> None:
    code = ("import gc, longshort.apps.forecast as f\nf.Config\nassert gc.isenabled()\ngc.disable()\nf.Forecaster\n"
            "assert not gc.isenabled()")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


class Watcher(nn.Module):
    """Notes how many threads it may use."""

    def __init__(self, fails: bool = False, together: threading.Barrier | None = None) -> None:
        super().__init__()
        self.weight, self.fails, self.together = nn.Parameter(torch.zeros(1)), fails, together
        self.seen: list[int] = []

    def forward(self, past: Tensor, *others: Tensor) -> Tensor:
        if self.together:
            self.together.wait(10)
        self.seen.append(torch.get_num_threads())
        if self.fails:
            raise RuntimeError("broken")
        return past


def inputs(B: int) -> Inputs:
    return Inputs(*(torch.zeros(B, 2) for _ in Inputs._fields))


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("B", "threads"), [(1, 1), (FEW, 1), (FEW + 1, 3)])
def test_few_windows_run_on_one_thread_and_many_on_all(B: int, threads: int) -> None:
    model = Watcher()
    run(model, inputs(B))
    assert (model.seen, torch.get_num_threads()) == ([threads], 3)


def test_the_threads_come_back_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run(Watcher(fails=True), inputs(1))
    assert torch.get_num_threads() == 3


def test_callers_at_the_same_time_leave_the_threads_as_they_were() -> None:
    model = Watcher(together=threading.Barrier(4))
    callers = [threading.Thread(target=run, args=(model, inputs(1))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert model.seen == [1] * 4
    after = Watcher()
    run(after, inputs(FEW + 1))
    assert after.seen == [3]
