"""Categorical negative log-likelihood on logits, and its gradient in the logits."""

from __future__ import annotations

from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import gradient, queue
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import classes_last, computed_dtype, loss_scale, loss_shape

__all__ = ["categorical_loss"]


def categorical_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the loss and its gradient in `logits`; `mask` is of any dtype.

    A target that is no class gives a loss and a gradient of NaN at its position: nothing here
    waits for the GPU, so nothing can raise.
    """
    kernels = cuda_kernels()
    n_samples, n_classes = logits.shape[:2]
    loss = logits.new_empty(loss_shape(logits.shape, reduction), dtype=computed_dtype(logits))
    scale = loss_scale(logits.shape, reduction)
    order = [0, *range(2, logits.dim()), 1] if classes_last(logits) else None
    grad = gradient(logits, order) if need_grad else None
    if logits.numel() == 0:
        return loss.fill_(0.0 * scale), grad
    logits, written = permuted(order, logits, grad)
    rows = n_samples if order is None else target.numel()
    counted = None
    if mask is not None:
        counted = (mask != 0).expand(target.shape).reshape(1, -1).contiguous()
    target = target.detach().reshape(-1).contiguous()
    by_row = reduction == "rows"
    kernels.categorical_loss(
        queue(logits, kernels.loss_workspace),
        operand(logits, logits.shape, rows),
        target.data_ptr(),
        output(counted, 1),
        vector(weight),
        n_samples,
        n_classes,
        scale,
        None if by_row else output(loss, 1),
        vector(loss) if by_row else None,
        output(written, rows),
    )
    return loss, grad
