"""Dropout: it keeps the mean, drops as many as asked, each by itself, and nothing outside of training."""

import pytest
import torch

from longshort.dropout import dropout


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_drops_a_share_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(333, 1001, dtype=dtype)
    y = dropout(x, p, True)
    share = 1 - round((1 - p) * 65536) / 65536
    kept = y != 0
    n = x.numel()
    assert abs(float((~kept).double().mean()) - share) < 5 * (share * (1 - share) / n) ** 0.5
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    for shift in (1, 8, 1001):  # no element tells of another
        a, b = kept.flatten()[:-shift].double(), kept.flatten()[shift:].double()
        assert abs(float(((a - 1 + share) * (b - 1 + share)).mean())) < 5 * share * (1 - share) / n**0.5


def test_it_draws_from_torchs_generator_and_differentiates():
    x = torch.randn(7, 13, requires_grad=True)
    torch.manual_seed(3)
    a = dropout(x, 0.4, True)
    torch.manual_seed(3)
    b = dropout(x, 0.4, True)
    assert torch.equal(a, b)
    assert not torch.equal(a, dropout(x, 0.4, True))
    (g,) = torch.autograd.grad(a.sum(), x)
    assert torch.equal(a, x * g)


@pytest.mark.parametrize(("p", "training"), [(0.5, False), (0.0, True)])
def test_without_training_nothing_happens(p, training):
    x = torch.randn(5)
    assert dropout(x, p, training) is x


def test_of_nothing_comes_nothing():
    assert dropout(torch.ones(0, 4), 0.5, True).shape == (0, 4)


def test_dropping_all_is_zero():
    assert torch.equal(dropout(torch.randn(4, 5), 1.0, True), torch.zeros(4, 5))
