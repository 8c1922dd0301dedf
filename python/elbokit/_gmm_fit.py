"""What a fit is given beside the mixtures, checked, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import FloatArray, as_weights, require_finite
from elbokit._types import FitStatus, GmmFit, singular_covariance

__all__ = [
    "FitOutcome",
    "as_gmm_fit",
    "check_fit_options",
    "check_fit_weight",
    "fit_error",
    "run_fits",
]

Array = npt.NDArray[np.float64]

_MOST_ITERATIONS = int(np.iinfo(np.int64).max)


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
    lower_bounds: list[list[float]]  # of all iterations, where recorded
    after_m: Sequence[list[float]] = ()  # with the parameters after each


def run_fits(
    X: FloatArray,
    offsets: npt.NDArray[np.int64] | None,
    row_weight: Array | None,
    covariance_type: str,
    start: tuple[Array, Array, Array, Array],
    *,
    tol: float,
    reg_covar: float | Array,
    max_iter: int,
    lower_bound: npt.ArrayLike = -np.inf,
    status: npt.NDArray[np.int64] | None = None,
    component: npt.NDArray[np.int64] | None = None,
    record: bool = False,
    progress: Callable[[int, float, float], object] | None = None,
    progress_interval: int = 0,
    prior: tuple[Array, float, Array, float, Array, float] | None = None,
    on_interrupt: Callable[[FitOutcome], None] | None = None,
) -> FitOutcome:
    """Run EM on checked mixtures, in place.

    Parameters
    ----------
    X : ndarray of shape (n_mixtures, n_samples, n_features)
        With `offsets` of shape (n_rows, n_features).
    offsets : ndarray of shape (n_mixtures + 1,) or None
    row_weight : ndarray of shape (n_mixtures, n_samples) or (n_rows,) or None
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    start : tuple of ndarray
        Weights, means, covariances and their factors, C-contiguous. They are written over; those
        of a mixture that fails hold what its last iteration left.
    tol, reg_covar, max_iter
        As in :func:`elbokit.ops.gmm_fit`; `reg_covar` may have a value for each variance of a
        component.
    lower_bound : float or array-like of shape (n_mixtures,)
        The bound before the first iteration.
    status, component : ndarray of shape (n_mixtures,) or None
        Mixtures that failed before, which are left as they are.
    record : bool
        Whether the bounds of all iterations are wanted.
    progress, progress_interval
        Called every so many iterations with their number, the bound's change and the bound.
    prior : CorePrior or None
        Makes the M-steps those of the posterior, whose logarithm is then the bound.
    on_interrupt : callable or None
        Gets what the last complete iterations left, before a KeyboardInterrupt passes on.

    Returns
    -------
    outcome : FitOutcome
    """
    size = len(start[0])
    bound = np.full(size, lower_bound, dtype=np.float64)
    outcome = np.zeros((size, 4), dtype=np.int64)
    if status is not None and component is not None:
        outcome[:, 2], outcome[:, 3] = status, component
    lower_bounds: list[list[float]] = []
    after_m: list[list[float]] = []

    def written() -> FitOutcome:
        n_iter, converged, ended, singular = outcome.T.copy()
        return FitOutcome(
            *start, bound, n_iter, converged != 0, ended, singular, lower_bounds, after_m
        )

    try:
        _core.gmm_fit(
            X,
            offsets,
            row_weight,
            covariance_type,
            *start,
            float(tol),
            reg_covar,
            min(int(max_iter), _MOST_ITERATIONS),
            bound,
            outcome,
            lower_bounds if record else None,
            after_m if record else None,
            progress,
            progress_interval,
            prior,
        )
    except KeyboardInterrupt:
        if on_interrupt is not None:
            on_interrupt(written())
        raise
    return written()


def as_gmm_fit(
    fit: FitOutcome,
    batch: tuple[int, ...],
    single: bool,
    covariance_type: str,
    start: str,
    back: Callable[[npt.NDArray[Any]], Any],
) -> GmmFit:
    """Return the result as the caller gets it: a single mixture that failed raises.

    Parameters
    ----------
    fit : FitOutcome
        What the core left; of mixtures that failed it is written over.
    batch : tuple of int
        Leading dimensions of the arrays.
    single : bool
        Whether it is one mixture without any.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    start : str
        The arguments that gave the start, for the error.
    back : callable
        Hands an array back as one of the caller's library.
    """
    if single:
        error = fit_error(int(fit.status[0]), int(fit.component[0]), covariance_type, start)
        if error is not None:
            raise error
        return GmmFit(
            back(fit.weights[0]),
            back(fit.means[0]),
            back(fit.covariances[0]),
            back(fit.precisions_cholesky[0]),
            float(fit.lower_bound[0]),
            int(fit.n_iter[0]),
            bool(fit.converged[0]),
            FitStatus.OK,
        )
    failed = fit.status != FitStatus.OK
    if failed.any():
        for array in fit[:5]:
            array[failed] = np.nan
    return GmmFit(*(back(a.reshape(batch + a.shape[1:])) for a in fit[:8]))


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
    return float(tol), min(int(max_iter), _MOST_ITERATIONS), float(reg_covar)


def check_fit_weight(
    sample_weight: Any,
    shape: tuple[int, ...],
    offsets: npt.NDArray[np.int64] | None,
    *,
    zeros: bool = False,
) -> npt.NDArray[np.float64] | None:
    """Return the weights in float64, the largest of each mixture in [0.5, 1).

    Parameters
    ----------
    sample_weight : array_like or None
    shape : tuple of int
        (..., n_samples), or (n_rows,) where ``offsets`` cut the rows.
    offsets : ndarray of shape (n_mixtures + 1,) or None
    zeros : bool, default=False
        Whether they may be all zero for some mixtures.

    Raises
    ------
    TypeError
        If they are neither float32 nor float64.
    ValueError
        If they have another shape, or are negative, not finite or all zero for a mixture.
    """
    if sample_weight is None:
        return None
    given = as_weights(sample_weight)
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
    if not (largest.any() if zeros else largest.all()):
        raise ValueError(
            f"`sample_weight` is zero for all samples of mixture {int(np.argmin(largest))}, "
            "expected a positive sum"
        )
    # Only ratios matter within a mixture; a power of two leaves each as it was.
    power = -np.frexp(largest)[1]
    if offsets is not None:
        power = np.repeat(power, np.diff(offsets))
    return np.asarray(np.ldexp(weight, power))
