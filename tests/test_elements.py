"""Operands of other element types and strides: read as they are, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbokit import _core
from elbokit.torch._operands import operand, output

NARROW = (torch.bfloat16, torch.float16)
# Around the span of 512 elements and the vectors.
WIDTHS = (1, 15, 17, 511, 512, 513, 1500)


def run(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    target_scale: float = 1.0,
    mask: torch.Tensor | None = None,
    grad_dtype: torch.dtype | None = None,
) -> tuple[float, int, torch.Tensor]:
    """Loss, targets out of range, and gradient, straight from the kernel."""
    rows = len(logits)
    grad = torch.empty(logits.shape, dtype=grad_dtype or logits.dtype)
    loss, count = _core.bernoulli_loss(
        operand(logits, logits.shape, rows), operand(target, logits.shape, rows), None, None,
        operand(mask, logits.shape, rows), None, target_scale, 1.0, None, None,
        output(grad, rows), True,
    )  # fmt: skip
    return loss, count, grad


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("cols", WIDTHS)
def test_narrow_logits_are_those_numbers(cpu_level: str, dtype: torch.dtype, cols: int) -> None:
    torch.manual_seed(cols)
    logits, target = (4 * torch.randn(3, cols)).to(dtype), torch.rand(3, cols).to(dtype)
    loss, _, grad = run(logits, target)
    wide_loss, _, wide_grad = run(logits.float(), target.float())
    assert loss == wide_loss
    assert torch.equal(grad, wide_grad.to(dtype))  # rounded once, to the nearest even


@pytest.mark.parametrize("dtype", NARROW)
def test_every_narrow_number_is_read_and_written(cpu_level: str, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)[None]
    zero = torch.zeros_like(every)
    _, _, grad = run(every, zero)
    exact = torch.sigmoid(every.double())
    nan = exact.isnan()
    assert torch.equal(grad.isnan(), nan)
    _, _, wide = run(every.float(), zero.float())
    assert torch.equal(grad[~nan], wide.to(dtype)[~nan])
    finite = every.isfinite()
    torch.testing.assert_close(wide.double()[finite], exact[finite], rtol=1e-6, atol=1.2e-38)


@pytest.mark.parametrize("dtype", NARROW)
def test_gradients_overflow_and_underflow_as_torch_rounds(
    cpu_level: str, dtype: torch.dtype
) -> None:
    scales = torch.tensor([1e-45, 1e-40, 6e-8, 3e-8, 1e-5, 1.0, 65504.0, 65519.9, 65520.0, 3e38])
    for scale in (*scales.tolist(), float("inf"), float("nan")):
        logits = torch.linspace(-3, 3, 37)[None]
        grads = []
        for out in (torch.float32, dtype):
            grad = torch.empty(logits.shape, dtype=out)
            _core.bernoulli_loss(
                operand(logits, logits.shape, 1), operand(logits, logits.shape, 1), None, None,
                None, None, 1.0, scale, None, None, output(grad, 1),
            )  # fmt: skip
            grads.append(grad)
        torch.testing.assert_close(grads[1], grads[0].to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("cols", WIDTHS)
def test_bytes_and_bits_are_targets(
    cpu_level: str, dtype: torch.dtype, kind: torch.dtype, cols: int
) -> None:
    torch.manual_seed(cols)
    scale = 1 / 255 if kind == torch.uint8 else 1.0
    target = torch.randint(0, 256 if kind == torch.uint8 else 2, (4, cols)).to(kind)
    logits = torch.randn(4, cols).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    loss, count, grad = run(logits, target, target_scale=scale)
    expected, _, expected_grad = run(logits, target.to(wide) * scale)
    assert count == 0
    np.testing.assert_allclose(loss, expected, rtol=1e-7)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_mask_hides_whatever_lies_there(cpu_level: str, mask_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(5, 517), torch.rand(5, 517)
    mask = torch.rand(5, 517) > 0.3
    kept = run(logits, target, mask=mask.to(mask_dtype))
    bad = logits.masked_fill(~mask, torch.nan), target.masked_fill(~mask, -torch.inf)
    loss, count, grad = run(*bad, mask=mask.to(mask_dtype))
    assert (loss, count) == (kept[0], 0)
    assert torch.equal(grad, kept[2])
    assert (grad[~mask] == 0).all()
    terms = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.double(), target.double(), reduction="none"
    )
    np.testing.assert_allclose(loss, terms[mask].sum().item(), rtol=1e-6)


def test_targets_out_of_range_are_counted(cpu_level: str) -> None:
    target = torch.rand(3, 700)
    target[0, 0], target[1, 600], target[2, 699], target[2, 3] = -0.1, 1.1, 2.0, 1.0
    assert run(torch.randn(3, 700), target)[1] == 3


def test_the_gradient_may_lie_over_the_logits(cpu_level: str) -> None:
    logits, target = torch.randn(3, 701), torch.rand(3, 701)
    loss, _, grad = run(logits, target)
    described = operand(logits, logits.shape, 3), operand(target, target.shape, 3)
    own, _ = _core.bernoulli_loss(
        *described, None, None, None, None, 1.0, 1.0, None, None, described[0]
    )
    assert own == loss
    assert torch.equal(logits, grad)


@pytest.mark.parametrize("cols", [784, 1001])
def test_large_gradients_written_past_the_caches(cpu_level: str, cols: int) -> None:
    """Beyond 8 MiB; rows of 1001 floats are not aligned to vectors."""
    logits, target = torch.randn(3000, cols), torch.rand(3000, cols)
    whole = run(logits, target)[2]
    assert whole.numel() * 4 > 2**23
    parts = [run(a, b)[2] for a, b in zip(logits.split(100), target.split(100), strict=True)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_description_of_another_shape_is_refused() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"`target` has shape \(3, 2\), expected \(2, 3\)"):
        _core.bernoulli_loss(
            output(a, 2), output(b, 3), None, None, None, None, 1.0, 1.0, None, None, None
        )
