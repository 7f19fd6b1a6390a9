"""Runs a cell over time: one layer, one direction. `auto` takes the first engine that does not refuse.

The engines do not know each other. Each is a module with two functions:

    refuse(cell, call) -> str | None               why it will not run this, in words; None if it will
    forward(cell, params, call, state) -> (y, State, Tape | None)      differentiable

A named engine is obeyed or refused with its reason; it never falls back silently.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from longshort.cell import Cell, Masks, Params, State
from longshort.engine import cpu, recompute, reference, vendor
from longshort.engine.contract import Call, Flow, Tape, arithmetic
from longshort.engine.product import fast_bf16, linear

__all__ = ["ENGINES", "Call", "Cell", "Flow", "Masks", "State", "Tape", "choose", "explain", "fast_bf16", "linear", "run"]

ENGINES = ("cpu", "vendor", "reference")  # the order in which `auto` asks


def engines() -> dict[str, ModuleType]:
    """The engines of this installation by name, in the order in which `auto` asks."""
    return {"cpu": cpu, "vendor": vendor, "reference": reference}


def refusals(cell: Cell, call: Call) -> dict[str, str | None]:
    """For each engine why it refuses this call, or None where it would run it."""
    return {name: engine.refuse(cell, call) for name, engine in engines().items()}


def choose(cell: Cell, call: Call, engine: str = "auto") -> str:
    """The name of the engine that runs this call.

    Raises:
        ValueError: `engine` is unknown, or names one that refuses; the message carries its reason.
    """
    have = engines()
    if engine == "auto":
        return next(name for name, module in have.items() if module.refuse(cell, call) is None)
    if engine not in have:
        raise ValueError(f"engine must be one of {', '.join(['auto', *have])}, got {engine!r}.")
    why = have[engine].refuse(cell, call)
    if why is not None:
        raise ValueError(f"engine {engine!r} was asked for but refuses: {why} Use engine='auto' to let another run it.")
    return engine


def infer(
    cell: Cell, params: Params, x: Tensor, state: State | None, lengths: Tensor | None, reverse: bool, engine: str
) -> tuple[Tensor, State] | None:
    """What `run` returns, but h [1, B, P] and c [1, B, H], on a short way; None where there is none. See `cpu.infer`."""
    return cpu.infer(cell, params, x, state, lengths, reverse) if engine in ("auto", "cpu") else None


def takes_packed(cell: Cell, call: Call, engine: str = "auto") -> bool:
    """Whether a packed batch (`call.sizes`) runs without being padded: the reference engine pads it, and others may refuse it."""
    able = [name for name, why in refusals(cell, call).items() if why is None and engine in ("auto", name)]
    return bool(able) and able[0] != "reference"


def explain(cell: Cell, call: Call, engine: str = "auto") -> str:
    """One line per engine: which one runs this call, and why others do not.

    Raises:
        ValueError: as `choose`.
    """
    chosen, lines = choose(cell, call, engine), []
    other = "could run it, but " + ("comes later" if engine == "auto" else "was not asked for")
    for name, why in refusals(cell, call).items():
        said = f"refuses: {why}" if why else "chosen" if name == chosen else other
        lines.append(f"{name:>9}: {said}")
    return "\n".join(lines)


def run(
    cell: Cell, params: Params, call: Call, state: State | None = None, engine: str = "auto", tape: str = "keep"
) -> tuple[Tensor, State, Tape | None]:
    """Run one layer in one direction over time.

    Args:
        cell: the variant.
        params: the tensors of `cell.shapes(I, H)`; the biases may be absent.
        call: the sequence and how to run it.
        state: h [B, P] in the dtype of x, c [B, H]; zero if None.
        engine: 'auto', or one of ENGINES.
        tape: 'keep' what backward needs, or 'recompute' it (see `recompute`).

    Returns:
        y [T, B, P], the state after the last step of each sequence, and the Tape if `call.tape`.

    Raises:
        ValueError: a shape or a device is wrong, or the named engine refuses.
    """
    x, H = call.x, params["weight_ih"].shape[0] // len(cell.gates)
    T, B, I, P = call.T, call.B, x.shape[-1], cell.projection or H
    if params["weight_ih"].shape[1] != I:
        raise ValueError(f"x must be [T, B, I] with I = {params['weight_ih'].shape[1]}, got {list(x.shape)}.")
    for name, t, shape in (("lengths", call.lengths, [B]), ("resets", call.resets, [T, B])):
        if t is not None and list(t.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {list(t.shape)}. The batch size of x is {B}.")
    if call.sizes is not None and (call.lengths is not None or call.resets is not None):
        raise ValueError("a packed batch has neither lengths nor resets: give it padded, as [T, B, I].")
    if state is None:
        state = State(x.new_zeros(B, P), x.new_zeros(B, H, dtype=arithmetic(x.dtype)))
    else:
        for name, t, shape in (("h", state.h, [B, P]), ("c", state.c, [B, H])):
            if list(t.shape) != shape:
                raise ValueError(f"state {name} must be {shape}, got {list(t.shape)}. Did the batch size change between calls?")
        state = State(state.h.to(x.dtype), state.c.to(arithmetic(x.dtype)))
    here = x.device
    for name, t in (*params.items(), *zip("hc", state, strict=True), ("lengths", call.lengths), ("resets", call.resets)):
        if t is not None and t.device != here:
            raise ValueError(f"{name} is on {t.device}, but the input on {here}. Move one: input.to({str(t.device)!r}).")
    forward = engines()[choose(cell, call, engine)].forward
    return forward(cell, params, call, state) if tape == "keep" else recompute.run(forward, cell, params, call, state)
