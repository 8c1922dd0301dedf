"""The operators on tensors without data: shapes, strides and dtypes alone, for tracing.

Outputs are new, and laid out as those of the implementations; None as theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from elbokit.torch._reduction import (
    classes_last,
    computed_dtype,
    gaussian_order,
    loss_shape,
    reduced_shape,
    saved_dtype,
    storage_order,
)

__all__ = [
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "gaussian_kl_full",
    "gaussian_loss",
    "linear_bernoulli_loss",
    "linear_bernoulli_loss_backward",
    "gmm_log_prob",
    "gmm_log_prob_backward",
    "logsumexp",
    "logsumexp_backward",
    "multi_sample_loss",
    "vae_loss",
]


def _gradient(like: Tensor, order: Sequence[int] | None) -> Tensor:
    dtype = saved_dtype(like)
    if order is None:
        return like.new_empty(like.shape, dtype=dtype)
    return like.new_empty_strided(like.shape, like.stride(), dtype=dtype)


def bernoulli_loss(
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
    """Shapes of the loss and its gradient."""
    loss = input.new_empty(loss_shape(input.shape, reduction), dtype=computed_dtype(input))
    order = None
    if reduction != "none":
        order = storage_order(input, target, weight, pos_weight, mask)
    return loss, _gradient(input, order) if need_grad else None


def categorical_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Shapes of the loss and its gradient."""
    loss = logits.new_empty(loss_shape(logits.shape, reduction), dtype=computed_dtype(logits))
    if not need_grad:
        return loss, None
    if classes_last(logits):
        return loss, logits.new_empty_strided(logits.shape, logits.stride())
    return loss, logits.new_empty(logits.shape)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    row_weight: Tensor | None,
    free_bits: float,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Shapes of the KL, its floored form and the latter's gradients."""
    kl, charged = (mu.new_empty(loss_shape(mu.shape, reduction)) for _ in range(2))
    if not need_grad:
        return kl, charged, None, None
    return kl, charged, mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def gaussian_kl_backward(
    grad: Tensor | None,
    grad_charged: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    row_weight: Tensor | None,
    free_bits: float,
    reduction: str,
    need_prior: bool,
) -> tuple[Tensor | None, ...]:
    """Shapes of the four gradients."""
    own = mu.new_empty(mu.shape), mu.new_empty(mu.shape)
    if not need_prior:
        return *own, None, None
    return *own, mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def gaussian_kl_full(
    mu: Tensor, scale_tril: Tensor, row_weight: Tensor | None, reduction: str, need_grad: bool
) -> tuple[Tensor | None, ...]:
    """Shapes of the KL and its two gradients."""
    kl = mu.new_empty(loss_shape(mu.shape, reduction))
    if not need_grad:
        return kl, None, None
    return kl, mu.new_empty(mu.shape), mu.new_empty(scale_tril.shape)


def multi_sample_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    row_weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor,
    target_scale: float,
    bound: str,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
) -> tuple[Tensor | None, ...]:
    """Shapes of the loss and of its four gradients."""
    loss = mu.new_empty(loss_shape(mu.shape, reduction))
    grad = _gradient(logits, None) if need_logits else None
    latent = [t.new_empty(t.shape) if need_latent else None for t in (mu, logvar, z)]
    return loss, grad, *latent


def gaussian_loss(
    mean: Tensor,
    target: Tensor,
    logvar: Tensor | None,
    mask: Tensor | None,
    row_weight: Tensor | None,
    low: float,
    high: float,
    target_scale: float,
    reduction: str,
    need_mean: bool,
    need_logvar: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Shapes of the loss and its gradients."""
    loss = mean.new_empty(loss_shape(mean.shape, reduction), dtype=computed_dtype(mean))
    order = gaussian_order(mean, target, logvar, mask)
    grad_mean = _gradient(mean, order) if need_mean else None
    if logvar is None or not need_logvar:
        return loss, grad_mean, None
    return loss, grad_mean, _gradient(logvar, order if logvar.shape == mean.shape else None)


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    row_weight: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    beta: float | None,
    target_scale: float,
    free_bits: float,
    reduction: str,
    need_logits: bool,
    need_latent: bool,
    need_statistics: bool,
) -> tuple[Tensor | None, ...]:
    """Shapes of the terms, of the gradients and of the by-products."""
    shape = loss_shape(logits.shape, reduction)
    terms = [mu.new_empty(shape) for _ in range(3)]
    order = storage_order(logits, target, mask)
    grad = _gradient(logits, order) if need_logits else None
    latent = [mu.new_empty(mu.shape) if need_latent else None for _ in range(2)]
    if not need_statistics:
        return *terms, grad, *latent, None, None
    statistics = mu.new_empty((3, math.prod(mu.shape[1:])), dtype=torch.float64)
    return *terms, grad, *latent, statistics, mu.new_empty((), dtype=torch.int64)


def linear_bernoulli_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    reduction: str,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, ...]:
    """Shapes of the loss and of the gradients in the layer and its input."""
    loss = hidden.new_empty(loss_shape(target.shape, reduction), dtype=computed_dtype(hidden))
    needs = need_hidden, need_weight, need_bias
    return loss, *_layer_gradients(hidden, weight, bias, needs)


def linear_bernoulli_loss_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, ...]:
    """Shapes of the gradients."""
    return _layer_gradients(hidden, weight, bias, (need_hidden, need_weight, need_bias))


def _layer_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    operands = hidden, weight, bias
    return tuple(
        _gradient(t, None) if t is not None and need else None
        for t, need in zip(operands, needs, strict=True)
    )


def gmm_log_prob(
    x: Tensor, weights: Tensor, means: Tensor, precisions_cholesky: Tensor, covariance_type: str
) -> Tensor:
    """Shape of the log-densities."""
    return x.new_empty(x.shape[:2])


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
    """Shapes of the four gradients."""
    operands = x, weights, means, precisions_cholesky
    needs = need_x, need_parameters, need_parameters, need_parameters
    return tuple(t.new_empty(t.shape) if n else None for t, n in zip(operands, needs, strict=True))


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Shape of the reduced tensor."""
    return input.new_empty(reduced_shape(input.shape, dim, keepdim))


def logsumexp_backward(grad: Tensor, input: Tensor, output: Tensor, dim: Sequence[int]) -> Tensor:
    """Shape of the gradient."""
    return input.new_empty(input.shape)
