"""The native engine against the reference: every variant, every way to call it, each instruction set of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import laws
from laws import ALONE, VARIANTS, Case, same
from longshort import LSTM
from longshort.cell import Cell, Masks, State, step
from longshort.engine import Call, cpu, run
from longshort.engine import reference as truth

WAYS = ("plain", "lengths", "resets", "reverse", "no bias", "evaluation", "all")
ODD = [(1, 1, 1, 1), (7, 9, 63, 5), (3, 13, 2, 63), (4, 20, 5, 100), (40, 3, 3, 20), (300, 2, 2, 33)]  # T, B, I, H


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """All memory that the engine gets is full of NaN, so that what it does not write is seen."""
    torch.manual_seed(0)
    monkeypatch.setattr(cpu, "_empty", lambda *shape, dtype, **_: torch.full(shape, torch.nan, dtype=dtype))
    cpu.native.poison(True)
    yield
    cpu.native.poison(False)


def make(cell: Cell, way: str, T=6, B=5, I=3, H=7, dtype=torch.float64) -> Case:
    case = Case.make(cell, "cpu", T, B, I, H, bias=way != "no bias", dtype=dtype, training=way != "evaluation")
    call = {}
    if way in ("lengths", "all"):
        call["lengths"] = torch.randint(0, T + 1, (B,))
        case.call.x[torch.arange(T)[:, None] >= call["lengths"]] = torch.nan
    if way in ("resets", "all"):
        call["resets"] = torch.rand(T, B) < 0.3
    return case.with_call(reverse=way in ("reverse", "all"), **call)


@contextmanager
def threads(n: int):
    """torch's thread count for a while; with one, tiny products do not wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_reference(case: Case, dtype=None) -> dict[str, torch.Tensor]:
    if dtype is not None:
        to = lambda v: v.to(dtype)  # noqa: E731
        case = replace(case, params={k: to(v) for k, v in case.params.items()}, call=case.call._replace(x=to(case.call.x)),
                       state=State(*map(to, case.state)))  # fmt: skip
    with threads(1):
        return replace(case, engine="reference").grads()


def within_budget(*cases: Case) -> None:
    """Error against float64 at most twice the reference's in the same precision, plus one rounding; root mean square over the cases."""
    errors: dict[str, list[torch.Tensor]] = {}
    for case in cases:
        exact, rough, got = on_reference(case, torch.float64), on_reference(case), case.grads()
        for k, v in exact.items():
            mine, theirs = (got[k].double() - v).square().sum(), (rough[k].double() - v).square().sum()
            errors.setdefault(k, []).append(torch.stack([mine, theirs, v.square().sum()]))
    for k, v in errors.items():
        error, rough, size = torch.stack(v).sum(0).sqrt().tolist()
        allowed = 2 * rough + torch.finfo(cases[0].call.x.dtype).eps * size
        assert error <= allowed, f"{k}: error {error:.3g}, allowed {allowed:.3g}, of {size:.3g}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cell", VARIANTS, ids=str)
def test_equals_the_reference(cell, way):
    case = make(cell, way)
    same(on_reference(case), case.grads(), atol=1e-11)


@pytest.mark.parametrize("size", ODD, ids=str)
@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True), Cell(projection=9, peephole=True, coupled=True)], ids=str)
def test_odd_sizes(cell, size):
    case = make(cell, "lengths", *size)
    same(on_reference(case), case.grads(), atol=1e-10)


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True, projection=3)], ids=str)
def test_nothing_to_do(cell, size):
    case = make(cell, "plain", *size)
    same(on_reference(case), case.grads())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", VARIANTS, ids=str)
def test_error_budget(cell, dtype):
    smooth = replace(cell, clip=None)  # at the clip a gradient jumps, and rounding decides on which side a cell falls
    ways = ("plain", "all", "plain", "all")
    within_budget(*(make(smooth, way, T=4, B=8, I=11, H=35, dtype=dtype) for way in ways))


@pytest.mark.parametrize("cell", [*ALONE, VARIANTS[-1]], ids=str)
def test_gradcheck(cell):
    case = make(cell, "all", T=3, B=2, I=2, H=3)
    x = case.call.x.nan_to_num()
    names, leaves = list(case.params), [v.requires_grad_() for v in (x, *case.state, *case.params.values())]

    def f(x, h, c, *params):
        y, s, _ = run(cell, dict(zip(names, params, strict=True)), case.call._replace(x=x), State(h, c), "cpu")
        return y, s.h, s.c

    with threads(1):
        assert torch.autograd.gradcheck(f, leaves)
        assert torch.autograd.gradgradcheck(f, leaves)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", VARIANTS, ids=str)
def test_tape(cell, reverse):
    case = make(cell, "lengths").with_call(tape=True, reverse=reverse)
    for grad in (False, True):
        params = {k: v.clone().requires_grad_(grad) for k, v in case.params.items()}
        _, _, tape = run(cell, params, case.call, case.state, "cpu")
        _, _, want = run(cell, params, case.call, case.state, "reference")
        same({"gates": want.gates, "cells": want.cells}, {"gates": tape.gates, "cells": tape.cells})


def test_strided_and_expanded_inputs():
    case = Case.make(Cell(), "cpu", T=5, B=6, I=4, H=8)
    for x in (
        case.call.x.transpose(0, 1).contiguous().transpose(0, 1),
        case.call.x.repeat(1, 1, 2)[..., ::2],
        case.call.x[:1].expand(5, 6, 4),
    ):
        other = case.with_call(x=x)
        same(replace(other, engine="reference").run(), other.run())


def test_threads_do_not_change_outputs():
    for cell in (Cell(), Cell(layer_norm=True), Cell(projection=20)):
        for B in (1, 3, 40):
            case = make(cell, "lengths", T=30, B=B, I=20, H=50, dtype=torch.float32)
            got = {}
            for n in (1, 2, 3, 5):
                with threads(n):
                    got[n] = [case.grads() for _ in range(2)]
            for a, b in got.values():
                same(a, b, atol=0)  # gradients too repeat bit for bit
                same(got[1][0], a, ("y", "h", "c"), atol=0)


def test_several_callers_at_once():
    case = make(Cell(), "plain", T=30, B=16, I=20, H=50, dtype=torch.float32)
    want, got = case.grads(), [None] * 6

    def work(k):
        for _ in range(5):
            got[k] = case.grads()

    callers = [threading.Thread(target=work, args=(k,)) for k in range(len(got))]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    for g in got:
        same(want, g, atol=0)


FORK = """
import os, sys, torch
from longshort.cell import Cell
from longshort.engine import Call, run
cell = Cell()
p = {k: torch.randn(s, requires_grad=True) for k, s in cell.shapes(20, 50).items()}
x = torch.randn(30, 40, 20)
with torch.no_grad():
    want = run(cell, p, Call(x), None, "cpu")[0]
    child = os.fork()
    if not child:
        got = run(cell, p, Call(x), None, "cpu")[0]
        os._exit(0 if got.numpy().tobytes() == want.numpy().tobytes() else 1)  # torch's own threads do not survive a fork
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def python(script: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", script], env=os.environ | env, capture_output=True, text=True, timeout=120)


def test_safe_after_fork():
    done = python(FORK)
    assert done.returncode == 0, done.stderr


EACH = """
import sys
sys.path.insert(0, {tests!r})
import torch
from dataclasses import replace
from laws import Case, same
from test_engine_cpu import on_reference, within_budget, make
from longshort.cell import Cell
from longshort.engine import cpu
assert cpu.native.isa() == {isa!r}, cpu.native.isa()
cpu.native.poison(True)
torch.manual_seed(0)
for cell in (Cell(), Cell(layer_norm=True, peephole=True, clip=0.3), Cell(coupled=True, projection=9), Cell(forget=False, zoneout=(0.3, 0.2))):
    for H in (1, 37, 64):
        case = make(cell, "all", T=7, B=9, I=5, H=H)
        same(on_reference(case), case.grads(), atol=1e-10)
        for dtype in (torch.float32, torch.bfloat16):
            within_budget(*(make(replace(cell, clip=None), "all", T=4, B=9, I=5, H=H, dtype=dtype) for _ in range(4)))
"""


def test_no_instruction_set_is_missed():
    """By torch's own look at the processor."""
    has, wide = torch.cpu.get_capabilities(), [f"avx512_{k}" for k in ("f", "bw", "dq", "vl")]
    asked = {"baseline": [], "avx2": ["avx2", "fma3"], "avx512": wide, "avx512bf16": [*wide, "avx512_bf16", "avx512_vnni"]}
    there = {isa for isa, flags in asked.items() if all(has.get(flag) for flag in flags)}
    assert set(cpu.native.instruction_sets()) == (there if platform.machine() == "x86_64" else {"baseline"})


@pytest.mark.parametrize("isa", cpu.native.instruction_sets() if cpu.native else [])
def test_each_instruction_set(isa):
    done = python(EACH.format(tests=os.path.dirname(__file__), isa=isa), LONGSHORT_CPU=isa)
    assert done.returncode == 0, done.stderr


def test_unknown_instruction_set_is_refused():
    done = python("from longshort.engine import cpu; cpu.native.isa()", LONGSHORT_CPU="mmx")
    assert "LONGSHORT_CPU must name an instruction set of this machine: " in done.stderr
    assert "got 'mmx'." in done.stderr


def test_without_extension():
    done = python("import sys; sys.modules['longshort._native'] = None\n"
                  "import torch, longshort\nfrom longshort.engine import Call, Cell, explain\n"
                  "print(explain(Cell(peephole=True), Call(torch.zeros(2, 3, 4)))); longshort.LSTM(4, 5)(torch.zeros(2, 3, 4))")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cpu: refuses: the native extension is not installed" in done.stdout


@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True, projection=3)], ids=str)
def test_compiled_is_one_node(cell):
    case = Case.make(cell, "cpu", T=5, B=3, I=4, H=6)
    names, leaves = list(case.params), [v.requires_grad_() for v in (case.call.x, *case.params.values())]
    lengths = torch.tensor([5, 2, 0])

    def f(x, *params):
        return run(cell, dict(zip(names, params, strict=True)), Call(x, lengths), None, "cpu")[0]

    graphs = []
    compiled = torch.compile(f, fullgraph=True, backend=lambda g, _: graphs.append(g) or g)
    torch.testing.assert_close(compiled(*leaves), f(*leaves), rtol=0, atol=0)
    assert [str(n.target) for n in graphs[0].graph.nodes].count("longshort.lstm") == 1
    through = torch.compile(f, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        torch.autograd.grad(through(*leaves).sin().sum(), leaves),
        torch.autograd.grad(f(*leaves).sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("tape", [False, True])
@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True, projection=3, zoneout=(0.3, 0.2))], ids=str)
def test_operator_keeps_its_contract(cell, tape):
    case = Case.make(cell, "cpu", T=4, B=3, I=2, H=5)
    params = [None if (v := case.params.get(k)) is None else v.requires_grad_() for k in cpu.NAMES]
    rest = (None, None, None, *(case.call.masks or [None] * 4), False, cpu.encode(cell), tape, True)
    args = (case.call.x, *case.state, *params, *rest)
    assert set(torch.library.opcheck(torch.ops.longshort.lstm, args).values()) == {"SUCCESS"}


def test_exported_is_one_node():
    import longshort

    lstm = longshort.LSTM(3, 4, engine="cpu").eval()
    x = torch.randn(5, 2, 3)
    exported = torch.export.export(lstm, (x,))
    assert exported.graph_module.code.count("torch.ops.longshort.lstm") == 1
    torch.testing.assert_close(exported.module()(x)[0], lstm(x)[0], rtol=0, atol=0)


def test_refusals():
    cell, x = Cell(), torch.zeros(2, 3, 4)
    assert cpu.refuse(cell, Call(x)) is None
    assert cpu.refuse(cell, Call(x.to("meta"))) == "it runs on a CPU, and x is on meta."
    assert cpu.refuse(cell, Call(x.half())) == "its kernels are for float32, float64 and bfloat16, and x is float16."
    said = []
    torch.func.vmap(lambda v: said.append(cpu.refuse(cell, Call(v))) or v)(x[None])
    assert said == [
        "the native LSTM cannot be transformed by torch.func, traced by torch.jit, or differentiated in forward mode."
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cell", ALONE, ids=str)
def test_stream(cell, dtype):
    B, T, I, H = 3, 6, 5, 40
    a = Case.make(cell, "cpu", T, B, I, H, dtype=dtype, training=False)
    b = Case.make(cell, "cpu", T, B, cell.projection or H, H, dtype=dtype, training=False)
    stream = cpu.Stream(cell, [a.params, b.params], B)
    zero = State(*(torch.zeros_like(v) for v in a.state))
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[3, 1] = True
    low = truth.forward(cell, a.params, a.call._replace(resets=resets), zero)[0]
    want, state, _ = truth.forward(cell, b.params, Call(low, resets=resets), zero)
    for t in range(T):
        if t == 3:
            stream.reset([1])
        got = stream.step(a.call.x[t])
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
        torch.testing.assert_close(got, want[t], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(stream.states[-1].c, state.c, rtol=tolerance, atol=tolerance)
    stream.reset()
    again = stream.step(a.call.x[0])
    torch.testing.assert_close(again, want[0], rtol=tolerance, atol=tolerance)


def test_stream_says_what_is_wrong():
    params = {k: torch.zeros(s) for k, s in Cell().shapes(3, 4).items()}
    stream = cpu.Stream(Cell(), [params], 2)
    with pytest.raises(
        ValueError, match=r"x must be \[2, 3\] of torch.float32 on the CPU, got \[2, 4\] of torch.float32 on cpu."
    ):
        stream.step(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="engine 'cpu' cannot stream: its kernels are for float32"):
        cpu.Stream(Cell(), [{k: v.half() for k, v in params.items()}], 2)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", VARIANTS, ids=str)
def test_packed_equals_padded(cell, reverse):
    """A packed batch is the padded one, sorted, without its padding: outputs, states, gradients and the Tape."""
    T, B = 6, 5
    lengths = torch.tensor([6, 4, 4, 2, 1])
    padded = make(cell, "reverse" if reverse else "plain", T, B).with_call(lengths=lengths)
    alive = torch.arange(T)[:, None] < lengths
    masks = padded.call.masks and Masks(
        padded.call.masks.drop_h, *(None if m is None else m[alive] for m in padded.call.masks[1:])
    )
    packed = padded.with_call(x=padded.call.x[alive], lengths=None, masks=masks, sizes=alive.sum(1))

    def total(out):
        y = out["y"] if out["y"].dim() == 2 else out["y"][alive]
        return (y * laws.weights(y)).sum() + out["h"].sin().sum() + out["c"].cos().sum()

    for engine in ("cpu", "reference"):
        want, got = padded.grads(total), replace(packed, engine=engine).grads(total)
        same(want | {k: want[k][alive] for k in ("y", "dx")}, got)
        _, _, tape = run(cell, packed.params, packed.call._replace(tape=True), packed.state, engine)
        _, _, whole = run(cell, padded.params, padded.call._replace(tape=True), padded.state, "reference")
        same({"gates": whole.gates[alive], "cells": whole.cells[alive]}, {"gates": tape.gates, "cells": tape.cells})


def test_packed_takes_no_lengths():
    call = Call(torch.zeros(3, 4), sizes=torch.tensor([2, 1]), lengths=torch.tensor([2, 1]))
    with pytest.raises(ValueError, match="a packed batch has neither lengths nor resets: give it padded"):
        run(Cell(), {k: torch.zeros(s) for k, s in Cell().shapes(4, 5).items()}, call)


def test_large_outputs_are_kept_and_not_shared(monkeypatch):
    """Memory of an output that is still held is never lent again; that of one that is gone is."""
    monkeypatch.undo()  # the engine's own memory
    case = Case.make(Cell(), "cpu", T=50, B=32, I=4, H=64, dtype=torch.float32)
    held = case.run()["y"]
    before, again = held.clone(), [case.with_call(x=case.call.x + k).run()["y"] for k in range(3)]
    assert len({v.data_ptr() for v in (held, *again)}) == 4
    assert torch.equal(held, before)
    gone = again.pop().data_ptr()
    assert case.run()["y"].data_ptr() == gone


@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True, peephole=True, projection=9)], ids=str)
def test_kept_weights_are_never_stale(cell):
    """Inference keeps packed weights; a change of one entry, by whatever way, is seen, and so is the way back."""
    case = Case.make(cell, "cpu", T=3, B=2, I=70, H=40, dtype=torch.float32, training=False)
    first = case.run()
    same(first, case.run(), atol=0)
    for name, v in case.params.items():
        flat = v.view(-1)
        for at in (0, len(flat) // 2, len(flat) - 1):
            old = float(flat[at])
            flat.numpy()[at] = -old - 1  # behind torch's back
            assert not torch.equal(case.run()["y"], first["y"]), name
            flat.numpy()[at] = old
            same(first, case.run(), atol=0)
        v.neg_()
        assert not torch.equal(case.run()["y"], first["y"]), name
        v.neg_()


def test_many_models_at_once():
    """Models of one size do not get each other's weights, also when more of them take turns than are kept."""
    cases = [
        Case.make(Cell(), "cpu", T=2, B=1, I=900, H=700, dtype=torch.float32, training=False) for _ in range(20)
    ]  # 18 MB each
    want = [c.run()["y"] for c in cases]
    for c, y in reversed(list(zip(cases, want, strict=True))):
        assert torch.equal(c.run()["y"], y)
    assert len({float(y.sum()) for y in want}) == len(cases)


@pytest.mark.parametrize("cell", [Cell(), Cell(layer_norm=True), Cell(peephole=True, coupled=True), Cell(forget=False)], ids=str)
@pytest.mark.parametrize("size", [(1, 64, 128), (3, 7, 33), (9, 100, 40)])
def test_stream_of_bytes(cell, size):
    """The products are those of the rounded weights, inputs and outputs, exactly; all else is as in float32. Where the processor
    has none, it says so."""
    B, I, H = size
    case = Case.make(cell, "cpu", T=8, B=B, I=I, H=H, training=False)
    params = {k: v.float() * (0.2 if "gain" not in k else 0.5) for k, v in case.params.items()}
    if "avx512bf16" not in cpu.native.instruction_sets():
        assert "int8 needs a processor with AVX512_VNNI and AVX512_BF16" in cpu.refuse_bytes(cell, torch.float32)
        with pytest.raises(ValueError, match="int8 needs a processor"):
            LSTM(I, H, cell=cell).stream(weights="int8")
        return

    def rounded(v):
        step = v.abs().amax(1, keepdim=True) / 127
        return (v / step).round() * step

    exact = {k: rounded(v).double() if k in ("weight_ih", "weight_hh") else v.double() for k, v in params.items()}
    stream, plain = cpu.Stream(cell, [params], B, "int8"), cpu.Stream(cell, [params], B)
    state, off, size = State(torch.zeros(B, H).double(), torch.zeros(B, H).double()), 0.0, 0.0
    for x in case.call.x.float():
        state, _ = step(cell, exact, rounded(x).double(), State((state.h * 127).round() / 127, state.c))
        got = stream.step(x)
        torch.testing.assert_close(got, state.h.float(), rtol=0, atol=5e-3)  # a rounding of h may fall to the other side
        assert (got - state.h).abs().mean() < 3e-4
        off, size = off + (got - plain.step(x)).square().sum(), size + got.square().sum()
    assert 0 < (off / size).sqrt() < 0.06
    assert stream.step(torch.full((B, I), torch.nan)).isnan().all()


def test_bytes_of_weights_that_are_no_numbers():
    if "avx512bf16" not in cpu.native.instruction_sets():
        assert not cpu.native.has(cpu.BYTES)
        return
    for name in ("weight_ih_l0", "weight_hh_l0"):
        m = LSTM(4, 6)
        m.get_parameter(name).data[3, 1] = torch.nan
        s = m.stream(weights="int8")
        assert any(s.step(torch.ones(1, 4)).isnan().any() for _ in range(2))


def test_stream_of_bytes_refuses():
    import longshort

    for lstm, why in (
        (longshort.LSTM(3, 4, cell=Cell(projection=2)), "a projection does not keep"),
        (longshort.LSTM(3, 4, dtype=torch.float64), "made from float32 ones, and these are float64"),
        (longshort.LSTM(3, 4, engine="reference"), "another one was asked for"),
        (longshort.LSTM(3, 4, dilation=2), "a dilated layer has several"),
    ):
        with pytest.raises(ValueError, match=why):
            lstm.stream(weights="int8")
    with pytest.raises(ValueError, match=r"weights must be 'same' or 'int8', got 'int4'\."):
        longshort.LSTM(3, 4).stream(weights="int4")
    done = python("import longshort; longshort.LSTM(3, 4).stream(weights='int8')", LONGSHORT_CPU="avx2")
    assert "int8 needs a processor with AVX512_VNNI and AVX512_BF16, and the instruction set in use is avx2." in done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_tapes(dtype):
    """A tape that is written past the caches is the same tape: a whole batch and its halves agree bit by bit."""
    case = Case.make(Cell(), "cpu", T=80, B=80, I=4, H=64, dtype=dtype)
    weigh = lambda out: (out["y"] * 0.5).sum() + out["c"].sum()  # noqa: E731
    whole, halves = case.grads(weigh), [case.rows(torch.arange(k, k + 40)).grads(weigh) for k in (0, 40)]
    for name, axis in (("y", 1), ("c", 0), ("dx", 1), ("dh0", 0)):
        same({name: whole[name]}, {name: torch.cat([h[name] for h in halves], axis)}, atol=0)
    same({"gates": run(Cell(), case.params, case.call._replace(tape=True), case.state, "cpu")[2].gates},
         {"gates": torch.cat([run(Cell(), h.params, h.call._replace(tape=True), h.state, "cpu")[2].gates
                              for h in (case.rows(torch.arange(k, k + 40)) for k in (0, 40))], 1)}, atol=0)  # fmt: skip


WRAPPED = """
import torch
from torch.testing._internal.two_tensor import TwoTensor
from longshort import LSTM
m, x, s = LSTM(4, 6), torch.randn(5, 3, 4), torch.ones(1, 3, 6)
two = lambda v: TwoTensor(v.detach(), v.detach())
def weights(name): return torch.func.functional_call(m, {name: two(getattr(m, name))}, (x,))
calls = [lambda: m(two(x)), lambda: m(x, (two(s), s)), lambda: weights("weight_ih_l0"), lambda: weights("bias_hh_l0"),
         lambda: m.stream(3).step(two(x[0]))]
for grad in (True, False):
    for call in calls:
        with torch.set_grad_enabled(grad):
            try: call()
            except ValueError as e: assert "TwoTensor has no memory of its own" in str(e), e
            else: raise SystemExit("it ran")
print("refused")
"""


def test_tensors_without_memory_are_refused():
    """In a process of its own: a read of such memory ends it."""
    done = subprocess.run([sys.executable, "-c", WRAPPED], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr[-3000:]


@pytest.mark.parametrize("hidden", [1, 2, 16, 17, 19, 33])
@pytest.mark.parametrize(
    "kw", [{}, {"proj_size": 1}, {"cell": Cell(projection=5, zoneout=(0.1, 0.1))}, {"cell": Cell(peephole=True)}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_infinite_input_leaves_gates_at_their_ends(hidden, kw, dtype):
    """Beyond the last unit nothing is computed: zero times infinity there must not come back by the products that follow."""
    if hidden <= kw.get("proj_size", 0):
        kw = {}
    m, x = LSTM(1, hidden, dtype=dtype, **kw).eval(), torch.zeros(4, 2, 1, dtype=dtype)
    for name, p in m.named_parameters():
        if name.startswith("weight_ih"):
            p.data.abs_()
    x[0, 0] = torch.inf
    with torch.no_grad():
        assert m(x)[0].isfinite().all()
    assert m(x)[0].isfinite().all()
