"""Watching a training run: the summary of every layer in the training log and in TensorBoard's event files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from longshort.probe.measures import summary
from longshort.probe.record import Recording, record

MISSING = "TensorBoard's event files need the package tensorboard: pip install 'longshort[tensorboard]'."


@dataclass(frozen=True)
class Watch:
    """What a training run writes down besides its scores. The weights come out the same, bit for bit.

    Args:
        every: updates between two looks at gates, cells and gradient flow; 0 never looks. A look is the `summary` of each layer
            on the first batch of that update, before the update; its gradients are those of that batch's mean loss.
        tensorboard: folder for event files: loss, learning rate, scores, and what the looks see; None writes none.

    Raises:
        ValueError: every is negative.
    """

    every: int = 100
    tensorboard: Path | str | None = None

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every must be 0 or more updates, got {self.every}.")

    def due(self, step: int) -> bool:
        """Whether update `step`, counted from 1, is looked at."""
        return self.every > 0 and step % self.every == 0

    def open(self, model: nn.Module, log: Path | None, step: int) -> Journal:
        """Where the run's lines go; `step` updates have been made.

        Raises:
            ValueError: there is nothing to look at, or nowhere to write it.
            ImportError: event files are wanted, and tensorboard is not installed.
        """
        if self.every:
            if log is None and self.tensorboard is None:
                raise ValueError(
                    "looks at the gates are written to the log and to TensorBoard's files: give at least one of them."
                )
            with record(model):
                pass
        board = None
        if self.tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ImportError(MISSING) from None
            board = SummaryWriter(str(self.tensorboard), purge_step=step + 1)
        return Journal(log, board)


@dataclass(frozen=True)
class Shown:
    """What a training run shows while it goes on, as the command lines of all applications ask for it.

    Args:
        probe: updates between two looks at gates, memory and gradient flow, for LOG and TENSORBOARD; 0 never looks.
        tensorboard: folder for event files with loss, learning rate, scores and what the looks see.
        preview: file for the model as it is at each score: `longshort inspect FILE INPUT --serve` shows it while it learns.
    """

    probe: int = 0
    tensorboard: Path | None = None
    preview: Path | None = None

    def ready(self) -> dict[str, Any]:
        """The arguments of an application's `fit`."""
        return {"watch": Watch(self.probe, self.tensorboard), "preview": self.preview}


class Journal:
    """The lines of a run: JSON in the log, numbers by name in the event files."""

    def __init__(self, log: Path | None, board: Any) -> None:
        self.log, self.board = log, board

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """One line: a score ({'step', 'loss', 'lr', 'scores', ...}) or a look ({'step', 'probe': {layer: summary}})."""
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self.board is not None:
            numbers = {k: line[k] for k in ("loss", "lr") if k in line}
            numbers |= {f"score/{k}": v for k, v in line.get("scores", {}).items()}
            numbers |= {f"{layer}/{k}": v for layer, said in line.get("probe", {}).items() for k, v in said.items()}
            for name, v in numbers.items():
                if v is not None:
                    self.board.add_scalar(name, v, line["step"])
            self.board.flush()


def look(recording: Recording, elements: float) -> dict[str, dict[str, float | None]]:
    """The `summary` of each layer, as JSON has it (what is not finite is None), gradients per element of the loss."""
    said: dict[str, dict[str, float | None]] = {}
    for trace in recording:
        numbers = {k: v / max(elements, 1) if k[:2] in ("dh", "dc") else v for k, v in summary(trace).items()}
        said[trace.name] = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    return said
