"""KL divergence of Gaussians with full covariance, and its gradients."""

from __future__ import annotations

from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty, filled
from elbokit.torch._operands import operand, output, vector
from elbokit.torch._reduction import loss_scale, loss_shape

__all__ = ["gaussian_kl_full"]


def gaussian_kl_full(
    mu: Tensor, scale_tril: Tensor, row_weight: Tensor | None, reduction: str, need_grad: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the KL from N(0, I), and its gradients in `mu` and `scale_tril`."""
    scale = loss_scale(mu.shape, reduction)
    kl = empty(loss_shape(mu.shape, reduction), dtype=mu.dtype)
    grads = [dense(t.shape, t.dtype) if need_grad else None for t in (mu, scale_tril)]
    if mu.numel() == 0:
        return kl.fill_(0.0 * scale), grads[0], grads[1]
    rows = mu.shape[0]
    total, not_positive = _core.gaussian_kl_full(
        operand(mu, mu.shape, rows),
        output(scale_tril.detach().contiguous(), rows),
        vector(row_weight),
        scale,
        vector(kl) if reduction == "rows" else None,
        output(grads[0], rows),
        output(grads[1], rows),
    )
    if not_positive >= 0:
        least = scale_tril[not_positive].detach().diagonal().min().item()
        raise ValueError(
            f"`scale_tril` of sample {not_positive} has {least:g} on its diagonal, expected "
            "positive numbers"
        )
    if reduction != "rows":
        filled(kl, total * scale)
    return kl, grads[0], grads[1]
