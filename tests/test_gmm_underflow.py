"""Second moments of float32 rows whose squares underflow: summed up in float64."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import _gmm_underflow, ops, reference

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def unit_factor(covariance_type: str, k: int, d: int, scale: float) -> np.ndarray:
    return {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type] / scale


def close(got: ops.GmmStatistics, exact: ops.GmmStatistics, rtol: float) -> None:
    for a, b in zip(got, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("scale", [1e-19, 1e-22, 1e-25, 1e-40])
@pytest.mark.parametrize("model", [1.0, None])  # as wide as 1, or as the data
def test_small_rows(
    covariance_type: str, scale: float, model: float | None, rng: np.random.Generator
) -> None:
    if scale == 1e-40 and model is None:
        model = 1.0  # its precision is beyond float32
    X = (rng.normal(size=(1000, 3)) * scale).astype(np.float32)
    factor = unit_factor(covariance_type, 2, 3, model or scale)
    mixture = np.array([0.3, 0.7]), scale * rng.normal(size=(2, 3)), factor
    for weight in (None, rng.uniform(size=1000)):
        got = ops.gmm_statistics(X, *mixture, covariance_type, weight)
        exact = reference.gmm_statistics(X, *mixture, covariance_type, weight)
        assert 0.0 < exact.second_moments.max() < 1e4 * scale**2
        # The weights are rounded to float32.
        close(got, exact, 1e-13 if weight is None else 1e-6)


def test_rows_on_both_sides_of_the_mean() -> None:
    X = np.array([[1e-25], [-1e-25]], np.float32)
    got = ops.gmm_statistics(X, [1.0], [[0.0]], [[1.0]], "diag")
    assert got.first_moments.item() == 0.0
    np.testing.assert_allclose(got.second_moments.item(), 2e-50, rtol=1e-6)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_one_small_feature_of_one_component(covariance_type: str, rng: np.random.Generator) -> None:
    X = rng.normal(size=(600, 2)).astype(np.float32)
    X[:300, 1] *= np.float32(1e-25)
    X[300:] += 500
    mixture = np.array([0.5, 0.5]), np.array([[0.0, 0], [500, 500]])
    factor = unit_factor(covariance_type, 2, 2, 1.0)
    got = ops.gmm_statistics(X, *mixture, factor, covariance_type)
    exact = reference.gmm_statistics(X, *mixture, factor, covariance_type)
    small = (0, 1, 1) if covariance_type == "full" else (0, 1)
    assert 0.0 < exact.second_moments[small] < 1e-46
    np.testing.assert_allclose(got.second_moments[small], exact.second_moments[small], rtol=1e-12)


def test_batches_and_blocks_of_rows(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gmm_underflow, "_BLOCK_VALUES", 100)
    X = (rng.normal(size=(3, 70, 2)) * 1e-25).astype(np.float32)
    weight = rng.uniform(size=(3, 70)).astype(np.float32)
    mixture = np.array([1.0]), np.zeros((1, 2)), np.ones((1, 2))
    got = ops.gmm_statistics(X, *mixture, "diag", weight)
    for m in range(3):
        exact = reference.gmm_statistics(X[m], *mixture, "diag", weight[m])
        np.testing.assert_allclose(got.second_moments[m], exact.second_moments, rtol=1e-12)
        np.testing.assert_allclose(got.counts[m], exact.counts, rtol=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_constant_features_cost_no_second_pass(
    covariance_type: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero is not small: images have many features that are always 0."""

    def no(*_: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(ops, "statistics_in_float64", no)
    X = rng.normal(size=(400, 3)).astype(np.float32)
    X[:, 1] = 0.0
    X[:200, 2] = 7.25  # in one component alone
    X[200:, 0] += 60
    means = np.array([[0.0, 0.0, 7.25], [60.0, 0.0, 0.0]])
    factor = unit_factor(covariance_type, 2, 3, 1.0)
    got = ops.gmm_statistics(X, [0.5, 0.5], means, factor, covariance_type)
    exact = reference.gmm_statistics(X, [0.5, 0.5], means, factor, covariance_type)
    close(got, exact, 1e-5)
    if covariance_type == "diag":
        assert got.second_moments[0, 2] == got.second_moments[0, 1] == 0.0
    small = np.float32(1e-25)
    with pytest.raises(AssertionError, match="done again"):
        ops.gmm_statistics(X * small, [0.5, 0.5], means * small, factor, covariance_type)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("scale", [1e-19, 1e-22, 1e-30])
def test_iterations_on_small_rows(
    covariance_type: str, scale: float, rng: np.random.Generator
) -> None:
    X = rng.normal(size=(500, 3)) + 4.0 * rng.integers(0, 2, size=(500, 1))
    X = (X * scale).astype(np.float32)
    means = scale * np.array([[0.0, 0, 0], [4, 4, 4]])
    factor = unit_factor(covariance_type, 2, 3, scale)
    start = np.array([0.5, 0.5]), means, factor, covariance_type
    options = {"max_iter": 5, "tol": 0.0, "reg_covar": 0.0}
    got = ops.gmm_fit(X, *start, **options)
    exact = ops.gmm_fit(X.astype(np.float64), *start, **options)
    np.testing.assert_allclose(got.weights, exact.weights, rtol=1e-6)
    np.testing.assert_allclose(got.means, exact.means, rtol=1e-5, atol=1e-6 * scale)
    largest = exact.covariances.max()
    assert largest < 100 * scale**2
    np.testing.assert_allclose(got.covariances / largest, exact.covariances / largest, atol=1e-6)
    assert got.lower_bound == pytest.approx(exact.lower_bound, rel=1e-7)
