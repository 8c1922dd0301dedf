"""Multi-sample bounds and importance sampling, against torch in float64 and exact models."""

from __future__ import annotations

import itertools
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
    importance_log_likelihood,
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("bound", BOUNDS)
def test_importance_bound(cpu_level: str, bound: str, reduction: str, dtype: torch.dtype) -> None:
    log_weight = (50 * draw(17, 19) - 400).to(dtype).requires_grad_()
    exact = log_weight.detach().double().requires_grad_()
    rows = torch.logsumexp(exact, 0) - math.log(17) if bound == "iwae" else exact.mean(0)
    expected = reduce(rows, reduction)
    got = importance_bound(log_weight, bound=bound, reduction=reduction)
    assert got.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected, rtol=8 * eps, atol=0)
    (grad,) = torch.autograd.grad(got.sum(), log_weight)
    (right,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(grad.double(), right, rtol=0, atol=500 * eps)


def test_impossible_samples() -> None:
    log_weight = draw(4, 3)
    log_weight[0, 0] = log_weight[:, 1] = -torch.inf
    log_weight.requires_grad_()
    rows = importance_bound(log_weight, reduction="none")
    assert rows[1] == -torch.inf
    left = log_weight[1:, 0].detach()
    torch.testing.assert_close(rows[0].detach(), torch.logsumexp(left, 0) - math.log(4))
    (grad,) = torch.autograd.grad(rows[0] + rows[1] + rows[2], log_weight)
    assert not grad[:, 1].any()
    assert grad[0, 0] == 0
    torch.testing.assert_close(grad[1:, 0], torch.softmax(left, 0))


@pytest.mark.parametrize("bound", BOUNDS)
def test_importance_bound_gradients_of_any_order(bound: str) -> None:
    log_weight = draw(3, 4, grad=True)
    assert gradcheck(lambda x: importance_bound(x, bound=bound), log_weight)
    assert gradgradcheck(lambda x: importance_bound(x, bound=bound), log_weight)
    assert importance_bound(log_weight.half()).dtype == torch.float32


class LinearGaussian:
    """x = W z + noise, z ~ N(0, I): log p(x) is known. The posterior given is too wide."""

    def __init__(self) -> None:
        self.factor, self.noise = draw(4, 2), 0.5
        self.x = draw(6, 4, seed=4)
        covariance = self.factor @ self.factor.T + self.noise**2 * torch.eye(4)
        zero = torch.zeros(4, dtype=torch.float64)
        marginal = torch.distributions.MultivariateNormal(zero, covariance)
        self.log_likelihood = marginal.log_prob(self.x)
        precision = torch.eye(2) + self.factor.T @ self.factor / self.noise**2
        self.mu = self.x @ self.factor @ torch.linalg.inv(precision) / self.noise**2
        self.logvar = (-precision.diagonal().log() + 0.8).expand(6, 2)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        normal = torch.distributions.Normal(z @ self.factor.T, self.noise)
        return normal.log_prob(x).sum(-1)

    def log_weights(self, samples: int, generator: torch.Generator) -> Tensor:
        shape = samples, *self.mu.shape
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        z = self.mu + (0.5 * self.logvar).exp() * noise
        ratio = 0.5 * (noise.square() + self.logvar - z.square()).sum(2)
        return self.log_prob(self.x, z) + ratio


def test_the_bounds_are_ordered_and_rise_with_the_samples() -> None:
    model = LinearGaussian()
    generator = torch.Generator().manual_seed(0)
    n, means = 4000, []
    for samples in (1, 2, 8, 64):
        weights = model.log_weights(samples * n, generator).view(samples, -1)
        rows = importance_bound(weights, reduction="none").view(n, -1)
        means.append(rows.mean(0))
        error = rows.std(0) / n**0.5
        assert (means[-1] < model.log_likelihood + 4 * error).all()
    elbo = importance_bound(weights, bound="elbo", reduction="none").view(n, -1).mean(0)
    torch.testing.assert_close(elbo, means[0], rtol=0, atol=0.1)
    for lower, higher in itertools.pairwise(means):
        assert (lower < higher).all()
    assert (model.log_likelihood - means[-1] < 0.05).all()


class TestImportanceLogLikelihood:
    def test_closed_form(self) -> None:
        model = LinearGaussian()
        estimate = importance_log_likelihood(
            model.log_prob,
            model.x,
            (model.mu, model.logvar),
            20_000,
            generator=torch.Generator().manual_seed(0),
        )
        torch.testing.assert_close(estimate, model.log_likelihood, rtol=0, atol=0.03)

    def test_another_prior_and_posterior(self) -> None:
        """The same model in z + 3, whose prior is N(3, I), from a posterior of Student's."""
        model, rows = LinearGaussian(), []

        def log_prob(x: Tensor, z: Tensor) -> Tensor:
            rows.append(len(x))
            return model.log_prob(x, z - 3)

        prior = torch.distributions.Normal(3.0, 1.0)
        scale = (0.5 * model.logvar[0]).exp()
        torch.manual_seed(0)

        def posterior(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
            (first,) = (model.x == x[0]).all(1).nonzero().flatten()
            location = model.mu[first : first + len(x)] + 3
            q = torch.distributions.StudentT(5.0, location, scale)
            z = q.sample((n,))
            return z, q.log_prob(z).sum(2)

        def log_prior(z: Tensor) -> Tensor:
            return prior.log_prob(z).sum(1)

        arguments: dict[str, Any] = {"log_prior": log_prior, "max_rows": 1000}
        estimate = importance_log_likelihood(log_prob, model.x, posterior, 20_000, **arguments)
        torch.testing.assert_close(estimate, model.log_likelihood, rtol=0, atol=0.05)
        assert max(rows) <= 1000
        assert sum(rows) == 6 * 20_000
        # A pair that gives the same, and rows in parts.
        pair = model.mu + 3, model.logvar
        arguments = {"log_prior": log_prior, "generator": torch.Generator().manual_seed(1)}
        rows.clear()
        by_pair = importance_log_likelihood(log_prob, model.x, pair, 8000, max_rows=4, **arguments)
        torch.testing.assert_close(by_pair, model.log_likelihood, rtol=0, atol=0.05)
        assert max(rows) <= 4

    def test_standard_prior_of_a_callable_posterior(self) -> None:
        model = LinearGaussian()

        def posterior(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
            q = torch.distributions.Normal(model.mu, (0.5 * model.logvar).exp())
            noise = torch.randn(
                (n, 6, 2), generator=torch.Generator().manual_seed(5), dtype=torch.float64
            )
            z = q.loc + q.scale * noise
            return z, q.log_prob(z).sum(2)

        own = importance_log_likelihood(model.log_prob, model.x, posterior, 50)
        pair = importance_log_likelihood(
            model.log_prob,
            model.x,
            (model.mu, model.logvar),
            50,
            generator=torch.Generator().manual_seed(5),
        )
        torch.testing.assert_close(own, pair)

    def test_nothing_and_errors(self) -> None:
        model = LinearGaussian()
        pair = model.mu, model.logvar
        none = importance_log_likelihood(model.log_prob, model.x[:0], (pair[0][:0], pair[1][:0]), 3)
        assert none.shape == (0,)
        with pytest.raises(ValueError, match="`n_samples` is 0"):
            importance_log_likelihood(model.log_prob, model.x, pair, 0)
        with pytest.raises(ValueError, match="`max_rows` is -1"):
            importance_log_likelihood(model.log_prob, model.x, pair, max_rows=-1)
        with pytest.raises(ValueError, match=r"means of shape \(6, 2\), expected \(3, ...\)"):
            importance_log_likelihood(model.log_prob, model.x[:3], pair, 2)
        with pytest.raises(TypeError, match="`log_prob` has type float, expected a callable"):
            importance_log_likelihood(1.0, model.x, pair)
        with pytest.raises(TypeError, match="`log_prior` has type Normal, expected a callable"):
            importance_log_likelihood(
                model.log_prob, model.x, pair, log_prior=torch.distributions.Normal(0.0, 1.0)
            )
        with pytest.raises(TypeError, match="`posterior` has type Tensor, expected a pair"):
            importance_log_likelihood(model.log_prob, model.x, model.mu)
        with pytest.raises(TypeError, match="`log_prob` gave float, expected a tensor"):
            importance_log_likelihood(lambda x, z: 0.0, model.x, pair, 2)
        with pytest.raises(ValueError, match=r"`log_prob` gave shape \(12, 2\), expected \(12,\)"):
            importance_log_likelihood(lambda x, z: z, model.x, pair, 2)
        with pytest.raises(ValueError, match=r"`log_prior` gave shape \(\), expected \(12,\)"):
            importance_log_likelihood(
                model.log_prob, model.x, pair, 2, log_prior=lambda z: z.square().sum()
            )
        with pytest.raises(ValueError, match="`posterior` gave samples of shape"):
            importance_log_likelihood(
                model.log_prob, model.x, lambda x, n: (model.mu, model.logvar), 2
            )
