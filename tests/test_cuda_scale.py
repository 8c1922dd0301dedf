"""Saved gradients times the gradient of the loss, by a kernel that reads the latter itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cuda
from gpu import SCHEDULES, emulation

# None; less than a vector, around one and a warp of them; what a block has in flight; more than the
# blocks of the model (24) have.
SIZES = [0, 1, 7, 8, 9, 255, 4096, 4097, 8195, 24 * 4096 + 13]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def numbers(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, generator=generator, dtype=torch.float64).to(device, dtype)


def times(x: Tensor, factor: Tensor | float) -> Tensor:
    """Compute the product in the type that the kernel computes in."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    return (wide * factor).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_products(gpu: torch.device, n: int, dtype: torch.dtype) -> None:
    for upstream in (torch.float32, torch.float64):
        grad = torch.tensor(-0.3, dtype=upstream, device=gpu)
        x = numbers(n, dtype, gpu)
        expected = times(x, grad.to(torch.float64 if dtype == torch.float64 else torch.float32))
        before = x.clone()
        (copy,) = _cuda.scale([x], [1.0], grad, False)
        assert copy is not None
        assert torch.equal(copy, expected)
        assert torch.equal(x, before)
        (same,) = _cuda.scale([x], [1.0], grad, True)
        assert same is x
        assert torch.equal(x, expected)


def test_several_tensors_of_several_types(gpu: torch.device) -> None:
    grad = torch.tensor(2.0, device=gpu)
    sizes = (8195, 0, 4097, 33)
    given: list[Tensor | None]
    given = [numbers(n, dtype, gpu) for n, dtype in zip(sizes, DTYPES, strict=True)]
    factors = [1.0, 5.0, 0.25, -3.0]
    expected = [times(t, 2 * f) for t, f in zip(given, factors, strict=True) if t is not None]
    products = _cuda.scale(given, factors, grad, False)
    for product, right in zip(products, expected, strict=True):
        assert product is not None
        assert torch.equal(product, right)
    given[0] = None
    products = _cuda.scale(given, factors, grad, True)
    assert products[0] is None
    for product, right in zip(products[1:], expected[1:], strict=True):
        assert product is not None
        assert torch.equal(product, right)


def test_what_is_multiplied_by_one_is_not_touched(gpu: torch.device) -> None:
    # A NaN that any arithmetic would make quiet.
    bits = torch.full((5000,), 0x7F81, dtype=torch.int16, device=gpu)
    kept, changed = (bits.clone().view(torch.bfloat16) for _ in range(2))
    _cuda.scale([kept, changed], [1.0, 2.0], torch.ones((), device=gpu), True)
    assert torch.equal(kept.view(torch.int16), bits)
    assert not (changed.view(torch.int16) == bits).any()
    _cuda.scale([changed], [0.5], torch.tensor(2.0, device=gpu), True)
    (copy,) = _cuda.scale([kept], [1.0], torch.ones((), device=gpu), False)
    assert copy is not None
    assert copy.isnan().all()


def test_views_that_begin_within_a_vector(gpu: torch.device) -> None:
    whole = numbers(5000, torch.float32, gpu)
    before = whole.clone()
    _cuda.scale([whole[1:-2]], [1.0], torch.tensor(3.0, device=gpu), True)
    assert torch.equal(whole[1:-2], 3 * before[1:-2])
    assert torch.equal(whole[[0, -2, -1]], before[[0, -2, -1]])


def test_non_finite_factors(gpu: torch.device) -> None:
    x = torch.tensor([0.0, 1.0, -2.0], device=gpu)
    (product,) = _cuda.scale([x], [1.0], torch.tensor(torch.inf, device=gpu), False)
    assert product is not None
    torch.testing.assert_close(product, x * torch.inf, equal_nan=True)


def test_schedules_give_the_same_bits() -> None:
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            x = numbers(24 * 4096 + 13, torch.float32, torch.device("cpu"))
            results.append(_cuda.scale([x], [0.7], torch.tensor(1.3), True)[0])
    assert results[0] is not None
    assert all(other is not None and torch.equal(other, results[0]) for other in results[1:])
