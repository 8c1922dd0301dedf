"""What several formulas share."""

from __future__ import annotations

from torch import Tensor

__all__ = ["by_sample", "sum_events"]


def by_sample(weight: Tensor, like: Tensor) -> Tensor:
    """Weights of samples, to be multiplied with elements."""
    return weight.reshape(-1, *(1,) * (like.dim() - 1))


def sum_events(elements: Tensor, first: int = 1) -> Tensor:
    """Sum the dimensions from `first` on."""
    # Not by flatten, which has no rule for batches of gradients (is_grads_batched=True).
    return elements.sum(tuple(range(first, elements.dim()))) if elements.dim() > first else elements
