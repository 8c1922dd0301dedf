"""Features in two parts: the marginal of one, and the conditional of the other given it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core

__all__ = ["Split", "deviations", "drawn_components", "split"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Factors of marginals and conditionals; n_components is 1 for 'tied', absent for 'spherical'.

    Attributes
    ----------
    observed : ndarray
        Upper triangular factors of the precisions of the marginals ``p(x_o | k)``:
        (n_splits, ...) in the covariance type's shape.
    hidden : ndarray
        The same of the conditionals ``p(x_m | x_o, k)``.
    regression : ndarray of shape (n_splits, n_components or 1, n_hidden, n_observed) or None
        ``B`` of the conditional mean ``mu_m + B (x_o - mu_o)``; None where it is zero.
    covariances : ndarray
        Of the conditionals; as `hidden`, but with a dimension of 1 for the component of 'tied'.
    """

    observed: Array
    hidden: Array
    regression: Array | None
    covariances: Array


def split(factors: Array, covariance_type: str, order: Integers, n_observed: int) -> Split:
    """Split the features of a mixture into observed and hidden ones, in several ways at once.

    Parameters
    ----------
    factors : ndarray
        Upper triangular factors P of the precisions, ``Sigma^-1 = P P^T``, in the shape of
        `covariance_type`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    order : ndarray of shape (n_splits, n_features)
        The observed features, then the hidden ones.
    n_observed : int
        How many are observed.

    Returns
    -------
    split : Split
        Marginals and conditionals.

    Notes
    -----
    No covariance is formed: how is told in ``cpp/include/elbokit/gmm_split.h``.
    """
    size, o = len(order), n_observed
    if covariance_type == "spherical":
        repeated = np.tile(factors, (size, 1))
        return Split(repeated, repeated, None, repeated**-2)
    if covariance_type == "diag":
        ordered = factors[:, order].swapaxes(0, 1)
        seen, hidden = (np.ascontiguousarray(a) for a in (ordered[..., :o], ordered[..., o:]))
        return Split(seen, hidden, None, hidden**-2)
    tied = covariance_type == "tied"
    matrices = np.ascontiguousarray(factors[None] if tied else factors)
    batch, m = (size, len(matrices)), order.shape[1] - o
    shapes = (*batch, o, o), (*batch, m, m), (*batch, m, o), (*batch, m, m)
    seen, hidden, regression, covariances = (np.empty(shape) for shape in shapes)
    _core.gmm_split(matrices, np.ascontiguousarray(order), o, seen, hidden, regression, covariances)
    if tied:
        seen, hidden = seen[:, 0], hidden[:, 0]
    return Split(seen, hidden, regression, covariances)


def drawn_components(shares: npt.NDArray[Any], uniforms: Array) -> Integers:
    """Return a component for each row, with the probabilities `shares` (n_rows, n_components)."""
    sums = np.cumsum(shares, axis=1, dtype=np.float64)
    drawn: Integers = (sums[:, :-1] <= uniforms[:, None] * sums[:, -1:]).sum(axis=1, dtype=np.int64)
    return drawn


def deviations(
    noise: Array, components: Integers, factors: npt.NDArray[Any], covariance_type: str
) -> Array:
    """Return what Gaussians add to their means.

    Parameters
    ----------
    noise : ndarray of shape (n_splits, n_rows, n_hidden)
        Standard normal.
    components : ndarray of shape (n_splits, n_rows)
        Which Gaussian each row is drawn from.
    factors : ndarray
        As ``Split.hidden``.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the factors.

    Returns
    -------
    deviations : ndarray of the shape of `noise`
        ``x`` with ``x P = noise``, of precision ``P P^T``.
    """
    if covariance_type == "tied":
        return _times_inverse(noise, factors)
    if covariance_type == "full":
        result: Array = np.zeros_like(noise)
        for k in range(factors.shape[1]):
            member = components == k
            if member.any():
                result[member] = _times_inverse(noise, factors[:, k])[member]
        return result
    split_of_row = np.arange(len(noise))[:, None]
    each = factors[split_of_row, components]
    away: Array = noise / (each if covariance_type == "diag" else each[..., None])
    return away


def _times_inverse(noise: Array, factors: npt.NDArray[Any]) -> Array:
    transposed = factors.astype(np.float64).swapaxes(-1, -2)
    solved: Any = np.linalg.solve(transposed, noise.swapaxes(-1, -2))
    result: Array = solved.swapaxes(-1, -2)
    return result
