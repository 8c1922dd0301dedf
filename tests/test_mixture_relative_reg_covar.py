"""Regularisation in proportion to the features' variances."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import GaussianMixture
from elbokit._types import SingularCovarianceError
from gmm_starts import COVARIANCE_TYPES, clusters

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def one_component(X, covariance_type, weight=None, **options):
    gm = GaussianMixture(covariance_type=covariance_type, **options)
    return gm.fit(X, sample_weight=weight)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_it_adds_that_part_of_the_variances(rng, covariance_type, dtype):
    X = (rng.normal(size=(60, 3)) * [1.0, 5.0, 0.1]).astype(dtype)
    weight = rng.uniform(0.5, 3.0, size=60)
    mean = np.average(X, axis=0, weights=weight)
    variance = np.average((X - mean) ** 2, axis=0, weights=weight)
    plain = one_component(X, covariance_type, weight, reg_covar=0.0)
    ours = one_component(X, covariance_type, weight, reg_covar=0.5, relative_reg_covar=0.25)
    added = np.squeeze(ours.covariances_ - plain.covariances_)
    expected = {
        "full": np.diag(0.5 + 0.25 * variance),
        "tied": np.diag(0.5 + 0.25 * variance),
        "diag": 0.5 + 0.25 * variance,
        "spherical": 0.5 + 0.25 * variance.mean(),
    }[covariance_type]
    np.testing.assert_allclose(
        added,
        expected,
        rtol=1e-5 if dtype == np.float32 else 1e-10,
        atol=2e-6 if dtype == np.float32 else 1e-12,
    )


@pytest.mark.parametrize("init_params", ["kmeans", "random", "random_from_data"])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_scaling_the_data_scales_the_result(rng, covariance_type, init_params):
    X = clusters(rng, 150, 3, 3)
    factor = np.array([1e3, 1.0, 1e-3])
    if covariance_type == "spherical" or init_params == "kmeans":
        factor = np.full(3, 1e-3)  # what else they find depends on the features' proportions
    options = {"relative_reg_covar": 0.01, "init_params": init_params, "random_state": 0}
    a, b = (
        GaussianMixture(3, covariance_type=covariance_type, reg_covar=0.0, **options).fit(data)
        for data in (X, X * factor)
    )
    np.testing.assert_allclose(b.means_, a.means_ * factor, rtol=1e-7)
    scale = {"diag": factor**2, "spherical": factor[0] ** 2}
    matrix = scale.get(covariance_type, np.outer(factor, factor))
    np.testing.assert_allclose(b.covariances_, a.covariances_ * matrix, rtol=1e-6)
    assert a.n_iter_ == b.n_iter_
    # The absolute one does not do that.
    options["relative_reg_covar"] = 0.0
    a, b = (
        GaussianMixture(3, covariance_type=covariance_type, reg_covar=0.01, **options).fit(data)
        for data in (X, X * factor)
    )
    assert not np.allclose(b.covariances_, a.covariances_ * matrix, rtol=1e-3)


def test_every_mixture_of_a_fit_gets_it(rng):
    X = np.repeat(rng.normal(size=(4, 2)) * 10, 6, axis=0)
    for covariance_type in COVARIANCE_TYPES:
        options = {"covariance_type": covariance_type, "reg_covar": 0.0, "random_state": 0}
        with pytest.raises(SingularCovarianceError):
            GaussianMixture(4, **options).fit(X)
        gm = GaussianMixture(4, relative_reg_covar=1e-3, n_init=3, **options).fit(X)
        least = 1e-3 * X.var(axis=0)
        if covariance_type == "spherical":
            least = least.mean()
        if covariance_type in ("full", "tied"):
            least = np.diag(least)
        np.testing.assert_allclose(
            gm.covariances_,
            np.broadcast_to(least, gm.covariances_.shape)
            if covariance_type != "diag"
            else np.tile(least, (4, 1)),
            rtol=1e-6,
            atol=1e-12,
        )


def test_a_constant_column_has_no_variance_to_take_a_part_of(rng):
    X = rng.normal(size=(30, 2))
    X[:, 1] = 0.1
    with pytest.raises(SingularCovarianceError):
        GaussianMixture(reg_covar=0.0, relative_reg_covar=0.1).fit(X)


@pytest.mark.parametrize("value", [-0.1, np.nan, "much", None])
def test_bad_values(rng, value):
    with pytest.raises(ValueError, match="relative_reg_covar"):
        GaussianMixture(relative_reg_covar=value).fit(rng.normal(size=(9, 2)))
