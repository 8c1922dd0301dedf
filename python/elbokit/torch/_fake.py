"""The operators on tensors without data: shapes and dtypes alone, for tracing.

Outputs are contiguous and new, as those of the implementations.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from elbokit.torch._reduction import loss_shape, reduced_shape

__all__ = [
    "bernoulli_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "logsumexp",
    "logsumexp_backward",
    "vae_loss",
]


def bernoulli_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Shapes of the loss and its gradient."""
    loss = input.new_empty(loss_shape(input.shape, reduction))
    return loss, input.new_empty(input.shape if need_grad else (0,))


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    reduction: str,
) -> Tensor:
    """Shape of the KL."""
    return mu.new_empty(loss_shape(mu.shape, reduction))


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
    """Shapes of the four gradients."""
    prior_shape = mu.shape if need_prior else (0,)
    shapes = (mu.shape, mu.shape, prior_shape, prior_shape)
    a, b, c, d = (mu.new_empty(shape) for shape in shapes)
    return a, b, c, d


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    free_bits: float,
    reduction: str,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes of both terms, the charged KL, and the gradient of the first."""
    shape = loss_shape(logits.shape, reduction)
    grad = logits.new_empty(logits.shape if need_grad else (0,))
    return logits.new_empty(shape), logits.new_empty(shape), logits.new_empty(shape), grad


def logsumexp(input: Tensor, dim: Sequence[int], keepdim: bool) -> Tensor:
    """Shape of the reduced tensor."""
    return input.new_empty(reduced_shape(input.shape, dim, keepdim))


def logsumexp_backward(grad: Tensor, input: Tensor, output: Tensor, dim: Sequence[int]) -> Tensor:
    """Shape of the gradient."""
    return input.new_empty(input.shape)
