"""Bounds of log p(x) from several latent samples: ELBO and IWAE."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from elbokit.torch import _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    eager_twin,
    save,
    scaled,
    to_differentiate,
    unpacked,
    with_signature,
)
from elbokit.torch._checks import (
    check_broadcast,
    check_event_dims,
    check_non_negative,
    check_reduction,
    check_same_shape,
    check_tensors,
    check_weight,
)
from elbokit.torch._formulas import multi_sample_grads
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT
from elbokit.torch._logsumexp import logsumexp
from elbokit.torch._reduction import scaled_sum, spread
from elbokit.torch._transforms import apply_of

__all__ = ["importance_bound", "multi_sample_loss"]

_N_OPERANDS = 7  # logits, target, mask, row_weight, mu, logvar, z
_SAVED = (0, 4, 5, 6)  # those whose gradients the forward pass computes


class _MultiSampleLoss(torch.autograd.Function):
    """Negative bound, and the gradients that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        logits: Tensor,
        target: Tensor,
        mask: Tensor | None,
        row_weight: Tensor | None,
        mu: Tensor,
        logvar: Tensor,
        z: Tensor,
        target_scale: float,
        bound: str,
        reduction: str,
        need_logits: bool,
        need_latent: bool,
    ) -> tuple[Tensor | None, ...]:
        operands = logits, target, mask, row_weight, mu, logvar, z
        options = target_scale, bound, reduction, need_logits, need_latent
        outputs: tuple[Tensor | None, ...]
        outputs = torch.ops.elbokit.multi_sample_loss.default(*operands, *options)
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        operands, options = inputs[:_N_OPERANDS], inputs[_N_OPERANDS:]
        ctx.target_scale, ctx.bound, ctx.reduction, need_logits, need_latent = options
        grads = output[1:]
        ctx.mark_non_differentiable(*(g for g in grads if g is not None))
        ctx.set_materialize_grads(False)
        saved = [grads[0] if need_logits else None]
        saved += grads[1:] if need_latent else [None] * 3
        save(ctx, *operands, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        tensors = unpacked(ctx, _N_OPERANDS)
        operands, saved = tensors[:_N_OPERANDS], tensors[_N_OPERANDS:]
        needs = list(ctx.needs_input_grad[:_N_OPERANDS])
        grads: list[Tensor | None] = [None] * _N_OPERANDS
        if grad is None:
            return *grads, *(None,) * 5
        if not to_differentiate():
            for i, of_sum in zip(_SAVED, saved, strict=True):
                if needs[i] and of_sum is not None:
                    needs[i] = False
                    grads[i] = _times_row(of_sum, grad, ctx.reduction, i in (0, 6))
        if any(needs):
            by_formula = multi_sample_grads(
                operands, ctx.target_scale, ctx.bound, grad, ctx.reduction
            )
            grads = [
                f if needed else g for f, g, needed in zip(by_formula, grads, needs, strict=True)
            ]
        return *grads, *(None,) * 5


def _times_row(saved: Tensor, grad: Tensor, reduction: str, sampled: bool) -> Tensor:
    """Return `saved` times the loss's gradient; `sampled` if its first dimension is the samples."""
    if reduction == "rows":
        grad = spread(grad, saved.shape[1:] if sampled else saved.shape, reduction)
    return scaled(saved, grad)


_direct_multi_sample_loss = eager_twin(_MultiSampleLoss, "multi_sample_loss")


def _check_bound(bound: object) -> None:
    if not isinstance(bound, str) or bound not in ("iwae", "elbo"):
        raise ValueError(f"`bound` is {bound!r}, expected 'iwae' or 'elbo'")


def _check_samples(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `tensor` has the given shape behind a dimension of samples."""
    if tensor.dim() != len(shape) + 1 or tuple(tensor.shape[1:]) != shape or tensor.shape[0] == 0:
        expected = ", ".join(map(str, ("S", *shape)))
        raise ValueError(
            f"`{name}` has shape {tuple(tensor.shape)}, expected ({expected}) with S >= 1 samples"
        )


def multi_sample_loss(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    z: Tensor,
    *,
    bound: str = "iwae",
    reduction: str = "batchmean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
) -> Tensor:
    r"""Negative bound of log p(x) from S latent samples: Bernoulli decoder, :math:`N(0, I)` prior.

    The targets are not repeated, and neither are the log-weights, their log-sum-exp or the
    sigmoids stored: each data row is visited once, with its S rows of logits.

    Parameters
    ----------
    logits : Tensor of shape (S, n_samples, ...)
        Output of the decoder for each sample. float64, float32, bfloat16 or float16; low precision
        is computed in float32.
    target : Tensor of shape (n_samples, ...)
        Data in [0, 1], after `target_scale`. A floating-point dtype, bool or uint8.
    mu, logvar : Tensor of shape (n_samples, ...)
        Means and log-variances of the approximate posterior.
    z : Tensor of shape (S, n_samples, ...)
        Samples from it, such as ``mu + (0.5 * logvar).exp() * noise``.
    bound : {"iwae", "elbo"}
        The importance-weighted bound [1]_, or the ELBO with its KL estimated by the same samples.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per data row.
    weight : Tensor of shape (n_samples,), optional
        Factor of each row's loss. The average is still over the number of rows.
    mask : Tensor broadcasting to the shape of `target`, optional
        Where it is 0 (or False), an element does not count, whatever it holds.
    target_scale : float, default=1.0
        Factor of the targets: 1 / 255 for images of bytes, which are read as they are.

    Returns
    -------
    Tensor
        In nats, of shape () or (n_samples,). float32 if the operands are of low precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, there is no sample, an argument is sparse, or `bound` or
        `reduction` is unknown.

    Notes
    -----
    .. math::
        \log w_s = \log p(x|z_s) + \log p(z_s) - \log q(z_s|x), \qquad
        \text{iwae: } -\log \frac1S \sum_s w_s, \qquad \text{elbo: } -\frac1S \sum_s \log w_s.

    Differentiable in all tensors but `mask`, any number of times; z counts as a tensor of its own,
    through which the reparameterised gradient flows. The weights and the latent part are computed
    in float64, so log-variances of ±200 overflow only in results that float32 cannot hold.

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
       arXiv:1509.00519.
    """
    dtype = check_tensors(
        logits=logits, target=target, mu=mu, logvar=logvar, z=z, weight=weight, mask=mask
    )
    check_event_dims("target", target)
    check_event_dims("mu", mu)
    _check_samples("logits", logits, tuple(target.shape))
    _check_samples("z", z, tuple(mu.shape))
    check_same_shape("logvar", logvar, "mu", mu)
    check_broadcast("mask", mask, "target", target)
    for name, tensor, expected in (("mu", mu, target.shape[0]), ("z", z, logits.shape[0])):
        if tensor.shape[0] != expected:
            raise ValueError(
                f"`{name}` has shape {tuple(tensor.shape)}, expected ({expected}, ...) to go with "
                f"`logits` of shape {tuple(logits.shape)}"
            )
    check_weight(weight, target.shape[0])
    _check_bound(bound)
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    check_non_negative("target_scale", target_scale)
    mu, logvar, z = mu.to(dtype), logvar.to(dtype), z.to(dtype)
    operands = logits, target, mask, None if weight is None else weight.to(dtype), mu, logvar, z
    grad_enabled = torch.is_grad_enabled()
    apply = _direct_multi_sample_loss if direct(*operands) else apply_of(_MultiSampleLoss)
    loss: Tensor = apply(
        *operands,
        float(target_scale),
        bound,
        BATCH_REDUCTIONS[reduction],
        grad_enabled and logits.requires_grad,
        grad_enabled and (mu.requires_grad or logvar.requires_grad or z.requires_grad),
    )[0]
    return loss


def importance_bound(
    log_weight: Tensor, *, bound: str = "iwae", reduction: str = "batchmean"
) -> Tensor:
    r"""Bound of log p(x) from the log-weights of S latent samples, for any model.

    Parameters
    ----------
    log_weight : Tensor of shape (S, n_samples)
        :math:`\log p(x, z_s) - \log q(z_s|x)` for samples from q. float64, float32, bfloat16 or
        float16; low precision is computed in float32. -inf, a sample that the model excludes, is
        allowed.
    bound : {"iwae", "elbo"}
        The importance-weighted bound [1]_, or the plain average of the log-weights.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per data row.

    Returns
    -------
    Tensor
        The bound, to maximise: its negative is a loss. In nats, of shape () or (n_samples,);
        float32 if the operand is of low precision. -inf where every log-weight is (for "elbo",
        where one is).

    Raises
    ------
    TypeError
        `log_weight` is no floating-point tensor.
    ValueError
        `log_weight` is not of shape (S, n_samples) with S >= 1, is sparse, or is on a device
        without kernels; `bound` or `reduction` is unknown.

    Notes
    -----
    .. math::
        \text{iwae: } \log \frac1S \sum_s w_s, \qquad \text{elbo: } \frac1S \sum_s \log w_s.

    The gradient of the first is the softmax of the log-weights over the samples, with 0 for a
    log-weight of -inf. Differentiable any number of times.

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
       arXiv:1509.00519.
    """
    dtype = check_tensors(log_weight=log_weight)
    if log_weight.dim() != 2 or log_weight.shape[0] == 0:
        raise ValueError(
            f"`log_weight` has shape {tuple(log_weight.shape)}, expected (S, n_samples) with S >= 1"
        )
    _check_bound(bound)
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    log_weight = log_weight.to(dtype)
    if bound == "iwae":
        rows = logsumexp(log_weight, 0) - math.log(log_weight.shape[0])
    else:
        rows = log_weight.mean(0)
    if reduction == "none":
        return rows
    total = rows.sum()
    return scaled_sum(total, rows.shape, reduction) if reduction == "batchmean" else total
