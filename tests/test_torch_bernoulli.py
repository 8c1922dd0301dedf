"""elbokit.torch.binary_cross_entropy_with_logits against torch's own and the float64 truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import binary_cross_entropy_with_logits
from torch_cases import (
    DTYPES,
    SIZES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    targets,
    true_bernoulli,
    true_bernoulli_slope,
)

REDUCTIONS = ("none", "mean", "sum")
WEIGHTS: dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]] = {
    "neither": (None, None),
    "weight": ((1, 17), None),
    "pos_weight": (None, (17,)),
    "both": ((5, 1), (5, 17)),
    "scalars": ((), (1,)),
}


def positive(shape: tuple[int, ...] | None, dtype: torch.dtype, seed: int) -> torch.Tensor | None:
    return None if shape is None else draw(*shape, seed=seed, dtype=dtype).exp()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: tuple[int, ...]
) -> None:
    logits = (8 * draw(*size, dtype=dtype)).requires_grad_()
    target = targets(*size, dtype=dtype)
    truth = true_bernoulli(logits, target)
    rtol = 16 * torch.finfo(dtype).eps

    each = binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(each.double(), truth, rtol=rtol, atol=0)
    for reduction, reduced in (("mean", truth.mean()), ("sum", truth.sum())):
        loss = binary_cross_entropy_with_logits(logits, target, reduction=reduction)
        torch.testing.assert_close(loss.double(), reduced, rtol=rtol, atol=0)
        (grad,) = torch.autograd.grad(loss, logits)
        scale = 1 / truth.numel() if reduction == "mean" else 1
        slope = true_bernoulli_slope(logits, target) * scale
        # Where sigma(l) meets t the gradient is a small difference: absolute there.
        torch.testing.assert_close(grad.double(), slope, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_torch(dtype: torch.dtype, reduction: str, weights: str) -> None:
    logits, target = draw(5, 17, dtype=dtype, grad=True), targets(5, 17, dtype=dtype, grad=True)
    weight, pos_weight = (positive(s, dtype, i) for i, s in enumerate(WEIGHTS[weights]))
    options: dict[str, Any] = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    ours = binary_cross_entropy_with_logits(logits, target, **options)
    theirs = F.binary_cross_entropy_with_logits(logits, target, **options)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)
    upstream = torch.rand_like(ours)
    grads = torch.autograd.grad(ours, (logits, target), upstream)
    torch.testing.assert_close(grads, torch.autograd.grad(theirs, (logits, target), upstream))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (7,), (0,), (3, 0), (0, 3), (2, 3, 4), (2, 1, 3, 2)])
def test_shapes_agree_with_torch(shape: tuple[int, ...], reduction: str) -> None:
    logits, target = draw(*shape, grad=True), targets(*shape)
    options: dict[str, Any] = {
        "reduction": reduction,
        "pos_weight": torch.tensor(2.0, dtype=torch.float64),
    }
    ours = binary_cross_entropy_with_logits(logits, target, **options)
    theirs = F.binary_cross_entropy_with_logits(logits, target, **options)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    (grad,) = torch.autograd.grad(ours.sum(), logits)
    (expected,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(grad, expected)


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second column": lambda x: torch.stack([x, x], 2).flatten(1)[:, ::2],
    "every second row": lambda x: torch.cat([x, x], 1).view(2 * len(x), -1)[::2],
    "one row repeated": lambda x: x[:1].expand_as(x),
    "one column repeated": lambda x: x[:, :1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["input", "target", "weight", "pos_weight"])
def test_layouts(which: str, layout: str) -> None:
    operands = {
        "input": draw(6, 17),
        "target": targets(6, 17),
        "weight": draw(6, 17, seed=1).exp(),
        "pos_weight": draw(6, 17, seed=2).exp(),
    }
    operands[which] = LAYOUTS[layout](operands[which])
    kept = {name: x.clone() for name, x in operands.items()}
    ours = binary_cross_entropy_with_logits(**operands, reduction="none")
    torch.testing.assert_close(ours, true_bernoulli(*kept.values()), rtol=1e-14, atol=0)
    for name, x in operands.items():
        assert torch.equal(x, kept[name]), name


def test_channels_last() -> None:
    logits = draw(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    target = targets(2, 3, 4, 5)
    loss = binary_cross_entropy_with_logits(logits, target, pos_weight=draw(3, 1, 1).exp())
    expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=draw(3, 1, 1).exp())
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_binary_targets(dtype: torch.dtype) -> None:
    logits, target = draw(5, 17), (targets(5, 17) > 0.5).to(dtype)
    ours = binary_cross_entropy_with_logits(logits, target)
    theirs = F.binary_cross_entropy_with_logits(logits, target.double())
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_overflows_or_cancels(cpu_level: str, dtype: torch.dtype) -> None:
    sizes = torch.tensor([0.0, 1e-3, 1.0, 5.0, 10.0, 20.0, 50.0, 80.0, 1e4], dtype=dtype)
    logits = torch.cat([-sizes, sizes]).repeat(3, 1).requires_grad_()
    target = torch.tensor([[0.0], [1.0], [0.25]], dtype=dtype).expand_as(logits)
    loss = binary_cross_entropy_with_logits(logits, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    truth, slope = true_bernoulli(logits, target), true_bernoulli_slope(logits, target)
    rtol, tiny = 16 * torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    torch.testing.assert_close(loss.double(), truth, rtol=rtol, atol=tiny)
    torch.testing.assert_close(grad.double()[:2], slope[:2], rtol=rtol, atol=tiny)
    torch.testing.assert_close(grad.double()[2], slope[2], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype, reduction: str) -> None:
    logits = (4 * draw(7, 33, dtype=dtype)).requires_grad_()
    target = targets(7, 33, dtype=dtype)
    truth = true_bernoulli(logits, target)
    slope = true_bernoulli_slope(logits, target)
    if reduction != "none":
        truth = truth.mean() if reduction == "mean" else truth.sum()
        slope = slope / logits.numel() if reduction == "mean" else slope
    results = []
    for function in (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits):
        loss = function(logits, target, reduction=reduction)
        assert loss.dtype == dtype
        results.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    (ours, our_grad), (theirs, their_grad) = results
    # Half a unit in the last place for the rounding of the result, and no more.
    half_ulp = torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert_as_good_as(ours, theirs, truth, rtol=1.001 * half_ulp, atol=smallest)
    assert_as_good_as(our_grad, their_grad, slope, rtol=1.001 * half_ulp, atol=smallest)


def test_mixed_low_precision_and_autocast() -> None:
    logits, target = draw(4, 9, dtype=torch.bfloat16), targets(4, 9, dtype=torch.float32)
    expected = binary_cross_entropy_with_logits(logits.float(), target)
    assert binary_cross_entropy_with_logits(logits, target) == expected.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(binary_cross_entropy_with_logits(logits, target), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", ["neither", "both"])
def test_gradients_of_any_order(weights: str, reduction: str) -> None:
    logits, target = draw(3, 4, grad=True), targets(3, 4).mul(0.8).add(0.1).requires_grad_()
    operands = [logits, target]
    if weights == "both":
        operands += [draw(3, 1, seed=1).exp().requires_grad_(), draw(4).exp().requires_grad_()]

    def function(
        logits: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        pos_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, target, weight, reduction, pos_weight)

    assert gradcheck(function, operands)
    assert gradgradcheck(function, operands)
    assert_differentiable_backward_agrees(function(*operands), operands)


def test_saved_gradient_survives_its_users() -> None:
    """With the graph retained, neither ``.grad`` nor the caller's copy is the saved tensor."""
    logits, target = draw(3, 4, grad=True), targets(3, 4)
    loss = binary_cross_entropy_with_logits(logits, target)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = first.clone()
    first.zero_()
    torch.autograd.backward(loss, retain_graph=True)
    torch.autograd.backward(loss, retain_graph=True)
    assert logits.grad is not None
    logits.grad.mul_(7)
    torch.autograd.backward(loss)
    torch.testing.assert_close(logits.grad, 15 * expected)


def test_logits_used_twice() -> None:
    logits, target = draw(3, 4, grad=True), targets(3, 4)
    loss = binary_cross_entropy_with_logits(logits, target)
    total = loss + 3 * binary_cross_entropy_with_logits(logits, target) + logits.sum()
    (grad,) = torch.autograd.grad(total, logits)
    expected = 4 * true_bernoulli_slope(logits, target) / 12 + 1
    torch.testing.assert_close(grad, expected)


def test_no_gradient_is_computed_unasked() -> None:
    logits, target = draw(3, 4, grad=True), targets(3, 4)
    with torch.no_grad():
        assert not binary_cross_entropy_with_logits(logits, target).requires_grad
    loss, grad = torch.ops.elbokit.bernoulli_loss(
        logits.detach(), target, *[None] * 4, 1.0, "mean", False
    )
    assert loss.shape == ()
    assert grad.shape == (0,)
