"""Missing entries replaced by what a mixture says of them, given the rest of their row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit.mixture._density import require_nearest
from elbokit.mixture._missing import estep_incomplete, group_by_pattern, observed_means
from elbokit.mixture._split import deviations, drawn_components, split

__all__ = ["impute"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]


def impute(
    X: Rows,
    weights: Array,
    means: Array,
    factors: Array,
    covariance_type: str,
    rng: np.random.RandomState | None = None,
) -> Rows:
    """Replace missing entries by their expectation given the observed ones of their row, or draw.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        NaN is missing.
    weights, means, factors : ndarray
        The parameters of the density.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the factors.
    rng : RandomState or None
        Source of draws from ``p(x_m | x_o)``; None for the expectation.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        A copy with ``sum_k p(k | x_o) E[x_m | x_o, k]`` for the missing entries, or a draw.

    Raises
    ------
    ValueError
        If a row is so far out that no component has a density there.
    """
    filled = X.copy()
    rows = np.flatnonzero(np.isnan(X).any(axis=1))
    if not len(rows):
        return filled
    data = X[rows]
    log_prob, shares = estep_incomplete(data, weights, means, factors, covariance_type)
    require_nearest(log_prob, shares, rows)
    noise = None
    if rng is not None:
        # Row by row, whatever patterns there are.
        drawn = drawn_components(shares, rng.random_sample(len(data)))
        shares = np.eye(len(means))[drawn]
        noise = np.zeros(data.shape)
        noise[np.isnan(data)] = rng.standard_normal(np.count_nonzero(np.isnan(data)))
    for at, columns, values in _expectations(data, shares, means, factors, covariance_type, noise):
        filled[rows[at], columns] = values
    return filled


def _expectations(
    X: Rows,
    shares: Rows,
    means: Array,
    factors: Array,
    covariance_type: str,
    noise: Array | None,
) -> Iterator[tuple[Integers, Integers, Array]]:
    """Yield rows, columns and conditional means, of shapes (n, 1), (n, n_missing) and the same.

    With noise of the shape of `X` each row has one component, and what it adds.
    """
    for group in group_by_pattern(X, len(means), covariance_type):
        o = group.n_observed
        parts = split(factors, covariance_type, group.order, o)
        hidden = means[:, group.order[:, o:]]  # (n_components, n_patterns, n_missing)
        seen = observed_means(means, group)
        share = shares[group.rows]  # of a row that fills up: any
        expected = np.einsum("pnk,kpm->pnm", share, hidden)
        if parts.regression is not None:
            for k in range(len(means)):
                slope = parts.regression[:, k if covariance_type == "full" else 0]
                deviation = share[..., k, None] * (group.X - seen[:, None, k])
                expected += deviation @ slope.swapaxes(-1, -2)
        columns = np.repeat(group.order[:, None, o:], group.rows.shape[1], axis=1)
        if noise is not None:
            own = noise[group.rows[..., None], columns]
            expected += deviations(own, share.argmax(axis=-1), parts.hidden, covariance_type)
        present = group.rows >= 0
        yield group.rows[present][:, None], columns[present], expected[present]
