"""Densities and labels of Gaussian mixtures, without their responsibilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import FloatArray, returns_like
from elbokit._gpu_arrays import on_gpu
from elbokit._mixture_arguments import check_mixtures, require_finite_rows

__all__ = ["density_of_rows", "gmm_log_prob"]


def gmm_log_prob(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
) -> Any:
    """Log-density of every row under Gaussian mixtures.

    As from `gmm_estep`, bit for bit, but the responsibilities are never stored: beside the result
    no memory grows with ``n_samples``.

    Parameters
    ----------
    X : array_like of shape (..., n_samples, n_features), float32 or float64
        Leading dimensions are independent mixtures; they broadcast with the parameters'.
    weights, means, precisions_cholesky, covariance_type
        As in `gmm_estep`.

    Returns
    -------
    log_prob : array of shape (..., n_samples), in nats, of ``X``'s dtype
        ``log p(x_n) = log sum_k weights_k N(x_n | mean_k, covariance_k)``.

    Raises
    ------
    TypeError, ValueError
        As in `gmm_estep`.

    See Also
    --------
    elbokit.ops.gmm_estep : The same with the responsibilities.

    Examples
    --------
    >>> from elbokit import ops
    >>> log_prob = ops.gmm_log_prob([[0.0], [1.0]], [1.0], [[0.0]], [1.0], "spherical")
    >>> log_prob.round(4).tolist()
    [-0.9189, -1.4189]
    """
    if on_gpu(X):
        from elbokit import _gpu_gmm

        return _gpu_gmm.log_prob(X, weights, means, precisions_cholesky, covariance_type)
    mixtures = check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    size, n_samples, _ = mixtures.X.shape
    log_prob = np.empty((size, n_samples), dtype=mixtures.X.dtype)
    _core.gmm_estep(*mixtures[1:], covariance_type, log_prob, None)
    if not np.isfinite(log_prob).all():
        require_finite_rows(mixtures)
    return returns_like(X)(log_prob.reshape(*mixtures.batch, n_samples))


def density_of_rows(
    X: FloatArray,
    weights: npt.NDArray[np.float64],
    means: npt.NDArray[np.float64],
    precisions_cholesky: npt.NDArray[np.float64],
    covariance_type: str,
    *,
    responsibilities: FloatArray | None = None,
    labels: npt.NDArray[np.int64] | None = None,
) -> FloatArray:
    """Return the log-density of every row under one mixture, finite or not.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32 or float64
        A row with NaN or infinity has no finite density; it is for the caller to look.
    weights, means, precisions_cholesky, covariance_type
        As in `elbokit.ops.gmm_estep`.
    responsibilities : ndarray of shape (n_samples, n_components) of X's dtype or None
        Written, where given.
    labels : ndarray of shape (n_samples,) or None
        Written, where given: what ``argmax`` finds in the responsibilities, of equal ones the
        first. Void where the density is not finite.

    Returns
    -------
    log_prob : ndarray of shape (n_samples,) of X's dtype
    """
    mixtures = check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    log_prob: FloatArray = np.empty(len(X), dtype=X.dtype)
    _core.gmm_estep(
        *mixtures[1:],
        covariance_type,
        log_prob[None],
        None if responsibilities is None else responsibilities[None],
        None if labels is None else labels[None],
    )
    return log_prob
