"""ONNX as judge: the LSTM node tests of onnx.backend.test, then ONNX Runtime on what those leave out."""

import re
from itertools import product

import numpy as np
import onnx.backend.test.case.node.lstm  # noqa: F401  (registers its cases)
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.backend.test.case.node import _NodeTestCases as node_tests
from onnx.backend.test.runner import Runner

from longshort.engine import Call, engines
from onnx_backend import LSTMBackend

ENGINES = ("auto", *engines())
NEVER_REFUSE = {"auto", "cpu", "reference"}
NODES = {case.name: case for case in node_tests if case.name.startswith("test_lstm")}
SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
each_engine = pytest.mark.parametrize("engine", ENGINES)


def run(engine, model, feed):
    """The model's outputs on an engine; None where the engine refuses its cell, once it has said so in the words of refuse()."""
    backend = type(f"{engine}_backend", (LSTMBackend,), {"engine": engine})
    rep = backend.prepare(model)
    inputs = [feed[name] for name in rep.names]
    why = None if engine == "auto" else engines()[engine].refuse(rep.cell, Call(torch.from_numpy(feed["X"])))
    if why is None:
        return rep.run(inputs)
    assert engine not in NEVER_REFUSE
    with pytest.raises(ValueError, match=re.escape(why)):
        rep.run(inputs)
    return None


def test_all_six_are_there():
    kinds = ("defaults", "with_initial_bias", "with_peepholes", "batchwise", "reverse", "bidirectional")
    assert {f"test_lstm_{kind}" for kind in kinds} <= NODES.keys()


@each_engine
@pytest.mark.parametrize("name", NODES)
def test_node(name, engine):
    """onnx's model, data, comparison and tolerance."""
    case = NODES[name]
    for inputs, expected in case.data_sets:
        got = run(engine, case.model, dict(zip((v.name for v in case.model.graph.input), inputs, strict=True)))
        if got is not None:
            Runner.assert_similar_outputs(expected, got, rtol=case.rtol, atol=case.atol)


def draw(T, B, I, H, direction="forward", bias=True, lengths=None, state=True, peephole=False):
    """The inputs of an LSTM node, drawn; lengths 'ragged' are from 1 to T, both included."""
    D, rng = 1 + (direction == "bidirectional"), np.random.default_rng(0)
    shapes = {"X": (T, B, I), "W": (D, 4 * H, I), "R": (D, 4 * H, H)}
    shapes |= {"B": (D, 8 * H)} if bias else {}
    shapes |= {"initial_h": (D, B, H), "initial_c": (D, B, H)} if state else {}
    shapes |= {"P": (D, 3 * H)} if peephole else {}
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, fan in (("W", I), ("R", H)):
        feed[name] /= np.sqrt(fan, dtype=np.float32)
    if lengths == "ragged":
        lengths = np.resize([T, 1, *rng.integers(1, T + 1, B)], B)
    return feed if lengths is None else feed | {"sequence_lens": np.array(lengths, np.int32)}


def model_of(feed, **said):
    """An LSTM node with these inputs and attributes."""
    kinds = {"sequence_lens": TensorProto.INT32}
    node = helper.make_node(
        "LSTM", [s if s in feed else "" for s in SLOTS], ["Y", "Y_h", "Y_c"], hidden_size=feed["R"].shape[-1], **said
    )
    values = [helper.make_tensor_value_info(k, kinds.get(k, TensorProto.FLOAT), v.shape) for k, v in feed.items()]
    outputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, [None] * (4 if k == "Y" else 3)) for k in node.output]
    graph = helper.make_graph([node], "lstm", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def oracle(model, feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def agree(engine, feed, **said):
    """float32 on both sides: 1e-5 absolute and relative; the worst seen is 3e-6 for Y and Y_h, and 1e-5 for Y_c where it is near 18."""
    model = model_of(feed, **said)
    got = run(engine, model, feed)
    if got is not None:
        for name, a, b in zip(("Y", "Y_h", "Y_c"), got, oracle(model, feed), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)


@each_engine
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("peephole", [False, True], ids=["plain", "peephole"])
@pytest.mark.parametrize("coupled", [0, 1], ids=["", "input_forget"])
def test_runtime(engine, direction, ragged, peephole, coupled):
    """ONNX only says that input_forget couples the two gates; ONNX Runtime takes f = 1 - i and never looks at the forget gate's weights."""
    for bias, state in product((False, True), repeat=2):
        feed = draw(7, 5, 3, 9, direction, bias, "ragged" if ragged else None, state, peephole)
        agree(engine, feed, direction=direction, input_forget=coupled)


@each_engine
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(1, 1, 1, 1), (63, 3, 1, 2), (100, 2, 63, 1), (5, 100, 1, 63), (3, 1, 100, 63), (63, 7, 5, 100)]
)
def test_runtime_odd_sizes(engine, T, B, I, H):
    for direction, peephole in product(("reverse", "bidirectional"), (False, True)):
        agree(
            engine,
            draw(T, B, I, H, direction, lengths="ragged", peephole=peephole),
            direction=direction,
            input_forget=int(peephole),
        )


@each_engine
def test_runtime_forgets_the_state_of_an_empty_sequence(engine):
    """Where a length is 0, ONNX Runtime returns zeros as final state; ours stands still at the initial one. ONNX says neither."""
    feed = draw(4, 3, 2, 5, lengths=[4, 0, 2])
    model = model_of(feed)
    theirs, ours = oracle(model, feed), run(engine, model, feed)
    if ours is not None:
        for given, a, b in zip((None, feed["initial_h"], feed["initial_c"]), ours, theirs, strict=True):
            np.testing.assert_allclose(a[..., [0, 2], :], b[..., [0, 2], :], rtol=1e-5, atol=1e-5)
            assert not b[..., 1, :].any()
            np.testing.assert_array_equal(a[..., 1, :], 0 * a[..., 1, :] if given is None else given[:, 1])


@pytest.mark.parametrize(("said", "words"), [
    ({"clip": 1.0}, r"clip of ONNX bounds the inputs of the activations; Cell\(clip=...\) bounds the cell"),
    ({"activations": ["Sigmoid", "Tanh", "Relu"]}, r"activations must be Sigmoid, Tanh, Tanh .* got \['Sigmoid', 'Tanh', 'Relu'\]"),
    ({"activation_alpha": [1.0]}, r"attributes must be of .* got \['activation_alpha'\] too"),
])  # fmt: skip
def test_what_the_backend_does_not_run_it_refuses(said, words):
    with pytest.raises(ValueError, match=words):
        LSTMBackend.prepare(model_of(draw(2, 1, 1, 1), **said))
