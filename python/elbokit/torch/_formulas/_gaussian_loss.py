"""Gradients of the loss of a Gaussian decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from elbokit.torch._formulas._common import by_sample, sum_events
from elbokit.torch._reduction import computed_dtype, spread

__all__ = ["gaussian_loss_grads"]


def gaussian_loss_grads(
    operands: Sequence[Tensor | None],
    low: float,
    high: float,
    target_scale: float,
    grad: Tensor,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m (log(2 pi) + v + (mean - t)^2 e^-v) / 2`` in mean, t, v, m and r.

    For log-variances v clamped to [low, high] (0 if None), targets t (`target_scale` times what is
    given), the mask m and the samples' weights r; otherwise as `bernoulli_grads`.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    mean, target, logvar, mask, row_weight = (None if x is None else x.to(dtype) for x in operands)
    assert mean is not None
    assert target is not None
    difference = mean - target if target_scale == 1 else mean - target * target_scale
    each = spread(grad, mean.shape, reduction)
    noise = difference.new_zeros(()) if logvar is None else logvar
    if mask is not None:
        ignored = (mask == 0).expand_as(difference)
        difference = difference.masked_fill(ignored, 0.0)
        noise = noise.expand_as(difference).masked_fill(ignored, 0.0)
        each = each * ~ignored
    clamped = noise.clamp(low, high)
    inverse = torch.exp(-0.5 * clamped)
    z = difference * inverse
    weighted = each if row_weight is None else each * by_sample(row_weight, mean)
    grads: list[Tensor | None] = [None] * 5
    slope = weighted * z * inverse
    if needs[0]:
        grads[0] = slope
    if needs[1]:
        grads[1] = -target_scale * slope
    if needs[2] and logvar is not None:
        inside = (noise >= low) & (noise <= high)
        # A select: an infinite loss may not come through the clamp, whose slope is 0.
        slope = (weighted * (0.5 - 0.5 * z * z)).masked_fill(~inside, 0.0)
        grads[2] = slope.sum_to_size(logvar.shape)
    if needs[4] and row_weight is not None:
        loss = 0.5 * (z * z + clamped + math.log(2 * math.pi))
        grads[4] = sum_events(each * loss)
    return tuple(grads)
