"""elbokit.torch.gaussian_kl_full against torch.distributions in float64."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import MultivariateNormal, kl_divergence

from elbokit import _core
from elbokit.torch import gaussian_kl, gaussian_kl_full
from torch_cases import (
    DTYPES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
)

REDUCTIONS = ("none", "sum", "batchmean")
SIZES = ((1, 1), (2, 3), (3, 8), (2, 15), (5, 17), (70, 33))
PRIORS = {
    "shared": ((4,), (4, 4)),
    "per sample": ((3, 4), (3, 4, 4)),
    "mean alone": ((1, 4), None),
    "factor alone": (None, (4, 4)),
}


def factors(
    *shape: int, seed: int = 1, dtype: torch.dtype = torch.float64, grad: bool = False
) -> torch.Tensor:
    """Lower triangular matrices, positive on the diagonal, with numbers above it to be ignored."""
    any_numbers = draw(*shape, seed=seed)
    scale = any_numbers.tril(-1) + torch.diag_embed(
        any_numbers.diagonal(dim1=-2, dim2=-1).exp() + 0.1
    )
    return (scale + 3 * torch.ones_like(scale).triu(1)).to(dtype).requires_grad_(grad)


def truth(
    mu: torch.Tensor,
    scale_tril: torch.Tensor,
    prior_mu: torch.Tensor | None = None,
    prior_scale_tril: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL of each sample, in float64."""
    k = mu.shape[1]
    zero, one = torch.zeros(k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)
    m = zero if prior_mu is None else prior_mu.double().expand_as(mu)
    p = one if prior_scale_tril is None else prior_scale_tril.double().tril()
    q = MultivariateNormal(mu.double(), scale_tril=scale_tril.double().tril())
    return kl_divergence(q, MultivariateNormal(m, scale_tril=p))


def true_grads(reduction: str, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
    doubles = [x.detach().double().requires_grad_() for x in operands]
    return torch.autograd.grad(reduce(truth(*doubles), reduction).sum(), doubles)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: tuple[int, int]
) -> None:
    rows, k = size
    mu, scale = draw(rows, k, dtype=dtype, grad=True), factors(rows, k, k, dtype=dtype, grad=True)
    eps = torch.finfo(dtype).eps
    exact = truth(mu, scale).detach()
    for reduction in REDUCTIONS:
        kl = gaussian_kl_full(mu, scale, reduction=reduction)
        assert kl.dtype == dtype
        torch.testing.assert_close(kl.double(), reduce(exact, reduction), rtol=16 * eps, atol=eps)
        grads = torch.autograd.grad(kl.sum(), (mu, scale))
        for grad, right in zip(grads, true_grads(reduction, mu, scale), strict=True):
            torch.testing.assert_close(grad.double(), right, rtol=16 * eps, atol=4 * eps)
        assert not grads[1].triu(1).any()
    with torch.no_grad():
        kl = gaussian_kl_full(mu, scale, reduction="none")
    torch.testing.assert_close(kl.double(), exact, rtol=16 * eps, atol=eps)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_priors(cpu_level: str, reduction: str, prior: str) -> None:
    mu, scale = draw(3, 4, grad=True), factors(3, 4, 4, grad=True)
    mean, factor = PRIORS[prior]
    prior_mu = None if mean is None else draw(*mean, seed=5, grad=True)
    prior_scale = None if factor is None else factors(*factor, seed=6, grad=True)
    kl = gaussian_kl_full(mu, scale, prior_mu, prior_scale, reduction)
    expected = reduce(truth(mu, scale, prior_mu, prior_scale), reduction)
    torch.testing.assert_close(kl, expected)
    operands = [x for x in (mu, scale, prior_mu, prior_scale) if x is not None]
    upstream = torch.rand_like(kl)
    grads = torch.autograd.grad(kl, operands, upstream)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, operands, upstream))


def test_a_diagonal_factor_gives_the_diagonal_divergence() -> None:
    mu, logvar = draw(5, 7), draw(5, 7, seed=1)
    full = gaussian_kl_full(mu, torch.diag_embed((0.5 * logvar).exp()), reduction="none")
    torch.testing.assert_close(full, gaussian_kl(mu, logvar, reduction="none"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_and_near_unit_factors(cpu_level: str, dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    numbers = [3.7e-44, 1e-30, 1e-4, 1 - 64 * eps, 1.0, 1 + 64 * eps, 30.0, 1e18]
    scale = torch.tensor(numbers, dtype=dtype)[:, None, None].requires_grad_()
    kl = gaussian_kl_full(scale.new_zeros(8, 1), scale, reduction="none")
    (grad,) = torch.autograd.grad(kl.sum(), scale)
    entry = scale.detach().double().flatten()
    excess = (entry - 1) * (entry + 1)
    log = torch.where((entry - 1).abs() < 0.5, torch.log1p(entry - 1), torch.log(entry))
    exact = 0.5 * excess - log
    torch.testing.assert_close(kl.double(), exact, rtol=8 * eps, atol=64 * eps * eps)
    slope = (excess / entry).to(dtype).double()  # beyond float32 for the least
    torch.testing.assert_close(grad.double().flatten(), slope, rtol=8 * eps, atol=0)


@pytest.mark.parametrize("bad", [0.0, -1.0, torch.nan])
def test_a_diagonal_that_is_not_positive_is_refused(bad: float) -> None:
    mu, scale = draw(3, 4), factors(3, 4, 4)
    scale[2, 1, 1] = bad
    with pytest.raises(ValueError, match=rf"`scale_tril` of sample 2 has {bad:g} on its diagonal"):
        gaussian_kl_full(mu, scale)
    with pytest.raises(ValueError, match=r"`prior_scale_tril` has .* on its diagonal"):
        gaussian_kl_full(mu, factors(3, 4, 4), prior_scale_tril=scale[2])


def test_the_first_bad_sample_is_named_whatever_the_number_of_threads(
    restore_threads: None,
) -> None:
    scale = factors(900, 17, 17)
    scale[[300, 850], 0, 0] = -1.0
    for threads in (1, 4):
        _core.set_num_threads(threads)
        with pytest.raises(ValueError, match="of sample 300 "):
            gaussian_kl_full(draw(900, 17), scale)


def test_same_bits_for_any_number_of_threads(restore_threads: None) -> None:
    mu, scale = draw(900, 17, dtype=torch.float32), factors(900, 17, 17, dtype=torch.float32)
    results = []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        results.append(gaussian_kl_full(mu, scale, reduction="sum"))
    assert results[0] == results[1] == results[2]


def test_weights() -> None:
    mu, scale = draw(5, 4, grad=True), factors(5, 4, 4, grad=True)
    weight = draw(5, seed=8, grad=True)
    for reduction in REDUCTIONS:
        kl = gaussian_kl_full(mu, scale, reduction=reduction, weight=weight)
        expected = reduce(weight * truth(mu, scale), reduction)
        torch.testing.assert_close(kl, expected)
        operands = mu, scale, weight
        grads = torch.autograd.grad(kl.sum(), operands)
        torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), operands))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing(shape: tuple[int, int], reduction: str) -> None:
    mu, scale = draw(*shape, grad=True), factors(*shape, shape[1], grad=True)
    kl = gaussian_kl_full(mu, scale, reduction=reduction)
    expected = reduce(torch.zeros(shape[0], dtype=torch.float64), reduction)
    torch.testing.assert_close(kl, expected, equal_nan=True)
    grads = torch.autograd.grad(kl.sum(), (mu, scale))
    assert [g.shape for g in grads] == [mu.shape, scale.shape]


def test_layouts() -> None:
    mu, scale = draw(8, 5).t(), factors(5, 8, 8)
    expected = truth(mu, scale).sum() / 5
    upper = scale.mT.contiguous()
    torch.testing.assert_close(gaussian_kl_full(mu, upper.mT), expected)
    one = scale[:1].expand(5, 8, 8)
    torch.testing.assert_close(gaussian_kl_full(mu, one), truth(mu, one).sum() / 5)
    flat = mu[:, :1].expand(5, 8)
    torch.testing.assert_close(gaussian_kl_full(flat, scale), truth(flat, scale).sum() / 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype) -> None:
    mu, scale = draw(9, 6, dtype=dtype, grad=True), factors(9, 6, 6, dtype=dtype, grad=True)

    def plain(mu: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        lower = scale.tril()
        squares = mu.square().sum(1) + lower.square().sum((1, 2)) - 6
        return 0.5 * squares - lower.diagonal(dim1=1, dim2=2).log().sum(1)

    ours, theirs = gaussian_kl_full(mu, scale, reduction="none"), plain(mu, scale)
    assert ours.dtype == torch.float32
    assert_as_good_as(ours, theirs, truth(mu, scale), rtol=1e-6)
    grads = zip(
        torch.autograd.grad(ours.sum(), (mu, scale)),
        torch.autograd.grad(theirs.sum(), (mu, scale)),
        true_grads("sum", mu, scale),
        strict=True,
    )
    for grad, their_grad, slope in grads:
        assert grad.dtype == dtype
        assert_as_good_as(grad, their_grad, slope, rtol=1.001 * torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("prior", [None, *PRIORS])
@pytest.mark.parametrize("reduction", ["none", "batchmean"])
def test_gradients_of_any_order(reduction: str, prior: str | None) -> None:
    mean, factor = PRIORS[prior] if prior else (None, None)
    given = {"mu": draw(3, 4, grad=True), "scale_tril": factors(3, 4, 4, grad=True)}
    if mean is not None:
        given["prior_mu"] = draw(*mean, seed=5, grad=True)
    if factor is not None:
        given["prior_scale_tril"] = factors(*factor, seed=6, grad=True)
    if prior is None:
        given["weight"] = draw(3, seed=8, grad=True)

    def function(*operands: torch.Tensor) -> torch.Tensor:
        return gaussian_kl_full(**dict(zip(given, operands, strict=True)), reduction=reduction)

    operands = tuple(given.values())
    assert gradcheck(function, operands)
    assert gradgradcheck(function, operands)
    assert_differentiable_backward_agrees(function(*operands), operands)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fallback
def test_transforms() -> None:
    mu, scale = draw(2, 3, 4), factors(2, 3, 4, 4)
    loops = torch.stack([gaussian_kl_full(m, s) for m, s in zip(mu, scale, strict=True)])
    torch.testing.assert_close(torch.func.vmap(gaussian_kl_full)(mu, scale), loops)
    grad = torch.func.grad(gaussian_kl_full, (0, 1))
    got = torch.func.vmap(grad)(mu, scale)
    torch.testing.assert_close(got[0], mu / 3)
    torch.testing.assert_close(got[1][1], true_grads("batchmean", mu[1], scale[1])[1])


def test_errors() -> None:
    mu, scale = draw(3, 4), factors(3, 4, 4)
    cases = {
        r"`mu` has shape \(4,\), expected \(n_samples, k\)": (mu[0], scale),
        r"`scale_tril` has shape \(3, 4\), expected \(3, 4, 4\)": (mu, mu),
        r"`prior_mu` has shape \(3,\)": (mu, scale, mu[:, 0]),
        r"`prior_scale_tril` has shape \(2, 4, 4\)": (mu, scale, None, scale[:2]),
        r"`reduction` is 'mean'": (mu, scale, None, None, "mean"),
    }
    for message, arguments in cases.items():
        with pytest.raises(ValueError, match=message):
            gaussian_kl_full(*arguments)
    with pytest.raises(ValueError, match=r"`weight` has shape \(4,\), expected \(3,\)"):
        gaussian_kl_full(mu, scale, weight=mu[0])
    with pytest.raises(TypeError, match=r"`scale_tril` has dtype torch\.float32"):
        gaussian_kl_full(mu, scale.float())
