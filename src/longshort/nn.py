"""`LSTM`: a drop-in for torch.nn.LSTM with every `Cell`, dilation, resets, initialisations, and its gates on request."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from threading import get_ident
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from longshort import engine as engines
from longshort.cell import Cell, State
from longshort.dilation import Dilation
from longshort.dropout import dropout
from longshort.engine import Call, Flow, Tape
from longshort.stream import Stream
from longshort.tracing import eager, transformed

INITS = ("torch", "forget_bias", "chrono:T_MAX", "orthogonal")


class Seen(NamedTuple):
    """One run of one layer and direction, as an `Observer` gets it: y, tape and flow as the engine has them, which `place` brings
    to [T, B, *] (unfolded, padded, in the order of the input). Time is that of the input, whichever way the layer ran.

    name: 'l0', 'l0_reverse', 'l1', ...
    dilation: d of the layer.
    y: output, detached.
    tape: gates and cells.
    flow: filled in by backward; None if it was not asked for.
    place: takes one of their tensors.
    lengths: steps per sequence, int64, [B], in the order of the input; None means T.
    fresh: whether no state was handed in, or one that carries no gradient back: what ran before is another sequence.
    resets: where a sequence starts afresh, bool, [T, B], in the order of the input; None: nowhere.
    """

    name: str
    dilation: int
    y: Tensor
    tape: Tape
    flow: Flow | None
    place: Callable[[Tensor], Tensor]
    lengths: Tensor | None
    fresh: bool
    resets: Tensor | None


class Observer(Protocol):
    """Who looks on while an LSTM runs: set as its attribute `observer`."""

    flow: bool  # whether backward shall leave the gradient of every step

    def see(self, seen: Seen) -> None:
        """One run of one layer and direction, right after it."""


class LSTM(nn.Module):
    """Long Short-Term Memory over time, layers and directions: torch.nn.LSTM with any `Cell`.

    Args:
        input_size: features I of the input.
        hidden_size: units H of each layer and direction.
        num_layers: layers L, each reading the outputs of the one below.
        bias: whether the gates have bias_ih and bias_hh.
        batch_first: input and output are [B, T, *] instead of [T, B, *].
        dropout: dropout on the outputs of each layer but the last, in [0, 1].
        bidirectional: a second direction D = 2 reads from the end; the outputs are concatenated.
        proj_size: size of the projected output, 0 for none: short for cell=Cell(projection=...).
        device: where the parameters live.
        dtype: type of the parameters.
        cell: the variant; None is the plain LSTM.
        dilation: d of every layer, or one d per layer: step t sees step t - d. Chang et al. 2017, Dilated RNNs.
        init: how parameters start, one or more of these joined by '+', applied from left to right:
            'torch': U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.LSTM draws it (always applied first);
            'forget_bias': bias of the forget gate 1. Jozefowicz et al. 2015;
            'chrono:T_MAX': forget bias ln U(1, T_MAX - 1), input bias its negative, for memories of up to T_MAX steps (with
                dilation d: d T_MAX).
            Tallec & Ollivier 2018;
            'orthogonal': each gate's block of W_hh is orthogonal. Saxe et al. 2014.
        engine: 'auto', or the name of an engine, which is obeyed or refused with a reason.
        weight_drop: dropout on W_hh in training (DropConnect), in [0, 1). Merity et al. 2018.
        tape: what a training step keeps for backward: 'keep' gates and cells of every step, or 'recompute' them from a
            state every sqrt(T) steps, for long sequences: one more forward pass, and memory for sqrt(T) steps.

    Raises:
        ValueError: an argument is out of range, or two contradict each other.
    """

    observer: Observer | None = None
    _held: dict[int, dict[Any, Any]] | None = None  # by thread, then by layer and direction, and way to compute

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        cell: Cell | None = None,
        dilation: int | Sequence[int] = 1,
        init: str = "torch",
        engine: str = "auto",
        weight_drop: float = 0.0,
        tape: str = "keep",
    ) -> None:
        super().__init__()
        for name, size, least in (("input_size", input_size, 1), ("hidden_size", hidden_size, 1),
                                  ("num_layers", num_layers, 1), ("proj_size", proj_size, 0)):  # fmt: skip
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name} must be a whole number, got {size!r}.")
            if size < least:
                raise ValueError(f"{name} must be at least {least}, got {size}.")
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}.")
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be a number in [0, 1], got {dropout!r}.")
        if dropout and num_layers == 1:
            warnings.warn(
                f"dropout={dropout} acts between layers, and num_layers is 1: it does nothing. "
                "See Cell(drop_h=...) and Cell(drop_g=...) for dropout inside a layer.",
                stacklevel=2,
            )
        if not 0 <= weight_drop < 1:
            raise ValueError(f"weight_drop must be a number in [0, 1), got {weight_drop!r}.")
        if engine != "auto" and engine not in engines.ENGINES:
            raise ValueError(f"engine must be one of {', '.join(('auto', *engines.ENGINES))}, got {engine!r}.")
        if tape not in ("keep", "recompute"):
            raise ValueError(f"tape must be 'keep' or 'recompute', got {tape!r}.")
        cell = cell or Cell(projection=proj_size or None)
        if proj_size and cell.projection != proj_size:
            raise ValueError(f"proj_size={proj_size} and cell.projection={cell.projection} differ. Give only one of them.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        self.cell, self.init, self.engine, self.weight_drop, self.tape = cell, init, engine, weight_drop, tape
        self.proj_size = cell.projection or 0
        self.dilation = _per_layer(dilation, num_layers)
        self._names = tuple(cell.shapes(input_size, hidden_size, bias))  # of the parameters of a layer and direction
        for k, suffix in self._stack():
            I = input_size if k == 0 else (self.proj_size or hidden_size) * (1 + bidirectional)
            for name, shape in cell.shapes(I, hidden_size, bias).items():
                setattr(self, name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def _stack(self) -> list[tuple[int, str]]:
        """(layer, suffix of its parameters' names) for each layer and direction, in torch's order."""
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [(k, f"_l{k}{end}") for k in range(self.num_layers) for end in ends]

    def layer_params(self, suffix: str) -> dict[str, Tensor]:
        """The parameters of one layer and direction, by the names in `Cell.shapes`; suffix as in '_l0_reverse'."""
        return {name: getattr(self, name + suffix) for name in self._names}

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction, as torch.nn.LSTM lists them."""
        return [list(self.layer_params(suffix).values()) for _, suffix in self._stack()]

    def flatten_parameters(self) -> None:
        """Does nothing: kept so that code written for torch.nn.LSTM runs."""

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew, as `init` says."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, v in self.named_parameters():
            nn.init.ones_(v) if name.startswith("gain") else nn.init.uniform_(v, -bound, bound)
        for word in self.init.split("+"):
            kind, _, number = word.partition(":")
            if (kind, bool(number)) not in {(w.split(":")[0], ":" in w) for w in INITS}:
                raise ValueError(f"init must be made of {', '.join(INITS)} joined by '+', got {self.init!r}.")
            for _, suffix in self._stack():
                p = self.layer_params(suffix)
                if kind == "orthogonal":
                    for block in p["weight_hh"].chunk(len(self.cell.gates)):
                        full = block if block.element_size() > 2 else torch.empty_like(block, dtype=torch.float32)
                        block.copy_(nn.init.orthogonal_(full))
                elif kind == "forget_bias":
                    self._set_gate_bias(p, "f", torch.ones_like(p["weight_hh"][: self.hidden_size, 0]), kind)
                elif kind == "chrono":
                    if self.cell.layer_norm:
                        raise ValueError("init='chrono' sets time constants, which layer_norm would normalise away.")
                    if not number.isdigit() or int(number) < 3:
                        raise ValueError(f"init='chrono:T_MAX' needs a whole T_MAX of at least 3 steps, got {number!r}.")
                    b = torch.empty_like(p["weight_hh"][: self.hidden_size, 0]).uniform_(1, int(number) - 1).log()
                    self._set_gate_bias(p, "f", b, kind)
                    if "i" in self.cell.gates:
                        self._set_gate_bias(p, "i", -b, kind)

    def _set_gate_bias(self, p: dict[str, Tensor], gate: str, value: Tensor, why: str) -> None:
        if not self.bias or not self.cell.forget:
            raise ValueError(f"init={why!r} sets the bias of the forget gate: it needs bias=True and Cell(forget=True).")
        n = self.cell.gates.index(gate)
        for name, v in (("bias_ih", value), ("bias_hh", torch.zeros_like(value))):
            p[name].unflatten(0, (-1, self.hidden_size))[n].copy_(v)

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        said = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "cell": Cell(),
                    "dilation": (1,) * self.num_layers, "init": "torch", "engine": "auto", "weight_drop": 0.0,
                    "tape": "keep"}  # fmt: skip
        return ", ".join(said + [f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v])

    def explain(
        self, input: Tensor | PackedSequence, *, lengths: Tensor | Sequence[int] | None = None, resets: Tensor | None = None,
        tape: bool = False,
    ) -> str:  # fmt: skip
        """Which engine each layer would take for this input, and why not the others: one line per engine. Arguments as of a call.

        Raises:
            ValueError: the engine that was asked for refuses.
        """
        if isinstance(input, PackedSequence):
            if self._whole(call := Call(self._autocast(input.data), sizes=input.batch_sizes), tape):
                return engines.explain(self.cell, call, self.engine)
            x, lengths = pad_packed_sequence(input)
        else:
            x = input.transpose(0, 1) if self.batch_first and input.dim() == 3 else input
            x = x if x.dim() == 3 else x[:, None]
            resets = resets.transpose(0, 1) if resets is not None and self.batch_first else resets
        x, d = self._autocast(x), max(self.dilation)
        parts = (x, _lengths(lengths, x), resets)
        parts = parts if d == 1 else Dilation(d, *x.shape[:2]).fold_all(*parts)
        return engines.explain(self.cell, Call(*parts, tape=tape), self.engine)

    def stream(self, batch: int = 1, weights: str = "same") -> Stream:
        """Run one step at a time: `s = lstm.stream(batch); y = s.step(x)`. See `Stream`."""
        return Stream(self, batch, weights)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | None = None,
        tape: bool = False,
    ) -> Any:
        """Run all layers over a sequence or a batch of sequences.

        Args:
            input: [T, B, I], [B, T, I] if batch_first, [T, I] without a batch, or a PackedSequence.
            hx: initial (h_0 [S, B, P], c_0 [S, B, H]); zero if None. S = L * D without dilation; with it each layer and
                direction has d rows, row j being the state that its step j (counted in its own direction) sees.
                Without a batch there is no axis B.
            lengths: steps per sequence, int64, [B], each in 0..T: beyond them the output is 0 and the state stands still.
            resets: bool, [T, B] ([B, T] if batch_first): the sequence starts afresh at step t, with a zero state. In the
                backward direction the state is zeroed on the way from step t to step t - 1.
            tape: also return the gates and cell states of every step.

        Returns:
            output: [T, B, D * P], laid out as the input.
            (h_n, c_n): the states after the last step of each sequence, shaped as hx. c_n has the dtype of c_0 if that
                was given (a float32 c_0 keeps a bfloat16 model's cell exact between calls), else that of the output.
            tapes: if `tape`, one `Tape` ([T, B, *]) for each layer and direction, in the order of h_n.

        Raises:
            ValueError: a shape does not fit, or the engine that was asked for refuses.
        """
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, lengths, resets, tape)
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead: [T, B, I] or [T, I].")
        if input.shape[-1] != self.input_size:
            raise ValueError(f"input must have input_size = {self.input_size} features last, got {list(input.shape)}.")
        single = input.dim() == 2
        if single and (lengths is not None or resets is not None):
            raise ValueError("lengths and resets belong to a batch: give the input as [T, B, I].")
        if hx is not None and {v.dim() for v in hx} != {input.dim()}:
            raise ValueError(
                f"For {'unbatched 2-D' if single else 'batched 3-D'} input, hx and cx should also be {input.dim()}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors."
            )
        x = input.transpose(0, 1) if self.batch_first and not single else input
        if single:
            x, hx = x[:, None], hx and (hx[0][:, None], hx[1][:, None])
        if resets is not None and self.batch_first:
            resets = resets.transpose(0, 1)
        y, state, tapes = self._run(x, hx, _lengths(lengths, x), resets, tape)
        if single:
            y, state = y[:, 0], (state[0][:, 0], state[1][:, 0])
        elif self.batch_first:
            y = y.transpose(0, 1)
        return (y, state, tapes) if tape else (y, state)

    def _whole(self, packed: Call, tape: bool) -> bool:
        """Whether a packed batch runs as it is, without being padded."""
        plain = not tape and self.tape == "keep" and max(self.dilation) == 1
        return plain and engines.takes_packed(self.cell, packed, self.engine)

    def _forward_packed(
        self, input: PackedSequence, hx: tuple[Tensor, Tensor] | None, lengths: Any, resets: Any, tape: bool
    ) -> Any:
        if lengths is not None or resets is not None:
            raise ValueError("a PackedSequence knows its lengths, and resets need padded input: give the input as [T, B, I].")
        data, sizes, order, back = input
        if data.shape[-1] != self.input_size:
            raise ValueError(f"input must have input_size = {self.input_size} features last, got {list(data.shape)}.")
        if eager():
            rises = bool((sizes.diff(append=sizes.new_zeros(1)) > 0).any())
            if rises or sizes.dtype != torch.int64 or int(sizes.sum()) != len(data):
                raise ValueError(f"batch_sizes of a PackedSequence must be int64, never rise and add up to its {len(data)} rows, "
                                 f"got {sizes.dtype}, {sizes.tolist()}. Let pack_padded_sequence make it.")  # fmt: skip
        if hx is not None and order is not None:
            self._check(hx, len(order))
            hx = (hx[0].index_select(1, order), hx[1].index_select(1, order))
        if self._whole(Call(self._autocast(data), sizes=sizes), tape):
            y, (h, c), tapes = self._run(data, hx, None, None, False, sizes, back)
        else:
            x, ends = torch._VF._pad_packed_sequence(data, sizes, False, 0.0, len(sizes))
            y, (h, c), tapes = self._run(x, hx, ends.to(data.device), None, tape, back=back)
            y, _ = torch._VF._pack_padded_sequence(y, ends, False)
        if back is not None:
            h, c = h.index_select(1, back), c.index_select(1, back)
            tapes = [Tape(s.cell, s.gates.index_select(1, back), s.cells.index_select(1, back)) for s in tapes]
        out = PackedSequence(y, sizes, order, back)
        return (out, (h, c), tapes) if tape else (out, (h, c))

    def _run(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None, lengths: Tensor | None, resets: Tensor | None, tape: bool,
        sizes: Tensor | None = None, back: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tape]]:  # fmt: skip
        """back: of a packed batch, where each sequence of the input has been sorted to."""
        if self.observer is not None and transformed():
            raise ValueError("an LSTM that is observed (probe.record) runs eagerly: torch.compile, torch.func, torch.jit.trace "
                             "and forward mode cannot show its steps. Record the model as it was before.")  # fmt: skip
        packed, D = Call(x, sizes=sizes), 1 + self.bidirectional
        if resets is not None and (resets.dtype != torch.bool or list(resets.shape) != [packed.T, packed.B]):
            raise ValueError(
                f"resets must be bool, {[packed.B, packed.T] if self.batch_first else [packed.T, packed.B]}, "
                f"got {resets.dtype}, {list(resets.mT.shape if self.batch_first else resets.shape)}."
            )
        if hx is not None:
            self._check(hx, packed.B)
        x = self._autocast(x)
        hs, cs, tapes, row, alone = [], [], [], 0, len(self.dilation) == D == 1
        for k, d in enumerate(self.dilation):
            if k and self.dropout:
                x = dropout(x, self.dropout, self.training)
            ys = []
            for end in ("", "_reverse")[:D]:
                state = hx and (State(*hx) if alone else State(hx[0][row : row + d], hx[1][row : row + d]))
                y, (h, c), record = self._run_one(x, f"_l{k}{end}", d, state, lengths, resets, tape, sizes, back)
                ys.append(y)
                hs.append(h)
                cs.append(c)
                tapes += [record] if record else []
                row += d
            x = torch.cat(ys, -1) if D == 2 else ys[0]
        c_dtype = x.dtype if hx is None else hx[1].dtype
        # With a graph never a view, which could not be detached in place; a trace is checked without one and must stay the same.
        h, c = (v[0] if len(v) == 1 and not v[0].requires_grad and not torch._C._is_tracing() else torch.cat(v) for v in (hs, cs))
        return x, (h, c if c.dtype == c_dtype else c.to(c_dtype)), tapes

    def _check(self, hx: tuple[Tensor, Tensor], B: int) -> None:
        """Whether it is a state of a batch of B."""
        S, P = (1 + self.bidirectional) * sum(self.dilation), self.proj_size or self.hidden_size
        for name, t, width in zip("hc", hx, (P, self.hidden_size), strict=True):
            if list(t.shape) != [S, B, width]:
                axes = f"[L*D, B, {'P' if name == 'h' else 'H'}]"
                raise ValueError(
                    f"state {name} must be {axes} = {[S, B, width]}, got {list(t.shape)}. "
                    "Did the batch size change between calls?"
                )

    def _run_one(
        self, x: Tensor, suffix: str, d: int, state: State | None, lengths: Tensor | None, resets: Tensor | None, tape: bool,
        sizes: Tensor | None, back: Tensor | None,
    ) -> tuple[Tensor, State, Tape | None]:  # fmt: skip
        """One layer and direction. state and the state returned: h [d, B, P], c [d, B, H]."""
        reverse = suffix.endswith("_reverse")
        held = self._held.get(get_ident()) if self._held else None
        if held is None:
            params = self._weights(suffix)
        else:  # made once for each way to compute
            to = _autocast_dtype(getattr(self, f"weight_ih{suffix}").device.type)
            way = suffix, self.training, to, torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            params = held.get(way) or held.setdefault(way, self._weights(suffix, held))
        special = tape or self.observer is not None or resets is not None or sizes is not None
        if d == 1 and not special and not (self.training and self.cell.noisy):
            short = engines.infer(self.cell, params, x, state, lengths, reverse, self.engine)
            if short is not None:
                return *short, None
        if x.dtype != (dtype := params["weight_ih"].dtype):
            raise ValueError(
                f"input must have the dtype of the weights, {dtype}, got {x.dtype}. "
                f"Convert one of them: input.to({dtype}) or model.to({x.dtype})."
            )
        packed = Call(x, sizes=sizes)
        T, B = packed.T, packed.B
        borders = resets
        if resets is not None and reverse:  # between t - 1 and t there is one border, whichever way it is crossed
            resets = torch.cat([resets[1:], resets.new_zeros(min(T, 1), B)])
            if lengths is not None:
                resets = resets & (torch.arange(1, T + 1, device=x.device)[:, None] < lengths)
        fold = Dilation(d, T, B, reverse)
        if d > 1:
            state = state and State(*(fold.enter(v, lengths) for v in state))
            crossed = resets
            x, lengths_d, resets = fold.fold_all(x, lengths, resets)
        else:
            state = state and State(state.h[0], state.c[0])
            lengths_d = lengths
        masks = None
        if self.training:
            now = Call(x, sizes=sizes)  # folded, where the layer is dilated
            with nullcontext() if held is None else torch.inference_mode(False):  # what it makes has no gradient later
                masks = self.cell.draw(now.T, now.B, self.hidden_size, like=x, rows=None if sizes is None else len(x))
            if held is not None and masks is not None and masks.drop_h is not None:  # one mask for the whole sequence
                masks = masks._replace(drop_h=held.setdefault((suffix, "drop_h", B), masks.drop_h))
        if masks is not None and masks.drop_h is not None and d > 1:
            masks = masks._replace(drop_h=masks.drop_h[:B].repeat(d, 1))  # one mask per sequence, whatever its phase
        flow = Flow() if self.observer is not None and self.observer.flow and torch.is_grad_enabled() else None
        call = Call(x, lengths_d, resets, masks, reverse, tape or self.observer is not None, sizes, flow)
        fresh = state is None or (flow is not None and not any(v.requires_grad for v in state))
        y, state, record = engines.run(self.cell, params, call, state, self.engine, self.tape)
        if self.observer is not None and record is not None:

            def place(v: Tensor) -> Tensor:
                v = v if d == 1 else fold.unfold(v)
                v = v if sizes is None else torch._VF._pad_packed_sequence(v, sizes, False, 0.0, len(sizes))[0]
                return v if back is None else v.index_select(1, back)

            ends = lengths if sizes is None else (torch.arange(B, device=sizes.device) < sizes[:, None]).sum(0)
            ends = ends if back is None or ends is None else ends.index_select(0, back)
            self.observer.see(Seen(suffix[1:], d, y.detach(), record, flow, place, ends, fresh, borders))
        record = record if tape else None
        if d == 1:
            return y, State(state.h.unsqueeze(0), state.c.unsqueeze(0)), record
        record = record and Tape(self.cell, fold.unfold(record.gates), fold.unfold(record.cells))
        return fold.unfold(y), State(*(fold.leave(v, lengths, crossed) for v in state)), record

    def _weights(self, suffix: str, held: dict[Any, Any] | None = None) -> dict[str, Tensor]:
        """The parameters of one layer and direction as the engine gets them: in autocast's dtype, some dropped; where calls are
        held, the same ones."""
        params = self.layer_params(suffix)
        if _autocast_dtype(params["weight_ih"].device.type) is not None:
            params = {k: self._autocast(v) for k, v in params.items()}
        if self.weight_drop and self.training:
            weight = params["weight_hh"]
            if held is None:
                params["weight_hh"] = dropout(weight, self.weight_drop, True)
            else:
                if suffix not in held:
                    with torch.inference_mode(False), torch.no_grad():  # what inference makes has no gradient later
                        held[suffix] = dropout(torch.ones(weight.shape, device=weight.device), self.weight_drop, True)
                params["weight_hh"] = weight * held[suffix].to(weight.dtype)
        return params

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_held", "observer")}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls inside are parts of one sequence: they share the weights that weight_drop leaves and the units that drop_h
        leaves, and convert weights once.

        For networks that run step by step because what they read depends on what they wrote, eagerly. Each thread holds for
        itself. Change no parameter inside, call backward once for all of it, and do not checkpoint it
        (torch.utils.checkpoint would compute it again outside, with other weights): tape='recompute' saves as much.
        """
        every, thread = self.__dict__.setdefault("_held", {}), get_ident()
        within = thread in every
        every.setdefault(thread, {})
        try:
            yield
        finally:
            if not within:
                del every[thread]

    def _autocast(self, v: Tensor) -> Tensor:
        to = _autocast_dtype(v.device.type)
        return v if to is None or v.dtype == torch.float64 else v.to(to)


def _autocast_dtype(kind: str) -> torch.dtype | None:
    """The dtype of autocast on this kind of device, None where it is off."""
    on = (kind == "cpu" or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def _per_layer(dilation: int | Sequence[int], layers: int) -> tuple[int, ...]:
    each = (dilation,) * layers if isinstance(dilation, int) else tuple(dilation)
    if len(each) != layers:
        raise ValueError(f"dilation must be one number, or one per layer ({layers}), got {len(each)} of them.")
    if any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in each):
        raise ValueError(f"dilation must be whole steps of at least 1, got {dilation!r}.")
    return each


def _lengths(lengths: Tensor | Sequence[int] | None, x: Tensor) -> Tensor | None:
    """lengths as int64 [B] on the device of x, checked where that costs no synchronisation."""
    if lengths is None:
        return None
    n = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device="cpu")
    T, B = x.shape[:2]
    if n.is_floating_point() or n.is_complex() or n.dtype == torch.bool:
        raise TypeError(f"lengths must be whole numbers of steps, got {n.dtype}.")
    if list(n.shape) != [B]:
        raise ValueError(f"lengths must be [B] = [{B}], got {list(n.shape)}.")
    if eager() and n.device.type == "cpu" and B:
        low, high = cast(tuple[int, int], tuple(int(v) for v in n.aminmax()))
        if low < 0 or high > T:
            raise ValueError(f"lengths must lie in 0..T = 0..{T}, got values from {low} to {high}.")
    return n.to(device=x.device, dtype=torch.int64)
