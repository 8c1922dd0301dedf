"""The E-step of batches of finite rows, in float64 where float32 overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit import ops
from elbokit.mixture._density import posterior_of

__all__ = ["estep"]

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
    if X.ndim == 2:
        return posterior_of(X, (weights, means, factors), covariance_type)
    log_prob, responsibilities = ops.gmm_estep(X, weights, means, factors, covariance_type)
    for b in np.flatnonzero(~np.isfinite(log_prob).all(axis=1)):
        parameters = weights, means[b], factors[b]
        log_prob[b], responsibilities[b] = posterior_of(X[b], parameters, covariance_type)
    return log_prob, responsibilities
