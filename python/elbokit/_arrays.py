"""Arrays of any library in, arrays of the same library out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "as_float_array", "require_finite", "returns_like"]

FloatArray = npt.NDArray[np.floating[Any]]

_DLPACK_CPU = 1


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
    if not isinstance(a, np.ndarray):
        if hasattr(a, "__dlpack_device__"):
            kind, number = a.__dlpack_device__()
            if kind != _DLPACK_CPU:
                raise ValueError(
                    f"`{name}` is on DLPack device ({int(kind)}, {number}), expected the CPU "
                    f"({_DLPACK_CPU}, 0): this build of elbokit has no CUDA kernels"
                )
            # Autograd tensors do not export themselves; their values are wanted, not their history.
            a = a.detach() if hasattr(a, "detach") else a
            try:
                a = np.from_dlpack(a)
            except (BufferError, RuntimeError) as error:  # e.g. bfloat16
                raise TypeError(
                    f"`{name}` has dtype {a.dtype}, expected float32 or float64"
                ) from error
        else:
            a = np.asarray(a)
    if a.dtype.kind != "f" or a.itemsize not in (4, 8):
        raise TypeError(f"`{name}` has dtype {a.dtype}, expected float32 or float64")
    native: FloatArray = np.asarray(a, dtype=a.dtype.newbyteorder("="))
    whole = native.flags.aligned and all(s % native.itemsize == 0 for s in native.strides)
    return native if whole else native.copy()


def returns_like(a: Any) -> Callable[[FloatArray], Any]:
    """Return the function that hands a NumPy result back as an array of ``a``'s library."""
    if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack__"):
        return lambda result: result
    from_dlpack = importlib.import_module(type(a).__module__.partition(".")[0]).from_dlpack
    return lambda result: from_dlpack(result)


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
    where = np.argwhere(bad)[0]
    row = ", ".join(str(i) for i in where)
    values = a[tuple(where)]
    raise ValueError(
        f"`{name}` has NaN or infinity in row {row}, expected finite values; "
        f"the row is {np.array2string(values, threshold=8)}"
    )
