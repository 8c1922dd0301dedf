"""Starting parameters of a Gaussian mixture, as scikit-learn chooses them.

The random draws are scikit-learn's, in its order, so that one ``random_state`` gives one
start in both libraries. The moments are computed in float64 about each component's mean.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, kmeans_plusplus

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
# Per component: the rows it gets and their weights, None for the samples' own.
Groups = list[tuple[Any, Array | None]]


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
    X: npt.NDArray[Any],
    sample_weight: Array | None,
    n_components: int,
    init_params: str,
    covariance_type: str,
    reg_covar: float,
    random_state: np.random.RandomState,
) -> InitialMoments:
    """Estimate weights, means and covariances from assignments of the samples."""
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    mass = float(weight.sum())
    if init_params == "random":
        groups, left_out = _soft_groups(X, n_components, random_state, weight), None
    else:
        groups, left_out = _hard_groups(X, n_components, init_params, random_state, sample_weight)

    counts = np.zeros(n_components)
    means = np.zeros((n_components, X.shape[1]))
    scatters = []
    for k, (rows, share) in enumerate(groups):
        data = X[rows].astype(np.float64)
        share = weight[rows] if share is None else share
        counts[k], means[k] = _centre(data, share)
        scatters.append(_scatter(data, share, covariance_type))
    empty = counts <= empty_below(mass, len(X))

    covariances = np.array(scatters)
    if covariance_type == "tied":
        total = covariances.sum(axis=0)
        if left_out is not None:
            total += _scatter(X[left_out].astype(np.float64), weight[left_out], "tied")
        covariances = total / counts.sum()
    else:
        divisor = np.where(empty, 1.0, counts)
        covariances /= divisor.reshape((-1,) + (1,) * (covariances.ndim - 1))
    if empty.any():
        data = X.astype(np.float64)
        means[empty] = _centre(data, weight)[1]
        if covariance_type != "tied":
            covariances[empty] = _scatter(data, weight, covariance_type) / mass
    regularise(covariances, means, covariance_type, reg_covar)
    return InitialMoments(np.where(empty, 0.0, counts) / mass, means, covariances)


def _soft_groups(
    X: npt.NDArray[Any], n_components: int, random_state: np.random.RandomState, weight: Array
) -> Groups:
    """Share every sample among all components at random."""
    shares = random_state.uniform(size=(len(X), n_components)).astype(X.dtype)
    shares /= shares.sum(axis=1, keepdims=True)
    return [(slice(None), shares[:, k] * weight) for k in range(n_components)]


def _hard_groups(
    X: npt.NDArray[Any],
    n_components: int,
    init_params: str,
    random_state: np.random.RandomState,
    sample_weight: Array | None,
) -> tuple[Groups, npt.NDArray[np.intp] | None]:
    """Give samples to one component each; return also the samples left out, if any."""
    if init_params == "kmeans":
        kmeans = KMeans(n_clusters=n_components, n_init=1, random_state=random_state)
        labels = kmeans.fit(X, sample_weight=sample_weight).labels_
        ends = np.cumsum(np.bincount(labels, minlength=n_components))
        rows = np.split(np.argsort(labels, kind="stable"), ends[:-1])
        return [(group, None) for group in rows], None
    if init_params == "k-means++":
        _, chosen = kmeans_plusplus(
            X, n_components, sample_weight=sample_weight, random_state=random_state
        )
    else:
        share = None if sample_weight is None else sample_weight / sample_weight.sum()
        chosen = random_state.choice(len(X), size=n_components, replace=False, p=share)
    return [(np.array([row]), None) for row in chosen], np.delete(np.arange(len(X)), chosen)


def _centre(data: Array, weight: Array) -> tuple[float, Array]:
    """Return the sum of the weights and the mean, and move `data` about it, in place."""
    count = float(weight.sum())
    mean = np.zeros(data.shape[1]) if count == 0.0 else weight @ data / count
    data -= mean
    return count, np.asarray(mean)


def _scatter(data: Array, weight: Array, covariance_type: str) -> Array:
    """Return the weighted sum of squares of `data` in the covariances' shape."""
    if covariance_type in ("full", "tied"):
        return np.asarray((data * weight[:, None]).T @ data)
    squares = weight @ data**2
    return np.asarray(squares if covariance_type == "diag" else squares.mean())
