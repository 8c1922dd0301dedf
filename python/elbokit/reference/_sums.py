"""What mixtures and losses share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "as_float64", "logsumexp"]

Array = npt.NDArray[np.float64]


def as_float64(*arrays: npt.ArrayLike) -> tuple[Array, ...]:
    """Return every input as a float64 array."""
    return tuple(np.asarray(array, dtype=np.float64) for array in arrays)


def logsumexp(a: npt.ArrayLike, axis: int = -1) -> Array:
    """Logarithm of a sum of exponentials.

    Parameters
    ----------
    a : array-like
        Logarithms of the terms.
    axis : int, default=-1
        Axis that is summed.

    Returns
    -------
    result : ndarray
        ``log sum_i exp(a_i)``, shape of `a` without `axis`. All terms -inf give -inf.

    Notes
    -----
    The largest term is factored out, so nothing overflows, and left out of the sum, so a
    result near zero keeps its digits: ``m + log1p(sum_{i != argmax} exp(a_i - m))``.
    """
    values = np.asarray(a, dtype=np.float64)
    at = np.expand_dims(np.argmax(values, axis=axis), axis)
    largest = np.take_along_axis(values, at, axis)
    # An infinite maximum is not subtracted: inf - inf would be nan.
    terms = np.exp(values - np.where(np.isfinite(largest), largest, 0.0))
    np.put_along_axis(terms, at, 0.0, axis)
    return np.asarray(np.squeeze(largest, axis) + np.log1p(np.sum(terms, axis=axis)))
