"""Whole runs of EM on many small mixtures in a GPU's memory, in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from elbokit._cuda_library import cuda_kernels

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GpuFits", "fit_many", "takes_fit_many"]


class GpuFits(NamedTuple):
    """As :class:`elbokit._types.GmmFit` for a flat batch, in float64 and int64 on the GPU.

    A mixture that failed has the parameters and the bound that its last complete iteration left;
    `status` says why, and `component` is the singular one, or -1.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    precisions_cholesky: Tensor
    lower_bound: Tensor
    n_iter: Tensor
    converged: Tensor
    status: Tensor
    component: Tensor


def takes_fit_many(n_components: int, n_features: int) -> bool:
    """Whether `fit_many` takes mixtures of this shape."""
    kernels = cuda_kernels()
    return bool(n_components <= kernels.many_components and n_features <= kernels.small_features)


def fit_many(
    X: Tensor,
    offsets: Tensor | None,
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    precisions_cholesky: Tensor,
    covariance_type: str,
    sample_weight: Tensor | None = None,
    *,
    tol: float,
    reg_covar: float | Sequence[float],
    max_iter: int,
    lower_bound: Tensor | None = None,
) -> GpuFits:
    """Run EM on checked mixtures of few features and components, some lanes of the GPU for each.

    Nothing waits for the GPU, so values are not checked: a mixture with NaN among its rows ends as
    one whose sums overflow, and one without rows as one that no component explains.

    Parameters
    ----------
    X : Tensor of shape (n_mixtures, n_samples, n_features)
        With `offsets` of shape (n_rows, n_features). Floating-point; the columns contiguous.
    offsets : Tensor of shape (n_mixtures + 1,), int64, or None
    weights, means, covariances, precisions_cholesky : Tensor
        The starts, in float64, with n_mixtures in front.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    sample_weight : Tensor of shape (n_mixtures, n_samples) or (n_rows,), float64, or None
    tol, reg_covar, max_iter
        As in :func:`elbokit.ops.gmm_fit`; `reg_covar` may have a value for each feature.
    lower_bound : Tensor of shape (n_mixtures,) or None
        The bounds before the first iteration; None means -inf.

    Returns
    -------
    fits : GpuFits

    Raises
    ------
    ValueError
        If the mixtures have more features or components than `takes_fit_many` says.
    """
    import torch

    from elbokit.torch._cuda._queue import queue
    from elbokit.torch._operands import vector

    def flat(tensor: Tensor | None) -> object:
        return None if tensor is None else vector(tensor.contiguous().view(-1))

    kernels = cuda_kernels()
    size, n_components = weights.shape
    start = [
        a.to(torch.float64, memory_format=torch.contiguous_format, copy=True)
        for a in (weights, means, covariances, precisions_cholesky)
    ]
    bound = weights.new_full((size,), -torch.inf, dtype=torch.float64)
    if lower_bound is not None:
        bound.copy_(lower_bound)
    outcome = torch.zeros((size, 4), dtype=torch.int64, device=X.device)
    if X.shape[-1] > 1 and X.stride(-1) != 1:
        X = X.contiguous()
    if offsets is not None:
        offsets = offsets.to(torch.int64).contiguous()
    if size:
        kernels.gmm_fit_many(
            queue(X, 0),
            _rows(X if offsets is not None else X[0]),
            size,
            X.stride(0) if offsets is None else 0,
            None if offsets is None else offsets.data_ptr(),
            flat(sample_weight),
            covariance_type,
            n_components,
            *(flat(a) for a in start),
            tol,
            [reg_covar] if isinstance(reg_covar, float | int) else list(reg_covar),
            max_iter,
            flat(bound),
            outcome.data_ptr(),
        )
    n_iter, converged, status, component = outcome.unbind(1)
    w, m, c, p = start
    return GpuFits(w, m, c, p, bound, n_iter, converged != 0, status, component)


def _rows(X: Tensor) -> tuple[object, ...]:
    """Describe rows as `elbokit.torch._operands.operand` does, whatever lies between them."""
    from elbokit.torch._operands import output

    address, element, *_ = output(X.detach()[:1], 1) or ()
    rows, cols = X.shape
    return address, element, rows, cols, X.stride(0), 1, X
