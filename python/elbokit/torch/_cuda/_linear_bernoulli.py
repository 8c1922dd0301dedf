"""Bernoulli loss of a linear layer's logits, block by block: they never exist as a whole.

The products are torch's, so ``torch.set_float32_matmul_precision`` decides about TF32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._linear_blocks import Grads, backward, loss_and_grads
from elbokit.torch._operands import operand, output, vector
from elbokit.torch._reduction import computed_dtype

__all__ = ["linear_bernoulli_loss", "linear_bernoulli_loss_backward"]

# Elements of the block of logits: 64 MiB in float32, 4096 x 4096. The products of such a block fill
# the GPU several times over, and take longer than their launches.
_BLOCK = 2**24


class _Loss:
    """The sum over the blocks, which stays on the GPU; see ``BlockLoss``."""

    def __init__(self, like: Tensor, need_loss: bool) -> None:
        self.kernels = cuda_kernels()
        self.queue = queue(like, self.kernels.loss_workspace)
        self.block = like.new_empty((), dtype=computed_dtype(like)) if need_loss else None
        self.total = like.new_zeros((), dtype=torch.float64)

    def add(
        self,
        logits: Tensor,
        target: Tensor,
        row_weight: Tensor | None,
        row_loss: Tensor | None,
        need_grad: bool,
    ) -> None:
        rows = logits.shape[0]
        described = output(logits, rows)
        self.kernels.bernoulli_loss(
            self.queue,
            described,
            operand(target, logits.shape, rows),
            None,
            None,
            None,
            vector(row_weight),
            1.0,
            1.0,
            output(self.block, 1),
            None,
            vector(row_loss),
            described if need_grad else None,
        )
        if self.block is not None:
            self.total.add_(self.block)

    def store(self, out: Tensor, scale: float) -> None:
        out.copy_(self.total.mul_(scale))


def linear_bernoulli_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    reduction: str,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the loss and its gradients in hidden, weight and bias."""
    return loss_and_grads(
        _Loss(hidden, reduction != "rows"),
        _BLOCK,
        hidden,
        weight,
        bias,
        target,
        product,
        chunk_size,
        reduction,
        (need_hidden, need_weight, need_bias),
    )


def linear_bernoulli_loss_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> Grads:
    """Gradients of ``(grad * loss of each row).sum()``, from logits computed again."""
    return backward(
        _Loss(hidden, False),
        _BLOCK,
        grad,
        hidden,
        weight,
        bias,
        target,
        product,
        chunk_size,
        (need_hidden, need_weight, need_bias),
    )
