"""What PyTorch tests of nn.LSTM with the samples that ship in its wheel (its test_modules.py), in our words, on longshort.LSTM.

PyTorch's further tests of nn.LSTM (its test_nn.py) are in test_torch_nn.py.
"""

import io
import pickle
import re
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch.testing import assert_close
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.testing._internal.common_utils import freeze_rng_state, gradcheck, gradgradcheck
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from longshort import LSTM
from longshort.engine import Call, engines

ENGINES = ("auto", *engines())
NEVER_REFUSE = {"auto", "cpu", "reference"}
FLOATS = (torch.float32, torch.float64)
INFO = next(info for info in module_db if info.module_cls is torch.nn.LSTM)


def samples(dtype=torch.float64, requires_grad=False, training=True):
    return INFO.module_inputs_func(INFO, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training)


def name(sample):
    said = {
        k: v for k, v in sample.constructor_input.kwargs.items() if k in ("batch_first", "bias", "bidirectional", "proj_size")
    }
    return "-".join([k for k, v in said.items() if v] + ["hx"] * (len(sample.forward_input.args) > 1)) or "bare"


CASES = [pytest.param(k, id=name(sample)) for k, sample in enumerate(samples())]
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch says so of itself
each_engine = pytest.mark.parametrize("engine", ENGINES)
each_sample = pytest.mark.parametrize("k", CASES)


def build(engine, sample, dtype, training):
    """The module of a sample on an engine; None where the engine refuses its input, once it has said so in the words of refuse()."""
    m = LSTM(*sample.constructor_input.args, **sample.constructor_input.kwargs, engine=engine).to(dtype).train(training)
    args = sample.forward_input.args
    assert not sample.forward_input.kwargs
    why = None if engine == "auto" else engines()[engine].refuse(m.cell, Call(args[0][:, None]))
    if why is None:
        return m
    assert engine not in NEVER_REFUSE
    with pytest.raises(ValueError, match=re.escape(why)):
        m(*args)
    return None


def one_mode(k):
    """Training for half of the samples, so that each of their flags is seen in both modes; test_grad_all takes both for each."""
    return (k.bit_count() % 2 == 1,)


def built(engine, k, dtypes=FLOATS, modes=(True, False), requires_grad=False):
    """(module, arguments, sample) of sample k in each dtype and mode that the engine takes."""
    for dtype, training in product(dtypes, modes):
        sample = samples(dtype, requires_grad, training)[k]
        m = build(engine, sample, dtype, training)
        if m is not None:
            yield m, sample.forward_input.args, sample


def torch_twin(m, sample):
    """torch's own LSTM with the same parameters, loaded from our state_dict, in the same mode."""
    theirs = torch.nn.LSTM(**sample.constructor_input.kwargs, dtype=m.weight_ih_l0.dtype).train(m.training)
    theirs.load_state_dict(m.state_dict())
    return theirs


def backward(m, args, douts, times=1):
    """The outputs, and the gradients of arguments and parameters added up over one backward pass per output, `times` times."""
    leaves = [*tree_leaves(args), *m.parameters()]
    for v in leaves:
        v.grad = None
    out = m(*args)
    for _ in range(times):
        for o, d in zip(tree_leaves(out), tree_leaves(douts), strict=True):
            o.backward(d, retain_graph=True)
    return out, [v.grad for v in leaves]


def drawn(out):
    return tree_map(lambda v: torch.randn_like(v).detach(), out)


@each_engine
@each_sample
def test_forward(engine, k):
    """Unbatched equals a batch of one (torch's reference_fn for these samples), and all equals torch.nn.LSTM, loaded either way."""
    for m, args, sample in built(engine, k):
        out = m(*args)
        assert_close(out, sample.reference_fn(m, *args))
        theirs = torch_twin(m, sample)
        assert_close(out, theirs(*args))
        assert list(m.state_dict()) == list(theirs.state_dict())
        other = build(engine, sample, args[0].dtype, m.training)
        other.load_state_dict(theirs.state_dict())
        assert_close(other(*args), out, rtol=0, atol=0)
        same = m.float() if args[0].dtype == torch.float32 else m.double()
        assert same is m
        assert {v.dtype for v in m.parameters()} == {args[0].dtype}
        assert_close(m(*args), out, rtol=0, atol=0)


@each_engine
@each_sample
def test_gradients_are_those_of_torch(engine, k):
    """torch compares CPU with GPU so; we compare with torch.nn.LSTM. Repeated backward passes through one graph add up."""
    for m, args, sample in built(engine, k, modes=one_mode(k), requires_grad=True):
        theirs = torch_twin(m, sample)
        douts = drawn(m(*args))
        got = backward(m, args, douts, times=2)
        assert_close(got, backward(theirs, args, douts, times=2), rtol=2e-5, atol=2e-5)


@each_sample
def test_factory_kwargs(k):
    for sample, dtype, device in product([samples()[k]], (*FLOATS, torch.bfloat16), ("cpu", "meta")):
        m = LSTM(**sample.constructor_input.kwargs, device=device, dtype=dtype)
        assert {(v.device.type, v.dtype) for v in m.parameters()} == {(device, dtype)}


@each_sample
def test_device_context(k):
    """Under `with torch.device('meta')` nothing is allocated, and every parameter has the metadata of the real one."""
    kwargs = samples()[k].constructor_input.kwargs
    real = LSTM(**kwargs)
    with torch.device("meta"):
        meta = LSTM(**kwargs)
    for a, b in zip(meta.parameters(), real.parameters(), strict=True):
        assert a.is_meta
        assert (a.shape, a.stride(), a.dtype, a.requires_grad) == (b.shape, b.stride(), b.dtype, b.requires_grad)


@each_sample
def test_repr(k):
    kwargs = samples()[k].constructor_input.kwargs
    text = repr(LSTM(**kwargs))
    assert text == str(LSTM(**kwargs))
    assert text.startswith("LSTM(2, 3, num_layers=2")
    assert ("proj" in text) == bool(kwargs["proj_size"])
    for flag, default in (("bias", True), ("batch_first", False), ("bidirectional", False)):
        assert (f"{flag}={not default}" in text) == (kwargs[flag] != default)


@each_engine
@each_sample
def test_pickle(engine, k):
    for m, args, _ in built(engine, k, [torch.float32], one_mode(k)):
        out = m(*args)
        file = io.BytesIO()
        torch.save(m, file)
        file.seek(0)
        for copy in (torch.load(file, weights_only=False), pickle.loads(pickle.dumps(m)), deepcopy(m)):
            assert copy.training == m.training
            assert_close(copy(*args), out, rtol=0, atol=0)


@each_engine
@each_sample
def test_non_contiguous(engine, k):
    """Strides of input, states and incoming gradients do not matter; gradients of strided leaves arrive where they belong."""

    def strided(tree):
        return tree_map(lambda v: v.repeat_interleave(2, -1)[..., ::2].detach().requires_grad_(v.requires_grad), tree)

    for m, args, _ in built(engine, k, modes=one_mode(k), requires_grad=True):
        with freeze_rng_state():
            douts = drawn(m(*args))
            expected = backward(m, args, douts)
            assert not strided(args)[0].is_contiguous()
            for a, d in product((args, strided(args)), (douts, strided(douts))):
                out, grads = backward(m, a, d)
                assert_close(out, expected[0])
                assert_close(grads, expected[1], rtol=0, atol=1e-4 if args[0].dtype == torch.float32 else 1e-9)


@each_engine
@each_sample
def test_memory_format(engine, k):
    """Contiguous in, contiguous out, gradients included, whatever memory format the module was sent to."""
    for m, args, _ in built(engine, k, modes=one_mode(k), requires_grad=True):
        expected = m(*args)
        for memory_format in (torch.preserve_format, torch.contiguous_format):
            out = m.to(memory_format=memory_format)(*args)
            assert_close(out, expected)
            leaves = [*tree_leaves(args), *m.parameters()]
            grads = torch.autograd.grad(tree_leaves(out), leaves, tree_leaves(drawn(out)))
            for v in (*tree_leaves(out), *grads):
                assert v.is_contiguous()


def checked(m, args, check):
    """torch's own check (its defaults: fast mode, batched gradients) of all arguments and parameters that require gradients."""
    flat, spec = tree_flatten((args, tuple(m.parameters())))

    def fn(*flat):
        args, params = tree_unflatten(flat, spec)
        with freeze_rng_state():
            return tuple(tree_leaves(torch.func.functional_call(m, dict(zip(names, params, strict=True)), args)))

    names = [n for n, _ in m.named_parameters()]
    assert check(fn, flat)


@each_engine
@each_sample
def test_grad(engine, k):
    for m, args, _ in built(engine, k, [torch.float64], one_mode(k), requires_grad=True):
        checked(m, args, gradcheck)


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("k", [case for case in CASES if case.id.endswith("hx")])
def test_gradgrad(engine, k):
    for m, args, _ in built(engine, k, [torch.float64], one_mode(k), requires_grad=True):
        checked(m, args, gradgradcheck)


@each_engine
@each_sample
def test_partial_gradients(engine, k):
    """Whichever single argument or parameter requires a gradient, it is the one that it has among all."""
    for m, args, _ in built(engine, k, [torch.float64], one_mode(k), requires_grad=True):
        douts = drawn(m(*args))
        _, expected = backward(m, args, douts)
        leaves = [*tree_leaves(args), *m.parameters()]
        for one, grad in zip(leaves, expected, strict=True):
            for v in leaves:
                v.requires_grad_(v is one)
            out = [(o, d) for o, d in zip(tree_leaves(m(*args)), tree_leaves(douts), strict=True) if o.requires_grad]
            got = torch.autograd.grad([o for o, _ in out], [one], [d for _, d in out])[0]
            assert_close(got, grad, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("engine", engines())
@each_sample
def test_grad_all(engine, k):
    """Both modes, both checks, and then each parameter alone beside the arguments, as torch does it."""
    for m, args, _ in built(engine, k, [torch.float64], requires_grad=True):
        for check in (gradcheck, gradgradcheck):
            checked(m, args, check)
            for one in m.parameters() if m.training else ():
                m.requires_grad_(False)
                one.requires_grad_(True)
                checked(m, args, check)
            m.requires_grad_(True)


ERRORS = INFO.module_error_inputs_func(INFO, device="cpu", dtype=torch.float32, requires_grad=False, training=True)


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.error_regex[:40])
def test_errors(error):
    """Refused where torch refuses, with torch's exception; the message is ours, and names the argument and what came."""
    made, given = error.module_error_input.constructor_input, error.module_error_input.forward_input
    culprit = {"RNN input": "dtype of the weights, torch.float32, got torch.float64"}.get(error.error_regex[:9])
    culprit = culprit or re.match(r"\w+", error.error_regex)[0] + " must be .*, got"
    if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR:
        with pytest.raises(error.error_type, match=culprit):
            LSTM(*made.args, **made.kwargs)
    else:
        m = LSTM(*made.args, **made.kwargs)
        with pytest.raises(error.error_type, match=culprit):
            m(*given.args, **given.kwargs)
