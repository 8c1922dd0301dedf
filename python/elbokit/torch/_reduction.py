"""Reductions of a loss over a batch: the shape, the scale and the spread of a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "classes_last",
    "computed_dtype",
    "gaussian_order",
    "loss_scale",
    "loss_shape",
    "reduced",
    "reduced_shape",
    "saved_dtype",
    "spread",
    "storage_order",
    "widened",
]

# What the registered operators understand. "none" keeps every element, "rows" sums the event
# dimensions (every one but the first) and keeps the batch; the others give a 0-d tensor.
#
#   none | rows | sum | mean (over elements) | batchmean (sum over events, mean over the batch)


def computed_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that the kernels compute in: float32 for anything narrower."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """Return `tensor` in its `computed_dtype`."""
    return tensor.to(computed_dtype(tensor))


def saved_dtype(operand: Tensor) -> torch.dtype:
    """Return the dtype in which the gradient in `operand` is kept until the backward pass."""
    return torch.float32 if operand.dtype == torch.float16 else operand.dtype


def loss_shape(shape: Sequence[int], reduction: str) -> tuple[int, ...]:
    """Shape of the reduced loss of operands of shape `shape`."""
    if reduction == "none":
        return tuple(shape)
    return tuple(shape[:1]) if reduction == "rows" else ()


def loss_scale(shape: Sequence[int], reduction: str) -> float:
    """Return the factor from the plain sum to the reduced loss, NaN for the mean of nothing."""
    count = _count(shape, reduction)
    return 1.0 / count if count else math.nan


def _count(shape: Sequence[int], reduction: str) -> int:
    """Return what the sum is divided by."""
    if reduction == "mean":
        return math.prod(shape)
    return shape[0] if reduction == "batchmean" else 1


def scaled_sum(total: Tensor, shape: Sequence[int], reduction: str) -> Tensor:
    """Return `total` times the `loss_scale`."""
    if torch.compiler.is_compiling():
        # Before 2.7 torch takes the inverse of a size for a constant, and compiles for each.
        return total / _count(shape, reduction)
    return total * loss_scale(shape, reduction)


def spread(grad: Tensor, shape: Sequence[int], reduction: str) -> Tensor:
    """Spread the gradient of a reduced loss over the elements it was reduced from.

    The result broadcasts to `shape`; it is differentiable in `grad`.
    """
    if reduction == "rows":
        return grad.reshape(-1, *(1,) * (len(shape) - 1))
    if reduction in ("mean", "batchmean"):
        return scaled_sum(grad, shape, reduction)
    return grad


def reduced(rows: Tensor, reduction: str) -> Tensor:
    """Reduce one number for each sample: "none", "sum" or "batchmean"."""
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / len(rows)


def reduced_shape(shape: Sequence[int], dim: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    """Shape after reducing the dimensions `dim`, which are counted from 0."""
    kept: list[int] = []
    for i, size in enumerate(shape):
        if i not in dim:
            kept.append(size)
        elif keepdim:
            kept.append(1)
    return tuple(kept)


def storage_order(tensor: Tensor, *others: Tensor | None) -> list[int] | None:
    """Return the order of the dimensions in memory, where that is not the order of the shape.

    None unless every operand has the strides of the first, its samples lie one behind the other,
    and each is dense: channels-last images, say, whose elements a sum over events may then visit
    as they lie. A gradient gets the same strides.
    """
    if tensor.dim() < 3 or tensor.is_contiguous():
        return None
    strides, shape = tensor.stride(), tensor.shape
    if any(o is not None and (o.stride() != strides or o.shape != shape) for o in others):
        return None
    order = [0, *sorted(range(1, tensor.dim()), key=lambda d: -strides[d])]
    return order if tensor.permute(order).is_contiguous() else None


def gaussian_order(
    mean: Tensor, target: Tensor, logvar: Tensor | None, mask: Tensor | None
) -> list[int] | None:
    """Return the `storage_order` of a Gaussian decoder's operands; one number fits any."""
    if logvar is not None and logvar.numel() == 1:
        logvar = None
    return storage_order(mean, target, logvar, mask)


def classes_last(logits: Tensor) -> bool:
    """Whether logits (n_samples, n_classes, ...) lie in memory with the classes last."""
    return storage_order(logits) == [0, *range(2, logits.dim()), 1]
