"""The gradients of a mixture's log-density in plain, differentiable torch.

For a backward that must itself be differentiated (``create_graph=True``). Unlike the kernels it
makes tensors of samples times components times features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gmm_log_prob_grads"]

# A component of weight 0 may be nearer than those that count by more than a number can hold.
_MOST_EXCESS = {torch.float32: 80.0, torch.float64: 700.0}


def _whitened(difference: Tensor, factor: Tensor, covariance_type: str) -> Tensor:
    """Return ``P^T d`` for each sample and component."""
    if covariance_type == "full":
        return torch.einsum("bnki,bkij->bnkj", difference, factor)
    if covariance_type == "tied":
        return torch.einsum("bnki,bij->bnkj", difference, factor)
    return difference * (factor if covariance_type == "diag" else factor[..., None])[:, None]


def _pulled_back(y: Tensor, factor: Tensor, covariance_type: str) -> Tensor:
    """Return ``P y``."""
    if covariance_type in ("full", "tied"):
        factor = factor.transpose(-1, -2)
    return _whitened(y, factor, covariance_type)


def _log_det(factor: Tensor, covariance_type: str, n_features: int) -> Tensor:
    """Log-determinants of the factors, of shape (batch, components or 1)."""
    if covariance_type in ("full", "tied"):
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det if covariance_type == "full" else log_det[:, None]
    return factor.log().sum(-1) if covariance_type == "diag" else n_features * factor.log()


def _factor_grad(
    share: Tensor, difference: Tensor, y: Tensor, factor: Tensor, covariance_type: str
) -> Tensor:
    """Gradient in the factors: ``sum_n share_nk (diag(1 / P_ii) - triu(d y^T))``."""
    if covariance_type in ("full", "tied"):
        out = "bkij" if covariance_type == "full" else "bij"
        outer = torch.einsum(f"bnk,bnki,bnkj->{out}", share, difference, y)
        count = share.sum(1) if covariance_type == "full" else share.sum((1, 2))
        inverse = factor.diagonal(dim1=-2, dim2=-1).reciprocal()
        return torch.diag_embed(count[..., None] * inverse) - outer.triu()
    outer = torch.einsum("bnk,bnki->bki", share, difference * y)
    count = share.sum(1)
    if covariance_type == "diag":
        return count[..., None] / factor - outer
    return difference.shape[-1] * count / factor - outer.sum(-1)


def gmm_log_prob_grads(
    grad: Tensor,
    x: Tensor,
    weights: Tensor,
    means: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``sum(grad * log p)`` in x, weights, means and precisions_cholesky.

    With differences d, whitened y and shares ``grad_n r_nk`` of the responsibilities. One batch
    dimension everywhere. Where p is 0 they are 0.
    """
    factor = precisions_cholesky
    if covariance_type in ("full", "tied"):
        factor = factor.triu()
    d = x.shape[-1]
    difference = x[:, :, None] - means[:, None]
    y = _whitened(difference, factor, covariance_type)
    log_det = _log_det(factor, covariance_type, d)[:, None]
    log_normal = log_det - 0.5 * (d * math.log(2 * math.pi) + y.square().sum(-1))
    counts = (weights != 0)[:, None]
    largest = log_normal.detach().masked_fill(~counts, -math.inf).amax(-1, keepdim=True)
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    normal = (log_normal - largest).clamp(max=_MOST_EXCESS[x.dtype]).exp()
    total = (weights[:, None] * normal).sum(-1, keepdim=True)
    ratio = (normal / total.masked_fill(total == 0, 1.0)).masked_fill(total == 0, 0.0)
    over_p = grad[..., None] * ratio  # grad_n N_k(x_n) / p(x_n)
    share = over_p * weights[:, None]
    pull = share[..., None] * _pulled_back(y, factor, covariance_type)
    d_factor = _factor_grad(share, difference, y, factor, covariance_type)
    return -pull.sum(2), over_p.sum(1), pull.sum(1), d_factor
