"""EM on tensors in a GPU's memory: every iteration reads back a few numbers, once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit import _core
from elbokit._gpu_m_step import GpuEstimate, MStepOutcome, gmm_update
from elbokit._types import FitStatus
from elbokit.torch._cuda._gmm_kernels import (
    ATTEMPTS,
    Parameters,
    Statistics,
    attempted_statistics,
    parameters_of,
    statistics,
)

__all__ = ["GpuMixture", "GpuRun"]

_LARGEST_FLOAT = float(np.finfo(np.float32).max) / 2

# Iterations of less than so many seconds are launched before the outcome of the last one is known:
# for longer ones the GPU's pause is nothing beside one that may have been in vain.
_AHEAD_BELOW = 2e-3


class GpuRun(NamedTuple):
    """A run of EM: the parameters after its last complete iteration, and how it ended."""

    estimate: GpuEstimate
    lower_bound: float
    lower_bounds: list[float]
    after_m: list[float]
    converged: bool
    status: int
    component: int


class Step(NamedTuple):
    """An iteration under way."""

    number: int
    into: GpuEstimate
    outcomes: Callable[[], list[MStepOutcome]]  # waits; empty: the sums do not hold
    wide: bool
    attempt: _Attempt | None = None


@dataclass
class _Attempt:
    """A quicker way to the statistics, which may turn out not to serve the mixture.

    Which iterations try it follows from their numbers alone: not from which of them were launched
    ahead, which would show in the last bits.
    """

    name: str
    not_before: int = 0
    patience: int = 1  # iterations that do without it once it failed

    def failed(self, number: int) -> None:
        self.not_before = number + 1 + self.patience
        self.patience *= 2


class _Iterations:
    """The iterations of one run, the next of which may be under way before it is asked for."""

    def __init__(self, mixture: GpuMixture, estimate: GpuEstimate, beyond_float: bool) -> None:
        self.estimate = estimate
        self._mixture = mixture
        self._free = [GpuEstimate(*map(torch.empty_like, estimate)) for _ in range(2)]
        self._wide = beyond_float
        self._current: Step | None = None
        self._seconds = math.inf
        self._before = time.perf_counter()

    def next(self, last: bool) -> MStepOutcome:
        """Make an iteration; `last`: none may follow."""
        if self._current is None:
            self._current = self._begin(self.estimate)
        ahead = None
        if self._seconds < _AHEAD_BELOW and not last:
            ahead = self._begin(self._current.into, ahead=1)
        outcome, as_begun = self._mixture.finish(self._current, self.estimate)
        now = time.perf_counter()
        self._seconds, self._before = now - self._before, now
        self._free.append(self.estimate)
        self.estimate = self._current.into
        if ahead is not None and (not as_begun or outcome.beyond_float != self._wide):
            self._free.append(ahead.into)
            ahead = None
        self._current, self._wide = ahead, outcome.beyond_float
        return outcome

    def left_over(self) -> MStepOutcome | None:
        """Finish the iteration that an interrupt of `next` left behind, if there is one."""
        if self._current is None:
            return None
        outcome, _ = self._mixture.finish(self._current, self.estimate)
        self.estimate, self._current = self._current.into, None
        return outcome

    def _begin(self, estimate: GpuEstimate, *, ahead: int = 0) -> Step:
        into, number = self._free.pop(0), self._mixture.finished + ahead
        try:
            return self._mixture.begin(number, estimate, into, wide=self._wide)
        except BaseException:
            self._free.append(into)
            raise


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
        self._attempts = [_Attempt(name) for name in ATTEMPTS]
        self.finished = 0  # iterations, of all runs
        variances = 1 if covariance_type == "spherical" else X.shape[1]
        added = np.broadcast_to(np.asarray(reg_covar, np.float64), (variances,))
        self._reg_covar = self._tensor(added)
        self._empty_below = self._tensor(
            np.reshape(_core.gmm_empty_below(np.float64(mass), np.int64(len(X))), 1)
        )

    def statistics(self, estimate: GpuEstimate, wide: bool) -> Statistics:
        """Sum up the statistics of all rows; `wide`: in float64 whatever the rows are."""
        return statistics(
            self._X[None],
            self._sample_weight,
            self._parameters(estimate),
            wide=wide or self._exact,
        )

    def _parameters(self, estimate: GpuEstimate) -> Parameters:
        weights, means, _, factors = estimate
        return parameters_of(self._covariance_type, weights, means, factors)

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
        beyond_float = any(np.abs(a).max() > _LARGEST_FLOAT for a in (start[1], start[3]))
        run = GpuRun(estimate, lower_bound, [], [], False, FitStatus.OK, -1)
        iterations = _Iterations(self, estimate, beyond_float)
        try:
            while len(run.lower_bounds) < max_iter and not run.converged:
                step = iterations.next(last=len(run.lower_bounds) + 1 == max_iter)
                if step.status != FitStatus.OK:
                    return run._replace(status=step.status, component=step.component)
                change = step.log_likelihood / self._mass - run.lower_bound
                run = self._with(step, run, iterations.estimate, converged=abs(change) < tol)
                n_iter = len(run.lower_bounds)
                if progress is not None and progress_interval and n_iter % progress_interval == 0:
                    progress(n_iter, change, run.lower_bound)
        except KeyboardInterrupt:
            interrupted = iterations.left_over()
            if interrupted is not None and interrupted.status == FitStatus.OK:
                run = self._with(interrupted, run, iterations.estimate, converged=False)
            if on_interrupt is not None:
                on_interrupt(run)
            raise
        return run

    def _with(
        self, step: MStepOutcome, run: GpuRun, estimate: GpuEstimate, *, converged: bool
    ) -> GpuRun:
        bound = step.log_likelihood / self._mass
        return run._replace(
            estimate=estimate,
            lower_bound=bound,
            lower_bounds=[*run.lower_bounds, bound],
            after_m=[*run.after_m, (step.log_likelihood + step.gain) / self._mass],
            converged=converged,
        )

    def begin(self, number: int, estimate: GpuEstimate, into: GpuEstimate, *, wide: bool) -> Step:
        """Launch an iteration, in the quickest way that has not just failed."""
        for attempt in () if wide or self._exact else tuple(self._attempts):
            if number < attempt.not_before:
                continue
            found = attempted_statistics(
                attempt.name, self._X[None], self._sample_weight, self._parameters(estimate)
            )
            if found is not None:
                sums, failed = found
                m_step = self._m_step(sums, estimate, into, failed)
                return Step(number, into, m_step, wide, attempt)
            self._attempts.remove(attempt)  # shapes that it does not take, now or later
        sums = self.statistics(estimate, wide)
        return Step(number, into, self._m_step(sums, estimate, into), wide or self._exact)

    def finish(self, step: Step, estimate: GpuEstimate) -> tuple[MStepOutcome, bool]:
        """Wait for an iteration; say also whether it stands as it was begun.

        It is done again where its sums did not hold, or in float64 what float32 cannot resolve.
        """
        self.finished += 1
        outcomes, as_begun = step.outcomes(), True
        while not outcomes:
            as_begun = False
            if step.attempt is not None:
                step.attempt.failed(step.number)
            step = self.begin(step.number, estimate, step.into, wide=False)
            outcomes = step.outcomes()
        (outcome,) = outcomes
        if not step.wide and (outcome.status != FitStatus.OK or outcome.below_resolution):
            (outcome,) = self.begin(step.number, estimate, step.into, wide=True).outcomes()
            as_begun = False
        return outcome, as_begun

    def _m_step(
        self,
        sums: Statistics,
        estimate: GpuEstimate,
        into: GpuEstimate,
        failed: Tensor | None = None,
    ) -> Callable[[], list[MStepOutcome]]:
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
