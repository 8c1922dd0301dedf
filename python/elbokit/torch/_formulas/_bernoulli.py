"""Gradients of the Bernoulli loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbokit.torch._formulas._common import by_sample, sum_events
from elbokit.torch._reduction import computed_dtype, spread

__all__ = ["bernoulli_grads"]


def bernoulli_grads(
    operands: Sequence[Tensor | None],
    target_scale: float,
    grad: Tensor,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m w ((1 - t) softplus(l) + p t softplus(-l))`` in l, t, w, p, m and r.

    For logits l, targets t (`target_scale` times what is given), weights w, positive weights p,
    the mask m and the rows' weights r; `grad` is that of the reduced loss, `needs` says which of
    the six to compute. In this form nothing cancels, however large the logits. A mask has no
    gradient.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    logits, target, weight, pos_weight, mask, row_weight = (
        None if t is None else t.to(dtype) for t in operands
    )
    assert logits is not None
    assert target is not None
    if target_scale != 1:
        target = target * target_scale
    each = spread(grad, logits.shape, reduction)
    if mask is not None:
        # Where the mask is 0 nothing that is not finite may come through.
        ignored = (mask == 0).expand_as(logits)
        logits, target = logits.masked_fill(ignored, 0.0), target.masked_fill(ignored, 0.0)
        each = each * ~ignored
    by_row = None if row_weight is None else by_sample(row_weight, logits)
    unweighted = each if by_row is None else each * by_row
    weighted = unweighted if weight is None else unweighted * weight
    positive = target if pos_weight is None else pos_weight * target
    if_one, if_zero = -logsigmoid(logits), -logsigmoid(-logits)  # the loss for t = 1 and t = 0
    grads: list[Tensor | None] = [None] * 6
    if needs[0]:
        slope = (1 - target) * torch.sigmoid(logits) - positive * torch.sigmoid(-logits)
        grads[0] = weighted * slope
    if needs[1]:
        slope = -logits if pos_weight is None else (pos_weight - 1) * if_one - logits
        grads[1] = weighted * slope * target_scale
    loss = (1 - target) * if_zero + positive * if_one
    if needs[2] and weight is not None:
        grads[2] = (unweighted * loss).sum_to_size(weight.shape)
    if needs[3] and pos_weight is not None:
        grads[3] = (weighted * target * if_one).sum_to_size(pos_weight.shape)
    if needs[5] and row_weight is not None:
        own = each * loss if weight is None else each * weight * loss
        grads[5] = sum_events(own)
    return tuple(grads)
