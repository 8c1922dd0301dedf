"""Conversion from and to scikit-learn's GaussianMixture."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import sklearn.mixture
from sklearn.base import BaseEstimator

__all__ = ["from_sklearn", "to_sklearn"]

Estimator = TypeVar("Estimator", bound=BaseEstimator)

# What a fit sets; feature_names_in_ only where X had names.
_FITTED = (
    "weights_",
    "means_",
    "covariances_",
    "precisions_",
    "precisions_cholesky_",
    "converged_",
    "n_iter_",
    "lower_bound_",
    "lower_bounds_",
    "n_features_in_",
    "feature_names_in_",
)


def from_sklearn(cls: type[Estimator], gm: Any) -> Estimator:
    """Return an estimator of class `cls` with the parameters and attributes of `gm`.

    Parameters
    ----------
    cls : type
        Class of the result.
    gm : sklearn.mixture.GaussianMixture
        Fitted or not.

    Returns
    -------
    estimator : cls
        It shares nothing with `gm`.

    Raises
    ------
    TypeError
        If `gm` is something else.
    """
    if not isinstance(gm, sklearn.mixture.GaussianMixture):
        raise TypeError(
            f"`gm` is a {type(gm).__module__}.{type(gm).__qualname__}, expected a "
            "sklearn.mixture.GaussianMixture"
        )
    return _moved(gm, cls, gm.get_params(deep=False))


def to_sklearn(estimator: BaseEstimator) -> sklearn.mixture.GaussianMixture:
    """Return a scikit-learn GaussianMixture with an estimator's parameters and attributes.

    Parameters
    ----------
    estimator : GaussianMixture
        Fitted or not.

    Returns
    -------
    gm : sklearn.mixture.GaussianMixture
        It shares nothing with `estimator`.

    Raises
    ------
    ValueError
        If a parameter that scikit-learn has not is set to something else than its default.
    """
    theirs = set(sklearn.mixture.GaussianMixture().get_params(deep=False))
    defaults = type(estimator)().get_params(deep=False)
    parameters = {}
    for name, value in estimator.get_params(deep=False).items():
        if name in theirs:
            # It draws no bar: it tells of its progress in lines.
            parameters[name] = 1 if name == "verbose" and value == "bar" else value
        elif value is not defaults[name] and value != defaults[name]:
            raise ValueError(
                f"{name} is {value!r}, but scikit-learn's GaussianMixture has no such parameter; "
                f"expected its default, {defaults[name]!r}"
            )
    return _moved(estimator, sklearn.mixture.GaussianMixture, parameters)


def _moved(source: BaseEstimator, cls: type[Estimator], parameters: dict[str, Any]) -> Estimator:
    """Make an estimator of `cls` with copies of the parameters and the fitted attributes."""
    result: Estimator = cls(**copy.deepcopy(parameters))
    for name in _FITTED:
        if name in vars(source):
            setattr(result, name, copy.deepcopy(getattr(source, name)))
    return result
