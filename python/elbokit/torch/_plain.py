"""Losses of plain operands: what the core's ``plain_...`` compute from beginning to end.

The core looks at the operands and makes the outputs too: in Python that takes as long as a small
loss. It gives the loss and the gradients for an upstream one of 1, or None for operands that ask
for more. Nothing may trace or intercept these (`elbokit.torch._autograd.undisturbed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from elbokit.torch import _extension
from elbokit.torch._autograd import (
    direct_apply,
    keep,
    kept,
    own_multiples,
    products,
    to_differentiate,
)

__all__ = ["PLAIN_REDUCTIONS", "is_one", "plain_track"]

# Of those that users name; "none" is more than a number.
PLAIN_REDUCTIONS = ("batchmean", "sum")

Grads = tuple[Tensor | None, ...]
Backward = Callable[..., Sequence[Tensor | None]]


def is_one(value: object) -> bool:
    """Whether `value` is the float 1."""
    return type(value) is float and value == 1


def plain_track(name: str, backward: Backward) -> Callable[..., Any]:
    """Return a function of what the core found, options and operands that gives the outputs.

    Operands that may have a gradient come first, in the order of the core's gradients, which are
    those of the first output. ``backward(grad, operands, gradients, options, needs)`` returns the
    gradients of all operands where no multiple of these serves; `grad` is a tuple if there are
    several outputs.
    """

    def by_hand(
        grads: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
        gradients: Sequence[Tensor | None],
        options: tuple[Any, ...],
        needs: Sequence[bool],
    ) -> Sequence[Tensor | None]:
        grad, *more = grads
        if set(more) <= {None}:  # all() takes four times the time
            if grad is None:
                return (None,) * len(operands)
            if not to_differentiate():
                return _for_operands(products(gradients, grad), len(operands))
        return backward(grads if more else grad, operands, gradients, options, needs)

    def forward(ctx: Any, found: Any, options: tuple[Any, ...], *operands: Tensor | None) -> Any:
        ctx.options = options
        ctx.set_materialize_grads(False)
        keep(ctx, operands, found[-1])
        return _outputs(found)

    def to_operands(ctx: Any, grad: Tensor | None, *more: Tensor | None) -> Grads:
        # Asked for in any case: it raises where an operand was changed, or the graph is gone.
        saved, gradients = ctx.saved_tensors, ctx.gradients
        if gradients is not None and grad is not None and set(more) <= {None}:
            own = own_multiples(gradients, grad)
            if own is not None:
                ctx.gradients = None  # who gets them is then their only owner
                return None, None, *_for_operands(own, len(saved))
        operands, gradients = kept(ctx, saved)
        needs = ctx.needs_input_grad[2:]
        return None, None, *by_hand((grad, *more), operands, gradients, ctx.options, needs)

    apply = direct_apply(name, forward, to_operands)

    def track(
        found: Sequence[Any] | None, options: tuple[Any, ...], *operands: Tensor | None
    ) -> Any:
        if found is None or found[-1] is None:
            return None if found is None else _outputs(found)
        if _extension.attach is not None:
            made = _extension.attach(found, by_hand, options, *operands)
            if made is not None:
                return made
        return apply(found, options, *operands)

    return track


def _for_operands(gradients: Sequence[Tensor | None], n_operands: int) -> Grads:
    return *gradients, *(None,) * (n_operands - len(gradients))


def _outputs(found: Sequence[Any]) -> Any:
    return found[0] if len(found) == 2 else found[:-1]
