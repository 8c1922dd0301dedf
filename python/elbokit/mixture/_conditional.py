"""Marginals and conditionals of a mixture: which features, and the parameters that result."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from elbokit.mixture._density import require_nearest
from elbokit.mixture._estep import estep
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._split import deviations, drawn_components, split

__all__ = [
    "ConditionalMixtures",
    "chosen_features",
    "condition",
    "marginalise",
]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]


class ConditionalMixtures(NamedTuple):
    """Mixtures ``p(x_rest | x_given)``, one for each row of given values.

    The covariances of a Gaussian's conditional do not depend on the values: all rows share them.

    Attributes
    ----------
    weights : ndarray of shape (n_samples, n_components)
        Mixing proportions: the responsibilities by the given values.
    means : ndarray of shape (n_samples, n_components, n_rest)
        Component means.
    covariances, precisions_cholesky : ndarray
        (n_components, n_rest, n_rest) for 'full', (n_rest, n_rest) for 'tied',
        (n_components, n_rest) for 'diag', (n_components,) for 'spherical'.
    features : ndarray of shape (n_rest,)
        The features that they are mixtures of, by index.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    """

    weights: Rows
    means: Rows
    covariances: Rows
    precisions_cholesky: Rows
    features: Integers
    covariance_type: str

    def sample(self, random_state: Any = None) -> tuple[Rows, Integers]:
        """Draw one sample from each mixture.

        Parameters
        ----------
        random_state : int, RandomState or None, default=None
            Source of the draws. The same int draws the same: give a RandomState, or None, where
            draws shall differ from call to call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_rest)
            In the dtype of the means.
        y : ndarray of shape (n_samples,)
            Component of each.
        """
        rng = check_random_state(random_state)
        y = drawn_components(self.weights, rng.random_sample(len(self.weights)))
        means = self.means[np.arange(len(y)), y]
        noise = rng.standard_normal(means.shape)
        away = deviations(
            noise[None], y[None], self.precisions_cholesky[None], self.covariance_type
        )
        return (means + away[0]).astype(means.dtype), y


def chosen_features(
    features: Any, name: str, n_features: int, names: npt.NDArray[Any] | None
) -> Integers:
    """Check a choice of features.

    Parameters
    ----------
    features : int, str, array-like of them, or of bool of shape (n_features,)
        Indices (negative ones count from the end), names, or a mask.
    name : str
        What the argument is called.
    n_features : int
        Number of features.
    names : ndarray of shape (n_features,) or None
        Their names, if they have any.

    Returns
    -------
    features : ndarray of shape (n_chosen,)
        Indices, in the order given.

    Raises
    ------
    TypeError
        If they are neither integers, strings nor bools.
    ValueError
        If one is unknown or chosen twice, or none is chosen.
    """
    given = np.atleast_1d(np.asarray(features))
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"{name} is {features!r}, expected at least one feature, in one dimension")
    if given.dtype.kind in "OU" and all(isinstance(each, str) for each in given.tolist()):
        chosen = _by_name(given, name, names)
    elif given.dtype.kind == "b":
        if given.shape != (n_features,):
            raise ValueError(f"{name} is a mask of shape {given.shape}, expected ({n_features},)")
        chosen = np.flatnonzero(given)
        if not len(chosen):
            raise ValueError(f"{name} is a mask without True, expected at least one feature")
    elif given.dtype.kind in "iu":
        outside = given[(given < -n_features) | (given >= n_features)]
        if len(outside):
            raise ValueError(f"{name} has {outside[0]}, expected indices below {n_features}")
        chosen = np.where(given < 0, given + n_features, given).astype(np.int64)
    else:
        raise TypeError(
            f"{name} has elements of dtype {given.dtype}, expected integers, names or a mask"
        )
    distinct, times = np.unique(chosen, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"{name} has feature {distinct[times > 1][0]} more than once")
    return chosen


def _by_name(given: npt.NDArray[Any], name: str, names: npt.NDArray[Any] | None) -> Integers:
    """Return the indices of features by their names."""
    if names is None:
        raise ValueError(
            f"{name} has the name {str(given[0])!r}, but the mixture was fitted on data without "
            "feature names; expected indices"
        )
    places = {str(each): place for place, each in enumerate(names)}
    for each in given:
        if str(each) not in places:
            raise ValueError(f"{name} has {str(each)!r}, expected some of {', '.join(places)}")
    return np.array([places[str(each)] for each in given], np.int64)


def _rest(chosen: Integers, n_features: int) -> Integers:
    """Return the other features, in rising order."""
    return np.setdiff1d(np.arange(n_features), chosen)


def marginalise(
    parameters: GmmParameters, covariance_type: str, features: Integers
) -> GmmParameters:
    """Return the mixture of some features.

    Parameters
    ----------
    parameters : GmmParameters
        Of all features; the factors upper triangular.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    features : ndarray of shape (n_chosen,)
        Which ones, in the order that they get.

    Returns
    -------
    parameters : GmmParameters
        Of the marginal, which has the same covariance type.
    """
    weights, means, covariances, factors = parameters
    order = np.concatenate([features, _rest(features, means.shape[1])])
    if covariance_type in ("full", "tied"):
        covariances = covariances[..., features[:, None], features]
    elif covariance_type == "diag":
        covariances = covariances[:, features]
    parts = split(factors, covariance_type, order[None], len(features))
    means = np.take(means, features, axis=1)  # in C order, which indexing would not return
    return GmmParameters(weights, means, np.ascontiguousarray(covariances), parts.observed[0])


def condition(
    parameters: GmmParameters, covariance_type: str, X_given: Rows, given: Integers
) -> ConditionalMixtures:
    """Return the mixtures of the other features by the values of some.

    Parameters
    ----------
    parameters : GmmParameters
        Of all features; the factors upper triangular.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    X_given : ndarray of shape (n_samples, n_given)
        Finite values.
    given : ndarray of shape (n_given,)
        The features that they belong to.

    Returns
    -------
    mixtures : ConditionalMixtures
        In float64.

    Raises
    ------
    ValueError
        If a row is so far out that no component has a density there.
    """
    weights, means, _, factors = parameters
    rest = _rest(given, means.shape[1])
    order = np.concatenate([given, rest])
    parts = split(factors, covariance_type, order[None], len(given))
    X = X_given.astype(np.float64)
    log_prob, responsibilities = estep(
        X, weights, np.ascontiguousarray(means[:, given]), parts.observed[0], covariance_type
    )
    require_nearest(log_prob, responsibilities, name="X_given")
    centers = np.repeat(means[None, :, rest], len(X), axis=0)
    if parts.regression is not None:
        for k, mean in enumerate(means[:, given]):
            slope = parts.regression[0, k if covariance_type == "full" else 0]
            centers[:, k] += (X - mean) @ slope.T
    covariances = parts.covariances[0]
    shared = covariances[0] if covariance_type == "tied" else covariances
    return ConditionalMixtures(
        responsibilities, centers, shared, parts.hidden[0], rest, covariance_type
    )
