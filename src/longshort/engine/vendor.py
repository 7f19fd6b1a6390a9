"""The vendor engine: torch's own fused LSTM (cuDNN on a GPU, oneDNN on a CPU), for the cell that it has."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from longshort.cell import Cell, Params, State
from longshort.engine.contract import Call, Tape
from longshort.tracing import transformed


def refuse(cell: Cell, call: Call) -> str | None:
    """torch has one cell, no resets, and shows neither gates nor cell states."""
    if not cell.plain:
        return f"torch's fused LSTM has the plain or projected cell only, not {cell}."
    if call.resets is not None:
        return "torch's fused LSTM cannot reset the state within a sequence."
    if call.tape or call.flow is not None:
        return "torch's fused LSTM returns neither gates nor cell states."
    if call.sizes is not None:
        return "torch's fused LSTM is given padded batches."
    if call.x.shape[1] == 0:
        return "torch's fused LSTM takes no empty batch."
    if torch.compiler.is_compiling():
        return "torch.compile cannot differentiate torch's fused LSTM."
    if transformed() and not torch._C._is_tracing():  # a trace takes it, as it takes torch.nn.LSTM
        return "torch's fused LSTM cannot be transformed by torch.func or differentiated in forward mode."
    return None


def forward(cell: Cell, params: Params, call: Call, state: State) -> tuple[Tensor, State, Tape | None]:
    """One layer of `torch.lstm`; see `engine.run` for shapes. A reverse pass is a flip, a pass, and a flip."""
    x, T = call.x, call.x.shape[0]
    if T == 0:  # torch.lstm takes no empty sequence
        return x.new_zeros(0, *state.h.shape), State(*(v.clone() for v in state)), None
    weights = [params[k] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr") if k in params]
    hx = [state.h[None], state.c.to(x.dtype)[None]]
    train = torch.is_grad_enabled() or torch._C._is_tracing()  # a trace may be differentiated wherever it was made
    rest = ("bias_ih" in params, 1, 0.0, train, False)  # biases, layers, dropout, train, bidirectional
    if call.lengths is None:
        x = x.flip(0) if call.reverse else x
        y, h, c = torch._VF.lstm(x, hx, weights, *rest, False)
        return y.flip(0) if call.reverse else y, State(h[0], c[0].to(state.c.dtype)), None

    flip, some = _mirror(call.lengths, T) if call.reverse else None, call.lengths > 0
    x = x if flip is None else x.gather(0, flip[..., None].expand_as(x))
    x = torch.where(some[None, :, None], x, 0)  # an empty sequence runs one step, on zeros, that nobody reads
    packed = pack_padded_sequence(x, call.lengths.clamp(min=1).cpu(), enforce_sorted=False)
    order, back = cast(Tensor, packed.sorted_indices), cast(Tensor, packed.unsorted_indices)
    hx = [v.index_select(1, order) for v in hx]
    data, h, c = torch._VF.lstm(packed.data, packed.batch_sizes, hx, weights, *rest)
    y, _ = pad_packed_sequence(packed._replace(data=data), total_length=T)
    y = y if flip is None else y.gather(0, flip[..., None].expand_as(y))
    h, c = (v.index_select(1, back)[0] for v in (h, c))
    new = State(torch.where(some[:, None], h, state.h), torch.where(some[:, None], c.to(state.c.dtype), state.c))
    return torch.where(some[None, :, None], y, 0), new, None


def _mirror(lengths: Tensor, T: int) -> Tensor:
    """For each step and sequence the step that mirrors it within the sequence; padding stays where it is. int64, [T, B]."""
    t = torch.arange(T, device=lengths.device)[:, None]
    return torch.where(t < lengths, lengths - 1 - t, t)
