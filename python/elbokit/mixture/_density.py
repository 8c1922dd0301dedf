"""Densities, responsibilities and labels of rows, however far from the components.

Each raises scikit-learn's ValueError where X has NaN or infinity: such a row has no finite density,
so that one look at the result is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from elbokit import ops
from elbokit._gmm_density import density_of_rows
from elbokit.mixture._validation import refuse_infinite, refuse_missing

__all__ = ["log_prob_of", "labels_of", "posterior_of", "require_nearest"]

Floats = npt.NDArray[Any]
Parameters = tuple[Floats, Floats, Floats]

# Rows that are done again at one time.
_BLOCK_ROWS = 1 << 14


def log_prob_of(X: Floats, parameters: Parameters, covariance_type: str) -> Floats:
    """Return log p(x) of each row, -inf where all distances overflow float64."""
    log_prob = density_of_rows(X, *parameters, covariance_type)
    for rows, block in _lost(X, log_prob):
        exact = ops.gmm_log_prob(block, *parameters, covariance_type)
        _replace(log_prob, rows, exact)
    return log_prob


def posterior_of(X: Floats, parameters: Parameters, covariance_type: str) -> tuple[Floats, Floats]:
    """Return log p(x) and the responsibilities.

    Where all distances overflow the density is -inf and the responsibilities do not sum to 1.
    """
    responsibilities = np.empty((len(X), len(parameters[0])), dtype=X.dtype)
    log_prob = density_of_rows(X, *parameters, covariance_type, responsibilities=responsibilities)
    for rows, block in _lost(X, log_prob):
        exact, responsibilities[rows] = ops.gmm_estep(block, *parameters, covariance_type)
        _replace(log_prob, rows, exact)
    return log_prob, responsibilities


def labels_of(X: Floats, parameters: Parameters, covariance_type: str) -> npt.NDArray[np.int64]:
    """Return the most probable component of each row: of equally probable ones the first.

    Raises
    ------
    ValueError
        If the squared distances of a row to all components overflow float64.
    """
    labels = np.empty(len(X), dtype=np.int64)
    log_prob = density_of_rows(X, *parameters, covariance_type, labels=labels)
    for rows, block in _lost(X, log_prob):
        exact, responsibilities = ops.gmm_estep(block, *parameters, covariance_type)
        require_nearest(exact, responsibilities, rows)
        # As predict_proba hands them out.
        labels[rows] = responsibilities.astype(X.dtype).argmax(axis=1)
    return labels


def require_nearest(
    log_prob: Floats,
    responsibilities: Floats,
    rows: npt.NDArray[np.intp] | None = None,
    name: str = "X",
) -> None:
    """Raise ValueError for the first row that no component is nearest to; `rows` numbers them."""
    lost = np.flatnonzero(~(log_prob > -np.inf))
    lost = lost[~(responsibilities[lost].sum(axis=1) > 0.0)]
    if len(lost):
        row = lost[0] if rows is None else rows[lost[0]]
        raise ValueError(
            f"row {row} of {name} is so far from every component that all squared distances "
            "overflow float64, so none of them is the most probable; rescale or drop it"
        )


def _lost(X: Floats, log_prob: Floats) -> Iterator[tuple[npt.NDArray[np.intp], Floats]]:
    """Yield the rows whose distances overflowed, in float64, which knows more."""
    lost = np.flatnonzero(~np.isfinite(log_prob))
    for begin in range(0, len(lost), _BLOCK_ROWS):
        rows = lost[begin : begin + _BLOCK_ROWS]
        block = X[rows].astype(np.float64)
        if not np.isfinite(block).all():
            refuse_missing(X)
            refuse_infinite(X)
        yield rows, block


def _replace(log_prob: Floats, rows: npt.NDArray[np.intp], exact: Floats) -> None:
    """Set the densities of rows; infinities of both signs (NaN) in one distance are large."""
    with np.errstate(over="ignore"):
        log_prob[rows] = np.where(np.isnan(exact), -np.inf, exact)
