"""Starting parameters of a Gaussian mixture, as scikit-learn chooses them.

The random draws are scikit-learn's, in its order, so that one ``random_state`` gives one
start in both libraries. The moments are computed in float64 about each component's mean, and
no copy of the data is made.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from elbokit import _core
from elbokit._kmeans import run_kmeans
from elbokit.mixture._parameters import (
    GmmParameters,
    covariances_from_cholesky,
    precisions_cholesky_from_covariances,
    precisions_cholesky_from_precisions,
)
from elbokit.mixture._update import empty_below, regularise
from elbokit.mixture._validation import GivenParameters

__all__ = ["starting_parameters"]

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]

# Rows that are shared among the components at random, at once.
_BLOCK_ROWS = 4096


class Scatter(NamedTuple):
    """Sums over each component's rows: weights, mean, second moment about the mean.

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


def starting_parameters(
    X: npt.NDArray[Any],
    sample_weight: Array | None,
    given: GivenParameters,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float,
    random_state: np.random.RandomState,
) -> GmmParameters:
    """Return the parameters before the first E-step.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Data, float32 or float64.
    sample_weight : ndarray of shape (n_samples,) or None
        Positive weights of the samples.
    given : GivenParameters
        Replace what would be estimated; if all are given nothing is drawn.
    n_components : int
        Number of components.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        How samples are assigned.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the diagonal of estimated covariances.
    random_state : RandomState
        Source of the draws.

    Returns
    -------
    parameters : GmmParameters
        A component without samples (duplicates can leave one) has weight 0 and the mean
        and covariance of the whole data.

    Raises
    ------
    SingularCovarianceError
        If an estimated covariance is not positive definite.

    Notes
    -----
    'k-means++' and 'random_from_data' assign one sample to each component and leave the
    others out. scikit-learn's tied covariance then still sums all samples, the left-out
    ones about the origin; the same is done here to follow it from the same start.
    """
    weights, means, precisions = given
    if weights is None or means is None or precisions is None:
        moments = _initial_moments(
            X,
            sample_weight,
            n_components,
            init_params,
            covariance_type,
            reg_covar,
            random_state,
        )
        weights = moments.weights if weights is None else weights
        means = moments.means if means is None else means
        if precisions is None:
            covariances = moments.covariances
            factors = precisions_cholesky_from_covariances(covariances, covariance_type)
            return GmmParameters(weights, means, covariances, factors)
    factors = precisions_cholesky_from_precisions(precisions, covariance_type)
    covariances = covariances_from_cholesky(factors, covariance_type)
    return GmmParameters(weights, means, covariances, factors)


def _initial_moments(
    X: Rows,
    sample_weight: Array | None,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float,
    random_state: np.random.RandomState,
) -> InitialMoments:
    """Estimate weights, means and covariances from assignments of the samples."""
    matrices = covariance_type in ("full", "tied")
    # In the data's type, as in scikit-learn's k-means and in the E-step.
    weight = None if sample_weight is None else sample_weight.astype(X.dtype)
    mass = float(len(X)) if weight is None else float(weight.sum(dtype=np.float64))
    left_out = None
    if init_params == "kmeans":
        scatter = _kmeans_scatter(X, weight, n_components, matrices, random_state)
    elif init_params == "random":
        scatter = _soft_scatter(X, weight, n_components, matrices, random_state)
    else:
        chosen = _choose(X, weight, n_components, init_params, random_state)
        scatter = _single_rows(X, weight, chosen, matrices)
        left_out = chosen
    empty = scatter.counts <= empty_below(mass, len(X))
    counts, means, second = scatter

    if covariance_type == "tied":
        total = second.sum(axis=0)
        if left_out is not None:
            total += _raw_second_moment(X, weight, left_out)
        covariances = total / counts.sum()
    else:
        divisor = np.where(empty, 1.0, counts)
        covariances = second / divisor.reshape((-1,) + (1,) * (second.ndim - 1))
    if empty.any():
        whole = _whole_scatter(X, weight, matrices)
        means[empty] = whole.means
        if covariance_type != "tied":
            covariances[empty] = whole.second / mass
    if covariance_type == "spherical":
        covariances = covariances.mean(axis=1)
    regularise(covariances, means, covariance_type, reg_covar)
    return InitialMoments(np.where(empty, 0.0, counts) / mass, means, covariances)


def _kmeans_scatter(
    X: Rows,
    weight: Rows | None,
    n_components: int,
    matrices: bool,
    random_state: np.random.RandomState,
) -> Scatter:
    """Give each sample to the component of its k-means cluster."""
    found = run_kmeans(X[None], n_components, random_state, sample_weight=_batch(weight))
    assert found.labels is not None
    assert found.centers is not None
    scatter = _label_scatter(X, weight, found.labels[0], found.centers[0], matrices)
    distinct = np.count_nonzero(scatter.counts)
    if distinct < n_components:
        warnings.warn(
            f"Number of distinct clusters ({distinct}) found smaller than n_clusters "
            f"({n_components}). Possibly due to duplicate points in X.",
            ConvergenceWarning,
            stacklevel=6,
        )
    return scatter


def _soft_scatter(
    X: Rows,
    weight: Rows | None,
    n_components: int,
    matrices: bool,
    random_state: np.random.RandomState,
) -> Scatter:
    """Share every sample among all components at random."""
    n_features = X.shape[1]
    # All components have about the mean of the data, which serves as pivot.
    pivot = _label_scatter(X, weight, None, X[:1].astype(np.float64), False).means[0]
    counts, first = np.zeros(n_components), np.zeros((n_components, n_features))
    second = np.zeros((n_components, *(n_features,) * (2 if matrices else 1)))
    for begin in range(0, len(X), _BLOCK_ROWS):
        data = X[begin : begin + _BLOCK_ROWS] - pivot
        shares = random_state.uniform(size=(len(data), n_components)).astype(X.dtype)
        shares /= shares.sum(axis=1, keepdims=True)
        share = shares.astype(np.float64)
        if weight is not None:
            share *= weight[begin : begin + _BLOCK_ROWS, None]
        counts += share.sum(axis=0)
        first += share.T @ data
        if matrices:
            for k in range(n_components):
                second[k] += (data * share[:, k, None]).T @ data
        else:
            second += share.T @ data**2
    shift = first / np.where(counts > 0.0, counts, 1.0)[:, None]
    if matrices:
        second -= first[:, :, None] * shift[:, None, :]
    else:
        second -= first * shift
    return Scatter(counts, pivot + shift, second)


def _choose(
    X: Rows,
    weight: Rows | None,
    n_components: int,
    init_params: str,
    random_state: np.random.RandomState,
) -> npt.NDArray[np.int64]:
    """Choose a sample for each component."""
    if init_params == "k-means++":
        found = run_kmeans(
            X[None], n_components, random_state, sample_weight=_batch(weight), max_iter=0
        )
        return found.seeds.reshape(n_components)
    share = None if weight is None else weight / weight.sum(dtype=np.float64)
    rows: npt.NDArray[np.int64] = random_state.choice(
        len(X), size=n_components, replace=False, p=share
    )
    return rows


def _single_rows(
    X: Rows, weight: Rows | None, chosen: npt.NDArray[np.int64], matrices: bool
) -> Scatter:
    """Give each component one sample."""
    n_components, n_features = len(chosen), X.shape[1]
    counts = np.ones(n_components) if weight is None else weight[chosen].astype(np.float64)
    second = np.zeros((n_components, *(n_features,) * (2 if matrices else 1)))
    return Scatter(counts, X[chosen].astype(np.float64), second)


def _raw_second_moment(X: Rows, weight: Rows | None, left_out: npt.NDArray[np.int64]) -> Array:
    """Sum over all samples but some of ``w x x^T``, about the origin."""
    labels = np.zeros(len(X), np.int32)
    labels[left_out] = -1
    counts, means, second = _label_scatter(X, weight, labels, X[:1].astype(np.float64), True)
    return np.asarray(second[0] + counts[0] * np.outer(means[0], means[0]))


def _whole_scatter(X: Rows, weight: Rows | None, matrices: bool) -> Scatter:
    """Take all samples for one component: first a mean, then the moments about it."""
    rough = _label_scatter(X, weight, None, X[:1].astype(np.float64), False)
    return _label_scatter(X, weight, None, rough.means, matrices)


def _label_scatter(
    X: Rows,
    weight: Rows | None,
    labels: npt.NDArray[np.int32] | None,
    near: Array,
    matrices: bool,
) -> Scatter:
    """Sum up the rows of each label, given a point near the mean of each."""
    n_components, n_features = near.shape
    scatter = Scatter(
        counts=np.empty(n_components),
        means=near.copy(),
        second=np.empty((n_components, *(n_features,) * (2 if matrices else 1))),
    )
    _core.label_moments(
        X[None],
        None,
        _batch(weight),
        _batch(labels),
        matrices,
        scatter.means[None],
        scatter.counts[None],
        scatter.second[None],
    )
    return scatter


def _batch(array: Rows | None) -> Rows | None:
    """Make a batch of one."""
    return None if array is None else array[None]
