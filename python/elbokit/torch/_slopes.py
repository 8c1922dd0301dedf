"""The gradient in a log-variance that is broadcast to the mean's shape: which sums it needs."""

from __future__ import annotations

from torch import Tensor

from elbokit.torch._reduction import saved_dtype

__all__ = ["cells", "summed"]


def cells(logvar: Tensor, mean: Tensor) -> str:
    """Say what of `mean` seen as (rows, columns) `logvar` tells apart: as few sums as it needs."""
    if logvar.numel() == 1:
        return "none"
    rows = mean.shape[0]
    if logvar.dim() < mean.dim() or logvar.shape[0] < rows:
        return "columns"
    return "rows" if logvar.numel() == rows else "elements"


def summed(slopes: Tensor, like: Tensor) -> Tensor:
    """Sum over what is left of broadcasting."""
    if slopes.shape != like.shape:
        shape = like.shape[like.dim() - slopes.dim() :] if like.dim() > slopes.dim() else like.shape
        slopes = slopes.sum_to_size(shape).reshape(like.shape)
    return slopes.to(saved_dtype(like))
