"""Gradients of the bounds of several samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbokit.torch._formulas._common import sum_events
from elbokit.torch._formulas._logsumexp import logsumexp_grad
from elbokit.torch._reduction import computed_dtype, spread

__all__ = ["multi_sample_grads"]


def multi_sample_grads(
    operands: Sequence[Tensor | None],
    target_scale: float,
    bound: str,
    grad: Tensor,
    reduction: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of the negative bound in logits, target, mask, row weights, mu, logvar and z.

    `grad` is that of the reduced loss. In the log-weights the gradient is their softmax (iwae)
    or the same for all samples (elbo). A mask has no gradient.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    logits, target, mask, row_weight, mu, logvar, z = (
        None if t is None else t.to(dtype) for t in operands
    )
    assert logits is not None
    assert target is not None
    assert mu is not None
    assert logvar is not None
    assert z is not None
    if target_scale != 1:
        target = target * target_scale
    if mask is not None:
        ignored = (mask == 0).expand_as(target)
        logits, target = logits.masked_fill(ignored, 0.0), target.masked_fill(ignored, 0.0)
    cross_entropy = -(1 - target) * logsigmoid(-logits) - target * logsigmoid(logits)
    slope = (1 - target) * torch.sigmoid(logits) - target * torch.sigmoid(-logits)
    if mask is not None:
        cross_entropy, slope = cross_entropy * ~ignored, slope * ~ignored
    difference = z - mu
    pull = difference * torch.exp(-logvar)
    ratio = 0.5 * (difference * pull + logvar - z.square())
    log_weight = sum_events(ratio, 2) - sum_events(cross_entropy, 2)
    samples = logits.shape[0]
    if bound == "iwae":
        normalizer = torch.logsumexp(log_weight, 0)
        weight = logsumexp_grad(torch.ones_like(normalizer), log_weight, normalizer)
        loss = math.log(samples) - normalizer
    else:
        weight = torch.full_like(log_weight, 1 / samples)
        loss = -log_weight.mean(0)
    each = spread(grad, mu.shape[:1], reduction)
    d_row_weight = None
    if row_weight is not None:
        d_row_weight = each * loss
        each = each * row_weight
    weight = weight * each

    def by_row(tensor: Tensor) -> Tensor:
        return weight.reshape(weight.shape + (1,) * (tensor.dim() - 2))

    latent = by_row(z)
    return (
        by_row(logits) * slope,
        -(by_row(logits) * logits).sum(0) * target_scale,
        None,
        d_row_weight,
        (latent * pull).sum(0),
        (latent * (0.5 * difference * pull - 0.5)).sum(0),
        latent * (z - pull),
    )
