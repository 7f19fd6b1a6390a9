"""The CPU engine: the kernels in native/ behind autograd, for every cell, forward and backward. `Stream` runs one step at a time.

Eager calls reach the extension straight from Python or through one autograd.Function; torch.compile and torch.export see one
operator, longshort::lstm. Second derivatives go through the reference engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf, prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from longshort.cell import Cell, Masks, Params, State
from longshort.engine.contract import Call, Flow, Tape, arithmetic, nodes
from longshort.tracing import eager, transformed

native: Any = None
MISSING = ""
try:
    from longshort import _native as native  # type: ignore[no-redef]
except ImportError as error:
    MISSING = str(error)

OWN = {Tensor, torch.nn.Parameter}  # types whose memory is what it looks like
HERE = torch.device("cpu")  # whatever torch.set_default_device says
LARGE = 1 << 18  # bytes: where the allocator begins to give memory back to the system
TYPES, BYTES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}, 3
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ch", "gain_ih", "gain_hh", "gain_c")

Maybe = Tensor | None


def refuse(cell: Cell, call: Call) -> str | None:
    """It runs every cell, in float32, float64 and bfloat16, on a CPU."""
    if native is None:
        return f"the native extension is not installed ({MISSING}). Install g++ or clang and build longshort again."
    if call.x.device.type != "cpu":
        return f"it runs on a CPU, and x is on {call.x.device}."
    if call.x.dtype not in TYPES:
        return f"its kernels are for float32, float64 and bfloat16, and x is {str(call.x.dtype).removeprefix('torch.')}."
    if not torch.compiler.is_compiling() and transformed():
        return "the native LSTM cannot be transformed by torch.func, traced by torch.jit, or differentiated in forward mode."
    if call.flow is not None and torch._C._len_torch_dispatch_stack():
        return "under a dispatch mode it is one operator, which does not show the gradient of every step."
    return None


def refuse_bytes(cell: Cell, dtype: torch.dtype) -> str | None:
    """Products of bytes: each row of W in steps of a 127th of its largest entry, x of a step likewise, h in steps of 1/127.

    The rest stays float32. Sums are exact; what is lost is the rounding to bytes, about 1 % of the output (more with layer_norm).
    """
    if dtype != torch.float32:
        return f"int8 weights are made from float32 ones, and these are {str(dtype).removeprefix('torch.')}."
    if cell.projection is not None:
        return "int8 needs |h| <= 1, which a projection does not keep."
    if not native.has(BYTES):
        return f"int8 needs a processor with AVX512_VNNI and AVX512_BF16, and the instruction set in use is {native.isa()}."
    return None


def forward(cell: Cell, params: Params, call: Call, state: State) -> tuple[Tensor, State, Tape | None]:
    """One layer in one direction; see `engine.run` for shapes."""
    x, kind = call.x, call.x.dtype
    own = [v if (v := params.get(name)) is None or v.dtype == kind else v.to(kind) for name in NAMES]
    job = Job(x, *state, *own, call.lengths, call.sizes, call.resets, *(call.masks or Masks()), call.reverse)  # type: ignore[call-arg, arg-type]
    train = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in (x, *state, *own))
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        y, h, c, *kept = torch.ops.longshort.lstm(*job, encode(cell), call.tape, train)
    elif train:
        y, h, c, *kept = Function.apply(cell, call.tape, call.flow, *job)
    else:
        y, h, c, *kept = run_forward(cell, job, call.tape, False)
    return y, State(h, c), Tape(cell, kept[0].detach(), kept[1].detach()) if call.tape else None


def infer(
    cell: Cell, params: Params, x: Tensor, state: State | None, lengths: Maybe, reverse: bool
) -> tuple[Tensor, State] | None:
    """One layer in one direction without gradients, the short way: between two calls the caches have forgotten what Python needs.

    Args:
        cell: the variant.
        params: the tensors of `cell.shapes(I, H)`.
        x: input, [T, B, I].
        state: h [1, B, P] and c [1, B, H]; zero if None.
        lengths: as in `Call`.
        reverse: as in `Call`.

    Returns:
        y [T, B, P], and the state, shaped as the one given. None where the way must be longer: `forward` takes any call.
    """
    kind = x.dtype
    if torch.is_grad_enabled() or native is None or kind not in TYPES or not x.is_cpu or not eager():
        return None
    own = [params.get(name) for name in NAMES]
    if not all([v is None or (v.dtype is kind and v.is_cpu and v.is_contiguous() and not v.is_neg()) for v in own]):
        return None
    if x.stride(2) != 1 or x.is_neg():
        return None
    (T, B, I), (rows, P) = x.shape, params["weight_hh"].shape
    H, h0, c0 = rows // len(cell.gates), None, None
    if params["weight_ih"].shape[1] != I:
        return None
    if state is not None:
        h0, c0 = state
        if not (h0.is_cpu and c0.is_cpu) or h0.is_neg() or c0.is_neg() or h0.shape[2] != P or c0.shape[2] != H:
            return None
        h0, c0 = h0.to(kind).contiguous(), c0.to(arithmetic(kind)).contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    y, h, c = _empty(T, B, P, dtype=kind), _empty(1, B, P, dtype=kind), _empty(1, B, H, dtype=arithmetic(kind))
    at_x, at_lengths, at_h, at_c = _addresses(x, lengths, h0, c0)
    read = (T, B, 0, at_x, x.stride(0), x.stride(1), at_lengths, 0, 0, 0, 0, 0, int(reverse), at_h, at_c)
    layer, made = _layer(cell, TYPES[kind], *_sizes(own)), (y.data_ptr(), h.data_ptr(), c.data_ptr(), 0, 0, 0, 0, 0)
    native.forward(layer, _addresses(*own), read, made, False, torch.get_num_threads())
    return y, State(h, c)


# ---- the two calls into the extension ----


class Job(NamedTuple):
    """All that a call reads, in the order of the operator's schema; the extension gets the same as addresses."""

    x: Tensor
    h: Tensor
    c: Tensor
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Maybe
    bias_hh: Maybe
    weight_hr: Maybe
    weight_ch: Maybe
    gain_ih: Maybe
    gain_hh: Maybe
    gain_c: Maybe
    lengths: Maybe
    sizes: Maybe
    resets: Maybe
    drop_h: Maybe
    drop_g: Maybe
    zone_h: Maybe
    zone_c: Maybe
    reverse: bool

    @property
    def params(self) -> tuple[Maybe, ...]:
        """In the order of NAMES."""
        return tuple(self[3:12])

    def dense(self) -> Job:
        """The same, contiguous where the kernels want it so."""
        rows = (self.x.stride(-1) == 1 or self.x.shape[-1] == 1) and not self.x.is_neg()
        return Job(self.x if rows else _dense(self.x), *map(_dense, self[1:19]), self.reverse)  # type: ignore[call-arg]

    def layer(self, cell: Cell) -> Any:
        """What the extension knows of the cell and the sizes."""
        return _layer(cell, TYPES[self.x.dtype], *_sizes(self.params))


def _dense(v: Any) -> Any:
    """Memory that is what it looks like: contiguous, and its signs written out; None stays."""
    return v if v is None or (v.is_contiguous() and not v.is_neg()) else v.resolve_neg().contiguous()


def _sizes(params: Sequence[Maybe]) -> list[tuple[int, ...] | None]:
    return [None if v is None else v.shape for v in params]


@lru_cache(maxsize=256)
def _layer(cell: Cell, kind: int, *sizes: tuple[int, ...] | None) -> Any:
    """What the extension knows of a cell whose params, in the order of NAMES, have these shapes.

    Raises:
        ValueError: they do not go together.
    """
    rows, I = cast(tuple[int, int], sizes[0])
    H, bias = rows // len(cell.gates), sizes[2] is not None
    want = cell.shapes(I, H, bias)
    for name, shape in zip(NAMES, sizes, strict=True):
        if shape != want.get(name):
            raise ValueError(f"{name} must be {want.get(name)} beside weight_ih {(rows, I)}, got {shape and tuple(shape)}.")
    return native.Layer(kind, cell.gates, I, H, cell.projection or H, bias, cell.peephole, cell.layer_norm,
                        cell.projection is not None, *cell.zoneout, 1 / (1 - cell.drop_h), 1 / (1 - cell.drop_g),
                        inf if cell.clip is None else cell.clip)  # fmt: skip


def _address(v: Any) -> int:
    """Of a tensor of another type, which may be a wrapper without memory."""
    if type(v).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise ValueError(f"a {type(v).__name__} has no memory of its own that the cpu engine could read. Give the tensor inside "
                         "(to_local(), wait()), or take engine='reference'.")  # fmt: skip
    return v.data_ptr()


def _addresses(*tensors: Any) -> tuple[int, ...]:
    return tuple([0 if v is None else v.data_ptr() if type(v) in OWN else _address(v) for v in tensors])


def _read(job: Job) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Addresses of the params, and of the rest with the sizes; the job must be dense and stay alive."""
    if job.sizes is None:
        (T, B), (x_t, x_b) = job.x.shape[:2], job.x.stride()[:2]
    else:
        T, B, x_t, x_b = job.sizes.shape[0], job.h.shape[0], 0, job.x.stride(0)
    at = _addresses(*job[:19])
    return at[3:12], (T, B, at[13], at[0], x_t, x_b, at[12], *at[14:], int(job.reverse), at[1], at[2])


def _empty(*shape: int, dtype: torch.dtype, spare: float = 1.25) -> Tensor:
    """Large ones lie in memory that the extension keeps, so that no call pays for fresh pages, and may lie in a piece that is
    `spare` times as large: 4 where only backward reads, for batches differ in length."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty(shape, dtype=dtype, device=HERE)
    return torch.frombuffer(native.Memory(size, spare), dtype=dtype, count=prod(shape)).resize_(shape)


def _shapes(cell: Cell, job: Job, tape: bool, train: bool) -> list[tuple[tuple[int, ...], torch.dtype] | None]:
    """Shape and type of y, h, c; gates and cells, with `tape` or `train`, but with layer norm backward makes the gates again;
    what layer norm keeps, with `train`. None for what is not asked."""
    (*steps, _), (rows, P), (B, H), kind, state = job.x.shape, job.weight_hh.shape, job.c.shape, job.x.dtype, job.c.dtype
    normed = train and cell.layer_norm
    width = 0
    if normed:  # weights have sizes in numbers, also where shapes are symbols
        width = native.width(_layer(cell, TYPES[kind], *[s and tuple(map(int, s)) for s in _sizes(job.params)]))

    def of(there: bool, n: int, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype] | None:
        return ((*steps, n), dtype) if there else None

    return [((*steps, P), kind), ((B, P), kind), ((B, H), state), of(tape or (train and not normed), rows, kind),
            of(tape or train, H, state), of(normed, width, kind), of(normed, width, kind), of(normed, 4, state)]  # fmt: skip


def run_forward(cell: Cell, job: Job, tape: bool, train: bool) -> list[Any]:
    """y, h, c; gates and cells; what layer norm keeps: see `_shapes`."""
    shapes, job = _shapes(cell, job, tape, train), job.dense()
    spare = [1.25] * 3 + [1.25 if tape else 4.0] * 5
    outs = [made and _empty(*made[0], dtype=made[1], spare=s) for s, made in zip(spare, shapes, strict=True)]
    native.forward(job.layer(cell), *_read(job), _addresses(*outs), train, torch.get_num_threads())
    return outs


def run_backward(cell: Cell, job: Job, outs: Sequence[Any], grads: Sequence[Maybe], want_dx: bool,
                 flow: Flow | None = None) -> list[Maybe]:  # fmt: skip
    """The gradients of x (None unless wanted), h, c and the params, from those of y, h and c and from what forward kept."""
    kind, state = job.x.dtype, job.c.dtype
    job, layer = job.dense(), job.layer(cell)
    given = [_dense(v) for v in grads]
    dx = _empty(*job.x.shape, dtype=kind) if want_dx else None
    dh, dc = _empty(*job.h.shape, dtype=kind), _empty(*job.c.shape, dtype=state)
    dp = [None if v is None else _empty(*v.shape, dtype=state) for v in job.params]
    steps, P = job.x.shape[:-1], job.h.shape[1]
    shown = () if flow is None else tuple(torch.zeros(*steps, n, dtype=state, device=HERE) for n in (P, job.c.shape[1]))
    addresses = _addresses(*given, dx, dh, dc, *dp, *(shown or (None, None)))
    native.backward(layer, *_read(job), _addresses(*outs), addresses, torch.get_num_threads())
    if flow is not None:
        flow.add(*shown)
    return [dx, dh, dc, *(dp if kind == state else [None if v is None else v.to(kind) for v in dp])]


class Function(torch.autograd.Function):
    """The eager boundary of autograd: tens of microseconds cheaper per call than a registered operator."""

    @staticmethod
    def forward(ctx: Any, cell: Cell, tape: bool, flow: Flow | None, *inputs: Any) -> tuple[Tensor, ...]:
        """y, h, c; gates and cells where they are asked for."""
        ctx.set_materialize_grads(False)
        job = Job(*inputs)
        outs = run_forward(cell, job, tape, True)
        ctx.cell, ctx.flow, ctx.reverse = cell, flow, job.reverse
        ctx.save_for_backward(*job[:19], outs[0], *outs[3:])  # so that backward frees them
        if not tape:
            return tuple(outs[:3])
        ctx.mark_non_differentiable(*outs[3:5])
        return tuple(outs[:5])

    @staticmethod
    def backward(ctx: Any, *grads: Maybe) -> tuple[Any, ...]:
        """With create_graph or batched gradients, through the reference, which autograd and vmap can follow."""
        saved = ctx.saved_tensors
        job, y, kept = Job(*saved[:19], ctx.reverse), saved[19], saved[20:]  # type: ignore[call-arg]
        if torch.is_grad_enabled() or not all(g is None or torch._C._has_storage(g) for g in grads):
            got = _through_reference(ctx.cell, job, grads[:3], ctx.needs_input_grad[3:15], ctx.flow)
        else:
            got = run_backward(ctx.cell, job, [y, None, None, *kept], grads[:3], ctx.needs_input_grad[3], ctx.flow)
        return (None, None, None, *got, *[None] * 8)


def _through_reference(cell: Cell, job: Job, grads: Sequence[Maybe], needed: Sequence[bool],
                       flow: Flow | None) -> list[Maybe]:  # fmt: skip
    from longshort.engine import reference

    job = Job(*nodes(job[:12]), *job[12:])  # type: ignore[call-arg]
    call = Call(job.x, job.lengths, job.resets, Masks(job.drop_h, job.drop_g, job.zone_h, job.zone_c), job.reverse,
                False, job.sizes, flow)  # fmt: skip
    params = {k: v for k, v in zip(NAMES, job.params, strict=True) if v is not None}
    with torch.enable_grad():
        y, state, _ = reference.forward(cell, params, call, State(job.h, job.c))
    pairs = [(v, g) for v, g in zip((y, *state), grads, strict=True) if g is not None and v.requires_grad]
    inputs = [v if need else None for v, need in zip(job[:12], needed, strict=True)]
    wanted = [v for v in inputs if v is not None]
    outs, given, twice = [v for v, _ in pairs], [g for _, g in pairs], torch.is_grad_enabled()
    got = iter(torch.autograd.grad(outs, wanted, given, create_graph=twice, allow_unused=True))
    return [None if v is None else next(got) for v in inputs]


# ---- one step at a time ----


class Stream:
    """A stack of unidirectional layers run one step at a time, without gradients.

    Weights are packed once, and a step allocates nothing. Weights that change later are not seen: make a new Stream.

    Args:
        cell: the variant of every layer.
        layers: the tensors of `cell.shapes(I, H)` for each layer, the first layer first; on a CPU, of one type.
        batch: streams B that advance together.
        weights: 'same', or 'int8': W_ih and W_hh as bytes, see `refuse_bytes`.

    Raises:
        ValueError: the extension is missing, or the tensors' device or type is not its own; the message says which.
    """

    def __init__(self, cell: Cell, layers: Sequence[Params], batch: int, weights: str = "same") -> None:
        first = layers[0]["weight_ih"]
        why = refuse(cell, Call(first[None])) or (refuse_bytes(cell, first.dtype) if weights == "int8" else None)
        if why is not None:
            raise ValueError(f"engine 'cpu' cannot stream: {why}")
        self.dtype, self.batch, self.inputs = first.dtype, batch, first.shape[1]
        self.states: list[State] = []
        self._kept: list[Tensor] = []  # the extension writes there
        self._native = native.Stream(batch, torch.get_num_threads())
        width = self.inputs
        for k, params in enumerate(layers):
            if far := next((name for name, v in params.items() if not v.is_cpu), None):
                raise ValueError(f"engine 'cpu' cannot stream: {far} of layer {k} is on {params[far].device}.")
            if params["weight_ih"].shape[1] != width:
                raise ValueError(f"weight_ih of layer {k} must be [*, {width}], got {list(params['weight_ih'].shape)}.")
            own = {k: _dense(v.detach().to(self.dtype)) for k, v in params.items()}
            H = len(own["weight_ih"]) // len(cell.gates)
            width = P = cell.projection or H
            with torch.inference_mode(False):  # wherever it is made, it may be reset anywhere
                h, c, self.y = (torch.zeros(batch, n, dtype=kind, device=HERE) for n, kind in
                                ((P, self.dtype), (H, arithmetic(self.dtype)), (P, self.dtype)))  # fmt: skip
            self.states.append(State(h, c))
            self._kept.append(self.y)
            kind = BYTES if weights == "int8" else TYPES[self.dtype]
            layer = _layer(cell, kind, *_sizes([*map(own.get, NAMES)]))
            self._native.add(layer, _addresses(*map(own.get, NAMES)), *_addresses(*self.states[-1], self.y))
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
            came = f"{list(x.shape)} of {x.dtype} on {x.device}"
            raise ValueError(f"x must be {list(self._shape)} of {self.dtype} on the CPU, got {came}.")
        x = _dense(x)  # a copy needs a name, or it is gone before it is read
        self._step(x.data_ptr() if type(x) in OWN else _address(x))
        return self.y

    def reset(self, rows: Tensor | Sequence[int] | None = None) -> None:
        """Start the given streams of the batch afresh; all of them if None."""
        for v in (t for state in self.states for t in state):
            v[slice(None) if rows is None else rows, ...] = 0


# ---- the operator that torch.compile and torch.export see ----


def encode(cell: Cell) -> list[float]:
    """A cell as numbers, for the operator's schema."""
    flags, rates = (cell.forget, cell.peephole, cell.coupled, cell.layer_norm), (*cell.zoneout, cell.drop_h, cell.drop_g)
    return [*map(float, flags), *rates, float(cell.projection or 0), inf if cell.clip is None else cell.clip]


@lru_cache(maxsize=256)
def _decode(numbers: tuple[float, ...]) -> Cell:
    *flags, zone_h, zone_c, drop_h, drop_g, projection, clip = numbers
    forget, peephole, coupled, layer_norm = (bool(v) for v in flags)
    bound = None if clip == inf else clip
    return Cell(forget, peephole, coupled, layer_norm, (zone_h, zone_c), drop_h, drop_g, int(projection) or None, bound)


_JOB = (
    ", ".join(f"Tensor{'' if k < 5 else '?'} {name}" for k, name in enumerate(Job._fields[:19])) + ", bool reverse, float[] cell"
)
torch.library.define("longshort::lstm", f"({_JOB}, bool tape, bool train) -> Tensor[]")
torch.library.define("longshort::lstm_backward", f"(Tensor?[] outs, Tensor?[] grads, {_JOB}, bool want_dx) -> Tensor[]")


def _some(outs: Sequence[Maybe], like: Tensor) -> list[Tensor]:
    return [like.new_empty(0) if v is None else v for v in outs]


@torch.library.impl("longshort::lstm", "CPU")
def _op(*args: Any) -> list[Tensor]:
    *job, cell, tape, train = args
    return _some(run_forward(_decode(tuple(cell)), Job(*job), tape, train), job[0])


@torch.library.impl("longshort::lstm_backward", "CPU")
def _op_backward(outs: list[Tensor], grads: list[Maybe], *args: Any) -> list[Tensor]:
    *job, cell, want_dx = args
    return _some(run_backward(_decode(tuple(cell)), Job(*job), outs, grads, want_dx), job[0])


@torch.library.register_fake("longshort::lstm")  # type: ignore[untyped-decorator]
def _fake(*args: Any) -> list[Tensor]:
    *inputs, numbers, tape, train = args
    job = Job(*inputs)
    shapes = _shapes(_decode(tuple(numbers)), job, tape, train)
    return _some([made and job.x.new_empty(made[0], dtype=made[1]) for made in shapes], job.x)


@torch.library.register_fake("longshort::lstm_backward")  # type: ignore[untyped-decorator]
def _fake_backward(outs: list[Tensor], grads: list[Maybe], *args: Any) -> list[Tensor]:
    x, *rest = args[:12]
    return [x.new_empty(x.shape if args[-1] else 0), *(x.new_empty(0) if v is None else v.new_empty(v.shape) for v in rest)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:19], *output)
    ctx.rest, ctx.train, ctx.want_dx = inputs[19:21], inputs[22], ctx.needs_input_grad[0]


def _op_vjp(ctx: Any, grads: list[Maybe]) -> tuple[Any, ...]:
    saved = ctx.saved_tensors  # asked for once: a checkpoint computes them anew each time
    job, outs = saved[:19], saved[19:]
    if torch.is_grad_enabled():  # with create_graph
        reverse, numbers = ctx.rest
        whole = Job(*job, reverse)  # type: ignore[call-arg]
        got = _through_reference(_decode(tuple(numbers)), whole, grads[:3], ctx.needs_input_grad[:12], None)
        return (*got, *[None] * 11)
    if not ctx.train:  # exported where no gradient was wanted: nothing was kept for this
        outs = torch.ops.longshort.lstm(*job, *ctx.rest, False, True)
    kept = [outs[0], None, None, *outs[3:]]
    dx, *got = torch.ops.longshort.lstm_backward(kept, list(grads[:3]), *job, *ctx.rest, ctx.want_dx)
    return (dx if ctx.want_dx else None, *(None if v is None else g for v, g in zip(job[1:12], got, strict=True)), *[None] * 11)


torch.library.register_autograd("longshort::lstm", _op_vjp, setup_context=_setup)
