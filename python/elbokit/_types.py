"""Result types and errors shared by the kernels' front ends, the estimators and the reference."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FitStatus",
    "GmmFit",
    "GmmStatistics",
    "KMeansResult",
    "SingularCovarianceError",
    "singular_covariance",
]


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


class FitStatus(IntEnum):
    """How the run of one mixture ended; all but ``OK`` are failures.

    Attributes
    ----------
    OK
        Converged, or as many iterations as were asked for.
    SINGULAR_COVARIANCE
        The covariance of a component is not positive definite.
    NO_COMPONENT
        The density of every sample under every component is zero.
    OVERFLOW
        Sums over the samples overflow float64.
    TOO_FEW_SAMPLES
        There are fewer samples than components (of :func:`elbokit.fit_mixtures` alone).
    """

    OK = 0
    SINGULAR_COVARIANCE = 1
    NO_COMPONENT = 2
    OVERFLOW = 3
    TOO_FEW_SAMPLES = 4


class GmmFit(NamedTuple):
    """Mixtures fitted by EM; ``...`` stands for the leading batch dimensions.

    Attributes
    ----------
    weights : ndarray of shape (..., n_components)
        Mixing proportions.
    means : ndarray of shape (..., n_components, n_features)
        Component means.
    covariances, precisions_cholesky : ndarray
        (..., n_components, n_features, n_features) for 'full', (..., n_features, n_features)
        for 'tied', (..., n_components, n_features) for 'diag', (..., n_components) for
        'spherical'.
    lower_bound : float or ndarray of shape (...)
        Bound per sample of the last E-step, before the last M-step; -inf without an iteration.
    n_iter : int or ndarray of shape (...)
        Complete iterations.
    converged : bool or ndarray of shape (...)
        Whether the last change of the bound was below the tolerance.
    status : FitStatus or ndarray of shape (...)
        What :class:`FitStatus` says. A mixture of a batch that failed has NaN for parameters and
        bound, and ``converged`` is False.
    """

    weights: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    covariances: npt.NDArray[np.float64]
    precisions_cholesky: npt.NDArray[np.float64]
    lower_bound: float | npt.NDArray[np.float64]
    n_iter: int | npt.NDArray[np.int64]
    converged: bool | npt.NDArray[np.bool_]
    status: FitStatus | npt.NDArray[np.int64]


class SingularCovarianceError(ValueError):
    """A component's covariance is not positive definite."""


def singular_covariance(component: int | None) -> SingularCovarianceError:
    """Build the error; its first two sentences are scikit-learn's. None: the tied covariance."""
    owner = "the tied covariance" if component is None else f"component {component}"
    return SingularCovarianceError(
        "Fitting the mixture model failed because some components have ill-defined "
        "empirical covariance (for instance caused by singleton or collapsed samples). "
        "Try to decrease the number of components, increase reg_covar, or scale the "
        f"input data. The first one that is not positive definite: {owner}."
    )


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
