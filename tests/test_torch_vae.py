"""VAE: its methods, and its bound against models whose log-likelihood is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from elbokit.torch import (
    VAE,
    GaussianLikelihood,
    GaussianMixturePrior,
    VAEOutput,
    gaussian_kl,
    logsumexp,
    vae_loss,
)
from torch_cases import draw, targets


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_prob(distribution: Any, x: torch.Tensor) -> torch.Tensor:
    density: torch.Tensor = distribution.log_prob(x)
    return density


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE(6, 2, (5, 4)).double()


def test_pass_and_loss(vae: VAE) -> None:
    x = targets(7, 6)
    out = vae(x, generator=generator())
    assert isinstance(out, VAEOutput)
    assert [tuple(t.shape) for t in out] == [(7, 6), (7, 2), (7, 2), (7, 2)]
    mu, logvar = vae.encode(x)
    noise = torch.randn(7, 2, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(out.z, mu + torch.exp(logvar / 2) * noise)
    ours = vae.loss(x, beta=0.5, free_bits=0.1, generator=generator())
    expected = vae_loss(out.logits, x, mu, logvar, beta=0.5, free_bits=0.1)
    torch.testing.assert_close(ours, expected)
    torch.autograd.backward(ours.loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())


def test_views_of_the_latent_space(vae: VAE) -> None:
    x = targets(3, 6)
    mu = vae.encode(x)[0]
    torch.testing.assert_close(vae.reconstruct(x), torch.sigmoid(vae.decoder(mu)).detach())
    path = vae.interpolate(x[:2], x[1:], 5)
    assert path.shape == (5, 2, 6)
    torch.testing.assert_close(path[0], vae.reconstruct(x[:2]))
    torch.testing.assert_close(path[-1], vae.reconstruct(x[1:]))
    middle = vae.decode((mu[:2] + mu[1:]) / 2).detach()
    torch.testing.assert_close(path[2], middle)
    z = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    samples = vae.sample(4, generator=generator())
    torch.testing.assert_close(samples, vae.decode(z).detach())
    assert not (samples.requires_grad)
    assert not (path.requires_grad)


def test_own_networks() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mu, self.logvar = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = x.flatten(1)
            return self.mu(x), self.logvar(x)

    decoder = nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (1, 2, 3)))
    vae = VAE(latent_dim=3, encoder=Encoder(), decoder=decoder)
    x = targets(5, 1, 2, 3, dtype=torch.float32)
    assert vae(x).logits.shape == x.shape
    assert vae.loss(x).loss.shape == ()
    assert vae.elbo(x).shape == (5,)
    assert vae.log_likelihood(x, 3).shape == (5,)
    assert vae.sample(2).shape == (2, 1, 2, 3)
    assert vae.interpolate(x, x, 4).shape == (4, 5, 1, 2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_takes_data_of_another_dtype(vae: VAE, dtype: torch.dtype) -> None:
    vae, x = vae.float(), targets(5, 6).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert vae.loss(x).loss.isfinite()
        assert vae.decode(vae.encode(x)[0]).shape == (5, 6)


def test_own_networks_may_convert_their_data() -> None:
    encoder = nn.Linear(6, 4)
    encoder.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    mu, _ = VAE(latent_dim=2, encoder=encoder, decoder=nn.Linear(2, 6)).encode(targets(5, 6))
    assert mu.dtype == torch.float32


def test_elbo_averages_the_reconstruction_alone(vae: VAE) -> None:
    x = targets(7, 6)
    mu, logvar = vae.encode(x)
    draws, each = generator(), []
    for _ in range(3):
        out = vae(x, generator=draws)
        each.append(vae_loss(out.logits, x, mu, logvar, reduction="none").reconstruction)
    expected = -torch.stack(each).mean(0) - gaussian_kl(mu, logvar, reduction="none")
    bound = vae.elbo(x, 3, generator=generator())
    torch.testing.assert_close(bound, expected)
    assert bound.requires_grad


def importance_sampled(
    vae: VAE, x: torch.Tensor, draws: torch.Generator, chunks: list[int]
) -> torch.Tensor:
    """Return the estimate as its formula reads, with noise drawn in the given chunks."""
    mu, logvar = vae.encode(x)
    posterior = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    weights = []
    for n in chunks:
        z = vae.reparameterize(*(p.expand(n, *p.shape) for p in (mu, logvar)), generator=draws)
        decoded = torch.distributions.Bernoulli(logits=vae.decoder(z), validate_args=False)
        log_joint = log_prob(decoded, x).sum(2) + log_prob(prior, z).sum(2)
        weights.append(log_joint - log_prob(posterior, z).sum(2))
    return (torch.logsumexp(torch.cat(weights), 0) - math.log(sum(chunks))).detach()


def test_log_likelihood_is_importance_sampled(vae: VAE) -> None:
    x = targets(4, 6)
    estimate = vae.log_likelihood(x, 5, generator=generator())
    torch.testing.assert_close(estimate, importance_sampled(vae, x, generator(), [5]))
    assert not estimate.requires_grad


def test_log_likelihood_in_bounded_memory(vae: VAE) -> None:
    x, rows = targets(4, 6), []
    vae.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    estimate = vae.log_likelihood(x, 8, generator=generator(), max_rows=12)
    assert rows == [12, 12, 8]
    torch.testing.assert_close(estimate, importance_sampled(vae, x, generator(), [3, 3, 2]))
    # More rows than may be decoded at once are estimated apart.
    rows.clear()
    draws, same = generator(), generator()
    estimate = vae.log_likelihood(x, 2, generator=draws, max_rows=3)
    assert rows == [3, 3, 2]
    parts = importance_sampled(vae, x[:3], same, [1, 1]), importance_sampled(vae, x[3:], same, [2])
    torch.testing.assert_close(estimate, torch.cat(parts))


class Linear(nn.Module):
    """Logits A z + b of a one-dimensional latent variable."""

    def __init__(self, slope: torch.Tensor, offset: torch.Tensor) -> None:
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.slope + self.offset


class Constant(nn.Module):
    """The same posterior for every row."""

    def __init__(self, mu: torch.Tensor, logvar: torch.Tensor) -> None:
        super().__init__()
        self.mu, self.logvar = mu, logvar

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mu.expand(len(x), 1), self.logvar.expand(len(x), 1)


def exact_model(
    mu: torch.Tensor, logvar: torch.Tensor
) -> tuple[VAE, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a model, all data it can produce, and log p(x), log p(z|x) by quadrature."""
    slope, offset = (
        torch.tensor([[1.5, -0.7, 0.4]]).double(),
        torch.tensor([0.2, -0.3, 1.0]).double(),
    )
    vae = VAE(latent_dim=1, encoder=Constant(mu, logvar), decoder=Linear(slope, offset))
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    z = torch.from_numpy(node)[:, None]
    log_weight = torch.from_numpy(weight / weight.sum()).log()
    logits = vae.decoder(z)
    each = log_prob(torch.distributions.Bernoulli(logits=logits), x[:, None, :]).sum(2)
    return vae, x, each, log_weight


@pytest.mark.parametrize("seed", range(5))
def test_identity_of_the_bound(seed: int) -> None:
    """log p(x) − L = KL(q || posterior) for any Gaussian q, and the two forms of L agree."""
    mu, logvar = draw(1, seed=seed), draw(1, seed=seed + 50) - 1
    vae, x, each, log_weight = exact_model(mu, logvar)
    log_p = logsumexp(each + log_weight, 1)
    torch.testing.assert_close(logsumexp(log_p, 0).item(), 0.0, atol=1e-12, rtol=0)

    # Expectations under q, by quadrature around it.
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    z = mu + torch.exp(logvar / 2) * torch.from_numpy(node)
    probability = torch.from_numpy(weight / weight.sum())
    logits = vae.decoder(z[:, None])
    log_likelihood = log_prob(torch.distributions.Bernoulli(logits=logits), x[:, None, :]).sum(2)
    log_prior = -0.5 * (z**2 + math.log(2 * math.pi))
    log_q = -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
    entropy = 0.5 * (logvar + math.log(2 * math.pi) + 1)

    free_energy = (probability * (log_likelihood + log_prior)).sum(1) + entropy
    n = len(x)
    terms = [
        vae_loss(logits[s].expand(n, 3), x, mu.expand(n, 1), logvar.expand(n, 1), reduction="none")
        for s in range(len(z))
    ]
    reconstruction = sum(p * t.reconstruction for p, t in zip(probability, terms, strict=True))
    penalised_fit = -reconstruction - terms[0].kl
    torch.testing.assert_close(penalised_fit, free_energy, rtol=1e-12, atol=1e-12)

    log_posterior = log_likelihood + log_prior - log_p[:, None]
    gap = (probability * (log_q - log_posterior)).sum(1)
    torch.testing.assert_close(log_p - penalised_fit, gap, rtol=1e-12, atol=1e-12)
    assert (gap > 0).all()

    # The estimates of the model are of these very numbers.
    bound = vae.elbo(x, 4000, generator=generator(seed))
    deviation = (probability * log_likelihood**2).sum(1) - (probability * log_likelihood).sum(
        1
    ) ** 2
    assert ((bound - penalised_fit).abs() < 5 * (deviation / 4000).sqrt()).all()


def test_log_likelihood_approaches_the_truth() -> None:
    vae, x, each, log_weight = exact_model(torch.zeros(1).double(), torch.zeros(1).double())
    log_p = logsumexp(each + log_weight, 1)
    # q is the prior here, so that the weights p(x|z) are bounded and their variance is known.
    n_samples = 20000
    estimate = vae.log_likelihood(x, n_samples, generator=generator())
    second = logsumexp(2 * each + log_weight, 1)
    deviation = torch.sqrt((torch.exp(second - 2 * log_p) - 1) / n_samples)
    assert ((estimate - log_p).abs() < 5 * deviation).all()


def test_parts_may_be_replaced() -> None:
    vae = VAE(12, latent_dim=3)
    vae.prior, vae.likelihood = GaussianMixturePrior(4, 3), GaussianLikelihood("fixed", 0.5)
    assert all(any(p is q for q in vae.parameters()) for p in vae.prior.parameters())
    torch.manual_seed(0)
    assert torch.isfinite(vae.loss(torch.rand(5, 12)).loss)


@pytest.mark.parametrize(
    ("name", "value", "error", "match"),
    [
        ("prior", GaussianMixturePrior(4, 2), ValueError, "has latent_dim 2, expected 3 as"),
        ("posterior", 3, TypeError, "has type int, expected a name or elbokit.torch.Posterior"),
        ("likelihood", "poisson", ValueError, "is 'poisson', expected one of bernoulli"),
    ],
)
def test_bad_replacements(name: str, value: Any, error: type[Exception], match: str) -> None:
    vae = VAE(12, latent_dim=3)
    before = getattr(vae, name)
    with pytest.raises(error, match=f"`{name}` {match}"):
        setattr(vae, name, value)
    assert getattr(vae, name) is before
