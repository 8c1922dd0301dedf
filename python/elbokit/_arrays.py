"""Arrays of any library in, arrays of the same library out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "FloatArray",
    "as_float_array",
    "as_numpy",
    "as_weights",
    "library_of",
    "naming",
    "not_finite",
    "require_finite",
    "returns_like",
]

FloatArray = npt.NDArray[np.floating[Any]]

_DLPACK_CPU = 1
# DLPack's numbers of memory that the CPU reads: its own, and that which CUDA or ROCm pinned.
_HOST_KINDS = (_DLPACK_CPU, 3, 11)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Let errors of NumPy and scikit-learn about a value begin with the argument's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if name in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`{name}`: {error}") from error


def as_float_array(a: Any, name: str) -> FloatArray:
    """Return ``a`` as a NumPy array that the kernels read, without a copy where possible.

    Parameters
    ----------
    a : array_like
        A NumPy array, a nested list of floats, or a CPU array of a library that speaks DLPack.
    name : str
        The argument's name, for the errors.

    Raises
    ------
    TypeError
        If the value type is neither float32 nor float64.
    ValueError
        If the array is not in the CPU's memory, or is ragged.
    """
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"`{name}` is a masked array, expected one without a mask: fill or drop")
    if not isinstance(a, np.ndarray):
        a = _from_dlpack(a, name) if hasattr(a, "__dlpack_device__") else _from_list(a, name)
    if a.dtype.kind != "f" or a.itemsize not in (4, 8):
        raise TypeError(f"`{name}` has dtype {a.dtype}, expected float32 or float64")
    native: FloatArray = np.asarray(a, dtype=a.dtype.newbyteorder("="))
    whole = native.flags.aligned and all(s % native.itemsize == 0 for s in native.strides)
    return native if whole else native.copy()


def as_weights(sample_weight: Any) -> FloatArray:
    """Return `sample_weight` as by `as_float_array`; integers, numbers of copies, in float64."""
    if isinstance(sample_weight, np.ndarray) and sample_weight.dtype.kind in "iu":
        sample_weight = sample_weight.astype(np.float64)
    return as_float_array(sample_weight, "sample_weight")


def _from_list(a: Any, name: str) -> npt.NDArray[Any]:
    try:
        array = np.asarray(a)
    except ValueError as error:
        raise ValueError(f"`{name}` is no rectangular array: {error}") from error
    # Numbers written without a point have no type that they insist on.
    return array.astype(np.float64) if array.dtype.kind in "iu" else array


def _from_dlpack(a: Any, name: str) -> npt.NDArray[Any]:
    try:
        kind, number = a.__dlpack_device__()
    except ValueError as error:  # such as torch's meta tensors
        raise ValueError(f"`{name}` is in no memory that can be read: {error}") from error
    if kind not in _HOST_KINDS:
        raise ValueError(
            f"`{name}` is on DLPack device ({int(kind)}, {number}), expected the CPU "
            f"({_DLPACK_CPU}, 0): there is no CUDA kernel for this; copy it to the CPU first, in "
            f"torch by .cpu()"
        )
    # Autograd tensors do not export themselves, and torch's lazy negation is not exported:
    # the values are wanted, not how they came about.
    for resolve in ("detach", "resolve_conj", "resolve_neg"):
        a = getattr(a, resolve)() if hasattr(a, resolve) else a
    try:
        return np.from_dlpack(a)
    except (BufferError, RuntimeError, TypeError) as error:  # bfloat16, sparse, ...
        raise TypeError(
            f"`{name}` is {type(a).__module__}.{type(a).__name__} of dtype {a.dtype}, expected "
            f"dense float32 or float64: {error}"
        ) from error


def as_numpy(a: Any, name: str) -> Any:
    """Return an array of another library as a NumPy array, and everything else as it is.

    Parameters
    ----------
    a : object
        Of a library that speaks DLPack: any real dtype; numbers of two bytes become float32.
    name : str
        The argument's name, for the errors.

    Raises
    ------
    TypeError
        If NumPy cannot read the array, as one that is sparse.
    ValueError
        If it is not in the CPU's memory.
    """
    library = library_of(a)
    if library is None or not (hasattr(a, "__dlpack_device__") and hasattr(a, "dtype")):
        return a
    if "float16" in str(a.dtype) and a.__dlpack_device__()[0] in _HOST_KINDS:  # bfloat16 too
        wide = library.float32
        a = library.astype(a, wide) if hasattr(library, "astype") else a.to(wide)
    return _from_dlpack(a, name)


def library_of(a: Any) -> Any:
    """Return the module that makes arrays of ``a``'s kind, or None for NumPy and all others."""
    if isinstance(a, (np.ndarray, np.generic)) or not hasattr(a, "__dlpack__"):
        return None
    if hasattr(a, "__array_namespace__"):
        return a.__array_namespace__()
    # torch, also for a user's subclass of Tensor
    base = next(c for c in type(a).__mro__ if hasattr(c, "__dlpack__") and "__dlpack__" in vars(c))
    return importlib.import_module(base.__module__.partition(".")[0])


def returns_like(a: Any) -> Callable[[npt.NDArray[Any]], Any]:
    """Return the function that hands a NumPy result back as an array of ``a``'s library."""
    library = library_of(a)
    if library is None:
        return lambda result: result
    return lambda result: library.from_dlpack(result)


def require_finite(a: FloatArray, name: str, axis: int = -2) -> None:
    """Raise ValueError that names the first row of ``a`` with a NaN or an infinity.

    Parameters
    ----------
    a : ndarray of shape (..., n_rows, n_columns)
        With ``axis=-1`` of shape (..., n_rows).
    """
    bad: npt.NDArray[np.bool_] = ~np.isfinite(a)
    if axis == -2:
        bad = np.any(bad, axis=-1)
    if not bad.any():
        return
    where = tuple(np.argwhere(bad)[0])
    raise not_finite(name, where, a[where])


def not_finite(name: str, where: tuple[int, ...], values: FloatArray) -> ValueError:
    """Return the error that names a row with a NaN or an infinity."""
    row = ", ".join(str(i) for i in where)
    return ValueError(
        f"`{name}` has NaN or infinity in row {row}, expected finite values; "
        f"the row is {np.array2string(values, threshold=8)}"
    )
