"""The transducer loss is the sum over all alignments, its gradient that of the sum; the joint loss is the same without logits."""

from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from longshort.apps.speech import transducer
from longshort.apps.speech.transducer import joint_loss, transducer_loss

SIZES = [(T, U, V) for T, U, V in product((1, 2, 3, 4), (0, 1, 2, 4), (2, 3, 4))]


def by_hand(logits, text, blank, scale=lambda label: label):
    """Minus the log of the summed probabilities of all alignments of one sequence [T, U + 1, V], one by one."""
    T, U = logits.shape[0], len(text)
    logp, paths = logits.log_softmax(-1), []
    for labels in combinations(range(T + U - 1), U):  # the last move is a blank
        t, u, total = 0, 0, logits.new_zeros(())
        for move in range(T + U):
            if move in labels:
                total, u = total + scale(logp[t, u, text[u]]), u + 1
            else:
                total, t = total + logp[t, u, blank], t + 1
        paths.append(total)
    return -torch.stack(paths).logsumexp(0)


def texts(B, U, V, blank=0):
    other = torch.tensor([k for k in range(V) if k != blank])
    return other[torch.randint(V - 1, (B, U))]


def plain(encoded, predicted, weight, bias, *rest, **options):
    """The joint loss as one would write it."""
    return transducer_loss(F.linear(torch.tanh(encoded[:, :, None] + predicted[:, None]), weight, bias), *rest, **options)


def joiner(B=3, T=7, U=5, V=6, J=9, size=1.0, dtype=torch.float64):
    shapes = (B, T, J), (B, U + 1, J), (V, J), (V,)
    made = [(torch.randn(s, dtype=torch.float64) * (size if len(s) == 3 else 1)).to(dtype).requires_grad_() for s in shapes]
    return made, (texts(B, U, V), torch.tensor([T, max(T - 3, 1), 1][:B]), torch.tensor([U, U // 2, 0][:B]))


def gradients(loss, inputs, *rest, **options):
    nll = loss(*inputs, *rest, **options)
    return nll, torch.autograd.grad((nll * torch.linspace(-1, 2, len(nll), dtype=nll.dtype)).sum(), inputs)


def close(a, b, tolerance=1e-10):
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape
        assert (x.double() - y.double()).abs().max() <= tolerance * (1 + y.double().abs().max())


def peaked(B=4, T=60, U=25, V=12, J=32):
    """Joiners as after training: each frame says what it holds, a token or the blank, and says it loudly."""
    targets, weight, frames = texts(B, U, V), torch.randn(V, J), torch.zeros(B, T, dtype=torch.long)
    for b in range(B):
        frames[b, torch.randperm(T)[:U].sort().values] = targets[b]
    encoded, predicted = 3 * weight[frames] + 0.3 * torch.randn(B, T, J), 0.1 * torch.randn(B, U + 1, J)
    inputs = [v.requires_grad_() for v in (encoded, predicted, weight, torch.zeros(V))]
    return inputs, (targets, torch.full((B,), T), torch.full((B,), U))


@pytest.mark.parametrize(("T", "U", "V"), SIZES)
def test_sum_over_all_alignments(T, U, V):
    for blank in range(V):
        logits = (2 * torch.randn(2, T, U + 1, V, dtype=torch.float64)).requires_grad_()
        targets = texts(2, U, V, blank)
        expected = torch.stack([by_hand(z, y.tolist(), blank) for z, y in zip(logits, targets, strict=True)])
        nll = transducer_loss(logits, targets, torch.full((2,), T), torch.full((2,), U), blank)
        close([nll], [expected])
        weights = torch.tensor([1.0, -3.0], dtype=torch.float64)
        close(torch.autograd.grad((nll * weights).sum(), logits), torch.autograd.grad((expected * weights).sum(), logits))


def test_gradients_by_differences():
    inputs, rest = joiner(T=4, U=3, V=4, J=3)
    assert torch.autograd.gradcheck(lambda *x: joint_loss(*x, *rest), inputs)
    logits = torch.randn(3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: transducer_loss(z, *rest, blank=0), (logits,))


def regions(loss, n, m):
    """What belongs to a sequence of n frames and m tokens, in each input that has a batch."""
    return [(slice(n), slice(m + 1))] if loss is transducer_loss else [(slice(n),), (slice(m + 1),)]


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("loss", [transducer_loss, joint_loss])
def test_neither_padding_nor_slot_matters(loss, garbage):
    """Each sequence of a batch has the loss and the gradient that it has alone; padding has a gradient of zero."""
    inputs, (targets, frames, lengths) = joiner()
    if loss is transducer_loss:
        inputs = [torch.randn(3, 7, 6, 6, dtype=torch.float64)]
    padded = [torch.full_like(x, garbage) if x.ndim > 2 else x for x in inputs]
    sizes = [*zip(frames.tolist(), lengths.tolist(), strict=True)]
    for b, (n, m) in enumerate(sizes):
        targets[b, m:] = -100
        for x, source, at in zip(padded, inputs, regions(loss, n, m), strict=False):
            x[(b, *at)] = source.detach()[(b, *at)]
    padded = [x.detach().requires_grad_() for x in padded]
    nll, got = gradients(loss, padded, targets, frames, lengths)
    for b, (n, m) in enumerate(sizes):
        where = regions(loss, n, m)
        cut = [x.detach()[(slice(b, b + 1), *at)].requires_grad_() for x, at in zip(inputs, where, strict=False)]
        alone = loss(*cut, *inputs[len(cut) :], targets[b : b + 1, :m], frames[b : b + 1], lengths[b : b + 1])
        close([nll[b : b + 1]], [alone], 1e-14)
        expected = torch.autograd.grad(alone * torch.linspace(-1, 2, 3, dtype=torch.float64)[b], cut)
        for whole, part, at in zip(got, expected, where, strict=False):
            close([whole[(b, *at)]], [part[0]], 1e-14)
            assert whole[b].count_nonzero() == whole[(b, *at)].count_nonzero()
    assert all(bool(g.isfinite().all()) for g in got)


@pytest.mark.parametrize("tile", [1, 3000, 1 << 20])
@pytest.mark.parametrize("size", [1.0, 30.0])  # beyond 20 the products of exponentials are not safe
@pytest.mark.parametrize(("T", "U", "V", "J"), [(7, 5, 6, 9), (1, 4, 2, 1), (13, 1, 5, 33), (6, 0, 3, 4)])
def test_joint_is_dense(T, U, V, J, size, tile, monkeypatch):
    monkeypatch.setitem(transducer.TILE, "cpu", tile)
    inputs, rest = joiner(3, T, U, V, J, size)
    for options in ({}, {"fastemit": 0.1}):
        nll, got = gradients(joint_loss, inputs, *rest, **options)
        expected, wanted = gradients(plain, inputs, *rest, **options)
        close([nll, *got], [expected, *wanted])
    blank = V - 1
    rest = (texts(3, U, V, blank), *rest[1:], blank)
    nll, got = gradients(joint_loss, inputs, *rest)
    expected, wanted = gradients(plain, inputs, *rest)
    close([nll, *got], [expected, *wanted])


@pytest.mark.parametrize("case", [lambda: joiner(3, 90, 40, 12, 31, dtype=torch.float32), peaked])
def test_float32_is_as_good_as_the_plain_way(case):
    """Beside float64; nodes that are left out backward because no alignment visits them cost nothing that one could see."""
    inputs, rest = case()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    truth, ours, theirs = (gradients(*k, *rest) for k in ((plain, exact), (joint_loss, inputs), (plain, inputs)))
    for t, a, b in zip((truth[0], *truth[1]), (ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        unit = torch.finfo(torch.float32).eps * t.norm()
        assert (a - t).norm() <= 2 * (b - t).norm() + 4 * unit


def test_a_trained_model_costs_less_backward():
    inputs, rest = peaked()
    first, last = transducer._visited(transducer._Odds(*joint_loss(*inputs, *rest).grad_fn.saved_tensors[4:]))
    visited = sum(b - a + 1 for f, n in zip(first, last, strict=True) for a, b in zip(f, n, strict=True))
    assert visited < 0.5 * 4 * 60 * 26


def test_the_logits_never_exist():
    inputs, rest = joiner(3, 120, 40, 10, 16, dtype=torch.float32)
    rest = (rest[0], torch.full((3,), 120), torch.full((3,), 40))

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                self.numel = max(self.numel, x.untyped_storage().nbytes() if isinstance(x, torch.Tensor) else 0)
            return out

    transducer_bytes = {}
    for loss in (joint_loss, plain):
        with Largest() as seen:
            loss(*inputs, *rest).sum().backward()
        transducer_bytes[loss] = seen.numel
    assert transducer_bytes[plain] >= 4 * 3 * 120 * 41 * 16
    assert transducer_bytes[joint_loss] <= max(transducer.TILE["cpu"], 4 * 8 * 2 * 3 * (120 + 40 + 1) * 42)


def test_fastemit_scales_what_flows_through_labels():
    logits = torch.randn(2, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    targets, full = texts(2, 2, 4), (torch.full((2,), 4), torch.full((2,), 2))
    expected = [by_hand(z, y.tolist(), 0, lambda p: 1.25 * p - 0.25 * p.detach()) for z, y in zip(logits, targets, strict=True)]
    nll = transducer_loss(logits, targets, *full, fastemit=0.25)
    close([nll], [torch.stack(expected)])
    close(torch.autograd.grad(nll.sum(), logits), torch.autograd.grad(sum(expected), logits))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_is_computed_in_float32(dtype):
    inputs, rest = joiner(dtype=dtype)
    for loss, x in ((joint_loss, inputs), (transducer_loss, [torch.randn(3, 7, 6, 6).to(dtype).requires_grad_()])):
        wide = [v.detach().float().requires_grad_() for v in x]
        (nll, got), (expected, wanted) = gradients(loss, x, *rest), gradients(loss, wide, *rest)
        assert nll.dtype == torch.float32
        assert torch.equal(nll, expected)
        assert all(torch.equal(a, b.to(dtype)) for a, b in zip(got, wanted, strict=True))


def test_autocast_changes_nothing():
    inputs, rest = joiner(dtype=torch.float32)
    expected, wanted = gradients(joint_loss, inputs, *rest)
    with torch.autocast("cpu", torch.bfloat16):
        nll, got = gradients(joint_loss, inputs, *rest)
    assert torch.equal(nll, expected)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("loss", [joint_loss, plain])
def test_evaluation_gives_the_same_and_keeps_nothing(loss):
    inputs, rest = joiner()
    with torch.no_grad():
        nll = loss(*inputs, *rest)
    assert not nll.requires_grad
    close([nll], [loss(*inputs, *rest)], 1e-14)


def test_what_cannot_be_said_is_infinitely_bad_and_no_more():
    """A unit that a mask forbids: the others are unharmed, and no gradient is NaN."""
    logits = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    logits[..., 3] = -float("inf")
    logits.requires_grad_()
    rest = (torch.tensor([[1, 2], [1, 3]]), torch.tensor([4, 4]), torch.tensor([2, 2]))
    nll = transducer_loss(logits, *rest)
    close([nll[:1]], [transducer_loss(logits[:1, ..., :3], *(x[:1] for x in rest))])
    assert nll[1] == float("inf")
    (d,) = torch.autograd.grad(nll.sum(), logits)
    assert bool(d.isfinite().all())


def test_a_nan_shows_and_stays_in_its_sequence():
    inputs, rest = joiner()
    sick = [x.detach().clone() for x in inputs]
    sick[0][1, 2, 0] = float("nan")
    (nll, got), (expected, wanted) = (gradients(joint_loss, [v.requires_grad_() for v in x], *rest) for x in (sick, inputs))
    assert nll.isnan().tolist() == [False, True, False]
    close([nll[::2], got[0][::2], got[1][::2]], [expected[::2], wanted[0][::2], wanted[1][::2]], 1e-14)
    assert bool(got[0][1].isnan().any())


def test_one_dimension_is_a_sum_over_units():
    """The gradient of a softmax's logits sums to zero at every node."""
    logits = torch.randn(3, 30, 11, 7, dtype=torch.float64, requires_grad=True)
    nll = transducer_loss(logits, texts(3, 10, 7), torch.tensor([30, 20, 4]), torch.tensor([10, 3, 8]))
    (d,) = torch.autograd.grad(nll.sum(), logits)
    assert d.sum(-1).abs().max() < 1e-12
    assert torch.allclose(d.clamp(max=0).sum((1, 2, 3)).abs(), d.clamp(min=0).sum((1, 2, 3)))


def test_second_derivatives_are_refused():
    inputs, rest = joiner()
    (d, *_) = torch.autograd.grad(joint_loss(*inputs, *rest).square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d.sum().backward()


WRONG = {
    "frames must be 1 to T = 7, got 0 for sequence 1. Leave out": {"frames": torch.tensor([7, 0, 1])},
    "frames must be 1 to T = 7, got 28 for sequence 0. Are these frames before subsampling": {"frames": torch.tensor([28, 4, 1])},
    "lengths must be 0 to U = 5, got 6 for sequence 2": {"lengths": torch.tensor([5, 5, 6])},
    "but not the blank 0; got 0 at position 1 of sequence 2": {"targets": torch.tensor([[1] * 5, [1] * 5, [1, 0, 1, 1, 1]])},
    "targets must be units 0 to 5, but not the blank 0; got 6 at position 4 of sequence 0": {
        "targets": torch.tensor([[1, 1, 1, 1, 6]] * 3)
    },
    r"targets must be \[3, 5\], which the other arguments ask for, got \[3, 6\]": {"targets": torch.ones(3, 6, dtype=torch.long)},
    r"frames must be \[3\], .* got \[2\]": {"frames": torch.tensor([1, 2])},
    "blank must be one of the 6 units, 0 to 5, got 6": {"blank": 6},
    "fastemit must be finite and not negative, got -1": {"fastemit": -1.0},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_said(message):
    inputs, (targets, frames, _) = joiner()
    right = {"targets": targets, "frames": frames, "lengths": torch.tensor([5, 5, 5])}
    for loss in (joint_loss, plain):
        with pytest.raises(ValueError, match=message):
            loss(*inputs, **right | WRONG[message])


def test_wrong_kinds_and_shapes_are_said():
    (e, p, w, b), rest = joiner()
    with pytest.raises(TypeError, match=r"lengths must be whole numbers, got float64 \[3\]"):
        joint_loss(e, p, w, b, *rest[:2], rest[2].double())
    with pytest.raises(ValueError, match=r"logits must be floating point \[B, T, U \+ 1, V\], got float64 \[3, 7, 9\]"):
        transducer_loss(e, *rest)
    with pytest.raises(ValueError, match=r"encoded must be floating point \[B, T, J\], got float64 \[7, 9\]"):
        joint_loss(e[0], p, w, b, *rest)
    with pytest.raises(
        ValueError, match=r"bias \[V\], got encoded \[3, 7, 9\], predicted \[3, 6, 9\], weight \[6, 8\], bias \[6\]"
    ):
        joint_loss(e, p, w[:, 1:], b, *rest)
