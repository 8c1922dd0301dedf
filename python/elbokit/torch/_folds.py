"""Tensors seen as (outer, n, inner), where n runs over some of their dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["folded", "unfolded"]


def _in_place(dim: Sequence[int]) -> bool:
    """Whether the dimensions are neighbours."""
    return not dim or dim[-1] - dim[0] == len(dim) - 1


def folded(input: Tensor, dim: Sequence[int]) -> Tensor:
    """Fold `input` to (outer, n, inner) with n over `dim`, which move to the end if they must."""
    in_place = _in_place(dim)
    if not in_place:
        input = input.movedim(tuple(dim), tuple(range(-len(dim), 0)))
    shape = input.shape
    first = (dim[0] if dim else 0) if in_place else len(shape) - len(dim)
    last = first + len(dim)
    sizes = (math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))
    return input.detach().reshape(sizes)


def unfolded(result: Tensor, like: Tensor, dim: Sequence[int]) -> Tensor:
    """Give a contiguous (outer, n, inner) the shape of `like`."""
    if _in_place(dim):
        return result.view(like.shape)
    rest = [d for d in range(like.dim()) if d not in dim]
    moved = result.view([like.shape[d] for d in (*rest, *dim)])
    return moved.permute([(*rest, *dim).index(d) for d in range(like.dim())]).contiguous()
