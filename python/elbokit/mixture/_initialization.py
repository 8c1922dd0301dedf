"""Starting parameters of Gaussian mixtures, as scikit-learn chooses them.

The random draws are scikit-learn's, in its order and for one problem after the other, so that one
``random_state`` gives one start in both libraries. The moments are computed in float64 about each
component's mean, and no copy of the data is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit._types import FitStatus
from elbokit.mixture._parameters import (
    GmmParameters,
    covariances_from_cholesky,
    precisions_cholesky_from_covariances,
    precisions_cholesky_from_precisions,
)
from elbokit.mixture._prior import CorePrior
from elbokit.mixture._prior_start import at_mode
from elbokit.mixture._problems import Problems
from elbokit.mixture._scatter import ArrayScatters, ScatterSource
from elbokit.mixture._update import empty_below, regularise
from elbokit.mixture._validation import GivenParameters

__all__ = [
    "Starts",
    "as_batch",
    "as_starts",
    "concatenate_starts",
    "some_starts",
    "starting_parameters",
]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class InitialMoments(NamedTuple):
    """Weights, means and regularised covariances estimated from assignments."""

    weights: Array
    means: Array
    covariances: Array
    finite: npt.NDArray[np.bool_]  # False: sums overflow, the rest is void
    n_clusters: Integers


class Starts(NamedTuple):
    """Parameters before the first E-step, with a leading dimension for the problems.

    Attributes
    ----------
    parameters : GmmParameters
        Void for a problem that failed.
    status : ndarray of shape (n_problems,)
        What :class:`elbokit.ops.FitStatus` says.
    component : ndarray of shape (n_problems,)
        The component whose covariance is not positive definite, or -1.
    n_clusters : ndarray of shape (n_problems,)
        How many components have samples.
    """

    parameters: GmmParameters
    status: Integers
    component: Integers
    n_clusters: Integers


def starting_parameters(
    problems: Problems | ScatterSource,
    given: GivenParameters,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float | Array,
    random_state: np.random.RandomState,
    prior: CorePrior | None = None,
) -> Starts:
    """Return the parameters before the first E-step.

    Parameters
    ----------
    problems : Problems or ScatterSource
        Data, float32 or float64.
    given : GivenParameters
        Replace what would be estimated; if all are given nothing is drawn.
    n_components : int
        Number of components.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        How samples are assigned.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float or ndarray
        Added to the diagonal of estimated covariances: :func:`elbokit.mixture._update.regularise`.
    random_state : RandomState
        Source of the draws.
    prior : CorePrior or None
        Estimates are those at the mode of the posterior, given the assignments.

    Returns
    -------
    starts : Starts
        A component without samples (duplicates can leave one) has weight 0 and the mean
        and covariance of the whole data.

    Notes
    -----
    'k-means++' and 'random_from_data' assign one sample to each component and leave the
    others out. scikit-learn's tied covariance then still sums all samples, the left-out
    ones about the origin; the same is done here to follow it from the same start.
    """
    source = ArrayScatters(problems) if isinstance(problems, Problems) else problems
    size = source.size
    weights, means = (None if array is None else _repeat(array, size) for array in given[:2])
    precisions = given[2]
    if weights is None or means is None or precisions is None:
        moments = _initial_moments(
            source, n_components, init_params, covariance_type, reg_covar, random_state, prior
        )
        n_clusters = moments.n_clusters
        n_clusters[~moments.finite] = n_components
        weights = moments.weights if weights is None else weights
        means = moments.means if means is None else means
        if precisions is None:
            factors, component = precisions_cholesky_from_covariances(
                moments.covariances, covariance_type, *means.shape[1:]
            )
            status = np.where(component >= 0, FitStatus.SINGULAR_COVARIANCE, FitStatus.OK)
            status[~moments.finite] = FitStatus.OVERFLOW
            parameters = GmmParameters(weights, means, moments.covariances, factors)
            return Starts(parameters, status, component, n_clusters)
    factors = precisions_cholesky_from_precisions(precisions, covariance_type)
    covariances = covariances_from_cholesky(factors, covariance_type)
    repeated = _repeat(covariances, size), _repeat(factors, size)
    return _all_well(GmmParameters(weights, means, *repeated))


def as_starts(parameters: GmmParameters) -> Starts:
    """Return copies of one mixture's parameters as a batch of one."""
    return as_batch([parameters])


def as_batch(mixtures: Sequence[GmmParameters]) -> Starts:
    """Return copies of the parameters of some mixtures of one shape."""
    # In C order, which np.stack keeps only where it came so.
    arrays = (np.array(each, dtype=np.float64, order="C") for each in zip(*mixtures, strict=True))
    return _all_well(GmmParameters(*arrays))


def concatenate_starts(parts: list[Starts]) -> Starts:
    """Put batches one behind the other."""
    parameters, *fields = zip(*parts, strict=True)
    arrays = (np.concatenate(each) for each in zip(*parameters, strict=True))
    return Starts(GmmParameters(*arrays), *(np.concatenate(each) for each in fields))


def some_starts(starts: Starts, which: Integers) -> Starts:
    """Return some of the starts."""
    if len(which) == len(starts.status):
        return starts
    parameters, *fields = starts
    arrays = (array[which] for array in parameters)
    return Starts(GmmParameters(*arrays), *(field[which] for field in fields))


def _all_well(parameters: GmmParameters) -> Starts:
    size, n_components = parameters.weights.shape
    status = np.full(size, FitStatus.OK, np.int64)
    return Starts(
        parameters, status, np.full(size, -1, np.int64), np.full(size, n_components, np.int64)
    )


def _initial_moments(
    source: ScatterSource,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float | Array,
    random_state: np.random.RandomState,
    prior: CorePrior | None,
) -> InitialMoments:
    """Estimate weights, means and covariances from assignments of the samples."""
    matrices = covariance_type in ("full", "tied")
    mass, n_samples = source.mass(), source.n_samples
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the result
        scatter, finite, left_out = source.assigned(
            n_components, init_params, matrices, random_state
        )
        threshold = empty_below(mass, n_samples)
        empty = scatter.counts <= threshold[:, None]
        n_clusters = np.count_nonzero(~empty, axis=1)
        if prior is not None:
            weights, means, covariances, within = at_mode(
                *scatter, covariance_type, reg_covar=reg_covar, threshold=threshold, prior=prior
            )
            return InitialMoments(weights, means, covariances, finite & within, n_clusters)
        counts, means, second = scatter
        if covariance_type == "tied":
            total = second.sum(axis=1)
            if left_out is not None:
                total += source.raw_second_moment(left_out)
            covariances = total / counts.sum(axis=1)[:, None, None]
        else:
            divisor = np.where(empty, 1.0, counts)
            covariances = second / divisor.reshape(divisor.shape + (1,) * (second.ndim - 2))
        if empty.any():
            whole = source.whole(matrices)
            means[empty] = np.broadcast_to(whole.means, means.shape)[empty]
            if covariance_type != "tied":
                spread = whole.second / mass.reshape((-1,) + (1,) * (second.ndim - 1))
                covariances[empty] = np.broadcast_to(spread, covariances.shape)[empty]
        if covariance_type == "spherical":
            covariances = covariances.mean(axis=2)
        regularise(covariances, means, covariance_type, reg_covar)
        weights = np.where(empty, 0.0, counts) / mass[:, None]
        finite &= np.isfinite(covariances).reshape(len(covariances), -1).all(axis=1)
    return InitialMoments(weights, means, covariances, finite, n_clusters)


def _repeat(array: Array, size: int) -> Array:
    """Stack `size` copies of an array."""
    return np.repeat(np.asarray(array, dtype=np.float64)[None], size, axis=0)
