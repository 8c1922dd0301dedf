"""EM of Gaussian mixtures as one writes it in torch, to be compiled by torch.compile."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Parameters = tuple[Tensor, Tensor, Tensor]  # weights, means, precisions_cholesky
LOG_2PI = math.log(2 * math.pi)


def _inverse_factors(covariances: Tensor) -> Tensor:
    """Upper factors of the precisions, as scikit-learn's ``precisions_cholesky``."""
    lower = torch.linalg.cholesky_ex(covariances).L  # cholesky itself waits for the GPU
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, eye, upper=False).mT


def step_diag(x: Tensor, parameters: Parameters, reg: float = 1e-6) -> tuple[Parameters, Tensor]:
    """One iteration by matrix products, with the squares multiplied out; x is (n, d)."""
    weights, means, roots = parameters
    precisions = roots.square()
    distance = x.square() @ precisions.T - 2 * x @ (means * precisions).T
    distance = distance + (means.square() * precisions).sum(-1)
    constant = roots.log().sum(-1) + weights.log() - 0.5 * LOG_2PI * x.shape[-1]
    logits = constant - 0.5 * distance
    log_prob = logits.logsumexp(-1, keepdim=True)
    r = (logits - log_prob).exp()
    counts = r.sum(0) + 1e-10
    means = r.T @ x / counts[:, None]
    variances = r.T @ x.square() / counts[:, None] - means.square() + reg
    return (counts / len(x), means, variances.rsqrt()), log_prob.mean()


def step_full(x: Tensor, parameters: Parameters, reg: float = 1e-6) -> tuple[Parameters, Tensor]:
    """One iteration by matrix products; x is (n, d)."""
    weights, means, factors = parameters
    k, d = means.shape
    y = (x @ factors.permute(1, 0, 2).reshape(d, k * d)).view(-1, k, d)
    y = y - (means[:, None] @ factors).squeeze(1)
    constant = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1) + weights.log()
    logits = constant - 0.5 * (y.square().sum(-1) + LOG_2PI * d)
    log_prob = logits.logsumexp(-1, keepdim=True)
    r = (logits - log_prob).exp()
    counts = r.sum(0) + 1e-10
    means = r.T @ x / counts[:, None]
    second = torch.stack([(r[:, j, None] * x).T @ x for j in range(k)]) / counts[:, None, None]
    covariances = second - means[:, :, None] * means[:, None]
    covariances = covariances + reg * torch.eye(d, dtype=x.dtype, device=x.device)
    return (counts / len(x), means, _inverse_factors(covariances)), log_prob.mean()


def step_small(x: Tensor, parameters: Parameters, reg: float = 1e-6) -> tuple[Parameters, Tensor]:
    """One iteration of few features by differences, full covariance; x is (..., n, d)."""
    weights, means, factors = parameters
    d = x.shape[-1]
    difference = x[..., :, None, :] - means[..., None, :, :]
    y = (difference[..., None, :] @ factors[..., None, :, :, :]).squeeze(-2)
    constant = factors.diagonal(dim1=-2, dim2=-1).log().sum(-1) + weights.log()
    logits = constant[..., None, :] - 0.5 * (y.square().sum(-1) + LOG_2PI * d)
    log_prob = logits.logsumexp(-1, keepdim=True)
    r = (logits - log_prob).exp()
    counts = r.sum(-2) + 1e-10
    moved = torch.einsum("...nk,...nkd->...kd", r, difference) / counts[..., None]
    weighed = (r[..., None] * difference).transpose(-3, -2)
    covariances = weighed.mT @ difference.transpose(-3, -2) / counts[..., None, None]
    covariances = covariances - moved[..., :, None] * moved[..., None, :]
    covariances = covariances + reg * torch.eye(d, dtype=x.dtype, device=x.device)
    weights = counts / x.shape[-2]
    return (weights, means + moved, _inverse_factors(covariances)), log_prob.mean()
