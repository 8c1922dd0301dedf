"""Operands and oracles of the torch tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from elbokit import reference

tells_of_hooks = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="torch, before 2.8, does not tell of hooks: gradients are copied",
)

DTYPES = (torch.float32, torch.float64)
# Around the lanes of every vector width, and one that is split over tasks.
SIZES = ((1, 1), (2, 3), (3, 15), (1, 16), (5, 17), (252, 507))


def draw(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False
) -> torch.Tensor:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(1000 * seed + len(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(grad)


def targets(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False
) -> torch.Tensor:
    """Numbers in [0, 1], many of them 0 or 1."""
    x = (draw(*shape, seed=100 + seed) + 0.5).clamp(0, 1).to(dtype)
    return x.requires_grad_(grad)


def numpy64(x: torch.Tensor) -> Any:
    return x.detach().double().numpy()


def true_bernoulli(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Elementwise loss of the same (already rounded) operands, in float64."""
    factors = (None if x is None else numpy64(x) for x in (weight, pos_weight))
    return torch.from_numpy(reference.bernoulli_loss(numpy64(logits), numpy64(target), *factors))


def true_bernoulli_slope(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return d loss / d logits in float64."""
    logit, t = logits.detach().double(), target.detach().double()
    return (1 - t) * torch.sigmoid(logit) - t * torch.sigmoid(-logit)


def true_gaussian(
    mean: torch.Tensor, target: torch.Tensor, logvar: torch.Tensor | None = None
) -> torch.Tensor:
    """Elementwise loss of the same (already rounded) operands, in float64."""
    v = 0.0 if logvar is None else numpy64(logvar)
    return torch.from_numpy(reference.gaussian_loss(numpy64(mean), numpy64(target), v))


def true_categorical(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss of each position of the same (already rounded) logits, in float64."""
    return torch.from_numpy(reference.categorical_loss(numpy64(logits), target.numpy()))


def true_kl(
    mu: torch.Tensor,
    logvar: torch.Tensor,
    prior_mu: torch.Tensor | None = None,
    prior_logvar: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL of each dimension, from torch's distributions, in float64."""

    def normal(location: torch.Tensor, log_variance: torch.Tensor) -> torch.distributions.Normal:
        return torch.distributions.Normal(location, torch.exp(0.5 * log_variance))

    zero = torch.zeros((), dtype=torch.float64)
    m = zero if prior_mu is None else prior_mu.double()
    s = zero if prior_logvar is None else prior_logvar.double()
    q, p = normal(mu.double(), logvar.double()), normal(m, s)
    return torch.distributions.kl_divergence(q, p)


def reduce(loss: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduce an elementwise loss as the losses over a batch do."""
    rows = loss.flatten(1).sum(1) if loss.dim() > 1 else loss
    return {"none": rows, "sum": rows.sum(), "batchmean": rows.sum() / len(loss)}[reduction]


def assert_as_good_as(
    ours: torch.Tensor,
    theirs: torch.Tensor,
    truth: torch.Tensor,
    rtol: float,
    atol: float = 0.0,
) -> None:
    """Assert |ours - truth| <= |theirs - truth| + tolerance, for each element."""
    error = (ours.double() - truth).abs()
    allowed = (theirs.double() - truth).abs() + atol + rtol * truth.abs()
    assert (error <= allowed).all(), f"excess error {(error - allowed).max().item():g}"


def assert_differentiable_backward_agrees(
    value: torch.Tensor, operands: Sequence[torch.Tensor]
) -> None:
    """Assert that the backward of ``create_graph=True``, in torch's operators, is the kernel's."""
    upstream = torch.rand_like(value)
    kernel = torch.autograd.grad(value, operands, upstream, retain_graph=True)
    plain = torch.autograd.grad(value, operands, upstream, create_graph=True)
    assert all(g.requires_grad for g in plain)
    torch.testing.assert_close(kernel, tuple(g.detach() for g in plain))
