"""Both terms of a VAE's bound and their gradients, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._bernoulli import bernoulli_loss
from elbokit.torch._cpu._gaussian_kl import gaussian_kl
from elbokit.torch._cpu._operands import gradient, operand, output, permuted, vector
from elbokit.torch._reduction import loss_scale, loss_shape, storage_order

__all__ = ["vae_loss"]

_Outputs = tuple[
    Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None
]


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    row_weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    target_scale: float,
    free_bits: float,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
    need_statistics: bool,
) -> _Outputs:
    """Return reconstruction, KL, floored KL; gradients in logits, mu, logvar; by-products.

    The by-products are the sums over the batch of each dimension's KL, mu and mu^2, of shape
    (3, latent), and the number of targets outside [0, 1].
    """
    shape, latent, rows = logits.shape, mu.shape, logits.shape[0]
    statistics = count = None
    if need_statistics:
        cols = mu.numel() // rows if rows else 0
        statistics = torch.zeros((3, cols), dtype=torch.float64)
        count = torch.zeros((), dtype=torch.int64)
    if logits.numel() == 0 or mu.numel() == 0:
        # Nothing to fuse; each stem knows what an empty operand gives.
        reconstruction, grad = bernoulli_loss(
            logits, target, None, None, mask, row_weight, target_scale, reduction, need_logits
        )
        terms = gaussian_kl(
            mu, logvar, prior_mu, prior_logvar, row_weight, free_bits, reduction, need_latent
        )
        return reconstruction, *terms[:2], grad, *terms[2:], statistics, count
    order = storage_order(logits, target, mask)
    grad = gradient(logits, order) if need_logits else None
    logits, target, mask, written = permuted(order, logits, target, mask, grad)
    shape = logits.shape
    dtype, size, by_row = mu.dtype, loss_shape(shape, reduction), reduction == "rows"
    grad_mu = grad_logvar = None
    if need_latent:
        grad_mu, grad_logvar = torch.empty(latent, dtype=dtype), torch.empty(latent, dtype=dtype)
    reconstruction, kl, charged = (torch.empty(size, dtype=dtype) for _ in range(3))
    scale = loss_scale(shape, reduction)
    totals = _core.vae_loss(
        operand(logits, shape, rows),
        operand(target, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        target_scale,
        operand(mu, latent, rows),
        operand(logvar, latent, rows),
        operand(prior_mu, latent, rows),
        operand(prior_logvar, latent, rows),
        free_bits,
        scale,
        vector(reconstruction) if by_row else None,
        vector(kl) if by_row else None,
        vector(charged) if by_row else None,
        output(written, rows),
        output(grad_mu, rows),
        output(grad_logvar, rows),
        output(statistics, 3),
    )
    if not by_row:
        reconstruction.fill_(totals[0] * scale)
        kl.fill_(totals[1] * scale)
        charged.fill_(totals[2] * scale)
    if count is not None:
        count.fill_(totals[3])
    return reconstruction, kl, charged, grad, grad_mu, grad_logvar, statistics, count
