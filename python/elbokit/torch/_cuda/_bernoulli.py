"""Bernoulli negative log-likelihood on logits, and its gradient in the logits."""

from __future__ import annotations

from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import gradient, queue
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import computed_dtype, loss_scale, loss_shape, storage_order

__all__ = ["bernoulli_loss"]


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
    kernels = cuda_kernels()
    loss = input.new_empty(loss_shape(input.shape, reduction), dtype=computed_dtype(input))
    scale = loss_scale(input.shape, reduction)
    order = None
    if reduction != "none":
        order = storage_order(input, target, weight, pos_weight, mask)
    grad = gradient(input, order) if need_grad else None
    if input.numel() == 0:
        return loss.fill_(0.0 * scale), grad
    where = queue(input, kernels.loss_workspace)
    input, target, weight, pos_weight, mask, written = permuted(
        order, input, target, weight, pos_weight, mask, grad
    )
    shape = input.shape
    rows = shape[0] if shape else 1
    kernels.bernoulli_loss(
        where,
        operand(input, shape, rows),
        operand(target, shape, rows),
        operand(weight, shape, rows),
        operand(pos_weight, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        target_scale,
        scale,
        output(loss, 1) if reduction not in ("none", "rows") else None,
        output(loss, rows) if reduction == "none" else None,
        vector(loss) if reduction == "rows" else None,
        output(written, rows),
    )
    return loss, grad
