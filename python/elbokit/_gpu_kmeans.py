"""k-means on tensors: a stand-in that computes on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit import _core
from elbokit._kmeans import solve_kmeans

__all__ = ["GpuScatter", "kmeans_seeds", "kmeans_start", "label_moments"]


class GpuScatter(NamedTuple):
    """Sums over each component's rows, float64: weights, mean, second moment about it."""

    counts: Tensor
    means: Tensor
    second: Tensor


def _rows(X: Tensor) -> npt.NDArray[Any]:
    return np.asarray((X.float() if X.dtype.itemsize == 2 else X).cpu().numpy())[None]


def _weights(sample_weight: Tensor | None) -> npt.NDArray[Any] | None:
    return None if sample_weight is None else np.asarray(sample_weight.cpu().numpy())[None]


def label_moments(
    X: Tensor,
    labels: Tensor | None,
    near: Tensor,
    full: bool,
    sample_weight: Tensor | None = None,
) -> GpuScatter:
    """Sum up the rows of each label."""
    means = np.array(near.cpu().numpy())[None]
    counts = np.empty(means.shape[:2])
    second = np.empty((*means.shape, *means.shape[2:] * full))
    label = None if labels is None else labels.cpu().numpy()[None]
    _core.label_moments(_rows(X), None, _weights(sample_weight), label, full, means, counts, second)
    return GpuScatter(*(torch.from_numpy(a[0]).to(X.device) for a in (counts, means, second)))


def kmeans_start(
    X: Tensor,
    n_components: int,
    random_state: np.random.RandomState,
    *,
    matrices: bool,
    sample_weight: Tensor | None = None,
    max_iter: int = 300,
) -> tuple[GpuScatter, bool]:
    """Give each row to the component of its k-means cluster; False where X is not finite."""
    found, finite = solve_kmeans(
        _rows(X),
        n_components,
        random_state,
        sample_weight=_weights(sample_weight),
        max_iter=max_iter,
        weigh_tol=True,
    )
    assert found.labels is not None
    assert found.centers is not None
    if not finite[0]:
        found.labels[...], found.centers[...] = -1, 0.0
    labels, near = (torch.from_numpy(a[0]) for a in (found.labels, found.centers))
    return label_moments(X, labels, near, matrices, sample_weight), bool(finite[0])


def kmeans_seeds(
    X: Tensor,
    n_components: int,
    random_state: np.random.RandomState,
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, bool]:
    """Choose a row for each component by k-means++; False where X is not finite."""
    found, finite = solve_kmeans(
        _rows(X),
        n_components,
        random_state,
        sample_weight=_weights(sample_weight),
        max_iter=0,
        weigh_tol=True,
    )
    return torch.from_numpy(found.seeds[0]).to(X.device), bool(finite[0])
