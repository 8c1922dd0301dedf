"""Bernoulli negative log-likelihood on logits: ``binary_cross_entropy_with_logits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    direct_apply,
    save,
    scaled,
    to_differentiate,
    undisturbed,
    unpacked,
    with_signature,
)
from elbokit.torch._backends import implementation
from elbokit.torch._checks import (
    autocast_low_precision,
    check_broadcast,
    check_reduction,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._formulas import bernoulli_grads
from elbokit.torch._plain import plain_track
from elbokit.torch._reduction import spread
from elbokit.torch._transforms import apply_of

__all__ = [
    "bernoulli_backward",
    "bernoulli_loss",
    "binary_cross_entropy_with_logits",
    "plain_bernoulli_loss",
]


_Grads = tuple[Tensor | None, ...]


def bernoulli_backward(
    grad: Tensor | None,
    operands: Sequence[Tensor | None],
    target_scale: float,
    saved: Tensor | None,
    reduction: str,
    needs_input_grad: Sequence[bool],
) -> _Grads:
    """Gradients of the reduced loss in its operands: input, target and the four weights.

    `saved` is the gradient in the input that the forward pass computed, reduction included.
    """
    needs = list(needs_input_grad[:6])
    if grad is None or not any(needs):
        return (None,) * 6
    d_input = None
    if needs[0] and saved is not None and not to_differentiate():
        needs[0] = False
        by_row = reduction == "rows"
        d_input = scaled(saved, spread(grad, saved.shape, reduction) if by_row else grad)
    if not any(needs):
        return d_input, *(None,) * 5
    by_formula = bernoulli_grads(operands, target_scale, grad, reduction, needs)
    return (by_formula[0] if d_input is None else d_input), *by_formula[1:]


class _BernoulliLoss(torch.autograd.Function):
    """Loss, and the gradient in the logits that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        pos_weight: Tensor | None,
        mask: Tensor | None,
        row_weight: Tensor | None,
        target_scale: float,
        reduction: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor | None]:
        operands = input, target, weight, pos_weight, mask, row_weight
        loss, grad = torch.ops.elbokit.bernoulli_loss.default(
            *operands, target_scale, reduction, need_grad
        )
        return loss, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, target_scale, reduction, need_grad = inputs
        grad = output[1]
        ctx.mark_non_differentiable(grad)
        ctx.set_materialize_grads(False)
        save(ctx, *operands, grad if need_grad else None)
        ctx.target_scale, ctx.reduction = target_scale, reduction

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        *operands, saved = unpacked(ctx, 6)
        grads = bernoulli_backward(
            grad, operands, ctx.target_scale, saved, ctx.reduction, ctx.needs_input_grad
        )
        return *grads, None, None, None


def _forward(ctx: Any, *inputs: Any) -> Any:
    loss, grad = implementation("bernoulli_loss", inputs[0])(*inputs)
    *operands, ctx.target_scale, ctx.reduction, _ = inputs
    ctx.set_materialize_grads(False)
    save(ctx, *operands, grad)
    return loss


_direct_bernoulli_loss = direct_apply("_BernoulliLoss", _forward, _BernoulliLoss.backward)


def _plain_backward(
    grad: Tensor,
    operands: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: tuple[str],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    operands, needs = (*operands, None, None, None, None), (*needs, *(False,) * 4)
    return bernoulli_backward(grad, operands, 1.0, saved[0], options[0], needs)[:2]


_track = plain_track("_BernoulliLoss", _plain_backward)


def plain_bernoulli_loss(input: Tensor, target: Tensor, reduction: str) -> Tensor | None:
    """Return the loss of plain operands, else None."""
    found = _core.plain_bernoulli_loss(input, target, reduction, torch.is_grad_enabled())
    loss: Tensor | None = _track(found, (reduction,), input, target)
    return loss


def bernoulli_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    mask: Tensor | None = None,
    row_weight: Tensor | None = None,
    *,
    target_scale: float = 1.0,
    reduction: str,
) -> Tensor:
    """Differentiable loss of checked operands."""
    operands = input, target, weight, pos_weight, mask, row_weight
    need_grad = input.requires_grad and torch.is_grad_enabled()
    apply = _direct_bernoulli_loss if direct(*operands) else apply_of(_BernoulliLoss)
    # A default is a symbol to a compilation with dynamic shapes; float() makes it a number.
    outputs = apply(*operands, float(target_scale), reduction, need_grad)
    loss: Tensor = outputs if isinstance(outputs, Tensor) else outputs[0]
    return loss


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy between targets and logits, value and gradient in one pass.

    A replacement for `torch.nn.functional.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    input : Tensor of any shape
        Logits. float64, float32, bfloat16 or float16; low precision is computed in float32.
    target : Tensor of the shape of `input`
        Probabilities in [0, 1]. A floating-point dtype, bool or uint8.
    weight : Tensor broadcasting to the shape of `input`, optional
        Factor of each element's loss.
    reduction : {"mean", "sum", "none"}
        Over all elements.
    pos_weight : Tensor broadcasting to the shape of `input`, optional
        Factor of the positive term, such as one number per class.

    Returns
    -------
    Tensor
        Of shape () or, for ``reduction="none"``, of `input`; of the dtype of `input` (float32
        under autocast).

    Raises
    ------
    TypeError
        An argument is no tensor, or has a dtype other than the above, or float64 meets another.
    ValueError
        Shapes, devices or `reduction` do not fit, or an argument is sparse.

    Notes
    -----
    With logit :math:`l`, target :math:`t`, weight :math:`w` and positive weight :math:`p`

    .. math:: w \left[ (1 - t) \log(1 + e^l) + p\, t \log(1 + e^{-l}) \right],

    the negative log-likelihood of a Bernoulli decoder [1]_ for :math:`w = p = 1`, evaluated
    without overflow for logits of any size. Differentiable in all four tensors, any number of
    times. Sums are accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, appendix C.1,
       arXiv:1312.6114.
    """
    if weight is None and pos_weight is None and reduction in ("mean", "sum") and undisturbed():
        plain = plain_bernoulli_loss(input, target, reduction)
        if plain is not None:
            return plain
    check_tensors(input=input, target=target, weight=weight, pos_weight=pos_weight)
    check_same_shape("target", target, "input", input)
    check_broadcast("weight", weight, "input", input)
    check_broadcast("pos_weight", pos_weight, "input", input)
    check_reduction(reduction, ("none", "mean", "sum"))
    loss = bernoulli_loss(input, target, weight, pos_weight, reduction=reduction)
    return loss if autocast_low_precision(input) else loss.to(input.dtype)
