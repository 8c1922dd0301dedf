"""The kernels as functions: arrays in, arrays out.

Arrays may be NumPy's, or a CPU array of any library that speaks DLPack (torch, JAX, ...); results
come back as arrays of the first argument's library. Any strides are read in place.

Where the first argument is in a GPU's memory, so are the results, and the work is done there; the
mixture's E-step, log-density and statistics can. The other arguments may be there too, or NumPy
arrays. Rows of bfloat16 and float16 are computed in float32, as are what is returned for rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from elbokit import _core
from elbokit._arrays import as_float_array, returns_like
from elbokit._gmm_density import gmm_log_prob
from elbokit._gmm_fit import as_gmm_fit, check_fit_options, check_fit_weight, run_fits
from elbokit._gmm_underflow import squares_underflow, statistics_in_float64
from elbokit._gpu_arrays import as_gpu_tensor, on_gpu, returns_gpu_like
from elbokit._kmeans import kmeans
from elbokit._mixture_arguments import (
    check_mixtures,
    check_offsets,
    check_sample_weight,
    require_finite_moments,
    require_finite_rows,
)
from elbokit._types import (
    FitStatus,
    GmmFit,
    GmmStatistics,
    KMeansResult,
    SingularCovarianceError,
)

__all__ = [
    "FitStatus",
    "GmmFit",
    "GmmStatistics",
    "KMeansResult",
    "SingularCovarianceError",
    "gmm_estep",
    "gmm_fit",
    "gmm_log_prob",
    "gmm_statistics",
    "kmeans",
    "logsumexp",
]


def logsumexp(a: Any, axis: int | tuple[int, ...] | None = -1) -> Any:
    """Compute ``log(sum(exp(a), axis))`` without overflow.

    Parameters
    ----------
    a : array_like of shape (...), float32 or float64
        May contain infinities and NaN. On a GPU also bfloat16 and float16, computed in float32.
    axis : int, tuple of int or None, default=-1
        The axes summed over; None means all.

    Returns
    -------
    array of ``a``'s shape without ``axis``, of ``a``'s dtype
        A slice that is empty or all -inf gives -inf; one with +inf gives +inf; one with NaN gives
        NaN.

    Raises
    ------
    TypeError
        If ``a`` is neither float32 nor float64, or ``axis`` is not of integers.
    ValueError
        If ``axis`` is out of range, or repeated.

    Examples
    --------
    >>> float(logsumexp([0.0, 0.0]))  # doctest: +ELLIPSIS
    0.69314...
    """
    if on_gpu(a):
        return _logsumexp_on_gpu(a, axis)
    values = as_float_array(a, "a")
    axes = _check_axis(axis, values.ndim)
    if len(axes) != 1:
        rest = [i for i in range(values.ndim) if i not in axes]
        shape = [values.shape[i] for i in rest]
        values = values.transpose(*rest, *axes).reshape(*shape, -1 if values.size else 0)
        axes = (values.ndim - 1,)
    (at,) = axes
    outer, inner = values.shape[:at], values.shape[at + 1 :]
    out = np.empty((math.prod(outer), math.prod(inner)), dtype=values.dtype)
    _core.logsumexp(values.reshape(math.prod(outer), values.shape[at], math.prod(inner)), out)
    return returns_like(a)(out.reshape(outer + inner))


def _logsumexp_on_gpu(a: Any, axis: int | tuple[int, ...] | None) -> Any:
    tensor = as_gpu_tensor(a, "a")
    from elbokit.torch._cuda import logsumexp
    from elbokit.torch._reduction import computed_dtype

    axes = sorted(_check_axis(axis, tensor.ndim))
    result = logsumexp(tensor.to(computed_dtype(tensor)), axes, False)
    return returns_gpu_like(a)(result.to(tensor.dtype))


def _check_axis(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes as non-negative integers."""
    try:
        axes = range(ndim) if axis is None else axis
        return np.lib.array_utils.normalize_axis_tuple(axes, ndim, "axis")
    except TypeError:
        raise TypeError(
            f"`axis` is {axis!r}, expected an integer, a tuple of integers or None"
        ) from None


def gmm_estep(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
) -> tuple[Any, Any]:
    """E-step of Gaussian mixtures: log-density and responsibilities of every row.

    Parameters
    ----------
    X : array_like of shape (..., n_samples, n_features), float32 or float64
        Leading dimensions are independent mixtures; they broadcast with the parameters'.
    weights : array_like of shape (..., n_components)
        Mixing proportions; 0 is allowed.
    means : array_like of shape (..., n_components, n_features)
    precisions_cholesky : array_like
        Cholesky factors of the precisions, as in scikit-learn: upper triangular with
        ``y = (x - mean) @ factor``. Shape (..., n_components, n_features, n_features) for 'full',
        (..., n_features, n_features) for 'tied', (..., n_components, n_features) for 'diag',
        (..., n_components) for 'spherical'.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'

    Returns
    -------
    log_prob : array of shape (..., n_samples), in nats, of ``X``'s dtype
        ``log p(x_n) = log sum_k weights_k N(x_n | mean_k, covariance_k)``.
    responsibilities : array of shape (..., n_samples, n_components), of ``X``'s dtype
        ``p(k | x_n)``.

    Raises
    ------
    TypeError
        If a dtype is not a float32 or float64.
    ValueError
        If shapes do not fit, ``X`` or a parameter has NaN or infinity (the row is named), a weight
        is negative, or a factor is not upper triangular with a positive diagonal.

    Notes
    -----
    Dempster, Laird & Rubin (1977). float32 data are computed in float32 from differences
    ``x - mean``; parameters are read in float64. The responsibilities of a row within some 20
    standard deviations of a component are then within 1e-5 of float64's, however far from the
    origin; a row farther out has squared distances that float32 cannot tell apart as finely, and
    the error grows with their size. It grows with the covariance's condition too, from features
    that correlate by 0.9999 on (3e-4 at 0.999999): such data are better given in float64.
    """
    if on_gpu(X):
        from elbokit import _gpu_gmm

        return _gpu_gmm.estep(X, weights, means, precisions_cholesky, covariance_type)
    mixtures = check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    size, n_samples, _ = mixtures.X.shape
    log_prob = np.empty((size, n_samples), dtype=mixtures.X.dtype)
    responsibilities = np.empty((*log_prob.shape, mixtures.weights.shape[1]), log_prob.dtype)
    _core.gmm_estep(*mixtures[1:], covariance_type, log_prob, responsibilities)
    if not np.isfinite(log_prob).all():
        require_finite_rows(mixtures)
    back = returns_like(X)
    return (
        back(log_prob.reshape(*mixtures.batch, n_samples)),
        back(responsibilities.reshape(*mixtures.batch, *responsibilities.shape[1:])),
    )


def gmm_statistics(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
    sample_weight: Any = None,
) -> GmmStatistics:
    """Sufficient statistics of one EM iteration, in one fused pass over ``X``.

    Neither log-probabilities nor responsibilities are stored: memory does not grow with
    ``n_samples``.

    Parameters
    ----------
    X, weights, means, precisions_cholesky, covariance_type
        As in `gmm_estep`.
    sample_weight : array_like of shape (..., n_samples), default=None
        Finite, not negative; None means ones.

    Returns
    -------
    GmmStatistics
        ``counts``, ``first_moments`` and ``second_moments`` about ``means``, ``log_likelihood``;
        all float64, summed in an order that does not depend on the number of threads.

    Raises
    ------
    TypeError, ValueError
        As in `gmm_estep`, and for a ``sample_weight`` of another shape, negative or not finite.

    Notes
    -----
    Moments about the previous means cancel nothing, and the M-step's closed form stays exact:
    ``mean + S1 / N`` and ``S2 / N - (S1 / N)(S1 / N)^T``. Statistics of a union of rows are the
    sum of the statistics (Neal & Hinton, 1998). Of float32 rows whose squares underflow the sums
    are taken in float64.
    """
    if on_gpu(X):
        from elbokit import _gpu_gmm

        parameters = weights, means, precisions_cholesky, covariance_type
        return _gpu_gmm.statistics(X, *parameters, sample_weight)
    mixtures = check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    size, _, n_features = mixtures.X.shape
    n_components = mixtures.weights.shape[1]
    row_weight, scale = check_sample_weight(sample_weight, mixtures)
    statistics = GmmStatistics(
        counts=np.empty((size, n_components)),
        first_moments=np.empty((size, n_components, n_features)),
        second_moments=np.empty(mixtures.precisions_cholesky.shape),
        log_likelihood=np.empty(size),
    )
    _core.gmm_statistics(
        mixtures.X,
        row_weight,
        *mixtures[2:],
        covariance_type,
        *statistics,  # type: ignore[arg-type]
    )
    if squares_underflow(statistics, mixtures.X, covariance_type):
        statistics = statistics_in_float64(mixtures, row_weight, covariance_type)
    if not all(np.isfinite(a).all() for a in statistics):
        require_finite_rows(mixtures)
        require_finite_moments(statistics, mixtures)
    shaped = [scale * a.reshape(mixtures.batch + np.shape(a)[1:]) for a in statistics]  # type: ignore[union-attr]
    counts, first, second, log_likelihood = shaped
    back = returns_like(X)
    return GmmStatistics(
        back(counts),
        back(first),
        back(second),
        back(log_likelihood) if mixtures.batch else float(log_likelihood),
    )


def gmm_fit(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str = "full",
    *,
    sample_weight: Any = None,
    offsets: Any = None,
    tol: float = 1e-3,
    max_iter: int = 100,
    reg_covar: float = 1e-6,
) -> GmmFit:
    """Fit Gaussian mixtures by EM from given parameters, many in one call.

    Small mixtures run each whole on one thread, large ones with threads over their rows; either
    way the bits are those of a fit alone on one thread.

    Parameters
    ----------
    X : array_like of shape (..., n_samples, n_features), float32 or float64
        Leading dimensions are independent mixtures; they broadcast with the parameters'. With
        ``offsets``, (n_rows, n_features).
    weights, means, precisions_cholesky, covariance_type
        The start; shapes as in `gmm_estep`. With ``offsets`` the batch is (n_mixtures,).
    sample_weight : array_like of shape (..., n_samples), default=None
        Finite, not negative, not all zero for a mixture; only ratios matter. With ``offsets``,
        (n_rows,). None means ones.
    offsets : array_like of int of shape (n_mixtures + 1,), default=None
        Mixture ``b`` has the rows ``X[offsets[b]:offsets[b + 1]]``; from 0 to ``n_rows``.
    tol : float, default=1e-3
        A run has converged when the bound per sample changes by less than this.
    max_iter : int, default=100
        Largest number of iterations.
    reg_covar : float, default=1e-6
        Added to the variances, to keep the covariances positive definite.

    Returns
    -------
    GmmFit
        ``weights``, ``means``, ``covariances``, ``precisions_cholesky``, ``lower_bound``, all
        float64 whatever ``X`` is, ``n_iter``, ``converged`` and ``status``. A failed mixture of a
        batch leaves the others alone: its parameters and bound are NaN, and its ``status`` says
        why.

    Raises
    ------
    SingularCovarianceError
        If there is one mixture, without batch dimensions or ``offsets``, and a covariance is not
        positive definite; it names the component.
    TypeError, ValueError
        As in `gmm_estep`; if an option, ``offsets`` or ``sample_weight`` is not as described; and,
        for one mixture, if no component explains any sample or the sums overflow.

    Notes
    -----
    Dempster, Laird & Rubin (1977). As in scikit-learn the bound of an iteration is that of its
    E-step. An emptied component keeps its mean and covariance, with weight 0. Where float32 sums
    cannot resolve a covariance the iteration is repeated in float64. Of an ``X`` on a GPU rows and
    results stay there; the parameters given may be there or on the CPU.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [9.0], [11.0], [5.0], [6.0], [0.0], [1.0]])
    >>> start = np.tile([0.5, 0.5], (2, 1)), [[[0.0], [9.0]], [[5.0], [0.0]]], np.ones((2, 2))
    >>> gmm_fit(X, *start, "spherical", offsets=[0, 4, 8]).means.round(3).tolist()
    [[[0.5], [10.0]], [[5.5], [0.5]]]
    """
    tol, max_iter, reg_covar = check_fit_options(tol, max_iter, reg_covar)
    if on_gpu(X):
        from elbokit import _gpu_gmm_fit

        return _gpu_gmm_fit.gmm_fit(
            X,
            weights,
            means,
            precisions_cholesky,
            covariance_type,
            sample_weight=sample_weight,
            offsets=offsets,
            tol=tol,
            max_iter=max_iter,
            reg_covar=reg_covar,
        )
    cut = None
    if offsets is not None:
        shape = as_float_array(X, "X").shape
        if len(shape) != 2:
            raise ValueError(f"`X` has shape {shape}, expected (n_rows, n_features) with `offsets`")
        cut = check_offsets(offsets, shape[0])
    mixtures = check_mixtures(
        X,
        weights,
        means,
        precisions_cholesky,
        covariance_type,
        None if cut is None else len(cut) - 1,
    )
    rows = mixtures.X.shape[:1] if cut is not None else (*mixtures.batch, mixtures.X.shape[1])
    row_weight = check_fit_weight(sample_weight, rows, cut)
    factors = np.array(mixtures.precisions_cholesky)
    covariances = np.empty_like(factors)
    n_components, n_features = mixtures.means.shape[1:]
    _core.gmm_covariances(covariance_type, n_components, n_features, factors, covariances)
    fit = run_fits(
        mixtures.X,
        cut,
        row_weight,
        covariance_type,
        (np.array(mixtures.weights), np.array(mixtures.means), covariances, factors),
        tol=tol,
        reg_covar=reg_covar,
        max_iter=max_iter,
    )
    failed = fit.status != FitStatus.OK
    if max_iter == 0 or failed.any() or np.isnan(fit.lower_bound).any():
        require_finite_rows(mixtures)
    given = "weights, means and precisions_cholesky"
    return as_gmm_fit(
        fit, mixtures.batch, not mixtures.batch, covariance_type, given, returns_like(X)
    )
