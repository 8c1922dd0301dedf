"""The parameters of a Gaussian mixture and the conversions between their forms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core

__all__ = [
    "GmmParameters",
    "SingularCovarianceError",
    "covariance_shape",
    "covariances_from_cholesky",
    "precisions_cholesky_from_covariances",
    "precisions_cholesky_from_precisions",
    "precisions_from_cholesky",
    "upper_triangular",
]

Array = npt.NDArray[np.float64]


class GmmParameters(NamedTuple):
    """Parameters of a Gaussian mixture in float64, in scikit-learn's shapes.

    Attributes
    ----------
    weights : ndarray of shape (n_components,)
        Mixing proportions.
    means : ndarray of shape (n_components, n_features)
        Component means.
    covariances : ndarray
        (n_components, n_features, n_features) for 'full', (n_features, n_features) for
        'tied', (n_components, n_features) for 'diag', (n_components,) for 'spherical'.
    precisions_cholesky : ndarray
        Factor P of the precision ``P P^T``, upper triangular; shape of `covariances`.
    """

    weights: Array
    means: Array
    covariances: Array
    precisions_cholesky: Array


class SingularCovarianceError(ValueError):
    """A component's covariance is not positive definite."""


def covariance_shape(covariance_type: str, n_components: int, n_features: int) -> tuple[int, ...]:
    """Return the shape of covariances, precisions and their factors."""
    return {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }[covariance_type]


def precisions_cholesky_from_covariances(
    covariances: Array, covariance_type: str, components: npt.NDArray[np.intp] | None = None
) -> Array:
    """Factor the precisions, ``Sigma^-1 = P P^T`` with P upper triangular.

    Parameters
    ----------
    covariances : ndarray
        Covariances in the shape of `covariance_type`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    components : ndarray of int, default=None
        Numbers of the components given, for the error; None means 0, 1, ...

    Returns
    -------
    precisions_cholesky : ndarray
        Shape of `covariances`.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite; the message names the component.

    Notes
    -----
    With ``Sigma = L L^T`` the factor is ``P = L^-T``.
    """
    if covariance_type == "tied":
        factors = np.empty_like(covariances[None])
        if _core.precision_cholesky(np.ascontiguousarray(covariances[None]), factors) >= 0:
            raise _singular("the tied covariance")
        return np.asarray(factors[0])
    if components is None:
        components = np.arange(len(covariances))
    if covariance_type == "full":
        factors = np.empty_like(covariances)
        failed = _core.precision_cholesky(np.ascontiguousarray(covariances), factors)
        if failed >= 0:
            raise _singular(f"component {components[failed]}")
        return factors
    variances = covariances.reshape(len(covariances), -1)
    regular = ((variances > 0.0) & np.isfinite(variances)).all(axis=1)
    if not regular.all():
        raise _singular(f"component {components[np.argmin(regular)]}")
    return np.asarray(1.0 / np.sqrt(covariances))


def precisions_cholesky_from_precisions(precisions: Array, covariance_type: str) -> Array:
    """Factor given precisions, ``precision = P P^T`` with P upper triangular.

    Parameters
    ----------
    precisions : ndarray
        Precisions in the shape of `covariance_type`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the precisions.

    Returns
    -------
    precisions_cholesky : ndarray
        Shape of `precisions`.

    Notes
    -----
    With J the exchange matrix and ``J precision J = L L^T``, ``P = J L J``.
    """
    if covariance_type in ("diag", "spherical"):
        return np.asarray(np.sqrt(precisions))
    lower = np.linalg.cholesky(precisions[..., ::-1, ::-1])
    return np.ascontiguousarray(lower[..., ::-1, ::-1])


def upper_triangular(factors: Array, covariance_type: str) -> Array:
    """Return the upper triangular factors of the precisions ``P P^T`` that factors stand for.

    Parameters
    ----------
    factors : ndarray
        Any factors, such as the lower triangular ones of ``numpy.linalg.cholesky``; shape of
        `covariance_type`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.

    Returns
    -------
    precisions_cholesky : ndarray
        `factors` itself where it is upper triangular, or nothing that could be converted.

    Notes
    -----
    With J the exchange matrix and ``(J P)^T = Q R``, the factor is ``J R^T J``. ``P P^T``, which
    would square the condition number, is not formed.
    """
    square = factors.ndim >= 2 and factors.shape[-1] == factors.shape[-2]
    if covariance_type in ("diag", "spherical") or not square or not np.tril(factors, -1).any():
        return factors
    if not np.isfinite(factors).all():
        return factors
    triangle = np.linalg.qr(factors.swapaxes(-1, -2)[..., ::-1], mode="r")
    signs = np.where(np.einsum("...ii->...i", triangle) < 0.0, -1.0, 1.0)
    upper = (signs[..., None] * triangle).swapaxes(-1, -2)
    return np.ascontiguousarray(upper[..., ::-1, ::-1])


def precisions_from_cholesky(factors: Array, covariance_type: str) -> Array:
    """Multiply the factors out: ``P P^T``, or ``P^2`` for 'diag' and 'spherical'."""
    if covariance_type in ("diag", "spherical"):
        return np.asarray(factors**2)
    return np.asarray(factors @ factors.swapaxes(-1, -2))


def covariances_from_cholesky(factors: Array, covariance_type: str) -> Array:
    """Invert the precisions: ``P^-T P^-1``, or ``P^-2`` for 'diag' and 'spherical'."""
    if covariance_type in ("diag", "spherical"):
        return np.asarray(factors**-2.0)
    inverse = np.linalg.inv(factors)
    return np.asarray(inverse.swapaxes(-1, -2) @ inverse)


def _singular(owner: str) -> SingularCovarianceError:
    """Build the error; its first two sentences are scikit-learn's."""
    return SingularCovarianceError(
        "Fitting the mixture model failed because some components have ill-defined "
        "empirical covariance (for instance caused by singleton or collapsed samples). "
        "Try to decrease the number of components, increase reg_covar, or scale the "
        f"input data. The first one that is not positive definite: {owner}."
    )
