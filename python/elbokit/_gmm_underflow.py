"""Statistics of float32 rows that lie so near their means that squares underflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from elbokit import _core
from elbokit._arrays import FloatArray
from elbokit._mixture_arguments import Mixtures
from elbokit._types import GmmStatistics

__all__ = ["squares_underflow", "statistics_in_float64"]

# Products below 2^-126 lose digits, up to 2^-150 of each row; sums of squares that are on average
# larger than this do not show it.
_LEAST_SQUARE = 2.0**-120

# Of a component with a smaller share small moments are no sign: its responsibilities are small.
_LEAST_SHARE = 2.0**-20

_BLOCK_VALUES = 1 << 20


def squares_underflow(statistics: GmmStatistics, X: Any, covariance_type: str) -> bool:
    """Tell whether second moments that float32 summed up have lost digits to underflow.

    Parameters
    ----------
    statistics : GmmStatistics
        Of the rows.
    X : ndarray or Tensor of shape (n_mixtures, n_samples, n_features)
    covariance_type : {'full', 'tied', 'diag', 'spherical'}

    Returns
    -------
    lost : bool
        A feature that is constant, on its mean, loses nothing: its first moments are zero too.
    """
    if X.dtype == np.float64:
        return False
    counts, first, second = (np.asarray(a) for a in statistics[:3])
    total = counts.sum(axis=1)[:, None, None]
    present, moved = (counts[:, :, None] > _LEAST_SHARE * total), first != 0.0
    if covariance_type in ("full", "tied"):
        second = np.diagonal(second, axis1=-2, axis2=-1)
    if covariance_type == "tied":
        second, present = second[:, None], np.ones((1, 1, 1), bool)
        moved = moved.any(axis=1, keepdims=True)
    if covariance_type == "spherical":
        second, moved = second[:, :, None], moved.any(axis=2, keepdims=True)
    tiny = second <= _LEAST_SQUARE * total
    if not tiny.any():
        return False
    if (tiny & present & (moved | (second != 0.0))).any():
        return True
    # Rows on both sides of a mean may cancel to the last bit: the data tell.
    everywhere = np.broadcast_to(tiny.all(axis=1), (len(tiny), X.shape[2]))
    columns = (X[m, :, j] for m, j in np.argwhere(everywhere).tolist())
    return any(bool(column.min() != column.max()) for column in columns)


def statistics_in_float64(
    mixtures: Mixtures, row_weight: FloatArray | None, covariance_type: str
) -> GmmStatistics:
    """Sum up the statistics in float64, a block of rows at a time.

    Parameters
    ----------
    mixtures : Mixtures
    row_weight : ndarray of shape (n_mixtures, n_samples) or None
    covariance_type : {'full', 'tied', 'diag', 'spherical'}

    Returns
    -------
    GmmStatistics
        Flat, as the core leaves them.
    """
    size, n_samples, n_features = mixtures.X.shape
    factors = mixtures.precisions_cholesky
    block = max(1, _BLOCK_VALUES // (size * n_features))
    shapes = mixtures.weights.shape, mixtures.means.shape, factors.shape, (size,)
    total, part = ([np.zeros(shape) for shape in shapes] for _ in range(2))
    for begin in range(0, n_samples, block):
        rows = slice(begin, begin + block)
        X = mixtures.X[:, rows].astype(np.float64)
        weight = None if row_weight is None else row_weight[:, rows].astype(np.float64)
        parameters = mixtures.weights, mixtures.means, factors
        _core.gmm_statistics(X, weight, *parameters, covariance_type, *part)
        for whole, piece in zip(total, part, strict=True):
            whole += piece
    return GmmStatistics(*total)
