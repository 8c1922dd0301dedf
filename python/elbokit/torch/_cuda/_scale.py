"""Gradients that the forward pass computed, times the gradient of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import output

__all__ = ["scale"]


def scale(
    saved: Sequence[Tensor | None], factors: Sequence[float], grad: Tensor, in_place: bool
) -> list[Tensor | None]:
    """Return each tensor of `saved` times its factor and `grad`, in one launch.

    The launch reads `grad`, of shape () and float32 or float64: the host does not wait for it. The
    tensors are dense. In place, one that is multiplied by exactly 1 costs no pass.
    """
    outs = [t if t is None or in_place else torch.empty_like(t) for t in saved]
    items = [
        (output(t, 1), output(out, 1), factor)
        for t, out, factor in zip(saved, outs, factors, strict=True)
        if t is not None and t.numel()
    ]
    if items:
        cuda_kernels().scale(queue(grad, 0), output(grad, 1), items)
    return outs
