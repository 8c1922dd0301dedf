"""Starting parameters of Gaussian mixtures, as scikit-learn chooses them.

The random draws are scikit-learn's, in its order and for one problem after the other, so that one
``random_state`` gives one start in both libraries. The moments are computed in float64 about each
component's mean, and no copy of the data is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._kmeans import KMeansArrays, solve_kmeans
from elbokit._types import FitStatus
from elbokit.mixture._copies import copies, draw_rows, draw_shares
from elbokit.mixture._parameters import (
    GmmParameters,
    covariances_from_cholesky,
    precisions_cholesky_from_covariances,
    precisions_cholesky_from_precisions,
)
from elbokit.mixture._prior import CorePrior
from elbokit.mixture._prior_start import at_mode
from elbokit.mixture._problems import Problems
from elbokit.mixture._update import empty_below, regularise
from elbokit.mixture._validation import GivenParameters

__all__ = [
    "Starts",
    "as_batch",
    "as_starts",
    "concatenate_starts",
    "starting_parameters",
    "whole_moments",
]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

# Rows that are shared among the components at random, at once.
_BLOCK_ROWS = 4096


class Scatter(NamedTuple):
    """Sums over each component's rows, of each problem: weights, mean, second moment about it.

    The second moment is a matrix for 'full' and 'tied', its diagonal otherwise.
    """

    counts: Array
    means: Array
    second: Array


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
    problems: Problems,
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
    problems : Problems
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
    size = problems.size
    weights, means = (None if array is None else _repeat(array, size) for array in given[:2])
    precisions = given[2]
    if weights is None or means is None or precisions is None:
        moments = _initial_moments(
            problems, n_components, init_params, covariance_type, reg_covar, random_state, prior
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
    arrays = (np.stack(each, dtype=np.float64) for each in zip(*mixtures, strict=True))
    return _all_well(GmmParameters(*arrays))


def concatenate_starts(parts: list[Starts]) -> Starts:
    """Put batches one behind the other."""
    parameters, *fields = zip(*parts, strict=True)
    arrays = (np.concatenate(each) for each in zip(*parameters, strict=True))
    return Starts(GmmParameters(*arrays), *(np.concatenate(each) for each in fields))


def _all_well(parameters: GmmParameters) -> Starts:
    size, n_components = parameters.weights.shape
    status = np.full(size, FitStatus.OK, np.int64)
    return Starts(
        parameters, status, np.full(size, -1, np.int64), np.full(size, n_components, np.int64)
    )


def _initial_moments(
    problems: Problems,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float | Array,
    random_state: np.random.RandomState,
    prior: CorePrior | None,
) -> InitialMoments:
    """Estimate weights, means and covariances from assignments of the samples."""
    matrices = covariance_type in ("full", "tied")
    # As in scikit-learn's k-means and in the E-step.
    problems = problems.with_weight_like_rows()
    mass, n_samples = problems.mass(), problems.n_samples
    finite, left_out = np.full(problems.size, True), None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told by the result
        if init_params == "kmeans":
            scatter, finite = _kmeans_scatter(problems, n_components, matrices, random_state)
        elif init_params == "random":
            scatter = _soft_scatter(problems, n_components, matrices, random_state)
        else:
            chosen, finite = _choose(problems, n_components, init_params, random_state)
            scatter = _single_rows(problems, chosen, matrices)
            left_out = chosen
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
                total += _raw_second_moment(problems, left_out)
            covariances = total / counts.sum(axis=1)[:, None, None]
        else:
            divisor = np.where(empty, 1.0, counts)
            covariances = second / divisor.reshape(divisor.shape + (1,) * (second.ndim - 2))
        if empty.any():
            whole = _whole_scatter(problems, matrices)
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


def _kmeans_scatter(
    problems: Problems, n_components: int, matrices: bool, random_state: np.random.RandomState
) -> tuple[Scatter, npt.NDArray[np.bool_]]:
    """Give each sample to the component of its k-means cluster."""
    found, finite = _solve(problems, n_components, random_state, max_iter=300)
    assert found.labels is not None
    assert found.centers is not None
    for problem in np.flatnonzero(~finite).tolist():
        found.centers[problem] = 0.0
        found.labels[problems.rows_of(problem)] = -1
    return _label_scatter(problems, found.labels, found.centers, matrices), finite


def _solve(
    problems: Problems, n_components: int, random_state: np.random.RandomState, max_iter: int
) -> tuple[KMeansArrays, npt.NDArray[np.bool_]]:
    """Run k-means, or its seeding alone with ``max_iter=0``, on every problem."""
    return solve_kmeans(
        problems.X,
        n_components,
        random_state,
        sample_weight=problems.weight,
        max_iter=max_iter,
        offsets=problems.offsets,
        weigh_tol=True,
    )


def _soft_scatter(
    problems: Problems, n_components: int, matrices: bool, random_state: np.random.RandomState
) -> Scatter:
    """Share every sample among all components at random."""
    n_samples, n_features = problems.n_samples, problems.X.shape[2]
    # All components have about the mean of the data, which serves as pivot.
    pivot = _label_scatter(problems, None, problems.first_rows(), False).means
    sums = Scatter(
        counts=np.zeros((problems.size, n_components)),
        means=np.zeros((problems.size, n_components, n_features)),
        second=np.zeros(_second_shape(problems, n_components, matrices)),
    )
    for group, rows in _tiles(n_samples):
        present = rows < n_samples[group, None]
        places = problems.places(np.minimum(rows, n_samples[group, None] - 1), group)
        data = problems.X[places] - pivot[group]
        number = _copies_at(problems, places, group)[present]
        share = np.zeros((*present.shape, n_components))
        share[present] = draw_shares(number, n_components, problems.X.dtype, random_state)
        if problems.weight is not None:
            share *= problems.weight[places][..., None]
        sums.counts[group] += share.sum(axis=1)
        sums.means[group] += share.swapaxes(1, 2) @ data
        if matrices:
            for k in range(n_components):
                sums.second[group, k] += (data * share[:, :, k, None]).swapaxes(1, 2) @ data
        else:
            sums.second[group] += share.swapaxes(1, 2) @ data**2
    counts, first, second = sums
    shift = first / np.where(counts > 0.0, counts, 1.0)[:, :, None]
    if matrices:
        second -= first[..., :, None] * shift[..., None, :]
    else:
        second -= first * shift
    return Scatter(counts, pivot + shift, second)


def _copies_at(
    problems: Problems, places: tuple[Integers, Integers], group: slice = slice(None)
) -> Integers:
    """Return how many copies each row of some problems stands for."""
    if problems.weight is None or problems.copy is None:
        return np.ones(np.broadcast_shapes(*(p.shape for p in places)), np.int64)
    return copies(problems.weight[places], problems.copy[group, None])


def _tiles(n_samples: Integers) -> Iterator[tuple[slice, Integers]]:
    """Cut the rows of all problems, in order, into groups of problems or parts of a large one."""
    sizes = n_samples.tolist()
    first = 0
    while first < len(sizes):
        width, last = sizes[first], first + 1
        while last < len(sizes):
            width = max(width, sizes[last])
            if (last + 1 - first) * width > _BLOCK_ROWS:
                break
            last += 1
        group = slice(first, last)
        width = max(sizes[group])
        for begin in range(0, width, _BLOCK_ROWS):
            yield group, np.arange(begin, min(width, begin + _BLOCK_ROWS))[None]
        first = last


def _choose(
    problems: Problems,
    n_components: int,
    init_params: str,
    random_state: np.random.RandomState,
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Choose a sample for each component."""
    if init_params == "k-means++":
        found, finite = _solve(problems, n_components, random_state, max_iter=0)
        found.seeds[~finite] = 0
        return found.seeds, finite
    chosen = np.empty((problems.size, n_components), np.int64)
    for problem, size in enumerate(problems.n_samples.tolist()):
        if problems.weight is None:
            chosen[problem] = random_state.choice(size, size=n_components, replace=False)
            continue
        weight = problems.weight[problems.rows_of(problem)]
        copy = 0.0 if problems.copy is None else problems.copy[problem]
        if copy > 0.0:
            chosen[problem] = draw_rows(copies(weight, copy), n_components, random_state)
        else:
            share = weight / weight.sum(dtype=np.float64)
            chosen[problem] = random_state.choice(size, size=n_components, replace=False, p=share)
    return chosen, np.full(problems.size, True)


def _single_rows(problems: Problems, chosen: Integers, matrices: bool) -> Scatter:
    """Give each component one sample, or one copy of it where weights count copies."""
    places = problems.places(chosen)
    weight = problems.weight
    counts = np.ones(chosen.shape) if weight is None else weight[places].astype(np.float64)
    if problems.copy is not None:
        counts = np.where(problems.copy[:, None] > 0.0, problems.copy[:, None], counts)
    second = np.zeros(_second_shape(problems, chosen.shape[1], matrices))
    return Scatter(counts, problems.X[places].astype(np.float64), second)


def _raw_second_moment(problems: Problems, left_out: Integers) -> Array:
    """Sum over all samples of each problem but some of ``w x x^T``, about the origin.

    Where weights count copies, one copy of each of those is left out.
    """
    labels = np.zeros(problems.X.shape[:2], np.int32)
    places = problems.places(left_out)
    if problems.weight is None or problems.copy is None or not problems.copy.any():
        labels[places] = -1
    else:
        weight = np.array(problems.weight)
        # Without copies the whole sample; a sample that was chosen twice may have but one copy.
        lost = np.where(problems.copy[:, None] > 0.0, problems.copy[:, None], np.inf)
        np.subtract.at(weight, places, np.broadcast_to(lost, left_out.shape))
        problems = problems._replace(weight=np.maximum(weight, 0.0))
    counts, means, second = _label_scatter(problems, labels, problems.first_rows(), True)
    outer = means.swapaxes(1, 2) * means
    return np.asarray(second[:, 0] + counts[:, :, None] * outer)


def _whole_scatter(problems: Problems, matrices: bool) -> Scatter:
    """Take all samples for one component: first a mean, then the moments about it."""
    rough = _label_scatter(problems, None, problems.first_rows(), False)
    return _label_scatter(problems, None, rough.means, matrices)


def whole_moments(problem: Problems) -> tuple[Array, Array]:
    """Return the weighted mean and the variance of each feature of a single problem."""
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees what is not finite
        whole = _whole_scatter(problem.with_weight_like_rows(), False)
        return whole.means[0, 0], whole.second[0, 0] / whole.counts[0, 0]


def _label_scatter(
    problems: Problems, labels: npt.NDArray[np.int32] | None, near: Array, matrices: bool
) -> Scatter:
    """Sum up the rows of each label, given a point near the mean of each."""
    scatter = Scatter(
        counts=np.empty(near.shape[:2]),
        means=near.copy(),
        second=np.empty(_second_shape(problems, near.shape[1], matrices)),
    )
    _core.label_moments(
        problems.X,
        problems.offsets,
        problems.weight,
        labels,
        matrices,
        scatter.means,
        scatter.counts,
        scatter.second,
    )
    return scatter


def _second_shape(problems: Problems, n_components: int, matrices: bool) -> tuple[int, ...]:
    n_features = problems.X.shape[2]
    return problems.size, n_components, *(n_features,) * (2 if matrices else 1)


def _repeat(array: Array, size: int) -> Array:
    """Stack `size` copies of an array."""
    return np.repeat(np.asarray(array, dtype=np.float64)[None], size, axis=0)
