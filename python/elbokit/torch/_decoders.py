"""What the losses of decoders share: `bernoulli_loss`, `gaussian_loss`, `categorical_loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit.torch._checks import (
    check_broadcast,
    check_event_dims,
    check_non_negative,
    check_reduction,
    check_same_shape,
    check_tensors,
    check_weight,
)
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT

__all__ = ["check_elementwise", "check_decoder_reduction"]


def check_decoder_reduction(reduction: str) -> str:
    """Return the operators' name of `reduction`, if it is one that a decoder's loss has."""
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    return BATCH_REDUCTIONS[reduction]


def check_elementwise(
    name: str,
    output: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None,
    mask: Tensor | None,
    target_scale: float,
    **others: Tensor | None,
) -> torch.dtype:
    """Check the operands of a loss of the elements of `output`, the argument `name`.

    `others` broadcast to its shape. Returns the dtype to compute in.
    """
    dtype = check_tensors(
        **{name: output, "target": target, **others, "weight": weight, "mask": mask}
    )
    check_event_dims(name, output)
    check_same_shape("target", target, name, output)
    for other_name, other in others.items():
        check_broadcast(other_name, other, name, output)
    check_broadcast("mask", mask, name, output)
    check_weight(weight, output.shape[0])
    check_non_negative("target_scale", target_scale)
    return dtype
