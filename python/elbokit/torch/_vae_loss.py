"""The negative evidence lower bound of a VAE with a Bernoulli decoder, in one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elbokit.torch import _backends
from elbokit.torch._autograd import direct, undisturbed
from elbokit.torch._checks import (
    check_broadcast,
    check_event_dims,
    check_non_negative,
    check_reduction,
    check_same_shape,
    check_tensors,
    check_weight,
)
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT, both_of_prior, clamped
from elbokit.torch._plain import PLAIN_REDUCTIONS
from elbokit.torch._reduction import reduced
from elbokit.torch._statistics import VAEStatistics
from elbokit.torch._transforms import apply_of
from elbokit.torch._vae_terms import VAETerms, direct_vae_terms, plain_vae_terms

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


def check_options(
    beta: float | Tensor,
    free_bits: float,
    reduction: str,
    capacity: float | Tensor | None = None,
    target_scale: float = 1.0,
) -> tuple[float | Tensor, float]:
    """Check what is not an operand; return `beta` and `free_bits`, numbers as floats."""
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    for name, value in (("beta", beta), ("capacity", capacity)):
        if isinstance(value, Tensor):
            if value.dim() > 0:
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected ()")
        elif value is not None or name == "beta":
            check_non_negative(name, value)
    check_non_negative("target_scale", target_scale)
    if not isinstance(beta, Tensor):
        beta = float(beta)
    return beta, check_non_negative("free_bits", free_bits)


def drawn_to(
    charged: Tensor,
    capacity: float | Tensor | None,
    n: int,
    reduction: str,
    weight: Tensor | None = None,
) -> Tensor:
    """Return how far the KL of `n` samples is from `capacity`; without one, the KL.

    Each sample brings its weight of the capacity, as of its terms.
    """
    if capacity is None:
        return charged
    if weight is None:
        aim = capacity * n if reduction == "sum" else capacity
    else:
        aim = capacity * reduced(weight, reduction)
    return (charged - aim).abs()


def _check_operands(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    weight: Tensor | None,
    mask: Tensor | None,
) -> torch.dtype:
    dtype = check_tensors(
        logits=logits,
        target=target,
        mu=mu,
        logvar=logvar,
        prior_mu=prior_mu,
        prior_logvar=prior_logvar,
        weight=weight,
        mask=mask,
    )
    check_event_dims("logits", logits)
    check_event_dims("mu", mu)
    check_same_shape("target", target, "logits", logits)
    check_same_shape("logvar", logvar, "mu", mu)
    check_broadcast("prior_mu", prior_mu, "mu", mu)
    check_broadcast("prior_logvar", prior_logvar, "mu", mu)
    check_broadcast("mask", mask, "logits", logits)
    n_samples = logits.shape[0]
    if mu.shape[0] != n_samples:
        raise ValueError(
            f"`mu` has {mu.shape[0]} samples (shape {tuple(mu.shape)}), "
            f"expected {n_samples} as `logits` (shape {tuple(logits.shape)})"
        )
    check_weight(weight, n_samples)
    return dtype


def vae_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    beta: float | Tensor = 1.0,
    free_bits: float = 0.0,
    reduction: str = "batchmean",
    capacity: float | Tensor | None = None,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
    logvar_range: tuple[float | None, float | None] | None = None,
    statistics: VAEStatistics | None = None,
) -> VAELossOutput:
    r"""Negative evidence lower bound of a VAE: Bernoulli decoder, diagonal Gaussian posterior.

    Both terms are summed over their event dimensions (every dimension but the first) and averaged
    over the batch, whatever their sizes.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, ...)
        Output of the decoder. float64, float32, bfloat16 or float16; low precision is computed in
        float32.
    target : Tensor of the shape of `logits`
        Data in [0, 1], after `target_scale`. A floating-point dtype, bool or uint8.
    mu, logvar : Tensor of shape (n_samples, ...)
        Means and log-variances of the approximate posterior.
    beta : float or Tensor of shape (), default=1.0
        Weight of the KL [2]_. A tensor is not checked for its sign.
    free_bits : float, default=0.0
        The least KL, in nats, that each latent dimension of each sample is charged [3]_. The
        gradient of a dimension below it is 0.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.
    capacity : float or Tensor of shape (), optional
        KL per sample, in nats, that the loss draws the KL to: it charges ``beta * |kl - capacity|``
        [4]_; of the sum over n samples, ``beta * |sum - n * capacity|``. With a `weight` each
        sample brings its weight of it.
    prior_mu, prior_logvar : Tensor broadcasting to the shape of `mu`, optional
        Means and log-variances of the prior; each is 0 if not given.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's terms. The average is still over the number of samples.
    mask : Tensor broadcasting to the shape of `logits`, optional
        Where it is 0 (or False), an element does not count, whatever it holds.
    target_scale : float, default=1.0
        Factor of the targets: 1 / 255 for images of bytes, which are read as they are.
    logvar_range : pair of float or None, optional
        Limits that `logvar` is clamped to, None for no limit. As of `torch.clamp`, the gradient is
        0 outside of them.
    statistics : VAEStatistics, optional
        Is told the KL of each dimension, the active units and the targets out of range.

    Returns
    -------
    VAELossOutput
        `loss`, `reconstruction` and `kl`, of shape () or (n_samples,); all three are
        differentiable and may be combined. ``loss == reconstruction + beta * kl`` if `free_bits`
        is 0 and there is no `capacity`; otherwise `kl` is still the divergence itself, and `loss`
        holds what is made of it.
        float32 if the operands are of low precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown, `beta`,
        `free_bits` or `capacity` is negative, or `logvar_range` is empty.

    Notes
    -----
    .. math::
        \sum_i \left[ (1 - t_i) \log(1 + e^{l_i}) + t_i \log(1 + e^{-l_i}) \right]
        + \beta \sum_j \max\left( \tfrac12 (e^{v_j} - 1 - v_j + \mu_j^2),\ \lambda \right)

    for logits :math:`l`, targets :math:`t`, log-variances :math:`v` and `free_bits`
    :math:`\lambda`: the negative of the bound [1]_ for :math:`\beta = 1, \lambda = 0`. The floor is
    for each dimension of each sample; that of [3]_ is for the average over the minibatch. Sums are
    accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.
    .. [2] I. Higgins et al., "beta-VAE", ICLR 2017.
    .. [3] D. P. Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow",
       2016, appendix C.8, arXiv:1606.04934.
    .. [4] C. P. Burgess et al., "Understanding disentangling in beta-VAE", 2018, arXiv:1804.03599.
    """
    if (
        logvar_range is None
        and capacity is None
        and statistics is None
        and reduction in PLAIN_REDUCTIONS
        and undisturbed()
    ):
        # The core checks what is left.
        given = logits, target, mu, logvar, prior_mu, prior_logvar, mask, weight
        terms = plain_vae_terms(given, target_scale, beta, free_bits, reduction)
        if terms is not None:
            return VAELossOutput(*terms)
    beta, free_bits = check_options(beta, free_bits, reduction, capacity, target_scale)
    if statistics is not None and not isinstance(statistics, VAEStatistics):
        raise TypeError(f"`statistics` is {statistics!r}, expected a VAEStatistics or None")
    dtype = _check_operands(logits, target, mu, logvar, prior_mu, prior_logvar, weight, mask)
    # The loss is of the operands' dtype, whatever that of its factors.
    beta = beta.to(dtype) if isinstance(beta, Tensor) else beta
    capacity = capacity.to(dtype) if isinstance(capacity, Tensor) else capacity
    short = direct(logits, target, mask, weight, mu, logvar, prior_mu, prior_logvar)
    standard = prior_mu is None and prior_logvar is None
    # On a GPU narrow ones are read as they are: casts move half as many bytes as the pixels have.
    if _backends.on_cpu(mu) or not (short and standard and logvar_range is None):
        mu, logvar = mu.to(dtype), clamped("logvar_range", logvar.to(dtype), logvar_range)
    if not standard:
        prior_mu, prior_logvar = both_of_prior(mu, prior_mu, prior_logvar)
    weight = None if weight is None else weight.to(dtype)
    # A number that an autograd function is given is a constant of a traced graph: for each value of
    # it there would be another graph.
    traced = torch.compiler.is_compiling()
    by_hand = capacity is not None or isinstance(beta, Tensor) or (traced and beta != 1)
    grad_enabled = torch.is_grad_enabled()
    output = (direct_vae_terms if short else apply_of(VAETerms))(
        logits,
        target,
        mask,
        weight,
        mu,
        logvar,
        prior_mu,
        prior_logvar,
        None if by_hand else beta,
        float(target_scale),
        free_bits,
        BATCH_REDUCTIONS[reduction],
        grad_enabled and logits.requires_grad,
        grad_enabled and (mu.requires_grad or logvar.requires_grad),
        statistics is not None,
    )
    loss, reconstruction, kl = output[:3]
    if by_hand:
        charged = drawn_to(loss, capacity, logits.shape[0], reduction, weight)
        loss = reconstruction + beta * charged
    if statistics is not None:
        statistics.update(output[-2], output[-1], logits.shape[0])
    return VAELossOutput(loss, reconstruction, kl)


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
    capacity, target_scale, logvar_range
        As for `vae_loss`.

    Raises
    ------
    ValueError
        An option is not as `vae_loss` asks.
    """

    def __init__(
        self,
        beta: float = 1.0,
        free_bits: float = 0.0,
        reduction: str = "batchmean",
        *,
        capacity: float | None = None,
        target_scale: float = 1.0,
        logvar_range: tuple[float | None, float | None] | None = None,
    ) -> None:
        super().__init__()
        self.beta, self.free_bits = check_options(
            beta, free_bits, reduction, capacity, target_scale
        )
        self.reduction = reduction
        self.capacity = capacity
        self.target_scale = target_scale
        self.logvar_range = logvar_range

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        mu: Tensor,
        logvar: Tensor,
        *,
        prior_mu: Tensor | None = None,
        prior_logvar: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        statistics: VAEStatistics | None = None,
    ) -> VAELossOutput:
        """Return `vae_loss` of the arguments with the module's options."""
        return vae_loss(
            logits,
            target,
            mu,
            logvar,
            beta=self.beta,
            free_bits=self.free_bits,
            reduction=self.reduction,
            capacity=self.capacity,
            prior_mu=prior_mu,
            prior_logvar=prior_logvar,
            weight=weight,
            mask=mask,
            target_scale=self.target_scale,
            logvar_range=self.logvar_range,
            statistics=statistics,
        )

    def extra_repr(self) -> str:
        """Return the options, for ``repr``."""
        shown = f"beta={self.beta}, free_bits={self.free_bits}, reduction={self.reduction!r}"
        for name, usual in (("capacity", None), ("target_scale", 1.0), ("logvar_range", None)):
            value = getattr(self, name)
            shown += "" if value == usual else f", {name}={value!r}"
        return shown
