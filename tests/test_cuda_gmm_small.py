"""Mixtures of few features on the GPU: their statistics against those of the CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elbokit import _core, ops
from elbokit._cuda_library import cuda_kernels
from elbokit._gpu_fit_many import _rows
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import vector
from gpu import SCHEDULES, emulation

COVARIANCES = ("full", "tied", "diag", "spherical")
# float32, and what computes in float32; double of double, and of float32.
DTYPES = [
    (torch.float32, False),
    (torch.bfloat16, False),
    (torch.float16, False),
    (torch.float64, True),
    (torch.float32, True),
]


@functools.cache
def mixtures(batch: int, n: int, d: int, k: int, covariance_type: str, offset: float = 0.0) -> Any:
    """X (batch, n, d), weights, means, covariances, precisions_cholesky; means far apart or not."""
    rng = np.random.default_rng([batch, n, d, k, COVARIANCES.index(covariance_type)])
    means = offset + 2 * rng.normal(size=(batch, k, d))
    X = means[:, rng.integers(k, size=n)] + rng.normal(size=(batch, n, d))
    weights = rng.dirichlet(np.ones(k), size=batch)
    a = rng.normal(size=(batch, k, d, d)) / 2 + np.eye(d)
    covariances = {
        "full": a @ a.transpose(0, 1, 3, 2) + 0.1 * np.eye(d),
        "tied": a[:, 0] @ a[:, 0].transpose(0, 2, 1) + 0.1 * np.eye(d),
        "diag": rng.uniform(0.3, 2, size=(batch, k, d)),
        "spherical": rng.uniform(0.3, 2, size=(batch, k)),
    }[covariance_type]
    factors, failed = np.empty_like(covariances), np.empty(batch, dtype=np.int64)
    _core.gmm_factors(covariance_type, k, d, covariances, factors, failed)
    assert (failed < 0).all()
    return X, weights, means, covariances, factors


def statistics(
    X: Tensor,
    weights: Any,
    means: Any,
    factors: Any,
    covariance_type: str,
    sample_weight: Any = None,
    wide: bool = False,
) -> Any:
    """The kernel's, as arrays; None where it does not take the mixtures."""
    kernels = cuda_kernels()
    batch, k, d = means.shape
    parameters = [
        torch.as_tensor(a, device=X.device).contiguous() for a in (weights, means, factors)
    ]
    shapes = (batch, k), (batch, k, d), factors.shape, (batch,)
    outputs = [torch.full(s, torch.nan, dtype=torch.float64, device=X.device) for s in shapes]
    described = _rows(X[0])
    size = kernels.gmm_small_workspace(queue(X, 0), described, batch, covariance_type, k, wide)
    if size is None:
        return None
    weight = None
    if sample_weight is not None:
        weight = torch.as_tensor(sample_weight, device=X.device).reshape(-1)
    kernels.gmm_small_statistics(
        queue(X, size),
        described,
        batch,
        X.stride(0),
        None if weight is None else vector(weight),
        covariance_type,
        k,
        *(vector(a.view(-1)) for a in parameters),
        wide,
        *(vector(a.view(-1)) for a in outputs),
    )
    return [a.cpu().numpy() for a in outputs]


def agree(ours: Any, theirs: Any, n: int, tolerance: float) -> None:
    """Moments to the rounding of a row's, of the size of the largest one."""
    for a, b in zip(ours, theirs, strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
@pytest.mark.parametrize(("d", "k"), [(1, 1), (1, 9), (2, 16), (2, 5), (3, 7), (4, 3), (4, 32)])
def test_statistics(gpu: torch.device, d: int, k: int, covariance_type: str) -> None:
    for n, batch in ((1, 1), (33, 2), (300, 1)):
        X, weights, means, _, factors = mixtures(batch, n, d, k, covariance_type)
        for dtype, wide in DTYPES if n == 33 else DTYPES[:1] + DTYPES[3:4]:
            rows = torch.as_tensor(X).to(dtype)
            given = rows.to(torch.float64).numpy()
            ours = statistics(rows.to(gpu), weights, means, factors, covariance_type, wide=wide)
            theirs = ops.gmm_statistics(given, weights, means, factors, covariance_type)
            agree(ours, theirs, n, 1e-12 if wide else 1e-5)


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_many_components_and_rows(gpu: torch.device, covariance_type: str) -> None:
    """As many components as fit, and enough rows for several flushes of each warp."""
    for d, k, n in ((1, 256, 70), (2, 128, 70), (2, 3, 9000)):
        X, weights, means, _, factors = mixtures(1, n, d, k, covariance_type)
        rows = torch.as_tensor(X).float()
        ours = statistics(rows.to(gpu), weights, means, factors, covariance_type)
        theirs = ops.gmm_statistics(rows.double().numpy(), weights, means, factors, covariance_type)
        agree(ours, theirs, n, 1e-5)
    for d, k in ((2, 129), (5, 2)):
        X, weights, means, _, factors = mixtures(1, 70, d, k, covariance_type)
        assert statistics(torch.as_tensor(X), weights, means, factors, covariance_type) is None


@pytest.mark.parametrize("covariance_type", COVARIANCES)
def test_signed_weights_strides_and_offsets(gpu: torch.device, covariance_type: str) -> None:
    n, d, k, batch = 75, 2, 6, 2
    X, weights, means, _, factors = mixtures(batch, n, d, k, covariance_type, 1e4)
    weights = weights.copy()
    weights[0, 2] = 0.0
    sample_weight = np.random.default_rng(1).normal(size=(batch, n))
    sample_weight[:, ::7] = 0.0
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        wider = torch.zeros((n, batch, d + 3), dtype=dtype, device=gpu)
        wider[:, :, 1 : d + 1] = torch.as_tensor(X).transpose(0, 1).to(wider)
        rows = wider[:, :, 1 : d + 1].transpose(0, 1)
        wide = dtype == torch.float64
        given = rows.double().cpu().numpy()
        ours = statistics(rows, weights, means, factors, covariance_type, sample_weight, wide)
        theirs = signed(given, weights, means, factors, covariance_type, sample_weight)
        agree(ours, theirs, n, tolerance)


def signed(X: Any, weights: Any, means: Any, factors: Any, kind: str, w: Any) -> Any:
    """The statistics of weights of either sign: of the positive ones less the others'."""
    parts = [
        ops.gmm_statistics(X, weights, means, factors, kind, sample_weight=np.maximum(s * w, 0.0))
        for s in (1, -1)
    ]
    return [a - b for a, b in zip(*parts, strict=True)]


def test_far_rows_and_nan(gpu: torch.device) -> None:
    """Rows that no component reaches count for nothing but log p = -inf; NaN shows everywhere."""
    X, weights, means, _, factors = mixtures(1, 40, 2, 5, "full")
    for dtype in (torch.float32, torch.float64):
        rows = torch.as_tensor(X, device=gpu).to(dtype, copy=True)

        def run(rows: Tensor) -> Any:
            wide = rows.dtype == torch.float64
            return statistics(rows, weights, means, factors, "full", wide=wide)

        reached = run(rows[:, 1:])
        rows[0, 0] = torch.finfo(dtype).max / 4
        far = run(rows)
        np.testing.assert_allclose(far[0], reached[0], rtol=1e-5)
        np.testing.assert_allclose(far[2], reached[2], rtol=1e-4, atol=1e-4)
        assert far[3] == -np.inf
        rows[0, 0] = torch.nan
        for a in run(rows):
            assert np.isnan(a).all()


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_schedules_give_the_same_bits(covariance_type: str) -> None:
    X, weights, means, _, factors = mixtures(2, 333, 3, 7, covariance_type)
    rows = torch.as_tensor(X).float()
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            results.append(statistics(rows, weights, means, factors, covariance_type))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
