"""Each kernel alone, at each CPU level: has a change helped? ``make bench-kernels``.

pytest-benchmark keeps runs apart: ``--benchmark-save=before``, then ``--benchmark-compare=before``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from elbokit import _core, ops


@pytest.fixture(params=_core.cpu_levels(), autouse=True)
def cpu_level(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _core.cpu_level()
    _core.set_cpu_level(request.param)
    yield
    _core.set_cpu_level(before)


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


def normal(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("axis", [0, 1])
def test_logsumexp(benchmark: BenchmarkFixture, dtype: type, axis: int) -> None:
    benchmark(ops.logsumexp, normal((2_000, 500), dtype), axis)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize(("n", "d", "k"), [(20_000, 2, 16), (20_000, 16, 8), (4_000, 64, 32)])
def test_gmm_statistics(
    benchmark: BenchmarkFixture, dtype: type, n: int, d: int, k: int, covariance_type: str
) -> None:
    shapes = {"full": (k, 1, 1), "tied": (1, 1), "diag": (k, d), "spherical": (k,)}
    matrix = np.eye(d) if covariance_type in ("full", "tied") else np.ones(())
    factors = np.ones(shapes[covariance_type]) * matrix
    means = normal((k, d), np.float64) / np.sqrt(d)
    X, weights = normal((n, d), dtype), np.full(k, 1 / k)
    benchmark(ops.gmm_statistics, X, weights, means, factors, covariance_type)


@pytest.mark.parametrize("d", [16, 64])
def test_precision_cholesky(benchmark: BenchmarkFixture, d: int) -> None:
    covariances = np.tile(np.eye(d), (32, 1, 1))
    benchmark(_core.precision_cholesky, covariances, np.empty_like(covariances))


@pytest.mark.parametrize(("rows", "cols"), [(128, 784), (1_024, 784)])
def test_vae_loss(benchmark: BenchmarkFixture, dtype: type, rows: int, cols: int) -> None:
    logits, mu, logvar = (normal((rows, n), dtype) for n in (cols, 20, 20))
    target, grads = np.abs(logits) % 1, [np.empty_like(a) for a in (logits, mu, logvar)]
    terms = [np.empty(1, dtype) for _ in range(3)]
    benchmark(
        _core.vae_loss, logits, target, None, None, 1.0, mu, logvar, None, None, 1.0, 0.0, 1.0,
        False, *terms, *grads, None
    )  # fmt: skip


@pytest.mark.parametrize("noise", ["none", "number", "features", "elements"])
def test_gaussian_loss(benchmark: BenchmarkFixture, dtype: type, noise: str) -> None:
    mean = normal((1_024, 784), dtype)
    grad, of_columns = np.empty_like(mean), np.zeros((1, 784))
    shapes = {"number": (1, 1), "features": (1, 784), "elements": mean.shape}
    logvar = None
    if noise != "none":
        logvar = np.broadcast_to(normal(shapes[noise], dtype), mean.shape)
    by_element = np.empty_like(mean) if noise == "elements" else None
    benchmark(
        _core.gaussian_loss, mean, mean, logvar, None, None, -np.inf, np.inf, 1.0, 1.0, None,
        grad, by_element, None, of_columns if noise == "features" else None
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "classes", "inner"),
    [(65_536, 10, 1), (4_096, 256, 1), (64, 10_000, 1), (64, 256, 64), (64, 10, 4_096)],
)
def test_categorical_loss(
    benchmark: BenchmarkFixture, dtype: type, rows: int, classes: int, inner: int
) -> None:
    logits = normal((rows, classes * inner), dtype)
    target = np.random.default_rng(0).integers(classes, size=rows * inner)
    benchmark(
        _core.categorical_loss, logits, target, None, None, rows, classes, 1.0, None,
        np.empty_like(logits)
    )  # fmt: skip
