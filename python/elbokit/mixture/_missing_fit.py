"""EM on rows with missing entries: the check of the data, the start, and the runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elbokit._types import FitStatus
from elbokit.mixture._driven_fit import driven_restarts
from elbokit.mixture._em import Restart
from elbokit.mixture._estimator_starts import drawn_starts, single
from elbokit.mixture._initialization import Starts
from elbokit.mixture._missing import group_by_pattern, statistics_of_groups
from elbokit.mixture._parameters import GmmParameters, precisions_cholesky_from_covariances
from elbokit.mixture._penalty import as_penalty
from elbokit.mixture._problems import Problems
from elbokit.mixture._validation import GivenParameters, column_name

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["has_missing", "incomplete_restarts"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]


def has_missing(X: Rows) -> bool:
    """Tell whether an entry is NaN; where none is this costs no more than a sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        return not np.isfinite(X.sum()) and bool(np.isnan(X).any())


def incomplete_restarts(
    estimator: GaussianMixture,
    problem: Problems,
    given: GivenParameters,
    rng: np.random.RandomState,
    unit: float,
    warm: bool,
) -> Iterator[Restart]:
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
    unit : float
        What the weights of the rows were divided by.
    warm : bool
        Whether to go on from the last solution.

    Returns
    -------
    restarts : iterator of Restart
        The end of each run.

    Raises
    ------
    ValueError
        If a feature has no observed entry, or as :func:`elbokit.mixture._em.run_em` does.
    """
    X, weight = problem.X[0], None if problem.weight is None else problem.weight[0]
    means, variances, spread = _column_moments(X, weight, estimator)
    covariance_type = estimator.covariance_type
    penalty = as_penalty(estimator, problem, unit, moments=(means, variances))
    groups = group_by_pattern(X, estimator.n_components, covariance_type, weight)

    def draw_start() -> GmmParameters:
        filled = np.where(np.isnan(X), means.astype(X.dtype), X)
        starts = drawn_starts(estimator, problem._replace(X=filled[None]), given, rng, penalty)
        return _widened(starts, spread, given, estimator)

    return driven_restarts(
        estimator,
        lambda parameters, wide: statistics_of_groups(groups, parameters, covariance_type, wide),
        draw_start,
        penalty,
        mass=float(problem.mass()[0]),
        n_samples=len(X),
        n_features=X.shape[1],
        exact=X.dtype == np.float64,
        warm=warm,
    )


def _column_moments(
    X: Rows, weight: Array | None, estimator: GaussianMixture
) -> tuple[Array, Array, Array]:
    """Return each feature's mean, variance, and the latter times the share of missing entries."""
    means, variances, spread = np.empty((3, X.shape[1]))
    for j in range(X.shape[1]):
        seen = ~np.isnan(X[:, j])
        if not seen.any():
            names = getattr(estimator, "feature_names_in_", None)
            raise ValueError(
                f"X has no observed value in {column_name(j, names)}: nothing can be learned of "
                "that feature; drop it"
            )
        column = X[seen, j].astype(np.float64)
        share = None if weight is None else weight[seen]
        with np.errstate(over="ignore", invalid="ignore"):
            means[j] = np.average(column, weights=share)
            variances[j] = np.average((column - means[j]) ** 2, weights=share)
            spread[j] = variances[j] * (1.0 - np.average(seen, weights=weight))
    return means, variances, spread


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
    starts = starts._replace(status=np.array([status]), component=np.array([component]))
    return single(starts, covariance_type)
