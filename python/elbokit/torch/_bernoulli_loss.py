"""Loss of a Bernoulli decoder."""

from __future__ import annotations

from torch import Tensor

from elbokit.torch import _bernoulli
from elbokit.torch._autograd import undisturbed
from elbokit.torch._decoders import check_decoder_reduction, check_elementwise
from elbokit.torch._plain import PLAIN_REDUCTIONS, is_one

__all__ = ["bernoulli_loss"]


def bernoulli_loss(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    target_scale: float = 1.0,
    reduction: str = "batchmean",
) -> Tensor:
    r"""Negative log-likelihood of a Bernoulli decoder, summed over the event dimensions.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, ...)
        Output of the decoder. float64, float32, bfloat16 or float16; low precision is computed in
        float32.
    target : Tensor of the shape of `logits`
        Data in [0, 1], after `target_scale`. A floating-point dtype, bool or uint8.
    weight : Tensor of shape (n_samples,), optional
        Factor of each sample's loss. The average is still over the number of samples.
    mask : Tensor broadcasting to the shape of `logits`, optional
        Where it is 0 (or False), an element does not count, whatever it holds.
    target_scale : float, default=1.0
        Factor of the targets: 1 / 255 for images of bytes, which are read as they are.
    reduction : {"batchmean", "sum", "none"}
        Average over the batch, sum, or one value per sample.

    Returns
    -------
    Tensor
        In nats, of shape () or (n_samples,); float32 if `logits` are of low precision.

    Raises
    ------
    TypeError
        An argument is of the wrong type, is not floating-point, or float64 meets another dtype.
    ValueError
        Shapes or devices do not fit, an argument is sparse, `reduction` is unknown, or
        `target_scale` is negative.

    See Also
    --------
    binary_cross_entropy_with_logits : the same with torch's signature.

    Notes
    -----
    .. math:: \sum_i (1 - t_i) \log(1 + e^{l_i}) + t_i \log(1 + e^{-l_i})

    for logits :math:`l` and targets :math:`t` [1]_. Differentiable in `logits`, `target` and
    `weight`, any number of times. Sums are accumulated in float64.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, appendix C.1,
       arXiv:1312.6114.
    """
    if (
        weight is None
        and mask is None
        and reduction in PLAIN_REDUCTIONS
        and undisturbed()
        and is_one(target_scale)
    ):
        plain = _bernoulli.plain_bernoulli_loss(logits, target, reduction)
        if plain is not None:
            return plain
    dtype = check_elementwise(
        "logits", logits, target, weight=weight, mask=mask, target_scale=target_scale
    )
    return _bernoulli.bernoulli_loss(
        logits,
        target,
        mask=mask,
        row_weight=None if weight is None else weight.to(dtype),
        target_scale=float(target_scale),
        reduction=check_decoder_reduction(reduction),
    )
