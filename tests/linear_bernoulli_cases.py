"""Operands and oracle of the tests of linear_bernoulli_loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_cases import draw, reduce, targets

REDUCTIONS = ("batchmean", "sum", "none")
Operands = tuple[Tensor, Tensor, Tensor | None, Tensor]


def operands(
    n: int,
    k: int,
    d: int,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    grad: bool = True,
) -> Operands:
    weight = draw(d, k, seed=1).div(k**0.5).to(dtype).requires_grad_(grad)
    b = draw(d, seed=2, dtype=dtype, grad=grad) if bias else None
    return draw(n, k, dtype=dtype, grad=grad), weight, b, targets(n, d, dtype=dtype)


def tracked(given: Operands) -> list[Tensor]:
    return [t for t in given if t is not None and t.requires_grad]


def truth(given: Operands, reduction: str, upstream: Tensor) -> list[Tensor]:
    """Return the loss and the gradients by torch, in float64, from the same rounded operands."""
    copies = [None if t is None else t.detach().double() for t in given]
    hidden, weight, bias, target = copies
    leaves = [c.requires_grad_() for c, t in zip(copies, given, strict=True)
              if c is not None and t is not None and t.requires_grad]  # fmt: skip
    assert hidden is not None
    assert weight is not None
    logits = F.linear(hidden, weight, bias)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = reduce(each, reduction)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, upstream.double())]
