"""The negative evidence lower bound of a VAE with a Bernoulli decoder, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import with_signature
from elbokit.torch._bernoulli import bernoulli_backward
from elbokit.torch._checks import (
    check_event_dims,
    check_non_negative,
    check_reduction,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT, kl_grads

__all__ = ["VAELoss", "VAELossOutput", "vae_loss"]


class VAELossOutput(NamedTuple):
    """The loss and its two terms, each of shape () or (n_samples,).

    Attributes
    ----------
    loss : Tensor
        What to minimise: the negative bound for ``beta == 1`` and ``free_bits == 0``.
    reconstruction : Tensor
        Negative log-likelihood of the targets, in nats.
    kl : Tensor
        Divergence of the approximate posterior from the prior, in nats, without any floor.
    """

    loss: Tensor
    reconstruction: Tensor
    kl: Tensor


class _VAETerms(torch.autograd.Function):
    """Reconstruction, KL and charged KL; and the gradient of the first in the logits."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        logits: Tensor,
        target: Tensor,
        mu: Tensor,
        logvar: Tensor,
        free_bits: float,
        reduction: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        reconstruction, kl, charged, grad = torch.ops.elbokit.vae_loss.default(
            logits, target, mu, logvar, free_bits, reduction, need_grad
        )
        return reconstruction, kl, charged, grad

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        reconstruction, kl, charged, grad = output
        needs = ctx.needs_input_grad
        # A term of no tracked operand has no gradient: one of None would pass for it in silence.
        constant = [] if any(needs[:2]) else [reconstruction]
        constant += [] if any(needs[2:4]) else [kl, charged]
        ctx.mark_non_differentiable(grad, *constant)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:4], grad)
        ctx.free_bits, ctx.reduction = inputs[4:6]

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_kl: Tensor | None, grad_charged: Tensor | None, _: None
    ) -> tuple[Tensor | None, ...]:
        logits, target, mu, logvar, saved = ctx.saved_tensors
        reduction, needs = ctx.reduction, ctx.needs_input_grad
        d_logits, d_target = bernoulli_backward(
            grad, logits, target, None, None, saved, reduction, (*needs[:2], False, False)
        )[:2]
        d_mu: Tensor | None = None
        d_logvar: Tensor | None = None
        if any(needs[2:4]) and not (grad_kl is None and grad_charged is None):
            d_mu, d_logvar = kl_grads(
                mu, logvar, None, None, grad_kl, grad_charged, ctx.free_bits, reduction, False
            )[:2]
        return d_logits, d_target, d_mu, d_logvar, None, None, None


def check_options(
    beta: float | Tensor, free_bits: float, reduction: str
) -> tuple[float | Tensor, float]:
    """Check what is not an operand; return `beta` and `free_bits`, numbers as floats."""
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    if not isinstance(beta, Tensor):
        beta = check_non_negative("beta", beta)
    elif beta.dim() > 0:
        raise ValueError(f"`beta` has shape {tuple(beta.shape)}, expected ()")
    return beta, check_non_negative("free_bits", free_bits)


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    reduction: str = "batchmean",
) -> VAELossOutput:
    r"""Negative evidence lower bound of a VAE: Bernoulli decoder, :math:`N(0, I)` prior.

    Both terms are summed over their event dimensions (every dimension but the first) and averaged
    over the batch, whatever their sizes.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, ...)
        Output of the decoder. float64, float32, bfloat16 or float16; low precision is computed in
        float32.
    target : Tensor of the shape of `logits`
        Data in [0, 1]. A floating-point dtype, bool or uint8.
    mu, logvar : Tensor of shape (n_samples, ...)
        Means and log-variances of the approximate posterior.
    beta : float or Tensor of shape (), default=1.0
        Weight of the KL [2]_. A tensor is not checked for its sign.
    free_bits : float, default=0.0
        The least KL, in nats, that each latent dimension of each sample is charged [3]_. The
        gradient of a dimension below it is 0.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.

    Returns
    -------
    VAELossOutput
        `loss`, `reconstruction` and `kl`, of shape () or (n_samples,); all three are
        differentiable and may be combined. ``loss == reconstruction + beta * kl`` if `free_bits`
        is 0; otherwise `kl` is still the divergence itself, and `loss` holds the floored one.
        float32 if the operands are of low precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown, `beta` or
        `free_bits` is negative.

    Notes
    -----
    .. math::
        \sum_i \left[ (1 - t_i) \log(1 + e^{l_i}) + t_i \log(1 + e^{-l_i}) \right]
        + \beta \sum_j \max\left( \tfrac12 (e^{v_j} - 1 - v_j + \mu_j^2),\ \lambda \right)

    for logits :math:`l`, targets :math:`t`, log-variances :math:`v` and `free_bits`
    :math:`\lambda`: the negative of the bound [1]_ for :math:`\beta = 1, \lambda = 0`. Sums are
    accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.
    .. [2] I. Higgins et al., "beta-VAE", ICLR 2017.
    .. [3] D. P. Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
       2016, appendix C.8, arXiv:1606.04934.
    """
    dtype = check_tensors(logits=logits, target=target, mu=mu, logvar=logvar)
    check_event_dims("logits", logits)
    check_event_dims("mu", mu)
    check_same_shape("target", target, "logits", logits)
    check_same_shape("logvar", logvar, "mu", mu)
    if mu.shape[0] != logits.shape[0]:
        raise ValueError(
            f"`mu` has {mu.shape[0]} samples (shape {tuple(mu.shape)}), "
            f"expected {logits.shape[0]} as `logits` (shape {tuple(logits.shape)})"
        )
    beta, free_bits = check_options(beta, free_bits, reduction)
    need_grad = logits.requires_grad and torch.is_grad_enabled()
    reconstruction, kl, charged, _ = _VAETerms.apply(  # type: ignore[no-untyped-call]
        logits.to(dtype),
        target.to(dtype),
        mu.to(dtype),
        logvar.to(dtype),
        free_bits,
        BATCH_REDUCTIONS[reduction],
        need_grad,
    )
    return VAELossOutput(reconstruction + beta * charged, reconstruction, kl)


class VAELoss(nn.Module):
    """`vae_loss` as a module that holds the options.

    Parameters
    ----------
    beta : float, default=1.0
        Weight of the KL.
    free_bits : float, default=0.0
        The least KL that each latent dimension of each sample is charged.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.

    Raises
    ------
    ValueError
        An option is not as `vae_loss` asks.
    """

    def __init__(
        self, beta: float = 1.0, free_bits: float = 0.0, reduction: str = "batchmean"
    ) -> None:
        super().__init__()
        self.beta, self.free_bits = check_options(beta, free_bits, reduction)
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> VAELossOutput:
        """Return `vae_loss` of the arguments with the module's options."""
        return vae_loss(
            logits,
            target,
            mu,
            logvar,
            beta=self.beta,
            free_bits=self.free_bits,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        """Return the options, for ``repr``."""
        return f"beta={self.beta}, free_bits={self.free_bits}, reduction={self.reduction!r}"
