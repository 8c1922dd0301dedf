"""NumPy float64 reference of every kernel: the oracle that the compiled code is tested against.

Clear before fast, and independent of the compiled core. Every function converts its input
to float64 and accepts leading batch dimensions, written ``...``, that broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit._types import FitStatus, GmmFit, GmmStatistics

__all__ = [
    "VaeLoss",
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_loss",
    "gmm_estep",
    "gmm_fit",
    "gmm_log_density",
    "gmm_statistics",
    "logsumexp",
    "vae_loss",
]

Array = npt.NDArray[np.float64]


class VaeLoss(NamedTuple):
    """The negative evidence lower bound of a VAE and its two terms.

    Attributes
    ----------
    loss : float or ndarray
        ``reconstruction + beta * kl``, with the KL's floor if ``free_bits`` is positive.
    reconstruction : float or ndarray
        Bernoulli cross-entropy, summed over the event.
    kl : float or ndarray
        KL divergence from the prior, summed over the latent dimensions, without ``beta``
        and without the floor.
    """

    loss: float | Array
    reconstruction: float | Array
    kl: float | Array


def logsumexp(a: npt.ArrayLike, axis: int = -1) -> Array:
    """Logarithm of a sum of exponentials.

    Parameters
    ----------
    a : array-like
        Logarithms of the terms.
    axis : int, default=-1
        Axis that is summed.

    Returns
    -------
    result : ndarray
        ``log sum_i exp(a_i)``, shape of `a` without `axis`. All terms -inf give -inf.

    Notes
    -----
    The largest term is factored out, so nothing overflows, and left out of the sum, so a
    result near zero keeps its digits: ``m + log1p(sum_{i != argmax} exp(a_i - m))``.
    """
    values = np.asarray(a, dtype=np.float64)
    at = np.expand_dims(np.argmax(values, axis=axis), axis)
    largest = np.take_along_axis(values, at, axis)
    # An infinite maximum is not subtracted: inf - inf would be nan.
    terms = np.exp(values - np.where(np.isfinite(largest), largest, 0.0))
    np.put_along_axis(terms, at, 0.0, axis)
    return np.asarray(np.squeeze(largest, axis) + np.log1p(np.sum(terms, axis=axis)))


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
    X, means, factor = _as_float64(X, means, precisions_cholesky)
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
        (mass,) = _as_float64(sample_weight)
        responsibilities = responsibilities * mass[..., None]
        # A sample of weight zero counts for nothing, even where log p(x) is -inf.
        finite = np.where(mass == 0.0, 0.0, log_prob)
        weighted = mass * finite
    X, means = _as_float64(X, means)
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
    data, pi, mu, factors = _as_float64(X, weights, means, precisions_cholesky)
    mass = np.ones(len(data)) if sample_weight is None else _as_float64(sample_weight)[0]
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


def bernoulli_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
) -> Array:
    """Bernoulli cross-entropy of logits, element by element.

    Parameters
    ----------
    logits : array-like
        Log-odds of a one.
    target : array-like
        Targets in [0, 1].
    weight : array-like, default=None
        Factor on each element.
    pos_weight : array-like, default=None
        Factor on the term of a one.

    Returns
    -------
    loss : ndarray
        Broadcast shape of the inputs.

    Notes
    -----
    ``w (p t softplus(-l) + (1 - t) softplus(l))``, which is
    ``max(l, 0) - l t + log1p(exp(-|l|))`` for ``w = p = 1``. Both softplus terms are
    positive, so nothing cancels for targets in [0, 1].
    """
    w = 1.0 if weight is None else weight
    p = 1.0 if pos_weight is None else pos_weight
    logit, t, factor, one_factor = _as_float64(logits, target, w, p)
    tail = np.log1p(np.exp(-np.abs(logit)))
    zero_term = (1.0 - t) * (np.maximum(logit, 0.0) + tail)
    one_term = one_factor * t * (np.maximum(-logit, 0.0) + tail)
    return np.asarray(factor * (zero_term + one_term))


def gaussian_loss(mean: npt.ArrayLike, target: npt.ArrayLike, logvar: npt.ArrayLike = 0.0) -> Array:
    """Negative log-likelihood of a Gaussian, element by element.

    Parameters
    ----------
    mean, target, logvar : array-like
        Means, observed values and log-variances, broadcast together.

    Returns
    -------
    loss : ndarray
        ``(log(2 pi) + logvar + (mean - target)^2 exp(-logvar)) / 2``.

    Notes
    -----
    Bishop, Pattern Recognition and Machine Learning, 2006, eq. 1.46.
    """
    mean, target, logvar = _as_float64(mean, target, logvar)
    difference = mean - target
    return np.asarray(0.5 * (np.log(2.0 * np.pi) + logvar + difference**2 * np.exp(-logvar)))


def categorical_loss(logits: npt.ArrayLike, target: npt.ArrayLike) -> Array:
    """Negative log-likelihood of a categorical distribution given by logits (cross-entropy).

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes, ...)
        Log-probabilities up to a constant of each position.
    target : array-like of int of shape (n_samples, ...)
        The class of each position.

    Returns
    -------
    loss : ndarray of shape (n_samples, ...)
        ``logsumexp(logits) - logits[target]``.

    Notes
    -----
    Taken as the log-sum-exp of the differences from the target's logit, of which one is exactly
    zero: where that is the largest, the result keeps its digits.
    """
    (logits,) = _as_float64(logits)
    chosen = np.expand_dims(np.asarray(target), 1)
    return logsumexp(logits - np.take_along_axis(logits, chosen, axis=1), axis=1)


def gaussian_kl(
    mu: npt.ArrayLike,
    logvar: npt.ArrayLike,
    prior_mu: npt.ArrayLike | None = None,
    prior_logvar: npt.ArrayLike | None = None,
) -> Array:
    """KL divergence between univariate Gaussians, element by element.

    Parameters
    ----------
    mu, logvar : array-like
        Mean and log-variance of q.
    prior_mu, prior_logvar : array-like, default=None
        Mean and log-variance of the prior; None means zero, the standard normal.

    Returns
    -------
    kl : ndarray
        ``KL(N(mu, e^logvar) || N(prior_mu, e^prior_logvar))``, broadcast shape.

    Notes
    -----
    ``1/2 (e^(v - s) - 1 - (v - s) + (mu - m)^2 e^-s)`` with v, s the log-variances of q
    and prior: Kingma and Welling, Auto-encoding variational Bayes, 2014, appendix B, with
    a general prior. ``expm1`` keeps the value exact where q is close to the prior.
    """
    m = 0.0 if prior_mu is None else prior_mu
    s = 0.0 if prior_logvar is None else prior_logvar
    mean, log_variance, prior_mean, prior_log_variance = _as_float64(mu, logvar, m, s)
    ratio = log_variance - prior_log_variance
    distance = (mean - prior_mean) ** 2 * np.exp(-prior_log_variance)
    return np.asarray(0.5 * (np.expm1(ratio) - ratio + distance))


def vae_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    mu: npt.ArrayLike,
    logvar: npt.ArrayLike,
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
    reduction: str = "batchmean",
) -> VaeLoss:
    """Negative evidence lower bound of a VAE with Bernoulli decoder and Gaussian q.

    Parameters
    ----------
    logits, target : array-like of shape (n_samples, ...)
        Decoder output and data; every axis but the first is the event.
    mu, logvar : array-like of shape (n_samples, n_latent)
        Mean and log-variance of q(z|x), diagonal, against a standard normal prior.
    beta : float, default=1.0
        Factor on the KL term.
    free_bits : float, default=0.0
        Floor, in nats, under each latent dimension's KL of each sample.
    reduction : {'batchmean', 'sum', 'none'}, default='batchmean'
        Events are always summed. The batch is averaged, summed or kept.

    Returns
    -------
    result : VaeLoss
        Named tuple ``(loss, reconstruction, kl)``.

    Raises
    ------
    ValueError
        If `reduction` is none of the three.

    Notes
    -----
    ``-L = E_q[-log p(x|z)] + beta KL(q(z|x) || p(z))``, sum over the event and mean over
    the batch for both terms (Kingma and Welling 2014; beta: Higgins et al. 2017; free
    bits: Kingma et al. 2016).
    """
    element = bernoulli_loss(logits, target)
    reconstruction = element.reshape(element.shape[0], -1).sum(axis=1)
    divergence = gaussian_kl(mu, logvar)
    divergence = divergence.reshape(divergence.shape[0], -1)
    kl = divergence.sum(axis=1)
    penalty = np.maximum(divergence, free_bits).sum(axis=1) if free_bits > 0.0 else kl
    terms = (reconstruction + beta * penalty, reconstruction, kl)
    if reduction == "none":
        return VaeLoss(*terms)
    if reduction == "sum":
        return VaeLoss(*(float(np.sum(term)) for term in terms))
    if reduction == "batchmean":
        return VaeLoss(*(float(np.mean(term)) for term in terms))
    raise ValueError(f"reduction must be 'batchmean', 'sum' or 'none', got {reduction!r}")


def _as_float64(*arrays: npt.ArrayLike) -> tuple[Array, ...]:
    """Return every input as a float64 array."""
    return tuple(np.asarray(array, dtype=np.float64) for array in arrays)
