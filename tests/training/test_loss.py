"""The loss of supervised positions equals the plain one, whatever the chunks."""

import pytest
import torch
from torch.nn import functional as F

from farspan.training import linear_cross_entropy_sum


@pytest.mark.parametrize("chunk_size", [1, 7, 40, 100])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_equals_plain_cross_entropy_with_gradients(chunk_size, softcap):
    torch.manual_seed(0)
    hidden = torch.randn(40, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (40,))
    targets[::3] = -100
    loss, count = linear_cross_entropy_sum(hidden, weight, targets, softcap=softcap, chunk_size=chunk_size)
    logits = hidden @ weight.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    plain = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    assert count == (targets != -100).sum()
    torch.testing.assert_close(loss, plain, atol=1e-10, rtol=1e-10)
    for mine, theirs in zip(
        torch.autograd.grad(loss, [hidden, weight]), torch.autograd.grad(plain, [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-10)


def test_nothing_supervised_gives_zero_and_zero_gradients():
    hidden = torch.randn(4, 3, requires_grad=True)
    loss, count = linear_cross_entropy_sum(hidden, torch.randn(5, 3), torch.full((4,), -100))
    loss.backward()
    assert loss.item() == 0
    assert count == 0
    assert not hidden.grad.any()
