"""The CPU engine: the kernels in native/ behind autograd, for every cell, forward and backward. `Stream` runs one step at a time.

Eager calls reach the extension straight from Python or through one autograd.Function; torch.compile and torch.export see one operator,
longshort::lstm. Second derivatives go through the reference engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf, prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from longshort.cell import Cell, Masks, Params, State
from longshort.engine.contract import Call, Tape

native: ModuleType | None
try:
    from longshort import _native as native

    MISSING = None
except ImportError as error:
    native, MISSING = None, str(error)

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch", "gain_ih", "gain_hh", "gain_c")

Optional = Tensor | None


def refuse(cell: Cell, call: Call) -> str | None:
    """It runs every cell, in float32, float64 and bfloat16, on a CPU."""
    if native is None:
        return f"the native extension is not installed ({MISSING}). Install a wheel, or a C++ compiler and build again."
    if call.x.device.type != "cpu":
        return f"it runs on a CPU, and x is on {call.x.device}."
    if call.x.dtype not in TYPES:
        return f"its kernels are for float32, float64 and bfloat16, and x is {str(call.x.dtype).removeprefix('torch.')}."
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        return "the native LSTM cannot be transformed by torch.func."
    return None


def forward(cell: Cell, params: Params, call: Call, state: State) -> tuple[Tensor, State, Tape | None]:
    """One layer in one direction; see `engine.run` for shapes."""
    x, kind = call.x, call.x.dtype
    p = [None if (v := params.get(name)) is None or v.dtype == kind else v.to(kind) for name in NAMES]
    p = [params.get(name) if v is None else v for name, v in zip(NAMES, p, strict=True)]
    masks = call.masks or Masks()
    train = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, *state, *p))
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        keep = call.tape or train
        y, h, c, gates, cells, *_ = torch.ops.longshort.lstm(x, *state, *p, call.lengths, call.resets, *masks, call.reverse, encode(cell), keep)
    elif train:
        y, h, c, gates, cells = Function.apply(cell, call, x, *state, *p)
    else:
        y, h, c, gates, cells, *_ = _forward(cell, x, *state, p, call.lengths, call.resets, masks, call.reverse, call.tape, False)
    return y, State(h, c), Tape(cell, gates.detach(), cells.detach()) if call.tape else None


# ---- the two calls into the extension ----


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)  # one place, so that tests can fill it with NaN


def _memory(*shape: int, dtype: torch.dtype) -> Any:
    """Memory for what only backward reads: kept by the extension from one training step to the next, its pages mapped."""
    assert native is not None
    return native.Memory(prod(shape) * dtype.itemsize)


@lru_cache(maxsize=256)
def _layer(cell: Cell, kind: torch.dtype, I: int, H: int, bias: bool) -> Any:
    assert native is not None
    return native.Layer(TYPES[kind], cell.gates, I, H, cell.projection or H, bias, cell.peephole, cell.layer_norm,
                        cell.projection is not None, *cell.zoneout, 1 / (1 - cell.drop_h), 1 / (1 - cell.drop_g),
                        inf if cell.clip is None else cell.clip)  # fmt: skip


def _at(v: Optional) -> int:
    return 0 if v is None else v.data_ptr()


def _dense(v: Optional) -> Optional:
    return v if v is None or v.is_contiguous() else v.contiguous()


class _Inputs:
    """What a call reads, made dense where the kernels want it so, and its addresses."""

    def __init__(self, x: Tensor, h: Tensor, c: Tensor, params: Sequence[Optional], lengths: Optional, resets: Optional,
                 masks: Masks, reverse: bool) -> None:  # fmt: skip
        self.x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
        self.rest = [_dense(v) for v in (lengths, resets, *masks, h, c)]
        self.own = [_dense(v) for v in params]
        T, B = x.shape[:2]
        rest = [_at(v) for v in self.rest]
        self.input = (T, B, self.x.data_ptr(), self.x.stride(0), self.x.stride(1), *rest[:6], int(reverse), *rest[6:])
        self.params = tuple([_at(v) for v in self.own])


def _forward(cell: Cell, x: Tensor, h: Tensor, c: Tensor, params: Sequence[Optional], lengths: Optional, resets: Optional,
             masks: Masks, reverse: bool, tape: bool, train: bool) -> list[Any]:  # fmt: skip
    """y, h, c, then gates and cells (with tape or train), then what layer norm keeps (with train); None for what is not asked."""
    assert native is not None
    assert params[0] is not None
    (T, B, I), kind, state, rows = x.shape, x.dtype, c.dtype, params[0].shape[0]
    H, P = rows // len(cell.gates), cell.projection or rows // len(cell.gates)
    layer = _layer(cell, kind, I, H, params[2] is not None)
    ins = _Inputs(x, h, c, params, lengths, resets, masks, reverse)
    y, hn, cn = _empty(T, B, P, dtype=kind), _empty(B, P, dtype=kind), _empty(B, H, dtype=state)
    outs: list[Any] = [y, hn, cn, None, None, None, None, None]
    new = _memory if train and not tape else _empty
    if tape or train:
        outs[3:5] = new(T, B, rows, dtype=kind), new(T, B, H, dtype=state)
    if train and cell.layer_norm:
        width = layer.norm_width()
        outs[5:] = new(T, B, width, dtype=kind), new(T, B, width, dtype=kind), new(T, B, 4, dtype=state)
    native.forward(layer, ins.params, ins.input, tuple([_at(v) for v in outs]), torch.get_num_threads())
    return outs


def _backward(cell: Cell, x: Tensor, h: Tensor, c: Tensor, params: Sequence[Optional], lengths: Optional, resets: Optional,
              masks: Masks, reverse: bool, outs: Sequence[Optional], grads: Sequence[Optional], want_dx: bool) -> list[Optional]:  # fmt: skip
    """The gradients of x (None unless wanted), h, c and the nine params."""
    assert native is not None
    assert params[0] is not None
    (T, B, I), kind, state, rows = x.shape, x.dtype, c.dtype, params[0].shape[0]
    layer = _layer(cell, kind, I, rows // len(cell.gates), params[2] is not None)
    ins = _Inputs(x, h, c, params, lengths, resets, masks, reverse)
    given = [_dense(v) for v in grads]
    dx = _empty(T, B, I, dtype=kind) if want_dx else None
    dh, dc = _empty(*h.shape, dtype=kind), _empty(*c.shape, dtype=state)
    dp = [None if v is None else _empty(*v.shape, dtype=state) for v in params]
    native.backward(layer, ins.params, ins.input, tuple([_at(v) for v in outs]),
                    tuple([_at(v) for v in (*given, dx, dh, dc, *dp)]), torch.get_num_threads())  # fmt: skip
    return [dx, dh, dc, *(None if v is None else v.to(kind) for v in dp)]


class Function(torch.autograd.Function):
    """The eager boundary of autograd: cheaper than a registered operator by tens of microseconds a call."""

    @staticmethod
    def forward(ctx: Any, cell: Cell, call: Call, x: Tensor, h: Tensor, c: Tensor, *params: Optional) -> tuple[Tensor, ...]:
        """y, h, c, gates, cells."""
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.call = cell, call._replace(x=None)
        outs = _forward(cell, x, h, c, params, call.lengths, call.resets, call.masks or Masks(), call.reverse, call.tape, True)
        ctx.kept = outs[3:]
        ctx.save_for_backward(x, h, c, outs[0], *params)
        shown = outs[3:5] if call.tape else [x.new_empty(0), x.new_empty(0)]
        ctx.mark_non_differentiable(*shown)
        return (*outs[:3], *shown)

    @staticmethod
    def backward(ctx: Any, *grads: Optional) -> tuple[Any, ...]:
        """With create_graph or batched gradients, through the reference, which autograd and vmap can follow."""
        x, h, c, y, *params = ctx.saved_tensors
        call = ctx.call._replace(x=x)
        if torch.is_grad_enabled() or torch._C._functorch.peek_interpreter_stack() is not None:
            return (None, None, *_through_reference(ctx.cell, call, h, c, params, grads[:3], ctx.needs_input_grad[2:]))
        outs = [y, None, None, *ctx.kept]
        got = _backward(ctx.cell, x, h, c, params, call.lengths, call.resets, call.masks or Masks(), call.reverse, outs, grads[:3],
                        ctx.needs_input_grad[2])  # fmt: skip
        return (None, None, *got)


def _through_reference(cell: Cell, call: Call, h: Tensor, c: Tensor, params: Sequence[Optional], grads: Sequence[Optional],
                       needed: Sequence[bool]) -> list[Optional]:  # fmt: skip
    from longshort.engine import reference

    named = {k: v for k, v in zip(NAMES, params, strict=True) if v is not None}
    with torch.enable_grad():
        y, state, _ = reference.forward(cell, named, call._replace(tape=False), State(h, c))
    pairs = [(v, g) for v, g in zip((y, *state), grads, strict=True) if g is not None and v.requires_grad]
    inputs = [v if need else None for v, need in zip((call.x, h, c, *params), needed, strict=True)]
    wanted = [v for v in inputs if v is not None]
    got = iter(torch.autograd.grad([v for v, _ in pairs], wanted, [g for _, g in pairs],
                                   create_graph=torch.is_grad_enabled(), allow_unused=True))  # fmt: skip
    return [None if v is None else next(got) for v in inputs]


# ---- one step at a time ----


class Stream:
    """A stack of unidirectional layers run one step at a time, without gradients: weights are packed once, and a step allocates nothing.

    Weights that change later are not seen: make a new Stream.

    Args:
        cell: the variant of every layer.
        layers: the tensors of `cell.shapes(I, H)` for each layer, the first layer first; on a CPU, of one type.
        batch: streams B that advance together.

    Raises:
        ValueError: the extension is missing, or the tensors' device or type is not its own; the message says which.
    """

    def __init__(self, cell: Cell, layers: Sequence[Params], batch: int) -> None:
        first = layers[0]["weight_ih"]
        why = refuse(cell, Call(first[None]))
        if native is None or why is not None:
            raise ValueError(f"engine 'cpu' cannot stream: {why}")
        self.dtype, self.batch, self.inputs = first.dtype, batch, first.shape[1]
        arithmetic = torch.float32 if self.dtype == torch.bfloat16 else self.dtype
        self.states: list[State] = []
        self._native = native.Stream(batch, torch.get_num_threads())
        for params in layers:
            own = [_dense(None if (v := params.get(name)) is None else v.detach().to(self.dtype)) for name in NAMES]
            assert own[0] is not None
            I, H = own[0].shape[1], own[0].shape[0] // len(cell.gates)
            P = cell.projection or H
            self.states.append(State(torch.zeros(batch, P, dtype=self.dtype), torch.zeros(batch, H, dtype=arithmetic)))
            self.y = torch.zeros(batch, P, dtype=self.dtype)
            self._kept = [*getattr(self, "_kept", []), self.y]
            layer = _layer(cell, self.dtype, I, H, own[2] is not None)
            self._native.add(layer, tuple([_at(v) for v in own]), *(v.data_ptr() for v in (*self.states[-1], self.y)))
        self._step, self._shape = self._native.step, torch.Size((batch, self.inputs))

    def step(self, x: Tensor) -> Tensor:
        """One step of every layer.

        Args:
            x: input, [B, I], of the weights' type.

        Returns:
            The last layer's output, [B, P]. The next step overwrites it.

        Raises:
            ValueError: x has another shape, type or device.
        """
        if x.shape != self._shape or x.dtype is not self.dtype or not x.is_cpu:
            raise ValueError(f"x must be {list(self._shape)} of {self.dtype} on the CPU, got {list(x.shape)} of {x.dtype} on {x.device}.")
        self._step((x if x.is_contiguous() else x.contiguous()).data_ptr())
        return self.y

    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Start the given streams of the batch afresh; all of them if None."""
        for v in (t for state in self.states for t in state):
            v[slice(None) if rows is None else rows] = 0


# ---- the operator that torch.compile and torch.export see ----


def encode(cell: Cell) -> list[float]:
    """A cell as numbers, for the operator's schema."""
    flags = [cell.forget, cell.peephole, cell.coupled, cell.layer_norm]
    return [*map(float, flags), *cell.zoneout, cell.drop_h, cell.drop_g, float(cell.projection or 0), inf if cell.clip is None else cell.clip]


@lru_cache(maxsize=256)
def decode(numbers: tuple[float, ...]) -> Cell:
    """The cell of `encode`."""
    forget, peephole, coupled, layer_norm = (bool(v) for v in numbers[:4])
    zone_h, zone_c, drop_h, drop_g, projection, clip = numbers[4:]
    return Cell(forget, peephole, coupled, layer_norm, (zone_h, zone_c), drop_h, drop_g, int(projection) or None,
                None if clip == inf else clip)  # fmt: skip


_TENSORS = "Tensor x, Tensor h, Tensor c, " + ", ".join(f"Tensor? {name}" for name in NAMES)
_REST = "Tensor? lengths, Tensor? resets, Tensor? drop_h, Tensor? drop_g, Tensor? zone_h, Tensor? zone_c, bool reverse, float[] cell"
torch.library.define("longshort::lstm", f"({_TENSORS}, {_REST}, bool keep) -> Tensor[]")
torch.library.define("longshort::lstm_backward", f"(Tensor?[] outs, Tensor?[] grads, {_TENSORS}, {_REST}, bool want_dx) -> Tensor[]")


def _some(outs: Sequence[Optional], like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) if v is None else v for v in outs]


@torch.library.impl("longshort::lstm", "CPU")
def _op(x: Tensor, h: Tensor, c: Tensor, *rest: Any) -> list[Tensor]:
    params, (lengths, resets), masks, (reverse, cell, keep) = rest[:9], rest[9:11], rest[11:15], rest[15:]
    return _some(_forward(decode(tuple(cell)), x, h, c, params, lengths, resets, Masks(*masks), reverse, keep, keep), x)


@torch.library.impl("longshort::lstm_backward", "CPU")
def _op_backward(outs: list[Tensor], grads: list[Optional], x: Tensor, h: Tensor, c: Tensor, *rest: Any) -> list[Tensor]:
    params, (lengths, resets), masks, (reverse, cell, want_dx) = rest[:9], rest[9:11], rest[11:15], rest[15:]
    return _some(_backward(decode(tuple(cell)), x, h, c, params, lengths, resets, Masks(*masks), reverse, outs, grads, want_dx), x)


@torch.library.register_fake("longshort::lstm")
def _fake(x: Tensor, h: Tensor, c: Tensor, *rest: Any) -> list[Tensor]:
    (T, B, _), rows, H, cell = x.shape, rest[0].shape[0], c.shape[1], decode(tuple(rest[16]))
    outs = [x.new_empty(T, B, h.shape[1]), h.new_empty(h.shape), c.new_empty(c.shape)]
    if not rest[17]:
        return [*outs, *(x.new_empty(0) for _ in range(5))]
    outs += [x.new_empty(T, B, rows), c.new_empty(T, B, H)]
    if not cell.layer_norm:
        return [*outs, *(x.new_empty(0) for _ in range(3))]
    width = _layer(cell, x.dtype, 1, int(H), True).norm_width()
    return [*outs, x.new_empty(T, B, width), x.new_empty(T, B, width), c.new_empty(T, B, 4)]


@torch.library.register_fake("longshort::lstm_backward")
def _fake_backward(outs: list[Tensor], grads: list[Optional], x: Tensor, h: Tensor, c: Tensor, *rest: Any) -> list[Tensor]:
    shapes = [x.new_empty(x.shape) if rest[17] else x.new_empty(0), h.new_empty(h.shape), c.new_empty(c.shape)]
    return [*shapes, *(x.new_empty(0) if v is None else v.new_empty(v.shape) for v in rest[:9])]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*(v for v in inputs[:18]), *output)
    ctx.rest, ctx.want_dx = inputs[18:20], ctx.needs_input_grad[0]


def _op_vjp(ctx: Any, grads: list[Optional]) -> tuple[Any, ...]:
    inputs, outs = ctx.saved_tensors[:18], list(ctx.saved_tensors[18:])
    outs = [outs[0], None, None, *outs[3:]]
    got = torch.ops.longshort.lstm_backward(outs, list(grads[:3]), *inputs, *ctx.rest, ctx.want_dx)
    dx = got[0] if ctx.want_dx else None
    return (dx, *got[1:3], *(None if v is None else g for v, g in zip(inputs[3:12], got[3:], strict=True)), *([None] * 9))


torch.library.register_autograd("longshort::lstm", _op_vjp, setup_context=_setup)
