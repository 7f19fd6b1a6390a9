"""What PyTorch's test_nn.py says of nn.LSTM, in our words, on longshort.LSTM. Where torch raises RuntimeError for a shape, ours is a ValueError."""

import io
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.testing import assert_close

from longshort import LSTM
from longshort.engine import engines

ENGINES = ("auto", *engines())
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch says so of itself
each_engine = pytest.mark.parametrize("engine", ENGINES)
each_proj = pytest.mark.parametrize("proj_size", [0, 3], ids=["", "proj"])


def pair(*args, engine="auto", dtype=torch.float64, **kwargs):
    """longshort.LSTM and torch.nn.LSTM with the same parameters."""
    theirs = nn.LSTM(*args, **kwargs, dtype=dtype)
    ours = LSTM(*args, **kwargs, dtype=dtype, engine=engine)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def strided(v):
    return torch.stack([torch.zeros_like(v), v], -1).select(-1, 1)


@each_engine
@each_proj
@pytest.mark.parametrize("bidirectional", [False, True], ids=["", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, [7, 5, 5, 2, 1, 1], torch.tensor([7, 5, 5, 2, 1, 1]), [2, 7, 1, 5, 1, 5]], ids=str)
def test_equals_torch(engine, proj_size, bidirectional, lengths):
    """torch compares CPU with cuDNN so: outputs, states and every gradient, packed or not, strided or not."""
    T, B, I, H, L, D = 7, 6, 10, 6, 2, 1 + bidirectional
    P = proj_size or H
    for bias, batch_first, contiguous in product((True, False), repeat=3):
        ours, theirs = pair(I, H, L, bias, batch_first, bidirectional=bidirectional, proj_size=proj_size, engine=engine)
        x, dy = (torch.randn(*((B, T) if batch_first else (T, B)), n, dtype=torch.float64) for n in (I, P * D))
        h, c, dh, dc = (torch.randn(L * D, B, n, dtype=torch.float64) for n in (P, H, P, H))
        if not contiguous:
            x, dy, h, c, dh, dc = (strided(v) for v in (x, dy, h, c, dh, dc))
        results = []
        for m in (ours, theirs):
            leaves = [v.detach().requires_grad_() for v in (x, h, c)]
            given = leaves[0]
            if lengths is not None:
                given = pack_padded_sequence(given, lengths, batch_first=batch_first, enforce_sorted=False)
            y, (hn, cn) = m(given, (leaves[1], leaves[2]))
            if lengths is not None:
                assert isinstance(y, PackedSequence)
                y = pad_packed_sequence(y, batch_first=batch_first)[0]
            grads = torch.autograd.grad([y, hn, cn], [*leaves, *m.parameters()], [dy, dh, dc])
            results.append((y, hn, cn, *grads))
        assert_close(*results, rtol=1e-9, atol=1e-10)


@each_engine
@each_proj
def test_wrong_shapes(engine, proj_size):
    T, B, I, H, L, bad = 6, 4, 3, 5, 2, 7
    P = proj_size or H
    m = LSTM(I, H, L, proj_size=proj_size, engine=engine)

    def wrong(shape, axis):
        return [bad if k == axis else n for k, n in enumerate(shape)]

    good = {"x": [T, B, I], "h": [L, B, P], "c": [L, B, H]}
    m(*(torch.randn(good["x"]), (torch.randn(good["h"]), torch.randn(good["c"]))))
    for changed, words in [({"x": wrong(good["x"], 1)}, r"state h must be \[L\*D, B, [PH]\] = \[2, 7, \d\], got \[2, 4, \d\]"),
                           ({"x": wrong(good["x"], 2)}, r"input must have input_size = 3 features last, got \[6, 4, 7\]"),
                           *(({k: wrong(good[k], axis)}, rf"state {k} must be .*got .*\b7\b") for k in "hc" for axis in range(3)),
                           ({"h": wrong(good["h"], 0), "c": wrong(good["c"], 0)}, "state h must be .*batch size")]:  # fmt: skip
        x, h, c = (torch.randn(shape) for shape in (good | changed).values())
        with pytest.raises(ValueError, match=words):
            m(x, (h, c))
    packed = pack_sequence([torch.randn(4, I), torch.randn(2, I)])
    with pytest.raises(ValueError, match=r"state h must be .* = \[2, 2, \d\], got \[2, 4, \d\]"):
        m(packed, (torch.randn(good["h"]), torch.randn(good["c"])))
    with pytest.raises(ValueError, match="input_size = 3 features last"):
        m(pack_sequence([torch.randn(4, bad)]))


def test_wrong_ranks():
    """The same words as torch's."""
    m, state = LSTM(3, 5), (torch.zeros(1, 5), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="Expected input to be 2D or 3D, got 4D"):
        m(torch.zeros(1, 2, 2, 3))
    with pytest.raises(ValueError, match=r"For unbatched 2-D input, hx and cx should also be 2-D but got \(3-D, 3-D\)"):
        m(torch.zeros(4, 3), (state[0][None], state[1][None]))
    with pytest.raises(ValueError, match=r"For batched 3-D input, hx and cx should also be 3-D but got \(2-D, 2-D\)"):
        m(torch.zeros(4, 2, 3), state)


@each_engine
@each_proj
def test_initial_state_is_zero(engine, proj_size):
    for bidirectional in (False, True):
        m = LSTM(30, 20, 2, bidirectional=bidirectional, proj_size=proj_size, engine=engine)
        rows = 4 if bidirectional else 2
        x = torch.randn(10, 32, 30)
        assert_close(m(x), m(x, (torch.zeros(rows, 32, proj_size or 20), torch.zeros(rows, 32, 20))), rtol=0, atol=0)


@each_engine
@pytest.mark.parametrize("sorted_", [True, False], ids=["sorted", "unsorted"])
def test_packed_is_each_sequence_alone(engine, sorted_):
    """Forward and backward; states come back in the order in which the sequences were given."""
    lengths = [10, 10, 6, 2, 2, 1, 1]
    if not sorted_:
        lengths = [2, 10, 1, 6, 10, 1, 2]
    m = LSTM(3, 4, 2, bidirectional=True, dtype=torch.float64, engine=engine)
    xs = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    hx = tuple(torch.randn(4, len(xs), 4, dtype=torch.float64) for _ in "hc")
    packed, state = m(pack_sequence(xs, enforce_sorted=sorted_), hx)
    assert packed.sorted_indices is None or not sorted_
    padded, ends = pad_packed_sequence(packed)
    assert ends.tolist() == lengths
    params = list(m.parameters())
    got = torch.autograd.grad([padded.sin().sum() + sum((v**2).sum() for v in state)], [*xs, *params])
    alone = [m(x, tuple(v[:, b] for v in hx)) for b, x in enumerate(xs)]
    for b, (y, s) in enumerate(alone):
        assert_close(padded[: lengths[b], b], y)
        assert not padded[lengths[b] :, b].any()
        assert_close(tuple(v[:, b] for v in state), s)
    total = sum(y.sin().sum() + sum((v**2).sum() for v in s) for y, s in alone)
    assert_close(got, torch.autograd.grad([total], [*xs, *params]), rtol=1e-9, atol=1e-10)


@each_engine
def test_empty_batch(engine):
    x = torch.zeros(5, 0, 3, requires_grad=True)
    m = LSTM(3, 4, bidirectional=True, engine=engine)
    if engine == "vendor":
        with pytest.raises(
            ValueError, match="engine 'vendor' was asked for but refuses: torch's fused LSTM takes no empty batch"
        ):
            m(x)
        return
    y, (h, c) = m(x)
    assert (y.shape, h.shape, c.shape) == ((5, 0, 8), (2, 0, 4), (2, 0, 4))
    y.sum().backward()
    assert all(not p.grad.any() for p in m.parameters())


@each_engine
def test_no_steps(engine):
    """torch refuses a sequence of no steps; ours has no output, and its final state is the initial one."""
    m = LSTM(5, 6, bidirectional=True, engine=engine)
    hx = (torch.randn(2, 10, 6), torch.randn(2, 10, 6))
    y, state = m(torch.ones(0, 10, 5), hx)
    assert y.shape == (0, 10, 12)
    assert_close(state, hx, rtol=0, atol=0)


@each_engine
def test_backward_twice(engine):
    m, x = LSTM(10, 20, 2, engine=engine), torch.randn(5, 6, 10)
    loss = m(x)[0].sum()
    first = torch.autograd.grad(loss, m.parameters(), retain_graph=True)
    assert_close(torch.autograd.grad(loss, m.parameters(), retain_graph=True), first, rtol=0, atol=0)
    assert_close(torch.autograd.grad(loss, m.parameters()), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(loss, m.parameters())


@each_engine
def test_batched_gradients(engine):
    """Many backward passes in one (is_grads_batched, vmap, a vectorised Jacobian) are those passes one by one."""
    m, x = LSTM(3, 4, engine=engine, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    y, inputs = m(x)[0], [x, *m.parameters()]
    dys = torch.randn(6, *y.shape, dtype=torch.float64)

    def one(dy):
        return torch.autograd.grad(y, inputs, dy, retain_graph=True)

    expected = tuple(torch.stack(v) for v in zip(*map(one, dys), strict=True))
    assert_close(torch.autograd.grad(y, inputs, dys, retain_graph=True, is_grads_batched=True), expected)
    assert_close(torch.func.vmap(one)(dys), expected)
    jacobian = torch.autograd.functional.jacobian
    assert_close(jacobian(lambda x: m(x)[0], x, vectorize=True), jacobian(lambda x: m(x)[0], x))


@each_engine
@pytest.mark.parametrize("bias", [False, True])
def test_second_derivative_in_float32(engine, bias):
    """A gradient penalty, as trained with: float32 on any engine agrees with float64 on the reference."""
    exact = LSTM(3, 7, 2, bias, dtype=torch.float64, engine="reference")
    m = LSTM(3, 7, 2, bias, engine=engine)
    m.load_state_dict(exact.state_dict())
    x = torch.randn(12, 10, 3, dtype=torch.float64)
    got = []
    for one in (m, exact):
        xs = x.to(one.weight_ih_l0.dtype).requires_grad_()
        (dx,) = torch.autograd.grad(one(xs)[0].square().sum(), [xs], create_graph=True)
        got.append([g.double() for g in torch.autograd.grad(dx.square().sum(), [xs, *one.parameters()])])
    assert_close(*got, rtol=1e-4, atol=1e-4)


@each_engine
def test_dropout_lies_between_the_layers(engine):
    """Layer 1 is set to show its input: gates saturated, small g; then each entry must be 0 or that of layer 0 over 1 - p."""
    H, small = 400, 1e-4
    for p, training in product((0, 0.276, 0.731, 1), (True, False)):
        m = LSTM(10, H, 2, dropout=p, dtype=torch.float64, engine=engine).train(training)
        with torch.no_grad():
            for name, v in m.named_parameters():
                if "_l1" in name:
                    v.zero_()
            m.weight_ih_l1[2 * H : 3 * H].copy_(small * torch.eye(H))  # g
            m.bias_ih_l1.copy_(torch.tensor([50.0, -50.0, 0.0, 50.0]).repeat_interleave(H))  # i f g o
            y, (h, _) = m(torch.ones(1, 1, 10, dtype=torch.float64))
        below, seen = h[0, 0], y[0, 0] / small
        if p == 0 or not training:
            assert_close(seen, below, rtol=1e-6, atol=1e-7)
            continue
        kept = seen.abs() > 0
        assert_close(seen[kept], below[kept] / (1 - p) if p < 1 else below[kept], rtol=1e-6, atol=1e-7)
        assert abs(kept.double().mean().item() - (1 - p)) <= 4 * (p * (1 - p) / H) ** 0.5  # four standard deviations


@each_engine
def test_dropout_may_change(engine):
    """`m.dropout` is read at each call, also of a saved and loaded module; only training with 0 < p < 1 draws."""
    for training in (True, False):
        m = LSTM(20, 20, 2, dtype=torch.float64, engine=engine).train(training)
        x = torch.rand(3, 2, 20, dtype=torch.float64)
        plain = m(x)[0]
        for p in (0, 0.5, 0, 0.7, 0.2, 1, 0.2, 0):
            m.dropout = p
            file = io.BytesIO()
            torch.save(m, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=False)
            ys = [m(x)[0], m(x)[0], loaded(x)[0]]
            drawn = training and 0 < p < 1
            assert ys[0].equal(ys[1]) == (not drawn)
            assert ys[0].equal(ys[2]) == (not drawn)
            assert ys[0].equal(plain) == (p == 0 or not training)


@each_engine
@pytest.mark.parametrize(("proj_size", "name"), [(0, "weight_hh_l0"), (3, "weight_hr_l0"), (3, "weight_ih_l1")])
def test_weight_norm(engine, proj_size, name):
    """A parametrised weight is computed anew at each call, is trained through, and can be frozen again."""
    m = LSTM(10, 6, 2, proj_size=proj_size, engine=engine)
    x = torch.randn(7, 6, 10)
    y = m(x)[0]
    weight_norm(m, name)
    assert f"parametrizations.{name}.original0" in m.state_dict()
    assert_close(m(x)[0], y)
    m(x)[0].sum().backward()
    gain = getattr(m.parametrizations, name).original0
    assert gain.grad.abs().min() > 0
    with torch.no_grad():
        gain *= 2
    assert not torch.allclose(m(x)[0], y)
    with torch.no_grad():
        gain /= 2
    remove_parametrizations(m, name)
    assert_close(m(x)[0], y)


@each_engine
@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.* is deprecated")  # torch's older function, still in use
def test_weight_norm_by_hook(engine):
    m = LSTM(10, 6, 2, engine=engine)
    x = torch.randn(7, 6, 10)
    y = m(x)[0]
    torch.nn.utils.weight_norm(m, "weight_hh_l0")
    assert_close(m(x)[0], y)
    torch.nn.utils.remove_weight_norm(m, "weight_hh_l0")
    assert_close(m(x)[0], y)


def test_a_missing_weight_may_return():
    m, x = LSTM(10, 6, 2), torch.randn(3, 2, 10)
    y, weight = m(x)[0], m.weight_hh_l0
    del m.weight_hh_l0
    assert not hasattr(m, "weight_hh_l0")
    m.to(torch.float64)
    m.weight_hh_l0 = nn.Parameter(weight.detach().double())
    assert_close(m(x.double())[0].float(), y)


@each_engine
def test_tied_weights(engine):
    """One parameter under two names: it gets the sum of their gradients, and a step moves both."""
    ours, theirs = pair(10, 20, batch_first=True, bidirectional=True, engine=engine)
    x = torch.randn(5, 4, 10, dtype=torch.float64)
    for m in (ours, theirs):
        m.bias_ih_l0_reverse = m.bias_ih_l0
        assert len(list(m.parameters())) == 7
        m(x)[0].sin().sum().backward()
        torch.optim.SGD(m.parameters(), lr=0.1).step()
    assert_close(ours.bias_ih_l0.grad, theirs.bias_ih_l0.grad)
    assert_close(ours(x), theirs(x))


@each_engine
def test_replaced_data(engine):
    """Parameters may be filled, loaded, or given new memory: the next call reads what stands there."""
    m, x = LSTM(3, 4, engine=engine), torch.randn(5, 2, 3)
    other = LSTM(3, 4, engine=engine)
    for name, p in m.named_parameters():
        p.data = other.get_parameter(name).detach().clone()
    assert_close(m(x), other(x), rtol=0, atol=0)
    with torch.no_grad():
        m.weight_hh_l0.fill_(4)
        other.weight_hh_l0.fill_(4)
    assert_close(m(x), other(x), rtol=0, atol=0)


@each_engine
def test_functional_call(engine):
    """torch.func.functional_call runs on the parameters that it is given, and leaves the module as it was."""
    m, other, x = LSTM(3, 4, 2, engine=engine), LSTM(3, 4, 2), torch.randn(5, 2, 3)
    before = deepcopy(m.state_dict())
    y = torch.func.functional_call(m, dict(other.named_parameters()), (x,))[0]
    assert_close(y, other(x)[0])
    assert_close(dict(m.state_dict()), dict(before), rtol=0, atol=0)


@each_engine
def test_hooks(engine):
    """Forward hooks see and may change input and output; backward hooks see their gradients; each once per call."""
    m, x, seen = LSTM(3, 4, engine=engine), torch.randn(5, 2, 3, requires_grad=True), []
    m.register_forward_pre_hook(lambda m, args: seen.append("before") or (args[0] * 2,))
    m.register_forward_hook(lambda m, args, out: seen.append("after") or (out[0] + 1, out[1]))
    m.register_full_backward_hook(lambda m, dx, dy: seen.append((dx[0].shape, len(dy))))
    y, _ = m(x)
    y.sum().backward()
    assert seen == ["before", "after", (x.shape, 2)]
    bare = LSTM(3, 4, engine=engine)
    bare.load_state_dict(m.state_dict())
    assert_close(y, bare(x * 2)[0] + 1)


def test_dropout_of_one_layer_warns():
    with pytest.warns(UserWarning, match="acts between layers, and num_layers is 1"):
        LSTM(3, 4, dropout=0.5)
    for wrong in (-0.1, 1.1, True, "0.5"):
        with pytest.raises(ValueError, match=r"dropout must be a number in \[0, 1\], got"):
            LSTM(3, 4, 2, dropout=wrong)


def test_partial_state_dict():
    """load_state_dict names what is missing, unexpected, or of another shape, as for any module."""
    m = LSTM(3, 4)
    state = m.state_dict()
    del state["weight_hh_l0"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight_hh_l0"'):
        m.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "weight_ih_l1"'):
        m.load_state_dict(nn.LSTM(3, 4, 2).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for weight_ih_l0"):
        m.load_state_dict(nn.LSTM(2, 4).state_dict())


@each_engine
@pytest.mark.parametrize("layers", [1, 2])
def test_states_may_be_detached_in_place(engine, layers):
    m, state = LSTM(3, 4, layers, engine=engine), None
    for x in torch.randn(3, 5, 2, 3):
        y, state = m(x, state)
        y.sum().backward()
        for v in state:
            v.detach_()
            assert not v.requires_grad
