"""Categorical negative log-likelihood on logits, and its gradient in the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import empty, filled, gradient
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
    """Return the loss and its gradient in `logits`; `mask` is of any dtype."""
    n_samples, n_classes = logits.shape[:2]
    loss = empty(loss_shape(logits.shape, reduction), dtype=computed_dtype(logits))
    scale = loss_scale(logits.shape, reduction)
    order = [0, *range(2, logits.dim()), 1] if classes_last(logits) else None
    grad = gradient(logits, order) if need_grad else None
    if logits.numel() == 0:
        return loss.fill_(0.0 * scale), grad
    logits, written = permuted(order, logits, grad)
    rows = n_samples if order is None else target.numel()
    counted: Any = None
    if mask is not None:
        counted = (mask != 0).expand(target.shape).reshape(-1).contiguous()
        counted = counted.view(torch.uint8).numpy()
    total, outside = _core.categorical_loss(
        operand(logits, logits.shape, rows),
        target.detach().reshape(-1).contiguous().numpy(),
        counted,
        vector(weight),
        n_samples,
        n_classes,
        scale,
        vector(loss) if reduction == "rows" else None,
        output(written, rows),
    )
    if outside >= 0:
        _raise_no_class(target, outside, n_classes)
    if reduction != "rows":
        filled(loss, total * scale)
    return loss, grad


def _raise_no_class(target: Tensor, position: int, n_classes: int) -> None:
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(position), target.shape))
    raise ValueError(
        f"`target` holds {int(target[at])} at position {at}, expected classes from 0 to "
        f"{n_classes - 1}"
    )
