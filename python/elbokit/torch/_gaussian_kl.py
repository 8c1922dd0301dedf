"""KL divergence of diagonal Gaussians."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import to_differentiate, with_signature
from elbokit.torch._checks import (
    check_broadcast,
    check_event_dims,
    check_reduction,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._formulas import gaussian_kl_grads
from elbokit.torch._reduction import spread

__all__ = ["BATCH_REDUCTIONS", "MEAN_HINT", "gaussian_kl", "kl_grads"]

BATCH_REDUCTIONS = {"none": "rows", "sum": "sum", "batchmean": "batchmean"}
MEAN_HINT = (
    " ('mean' over elements would weigh the two terms of the bound by their sizes; "
    "'batchmean' sums over events and averages over the batch)"
)


def kl_grads(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    grad: Tensor | None,
    grad_charged: Tensor | None,
    free_bits: float,
    reduction: str,
    need_prior: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of the reduced KL, and of its floored form, in each operand."""
    if to_differentiate():
        each, each_charged = (
            None if g is None else spread(g, mu.shape, reduction) for g in (grad, grad_charged)
        )
        grads = gaussian_kl_grads(mu, logvar, prior_mu, prior_logvar, each, each_charged, free_bits)
    else:
        grads = torch.ops.elbokit.gaussian_kl_backward.default(
            grad,
            grad_charged,
            mu,
            logvar,
            prior_mu,
            prior_logvar,
            free_bits,
            reduction,
            need_prior,
        )
    if not need_prior or prior_mu is None or prior_logvar is None:
        return grads[0], grads[1], None, None
    prior = grads[2].sum_to_size(prior_mu.shape), grads[3].sum_to_size(prior_logvar.shape)
    return grads[0], grads[1], *prior


class _GaussianKL(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        mu: Tensor,
        logvar: Tensor,
        prior_mu: Tensor | None,
        prior_logvar: Tensor | None,
        reduction: str,
    ) -> Tensor:
        kl: Tensor = torch.ops.elbokit.gaussian_kl.default(
            mu, logvar, prior_mu, prior_logvar, reduction
        )
        return kl

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.reduction = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_prior = any(ctx.needs_input_grad[2:4])
        mu, logvar, prior_mu, prior_logvar = ctx.saved_tensors
        operands = mu, logvar, prior_mu, prior_logvar
        return (*kl_grads(*operands, grad, None, 0.0, ctx.reduction, need_prior), None)


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    reduction: str = "batchmean",
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

    Returns
    -------
    Tensor
        Of shape (), or (n_samples,) for ``reduction="none"``. float32 if the operands are of low
        precision.

    Raises
    ------
    TypeError
        An argument is no tensor, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes, devices or `reduction` do not fit, or an argument is sparse.

    Notes
    -----
    Per dimension, with :math:`d = \log\sigma^2 - s`, prior mean :math:`m` and prior log-variance
    :math:`s`

    .. math:: \tfrac12 \left( e^d - 1 - d + (\mu - m)^2 e^{-s} \right),

    see [1]_, appendix B, for :math:`m = s = 0`. Differentiable in all four tensors, any number of
    times. Sums are accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.
    """
    dtype = check_tensors(mu=mu, logvar=logvar, prior_mu=prior_mu, prior_logvar=prior_logvar)
    check_event_dims("mu", mu)
    check_same_shape("logvar", logvar, "mu", mu)
    check_broadcast("prior_mu", prior_mu, "mu", mu)
    check_broadcast("prior_logvar", prior_logvar, "mu", mu)
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    if prior_mu is not None or prior_logvar is not None:
        zero = mu.new_zeros((), dtype=dtype)
        prior_mu = zero if prior_mu is None else prior_mu.to(dtype)
        prior_logvar = zero if prior_logvar is None else prior_logvar.to(dtype)
    kl: Tensor = _GaussianKL.apply(  # type: ignore[no-untyped-call]
        mu.to(dtype), logvar.to(dtype), prior_mu, prior_logvar, BATCH_REDUCTIONS[reduction]
    )
    return kl
