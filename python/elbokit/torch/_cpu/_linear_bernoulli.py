"""Bernoulli loss of a linear layer's logits, block by block: they never exist as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import filled
from elbokit.torch._linear_blocks import Grads, backward, loss_and_grads
from elbokit.torch._operands import operand, output, vector

__all__ = ["linear_bernoulli_loss", "linear_bernoulli_loss_backward"]

# Elements of the block of logits: 8 MiB in float32. A quarter or twice as many take the same
# time; much smaller blocks pay for passing over `hidden` and its gradient once for each.
_BLOCK = 2**21


class _Loss:
    """The sum over the blocks; see ``BlockLoss``."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(
        self,
        logits: Tensor,
        target: Tensor,
        row_weight: Tensor | None,
        row_loss: Tensor | None,
        need_grad: bool,
    ) -> None:
        rows = logits.shape[0]
        described: Any = output(logits, rows)
        wanted: Any = operand(target, logits.shape, rows)
        total, _ = _core.bernoulli_loss(
            described,
            wanted,
            None,
            None,
            None,
            vector(row_weight),
            1.0,
            1.0,
            None,
            vector(row_loss),
            described if need_grad else None,
        )
        self.total += total

    def store(self, out: Tensor, scale: float) -> None:
        filled(out, self.total * scale)


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
        _Loss(),
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
        _Loss(),
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
