"""Statistics of checked rows, summed up over blocks that come one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._types import GmmStatistics
from elbokit.mixture._chunks import Chunk
from elbokit.mixture._parameters import GmmParameters

__all__ = ["StatisticsSum"]

Array = npt.NDArray[np.float64]

# Rows that are widened to float64 at once.
_WIDE_ROWS = 16_384


class StatisticsSum:
    """The statistics of blocks of rows under the same parameters.

    Parameters
    ----------
    parameters : GmmParameters
        In float64, C-contiguous.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    wide : bool, default=False
        Whether to compute in float64 whatever the rows are.
    """

    def __init__(self, parameters: GmmParameters, covariance_type: str, wide: bool = False) -> None:
        weights, means, _, factors = parameters
        self._arguments = weights[None], means[None], factors[None], covariance_type
        self._wide = wide or not _within_float32(means, factors)
        # All in one array, so that a block takes one addition: of small blocks it shows.
        shapes = [(1, *a.shape) for a in (weights, means, factors)] + [(1,)]
        size = weights.size + means.size + factors.size + 1
        self._total, self._block = np.zeros(size), np.empty(size)
        self._totals, self._fields = _parts(self._total, shapes), _parts(self._block, shapes)

    def add(self, block: Chunk) -> None:
        """Add a block's statistics.

        Raises
        ------
        ValueError
            If a row has NaN or infinity.
        """
        rows, weight = block
        if self._wide and rows.dtype == np.float32:
            for begin in range(0, len(rows), _WIDE_ROWS):  # no copy of the whole block
                piece = slice(begin, begin + _WIDE_ROWS)
                self._add(rows[piece].astype(np.float64), None if weight is None else weight[piece])
        else:
            self._add(rows, weight)

    def _add(self, rows: npt.NDArray[np.floating], weight: Array | None) -> None:
        counts, first, second, log_likelihood = self._fields
        _core.gmm_statistics(
            rows[None],
            None if weight is None else weight.astype(rows.dtype, copy=False)[None],
            *self._arguments,
            counts,
            first,
            second,
            log_likelihood,
        )
        # A row with NaN makes the likelihood so; a finite row can make it -inf.
        if not math.isfinite(log_likelihood[0]) and not np.isfinite(rows).all():
            raise ValueError("X has NaN or infinity in a later pass, which the first did not meet")
        self._total += self._block

    def result(self) -> GmmStatistics:
        """Return the sums so far."""
        counts, first, second, log_likelihood = self._totals
        return GmmStatistics(counts[0], first[0], second[0], float(log_likelihood[0]))


def _parts(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return views of `flat`, one behind the other; `numpy.split` takes its time."""
    parts, end = [], 0
    for shape in shapes:
        begin, end = end, end + math.prod(shape)
        parts.append(flat[begin:end].reshape(shape))
    return parts


def _within_float32(*arrays: Array) -> bool:
    largest = np.finfo(np.float32).max / 2
    return all(np.abs(array).max() <= largest for array in arrays)
