"""Gradient of log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_grad"]


def logsumexp_grad(grad: Tensor, input: Tensor, output: Tensor) -> Tensor:
    """Gradient of log-sum-exp, ``grad exp(input - output)``, with 0 where the output is -inf.

    `grad` and `output` keep the reduced dimensions.
    """
    finite = torch.where(output == -torch.inf, 0.0, output)
    return grad * torch.exp(input - finite)
