"""Rows of independent mixtures as the core reads them; one estimator's fit is a batch of one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Problems"]

Rows = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


class Problems(NamedTuple):
    """Rows of independent mixtures.

    Attributes
    ----------
    X : ndarray of shape (n_problems, n_samples, n_features)
        With `offsets` of shape (1, n_rows, n_features). Restarts share rows by a stride of 0.
    weight : ndarray of shape X.shape[:2] or None
        Positive weights of the rows.
    offsets : ndarray of shape (n_problems + 1,) or None
        Problem b has the rows from ``offsets[b]`` to ``offsets[b + 1]``.
    copy : ndarray of shape (n_problems,) or None
        What one copy of a row weighs, 0 where weights do not count copies; None: all do not.
    """

    X: Rows
    weight: Rows | None = None
    offsets: Integers | None = None
    copy: npt.NDArray[np.float64] | None = None

    @property
    def size(self) -> int:
        """Number of problems."""
        return len(self.X) if self.offsets is None else len(self.offsets) - 1

    @property
    def n_samples(self) -> Integers:
        """Number of rows of each problem."""
        if self.offsets is None:
            return np.full(len(self.X), self.X.shape[1], dtype=np.int64)
        return np.diff(self.offsets)

    def mass(self) -> npt.NDArray[np.float64]:
        """Sum up the weights of each problem."""
        if self.weight is None:
            return self.n_samples.astype(np.float64)
        if self.offsets is None:
            sums = self._distinct_weight(self.weight).sum(axis=1, dtype=np.float64)
            return np.broadcast_to(sums, (self.size,))
        return np.add.reduceat(self.weight[0], self.offsets[:-1], dtype=np.float64)

    def with_weight_like_rows(self) -> Problems:
        """Return the same with the weights in the data's type."""
        if self.weight is None:
            return self
        weight = self._distinct_weight(self.weight).astype(self.X.dtype)
        return self._replace(weight=np.broadcast_to(weight, self.weight.shape))

    @staticmethod
    def _distinct_weight(weight: Rows) -> Rows:
        """Return the weights that restarts share once: what is made of them is then the same."""
        return weight[:1] if weight.strides[0] == 0 else weight

    def places(self, rows: Integers, problems: slice = slice(None)) -> tuple[Integers, Integers]:
        """Return the index in `X` of rows that are counted within their problem.

        Parameters
        ----------
        rows : ndarray of shape (n_problems, n)
        problems : slice
            The problems that they belong to.
        """
        if self.offsets is None:
            return np.arange(self.size)[problems, None], rows
        return np.zeros((1, 1), np.int64), self.offsets[:-1][problems, None] + rows

    def repeat(self, times: int) -> Problems:
        """Return a single problem several times, without a copy."""
        X, weight, copy = (
            None if a is None else np.broadcast_to(a, (times, *a.shape[1:]))
            for a in (self.X, self.weight, self.copy)
        )
        assert X is not None
        return Problems(X, weight, None, copy)

    def part(self, problems: slice) -> Problems:
        """Return some of the problems; not for problems cut by offsets."""
        X, weight, copy = (
            None if a is None else a[problems] for a in (self.X, self.weight, self.copy)
        )
        assert X is not None
        return Problems(X, weight, None, copy)

    def those(self, which: npt.NDArray[np.bool_]) -> Problems:
        """Return copies of some of the problems, cut by offsets; which of them, they are told."""
        assert self.offsets is not None
        sizes = np.diff(self.offsets)
        rows = np.repeat(which, sizes)
        X, weight = (None if a is None else a[:, rows] for a in (self.X, self.weight))
        assert X is not None
        offsets = np.concatenate([[0], np.cumsum(sizes[which])])
        return Problems(X, weight, offsets, None if self.copy is None else self.copy[which])

    def rows_of(self, problem: int) -> tuple[int, slice]:
        """Return where the rows of one problem lie in `X` and `weight`."""
        if self.offsets is None:
            return problem, slice(None)
        return 0, slice(*self.offsets[problem : problem + 2].tolist())

    def first_rows(self) -> npt.NDArray[np.float64]:
        """Return a point of each problem, of shape (n_problems, 1, n_features)."""
        return self.X[self.places(np.zeros((self.size, 1), np.int64))].astype(np.float64)
