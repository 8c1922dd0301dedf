"""Tensors as the kernels take them: (address, element, rows, cols, row stride, col stride).

The last item of the tuple is the tensor that owns the memory, which lives as long as the tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["ELEMENTS", "Described", "by_sample", "operand", "output", "permuted", "vector"]

Described = tuple[Any, ...]

# The numbers of Element in cpp/include/elbokit/matrix.h.
ELEMENTS = {
    torch.float32: 0,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.uint8: 4,
    torch.bool: 4,
}


def _describe(view: Tensor) -> Described:
    rows, cols = view.shape
    strides = view.stride()
    return view.data_ptr(), ELEMENTS[view.dtype], rows, cols, *strides, view


@overload
def operand(tensor: Tensor, shape: Sequence[int], rows: int) -> Described: ...
@overload
def operand(tensor: Tensor | None, shape: Sequence[int], rows: int) -> Described | None: ...
def operand(tensor: Tensor | None, shape: Sequence[int], rows: int) -> Described | None:
    """Describe `tensor`, broadcast to `shape`, as (rows, cols); copy only what has no such view."""
    if tensor is None:
        return None
    if tensor.is_neg():  # a view whose numbers are the negative of what lies in memory
        tensor = tensor.resolve_neg()
    if tensor.shape == shape:
        if tensor.is_contiguous():
            return output(tensor, rows)
        if len(shape) == 2 and rows == shape[0] and tensor.stride(1) == 1:  # as `chunk` makes them
            return _describe(tensor)
    view = tensor.detach().expand(shape)
    if rows > 1 and view.stride(0) == 0:
        view = view[:1].reshape(1, -1).expand(rows, -1)
    else:
        view = view.reshape(rows, -1)
    return _describe(view if view.stride(1) in (0, 1) else view.contiguous())


@overload
def output(tensor: Tensor, rows: int) -> Described: ...
@overload
def output(tensor: Tensor | None, rows: int) -> Described | None: ...
def output(tensor: Tensor | None, rows: int) -> Described | None:
    """Describe a contiguous tensor as (rows, cols)."""
    if tensor is None:
        return None
    cols = tensor.numel() // rows
    return tensor.data_ptr(), ELEMENTS[tensor.dtype], rows, cols, cols, 1, tensor


@overload
def vector(tensor: Tensor) -> Described: ...
@overload
def vector(tensor: Tensor | None) -> Described | None: ...
def vector(tensor: Tensor | None) -> Described | None:
    """Describe a tensor of shape (n,) as a column."""
    if tensor is None:
        return None
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    stride = tensor.stride(0)
    return tensor.data_ptr(), ELEMENTS[tensor.dtype], tensor.shape[0], 1, stride, 1, tensor


def permuted(order: Sequence[int] | None, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Permute the dimensions to `order`, see `storage_order`."""
    if order is None:
        return tensors
    return tuple(None if t is None else t.permute(*order) for t in tensors)


def by_sample(tensor: Tensor) -> Tensor:
    """Make one dimension of samples and data rows; a copy only where the strides ask for it."""
    return tensor.detach().reshape(tensor.shape[0] * tensor.shape[1], *tensor.shape[2:])
