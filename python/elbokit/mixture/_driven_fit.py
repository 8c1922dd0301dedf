"""Fits whose statistics do not come from one array of complete rows: EM driven step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from elbokit._types import GmmStatistics
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, Restart, attempt
from elbokit.mixture._em_steps import em_steps
from elbokit.mixture._equal_starts import same_start
from elbokit.mixture._estimator_starts import last_solution, monitor_of, show_end, single
from elbokit.mixture._interrupts import last_step
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._penalty import Penalty

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["driven_restarts", "each_restart"]


def driven_restarts(
    estimator: GaussianMixture,
    statistics_of: Callable[[GmmParameters, bool], GmmStatistics],
    draw_start: Callable[[], GmmParameters],
    penalty: Penalty,
    *,
    mass: float,
    n_samples: int,
    n_features: int,
    exact: bool,
    warm: bool,
) -> Iterator[Restart]:
    """Run EM from every start, one after the other.

    Parameters
    ----------
    estimator : GaussianMixture
        Its parameters, and for a warm start its last solution, are read.
    statistics_of : callable
        See :func:`elbokit.mixture._em_steps.em_steps`.
    draw_start : callable
        Gives the parameters before the first E-step of the next run.
    penalty : Penalty
        What M-steps add.
    mass : float
        Sum of the sample weights.
    n_samples, n_features : int
        Size of the data.
    exact : bool
        Whether the rows are float64.
    warm : bool
        Whether to go on from the last solution.

    Returns
    -------
    restarts : iterator of Restart
    """

    def run(start: GmmParameters, monitor: ConvergenceMonitor) -> EmRun:
        steps = em_steps(
            statistics_of,
            start,
            estimator.covariance_type,
            mass=mass,
            n_samples=n_samples,
            tol=estimator.tol,
            reg_covar=penalty.reg_covar,
            max_iter=estimator.max_iter,
            lower_bound=monitor.lower_bound,
            prior=penalty.prior,
            exact=exact,
        )
        return last_step(steps, start, monitor)

    return each_restart(estimator, run, draw_start, n_features=n_features, warm=warm)


def each_restart(
    estimator: GaussianMixture,
    run: Callable[[GmmParameters, ConvergenceMonitor], EmRun],
    draw_start: Callable[[], GmmParameters],
    *,
    n_features: int,
    warm: bool,
) -> Iterator[Restart]:
    """Make the runs of a fit one after the other.

    Starts that are the same mixture have one run.
    """
    seen: dict[bytes, EmRun] = {}

    def one(init: int) -> EmRun:
        with monitor_of(estimator, warm) as monitor:
            monitor.begin(init)
            if warm:
                start = single(last_solution(estimator, n_features), estimator.covariance_type)
            else:
                start = draw_start()
            key = same_start(start, estimator.covariance_type)
            if key not in seen or estimator.max_iter == 0:
                seen[key] = attempt(partial(run, start, monitor))
            error = seen[key].error
            if error is not None:
                raise error
            show_end(monitor, seen[key], estimator.max_iter)
        return seen[key]

    for init in range(1 if warm else estimator.n_init):
        yield Restart(attempt(partial(one, init)))
