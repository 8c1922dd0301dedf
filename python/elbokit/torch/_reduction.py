"""Reductions of a loss over a batch: the shape, the scale and the spread of a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["loss_scale", "loss_shape", "reduced_shape", "spread"]

# What the registered operators understand. "none" keeps every element, "rows" sums the event
# dimensions (every one but the first) and keeps the batch; the others give a 0-d tensor.
#
#   none | rows | sum | mean (over elements) | batchmean (sum over events, mean over the batch)


def loss_shape(shape: Sequence[int], reduction: str) -> tuple[int, ...]:
    """Shape of the reduced loss of operands of shape `shape`."""
    if reduction == "none":
        return tuple(shape)
    return tuple(shape[:1]) if reduction == "rows" else ()


def loss_scale(shape: Sequence[int], reduction: str) -> float:
    """Return the factor from the plain sum to the reduced loss, NaN for the mean of nothing."""
    if reduction == "mean":
        count = math.prod(shape)
    elif reduction == "batchmean":
        count = shape[0]
    else:
        return 1.0
    return 1.0 / count if count else math.nan


def spread(grad: Tensor, shape: Sequence[int], reduction: str) -> Tensor:
    """Spread the gradient of a reduced loss over the elements it was reduced from.

    The result broadcasts to `shape`; it is differentiable in `grad`.
    """
    if reduction == "rows":
        return grad.reshape(-1, *(1,) * (len(shape) - 1))
    if reduction in ("mean", "batchmean"):
        return grad * loss_scale(shape, reduction)
    return grad


def reduced_shape(shape: Sequence[int], dim: Sequence[int], keepdim: bool) -> tuple[int, ...]:
    """Shape after reducing the dimensions `dim`, which are counted from 0."""
    kept: list[int] = []
    for i, size in enumerate(shape):
        if i not in dim:
            kept.append(size)
        elif keepdim:
            kept.append(1)
    return tuple(kept)
