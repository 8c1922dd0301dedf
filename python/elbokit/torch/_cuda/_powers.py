"""Powers of two on the GPU, exact."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["power_of_two"]


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2 to the power of integers from -1022 to 1023, in float64.

    From its bits: torch.ldexp multiplies by a power that some versions take in float32, where it
    overflows beyond 127, and CUDA's pow promises no more than a few roundings.
    """
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)
