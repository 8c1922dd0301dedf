from __future__ import annotations

import numpy as np
import pytest

from elbokit import _core


def random_covariances(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    a = rng.normal(size=(n, d, d + 2))
    return a @ a.swapaxes(-1, -2) / d


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 16, 17, 64, 130])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_against_lapack(cpu_level: str, n: int, d: int, rng: np.random.Generator) -> None:
    covariances = random_covariances(rng, n, d)
    factors = np.full_like(covariances, np.nan)
    assert _core.precision_cholesky(covariances, factors) == -1
    assert not np.tril(factors, -1).any()
    condition = np.linalg.cond(covariances).max(initial=1.0)
    exact = np.linalg.inv(np.linalg.cholesky(covariances)).swapaxes(-1, -2)
    scale = np.abs(exact).max(initial=1.0)
    np.testing.assert_allclose(factors, exact, rtol=0, atol=4e-16 * d * condition * scale)
    product = factors.swapaxes(-1, -2) @ covariances @ factors
    identity = np.broadcast_to(np.eye(d), product.shape)
    np.testing.assert_allclose(product, identity, rtol=0, atol=1e-15 * d * condition)


def test_only_the_lower_triangle_is_read(rng: np.random.Generator) -> None:
    covariances = random_covariances(rng, 2, 5)
    expected, factors = np.empty_like(covariances), np.empty_like(covariances)
    _core.precision_cholesky(covariances, expected)
    _core.precision_cholesky(np.tril(covariances), factors)
    np.testing.assert_array_equal(factors, expected)


@pytest.mark.parametrize("bad", [3, 0, 199])
@pytest.mark.parametrize("d", [2, 40])
@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, np.inf])
def test_the_first_that_is_not_positive_definite_is_named(
    cpu_level: str, bad: int, d: int, value: float, rng: np.random.Generator
) -> None:
    covariances = random_covariances(rng, 200, d)
    for i in {bad, 199}:
        covariances[i, d - 1, d - 1] = value
    assert _core.precision_cholesky(covariances, np.empty_like(covariances)) == bad


def test_a_singular_covariance_fails() -> None:
    assert _core.precision_cholesky(np.ones((1, 3, 3)), np.empty((1, 3, 3))) == 0


@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 16, 17, 64, 130])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_product_of_a_factor(cpu_level: str, n: int, d: int, rng: np.random.Generator) -> None:
    factors = np.triu(rng.normal(size=(n, d, d)))
    below = np.tril(np.full((d, d), np.nan), -1)  # is not read
    precisions = np.full_like(factors, np.nan)
    _core.precision_product(factors + below, precisions)
    exact = factors @ factors.swapaxes(-1, -2)
    np.testing.assert_allclose(precisions, exact, rtol=0, atol=1e-15 * d * d)
    np.testing.assert_array_equal(precisions, precisions.swapaxes(-1, -2))
