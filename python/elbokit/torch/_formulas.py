"""The gradients in plain, differentiable torch.

The kernels give the first derivative. A backward that must itself be differentiated
(``create_graph=True``), and the rare gradients with respect to targets and weights, use these.
The same formulas as the kernels' (``cpp/math``), in the same notation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbokit.torch._reduction import computed_dtype, spread

__all__ = [
    "bernoulli_grads",
    "categorical_grads",
    "gaussian_kl_elements",
    "gaussian_kl_full_grads",
    "gaussian_kl_grads",
    "gaussian_loss_grads",
    "logsumexp_grad",
    "multi_sample_grads",
]


def bernoulli_grads(
    operands: Sequence[Tensor | None],
    target_scale: float,
    grad: Tensor,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m w ((1 - t) softplus(l) + p t softplus(-l))`` in l, t, w, p, m and r.

    For logits l, targets t (`target_scale` times what is given), weights w, positive weights p,
    the mask m and the rows' weights r; `grad` is that of the reduced loss, `needs` says which of
    the six to compute. In this form nothing cancels, however large the logits. A mask has no
    gradient.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    logits, target, weight, pos_weight, mask, row_weight = (
        None if t is None else t.to(dtype) for t in operands
    )
    assert logits is not None
    assert target is not None
    if target_scale != 1:
        target = target * target_scale
    each = spread(grad, logits.shape, reduction)
    if mask is not None:
        # Where the mask is 0 nothing that is not finite may come through.
        ignored = (mask == 0).expand_as(logits)
        logits, target = logits.masked_fill(ignored, 0.0), target.masked_fill(ignored, 0.0)
        each = each * ~ignored
    by_row = None if row_weight is None else row_weight.reshape(-1, *(1,) * (logits.dim() - 1))
    unweighted = each if by_row is None else each * by_row
    weighted = unweighted if weight is None else unweighted * weight
    positive = target if pos_weight is None else pos_weight * target
    if_one, if_zero = -logsigmoid(logits), -logsigmoid(-logits)  # the loss for t = 1 and t = 0
    grads: list[Tensor | None] = [None] * 6
    if needs[0]:
        slope = (1 - target) * torch.sigmoid(logits) - positive * torch.sigmoid(-logits)
        grads[0] = weighted * slope
    if needs[1]:
        slope = (if_one if pos_weight is None else pos_weight * if_one) - if_zero
        grads[1] = weighted * slope * target_scale
    loss = (1 - target) * if_zero + positive * if_one
    if needs[2] and weight is not None:
        grads[2] = (unweighted * loss).sum_to_size(weight.shape)
    if needs[3] and pos_weight is not None:
        grads[3] = (weighted * target * if_one).sum_to_size(pos_weight.shape)
    if needs[5] and row_weight is not None:
        own = each * loss if weight is None else each * weight * loss
        grads[5] = own.flatten(1).sum(1) if own.dim() > 1 else own
    return tuple(grads)


def _by_sample(weight: Tensor, like: Tensor) -> Tensor:
    """Weights of samples, to be multiplied with elements."""
    return weight.reshape(-1, *(1,) * (like.dim() - 1))


def _sum_events(elements: Tensor, first: int = 1) -> Tensor:
    """Sum the dimensions from `first` on."""
    return elements.flatten(first).sum(first) if elements.dim() > first else elements


def gaussian_loss_grads(
    operands: Sequence[Tensor | None],
    low: float,
    high: float,
    target_scale: float,
    grad: Tensor,
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m (log(2 pi) + v + (mean - t)^2 e^-v) / 2`` in mean, t, v, m and r.

    For log-variances v clamped to [low, high] (0 if None), targets t (`target_scale` times what is
    given), the mask m and the samples' weights r; otherwise as `bernoulli_grads`.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    mean, target, logvar, mask, row_weight = (None if x is None else x.to(dtype) for x in operands)
    assert mean is not None
    assert target is not None
    difference = mean - target if target_scale == 1 else mean - target * target_scale
    each = spread(grad, mean.shape, reduction)
    noise = difference.new_zeros(()) if logvar is None else logvar
    if mask is not None:
        ignored = (mask == 0).expand_as(difference)
        difference = difference.masked_fill(ignored, 0.0)
        noise = noise.expand_as(difference).masked_fill(ignored, 0.0)
        each = each * ~ignored
    clamped = noise.clamp(low, high)
    inverse = torch.exp(-0.5 * clamped)
    z = difference * inverse
    weighted = each if row_weight is None else each * _by_sample(row_weight, mean)
    grads: list[Tensor | None] = [None] * 5
    slope = weighted * z * inverse
    if needs[0]:
        grads[0] = slope
    if needs[1]:
        grads[1] = -target_scale * slope
    if needs[2] and logvar is not None:
        inside = (noise >= low) & (noise <= high)
        grads[2] = (weighted * (0.5 - 0.5 * z * z) * inside).sum_to_size(logvar.shape)
    if needs[4] and row_weight is not None:
        loss = 0.5 * (z * z + clamped + math.log(2 * math.pi))
        grads[4] = _sum_events(each * loss)
    return tuple(grads)


def categorical_grads(
    operands: Sequence[Tensor | None], grad: Tensor, reduction: str, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients of ``r m (logsumexp(logits) - logits[target])`` in logits, target, m and r.

    For the mask m and the samples' weights r; otherwise as `bernoulli_grads`.
    """
    given, target, mask, row_weight = operands
    assert given is not None
    assert target is not None
    logits = given.to(computed_dtype(given))
    each = spread(grad, target.shape, reduction)
    if mask is not None:
        ignored = (mask == 0).expand_as(target)
        logits = logits.masked_fill(ignored.unsqueeze(1), 0.0)
        target = target.masked_fill(ignored, 0)
        each = each * ~ignored
    grads: list[Tensor | None] = [None] * 4
    chosen = target.unsqueeze(1)
    if needs[0]:
        weighted = each if row_weight is None else each * _by_sample(row_weight, target)
        classes = torch.arange(logits.shape[1], device=logits.device)
        own = chosen == classes.reshape(-1, *(1,) * (target.dim() - 1))
        slope = torch.softmax(logits, 1) - own.to(logits.dtype)
        grads[0] = slope * weighted.expand(target.shape).unsqueeze(1)
    if needs[3] and row_weight is not None:
        loss = -torch.log_softmax(logits, 1).gather(1, chosen).squeeze(1)
        grads[3] = _sum_events(each * loss)
    return tuple(grads)


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
    operands: Sequence[Tensor | None],
    grad: Tensor | None,
    grad_charged: Tensor | None,
    free_bits: float,
    reduction: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of the KL and of its floored form in mu, logvar, the prior's, and row weights.

    `grad` is that of the reduced KL, `grad_charged` that of the KL with each dimension floored at
    `free_bits`.
    """
    mu, logvar, prior_mu, prior_logvar, row_weight = operands
    assert mu is not None
    assert logvar is not None
    m = 0.0 if prior_mu is None else prior_mu
    s = 0.0 if prior_logvar is None else prior_logvar
    each, each_charged = (
        None if g is None else spread(g, mu.shape, reduction) for g in (grad, grad_charged)
    )
    factor = torch.zeros((), dtype=mu.dtype, device=mu.device) if each is None else each
    own = d_row_weight = None
    if row_weight is not None:
        kl = gaussian_kl_elements(mu, logvar, m, s)
        own = factor * kl
    if each_charged is not None:
        if free_bits > 0:
            # A floored dimension is constant: the mask carries no gradient of its own.
            above = gaussian_kl_elements(mu, logvar, m, s).detach() >= free_bits
            if own is not None:
                own = own + each_charged * torch.where(above, kl, free_bits)
            each_charged = each_charged * above
        elif own is not None:
            own = own + each_charged * kl
        factor = factor + each_charged
    if row_weight is not None and own is not None:
        d_row_weight = own.flatten(1).sum(1) if own.dim() > 1 else own
        factor = factor * row_weight.reshape(-1, *(1,) * (mu.dim() - 1))
    inverse = torch.exp(-s) if isinstance(s, Tensor) else 1.0
    d_mu = factor * (mu - m) * inverse
    excess = torch.expm1(logvar - s)  # e^(logvar - s) - 1
    d_logvar = 0.5 * factor * excess
    if prior_mu is None or prior_logvar is None:
        return d_mu, d_logvar, None, None, d_row_weight
    d_prior_mu = (-d_mu).sum_to_size(prior_mu.shape)
    d_prior_logvar = -0.5 * (factor * excess + d_mu * (mu - m))
    return d_mu, d_logvar, d_prior_mu, d_prior_logvar.sum_to_size(prior_logvar.shape), d_row_weight


def logsumexp_grad(grad: Tensor, input: Tensor, output: Tensor) -> Tensor:
    """Gradient of log-sum-exp, ``grad exp(input - output)``, with 0 where the output is -inf.

    `grad` and `output` keep the reduced dimensions.
    """
    finite = torch.where(output == -torch.inf, 0.0, output)
    return grad * torch.exp(input - finite)


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


def multi_sample_grads(
    operands: Sequence[Tensor | None],
    target_scale: float,
    bound: str,
    grad: Tensor,
    reduction: str,
) -> tuple[Tensor | None, ...]:
    """Gradients of the negative bound in logits, target, mask, row weights, mu, logvar and z.

    `grad` is that of the reduced loss. In the log-weights the gradient is their softmax (iwae)
    or the same for all samples (elbo). A mask has no gradient.
    """
    dtype = computed_dtype(operands[0])  # type: ignore[arg-type]
    logits, target, mask, row_weight, mu, logvar, z = (
        None if t is None else t.to(dtype) for t in operands
    )
    assert logits is not None
    assert target is not None
    assert mu is not None
    assert logvar is not None
    assert z is not None
    if target_scale != 1:
        target = target * target_scale
    if mask is not None:
        ignored = (mask == 0).expand_as(target)
        logits, target = logits.masked_fill(ignored, 0.0), target.masked_fill(ignored, 0.0)
    cross_entropy = -(1 - target) * logsigmoid(-logits) - target * logsigmoid(logits)
    slope = (1 - target) * torch.sigmoid(logits) - target * torch.sigmoid(-logits)
    if mask is not None:
        cross_entropy, slope = cross_entropy * ~ignored, slope * ~ignored
    difference = z - mu
    pull = difference * torch.exp(-logvar)
    ratio = 0.5 * (difference * pull + logvar - z.square())
    log_weight = _sum_events(ratio, 2) - _sum_events(cross_entropy, 2)
    samples = logits.shape[0]
    if bound == "iwae":
        normalizer = torch.logsumexp(log_weight, 0)
        weight = logsumexp_grad(torch.ones_like(normalizer), log_weight, normalizer)
        loss = math.log(samples) - normalizer
    else:
        weight = torch.full_like(log_weight, 1 / samples)
        loss = -log_weight.mean(0)
    each = spread(grad, mu.shape[:1], reduction)
    d_row_weight = None
    if row_weight is not None:
        d_row_weight = each * loss
        each = each * row_weight
    weight = weight * each

    def by_row(tensor: Tensor) -> Tensor:
        return weight.reshape(weight.shape + (1,) * (tensor.dim() - 2))

    latent = by_row(z)
    return (
        by_row(logits) * slope,
        -(by_row(logits) * logits).sum(0) * target_scale,
        None,
        d_row_weight,
        (latent * pull).sum(0),
        (latent * (0.5 * difference * pull - 0.5)).sum(0),
        latent * (z - pull),
    )
