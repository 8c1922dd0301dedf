"""k-means and the moments of labelled rows on torch tensors in a GPU's memory.

Arguments of these functions are checked already; :mod:`elbokit._gpu_kmeans_op` checks them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit._kmeans import draws_of, trials_of
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import Described, operand, vector

__all__ = ["GpuKMeans", "GpuScatter", "kmeans_seeds", "kmeans_start", "label_moments", "solve"]


class GpuKMeans(NamedTuple):
    """The outcome of one problem.

    Attributes
    ----------
    seeds : Tensor of shape (n_clusters,), int64
        Rows that k-means++ chose.
    labels : Tensor of shape (n_samples,), int32, or None
        None, as the two below, if there was no iteration to be made.
    centers : Tensor of shape (n_clusters, n_features), float64, or None
    inertia : Tensor of shape (1,), float64, or None
        None unless it was asked for.
    n_iter : int
    finite : bool
        False where X has NaN or infinity, or squared distances overflow what it is computed in: the
        other fields are then void.
    """

    seeds: Tensor
    labels: Tensor | None
    centers: Tensor | None
    inertia: Tensor | None
    n_iter: int
    finite: bool


class GpuScatter(NamedTuple):
    """Sums over each component's rows, float64: weights, mean, second moment about it."""

    counts: Tensor
    means: Tensor
    second: Tensor


def solve(
    X: Tensor,
    n_clusters: int,
    uniforms: npt.NDArray[np.float64],
    *,
    sample_weight: Tensor | None = None,
    max_iter: int = 300,
    tol: float = 1e-4,
    weigh_tol: bool = False,
    inertia: bool = False,
) -> GpuKMeans:
    """Run k-means on one problem.

    One small array is read back in each iteration, and one after the seeding.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
        float32, float64, bfloat16 or float16; the narrow ones are computed in float32.
    n_clusters : int
        At most n_samples.
    uniforms : ndarray of shape (draws_of(n_clusters),)
        Draws of k-means++.
    sample_weight : Tensor of shape (n_samples,) or None
        Of about 1, in the dtype that X is computed in.
    max_iter, tol, weigh_tol, inertia
        As in :func:`elbokit._kmeans.solve_kmeans`.
    """
    kernels = cuda_kernels()
    n_samples, n_features = X.shape
    trials = trials_of(n_clusters)
    rows = _rows(X)
    seeds = torch.empty(n_clusters, dtype=torch.int64, device=X.device)
    labels = torch.full((n_samples if max_iter else 0,), -1, dtype=torch.int32, device=X.device)
    centers = X.new_empty((n_clusters, n_features), dtype=torch.float64)
    status = X.new_empty(4, dtype=torch.float64)
    draws = torch.from_numpy(np.ascontiguousarray(uniforms)).to(X.device)
    index = X.device.index if X.is_cuda else 0
    run = kernels.KMeansRun(
        queue(X, kernels.kmeans_workspace(index, rows, n_clusters, trials)),
        rows,
        _weights(sample_weight),
        n_clusters,
        trials,
        tol,
        weigh_tol,
        seeds.data_ptr(),
        labels.data_ptr(),
        operand(centers, centers.shape, n_clusters),
        vector(status),
    )
    run.seed(vector(draws))
    finite = _read_back(status)[0] != 0.0
    if max_iter == 0 or not finite:
        return GpuKMeans(seeds, None, None, None, 0, finite)
    run.start()
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        run.step(False)
        _, changed, _, stop = _read_back(status)
        if changed == 0.0:
            break
        if stop or n_iter == max_iter:
            run.step(True)  # labels of the last centers
            break
    total = X.new_empty(1, dtype=torch.float64) if inertia else None
    run.finish(vector(total))
    return GpuKMeans(seeds, labels, centers, total, n_iter, finite)


def label_moments(
    X: Tensor,
    labels: Tensor | None,
    near: Tensor,
    full: bool,
    sample_weight: Tensor | None = None,
) -> GpuScatter:
    """Sum up the rows of each label.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
        As in :func:`solve`.
    labels : Tensor of shape (n_samples,), int32, or None
        None means 0 for every row. A row with one that is not in [0, n_labels) is left out.
    near : Tensor of shape (n_labels, n_features)
        A point near the mean of each label, which is its mean where it has no rows.
    full : bool
        Whether the second moments are matrices, or their diagonals.
    sample_weight : Tensor of shape (n_samples,) or None
        In the dtype that X is computed in.
    """
    kernels = cuda_kernels()
    n_labels, n_features = near.shape
    means = near.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    counts = means.new_empty(n_labels)
    second = means.new_empty((n_labels, n_features, *(n_features,) * full))
    if labels is not None:
        labels = labels.to(torch.int32).contiguous()
    moments = kernels.LabelMoments(
        _rows(X),
        _weights(sample_weight),
        None if labels is None else labels.data_ptr(),
        full,
        operand(means, means.shape, n_labels),
        vector(counts),
        operand(second, second.shape, n_labels),
    )
    moments.launch(queue(X, moments.workspace()))
    return GpuScatter(counts, means, second)


def kmeans_start(
    X: Tensor,
    n_components: int,
    random_state: np.random.RandomState,
    *,
    matrices: bool,
    sample_weight: Tensor | None = None,
    max_iter: int = 300,
) -> tuple[GpuScatter, bool]:
    """Give each row to the component of its k-means cluster.

    Parameters
    ----------
    X, sample_weight
        As in :func:`solve`; the weights count in its tolerance too.
    n_components : int
        Number of clusters.
    random_state : RandomState
        Source of the draws, which are those of the CPU.
    matrices : bool
        Whether the second moments are matrices, or their diagonals.
    max_iter : int
        Largest number of Lloyd's iterations.

    Returns
    -------
    scatter : GpuScatter
        Sums over the rows of each cluster.
    finite : bool
        False: X is not finite or too large for its dtype; the scatter is zeros.
    """
    found = solve(
        X,
        n_components,
        random_state.random_sample(draws_of(n_components)),
        sample_weight=sample_weight,
        max_iter=max_iter,
        weigh_tol=True,
    )
    if found.centers is None:
        zeros = torch.zeros((n_components, X.shape[1]), dtype=torch.float64, device=X.device)
        second = zeros.new_zeros((*zeros.shape, *zeros.shape[1:] * matrices))
        return GpuScatter(zeros[:, 0].clone(), zeros, second), False
    return label_moments(X, found.labels, found.centers, matrices, sample_weight), True


def kmeans_seeds(
    X: Tensor,
    n_components: int,
    random_state: np.random.RandomState,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, bool]:
    """Choose a row for each component by k-means++; False beside them: as `kmeans_start`."""
    uniforms = random_state.random_sample(draws_of(n_components))
    found = solve(X, n_components, uniforms, sample_weight=sample_weight, max_iter=0)
    return (found.seeds if found.finite else torch.zeros_like(found.seeds)), found.finite


def _read_back(status: Tensor) -> list[float]:
    """Wait for the GPU."""
    values: list[float] = status.tolist()
    return values


def _rows(X: Tensor) -> Described:
    if X.stride(1) != 1:
        X = X.contiguous()
    return operand(X, X.shape, X.shape[0])


def _weights(sample_weight: Tensor | None) -> Described | None:
    return None if sample_weight is None else vector(sample_weight.contiguous())
