"""ONNX Runtime's LSTM with our weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

WANTED = ("Y", "YH", "YC")
Results = tuple[np.ndarray, ...]


def onnx_model(weights: Mapping[str, Tensor]) -> bytes:
    """One ONNX LSTM node: inputs X [T, B, I], H0 and C0 [1, B, H]; outputs Y [T, 1, B, H], YH and YC [1, B, H].

    Args:
        weights: a plain layer's parameters by torch's names with '_l0'.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    def rows(name: str) -> np.ndarray:
        i, f, g, o = weights[name + "_l0"].detach().chunk(4)
        return torch.cat([i, o, f, g])[None].numpy()  # ONNX orders the gates i o f c

    W, R = rows("weight_ih"), rows("weight_hh")
    H, I = R.shape[2], W.shape[2]
    named = {"W": W, "R": R, "B": np.concatenate([rows("bias_ih"), rows("bias_hh")], 1)}

    def tensor(name: str, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R", "B", "", "H0", "C0"], WANTED, hidden_size=H)],
        "lstm",
        [tensor("X", "T", "B", I), tensor("H0", 1, "B", H), tensor("C0", 1, "B", H)],
        [tensor("Y", "T", 1, "B", H), tensor("YH", 1, "B", H), tensor("YC", 1, "B", H)],
        [numpy_helper.from_array(v, k) for k, v in named.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def session(weights: Mapping[str, Tensor]) -> Any:
    """A session with as many threads as torch has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    return ort.InferenceSession(onnx_model(weights), options, providers=["CPUExecutionProvider"])


class Run:
    """By `session.run`. A stream hands the state that came out back in.

    Args:
        session: of `session()`.
        x: the first input, [T, B, I]; T = 1 in a stream.
        streaming: whether a call goes on from the state of the call before.
    """

    how = "run"

    def __init__(self, session: Any, x: np.ndarray, H: int, streaming: bool) -> None:
        self.session, self.x, self.streaming = session, x, streaming
        self.zero = np.zeros((1, x.shape[1], H), np.float32)
        self.start()

    def start(self) -> None:
        """From a zero state."""
        self.feeds = {"X": self.x, "H0": self.zero, "C0": self.zero}

    def feed(self, x: np.ndarray) -> None:
        """The input of the next call."""
        self.feeds["X"] = x

    def __call__(self) -> None:
        """One timed call."""
        self.out = self.session.run(WANTED, self.feeds)
        if self.streaming:
            _, self.feeds["H0"], self.feeds["C0"] = self.out

    def read(self) -> Results:
        """Y, YH, YC of the last call."""
        return tuple(self.out)


class Bound:
    """By IO binding: inputs and outputs stay in place, a stream's input is copied in, its state goes to and fro."""

    how = "IO binding"

    def __init__(self, session: Any, x: np.ndarray, H: int, streaming: bool) -> None:
        from onnxruntime import OrtValue

        (T, B, _), self.session, self.x, self.streaming = x.shape, session, x, streaming
        self.zero = np.zeros((1, B, H), np.float32)
        self.value = {k: OrtValue.ortvalue_from_numpy(self.zero.copy()) for k in ("H0", "C0", "YH", "YC")}
        self.value |= {"X": OrtValue.ortvalue_from_numpy(x.copy())}
        self.value |= {"Y": OrtValue.ortvalue_from_numpy(np.zeros((T, 1, B, H), np.float32))}
        self.there = self._bind("H0", "C0", "YH", "YC")
        self.back = self._bind("YH", "YC", "H0", "C0")
        self.start()

    def _bind(self, h0: str, c0: str, h1: str, c1: str) -> Any:
        binding = self.session.io_binding()
        for name, value in (("X", "X"), ("H0", h0), ("C0", c0)):
            binding.bind_ortvalue_input(name, self.value[value])
        for name, value in (("Y", "Y"), ("YH", h1), ("YC", c1)):
            binding.bind_ortvalue_output(name, self.value[value])
        return binding

    def start(self) -> None:
        """From a zero state."""
        self.value["H0"].update_inplace(self.zero)
        self.value["C0"].update_inplace(self.zero)
        self.turn = False

    def feed(self, x: np.ndarray) -> None:
        """The input of the next call."""
        self.x = x

    def __call__(self) -> None:
        """One timed call."""
        if self.streaming:
            self.value["X"].update_inplace(self.x)
        self.session.run_with_iobinding(self.back if self.turn else self.there)
        self.turn = self.streaming and not self.turn

    def read(self) -> Results:
        """Y, YH, YC of the last call."""
        last = ("Y", "YH", "YC") if self.turn or not self.streaming else ("Y", "H0", "C0")
        return tuple(self.value[k].numpy().copy() for k in last)
