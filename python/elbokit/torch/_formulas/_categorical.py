"""Gradients of the loss of a categorical decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elbokit.torch._formulas._common import by_sample, sum_events
from elbokit.torch._reduction import computed_dtype, spread

__all__ = ["categorical_grads"]


def categorical_grads(
    operands: Sequence[Tensor | None], grad: Tensor, reduction: str, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m (logsumexp(logits) - logits[target])`` in logits, target, m and r.

    For the mask m and the samples' weights r; otherwise as `bernoulli_grads`.
    """
    given, target, mask, row_weight = operands
    assert given is not None
    assert target is not None
    logits = given.to(computed_dtype(given))
    each = spread(grad, target.shape, reduction)
    if mask is not None:
        ignored = (mask == 0).expand_as(target)
        logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        target = target.masked_fill(ignored, 0)
        each = each * ~ignored
    grads: list[Tensor | None] = [None] * 4
    chosen = target.unsqueeze(1)
    if needs[0]:
        weighted = each if row_weight is None else each * by_sample(row_weight, target)
        classes = torch.arange(logits.shape[1], device=logits.device)
        own = chosen == classes.reshape(-1, *(1,) * (target.dim() - 1))
        slope = torch.softmax(logits, 1) - own.to(logits.dtype)
        grads[0] = slope * weighted.expand(target.shape).unsqueeze(1)
    if needs[3] and row_weight is not None:
        # NaN for what is no class: asked for that, a GPU serves this process no more.
        n_classes = logits.shape[1]
        loss = -torch.log_softmax(logits, 1).gather(1, chosen.clamp(0, n_classes - 1)).squeeze(1)
        loss = loss.masked_fill((target < 0) | (target >= n_classes), torch.nan)
        grads[3] = sum_events(each * loss)
    return tuple(grads)
