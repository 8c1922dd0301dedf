"""One run of EM from given parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import ops
from elbokit._types import GmmStatistics
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._parameters import GmmParameters, SingularCovarianceError
from elbokit.mixture._update import below_resolution, empty_below, update_parameters

__all__ = ["EmRun", "run_em"]


class EmRun(NamedTuple):
    """Result of one run: the parameters, the bound of each iteration, the outcome."""

    parameters: GmmParameters
    lower_bound: float
    lower_bounds: list[float]
    converged: bool


def run_em(
    X: npt.NDArray[Any],
    sample_weight: npt.NDArray[np.float64] | None,
    start: GmmParameters,
    covariance_type: str,
    reg_covar: float,
    max_iter: int,
    monitor: ConvergenceMonitor,
) -> EmRun:
    """Iterate EM until the monitor stops it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Data, float32 or float64.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the samples.
    start : GmmParameters
        Parameters before the first E-step.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the diagonal of the covariances.
    max_iter : int
        Largest number of iterations.
    monitor : ConvergenceMonitor
        Records the bounds and decides when to stop.

    Returns
    -------
    run : EmRun
        As in scikit-learn, the bound of an iteration is that of its E-step, so it belongs
        to the parameters before the iteration's M-step.

    Notes
    -----
    An iteration is one fused pass over `X` for the statistics, and the closed-form update;
    parameters stay in float64 whatever the data. Only where float32 sums cannot resolve a
    covariance (condition numbers near 1e7) is the iteration repeated in float64.
    """
    mass = float(len(X)) if sample_weight is None else float(sample_weight.sum())
    threshold = empty_below(mass, len(X))
    single = X.dtype == np.float32
    parameters, exact = start, X

    def iterate(data: npt.NDArray[Any]) -> tuple[GmmStatistics, GmmParameters]:
        statistics = ops.gmm_statistics(
            data,
            parameters.weights,
            parameters.means,
            parameters.precisions_cholesky,
            covariance_type,
            sample_weight=sample_weight,
        )
        return statistics, update_parameters(
            statistics, parameters, covariance_type, reg_covar, threshold
        )

    for _ in range(max_iter):
        try:
            statistics, updated = iterate(X)
            coarse = single and below_resolution(statistics, updated, covariance_type)
        except SingularCovarianceError:
            if not single:
                raise
            coarse = True
        if coarse:
            exact = exact.astype(np.float64, copy=False)
            statistics, updated = iterate(exact)
        parameters = updated
        if monitor.update(float(statistics.log_likelihood) / mass):
            break
    return EmRun(parameters, monitor.lower_bound, monitor.lower_bounds, monitor.converged)
