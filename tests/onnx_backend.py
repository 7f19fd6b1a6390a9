"""A small ONNX backend: a model of one LSTM node, run by longshort.LSTM. It lets onnx's own tests judge us."""

import numpy as np
import onnx
import torch
from onnx.backend.base import Backend, BackendRep
from torch import Tensor

from longshort import LSTM, Cell

DEFAULTS = {"direction": "forward", "input_forget": 0, "layout": 0}


class LSTMBackend(Backend):
    """`engine` is that of the longshort.LSTM that runs the node."""

    engine = "auto"

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs) -> BackendRep:
        super().prepare(model, device, **kwargs)
        if [node.op_type for node in model.graph.node] != ["LSTM"]:
            raise ValueError(f"the model must be one LSTM node, got {[node.op_type for node in model.graph.node]}.")
        return LSTMRep(model, cls.engine)


class LSTMRep(BackendRep):
    """One LSTM node. Its inputs arrive in the order of the graph's inputs."""

    def __init__(self, model: onnx.ModelProto, engine: str) -> None:
        (self.node,) = model.graph.node
        self.names = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.engine = engine
        said = {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}
        said = {k: v.decode() if isinstance(v, bytes) else v for k, v in said.items()}
        if "clip" in said:
            raise ValueError(
                "clip of ONNX bounds the inputs of the activations; Cell(clip=...) bounds the cell, which is another thing."
            )
        activations = [v.decode() for v in said.pop("activations", [])]
        if activations != ["Sigmoid", "Tanh", "Tanh"] * (len(activations) // 3):
            raise ValueError(f"activations must be Sigmoid, Tanh, Tanh in each direction, got {activations}.")
        self.hidden_size = said.pop("hidden_size")
        if said.keys() - DEFAULTS:
            raise ValueError(f"the attributes must be of {sorted(DEFAULTS)}, got {sorted(said.keys() - DEFAULTS)} too.")
        self.said = DEFAULTS | said
        self.cell = Cell(peephole=any(self.node.input[7:]), coupled=bool(self.said["input_forget"]))

    def run(self, inputs, **kwargs):
        """The outputs that the graph names, of Y, Y_h, Y_c, as NumPy arrays."""
        feed = {k: torch.from_numpy(np.asarray(v).copy()) for k, v in zip(self.names, inputs, strict=True)}
        slots = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
        given = {slot: feed[name] for slot, name in zip(slots, self.node.input, strict=False) if name}
        out = dict(zip(self.node.output, self.lstm(**given), strict=False))
        return tuple(out[name].numpy() for name in self.outputs)

    @torch.no_grad()
    def lstm(self, X: Tensor, W: Tensor, R: Tensor, B=None, sequence_lens=None, initial_h=None, initial_c=None, P=None):
        """Y, Y_h, Y_c of the node by its inputs, named as in ONNX."""
        first, both = self.said["layout"] == 1, self.said["direction"] != "forward"
        cell, H, batch = self.cell, self.hidden_size, X.shape[0 if first else 1]
        m = LSTM(X.shape[-1], H, bias=B is not None, batch_first=first, bidirectional=both, cell=cell, engine=self.engine)
        ends = {"forward": ("_l0",), "reverse": ("_l0_reverse",), "bidirectional": ("_l0", "_l0_reverse")}[self.said["direction"]]
        for d, end in enumerate(ends):
            mine = {"weight_ih": rows(cell, W[d]), "weight_hh": rows(cell, R[d])}
            if B is not None:
                mine |= {name: rows(cell, b) for name, b in zip(("bias_ih", "bias_hh"), B[d].chunk(2), strict=True)}
            if P is not None:
                mine["weight_ch"] = rows(cell, P[d], "iof").unflatten(0, (-1, H))
            for name, v in mine.items():
                m.get_parameter(name + end).copy_(v)
        keep = slice(1, 2) if self.said["direction"] == "reverse" else slice(None)  # ours reads backwards beside forwards
        hx = [torch.zeros(1 + both, batch, H) for _ in "hc"]
        for v, given in zip(hx, (initial_h, initial_c), strict=True):
            if given is not None:
                v[keep] = given.transpose(0, 1) if first else given
        y, state = m(X, (hx[0], hx[1]), lengths=sequence_lens)
        y = y.unflatten(-1, (1 + both, -1))[:, :, keep]  # [T, B, D, H], or [B, T, D, H] if batch first
        h, c = (v[keep] for v in state)
        return (y, h.transpose(0, 1), c.transpose(0, 1)) if first else (y.transpose(1, 2), h, c)


def rows(cell: Cell, v: Tensor, order: str = "iofg") -> Tensor:
    """The rows of the gates, from ONNX's order to ours. input_forget means f = 1 - i, ours i = 1 - f: our f is its i, negated."""
    blocks = dict(zip(order, v.chunk(len(order)), strict=True))
    if cell.coupled:
        blocks["f"] = -blocks["i"]
    return torch.cat([blocks[k] for k in cell.gates if k in blocks])
