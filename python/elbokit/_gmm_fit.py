"""What a fit is given beside the mixtures, checked, and how it ended."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import as_float_array, require_finite
from elbokit._mixture_arguments import Mixtures
from elbokit._types import FitStatus, singular_covariance

__all__ = [
    "FitOutcome",
    "check_fit_options",
    "check_fit_weight",
    "fit_error",
    "run_fits",
]

Array = npt.NDArray[np.float64]


class FitOutcome(NamedTuple):
    """What the core leaves of a flat batch: the parameters, and a row for each mixture."""

    weights: Array
    means: Array
    covariances: Array
    precisions_cholesky: Array
    lower_bound: Array
    n_iter: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    status: npt.NDArray[np.int64]
    component: npt.NDArray[np.int64]  # the singular one


def run_fits(
    mixtures: Mixtures,
    row_weight: Array | None,
    offsets: npt.NDArray[np.int64] | None,
    covariance_type: str,
    tol: float,
    max_iter: int,
    reg_covar: float,
) -> FitOutcome:
    """Run EM on checked mixtures; those that failed hold what their last iteration left."""
    weights, means = np.array(mixtures.weights), np.array(mixtures.means)
    factors = np.array(mixtures.precisions_cholesky)
    covariances = np.empty_like(factors)
    size, n_components, n_features = means.shape
    _core.gmm_covariances(covariance_type, n_components, n_features, factors, covariances)
    bound, outcome = np.full(size, -np.inf), np.empty((size, 4), dtype=np.int64)
    _core.gmm_fit(
        mixtures.X,
        offsets,
        row_weight,
        covariance_type,
        weights,
        means,
        covariances,
        factors,
        tol,
        reg_covar,
        max_iter,
        bound,
        outcome,
    )
    n_iter, converged, status, component = outcome.T.copy()
    return FitOutcome(
        weights, means, covariances, factors, bound, n_iter, converged != 0, status, component
    )


def fit_error(status: int, component: int, covariance_type: str, start: str) -> ValueError | None:
    """Return the exception that an outcome stands for, or None; `start` names the arguments."""
    if status == FitStatus.OK:
        return None
    if status == FitStatus.SINGULAR_COVARIANCE:
        return singular_covariance(None if covariance_type == "tied" else component)
    if status == FitStatus.NO_COMPONENT:
        return ValueError(
            "no component explains any sample: the density of every sample under every "
            f"component is zero; check {start}"
        )
    return ValueError("`X` has values so large that sums of their squares overflow; scale the data")


def check_fit_options(tol: Any, max_iter: Any, reg_covar: Any) -> tuple[float, int, float]:
    """Return the options in the core's types.

    Raises
    ------
    TypeError
        If one is not a number, or ``max_iter`` is no integer.
    ValueError
        If one is negative or not finite.
    """
    options: dict[str, tuple[Any, Any]] = {
        "tol": (tol, Real),
        "max_iter": (max_iter, Integral),
        "reg_covar": (reg_covar, Real),
    }
    for name, (value, kind) in options.items():
        if isinstance(value, bool) or not isinstance(value, kind):
            expected = "an integer" if kind is Integral else "a number"
            raise TypeError(f"`{name}` is {value!r}, expected {expected}")
        if not 0 <= value < np.inf:
            raise ValueError(f"`{name}` is {value!r}, expected a finite value >= 0")
    return float(tol), min(int(max_iter), int(np.iinfo(np.int64).max)), float(reg_covar)


def check_fit_weight(
    sample_weight: Any, shape: tuple[int, ...], offsets: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.float64] | None:
    """Return the weights in float64, the largest of each mixture in [0.5, 1).

    Parameters
    ----------
    sample_weight : array_like or None
    shape : tuple of int
        (..., n_samples), or (n_rows,) where ``offsets`` cut the rows.
    offsets : ndarray of shape (n_mixtures + 1,) or None

    Raises
    ------
    TypeError
        If they are neither float32 nor float64.
    ValueError
        If they have another shape, or are negative, not finite or all zero for a mixture.
    """
    if sample_weight is None:
        return None
    given = as_float_array(sample_weight, "sample_weight")
    if given.ndim == 0 or given.shape[-1] != shape[-1] or given.ndim > len(shape):
        raise ValueError(f"`sample_weight` has shape {given.shape}, expected {shape}")
    require_finite(given, "sample_weight", axis=-1)
    if (given < 0).any():
        raise ValueError(f"`sample_weight` has the value {given.min()}, expected values >= 0")
    try:
        weight = np.broadcast_to(given, shape).astype(np.float64)
    except ValueError:
        raise ValueError(f"`sample_weight` has shape {given.shape}, expected {shape}") from None
    if offsets is None:
        weight = weight.reshape(-1, shape[-1])
        largest = weight.max(axis=1, keepdims=True)
    else:
        largest = np.maximum.reduceat(weight, offsets[:-1])
    if not largest.all():
        raise ValueError(
            f"`sample_weight` is zero for all samples of mixture {int(np.argmin(largest))}, "
            "expected a positive sum"
        )
    # Only ratios matter within a mixture; a power of two leaves each as it was.
    power = -np.frexp(largest)[1]
    if offsets is not None:
        power = np.repeat(power, np.diff(offsets))
    return np.asarray(np.ldexp(weight, power))
