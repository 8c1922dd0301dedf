"""What a fit of the estimator adds to the likelihood, made ready for the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit._gmm_fit import fit_error
from elbokit._types import FitStatus
from elbokit.mixture._prior import CorePrior, resolve_prior
from elbokit.mixture._problems import Problems
from elbokit.mixture._scatter import ArrayScatters, ScatterSource

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["Penalty", "as_penalty", "weight_unit"]

Array = npt.NDArray[np.float64]


class Penalty(NamedTuple):
    """What M-steps add.

    Attributes
    ----------
    reg_covar : float or ndarray of shape (n_features,)
        To each variance; of shape (1,) for 'spherical'.
    prior : CorePrior or None
        To the log-likelihood.
    """

    reg_covar: float | Array
    prior: CorePrior | None


def as_penalty(
    estimator: GaussianMixture,
    problem: Problems | ScatterSource,
    unit: float,
    *,
    moments: tuple[Array, Array] | None = None,
) -> Penalty:
    """Put the data's moments where the parameters of an estimator refer to them.

    Parameters
    ----------
    estimator : GaussianMixture
        `reg_covar`, `relative_reg_covar`, `prior` and the mixture's shape are read.
    problem : Problems or ScatterSource
        A single one.
    unit : float
        What the weights of the rows were divided by: :func:`weight_unit`.
    moments : tuple of ndarray, default=None
        Means and variances of the features where the rows do not have them all.

    Returns
    -------
    penalty : Penalty

    Raises
    ------
    TypeError, ValueError
        If a field of the prior is not as described, or sums overflow.
    """
    covariance_type, prior = estimator.covariance_type, estimator.prior
    reg_covar, relative_reg_covar = estimator.reg_covar, estimator.relative_reg_covar
    if prior is None and relative_reg_covar == 0.0:
        return Penalty(reg_covar, None)
    mean, variance = _whole_moments(problem) if moments is None else moments
    if not np.isfinite(variance).all():
        error = fit_error(FitStatus.OVERFLOW, -1, covariance_type, "")
        assert error is not None
        raise error
    regularisation: float | Array = reg_covar
    if relative_reg_covar > 0.0:
        spherical = covariance_type == "spherical"
        spread = variance.mean(keepdims=True) if spherical else variance
        regularisation = reg_covar + relative_reg_covar * spread
    if prior is None:
        return Penalty(regularisation, None)
    resolved = resolve_prior(prior, covariance_type, estimator.n_components, mean, variance)
    return Penalty(regularisation, resolved.per(unit))


def _whole_moments(problem: Problems | ScatterSource) -> tuple[Array, Array]:
    """Return the weighted mean and the variance of each feature of a single problem."""
    source = ArrayScatters(problem) if isinstance(problem, Problems) else problem
    with np.errstate(over="ignore", invalid="ignore"):  # the caller sees what is not finite
        whole = source.whole(False)
        return whole.means[0, 0], whole.second[0, 0] / whole.counts[0, 0]


def weight_unit(given: npt.ArrayLike | None, weight: Array | None) -> float:
    """Return what `check_sample_weight` divided the given weights by: a prior counts samples."""
    if given is None:
        return 1.0
    largest = float(np.asarray(given, dtype=np.float64).max())
    if weight is None:
        return largest
    # The quotient may be 2^1024, which is not a number any more.
    return min(largest / 2.0 / float(weight.max()), np.finfo(np.float64).max / 2.0) * 2.0
