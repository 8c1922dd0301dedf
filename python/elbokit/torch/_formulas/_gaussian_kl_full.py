"""Gradients of the KL of full Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit.torch._reduction import spread

__all__ = ["gaussian_kl_full_grads"]


def gaussian_kl_full_grads(
    mu: Tensor, scale_tril: Tensor, row_weight: Tensor | None, grad: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of ``r (|mu|^2 + |L|^2 - k - 2 sum log L_ii) / 2`` in mu, L and r."""
    lower = scale_tril.tril()
    # Not by diagonal(), which torch.compile answers with a warning of torch's own.
    on_diagonal = torch.eye(mu.shape[1], dtype=torch.bool, device=mu.device)
    diagonal = torch.where(on_diagonal, scale_tril, 0.0).sum(-1)
    d_row_weight = None
    each = spread(grad, mu.shape, reduction)
    if row_weight is not None:
        squares = mu.square().sum(1) + lower.square().sum((1, 2)) - mu.shape[1]
        d_row_weight = each.reshape(-1) * (0.5 * squares - diagonal.log().sum(1))
        each = each * row_weight[:, None]
    inverse = torch.where(on_diagonal, 1 / diagonal[..., None], 0.0)
    return each * mu, each[..., None] * (lower - inverse), d_row_weight
