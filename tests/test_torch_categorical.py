"""elbokit.torch.categorical_loss against the float64 truth and torch's cross-entropy."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from elbokit import _core
from elbokit.torch import categorical_loss
from torch_cases import (
    DTYPES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    true_categorical,
)

REDUCTIONS = ("none", "sum", "batchmean")
Shape = tuple[int, ...]
# Around the lanes of every vector width, the length of a span, what is summed in one run, and what
# is transposed.
CLASSES = (1, 2, 3, 8, 15, 16, 17, 64, 65, 80, 81, 511, 513, 1030)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def classes(n_classes: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, n_classes, shape, generator=generator)


def logits_of(
    n: int, n_classes: int, *positions: int, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    return (4 * draw(n, n_classes, *positions, dtype=dtype)).requires_grad_()


def check(logits: torch.Tensor, target: torch.Tensor, slack: float = 16) -> None:
    """Compare loss and gradient with the float64 truth."""
    rtol = slack * torch.finfo(logits.dtype).eps
    wide = logits.detach().double().requires_grad_()
    truth = true_categorical(logits, target)
    for reduction in REDUCTIONS:
        loss = categorical_loss(logits, target, reduction=reduction)
        assert loss.dtype == logits.dtype
        exact = reduce(truth, reduction)
        torch.testing.assert_close(loss.double(), exact, rtol=rtol, atol=0)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert grad.stride() == logits.stride()
        (slope,) = torch.autograd.grad(
            reduce(F.cross_entropy(wide, target, reduction="none"), reduction).sum(), wide
        )
        scale = slope.abs().max().item()
        torch.testing.assert_close(grad.double(), slope, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_position_per_sample(cpu_level: str, dtype: torch.dtype, n_classes: int) -> None:
    check(logits_of(5, n_classes, dtype=dtype), classes(n_classes, 5))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_images(
    cpu_level: str, dtype: torch.dtype, n_classes: int, layout: torch.memory_format
) -> None:
    logits = logits_of(2, n_classes, 3, 7, dtype=dtype).detach()
    logits = logits.contiguous(memory_format=layout).requires_grad_()
    check(logits, classes(n_classes, 2, 3, 7))


@pytest.mark.parametrize("shape", [(3, 4, 15), (2, 3, 511), (2, 5, 1_030), (1, 300, 700)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_positions(cpu_level: str, dtype: torch.dtype, shape: Shape) -> None:
    check(logits_of(*shape, dtype=dtype), classes(shape[1], shape[0], shape[2]))


@pytest.mark.parametrize("shape", [(1_100, 3), (530, 10), (300, 79), (130, 80), (40, 81)])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_many_rows(cpu_level: str, dtype: torch.dtype, shape: Shape) -> None:
    logits = (4 * draw(*shape, dtype=torch.float64)).to(dtype).requires_grad_()
    target = classes(shape[1], shape[0])
    if dtype != torch.bfloat16:
        check(logits, target)
        return
    wide = logits.detach().float().requires_grad_()
    losses = [categorical_loss(x, target) for x in (logits, wide)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    (grad,), (of_wide,) = (
        torch.autograd.grad(loss, x) for loss, x in zip(losses, (logits, wide), strict=True)
    )
    torch.testing.assert_close(grad, of_wide.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_of_weighted_samples(cpu_level: str, reduction: str) -> None:
    # Classes innermost: each sample is 35 rows, which end within pieces of positions.
    logits = logits_of(41, 6, 5, 7).detach().contiguous(memory_format=torch.channels_last)
    logits.requires_grad_()
    target = classes(6, 41, 5, 7)
    weight = torch.linspace(0.1, 2, 41, dtype=torch.float64)
    mask = classes(2, 41, 5, 7, seed=1).bool()
    loss = categorical_loss(logits, target, weight=weight, mask=mask, reduction=reduction)
    plain = F.cross_entropy(logits, target, reduction="none").mul(mask).sum(dim=(1, 2)) * weight
    exact = {"none": plain, "sum": plain.sum(), "batchmean": plain.sum() / 41}[reduction]
    torch.testing.assert_close(loss, exact)
    grads = [torch.autograd.grad(value.sum(), logits)[0] for value in (loss, exact)]
    torch.testing.assert_close(*grads)


def test_what_a_mask_hides_is_never_used(cpu_level: str) -> None:
    logits = logits_of(70, 5, dtype=torch.float32).detach()
    hidden = torch.arange(70) % 3 == 0
    logits[hidden] = torch.tensor([math.inf, math.nan, -math.inf, 1e38, 0.0])
    logits.requires_grad_()
    loss = categorical_loss(logits, classes(5, 70), mask=~hidden, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert (loss[hidden] == 0).all()
    assert grad.isfinite().all()
    assert (grad[hidden] == 0).all()


@pytest.mark.parametrize("positions", [(), (3,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_classes(dtype: torch.dtype, positions: Shape) -> None:
    check(logits_of(2, 100_000, *positions, dtype=dtype), classes(100_000, 2, *positions), slack=64)


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sure_predictions_keep_their_digits(
    cpu_level: str, dtype: torch.dtype, positions: Shape
) -> None:
    margins = torch.tensor([0.0, 1e-3, 1.0, 10.0, 30.0, 60.0, 80.0], dtype=dtype)
    logits = torch.zeros(7, 3, dtype=dtype)
    logits[:, 1] = margins
    logits[:, 2] = -5
    logits = logits.view(7, 3, *(1 for _ in positions)).repeat(1, 1, *positions)
    logits = logits.contiguous().requires_grad_()
    target = torch.ones(7, *positions, dtype=torch.int64)
    loss = categorical_loss(logits, target, reduction="none")
    rest = (1 + math.exp(-5)) * torch.exp(-margins.double())
    rest[1] = math.exp(-margins[1].item()) + math.exp(-5 - margins[1].item())
    truth = torch.log1p(rest) * math.prod(positions)
    rtol = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), truth, rtol=rtol, atol=0)
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    share = rest / (1 + rest)
    own = grad[:, 1].double().view(7, -1)
    torch.testing.assert_close(own, -share[:, None].expand_as(own), rtol=rtol, atol=0)


@pytest.mark.parametrize("positions", [(), (5,)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(cpu_level: str, dtype: torch.dtype, positions: Shape) -> None:
    rows = torch.tensor(
        [[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0.0, -math.inf, 1.0]], dtype=dtype
    )
    logits = rows.view(4, 3, *(1 for _ in positions)).repeat(1, 1, *positions)
    logits = logits.contiguous().requires_grad_()
    for k in range(3):
        target = torch.full((4, *positions), k)
        loss = categorical_loss(logits, target, reduction="none")
        wide = logits.detach().double().requires_grad_()
        truth = reduce(F.cross_entropy(wide, target, reduction="none"), "none")
        torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        (slope,) = torch.autograd.grad(truth.sum(), wide)
        torch.testing.assert_close(grad.double(), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", [(3, 5), (3, 5, 2, 9)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_and_masks(cpu_level: str, reduction: str, layout: Shape) -> None:
    """What is masked may hold anything, in logits and in targets."""
    logits = logits_of(*layout).detach()
    shape = (layout[0], *layout[2:])
    target = classes(5, *shape)
    mask = draw(*shape, seed=1) > 0
    weight = draw(3, seed=2).exp().requires_grad_()
    wide = logits.clone().requires_grad_()
    each = F.cross_entropy(wide, target, reduction="none") * mask
    theirs = reduce(each * weight.view(3, *(1 for _ in shape[1:])), reduction)
    hidden = torch.where(mask, target, -100)
    logits[(~mask).unsqueeze(1).expand_as(logits)] = math.nan
    logits.requires_grad_()
    upstream = torch.rand_like(theirs)
    expected = torch.autograd.grad(theirs, (wide, weight), upstream)
    assert not mask.all()
    for m in (mask, mask.to(torch.uint8), mask.double()):
        ours = categorical_loss(logits, hidden, weight=weight, mask=m, reduction=reduction)
        torch.testing.assert_close(ours, theirs)
        grads = torch.autograd.grad(ours, (logits, weight), upstream, retain_graph=True)
        torch.testing.assert_close(grads, expected)
        again = torch.autograd.grad(ours, (logits, weight), upstream, create_graph=True)
        torch.testing.assert_close(again, expected)


def test_mask_of_one_sample() -> None:
    logits, target = logits_of(3, 5, 4), classes(5, 3, 4)
    mask = torch.tensor([True, False, True, True])
    ours = categorical_loss(logits, target, mask=mask)
    torch.testing.assert_close(ours, categorical_loss(logits, target, mask=mask.expand(3, 4)))
    assert ours < categorical_loss(logits, target)


@pytest.mark.parametrize("bad", [-1, -100, 5, 2**40])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_target_that_is_no_class(layout: torch.memory_format, bad: int) -> None:
    logits = logits_of(3, 5, 2, 3).detach().contiguous(memory_format=layout).requires_grad_()
    target = classes(5, 3, 2, 3)
    target[1, 1, 0] = target[2, 0, 0] = bad
    message = f"`target` holds {bad} at position (1, 1, 0), expected classes from 0 to 4"
    for reduction in REDUCTIONS:
        with pytest.raises(ValueError, match=re.escape(message)):
            categorical_loss(logits, target, reduction=reduction)
    with pytest.raises(ValueError, match=re.escape(f"`target` holds {bad} at position (2,)")):
        categorical_loss(logits[:, :, 0, 0], target[:, 0, 0])


@pytest.mark.parametrize("shape", [(6, 10), (6, 7, 33), (6, 7, 3, 11)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(
    dtype: torch.dtype, reduction: str, shape: Shape
) -> None:
    logits = logits_of(*shape, dtype=dtype)
    target = classes(shape[1], shape[0], *shape[2:])
    ours = categorical_loss(logits, target, reduction=reduction)
    assert ours.dtype == torch.float32
    (grad,) = torch.autograd.grad(ours.sum(), logits)
    assert grad.dtype == dtype
    results = []
    for given in (logits, logits.detach().double().requires_grad_()):
        value = reduce(F.cross_entropy(given, target, reduction="none"), reduction)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), given)))
    half_ulp = torch.finfo(dtype).eps / 2
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for got, theirs, truth in zip((ours, grad), *results, strict=True):
        assert_as_good_as(got, theirs, truth, rtol=1.001 * half_ulp, atol=smallest)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_gradients_of_any_order(shape: Shape, reduction: str) -> None:
    logits = draw(*shape, grad=True)
    weight = draw(shape[0], seed=1).exp().requires_grad_()
    target = classes(shape[1], shape[0], *shape[2:])
    mask = draw(*target.shape, seed=5) > -1

    def function(logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return categorical_loss(logits, target, weight=weight, mask=mask, reduction=reduction)

    assert gradcheck(function, (logits, weight))
    assert gradgradcheck(function, (logits, weight))
    assert_differentiable_backward_agrees(function(logits, weight), (logits, weight))


@pytest.mark.parametrize("shape", [(3_000, 10), (40, 7, 900), (40, 7, 30, 30)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_same_bits_for_any_number_of_threads(
    shape: Shape, reduction: str, restore_threads: None
) -> None:
    logits = logits_of(*shape, dtype=torch.float32).detach()
    if len(shape) == 4:
        logits = logits.contiguous(memory_format=torch.channels_last)
    logits.requires_grad_()
    target = classes(shape[1], shape[0], *shape[2:])
    results = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        loss = categorical_loss(logits, target, reduction=reduction)
        results.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (1, 1)])
def test_empty_and_small(shape: Shape, reduction: str) -> None:
    logits = draw(*shape, grad=True)
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    ours = categorical_loss(logits, target, reduction=reduction)
    rows = torch.logsumexp(logits, 1) - logits[:, 0]
    rows = rows.flatten(1).sum(1) if rows.dim() > 1 else rows
    theirs = {"none": rows, "sum": rows.sum(), "batchmean": rows.mean()}[reduction]
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    (grad,) = torch.autograd.grad(ours.sum(), logits)
    assert grad.shape == logits.shape


def test_layouts() -> None:
    base, target = draw(4, 6, 5, 4), classes(6, 4, 5, 4)
    views = {
        "classes moved": base.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "samples inside": base.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "transposed image": base.transpose(2, 3).contiguous().transpose(2, 3),
        "padded": torch.cat([base, base], 3)[..., :4],
        "padded classes": torch.cat([base, base], 1)[:, :6],
        "repeated": base[:1].expand(4, 6, 5, 4),
    }
    for name, view in views.items():
        logits = view.detach().requires_grad_()
        kept = view.clone()
        loss = categorical_loss(logits, target.transpose(1, 2).contiguous().transpose(1, 2))
        expected = F.cross_entropy(logits, target, reduction="sum") / 4
        torch.testing.assert_close(loss, expected, msg=name)
        torch.testing.assert_close(
            torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits), msg=name
        )
        assert torch.equal(view, kept)
    rows = torch.cat([base, base], 1)[:, :6, 0, 0].requires_grad_()
    expected = F.cross_entropy(rows, target[:, 0, 0])
    torch.testing.assert_close(categorical_loss(rows, target[:, 0, 0]), expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_per_sample_gradients_by_vmap() -> None:
    logits, target = draw(4, 5, 3), classes(5, 4, 3)

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return categorical_loss(logits[None], target[None], reduction="sum")

    grads = torch.func.vmap(torch.func.grad(loss))(logits, target)
    wide = logits.clone().requires_grad_()
    exact = F.cross_entropy(wide, target, reduction="sum")
    torch.testing.assert_close(grads, torch.autograd.grad(exact, wide)[0])


def test_no_gradient_is_computed_unasked() -> None:
    logits, target = logits_of(3, 4), classes(4, 3)
    with torch.no_grad():
        assert not categorical_loss(logits, target).requires_grad
    loss, grad = torch.ops.elbokit.categorical_loss(
        logits.detach(), target, None, None, "sum", False
    )
    assert loss.shape == ()
    assert grad.shape == (0,)
