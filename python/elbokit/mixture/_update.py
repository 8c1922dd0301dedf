"""The closed-form M-step, and parts of it for the initialisation; the formulas are the core's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._gmm_fit import fit_error
from elbokit._types import FitStatus, GmmStatistics
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._prior import CorePrior

__all__ = ["MStep", "empty_below", "m_step", "maximise", "regularise"]

Array = npt.NDArray[np.float64]


class MStep(NamedTuple):
    """An M-step: the next parameters, and what it tells of the bound.

    Attributes
    ----------
    parameters : GmmParameters
        The next ones.
    coarse : bool
        Whether these covariances are too small for statistics that were summed in float32.
    log_prior : float
        Log-density of the prior at the previous parameters, 0 without one.
    gain : float
        ``log_likelihood + gain`` is the bound with the next parameters and the responsibilities
        that the statistics were made with: ``Q(next) - Q(previous) + log p(next)``.
    """

    parameters: GmmParameters
    coarse: bool
    log_prior: float
    gain: float


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


def regularise(
    covariances: Array, means: Array, covariance_type: str, reg_covar: float | Array
) -> None:
    """Add `reg_covar` to the diagonal of the covariances, in place.

    Parameters
    ----------
    covariances : ndarray
        Covariances in the shape of `covariance_type` behind a leading dimension, C-contiguous.
    means : ndarray of shape (n_problems, n_components, n_features)
        Component means.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float or ndarray of shape (n_features,)
        Added to each variance; of shape (1,) for 'spherical'.

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
    reg_covar: float | Array,
    threshold: float,
) -> tuple[GmmParameters, bool]:
    """Do what :func:`maximise` does; return the parameters, and whether the sums are coarse."""
    return maximise(
        statistics, previous, covariance_type, reg_covar=reg_covar, threshold=threshold
    )[:2]


def maximise(
    statistics: GmmStatistics,
    previous: GmmParameters,
    covariance_type: str,
    *,
    reg_covar: float | Array,
    threshold: float,
    prior: CorePrior | None = None,
) -> MStep:
    """Maximise the expected complete log-likelihood, plus the log-density of a prior.

    Parameters
    ----------
    statistics : GmmStatistics
        Of one mixture, about the means of `previous`.
    previous : GmmParameters
        A component without samples keeps its mean and covariance from here.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float or ndarray
        Added to the variances: :func:`regularise`.
    threshold : float
        Components with a count at or below it are empty: :func:`empty_below`.
    prior : CorePrior or None
        An empty component goes to its mode.

    Returns
    -------
    step : MStep

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    ValueError
        If no component has any count left, or a statistic is not finite.
    """
    weights, means, covariances, factors = _batch_of_one(previous)
    counts, first, second = _batch_of_one(statistics[:3])
    status, component, coarse, log_prior, gain = int(FitStatus.OVERFLOW), -1, False, 0.0, 0.0
    if all(np.isfinite(a).all() for a in (counts, first, second)):
        status, component, coarse, log_prior, gain = _core.gmm_update(
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
            prior,
        )
    error = fit_error(status, component, covariance_type, "the parameters of the start")
    if error is not None:
        raise error
    return MStep(
        GmmParameters(weights[0], means[0], covariances[0], factors[0]), coarse, log_prior, gain
    )


def _batch_of_one(arrays: Iterable[npt.ArrayLike]) -> list[Array]:
    """Copy the arrays, each with a leading dimension, as the core takes them."""
    return [np.array(a, dtype=np.float64, order="C")[None] for a in arrays]
