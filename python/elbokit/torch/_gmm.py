"""Log-density of Gaussian mixtures, differentiable in the data and in every parameter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
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
from elbokit.torch._checks import autocast_low_precision, check_tensors
from elbokit.torch._formulas import gmm_log_prob_grads
from elbokit.torch._transforms import apply_of

__all__ = ["gmm_log_prob"]

# Dimensions behind the batch, in terms of k components and d features.
_FACTOR_DIMS = {"full": "kdd", "tied": "dd", "diag": "kd", "spherical": "k"}


class _GmmLogProb(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        x: Tensor, weights: Tensor, means: Tensor, precisions_cholesky: Tensor, covariance_type: str
    ) -> Tensor:
        log_prob: Tensor = torch.ops.elbokit.gmm_log_prob.default(
            x, weights, means, precisions_cholesky, covariance_type
        )
        return log_prob

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.covariance_type = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:4]
        return *_gradients(grad, ctx.saved_tensors, ctx.covariance_type, needs), None


def _gradients(
    grad: Tensor, operands: Sequence[Tensor], covariance_type: str, needs: Sequence[bool]
) -> Sequence[Tensor | None]:
    """Return the gradients that are needed; everything has one batch dimension."""
    grads: tuple[Tensor, ...]
    if to_differentiate():
        x, weights, means, factors = operands
        grads = gmm_log_prob_grads(grad, x, weights, means, factors, covariance_type)
    else:
        backward = in_backward("gmm_log_prob_backward", grad, *operands)
        grads = backward(grad, *operands, covariance_type, needs[0], any(needs[1:]))
    return [g if n else None for g, n in zip(grads, needs, strict=True)]


_direct_gmm_log_prob = eager_twin(_GmmLogProb, "gmm_log_prob")


def _keep(ctx: Any, found: tuple[Tensor], *inputs: Any) -> Tensor:
    *operands, ctx.covariance_type = inputs
    ctx.save_for_backward(*operands)
    return found[0]


def _plain_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    operands, kind, needs = ctx.saved_tensors, ctx.covariance_type, ctx.needs_input_grad[1:5]
    grads: Any = None
    if undisturbed() and not (to_differentiate() or is_batched(grad)):
        asked: tuple[Any, ...] = (grad, *operands, kind, needs[0], any(needs[1:]))
        grads = _core.plain_gmm_gradient(*asked)
    if grads is None:
        batch, *batches = (t.unsqueeze(0) for t in (grad, *operands))
        found = _gradients(batch, batches, kind, needs)
        grads = [None if g is None else g.squeeze(0) for g in found]
    return None, *grads, None


_track = direct_apply("_GmmLogProb", _keep, _plain_backward)


def _plain_gmm_log_prob(operands: Sequence[Tensor], covariance_type: str) -> Tensor | None:
    """Return the log-densities of plain operands without batch dimensions, else None."""
    log_prob: Tensor | None
    given: tuple[Any, ...] = (*operands, covariance_type)
    log_prob = _core.plain_gmm_log_prob(*given)
    if log_prob is not None and torch.is_grad_enabled():
        return _track((log_prob,), *given)  # type: ignore[no-any-return]
    return log_prob


def _broadcast_batch(
    x: Tensor, weights: Tensor, means: Tensor, factors: Tensor, covariance_type: str
) -> tuple[tuple[int, ...], list[Tensor]]:
    """Check the shapes. Return the batch dimensions, and the operands with one instead of them."""
    if not isinstance(covariance_type, str) or covariance_type not in _FACTOR_DIMS:
        raise ValueError(
            f"`covariance_type` is {covariance_type!r}, "
            f"expected one of {', '.join(map(repr, _FACTOR_DIMS))}"
        )
    if x.dim() < 2 or x.shape[-1] == 0:
        raise ValueError(
            f"`x` has shape {tuple(x.shape)}, expected (..., n_samples, n_features) with at least "
            "one feature"
        )
    if weights.dim() < 1 or weights.shape[-1] == 0:
        raise ValueError(
            f"`weights` has shape {tuple(weights.shape)}, expected (..., n_components) with at "
            "least one component"
        )
    sizes = {"k": weights.shape[-1], "d": x.shape[-1]}
    operands = {
        "x": (x, x.shape[-2:]),
        "weights": (weights, weights.shape[-1:]),
        "means": (means, (sizes["k"], sizes["d"])),
        "precisions_cholesky": (factors, tuple(sizes[c] for c in _FACTOR_DIMS[covariance_type])),
    }
    batches = {}
    for name, (tensor, core) in operands.items():
        cut = tensor.dim() - len(core)
        if cut < 0 or tuple(tensor.shape[cut:]) != tuple(core):
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}, expected "
                f"(..., {', '.join(map(str, core))}) for covariance_type={covariance_type!r}, "
                f"{sizes['k']} components and {sizes['d']} features"
            )
        batches[name] = tuple(tensor.shape[:cut])
    if not any(batches.values()):
        return (), [tensor.unsqueeze(0) for tensor, _ in operands.values()]
    broadcast_shapes: Any = torch.broadcast_shapes  # it has no types
    try:
        batch = tuple(broadcast_shapes(*batches.values()))
    except RuntimeError:
        came = ", ".join(f"`{name}` has {shape}" for name, shape in batches.items())
        raise ValueError(f"batch dimensions do not broadcast: {came}") from None
    flat = [t.expand(*batch, *core).flatten(0, len(batch) - 1) for t, core in operands.values()]
    return batch, flat


def gmm_log_prob(
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str = "full",
) -> Tensor:
    r"""Log-density of every row of `x` under Gaussian mixtures, differentiable in all four tensors.

    Parameters
    ----------
    x : Tensor of shape (..., n_samples, n_features)
        Leading dimensions are independent mixtures; they broadcast with the parameters'. float64,
        float32, bfloat16 or float16; low precision is computed in float32.
    weights : Tensor of shape (..., n_components)
        Mixing proportions, not negative; 0 is allowed. They are used as they are: nothing makes
        them sum to one.
    means : Tensor of shape (..., n_components, n_features)
    precisions_cholesky : Tensor
        Cholesky factors P of the precisions, as in scikit-learn: upper triangular with
        ``y = (x - mean) @ P`` and a positive diagonal. Shape (..., n_components, n_features,
        n_features) for 'full', (..., n_features, n_features) for 'tied', (..., n_components,
        n_features) for 'diag', (..., n_components) for 'spherical'. What is below the diagonal is
        ignored, and its gradient is 0.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"

    Returns
    -------
    Tensor of shape (..., n_samples)
        :math:`\log p(x_n) = \log \sum_k \pi_k N(x_n | \mu_k, (P_k P_k^T)^{-1})` in nats, of the
        dtype that the operands promote to (float32 under autocast).

    Raises
    ------
    TypeError
        An operand is no tensor, or has a dtype other than the above, or float64 meets another.
    ValueError
        Shapes do not fit, `covariance_type` is unknown, or a tensor is sparse or on a device
        without kernels.

    Notes
    -----
    The gradient is the components', weighted by the responsibilities (the "expected gradient":
    Salakhutdinov, Roweis & Ghahramani, 2003): :math:`\nabla \log p(x) = \sum_k p(k | x) \nabla
    \log \pi_k N_k(x)`. It takes one pass over the rows, which stores neither responsibilities nor
    any tensor of samples by components by features. In a row whose density is 0 it is 0.
    Differentiable any number of times; a second derivative does store such a tensor.

    Values are not checked: NaN or infinity in `x`, a negative weight or diagonal give NaN.

    Examples
    --------
    >>> import torch
    >>> from elbokit.torch import gmm_log_prob
    >>> x = torch.tensor([[0.0], [2.0]], requires_grad=True)
    >>> one = torch.ones(1)
    >>> log_prob = gmm_log_prob(x, one, one[:, None], one, "spherical")
    >>> torch.autograd.grad(log_prob.sum(), x)[0].tolist()
    [[1.0], [-1.0]]
    """
    operands = x, weights, means, precisions_cholesky
    if undisturbed():
        plain = _plain_gmm_log_prob(operands, covariance_type)
        if plain is not None:
            return plain
    dtype = check_tensors(
        x=x, weights=weights, means=means, precisions_cholesky=precisions_cholesky
    )
    x, weights, means, precisions_cholesky = (t.to(dtype) for t in operands)
    batch, flat = _broadcast_batch(x, weights, means, precisions_cholesky, covariance_type)
    apply: Any = _direct_gmm_log_prob if direct(*flat) else apply_of(_GmmLogProb)
    log_prob: Tensor = apply(*flat, covariance_type)
    log_prob = log_prob.reshape(*batch, x.shape[-2])
    if any(autocast_low_precision(t) for t in operands):
        return log_prob
    return log_prob.to(reduce(torch.promote_types, (t.dtype for t in operands)))
