"""Rows that come in chunks: told from arrays, checked, and brought into blocks of useful size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from elbokit.mixture._validation import without_mask

__all__ = ["Chunk", "ChunkReader", "are_chunks", "into_blocks", "refuse_chunks"]

Rows = npt.NDArray[Any]

# A block costs some 20 microseconds beside its rows, about as much as a copy of 1,000 rows: chunks
# with fewer are gathered into blocks of the second size.
_SMALL_CHUNK = 1024
_BLOCK_ROWS = 4096


class Chunk(NamedTuple):
    """Rows with the weights that they have, none of them zero; None stands for ones."""

    rows: Rows
    weight: npt.NDArray[np.float64] | None


def are_chunks(X: Any) -> bool:
    """Tell whether X is no array but gives arrays of rows one after the other.

    Anything that iterates and is no array, text, mapping or set; a list or tuple only if its first
    item has two dimensions (or is a list of such items, as torch's data loaders make them).

    Raises
    ------
    TypeError
        If X can be read only once.
    """
    array_like = any(hasattr(X, a) for a in ("shape", "__array__", "__array_interface__"))
    if array_like or isinstance(X, (str, bytes, Mapping, Set)) or not hasattr(X, "__iter__"):
        return False
    if isinstance(X, Iterator):
        raise TypeError(
            f"X is a {type(X).__name__}, which can be read only once, but every iteration of EM "
            "reads the data again; pass an array, or something that can be iterated over many "
            "times: a list of chunks, or an object whose __iter__ starts anew"
        )
    if isinstance(X, Sequence):
        first = X[0] if len(X) else None
        if isinstance(first, (list, tuple)) and len(first):
            first = first[0]
        return _is_matrix(first)
    return True


def refuse_chunks(X: Any, method: str) -> None:
    """Raise TypeError if X comes in chunks, of which `method` takes only one."""
    if are_chunks(X):
        raise TypeError(
            f"{method} takes one array, got {type(X).__name__} with chunks of rows; call it for "
            "each chunk"
        )


def _is_matrix(a: Any) -> bool:
    return len(getattr(a, "shape", ())) == 2


class ChunkReader:
    """Reads all chunks, as often as asked.

    Parameters
    ----------
    X : iterable of array-like of shape (n_rows, n_features)
        Read anew by each :meth:`read`. A chunk may be the only item of a list.
    sample_weight : iterable of array-like of shape (n_rows,), array-like or None
        A chunk's weights each, or those of all rows in order.
    estimator : BaseEstimator
        Learns the number and names of the features from the first chunk.
    """

    def __init__(self, X: Iterable[Any], sample_weight: Any, estimator: BaseEstimator) -> None:
        self._chunks = X
        self._weights = sample_weight
        self._estimator = estimator
        self._checked = False

    def read(self, dtype: np.dtype[Any] | None = None) -> Iterator[Chunk]:
        """Go through the chunks once, without the rows of weight zero.

        Parameters
        ----------
        dtype : dtype or None
            That of the rows. None, for the first time: float32 stays so, everything else becomes
            float64, and everything is checked.

        Raises
        ------
        TypeError, ValueError
            As scikit-learn's checks, with the number of the chunk, and the row with NaN.
        """
        weights = self._weights_of_chunks()
        n_features = None if dtype is None else self._estimator.n_features_in_
        for index, given in enumerate(self._chunks):
            rows = self._matrix(given, index, dtype, n_features)
            if weights is None:
                yield Chunk(rows, None)
                continue
            weight = _check_weight(weights, len(rows), index)
            kept = weight > 0.0
            if kept.all():
                yield Chunk(rows, weight)
            elif kept.any():
                yield Chunk(rows[kept], weight[kept])
        if weights is not None and weights.left_over():
            raise ValueError("sample_weight has more weights than X has rows")

    def _matrix(
        self, chunk: Any, index: int, dtype: np.dtype[Any] | None, n_features: int | None
    ) -> Rows:
        """Return one chunk as the core reads it."""
        if isinstance(chunk, (list, tuple)) and len(chunk) and _is_matrix(chunk[0]):
            if len(chunk) > 1:
                raise ValueError(
                    f"chunk {index} of X is a {type(chunk).__name__} of {len(chunk)} items, "
                    "expected an array of rows, alone; weights go into sample_weight"
                )
            chunk = chunk[0]
        if n_features is not None and _is_ready(chunk, dtype, n_features):
            return np.asarray(chunk)
        options: dict[str, Any] = {"order": "C", "ensure_all_finite": False}
        options["ensure_min_samples"] = 0
        try:
            chunk = without_mask(chunk, "error", "Chunks are of complete rows only.")
            if n_features is None:
                dtypes = [np.float64, np.float32]
                reset, self._checked = not self._checked, True
                rows = validate_data(self._estimator, chunk, reset=reset, dtype=dtypes, **options)
                _require_finite(rows, index)
                return np.asarray(rows)
            rows = check_array(chunk, dtype=dtype, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"chunk {index} of X: {error}") from error
        if rows.shape[1] != n_features:
            raise ValueError(
                f"chunk {index} of X has {rows.shape[1]} features in a later pass, expected "
                f"{n_features} as before"
            )
        return np.asarray(rows)

    def _weights_of_chunks(self) -> _Weights | None:
        return None if self._weights is None else _Weights(self._weights)


class _Weights:
    """Hands out the weights of one chunk after the other."""

    def __init__(self, sample_weight: Any) -> None:
        if isinstance(sample_weight, Iterator):
            raise TypeError(
                f"sample_weight is a {type(sample_weight).__name__}, which can be read only once; "
                "pass an array, a list of arrays, or an object whose __iter__ starts anew"
            )
        self._chunks: Iterator[Any] | None = None
        self._whole, self._begin = np.empty(0), 0
        text = isinstance(sample_weight, (str, bytes))
        listed = isinstance(sample_weight, Sequence) and not text and len(sample_weight) > 0
        if hasattr(sample_weight, "__array__") or (listed and np.ndim(sample_weight[0]) == 0):
            self._whole = np.asarray(sample_weight)
        elif hasattr(sample_weight, "__iter__") and not text:
            self._chunks = iter(sample_weight)
        else:
            raise TypeError(
                f"sample_weight is a {type(sample_weight).__name__}, expected an array of all "
                "weights or an iterable with the weights of each chunk"
            )

    def take(self, n: int) -> npt.NDArray[Any]:
        if self._chunks is not None:
            return np.asarray(next(self._chunks, np.empty(0)))
        self._begin += n
        return self._whole[self._begin - n : self._begin]

    def left_over(self) -> bool:
        if self._chunks is None:
            return self._begin < len(self._whole)
        return any(np.size(weight) for weight in self._chunks)


def _check_weight(weights: _Weights, n: int, index: int) -> npt.NDArray[np.float64]:
    given = weights.take(n)
    if given.dtype.kind not in "fiub":
        raise TypeError(
            f"sample_weight has dtype {given.dtype} for chunk {index} of X, expected numbers"
        )
    if given.shape != (n,):
        raise ValueError(
            f"sample_weight has shape {given.shape} for chunk {index} of X, expected ({n},), one "
            "weight per row"
        )
    weight = given.astype(np.float64)
    bad = ~(np.isfinite(weight) & (weight >= 0.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"sample_weight has {weight[row]} for row {row} of chunk {index}, expected finite "
            "values >= 0"
        )
    return weight


def _is_ready(chunk: Any, dtype: np.dtype[Any] | None, n_features: int) -> bool:
    """Tell whether the core can read an array as it is."""
    return (
        type(chunk) is np.ndarray
        and chunk.dtype == dtype
        and chunk.ndim == 2
        and chunk.shape[1] == n_features
        and chunk.flags.c_contiguous
        and chunk.flags.aligned
    )


def _require_finite(rows: Rows, index: int) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):  # is not where the sum alone overflows, too
            return
    bad = ~np.isfinite(rows)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"X contains NaN or infinity: {rows[row, column]} in chunk {index}, row {row}, column "
            f"{column}; expected finite values"
        )


def into_blocks(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Gather small chunks; a block is valid until the next one is asked for.

    Chunks are all of one dtype, and all have weights or none has. The order of the rows is kept, so
    the blocks, and with them the rounding of sums, depend on the sizes of the chunks alone.
    """
    rows = weight = None
    filled = 0
    for chunk in chunks:
        n = len(chunk.rows)
        begin = 0
        while begin < n:
            if not filled and n - begin >= _SMALL_CHUNK:
                yield Chunk(chunk.rows[begin:], _cut(chunk.weight, begin, n))
                break
            if rows is None:
                rows = np.empty((_BLOCK_ROWS, chunk.rows.shape[1]), chunk.rows.dtype)
                weight = None if chunk.weight is None else np.empty(_BLOCK_ROWS)
            # A large chunk ends a block that was begun.
            most = _BLOCK_ROWS - filled if n - begin < _SMALL_CHUNK else 0
            end = min(n, begin + most)
            rows[filled : filled + end - begin] = chunk.rows[begin:end]
            if weight is not None and chunk.weight is not None:
                weight[filled : filled + end - begin] = chunk.weight[begin:end]
            filled += end - begin
            begin = end
            if most == 0 or filled == _BLOCK_ROWS:
                yield Chunk(rows[:filled], _cut(weight, 0, filled))
                filled = 0
    if filled and rows is not None:
        yield Chunk(rows[:filled], _cut(weight, 0, filled))


def _cut(
    weight: npt.NDArray[np.float64] | None, begin: int, end: int
) -> npt.NDArray[np.float64] | None:
    return None if weight is None else weight[begin:end]
