"""Parts of the closed-form M-step that the initialisation shares; its formulas are the core's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elbokit import _core

__all__ = ["empty_below", "regularise"]

Array = npt.NDArray[np.float64]


def empty_below(mass: Array, n_samples: npt.NDArray[np.int64]) -> Array:
    """Return the count at or below which a component is empty.

    Parameters
    ----------
    mass : ndarray
        Sum of the sample weights.
    n_samples : ndarray
        Number of samples.

    Returns
    -------
    threshold : ndarray
        Ten rounding errors of the average sample. scikit-learn adds this to every count;
        below it that term, not the data, would decide where the component goes.
    """
    return _core.gmm_empty_below(mass, n_samples)


def regularise(covariances: Array, means: Array, covariance_type: str, reg_covar: float) -> None:
    """Add `reg_covar` to the diagonal of the covariances, in place.

    Parameters
    ----------
    covariances : ndarray
        Covariances in the shape of `covariance_type` behind a leading dimension, C-contiguous.
    means : ndarray of shape (n_problems, n_components, n_features)
        Component means.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to each variance.

    Notes
    -----
    A deviation within the rounding of the mean is none: that variance is set to zero first,
    so that without regularisation a constant column is always an error, not a matter of luck.
    """
    _core.gmm_regularise(covariance_type, np.ascontiguousarray(means), reg_covar, covariances)
