"""A random sample of rows that go by once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Reservoir"]

Rows = npt.NDArray[Any]


class Reservoir:
    """Rows drawn without replacement, all with the same probability.

    While they fit in, all rows are kept in their order and nothing is drawn. The sample depends on
    the order of the rows, not on how they are cut into chunks.

    Parameters
    ----------
    capacity : int
        Number of rows to keep.
    rng : RandomState
        Source of the draws.

    Notes
    -----
    Algorithm R of Vitter, Random sampling with a reservoir (1985): row t (from 0) takes the place
    ``floor(u (t + 1))`` if there is one.
    """

    def __init__(self, capacity: int, rng: np.random.RandomState) -> None:
        self._capacity = capacity
        self._rng = rng
        self._parts: list[tuple[Rows, npt.NDArray[np.float64] | None]] = []
        self.n_seen = 0

    def offer(self, rows: Rows, weight: npt.NDArray[np.float64] | None) -> None:
        """Let rows go by, with weights or always without."""
        first = self.n_seen
        self.n_seen += len(rows)
        free = min(len(rows), max(0, self._capacity - first))
        if free:
            kept = None if weight is None else weight[:free].copy()
            self._parts.append((rows[:free].copy(), kept))
        if free == len(rows):
            return
        X, kept = self.content()
        assert X is not None
        X = X.astype(np.result_type(X, rows), copy=False)
        self._parts = [(X, kept)]
        order = np.arange(first + free + 1, self.n_seen + 1)
        places = (self._rng.random_sample(len(order)) * order).astype(np.int64)
        taken = np.flatnonzero(places < self._capacity)
        # Where one place is taken twice, NumPy leaves the last one's row, as it should be.
        X[places[taken]] = rows[free + taken]
        if kept is not None and weight is not None:
            kept[places[taken]] = weight[free + taken]

    def content(self) -> tuple[Rows | None, npt.NDArray[np.float64] | None]:
        """Return the rows and weights that are kept; None if there was no row."""
        if not self._parts:
            return None, None
        if len(self._parts) > 1:
            rows, weights = zip(*self._parts, strict=True)
            self._parts = [
                (
                    np.concatenate(rows),
                    None if weights[0] is None else np.concatenate(weights),
                )
            ]
        return self._parts[0]
