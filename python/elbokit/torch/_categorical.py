"""Loss of a categorical decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    eager_twin,
    save,
    scaled,
    to_differentiate,
    undisturbed,
    unpacked,
    with_signature,
)
from elbokit.torch._checks import (
    check_broadcast,
    check_is_tensor,
    check_layout,
    check_tensors,
    check_weight,
)
from elbokit.torch._decoders import check_decoder_reduction
from elbokit.torch._formulas import categorical_grads
from elbokit.torch._plain import PLAIN_REDUCTIONS, plain_track
from elbokit.torch._reduction import spread
from elbokit.torch._transforms import apply_of

__all__ = ["categorical_loss"]


class _CategoricalLoss(torch.autograd.Function):
    """Loss, and the gradient in the logits that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        weight: Tensor | None,
        reduction: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor | None]:
        operands = logits, target, mask, weight
        loss, grad = torch.ops.elbokit.categorical_loss.default(*operands, reduction, need_grad)
        return loss, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, ctx.reduction, need_grad = inputs
        grad = output[1]
        if grad is not None:
            ctx.mark_non_differentiable(grad)
        ctx.set_materialize_grads(False)
        save(ctx, *operands, grad if need_grad else None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        *operands, saved = unpacked(ctx, 4)
        needs = ctx.needs_input_grad[:4]
        return *_gradients(grad, operands, saved, ctx.reduction, needs), None, None


def _gradients(
    grad: Tensor | None,
    operands: Sequence[Tensor | None],
    saved: Tensor | None,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients in the operands; `saved` is that in the logits of the forward pass."""
    d_logits = d_weight = None
    if grad is not None:
        need_logits, _, _, need_weight = needs
        if need_logits and saved is not None and not to_differentiate():
            need_logits = False
            each = spread(grad, saved.shape, reduction) if reduction == "rows" else grad
            d_logits = scaled(saved, each)
        if need_logits or need_weight:
            needs = need_logits, False, False, need_weight
            by_formula = categorical_grads(operands, grad, reduction, needs)
            d_logits = by_formula[0] if d_logits is None else d_logits
            d_weight = by_formula[3]
    return d_logits, None, None, d_weight


_direct_categorical_loss = eager_twin(_CategoricalLoss, "categorical_loss")


def _plain_backward(
    grad: Tensor,
    operands: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: tuple[str],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    operands, needs = (*operands, None, None), (*needs, False, False)
    return _gradients(grad, operands, saved[0], options[0], needs)[:2]


_track = plain_track("_CategoricalLoss", _plain_backward)


def _check_operands(
    logits: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None
) -> torch.dtype:
    dtype = check_tensors(logits=logits, weight=weight, mask=mask)
    check_is_tensor("target", target)
    check_layout("target", target)
    if target.dtype != torch.int64:
        raise TypeError(f"`target` has dtype {target.dtype}, expected torch.int64")
    if target.device != logits.device:
        raise ValueError(
            f"`target` is on device {target.device}, expected {logits.device} as `logits`"
        )
    if logits.dim() < 2 or logits.shape[1] == 0:
        raise ValueError(
            f"`logits` has shape {tuple(logits.shape)}, expected (n_samples, n_classes, ...) with "
            "at least one class"
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected:
        raise ValueError(
            f"`target` has shape {tuple(target.shape)}, expected {expected}: that of `logits` "
            f"{tuple(logits.shape)} without the classes"
        )
    check_broadcast("mask", mask, "target", target)
    check_weight(weight, logits.shape[0])
    return dtype


def categorical_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    r"""Negative log-likelihood of a categorical decoder, summed over the positions of a sample.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes, ...)
        Output of the decoder, laid out as `torch.nn.functional.cross_entropy` takes it. float64,
        float32, bfloat16 or float16; low precision is computed in float32.
    target : Tensor of shape (n_samples, ...)
        Classes from 0 to ``n_classes - 1``, int64.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's loss. The average is still over the number of samples.
    mask : Tensor broadcasting to the shape of `target`, optional
        Where it is 0 (or False), a position does not count, whatever its logits and target are.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.

    Returns
    -------
    Tensor
        In nats, of shape () or (n_samples,); float32 if `logits` are of low precision.

    Raises
    ------
    TypeError
        `logits`, `weight` or `mask` is of the wrong type, or `target` is not int64.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown, or a target
        that counts is no class.

    Notes
    -----
    .. math:: \sum_p \Bigl( \log \sum_k e^{l_{kp}} - l_{t_p p} \Bigr)

    for logits :math:`l` and classes :math:`t` at positions :math:`p` (Bishop, Pattern Recognition
    and Machine Learning, 2006, section 4.3.4). The target's term is kept apart from the others, so
    that a sure prediction keeps its digits. Differentiable in `logits` and `weight`, any number of
    times. Sums over positions and samples are accumulated in float64.
    """
    if weight is None and mask is None and reduction in PLAIN_REDUCTIONS and undisturbed():
        found = _core.plain_categorical_loss(logits, target, reduction, torch.is_grad_enabled())
        plain: Tensor | None = _track(found, (reduction,), logits, target)
        if plain is not None:
            return plain
    dtype = _check_operands(logits, target, weight, mask)
    reduction = check_decoder_reduction(reduction)
    if weight is not None:
        weight = weight.to(dtype)
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    operands = logits, target, mask, weight
    apply = _direct_categorical_loss if direct(*operands) else apply_of(_CategoricalLoss)
    loss: Tensor = apply(*operands, reduction, need_grad)[0]
    return loss
