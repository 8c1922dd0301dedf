"""Fits to one array of complete rows; the iterations are the core's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, FitInterrupted, Restart, attempt, run_em
from elbokit.mixture._equal_starts import first_of_equals, same_start
from elbokit.mixture._estimator_starts import (
    drawn_starts,
    last_solution,
    monitor_of,
    rows_at_once,
    show_end,
)
from elbokit.mixture._initialization import Starts, some_starts
from elbokit.mixture._kmeans_race import promising_starts
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._penalty import as_penalty
from elbokit.mixture._problems import Problems
from elbokit.mixture._restarts import number_kept, race, with_given_up
from elbokit.mixture._validation import GivenParameters

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["ArrayFit"]


class ArrayFit:
    """The runs of one fit.

    Parameters
    ----------
    estimator : GaussianMixture
        Its parameters, and for a warm start its last solution, are read.
    problem : Problems
        A single one.
    given : GivenParameters
        The starting parameters that the caller chose.
    rng : RandomState
        Source of the draws.
    unit : float
        What the weights of the rows were divided by.
    """

    def __init__(
        self,
        estimator: GaussianMixture,
        problem: Problems,
        given: GivenParameters,
        rng: np.random.RandomState,
        unit: float,
    ) -> None:
        self._estimator = estimator
        self._problem = problem
        self._given = given
        self._rng = rng
        self._penalty = as_penalty(estimator, problem, unit)

    def restarts(self, warm: bool) -> Iterator[Restart]:
        """Run EM from every start: all at once, or one by one where each has something to print."""
        n_init = 1 if warm else self._estimator.n_init
        if n_init > 1 and self._estimator.drop_restarts is not None:
            yield from self._race(n_init, self._estimator.drop_restarts)
        elif n_init > 1 and not self._estimator.verbose:
            yield from map(Restart, self._run_distinct(self._starts(self._problem.repeat(n_init))))
        else:
            seen: dict[bytes, EmRun] = {}
            for init in range(n_init):
                yield Restart(attempt(partial(self._shown, init, warm, seen)))

    def _shown(self, init: int, warm: bool, seen: dict[bytes, EmRun]) -> EmRun:
        """Make one run under the eyes of a monitor; that in `seen` counts, of equal starts."""
        with monitor_of(self._estimator, warm) as monitor:
            monitor.begin(init)
            if warm:
                starts = last_solution(self._estimator, self._problem.X.shape[2])
            else:
                starts = self._starts(self._problem)
            key = self._key(starts) if self._may_share() else None  # the run changes the start
            (run,) = self._run_em(starts, monitor)
            if key is not None:
                run = seen.setdefault(key, run)
            if run.error is not None:
                raise run.error
            show_end(monitor, run, self._estimator.max_iter)
        return run

    def _race(self, n_init: int, drop: float) -> list[Restart]:
        """Run EM from all starts, dropping the worst on the way."""
        groups = {tuple(range(n_init)): self._rng}
        if self._estimator.init_params == "kmeans" and any(a is None for a in self._given):
            groups = promising_starts(
                self._problem,
                self._estimator.n_components,
                number_kept(n_init, drop),
                n_init,
                rows_at_once(self._problem),
                self._rng,
            )
        found: dict[int, Restart] = {}
        for places, rng in groups.items():
            try:
                found |= zip(places, self._race_of(len(places), drop, rng), strict=True)
            except FitInterrupted as interrupt:
                found |= zip(places, interrupt.restarts, strict=True)
                interrupt.restarts = with_given_up(found, n_init)
                raise
            if any(restart.usable for restart in found.values()):
                break  # else those that were given up before EM have their turn
        return with_given_up(found, n_init)

    def _race_of(self, size: int, drop: float, rng: np.random.RandomState) -> list[Restart]:
        return race(
            lambda part, max_iter, bound: self._run_em(part, max_iter=max_iter, lower_bound=bound),
            self._starts(self._problem.repeat(size), rng),
            drop,
            self._estimator.covariance_type,
            tol=self._estimator.tol,
            max_iter=self._estimator.max_iter,
            verbose=self._estimator.verbose not in (0, "bar"),
        )

    def _starts(self, problems: Problems, rng: np.random.RandomState | None = None) -> Starts:
        source = self._rng if rng is None else rng
        return drawn_starts(self._estimator, problems, self._given, source, self._penalty)

    def _key(self, starts: Starts) -> bytes:
        parameters = GmmParameters(*(array[0] for array in starts.parameters))
        return same_start(parameters, self._estimator.covariance_type)

    def _run_distinct(self, starts: Starts) -> list[EmRun]:
        """Run EM from each start, once from those that are the same mixture."""
        if not self._may_share():
            return self._run_em(starts)
        first, place = np.unique(
            first_of_equals(starts, self._estimator.covariance_type), return_inverse=True
        )
        try:
            runs = self._run_em(some_starts(starts, first))
        except FitInterrupted as interrupt:
            interrupt.restarts = [interrupt.restarts[i] for i in place]
            raise
        return [runs[i] for i in place]

    def _may_share(self) -> bool:
        """Without an iteration the last start is the result, in the order of its components."""
        return self._estimator.n_init > 1 and self._estimator.max_iter > 0

    def _run_em(
        self,
        starts: Starts,
        monitor: ConvergenceMonitor | None = None,
        *,
        max_iter: int | None = None,
        lower_bound: npt.ArrayLike = -math.inf,
    ) -> list[EmRun]:
        """Run EM from each start."""
        size = len(starts.status)
        return run_em(
            self._problem if size == 1 else self._problem.repeat(size),
            starts,
            self._estimator.covariance_type,
            tol=self._estimator.tol,
            reg_covar=self._penalty.reg_covar,
            max_iter=self._estimator.max_iter if max_iter is None else max_iter,
            monitor=monitor,
            prior=self._penalty.prior,
            lower_bound=lower_bound,
        )
