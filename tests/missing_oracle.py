"""Mixtures of incomplete rows, one row at a time, in plain NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import multivariate_normal


def with_holes(rng: np.random.Generator, X: np.ndarray, rate: float = 0.3) -> np.ndarray:
    """Some entries are missing; of row 1 all, of row 2 none, of row 3 all but one."""
    holes = rng.random(X.shape) < rate
    holes[1], holes[2], holes[3] = True, False, np.arange(X.shape[1]) != 0
    return np.where(holes, np.array(np.nan, X.dtype), X)


def matrices(covariances: np.ndarray, covariance_type: str, k: int, d: int) -> np.ndarray:
    """Return the covariance matrix of each component."""
    return {
        "full": lambda: covariances,
        "tied": lambda: np.broadcast_to(covariances, (k, d, d)),
        "diag": lambda: np.stack([np.diag(v) for v in covariances]),
        "spherical": lambda: np.stack([v * np.eye(d) for v in covariances]),
    }[covariance_type]()


def joint_log_prob(
    X: np.ndarray, weights: np.ndarray, means: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return ``log weights_k N(x_o | k)`` of each row and component."""
    out = np.tile(np.log(weights), (len(X), 1))
    for n, x in enumerate(X):
        o = np.flatnonzero(~np.isnan(x))
        if len(o):
            for k in range(len(weights)):
                out[n, k] += multivariate_normal.logpdf(x[o], means[k, o], sigma[k][np.ix_(o, o)])
    return out


def posterior(X: np.ndarray, *parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log p(x_o) and the responsibilities."""
    joint = joint_log_prob(X, *parameters)
    log_prob = logsumexp(joint, axis=1)
    return log_prob, np.exp(joint - log_prob[:, None])


def conditional_moments(
    x: np.ndarray, mean: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return E[x | x_o] and Cov[x | x_o] of a Gaussian, of all features."""
    o, m = np.flatnonzero(~np.isnan(x)), np.flatnonzero(np.isnan(x))
    slope = sigma[np.ix_(m, o)] @ np.linalg.inv(sigma[np.ix_(o, o)])
    full, spread = x.copy(), np.zeros_like(sigma)
    full[m] = mean[m] + slope @ (x[o] - mean[o])
    spread[np.ix_(m, m)] = sigma[np.ix_(m, m)] - slope @ sigma[np.ix_(o, m)]
    return full, spread


def statistics(
    X: np.ndarray,
    weights: np.ndarray,
    means: np.ndarray,
    sigma: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return counts, first and second moments about the means (matrices), log-likelihood."""
    log_prob, shares = posterior(X, weights, means, sigma)
    row_weight = np.ones(len(X)) if sample_weight is None else sample_weight
    counts = row_weight @ shares
    first, second = np.zeros_like(means), np.zeros_like(sigma)
    for n, x in enumerate(X):
        for k, mean in enumerate(means):
            full, spread = conditional_moments(x, mean, sigma[k])
            share = row_weight[n] * shares[n, k]
            first[k] += share * (full - mean)
            second[k] += share * (np.outer(full - mean, full - mean) + spread)
    return counts, first, second, float(row_weight @ log_prob)


def in_shape(second: np.ndarray, covariance_type: str) -> np.ndarray:
    """Return second moments as the covariance type keeps them."""
    forms: dict[str, Any] = {
        "full": lambda: second,
        "tied": lambda: second.sum(axis=0),
        "diag": lambda: np.einsum("kii->ki", second),
        "spherical": lambda: np.einsum("kii->k", second),
    }
    return np.asarray(forms[covariance_type]())


def impute(X: np.ndarray, weights: np.ndarray, means: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the expectation of each row given what was observed of it."""
    _, shares = posterior(X, weights, means, sigma)
    return np.stack(
        [
            sum(
                share * conditional_moments(x, mean, s)[0]
                for share, mean, s in zip(row, means, sigma, strict=True)
            )
            for x, row in zip(X, shares, strict=True)
        ]
    )
