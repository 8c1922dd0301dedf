"""The same values in every memory layout that a caller can bring."""

from __future__ import annotations

import numpy as np

LAYOUTS = (
    "contiguous",
    "fortran",
    "row_slice",
    "column_slice",
    "negative_rows",
    "negative_columns",
    "read_only",
    "unaligned",
    "swapped_bytes",
)


def with_layout(a: np.ndarray, layout: str) -> np.ndarray:
    """Return an array equal to the matrix ``a`` (..., n, m) whose memory is laid out otherwise."""
    n, m = a.shape[-2:]
    if layout == "contiguous":
        return a.copy()
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "row_slice":
        out = np.full((*a.shape[:-2], 2 * n + 1, m), np.nan, a.dtype)[..., 1::2, :]
    elif layout == "column_slice":
        out = np.full((*a.shape[:-2], n, 3 * m), np.nan, a.dtype)[..., ::3]
    elif layout == "negative_rows":
        out = np.empty_like(a)[..., ::-1, :]
    elif layout == "negative_columns":
        out = np.empty_like(a)[..., ::-1]
    elif layout == "read_only":
        out = a.copy()
        out.flags.writeable = False
        return out
    elif layout == "unaligned":
        out = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, a.size, offset=1).reshape(a.shape)
    elif layout == "swapped_bytes":
        return a.astype(a.dtype.newbyteorder())
    else:
        raise AssertionError(layout)
    out[...] = a
    return out
