"""Whole runs of EM on many small mixtures on the GPU, against those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from elbokit import _core, ops
from elbokit._gpu_fit_many import GpuFits, fit_many, takes_fit_many
from elbokit._types import FitStatus
from gpu import SCHEDULES, emulation
from test_cuda_gmm_small import COVARIANCES, mixtures

OPTIONS: dict[str, Any] = {"tol": 1e-4, "reg_covar": 1e-6, "max_iter": 20}
RUNNING = ("weights", "means", "covariances", "precisions_cholesky", "lower_bound")


def fit(
    gpu: torch.device,
    X: Any,
    start: Any,
    kind: str,
    offsets: Any = None,
    weight: Any = None,
    **options: Any,
) -> GpuFits:
    """Fit on the GPU, from weights, means and factors, whose covariances are the CPU's."""
    weights, means, factors = start
    covariances = np.empty_like(factors)
    for b in range(len(weights)):
        _core.gmm_covariances(kind, *means.shape[1:], factors[b : b + 1], covariances[b : b + 1])
    move = [torch.as_tensor(a, device=gpu) for a in (weights, means, covariances, factors)]
    rows = torch.as_tensor(X, device=gpu)
    cut = None if offsets is None else torch.as_tensor(offsets, device=gpu)
    w = None if weight is None else torch.as_tensor(weight, device=gpu)
    return fit_many(rows, cut, *move, kind, w, **{**OPTIONS, **options})


def agree(ours: GpuFits, theirs: Any, tolerance: float) -> None:
    for name in RUNNING:
        a, b = getattr(ours, name).cpu().numpy(), np.asarray(getattr(theirs, name))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
    for name in ("n_iter", "converged", "status"):
        np.testing.assert_array_equal(
            getattr(ours, name).cpu().numpy(), getattr(theirs, name), err_msg=name
        )


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize(("d", "k"), [(1, 3), (2, 3), (3, 2), (4, 5)])
def test_trajectories(gpu: torch.device, d: int, k: int, kind: str) -> None:
    X, weights, means, _, factors = mixtures(2, 90, d, k, kind)
    start = weights, means, factors
    for max_iter in (0, 1, 2, 20):
        options = {"tol": 0.0, "max_iter": max_iter}
        for dtype, tolerance in (np.float64, 1e-9), (np.float32, 1e-4):
            rows = X.astype(dtype)
            theirs = ops.gmm_fit(rows.astype(np.float64), *start, kind, **{**OPTIONS, **options})
            agree(fit(gpu, rows, start, kind, **options), theirs, tolerance)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_ragged_and_weighted(gpu: torch.device, kind: str) -> None:
    """Few rows and many, around a warp's; each stops by itself."""
    counts = [20, 33, 200, 31, 64, 97]
    offsets = np.cumsum([0, *counts])
    X, weights, means, _, factors = mixtures(1, offsets[-1], 2, 3, kind)
    start = [np.repeat(a, len(counts), axis=0) for a in (weights, means, factors)]
    weight = np.random.default_rng(0).uniform(0.5, 1, size=offsets[-1])
    weight[40:60] = 0.0
    options = {"reg_covar": 1e-2, "max_iter": 30, "tol": 1e-3}
    for w in (None, weight):
        theirs = ops.gmm_fit(X[0], *start, kind, offsets=offsets, sample_weight=w, **options)
        ours = fit(gpu, X[0], start, kind, offsets, w, **options)
        agree(ours, theirs, 1e-8)
        assert len(set(ours.n_iter.tolist())) > 1


def test_most_components(gpu: torch.device) -> None:
    X, weights, means, _, factors = mixtures(1, 300, 4, 32, "diag")
    start = weights, means, factors
    options = {"reg_covar": 1e-1, "max_iter": 2, "tol": 0.0}
    for dtype, tolerance in (np.float64, 1e-9), (np.float32, 1e-4):
        rows = X.astype(dtype)
        theirs = ops.gmm_fit(rows.astype(np.float64), *start, "diag", **options)
        agree(fit(gpu, rows, start, "diag", **options), theirs, tolerance)
    assert takes_fit_many(32, 4)
    assert not takes_fit_many(33, 4)
    assert not takes_fit_many(3, 5)
    X, weights, means, _, factors = mixtures(1, 30, 5, 2, "diag")
    with pytest.raises(ValueError, match="5 features and 2 components, expected at most 4 and 32"):
        fit(gpu, X, (weights, means, factors), "diag")


def ragged(counts: list[int], d: int, k: int, kind: str) -> Any:
    """Rows of one mixture behind those of the other, the starts, and the offsets."""
    X, weights, means, _, factors = mixtures(len(counts), max(counts), d, k, kind)
    rows = np.concatenate([x[:n] for x, n in zip(X, counts, strict=True)])
    return rows, (weights, means, factors), np.cumsum([0, *counts])


# With up to 32 rows each, mixtures have as few lanes as their components allow: 8, 16 or 32. The
# last warp has two, five and one mixtures fewer than it could.
FEW = [20, 9, 1, 60, 33, 16, 31, 40, 24, 65, 8]


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize(("d", "k"), [(1, 8), (2, 3), (2, 9), (3, 7), (4, 2), (4, 17)])
def test_mixtures_of_one_warp(gpu: torch.device, d: int, k: int, kind: str) -> None:
    """Mixtures of several sizes in a warp, which may be not full; each stops by itself."""
    X, start, offsets = ragged(FEW, d, k, kind)
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 1, size=len(X)) * (rng.uniform(size=len(X)) > 0.1)
    weight[offsets[:-1]] = 1.0
    for dtype, w, tol, tolerance in (
        (np.float64, None, 1e-2, 1e-8),
        (np.float64, weight, 1e-2, 1e-8),
        (np.float32, weight, 0.0, 1e-3),
    ):
        rows = X.astype(dtype)
        options = {"reg_covar": 0.1, "max_iter": 12 if tol else 3, "tol": tol}
        theirs = ops.gmm_fit(
            rows.astype(np.float64), *start, kind, offsets=offsets, sample_weight=w, **options
        )
        ours = fit(gpu, rows, start, kind, offsets, w, **options)
        agree(ours, theirs, tolerance)
        assert tol == 0 or len(set(ours.n_iter.tolist())) > 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_many_rows_among_few(gpu: torch.device, dtype: Any) -> None:
    """More rows for a lane than are added up at once, beside mixtures that are done before."""
    X, start, offsets = ragged([7] * 15 + [900] + [5] * 27, 2, 3, "full")
    options = {"reg_covar": 0.1, "max_iter": 3, "tol": 0.0}
    rows = X.astype(dtype)
    theirs = ops.gmm_fit(rows.astype(np.float64), *start, "full", offsets=offsets, **options)
    ours = fit(gpu, rows, start, "full", offsets, **options)
    agree(ours, theirs, 1e-9 if dtype is np.float64 else 1e-4)


@pytest.mark.parametrize("kind", COVARIANCES)
@pytest.mark.parametrize(("d", "k"), [(2, 3), (1, 8), (3, 9)])
def test_neighbours_do_not_matter(gpu: torch.device, d: int, k: int, kind: str) -> None:
    """The same bits at another place of another warp: beside mixtures that converge at another
    time, fail, have no rows or need double."""
    counts = FEW if k <= 8 else [2 * n for n in FEW]
    X, (weights, means, factors), offsets = ragged(counts, d, k, kind)
    X, means, factors = X.astype(np.float32), means.copy(), factors.copy()
    parts = np.split(X, offsets[1:-1])
    parts[2] = parts[2][:0]
    parts[4][:, 0] = means[4, :, 0] = 0.5  # singular, but for a tied covariance of all the others
    parts[5][3] = np.nan
    parts[6] = (1.0 + 1e-5 * parts[6]).astype(np.float32)
    means[6] = 1.0
    factors[7] *= 1e39  # no numbers of float
    options = {"reg_covar": 0.0, "max_iter": 9, "tol": 1e-2}

    def together(order: Any) -> GpuFits:
        cut = np.cumsum([0, *(len(parts[b]) for b in order)])
        rows = np.concatenate([parts[b] for b in order])
        start = [a[order] for a in (weights, means, factors)]
        return fit(gpu, rows, start, kind, cut, **options)

    first = together(np.arange(len(FEW)))
    assert len(set(first.n_iter.tolist())) > 2
    status = first.status.tolist()
    assert status[2] == FitStatus.NO_COMPONENT
    assert status[5] == FitStatus.OVERFLOW
    assert status.count(FitStatus.OK) > 2
    rng = np.random.default_rng(0)
    for order in (
        np.arange(len(FEW))[::-1],
        rng.permutation(len(FEW)),
        np.delete(np.arange(len(FEW)), [2, 3, 5]),
        np.repeat(rng.permutation(len(FEW)), 3)[1:],
    ):
        other = together(np.ascontiguousarray(order))
        for name, a, b in zip(GpuFits._fields, first, other, strict=True):
            np.testing.assert_array_equal(a.cpu().numpy()[order], b.cpu().numpy(), err_msg=name)


@pytest.mark.parametrize("kind", COVARIANCES)
def test_failures_leave_the_others_alone(gpu: torch.device, kind: str) -> None:
    """A constant column, rows beyond every component, sums that overflow, NaN."""
    X, weights, means, _, factors = mixtures(5, 60, 2, 2, kind)
    X, means = X.copy(), means.copy()
    X[1, :, 1] = means[1, :, 1] = 0.7
    X[2] += 1e170
    X[3, 4] = np.nan
    X[4, 0] = 1e200
    options = {"reg_covar": 0.0, "max_iter": 3, "tol": 0.0}
    start = weights, means, factors
    ours = fit(gpu, X, start, kind, **options)
    alone = ops.gmm_fit(X[0], *(a[0] for a in start), kind, **options)
    np.testing.assert_allclose(ours.means[0].cpu(), alone.means, rtol=1e-9)
    assert ours.n_iter.tolist()[0] == 3
    expected = [FitStatus.OK, FitStatus.SINGULAR_COVARIANCE, FitStatus.NO_COMPONENT]
    if kind == "spherical":
        expected[1] = FitStatus.OK
    assert ours.status.tolist()[:4] == [*expected, FitStatus.OVERFLOW]
    if kind != "spherical":
        assert ours.component.tolist()[1] == (-1 if kind == "tied" else 0)
        assert ours.n_iter.tolist()[1] == 0
        np.testing.assert_array_equal(ours.means[1].cpu(), means[1])  # the previous estimate
    finite = np.delete(X, 3, axis=0)
    theirs = ops.gmm_fit(finite, *(np.delete(a, 3, axis=0) for a in start), kind, **options)
    np.testing.assert_array_equal(np.delete(ours.status.cpu().numpy(), 3), theirs.status)


def test_empty_component(gpu: torch.device) -> None:
    """It keeps its mean and covariance, and gets weight 0."""
    X, weights, means, _, factors = mixtures(2, 50, 2, 3, "full")
    means = means.copy()
    means[0, 1] = 1e6
    start = weights, means, factors
    ours = fit(gpu, X, start, "full", max_iter=4, tol=0.0)
    agree(ours, ops.gmm_fit(X, *start, "full", **{**OPTIONS, "max_iter": 4, "tol": 0.0}), 1e-9)
    assert ours.weights[0, 1] == 0.0
    assert ours.means[0, 1].tolist() == [1e6, 1e6]


@pytest.mark.parametrize("kind", COVARIANCES)
def test_what_float32_cannot_resolve_is_done_in_double(gpu: torch.device, kind: str) -> None:
    """Means far from the rows of a narrow mixture: moments about them lose its variance."""
    X, weights, means, _, factors = mixtures(2, 70, 2, 2, kind)
    rows = (1.0 + 1e-5 * X).astype(np.float32)
    start = weights, np.zeros_like(means) + np.arange(2)[:, None] * 1e-6, factors
    options = {"reg_covar": 0.0, "max_iter": 6, "tol": 0.0}
    theirs = ops.gmm_fit(rows.astype(np.float64), *start, kind, **options)
    agree(fit(gpu, rows, start, kind, **options), theirs, 1e-3)


@pytest.mark.parametrize("n", [31, 50, 130, 300])
def test_schedules_and_strides_give_the_same_bits(n: int) -> None:
    """Of 8 lanes and 16, and of two warps and four."""
    X, weights, means, _, factors = mixtures(3, n, 2, 3, "full")
    start = weights, means, factors
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            cpu = torch.device("cpu")
            rows = torch.as_tensor(X).float()
            results.append(fit(cpu, rows, start, "full"))
            strided = rows.transpose(0, 1).contiguous().transpose(0, 1)
            results.append(fit(cpu, strided, start, "full"))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
