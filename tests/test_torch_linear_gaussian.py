"""A linear VAE with normal noise against probabilistic PCA, whose log-likelihood is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from elbokit.torch import VAE, LearnedPrior, VAETrainer

N, D, K = 300, 5, 2


class LinearPosterior(nn.Module):
    """Means linear in x, and one factor for all x: the family that holds the exact posterior."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Linear(D, K)
        self.factor = nn.Parameter(torch.zeros(K * (K + 1) // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mu(x), self.factor.expand(len(x), -1)], 1)


def data() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    loading = torch.randn(K, D, generator=generator, dtype=torch.float64)
    z = torch.randn(N, K, generator=generator, dtype=torch.float64)
    noise = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return z @ loading + 0.4 * noise + 1.0


def log_likelihood(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """Log p(x) = log N(x | W m + b, W S Wᵀ + s² I), for a prior N(m, S)."""
    marginal, _ = exact(vae, x)
    density: torch.Tensor = marginal.log_prob(x)  # type: ignore[no-untyped-call]
    return density


def exact(vae: VAE, x: torch.Tensor) -> tuple[MultivariateNormal, MultivariateNormal]:
    """Return the distribution of x, and that of z given x."""
    layer = vae.decoder
    assert isinstance(layer, nn.Linear)
    W, b = layer.weight.detach(), layer.bias.detach()
    s2 = vae.likelihood.logvar.detach().exp()
    m, S = torch.zeros(K, dtype=W.dtype), torch.eye(K, dtype=W.dtype)
    if isinstance(vae.prior, LearnedPrior):
        m, S = vae.prior.mu.detach(), torch.diag(vae.prior.logvar.detach().exp())
    marginal = MultivariateNormal(W @ m + b, W @ S @ W.T + s2 * torch.eye(D, dtype=W.dtype))
    precision = torch.linalg.inv(S) + W.T @ W / s2
    information = (x - b) @ W / s2 + torch.linalg.solve(S, m)
    mean = torch.linalg.solve(precision, information.T).T
    return marginal, MultivariateNormal(mean, precision_matrix=precision)


def bound(vae: VAE, x: torch.Tensor) -> torch.Tensor:
    """Return the bound with the expectation under q in closed form."""
    mu, factor = vae.encode(x)
    layer = vae.decoder
    spread = torch.einsum("dk,nkj->ndj", layer.weight, factor).square().sum((1, 2))
    s2 = vae.likelihood.logvar.exp()
    squares = (x - layer(mu)).square().sum(1) + spread
    expected = -0.5 * (squares / s2 + D * torch.log(2 * math.pi * s2))
    return (expected - vae.divergence(mu, factor, mu)[0]).detach()


@pytest.mark.parametrize("prior", ["standard", "learned"])
def test_the_gap_is_the_divergence_and_closes(prior: str) -> None:
    x = data()
    torch.manual_seed(0)
    decoder = nn.Linear(K, D)
    vae = VAE(
        latent_dim=K,
        encoder=LinearPosterior(),
        decoder=decoder,
        likelihood="gaussian",
        posterior="full",
        prior=prior,
    ).double()

    def gap() -> torch.Tensor:
        exact_value = log_likelihood(vae, x)
        _, posterior = exact(vae, x)
        q = MultivariateNormal(*(t.detach() for t in vae.encode(x)[:1]), scale_tril=factor())
        divergence = kl_divergence(q, posterior)
        torch.testing.assert_close(exact_value - bound(vae, x), divergence, rtol=1e-9, atol=1e-9)
        assert (divergence >= 0).all()
        return divergence.mean()

    def factor() -> torch.Tensor:
        return vae.encode(x)[1].detach()

    untrained, before = gap(), log_likelihood(vae, x).mean()
    VAETrainer(vae, max_epochs=60, batch_size=50, lr=2e-2, progress=False).fit(x)
    assert gap() < 0.05 * untrained
    # The optimum of PPCA (Tipping and Bishop 1999): the noise is the mean of the discarded
    # eigenvalues, and the likelihood follows from the eigenvalues alone.
    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    noise = eigenvalues[K:].mean()
    best = -0.5 * (
        D * math.log(2 * math.pi) + eigenvalues[:K].log().sum() + (D - K) * noise.log() + D
    )
    reached = log_likelihood(vae, x).mean()
    assert before < reached <= best + 1e-9
    assert best - reached < 0.05

    # The estimates of the model are of these numbers.
    generator = torch.Generator().manual_seed(1)
    estimate = vae.log_likelihood(x[:20], 4000, generator=generator)
    torch.testing.assert_close(estimate, log_likelihood(vae, x[:20]), rtol=0, atol=0.02)
    sampled = vae.elbo(x[:20], 2000, generator=generator).detach()
    torch.testing.assert_close(sampled, bound(vae, x[:20]), rtol=0, atol=0.2)
