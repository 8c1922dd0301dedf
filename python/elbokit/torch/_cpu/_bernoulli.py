"""Bernoulli negative log-likelihood on logits, and its gradient in the logits."""

from __future__ import annotations

from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import empty, filled, gradient
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import computed_dtype, loss_scale, loss_shape, storage_order

__all__ = ["bernoulli_loss", "count_out_of_range"]


def bernoulli_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    mask: Tensor | None,
    row_weight: Tensor | None,
    target_scale: float,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the loss and its gradient in `input`."""
    loss = empty(loss_shape(input.shape, reduction), dtype=computed_dtype(input))
    scale = loss_scale(input.shape, reduction)
    order = None
    if reduction != "none":
        order = storage_order(input, target, weight, pos_weight, mask)
    grad = gradient(input, order) if need_grad else None
    if input.numel() == 0:
        return loss.fill_(0.0 * scale), grad
    input, target, weight, pos_weight, mask, written = permuted(
        order, input, target, weight, pos_weight, mask, grad
    )
    shape = input.shape
    rows = shape[0] if shape else 1
    total, _ = _core.bernoulli_loss(
        operand(input, shape, rows),
        operand(target, shape, rows),
        operand(weight, shape, rows),
        operand(pos_weight, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        target_scale,
        scale,
        output(loss, rows) if reduction == "none" else None,
        vector(loss) if reduction == "rows" else None,
        output(written, rows),
    )
    if reduction not in ("none", "rows"):
        filled(loss, total * scale)
    return loss, grad


def count_out_of_range(target: Tensor, mask: Tensor | None, target_scale: float) -> int:
    """Count the targets outside [0, 1] that no mask hides."""
    scaled = target.double() * target_scale
    outside = (scaled < 0) | (scaled > 1)
    return int((outside if mask is None else outside & (mask != 0)).sum())
