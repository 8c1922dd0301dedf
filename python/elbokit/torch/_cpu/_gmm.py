"""Log-density of Gaussian mixtures, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty, zeros

__all__ = ["gmm_log_prob", "gmm_log_prob_backward"]


def _are_large(precisions_cholesky: Tensor) -> bool:
    return bool(precisions_cholesky.max() > _core.LARGEST_PRECISION)


def _parameter(tensor: Tensor) -> Any:
    """Return a parameter as the kernels read it."""
    return tensor.detach().to(torch.float64).resolve_neg().contiguous().numpy()


def gmm_log_prob(
    x: Tensor, weights: Tensor, means: Tensor, precisions_cholesky: Tensor, covariance_type: str
) -> Tensor:
    """Log-density of the rows of a batch of mixtures; every operand has one batch dimension."""
    log_prob = empty(x.shape[:2], dtype=x.dtype)
    if x.numel():
        _core.gmm_estep(
            x.detach().resolve_neg().numpy(),
            _parameter(weights),
            _parameter(means),
            _parameter(precisions_cholesky),
            covariance_type,
            log_prob.numpy(),
            None,
        )
    return log_prob


def gmm_log_prob_backward(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str,
    need_x: bool,
    need_parameters: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients in the rows and in the three parameters; None where they are not needed."""
    operands = grad, x, weights, means, precisions_cholesky
    if x.dtype == torch.float32 and x.numel() and _are_large(precisions_cholesky):
        grad, x, weights, means, precisions_cholesky = (t.double() for t in operands)
    make = empty if x.numel() else zeros
    grad_x = dense(x.shape, x.dtype) if need_x else None
    grads = [
        make(t.shape, dtype=x.dtype) if need_parameters else None
        for t in (weights, means, precisions_cholesky)
    ]
    if x.numel() and (need_x or need_parameters):
        _core.gmm_gradient(
            x.detach().resolve_neg().numpy(),
            grad.detach().resolve_neg().numpy(),
            _parameter(weights),
            _parameter(means),
            _parameter(precisions_cholesky),
            covariance_type,
            *[None if g is None else g.numpy() for g in (grad_x, *grads)],
        )
    dtype = operands[1].dtype
    return tuple(None if g is None else g.to(dtype) for g in (grad_x, *grads))
