"""Standard normal noise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["standard_normal"]


def standard_normal(
    shape: tuple[int, ...], like: Tensor, dtype: torch.dtype, generator: torch.Generator | None
) -> Tensor:
    """Draw noise on the device of `like`."""
    if generator is None:  # which torch.compile refuses beside a size that it does not know
        return torch.randn(shape, dtype=dtype, device=like.device)
    return torch.randn(shape, generator=generator, dtype=dtype, device=like.device)
