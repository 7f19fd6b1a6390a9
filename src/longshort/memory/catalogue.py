"""The tasks by name: sizes, criterion, and what each source reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from longshort.memory.tasks import (
    STREAM,
    Batch,
    Task,
    best,
    close,
    continual,
    copy,
    digits,
    distracted_lag,
    foremost,
    lag,
    marked,
    order,
    reber,
    two_sequences,
)

HS, GSC, ASB, LJH = "Hochreiter & Schmidhuber 1997", "Gers et al. 2000", "Arjovsky et al. 2016", "Le et al. 2015"


def _reals(name: str, title: str, section: str, steps: int, inputs: int, draw: Callable[..., Batch], exam: int, tolerance: float,
           **more: Any) -> Task:  # fmt: skip
    return Task(name, title, f"{HS}, {section}", steps, inputs, 1, "value", draw, exam, right=partial(close, tolerance),
                symbolic=False, **more)  # fmt: skip


def tasks(mnist: Path | None = None) -> dict[str, Task]:
    """Every task by name; with a folder of MNIST's four .gz files those of MNIST, too.

    Raises:
        FileNotFoundError: the folder lacks one of them.
    """
    two, three = ((10, 20), (50, 60)), ((10, 20), (33, 43), (66, 76))
    made = [
        Task("reber", "embedded Reber", f"{HS}, 5.1", 9, 7, 7, "symbols", reber, 512, foremost,
             paper="148 of 150", sequences=8_440),
        Task("lag-100", "long lag, p = 100", f"{HS}, 5.2a", 100, 101, 101, "symbols", partial(lag, 100), 2,
             partial(close, 0.25), paper="18 of 18", sequences=5_040),
        Task("lag-1000", "long lag, q = p = 1000", f"{HS}, 5.2c", 1003, 1004, 2, "class", partial(distracted_lag, 1000, 1000),
             10_000, partial(close, 0.2), sequences=49_000),
        _reals("two-sequence", "two sequences, noise on input", "5.3b", 100, 1, partial(two_sequences, 3, 100, False), 256, 0.2,
               wrong=5, error=0.04, sequences=43_250),
        _reals("two-sequence-target", "two sequences, noise on target, too", "5.3c", 100, 1,
               partial(two_sequences, 3, 100, True), 256, np.inf, error=0.015, sequences=269_650),
        *(_reals(f"adding-{T}", f"adding, T = {T}", "5.4", T, 2, partial(marked, T, False), 2000, 0.04, sequences=n)
          for T, n in ((100, 74_000), (500, 209_000), (1000, 853_000))),
        _reals("multiplication", "multiplication, T = 100", "5.5", 100, 2, partial(marked, 100, True), 2000, 0.04,
               wrong=12, sequences=1_273_000),
        *(Task(f"order-{name}", f"temporal order, {name}", f"{HS}, 5.6{letter}", 100, 8, 2 ** len(places), "class",
               partial(order, places), 2000, partial(close, 0.3), sequences=n)
          for name, letter, places, n in (("2", "a", two, 31_390), ("3", "b", three, 571_100))),
        Task("continual-reber", "continual embedded Reber", GSC, STREAM, 7, 7, "symbols", partial(continual, 10**6), 10,
             foremost, paper="62 of 100", sequences=14_087, stream=10**6),
        *(Task(f"copy-{T}", f"copy memory, T = {T}", ASB, T, 10, 9, "symbols", partial(copy, T), 100, best, wrong=10)
          for T in (500, 2000)),
        *(Task(name, title, LJH, 64, 1, 10, "class", partial(digits, permuted, None), 360, best, wrong=wrong, symbolic=False)
          for name, title, permuted, wrong in (("digits", "digits 8 x 8", False, 18),
                                               ("digits-permuted", "digits 8 x 8, permuted", True, 36))),
    ]  # fmt: skip
    if mnist is not None:
        for file in (f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")):
            if not (mnist / file).exists():
                raise FileNotFoundError(f"{mnist} must hold MNIST's four .gz files, {file} is missing.")
        made += [Task(name, title, LJH, 784, 1, 10, "class", partial(digits, permuted, mnist), 10_000, best, wrong=wrong,
                      symbolic=False, paper=paper)
                 for name, title, permuted, wrong, paper in (("mnist", "MNIST", False, 300, "ReLU net 97 %"),
                                                             ("mnist-permuted", "MNIST, permuted", True, 1800,
                                                              "ReLU net 82 %"))]  # fmt: skip
    return {t.name: t for t in made}
