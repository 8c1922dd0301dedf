"""The gradients in plain, differentiable torch.

The kernels give the first derivative. A backward that must itself be differentiated
(``create_graph=True``), and the rare gradients with respect to targets and weights, use these.
The same formulas as the kernels' (``cpp/math``), in the same notation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["bernoulli_grads", "gaussian_kl_elements", "gaussian_kl_grads", "logsumexp_grad"]


def bernoulli_grads(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    grad: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``w ((1 - t) softplus(l) + p t softplus(-l))`` in l, t, w and p.

    `grad` broadcasts to the shape of `logits`; `needs` says which of the four to compute. In this
    form nothing cancels, however large the logits.
    """
    weighted = grad if weight is None else grad * weight
    positive = target if pos_weight is None else pos_weight * target
    if_one, if_zero = -logsigmoid(logits), -logsigmoid(-logits)  # the loss for t = 1 and t = 0
    d_logits = d_target = d_weight = d_pos_weight = None
    if needs[0]:
        slope = (1 - target) * torch.sigmoid(logits) - positive * torch.sigmoid(-logits)
        d_logits = weighted * slope
    if needs[1]:
        d_target = weighted * ((if_one if pos_weight is None else pos_weight * if_one) - if_zero)
    if needs[2] and weight is not None:
        loss = (1 - target) * if_zero + positive * if_one
        d_weight = (grad * loss).sum_to_size(weight.shape)
    if needs[3] and pos_weight is not None:
        d_pos_weight = (weighted * target * if_one).sum_to_size(pos_weight.shape)
    return d_logits, d_target, d_weight, d_pos_weight


def gaussian_kl_elements(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | float, prior_logvar: Tensor | float
) -> Tensor:
    """Return the KL of each dimension: ``(e^d - 1 - d + (mu - m)^2 e^-s) / 2``, d = logvar - s."""
    ratio = logvar - prior_logvar
    scaled = (mu - prior_mu) ** 2
    if isinstance(prior_logvar, Tensor):
        scaled = scaled * torch.exp(-prior_logvar)
    return 0.5 * (torch.expm1(ratio) - ratio + scaled)


def gaussian_kl_grads(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    grad: Tensor | None,
    grad_charged: Tensor | None,
    free_bits: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the KL and of its floored form in mu, logvar, prior_mu and prior_logvar.

    `grad` weighs the KL, `grad_charged` the KL with each dimension floored at `free_bits`; each
    broadcasts to the shape of `mu`. The gradients of the prior are not summed to its shape.
    """
    m = 0.0 if prior_mu is None else prior_mu
    s = 0.0 if prior_logvar is None else prior_logvar
    factor = torch.zeros((), dtype=mu.dtype, device=mu.device) if grad is None else grad
    if grad_charged is not None:
        if free_bits > 0:
            # A floored dimension is constant: the mask carries no gradient of its own.
            above = gaussian_kl_elements(mu, logvar, m, s).detach() >= free_bits
            grad_charged = grad_charged * above
        factor = factor + grad_charged
    inverse = torch.exp(-s) if isinstance(s, Tensor) else 1.0
    d_mu = factor * (mu - m) * inverse
    excess = torch.expm1(logvar - s)  # e^(logvar - s) - 1
    d_logvar = 0.5 * factor * excess
    d_prior_logvar = -0.5 * (factor * excess + d_mu * (mu - m))
    return d_mu, d_logvar, -d_mu, d_prior_logvar


def logsumexp_grad(grad: Tensor, input: Tensor, output: Tensor) -> Tensor:
    """Gradient of log-sum-exp, ``grad exp(input - output)``, with 0 where the output is -inf.

    `grad` and `output` keep the reduced dimensions.
    """
    finite = torch.where(output == -torch.inf, 0.0, output)
    return grad * torch.exp(input - finite)
