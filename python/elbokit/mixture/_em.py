"""One run of EM from given parameters; its loop is the core's."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import as_float_array
from elbokit._gmm_fit import fit_error
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._parameters import GmmParameters

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
    """Iterate EM until the bound stops rising.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Data, float32 or float64.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the samples.
    start : GmmParameters
        Parameters before the first E-step; they stay as they are.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the diagonal of the covariances.
    max_iter : int
        Largest number of iterations.
    monitor : ConvergenceMonitor
        Knows the bound before the first iteration and the tolerance, and prints.

    Returns
    -------
    run : EmRun
        As in scikit-learn, the bound of an iteration is that of its E-step, so it belongs
        to the parameters before the iteration's M-step.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    ValueError
        If no component has any responsibility left.

    Notes
    -----
    An iteration is one fused pass over `X` for the statistics, and the closed-form update;
    parameters stay in float64 whatever the data. Only where float32 sums cannot resolve a
    covariance (condition numbers near 1e7) is the iteration repeated in float64.
    """
    weights, means, covariances, factors = (
        np.array(array[None], dtype=np.float64, order="C") for array in start
    )
    bound, outcome = np.array([monitor.lower_bound]), np.empty((1, 4), dtype=np.int64)
    lower_bounds = _core.gmm_fit(
        as_float_array(X, "X")[None],
        None,
        None if sample_weight is None else sample_weight[None],
        covariance_type,
        weights,
        means,
        covariances,
        factors,
        float(monitor.tol),
        float(reg_covar),
        min(int(max_iter), np.iinfo(np.int64).max),
        bound,
        outcome,
        monitor.progress,
        monitor.progress_interval,
    )
    _, converged, status, component = outcome[0].tolist()
    given = "weights_init, means_init and precisions_init"
    error = fit_error(status, component, covariance_type, given)
    if error is not None:
        raise error
    monitor.finish(float(bound[0]), bool(converged))
    parameters = GmmParameters(weights[0], means[0], covariances[0], factors[0])
    return EmRun(parameters, monitor.lower_bound, lower_bounds, monitor.converged)
