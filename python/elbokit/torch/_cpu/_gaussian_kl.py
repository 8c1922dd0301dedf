"""KL divergence of diagonal Gaussians, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty, filled
from elbokit.torch._operands import operand, output, vector
from elbokit.torch._reduction import loss_scale, loss_shape

__all__ = ["fill_statistics", "gaussian_kl", "gaussian_kl_backward"]


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    row_weight: Tensor | None,
    free_bits: float,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor | None, ...]:
    """Return the KL, the KL floored at `free_bits`, and the latter's gradients in mu, logvar."""
    shape, scale = mu.shape, loss_scale(mu.shape, reduction)
    size = loss_shape(shape, reduction)
    kl, charged = empty(size, dtype=mu.dtype), empty(size, dtype=mu.dtype)
    grads = [dense(shape, mu.dtype) if need_grad else None for _ in range(2)]
    if mu.numel() == 0:
        return kl.fill_(0.0 * scale), charged.fill_(0.0 * scale), *grads
    rows, by_row = shape[0], reduction == "rows"
    totals = _core.gaussian_kl(
        operand(mu, shape, rows),
        operand(logvar, shape, rows),
        operand(prior_mu, shape, rows),
        operand(prior_logvar, shape, rows),
        free_bits,
        vector(row_weight),
        scale,
        vector(kl) if by_row else None,
        vector(charged) if by_row else None,
        output(grads[0], rows),
        output(grads[1], rows),
        None,
    )
    if not by_row:
        filled(kl, totals[0] * scale)
        filled(charged, totals[1] * scale)
    return kl, charged, *grads


def fill_statistics(
    out: Tensor,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
) -> None:
    """Add the sums over the rows of each dimension's KL, mu and mu^2 to `out`, (3, latent)."""
    rows, shape = mu.shape[0], mu.shape
    _core.gaussian_kl(
        operand(mu, shape, rows),
        operand(logvar, shape, rows),
        operand(prior_mu, shape, rows),
        operand(prior_logvar, shape, rows),
        0.0,
        None,
        1.0,
        None,
        None,
        None,
        None,
        output(out, 3),
    )


def _row_factor(
    grad: Tensor | None, row_weight: Tensor | None, scale: float, rows: int, dtype: torch.dtype
) -> Tensor:
    """Return the weight of each row's KL in the gradient, shape (rows,)."""
    factor = empty(rows, dtype=dtype)
    if grad is None:
        return factor.zero_()
    factor.copy_(grad).mul_(scale)
    return factor if row_weight is None else factor.mul_(row_weight)


def gaussian_kl_backward(
    grad: Tensor | None,
    grad_charged: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    row_weight: Tensor | None,
    free_bits: float,
    reduction: str,
    need_prior: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradient of grad * kl + grad_charged * charged, before any sum over broadcast dimensions."""
    shape = mu.shape
    grads = [dense(shape, mu.dtype) for _ in range(4 if need_prior else 2)]
    if mu.numel():
        rows = shape[0]
        scale = loss_scale(shape, reduction)
        prior = [output(g, rows) for g in grads[2:]] or (None, None)
        _core.gaussian_kl_backward(
            operand(mu, shape, rows),
            operand(logvar, shape, rows),
            operand(prior_mu, shape, rows),
            operand(prior_logvar, shape, rows),
            free_bits,
            vector(_row_factor(grad, row_weight, scale, rows, mu.dtype)),
            vector(_row_factor(grad_charged, row_weight, scale, rows, mu.dtype)),
            output(grads[0], rows),
            output(grads[1], rows),
            *prior,
        )
    return grads[0], grads[1], *(grads[2:] if need_prior else (None, None))
