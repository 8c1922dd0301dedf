"""The M-step of mixtures on a GPU, and what is read back of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit._gpu_arrays import begin_read_back
from elbokit.torch._cuda._gmm_kernels import Statistics
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import output

__all__ = ["GpuEstimate", "MStepOutcome", "gmm_update"]


class GpuEstimate(NamedTuple):
    """Parameters of mixtures in float64, contiguous, with a leading dimension for the mixtures."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    precisions_cholesky: Tensor


class MStepOutcome(NamedTuple):
    """How the M-step of one mixture ended: GmmOutcome of cuda/kernels/gmm_update.h."""

    log_likelihood: float
    gain: float
    status: int
    component: int
    below_resolution: bool
    beyond_float: bool


def gmm_update(
    sums: Statistics,
    previous: GpuEstimate,
    into: GpuEstimate,
    covariance_type: str,
    *,
    reg_covar: Tensor,
    empty_below: Tensor,
    failed: Tensor | None = None,
) -> Callable[[], list[MStepOutcome]]:
    """Begin an M-step of each mixture; what is returned waits for the outcomes.

    None of them says that the sums do not hold.

    Parameters
    ----------
    sums : Statistics
        About the previous means.
    previous, into : GpuEstimate
        Where an M-step fails, `into` becomes what `previous` is.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    reg_covar : Tensor of shape (n_features,)
        Added to the variances; of shape (1,) for 'spherical'.
    empty_below : Tensor of shape (n_mixtures,)
    failed : Tensor of shape (1,), int64, or None
        Not 0 if the sums do not hold, which is read back with the outcome.
    """
    kernels = cuda_kernels()
    means = previous.means
    size, n_components, n_features = means.shape
    outcomes = means.new_empty((size, 6))

    def columns(tensors: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return tuple(output(t.contiguous(), t.numel()) for t in tensors)

    kernels.gmm_update(
        queue(means, kernels.gmm_update_workspace(covariance_type, size, n_components, n_features)),
        covariance_type,
        size,
        n_components,
        n_features,
        columns(sums),
        *columns((reg_covar, empty_below)),
        columns(previous),
        columns(into),
        *columns((outcomes,)),
    )
    numbers = outcomes.view(-1)
    if failed is not None:
        numbers = torch.cat((numbers, failed.view(torch.float64)))
    arrived = begin_read_back(numbers)
    return lambda: _outcomes(arrived(), size, failed is not None)


def _outcomes(numbers: npt.NDArray[Any], size: int, may_fail: bool) -> list[MStepOutcome]:
    if may_fail and numbers[-1:].view(np.int64)[0] != 0:
        return []
    rows = numbers[: 6 * size].reshape(size, 6)
    return [
        MStepOutcome(
            float(row[0]), float(row[1]), int(ints[2]), int(ints[3]), bool(ints[4]), bool(ints[5])
        )
        for row, ints in zip(rows, rows.view(np.int64), strict=True)
    ]
