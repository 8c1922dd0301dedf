"""Result types shared by the kernels' front ends and the reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["GmmStatistics", "KMeansResult"]


class GmmStatistics(NamedTuple):
    """Additive sufficient statistics of a Gaussian mixture, with centred moments.

    Moments are about the component means that the statistics were computed with, so
    statistics from blocks, threads or machines that used the same means merge by adding.
    ``...`` stands for the leading batch dimensions.

    Attributes
    ----------
    counts : ndarray of shape (..., n_components)
        ``N_k = sum_n w_n r_nk``.
    first_moments : ndarray of shape (..., n_components, n_features)
        ``sum_n w_n r_nk (x_n - mu_k)``.
    second_moments : ndarray
        ``sum_n w_n r_nk (x_n - mu_k)(x_n - mu_k)^T`` in the shape that the covariance
        type needs: (..., n_components, n_features, n_features) for 'full',
        (..., n_features, n_features) for 'tied' (summed over components),
        (..., n_components, n_features) for 'diag', (..., n_components) for
        'spherical' (summed over features).
    log_likelihood : float or ndarray of shape (...)
        ``sum_n w_n log p(x_n)``.
    """

    counts: npt.NDArray[np.float64]
    first_moments: npt.NDArray[np.float64]
    second_moments: npt.NDArray[np.float64]
    log_likelihood: float | npt.NDArray[np.float64]


class KMeansResult(NamedTuple):
    """Clusters found by k-means. ``...`` stands for the leading batch dimensions.

    Attributes
    ----------
    labels : ndarray of shape (..., n_samples), int32
        The cluster whose center is nearest.
    centers : ndarray of shape (..., n_clusters, n_features)
        Means of the clusters, in the dtype of the data. A cluster that stayed empty, for want of
        distinct samples, is shown at the center of the heaviest one.
    inertia : float or ndarray of shape (...)
        ``sum_n w_n |x_n - center|^2``, in float64.
    n_iter : int or ndarray of shape (...)
        Iterations done.
    """

    labels: npt.NDArray[np.int32]
    centers: npt.NDArray[np.floating[Any]]
    inertia: float | npt.NDArray[np.float64]
    n_iter: int | npt.NDArray[np.int64]
