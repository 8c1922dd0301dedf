"""GaussianMixture.from_parameters: a known mixture as a fitted estimator."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.base import clone

import missing_oracle as oracle
from elbokit import GaussianMixture, fit_mixtures
from gmm_starts import COVARIANCE_TYPES, clusters

types = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def fitted(covariance_type: str, dtype: type = np.float64) -> tuple[GaussianMixture, np.ndarray]:
    X = clusters(np.random.default_rng(0), 200, 3, 3).astype(dtype)
    return GaussianMixture(3, covariance_type=covariance_type, random_state=0).fit(X), X


@types
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_mixture(covariance_type, dtype) -> None:
    gm, X = fitted(covariance_type, dtype)
    made = GaussianMixture.from_parameters(
        gm.weights_, gm.means_, gm.covariances_, covariance_type, random_state=3
    )
    assert made.get_params()["random_state"] == 3
    assert made.n_components == 3
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    assert_allclose(made.score_samples(X), gm.score_samples(X), rtol=tolerance, atol=tolerance)
    assert_array_equal(made.predict(X), gm.predict(X))
    assert_allclose(made.bic(X), gm.bic(X), rtol=tolerance)
    sigma = oracle.matrices(made.covariances_, covariance_type, 3, 3)
    density = sum(
        w * multivariate_normal(m, s).pdf(X[:9])
        for w, m, s in zip(made.weights_, made.means_, sigma, strict=True)
    )
    assert_allclose(made.score_samples(X[:9]), np.log(density), rtol=1e-9)
    precisions = oracle.matrices(made.precisions_, covariance_type, 3, 3)
    assert_allclose(precisions, np.linalg.inv(sigma), rtol=1e-7, atol=1e-7)
    assert made.sample(5)[0].shape == (5, 3)
    assert made.marginal([0, 2]).n_features_in_ == 2
    assert_array_equal(pickle.loads(pickle.dumps(made)).predict(X), gm.predict(X))
    assert not hasattr(clone(made), "means_")
    assert (made.lower_bound_, made.n_iter_, made.converged_) == (-np.inf, 0, False)


@types
def test_it_can_be_fitted_further(covariance_type) -> None:
    gm, X = fitted(covariance_type)
    made = GaussianMixture.from_parameters(
        gm.weights_, gm.means_, gm.covariances_, covariance_type, warm_start=True
    )
    assert made.fit(X).n_iter_ <= 3
    assert_allclose(made.means_, gm.means_, atol=0.05)
    again = GaussianMixture.from_parameters(
        gm.weights_, gm.means_, gm.covariances_, covariance_type
    )
    assert np.isfinite(again.partial_fit(X).means_).all()


def test_one_of_many() -> None:
    batch = np.stack([clusters(np.random.default_rng(i), 90, 2, 2) for i in range(4)])
    fits = fit_mixtures(batch, 2, random_state=0)
    one = GaussianMixture.from_parameters(fits.weights[2], fits.means[2], fits.covariances[2])
    assert_array_equal(one.precisions_cholesky_, fits.precisions_cholesky[2])


def test_weights_that_sum_to_one_in_float32() -> None:
    weights = np.full(7, 1 / 7, np.float32)
    weights[0] += np.float32(2e-6)
    made = GaussianMixture.from_parameters(
        weights, np.arange(7.0)[:, None], np.ones(7), "spherical"
    )
    assert made.weights_.sum() == pytest.approx(1.0, abs=1e-15)
    assert made.sample(9)[0].shape == (9, 1)  # multinomial would refuse larger sums


def test_it_keeps_nothing_of_what_it_was_given() -> None:
    means = np.zeros((1, 2))
    made = GaussianMixture.from_parameters([1.0], means, [[1.0, 2.0]], "diag")
    means[:] = 9.0
    assert_array_equal(made.means_, [[0.0, 0.0]])


GOOD: dict[str, Any] = {
    "weights": [0.25, 0.75],
    "means": [[0.0, 0.0], [1.0, 1.0]],
    "covariances": [np.eye(2), np.eye(2)],
}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"weights": [1.0]}, r"`weights` has shape \(1,\), expected \(2,\)"),
    ({"weights": [0.5, 0.6]}, r"`weights` has the least value 0.5 and the sum 1.1"),
    ({"weights": [1.5, -0.5]}, r"`weights` has the least value -0.5"),
    ({"means": [0.0, 1.0]}, r"`means` has shape \(2,\), expected \(n_components, n_features\)"),
    ({"means": [[0.0, np.nan], [1.0, 1.0]]}, r"`means` has nan at \(0, 1\), expected finite"),
    ({"means": "many"}, "`means` is 'many', expected an array of numbers"),
    ({"covariance_type": "diag"}, r"`covariances` has shape \(2, 2, 2\), expected \(2, 2\)"),
    ({"covariance_type": "round"}, "`covariance_type` is 'round', expected one of 'full', 'tied'"),
    ({"covariances": [np.eye(2), -np.eye(2)]}, "`covariances` of component 1 is not positive"),
    ({"covariances": [np.eye(2), [[1.0, 0.5], [0, 1.0]]]}, "`covariances` is not symmetric"),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_bad_parameters(change, match) -> None:
    with pytest.raises(ValueError, match=match):
        GaussianMixture.from_parameters(**{**GOOD, **change})
