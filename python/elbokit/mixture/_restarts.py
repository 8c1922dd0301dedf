"""Restarts of one fit: which is kept, which are dropped before they end, and their summary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._initialization import Starts, as_batch
from elbokit.mixture._parameters import GmmParameters

__all__ = [
    "best_restart",
    "number_kept",
    "race",
    "same_mixture",
    "summary",
    "with_given_up",
]

Array = npt.NDArray[np.float64]

# The first comparison is after so many iterations, each further one after twice as many. Before
# that the bound says how good k-means was: the one of an iteration belongs to the parameters that
# the iteration began with.
_FIRST_COMPARISON = 2

# Mixtures are the same point if they agree to this, in standard deviations of their components and
# relative to weights and variances. The bound, which is flat there to first order or nearly so,
# then differs by far less than any useful `tol`.
_SAME_POINT = 1e-4

SUMMARY = np.dtype(
    [
        ("lower_bound", "f8"),
        ("n_iter", "i8"),
        ("converged", "?"),
        ("dropped", "?"),
        ("failed", "?"),
    ]
)


class RunStage(Protocol):
    """Runs EM from each start for at most so many iterations."""

    def __call__(self, starts: Starts, max_iter: int, lower_bound: Array, /) -> list[EmRun]: ...


def best_restart(restarts: Iterable[Restart]) -> EmRun:
    """Return the run with the highest bound, as scikit-learn chooses among equals.

    Parameters
    ----------
    restarts : iterable of Restart
        At least one of them neither dropped nor failed.
    """
    best: EmRun | None = None
    for run in (restart.run for restart in restarts if restart.usable):
        if best is None or best.lower_bound == -math.inf or run.lower_bound > best.lower_bound:
            best = run
    assert best is not None
    return best


def summary(restarts: Sequence[Restart]) -> npt.NDArray[Any]:
    """Return a row for each restart.

    Returns
    -------
    rows : ndarray of shape (n_restarts,)
        With the fields 'lower_bound', 'n_iter', 'converged', 'dropped' and 'failed'.
    """
    rows = [
        # As in the estimator: without an iteration there is no bound.
        (
            run.lower_bounds[-1] if run.lower_bounds else -math.inf,
            len(run.lower_bounds),
            run.converged,
            dropped,
            run.error is not None,
        )
        for run, dropped in restarts
    ]
    return np.array(rows, SUMMARY)


def race(
    run_stage: RunStage,
    starts: Starts,
    drop: float,
    covariance_type: str,
    *,
    tol: float,
    max_iter: int,
    verbose: bool = False,
) -> list[Restart]:
    """Run EM from all starts, and give up the worst now and then.

    Parameters
    ----------
    run_stage : callable
        Runs EM from each start for so many iterations, given the bound of each before them.
    starts : Starts
        Parameters before the first E-step, at least one.
    drop : float or int
        What is given up at each comparison: that share of those that are left, rounded down, or
        that number of them; one always stays.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    tol : float
        Bounds that differ by less may belong to the same point.
    max_iter : int
        Largest number of iterations of a run.
    verbose : bool
        Whether a line is printed after each comparison.

    Returns
    -------
    restarts : list of Restart
        In the order of the starts. A run that ended before it could be given up was not dropped,
        nor was one that failed. Where none is left that did not fail, those that were given up
        last are taken back: a bound on its way to a singularity is the highest.

    Raises
    ------
    ValueError
        What `run_stage` raises.
    FitInterrupted
        On Ctrl-C; it has a restart for each start.

    Notes
    -----
    Comparisons are after 2, 4, 8, ... iterations: each stage gives the runs that are left about
    as many iterations as all stages before, as in successive halving [1]_; short runs of EM from
    many starts, of which the best go on, are the em-EM of [2]_. A run that has reached the same
    point as a better one, but for the order of the components, is given up too.

    References
    ----------
    .. [1] Jamieson, K. & Talwalkar, A. (2016). Non-stochastic best arm identification and
       hyperparameter optimization. AISTATS.
    .. [2] Biernacki, C., Celeux, G. & Govaert, G. (2003). Choosing starting values for the EM
       algorithm for getting the highest likelihood in multivariate Gaussian mixture models.
       Computational Statistics & Data Analysis 41.
    """
    restarts = [Restart(EmRun(row, -math.inf, [], False)) for row in _rows(starts.parameters)]
    try:
        for line in _stages(run_stage, starts, restarts, drop, covariance_type, tol, max_iter):
            if verbose:
                print(line)
    except FitInterrupted:
        raise
    except KeyboardInterrupt as interrupt:  # between the stages
        raise FitInterrupted(restarts) from interrupt
    return restarts


def _stages(
    run_stage: RunStage,
    starts: Starts,
    restarts: list[Restart],
    drop: float,
    covariance_type: str,
    tol: float,
    max_iter: int,
) -> Iterator[str]:
    """Go on with the restarts in place; yield a line on each comparison."""
    left = list(range(len(restarts)))  # not yet outdone
    done, limit = 0, min(_FIRST_COMPARISON, max_iter)
    while going := [i for i in left if not restarts[i].run.converged]:
        bound = np.array([restarts[i].run.lower_bound for i in going])
        part = starts if done == 0 else as_batch([restarts[i].run.parameters for i in going])
        try:
            runs = run_stage(part, limit - done, bound)
        except FitInterrupted as interrupt:
            for i, each in zip(going, interrupt.restarts, strict=True):
                restarts[i] = Restart(_continued(restarts[i].run, each.run))
            interrupt.restarts = restarts
            raise
        for i, run in zip(going, runs, strict=True):
            restarts[i] = Restart(_continued(restarts[i].run, run))
        done, left = limit, [i for i in left if restarts[i].run.error is None]
        if not left:
            done, left = _taken_back(restarts)
        if done == max_iter or not left:
            return
        stay = _staying(restarts, left, drop, covariance_type, tol)
        for i in set(left) - stay:
            if not restarts[i].run.converged:
                restarts[i] = restarts[i]._replace(dropped=True)
        left = [i for i in left if i in stay]
        best = max(restarts[i].run.lower_bound for i in left)
        remain = f"{len(left)} of {len(restarts)} runs left"
        yield f"  Iteration {done}\t {remain}\t lower bound {best:.5f}"
        limit = min(2 * done, max_iter)


def number_kept(number: int, drop: float) -> int:
    """Return how many of so many runs a comparison leaves: `drop` as in :func:`race`."""
    dropped = drop if isinstance(drop, Integral) else drop * number
    return max(1, number - int(dropped))


def with_given_up(found: Mapping[int, Restart], number: int) -> list[Restart]:
    """Return `number` restarts: those found at their places, at others one without EM."""
    empty = np.empty(0)
    run = EmRun(GmmParameters(empty, empty, empty, empty), -math.inf, [], False)
    return [found.get(place, Restart(run, dropped=True)) for place in range(number)]


def same_mixture(a: GmmParameters, b: GmmParameters, covariance_type: str) -> bool:
    """Tell whether two mixtures are equal but for the order of their components.

    Means may differ by 1e-4 standard deviations of their component; weights, and the covariances
    as the other's factors whiten them, by 1e-4.
    """
    n_components, n_features = a.means.shape
    factors, covariances = (
        _matrices(values, covariance_type, n_components, n_features)
        for values in (a.precisions_cholesky, b.covariances)
    )
    # Row k: how far the other's means are from component k, in its standard deviations.
    apart = np.linalg.norm((b.means[None] - a.means[:, None]) @ factors, axis=2)
    partner = apart.argmin(axis=1)
    if len(set(partner.tolist())) < n_components:
        return False
    if apart[np.arange(n_components), partner].max() > _SAME_POINT:
        return False
    if np.abs(a.weights - b.weights[partner]).max() > _SAME_POINT:
        return False
    if covariance_type != "tied":
        covariances = covariances[partner]
    whitened = factors.swapaxes(1, 2) @ covariances @ factors
    return bool(np.abs(whitened - np.eye(n_features)).max() <= _SAME_POINT)


def _rows(parameters: GmmParameters) -> list[GmmParameters]:
    return [GmmParameters(*arrays) for arrays in zip(*parameters, strict=True)]


def _taken_back(restarts: list[Restart]) -> tuple[int, list[int]]:
    """Return the iterations and places of the runs that were given up last, no longer dropped."""
    dropped = [i for i, restart in enumerate(restarts) if restart.dropped]
    done = max((len(restarts[i].run.lower_bounds) for i in dropped), default=0)
    last = [i for i in dropped if len(restarts[i].run.lower_bounds) == done]
    for i in last:
        restarts[i] = restarts[i]._replace(dropped=False)
    return done, last


def _continued(before: EmRun, run: EmRun) -> EmRun:
    """Return `before` as `run` went on with it; a failed run stays as it is."""
    if run.error is not None:
        return run
    if not run.lower_bounds:
        return before
    return run._replace(
        lower_bounds=before.lower_bounds + run.lower_bounds,
        after_m=[*before.after_m, *run.after_m],
    )


def _staying(
    restarts: Sequence[Restart], left: list[int], drop: float, covariance_type: str, tol: float
) -> set[int]:
    """Return those that are not outdone: the best, without the ones that equal a better one."""
    # Of equal bounds the earlier run is the better one, as in the end.
    order = sorted(left, key=lambda i: (-restarts[i].run.lower_bound, i))
    stay: list[int] = []
    for i in order[: number_kept(len(left), drop)]:
        run = restarts[i].run
        twins = (
            restarts[j].run for j in stay if restarts[j].run.lower_bound - run.lower_bound < tol
        )
        if not any(same_mixture(t.parameters, run.parameters, covariance_type) for t in twins):
            stay.append(i)
    return set(stay)


def _matrices(values: Array, covariance_type: str, n_components: int, n_features: int) -> Array:
    """Return factors or covariances as matrices, one for each component (or one for all)."""
    if covariance_type == "full":
        return values
    if covariance_type == "tied":
        return values[None]
    if covariance_type == "spherical":
        values = np.broadcast_to(values[:, None], (n_components, n_features))
    return np.asarray(values[:, :, None] * np.eye(n_features))
