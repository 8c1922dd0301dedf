"""Information criteria of a fitted mixture, all from one E-step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit.mixture._inference import FittedGaussianMixture

__all__ = ["Criteria", "information_criteria"]

# Responsibilities held at a time, so that many rows need no matrix of all of them.
_AT_ONCE = 1 << 19


class Criteria(NamedTuple):
    """Criteria of one fitted mixture, lower is better, and what they come from."""

    bic: float
    aic: float
    icl: float
    log_likelihood: float
    n_parameters: int


def information_criteria(
    estimator: FittedGaussianMixture, X: Any, sample_weight: npt.NDArray[np.float64] | None = None
) -> Criteria:
    """Compute BIC, AIC and ICL.

    Parameters
    ----------
    estimator : FittedGaussianMixture
        The fitted mixture.
    X : array-like of shape (n_samples, n_features)
        Data.
    sample_weight : ndarray of shape (n_samples,) or None
        Not negative; a row counts as often as its weight says.

    Returns
    -------
    criteria : Criteria
        With L the log-likelihood, p the number of parameters and n the sum of the weights:
        ``bic = -2 L + p log n``, ``aic = -2 L + 2 p``, ``icl = bic + 2 E``, where
        ``E = -sum_n w_n sum_k r_nk log r_nk`` is the entropy of the responsibilities.

    References
    ----------
    Biernacki, Celeux & Govaert (2000), Assessing a mixture model for clustering with the integrated
    completed likelihood. Their criterion has the opposite sign and half the scale, and takes the
    most probable component where the entropy takes the mean over all.
    """
    log_prob, entropy = _log_prob_and_entropy(estimator, X)
    n = float(len(log_prob))
    if sample_weight is not None:
        counts = sample_weight > 0.0  # a row without weight may be infinitely far away
        weight = sample_weight[counts]
        n = float(weight.sum())
        log_prob, entropy = weight * log_prob[counts], weight * entropy[counts]
    log_likelihood = float(log_prob.sum())
    n_parameters = estimator._n_parameters()
    bic = -2.0 * log_likelihood + n_parameters * math.log(n)
    aic = -2.0 * log_likelihood + 2.0 * n_parameters
    # Of a row beyond all components the responsibilities say nothing; the bic is then infinite.
    icl = bic + 2.0 * float(entropy.sum()) if math.isfinite(bic) else bic
    return Criteria(bic, aic, icl, log_likelihood, n_parameters)


def _log_prob_and_entropy(
    estimator: FittedGaussianMixture, X: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each row's log-density and the entropy of its responsibilities."""
    parts = []
    for rows in _parts(X, max(1, _AT_ONCE // len(estimator.weights_))):
        log_prob, responsibilities = estimator._estep(rows)
        parts.append((np.asarray(log_prob, dtype=np.float64), _entropy(responsibilities)))
    log_prob, entropy = (np.concatenate(values) for values in zip(*parts, strict=True))
    return log_prob, entropy


def _entropy(responsibilities: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return ``-sum_k r_nk log r_nk``, where 0 log 0 is 0."""
    # NumPy's logarithm runs on vectors; scipy.special.entr takes several times as long.
    log = np.maximum(responsibilities, np.finfo(responsibilities.dtype).tiny)
    np.log(log, out=log)
    return np.asarray(-np.einsum("nk,nk->n", responsibilities, log), dtype=np.float64)


def _parts(X: Any, n_rows: int) -> list[Any]:
    """Cut an array into runs of rows; what is no array stays whole."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or len(X) <= n_rows:
        return [X]
    return [X[first : first + n_rows] for first in range(0, len(X), n_rows)]
