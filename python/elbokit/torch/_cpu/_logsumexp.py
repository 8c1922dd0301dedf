"""Log-sum-exp over any dimensions, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import empty
from elbokit.torch._reduction import reduced_shape

__all__ = ["logsumexp", "logsumexp_backward"]


def _fold(input: Tensor, dim: Sequence[int]) -> tuple[Tensor, bool]:
    """Fold `input` to (outer, n, inner) with n over `dim`; False if the dims had to be moved."""
    shape = input.shape
    in_place = not dim or dim[-1] - dim[0] == len(dim) - 1
    if not in_place:
        input = input.movedim(tuple(dim), tuple(range(-len(dim), 0)))
    first = (dim[0] if dim else 0) if in_place else len(shape) - len(dim)
    outer = math.prod(input.shape[:first])
    n = math.prod(shape[d] for d in dim)
    inner = math.prod(input.shape[first + len(dim) :])
    return input.detach().reshape(outer, n, inner), in_place


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Log-sum-exp over the dimensions `dim`."""
    out = empty(reduced_shape(input.shape, dim, keepdim), dtype=input.dtype)
    if input.numel() == 0:
        return out.fill_(-math.inf)
    folded, _ = _fold(input, dim)
    _core.logsumexp(folded.numpy(), out.view(folded.shape[0], folded.shape[2]).numpy())
    return out


def logsumexp_backward(grad: Tensor, input: Tensor, output: Tensor, dim: Sequence[int]) -> Tensor:
    """Gradient of log-sum-exp; `grad` and `output` have their reduced dimensions or not."""
    if input.numel() == 0:
        return empty(input.shape, dtype=input.dtype)
    folded, in_place = _fold(input, dim)
    outer, _, inner = folded.shape
    result = empty(folded.shape, dtype=input.dtype)
    _core.logsumexp_backward(
        folded.numpy(),
        output.detach().reshape(outer, inner).contiguous().numpy(),
        grad.detach().reshape(outer, inner).contiguous().numpy(),
        result.numpy(),
    )
    if in_place:
        return result.view(input.shape)
    rest = [d for d in range(input.dim()) if d not in dim]
    moved = result.view([input.shape[d] for d in (*rest, *dim)])
    return moved.permute([(*rest, *dim).index(d) for d in range(input.dim())]).contiguous()
