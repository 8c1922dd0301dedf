"""Fits of many mixtures from their default starts, in a handful of calls of the core."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from elbokit._arrays import FloatArray, as_weights, require_finite, returns_like
from elbokit._gmm_fit import FitOutcome, as_gmm_fit, check_fit_options, check_fit_weight
from elbokit._kmeans import as_random_state
from elbokit._mixture_arguments import check_count, check_offsets, check_rows
from elbokit._types import FitStatus, GmmFit
from elbokit.mixture._copies import weight_of_copy
from elbokit.mixture._em import run_all
from elbokit.mixture._initialization import starting_parameters
from elbokit.mixture._problems import Problems
from elbokit.mixture._validation import GivenParameters

__all__ = ["fit_mixtures"]

_CHOICES = {
    "covariance_type": ("full", "tied", "diag", "spherical"),
    "init_params": ("kmeans", "k-means++", "random", "random_from_data"),
}


def fit_mixtures(
    X: Any,
    n_components: int,
    *,
    offsets: Any = None,
    covariance_type: str = "full",
    sample_weight: Any = None,
    init_params: str = "kmeans",
    tol: float = 1e-3,
    reg_covar: float = 1e-6,
    max_iter: int = 100,
    n_init: int = 1,
    random_state: Any = None,
) -> GmmFit:
    """Fit Gaussian mixtures to many data sets in one call, each from a start of its own.

    What a loop of ``GaussianMixture(n_components, random_state=rng).fit(X[b])`` with one
    ``RandomState`` rng finds, for thousands of small data sets at the price of a few calls.

    Parameters
    ----------
    X : array_like of shape (..., n_samples, n_features), float32, float64 or integers
        Leading dimensions are independent data sets. With ``offsets``, (n_rows, n_features).
    n_components : int
        Number of components of each mixture.
    offsets : array_like of int of shape (n_mixtures + 1,), default=None
        Mixture ``b`` has the rows ``X[offsets[b]:offsets[b + 1]]``; from 0 to ``n_rows``. It may
        have none.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        Shape of the covariances.
    sample_weight : array_like of shape (..., n_samples), default=None
        Finite, not negative, not all zero for a mixture; with ``offsets``, (n_rows,), for all of
        them. A row of weight zero is no row. Integers are numbers of copies, as in
        ``GaussianMixture.fit``; otherwise only ratios matter within a mixture. None means ones.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}, default='kmeans'
        How samples are assigned to components before the first iteration.
    tol : float, default=1e-3
        A run has converged when the bound per sample changes by less than this.
    reg_covar : float, default=1e-6
        Added to the variances, to keep the covariances positive definite.
    max_iter : int, default=100
        Largest number of iterations.
    n_init : int, default=1
        Number of starts of each mixture; the run with the highest bound is kept.
    random_state : int, RandomState or None, default=None
        Source of the draws, for one mixture after the other; of several starts, for all mixtures
        before the next start.

    Returns
    -------
    GmmFit
        As from :func:`elbokit.ops.gmm_fit`: arrays with the leading dimensions of ``X``, or
        (n_mixtures, ...) with ``offsets``. A failed mixture, or one with fewer rows than
        components, leaves the others alone: its parameters and bound are NaN, and its ``status``
        says why. Of several starts all have to fail.

    Raises
    ------
    SingularCovarianceError
        If there is one mixture, without batch dimensions or ``offsets``, and a covariance is not
        positive definite; it names the component.
    TypeError
        If ``X`` or ``sample_weight`` is not of such a dtype, or an option of another type.
    ValueError
        If a shape does not fit, every mixture has fewer rows than components, a value is not as
        described (of NaN or infinity the row is named); and, for one mixture, if sums overflow.

    Warns
    -----
    ConvergenceWarning
        If a mixture has fewer distinct samples than components.

    See Also
    --------
    elbokit.ops.gmm_fit : The same from given parameters.

    Notes
    -----
    Mixtures run side by side on the threads; the results do not depend on their number. With
    ``init_params='random_from_data'`` the rows are drawn by a call of NumPy for each mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from elbokit import fit_mixtures
    >>> X = np.array([[0.0], [1.0], [9.0], [11.0], [5.0], [6.0], [0.0], [1.0], [0.5]])
    >>> fit = fit_mixtures(X, 2, offsets=[0, 4, 9], random_state=0)
    >>> np.sort(fit.means[:, :, 0]).round(3).tolist()
    [[0.5, 10.0], [0.5, 5.5]]
    """
    tol, max_iter, reg_covar = check_fit_options(tol, max_iter, reg_covar)
    _check_choices(covariance_type=covariance_type, init_params=init_params)
    # As an estimator's fit takes them.
    if isinstance(X, np.ndarray) and X.dtype.kind in "biu":
        X = X.astype(np.float64)
    if isinstance(sample_weight, np.ndarray) and sample_weight.dtype.kind == "b":
        sample_weight = sample_weight.astype(np.float64)
    rows = check_rows(X)
    batch = rows.shape[:-2]
    if 0 in batch:
        raise ValueError(f"`X` has shape {rows.shape}, expected at least one data set")
    cut = None if offsets is None else _check_offsets(offsets, rows)
    there: npt.NDArray[np.bool_] | None = None  # which data sets have rows
    if cut is not None:
        there = np.diff(cut) > 0
        cut = np.concatenate([cut[:1], cut[1:][there]])
    problems = _weighted(rows, cut, sample_weight)
    check_count("n_components", n_components)
    check_count("n_init", n_init)
    enough = problems.n_samples >= n_components
    if not enough.any():
        raise ValueError(
            f"`n_components` is {n_components}, expected at most {problems.n_samples.max()}, the "
            "number of samples" + (" of the largest data set" if len(enough) > 1 else "")
        )
    if init_params in ("random", "random_from_data") or not enough.all():
        require_finite(rows, "X")  # k-means finds out by itself
    rng = as_random_state(random_state)
    fitted = problems if enough.all() else problems.those(enough)
    if there is not None:
        there[there] = enough
        enough = there
    best: FitOutcome | None = None
    for _ in range(n_init):
        starts = starting_parameters(
            fitted,
            GivenParameters(None, None, None),
            int(n_components),
            init_params,
            covariance_type,
            reg_covar,
            rng,
        )
        if (starts.status == FitStatus.OVERFLOW).any():
            require_finite(rows, "X")
        if best is None:
            _warn_of_few_clusters(starts.n_clusters, int(n_components), np.flatnonzero(enough))
        fit = run_all(
            fitted, starts, covariance_type, tol=tol, reg_covar=reg_covar, max_iter=max_iter
        )
        best = fit if best is None else _better(best, fit)
    assert best is not None
    if not enough.all():
        best = _spread(best, enough)
    single = not batch and cut is None
    leading = batch if cut is None else (len(enough),)
    return as_gmm_fit(best, leading, single, covariance_type, "X", returns_like(X))


def _better(best: FitOutcome, other: FitOutcome) -> FitOutcome:
    """Return for each mixture the run that has not failed and has the higher bound."""
    higher = (best.status != FitStatus.OK) | (other.lower_bound > best.lower_bound)
    higher &= other.status == FitStatus.OK
    for kept, array in zip(best[:9], other[:9], strict=True):
        kept[higher] = array[higher]
    return best


def _spread(fit: FitOutcome, enough: npt.NDArray[np.bool_]) -> FitOutcome:
    """Return the outcome of all mixtures; those that are not in `fit` have too few samples."""
    arrays: dict[str, Any] = {}
    for name, array in zip(fit._fields[:9], fit[:9], strict=True):
        arrays[name] = np.zeros((len(enough), *array.shape[1:]), array.dtype)
        arrays[name][enough] = array
    spread = fit._replace(**arrays)
    spread.status[~enough] = FitStatus.TOO_FEW_SAMPLES
    return spread


def _check_choices(**given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, str) or value not in _CHOICES[name]:
            expected = ", ".join(map(repr, _CHOICES[name]))
            raise ValueError(f"`{name}` is {value!r}, expected one of {expected}")


def _check_offsets(offsets: Any, rows: FloatArray) -> npt.NDArray[np.int64]:
    if rows.ndim != 2:
        raise ValueError(
            f"`X` has shape {rows.shape}, expected (n_rows, n_features) with `offsets`"
        )
    return check_offsets(offsets, len(rows), least=0)


def _weighted(
    rows: FloatArray, offsets: npt.NDArray[np.int64] | None, sample_weight: Any
) -> Problems:
    """Return the problems without their rows of weight zero, which take no part in the draws."""
    weight = check_fit_weight(sample_weight, rows.shape[:-1], offsets, zeros=offsets is not None)
    d = rows.shape[-1]
    X = rows[None] if offsets is not None else rows.reshape(-1, *rows.shape[-2:])
    if weight is None:
        return Problems(X, None, offsets)
    weight = weight.reshape(X.shape[:2])
    given = np.broadcast_to(as_weights(sample_weight), rows.shape[:-1])
    copy = weight_of_copy(given.reshape(weight.shape).astype(np.float64), weight, offsets)
    _mark_equal(weight, copy, offsets)
    if weight.all():
        return Problems(X, weight, offsets, copy)
    if offsets is None:
        offsets = np.arange(len(X) + 1, dtype=np.int64) * X.shape[1]
    kept = weight.ravel() > 0.0
    before = np.concatenate([[0], np.cumsum(kept)])
    X, weight = X.reshape(1, -1, d)[:, kept], weight.reshape(1, -1)[:, kept]
    return Problems(X, weight, before[offsets], copy)


def _mark_equal(
    weight: npt.NDArray[np.float64],
    copy: npt.NDArray[np.float64],
    offsets: npt.NDArray[np.int64] | None,
) -> None:
    """Make equal weights count each row once, unless they are integers above one."""
    if offsets is None:
        least, most = weight.min(axis=1), weight.max(axis=1)
    else:
        least, most = (f.reduceat(weight[0], offsets[:-1]) for f in (np.minimum, np.maximum))
    once = (least == most) & ((copy == 0.0) | (most == copy))
    weight[once if offsets is None else (0, np.repeat(once, np.diff(offsets)))] = 1.0
    copy[once] = 1.0


def _warn_of_few_clusters(
    n_clusters: npt.NDArray[np.int64], n_components: int, place: npt.NDArray[np.int64]
) -> None:
    """Warn once for all mixtures; `place` has their numbers."""
    few = np.flatnonzero(n_clusters < n_components)
    if len(few):
        warnings.warn(
            f"Number of distinct clusters ({n_clusters[few[0]]}) found smaller than n_clusters "
            f"({n_components}) in {len(few)} of {len(n_clusters)} mixtures, first in mixture "
            f"{place[few[0]]}. Possibly due to duplicate points in X.",
            ConvergenceWarning,
            stacklevel=3,
        )
