"""elbokit.torch.gaussian_loss against the float64 truth and torch's autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from elbokit import _core
from elbokit.torch import gaussian_loss
from torch_cases import (
    DTYPES,
    SIZES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    true_gaussian,
)

REDUCTIONS = ("none", "sum", "batchmean")
Shape = tuple[int, ...]
# Shapes of the log-variance of means of shape (3, 5, 4).
NOISES: dict[str, Shape] = {
    "elements": (3, 5, 4),
    "number": (),
    "number of three dimensions": (1, 1, 1),
    "features": (5, 4),
    "one sample's features": (1, 5, 4),
    "last dimension": (4,),
    "channels": (5, 1),
    "samples": (3, 1, 1),
    "samples and channels": (3, 5, 1),
    "samples and last": (3, 1, 4),
}


def plain(
    mean: torch.Tensor, target: torch.Tensor, logvar: torch.Tensor | None = None
) -> torch.Tensor:
    """Elements of the loss in torch's operators."""
    v = torch.zeros((), dtype=mean.dtype) if logvar is None else logvar
    return 0.5 * ((mean - target) ** 2 * torch.exp(-v) + v + math.log(2 * math.pi))


def operands(dtype: torch.dtype = torch.float64, noise: Shape = (3, 5, 4)) -> list[torch.Tensor]:
    shape = (3, 5, 4)
    return [
        draw(*shape, dtype=dtype, grad=True),
        draw(*shape, seed=1, dtype=dtype, grad=True),
        draw(*noise, seed=2, dtype=dtype, grad=True),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: Shape
) -> None:
    mean, target, logvar = (draw(*size, seed=i, dtype=dtype, grad=True) for i in range(3))
    rtol = 16 * torch.finfo(dtype).eps
    wide = [x.detach().double().requires_grad_() for x in (mean, target, logvar)]
    for reduction in REDUCTIONS:
        loss = gaussian_loss(mean, target, logvar, reduction=reduction)
        assert loss.dtype == dtype
        truth = reduce(true_gaussian(mean, target, logvar), reduction)
        torch.testing.assert_close(loss.double(), truth, rtol=rtol, atol=rtol * size[1])
        exact = reduce(plain(*wide), reduction)
        grads = torch.autograd.grad(loss.sum(), (mean, target, logvar))
        expected = torch.autograd.grad(exact.sum(), wide)
        for grad, slope in zip(grads, expected, strict=True):
            scale = slope.abs().max().item()
            torch.testing.assert_close(grad.double(), slope, rtol=rtol, atol=rtol * scale)
    unit = gaussian_loss(mean, target, reduction="sum")
    torch.testing.assert_close(unit.double(), true_gaussian(mean, target).sum(), rtol=rtol, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("noise", NOISES)
def test_log_variances_of_every_shape(cpu_level: str, noise: str, reduction: str) -> None:
    given = operands(noise=NOISES[noise])
    weight = draw(3, seed=3).exp().requires_grad_()
    mask = draw(3, 5, 4, seed=4) > -0.5
    ours = gaussian_loss(*given, weight=weight, mask=mask, reduction=reduction)
    each = plain(*given) * mask * weight.view(3, 1, 1)
    theirs = reduce(each, reduction)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.rand_like(ours)
    inputs = [*given, weight]
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (507,), (1, 507), (9_000, 1)])
def test_gradient_of_shared_noise_over_many_samples(
    dtype: torch.dtype, shape: Shape, restore_threads: None
) -> None:
    mean, target = (draw(9_000, 507, seed=i, dtype=dtype) for i in range(2))
    logvar = draw(*shape, seed=2, dtype=dtype, grad=True)
    grads = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        loss = gaussian_loss(mean, target, logvar)
        grads.append((loss.detach(), *torch.autograd.grad(loss, logvar)))
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))
    wide = logvar.detach().double().requires_grad_()
    exact = plain(mean.double(), target.double(), wide).sum() / 9_000
    (slope,) = torch.autograd.grad(exact, wide)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        grads[0][1].double(), slope, rtol=16 * eps, atol=32 * eps * slope.abs().max().item()
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(reduction: str, restore_threads: None) -> None:
    given = [draw(600, 507, seed=i, dtype=torch.float32, grad=True) for i in range(3)]
    results = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        loss = gaussian_loss(*given, reduction=reduction)
        results.append((loss, *torch.autograd.grad(loss.sum(), given)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("weight", [None, torch.ones(3)])
def test_a_variance_of_1_has_no_range(weight: torch.Tensor | None) -> None:
    mean, target = draw(3, 6, dtype=torch.float32), draw(3, 6, seed=1, dtype=torch.float32)
    loss = gaussian_loss(mean, target, logvar_range=(1, 2), weight=weight)
    torch.testing.assert_close(loss, gaussian_loss(mean, target))


@pytest.mark.parametrize("dtype", DTYPES)
def test_range_of_log_variances(cpu_level: str, dtype: torch.dtype) -> None:
    logvar = torch.tensor([[-200.0, -3.0, -1.0, 0.5, 2.0, 200.0]], dtype=dtype).requires_grad_()
    mean = draw(1, 6, dtype=dtype, grad=True)
    target = draw(1, 6, seed=1, dtype=dtype)
    loss = gaussian_loss(mean, target, logvar, logvar_range=(-3, 2))
    expected = plain(mean, target, logvar.clamp(-3, 2)).sum()
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, (mean, logvar))
    torch.testing.assert_close(grads, torch.autograd.grad(expected, (mean, logvar)))
    # 0 outside, and not at the limits.
    assert (grads[1] == 0).tolist() == [[True, False, False, False, False, True]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("logvar", [-80.0, 80.0, 200.0])
def test_extreme_log_variances(cpu_level: str, dtype: torch.dtype, logvar: float) -> None:
    mean = torch.tensor([[0.5, -1.0, 2.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[0.25, -1.0, 2.5]], dtype=dtype)
    v = torch.full((1, 3), logvar, dtype=dtype, requires_grad=True)
    loss = gaussian_loss(mean, target, v)
    wide = [x.detach().double().requires_grad_() for x in (mean, target, v)]
    exact = plain(*wide).sum()
    rtol = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), exact, rtol=rtol, atol=0)
    grads = torch.autograd.grad(loss, (mean, v))
    expected = torch.autograd.grad(exact, (wide[0], wide[2]))
    for grad, slope in zip(grads, expected, strict=True):
        tiny = 4 * torch.finfo(dtype).tiny
        torch.testing.assert_close(grad.double(), slope, rtol=rtol, atol=tiny)


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("where", ["mean", "target", "logvar"])
def test_what_is_masked_may_hold_anything(cpu_level: str, where: str, create_graph: bool) -> None:
    mean, target, logvar = (x.detach() for x in operands())
    mask = torch.ones(3, 5, 4, dtype=torch.bool)
    mask[0, 1, 2] = mask[2, 4, 3] = False
    expected = (plain(mean, target, logvar) * mask).sum()
    hidden = {"mean": mean, "target": target, "logvar": logvar}
    hidden[where][0, 1, 2], hidden[where][2, 4, 3] = math.nan, math.inf
    given = [x.requires_grad_() for x in (mean, target, logvar)]
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for m in (mask, mask.to(torch.uint8), mask.float().double()):
        loss = gaussian_loss(*given, weight=weight, mask=m, reduction="sum")
        torch.testing.assert_close(loss, expected)
        grads = torch.autograd.grad(loss, [*given, weight], create_graph=create_graph)
        assert all(g.isfinite().all() for g in grads)
        assert all((g[~mask] == 0).all() for g in grads[:3])


def test_bytes_are_read_with_their_scale() -> None:
    mean = draw(3, 70, grad=True)
    target = (255 * torch.rand(3, 70)).to(torch.uint8)
    loss = gaussian_loss(mean, target, target_scale=1 / 255)
    expected = plain(mean, target.double() / 255).sum() / 3
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, mean), torch.autograd.grad(expected, mean))
    bits = target > 99
    torch.testing.assert_close(gaussian_loss(mean, bits), gaussian_loss(mean, bits.double()))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 1, 1)])
def test_empty_and_small(shape: Shape, reduction: str) -> None:
    mean, target = draw(*shape, grad=True), draw(*shape, seed=1)
    for noise in ((), shape, shape[1:]):
        logvar = draw(*noise, seed=2, grad=True)
        ours = gaussian_loss(mean, target, logvar, reduction=reduction)
        rows = plain(mean, target, logvar)
        rows = rows.flatten(1).sum(1) if rows.dim() > 1 else rows
        theirs = {"none": rows, "sum": rows.sum(), "batchmean": rows.mean()}[reduction]
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        grads = torch.autograd.grad(ours.sum(), (mean, logvar))
        if mean.numel():
            torch.testing.assert_close(grads, torch.autograd.grad(theirs.sum(), (mean, logvar)))
        assert [g.shape for g in grads] == [mean.shape, logvar.shape]


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "every second column": lambda x: torch.stack([x, x], 4).flatten(3)[..., ::2],
    "one sample repeated": lambda x: x[:1].expand_as(x),
    "one column repeated": lambda x: x[..., :1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["all", "mean", "target", "logvar", "mask"])
@pytest.mark.parametrize("noise", [(2, 3, 4, 5), (), (3, 1, 1), (1, 1, 1, 1)])
def test_layouts(noise: Shape, which: str, layout: str) -> None:
    given = {name: draw(2, 3, 4, 5, seed=i) for i, name in enumerate(("mean", "target"))}
    given["logvar"] = draw(*noise, seed=2)
    given["mask"] = (draw(2, 3, 4, 5, seed=3) > 0).double()
    for name, x in given.items():
        if which in ("all", name) and x.dim() == 4 and x.numel() > 1:
            given[name] = LAYOUTS[layout](x)
    mask = given.pop("mask")
    inputs = [x.detach().requires_grad_() for x in given.values()]
    loss = gaussian_loss(*inputs, mask=mask)
    expected = (plain(*inputs) * mask).sum() / 2
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype, reduction: str) -> None:
    given = [draw(7, 33, seed=i, dtype=dtype, grad=True) for i in range(3)]
    wide = [x.detach().double().requires_grad_() for x in given]
    ours = gaussian_loss(*given, reduction=reduction)
    assert ours.dtype == torch.float32
    results = []
    for inputs in (given, wide):
        value = reduce(plain(*inputs), reduction)
        results.append((value, *torch.autograd.grad(value.sum(), inputs)))
    grads = torch.autograd.grad(ours.sum(), given)
    assert [g.dtype for g in grads] == [dtype] * 3
    half_ulp = torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for got, theirs, truth in zip((ours, *grads), *results, strict=True):
        assert_as_good_as(got, theirs, truth.detach(), rtol=1.001 * half_ulp, atol=smallest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("noise", [(), (33,), (7, 1)])
def test_shared_noise_of_low_precision(dtype: torch.dtype, noise: Shape) -> None:
    mean, target = (draw(7, 33, seed=i, dtype=dtype) for i in range(2))
    logvar = draw(*noise, seed=2, dtype=dtype, grad=True)
    (grad,) = torch.autograd.grad(gaussian_loss(mean, target, logvar), logvar)
    wide = logvar.detach().double().requires_grad_()
    exact = plain(mean.double(), target.double(), wide).sum() / 7
    (slope,) = torch.autograd.grad(exact, wide)
    torch.testing.assert_close(grad.double(), slope, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("noise", [None, (3, 4), (), (4,), (3, 1)])
def test_gradients_of_any_order(noise: Shape | None, reduction: str) -> None:
    inputs = [draw(3, 4, grad=True), draw(3, 4, seed=1, grad=True)]
    inputs += [draw(3, seed=3).exp().requires_grad_()]
    if noise is not None:
        inputs.append(draw(*noise, seed=2, grad=True))
    mask = draw(3, 4, seed=4) > -1
    options: dict[str, Any] = {"mask": mask, "reduction": reduction, "target_scale": 0.5}

    def function(
        mean: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        logvar: torch.Tensor | None = None,
    ) -> torch.Tensor:
        limits = (-10.0, 0.3)
        return gaussian_loss(mean, target, logvar, weight=weight, logvar_range=limits, **options)

    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)
    assert_differentiable_backward_agrees(function(*inputs), inputs)


def test_saved_gradients_survive_their_users() -> None:
    inputs = operands()
    loss = gaussian_loss(*inputs)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    expected = [g.clone() for g in first]
    for g in first:
        g.zero_()
    torch.autograd.backward(loss, retain_graph=True)
    for x in inputs:
        assert x.grad is not None
        x.grad.mul_(7)
    torch.autograd.backward(loss)
    for x, g in zip(inputs, expected, strict=True):
        torch.testing.assert_close(x.grad, 8 * g)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("noise", [(5,), ()])
def test_per_sample_gradients_by_vmap(noise: Shape) -> None:
    mean, target, logvar = draw(4, 5), draw(4, 5, seed=1), draw(*noise, seed=2)

    def loss(mean: torch.Tensor, target: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return gaussian_loss(mean[None], target[None], logvar, reduction="sum")

    by_sample = torch.func.vmap(torch.func.grad(loss, argnums=(0, 2)), in_dims=(0, 0, None))
    d_mean, d_logvar = by_sample(mean, target, logvar)
    for i in range(4):
        inputs = [x.clone().requires_grad_() for x in (mean[i], logvar)]
        exact = plain(inputs[0], target[i], inputs[1]).sum()
        expected = torch.autograd.grad(exact, inputs)
        torch.testing.assert_close((d_mean[i], d_logvar[i]), expected)


def test_no_gradient_is_computed_unasked() -> None:
    mean, target, logvar = operands()
    with torch.no_grad():
        assert not gaussian_loss(mean, target, logvar).requires_grad
    inputs = mean.detach(), target.detach(), logvar.detach(), None, None
    options = (-math.inf, math.inf, 1.0, "sum", False, False)
    _, *grads = torch.ops.elbokit.gaussian_loss(*inputs, *options)
    assert [g.shape for g in grads] == [(0,), (0,)]


def test_autocast() -> None:
    mean, target = draw(4, 9, dtype=torch.bfloat16), draw(4, 9, seed=1, dtype=torch.float32)
    expected = gaussian_loss(mean.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_loss(mean, target), expected)


@pytest.mark.parametrize("create_graph", [False, True])
def test_an_infinite_loss_does_not_come_through_the_range(
    cpu_level: str, create_graph: bool
) -> None:
    mean, logvar = torch.tensor([[1e19, 0.0]]), torch.full((1, 2), -100.0, requires_grad=True)
    loss = gaussian_loss(mean, torch.zeros(1, 2), logvar, logvar_range=(-50, 50))
    (grad,) = torch.autograd.grad(loss, logvar, create_graph=create_graph)
    assert grad.tolist() == [[0.0, 0.0]]
