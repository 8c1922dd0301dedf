"""The E-step of finite rows, in float64 where float32 overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit import ops

__all__ = ["estep", "require_density"]

Floats = npt.NDArray[Any]


def estep(
    X: Floats, weights: Floats, means: Floats, factors: Floats, covariance_type: str
) -> tuple[Floats, Floats]:
    """Return log p(x) and the responsibilities of finite rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features) or (n_mixtures, n_samples, n_features)
        With a batch of means and factors.
    weights, means, factors : ndarray
        The parameters of the density; a batch shares the weights.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the factors.

    Returns
    -------
    log_prob : ndarray of shape X.shape[:-1]
        -inf where all distances overflow.
    responsibilities : ndarray of shape (*X.shape[:-1], n_components)
        Rows with -inf do not sum to 1.
    """
    log_prob, responsibilities = ops.gmm_estep(X, weights, means, factors, covariance_type)
    if X.ndim > 2:
        for b in np.flatnonzero(~np.isfinite(log_prob).all(axis=1)):
            log_prob[b], responsibilities[b] = estep(
                X[b], weights, means[b], factors[b], covariance_type
            )
        return log_prob, responsibilities
    lost = np.flatnonzero(~np.isfinite(log_prob))
    if len(lost):
        # X is finite, so distances overflowed: float64 knows more, and infinities of both
        # signs (NaN) in one distance only say that it is large.
        rows = ops.gmm_estep(X[lost].astype(np.float64), weights, means, factors, covariance_type)
        with np.errstate(over="ignore"):
            log_prob[lost] = np.where(np.isnan(rows[0]), -np.inf, rows[0])
        responsibilities[lost] = rows[1]
    return log_prob, responsibilities


def require_density(log_prob: Floats, responsibilities: Floats, name: str) -> None:
    """Raise ValueError for a row that overflow left without a component."""
    rows = np.flatnonzero(np.isneginf(log_prob))
    rows = rows[~(responsibilities[rows].sum(axis=1) > 0.0)]
    if len(rows):
        raise ValueError(
            f"row {rows[0]} of {name} is so far from every component that all squared distances "
            "overflow float64, so none of them is the most probable; rescale or drop it"
        )
