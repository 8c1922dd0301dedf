"""The bound before, between and after the half steps of each iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FitHistory", "fit_history"]

Array = npt.NDArray[np.float64]


class FitHistory(NamedTuple):
    """The bound F(q, theta) per sample along a run of EM, for each iteration t.

    ``F(q, theta) = E_q[log p(X, Z | theta)] + H(q)``, plus ``log p(theta)`` with a prior, over the
    sum of the sample weights: Neal & Hinton (1998), A view of the EM algorithm that justifies
    incremental, sparse, and other variants.

    Attributes
    ----------
    before : ndarray of shape (n_iter,)
        ``F(q_{t-1}, theta_t)``: with the last responsibilities, NaN where there are none.
    after_e : ndarray of shape (n_iter,)
        ``F(q_t, theta_t)``, the log-likelihood: the gap is closed.
    after_m : ndarray of shape (n_iter,)
        ``F(q_t, theta_{t+1})``; NaN where a run did not record it.
    """

    before: Array
    after_e: Array
    after_m: Array


def fit_history(lower_bounds: Sequence[float], after_m: Sequence[float]) -> FitHistory:
    """Put the recorded bounds side by side."""
    n_iter = len(lower_bounds)
    after = np.full(n_iter, np.nan)
    after[: len(after_m)] = after_m
    before = np.concatenate([[np.nan], after[:-1]])[:n_iter]
    return FitHistory(before, np.array(lower_bounds, dtype=np.float64), after)
