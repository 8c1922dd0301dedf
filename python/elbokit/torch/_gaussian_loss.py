"""Loss of a Gaussian decoder."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    eager_twin,
    in_backward,
    save,
    scaled,
    to_differentiate,
    undisturbed,
    unpacked,
    with_signature,
)
from elbokit.torch._checks import check_limits
from elbokit.torch._decoders import check_decoder_reduction, check_elementwise
from elbokit.torch._formulas import gaussian_loss_grads
from elbokit.torch._plain import PLAIN_REDUCTIONS, is_one, plain_track
from elbokit.torch._reduction import spread
from elbokit.torch._transforms import apply_of

__all__ = ["gaussian_loss"]

_N_OPERANDS = 5  # mean, target, logvar, mask, row_weight
_N_OPTIONS = 6  # low, high, target_scale, reduction; what is needed


class _GaussianLoss(torch.autograd.Function):
    """Loss, and the gradients in the mean and the log-variance that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        mean: Tensor,
        target: Tensor,
        logvar: Tensor | None,
        mask: Tensor | None,
        row_weight: Tensor | None,
        low: float,
        high: float,
        target_scale: float,
        reduction: str,
        need_mean: bool,
        need_logvar: bool,
    ) -> tuple[Tensor, ...]:
        operands = mean, target, logvar, mask, row_weight
        options = low, high, target_scale, reduction, need_mean, need_logvar
        outputs: tuple[Tensor, ...] = torch.ops.elbokit.gaussian_loss.default(*operands, *options)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operands = inputs[:_N_OPERANDS]
        *ctx.options, need_mean, need_logvar = inputs[_N_OPERANDS:]
        ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
        ctx.set_materialize_grads(False)
        saved = output[1] if need_mean else None, output[2] if need_logvar else None
        save(ctx, *operands, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        saved = unpacked(ctx, _N_OPERANDS)
        needs = ctx.needs_input_grad[:_N_OPERANDS]
        return *_gradients(grad, saved, ctx.options, needs), *(None,) * _N_OPTIONS


def _gradients(
    grad: Tensor | None,
    saved: Sequence[Tensor | None],
    options: Sequence[Any],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients in the operands: ``saved`` are these, then the forward's gradients."""
    grads: list[Tensor | None] = [None] * _N_OPERANDS
    if grad is None:
        return grads
    if not to_differentiate():
        grads[:3] = _by_kernel(grad, saved, options, needs)
        needs = [need and g is None for need, g in zip(needs, grads, strict=True)]
    if any(needs):
        low, high, target_scale, reduction = options
        operands = saved[:_N_OPERANDS]
        rest = gaussian_loss_grads(operands, low, high, target_scale, grad, reduction, needs)
        grads = [r if g is None else g for g, r in zip(grads, rest, strict=True)]
    return grads


def _by_kernel(
    grad: Tensor,
    saved: Sequence[Tensor | None],
    options: Sequence[Any],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients in mean, target and logvar from what the forward pass computed; else None."""
    mean, target, logvar, mask, row_weight, slope, logvar_slope = saved
    assert mean is not None
    assert target is not None
    low, high, target_scale, reduction = options
    by_row = reduction == "rows"
    grads: list[Tensor | None] = [None] * 3
    if slope is not None:
        each = spread(grad, mean.shape, reduction) if by_row else grad
        if needs[1] and target.dtype == slope.dtype:
            grads[1] = slope * (each * -target_scale)
        if needs[0]:
            grads[0] = scaled(slope, each)  # may be the slope itself
    if logvar is None or not needs[2]:
        return grads
    if logvar_slope is not None:
        each = spread(grad, logvar.shape, reduction) if by_row else grad
        grads[2] = scaled(logvar_slope, each)
    elif by_row:
        # Each sample's part of a shared log-variance has a factor of its own.
        factor = grad if row_weight is None else grad * row_weight
        operands = mean, target, logvar, mask, factor
        run = in_backward("gaussian_loss", factor, *operands)
        grads[2] = run(*operands, low, high, target_scale, "sum", False, True)[2]
    return grads


_direct_gaussian_loss = eager_twin(_GaussianLoss, "gaussian_loss")


def _plain_backward(
    grad: Tensor,
    operands: Sequence[Tensor | None],
    saved: Sequence[Tensor | None],
    options: tuple[float, float, str],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    mean, logvar, target = operands
    low, high, reduction = options
    d_mean, d_target, d_logvar, *_ = _gradients(
        grad,
        (mean, target, logvar, None, None, *saved),
        (low, high, 1.0, reduction),
        (needs[0], needs[2], needs[1], False, False),
    )
    return d_mean, d_logvar, d_target


_track = plain_track("_GaussianLoss", _plain_backward)


def gaussian_loss(
    mean: Tensor,
    target: Tensor,
    logvar: Tensor | None = None,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    logvar_range: tuple[float | None, float | None] | None = None,
    target_scale: float = 1.0,
    reduction: str = "batchmean",
) -> Tensor:
    r"""Negative log-likelihood of a Gaussian decoder, summed over the event dimensions.

    Parameters
    ----------
    mean : Tensor of shape (n_samples, ...)
        Output of the decoder. float64, float32, bfloat16 or float16; low precision is computed in
        float32.
    target : Tensor of the shape of `mean`
        Data, after `target_scale`. A floating-point dtype, bool or uint8.
    logvar : Tensor broadcasting to the shape of `mean`, optional
        Log-variances: of each element, one for each feature or sample, or one for all, of shape ()
        (noise that is learned). Its gradient is summed in the same pass. Not given, the variance
        is 1.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's loss. The average is still over the number of samples.
    mask : Tensor broadcasting to the shape of `mean`, optional
        Where it is 0 (or False), an element does not count, whatever it holds.
    logvar_range : pair of float or None, optional
        Limits that `logvar` is clamped to, None for no limit. As of `torch.clamp`, the gradient is
        0 outside of them.
        Without them the variance must be a number of the dtype.
    target_scale : float, default=1.0
        Factor of the targets: 1 / 255 for images of bytes, which are read as they are.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.

    Returns
    -------
    Tensor
        In nats, of shape () or (n_samples,); float32 if `mean` is of low precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown,
        `target_scale` is negative, or `logvar_range` is empty.

    Notes
    -----
    .. math::
        -\log N(t \mid \mu, e^v) =
        \tfrac12 \sum_i \left[ \log 2 \pi + v_i + (\mu_i - t_i)^2 e^{-v_i} \right]

    for means :math:`\mu`, targets :math:`t` and log-variances :math:`v` [1]_. Differentiable in
    `mean`, `target`, `logvar` and `weight`, any number of times. Sums over a sample and over
    samples are accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, appendix C.2,
       arXiv:1312.6114.
    """
    limits = check_limits("logvar_range", logvar_range)
    if logvar is None:
        limits = -inf, inf  # a variance of 1 has none
    if (
        weight is None
        and mask is None
        and reduction in PLAIN_REDUCTIONS
        and undisturbed()
        and is_one(target_scale)
    ):
        grad_enabled = torch.is_grad_enabled()
        found = _core.plain_gaussian_loss(mean, target, logvar, *limits, reduction, grad_enabled)
        plain: Tensor | None = _track(found, (*limits, reduction), mean, logvar, target)
        if plain is not None:
            return plain
    dtype = check_elementwise(
        "mean",
        mean,
        target,
        logvar=logvar,
        weight=weight,
        mask=mask,
        target_scale=target_scale,
    )
    reduction = check_decoder_reduction(reduction)
    if weight is not None:
        weight = weight.to(dtype)
    grad_enabled = torch.is_grad_enabled()
    need_logvar = False
    if logvar is not None and logvar.requires_grad and grad_enabled:
        of_samples = logvar.dim() == mean.dim() and logvar.shape[0] == mean.shape[0]
        need_logvar = of_samples or reduction != "rows"
    operands = mean, target, logvar, mask, weight
    apply = _direct_gaussian_loss if direct(*operands) else apply_of(_GaussianLoss)
    loss: Tensor = apply(
        *operands,
        *limits,
        float(target_scale),
        reduction,
        grad_enabled and (mean.requires_grad or target.requires_grad),
        need_logvar,
    )[0]
    return loss
