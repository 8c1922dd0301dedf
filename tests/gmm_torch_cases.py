"""Mixtures as tensors, and their log-density by torch's own distributions."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def mixture(
    covariance_type: str,
    n: int,
    k: int,
    d: int,
    *,
    batch: tuple[int, ...] = (),
    spread: float = 1.5,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """Rows, weights (they do not sum to one), means and factors of overlapping components."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=g, dtype=torch.float64)

    means = spread * normal(k, d)
    weights = 0.2 + torch.rand(*batch, k, generator=g, dtype=torch.float64)
    if covariance_type in ("full", "tied"):
        shape = (k, d, d) if covariance_type == "full" else (d, d)
        factors = (0.3 * normal(*shape) / d**0.5).triu(1)
        factors = factors + torch.diag_embed((0.2 * normal(*shape[:-1])).exp())
    else:
        factors = (0.2 * normal(*((k, d) if covariance_type == "diag" else (k,)))).exp()
    x = spread * normal(n, d)
    return tuple(t.to(dtype) for t in (x, weights, means, factors))


def full_factors(factors: torch.Tensor, covariance_type: str, k: int, d: int) -> torch.Tensor:
    """Each component's triangular factor."""
    if covariance_type == "full":
        return factors.triu()
    if covariance_type == "tied":
        return factors.triu().unsqueeze(-3).expand(*factors.shape[:-2], k, d, d)
    if covariance_type == "diag":
        return torch.diag_embed(factors)
    return factors[..., None, None] * torch.eye(d, dtype=factors.dtype)


def true_log_prob(
    x: torch.Tensor,
    weights: torch.Tensor,
    means: torch.Tensor,
    factors: torch.Tensor,
    covariance_type: str,
) -> torch.Tensor:
    """Log-density by torch's distributions, in float64, differentiable."""
    x, weights, means, factors = (t.double() for t in (x, weights, means, factors))
    k, d = means.shape[-2:]
    root = full_factors(factors, covariance_type, k, d)
    # Sigma = P^-T P^-1, and any L with L L^T = Sigma gives the density if its diagonal is positive.
    covariance = torch.linalg.inv(root @ root.mT)
    components = MultivariateNormal(means, covariance, validate_args=False)
    proportions = Categorical(weights, validate_args=False)
    normalised = MixtureSameFamily(proportions, components, validate_args=False)
    rows = x.movedim(-2, 0)
    log_prob = normalised.log_prob(rows).movedim(0, -1)
    return log_prob + weights.sum(-1).log()[..., None]
