"""EM step by step, where the statistics do not come from one array of complete rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from elbokit._types import GmmStatistics
from elbokit.mixture._em import EmRun
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._prior import CorePrior
from elbokit.mixture._update import Array, empty_below, maximise

__all__ = ["em_steps"]


def em_steps(
    statistics_of: Callable[[GmmParameters, bool], GmmStatistics],
    start: GmmParameters,
    covariance_type: str,
    *,
    mass: float,
    n_samples: int,
    tol: float,
    reg_covar: float | Array,
    max_iter: int,
    lower_bound: float = -np.inf,
    prior: CorePrior | None = None,
    exact: bool = False,
) -> Iterator[EmRun]:
    """Yield the run as it stands after each complete iteration, until the bound stops rising.

    Parameters
    ----------
    statistics_of : callable
        Sums up the statistics of all data under given parameters, about their means. Its second
        argument asks for sums in float64, after sums of float32 proved too coarse.
    start : GmmParameters
        Parameters before the first E-step.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    mass : float
        Sum of the sample weights.
    n_samples : int
        Number of samples.
    tol : float
        The run has converged when the bound changes by less than this.
    reg_covar : float or ndarray
        Added to the variances: :func:`elbokit.mixture._update.regularise`.
    max_iter : int
        Largest number of iterations.
    lower_bound : float, default=-inf
        The bound before the first iteration.
    prior : CorePrior or None
        Its log-density is part of the bound; for weights that sum to `mass`.
    exact : bool, default=False
        Whether all sums are in float64 anyway: none is then asked for twice.

    Yields
    ------
    run : EmRun
        As :func:`elbokit.mixture._em.run_em` would return it if it ended here.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    ValueError
        If no component has any responsibility left, or sums overflow.
    """
    threshold = float(empty_below(np.asarray(mass), np.asarray(n_samples)))
    parameters, converged = start, False
    bounds: list[float] = []
    after_m: list[float] = []
    while len(bounds) < max_iter and not converged:
        for wide in (True,) if exact else (False, True):
            statistics = statistics_of(parameters, wide)
            try:
                step = maximise(
                    statistics,
                    parameters,
                    covariance_type,
                    reg_covar=reg_covar,
                    threshold=threshold,
                    prior=prior,
                )
            except ValueError:
                if wide:
                    raise
                continue
            if not step.coarse:
                break
        parameters, log_likelihood = step.parameters, float(statistics.log_likelihood)
        bound = (log_likelihood + step.log_prior) / mass
        converged = abs(bound - lower_bound) < tol
        lower_bound = bound
        bounds.append(bound)
        after_m.append((log_likelihood + step.gain) / mass)
        yield EmRun(parameters, bound, list(bounds), converged, list(after_m))
