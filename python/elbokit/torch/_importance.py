"""Importance sampling of the log-likelihood, streamed over latent samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elbokit.torch._checks import (
    check_densities,
    check_event_dims,
    check_generator,
    check_is_tensor,
    check_positive_int,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._logsumexp import logsumexp
from elbokit.torch._noise import standard_normal
from elbokit.torch._reduction import widened

__all__ = ["importance_log_likelihood"]

_Sampler = Callable[[Tensor, int], tuple[Tensor, Tensor]]
_LOG_2_PI = math.log(2 * math.pi)


def _gaussian_sampler(
    mu: Tensor, logvar: Tensor, standard_prior: bool, generator: torch.Generator | None
) -> _Sampler:
    """Return a function that gives samples of q and log q(z|x), less log p(z) if that is known."""
    # Rounded to 8 bits, neither sigma nor the noise would be those of the density.
    mu, logvar = widened(mu), widened(logvar)

    def sample(_: Tensor, size: int) -> tuple[Tensor, Tensor]:
        noise = standard_normal((size, *mu.shape), mu, mu.dtype, generator)
        z = mu + torch.exp(0.5 * logvar) * noise
        log_q = noise.square() + logvar
        # With N(0, I) for a prior the normalising constants cancel.
        log_q = log_q - z.square() if standard_prior else log_q + _LOG_2_PI
        return z, -0.5 * log_q.flatten(2).sum(2)

    return sample


def _standard_log_prior(z: Tensor) -> Tensor:
    return -0.5 * (widened(z).square() + _LOG_2_PI).flatten(1).sum(1)


def _drawn(given: object) -> tuple[Tensor, Tensor]:
    """Return the points and log-densities that the caller's function drew."""
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if len(each) != 2 or not all(isinstance(part, Tensor) for part in each):
        kinds = ", ".join(type(part).__name__ for part in each)
        raise TypeError(
            f"`posterior` gave {kinds or 'nothing'}, expected a pair of tensors (samples, "
            "log-densities)"
        )
    return each


def _check_callable(name: str, given: object) -> None:
    if not callable(given):
        raise TypeError(f"`{name}` has type {type(given).__name__}, expected a callable")


def _pairs(x: Tensor, size: int) -> Tensor:
    return x.expand(size, *x.shape).flatten(0, 1)


def _estimate(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sample: _Sampler,
    log_prior: Callable[[Tensor], Tensor] | None,
    n_samples: int,
    max_rows: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """Estimate log p(x) of at most `max_rows` rows; `log_prob` takes points of a `dtype`."""
    total: Tensor | None = None
    chunk = max(1, max_rows // max(1, len(x)))
    for done in range(0, n_samples, chunk):
        size = min(chunk, n_samples - done)
        z, log_q = _drawn(sample(x, size))
        if z.shape[:2] != (size, len(x)) or log_q.shape != (size, len(x)):
            raise ValueError(
                f"`posterior` gave samples of shape {tuple(z.shape)} and log-densities of shape "
                f"{tuple(log_q.shape)}, expected ({size}, {len(x)}, ...) and ({size}, {len(x)})"
            )
        flat = z.flatten(0, 1)
        # Narrowed for it alone: that is a decoder of its own, and both densities are of the same z.
        taken = flat if dtype is None else flat.to(dtype)
        likelihood = check_densities(log_prob(_pairs(x, size), taken), "log_prob", len(flat))
        log_weight = likelihood.view(size, -1) - log_q
        if log_prior is not None:
            prior = check_densities(log_prior(flat), "log_prior", len(flat))
            log_weight = log_weight + prior.view(size, -1)
        part = logsumexp(log_weight, 0)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total - math.log(n_samples)


@torch.no_grad()
def importance_log_likelihood(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    posterior: tuple[Tensor, Tensor] | _Sampler,
    n_samples: int = 1000,
    *,
    log_prior: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    max_rows: int = 8192,
) -> Tensor:
    r"""Estimate log p(x) of each row of data by importance sampling from a posterior.

    The samples stream by: no more than `max_rows` pairs of a data row and a latent point are held
    at once, however many samples are asked for.

    Parameters
    ----------
    log_prob : callable
        Maps data (n, ...) and latent points (n, ...), pair by pair, to log p(x|z) of shape (n,).
        The points are of the dtype of the means, where `posterior` is a pair.
    x : Tensor of shape (n_rows, ...)
        Data.
    posterior : pair of Tensor of shape (n_rows, ...), or callable
        Means and log-variances of a diagonal Gaussian q(z|x). Or a function of data rows
        (n, ...) and a number of samples S, which draws samples (S, n, ...) and returns them with
        log q(z|x) of shape (S, n); it is called for some rows and samples at a time.
    n_samples : int, default=1000
        Latent samples for each row.
    log_prior : callable, optional
        Maps latent points (n, ...) to log p(z) of shape (n,). By default the prior is N(0, I). The
        points of a pair are in float32 here, even if the means are narrower.
    generator : torch.Generator, optional
        Source of the noise, where `posterior` is a pair.
    max_rows : int, default=8192
        Most pairs (x, z) that `log_prob` is given at once; bounds the memory.

    Returns
    -------
    Tensor of shape (n_rows,)
        Log-likelihoods in nats, without a gradient. The expectation of the estimate lies between
        the ELBO (``n_samples=1``) and log p(x), and rises with `n_samples` [1]_.

    Raises
    ------
    TypeError
        `x` is no tensor, a number is no int, what should be callable is not, or a callable gives
        no tensors.
    ValueError
        A number is not positive, `posterior` is a tuple of another length, or shapes do not fit,
        those that a callable gives among them.

    Notes
    -----
    .. math:: \log \frac1S \sum_s p(x|z_s)\, p(z_s) / q(z_s|x), \qquad z_s \sim q(z|x).

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
       arXiv:1509.00519.
    """
    check_is_tensor("x", x)
    check_event_dims("x", x)
    n_samples = check_positive_int("n_samples", n_samples)
    max_rows = check_positive_int("max_rows", max_rows)
    _check_callable("log_prob", log_prob)
    check_generator(generator)
    if log_prior is not None:
        _check_callable("log_prior", log_prior)
    pair = None if callable(posterior) else posterior
    if pair is not None:
        wanted = "expected a pair of tensors (means, log-variances) or a callable"
        if not isinstance(pair, (tuple, list)):
            raise TypeError(f"`posterior` has type {type(pair).__name__}, {wanted}")
        if len(pair) != 2:
            raise ValueError(f"`posterior` has length {len(pair)}, {wanted}")
        mu, logvar = pair
        check_tensors(mu=mu, logvar=logvar)
        check_same_shape("logvar", logvar, "mu", mu)
        if mu.dim() < 2 or mu.shape[0] != len(x):
            raise ValueError(
                f"`posterior` has means of shape {tuple(mu.shape)}, expected ({len(x)}, ...)"
            )
    elif log_prior is None:
        log_prior = _standard_log_prior
    parts = []
    for begin in range(0, max(1, len(x)), max_rows):
        rows = slice(begin, begin + max_rows)
        if pair is None:
            assert callable(posterior)
            sample = posterior
        else:
            sample = _gaussian_sampler(pair[0][rows], pair[1][rows], log_prior is None, generator)
        options = n_samples, max_rows, None if pair is None else pair[0].dtype
        parts.append(_estimate(log_prob, x[rows], sample, log_prior, *options))
    return torch.cat(parts)
