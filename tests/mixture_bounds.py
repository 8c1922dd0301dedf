"""Oracles of a mixture's bound: from the responsibilities, and with scipy's densities."""

from __future__ import annotations

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from elbokit import MixturePrior
from elbokit._types import GmmStatistics
from elbokit.mixture._prior import CorePrior, resolve_prior


def matrices(covariances: np.ndarray, covariance_type: str, k: int, d: int) -> np.ndarray:
    """Every component's covariance as a matrix."""
    covariances = np.asarray(covariances, dtype=np.float64)
    if covariance_type == "diag":
        return np.array([np.diag(each) for each in covariances])
    if covariance_type == "spherical":
        return covariances[:, None, None] * np.eye(d)
    return np.broadcast_to(covariances, (k, d, d))


def log_joint(X, weights, means, covariances, covariance_type) -> np.ndarray:
    """log w_k N(x_n | mu_k, Sigma_k), of shape (n_samples, n_components)."""
    each = matrices(covariances, covariance_type, *np.shape(means))
    columns = [
        np.log(w) + stats.multivariate_normal(m, s).logpdf(X).reshape(-1)
        for w, m, s in zip(weights, means, each, strict=True)
    ]
    return np.stack(columns, axis=1)


def responsibilities(X, *parameters) -> np.ndarray:
    joint = log_joint(X, *parameters)
    return np.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def free_energy(X, q, sample_weight, *parameters) -> float:
    """sum_n w_n sum_k q_nk (log p(x_n, k) - log q_nk)."""
    terms = q * log_joint(X, *parameters) - np.where(q > 0, q * np.log(np.where(q > 0, q, 1)), 0)
    return float(sample_weight @ terms.sum(axis=1))


def log_density(prior: MixturePrior, weights, means, covariances, covariance_type) -> float:
    """log p of the parameters under a prior all of whose fields are given."""
    k, d = np.shape(means)
    each = matrices(covariances, covariance_type, k, d)
    nu, scale = prior.degrees_of_freedom, np.asarray(prior.covariance)
    total = stats.dirichlet(np.broadcast_to(prior.weight_concentration, k)).logpdf(weights)
    if prior.mean_precision > 0:
        total += sum(
            stats.multivariate_normal(prior.mean, s / prior.mean_precision).logpdf(m)
            for m, s in zip(means, each, strict=True)
        )
    if covariance_type in ("full", "tied"):
        owners = each if covariance_type == "full" else each[:1]
        return float(total + sum(stats.invwishart(nu, scale).logpdf(s) for s in owners))
    variances = np.asarray(covariances, dtype=np.float64)
    return float(total + stats.invgamma(nu / 2, scale=scale / 2).logpdf(variances).sum())


def some_prior(covariance_type: str, k: int, d: int, mean_precision: float = 0.7) -> MixturePrior:
    """A prior with every field set to something of its own."""
    rng = np.random.default_rng(5)
    root = rng.normal(size=(d, d + 2))
    scale = {"diag": rng.uniform(0.5, 2, d), "spherical": 1.3}.get(covariance_type, root @ root.T)
    return MixturePrior(
        weight_concentration=1.0 + rng.uniform(0.2, 2, k),
        mean_precision=mean_precision,
        mean=rng.normal(size=d),
        degrees_of_freedom=d + 2.5,
        covariance=scale,
    )


def moments(X, q, about, covariance_type) -> GmmStatistics:
    """Sufficient statistics by their definition."""
    e = X[:, None, :] - about
    second = {
        "full": lambda: np.einsum("nk,nki,nkj->kij", q, e, e),
        "tied": lambda: np.einsum("nk,nki,nkj->ij", q, e, e),
        "diag": lambda: np.einsum("nk,nki->ki", q, e**2),
        "spherical": lambda: np.einsum("nk,nki->k", q, e**2),
    }[covariance_type]()
    return GmmStatistics(q.sum(axis=0), np.einsum("nk,nki->ki", q, e), second, 0.0)


def resolved(prior, covariance_type, k, d) -> CorePrior:
    return resolve_prior(prior, covariance_type, k, np.zeros(d), np.ones(d))
