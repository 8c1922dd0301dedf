"""Moments of labelled rows on the GPU, and the start of a mixture from them, by definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from elbokit import _gpu_kmeans, ops
from test_cuda_kmeans import clusters


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (9, 2, 3), (257, 3, 2), (1025, 16, 4), (4100, 5, 2), (600, 33, 3), (300, 129, 2)],
)
def test_label_moments(
    gpu: torch.device, shape: tuple[int, int, int], dtype: torch.dtype, full: bool
) -> None:
    n, d, k = shape
    rng = np.random.default_rng(0)
    for offset, weighted in [(0.0, False), (1e4, True)]:
        X = torch.from_numpy(clusters(n, d, k) + offset).to(dtype)
        labels = rng.integers(-1, k, size=n).astype(np.int32)
        weight = rng.uniform(size=n).astype(np.float64 if dtype == torch.float64 else np.float32)
        near = offset + rng.normal(size=(k, d))
        found = _gpu_kmeans.label_moments(
            X.to(gpu),
            torch.from_numpy(labels).to(gpu),
            torch.from_numpy(near).to(gpu),
            full,
            torch.from_numpy(weight).to(gpu) if weighted else None,
        )
        exact = X.double().numpy()
        w = weight.astype(np.float64) if weighted else np.ones(n)
        for label in range(k):
            rows = labels == label
            count, mean, second = (a[label].cpu().numpy() for a in found)
            if not rows.any():
                assert count == 0
                assert_array_equal(mean, near[label])
                assert_array_equal(second, 0)
                continue
            assert_allclose(count, w[rows].sum(), rtol=1e-13)
            expected = np.average(exact[rows], axis=0, weights=w[rows])
            assert_allclose(mean, expected, rtol=1e-13, atol=1e-13)
            about = exact[rows] - expected
            moment = (about * w[rows, None]).T @ about
            expected = moment if full else np.diagonal(moment)
            # Moments about `near` are moved to the mean.
            atol = 1e-13 * max(1.0, (w[rows] @ (exact[rows] - near[label]) ** 2).max())
            assert_allclose(second, expected, rtol=1e-10, atol=atol)


def test_label_moments_of_all_rows(gpu: torch.device) -> None:
    X = clusters(700, 4, 3)
    tensor = torch.from_numpy(X).to(gpu)
    whole = _gpu_kmeans.label_moments(tensor, None, tensor[:1], True)
    assert float(whole.counts[0]) == 700
    assert_allclose(whole.means[0].cpu(), X.mean(axis=0), rtol=1e-12, atol=1e-13)
    assert_allclose(whole.second[0].cpu() / 700, np.cov(X.T, bias=True), rtol=1e-12, atol=1e-13)
    none = _gpu_kmeans.label_moments(
        tensor, torch.full((700,), 3, dtype=torch.int32, device=gpu), tensor[:3], False
    )
    assert float(none.counts.sum()) == 0


@pytest.mark.parametrize("matrices", [False, True])
def test_the_start_of_a_mixture(gpu: torch.device, matrices: bool) -> None:
    X = clusters(600, 3, 4)
    tensor = torch.from_numpy(X).to(gpu)
    start, finite = _gpu_kmeans.kmeans_start(tensor, 4, np.random.RandomState(2), matrices=matrices)
    assert finite
    labels = ops.kmeans(X, 4, random_state=2).labels
    for label in range(4):
        rows = X[labels == label]
        second = len(rows) * np.cov(rows.T, bias=True)
        assert float(start.counts[label]) == len(rows)
        assert_allclose(start.means[label].cpu(), rows.mean(axis=0), rtol=1e-12)
        expected = second if matrices else np.diagonal(second)
        assert_allclose(start.second[label].cpu(), expected, rtol=1e-10, atol=1e-10)
    tensor = tensor.clone()
    tensor[5, 1] = np.nan
    start, finite = _gpu_kmeans.kmeans_start(tensor, 4, np.random.RandomState(2), matrices=matrices)
    assert not finite
    assert float(start.counts.sum() + start.second.sum()) == 0
