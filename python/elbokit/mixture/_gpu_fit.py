"""Fits to one array on a GPU: rows stay there, and the parameters of each iteration too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from elbokit._gmm_fit import fit_error
from elbokit._gpu_arrays import as_gpu_tensor, read_back, to_host
from elbokit._gpu_fit import GpuMixture, GpuRun
from elbokit._types import GmmStatistics
from elbokit.mixture._convergence import ConvergenceMonitor
from elbokit.mixture._copies import weight_and_copy
from elbokit.mixture._driven_fit import driven_restarts, each_restart
from elbokit.mixture._em import EmRun, FitInterrupted, Restart
from elbokit.mixture._estimator_starts import GIVEN, given_to, single, warn_of_few_clusters
from elbokit.mixture._gpu_scatter import GpuScatters
from elbokit.mixture._initialization import starting_parameters
from elbokit.mixture._interrupts import keep_best
from elbokit.mixture._library import library_name
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._penalty import as_penalty, weight_unit

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["as_rows", "fit_gpu", "numpy_dtype", "require_finite"]


def fit_gpu(estimator: GaussianMixture, X: Any, sample_weight: Any, warm: bool) -> None:
    """Run EM `n_init` times and keep the best run, as an estimator's fit does for NumPy's arrays.

    Parameters
    ----------
    estimator : GaussianMixture
        Its parameters are checked. It gets the fitted attributes.
    X : array of shape (n_samples, n_features)
        On a GPU, of any library that speaks DLPack.
    sample_weight : array-like of shape (n_samples,) or None
        There or on the CPU.
    warm : bool
        Whether to start from the estimator's last solution.

    Raises
    ------
    TypeError, ValueError
        As from the fit of NumPy's arrays; and for missing values, which need the CPU.

    Notes
    -----
    Draws are those of the CPU, and so is each iterate, to rounding. An iteration reads back six
    numbers. With a prior it reads back the statistics, and the M-step is made on the CPU. The runs
    of `n_init` come one after the other, and `drop_restarts` drops none.
    """
    rows = as_rows(X)
    require_finite(rows, estimator)
    n_samples, n_features = rows.shape
    if n_samples < 2:
        raise ValueError(
            f"Found array with {n_samples} sample(s) (shape={tuple(rows.shape)}) while a minimum "
            "of 2 is required by GaussianMixture."
        )
    host_weight = to_host(sample_weight, "sample_weight")
    weight, copy = weight_and_copy(host_weight, n_samples)
    unit = weight_unit(host_weight, weight)
    if weight is not None and not weight.all():
        # A row of weight zero is no row: it must not take part in the draws either.
        rows = rows[torch.from_numpy(np.flatnonzero(weight)).to(rows.device)]
        weight = weight[weight > 0.0]
    if len(rows) < estimator.n_components:
        raise ValueError(
            "Expected n_samples >= n_components but got n_components = "
            f"{estimator.n_components}, n_samples = {len(rows)}"
        )
    if hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_
    estimator.n_features_in_ = n_features
    estimator._library, estimator._device = library_name(X), str(rows.device)
    source = GpuScatters(rows, weight, copy)
    given = given_to(estimator, n_features, to_host)
    rng = check_random_state(estimator.random_state)
    penalty = as_penalty(estimator, source, unit)
    covariance_type = estimator.covariance_type

    def draw_start() -> GmmParameters:
        starts = starting_parameters(
            source,
            given,
            estimator.n_components,
            estimator.init_params,
            covariance_type,
            penalty.reg_covar,
            rng,
            penalty.prior,
        )
        warn_of_few_clusters(starts, estimator.n_components)
        return single(starts, covariance_type)

    mass = float(len(rows)) if weight is None else float(weight.sum())
    row_weight = None if weight is None else torch.from_numpy(weight).to(rows.device)
    mixture = GpuMixture(rows, row_weight, mass, covariance_type, penalty.reg_covar)
    if penalty.prior is None:
        restarts = each_restart(
            estimator,
            lambda start, monitor: _run(estimator, mixture, start, monitor),
            draw_start,
            n_features=n_features,
            warm=warm,
        )
    else:
        restarts = driven_restarts(
            estimator,
            lambda parameters, wide: _statistics(mixture, parameters, wide),
            draw_start,
            penalty,
            mass=mass,
            n_samples=len(rows),
            n_features=n_features,
            exact=rows.dtype == torch.float64,
            warm=warm,
        )
    keep_best(restarts, lambda run, every: estimator._store(run, numpy_dtype(rows), every))


def as_rows(X: Any) -> Tensor:
    """Return an array of a GPU as a matrix of floats there; integers become float64."""
    if isinstance(X, torch.Tensor) and not (X.is_floating_point() or X.is_complex()):
        X = X.double()
    rows = as_gpu_tensor(X, "X")
    if rows.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {rows.ndim}D array instead: X has shape {tuple(rows.shape)}"
        )
    if 0 in rows.shape:
        what = "sample(s)" if rows.shape[0] == 0 else "feature(s)"
        raise ValueError(
            f"Found array with 0 {what} (shape={tuple(rows.shape)}) while a minimum of 1 is "
            "required by GaussianMixture."
        )
    return rows


def numpy_dtype(rows: Tensor) -> npt.DTypeLike:
    """Return the dtype of what is learned from rows: float32 of narrower ones, too."""
    return np.float64 if rows.dtype == torch.float64 else np.float32


def require_finite(rows: Tensor, estimator: Any) -> None:
    """Raise ValueError for NaN or infinity; one sum over the rows tells that there is none."""
    if np.isfinite(read_back(rows.sum(dtype=torch.float64))):
        return
    bad = read_back(torch.nonzero(~torch.isfinite(rows))[:1])
    if len(bad) == 0:  # finite values whose sum is not
        return
    row, column = bad[0].tolist()
    if bool(read_back(torch.isnan(rows[row, column]))):
        advice = "drop or fill such rows"
        if getattr(estimator, "missing", "error") == "integrate":
            advice = "missing values are integrated out on the CPU only: move X there"
        raise ValueError(f"Input X contains NaN, first in row {row}, column {column}. {advice}")
    raise ValueError(
        f"Input X contains infinity or a value too large for {str(rows.dtype)[6:]}, first in row "
        f"{row}, column {column}"
    )


def _run(
    estimator: GaussianMixture,
    mixture: GpuMixture,
    start: GmmParameters,
    monitor: ConvergenceMonitor,
) -> EmRun:
    """Make one run, and read its parameters back at the end."""

    def interrupted(run: GpuRun) -> None:
        raise FitInterrupted([Restart(_as_em_run(run))])

    run = mixture.run(
        start,
        tol=estimator.tol,
        max_iter=estimator.max_iter,
        lower_bound=monitor.lower_bound,
        progress=monitor.progress,
        progress_interval=monitor.progress_interval,
        on_interrupt=interrupted,
    )
    error = fit_error(run.status, run.component, estimator.covariance_type, GIVEN)
    if error is not None:
        raise error
    return _as_em_run(run)


def _as_em_run(run: GpuRun) -> EmRun:
    parameters = GmmParameters(*(read_back(a)[0] for a in run.estimate))
    return EmRun(parameters, run.lower_bound, run.lower_bounds, run.converged, run.after_m)


def _statistics(mixture: GpuMixture, parameters: GmmParameters, wide: bool) -> GmmStatistics:
    """Return the statistics of all rows on the CPU."""
    sums = mixture.statistics(mixture.estimate(parameters), wide)
    counts, first, second, total = (read_back(a)[0] for a in sums)
    return GmmStatistics(counts, first, second, float(total))
