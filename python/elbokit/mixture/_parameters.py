"""The parameters of a Gaussian mixture and the conversions between their forms."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core

__all__ = [
    "GmmParameters",
    "covariance_shape",
    "covariances_from_cholesky",
    "first_indefinite",
    "precisions_cholesky_from_covariances",
    "precisions_cholesky_from_precisions",
    "precisions_from_cholesky",
    "require_representable",
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


def covariance_shape(covariance_type: str, n_components: int, n_features: int) -> tuple[int, ...]:
    """Return the shape of covariances, precisions and their factors."""
    return {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }[covariance_type]


def precisions_cholesky_from_covariances(
    covariances: Array, covariance_type: str, n_components: int, n_features: int
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Factor the precisions, ``Sigma^-1 = P P^T`` with P upper triangular, of many mixtures.

    Parameters
    ----------
    covariances : ndarray
        Covariances in the shape of `covariance_type` behind a leading dimension.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    n_components, n_features : int
        Sizes of a mixture.

    Returns
    -------
    precisions_cholesky : ndarray
        Shape of `covariances`.
    failed : ndarray of shape (n_mixtures,)
        The first component (0 for 'tied') whose covariance is not positive definite, or -1. The
        factors of such a mixture are void.

    Notes
    -----
    With ``Sigma = L L^T`` the factor is ``P = L^-T``.
    """
    covariances = np.ascontiguousarray(covariances)
    factors = np.zeros_like(covariances)
    failed = np.empty(len(covariances), np.int64)
    _core.gmm_factors(covariance_type, n_components, n_features, covariances, factors, failed)
    return factors, failed


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


def first_indefinite(matrices: npt.NDArray[np.floating[Any]]) -> int:
    """Return which of symmetric matrices is the first that is not positive definite, or -1.

    In the core: NumPy's eigenvalues, of 64 features or more, leave threads of its BLAS spinning
    for 0.1 s, beside which EM would have to run.
    """
    given = np.ascontiguousarray(matrices, dtype=np.float64)
    return _core.precision_cholesky(given, np.empty_like(given))


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
    """Multiply the factors out: ``P P^T``, or ``P^2`` for 'diag' and 'spherical'.

    In the core for the reason that `first_indefinite` gives: another fit may follow.
    """
    if covariance_type in ("diag", "spherical"):
        return np.asarray(factors**2)
    given = np.ascontiguousarray(factors)
    d = given.shape[-1]
    precisions = np.empty_like(given)
    _core.precision_product(given.reshape(-1, d, d), precisions.reshape(-1, d, d))
    return precisions


def require_representable(covariances: Array, precisions: Array, dtype: npt.DTypeLike) -> None:
    """Raise ValueError where covariances or precisions are beyond what a dtype holds."""
    for name, array in (("covariances_", covariances), ("precisions_", precisions)):
        largest = float(np.abs(array).max())
        if largest > float(np.finfo(dtype).max):
            size = "large" if name == "covariances_" else "small"
            advice = "scale the data" + (" or pass float64" if dtype == np.float32 else "")
            raise ValueError(
                f"`X` has variances so {size} that {name} would reach {largest:.3g}, which "
                f"{np.dtype(dtype)}, the dtype of `X`, cannot hold; {advice}"
            )


def covariances_from_cholesky(factors: Array, covariance_type: str) -> Array:
    """Invert the precisions: ``P^-T P^-1``, or ``P^-2`` for 'diag' and 'spherical'."""
    factors = np.ascontiguousarray(factors)
    covariances = np.empty_like(factors)
    _core.gmm_covariances(
        covariance_type, *_sizes(factors, covariance_type), factors[None], covariances[None]
    )
    return covariances


def _sizes(array: Array, covariance_type: str) -> tuple[int, int]:
    """Return n_components (1 for 'tied') and n_features (1 for 'spherical') by an array's shape."""
    if covariance_type == "tied":
        return 1, array.shape[0]
    return array.shape[0], 1 if covariance_type == "spherical" else array.shape[1]
