"""The autograd functions under ``torch.func`` and with dual numbers: their derivatives forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

__all__ = ["apply_of", "has_dual_numbers"]


def has_dual_numbers() -> bool:
    """Whether tensors may carry tangents, as within ``torch.autograd.forward_ad.dual_level()``."""
    return forward_ad._current_level >= 0


def apply_of(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return the ``apply`` of an autograd function, differentiable forward where that may be asked.

    ``torch.compile`` refuses a function that has a derivative forward, asked for or not. Traced
    through a transform, any function loses its backward without a word: that part is not compiled.
    """
    if torch.compiler.is_compiling():
        if _are_functorch_transforms_active():
            torch._dynamo.graph_break()
        return function.apply
    if not (has_dual_numbers() or _are_functorch_transforms_active()):
        return function.apply
    _check_once()
    apply = _with_jvp(function).apply
    return lambda *inputs: apply(*(_Whole(i) if type(i) is tuple else i for i in inputs))


class _Whole(tuple[int, ...]):
    # torch takes a tuple apart, and then misses the tangents of its items.
    pass


def _check_once() -> None:
    # torch loses what is dual of a derivative forward of any autograd function, without a word.
    levels = get_interpreter_stack() or ()
    if sum(level.key() == TransformType.Jvp for level in levels) > 1:
        raise NotImplementedError(
            "a derivative forward of a derivative forward (torch.func.jvp or jacfwd twice) is not "
            "supported by torch for autograd functions; take one of them backward, as "
            "torch.func.hessian does"
        )


class _Context:
    """The context of an autograd function, with some of its attributes in place of its own."""

    def __init__(self, ctx: Any, **instead: Any) -> None:
        self.__dict__.update(instead, _ctx=ctx)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._ctx, name, value)


@functools.cache
def _with_jvp(function: Any) -> Any:
    """Return `function` with a derivative forward, made of its backward.

    A backward is linear in the upstream gradient, g -> J^T g, so that J v is the gradient in g of
    <J^T g, v>.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        constant: list[Tensor | None] = []

        def save(*tensors: Tensor | None) -> None:
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        def mark(*tensors: Tensor | None) -> None:
            ctx.mark_non_differentiable(*tensors)
            constant.extend(tensors)

        every = _Context(
            ctx,
            save_for_backward=save,
            mark_non_differentiable=mark,
            needs_input_grad=(True,) * len(inputs),  # a tangent needs no gradient
        )
        function.setup_context(every, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.shapes = [
            None if o is None or any(o is c for c in constant) else (o.shape, o.dtype, o.device)
            for o in outputs
        ]
        ctx.single = not isinstance(output, tuple)

    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        needs = tuple(t is not None for t in tangents)
        linear = _Context(ctx, needs_input_grad=needs, saved_tensors=ctx.saved_tensors)
        given = [t for t in tangents if t is not None]

        def pullback(*grads: Tensor) -> Sequence[Tensor]:
            each = iter(grads)
            found = function.backward(
                linear, *(None if s is None else next(each) for s in ctx.shapes)
            )
            return [
                torch.zeros_like(t) if g is None else g
                for g, t in zip(found, tangents, strict=True)
                if t is not None
            ]

        zeros = [torch.zeros(s[0], dtype=s[1], device=s[2]) for s in ctx.shapes if s is not None]
        pushed = iter(torch.func.vjp(pullback, *zeros)[1](given))
        outputs = tuple(None if s is None else next(pushed) for s in ctx.shapes)
        return outputs[0] if ctx.single else outputs

    body = {
        "forward": staticmethod(function.forward),
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(function.backward),
        "jvp": staticmethod(jvp),
        "generate_vmap_rule": True,
    }
    return type(function.__name__, (torch.autograd.Function,), body)
