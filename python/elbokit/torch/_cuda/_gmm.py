"""Log-density of Gaussian mixtures, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit.torch._cuda._gmm_kernels import (
    Parameters,
    Statistics,
    estep,
    parameters_of,
    row_gradient,
    small_weights,
    statistics,
)
from elbokit.torch._cuda._powers import power_of_two

__all__ = ["gmm_log_prob", "gmm_log_prob_backward"]

# Components with a smaller share of the weights have no count that their gradient could be had
# from: kLeastShare of cuda/kernels/gmm_weights.cu.
_LEAST_SHARE = 2.0**-60


def gmm_log_prob(
    x: Tensor, weights: Tensor, means: Tensor, precisions_cholesky: Tensor, covariance_type: str
) -> Tensor:
    """Log-density of the rows of a batch of mixtures; every operand has one batch dimension."""
    parameters = parameters_of(covariance_type, weights, means, precisions_cholesky)
    log_prob, _, _ = estep(x, parameters)
    assert log_prob is not None
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
    parameters = parameters_of(covariance_type, weights, means, precisions_cholesky)
    # A power of two changes no digit, and keeps products with gradients of any size within T.
    grad = grad.detach().to(torch.float64).contiguous()
    exponent = torch.zeros((), dtype=torch.int32, device=grad.device)
    if grad.numel():
        exponent = torch.frexp(grad.abs().amax()).exponent.clamp(-1000, 1000)
        grad = grad * power_of_two(-exponent)
    scale = power_of_two(exponent)
    grad_x = None
    if need_x:
        grad_x = row_gradient(x, grad, parameters) * scale
    if not need_parameters:
        return grad_x, None, None, None
    sums = statistics(x, grad, parameters)
    grads = (
        _weight_gradient(x, grad, parameters, sums),
        _mean_gradient(parameters, sums),
        _factor_gradient(parameters, sums),
    )
    return grad_x, *((g * scale).to(x.dtype) for g in grads)


def _weight_gradient(x: Tensor, grad: Tensor, parameters: Parameters, sums: Statistics) -> Tensor:
    """Return ``sum_n grad_n N_k(x_n) / p(x_n)``."""
    weights = parameters.weights
    small = weights <= _LEAST_SHARE * weights.sum(1, keepdim=True)
    return torch.where(small, small_weights(x, grad, parameters), sums.counts / weights)


def _mean_gradient(parameters: Parameters, sums: Statistics) -> Tensor:
    """Return ``P (P^T first)``."""
    factor, first = parameters.precisions_cholesky, sums.first_moments
    if parameters.covariance_type == "diag":
        return factor.square() * first
    if parameters.covariance_type == "spherical":
        return factor.square()[..., None] * first
    factor = factor.triu()
    if parameters.covariance_type == "tied":
        return first @ factor @ factor.mT
    return (first[:, :, None] @ factor @ factor.mT)[:, :, 0]


def _factor_gradient(parameters: Parameters, sums: Statistics) -> Tensor:
    """Return ``diag(counts / P_ii) - triu(second P)``, or its diagonal or the sum of that."""
    factor, counts, second = parameters.precisions_cholesky, sums.counts, sums.second_moments
    if parameters.covariance_type == "diag":
        return counts[..., None] / factor - second * factor
    if parameters.covariance_type == "spherical":
        n_features = parameters.means.shape[2]
        return n_features * counts / factor - second * factor
    if parameters.covariance_type == "tied":
        counts = counts.sum(1)
    factor = factor.triu()
    inverse = factor.diagonal(dim1=-2, dim2=-1).reciprocal()
    return torch.diag_embed(counts[..., None] * inverse) - (second @ factor).triu()
