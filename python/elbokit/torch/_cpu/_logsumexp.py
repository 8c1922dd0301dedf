"""Log-sum-exp over any dimensions, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty
from elbokit.torch._folds import folded, unfolded
from elbokit.torch._reduction import reduced_shape

__all__ = ["logsumexp", "logsumexp_backward"]


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Log-sum-exp over the dimensions `dim`."""
    out = empty(reduced_shape(input.shape, dim, keepdim), dtype=input.dtype)
    if input.numel() == 0:
        return out.fill_(-math.inf)
    a = folded(input.resolve_neg(), dim)
    _core.logsumexp(a.numpy(), out.view(a.shape[0], a.shape[2]).numpy())
    return out


def logsumexp_backward(grad: Tensor, input: Tensor, output: Tensor, dim: Sequence[int]) -> Tensor:
    """Gradient of log-sum-exp; `grad` and `output` have their reduced dimensions or not."""
    if input.numel() == 0:
        return empty(input.shape, dtype=input.dtype)
    a = folded(input.resolve_neg(), dim)
    outer, _, inner = a.shape
    result = dense(a.shape, input.dtype)
    _core.logsumexp_backward(
        a.numpy(),
        output.detach().resolve_neg().reshape(outer, inner).contiguous().numpy(),
        grad.detach().resolve_neg().reshape(outer, inner).contiguous().numpy(),
        result.numpy(),
    )
    return unfolded(result, input, dim)
