"""The terms of a VAE's loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit.reference._sums import Array, as_float64, logsumexp

__all__ = [
    "VaeLoss",
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_loss",
    "vae_loss",
]


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
    logit, t, factor, one_factor = as_float64(logits, target, w, p)
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
    mean, target, logvar = as_float64(mean, target, logvar)
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
    (logits,) = as_float64(logits)
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
    mean, log_variance, prior_mean, prior_log_variance = as_float64(mu, logvar, m, s)
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
