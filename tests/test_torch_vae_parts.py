"""Every combination of likelihood, posterior and prior against torch's distributions."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions, nn

from elbokit import GaussianMixture
from elbokit.torch import (
    VAE,
    CategoricalLikelihood,
    DiagonalPosterior,
    FullPosterior,
    GaussianLikelihood,
    GaussianMixturePrior,
    LearnedPrior,
    Likelihood,
    StandardPrior,
)
from torch_cases import draw, targets

N, D, K = 6, 5, 3
LIKELIHOODS: dict[str, Any] = {
    "bernoulli": "bernoulli",
    "gaussian": "gaussian",
    "fixed": lambda: GaussianLikelihood("fixed", 0.7),
    "decoder": lambda: GaussianLikelihood("decoder"),
    "categorical": lambda: CategoricalLikelihood(4),
}
POSTERIORS = ("diagonal", "full")
PRIORS: dict[str, Any] = {
    "standard": "standard",
    "learned": "learned",
    "mixture": "mixture",
    "full mixture": lambda: GaussianMixturePrior(3, K, "full"),
}
COMBINATIONS = list(itertools.product(LIKELIHOODS, POSTERIORS, PRIORS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(value: Any) -> Any:
    return value() if callable(value) else value


def shaken(module: nn.Module) -> nn.Module:
    """Move the parameters from their starts, which are often 0."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p += 0.3 * torch.randn(p.shape, generator=generator(i), dtype=p.dtype)
    return module


def new_vae(likelihood: str, posterior: str, prior: str) -> VAE:
    torch.manual_seed(0)
    parts = {"likelihood": made(LIKELIHOODS[likelihood]), "prior": made(PRIORS[prior])}
    vae = VAE(D, K, (7,), posterior=posterior, **parts).double()
    shaken(vae.prior)
    shaken(vae.likelihood)
    return vae


def new_data(likelihood: str, *shape: int) -> torch.Tensor:
    if likelihood == "categorical":
        return torch.randint(0, 4, shape, generator=generator())
    return targets(*shape) if likelihood == "bernoulli" else draw(*shape)


def posterior_of(vae: VAE, x: torch.Tensor) -> Any:
    mu, scale = vae.encode(x)
    if isinstance(vae.posterior, FullPosterior):
        return distributions.MultivariateNormal(mu, scale_tril=scale)
    return distributions.Independent(distributions.Normal(mu, torch.exp(scale / 2)), 1)


def prior_of(prior: Any) -> Any:
    if isinstance(prior, StandardPrior):
        zero = torch.zeros(K).double()
        return distributions.Independent(distributions.Normal(zero, zero + 1), 1)
    if isinstance(prior, LearnedPrior):
        return distributions.Independent(
            distributions.Normal(prior.mu, torch.exp(prior.logvar / 2)), 1
        )
    U = prior.precisions_cholesky
    if prior.covariance_type == "diag":
        U = torch.diag_embed(U)
    components = distributions.MultivariateNormal(prior.means, precision_matrix=U @ U.mT)
    weights = distributions.Categorical(prior.weights)
    return distributions.MixtureSameFamily(weights, components)


def likelihood_of(vae: VAE, z: torch.Tensor) -> Any:
    out = vae.decoder(z)
    if isinstance(vae.likelihood, CategoricalLikelihood):
        each: Any = distributions.Categorical(logits=out.movedim(1, -1))
    elif isinstance(vae.likelihood, GaussianLikelihood):
        mean, logvar = (
            out.chunk(2, 1)
            if vae.likelihood.variance == "decoder"
            else (out, vae.likelihood.logvar)
        )
        each = distributions.Normal(mean, torch.exp(logvar / 2))
    else:
        each = distributions.Bernoulli(logits=out, validate_args=False)
    return distributions.Independent(each, 1)


@pytest.mark.parametrize(("likelihood", "posterior", "prior"), COMBINATIONS)
def test_bounds_of_every_combination(likelihood: str, posterior: str, prior: str) -> None:
    vae, x = new_vae(likelihood, posterior, prior), new_data(likelihood, N, D)
    q, p = posterior_of(vae, x), prior_of(vae.prior)

    out = vae(x, generator=generator())
    if "mixture" in prior:
        kl = q.log_prob(out.z) - p.log_prob(out.z)
    else:
        full = [
            distributions.MultivariateNormal(d.mean, torch.diag_embed(d.variance))
            if isinstance(d, distributions.Independent)
            else d
            for d in (q, p)
        ]
        kl = distributions.kl_divergence(*full)
    reconstruction = -likelihood_of(vae, out.z).log_prob(x)
    ours = vae.loss(x, beta=0.5, reduction="none", generator=generator())
    torch.testing.assert_close(ours.reconstruction, reconstruction)
    torch.testing.assert_close(ours.kl, kl)
    torch.testing.assert_close(ours.loss, reconstruction + 0.5 * kl)
    for reduction in ("sum", "batchmean"):
        reduced = vae.loss(x, beta=0.5, reduction=reduction, generator=generator())
        factor = 1 if reduction == "sum" else 1 / N
        torch.testing.assert_close(reduced.loss, ours.loss.sum() * factor)
    parameters = list(vae.parameters())
    grads = torch.autograd.grad(ours.loss.sum(), parameters)
    expected = torch.autograd.grad((reconstruction + 0.5 * kl).sum(), parameters)
    torch.testing.assert_close(grads, expected)

    # The estimates, from the noise that they draw.
    draws = generator(1)
    z = [vae.reparameterize(*vae.encode(x), generator=draws) for _ in range(2)]
    each = torch.stack([likelihood_of(vae, y).log_prob(x) for y in z])
    sampled = torch.stack([q.log_prob(y) - p.log_prob(y) for y in z])
    expected_kl = sampled.mean(0) if "mixture" in prior else kl
    bound = vae.elbo(x, 2, generator=generator(1))
    torch.testing.assert_close(bound, each.mean(0) - expected_kl)
    points = vae.posterior.rsample(*vae.encode(x), 4, generator=generator(2)).detach()
    torch.testing.assert_close(vae.posterior.log_prob(points, *vae.encode(x)), q.log_prob(points))
    log_weights = [
        likelihood_of(vae, y).log_prob(x) + p.log_prob(y) - q.log_prob(y) for y in points
    ]
    estimate = torch.logsumexp(torch.stack(log_weights), 0) - math.log(4)
    ours_estimate = vae.log_likelihood(x, 4, generator=generator(2))
    torch.testing.assert_close(ours_estimate, estimate.detach())


@pytest.mark.parametrize(("likelihood", "posterior", "prior"), COMBINATIONS)
def test_views_of_every_combination(likelihood: str, posterior: str, prior: str) -> None:
    vae, x = new_vae(likelihood, posterior, prior), new_data(likelihood, N, D)
    shape = (4, D) if likelihood == "categorical" else (D,)
    mean = vae.reconstruct(x)
    assert mean.shape == (N, *shape)
    torch.testing.assert_close(mean, vae.decode(vae.encode(x)[0]).detach())
    means = likelihood_of(vae, vae.encode(x)[0]).base_dist
    expected = means.probs.movedim(-1, 1) if likelihood == "categorical" else means.mean
    torch.testing.assert_close(mean, expected.detach())
    assert vae.interpolate(x[:2], x[2:4], 3).shape == (3, 2, *shape)
    assert vae.sample(2, generator=generator()).shape == (2, *shape)
    drawn = vae.sample(7, generator=generator(), mean=False)
    assert drawn.shape == (7, D)
    assert drawn.dtype == x.dtype
    assert torch.equal(drawn, vae.sample(7, generator=generator(), mean=False))
    assert not drawn.requires_grad
    assert vae.loss(drawn).loss.isfinite()
    copied = pickle.loads(pickle.dumps(copy.deepcopy(vae)))
    assert torch.equal(copied.sample(7, generator=generator(), mean=False), drawn)


@pytest.mark.parametrize("likelihood", ["gaussian", "decoder", "bernoulli", "categorical"])
def test_draws_of_the_likelihood_have_its_moments(likelihood: str) -> None:
    vae = new_vae(likelihood, "diagonal", "standard")
    n = 40_000
    z = draw(1, K).expand(n, K)
    drawn = vae.likelihood.sample(vae.decoder(z), generator=generator())
    theirs = likelihood_of(vae, z[:1]).base_dist
    if likelihood == "categorical":
        frequency = torch.nn.functional.one_hot(drawn, 4).double().mean(0)
        assert (frequency - theirs.probs[0]).abs().max() < 5 * 0.5 / math.sqrt(n)
        return
    error = (drawn.mean(0) - theirs.mean[0]).abs() / theirs.stddev[0]
    assert error.max() < 5 / math.sqrt(n)
    if likelihood != "bernoulli":
        torch.testing.assert_close(drawn.var(0), theirs.variance[0].detach(), rtol=0.05, atol=0)


@pytest.mark.parametrize("prior", PRIORS)
def test_draws_of_the_prior_have_its_moments(prior: str) -> None:
    vae = new_vae("bernoulli", "diagonal", prior)
    z = vae.prior.sample(40_000, generator=generator()).detach()
    theirs = prior_of(vae.prior)
    deviation = theirs.variance.sqrt()
    assert ((z.mean(0) - theirs.mean).abs() < 5 * deviation / 200).all()
    torch.testing.assert_close(z.var(0), theirs.variance.detach(), rtol=0.05, atol=0)
    torch.testing.assert_close(vae.prior.log_prob(z), theirs.log_prob(z))
    if prior == "full mixture":
        expected = prior_of(vae.prior).sample((40_000,))
        torch.testing.assert_close(torch.cov(z.T), torch.cov(expected.T), rtol=0, atol=0.2)


@pytest.mark.parametrize("posterior", [DiagonalPosterior(), FullPosterior()])
def test_a_posterior_inverts_its_transform(posterior: Any) -> None:
    mu, scale = posterior.parameters(draw(N, posterior.n_outputs(K)), K)
    for n in (None, 4):
        noise = posterior.noise(mu, n, generator=generator())
        z = posterior.transform(noise, mu, scale)
        assert z.shape == noise.shape
        torch.testing.assert_close(posterior.standardize(z, mu, scale), noise)


def test_full_posterior_of_an_encoder() -> None:
    posterior = FullPosterior()
    flat = draw(2, 9)
    mu, factor = posterior.parameters(flat, 3)
    torch.testing.assert_close(mu, flat[:, :3])
    a, b, c, d, e, f = flat[1, 3:]
    expected = torch.tensor([[a.exp(), 0, 0], [d, b.exp(), 0], [e, f, c.exp()]])
    torch.testing.assert_close(factor[1], expected.double())
    assert posterior.parameters((mu, factor), 3)[1] is factor
    one, spread = posterior.parameters(draw(2, 2), 1)
    assert one.shape == (2, 1)
    assert spread.shape == (2, 1, 1)
    with pytest.raises(ValueError, match=r"returned \(2, 6\), expected one tensor of shape"):
        posterior.parameters(draw(2, 6), 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 8, 8), (1, 28, 27), (1, 2, 13)])
@pytest.mark.parametrize("likelihood", ["bernoulli", "decoder", "categorical"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_convolutional_networks(shape: Any, likelihood: str, batch_norm: bool) -> None:
    vae = VAE.convolutional(
        shape,
        K,
        (4, 3, 2),
        batch_norm=batch_norm,
        likelihood=made(LIKELIHOODS[likelihood]),
        posterior="full",
    )
    x = new_data(likelihood, 5, *shape)
    x = x if likelihood == "categorical" else x.float()
    terms = vae.loss(x)
    torch.autograd.backward(terms.loss)
    # Biases before a normalisation have a gradient of rounding errors alone.
    assert all(p.grad is not None for p in vae.parameters())
    expected = (5, 4, *shape) if likelihood == "categorical" else (5, *shape)
    assert vae.eval().reconstruct(x).shape == expected
    assert vae.log_likelihood(x, 3).shape == (5,)
    with pytest.raises(ValueError, match=r"`x` has shape .*, expected \(n_samples, "):
        vae.encode(x[:, :, :, :-1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_mixture_prior_as_an_estimator(covariance_type: str, dtype: torch.dtype) -> None:
    prior = GaussianMixturePrior(4, 3, covariance_type)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_()
    prior, z = prior.to(dtype), torch.randn(20, 3)
    mixture = prior.to_mixture()
    rtol = 1e-9 if dtype == torch.float64 else 1e-4
    expected = prior.log_prob(z).detach().double().numpy()
    np.testing.assert_allclose(mixture.score_samples(z.numpy().astype(float)), expected, rtol=rtol)
    again = (
        GaussianMixturePrior(4, 3, covariance_type)
        .double()
        .set_parameters(
            *(torch.from_numpy(a) for a in (mixture.weights_, mixture.means_)),
            torch.from_numpy(mixture.precisions_cholesky_),
        )
    )
    np.testing.assert_allclose(again.log_prob(z).detach(), expected, rtol=rtol)


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("covariance_type", ["diag", "full"])
def test_mixture_prior_starts_from_em(posterior: str, covariance_type: str) -> None:
    vae = new_vae("bernoulli", posterior, "standard")
    vae.encoder[0].train(False)  # type: ignore[index]
    modes = [module.training for module in vae.modules()]
    x = targets(200, D, seed=3)
    q = posterior_of(vae, x)
    means = vae.encode(x)[0].detach().numpy()
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=1).fit(means)
    prior = GaussianMixturePrior.init_from(
        vae, x.numpy(), 3, random_state=1, covariance_type=covariance_type
    )
    assert [module.training for module in vae.modules()] == modes
    torch.testing.assert_close(prior.weights.detach().numpy(), mixture.weights_)
    torch.testing.assert_close(prior.means.detach().numpy(), mixture.means_)
    # Given the responsibilities, no other covariance has a greater E_q[log N(z | mean, cov)].
    responsibilities = torch.from_numpy(mixture.predict_proba(means))
    factors = prior.precisions_cholesky.detach()
    if covariance_type == "diag":
        factors = torch.diag_embed(factors)
    spread = (
        q.covariance_matrix if posterior == "full" else torch.diag_embed(q.variance)
    ).detach() + 1e-6 * torch.eye(K)  # reg_covar of the mixture

    def objective(factors: torch.Tensor) -> torch.Tensor:
        centred = q.mean.detach()[:, None] - prior.means.detach()
        second = spread[:, None] + centred[..., :, None] * centred[..., None, :]
        trace = ((factors @ factors.mT) * second).sum((2, 3))
        log_det = torch.logdet(factors @ factors.mT)
        return 0.5 * (responsibilities * (log_det - trace)).sum()

    factors.requires_grad_()
    (slope,) = torch.autograd.grad(objective(factors), factors)
    free = torch.eye(K) if covariance_type == "diag" else torch.ones(K, K).triu()
    assert (slope * free).abs().max() < 0.02  # EM has stopped at its tolerance
    assert (objective(1.01 * factors) < objective(factors) - 1e-3).all()

    before = vae.loss(x, generator=generator()).kl
    vae.prior = prior
    assert vae.loss(x, generator=generator()).kl < before


class Uniform(StandardPrior):
    """A prior of one's own, without closed form."""

    def moments(self) -> None:  # type: ignore[override]
        return None


class Laplace(Likelihood):
    """A likelihood of one's own."""

    def log_prob(self, decoded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -((x - decoded).abs() + math.log(2)).sum(1)

    def mean(self, decoded: torch.Tensor) -> torch.Tensor:
        return decoded


def test_own_likelihood() -> None:
    vae, x = VAE(D, K, (7,), likelihood=Laplace()).double(), draw(N, D)
    out = vae(x, generator=generator())
    expected = -distributions.Laplace(out.logits, torch.ones(D).double()).log_prob(x).sum(1)  # type: ignore[no-untyped-call]
    for reduction, value in (
        ("none", expected),
        ("sum", expected.sum()),
        ("batchmean", expected.mean()),
    ):
        ours = vae.loss(x, reduction=reduction, generator=generator())
        torch.testing.assert_close(ours.reconstruction, value)
    assert vae.log_likelihood(x, 3).shape == (N,)
    assert vae.reconstruct(x).shape == (N, D)


def test_own_prior_is_estimated() -> None:
    vae = VAE(D, K, (7,), prior=Uniform(K)).double()
    closed = VAE(D, K, (7,)).double()
    closed.load_state_dict(vae.state_dict())
    x = targets(N, D)
    estimate = vae.elbo(x, 4000, generator=generator())
    torch.testing.assert_close(
        estimate, closed.elbo(x, 4000, generator=generator()), rtol=0, atol=0.2
    )


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_autocast(likelihood: str, posterior: str) -> None:
    vae, x = new_vae(likelihood, posterior, "learned").float(), new_data(likelihood, N, D)
    x = vae.as_input(x)
    exact = vae.loss(x, generator=generator()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = vae.loss(x, generator=generator()).loss
        assert vae.log_likelihood(x, 3).isfinite().all()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_free_bits_without_the_fused_loss(likelihood: str) -> None:
    vae, x = new_vae(likelihood, "diagonal", "learned"), new_data(likelihood, N, D)
    mu, logvar = vae.encode(x)
    m, s = vae.prior.moments()  # type: ignore[misc]
    each = distributions.kl_divergence(
        distributions.Normal(mu, torch.exp(logvar / 2)), distributions.Normal(m, torch.exp(s / 2))
    )
    floor = each.detach().median().item()
    ours = vae.loss(x, free_bits=floor, beta=2.0, reduction="none", generator=generator())
    torch.testing.assert_close(ours.kl, each.sum(1))
    charged = each.clamp_min(floor).sum(1)
    torch.testing.assert_close(ours.loss, ours.reconstruction + 2 * charged)
