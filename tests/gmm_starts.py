"""Data and starts for fits of Gaussian mixtures."""

from __future__ import annotations

import numpy as np

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def unit_factors(covariance_type: str, k: int, d: int) -> np.ndarray:
    """Factors of unit precisions."""
    return {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type]


def clusters(rng: np.random.Generator, n: int, d: int, k: int, spread: float = 3.0) -> np.ndarray:
    """Rows from k overlapping groups."""
    centres = spread * rng.normal(size=(k, d))
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def start(rng: np.random.Generator, X: np.ndarray, k: int, covariance_type: str) -> tuple:
    """Weights, means among the rows (repeated where they are few), unit factors."""
    rows = rng.permutation(len(X))[np.arange(k) % len(X)]
    jitter = 0.1 * rng.normal(size=(k, X.shape[1]))
    return (
        rng.dirichlet(np.full(k, 5.0)),
        X[rows] + jitter,
        unit_factors(covariance_type, k, X.shape[1]),
    )


def ragged(
    rng: np.random.Generator, sizes: list[int], d: int, k: int, covariance_type: str
) -> tuple[list[np.ndarray], list[tuple]]:
    """Rows and a start for each mixture."""
    data = [clusters(rng, n, d, k) for n in sizes]
    return data, [start(rng, X, k, covariance_type) for X in data]
