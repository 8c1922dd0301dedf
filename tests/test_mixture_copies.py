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


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_two_of_each_row_are_repeated_rows(init_params):
    """Equal weights, too, count copies: in scikit-learn a second copy has draws of its own."""
    X, _ = data(0)
    parameters = {"n_components": 3, "covariance_type": "tied", "init_params": init_params}
    parameters |= {"random_state": 0, "max_iter": 3, "tol": 0.0}
    weighted = GaussianMixture(**parameters).fit(X, sample_weight=np.full(len(X), 2))
    assert_same_fit(weighted, GaussianMixture(**parameters).fit(np.repeat(X, 2, axis=0)))


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_restarts_and_float32(init_params):
    X, counts = data(1)
    X = X.astype(np.float32)
    parameters = {"n_components": 3, "init_params": init_params, "n_init": 3, "random_state": 1}
    parameters |= {"max_iter": 4, "tol": 0.0, "reg_covar": 1e-2}
    weighted = GaussianMixture(**parameters).fit(X, sample_weight=counts)
    copies = GaussianMixture(**parameters).fit(np.repeat(X, counts, axis=0))
    assert weighted.means_.dtype == np.float32
    assert_same_fit(weighted, copies, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_k_means_stops_where_it_stops_on_copies(dtype, cpu_level):
    """Its tolerance refers to the variance of the copies, not of the rows."""
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(size=(400, 2)), rng.normal(size=(10, 2)) * 100.0]).astype(dtype)
    counts = np.repeat([30, 1], [400, 10])
    for seed in range(3):
        parameters = {"n_components": 30, "random_state": seed, "max_iter": 0, "reg_covar": 0.01}
        weighted = GaussianMixture(**parameters).fit(X, sample_weight=counts)
        copies = GaussianMixture(**parameters).fit(np.repeat(X, counts, axis=0))
        assert_same_fit(weighted, copies, rtol=1e-8 if dtype == np.float64 else 1e-4)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("ragged", [False, True])
def test_batches_count_copies_too(init_params, ragged):
    """A loop over the estimator draws the same, whether or not a mixture's weights are integers."""
    X = np.stack([data(seed)[0] for seed in range(4)])
    weight = np.stack([data(seed)[1] for seed in range(4)]).astype(float)
    weight[1] *= 0.3
    weight[2] = 3.0
    weight[3] = 0.7
    options = {"init_params": init_params, "covariance_type": "tied", "max_iter": 3, "tol": 0.0}
    if ragged:
        rows, offsets = X.reshape(-1, 3), np.arange(5) * 70
        batch = fit_mixtures(
            rows, 3, offsets=offsets, sample_weight=weight.ravel(), random_state=0, **options
        )
    else:
        batch = fit_mixtures(X, 3, sample_weight=weight, random_state=0, **options)
    rng = np.random.RandomState(0)
    for b in range(4):
        one = GaussianMixture(3, random_state=rng, **options).fit(X[b], sample_weight=weight[b])
        assert_allclose(batch.means[b], one.means_, rtol=1e-10)
        assert_allclose(batch.covariances[b], one.covariances_, rtol=1e-10)
        assert batch.lower_bound[b] == pytest.approx(one.lower_bound_, rel=1e-10)


def test_shares_are_the_mean_of_the_copies_own():
    number = np.array([2, 1, 5000, 7])
    shares = draw_shares(number, 3, np.float64, np.random.RandomState(5))
    drawn = np.random.RandomState(5).uniform(size=(number.sum(), 3))
    drawn /= drawn.sum(axis=1, keepdims=True)
    ends = np.cumsum(number)
    expected = [drawn[end - n : end].mean(axis=0) for n, end in zip(number, ends, strict=True)]
    assert_allclose(shares, expected, rtol=1e-12)


def test_drawn_rows_are_those_of_the_drawn_copies():
    number = np.array([3, 1, 4, 2])
    for seed in range(10):
        copies = np.random.RandomState(seed).choice(10, size=4, replace=False)
        expected = np.repeat(np.arange(4), number)[copies]
        assert_array_equal(draw_rows(number, 4, np.random.RandomState(seed)), expected)


@pytest.mark.parametrize(
    ("weights", "copy"),
    [
        ([1, 2, 5], 0.125),
        ([3.0, 3.0, 3.0], 0.25),
        ([1.5, 2.0, 5.0], 0.0),
        ([1, 2, MOST_COPIES], 0.0),
        ([1, 2, MOST_COPIES - 3], 2.0**-24),
        ([1e300, 1e300, 2e300], 0.0),
        ([True, True, False], 0.5),
    ],
)
def test_which_weights_count_copies(weights, copy):
    assert weight_and_copy(weights, 3)[1] == copy


@pytest.mark.parametrize("weights", [None, [1, 1], [0.3, 0.3], [1e300, 1e300]])
def test_equal_weights_that_count_no_copies_are_none(weights):
    assert weight_and_copy(weights, 2) == (None, 1.0)
