"""Memory beside CPU operands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._reduction import saved_dtype

__all__ = ["POOLED", "dense", "empty", "filled", "gradient", "zeros"]

_LARGEST_FLOAT = torch.finfo(torch.float32).max
POOLED = 1 << 18  # elements from which memory comes from the pool


# Beside CPU operands, whatever torch's default device is.
empty = partial(torch.empty, device="cpu")
zeros = partial(torch.zeros, device="cpu")


def _contiguous(shape: Sequence[int]) -> list[int]:
    """Return the strides of a contiguous tensor."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * max(1, size))
    return strides[::-1]


def filled(out: Tensor, value: float) -> Tensor:
    """Fill `out` with a number, which may be beyond what its dtype holds."""
    if abs(value) > _LARGEST_FLOAT and out.dtype == torch.float32:
        value = math.copysign(math.inf, value)
    return out.fill_(value)


def _pooled(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory of the pool (cpp/dispatch/buffer_pool.h), which returns there.

    For small tensors that takes longer than it saves.
    """
    buffer = _core.Buffer(dtype.itemsize * math.prod(shape))
    storage = torch.frombuffer(buffer, dtype=dtype).untyped_storage()
    return empty(0, dtype=dtype).set_(storage, 0, shape, strides)


def dense(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return contiguous memory for a result."""
    if math.prod(shape) < POOLED:
        return empty(shape, dtype=dtype)
    return _pooled(shape, _contiguous(shape), dtype)


def gradient(like: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """Return memory for a gradient, with the strides of `like` if `order` says that they serve.

    That of float16 is float32 until the upstream gradient is known: a mean's is too small for it.
    """
    dtype = saved_dtype(like)
    if like.numel() < POOLED:
        if order is None and not like.is_contiguous():
            return like.new_empty(like.shape, dtype=dtype)
        return torch.empty_like(like, dtype=dtype)
    return _pooled(like.shape, _contiguous(like.shape) if order is None else like.stride(), dtype)
