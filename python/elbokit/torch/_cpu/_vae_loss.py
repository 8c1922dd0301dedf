"""Both terms of a VAE's bound and their gradients, in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._bernoulli import bernoulli_loss, count_out_of_range
from elbokit.torch._cpu._gaussian_kl import fill_statistics, gaussian_kl
from elbokit.torch._cpu._operands import gradient, zeros
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import loss_scale, storage_order

__all__ = ["vae_loss"]


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    row_weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    beta: float | None,
    target_scale: float,
    free_bits: float,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
    need_statistics: bool,
) -> tuple[Tensor | None, ...]:
    """Return total, reconstruction, KL; gradients in logits, mu, logvar; by-products.

    The total is the loss, or without `beta` the floored KL alone. The by-products are the sums over
    the batch of each dimension's KL, mu and mu^2, of shape (3, latent), and the number of targets
    outside [0, 1].
    """
    if not need_statistics and reduction != "rows":
        found = _core.plain_vae_parts(
            logits, target, mu, logvar, prior_mu, prior_logvar, mask, row_weight,
            target_scale, beta, free_bits, reduction, need_logits, need_latent,
        )  # fmt: skip
        if found is not None:  # of plain operands
            return *found, None, None
    shape, latent = logits.shape, mu.shape
    rows = shape[0]
    statistics = count = None
    if need_statistics:
        cols = math.prod(latent[1:])
        statistics = zeros((3, cols), dtype=torch.float64)
        count = zeros((), dtype=torch.int64)
    if logits.numel() == 0 or mu.numel() == 0:
        if statistics is not None and mu.numel():
            fill_statistics(statistics, mu, logvar, prior_mu, prior_logvar)
        if count is not None and logits.numel():
            count.fill_(count_out_of_range(target, mask, target_scale))
        # Nothing to fuse; each stem knows what an empty operand gives.
        reconstruction, grad = bernoulli_loss(
            logits, target, None, None, mask, row_weight, target_scale, reduction, need_logits
        )
        kl, charged, *grads = gaussian_kl(
            mu, logvar, prior_mu, prior_logvar, row_weight, free_bits, reduction, need_latent
        )
        assert charged is not None
        total = charged if beta is None else reconstruction + beta * charged
        return total, reconstruction, kl, grad, *grads, statistics, count
    order = storage_order(logits, target, mask)
    written = grad = gradient(logits, order) if need_logits else None
    if order is not None:
        logits, target, mask, written = permuted(order, logits, target, mask, grad)
        shape = logits.shape
    grad_mu = grad_logvar = None
    if need_latent:
        grad_mu, grad_logvar = gradient(mu), gradient(logvar)
    by_row = reduction == "rows"
    size, n_terms = ((rows,), rows) if by_row else ((), 1)
    total, reconstruction, kl = mu.new_empty(size), mu.new_empty(size), mu.new_empty(size)
    out_of_range = _core.vae_loss(
        operand(logits, shape, rows),
        operand(target, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        target_scale,
        operand(mu, latent, rows),
        operand(logvar, latent, rows),
        operand(prior_mu, latent, rows),
        operand(prior_logvar, latent, rows),
        beta,
        free_bits,
        loss_scale(shape, reduction),
        by_row,
        output(total, n_terms),
        output(reconstruction, n_terms),
        output(kl, n_terms),
        output(written, rows),
        output(grad_mu, rows),
        output(grad_logvar, rows),
        output(statistics, 3),
    )
    if count is not None:
        count.fill_(out_of_range)
    return total, reconstruction, kl, grad, grad_mu, grad_logvar, statistics, count
