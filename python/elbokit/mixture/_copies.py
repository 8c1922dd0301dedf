"""Sample weights that count copies: what they mean for a start.

EM needs only ratios of the weights. A start draws rows, and there the number of copies matters:
'random' shares each copy anew, and 'random_from_data' and 'k-means++' give a component one copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit.mixture._validation import checked_weight, scaled_weight

__all__ = ["MOST_COPIES", "copies", "draw_rows", "draw_shares", "weight_and_copy", "weight_of_copy"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Of one mixture in all. Every copy costs its draws, and float32 holds larger integers no more.
MOST_COPIES = 1 << 24

# Copies that are shared at once.
_BLOCK = 4096


def weight_and_copy(sample_weight: Any, n_samples: int) -> tuple[Array | None, float]:
    """Check the weights of a fit.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
        Non-negative weights, not all zero.
    n_samples : int
        Number of rows of X.

    Returns
    -------
    sample_weight : ndarray of shape (n_samples,) or None
        float64, the largest in [0.5, 1); None where every row counts once.
    copy : float
        As from :func:`weight_of_copy`.

    Raises
    ------
    ValueError
        If shape or values are not as described.
    """
    if sample_weight is None:
        return None, 1.0
    given = checked_weight(sample_weight, n_samples)
    scaled = scaled_weight(given)
    copy = float(weight_of_copy(given[None], scaled[None])[0])
    if given.min() == given.max() and (copy == 0.0 or given[0] == 1.0):
        return None, 1.0
    return scaled, copy


def weight_of_copy(given: Array, scaled: Array, offsets: Integers | None = None) -> Array:
    """Return what one copy of a row weighs after weights have been scaled.

    Parameters
    ----------
    given : ndarray of shape (n_problems, n_samples)
        Weights as they came; with `offsets` of shape (1, n_rows).
    scaled : ndarray of the same shape
        The same times a power of two for each problem.
    offsets : ndarray of shape (n_problems + 1,), default=None
        Problem b has the rows from ``offsets[b]`` to ``offsets[b + 1]``.

    Returns
    -------
    copy : ndarray of shape (n_problems,)
        0 where the weights do not count copies: some are no integers, or their sum is above
        `MOST_COPIES`.
    """
    rows, cut = (given, 0) if offsets is None else (given[0], offsets[:-1])
    whole = rows == np.rint(rows)
    with np.errstate(over="ignore", invalid="ignore"):  # of 0 / 0, a problem without rows
        if offsets is None:
            counted = whole.all(axis=1) & (rows.sum(axis=1) <= MOST_COPIES)
            scale = scaled.max(axis=1) / given.max(axis=1)
        else:
            counted = np.logical_and.reduceat(whole, cut)
            counted &= np.add.reduceat(rows, cut) <= MOST_COPIES
            scale = np.maximum.reduceat(scaled[0], cut) / np.maximum.reduceat(rows, cut)
    return np.where(counted, scale, 0.0)


def copies(weight: npt.NDArray[Any], copy: npt.NDArray[Any] | float) -> Integers:
    """Return how many copies weights stand for: one where they do not count copies."""
    counted = np.asarray(copy) > 0.0
    number = np.where(counted, np.rint(weight / np.where(counted, copy, 1.0)), 1.0)
    return np.asarray(number, dtype=np.int64)


def draw_rows(number: Integers, size: int, random_state: np.random.RandomState) -> Integers:
    """Draw copies without replacement, as scikit-learn draws rows, and return their rows.

    Parameters
    ----------
    number : ndarray of shape (n_samples,)
        Copies of each row.
    size : int
        How many to draw.
    random_state : RandomState
        Source of the draws.
    """
    ends = np.cumsum(number)
    drawn = random_state.choice(int(ends[-1]), size=size, replace=False)
    return np.searchsorted(ends, drawn, side="right")


def draw_shares(
    number: Integers, n_components: int, dtype: npt.DTypeLike, random_state: np.random.RandomState
) -> npt.NDArray[Any]:
    """Share every copy among the components at random, and return the mean of each row's copies.

    Parameters
    ----------
    number : ndarray of shape (n_samples,)
        Copies of each row.
    n_components : int
        Number of components.
    dtype : dtype
        In which a copy's shares are normalised, as scikit-learn does it: that of the data.
    random_state : RandomState
        Source of the draws, `n_components` for each copy, in the order of the rows.

    Returns
    -------
    shares : ndarray of shape (n_samples, n_components)
        Each row sums to one.
    """
    if (number == 1).all():
        return _shares(len(number), n_components, dtype, random_state)
    ends = np.cumsum(number)
    sums = np.zeros((len(number), n_components))
    for first in range(0, int(ends[-1]), _BLOCK):
        drawn = np.arange(first, min(first + _BLOCK, int(ends[-1])))
        row = np.searchsorted(ends, drawn, side="right")
        begin = np.flatnonzero(np.diff(row, prepend=-1))
        shares = _shares(len(row), n_components, dtype, random_state)
        sums[row[begin]] += np.add.reduceat(shares, begin, axis=0, dtype=np.float64)
    return sums / number[:, None]


def _shares(
    size: int, n_components: int, dtype: npt.DTypeLike, random_state: np.random.RandomState
) -> npt.NDArray[Any]:
    drawn = random_state.uniform(size=(size, n_components)).astype(dtype, copy=False)
    drawn /= drawn.sum(axis=1, keepdims=True)
    return drawn
