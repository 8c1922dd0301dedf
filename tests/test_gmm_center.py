"""Components that share a center: the digits of their moments, where it serves and where not."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import ops, reference
from test_gmm import check


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.4, 1.9, 2.1, 60.0, 70.0])
@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
@pytest.mark.parametrize(("n", "d", "k"), [(700, 3, 9), (507, 65, 2), (65, 17, 7)])
def test_means_near_each_other_and_not(
    cpu_level: str, covariance_type: str, n: int, d: int, k: int, spread: float, dtype: type
) -> None:
    """Means within 2 standard deviations (float64: 64) of the pivot share one center."""
    rng = np.random.default_rng(d)
    means = spread * rng.uniform(-1, 1, (k, d))
    means[0], means[1] = -spread, spread
    factor = np.ones((k, d) if covariance_type == "diag" else k)
    X = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d)) + 1e4).astype(dtype)
    check(X, (np.full(k, 1 / k), means + 1e4, factor), covariance_type, rng.uniform(0, 3, n))


@pytest.mark.parametrize(("dtype", "spread"), [(np.float32, 1e-4), (np.float64, 1e-8)])
@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_rows_closer_to_near_means_than_the_model_expects(
    cpu_level: str, covariance_type: str, dtype: type, spread: float
) -> None:
    """About a shared center their moments would be lost in its rounding."""
    rng = np.random.default_rng(5)
    d = 24  # in which components that are near in each feature are far from each other
    X = np.repeat([np.full(d, -1.0), np.full(d, 1.0)], 300, axis=0).astype(dtype)
    X += spread * rng.normal(size=X.shape).astype(dtype)
    means = np.array([X[:300].mean(axis=0), X[300:].mean(axis=0)], np.float64)
    factor = np.full((2, d) if covariance_type == "diag" else 2, 1.5)
    mixture = np.array([0.5, 0.5]), means, factor
    got = ops.gmm_statistics(X, *mixture, covariance_type)
    exact = reference.gmm_statistics(X, *mixture, covariance_type)
    np.testing.assert_allclose(got.second_moments, exact.second_moments, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-7), (np.float64, 1e-14)])
@pytest.mark.parametrize("spread", [1.0, 7.5])
@pytest.mark.parametrize("k", [4, 9, 10, 11])
def test_tied_means(cpu_level: str, k: int, spread: float, dtype: type, tolerance: float) -> None:
    """First moments keep their digits, about one center or each about its own."""
    rng = np.random.default_rng(k)
    n, d = 3001, 22
    means = spread * rng.uniform(-1, 1, (k, d))
    X = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(dtype)
    mixture = np.full(k, 1 / k), means, np.eye(d)
    got = ops.gmm_statistics(X, *mixture, "tied")
    exact = reference.gmm_statistics(X, *mixture, "tied")
    moved = (got.first_moments - exact.first_moments) / exact.counts[:, None]
    np.testing.assert_allclose(moved, 0, atol=tolerance)
