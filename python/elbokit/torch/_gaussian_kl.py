"""KL divergence of diagonal Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    all_scaled,
    direct,
    direct_apply,
    in_backward,
    save,
    to_differentiate,
    undisturbed,
    unpacked,
    with_signature,
)
from elbokit.torch._backends import implementation
from elbokit.torch._checks import (
    check_broadcast,
    check_event_dims,
    check_limits,
    check_non_negative,
    check_reduction,
    check_same_shape,
    check_tensors,
    check_weight,
)
from elbokit.torch._formulas import gaussian_kl_grads
from elbokit.torch._plain import PLAIN_REDUCTIONS, plain_track
from elbokit.torch._reduction import spread
from elbokit.torch._transforms import apply_of

__all__ = [
    "BATCH_REDUCTIONS",
    "MEAN_HINT",
    "both_of_prior",
    "clamped",
    "gaussian_kl",
    "gaussian_kl_terms",
    "kl_grads",
]

BATCH_REDUCTIONS = {"none": "rows", "sum": "sum", "batchmean": "batchmean"}
MEAN_HINT = (
    " ('mean' over elements would weigh the two terms of the bound by their sizes; "
    "'batchmean' sums over events and averages over the batch)"
)


def kl_grads(
    operands: Sequence[Tensor | None],
    grad: Tensor | None,
    grad_charged: Tensor | None,
    free_bits: float,
    saved: Sequence[Tensor | None],
    reduction: str,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of the reduced KL and of its floored form, in mu, logvar, the prior and weights.

    `saved` are those of the floored form that the forward pass computed: in mu and logvar, or in
    the prior too.
    """
    if (grad is None and grad_charged is None) or not any(needs):
        return (None,) * 5
    if to_differentiate() or needs[4]:
        return gaussian_kl_grads(operands, grad, grad_charged, free_bits, reduction)
    need_prior = any(needs[2:4])
    one_grad = grad_charged if grad is None else grad
    d_mu = saved[0]
    complete = len(saved) == 4 or not need_prior
    if d_mu is not None and complete and (grad is None or free_bits == 0):
        if grad is not None and grad_charged is not None:
            one_grad = grad + grad_charged
        assert one_grad is not None
        if reduction == "rows":
            one_grad = spread(one_grad, d_mu.shape, reduction)
        made = all_scaled(saved, one_grad)
        return *made, *(None,) * (5 - len(made))
    assert one_grad is not None
    backward = in_backward("gaussian_kl_backward", one_grad, *operands)
    grads = backward(grad, grad_charged, *operands, free_bits, reduction, need_prior)
    if not need_prior:
        return grads[0], grads[1], None, None, None
    pairs = zip(grads[2:], operands[2:4], strict=True)
    prior = (g.sum_to_size(p.shape) for g, p in pairs if p is not None)
    return grads[0], grads[1], *prior, None


class _GaussianKL(torch.autograd.Function):
    """KL, floored KL, and the latter's gradients that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        mu: Tensor,
        logvar: Tensor,
        prior_mu: Tensor | None,
        prior_logvar: Tensor | None,
        row_weight: Tensor | None,
        free_bits: float,
        reduction: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        outputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
        outputs = torch.ops.elbokit.gaussian_kl.default(
            mu, logvar, prior_mu, prior_logvar, row_weight, free_bits, reduction, need_grad
        )
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, free_bits, reduction, need_grad = inputs
        grads = output[2:]
        ctx.mark_non_differentiable(*grads)
        ctx.set_materialize_grads(False)
        save(ctx, *operands, *(grads if need_grad else (None, None)))
        ctx.free_bits, ctx.reduction = free_bits, reduction

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_charged: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        *operands, grad_mu, grad_logvar = unpacked(ctx, 5)
        saved = grad_mu, grad_logvar
        options = ctx.free_bits, saved, ctx.reduction, ctx.needs_input_grad[:5]
        return *kl_grads(operands, grad, grad_charged, *options), None, None, None


def _forward(ctx: Any, *inputs: Any) -> tuple[Tensor | None, ...]:
    kl, charged, *grads = implementation("gaussian_kl", inputs[0])(*inputs)
    *operands, ctx.free_bits, ctx.reduction, _ = inputs
    ctx.set_materialize_grads(False)
    save(ctx, *operands, *grads)
    return kl, charged


_direct_gaussian_kl = direct_apply("_GaussianKL", _forward, _GaussianKL.backward)


def _plain_backward(
    grad: Tensor,
    operands: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: tuple[float, str],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    free_bits = float(options[0])  # a tensor takes no integer of any size
    return kl_grads(operands, None, grad, free_bits, saved, options[1], needs)


_track = plain_track("_GaussianKL", _plain_backward)


def _plain_gaussian_kl(
    operands: Sequence[Tensor | None], free_bits: float, reduction: str
) -> Tensor | None:
    """Return the floored KL of plain operands, else None."""
    options = free_bits, reduction
    given: tuple[Any, ...] = (*operands, *options, torch.is_grad_enabled())
    found = _core.plain_gaussian_kl(*given)
    loss: Tensor | None = _track(found, options, *operands)
    return loss


def gaussian_kl_terms(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    row_weight: Tensor | None = None,
    *,
    free_bits: float = 0.0,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """Differentiable KL, and KL floored at `free_bits`, of checked operands of one dtype."""
    operands = mu, logvar, prior_mu, prior_logvar, row_weight
    need_grad = (mu.requires_grad or logvar.requires_grad) and torch.is_grad_enabled()
    apply = _direct_gaussian_kl if direct(*operands) else apply_of(_GaussianKL)
    # A default is a symbol to a compilation with dynamic shapes; float() makes it a number.
    kl, charged, *_ = apply(*operands, float(free_bits), reduction, need_grad)
    return kl, charged


def both_of_prior(
    mu: Tensor, prior_mu: Tensor | None, prior_logvar: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the prior's parameters in the dtype of `mu`, 0 for one that is not given."""
    zero = mu.new_zeros(())
    return (
        zero if prior_mu is None else prior_mu.to(mu.dtype),
        zero if prior_logvar is None else prior_logvar.to(mu.dtype),
    )


def clamped(name: str, logvar: Tensor, limits: tuple[float | None, float | None] | None) -> Tensor:
    """Clamp log-variances to `limits`, the argument `name`; None leaves them as they are."""
    if limits is None:
        return logvar
    return logvar.clamp(*check_limits(name, limits))


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    reduction: str = "batchmean",
    *,
    free_bits: float = 0.0,
    weight: Tensor | None = None,
    logvar_range: tuple[float | None, float | None] | None = None,
) -> Tensor:
    r"""KL divergence of a diagonal Gaussian from another, by default from :math:`N(0, I)`.

    Parameters
    ----------
    mu, logvar : Tensor of shape (n_samples, ...)
        Means and log-variances. float64, float32, bfloat16 or float16; low precision is computed
        in float32.
    prior_mu, prior_logvar : Tensor broadcasting to the shape of `mu`, optional
        Means and log-variances of the other Gaussian; each is 0 if not given.
    reduction : {"batchmean", "sum", "none"}
        The divergence is summed over every dimension but the first; then it is averaged over the
        batch, summed over it, or kept for each sample. There is no ``"mean"`` over elements: next
        to a reconstruction term of another size it re-weights the bound.
    free_bits : float, default=0.0
        The least KL, in nats, that each dimension of each sample is charged [2]_. The gradient of
        a dimension below it is 0.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's divergence. The average is still over the number of samples.
    logvar_range : pair of float or None, optional
        Limits that `logvar` is clamped to, None for no limit. As of `torch.clamp`, the gradient is
        0 outside of them.

    Returns
    -------
    Tensor
        Of shape (), or (n_samples,) for ``reduction="none"``. float32 if the operands are of low
        precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes, devices or `reduction` do not fit, an argument is sparse, `free_bits` is negative,
        or the limits of `logvar_range` are in the wrong order.

    Notes
    -----
    Per dimension, with :math:`d = \log\sigma^2 - s`, prior mean :math:`m` and prior log-variance
    :math:`s`

    .. math:: \tfrac12 \left( e^d - 1 - d + (\mu - m)^2 e^{-s} \right),

    see [1]_, appendix B, for :math:`m = s = 0`. `free_bits` is a floor for each dimension of each
    sample; that of [2]_ is for the average over the minibatch. Differentiable in all five tensors,
    any number of times. Sums are accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.
    .. [2] D. P. Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
       2016, appendix C.8, arXiv:1606.04934.
    """
    if logvar_range is None and reduction in PLAIN_REDUCTIONS and undisturbed():
        given = mu, logvar, prior_mu, prior_logvar, weight
        loss = _plain_gaussian_kl(given, free_bits, reduction)
        if loss is not None:
            return loss
    dtype = check_tensors(
        mu=mu, logvar=logvar, prior_mu=prior_mu, prior_logvar=prior_logvar, weight=weight
    )
    check_event_dims("mu", mu)
    check_same_shape("logvar", logvar, "mu", mu)
    check_broadcast("prior_mu", prior_mu, "mu", mu)
    check_broadcast("prior_logvar", prior_logvar, "mu", mu)
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    check_weight(weight, mu.shape[0])
    free_bits = check_non_negative("free_bits", free_bits)
    mu, logvar = mu.to(dtype), clamped("logvar_range", logvar.to(dtype), logvar_range)
    if prior_mu is not None or prior_logvar is not None:
        prior_mu, prior_logvar = both_of_prior(mu, prior_mu, prior_logvar)
    _, charged = gaussian_kl_terms(
        mu,
        logvar,
        prior_mu,
        prior_logvar,
        None if weight is None else weight.to(dtype),
        free_bits=free_bits,
        reduction=BATCH_REDUCTIONS[reduction],
    )
    return charged
