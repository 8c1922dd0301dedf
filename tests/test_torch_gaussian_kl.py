"""elbokit.torch.gaussian_kl against torch.distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import gaussian_kl
from torch_cases import (
    DTYPES,
    SIZES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    true_kl,
)

REDUCTIONS = ("none", "sum", "batchmean")
PRIORS = {
    "standard": (None, None),
    "full": ((5, 17), (5, 17)),
    "shared": ((17,), (17,)),
    "per sample": ((5, 1), (5, 1)),
    "scalars": ((), (1, 1)),
    "mean alone": ((17,), None),
    "variance alone": (None, (1, 17)),
}


def true_grads(
    loss: Callable[..., torch.Tensor], operands: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    doubles = [x.detach().double().requires_grad_() for x in operands]
    return torch.autograd.grad(loss(*doubles), doubles)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: tuple[int, ...]
) -> None:
    mu, logvar = draw(*size, dtype=dtype, grad=True), draw(*size, seed=1, dtype=dtype, grad=True)
    eps = torch.finfo(dtype).eps
    truth = true_kl(mu, logvar)
    for reduction in REDUCTIONS:
        kl = gaussian_kl(mu, logvar, reduction=reduction)
        assert kl.dtype == dtype
        torch.testing.assert_close(kl.double(), reduce(truth, reduction), rtol=16 * eps, atol=eps)
        grads = torch.autograd.grad(kl.sum(), (mu, logvar))
        expected = true_grads(lambda *x: reduce(true_kl(*x), reduction).sum(), (mu, logvar))  # noqa: B023
        for grad, right in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad.double(), right, rtol=16 * eps, atol=eps)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_priors(cpu_level: str, reduction: str, prior: str) -> None:
    mu, logvar = draw(5, 17, grad=True), draw(5, 17, seed=1, grad=True)
    given = [
        None if s is None else draw(*s, seed=2 + i, grad=True) for i, s in enumerate(PRIORS[prior])
    ]
    prior_mu, prior_logvar = given
    kl = gaussian_kl(mu, logvar, prior_mu, prior_logvar, reduction)
    expected = reduce(true_kl(mu, logvar, prior_mu, prior_logvar), reduction)
    torch.testing.assert_close(kl, expected)
    operands = [x for x in (mu, logvar, *given) if x is not None]
    upstream = torch.rand_like(kl)
    grads = torch.autograd.grad(kl, operands, upstream)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, operands, upstream))


@pytest.mark.parametrize("shape", [(4,), (0,), (0, 3), (3, 0), (2, 3, 4), (2, 3, 2, 2)])
def test_shapes(shape: tuple[int, ...]) -> None:
    mu, logvar = draw(*shape, grad=True), draw(*shape, seed=1, grad=True)
    for reduction in REDUCTIONS:
        kl = gaussian_kl(mu, logvar, reduction=reduction)
        expected = reduce(true_kl(mu, logvar), reduction)
        torch.testing.assert_close(kl, expected, equal_nan=True)
        grads = torch.autograd.grad(kl.sum(), (mu, logvar))
        assert [g.shape for g in grads] == [mu.shape, mu.shape]


def test_layouts() -> None:
    wide = draw(5, 34)
    mu, logvar = wide.chunk(2, 1)
    torch.testing.assert_close(gaussian_kl(mu, logvar), true_kl(mu, logvar).sum() / 5)
    mu, logvar = wide[:, ::2], wide.view(17, 10).t()[:5]
    torch.testing.assert_close(gaussian_kl(mu, logvar), true_kl(mu, logvar).sum() / 5)
    mu = draw(17).expand(5, 17)
    torch.testing.assert_close(gaussian_kl(mu, logvar), true_kl(mu, logvar).sum() / 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_overflows_or_cancels(cpu_level: str, dtype: torch.dtype) -> None:
    # e^v - 1 - v is v^2 / 2 near 0: evaluated as written it is 0 there.
    small = 4e-4 if dtype == torch.float32 else 1e-8
    logvar = torch.tensor([-80.0, -1.0, -small, 0.0, small, 1.0, 80.0], dtype=dtype)[:, None]
    logvar.requires_grad_()
    mu = torch.zeros_like(logvar)
    kl = gaussian_kl(mu, logvar, reduction="none")
    (grad,) = torch.autograd.grad(kl.sum(), logvar)
    v = logvar.detach().double()
    slope = torch.expm1(v) / 2
    series = v**2 / 4 + v**3 / 12
    truth = torch.where(v.abs() <= small, series, (torch.expm1(v) - v) / 2)[:, 0]
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(kl.double(), truth, rtol=16 * eps, atol=4 * eps * small)
    torch.testing.assert_close(grad.double(), slope, rtol=16 * eps, atol=0)


def test_identical_gaussians_have_no_divergence() -> None:
    mu, logvar = draw(5, 17), draw(5, 17, seed=1)
    assert torch.equal(gaussian_kl(mu, logvar, mu, logvar, "none"), mu.new_zeros(5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype) -> None:
    mu, logvar = draw(9, 20, dtype=dtype, grad=True), draw(9, 20, seed=1, dtype=dtype, grad=True)

    def plain(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return -0.5 * (1 + logvar - mu**2 - logvar.exp()).flatten(1).sum(1)

    truth = reduce(true_kl(mu, logvar), "none")
    slopes = true_grads(lambda *x: true_kl(*x).sum(), (mu, logvar))
    ours, theirs = gaussian_kl(mu, logvar, reduction="none"), plain(mu, logvar)
    assert ours.dtype == torch.float32
    assert_as_good_as(ours, theirs, truth, rtol=1e-6)
    our_grads = torch.autograd.grad(ours.sum(), (mu, logvar))
    their_grads = torch.autograd.grad(theirs.sum(), (mu, logvar))
    for grad, their_grad, slope in zip(our_grads, their_grads, slopes, strict=True):
        assert grad.dtype == dtype
        assert_as_good_as(grad, their_grad, slope, rtol=1.001 * torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("prior", ["standard", "shared", "mean alone", "variance alone"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_any_order(reduction: str, prior: str) -> None:
    shapes = [s and (s if len(s) == 1 else (1, 17)) for s in PRIORS[prior]]
    given = [None if s is None else draw(*s, seed=2 + i)[..., :4] for i, s in enumerate(shapes)]
    mu, logvar = draw(3, 4, grad=True), draw(3, 4, seed=1, grad=True)
    places = [i for i, x in enumerate(given) if x is not None]
    priors = [x.detach().requires_grad_() for x in given if x is not None]

    def function(mu: torch.Tensor, logvar: torch.Tensor, *priors: torch.Tensor) -> torch.Tensor:
        pair: list[torch.Tensor | None] = [None, None]
        for i, x in zip(places, priors, strict=True):
            pair[i] = x
        return gaussian_kl(mu, logvar, pair[0], pair[1], reduction)

    operands = mu, logvar, *priors
    assert gradcheck(function, operands)
    assert gradgradcheck(function, operands)
    assert_differentiable_backward_agrees(function(*operands), operands)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("prior", [False, True])
def test_free_bits_weights_and_limits(cpu_level: str, prior: bool, reduction: str) -> None:
    """Each dimension of each sample has the floor; its gradient is 0 below it."""
    mu, logvar = draw(5, 17, grad=True), (3 * draw(5, 17, seed=1)).requires_grad_()
    weight = draw(5, seed=2, grad=True)
    priors = [draw(17, seed=3 + i, grad=True) for i in range(2)] if prior else []
    kl = gaussian_kl(
        mu, logvar, *priors, reduction=reduction, free_bits=0.7, weight=weight, logvar_range=(-2, 3)
    )
    each = true_kl(mu, logvar.clamp(-2, 3), *priors)
    floored = each.detach() < 0.7
    assert 0 < floored.sum() < floored.numel()
    expected = reduce(weight[:, None] * torch.where(floored, 0.7, each), reduction)
    torch.testing.assert_close(kl, expected)
    operands = mu, logvar, weight, *priors
    upstream = torch.rand_like(kl)
    grads = torch.autograd.grad(kl, operands, upstream, retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, operands, upstream))
    assert not grads[0][floored].any()
    # Without the weights' gradient, and with the means' alone, by other ways.
    torch.testing.assert_close(torch.autograd.grad(kl, (mu, logvar), upstream), grads[:2])
    kl = gaussian_kl(
        mu,
        logvar.detach().clamp(-2, 3),
        *priors,
        reduction=reduction,
        free_bits=0.7,
        weight=weight.detach(),
    )
    torch.testing.assert_close(torch.autograd.grad(kl, mu, upstream)[0], grads[0])


def test_gradients_of_any_order_with_options() -> None:
    operands = draw(3, 4, grad=True), draw(3, 4, seed=1, grad=True), draw(3, seed=2, grad=True)

    def function(*x: torch.Tensor) -> torch.Tensor:
        return gaussian_kl(*x[:2], reduction="sum", free_bits=0.2, weight=x[2])

    assert gradcheck(function, operands)
    assert gradgradcheck(function, operands)
    assert_differentiable_backward_agrees(function(*operands), operands)


def test_option_errors() -> None:
    mu = draw(5, 3)
    with pytest.raises(ValueError, match="`free_bits` is -1"):
        gaussian_kl(mu, mu, free_bits=-1)
    with pytest.raises(ValueError, match=r"`weight` has shape \(5, 1\), expected \(5,\)"):
        gaussian_kl(mu, mu, weight=mu[:, :1])
    with pytest.raises(TypeError, match=r"`weight` has dtype torch\.float32"):
        gaussian_kl(mu, mu, weight=mu[:, 0].float())
    with pytest.raises(ValueError, match=r"`logvar_range` is \(1, -1\)"):
        gaussian_kl(mu, mu, logvar_range=(1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_narrow_priors(cpu_level: str, dtype: torch.dtype) -> None:
    """The square of a difference is taken of standard deviations: e^90 is no float32."""
    logvar = torch.full((1, 3), -90.0, dtype=dtype, requires_grad=True)
    mu = torch.tensor([[0.0, 1e-10, -1e-19]], dtype=dtype, requires_grad=True)
    prior = torch.zeros_like(mu), logvar.detach()
    loss = gaussian_kl(mu, logvar, *prior, reduction="sum")
    expected = true_kl(mu.double(), logvar.double(), *(p.double() for p in prior)).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for create_graph in (False, True):
        grads = torch.autograd.grad(
            loss, (mu, logvar), retain_graph=True, create_graph=create_graph
        )
        exact = torch.autograd.grad(expected, (mu, logvar), retain_graph=True)
        torch.testing.assert_close(grads, exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("latent", [64, 50])
@pytest.mark.parametrize("apart", [False, True])
def test_gradients_that_exceed_the_caches(apart: bool, latent: int) -> None:
    """Those of more than 8 MiB are written past the caches, where they lie on whole vectors."""
    n = 2_400_000 // latent
    mu, logvar = torch.randn(n, 2 * latent).chunk(2, 1)
    if not apart:
        mu, logvar = mu.contiguous(), logvar.contiguous()
    mu, logvar = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    d_mu, d_logvar = torch.autograd.grad(gaussian_kl(mu, logvar, reduction="sum"), (mu, logvar))
    assert torch.equal(d_mu, mu)
    torch.testing.assert_close(d_logvar, torch.expm1(logvar) / 2, rtol=1e-6, atol=0)
