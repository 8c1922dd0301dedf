"""Log-sum-exp over any dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    direct_apply,
    eager_twin,
    in_backward,
    is_batched,
    to_differentiate,
    undisturbed,
    with_signature,
)
from elbokit.torch._checks import check_tensors
from elbokit.torch._formulas import logsumexp_grad
from elbokit.torch._reduction import reduced_shape
from elbokit.torch._transforms import apply_of

__all__ = ["logsumexp"]


class _LogSumExp(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(input: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
        output: Tensor = torch.ops.elbokit.logsumexp.default(input, dim, keepdim)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, dim, _ = inputs
        ctx.save_for_backward(input, output)
        ctx.dim = dim

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        input, output = ctx.saved_tensors
        return _gradient(grad, input, output, ctx.dim), None, None


def _gradient(grad: Tensor, input: Tensor, output: Tensor, dim: tuple[int, ...]) -> Tensor:
    if to_differentiate():
        kept = reduced_shape(input.shape, dim, True)
        return logsumexp_grad(grad.reshape(kept), input, output.reshape(kept))
    d_input: Tensor = in_backward("logsumexp_backward", grad, input)(grad, input, output, dim)
    return d_input


_direct_logsumexp = eager_twin(_LogSumExp, "logsumexp")


def _keep(ctx: Any, found: tuple[Tensor], input: Tensor, dim: int) -> Tensor:
    ctx.save_for_backward(input, *found)
    ctx.dim = dim
    return found[0]


def _plain_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, output = ctx.saved_tensors
    d_input = None
    if undisturbed() and not (to_differentiate() or is_batched(grad)):
        d_input = _core.plain_logsumexp_backward(grad, input, output, ctx.dim)
    if d_input is None:
        d_input = _gradient(grad, input, output, (ctx.dim % input.dim(),))
    return None, d_input, None


_track = direct_apply("_LogSumExp", _keep, _plain_backward)


def _plain_logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool) -> Tensor | None:
    """Return the result for a plain input and one dimension, else None."""
    output = _core.plain_logsumexp(input, dim, bool(keepdim))
    if output is not None and torch.is_grad_enabled():
        return _track((output,), input, dim)  # type: ignore[no-any-return]
    return output


def _normalized(dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return the dimensions of `dim`, sorted and counted from 0; all of them for an empty `dim`."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    for d in dims:
        if isinstance(d, bool) or not isinstance(d, (int, Integral)):
            raise TypeError(f"`dim` is {dim!r}, expected an int or a tuple of ints")
        # A 0-d tensor has a dimension 0, as everywhere in torch.
        if not -max(ndim, 1) <= int(d) < max(ndim, 1):
            raise ValueError(f"`dim` is {dim!r}, expected dimensions of an input with {ndim}")
    if ndim == 0:
        return ()
    counted = tuple(sorted(int(d) % ndim for d in dims))
    if len(set(counted)) < len(counted):
        raise ValueError(f"`dim` is {dim!r}, expected each dimension at most once")
    return counted or tuple(range(ndim))


def logsumexp(input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Tensor:
    r"""Logarithm of the sum of exponentials, as `torch.logsumexp`.

    Parameters
    ----------
    input : Tensor of any shape
        float64, float32, bfloat16 or float16 (computed in float32); integers and bool are
        converted to the default dtype.
    dim : int or sequence of int
        Dimensions to reduce; an empty sequence means all.
    keepdim : bool, default=False
        Whether the reduced dimensions stay, with size 1.

    Returns
    -------
    Tensor
        `input` reduced over `dim`. -inf where there is nothing to sum or everything is -inf, inf
        where anything is inf, NaN where anything is NaN.

    Raises
    ------
    TypeError
        `input` is no tensor or is complex, or `dim` is no int.
    ValueError
        `dim` is out of range or repeated, or `input` is sparse or on a device without kernels.

    Notes
    -----
    .. math:: m + \log \sum_i e^{x_i - m}, \qquad m = \max_i x_i.

    The gradient is :math:`e^{x_i - y}` for the result :math:`y`, and 0 where :math:`y = -\infty`
    (where torch gives NaN): an impossible event has no preferred cause. Differentiable any number
    of times.
    """
    if undisturbed():
        plain = _plain_logsumexp(input, dim, keepdim)
        if plain is not None:
            return plain
    if isinstance(input, Tensor) and not (input.is_floating_point() or input.is_complex()):
        input = input.to(torch.get_default_dtype())
    dtype = check_tensors(input=input)
    dims = _normalized(dim, input.dim())
    given = input.to(dtype)
    apply = _direct_logsumexp if direct(given) else apply_of(_LogSumExp)
    output: Tensor = apply(given, dims, bool(keepdim))
    return output.to(input.dtype)
