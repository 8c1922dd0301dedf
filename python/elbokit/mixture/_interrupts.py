"""What Ctrl-C or an error leaves of a fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._estimator_starts import level_of_user
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._restarts import best_restart

__all__ = ["keep_best", "last_step", "unchanged_on_failure"]


def keep_best(restarts: Iterable[Restart], store: Callable[[EmRun, list[Restart]], None]) -> None:
    """Store the run with the highest bound; on Ctrl-C the best so far, as one not converged.

    Parameters
    ----------
    restarts : iterable of Restart
        At least one that was not dropped or failed, unless it raises.
    store : callable
        Sets the fitted attributes, given the best run and all.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C. Nothing is stored if no run has a complete iteration.
    SingularCovarianceError
        If every run failed: the first one's.

    Warns
    -----
    ConvergenceWarning
        If some runs failed.
    """
    done: list[Restart] = []
    try:
        for restart in restarts:
            done.append(restart)
    except KeyboardInterrupt as interrupt:
        original: BaseException | None = None
        if isinstance(interrupt, FitInterrupted):
            original = interrupt.__context__
            done += interrupt.restarts
        begun = [each for each in done if each.usable and each.run.lower_bounds]
        if begun:
            store(best_restart(begun)._replace(converged=False), done)
        raise (original or interrupt) from None  # not the one that only carried the runs
    errors = [restart.run.error for restart in done if restart.run.error is not None]
    if errors:
        if not any(restart.usable for restart in done):
            raise errors[0]
        warnings.warn(
            f"{len(errors)} of {len(done)} starts failed, and the best of the others is kept. The "
            f"first error: {errors[0]}",
            ConvergenceWarning,
            stacklevel=level_of_user(),
        )
    store(best_restart(done), done)


def last_step(
    steps: Iterable[EmRun], start: GmmParameters, monitor: ConvergenceMonitor | None = None
) -> EmRun:
    """Go through the iterations of one run to its end.

    Parameters
    ----------
    steps : iterable of EmRun
        The run after each complete iteration: :func:`elbokit.mixture._em_steps.em_steps`.
    start : GmmParameters
        What the run has before its first iteration.
    monitor : ConvergenceMonitor or None
        Prints; it knows the bound before the first iteration.

    Returns
    -------
    run : EmRun
        As the last iteration left it.

    Raises
    ------
    FitInterrupted
        On Ctrl-C; it has the run after its last complete iteration.
    """
    bound = -math.inf if monitor is None else monitor.lower_bound
    run = EmRun(start, bound, [], False)
    try:
        for step in steps:
            n_iter, change = len(step.lower_bounds), step.lower_bound - run.lower_bound
            run = step
            interval = 0 if monitor is None else monitor.progress_interval
            if monitor is not None and interval and n_iter % interval == 0:
                monitor.progress(n_iter, change, run.lower_bound)
    except KeyboardInterrupt as interrupt:
        raise FitInterrupted([Restart(run)]) from interrupt
    return run


@contextmanager
def unchanged_on_failure(
    estimator: BaseEstimator, *, keep_interrupted: bool = False
) -> Iterator[None]:
    """Give an estimator its attributes back if the block raises.

    Parameters
    ----------
    estimator : estimator
    keep_interrupted : bool, default=False
        On Ctrl-C keep what the block stored, if anything: then `weights_`, which is set last, is
        another array.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException as error:
        stored = vars(estimator).get("weights_") is not before.get("weights_")
        if not (keep_interrupted and stored and isinstance(error, KeyboardInterrupt)):
            vars(estimator).clear()
            vars(estimator).update(before)
        raise
