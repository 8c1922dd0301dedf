"""Bernoulli loss of a decoder's last linear layer, without its logits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from elbokit.torch import _backends, _ops  # noqa: F401  (registers the operators)
from elbokit.torch._autograd import (
    direct,
    eager_twin,
    in_backward,
    save,
    scaled,
    to_differentiate,
    unpacked,
    with_signature,
)
from elbokit.torch._bernoulli_loss import bernoulli_loss
from elbokit.torch._checks import (
    check_is_tensor,
    check_positive_int,
    check_reduction,
    check_tensors,
)
from elbokit.torch._formulas import bernoulli_grads
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, MEAN_HINT
from elbokit.torch._reduction import computed_dtype, spread
from elbokit.torch._transforms import apply_of

__all__ = ["LinearBernoulliLoss", "linear_bernoulli_loss"]

_N_OPERANDS = 4  # hidden, weight, bias, target
_N_OPTIONS = 6
_FEW = 1 << 17  # logits that are computed at once


def _by_formula(
    grad: Tensor, operands: Sequence[Tensor | None], reduction: str, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients in the four operands in plain torch, with all logits in memory."""
    hidden, weight, bias, target = operands
    assert hidden is not None
    assert weight is not None
    dtype = computed_dtype(hidden)
    h, w = hidden.to(dtype), weight.to(dtype)
    logits = linear(h, w, None if bias is None else bias.to(dtype))
    elementwise = (logits, target, None, None, None, None)
    wanted = (any(needs[:3]), needs[3], False, False, False, False)
    slope, d_target, *_ = bernoulli_grads(elementwise, 1.0, grad, reduction, wanted)
    d_hidden = d_weight = d_bias = None
    if slope is not None:
        d_hidden = (slope @ w).to(hidden.dtype) if needs[0] else None
        d_weight = (slope.t() @ h).to(weight.dtype) if needs[1] else None
        if bias is not None and needs[2]:
            d_bias = slope.sum(0).to(bias.dtype)
    return d_hidden, d_weight, d_bias, d_target


class _LinearBernoulli(torch.autograd.Function):
    """Loss, and the gradients in the layer and its input that the same pass computed."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        product: torch.dtype,
        chunk_size: int | None,
        reduction: str,
        need_hidden: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[Tensor | None, ...]:
        outputs: tuple[Tensor | None, ...] = torch.ops.elbokit.linear_bernoulli_loss.default(
            hidden,
            weight,
            bias,
            target,
            product,
            chunk_size,
            reduction,
            need_hidden,
            need_weight,
            need_bias,
        )
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
        *operands, ctx.product, ctx.chunk_size, ctx.reduction = inputs[:-3]
        ctx.mark_non_differentiable(*(g for g in output[1:] if g is not None))
        ctx.set_materialize_grads(False)
        saved = (g if need else None for g, need in zip(output[1:], inputs[-3:], strict=True))
        save(ctx, *operands, *saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        tensors = unpacked(ctx, _N_OPERANDS)
        operands, saved = tensors[:_N_OPERANDS], tensors[_N_OPERANDS:]
        needs = list(ctx.needs_input_grad[:_N_OPERANDS])
        rest = (None,) * _N_OPTIONS
        if grad is None:
            return *(None,) * _N_OPERANDS, *rest
        if to_differentiate() or needs[3]:
            return *_by_formula(grad, operands, ctx.reduction, needs), *rest
        grads = [
            scaled(s, grad) if need and s is not None else None
            for s, need in zip(saved, needs[:3], strict=True)
        ]
        missing = [n and g is None for n, g in zip(needs[:3], grads, strict=True)]
        if any(missing):
            shape = operands[3].shape
            by_row = spread(grad, shape, ctx.reduction).reshape(-1).expand(shape[0])
            backward = in_backward("linear_bernoulli_loss_backward", by_row, *operands)
            others = backward(by_row, *operands, ctx.product, ctx.chunk_size, *missing)
            grads = [o if m else g for o, m, g in zip(others, missing, grads, strict=True)]
        return *grads, None, *rest


_direct_linear_bernoulli = eager_twin(_LinearBernoulli, "linear_bernoulli_loss")


def _check_operands(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor
) -> torch.dtype:
    dtype = check_tensors(hidden=hidden, weight=weight, bias=bias, target=target)
    check_is_tensor("weight", weight)
    if hidden.dim() != 2:
        raise ValueError(
            f"`hidden` has shape {tuple(hidden.shape)}, expected (n_samples, n_hidden)"
        )
    n_samples, n_hidden = hidden.shape
    if weight.dim() != 2 or weight.shape[1] != n_hidden:
        raise ValueError(
            f"`weight` has shape {tuple(weight.shape)}, expected (n_features, {n_hidden}) to go "
            f"with `hidden` (shape {tuple(hidden.shape)})"
        )
    n_features = weight.shape[0]
    if bias is not None and bias.shape != (n_features,):
        raise ValueError(f"`bias` has shape {tuple(bias.shape)}, expected ({n_features},)")
    if target.shape != (n_samples, n_features):
        raise ValueError(
            f"`target` has shape {tuple(target.shape)}, expected ({n_samples}, {n_features}): "
            "the rows of `hidden`, the rows of `weight`"
        )
    return dtype


def _check_options(reduction: str, chunk_size: int | None) -> int | None:
    check_reduction(reduction, tuple(BATCH_REDUCTIONS), MEAN_HINT if reduction == "mean" else "")
    return None if chunk_size is None else check_positive_int("chunk_size", chunk_size)


def _are_few(hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor) -> bool:
    """Whether the logits, all at once, take less memory than a block may."""
    return (
        _backends.on_cpu(hidden)
        and hidden.dtype in (torch.float32, torch.float64)
        and hidden.dtype == weight.dtype
        and (bias is None or bias.dtype == hidden.dtype)
        and 0 < target.numel() <= _FEW
    )


def linear_bernoulli_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    reduction: str = "batchmean",
    chunk_size: int | None = None,
) -> Tensor:
    r"""Bernoulli negative log-likelihood of a linear layer's logits, which are never stored.

    The last layer of a decoder and its loss in one: the logits ``hidden @ weight.T + bias`` exist
    only as a block of some samples and `chunk_size` features, and the same pass computes the
    gradients. The loss is summed over the features and averaged over the batch.

    Parameters
    ----------
    hidden : Tensor of shape (n_samples, n_hidden)
        Input of the layer. float64, float32, bfloat16 or float16.
    weight : Tensor of shape (n_features, n_hidden)
        As that of `torch.nn.Linear`.
    bias : Tensor of shape (n_features,) or None
        As that of `torch.nn.Linear`.
    target : Tensor of shape (n_samples, n_features)
        Data in [0, 1]. A floating-point dtype, bool or uint8 (0 and 1).
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample. "none" computes the logits again for
        the gradients.
    chunk_size : int, optional
        Features of a block. By default as many as make 8 MiB of float32 logits, or 64 on a GPU.

    Returns
    -------
    Tensor
        In nats, of shape () or (n_samples,); float64 or float32, the latter for operands of low
        precision too.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown, or
        `chunk_size` is not positive.

    Notes
    -----
    .. math::
        \sum_i \left[ (1 - t_i) \log(1 + e^{l_i}) + t_i \log(1 + e^{-l_i}) \right],
        \qquad l = W h + b,

    the negative log-likelihood of a Bernoulli decoder [1]_. The loss is summed in float64.

    Memory beyond the operands and their gradients: a block of ``min(n_samples, 4096) *
    chunk_size`` logits, over which their gradient is written. Where there are at most 131,072 on
    the CPU, they and their gradient are held at once. The gradients of "sum" and
    "batchmean" are held from the forward to the backward pass. Operands of low precision are
    computed in float32, `hidden` as a whole and `weight` chunk by chunk; under autocast the
    products are of its dtype, as those of `torch.nn.functional.linear`. A derivative in `target`,
    and every gradient of ``create_graph=True`` or `torch.func.grad`, is computed by torch from all
    logits at once.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, appendix C.1,
       arXiv:1312.6114.
    """
    product = _check_operands(hidden, weight, bias, target)
    chunk_size = _check_options(reduction, chunk_size)
    device = hidden.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)  # there is none on meta
    if product == torch.float32 and autocast:
        product = torch.get_autocast_dtype(device)
    operands = hidden, weight, bias, target
    short = direct(*operands)
    if short and chunk_size is None and not autocast and _are_few(*operands):
        return bernoulli_loss(linear(hidden, weight, bias), target, reduction=reduction)
    # The gradients of "none" need their factors of rows before the products.
    now = torch.is_grad_enabled() and reduction != "none"
    needs = (now and t is not None and t.requires_grad for t in operands[:3])
    apply = _direct_linear_bernoulli if short else apply_of(_LinearBernoulli)
    loss: Tensor = apply(*operands, product, chunk_size, BATCH_REDUCTIONS[reduction], *needs)[0]
    return loss


class LinearBernoulliLoss(nn.Module):
    """The last linear layer of a Bernoulli decoder with its loss, `linear_bernoulli_loss`.

    Parameters
    ----------
    in_features : int
        Features of the input, `n_hidden`.
    out_features : int
        Features of the data.
    bias : bool, default=True
        Whether the layer has a bias.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.
    chunk_size : int, optional
        As of `linear_bernoulli_loss`.

    Attributes
    ----------
    weight, bias : Parameter
        Named, shaped and initialised as those of `torch.nn.Linear`, whose ``state_dict`` fits.

    Raises
    ------
    TypeError, ValueError
        A size is not an int above zero, or an option is not as `linear_bernoulli_loss` asks.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        reduction: str = "batchmean",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive_int("in_features", in_features)
        self.out_features = check_positive_int("out_features", out_features)
        self.chunk_size = _check_options(reduction, chunk_size)
        self.reduction = reduction
        layer = nn.Linear(self.in_features, self.out_features, bias=bias)
        self.weight = layer.weight
        self.register_parameter("bias", layer.bias)

    def forward(self, hidden: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `target` given the input of the layer."""
        return linear_bernoulli_loss(
            hidden,
            self.weight,
            self.bias,
            target,
            reduction=self.reduction,
            chunk_size=self.chunk_size,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the output of the layer, as a whole."""
        return linear(hidden, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes and options, for ``repr``."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, reduction={self.reduction!r}"
        )
