"""Integer weights are copies of rows from the start on: draws, k-means, EM."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture, fit_mixtures
from elbokit.mixture._copies import MOST_COPIES, draw_rows, draw_shares, weight_and_copy

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def data(seed, n=70, d=3):
    """Clusters that overlap, so that starts differ, and counts with zeros."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + rng.integers(0, 3, size=(n, 1))
    return X, rng.integers(0, 5, size=n)


def assert_same_fit(a, b, rtol=1e-8):
    assert a.n_iter_ == b.n_iter_
    for name in ARRAYS:
        assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol, err_msg=name)
    assert_allclose(a.lower_bounds_, b.lower_bounds_, rtol=rtol)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("max_iter", [0, 6])
def test_integer_weights_are_repeated_rows(covariance_type, init_params, max_iter):
    for seed in range(4):
        X, counts = data(seed)
        parameters = {
            "n_components": 3,
            "covariance_type": covariance_type,
            "init_params": init_params,
            "random_state": seed,
            "max_iter": max_iter,
            "tol": 0.0,
            "reg_covar": 1e-2,
        }
        repeated = np.repeat(X, counts, axis=0)
        weighted = GaussianMixture(**parameters).fit(X, sample_weight=counts)
        assert_same_fit(weighted, GaussianMixture(**parameters).fit(repeated))
        assert_same_fit(weighted, SklearnMixture(**parameters).fit(repeated), rtol=1e-6)
