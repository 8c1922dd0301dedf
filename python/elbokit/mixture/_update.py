"""The closed-form M-step, and parts of it for the initialisation; the formulas are the core's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._gmm_fit import fit_error
from elbokit._types import FitStatus, GmmStatistics
from elbokit.mixture._parameters import GmmParameters

__all__ = ["empty_below", "m_step", "regularise"]

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


def m_step(
    statistics: GmmStatistics,
    previous: GmmParameters,
    covariance_type: str,
    *,
    reg_covar: float,
    threshold: float,
) -> tuple[GmmParameters, bool]:
    """Maximise the expected complete log-likelihood.

    Parameters
    ----------
    statistics : GmmStatistics
        Of one mixture, about the means of `previous`.
    previous : GmmParameters
        A component without samples keeps its mean and covariance from here.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the variances.
    threshold : float
        Components with a count at or below it are empty: :func:`empty_below`.

    Returns
    -------
    parameters : GmmParameters
        The next ones.
    coarse : bool
        Whether these covariances are too small for statistics that were summed in float32.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    ValueError
        If no component has any count left, or a statistic is not finite.
    """
    weights, means, covariances, factors = _batch_of_one(previous)
    counts, first, second = _batch_of_one(statistics[:3])
    status, component, coarse = int(FitStatus.OVERFLOW), -1, False
    if all(np.isfinite(a).all() for a in (counts, first, second)):
        status, component, coarse = _core.gmm_update(
            covariance_type,
            counts,
            first,
            second,
            weights,
            means,
            covariances,
            factors,
            reg_covar,
            threshold,
        )
    error = fit_error(status, component, covariance_type, "the parameters of the start")
    if error is not None:
        raise error
    return GmmParameters(weights[0], means[0], covariances[0], factors[0]), coarse


def _batch_of_one(arrays: Iterable[npt.ArrayLike]) -> list[Array]:
    """Copy the arrays, each with a leading dimension, as the core takes them."""
    return [np.array(a, dtype=np.float64, order="C")[None] for a in arrays]
