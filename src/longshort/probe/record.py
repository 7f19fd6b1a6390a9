"""Recording: gates, cells, outputs and gradient flow of every LSTM in a model, read off the Tape that the engine keeps anyway."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from longshort.nn import LSTM, Seen

LETTERS = "ifgoch"


@contextmanager
def record(
    model: nn.Module,
    keep: str = LETTERS,
    units: Sequence[int] | None = None,
    steps: slice | Sequence[int] | None = None,
    last: int | None = None,
    gradients: bool = True,
) -> Iterator[Recording]:
    """Record every LSTM of a model while the block runs: `with record(model) as r: loss = f(model(x)); loss.backward()`.

    What the model computes is the same, bit for bit by the same engine. It runs with any that shows its gates ('vendor' does
    not: 'auto' takes another one, and an LSTM that names it refuses); transformed calls are refused. A `Stream` made
    inside the block is recorded too; one made before has a copy of the weights and is not.

    Calls of one LSTM append along time as long as the batch is of one size; a batch of another size begins the trace anew.

    Args:
        model: a torch module that is or contains `longshort.LSTM`.
        keep: what to keep of i f g o (gates), c (cell) and h (output). Fewer letters need less memory.
        units: which hidden units, by index; None keeps all. With a projection h has units of its own and keeps them all.
        steps: which steps, counted from 0 at the beginning of the recording; None keeps all.
        last: keep no more than this many steps, the newest.
        gradients: whether a backward pass leaves dLoss/dh_t and dLoss/dc_t.

    Yields:
        The recording, which can be read inside the block and after it.

    Raises:
        ValueError: the model contains no LSTM, is being recorded already, or an argument is out of range.
    """
    found = {path: m for path, m in model.named_modules() if isinstance(m, LSTM)}
    if not found:
        raise ValueError(f"the model must contain a longshort.LSTM, and {type(model).__name__} has none. longshort.LSTM takes "
                         "the place of torch.nn.LSTM and loads its state_dict.")  # fmt: skip
    if any(m.observer is not None for m in found.values()):
        raise ValueError("the model is being recorded already: leave the first recording before the next one begins.")
    if not keep or set(keep) - set(LETTERS):
        raise ValueError(f"keep must be made of the letters {LETTERS}, got {keep!r}.")
    if last is not None and last < 1:
        raise ValueError(f"last must be at least 1 step, got {last}.")
    least = min(m.hidden_size for m in found.values())
    if units is not None and not (units and all(0 <= u < least for u in units)):
        raise ValueError(f"units must be indices in 0..{least - 1} (the smallest LSTM has {least} units), got {list(units)}.")
    lowest = [steps.start, steps.stop, steps.step] if isinstance(steps, slice) else steps or ()
    if any(s is not None and s < 0 for s in lowest):
        raise ValueError(f"steps must count from 0 at the beginning of the recording, got {steps}.")
    wish = Wish(keep, None if units is None else list(units), steps, last)
    recording = Recording([path for path in found])
    taps = {path: _Tap(recording, path, wish, gradients) for path in found}
    try:
        for path, m in found.items():
            m.observer = taps[path]
        yield recording
    finally:
        for path, m in found.items():
            m.observer = None
            taps[path].closed = True


@contextmanager
def unseen(model: nn.Module) -> Iterator[None]:
    """What a model computes inside is not recorded: a second pass over the same batch."""
    found = [(m, m.observer) for m in model.modules() if isinstance(m, LSTM)]
    try:
        for m, _ in found:
            m.observer = None
        yield
    finally:
        for m, observer in found:
            m.observer = observer


class Wish(NamedTuple):
    """What a recording keeps; see `record`."""

    keep: str
    units: list[int] | None
    steps: slice | Sequence[int] | None
    last: int | None

    def rows(self, first: int, T: int) -> Tensor | None:
        """Which of T steps to keep, the first of them being step `first` of the recording; None is all of them."""
        if self.steps is None:
            return None
        end = first + T
        chosen = range(*self.steps.indices(end)) if isinstance(self.steps, slice) else sorted({*self.steps})
        return torch.tensor([t - first for t in chosen if first <= t < end], dtype=torch.int64, device="cpu")


class _Tap:
    """The observer of one LSTM."""

    def __init__(self, recording: Recording, path: str, wish: Wish, flow: bool) -> None:
        self.recording, self.path, self.wish, self.flow, self.closed = recording, path, wish, flow, False

    def see(self, seen: Seen) -> None:
        """Put one run into the trace that it belongs to."""
        if not self.closed:
            name = f"{self.path}.{seen.name}".lstrip(".")
            if name not in self.recording.traces:
                self.recording.traces[name] = Trace(name, seen, self.wish)
            self.recording.traces[name].append(seen)


class Traces(dict[str, "Trace"]):
    """The traces by name, in the order in which they first ran."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self.paths = paths

    def __missing__(self, name: str) -> Trace:
        here = ", ".join(p or "the model itself" for p in self.paths)
        has = f"there are {', '.join(self)}"
        if not self:
            has = f"none of the LSTMs ({here}) has run. A Stream is recorded only if it is made while recording"
        raise KeyError(f"no trace {name!r}: {has}.")


class Recording:
    """What `record` yields.

    traces: `Trace` by name: the path of the LSTM in the model, then layer and direction as in 'encoder.lstm.l1_reverse'; 'l0' if
        the model is itself an LSTM. In the order in which they first ran.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.traces = Traces(paths)

    def __getitem__(self, name: str) -> Trace:
        return self.traces[name]

    def __iter__(self) -> Iterator[Trace]:
        return iter(self.traces.values())

    def __repr__(self) -> str:
        return f"Recording({', '.join(map(repr, self))})"


class _Part:
    """One call, or what is kept of it."""

    def __init__(self, seen: Seen, wish: Wish, first: int) -> None:
        place, cell, cells = seen.place, seen.tape.cell, seen.place(seen.tape.cells)
        T, B = cells.shape[:2]
        self.ran, self.fresh, self.dtype = T, seen.fresh, seen.tape.gates.dtype
        self.flow, self.place, self.rows = seen.flow, place, wish.rows(first, T)
        rows = torch.arange(T, device="cpu") if self.rows is None else self.rows
        self.steps = rows + first
        ends = torch.full((B,), T, device="cpu") if seen.lengths is None else seen.lengths.cpu()
        self.mask = rows[:, None] < ends
        begun = torch.zeros(1, B, dtype=torch.int64, device="cpu")  # sequences that have begun within the call
        if seen.resets is not None and T:
            begun = seen.resets.cpu().cumsum(0)
        self.sequence, self.sequences = begun[rows] if len(begun) > 1 else begun.expand(len(rows), B), begun[-1]
        self.kept: dict[str, Tensor] = {}
        gates = place(seen.tape.gates).unflatten(-1, (len(cell.gates), -1))
        need = {k for k in wish.keep if k in cell.gates} | ({"f"} if cell.coupled and "i" in wish.keep else set())
        whole = len(need) == len(cell.gates)
        for k in need:
            self.kept[k] = self._pick(gates[..., cell.gates.index(k), :], wish.units, whole)
        if "c" in wish.keep or (not cell.forget and "f" in wish.keep):
            self.kept["c"] = self._pick(cells, wish.units, True)
        if "h" in wish.keep:  # the model may go on to change its output in place
            self.kept["h"] = self._pick(place(seen.y), None if cell.projection else wish.units, False)

    def _pick(self, v: Tensor, units: list[int] | None, as_it_is: bool) -> Tensor:
        if self.rows is None and units is None:
            return v if as_it_is else v.clone()
        v = v if self.rows is None else v[self.rows.to(v.device)]
        return v if units is None else v[..., units]

    def __len__(self) -> int:
        return len(self.steps)

    def cut(self, n: int) -> None:
        """Drop the first n steps."""
        self.rows = torch.arange(n, len(self), device="cpu") if self.rows is None else self.rows[n:]
        self.steps, self.mask, self.sequence = self.steps[n:], self.mask[n:], self.sequence[n:]
        self.kept = {k: v[n:].clone() for k, v in self.kept.items()}

    def norm(self, which: str) -> Tensor | None:
        """Of the gradient of each step, [T, B]; None if no backward came by."""
        grad = None if self.flow is None else getattr(self.flow, which)
        if grad is None:
            return None
        n = self.place(torch.linalg.vector_norm(grad.float(), dim=-1, keepdim=True))[..., 0].cpu()
        return n if self.rows is None else n[self.rows]


class Trace:
    """What one layer and direction did, step by step. Time is the input's, also where the layer ran from the end.

    name: path of the LSTM, layer and direction, as in 'encoder.lstm.l1_reverse'.
    cell: the variant.
    layer: number of the layer in its LSTM, from 0.
    reverse: whether it ran from the last step to the first.
    dilation: step t sees step t - dilation.
    dropped: steps that ran and were let go, because of `last` or because a batch of another size came.
    """

    def __init__(self, name: str, seen: Seen, wish: Wish) -> None:
        self.name, self.cell, self.dilation, self.wish = name, seen.tape.cell, seen.dilation, wish
        self.layer, self.reverse = int(seen.name.removesuffix("_reverse")[1:]), seen.name.endswith("_reverse")
        self.dropped = self._ran = self._held = 0
        self._parts: deque[_Part] = deque()
        self._made: dict[str, Tensor] = {}

    def append(self, seen: Seen) -> None:
        """Take in one more call."""
        part = _Part(seen, self.wish, self._ran)
        if self._parts and self._parts[-1].mask.shape[1] != part.mask.shape[1]:
            self.dropped += self._held
            self._ran = self._held = 0
            self._parts.clear()
            part = _Part(seen, self.wish, 0)
        self._ran += part.ran
        self._held += len(part)
        self._parts.append(part)
        self._made.clear()
        if self.wish.last is not None and self._held > self.wish.last:
            over = self._held - self.wish.last
            self.dropped, self._held = self.dropped + over, self.wish.last
            while over > 0 and over >= len(self._parts[0]):
                over -= len(self._parts.popleft())
            if over > 0:
                self._parts[0].cut(over)

    @property
    def i(self) -> Tensor:
        """Input gate (3), [T, B, K] float32; 1 - f where it is coupled."""
        return 1 - self._kept("f", "i") if self.cell.coupled else self._kept("i")

    @property
    def f(self) -> Tensor:
        """Forget gate (2), [T, B, K] float32; 1 where there is none."""
        return self._kept("f") if self.cell.forget else torch.ones_like(self._kept("c", "f"))

    @property
    def g(self) -> Tensor:
        """Candidate (4), before its dropout, [T, B, K] float32."""
        return self._kept("g")

    @property
    def o(self) -> Tensor:
        """Output gate (6), [T, B, K] float32."""
        return self._kept("o")

    @property
    def c(self) -> Tensor:
        """Cell state after the step (9), [T, B, K] float32."""
        return self._kept("c")

    @property
    def h(self) -> Tensor:
        """Output (9), [T, B, K] float32; with a projection [T, B, P]."""
        return self._kept("h")

    @property
    def dh(self) -> Tensor:
        """Norm over the units (all of them) of dLoss/dh_t, [T, B] float32: through the output of step t and all that follows
        it.
        """
        return self._norm("dh")

    @property
    def dc(self) -> Tensor:
        """Norm over the units (all of them) of dLoss/dc_t, [T, B] float32, see `engine.Flow`."""
        return self._norm("dc")

    @property
    def mask(self) -> Tensor:
        """Which steps are within their sequence, bool, [T, B]."""
        return self._cat("mask", lambda part: part.mask)

    @property
    def lengths(self) -> Tensor:
        """Steps of each sequence among the kept ones, int64, [B]."""
        return self.mask.sum(0)

    @property
    def steps(self) -> Tensor:
        """Which step of the recording each row is, from 0, int64, [T]."""
        return self._cat("steps", lambda part: part.steps)

    @property
    def dtype(self) -> torch.dtype:
        """What the layer computed its gates in: float32, bfloat16, ..."""
        return self._parts[-1].dtype

    @property
    def runs(self) -> Tensor:
        """Which sequence each step belongs to, rising, int64, [T, B]: a call without a state from before begins another one, or
        with one that was detached, and so does a reset."""
        made, before = [], torch.zeros((), dtype=torch.int64, device="cpu")
        for k, part in enumerate(self._parts):
            before = before + int(k > 0 and part.fresh)
            made.append(before + part.sequence)
            before = before + part.sequences
        return torch.cat(made)

    @property
    def flows(self) -> bool:
        """Whether a backward pass has come by."""
        return any(part.norm("dh") is not None or part.norm("dc") is not None for part in self._parts)

    def __repr__(self) -> str:
        T, B = self.mask.shape
        return f"Trace({self.name!r}, {self.cell}, T={T}, B={B}, keep={self.wish.keep!r}, flows={self.flows})"

    def _kept(self, k: str, asked: str = "") -> Tensor:
        if (asked or k) not in self.wish.keep:
            more = self.wish.keep + (asked or k)
            raise ValueError(f"{self.name}: {asked or k!r} was not kept. Record it: record(model, keep={more!r}).")
        return self._cat(k, lambda part: part.kept[k].float().cpu())

    def _norm(self, which: str) -> Tensor:
        found = [part.norm(which) for part in self._parts]
        if all(v is None for v in found) and all(part.norm("dc" if which == "dh" else "dh") is None for part in self._parts):
            if not any(part.flow for part in self._parts):
                raise ValueError(f"{self.name}: there are no gradients, because it ran without them. Record with gradients=True "
                                 "and outside torch.no_grad().")  # fmt: skip
            raise ValueError(f"{self.name}: no gradient has come by. Call loss.backward(), with a loss that depends on this "
                             "layer, and let its parameters or its input require grad.")  # fmt: skip
        return torch.cat(
            [torch.zeros(part.mask.shape, device="cpu") if v is None else v for v, part in zip(found, self._parts, strict=True)]
        )

    def _cat(self, k: str, of: Callable[[_Part], Tensor]) -> Tensor:
        if k not in self._made:
            parts = [of(part) for part in self._parts]
            self._made[k] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._made[k]
