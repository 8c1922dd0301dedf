"""log p(x) = L(q) + KL(q || posterior), for any q, on mixtures: background.md's identity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.special import xlogy

from elbokit import ops, reference

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def random_case(seed, covariance_type):
    """Return data, a random mixture and a random q(z|x) for every row."""
    rng = np.random.default_rng(seed)
    n, k, d = rng.integers(1, 12), rng.integers(1, 6), rng.integers(1, 5)
    X = rng.normal(size=(n, d))
    weights = rng.dirichlet(np.ones(k))
    means = rng.normal(size=(k, d))
    shape = {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}
    factor = rng.uniform(0.5, 2.0, size=shape[covariance_type])
    if covariance_type in ("full", "tied"):
        factor = np.triu(factor)
    # Small concentrations make some q nearly one-hot.
    q = rng.dirichlet(np.full(k, rng.choice([0.05, 1.0, 10.0])), size=n)
    return X, weights, means, factor, q


def free_energy(q, log_joint):
    """Return E_q[log p(x, z)] + H(q) of each row."""
    return np.sum(q * log_joint - xlogy(q, q), axis=1)


def penalised_fit(q, log_density, weights):
    """Return E_q[log p(x|z)] - KL(q || p(z)) of each row."""
    return np.sum(q * log_density, axis=1) - kl(q, weights)


def kl(q, p):
    """Return KL(q || p) of each row."""
    return np.sum(xlogy(q, q) - xlogy(q, p), axis=1)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_identity_for_any_q(covariance_type, seed):
    X, weights, means, factor, q = random_case(seed, covariance_type)
    log_density = reference.gmm_log_density(X, means, factor, covariance_type)
    log_prob, posterior = ops.gmm_estep(X, weights, means, factor, covariance_type)

    bound = free_energy(q, log_density + np.log(weights))
    scale = 1.0 + np.abs(log_density).max()
    assert_allclose(bound, penalised_fit(q, log_density, weights), rtol=0, atol=1e-12 * scale)
    # log p(x) - L is the divergence from the posterior; where the posterior is rounded to
    # zero, its logarithm is taken from the joint.
    log_posterior = log_density + np.log(weights) - log_prob[:, None]
    gap = np.sum(xlogy(q, q) - q * log_posterior, axis=1)
    assert_allclose(log_prob - bound, gap, rtol=0, atol=1e-12 * scale)
    assert (gap > -1e-12 * scale).all()
    assert_allclose(posterior, np.exp(log_posterior), rtol=0, atol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_exact_estep_closes_the_gap(covariance_type, seed):
    X, weights, means, factor, _ = random_case(seed, covariance_type)
    log_density = reference.gmm_log_density(X, means, factor, covariance_type)
    log_prob, posterior = ops.gmm_estep(X, weights, means, factor, covariance_type)
    bound = free_energy(posterior, log_density + np.log(weights))
    scale = 1.0 + np.abs(log_density).max()
    assert_allclose(bound, log_prob, rtol=0, atol=1e-12 * scale)

    statistics = ops.gmm_statistics(X, weights, means, factor, covariance_type)
    assert_allclose(statistics.log_likelihood, bound.sum(), rtol=0, atol=1e-12 * scale * len(X))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_gap_is_positive_for_a_wrong_q(covariance_type):
    X, weights, means, factor, _ = random_case(7, covariance_type)
    log_density = reference.gmm_log_density(X, means, factor, covariance_type)
    log_prob, posterior = ops.gmm_estep(X, weights, means, factor, covariance_type)
    q = 0.5 * posterior + 0.5 / len(weights)
    bound = free_energy(q, log_density + np.log(weights))
    assert_allclose(log_prob - bound, kl(q, posterior), rtol=1e-9)
    assert (log_prob - bound > 1e-6).all()
