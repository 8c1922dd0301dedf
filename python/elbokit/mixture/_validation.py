"""Checks of the estimator's array arguments; messages begin as scikit-learn's do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import validate_data

from elbokit._arrays import as_numpy, naming
from elbokit.mixture._parameters import covariance_shape, first_indefinite

__all__ = [
    "GivenParameters",
    "IntegerInterval",
    "check_given",
    "check_sample_weight",
    "checked_weight",
    "column_name",
    "has_plain_layout",
    "is_plain",
    "refuse_infinite",
    "refuse_missing",
    "scaled_weight",
    "validate_rows",
    "without_mask",
]

Array = npt.NDArray[np.float64]

_LOOK_ROWS = 65_536  # looked at together, so that a large X asks for little memory


class IntegerInterval(Interval):  # type: ignore[misc]
    """An interval of integers without True and False, which Python counts among them."""

    def is_satisfied_by(self, val: object) -> bool:
        """Tell whether `val` is an integer of the interval."""
        return not isinstance(val, bool) and bool(super().is_satisfied_by(val))


class GivenParameters(NamedTuple):
    """The starting parameters that the caller chose, float64; None where not given."""

    weights: Array | None
    means: Array | None
    precisions: Array | None


def check_given(
    weights_init: Any,
    means_init: Any,
    precisions_init: Any,
    covariance_type: str,
    n_components: int,
    n_features: int,
) -> GivenParameters:
    """Check `weights_init`, `means_init` and `precisions_init`.

    Parameters
    ----------
    weights_init : array-like of shape (n_components,) or None
        In [0, 1], sum 1.
    means_init : array-like of shape (n_components, n_features) or None
        Component means.
    precisions_init : array-like or None
        Positive definite, in the shape of `covariance_type`.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    n_components, n_features : int
        Sizes of the model.

    Returns
    -------
    given : GivenParameters
        What is not None, checked and in float64.

    Raises
    ------
    ValueError
        If a shape or value is not as described; the message names the argument.
    """
    return GivenParameters(
        None if weights_init is None else _check_weights(weights_init, n_components),
        None if means_init is None else _check_means(means_init, n_components, n_features),
        None
        if precisions_init is None
        else _check_precisions(precisions_init, covariance_type, n_components, n_features),
    )


def is_plain(X: Any) -> bool:
    """Tell whether X is a finite C-contiguous matrix of floats, which needs no conversion.

    The sum is finite where all values are, unless it overflows: then the answer is no, too.
    """
    if not has_plain_layout(X):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum()))


def has_plain_layout(X: Any) -> bool:
    """Tell whether X is a C-contiguous matrix of floats, finite or not."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.dtype not in (np.float64, np.float32):
        return False
    return bool(X.size > 0 and X.flags.c_contiguous and X.flags.aligned)


def _as_floats(values: Any, name: str, allow_nd: bool = False) -> Any:
    """Return a finite float array; the checks are scikit-learn's.

    A float array that passes them needs no more than a look, which takes a fraction of what
    `check_array` takes to find out what it was given.
    """
    values = as_numpy(values, name)
    if (
        type(values) is np.ndarray
        and values.dtype in (np.float64, np.float32)
        and values.size > 0
        and (allow_nd or values.ndim <= 2)
        and np.isfinite(values).all()
    ):
        return values
    with naming(name):
        return check_array(
            values,
            dtype=[np.float64, np.float32],
            ensure_2d=False,
            allow_nd=allow_nd,
            input_name=name,
        )


def _check_weights(weights: Any, n_components: int) -> Array:
    """Check `weights_init`: shape (n_components,), in [0, 1], sum 1; return float64."""
    given = _as_floats(weights, "weights_init")
    _check_shape(given, (n_components,), "weights", "weights_init")
    if (given < 0.0).any() or (given > 1.0).any():
        # scikit-learn's text to the letter, which calls the smaller one the maximum.
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{given.min():.5f}, min value {given.max():.5f} (weights_init)"
        )
    tolerance = 1e-6 if given.dtype == np.float32 else 1e-8
    total = float(given.sum(dtype=np.float64))
    if abs(1.0 - total) > tolerance:
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{total:.5f} (weights_init)"
        )
    return np.asarray(given, dtype=np.float64)


def _check_means(means: Any, n_components: int, n_features: int) -> Array:
    """Check `means_init`: shape (n_components, n_features); return float64."""
    given = _as_floats(means, "means_init")
    _check_shape(given, (n_components, n_features), "means", "means_init")
    return np.asarray(given, dtype=np.float64)


def _check_precisions(
    precisions: Any, covariance_type: str, n_components: int, n_features: int
) -> Array:
    """Check `precisions_init`: shape and positive definiteness; return float64."""
    given = _as_floats(precisions, "precisions_init", allow_nd=covariance_type == "full")
    shape = covariance_shape(covariance_type, n_components, n_features)
    _check_shape(given, shape, f"{covariance_type} precision", "precisions_init")
    if covariance_type in ("diag", "spherical"):
        if (given <= 0.0).any():
            raise ValueError(
                f"'{covariance_type} precision' should be positive, but got the minimum "
                f"{given.min()} (precisions_init)"
            )
    else:
        matrices = given.reshape(-1, n_features, n_features)
        mirrored = matrices.swapaxes(-1, -2)
        near = np.abs(matrices - mirrored) <= 1e-8 + 1e-5 * np.abs(mirrored)
        valid = near.all(axis=(-1, -2))
        indefinite = first_indefinite(matrices)
        if indefinite >= 0:
            valid[indefinite] = False
        if not valid.all():
            first = f"component {int(np.argmin(valid))}" if covariance_type == "full" else "it"
            raise ValueError(
                f"'{covariance_type} precision' should be symmetric, positive-definite, "
                f"but {first} is not (precisions_init)"
            )
    return np.asarray(given, dtype=np.float64)


def check_sample_weight(sample_weight: Any, n_samples: int) -> Array | None:
    """Check the weights of the samples.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
        Non-negative weights, not all zero.
    n_samples : int
        Number of rows of X.

    Returns
    -------
    sample_weight : ndarray of shape (n_samples,) or None
        float64 weights, the largest in [0.5, 1); None where all are equal. Only ratios matter.

    Raises
    ------
    ValueError
        If shape or values are not as described.
    """
    if sample_weight is None:
        return None
    given = checked_weight(sample_weight, n_samples)
    if (given == given[0]).all():
        return None
    return scaled_weight(given)


def scaled_weight(weight: Array) -> Array:
    """Return weights times a power of two, the largest in [0.5, 1)."""
    # Neither sums nor float32 can then overflow, and every ratio is as it was.
    return np.asarray(np.ldexp(weight, -np.frexp(weight.max())[1]))


def checked_weight(sample_weight: Any, n_samples: int) -> Array:
    """Return the weights in float64 as they came; raises what `check_sample_weight` raises."""
    given: Array = np.asarray(as_numpy(sample_weight, "sample_weight"))
    if given.ndim == 0 and given.dtype.kind in "OSU":  # a generator, a sparse matrix, text
        raise TypeError(
            f"sample_weight is a {type(sample_weight).__name__}, expected an array of shape "
            f"({n_samples},), one weight per sample"
        )
    if given.shape != (n_samples,):
        raise ValueError(
            f"sample_weight has shape {given.shape}, expected ({n_samples},), one weight per sample"
        )
    with naming("sample_weight"):
        given = check_array(
            given,
            dtype=np.float64,
            ensure_2d=False,
            ensure_all_finite=False,
            input_name="sample_weight",
        )
    if not np.isfinite(given).all():
        row = int(np.argmin(np.isfinite(given)))
        word = "NaN" if np.isnan(given[row]) else "infinity"
        raise ValueError(f"Input sample_weight contains {word}, first for sample {row}")
    if (given < 0.0).any():
        row = int(np.argmax(given < 0.0))
        raise ValueError(
            f"sample_weight must be non-negative, got {given[row]} for sample {row} "
            "(Negative values in data passed to `sample_weight`)"
        )
    if not given.any():
        raise ValueError("sample_weight must have a positive sum, got all zeros")
    return given


def _check_shape(array: Any, shape: tuple[int, ...], name: str, argument: str) -> None:
    """Raise scikit-learn's message for a wrong shape."""
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape} "
            f"({argument})"
        )


_INTEGRATE = (
    "GaussianMixture takes NaN for missing values, and integrates them out, with "
    "missing='integrate'."
)


def validate_rows(
    estimator: Any, X: Any, missing: str, advice: str = _INTEGRATE, **options: Any
) -> npt.NDArray[Any]:
    """Return scikit-learn's reading of the data, with NaN where `missing` allows it.

    Parameters
    ----------
    estimator : GaussianMixture
        Its names of features, and their number, are compared or set.
    X : array-like of shape (n_samples, n_features)
        Masked entries are missing.
    missing : {'error', 'integrate'}
        Whether entries may be missing.
    advice : str
        What to do about them, for the error.
    **options
        For scikit-learn's ``validate_data``.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float32 or float64

    Raises
    ------
    ValueError
        If there is an infinity, or a NaN that is not allowed: row and column are named. Or a mask.
    """
    with naming("X"):
        X = validate_data(
            estimator,
            without_mask(X, missing, advice),
            dtype=[np.float64, np.float32],
            order="C",
            ensure_all_finite=False,
            **options,
        )
    data, names = np.asarray(X), getattr(estimator, "feature_names_in_", None)
    refuse_infinite(data, names)
    if missing == "error":
        refuse_missing(data, names, advice)
    return data


def without_mask(X: Any, missing: str, advice: str = _INTEGRATE) -> Any:
    """Return a masked array's entries with NaN for those that are masked; else X."""
    if not isinstance(X, np.ma.MaskedArray):
        return X
    if missing == "error" and np.ma.is_masked(X):
        raise ValueError(f"X is an array with masked entries, expected all of them. {advice}")
    return np.ma.filled(X.astype(np.result_type(X.dtype, np.float32)), np.nan)


def refuse_missing(X: npt.NDArray[Any], names: Any = None, advice: str = _INTEGRATE) -> None:
    """Raise ValueError for the first NaN of a data matrix; `names` are those of its columns."""
    place = _first(np.isnan, X, names)
    if place is not None:
        raise ValueError(f"Input X contains NaN, first in {place}. {advice}")


def refuse_infinite(X: npt.NDArray[Any], names: Any = None) -> None:
    """Raise ValueError for the first infinity of a data matrix."""
    place = _first(np.isinf, X, names)
    if place is not None:
        raise ValueError(f"Input X contains infinity, first in {place}, expected finite values")


def _first(found: np.ufunc, X: npt.NDArray[Any], names: Any) -> str | None:
    """Name the first entry of which `found` is true."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(X.sum()):  # a sum costs less than a look at each entry
            return None
    for begin in range(0, len(X), _LOOK_ROWS):
        places = np.argwhere(found(X[begin : begin + _LOOK_ROWS]))
        if len(places):
            row, column = places[0].tolist()
            return f"row {begin + row}, {column_name(column, names)}"
    return None


def column_name(column: int, names: Any) -> str:
    """Return what errors call a feature."""
    return f"column {column}" if names is None else f"column {column} ({names[column]!r})"
