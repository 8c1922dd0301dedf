"""Log-sum-exp on the GPU against torch's in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from elbokit import ops
from elbokit.torch import _cuda
from gpu import SCHEDULES, emulation

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}
# Around what a team keeps in registers, short rows, what is cut into chunks.
SIZES = [1, 4, 5, 16, 17, 33, 256, 257, 2500]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 5).to(dtype)


def check(gpu: torch.device, a: Tensor, dim: tuple[int, ...]) -> None:
    """Value and gradient."""
    tolerance = TOLERANCE[a.dtype]
    given = a.to(gpu)
    out = _cuda.logsumexp(given, dim, False)
    exact = torch.logsumexp(a.double(), dim)
    assert out.dtype == a.dtype
    torch.testing.assert_close(out.cpu().double(), exact, rtol=tolerance, atol=tolerance * 10)
    slope = draw(*exact.shape, dtype=a.dtype)
    grad = _cuda.logsumexp_backward(slope.to(gpu), given, out, dim)
    kept = [1 if d in dim else n for d, n in enumerate(a.shape)]
    true = slope.double().view(kept) * torch.exp(a.double() - exact.view(kept))
    assert grad.dtype == a.dtype
    assert grad.shape == a.shape
    torch.testing.assert_close(grad.cpu().double(), true, rtol=30 * tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dim", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_dimensions(gpu: torch.device, dtype: torch.dtype, n: int, dim: tuple[int, ...]) -> None:
    for shape in ((3, n, 9), (n, 2, 3), (2, 5, n)):
        check(gpu, draw(*shape, dtype=dtype), dim)


@pytest.mark.parametrize("shape", [(1, 20_001, 1), (2, 17_000, 3), (1, 9_000, 9)])
def test_few_long_sums_are_cut(gpu: torch.device, shape: tuple[int, ...]) -> None:
    check(gpu, draw(*shape, dtype=torch.float32), (1,))


def test_strides(gpu: torch.device) -> None:
    a = draw(40, 34, 33, dtype=torch.float32)
    for view in (a[::2, 1:], a.transpose(0, 2), a[:, :1].expand(40, 34, 33), a[:, ::3, ::2]):
        for dim in ((0,), (1,), (2,)):
            check(gpu, view, dim)


@pytest.mark.parametrize("length", [3, 40, 9000])
@pytest.mark.parametrize("dim", [0, 1])
def test_infinities_and_nan(gpu: torch.device, dim: int, length: int) -> None:
    inf, nan = math.inf, math.nan
    rows = torch.tensor(
        [
            [-inf, -inf, -inf],
            [-inf, 0, -inf],
            [inf, 0, -inf],
            [inf, inf, 1],
            [nan, 0, 1],
            [inf, nan, -inf],
            [1e4, 1e4, -1e4],
            [-1e4, -1e4, -inf],
            [-inf, 3e38, inf],
        ]
    )
    expected = torch.tensor([-inf, 0, inf, inf, nan, nan, 1e4, -1e4, inf])
    expected[6:8] += math.log(2)
    a = torch.full((len(rows), length), -inf)
    a[:, [0, length // 2, length - 1]] = rows
    a = (a if dim == 1 else a.T.contiguous()).to(gpu)
    out = _cuda.logsumexp(a, (dim,), False)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-6, atol=0, equal_nan=True)
    grad = _cuda.logsumexp_backward(torch.ones_like(out), a, out, (dim,)).cpu()
    grad = grad if dim == 1 else grad.T
    assert torch.equal(grad[0], torch.zeros(length))
    assert torch.equal(grad[1].nonzero(), torch.tensor([[length // 2]]))


def test_ascending_values_keep_their_digits(gpu: torch.device) -> None:
    check(gpu, torch.linspace(0, 1, 50_000).view(1, -1), (1,))


def test_of_nothing(gpu: torch.device) -> None:
    a = torch.zeros(2, 0, 3, device=gpu)
    assert torch.equal(_cuda.logsumexp(a, (1,), True).cpu(), torch.full((2, 1, 3), -math.inf))
    assert _cuda.logsumexp(a, (0,), False).shape == (0, 3)
    out = _cuda.logsumexp(a, (1,), False)
    assert _cuda.logsumexp_backward(out, a, out, (1,)).shape == a.shape


@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("axis", [-1, 0, (0, 2), None])
def test_ops(gpu: torch.device, dtype: torch.dtype, axis: int | tuple[int, ...] | None) -> None:
    a = draw(3, 4, 50, dtype=dtype)
    out = ops.logsumexp(a.to(gpu), axis=axis)
    assert isinstance(out, Tensor)
    assert out.device == a.to(gpu).device
    assert out.dtype == dtype
    exact = torch.logsumexp(a.double(), [0, 1, 2] if axis is None else axis)
    torch.testing.assert_close(out.cpu(), exact.to(dtype))
    with pytest.raises(ValueError, match="axis"):
        ops.logsumexp(a.to(gpu), axis=5)
    with pytest.raises(TypeError, match="int64"):
        ops.logsumexp(a.to(gpu).long())


@pytest.mark.parametrize("shape", [(40, 10), (5, 300), (1, 20_000), (20_000, 2), (300, 40)])
def test_schedules_give_the_same_bits(shape: tuple[int, ...]) -> None:
    a = draw(*shape, dtype=torch.float32)
    for dim in ((0,), (1,)):
        results = []
        for schedule in SCHEDULES:
            with emulation(schedule):
                out = _cuda.logsumexp(a, dim, False)
                results.append((out, _cuda.logsumexp_backward(out, a, out, dim)))
        for out, grad in results[1:]:
            assert torch.equal(out, results[0][0])
            assert torch.equal(grad, results[0][1])


def test_array_namespace_of_the_caller(gpu: torch.device) -> None:
    """A library whose arrays live in a module of another name says so itself, as JAX does."""

    class Array:
        def __init__(self, values: torch.Tensor) -> None:
            self.values = values

        def __dlpack__(self, **keywords: Any) -> object:
            return self.values.__dlpack__(**keywords)

        def __dlpack_device__(self) -> tuple[Any, int]:
            return self.values.__dlpack_device__()

        def __array_namespace__(self) -> type:
            return Namespace

    class Namespace:
        from_dlpack = Array

    got = ops.logsumexp(Array(torch.zeros(4, device=gpu)))
    assert isinstance(got, Array)
    assert got.values.device.type == gpu.type
    torch.testing.assert_close(got.values.cpu(), torch.tensor(4.0).log())
