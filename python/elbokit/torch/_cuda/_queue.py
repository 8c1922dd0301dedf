"""Where the kernels run: a device, torch's current stream of it, memory to work in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit.torch._reduction import saved_dtype

__all__ = ["gradient", "queue"]


def queue(like: Tensor, workspace: int) -> tuple[Any, ...]:
    """Describe a queue with so many bytes of workspace.

    torch's allocator gives the memory to nobody else on this stream before the kernels are done.
    Fetched inside the implementation of an operator, so that no stream is ever traced.
    """
    memory = like.new_empty(workspace, dtype=torch.uint8)
    index = stream = 0
    if like.is_cuda:
        index = like.device.index
        stream = torch._C._cuda_getCurrentRawStream(index)
    return index, stream, memory.data_ptr(), workspace, memory


def gradient(like: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """Return memory for a gradient, with the strides of `like` if `order` says that they serve.

    That of float16 is float32 until the upstream gradient is known: a mean's is too small for it.
    """
    dtype = saved_dtype(like)
    if order is None:
        return like.new_empty(like.shape, dtype=dtype)
    return like.new_empty_strided(like.shape, like.stride(), dtype=dtype)
