"""Importance sampling of the log-likelihood, streamed over latent samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elbokit.torch._logsumexp import logsumexp

__all__ = ["importance_log_likelihood"]


def importance_log_likelihood(
    log_prob: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    n_samples: int,
    generator: torch.Generator | None,
    max_rows: int,
) -> Tensor:
    """Estimate log p(x) of each row as log mean_s p(x|z_s) p(z_s) / q(z_s|x), z_s from q.

    Parameters
    ----------
    log_prob : callable
        Maps data (n, ...) and latent points (n, latent_dim) to log p(x|z), shape (n,).
    x : Tensor of shape (n_rows, ...)
        Data.
    mu, logvar : Tensor of shape (n_rows, latent_dim)
        Parameters of q; the prior is N(0, I).
    n_samples : int
        Latent samples for each row.
    generator : torch.Generator or None
        Source of the noise.
    max_rows : int
        Number of pairs (x, z) given to `log_prob` at once, at least one for each row of `x`.

    Returns
    -------
    Tensor of shape (n_rows,)
    """
    total = torch.full(mu.shape[:1], -math.inf, dtype=mu.dtype, device=mu.device)
    chunk = max(1, max_rows // max(1, len(x)))
    for done in range(0, n_samples, chunk):
        size = min(chunk, n_samples - done)
        shape = (size, *mu.shape)
        noise = torch.randn(shape, generator=generator, dtype=mu.dtype, device=mu.device)
        z = mu + torch.exp(0.5 * logvar) * noise
        # log p(z) - log q(z|x): the normalising constants cancel.
        log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(2)
        repeated = x.expand(size, *x.shape).flatten(0, 1)
        log_weight = log_ratio + log_prob(repeated, z.flatten(0, 1)).view(size, -1)
        total = torch.logaddexp(total, logsumexp(log_weight, 0))
    return total - math.log(n_samples)
