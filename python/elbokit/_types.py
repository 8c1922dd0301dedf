"""Result types and errors shared by the kernels' front ends, the estimators and the reference."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["GmmStatistics", "SingularCovarianceError", "singular_covariance"]


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
