"""Multi-sample bounds and importance sampling, against torch in float64 and exact models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import binary_cross_entropy_with_logits

from elbokit import _core
from elbokit.torch import (
    importance_bound,
    multi_sample_loss,
    vae_loss,
)
from torch_cases import (
    DTYPES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    targets,
)

REDUCTIONS = ("none", "sum", "batchmean")
BOUNDS = ("iwae", "elbo")
# samples, rows, pixels, latent: around the lanes, beyond a span, and split over tasks.
SIZES = ((1, 1, 1, 1), (2, 3, 3, 2), (3, 2, 17, 5), (7, 4, 15, 8), (17, 2, 530, 9), (5, 90, 130, 3))


def operands(
    samples: int,
    rows: int,
    cols: int,
    latent: int,
    dtype: torch.dtype = torch.float64,
    grad: bool = True,
) -> tuple[Tensor, ...]:
    """Logits, target, mu, logvar, z."""
    options: dict[str, Any] = {"dtype": dtype, "grad": grad}
    return (
        draw(samples, rows, cols, **options),
        targets(rows, cols, **options),
        draw(rows, latent, seed=1, **options),
        draw(rows, latent, seed=2, **options),
        draw(samples, rows, latent, seed=3, **options),
    )


def true_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor,
    bound: str,
    mask: Tensor | None = None,
) -> Tensor:
    """Loss of each row, from torch's distributions, in float64."""
    logits, target, mu, logvar, z = (x.double() for x in (logits, target, mu, logvar, z))
    each = binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    if mask is not None:
        each = each * mask
    q = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    log_weight = (prior.log_prob(z) - q.log_prob(z)).flatten(2).sum(2) - each.flatten(2).sum(2)
    if bound == "elbo":
        return -log_weight.mean(0)
    return math.log(len(z)) - torch.logsumexp(log_weight, 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, bound: str, dtype: torch.dtype, size: tuple[int, ...]
) -> None:
    given = operands(*size, dtype=dtype)
    doubles = [x.detach().double().requires_grad_() for x in given]
    exact = true_loss(*doubles, bound)
    # The weights take up the rounding of the log-weights' sums.
    eps = torch.finfo(dtype).eps
    tolerance = 4 * eps * max(4.0, exact.abs().max().item())
    for reduction in REDUCTIONS:
        loss = multi_sample_loss(*given, bound=bound, reduction=reduction)
        assert loss.dtype == dtype
        expected = reduce(exact, reduction)
        torch.testing.assert_close(loss.double(), expected, rtol=16 * eps, atol=eps)
        grads = torch.autograd.grad(loss.sum(), given)
        right = torch.autograd.grad(expected.sum(), doubles, retain_graph=True)
        for grad, true_grad in zip(grads, right, strict=True):
            assert grad.dtype == dtype
            size_of_grad = max(1.0, true_grad.abs().max().item())
            torch.testing.assert_close(
                grad.double(), true_grad, rtol=0, atol=tolerance * size_of_grad
            )
    with torch.no_grad():
        torch.testing.assert_close(multi_sample_loss(*given, bound=bound), loss)


@pytest.mark.parametrize("bound", BOUNDS)
def test_options(cpu_level: str, bound: str) -> None:
    logits, _, mu, logvar, z = operands(3, 4, 35, 5)
    logits = logits.detach().reshape(3, 4, 5, 7).requires_grad_()
    data = torch.randint(0, 256, (4, 5, 7), generator=torch.Generator().manual_seed(0))
    weight, mask = draw(4, seed=7, grad=True), draw(5, 1, seed=8) > -0.5
    hidden = logits.detach().clone()
    hidden[..., ~mask[:, 0], :] = torch.nan
    hidden.requires_grad_()
    got = multi_sample_loss(
        hidden,
        data.to(torch.uint8),
        mu,
        logvar,
        z,
        bound=bound,
        reduction="none",
        weight=weight,
        mask=mask,
        target_scale=1 / 255,
    )
    expected = weight * true_loss(logits, data / 255.0, mu, logvar, z, bound, mask)
    # 1 / 255 in float64, and data / 255 in float32: the targets differ in their last digits.
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    upstream = torch.rand_like(got)
    grads = torch.autograd.grad(got, (hidden, mu, logvar, z, weight), upstream)
    right = torch.autograd.grad(expected, (logits, mu, logvar, z, weight), upstream)
    torch.testing.assert_close(grads, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", BOUNDS)
def test_one_sample_is_the_vae_loss_with_the_sampled_divergence(bound: str) -> None:
    logits, target, mu, logvar, z = operands(1, 6, 20, 4, grad=False)
    normal = torch.distributions.Normal
    log_q = normal(mu, (0.5 * logvar).exp()).log_prob(z[0])
    sampled = (log_q - normal(0.0, 1.0).log_prob(z[0])).sum(1)
    out = vae_loss(logits[0], target, mu, logvar, reduction="none")
    got = multi_sample_loss(logits, target, mu, logvar, z, bound=bound, reduction="none")
    torch.testing.assert_close(got, out.reconstruction + sampled)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("mask", [False, True])
def test_gradients_of_any_order(bound: str, mask: bool) -> None:
    given = (*operands(3, 2, 4, 2), draw(2, seed=7, grad=True))
    ignored = draw(2, 4, seed=9) > 0 if mask else None

    def function(*x: Tensor) -> Tensor:
        return multi_sample_loss(
            *x[:5],
            bound=bound,
            reduction="none" if mask else "batchmean",
            weight=x[5],
            mask=ignored,
            target_scale=0.5,
        )

    assert gradcheck(function, given)
    assert gradgradcheck(function, given)
    assert_differentiable_backward_agrees(function(*given), given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(cpu_level: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0, 0.0]], dtype=dtype)
    for logvar in (-200.0, 0.0, 200.0):
        mu = torch.ones(1, 2, dtype=dtype, requires_grad=True)
        v = torch.full_like(mu, logvar, requires_grad=True)
        z = torch.ones(2, 1, 2, dtype=dtype, requires_grad=True)
        loss = multi_sample_loss(logits, target, mu, v, z, reduction="none")
        # The second sample is out of the question.
        torch.testing.assert_close(loss, loss.new_full((1,), math.log(2) + 1 - logvar))
        grads = torch.autograd.grad(loss, (logits, mu, v, z))
        torch.testing.assert_close(grads[0], torch.zeros_like(logits))
        torch.testing.assert_close(grads[1], torch.zeros_like(mu))
        torch.testing.assert_close(grads[2], torch.full_like(v, -0.5))
        torch.testing.assert_close(grads[3], torch.tensor([[[1.0] * 2], [[0.0] * 2]], dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bound", BOUNDS)
def test_low_precision_is_as_good_as_torch(bound: str, dtype: torch.dtype) -> None:
    given = operands(4, 6, 33, 5, dtype=dtype)

    def plain(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        each = binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
        ratio = 0.5 * ((z - mu).square() * (-logvar).exp() + logvar - z.square())
        log_weight = ratio.sum(2) - each.sum(2)
        if bound == "elbo":
            return -log_weight.mean(0)
        return math.log(4) - torch.logsumexp(log_weight, 0)

    doubles = [x.detach().double().requires_grad_() for x in given]
    exact = true_loss(*doubles, bound)
    ours, theirs = multi_sample_loss(*given, bound=bound, reduction="none"), plain(*given)
    assert ours.dtype == torch.float32
    assert_as_good_as(ours, theirs, exact, rtol=1e-6)
    right = torch.autograd.grad(exact.sum(), doubles)
    grads = torch.autograd.grad(ours.sum(), given)
    # Against the truth: of theirs, single elements may be right by luck.
    half = torch.finfo(dtype).eps / 2
    for grad, true_grad in zip(grads, right, strict=True):
        assert grad.dtype == dtype
        tiny = torch.finfo(dtype).smallest_normal
        error = (grad.double() - true_grad).abs()
        assert (error <= 1.01 * half * true_grad.abs() + 1e-5 + tiny).all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", [(2, 0, 3, 2), (2, 3, 0, 2), (2, 3, 4, 0), (2, 3, 0, 0)])
def test_nothing(size: tuple[int, ...], reduction: str) -> None:
    given = operands(*size)
    loss = multi_sample_loss(*given, reduction=reduction)
    expected = reduce(true_loss(*given, "iwae"), reduction).detach()
    torch.testing.assert_close(loss, expected, equal_nan=True)
    grads = torch.autograd.grad(loss.sum(), given)
    assert [g.shape for g in grads] == [x.shape for x in given]


def test_layouts() -> None:
    logits, target, mu, logvar, z = operands(4, 3, 18, 5, grad=False)
    expected = multi_sample_loss(logits, target, mu, logvar, z)
    swapped = logits.transpose(0, 1).contiguous().transpose(0, 1)
    wide = torch.cat([mu, logvar], 1)
    fortran = target.t().contiguous().t()
    got = multi_sample_loss(swapped, fortran, wide[:, :5], wide[:, 5:], z.mT.contiguous().mT)
    torch.testing.assert_close(got, expected)
    same = logits[:1].expand(4, 3, 18)
    torch.testing.assert_close(
        multi_sample_loss(same, target, mu, logvar, z[:1].expand(4, 3, 5)),
        multi_sample_loss(logits[:1], target, mu, logvar, z[:1]),
    )


def test_same_bits_for_any_number_of_threads(restore_threads: None) -> None:
    given = operands(5, 300, 130, 3, dtype=torch.float32)
    results = []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        loss = multi_sample_loss(*given, reduction="sum")
        results.append((loss, *torch.autograd.grad(loss, given)))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fallback
def test_transforms() -> None:
    given = [torch.stack([x, x + 0.1]) for x in operands(3, 2, 4, 2, grad=False)]
    given[1] = given[1].clamp(0, 1)
    loops = torch.stack([multi_sample_loss(*x) for x in zip(*given, strict=True)])
    torch.testing.assert_close(torch.func.vmap(multi_sample_loss)(*given), loops)
    got = torch.func.vmap(torch.func.grad(multi_sample_loss, (0, 2, 3, 4)))(*given)
    tracked = [x.clone().requires_grad_() for x in given]
    total = sum(true_loss(*x, "iwae").mean() for x in zip(*tracked, strict=True))
    assert isinstance(total, Tensor)
    right = torch.autograd.grad(total, [tracked[i] for i in (0, 2, 3, 4)])
    torch.testing.assert_close(got, right)


def test_errors() -> None:
    logits, target, mu, logvar, z = operands(2, 3, 4, 2, grad=False)
    cases = {
        r"`logits` has shape \(3, 4\), expected \(S, 3, 4\)": (target, target, mu, logvar, z),
        r"`logits` has shape \(0, 3, 4\)": (logits[:0], target, mu, logvar, z[:0]),
        r"`z` has shape \(3, 2\), expected \(S, 3, 2\)": (logits, target, mu, logvar, mu),
        r"`z` has shape \(1, 3, 2\), expected \(2, ...\)": (logits, target, mu, logvar, z[:1]),
        r"`mu` has shape \(2, 2\), expected \(3, ...\)": (
            logits,
            target,
            mu[:2],
            logvar[:2],
            z[:, :2],
        ),
        r"`logvar` has shape \(3, 1\)": (logits, target, mu, logvar[:, :1], z),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            multi_sample_loss(*arguments)
    given = logits, target, mu, logvar, z
    with pytest.raises(ValueError, match="`bound` is 'vae', expected 'iwae' or 'elbo'"):
        multi_sample_loss(*given, bound="vae")
    with pytest.raises(ValueError, match="`reduction` is 'mean'"):
        multi_sample_loss(*given, reduction="mean")
    with pytest.raises(ValueError, match=r"`weight` has shape \(2,\), expected \(3,\)"):
        multi_sample_loss(*given, weight=mu[0])
    with pytest.raises(ValueError, match=r"`mask` has shape \(3,\)"):
        multi_sample_loss(*given, mask=mu[:, 0])
    with pytest.raises(TypeError, match=r"`z` has dtype torch\.float32"):
        multi_sample_loss(*given[:4], z.float())
    with pytest.raises(ValueError, match=r"`log_weight` has shape \(3,\), expected \(S, n_samp"):
        importance_bound(mu[:, 0])
    with pytest.raises(ValueError, match="`bound` is None"):
        importance_bound(mu, bound=None)  # type: ignore[arg-type]
