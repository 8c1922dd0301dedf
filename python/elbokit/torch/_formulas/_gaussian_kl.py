"""Gradients of the KL of diagonal Gaussians."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elbokit.torch._formulas._common import by_sample, sum_events
from elbokit.torch._reduction import spread

__all__ = ["gaussian_kl_elements", "gaussian_kl_grads"]


def gaussian_kl_elements(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | float, prior_logvar: Tensor | float
) -> Tensor:
    """Return the KL of each dimension: ``(e^d - 1 - d + (mu - m)^2 e^-s) / 2``, d = logvar - s."""
    ratio, z = logvar - prior_logvar, mu - prior_mu
    if isinstance(prior_logvar, Tensor):
        z = z * torch.exp(-0.5 * prior_logvar)
    return 0.5 * (torch.expm1(ratio) - ratio + z * z)


def gaussian_kl_grads(
    operands: Sequence[Tensor | None],
    grad: Tensor | None,
    grad_charged: Tensor | None,
    free_bits: float,
    reduction: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of the KL and of its floored form in mu, logvar, the prior's, and row weights.

    `grad` is that of the reduced KL, `grad_charged` that of the KL with each dimension floored at
    `free_bits`.
    """
    mu, logvar, prior_mu, prior_logvar, row_weight = operands
    assert mu is not None
    assert logvar is not None
    m = 0.0 if prior_mu is None else prior_mu
    s = 0.0 if prior_logvar is None else prior_logvar
    each, each_charged = (
        None if g is None else spread(g, mu.shape, reduction) for g in (grad, grad_charged)
    )
    factor = torch.zeros((), dtype=mu.dtype, device=mu.device) if each is None else each
    own = d_row_weight = None
    if row_weight is not None:
        kl = gaussian_kl_elements(mu, logvar, m, s)
        own = factor * kl
    if each_charged is not None:
        if free_bits > 0:
            # A floored dimension is constant: the mask carries no gradient of its own.
            above = gaussian_kl_elements(mu, logvar, m, s).detach() >= free_bits
            if own is not None:
                own = own + each_charged * torch.where(above, kl, free_bits)
            each_charged = each_charged * above
        elif own is not None:
            own = own + each_charged * kl
        factor = factor + each_charged
    if row_weight is not None and own is not None:
        d_row_weight = sum_events(own)
        factor = factor * by_sample(row_weight, mu)
    inverse = torch.exp(-0.5 * s) if isinstance(s, Tensor) else 1.0
    z = (mu - m) * inverse
    d_mu = factor * z * inverse
    excess = torch.expm1(logvar - s)  # e^(logvar - s) - 1
    d_logvar = 0.5 * factor * excess
    if prior_mu is None or prior_logvar is None:
        return d_mu, d_logvar, None, None, d_row_weight
    d_prior_mu = (-d_mu).sum_to_size(prior_mu.shape)
    d_prior_logvar = -0.5 * factor * (excess + z * z)
    return d_mu, d_logvar, d_prior_mu, d_prior_logvar.sum_to_size(prior_logvar.shape), d_row_weight
