"""The operators on CPU tensors: collapse to two dimensions, call the compiled kernels.

Operands cross the border as NumPy views of the tensors; the outputs are allocated here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._reduction import loss_scale, loss_shape, reduced_shape

__all__ = [
    "bernoulli_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "logsumexp",
    "logsumexp_backward",
    "vae_loss",
]

_Array = np.ndarray[Any, np.dtype[Any]]


def _matrix(tensor: Tensor, shape: Sequence[int], rows: int) -> _Array:
    """View `tensor`, broadcast to `shape`, as (rows, cols); copy only what has no such view."""
    view = tensor.detach()
    if len(shape) == 2 and view.is_contiguous() and view.shape == shape:
        return view.numpy()
    view = view.expand(shape)
    if rows > 1 and view.stride(0) == 0:
        view = view[:1].reshape(1, -1).expand(rows, -1)
    else:
        view = view.reshape(rows, -1)
    return (view if view.stride(1) in (0, 1) else view.contiguous()).numpy()


def _output(tensor: Tensor, rows: int) -> _Array:
    """Return the kernel's view (rows, cols) of an output."""
    return tensor.view(rows, -1).numpy()


def _row_factor(grad: Tensor | None, scale: float, rows: int, dtype: Any) -> _Array:
    """Return the weight of each row's KL in the gradient, shape (rows,)."""
    if grad is None or grad.dim() == 0:
        value = 0.0 if grad is None else grad.item() * scale
        return np.full(rows, value, dtype=dtype)
    return grad.detach().numpy()


def bernoulli_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Bernoulli negative log-likelihood on logits, and its gradient in `input`."""
    shape = input.shape
    grad = torch.empty(shape if need_grad else (0,), dtype=input.dtype)
    loss = torch.empty(loss_shape(shape, reduction), dtype=input.dtype)
    scale = loss_scale(shape, reduction)
    if input.numel() == 0:
        return loss.fill_(0.0 * scale), grad
    rows = shape[0] if shape else 1
    total = _core.bernoulli_loss(
        _matrix(input, shape, rows),
        _matrix(target, shape, rows),
        None if weight is None else _matrix(weight, shape, rows),
        None if pos_weight is None else _matrix(pos_weight, shape, rows),
        scale,
        _output(loss, rows) if reduction == "none" else None,
        loss.numpy() if reduction == "rows" else None,
        _output(grad, rows) if need_grad else None,
    )
    return (loss if reduction in ("none", "rows") else loss.fill_(total * scale)), grad


def _gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    free_bits: float,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Return the KL, and the KL with each dimension floored at `free_bits`."""
    shape, scale = mu.shape, loss_scale(mu.shape, reduction)
    size = loss_shape(shape, reduction)
    kl, charged = torch.empty(size, dtype=mu.dtype), torch.empty(size, dtype=mu.dtype)
    if mu.numel() == 0:
        return kl.fill_(0.0 * scale), charged.fill_(0.0 * scale)
    rows, by_row = shape[0], reduction == "rows"
    totals = _core.gaussian_kl(
        _matrix(mu, shape, rows),
        _matrix(logvar, shape, rows),
        None if prior_mu is None else _matrix(prior_mu, shape, rows),
        None if prior_logvar is None else _matrix(prior_logvar, shape, rows),
        free_bits,
        kl.numpy() if by_row else None,
        charged.numpy() if by_row else None,
    )
    if by_row:
        return kl, charged
    return kl.fill_(totals[0] * scale), charged.fill_(totals[1] * scale)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    reduction: str,
) -> Tensor:
    """KL of diagonal Gaussians, summed over the event dimensions."""
    return _gaussian_kl(mu, logvar, prior_mu, prior_logvar, 0.0, reduction)[0]


def gaussian_kl_backward(
    grad: Tensor | None,
    grad_charged: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    free_bits: float,
    reduction: str,
    need_prior: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of grad * kl + grad_charged * charged, before any sum over broadcast dimensions."""
    shape = mu.shape
    grad_mu, grad_logvar = torch.empty(shape, dtype=mu.dtype), torch.empty(shape, dtype=mu.dtype)
    prior_shape = shape if need_prior else (0,)
    grad_prior_mu = torch.empty(prior_shape, dtype=mu.dtype)
    grad_prior_logvar = torch.empty(prior_shape, dtype=mu.dtype)
    if mu.numel():
        rows = shape[0]
        operand = _matrix(mu, shape, rows)
        scale = loss_scale(shape, reduction)
        _core.gaussian_kl_backward(
            operand,
            _matrix(logvar, shape, rows),
            None if prior_mu is None else _matrix(prior_mu, shape, rows),
            None if prior_logvar is None else _matrix(prior_logvar, shape, rows),
            free_bits,
            _row_factor(grad, scale, rows, operand.dtype),
            _row_factor(grad_charged, scale, rows, operand.dtype),
            _output(grad_mu, rows),
            _output(grad_logvar, rows),
            _output(grad_prior_mu, rows) if need_prior else None,
            _output(grad_prior_logvar, rows) if need_prior else None,
        )
    return grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    free_bits: float,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both terms of the bound in one pass, and the gradient of the first in `logits`."""
    shape, rows = logits.shape, logits.shape[0]
    if logits.numel() == 0 or mu.numel() == 0:
        # Nothing to fuse; each stem knows what an empty operand gives.
        reconstruction, grad = bernoulli_loss(logits, target, None, None, reduction, need_grad)
        kl, charged = _gaussian_kl(mu, logvar, None, None, free_bits, reduction)
        return reconstruction, kl, charged, grad
    grad = torch.empty(shape if need_grad else (0,), dtype=logits.dtype)
    scale = loss_scale(shape, reduction)
    size, by_row = loss_shape(shape, reduction), reduction == "rows"
    reconstruction, kl, charged = (torch.empty(size, dtype=logits.dtype) for _ in range(3))
    totals = _core.vae_loss(
        _matrix(logits, shape, rows),
        _matrix(target, shape, rows),
        _matrix(mu, mu.shape, rows),
        _matrix(logvar, mu.shape, rows),
        free_bits,
        scale,
        reconstruction.numpy() if by_row else None,
        kl.numpy() if by_row else None,
        charged.numpy() if by_row else None,
        _output(grad, rows) if need_grad else None,
    )
    if not by_row:
        reconstruction.fill_(totals[0] * scale)
        kl.fill_(totals[1] * scale)
        charged.fill_(totals[2] * scale)
    return reconstruction, kl, charged, grad


def _fold(input: Tensor, dim: Sequence[int]) -> tuple[Tensor, bool]:
    """Fold `input` to (outer, n, inner) with n over `dim`; False if the dims had to be moved."""
    shape = input.shape
    in_place = not dim or dim[-1] - dim[0] == len(dim) - 1
    if not in_place:
        input = input.movedim(tuple(dim), tuple(range(-len(dim), 0)))
    first = (dim[0] if dim else 0) if in_place else len(shape) - len(dim)
    outer = math.prod(input.shape[:first])
    n = math.prod(shape[d] for d in dim)
    inner = math.prod(input.shape[first + len(dim) :])
    return input.detach().reshape(outer, n, inner), in_place


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Log-sum-exp over the dimensions `dim`."""
    out = torch.empty(reduced_shape(input.shape, dim, keepdim), dtype=input.dtype)
    if input.numel() == 0:
        return out.fill_(-math.inf)
    folded, _ = _fold(input, dim)
    _core.logsumexp(folded.numpy(), out.view(folded.shape[0], folded.shape[2]).numpy())
    return out


def logsumexp_backward(grad: Tensor, input: Tensor, output: Tensor, dim: Sequence[int]) -> Tensor:
    """Gradient of log-sum-exp; `grad` and `output` have their reduced dimensions or not."""
    if input.numel() == 0:
        return torch.empty(input.shape, dtype=input.dtype)
    folded, in_place = _fold(input, dim)
    outer, _, inner = folded.shape
    result = torch.empty(folded.shape, dtype=input.dtype)
    _core.logsumexp_backward(
        folded.numpy(),
        output.detach().reshape(outer, inner).contiguous().numpy(),
        grad.detach().reshape(outer, inner).contiguous().numpy(),
        result.numpy(),
    )
    if in_place:
        return result.view(input.shape)
    rest = [d for d in range(input.dim()) if d not in dim]
    moved = result.view([input.shape[d] for d in (*rest, *dim)])
    return moved.permute([(*rest, *dim).index(d) for d in range(input.dim())]).contiguous()
