"""EM on rows with missing entries: the check of the data, the start, and the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import validate_data

from elbokit._gmm_fit import fit_error
from elbokit._types import FitStatus
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._em import EmRun
from elbokit.mixture._em_steps import em_steps
from elbokit.mixture._initialization import Starts
from elbokit.mixture._missing import group_by_pattern, statistics_of_groups
from elbokit.mixture._parameters import GmmParameters, precisions_cholesky_from_covariances
from elbokit.mixture._problems import Problems
from elbokit.mixture._validation import GivenParameters

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["has_missing", "incomplete_runs", "validate_rows"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]


def has_missing(X: Rows) -> bool:
    """Tell whether an entry is NaN; where none is this costs no more than a sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not np.isfinite(X.sum()) and bool(np.isnan(X).any())


def validate_rows(estimator: Any, X: Any, **options: Any) -> Rows:
    """Return scikit-learn's reading of the data, with NaN as the estimator's `missing` allows.

    Parameters
    ----------
    estimator : GaussianMixture
        Its `missing` says whether NaN is an error.
    X : array-like of shape (n_samples, n_features)
        Data.
    **options
        For scikit-learn's ``validate_data``.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float32 or float64

    Raises
    ------
    ValueError
        If there is an infinity, or a NaN that is not allowed: row and column are named.
    """
    X = validate_data(
        estimator,
        X,
        dtype=[np.float64, np.float32],
        order="C",
        ensure_all_finite="allow-nan",
        **options,
    )
    data = np.asarray(X)
    if estimator.missing == "error" and has_missing(data):
        row, column = np.argwhere(np.isnan(data))[0].tolist()
        name = type(estimator).__name__
        raise ValueError(
            f"Input X contains NaN, first in row {row}, {_column(estimator, column)}. "
            f"{name} takes NaN for missing values, and integrates them out, with "
            "missing='integrate'."
        )
    return data


def incomplete_runs(
    estimator: GaussianMixture,
    problem: Problems,
    given: GivenParameters,
    rng: np.random.RandomState,
    warm: bool,
) -> Iterator[EmRun]:
    """Run EM from every start, with the missing entries integrated out.

    Parameters
    ----------
    estimator : GaussianMixture
        Its parameters, and for a warm start its last solution, are read.
    problem : Problems
        One, with NaN where an entry is missing.
    given : GivenParameters
        The starting parameters that the caller chose.
    rng : RandomState
        Source of the draws.
    warm : bool
        Whether to go on from the last solution.

    Yields
    ------
    run : EmRun
        The end of each run.

    Raises
    ------
    ValueError
        If a feature has no observed entry, or as :func:`elbokit.mixture._em.run_em` does.
    """
    X, weight = problem.X[0], None if problem.weight is None else problem.weight[0]
    means, spread = _column_moments(X, weight, estimator)
    covariance_type = estimator.covariance_type
    groups = group_by_pattern(X, estimator.n_components, covariance_type, weight)
    for init in range(1 if warm else estimator.n_init):
        bound = estimator.lower_bound_ if warm else -math.inf
        monitor = ConvergenceMonitor(
            estimator.tol, estimator.verbose, estimator.verbose_interval, bound
        )
        monitor.begin(init)
        if warm:
            start = GmmParameters(*(a[0] for a in estimator._last_solution(problem).parameters))
        else:
            filled = np.where(np.isnan(X), means.astype(X.dtype), X)
            starts = estimator._starts(problem._replace(X=filled[None]), given, rng)
            start = _widened(starts, spread, given, estimator)
        run = EmRun(start, bound, [], converged=False)
        for run in em_steps(
            lambda parameters, wide: statistics_of_groups(
                groups, parameters, covariance_type, wide
            ),
            start,
            covariance_type,
            mass=float(problem.mass()[0]),
            n_samples=len(X),
            tol=estimator.tol,
            reg_covar=estimator.reg_covar,
            max_iter=estimator.max_iter,
            lower_bound=bound,
        ):
            n_iter, interval = len(run.lower_bounds), monitor.progress_interval
            if interval and n_iter % interval == 0:
                monitor.progress(n_iter, run.lower_bound - monitor.lower_bound)
            monitor.finish(run.lower_bound, run.converged)
        if estimator.max_iter > 0:
            monitor.end()
        yield run


def _column_moments(
    X: Rows, weight: Array | None, estimator: GaussianMixture
) -> tuple[Array, Array]:
    """Return each feature's mean, and its variance times the share of missing entries."""
    means, spread = np.empty(X.shape[1]), np.empty(X.shape[1])
    for j in range(X.shape[1]):
        seen = ~np.isnan(X[:, j])
        if not seen.any():
            raise ValueError(
                f"X has no observed value in {_column(estimator, j)}: nothing can be learned of "
                "that feature; drop it"
            )
        column = X[seen, j].astype(np.float64)
        share = None if weight is None else weight[seen]
        with np.errstate(over="ignore", invalid="ignore"):
            means[j] = np.average(column, weights=share)
            variance = np.average((column - means[j]) ** 2, weights=share)
            spread[j] = variance * (1.0 - np.average(seen, weights=weight))
    return means, spread


def _column(estimator: Any, column: int) -> str:
    """Return how errors call a feature."""
    names = getattr(estimator, "feature_names_in_", None)
    return f"column {column}" if names is None else f"column {column} ({names[column]!r})"


def _widened(
    starts: Starts, spread: Array, given: GivenParameters, estimator: GaussianMixture
) -> GmmParameters:
    """Return the start with the variance that means in place of missing entries took away.

    Without it a component whose rows all miss a feature would begin with no variance there, and
    keep that. A start from single rows, whose variances are those of `reg_covar`, is widened alike
    in all directions: it stands for the nearest row.
    """
    covariance_type = estimator.covariance_type
    weights, means, covariances, _ = starts.parameters
    status, component = int(starts.status[0]), int(starts.component[0])
    if given.precisions is None and status != FitStatus.OVERFLOW:
        if estimator.init_params in ("k-means++", "random_from_data"):
            spread = np.full_like(spread, spread.mean())
        if covariance_type == "spherical":
            covariances = covariances + spread.mean()
        elif covariance_type == "diag":
            covariances = covariances + spread
        else:
            covariances = covariances + np.diag(spread)
        if not np.isfinite(covariances).all():
            status = int(FitStatus.OVERFLOW)
        else:
            factors, failed = precisions_cholesky_from_covariances(
                covariances, covariance_type, *means.shape[1:]
            )
            component = int(failed[0])
            status = int(FitStatus.SINGULAR_COVARIANCE if component >= 0 else FitStatus.OK)
            starts = starts._replace(parameters=GmmParameters(weights, means, covariances, factors))
    error = fit_error(
        status, component, covariance_type, "weights_init, means_init and precisions_init"
    )
    if error is not None:
        raise error
    return GmmParameters(*(array[0] for array in starts.parameters))
