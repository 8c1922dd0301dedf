"""Bernoulli negative log-likelihood on logits: ``binary_cross_entropy_with_logits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import scaled, to_differentiate, with_signature
from elbokit.torch._checks import (
    autocast_low_precision,
    check_broadcast,
    check_reduction,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._formulas import bernoulli_grads
from elbokit.torch._reduction import spread

__all__ = ["bernoulli_backward", "bernoulli_loss", "binary_cross_entropy_with_logits"]


_Grads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def bernoulli_backward(
    grad: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    saved: Tensor,
    reduction: str,
    needs_input_grad: Sequence[bool],
) -> _Grads:
    """Gradients of the reduced loss in the four operands that the forward pass had.

    `saved` is the gradient in `input` that the forward pass computed, reduction included.
    """
    if grad is None:
        return None, None, None, None
    needs = list(needs_input_grad[:4])
    d_input = None
    if needs[0] and not to_differentiate():
        needs[0] = False
        rows = reduction == "rows"
        d_input = scaled(saved, spread(grad, input.shape, reduction) if rows else grad)
    if not any(needs):
        return d_input, None, None, None
    each = spread(grad, input.shape, reduction)
    by_formula = bernoulli_grads(input, target, weight, pos_weight, each, needs)
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
        reduction: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        loss, grad = torch.ops.elbokit.bernoulli_loss.default(
            input, target, weight, pos_weight, reduction, need_grad
        )
        return loss, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, target, weight, pos_weight, reduction, _ = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, weight, pos_weight, output[1])
        ctx.reduction = reduction

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        input, target, weight, pos_weight, saved = ctx.saved_tensors
        operands = input, target, weight, pos_weight, saved
        grads = bernoulli_backward(grad, *operands, ctx.reduction, ctx.needs_input_grad)
        return (*grads, None, None)


def bernoulli_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
) -> Tensor:
    """Differentiable loss of checked operands of one dtype, float32 or float64."""
    need_grad = input.requires_grad and torch.is_grad_enabled()
    loss: Tensor
    loss, _ = _BernoulliLoss.apply(  # type: ignore[no-untyped-call]
        input, target, weight, pos_weight, reduction, need_grad
    )
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
    dtype = check_tensors(input=input, target=target, weight=weight, pos_weight=pos_weight)
    check_same_shape("target", target, "input", input)
    check_broadcast("weight", weight, "input", input)
    check_broadcast("pos_weight", pos_weight, "input", input)
    check_reduction(reduction, ("none", "mean", "sum"))
    loss = bernoulli_loss(
        input.to(dtype),
        target.to(dtype),
        None if weight is None else weight.to(dtype),
        None if pos_weight is None else pos_weight.to(dtype),
        reduction,
    )
    return loss if autocast_low_precision(input) else loss.to(input.dtype)
