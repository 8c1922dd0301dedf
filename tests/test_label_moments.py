"""The moments of labelled rows, against sums in higher precision."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import elbokit
from elbokit import _core
from test_kmeans import clusters


def moments(X, labels, near, full, sample_weight=None, offsets=None):
    """Call the kernel on one batch of problems."""
    size, k, d = near.shape
    counts, means = np.empty((size, k)), near.copy()
    second = np.empty((size, k, d, d) if full else (size, k, d))
    _core.label_moments(X, offsets, sample_weight, labels, full, means, counts, second)
    return counts, means, second


def expected_moments(X, weight, full):
    X, weight = X.astype(np.float64), weight.astype(np.float64)
    mean = weight @ X / weight.sum()
    second = ((X - mean) * weight[:, None]).T @ (X - mean)
    return weight.sum(), mean, second if full else np.diagonal(second)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (9, 2, 3), (70, 3, 2), (5001, 5, 7), (300, 16, 4), (900, 37, 5)]
)
def test_label_moments(shape, dtype, full, cpu_level):
    n, d, k = shape
    rng = np.random.default_rng(0)
    for offset, weighted in [(0.0, False), (1e4, True)]:
        X = (clusters(n, d, k) + offset).astype(dtype)
        labels = rng.integers(-1, k, size=n).astype(np.int32)
        weight = rng.uniform(size=n).astype(dtype) if weighted else None
        near = offset + rng.normal(size=(1, k, d))
        counts, means, second = moments(
            X[None], labels[None], near, full, None if weight is None else weight[None]
        )
        for label in range(k):
            rows = labels == label
            if not rows.any():
                assert counts[0, label] == 0
                assert_array_equal(means[0, label], near[0, label])
                assert_array_equal(second[0, label], 0)
                continue
            w = np.ones(n) if weight is None else weight
            expected = expected_moments(X[rows], w[rows], full)
            assert_allclose(counts[0, label], expected[0], rtol=1e-13)
            assert_allclose(means[0, label], expected[1], rtol=1e-13, atol=1e-13)
            atol = 1e-10 * max(1.0, np.abs(expected[2]).max())
            assert_allclose(second[0, label], expected[2], rtol=1e-10, atol=atol)


def test_label_moments_of_a_ragged_batch(restore_threads):
    rng = np.random.default_rng(1)
    offsets = np.array([0, 3, 5000, 5001, 9000])
    X = rng.normal(size=(1, 9000, 3))
    labels = rng.integers(0, 2, size=(1, 9000)).astype(np.int32)
    near = rng.normal(size=(4, 2, 3))
    results = []
    for threads in (1, 3):
        elbokit.set_num_threads(threads)
        results.append(moments(X, labels, near, True, offsets=offsets))
    for a, b in zip(*results, strict=True):
        assert_array_equal(a, b)
    for b in range(4):
        rows = slice(offsets[b], offsets[b + 1])
        single = moments(X[:, rows], labels[:, rows].copy(), near[b : b + 1], True)
        for all_of_them, one in zip(results[0], single, strict=True):
            assert_array_equal(all_of_them[b], one[0])


def test_labels_out_of_range_are_refused():
    X, labels = np.zeros((1, 3, 2)), np.array([[0, 1, 2]], np.int32)
    with pytest.raises(ValueError, match="`labels` has 2 in row 2, expected less than 2"):
        moments(X, labels, np.zeros((1, 2, 2)), False)
