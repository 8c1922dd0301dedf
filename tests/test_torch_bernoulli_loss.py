"""elbokit.torch.bernoulli_loss against the float64 truth."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import bernoulli_loss, gaussian_kl
from torch_cases import DTYPES, SIZES, draw, reduce, targets, true_bernoulli, true_bernoulli_slope

REDUCTIONS = ("none", "sum", "batchmean")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values_and_gradients(
    cpu_level: str, reduction: str, dtype: torch.dtype, size: tuple[int, ...]
) -> None:
    logits = (8 * draw(*size, dtype=dtype)).requires_grad_()
    target, weight = targets(*size, dtype=dtype), draw(size[0], seed=1, dtype=dtype).exp()
    mask = draw(*size, seed=2) > -0.5
    counts = mask * weight.double()[:, None]
    loss = bernoulli_loss(logits, target, weight=weight, mask=mask, reduction=reduction)
    truth = reduce(true_bernoulli(logits, target) * counts, reduction)
    rtol = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), truth, rtol=rtol, atol=0)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    slope = true_bernoulli_slope(logits, target) * counts
    slope = slope / size[0] if reduction == "batchmean" else slope
    atol = rtol * counts.max().item()
    torch.testing.assert_close(grad.double(), slope, rtol=rtol, atol=atol)


def test_bytes_and_what_is_masked() -> None:
    logits, target = draw(5, 33), (255 * torch.rand(5, 33)).to(torch.uint8)
    mask = torch.rand(33) > 0.5
    truth = (true_bernoulli(logits, target.double() / 255) * mask).sum() / 5
    logits[:, ~mask] = math.nan
    logits.requires_grad_()
    loss = bernoulli_loss(logits, target, mask=mask, target_scale=1 / 255)
    torch.testing.assert_close(loss, truth)
    (grad,) = torch.autograd.grad(loss, logits)
    assert (grad[:, ~mask] == 0).all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = draw(5, 33, dtype=dtype, grad=True), targets(5, 33, dtype=dtype)
    weight = draw(5, seed=1, dtype=dtype).exp()
    loss = bernoulli_loss(logits, target, weight=weight)
    expected = bernoulli_loss(logits.float(), target.float(), weight=weight.float())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    assert torch.autograd.grad(loss, logits)[0].dtype == dtype


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_any_order(reduction: str) -> None:
    logits, target = draw(3, 4, grad=True), targets(3, 4).mul(0.8).add(0.1).requires_grad_()
    weight = draw(3, seed=1).exp().requires_grad_()
    mask = draw(3, 4, seed=2) > -1

    def function(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return bernoulli_loss(logits, target, weight=weight, mask=mask, reduction=reduction)

    assert gradcheck(function, (logits, target, weight))
    assert gradgradcheck(function, (logits, target, weight))


@pytest.mark.parametrize("logit", [1e-9, 1e-3, -3.0, 200.0])
def test_the_gradient_in_the_target_is_the_logit(logit: float) -> None:
    logits, target = torch.tensor([[logit]]), torch.full((1, 1), 0.5, requires_grad=True)
    (grad,) = torch.autograd.grad(bernoulli_loss(logits, target), target)
    torch.testing.assert_close(grad, -logits, rtol=1e-6, atol=0)


def test_batches_of_gradients_in_the_weights() -> None:
    """As of ``is_grads_batched=True``, which has no rule for every operation."""
    logits, target = torch.randn(5, 3), torch.rand(5, 3)
    weight = torch.rand(5)

    def rows(weight: torch.Tensor) -> torch.Tensor:
        loss = bernoulli_loss(logits, target, weight=weight, reduction="none")
        return loss + gaussian_kl(logits, target, weight=weight, reduction="none")

    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(jacobian(rows, weight, vectorize=True), jacobian(rows, weight))
