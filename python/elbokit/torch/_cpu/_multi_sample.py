"""Bounds from several latent samples, and their gradients, in one visit to each data row."""

from __future__ import annotations

from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty, filled, gradient
from elbokit.torch._operands import by_sample, operand, output, vector
from elbokit.torch._reduction import loss_scale, loss_shape

__all__ = ["multi_sample_loss"]


def multi_sample_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    row_weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor,
    target_scale: float,
    bound: str,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return the negative bound and its gradients in logits, mu, logvar and z."""
    rows, scale = mu.shape[0], loss_scale(mu.shape, reduction)
    loss = empty(loss_shape(mu.shape, reduction), dtype=mu.dtype)
    grad = gradient(logits) if need_logits else None
    latent = [dense(t.shape, t.dtype) if need_latent else None for t in (mu, logvar, z)]
    if rows == 0:
        return loss.fill_(0.0 * scale), grad, latent[0], latent[1], latent[2]
    every = logits.shape[0] * rows
    flat, z = by_sample(logits), by_sample(z)
    total = _core.multi_sample(
        operand(flat, flat.shape, every),
        operand(target, logits.shape[1:], rows),
        None if logits.numel() == 0 else operand(mask, logits.shape[1:], rows),
        vector(row_weight),
        target_scale,
        operand(mu, mu.shape, rows),
        operand(logvar, mu.shape, rows),
        operand(z, z.shape, every),
        bound == "iwae",
        scale,
        vector(loss) if reduction == "rows" else None,
        output(grad, every),
        output(latent[0], rows),
        output(latent[1], rows),
        output(latent[2], every),
    )
    if reduction != "rows":
        filled(loss, total * scale)
    return loss, grad, latent[0], latent[1], latent[2]
