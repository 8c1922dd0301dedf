"""What the mixture's functions are given: checked, and as the kernels read it."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from elbokit._arrays import FloatArray, as_float_array, as_weights, require_finite
from elbokit._types import GmmStatistics

__all__ = [
    "Mixtures",
    "check_count",
    "check_covariance_type",
    "check_finite",
    "check_mixtures",
    "check_offsets",
    "check_parameter_values",
    "check_row_shape",
    "check_rows",
    "check_sample_weight",
    "check_shapes",
    "core_dimensions",
    "require_finite_moments",
    "require_finite_rows",
    "weight_scale",
]

# Dimensions of precisions_cholesky behind the batch, in terms of k components and d features.
_FACTOR_SHAPES = {"full": "kdd", "tied": "dd", "diag": "kd", "spherical": "k"}


class Mixtures(NamedTuple):
    """Checked arguments: a flat batch, and the shape that it had."""

    batch: tuple[int, ...]
    X: FloatArray
    weights: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    precisions_cholesky: npt.NDArray[np.float64]


class Batched(Protocol):
    """Rows of independent problems, and the batch dimensions that they had."""

    @property
    def batch(self) -> tuple[int, ...]: ...

    @property
    def X(self) -> FloatArray: ...


def check_rows(X: Any) -> FloatArray:
    """Return ``X`` as an array of shape (..., n_samples, n_features), neither of them zero."""
    rows = as_float_array(X, "X")
    check_row_shape(rows.shape)
    return rows


def check_covariance_type(covariance_type: str) -> None:
    if not isinstance(covariance_type, str) or covariance_type not in _FACTOR_SHAPES:
        raise ValueError(
            f"`covariance_type` is {covariance_type!r}, "
            f"expected one of {', '.join(map(repr, _FACTOR_SHAPES))}"
        )


def core_dimensions(covariance_type: str) -> tuple[int, int, int]:
    """Dimensions of weights, means and precisions_cholesky behind the batch."""
    return 1, 2, len(_FACTOR_SHAPES[covariance_type])


def check_shapes(
    rows: tuple[int, ...],
    parameters: dict[str, tuple[int, ...]],
    covariance_type: str,
    n_ragged: int | None = None,
) -> tuple[int, ...]:
    """Check the shapes of X and of the parameters by name; return the batch dimensions."""
    weights = parameters["weights"]
    if len(weights) < 1 or weights[-1] == 0:
        raise ValueError(f"`weights` has shape {weights}, expected (..., n_components)")
    sizes = {"k": weights[-1], "d": rows[-1]}
    cores = {"weights": "k", "means": "kd", "precisions_cholesky": _FACTOR_SHAPES[covariance_type]}
    batches = [rows[:-2] if n_ragged is None else (n_ragged,)]
    for name, letters in cores.items():
        core = tuple(sizes[letter] for letter in letters)
        shape = parameters[name]
        if shape[max(0, len(shape) - len(core)) :] != core:
            raise ValueError(
                f"`{name}` has shape {shape}, expected (..., {', '.join(map(str, core))}) "
                f"for covariance_type={covariance_type!r}, {sizes['k']} components and "
                f"{sizes['d']} features"
            )
        batches.append(shape[: len(shape) - len(core)])
    try:
        batch = np.broadcast_shapes(*batches)
    except ValueError:
        raise ValueError(
            f"batch dimensions do not broadcast: `X` has {batches[0]}, `weights` {batches[1]}, "
            f"`means` {batches[2]}, `precisions_cholesky` {batches[3]}"
        ) from None
    if n_ragged is not None and batch != (n_ragged,):
        raise ValueError(
            f"the parameters have batch dimensions {batch}, expected ({n_ragged},) as by `offsets`"
        )
    return batch


def check_row_shape(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or 0 in shape[-2:]:
        raise ValueError(
            f"`X` has shape {shape}, expected (..., n_samples, n_features) with at least one "
            "sample and feature"
        )


def check_mixtures(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str,
    n_ragged: int | None = None,
) -> Mixtures:
    """Check and flatten. n_ragged: so many mixtures share the rows of a two-dimensional ``X``."""
    check_covariance_type(covariance_type)
    rows = check_rows(X)
    arrays = {
        "weights": _as_parameter(weights, "weights"),
        "means": _as_parameter(means, "means"),
        "precisions_cholesky": _as_parameter(precisions_cholesky, "precisions_cholesky"),
    }
    shapes = {name: a.shape for name, a in arrays.items()}
    batch = check_shapes(rows.shape, shapes, covariance_type, n_ragged)
    check_parameter_values(**arrays, covariance_type=covariance_type, dtype=rows.dtype)

    def flat(a: FloatArray, n_core: int) -> FloatArray:
        core = a.shape[a.ndim - n_core :]
        return np.broadcast_to(a, batch + core).reshape(math.prod(batch), *core)

    return Mixtures(
        batch,
        rows if n_ragged is not None else flat(rows, 2),
        *(
            np.ascontiguousarray(flat(a, n_core), dtype=np.float64)
            for a, n_core in zip(arrays.values(), core_dimensions(covariance_type), strict=True)
        ),
    )


def _as_parameter(a: Any, name: str) -> npt.NDArray[np.float64]:
    return as_float_array(a, name).astype(np.float64, copy=False)


def check_finite(a: npt.NDArray[np.float64], name: str) -> None:
    """Raise ValueError that names the first entry of a parameter that is not finite."""
    if not np.isfinite(a).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
        raise ValueError(f"`{name}` has {a[where]} at {where}, expected finite values")


def check_parameter_values(
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
        check_finite(a, name)
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


def check_sample_weight(sample_weight: Any, mixtures: Batched) -> tuple[FloatArray | None, float]:
    """Return weights of about 1 in the dtype of X, and what to multiply the statistics by."""
    if sample_weight is None:
        return None, 1.0
    given = as_weights(sample_weight)
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
    scale = weight_scale(float(given.max(initial=0.0)))
    scaled = row_weight if scale == 1.0 else row_weight / scale
    scaled = scaled.astype(mixtures.X.dtype, copy=False)
    return scaled.reshape(mixtures.X.shape[:2]), scale


def weight_scale(largest: float) -> float:
    """Return a power of two, which changes no digit, and keeps weights of any size in float32."""
    return 2.0 ** min(1000, max(-1000, math.frexp(largest)[1])) if largest > 0 else 1.0


def require_finite_moments(statistics: GmmStatistics, mixtures: Mixtures) -> None:
    for name, a in zip(statistics._fields, statistics, strict=True):
        if name != "log_likelihood" and not np.isfinite(a).all():
            raise ValueError(
                f"`X` has values up to {np.abs(mixtures.X).max():g}: {name} overflow "
                f"{mixtures.X.dtype}; scale the data or pass float64"
            )


def require_finite_rows(mixtures: Mixtures) -> None:
    # The check costs a pass over the data, so it runs only when a result is not finite.
    ragged = mixtures.X.ndim == 2
    require_finite(
        mixtures.X if ragged else mixtures.X.reshape(*mixtures.batch, *mixtures.X.shape[1:]), "X"
    )


def check_count(name: str, value: Any) -> None:
    """Raise TypeError unless `value` is an int, ValueError unless it is above zero."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"`{name}` is {value!r}, expected an int")
    if value < 1:
        raise ValueError(f"`{name}` is {value}, expected at least 1")


def check_offsets(offsets: Any, n_rows: int, *, least: int = 1) -> npt.NDArray[np.int64]:
    """Return the rows where each problem of a batch begins, and the end of the last.

    Each has `least` of them, 0 or 1, at least.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If they do not rise from 0 to ``n_rows``.
    """
    given = np.asarray(offsets)
    if given.dtype.kind not in "iu":
        raise TypeError(f"`offsets` has dtype {given.dtype}, expected integers")
    if given.ndim != 1 or len(given) < 2:
        raise ValueError(f"`offsets` has shape {given.shape}, expected (n_problems + 1,)")
    cut = np.ascontiguousarray(given, dtype=np.int64)
    if cut[0] != 0 or cut[-1] != n_rows:
        raise ValueError(
            f"`offsets` run from {cut[0]} to {cut[-1]}, expected from 0 to the {n_rows} rows of `X`"
        )
    empty = np.flatnonzero(np.diff(cut) < least)
    if len(empty):
        raise ValueError(
            f"`offsets` give problem {empty[0]} the rows from {cut[empty[0]]} to "
            f"{cut[empty[0] + 1]}, expected {'at least one' if least else 'none to go back'}"
        )
    return cut
