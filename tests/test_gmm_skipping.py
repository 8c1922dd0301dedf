"""Well separated components: what is skipped must stay below the rounding of the sums."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import _core, ops, reference
from test_gmm import COVARIANCE_TYPES, RELATIVE, assert_close, check, random_mixture

SHAPES = [
    (3001, 5, 7),
    (2700, 21, 14),
    (2500, 13, 9),
    (1999, 24, 6),
    (2100, 31, 12),
    (1500, 50, 20),
    (900, 70, 9),
    (1300, 125, 8),  # vectors in fours, in twos, single and in part, at each level
]
FEW_FEATURES = [(5003, 1, 9), (7001, 2, 16), (4001, 3, 40), (2999, 4, 12), (1100, 2, 300)]


def separated(
    rng: np.random.Generator, covariance_type: str, n: int, d: int, k: int, spread: float = 30.0
) -> tuple[np.ndarray, tuple]:
    """Draw rows about means `spread` standard deviations apart, and a mixture that fits them."""
    mixture = random_mixture(rng, covariance_type, k, d, spread=spread / np.sqrt(d))
    X = mixture[1][rng.integers(k, size=n)] + rng.normal(size=(n, d))
    return X, mixture


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize(("n", "d", "k"), SHAPES + FEW_FEATURES)
def test_separated(
    cpu_level: str, covariance_type: str, n: int, d: int, k: int, dtype: type
) -> None:
    rng = np.random.default_rng(n)
    X, mixture = separated(rng, covariance_type, n, d, k)
    check(X.astype(dtype), mixture, covariance_type, None)
    check(X.astype(dtype), mixture, covariance_type, rng.uniform(0, 3, n) * (rng.random(n) > 0.2))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 9, 40])
def test_separated_among_overlapping(cpu_level: str, covariance_type: str, d: int) -> None:
    """Half of the components share rows, half do not."""
    rng = np.random.default_rng(d)
    _, (weights, means, factor) = separated(rng, covariance_type, 1, d, 12)
    means[:6] = rng.normal(size=(6, d)) / np.sqrt(d)
    X = means[rng.integers(12, size=2000)] + rng.normal(size=(2000, d))
    check(X.astype(np.float32), (weights, means, factor), covariance_type, None)
    X[::101] += 80  # far from all, where a tiny responsibility carries a large square
    check(X, (weights, means, factor), covariance_type, None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [24, 50])
def test_separated_in_the_last_features_alone(cpu_level: str, d: int, dtype: type) -> None:
    """The first features call the wrong one of two components nearest; it is 60 deviations away."""
    rng = np.random.default_rng(d)
    _, (weights, means, factor) = separated(rng, "full", 1, d, 14)
    means[9, :16], factor[9] = means[4, :16], factor[4]
    means[9, 16:] = means[4, 16:] + 60 / np.sqrt(d - 16)
    X = means[rng.integers(14, size=2000)] + rng.normal(size=(2000, d))
    mixture = weights, means, factor
    check(X.astype(dtype), mixture, "full", None)
    check(X.astype(dtype), mixture, "full", rng.uniform(0, 3, len(X)) * (rng.random(len(X)) > 0.2))
    X[1001] += 80  # far from all
    check(X.astype(dtype), mixture, "full", None)


@pytest.mark.parametrize(("d", "distance"), [(2, 24), (6, 12), (40, 12)])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_component_that_keeps_little(
    cpu_level: str, covariance_type: str, d: int, distance: float
) -> None:
    """Half of the weight on a component that no row is near: its few sums must not be lost."""
    rng = np.random.default_rng(3)
    X, (weights, means, factor) = separated(rng, covariance_type, 1500, d, 8)
    weights[:] = 0.5 / 7
    weights[0] = 0.5
    at_first = ((X - means[0]) ** 2).sum(axis=1) < 4 * d
    X = X[~at_first].astype(np.float32)
    unit = np.eye(d) if covariance_type == "full" else np.ones(d)
    factor[0] = unit  # spherical about its mean, and moved to where it is small but not nothing
    means[0] = means[1] + distance / np.sqrt(d)
    exact = reference.gmm_statistics(X, weights, means, factor, covariance_type)
    assert 0 < exact.counts[0] < 1e-6
    got = ops.gmm_statistics(X, weights, means, factor, covariance_type)
    assert_close(got.counts, exact.counts, RELATIVE[np.float32])
    for ours, theirs in zip(got[:3], exact[:3], strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-3 * np.abs(theirs[0]).max())


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("d", [2, 26])
@pytest.mark.usefixtures("restore_threads")
def test_separated_on_any_number_of_threads(cpu_level: str, covariance_type: str, d: int) -> None:
    rng = np.random.default_rng(4)
    X, mixture = separated(rng, covariance_type, 20_011, d, 9)
    results = []
    for threads in (1, 3):
        _core.set_num_threads(threads)
        results.append(ops.gmm_statistics(X.astype(np.float32), *mixture, covariance_type))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("n", "d"), [(1003, 29), (6007, 3)])
def test_separated_in_any_memory_order(cpu_level: str, order: str, n: int, d: int) -> None:
    rng = np.random.default_rng(5)
    X, mixture = separated(rng, "full", n, d, 9)
    check(np.asarray(X, np.float32, order=order), mixture, "full", None)
    check(X.astype(np.float32)[::-2], mixture, "full", None)


@pytest.mark.parametrize("d", [4, 26])
def test_separated_float32_in_double(cpu_level: str, d: int) -> None:
    """A feature that float32 sums cannot resolve: rows are widened as they are packed or listed."""
    rng = np.random.default_rng(6)
    X, (weights, means, _) = separated(rng, "full", 2000, d, 5)
    X[:, 3] = X[:, 2] + 1e-4 * rng.normal(size=len(X))
    X = X.astype(np.float32)
    factor = np.tile(np.eye(d), (5, 1, 1))
    fits = [
        ops.gmm_fit(data, weights, means, factor, "full", tol=0.0, max_iter=4, reg_covar=0.0)
        for data in (X, X.astype(np.float64))
    ]
    np.testing.assert_allclose(fits[0].means, fits[1].means, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        fits[0].precisions_cholesky, fits[1].precisions_cholesky, rtol=1e-3, atol=1e-2
    )


@pytest.mark.usefixtures("restore_threads")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [255, 256, 257, 991, 992, 993, 1985, 3071, 3073])
def test_hard_rows_of_any_number(cpu_level: str, n: int, dtype: type) -> None:
    """Rows of one component are sorted and added by the thousand; some of several among them."""
    _core.set_num_threads(1)
    rng = np.random.default_rng(n)
    corners = np.stack(np.meshgrid([0.0, 40.0, 80.0], [0.0, 40.0, 80.0]), axis=-1).reshape(-1, 2)
    means = np.concatenate([corners, corners[:1] + 1.5])
    mixture = np.full(10, 0.1), means, np.tile(np.eye(2), (10, 1, 1))
    X = means[rng.integers(10, size=n)] + rng.normal(size=(n, 2))
    for weight in (None, rng.uniform(0, 3, n) * (rng.random(n) > 0.2), heavy(rng, n)):
        check(X.astype(dtype), mixture, "full", weight)


def heavy(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw weights of which some are thousands of times the mean."""
    weight = rng.uniform(0, 1e-4, n)
    weight[rng.integers(n)] = 1.0
    return weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hard_rows_far_from_all(cpu_level: str, dtype: type) -> None:
    """A row in no component's reach stays with the exact sums, where it counts for several."""
    rng = np.random.default_rng(2)
    means = 50.0 * np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), axis=-1).reshape(-1, 2)
    mixture = np.full(9, 1 / 9), means, np.tile(np.eye(2), (9, 1, 1))
    X = means[rng.integers(9, size=4000)] + rng.normal(size=(4000, 2))
    X[::501] += 1e4
    X[7] = [25.0, 0.0]  # between two
    check(X.astype(dtype), mixture, "full", None)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_row_that_no_component_reaches_among_many_features(
    cpu_level: str, covariance_type: str
) -> None:
    """Such a row has no posterior mean either, and must not enter the second moments."""
    rng = np.random.default_rng(8)
    mixture = random_mixture(rng, covariance_type, 5, 9)
    X = rng.normal(size=(70, 9)).astype(np.float32)
    exact = reference.gmm_statistics(X, *mixture, covariance_type)
    unreached = np.concatenate([X, np.full((1, 9), 1e25, np.float32)])
    got = ops.gmm_statistics(unreached, *mixture, covariance_type, [1.0] * 70 + [0.0])
    for ours, theirs in zip(got, exact, strict=True):
        assert_close(ours, theirs, RELATIVE[np.float32])


def test_padding_is_not_what_the_memory_held(restore_threads: None) -> None:
    """Features that are no multiple of four: rows that are followed to the end are padded."""
    _core.set_num_threads(1)
    rng = np.random.default_rng(3)
    n, d, groups, each = 6000, 65, 30, 8
    # Groups of components so near each other that a row has several to follow.
    means = np.repeat(5 * rng.normal(size=(groups, d)), each, axis=0)
    means += 0.05 * rng.normal(size=means.shape)
    k = len(means)
    X = (means[rng.integers(k, size=n)] + rng.normal(size=(n, d))).astype(np.float32)
    mixture = np.full(k, 1 / k), means, np.broadcast_to(np.eye(d), (k, d, d)).copy()
    clean = ops.gmm_statistics(X, *mixture, "full")
    for _ in range(3):
        soiled = [np.full(size, np.nan, np.float32) for size in [1 << 20] * 30 + [1 << 18] * 60]
        del soiled
        for a, b in zip(clean, ops.gmm_statistics(X, *mixture, "full"), strict=True):
            np.testing.assert_array_equal(a, b)
