"""The bound of given log-weights and importance sampling, against torch and exact models."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import importance_bound, importance_log_likelihood
from torch_cases import DTYPES, draw, reduce

REDUCTIONS = ("none", "sum", "batchmean")
BOUNDS = ("iwae", "elbo")


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
