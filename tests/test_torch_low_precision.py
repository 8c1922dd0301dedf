"""Models in bfloat16 and float16, and under autocast: every method, and densities in float32."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from elbokit.torch import (
    VAE,
    DiagonalPosterior,
    FullPosterior,
    GaussianMixturePrior,
    LearnedPrior,
    StandardPrior,
    VAETrainer,
    importance_log_likelihood,
)
from torch_cases import draw, targets

N, D, K = 5, 6, 3
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
LOW = (torch.bfloat16, torch.float16)
POSTERIORS: dict[str, Any] = {"diagonal": DiagonalPosterior(), "full": FullPosterior()}
PRIORS: dict[str, Any] = {
    "standard": lambda: StandardPrior(K),
    "learned": lambda: LearnedPrior(K),
    "mixture": lambda: GaussianMixturePrior(4, K),
    "full mixture": lambda: GaussianMixturePrior(4, K, "full"),
}


def new_vae(posterior: str, prior: str, dtype: torch.dtype) -> VAE:
    torch.manual_seed(0)
    return VAE(D, K, (8,), posterior=posterior, prior=PRIORS[prior]()).to(dtype)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_method(posterior: str, prior: str, dtype: torch.dtype) -> None:
    vae, x = new_vae(posterior, prior, dtype), targets(N, D).to(dtype)
    out = vae(x)
    assert (out.z.dtype, out.logits.dtype) == (torch.float32, dtype)
    loss = vae.loss(x).loss
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.dtype == dtype for p in vae.encoder.parameters())
    bounds = vae.elbo(x, 2), vae.log_likelihood(x, 3)
    assert all(bound.dtype == torch.float32 and bound.isfinite().all() for bound in bounds)
    views = vae.reconstruct(x), vae.sample(N), vae.decode(out.z), vae.interpolate(x, x, 2)[0]
    assert all(view.dtype == dtype and view.shape == x.shape for view in views)
    assert vae.sample(2, mean=False).shape == (2, D)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed"])
@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_training_of_a_full_posterior(precision: str, prior: str) -> None:
    vae, x = new_vae("full", prior, torch.float32), targets(16, D).float()
    options: Any = {"max_epochs": 2, "progress": False, "precision": precision}
    # Adam's epsilon is 0 in float16.
    trainer = VAETrainer(vae, **options, optimizer=lambda p: torch.optim.SGD(p, 0.01)).fit(x, x)
    assert math.isfinite(trainer.history["val_bound"][-1])


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("name", POSTERIORS)
def test_densities_of_a_narrow_posterior(name: str, low: torch.dtype) -> None:
    posterior = POSTERIORS[name]
    mu, scale = (t.to(low) for t in posterior.parameters(draw(N, posterior.n_outputs(K)), K))
    z, noise = posterior.draw(mu, scale, 7)
    exact = mu.double(), scale.double()
    torch.testing.assert_close(z.double(), posterior.transform(noise.double(), *exact), **CLOSE)
    expected = posterior.log_prob(z.double(), *exact)
    # What autocast would narrow as well.
    for enabled in (False, True):
        with torch.autocast("cpu", low, enabled=enabled):
            found = posterior.log_prob(z, mu, scale), posterior.log_prob_of_noise(noise, scale)
            same = posterior.transform(noise, mu.float(), scale.float()) if not enabled else z
            again = posterior.rsample(mu, scale, 7, generator=torch.Generator().manual_seed(1))
        assert torch.equal(same, z)
        for each in found:
            torch.testing.assert_close(each.double(), expected, **CLOSE)
        if not enabled:
            outside = again
    assert torch.equal(again, outside)
    # A point that is narrow is a point too.
    narrow = posterior.log_prob(z.to(low), mu, scale)
    expected = posterior.log_prob(z.to(low).double(), *exact)
    torch.testing.assert_close(narrow.double(), expected, **CLOSE)


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("name", PRIORS)
def test_densities_of_a_narrow_prior(name: str, low: torch.dtype) -> None:
    torch.manual_seed(0)
    prior = PRIORS[name]()
    with torch.no_grad():
        for p in prior.parameters():
            p += 0.3 * torch.randn(p.shape)
    prior.to(low)
    exact = copy.deepcopy(prior).double()
    for z in (torch.randn(N, K), torch.randn(N, K).to(low)):
        torch.testing.assert_close(prior.log_prob(z).double(), exact.log_prob(z.double()), **CLOSE)
    assert prior.sample(2).shape == (2, K)


def test_kl_of_a_full_posterior_to_a_narrow_prior() -> None:
    posterior, prior = FullPosterior(), LearnedPrior(K).bfloat16()
    torch.nn.init.normal_(prior.logvar)
    mu, scale = posterior.parameters(draw(N, posterior.n_outputs(K)).bfloat16(), K)
    kl, _ = posterior.kl(mu.bfloat16(), scale.bfloat16(), prior.moments())
    exact = copy.deepcopy(prior).double()
    given = mu.bfloat16().double(), scale.bfloat16().double()
    torch.testing.assert_close(kl.double(), posterior.kl(*given, exact.moments())[0], **CLOSE)


class Constant(nn.Module):
    """A posterior whose sigma is not a number of bfloat16."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("logvar", torch.full((n,), 0.01))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logvar = self.logvar.expand(len(x), -1)
        return torch.zeros_like(logvar), logvar


@pytest.mark.parametrize("low", LOW, ids=str)
@pytest.mark.parametrize("given_prior", [False, True])
def test_importance_sampling_is_not_biased(low: torch.dtype, given_prior: bool) -> None:
    """Of data that do not depend on z the estimate is E_q[p(z) / q(z)], whose logarithm is 0."""
    n, seen = 64, set()
    mu, logvar = Constant(n).to(low)(torch.zeros(2, D))

    def log_prob(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        seen.add(z.dtype)
        return torch.zeros(len(z))

    options: Any = {"generator": torch.Generator().manual_seed(0)}
    if given_prior:
        options["log_prior"] = StandardPrior(n).log_prob
    estimate = importance_log_likelihood(log_prob, torch.zeros(2, D), (mu, logvar), 4000, **options)
    assert seen == {low}
    torch.testing.assert_close(estimate, torch.zeros(2), rtol=0, atol=0.01)

    decoder = nn.Linear(n, D)
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    vae = VAE(latent_dim=n, encoder=Constant(n), decoder=decoder).to(low)
    x = torch.zeros(2, D, dtype=low)
    estimate = vae.log_likelihood(x, 4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, torch.full((2,), -D * math.log(2)), rtol=0, atol=0.01)
