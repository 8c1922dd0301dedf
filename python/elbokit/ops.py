"""The kernels as functions: arrays in, arrays out.

Arrays may be NumPy's, or a CPU array of any library that speaks DLPack (torch, JAX, ...); results
come back as arrays of the first argument's library. Any strides are read in place.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import FloatArray, as_float_array, require_finite, returns_like
from elbokit._types import GmmStatistics

__all__ = ["GmmStatistics", "gmm_estep", "gmm_statistics", "logsumexp"]

# Dimensions of precisions_cholesky behind the batch, in terms of k components and d features.
_FACTOR_SHAPES = {"full": "kdd", "tied": "dd", "diag": "kd", "spherical": "k"}


def logsumexp(a: Any, axis: int | tuple[int, ...] | None = -1) -> Any:
    """Compute ``log(sum(exp(a), axis))`` without overflow.

    Parameters
    ----------
    a : array_like of shape (...), float32 or float64
        May contain infinities and NaN.
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
        If ``a`` is neither float32 nor float64.
    ValueError
        If ``axis`` is out of range.

    Examples
    --------
    >>> float(logsumexp([0.0, 0.0]))  # doctest: +ELLIPSIS
    0.69314...
    """
    values = as_float_array(a, "a")
    axes = range(values.ndim) if axis is None else axis
    axes = np.lib.array_utils.normalize_axis_tuple(axes, values.ndim, "axis")
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


class _Mixtures(NamedTuple):
    """Checked arguments: a flat batch, and the shape that it had."""

    batch: tuple[int, ...]
    X: FloatArray
    weights: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    precisions_cholesky: npt.NDArray[np.float64]


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
    the error grows with their size.
    """
    mixtures = _check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    size, n_samples, _ = mixtures.X.shape
    log_prob = np.empty((size, n_samples), dtype=mixtures.X.dtype)
    responsibilities = np.empty((*log_prob.shape, mixtures.weights.shape[1]), log_prob.dtype)
    _core.gmm_estep(*mixtures[1:], covariance_type, log_prob, responsibilities)
    if not np.isfinite(log_prob).all():
        _require_finite_rows(mixtures)
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
    sum of the statistics (Neal & Hinton, 1998).
    """
    mixtures = _check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    size, _, n_features = mixtures.X.shape
    n_components = mixtures.weights.shape[1]
    row_weight, scale = _check_sample_weight(sample_weight, mixtures)
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
    if not all(np.isfinite(a).all() for a in statistics):
        _require_finite_rows(mixtures)
        _require_finite_moments(statistics, mixtures)
    shaped = [scale * a.reshape(mixtures.batch + np.shape(a)[1:]) for a in statistics]  # type: ignore[union-attr]
    counts, first, second, log_likelihood = shaped
    back = returns_like(X)
    return GmmStatistics(
        back(counts),
        back(first),
        back(second),
        back(log_likelihood) if mixtures.batch else float(log_likelihood),
    )


def _check_mixtures(
    X: Any, weights: Any, means: Any, precisions_cholesky: Any, covariance_type: str
) -> _Mixtures:
    if not isinstance(covariance_type, str) or covariance_type not in _FACTOR_SHAPES:
        raise ValueError(
            f"`covariance_type` is {covariance_type!r}, "
            f"expected one of {', '.join(map(repr, _FACTOR_SHAPES))}"
        )
    rows = as_float_array(X, "X")
    arrays = {
        "weights": _as_parameter(weights, "weights"),
        "means": _as_parameter(means, "means"),
        "precisions_cholesky": _as_parameter(precisions_cholesky, "precisions_cholesky"),
    }
    if rows.ndim < 2:
        raise ValueError(f"`X` has shape {rows.shape}, expected (..., n_samples, n_features)")
    n_samples, n_features = rows.shape[-2:]
    if n_samples == 0 or n_features == 0:
        raise ValueError(f"`X` has shape {rows.shape}, expected at least one sample and feature")
    if arrays["weights"].ndim < 1 or arrays["weights"].shape[-1] == 0:
        raise ValueError(
            f"`weights` has shape {arrays['weights'].shape}, expected (..., n_components)"
        )
    sizes = {"k": arrays["weights"].shape[-1], "d": n_features}
    cores = {"weights": "k", "means": "kd", "precisions_cholesky": _FACTOR_SHAPES[covariance_type]}
    batches = [rows.shape[:-2]]
    for name, letters in cores.items():
        core = tuple(sizes[letter] for letter in letters)
        shape = arrays[name].shape
        if shape[max(0, len(shape) - len(core)) :] != core:
            raise ValueError(
                f"`{name}` has shape {shape}, expected (..., {', '.join(map(str, core))}) "
                f"for covariance_type={covariance_type!r}, {sizes['k']} components and "
                f"{n_features} features"
            )
        batches.append(shape[: len(shape) - len(core)])
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise ValueError(
            f"batch dimensions do not broadcast: `X` has {batches[0]}, `weights` {batches[1]}, "
            f"`means` {batches[2]}, `precisions_cholesky` {batches[3]}"
        ) from None
    _check_parameter_values(**arrays, covariance_type=covariance_type, dtype=rows.dtype)

    def flat(a: FloatArray, n_core: int) -> FloatArray:
        core = a.shape[a.ndim - n_core :]
        return np.broadcast_to(a, batch + core).reshape(math.prod(batch), *core)

    return _Mixtures(
        batch,
        flat(rows, 2),
        *(
            np.ascontiguousarray(flat(arrays[name], len(letters)), dtype=np.float64)
            for name, letters in cores.items()
        ),
    )


def _as_parameter(a: Any, name: str) -> npt.NDArray[np.float64]:
    return as_float_array(a, name).astype(np.float64, copy=False)


def _check_parameter_values(
    weights: npt.NDArray[np.float64],
    means: npt.NDArray[np.float64],
    precisions_cholesky: npt.NDArray[np.float64],
    covariance_type: str,
    dtype: np.dtype[Any],
) -> None:
    largest = np.finfo(dtype).max / 2
    for name, a in (
        ("weights", weights),
        ("means", means),
        ("precisions_cholesky", precisions_cholesky),
    ):
        if not np.isfinite(a).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
            raise ValueError(f"`{name}` has {a[where]} at {where}, expected finite values")
        if a.size and np.abs(a).max() > largest:
            raise ValueError(
                f"`{name}` has the value {np.abs(a).max():g}, which {dtype}, the dtype of `X`, "
                "cannot hold"
            )
    if (weights < 0).any() or not (weights.sum(axis=-1) > 0).all():
        raise ValueError(
            f"`weights` has minimum {weights.min()} and smallest sum "
            f"{weights.sum(axis=-1).min()}, expected values >= 0 with a positive sum"
        )
    triangular = covariance_type in ("full", "tied")
    diagonal = (
        np.diagonal(precisions_cholesky, axis1=-2, axis2=-1) if triangular else precisions_cholesky
    )
    if not (diagonal > 0).all():
        where = tuple(int(i) for i in np.argwhere(~(diagonal > 0))[0])
        raise ValueError(
            f"`precisions_cholesky` has the diagonal entry {diagonal[where]} at {where}, "
            f"expected values > 0"
        )
    if triangular and np.tril(precisions_cholesky, -1).any():
        raise ValueError(
            "`precisions_cholesky` has entries below the diagonal, expected upper triangles"
        )


def _check_sample_weight(
    sample_weight: Any, mixtures: _Mixtures
) -> tuple[FloatArray | None, float]:
    """Return weights of about 1 in the dtype of X, and what to multiply the statistics by."""
    if sample_weight is None:
        return None, 1.0
    given = as_float_array(sample_weight, "sample_weight")
    expected = (*mixtures.batch, mixtures.X.shape[1])
    try:
        row_weight = np.broadcast_to(given, expected)
    except ValueError:
        row_weight = None
    if row_weight is None or given.ndim == 0 or given.shape[-1] != expected[-1]:
        raise ValueError(f"`sample_weight` has shape {given.shape}, expected {expected}")
    require_finite(given, "sample_weight", axis=-1)
    if (given < 0).any():
        raise ValueError(f"`sample_weight` has the value {given.min()}, expected values >= 0")
    # A power of two changes no digit, and keeps float64 weights of any size within float32.
    largest = float(given.max(initial=0.0))
    scale = 2.0 ** min(1000, max(-1000, math.frexp(largest)[1])) if largest > 0 else 1.0
    scaled = (row_weight / scale).astype(mixtures.X.dtype, copy=False)
    return scaled.reshape(mixtures.X.shape[:2]), scale


def _require_finite_moments(statistics: GmmStatistics, mixtures: _Mixtures) -> None:
    for name, a in zip(statistics._fields, statistics, strict=True):
        if name != "log_likelihood" and not np.isfinite(a).all():
            raise ValueError(
                f"`X` has values up to {np.abs(mixtures.X).max():g}: {name} overflow "
                f"{mixtures.X.dtype}; scale the data or pass float64"
            )


def _require_finite_rows(mixtures: _Mixtures) -> None:
    # The check costs a pass over the data, so it runs only when a result is not finite.
    require_finite(mixtures.X.reshape(*mixtures.batch, *mixtures.X.shape[1:]), "X")
