"""EM on tensors in a GPU's memory: every iteration reads back a few numbers, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit import _core
from elbokit._cuda_library import cuda_kernels
from elbokit._gpu_arrays import read_back
from elbokit._types import FitStatus
from elbokit.torch._cuda._gmm_kernels import (
    Statistics,
    parameters_of,
    sparse_statistics,
    statistics,
)
from elbokit.torch._cuda._queue import queue
from elbokit.torch._operands import output

__all__ = ["GpuEstimate", "GpuMixture", "GpuRun", "MStepOutcome", "gmm_update"]

_LARGEST_FLOAT = float(np.finfo(np.float32).max) / 2


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


class GpuRun(NamedTuple):
    """A run of EM: the parameters after its last complete iteration, and how it ended."""

    estimate: GpuEstimate
    lower_bound: float
    lower_bounds: list[float]
    after_m: list[float]
    converged: bool
    status: int
    component: int


def gmm_update(
    sums: Statistics,
    previous: GpuEstimate,
    into: GpuEstimate,
    covariance_type: str,
    *,
    reg_covar: Tensor,
    empty_below: Tensor,
    failed: Tensor | None = None,
) -> list[MStepOutcome]:
    """Make an M-step of each mixture, and wait for the outcome.

    An empty list says that the sums do not hold.

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
    if failed is None:
        numbers = read_back(outcomes)
    else:
        together = read_back(torch.cat((outcomes.view(-1), failed.view(torch.float64))))
        if together[-1:].view(np.int64)[0] != 0:
            return []
        numbers = together[:-1].reshape(size, -1)
    integers = numbers.view(np.int64)
    return [
        MStepOutcome(
            float(row[0]), float(row[1]), int(ints[2]), int(ints[3]), bool(ints[4]), bool(ints[5])
        )
        for row, ints in zip(numbers, integers, strict=True)
    ]


class GpuMixture:
    """The rows of one mixture, and EM on them.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
        float64, or float32 and narrower, which are computed in float32; columns contiguous.
    sample_weight : Tensor of shape (n_samples,) or None
        float64, the largest about 1.
    mass : float
        Their sum, or the number of samples.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    reg_covar : float or ndarray
        Added to the variances; of shape (n_features,), or (1,) for 'spherical'.
    """

    def __init__(
        self,
        X: Tensor,
        sample_weight: Tensor | None,
        mass: float,
        covariance_type: str,
        reg_covar: float | npt.NDArray[np.float64],
    ) -> None:
        self._X = X if X.shape[1] == 1 or X.stride(1) == 1 else X.contiguous()
        self._sample_weight = None if sample_weight is None else sample_weight[None]
        self._mass = mass
        self._covariance_type = covariance_type
        self._exact = X.dtype == torch.float64
        self._dense_iterations, self._patience = 0, 4
        variances = 1 if covariance_type == "spherical" else X.shape[1]
        added = np.broadcast_to(np.asarray(reg_covar, np.float64), (variances,))
        self._reg_covar = self._tensor(added)
        self._empty_below = self._tensor(
            np.reshape(_core.gmm_empty_below(np.float64(mass), np.int64(len(X))), 1)
        )

    def statistics(self, estimate: GpuEstimate, wide: bool) -> Statistics:
        """Sum up the statistics of all rows; `wide`: in float64 whatever the rows are."""
        weights, means, _, factors = estimate
        parameters = parameters_of(self._covariance_type, weights, means, factors)
        return statistics(self._X[None], self._sample_weight, parameters, wide=wide or self._exact)

    def estimate(self, arrays: tuple[npt.NDArray[np.float64], ...]) -> GpuEstimate:
        """Copy a mixture's weights, means, covariances and factors to the GPU."""
        return GpuEstimate(*(self._tensor(np.asarray(a, np.float64))[None] for a in arrays))

    def run(
        self,
        start: tuple[npt.NDArray[np.float64], ...],
        *,
        tol: float,
        max_iter: int,
        lower_bound: float = -math.inf,
        progress: Callable[[int, float, float], object] | None = None,
        progress_interval: int = 0,
        on_interrupt: Callable[[GpuRun], None] | None = None,
    ) -> GpuRun:
        """Run EM from given parameters, with the rules of the CPU's loop.

        Parameters
        ----------
        start : tuple of ndarray
            Weights, means, covariances and factors.
        tol, max_iter, lower_bound, progress, progress_interval, on_interrupt
            As in :func:`elbokit._gmm_fit.run_fits`.
        """
        estimate = self.estimate(start)
        spare = GpuEstimate(*map(torch.empty_like, estimate))
        beyond_float = any(np.abs(a).max() > _LARGEST_FLOAT for a in (start[1], start[3]))
        run = GpuRun(estimate, lower_bound, [], [], False, FitStatus.OK, -1)
        try:
            while len(run.lower_bounds) < max_iter and not run.converged:
                step = self._iterate(estimate, spare, beyond_float)
                if step.status != FitStatus.OK:
                    return run._replace(status=step.status, component=step.component)
                estimate, spare, beyond_float = spare, estimate, step.beyond_float
                bound = step.log_likelihood / self._mass
                change = bound - run.lower_bound
                run = run._replace(
                    estimate=estimate,
                    lower_bound=bound,
                    lower_bounds=[*run.lower_bounds, bound],
                    after_m=[*run.after_m, (step.log_likelihood + step.gain) / self._mass],
                    converged=abs(change) < tol,
                )
                n_iter = len(run.lower_bounds)
                if progress is not None and progress_interval and n_iter % progress_interval == 0:
                    progress(n_iter, change, bound)
        except KeyboardInterrupt:
            if on_interrupt is not None:
                on_interrupt(run)
            raise
        return run

    def _iterate(
        self, estimate: GpuEstimate, into: GpuEstimate, beyond_float: bool
    ) -> MStepOutcome:
        """Make one iteration; what float32 cannot resolve or hold is done again in float64."""
        if not self._exact and not beyond_float:
            step = self._sparse_update(estimate, into) or self._update(estimate, into, wide=False)
            if step.status == FitStatus.OK and not step.below_resolution:
                return step
        return self._update(estimate, into, wide=True)

    def _sparse_update(self, estimate: GpuEstimate, into: GpuEstimate) -> MStepOutcome | None:
        """Make an iteration of the components that matter; None where too many do.

        After a failure the next iterations do not try, ever more of them.
        """
        if self._dense_iterations > 0:
            self._dense_iterations -= 1
            return None
        weights, means, _, factors = estimate
        parameters = parameters_of(self._covariance_type, weights, means, factors)
        found = sparse_statistics(self._X[None], self._sample_weight, parameters)
        if found is None:
            return None
        sums, failed = found
        steps = self._m_step(sums, estimate, into, failed)
        if not steps:
            self._dense_iterations = self._patience
            self._patience *= 2
            return None
        return steps[0]

    def _update(self, estimate: GpuEstimate, into: GpuEstimate, wide: bool) -> MStepOutcome:
        (step,) = self._m_step(self.statistics(estimate, wide), estimate, into)
        return step

    def _m_step(
        self,
        sums: Statistics,
        estimate: GpuEstimate,
        into: GpuEstimate,
        failed: Tensor | None = None,
    ) -> list[MStepOutcome]:
        return gmm_update(
            sums,
            estimate,
            into,
            self._covariance_type,
            reg_covar=self._reg_covar,
            empty_below=self._empty_below,
            failed=failed,
        )

    def _tensor(self, array: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.array(array, np.float64, order="C")).to(self._X.device)
