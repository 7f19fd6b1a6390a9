"""What training shows on standard error while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any


class Display:
    """A live line on a terminal, one plain line per score elsewhere.

    Args:
        total: updates to be made.
        step: updates made already.
        metric: the score by which the best weights are chosen; the live line has room for one.
        best: its best value before, None if there is none.
    """

    def __init__(self, total: int, step: int, metric: str, best: float | None = None) -> None:
        from rich.console import Console  # a tenth of a second, which who wants no display should not wait for
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console, self.shown = Console(stderr=True), 0.0
        said = TextColumn("training"), BarColumn(16), MofNCompleteColumn(), TextColumn("{task.description}"), TextColumn("left")
        self.bar = Progress(*said, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("", total=total, completed=step)
        self.total, self.metric, self.said, self.begun = total, metric, "", (time.monotonic(), step)
        self.best = "" if best is None else f"{best:.4g}"

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def stale(self) -> bool:
        """Whether it is time to show something new."""
        return time.monotonic() - self.shown > 0.2

    def moved(self, step: int, loss: float) -> None:
        """Show where the run is."""
        self.bar.update(self.task, completed=step, description=f"loss {loss:.4g}{self.said}")
        self.shown = time.monotonic()

    def scored(self, line: Mapping[str, Any]) -> None:
        """Show a score, a line of `Result.history`."""
        scores = {k: "-" if v is None else f"{v:.4g}" for k, v in line["scores"].items()}
        if line["best"]:
            self.best = scores.get(self.metric, "")
        if scores:
            self.said = f"  {self.metric} {scores[self.metric]} (best {self.best})"
        self.moved(line["step"], line["loss"])
        if self.bar.disable:
            now, first = self.begun
            left = timedelta(seconds=round((time.monotonic() - now) / max(line["step"] - first, 1) * (self.total - line["step"])))
            words = [f"step {line['step']}/{self.total}", f"loss {line['loss']:.4g}", *map(" ".join, scores.items())]
            said = "  ".join(words + (["best"] if line["best"] else []) + [f"left {left}"])
            self.console.print(said, highlight=False, soft_wrap=True)
