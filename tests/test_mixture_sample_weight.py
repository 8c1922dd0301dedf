"""Sample weights: rows weigh as they should in every step; starts are in test_mixture_copies."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture as SklearnMixture

from elbokit import GaussianMixture

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
INIT_PARAMS = ("kmeans", "k-means++", "random", "random_from_data")
ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def data():
    X = make_blobs(n_samples=60, centers=3, n_features=2, cluster_std=1.0, random_state=3)[0]
    return X, np.random.default_rng(0).integers(0, 4, size=60)


def given_start(X, covariance_type):
    source = SklearnMixture(3, covariance_type=covariance_type, random_state=1, max_iter=2).fit(X)
    return {
        "weights_init": source.weights_,
        "means_init": source.means_,
        "precisions_init": source.precisions_,
    }


def assert_same_fit(a, b, rtol):
    for name in ARRAYS:
        assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol, err_msg=name)
    assert_allclose(a.lower_bounds_, b.lower_bounds_, rtol=rtol)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_integer_weights_are_repeated_rows(data, covariance_type):
    X, counts = data
    parameters = given_start(X, covariance_type) | {"n_components": 3, "max_iter": 15, "tol": 0.0}
    parameters["covariance_type"] = covariance_type
    repeated = np.repeat(X, counts, axis=0)
    weighted = GaussianMixture(**parameters).fit(X, sample_weight=counts)
    copies = GaussianMixture(**parameters).fit(repeated)
    assert_same_fit(weighted, copies, rtol=1e-10)
    assert_same_fit(weighted, SklearnMixture(**parameters).fit(repeated), rtol=1e-9)
    assert weighted.score(X, sample_weight=counts) == pytest.approx(copies.score(repeated))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_kmeans_start_is_weighted(data, covariance_type):
    # Clusters far apart: k-means finds them whatever it draws, so the starts agree.
    X, counts = data
    X = X + 100 * np.repeat(np.eye(3)[:, :2], 20, axis=0)
    parameters = {"n_components": 3, "covariance_type": covariance_type, "max_iter": 0}
    weighted = GaussianMixture(random_state=0, **parameters).fit(X, sample_weight=counts)
    copies = GaussianMixture(random_state=0, **parameters).fit(np.repeat(X, counts, axis=0))
    a, b = np.lexsort(weighted.means_.T), np.lexsort(copies.means_.T)
    assert_allclose(weighted.weights_[a], copies.weights_[b], rtol=1e-12)
    assert_allclose(weighted.means_[a], copies.means_[b], rtol=1e-12)
    if covariance_type == "tied":
        assert_allclose(weighted.covariances_, copies.covariances_, rtol=1e-9)
    else:
        assert_allclose(weighted.covariances_[a], copies.covariances_[b], rtol=1e-9)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
def test_weight_zero_is_no_row(data, init_params):
    X, counts = data
    counts = counts.astype(float)
    model = GaussianMixture(3, init_params=init_params, random_state=0, max_iter=10)
    weighted = model.fit(X, sample_weight=counts)
    without = GaussianMixture(3, init_params=init_params, random_state=0, max_iter=10).fit(
        X[counts > 0], sample_weight=counts[counts > 0]
    )
    for name in ARRAYS:
        assert_array_equal(getattr(weighted, name), getattr(without, name))
    assert len(model.fit_predict(X, sample_weight=counts)) == len(X)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("constant", [1, 0.25])
def test_equal_weights_are_no_weights(data, init_params, constant):
    X, _ = data
    model = GaussianMixture(3, init_params=init_params, random_state=0, max_iter=10)
    plain = model.fit(X).means_
    assert_array_equal(model.fit(X, sample_weight=np.full(len(X), constant)).means_, plain)
    assert_array_equal(model.fit(X, None, None).means_, plain)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_only_ratios_of_weights_matter(data, init_params, covariance_type):
    X, counts = data
    weight = counts + 0.5
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "init_params": init_params,
        "random_state": 0,
        "max_iter": 5,
        "tol": 0.0,
        "reg_covar": 1e-3,
    }
    small = GaussianMixture(**parameters).fit(X, sample_weight=1e-9 * weight)
    large = GaussianMixture(**parameters).fit(X, sample_weight=1e9 * weight)
    assert_same_fit(small, large, rtol=1e-7)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [1e-300, 1e-44, 1e40, 5e307])  # the last: an infinite sum
def test_size_of_the_weights_does_not_matter(data, covariance_type, dtype, constant):
    X, counts = data[0].astype(dtype), data[1].astype(float)
    parameters = given_start(data[0], covariance_type) | {"n_components": 3, "max_iter": 15}
    parameters |= {"covariance_type": covariance_type, "tol": 0.0}
    plain = GaussianMixture(**parameters).fit(X, sample_weight=counts)
    scaled = GaussianMixture(**parameters).fit(X, sample_weight=constant * counts)
    assert_same_fit(scaled, plain, rtol=1e-10 if dtype == np.float64 else 2e-5)
    score = plain.score(X, sample_weight=counts)
    assert plain.score(X, sample_weight=constant * counts) == pytest.approx(score)


@pytest.mark.parametrize("init_params", INIT_PARAMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_power_of_two_changes_no_bit(data, init_params, dtype):
    X, counts = data[0].astype(dtype), 0.75 * data[1]  # integers would be numbers of copies
    model = GaussianMixture(3, init_params=init_params, random_state=0, max_iter=5, reg_covar=1e-3)
    plain = model.fit(X, sample_weight=counts).means_
    for exponent in (-1000, 1000):
        scaled = model.fit(X, sample_weight=np.ldexp(counts, exponent)).means_
        assert_array_equal(scaled, plain)


def test_float32_data_with_weights(data):
    X, counts = data
    parameters = given_start(X, "full") | {"n_components": 3, "max_iter": 15, "tol": 0.0}
    weighted = GaussianMixture(**parameters).fit(X.astype(np.float32), sample_weight=counts)
    copies = SklearnMixture(**parameters).fit(np.repeat(X, counts, axis=0))
    assert weighted.means_.dtype == np.float32
    assert_same_fit(weighted, copies, rtol=2e-5)
