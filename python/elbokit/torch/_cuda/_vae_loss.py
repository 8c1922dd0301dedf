"""Both terms of a VAE's bound and their gradients, in one launch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._bernoulli import bernoulli_loss
from elbokit.torch._cuda._gaussian_kl import fill_statistics, gaussian_kl
from elbokit.torch._cuda._queue import gradient, queue
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import computed_dtype, loss_scale, storage_order

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

    As ``_cpu.vae_loss``; the number of targets out of range stays on the GPU, and `mu` and `logvar`
    may be narrow where there is no prior: their gradients are as `gradient` says.
    """
    kernels = cuda_kernels()
    shape, latent = logits.shape, mu.shape
    rows, cols = shape[0], math.prod(latent[1:])
    statistics = count = None
    if need_statistics:
        statistics = mu.new_zeros((3, cols), dtype=torch.float64)
        count = mu.new_zeros((), dtype=torch.int64)
    if logits.numel() == 0 or mu.numel() == 0:
        return _of_nothing(
            (logits, target, mask, row_weight),
            (mu, logvar, prior_mu, prior_logvar),
            beta,
            target_scale,
            free_bits,
            reduction,
            (need_logits, need_latent),
            (statistics, count),
        )
    where = queue(mu, kernels.gaussian_kl_workspace(cols, need_statistics))
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
    total, reconstruction, kl = (mu.new_empty(size, dtype=computed_dtype(mu)) for _ in range(3))
    kernels.vae_loss(
        where,
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
        None if count is None else count.data_ptr(),
    )
    return total, reconstruction, kl, grad, grad_mu, grad_logvar, statistics, count


def _of_nothing(
    decoder: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    encoder: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    beta: float | None,
    target_scale: float,
    free_bits: float,
    reduction: str,
    needs: tuple[bool, bool],
    by_products: tuple[Tensor | None, Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Do the same where one of the terms has no elements, and there is nothing to fuse."""
    logits, target, mask, row_weight = decoder
    statistics, count = by_products
    if statistics is not None and encoder[0].numel():
        fill_statistics(statistics, *encoder)
    if count is not None and logits.numel():
        scaled = target.double() * target_scale
        outside = (scaled < 0) | (scaled > 1)
        count.copy_((outside if mask is None else outside & (mask != 0)).sum())
    reconstruction, grad = bernoulli_loss(
        logits, target, None, None, mask, row_weight, target_scale, reduction, needs[0]
    )
    mu, logvar, prior_mu, prior_logvar = encoder
    latent = mu.to(computed_dtype(mu)), logvar.to(computed_dtype(logvar))
    kl, charged, *grads = gaussian_kl(
        *latent, prior_mu, prior_logvar, row_weight, free_bits, reduction, needs[1]
    )
    assert charged is not None
    total = charged if beta is None else reconstruction + beta * charged
    return total, reconstruction, kl, grad, *grads, statistics, count
