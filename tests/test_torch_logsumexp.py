"""elbokit.torch.logsumexp against torch.logsumexp."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from elbokit import _core
from elbokit.torch import _logsumexp, logsumexp
from torch_cases import DTYPES, assert_as_good_as, assert_differentiable_backward_agrees, draw

INF = math.inf


@pytest.mark.parametrize(
    "shape", [(1,), (16,), (17, 3), (3, 17), (2, 5, 4), (31, 64), (2, 3, 2, 5)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dimension_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    x = (10 * draw(*shape, dtype=dtype)).requires_grad_()
    eps = torch.finfo(dtype).eps
    for dim in range(-len(shape), len(shape)):
        for keepdim in (False, True):
            ours, truth = logsumexp(x, dim, keepdim), torch.logsumexp(x.double(), dim, keepdim)
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), truth, rtol=8 * eps, atol=8 * eps)
            upstream = torch.rand_like(ours)
            (grad,) = torch.autograd.grad(ours, x, upstream)
            (expected,) = torch.autograd.grad(truth, x, upstream.double())
            torch.testing.assert_close(grad, expected, rtol=64 * eps, atol=64 * eps)


@pytest.mark.parametrize("dim", [(0, 1), (1, 2), (0, 2), (2, 0), (0, 1, 2), (-1, 0), [1, 3], (3,)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_several_dimensions(keepdim: bool, dim: Any) -> None:
    x = draw(2, 3, 4, 5, grad=True)
    ours, theirs = logsumexp(x, dim, keepdim), torch.logsumexp(x, dim, keepdim)
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous()
    upstream = torch.rand_like(ours)
    grads = [torch.autograd.grad(y, x, upstream) for y in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_no_dimensions_are_all() -> None:
    x = draw(2, 3)
    torch.testing.assert_close(logsumexp(x, ()), torch.logsumexp(x, (0, 1)))
    torch.testing.assert_close(logsumexp(x, (), True), torch.logsumexp(x, (0, 1), True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("row", "result"),
    [
        ([-INF, -INF, -INF], -INF),
        ([-INF, 0.0, -INF], 0.0),
        ([INF, 1.0, -INF], INF),
        ([INF, INF, 0.0], INF),
        ([math.nan, INF, -INF], math.nan),
        ([math.nan, -INF, -INF], math.nan),
        ([1e4, 1e4, -1e4], 1e4 + math.log(2)),
        ([-1e4, -1e4, -1e4], -1e4 + math.log(3)),
    ],
)
def test_infinities_and_nan(
    cpu_level: str, row: list[float], result: float, dtype: torch.dtype
) -> None:
    expected = torch.tensor(result, dtype=dtype)
    # Among others, along the vector and across it, and longer than any vector.
    for n in (0, 30):
        column = torch.tensor(row + n * [-INF], dtype=dtype)
        x = torch.stack([torch.zeros_like(column), column, torch.ones_like(column)])
        torch.testing.assert_close(logsumexp(x, 1)[1], expected, equal_nan=True)
        torch.testing.assert_close(logsumexp(x.t(), 0)[1], expected, equal_nan=True)
        torch.testing.assert_close(logsumexp(x.t().contiguous(), 0)[1], expected, equal_nan=True)


@pytest.mark.parametrize("double_backward", [False, True])
def test_gradients_at_infinities(cpu_level: str, double_backward: bool) -> None:
    x = torch.tensor([[-INF, -INF], [-INF, 0.0], [INF, 1.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(logsumexp(x, 1).sum(), x, create_graph=double_backward)
    expected = torch.tensor([[0.0, 0.0], [0.0, 1.0], [math.nan, 0.0]])
    torch.testing.assert_close(grad, expected, equal_nan=True)


@pytest.mark.parametrize(("shape", "dim"), [((3, 0), 1), ((0, 3), 1), ((3, 0), 0), ((0,), 0)])
def test_empty(shape: tuple[int, ...], dim: Any) -> None:
    x = torch.empty(shape, requires_grad=True)
    ours, theirs = logsumexp(x, dim), torch.logsumexp(x, dim)
    assert torch.equal(ours, theirs)
    (grad,) = torch.autograd.grad(ours.sum(), x)
    assert grad.shape == x.shape


@pytest.mark.parametrize("dim", [0, -1, ()])
def test_zero_dimensional(dim: Any) -> None:
    x = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    y = logsumexp(x, dim)
    assert y.item() == 3.0
    assert y.data_ptr() != x.data_ptr()
    assert torch.autograd.grad(y, x)[0].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_integers(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    ours, theirs = logsumexp(x, 1), torch.logsumexp(x, 1)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype) -> None:
    x = (4 * draw(9, 33, dtype=dtype)).requires_grad_()
    ours, theirs = logsumexp(x, 1), torch.logsumexp(x, 1)
    assert ours.dtype == dtype
    truth = torch.logsumexp(x.double(), 1)
    half_ulp = torch.finfo(dtype).eps / 2
    assert_as_good_as(ours, theirs, truth, rtol=1.001 * half_ulp)
    grad, their_grad = (torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs))
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    slope = torch.softmax(x.detach().double(), 1)
    assert_as_good_as(grad, their_grad, slope, rtol=1.001 * half_ulp, atol=smallest)


def test_layouts() -> None:
    x = draw(4, 6, 5)
    kept = x.clone()
    for view in (x.permute(2, 0, 1), x[::2, 1::2], x[:, :1].expand(4, 7, 5), x.transpose(1, 2)):
        for dim in (0, 1, 2, (0, 2)):
            torch.testing.assert_close(logsumexp(view, dim), torch.logsumexp(view, dim))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("dim", [0, 1, (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_gradients_of_any_order(keepdim: bool, dim: Any) -> None:
    x = draw(2, 3, 2, grad=True)
    assert gradcheck(lambda x: logsumexp(x, dim, keepdim), (x,))
    assert gradgradcheck(lambda x: logsumexp(x, dim, keepdim), (x,))
    assert_differentiable_backward_agrees(logsumexp(x, dim, keepdim), (x,))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("shape", [(1,), (7,), (33, 5), (2, 5, 4), (4, 1, 3, 2), (300, 40, 3)])
def test_the_short_way_gives_the_same_bits(shape: tuple[int, ...], keepdim: bool) -> None:
    x = draw(*shape, grad=True)
    upstreams = {
        "sum": torch.sum,
        "weighted": lambda y: (y * torch.arange(y.numel()).view(y.shape)).sum(),
        "strided": lambda y: (y.mT if y.dim() > 1 else y).contiguous().square().sum(),
    }
    for dim in range(-len(shape), len(shape)):
        assert _core.plain_logsumexp(x, dim, keepdim) is not None
        results = []
        for way in (_logsumexp._plain_logsumexp, lambda *_: None):
            with mock.patch.object(_logsumexp, "_plain_logsumexp", way):
                y = logsumexp(x, dim, keepdim)
            each = (torch.autograd.grad(f(y), x, retain_graph=True) for f in upstreams.values())
            results.append([y, *(grad for (grad,) in each)])
        for short, long in zip(*results, strict=True):
            assert torch.equal(short, long)


def test_what_goes_the_long_way() -> None:
    x = draw(3, 4)
    for given in (x.bfloat16(), x.t(), x[:0], x.long(), x.cfloat(), [1.0], x.to_sparse()):
        assert _core.plain_logsumexp(given, 0, False) is None
    for dim in (2, -3, True, (0,), 1.0, None, 10**30):
        assert _core.plain_logsumexp(x, dim, False) is None
    y = logsumexp(x, 0)
    assert _core.plain_logsumexp_backward(y, x, y, 1) is None
    assert _core.plain_logsumexp_backward(y.float(), x, y, 0) is None
    assert _core.plain_logsumexp_backward(draw(2, 4)[0], x, y, 0) is not None


@pytest.mark.parametrize(
    "change",
    {
        "transposed": lambda t: t.t().contiguous().t() if t.dim() == 2 else t,
        "negative bit": lambda t: torch._neg_view(-t.detach()),
        "another dtype": lambda t: t.double() if t.dim() == 2 else t,
    }.items(),
    ids=lambda item: item[0],
)
def test_what_hooks_make_of_the_saved_output_is_read_as_it_is(change: tuple[str, Any]) -> None:
    x = draw(4, 5, 6, dtype=torch.float32, grad=True)
    upstream = draw(4, 6, dtype=torch.float32)
    expected = torch.autograd.grad(torch.logsumexp(x, 1), x, upstream)
    with torch.autograd.graph.saved_tensors_hooks(change[1], lambda t: t):
        y = logsumexp(x, 1)
    try:
        found = torch.autograd.grad(y, x, upstream)
    except (TypeError, RuntimeError):  # of another dtype than it was
        assert change[0] == "another dtype"
    else:
        torch.testing.assert_close(found, expected)


def test_negative_bits() -> None:
    x = draw(3, 4, dtype=torch.float32)
    torch.testing.assert_close(logsumexp(torch._neg_view(-x), 1), torch.logsumexp(x, 1))
