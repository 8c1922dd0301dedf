"""KL divergence of Gaussians with full covariance, and its gradients."""

from __future__ import annotations

from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import operand, output, vector
from elbokit.torch._reduction import loss_scale, loss_shape

__all__ = ["gaussian_kl_full"]


def gaussian_kl_full(
    mu: Tensor, scale_tril: Tensor, row_weight: Tensor | None, reduction: str, need_grad: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the KL from N(0, I), and its gradients in `mu` and `scale_tril`.

    NaN for a sample whose diagonal is not positive throughout: nothing here waits for the GPU, so
    nothing can raise.
    """
    kernels = cuda_kernels()
    scale = loss_scale(mu.shape, reduction)
    kl = mu.new_empty(loss_shape(mu.shape, reduction))
    grads = [t.new_empty(t.shape) if need_grad else None for t in (mu, scale_tril)]
    if mu.numel() == 0:
        return kl.fill_(0.0 * scale), grads[0], grads[1]
    rows, by_row = mu.shape[0], reduction == "rows"
    kernels.gaussian_kl_full(
        queue(mu, kernels.loss_workspace),
        operand(mu, mu.shape, rows),
        output(scale_tril.detach().contiguous().resolve_neg(), rows),
        vector(row_weight),
        scale,
        None if by_row else output(kl, 1),
        vector(kl) if by_row else None,
        output(grads[0], rows),
        output(grads[1], rows),
    )
    return kl, grads[0], grads[1]
