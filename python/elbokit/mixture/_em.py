"""Runs of EM from given parameters; their loop is the core's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit._gmm_fit import FitOutcome, fit_error, run_fits
from elbokit._types import SingularCovarianceError
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._initialization import Starts
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._prior import CorePrior
from elbokit.mixture._problems import Problems

__all__ = ["EmRun", "FitInterrupted", "Restart", "attempt", "run_all", "run_em"]


class EmRun(NamedTuple):
    """Result of one run: the parameters, the bound of each iteration, the outcome.

    `after_m` has the bound after each M-step: see :class:`elbokit.mixture.FitHistory`. Of a run
    that failed only `error` is of use.
    """

    parameters: GmmParameters
    lower_bound: float
    lower_bounds: list[float]
    converged: bool
    after_m: Sequence[float] = ()
    error: ValueError | None = None

    @classmethod
    def failed(cls, error: ValueError) -> EmRun:
        """Return a run without an iteration."""
        nothing = np.empty(0)
        parameters = GmmParameters(nothing, nothing, nothing, nothing)
        return cls(parameters, -np.inf, [], False, error=error)


class Restart(NamedTuple):
    """A run, and whether it was given up before its end."""

    run: EmRun
    dropped: bool = False

    @property
    def usable(self) -> bool:
        """Whether its run may be the one that is kept."""
        return not self.dropped and self.run.error is None


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C while EM ran; `restarts` has each run as its last complete iteration left it."""

    def __init__(self, restarts: list[Restart]) -> None:
        super().__init__()
        self.restarts = restarts


def attempt(make: Callable[[], EmRun]) -> EmRun:
    """Return the run that is made, or a failed one where a covariance is singular."""
    try:
        return make()
    except SingularCovarianceError as error:
        return EmRun.failed(error)


def run_em(
    problems: Problems,
    starts: Starts,
    covariance_type: str,
    *,
    tol: float,
    reg_covar: float | npt.NDArray[np.float64],
    max_iter: int,
    monitor: ConvergenceMonitor | None = None,
    prior: CorePrior | None = None,
    lower_bound: npt.ArrayLike = -np.inf,
) -> list[EmRun]:
    """Iterate EM from each start until the bound stops rising.

    Parameters
    ----------
    problems : Problems
        Data, float32 or float64, for each start.
    starts : Starts
        Parameters before the first E-step; they are written over.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    tol : float
        A run has converged when the bound changes by less than this.
    reg_covar : float or ndarray
        Added to the diagonal of the covariances: :func:`elbokit.mixture._update.regularise`.
    max_iter : int
        Largest number of iterations.
    monitor : ConvergenceMonitor or None
        Of a single start: knows the bound before the first iteration, and prints.
    prior : CorePrior or None
        Its log-density is part of the bound.
    lower_bound : float or array-like of shape (n_starts,), default=-inf
        Without a monitor: the bound of each start before the first iteration.

    Returns
    -------
    runs : list of EmRun
        As in scikit-learn, the bound of an iteration is that of its E-step, so it belongs
        to the parameters before the iteration's M-step. A run has failed if a covariance is
        not positive definite, in its start or on the way.

    Raises
    ------
    ValueError
        If no component has any responsibility left, or sums overflow, in any of the runs.
    FitInterrupted
        On Ctrl-C; it has a restart for each start.

    Notes
    -----
    An iteration is one fused pass over the data for the statistics, and the closed-form update;
    parameters stay in float64 whatever the data. Only where float32 sums cannot resolve a
    covariance (condition numbers near 1e7) is the iteration repeated in float64.
    """

    def interrupted(fit: FitOutcome) -> None:
        raise FitInterrupted([Restart(run) for run in _runs(fit, covariance_type)])

    fit = run_all(
        problems,
        starts,
        covariance_type,
        tol=tol,
        reg_covar=reg_covar,
        max_iter=max_iter,
        record=True,
        monitor=monitor,
        prior=prior,
        lower_bound=lower_bound,
        on_interrupt=interrupted,
    )
    runs = _runs(fit, covariance_type)
    for run in runs:
        if run.error is not None and not isinstance(run.error, SingularCovarianceError):
            raise run.error
    return runs


def _runs(fit: FitOutcome, covariance_type: str) -> list[EmRun]:
    given = "weights_init, means_init and precisions_init"
    outcomes = zip(
        fit.status.tolist(),
        fit.component.tolist(),
        fit.lower_bound.tolist(),
        fit.converged.tolist(),
        strict=True,
    )
    runs = []
    for i, (status, component, bound, converged) in enumerate(outcomes):
        error = fit_error(status, component, covariance_type, given)
        if error is not None:
            runs.append(EmRun.failed(error))
            continue
        parameters = GmmParameters(*(array[i] for array in fit[:4]))
        runs.append(EmRun(parameters, bound, fit.lower_bounds[i], converged, fit.after_m[i]))
    return runs


def run_all(
    problems: Problems,
    starts: Starts,
    covariance_type: str,
    *,
    tol: float,
    reg_covar: float | npt.NDArray[np.float64],
    max_iter: int,
    record: bool = False,
    monitor: ConvergenceMonitor | None = None,
    prior: CorePrior | None = None,
    lower_bound: npt.ArrayLike = -np.inf,
    on_interrupt: Callable[[FitOutcome], None] | None = None,
) -> FitOutcome:
    """Do what :func:`run_em` does, and tell of failures by their status; `record` the bounds."""
    ragged = problems.offsets is not None
    weight = problems.weight
    return run_fits(
        problems.X[0] if ragged else problems.X,
        problems.offsets,
        weight[0] if ragged and weight is not None else weight,
        covariance_type,
        starts.parameters,
        tol=tol,
        reg_covar=reg_covar,
        max_iter=max_iter,
        status=starts.status,
        component=starts.component,
        record=record,
        lower_bound=lower_bound if monitor is None else monitor.lower_bound,
        progress=None if monitor is None else monitor.progress,
        progress_interval=0 if monitor is None else monitor.progress_interval,
        prior=prior,
        on_interrupt=on_interrupt,
    )
