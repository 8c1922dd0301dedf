"""The M-step at the mode of the posterior, against scipy's densities and optimisers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from elbokit import _core
from elbokit.mixture._parameters import GmmParameters, covariances_from_cholesky
from elbokit.mixture._update import maximise
from gmm_starts import COVARIANCE_TYPES, clusters, unit_factors
from mixture_bounds import free_energy, log_density, moments, resolved, some_prior


def one_step(rng, covariance_type, mean_precision, k=3, d=2, n=40):
    """Data, responsibilities, a prior, and the M-step with the statistics about other points."""
    X, q = clusters(rng, n, d, k), rng.dirichlet(np.ones(k), size=n)
    prior = some_prior(covariance_type, k, d, mean_precision)
    about = rng.normal(size=(k, d))
    factors = 0.8 * unit_factors(covariance_type, k, d)
    covariances = covariances_from_cholesky(factors, covariance_type)
    previous = GmmParameters(rng.dirichlet(np.ones(k)), about, covariances, factors)
    statistics = moments(X, q, about, covariance_type)
    core = resolved(prior, covariance_type, k, d)
    options = {"reg_covar": 0.0, "threshold": 0.0, "prior": core}
    return X, q, prior, previous, maximise(statistics, previous, covariance_type, **options)


def unpack(theta, covariance_type, k, d):
    """Parameters from unconstrained ones: softmax, means, Cholesky factors or logarithms."""
    weights = np.exp(theta[:k] - theta[:k].max())
    means, rest = theta[k : k + k * d].reshape(k, d), theta[k + k * d :]
    if covariance_type in ("diag", "spherical"):
        shape = (k, d) if covariance_type == "diag" else (k,)
        return weights / weights.sum(), means, np.exp(rest).reshape(shape)
    lower = np.zeros((k if covariance_type == "full" else 1, d, d))
    lower[(slice(None), *np.tril_indices(d))] = rest.reshape(len(lower), -1)
    covariances = lower @ lower.swapaxes(1, 2)
    return (
        weights / weights.sum(),
        means,
        covariances if covariance_type == "full" else covariances[0],
    )


def pack(parameters, covariance_type):
    weights, means, covariances = parameters[:3]
    if covariance_type in ("diag", "spherical"):
        rest = np.log(covariances)
    else:
        lower = np.linalg.cholesky(covariances).reshape(-1, *covariances.shape[-2:])
        rest = lower[(slice(None), *np.tril_indices(means.shape[1]))]
    return np.concatenate([np.log(weights), means.ravel(), rest.ravel()])


@pytest.mark.parametrize("mean_precision", [0.0, 0.7])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_m_step_is_the_maximum_that_an_optimiser_finds(rng, covariance_type, mean_precision):
    X, q, prior, _, step = one_step(rng, covariance_type, mean_precision, k=2, n=15)
    ones = np.ones(len(X))

    def loss(theta):
        parameters = unpack(theta, covariance_type, 2, 2)
        with np.errstate(all="ignore"):
            energy = free_energy(X, q, ones, *parameters, covariance_type)
            return -energy - log_density(prior, *parameters, covariance_type)

    mode = pack(step.parameters, covariance_type)
    gradient = optimize.approx_fprime(mode, loss, 1e-6)
    # A step of 1e-6 in a loss of a few hundred: the differences are good to some 1e-4.
    np.testing.assert_allclose(gradient, 0.0, atol=2e-3)
    begin = mode + 0.3 * rng.normal(size=mode.shape)
    assert np.abs(optimize.approx_fprime(begin, loss, 1e-6)).max() > 1.0
    found = optimize.minimize(loss, begin, method="BFGS", options={"gtol": 1e-4})
    assert found.fun == pytest.approx(loss(mode), abs=1e-6)
    assert loss(mode) <= found.fun + 1e-9
    ours = unpack(mode, covariance_type, 2, 2)
    for other, own in zip(unpack(found.x, covariance_type, 2, 2), ours, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mean_precision", [0.0, 0.7])
@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_densities_are_those_of_scipy(rng, covariance_type, d, mean_precision):
    X, q, prior, previous, step = one_step(rng, covariance_type, mean_precision, d=d)
    ones = np.ones(len(X))
    before = log_density(prior, *previous[:3], covariance_type)
    assert step.log_prior == pytest.approx(before, rel=1e-10)
    after = free_energy(X, q, ones, *step.parameters[:3], covariance_type)
    after += log_density(prior, *step.parameters[:3], covariance_type)
    entropy_and_q = free_energy(X, q, ones, *previous[:3], covariance_type)
    assert step.gain == pytest.approx(after - entropy_and_q, rel=1e-10)


def test_the_formulas_of_one_covariance_per_component(rng):
    X, q, prior, _, step = one_step(rng, "full", 0.7)
    counts, kappa, m0 = q.sum(axis=0), prior.mean_precision, prior.mean
    average = (q.T @ X) / counts[:, None]
    concentration = counts + prior.weight_concentration - 1
    np.testing.assert_allclose(step.parameters.weights, concentration / concentration.sum())
    means = (kappa * m0 + counts[:, None] * average) / (kappa + counts)[:, None]
    np.testing.assert_allclose(step.parameters.means, means)
    for k in range(3):
        e, apart = X - average[k], average[k] - m0
        scatter = (q[:, k, None] * e).T @ e
        between = kappa * counts[k] / (kappa + counts[k]) * np.outer(apart, apart)
        divisor = prior.degrees_of_freedom + counts[k] + 2 + 2
        expected = (prior.covariance + scatter + between) / divisor
        np.testing.assert_allclose(step.parameters.covariances[k], expected)


@pytest.mark.parametrize("mean_precision", [0.0, 0.7])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_an_empty_component_goes_to_the_mode_of_the_prior(rng, covariance_type, mean_precision):
    k, d = 3, 4
    X, q = rng.normal(size=(30, d)), rng.dirichlet(np.ones(k), size=30)
    q[:, 1] = 0.0
    prior = some_prior(covariance_type, k, d, mean_precision)
    about, factors = rng.normal(size=(k, d)), unit_factors(covariance_type, k, d)
    step = maximise(
        moments(X, q, about, covariance_type),
        GmmParameters(np.full(k, 1 / k), about, factors, factors),
        covariance_type,
        reg_covar=0.0,
        threshold=0.0,
        prior=resolved(prior, covariance_type, k, d),
    )
    extra = prior.weight_concentration - 1
    total = q.sum() + extra.sum()
    assert step.parameters.weights[1] == pytest.approx(extra[1] / total)
    np.testing.assert_allclose(
        step.parameters.means[1], prior.mean if mean_precision else about[1], rtol=1e-12
    )
    located, nu = float(mean_precision > 0), prior.degrees_of_freedom
    divisor = {"full": nu + d + 1 + located, "diag": nu + 2 + located}
    divisor["spherical"] = nu + 2 + d * located
    if covariance_type != "tied":
        expected = prior.covariance / divisor[covariance_type]
        np.testing.assert_allclose(step.parameters.covariances[1], expected, rtol=1e-10)


def test_the_core_checks_what_it_is_given():
    arrays = [np.ones((1, 2)), np.zeros((1, 2, 3)), np.ones((1, 2, 3)), np.full((1, 2), 0.5)]
    arrays += [np.zeros((1, 2, 3)), np.ones((1, 2, 3)), np.ones((1, 2, 3))]
    good = (np.zeros(2), 0.1, np.zeros(3), 5.0, np.ones((1, 1, 3)), 0.0)
    assert _core.gmm_update("diag", *arrays, 0.0, 0.0, good)[0] == 0
    for field, bad in ((0, np.zeros(3)), (2, np.zeros(2)), (4, np.ones((1, 3)))):
        prior = tuple(bad if i == field else value for i, value in enumerate(good))
        with pytest.raises(ValueError, match=rf"prior\[{field}\]"):
            _core.gmm_update("diag", *arrays, 0.0, 0.0, prior)
    with pytest.raises(ValueError, match="5 fields, expected 6"):
        _core.gmm_update("diag", *arrays, 0.0, 0.0, good[:5])
    with pytest.raises(ValueError, match="reg_covar"):
        _core.gmm_update("diag", *arrays, np.zeros(2), 0.0)
