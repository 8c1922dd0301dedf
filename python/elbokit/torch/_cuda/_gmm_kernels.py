"""The mixture's kernels on tensors: what `elbokit.ops` and the operators have in common.

One batch dimension everywhere. Rows of bfloat16, float16 and float32 are computed in float32, or,
where `wide` is set, in float64, as those of float64 are. Parameters and sample weights are float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import ELEMENTS

__all__ = [
    "ATTEMPTS",
    "Parameters",
    "Statistics",
    "attempted_statistics",
    "estep",
    "parameters_of",
    "row_gradient",
    "small_weights",
    "statistics",
]


# Where few components matter to a row; where many do.
ATTEMPTS = ("sparse", "products")


class Parameters(NamedTuple):
    """Of mixtures: float64, contiguous."""

    covariance_type: str
    weights: Tensor
    means: Tensor
    precisions_cholesky: Tensor

    def described(self) -> tuple[Any, ...]:
        tensors = self[1:]
        return self.covariance_type, self.weights.shape[1], *(t.data_ptr() for t in tensors)


class Statistics(NamedTuple):
    """As `elbokit.ops.GmmStatistics`, in float64 tensors."""

    counts: Tensor
    first_moments: Tensor
    second_moments: Tensor
    log_likelihood: Tensor


def parameters_of(
    covariance_type: str, weights: Tensor, means: Tensor, precisions_cholesky: Tensor
) -> Parameters:
    """Return the parameters as the kernels read them."""
    tensors = weights, means, precisions_cholesky
    return Parameters(
        covariance_type, *(t.detach().to(torch.float64).resolve_neg().contiguous() for t in tensors)
    )


def _rows(X: Tensor) -> tuple[Any, ...]:
    """Describe rows of any strides; copy them only where columns are not contiguous."""
    X = X.detach().resolve_neg()
    if X.stride(2) != 1 and X.shape[2] > 1:
        X = X.contiguous()
    return X.data_ptr(), ELEMENTS[X.dtype], *X.shape, X.stride(0), X.stride(1), X


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _of(attempt: str, what: str) -> Any:
    return getattr(cuda_kernels(), f"gmm_{attempt}_{what}")


def _computed(X: Tensor, wide: bool) -> tuple[bool, torch.dtype]:
    wide = wide or X.dtype == torch.float64
    return wide, torch.float64 if wide else torch.float32


def _queue(X: Tensor, rows: tuple[Any, ...], described: tuple[Any, ...], *how: bool) -> Any:
    device = X.device.index if X.is_cuda else 0
    return queue(X, cuda_kernels().gmm_workspace(device, rows, described, *how))


def estep(
    X: Tensor,
    parameters: Parameters,
    *,
    log_prob: bool = True,
    responsibilities: bool = False,
    labels: bool = False,
    wide: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return of each row the log-density, the responsibilities and the label that are asked for."""
    wide, dtype = _computed(X, wide)
    size, n, _ = X.shape
    k = parameters.weights.shape[1]
    density = X.new_empty((size, n), dtype=dtype) if log_prob else None
    shares = X.new_empty((size, n, k), dtype=dtype) if responsibilities else None
    chosen = X.new_empty((size, n), dtype=torch.int64) if labels else None
    if X.numel():
        rows, described = _rows(X), parameters.described()
        cuda_kernels().gmm_estep(
            _queue(X, rows, described, wide),
            rows,
            described,
            wide,
            _address(density),
            _address(shares),
            _address(chosen),
        )
    return density, shares, chosen


def statistics(
    X: Tensor, sample_weight: Tensor | None, parameters: Parameters, *, wide: bool = False
) -> Statistics:
    """Return the statistics about the means. sample_weight: float64, contiguous, of any sign."""
    _, weights, means, factors = parameters
    wide, _ = _computed(X, wide)
    sums = Statistics(*(t.new_zeros(t.shape) for t in (weights, means, factors, weights[:, 0])))
    if X.numel():
        rows, described = _rows(X), parameters.described()
        cuda_kernels().gmm_statistics(
            _queue(X, rows, described, wide),
            rows,
            _address(sample_weight),
            described,
            wide,
            *(t.data_ptr() for t in sums),
        )
    return sums


def attempted_statistics(
    attempt: str, X: Tensor, sample_weight: Tensor | None, parameters: Parameters
) -> tuple[Statistics, Tensor] | None:
    """Return `statistics` by kernels for some mixtures alone, and whether they hold.

    They do if the second tensor, int64 of shape (1,), is 0; otherwise make another attempt, or ask
    `statistics`. None where the kernels of `attempt`, one of `ATTEMPTS`, do not take these mixtures
    (cuda/kernels/gmm_sparse.h, gmm_products.h).
    """
    if not X.numel():
        return None
    rows, described = _rows(X), parameters.described()
    on = X.device.index if X.is_cuda else 0, rows, described
    if not _of(attempt, "serves")(*on):
        return None
    _, weights, means, factors = parameters
    sums = Statistics(*(torch.empty_like(t) for t in (weights, means, factors, weights[:, 0])))
    failed = weights.new_empty(1, dtype=torch.int64)
    _of(attempt, "statistics")(
        queue(X, _of(attempt, "workspace")(*on)),
        rows,
        _address(sample_weight),
        described,
        *(t.data_ptr() for t in sums),
        failed.data_ptr(),
    )
    return sums, failed


def row_gradient(X: Tensor, grad: Tensor, parameters: Parameters, *, wide: bool = False) -> Tensor:
    """Return the gradient of ``sum(grad * log p)`` in the rows. grad: float64, contiguous."""
    wide, dtype = _computed(X, wide)
    gradient = X.new_empty(X.shape, dtype=dtype)
    if X.numel():
        rows, described = _rows(X), parameters.described()
        cuda_kernels().gmm_row_gradient(
            _queue(X, rows, described, wide, True),
            rows,
            grad.data_ptr(),
            described,
            wide,
            gradient.data_ptr(),
        )
    return gradient


def small_weights(X: Tensor, grad: Tensor, parameters: Parameters) -> Tensor:
    """Return the gradient of ``sum(grad * log p)`` in weights of no size, and 0 for the others."""
    kernels, weights = cuda_kernels(), parameters.weights
    partial = weights.new_zeros((weights.shape[0], kernels.gmm_weight_blocks, weights.shape[1]))
    if X.numel():
        rows, described = _rows(X), parameters.described()
        kernels.gmm_small_weights(queue(X, 0), rows, grad.data_ptr(), described, partial.data_ptr())
    return partial.sum(1)
