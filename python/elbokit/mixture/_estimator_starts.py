"""Where the runs of an estimator's fit begin, and what shows their progress."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from elbokit._gmm_fit import fit_error
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._initialization import (
    Starts,
    as_starts,
    concatenate_starts,
    starting_parameters,
)
from elbokit.mixture._parameters import GmmParameters, covariance_shape
from elbokit.mixture._penalty import Penalty
from elbokit.mixture._problems import Problems
from elbokit.mixture._progress_bar import new_monitor
from elbokit.mixture._validation import GivenParameters, check_given

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = [
    "GIVEN",
    "drawn_starts",
    "given_to",
    "last_solution",
    "level_of_user",
    "monitor_of",
    "rows_at_once",
    "show_end",
    "single",
    "warn_of_few_clusters",
]

# What an error of a start names.
GIVEN = "weights_init, means_init and precisions_init"

# Rows whose starts are sought side by side: k-means takes some 12 bytes for each.
_ROWS_AT_ONCE = 1 << 20


def given_to(
    estimator: GaussianMixture, n_features: int, read: Callable[[Any, str], Any] | None = None
) -> GivenParameters:
    """Return the starting parameters that the caller chose, checked; `read` is asked for each."""

    def chosen(name: str) -> Any:
        array = getattr(estimator, name)
        return array if read is None else read(array, name)

    return check_given(
        chosen("weights_init"),
        chosen("means_init"),
        chosen("precisions_init"),
        estimator.covariance_type,
        estimator.n_components,
        n_features,
    )


def drawn_starts(
    estimator: GaussianMixture,
    problems: Problems,
    given: GivenParameters,
    rng: np.random.RandomState,
    penalty: Penalty,
) -> Starts:
    """Return the starting parameters of each problem."""
    at_once = rows_at_once(problems)
    parts = []
    for first in range(0, problems.size, at_once):
        part = starting_parameters(
            problems.part(slice(first, first + at_once)),
            given,
            estimator.n_components,
            estimator.init_params,
            estimator.covariance_type,
            penalty.reg_covar,
            rng,
            penalty.prior,
        )
        warn_of_few_clusters(part, estimator.n_components)
        parts.append(part)
    return parts[0] if len(parts) == 1 else concatenate_starts(parts)


def rows_at_once(problems: Problems) -> int:
    """Side by side while that is no more memory than one large problem takes."""
    return max(1, _ROWS_AT_ONCE // int(problems.X.shape[1]))


def last_solution(
    estimator: GaussianMixture, n_features: int, who: str = "warm_start=True"
) -> Starts:
    """Return the fitted parameters, for a fit that goes on from them."""
    weights, means, factors = estimator._density_parameters()
    covariances = estimator._float64("covariances")
    n_components = estimator.n_components
    shape = covariance_shape(estimator.covariance_type, n_components, n_features)
    if means.shape != (n_components, n_features) or covariances.shape != shape:
        raise ValueError(
            f"{who} continues from means of shape {means.shape} and covariances of "
            f"shape {covariances.shape}, but n_components, covariance_type and X ask for "
            f"{(n_components, n_features)} and {shape}; "
            + ("call fit" if who != "warm_start=True" else "set warm_start=False")
            + " to start anew"
        )
    return as_starts(GmmParameters(weights, means, covariances, factors))


def single(starts: Starts, covariance_type: str, names: str = GIVEN) -> GmmParameters:
    """Return the parameters of the only start, or raise what is wrong with it."""
    error = fit_error(int(starts.status[0]), int(starts.component[0]), covariance_type, names)
    if error is not None:
        raise error
    return GmmParameters(*(array[0] for array in starts.parameters))


def monitor_of(estimator: GaussianMixture, warm: bool) -> ConvergenceMonitor:
    """Return what shows the progress of one run."""
    return new_monitor(
        estimator.tol,
        estimator.verbose,
        estimator.verbose_interval,
        estimator.lower_bound_ if warm else -math.inf,
        max_iter=estimator.max_iter,
        n_init=1 if warm else estimator.n_init,
    )


def show_end(monitor: ConvergenceMonitor, run: EmRun, max_iter: int) -> None:
    """Report the result of a run, which is complete: Ctrl-C meanwhile does not lose it."""
    try:
        monitor.finish(run.lower_bound, run.converged)
        if max_iter > 0:
            monitor.end()
    except KeyboardInterrupt as interrupt:
        raise FitInterrupted([Restart(run)]) from interrupt


def warn_of_few_clusters(starts: Starts, n_components: int) -> None:
    """Warn in scikit-learn's words, for each start from duplicates."""
    for distinct in starts.n_clusters[starts.n_clusters < n_components]:
        warnings.warn(
            f"Number of distinct clusters ({distinct}) found smaller than n_clusters "
            f"({n_components}). Possibly due to duplicate points in X.",
            ConvergenceWarning,
            stacklevel=level_of_user(),
        )


def level_of_user() -> int:
    """Return how many frames above the caller the code outside this package is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("elbokit."):
        frame, level = frame.f_back, level + 1
    return level
