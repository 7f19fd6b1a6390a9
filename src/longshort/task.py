"""The contract that an application keeps with the loop: what differs between forecasting, speech and translation.

A task is one object that holds its data and its configuration. `train.train(task, training)` owns everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from longshort.cell import Cell

B = TypeVar("B")
Split = Literal["train", "valid", "test"]
Plain = str | int | float | bool | None  # what JSON holds without loss


class Loss(NamedTuple):
    """The loss of one batch, as a sum and what it was summed over. The loop divides, once, over all batches of a step.

    So one batch of 64 gives the same gradient as two of 32 on two machines, however many values are missing in each.

    total: sum of the loss over the observed elements, a scalar that requires grad.
    elements: how many were summed (observed values, frames, tokens).
    """

    total: Tensor
    elements: Tensor | float


class Input(NamedTuple):
    """One input of the model, for export and serving.

    shape: numbers for fixed axes, letters for free ones: ("B", 52, 3).
    dtype: torch's name, "float32".
    doc: what it is, with its unit.
    """

    shape: tuple[int | str, ...]
    dtype: str
    doc: str


@dataclass(frozen=True)
class Batches(Sequence[B]):
    """A sequence of batches made when asked for. `Batches(n, make)[k]` is `make(k)`.

    Args:
        n: how many batches there are.
        make: makes batch k, 0 <= k < n. It must be a pure function of k.
    """

    n: int
    make: Callable[[int], B]

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, k: int) -> B: ...
    @overload
    def __getitem__(self, k: slice) -> Batches[B]: ...
    def __getitem__(self, k: int | slice) -> B | Batches[B]:
        if isinstance(k, slice):
            chosen = range(self.n)[k]
            return Batches(len(chosen), lambda j: self.make(chosen[j]))
        if not -self.n <= k < self.n:
            raise IndexError(f"batch {k} of {self.n}")
        return self.make(k % self.n)

    def __iter__(self) -> Iterator[B]:
        return (self.make(k) for k in range(self.n))


class Task(Protocol[B]):
    """What an application gives to the loop.

    A `Config` is a frozen dataclass. Every field has a default and a line in the class docstring under `Args:`; the
    command line makes its flags and its help from just that. It checks itself in `__post_init__`.
    """

    @property
    def config(self) -> Any:
        """The frozen Config of the application; its fields are plain values (a tuple is one). Compared on resume."""

    @property
    def cell(self) -> Cell:
        """The variant of the LSTM in the model. Compared on resume, and written into the artefact."""

    @property
    def better(self) -> tuple[str, Literal["min", "max"]]:
        """The metric of `score` that decides which weights are best, and its direction: ("MASE", "min")."""

    def model(self) -> nn.Module:
        """A freshly initialised model on the CPU. It draws from torch's global generator, which the loop has seeded.

        A parameter's attribute `rate`, where there is one, multiplies its learning rate; then it never decays.
        """

    def batches(self, split: Split, seed: int, epoch: int = 0) -> Sequence[B]:
        """The batches of one pass over a split, in order: a pure function of its arguments. `Batches` makes them lazily.

        The loop calls it once per epoch with a new seed and may begin in the middle (exact resume), so indexing must be
        cheap. epoch says which pass it is, for a curriculum that begins with less; others pay no heed to it. A batch is a
        tensor, or tuples (named ones too), lists and dicts of tensors, on the CPU.
        """

    def loss(self, model: nn.Module, batch: B) -> Loss:
        """The loss of one batch, differentiable. The model is in training mode; the loop has moved the batch to its device.

        Randomness comes from torch's, numpy's or Python's global generators: the loop seeds all three before each call.
        """

    def score(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics in real units on a whole split. The model is in evaluation mode, gradients are off.

        An empty dict says that there is no such split: then the last weights are kept, and nothing stops early.
        """

    def predict(self, model: nn.Module, request: Any) -> Any:
        """Answer one request: the one function that command line and server call."""

    def inputs(self) -> dict[str, Input]:
        """The model's inputs by name, in the order of its `forward`."""

    def data(self) -> Mapping[str, Plain]:
        """What identifies the data: counts, a checksum. Compared on resume; a mismatch is reported by these names."""


def move(batch: Any, to: device) -> Any:
    """The same batch with its tensors on a device. Looks into tuples (named ones too), lists and dicts."""
    if isinstance(batch, Mapping):
        return {k: move(v, to) for k, v in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(v, to) for v in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(move(v, to) for v in batch)
    return batch.to(to, non_blocking=True) if hasattr(batch, "to") else batch
