"""KL divergence of diagonal Gaussians, and its gradients."""

from __future__ import annotations

from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
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
    kernels = cuda_kernels()
    shape, scale = mu.shape, loss_scale(mu.shape, reduction)
    kl, charged = (mu.new_empty(loss_shape(shape, reduction)) for _ in range(2))
    grads = [mu.new_empty(shape) if need_grad else None for _ in range(2)]
    if mu.numel() == 0:
        return kl.fill_(0.0 * scale), charged.fill_(0.0 * scale), *grads
    rows, by_row = shape[0], reduction == "rows"
    kernels.gaussian_kl(
        queue(mu, kernels.loss_workspace),
        operand(mu, shape, rows),
        operand(logvar, shape, rows),
        operand(prior_mu, shape, rows),
        operand(prior_logvar, shape, rows),
        free_bits,
        vector(row_weight),
        scale,
        None if by_row else output(kl, 1),
        None if by_row else output(charged, 1),
        vector(kl) if by_row else None,
        vector(charged) if by_row else None,
        output(grads[0], rows),
        output(grads[1], rows),
        None,
    )
    return kl, charged, *grads


def fill_statistics(
    out: Tensor,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
) -> None:
    """Add the sums over the rows of each dimension's KL, mu and mu^2 to `out`, (3, latent)."""
    kernels = cuda_kernels()
    rows, shape = mu.shape[0], mu.shape
    kernels.gaussian_kl(
        queue(mu, kernels.gaussian_kl_workspace(out.shape[1], True)),
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
        None,
        None,
        output(out, 3),
    )


def _row_factor(
    grad: Tensor | None, row_weight: Tensor | None, scale: float, rows: int, mu: Tensor
) -> Tensor:
    """Return the weight of each row's KL in the gradient, shape (rows,)."""
    if grad is None:
        return mu.new_zeros(rows)
    factor = mu.new_empty(rows).copy_(grad).mul_(scale)
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
    kernels = cuda_kernels()
    shape = mu.shape
    grads = [mu.new_empty(shape) for _ in range(4 if need_prior else 2)]
    if mu.numel():
        rows, scale = shape[0], loss_scale(shape, reduction)
        prior = [output(g, rows) for g in grads[2:]] or (None, None)
        kernels.gaussian_kl_backward(
            queue(mu, 0),
            operand(mu, shape, rows),
            operand(logvar, shape, rows),
            operand(prior_mu, shape, rows),
            operand(prior_logvar, shape, rows),
            free_bits,
            vector(_row_factor(grad, row_weight, scale, rows, mu)),
            vector(_row_factor(grad_charged, row_weight, scale, rows, mu)),
            output(grads[0], rows),
            output(grads[1], rows),
            *prior,
        )
    return grads[0], grads[1], *(grads[2:] if need_prior else (None, None))
