"""Starts that are the same mixture: one run serves them all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from elbokit._types import FitStatus
from elbokit.mixture._initialization import Starts
from elbokit.mixture._parameters import GmmParameters

__all__ = ["first_of_equals", "same_start"]


def same_start(parameters: GmmParameters, covariance_type: str) -> bytes:
    """Return what starts have in common that are bit for bit equal but for their components' order.

    EM takes equal starts to equal ends: a run from another order differs by the rounding of sums
    over the components.
    """
    weights, means, covariances, _ = parameters
    order = np.lexsort((weights, *means.T))
    if covariance_type != "tied":
        covariances = covariances[order]
    return weights[order].tobytes() + means[order].tobytes() + covariances.tobytes()


def first_of_equals(starts: Starts, covariance_type: str) -> npt.NDArray[np.int64]:
    """Return for each start the first one that is equal but for the order of its components.

    Starts that failed equal none.

    Returns
    -------
    first : ndarray of shape (n_starts,)
    """
    # Starts of different weights differ; few are left to be looked at in full.
    weights = np.sort(starts.parameters.weights, axis=1)
    same_weights = [row.tobytes() for row in weights]
    shared = {key for key, number in Counter(same_weights).items() if number > 1}
    seen: dict[bytes, int] = {}
    first = np.arange(len(weights))
    for i, key in enumerate(same_weights):
        if key in shared and starts.status[i] == FitStatus.OK:
            parameters = GmmParameters(*(array[i] for array in starts.parameters))
            first[i] = seen.setdefault(same_start(parameters, covariance_type), i)
    return first
