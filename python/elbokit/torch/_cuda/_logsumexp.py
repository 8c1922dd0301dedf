"""Log-sum-exp over any dimensions, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._folds import folded, unfolded
from elbokit.torch._operands import output
from elbokit.torch._reduction import reduced_shape

__all__ = ["logsumexp", "logsumexp_backward"]


def _described(a: Tensor) -> tuple[Any, ...]:
    """Describe a tensor (outer, n, inner): address, whether it is float64, shape, strides."""
    return a.data_ptr(), a.dtype == torch.float64, tuple(a.shape), a.stride()


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Log-sum-exp over the dimensions `dim`."""
    kernels = cuda_kernels()
    out = input.new_empty(reduced_shape(input.shape, dim, keepdim))
    if input.numel() == 0:
        return out.fill_(-math.inf)
    a = folded(input, dim).resolve_neg()
    kernels.logsumexp(queue(a, kernels.logsumexp_workspace), _described(a), output(out, a.shape[0]))
    return out


def logsumexp_backward(grad: Tensor, input: Tensor, output_: Tensor, dim: Sequence[int]) -> Tensor:
    """Gradient of log-sum-exp; `grad` and `output_` have their reduced dimensions or not."""
    kernels = cuda_kernels()
    if input.numel() == 0:
        return input.new_empty(input.shape)
    a = folded(input, dim).resolve_neg()
    outer, n, inner = a.shape
    lse, slope = (
        t.detach().reshape(outer, inner).contiguous().resolve_neg() for t in (output_, grad)
    )
    result = a.new_empty(a.shape)
    kernels.logsumexp_backward(
        queue(a, 0),
        _described(a),
        output(lse, outer),
        output(slope, outer),
        output(result, outer * n),
    )
    return unfolded(result, input, dim)
