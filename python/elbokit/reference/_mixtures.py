"""Gaussian mixtures: density, both steps of EM, and whole runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elbokit._types import FitStatus, GmmFit, GmmStatistics
from elbokit.reference._sums import Array, as_float64, logsumexp

__all__ = ["gmm_estep", "gmm_fit", "gmm_log_density", "gmm_statistics"]


def gmm_log_density(
    X: npt.ArrayLike,
    means: npt.ArrayLike,
    precisions_cholesky: npt.ArrayLike,
    covariance_type: str = "full",
) -> Array:
    """Log-density of every sample under every Gaussian component, without the weights.

    Parameters
    ----------
    X : array-like of shape (..., n_samples, n_features)
        Data.
    means : array-like of shape (..., n_components, n_features)
        Component means.
    precisions_cholesky : array-like
        Factors P of the precisions, ``precision = P P^T``, in scikit-learn's shapes:
        (..., n_components, n_features, n_features) upper triangular for 'full',
        (..., n_features, n_features) for 'tied', (..., n_components, n_features) for
        'diag', (..., n_components) for 'spherical'.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.

    Returns
    -------
    log_density : ndarray of shape (..., n_samples, n_components)
        ``log N(x_n | mu_k, Sigma_k)``.

    Raises
    ------
    ValueError
        If `covariance_type` is none of the four.

    Notes
    -----
    With ``y = (x - mu) P`` the density is ``log det P - d/2 log(2 pi) - |y|^2 / 2``
    (Bishop, Pattern Recognition and Machine Learning, 2006, eq. 2.43, with
    ``Sigma^-1 = P P^T``).
    """
    X, means, factor = as_float64(X, means, precisions_cholesky)
    n_features = X.shape[-1]
    difference = X[..., :, None, :] - means[..., None, :, :]
    if covariance_type == "full":
        whitened = np.einsum("...nkd,...kde->...nke", difference, factor)
        log_det = np.sum(np.log(np.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)
    elif covariance_type == "tied":
        whitened = np.einsum("...nkd,...de->...nke", difference, factor)
        log_det = np.sum(np.log(np.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)[..., None]
    elif covariance_type == "diag":
        whitened = difference * factor[..., None, :, :]
        log_det = np.sum(np.log(factor), axis=-1)
    elif covariance_type == "spherical":
        whitened = difference * factor[..., None, :, None]
        log_det = n_features * np.log(factor)
    else:
        raise ValueError(
            "covariance_type must be one of 'full', 'tied', 'diag', 'spherical', "
            f"got {covariance_type!r}"
        )
    distance = np.sum(whitened**2, axis=-1)
    density = log_det[..., None, :] - 0.5 * (n_features * np.log(2.0 * np.pi) + distance)
    return np.asarray(density)


def gmm_estep(
    X: npt.ArrayLike,
    weights: npt.ArrayLike,
    means: npt.ArrayLike,
    precisions_cholesky: npt.ArrayLike,
    covariance_type: str = "full",
) -> tuple[Array, Array]:
    """E-step of a Gaussian mixture: log p(x) and the posterior of the component.

    Parameters
    ----------
    X : array-like of shape (..., n_samples, n_features)
        Data.
    weights : array-like of shape (..., n_components)
        Component weights; a weight of zero is allowed.
    means, precisions_cholesky, covariance_type
        See :func:`gmm_log_density`.

    Returns
    -------
    log_prob : ndarray of shape (..., n_samples)
        ``log p(x_n) = log sum_k weights_k N(x_n | mu_k, Sigma_k)``.
    responsibilities : ndarray of shape (..., n_samples, n_components)
        ``weights_k N(x_n | mu_k, Sigma_k) / p(x_n)``; zeros where ``p(x_n)`` is zero.

    Notes
    -----
    Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
    algorithm, 1977.
    """
    density = gmm_log_density(X, means, precisions_cholesky, covariance_type)
    with np.errstate(divide="ignore"):
        log_weights = np.log(np.asarray(weights, dtype=np.float64))
    joint = density + log_weights[..., None, :]
    log_prob = logsumexp(joint)
    # From the largest term, not from log p: far out, log p rounds log K away. A sample that no
    # component reaches has no posterior: its row is zero, not nan.
    largest = joint.max(axis=-1, keepdims=True)
    posterior = np.exp(joint - np.where(np.isneginf(largest), 0.0, largest))
    total = posterior.sum(axis=-1, keepdims=True)
    return log_prob, posterior / np.where(total == 0.0, 1.0, total)


def gmm_statistics(
    X: npt.ArrayLike,
    weights: npt.ArrayLike,
    means: npt.ArrayLike,
    precisions_cholesky: npt.ArrayLike,
    covariance_type: str = "full",
    sample_weight: npt.ArrayLike | None = None,
) -> GmmStatistics:
    """E-step and the sufficient statistics of the M-step, moments about `means`.

    Parameters
    ----------
    X, weights, means, precisions_cholesky, covariance_type
        See :func:`gmm_estep`.
    sample_weight : array-like of shape (..., n_samples), default=None
        Non-negative weight of each sample; None means one.

    Returns
    -------
    statistics : GmmStatistics
        Counts, first and second moments and the weighted log-likelihood.

    Notes
    -----
    ``N_k = sum_n w_n r_nk``, ``S1_k = sum_n w_n r_nk (x_n - mu_k)``,
    ``S2_k = sum_n w_n r_nk (x_n - mu_k)(x_n - mu_k)^T``: Bishop 2006, section 9.2.2, with
    the sums taken about a pivot so that they do not cancel.
    """
    log_prob, responsibilities = gmm_estep(X, weights, means, precisions_cholesky, covariance_type)
    weighted = log_prob
    if sample_weight is not None:
        (mass,) = as_float64(sample_weight)
        responsibilities = responsibilities * mass[..., None]
        # A sample of weight zero counts for nothing, even where log p(x) is -inf.
        finite = np.where(mass == 0.0, 0.0, log_prob)
        weighted = mass * finite
    X, means = as_float64(X, means)
    difference = X[..., :, None, :] - means[..., None, :, :]
    counts = np.sum(responsibilities, axis=-2)
    first = np.einsum("...nk,...nkd->...kd", responsibilities, difference)
    outer = {
        "full": "...nk,...nkd,...nke->...kde",
        "tied": "...nk,...nkd,...nke->...de",
        "diag": "...nk,...nkd,...nkd->...kd",
        "spherical": "...nk,...nkd,...nkd->...k",
    }[covariance_type]
    second = np.einsum(outer, responsibilities, difference, difference)
    total = np.sum(weighted, axis=-1)
    return GmmStatistics(counts, first, second, float(total) if total.ndim == 0 else total)


def gmm_fit(
    X: npt.ArrayLike,
    weights: npt.ArrayLike,
    means: npt.ArrayLike,
    precisions_cholesky: npt.ArrayLike,
    covariance_type: str = "full",
    *,
    sample_weight: npt.ArrayLike | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = 1e-6,
) -> GmmFit:
    """EM for one Gaussian mixture, as the textbook has it.

    Parameters
    ----------
    X, weights, means, precisions_cholesky, covariance_type
        See :func:`gmm_estep`, without batch dimensions.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weight of each sample; None means one.
    tol : float, default=1e-3
        Stop when the bound per sample changes by less.
    max_iter : int, default=100
        Largest number of iterations.
    reg_covar : float, default=1e-6
        Added to the variances.

    Returns
    -------
    fit : GmmFit
        The bound is that of the last E-step. No component may be empty or singular.

    Notes
    -----
    ``mu_k = sum_n w_n r_nk x_n / N_k`` and ``Sigma_k = sum_n w_n r_nk (x_n - mu_k)(x_n -
    mu_k)^T / N_k + reg_covar I``: Bishop 2006, section 9.2.2. 'tied' averages over the
    components with weights ``N_k``, 'diag' keeps the diagonal, 'spherical' its mean.
    """
    data, pi, mu, factors = as_float64(X, weights, means, precisions_cholesky)
    mass = np.ones(len(data)) if sample_weight is None else as_float64(sample_weight)[0]
    if covariance_type in ("full", "tied"):
        covariances = np.asarray(np.linalg.inv(factors @ factors.swapaxes(-1, -2)), np.float64)
    else:
        covariances = factors**-2.0
    bound, change, n_iter = -np.inf, np.inf, 0
    while n_iter < max_iter and not abs(change) < tol:
        log_prob, r = gmm_estep(data, pi, mu, factors, covariance_type)
        previous, bound = bound, float(np.average(log_prob, weights=mass))
        change = bound - previous
        r = r * mass[:, None]
        counts = r.sum(axis=0)
        pi, mu = counts / counts.sum(), r.T @ data / counts[:, None]
        difference = data[:, None, :] - mu
        scatter = np.einsum("nk,nki,nkj->kij", r, difference, difference)
        covariances = _pool(scatter, counts, covariance_type, reg_covar)
        if covariance_type in ("full", "tied"):
            lower = np.linalg.cholesky(covariances)
            factors = np.linalg.inv(lower).swapaxes(-1, -2)
        else:
            factors = covariances**-0.5
        n_iter += 1
    converged = n_iter > 0 and abs(change) < tol
    return GmmFit(pi, mu, covariances, factors, bound, n_iter, converged, FitStatus.OK)


def _pool(scatter: Array, counts: Array, covariance_type: str, reg_covar: float) -> Array:
    """Covariances of a type from each component's scatter about its mean."""
    eye = np.eye(scatter.shape[-1])
    if covariance_type == "tied":
        return np.asarray(scatter.sum(axis=0) / counts.sum() + reg_covar * eye)
    covariances = scatter / counts[:, None, None] + reg_covar * eye
    if covariance_type == "full":
        return np.asarray(covariances)
    variances = np.einsum("kii->ki", covariances)
    return np.asarray(variances if covariance_type == "diag" else variances.mean(axis=1))
