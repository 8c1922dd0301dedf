"""k-means on the kernels: checked arguments, scikit-learn's draws, one call."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._arrays import FloatArray, require_finite, returns_like
from elbokit._gpu_arrays import on_gpu
from elbokit._mixture_arguments import (
    check_count,
    check_offsets,
    check_rows,
    check_sample_weight,
)
from elbokit._types import KMeansResult

__all__ = [
    "as_random_state",
    "check_options",
    "draws_of",
    "kmeans",
    "solve_kmeans",
    "trials_of",
]

# Labels are int32, and rows are counted in the same.
_MOST_ROWS = 2**31 - 1


class _Rows(NamedTuple):
    """Problems one behind the other, and the batch dimensions that they had."""

    batch: tuple[int, ...]
    X: FloatArray


class KMeansArrays(NamedTuple):
    """What the kernels wrote, one entry per problem; labels in the layout of X's rows."""

    seeds: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32] | None
    centers: npt.NDArray[np.float64] | None
    inertia: npt.NDArray[np.float64] | None
    n_iter: npt.NDArray[np.int64]


def kmeans(
    X: Any,
    n_clusters: int,
    *,
    sample_weight: Any = None,
    random_state: Any = None,
    max_iter: int = 300,
    tol: float = 1e-4,
    offsets: Any = None,
) -> KMeansResult:
    """k-means: greedy k-means++ seeds, then Lloyd's iterations.

    Parameters
    ----------
    X : array_like of shape (..., n_samples, n_features), float32 or float64
        Leading dimensions are independent problems. Strides are read in place. An array in a GPU's
        memory stays there, as do the labels and centers; it may be bfloat16 or float16 too, which
        are computed in float32.
    n_clusters : int
        Number of clusters, at most the number of samples.
    sample_weight : array_like of shape (..., n_samples), default=None
        Finite, not negative, not all zero in any problem; None means ones.
    random_state : int, RandomState or None, default=None
        Source of the draws. They are those of ``sklearn.cluster.KMeans(n_init=1)``, in its order;
        a batch draws for one problem after the other.
    max_iter : int, default=300
        Largest number of iterations.
    tol : float, default=1e-4
        Iterations stop when the centers' squared shift, summed, is at most ``tol`` times the
        variance of a feature, averaged over the features; or when no label changes.
    offsets : array_like of shape (n_problems + 1,), int, default=None
        Problems of different sizes: ``X`` has shape (n_rows, n_features), and problem b is the
        rows from ``offsets[b]`` to ``offsets[b + 1]``, at least ``n_clusters`` of them.

    Returns
    -------
    KMeansResult
        ``labels`` (..., n_samples), ``centers`` (..., n_clusters, n_features), ``inertia`` and
        ``n_iter``, which are numbers unless there is a batch.

    Raises
    ------
    TypeError
        If a dtype is not a float32 or float64, or ``offsets`` are no integers.
    ValueError
        If shapes do not fit, ``X`` or ``sample_weight`` has NaN or infinity (the row is named), a
        parameter is out of its range, or squared distances overflow the dtype of ``X``.

    Notes
    -----
    Arthur & Vassilvitskii (2007); of ``2 + int(log(n_clusters))`` candidates for a center the one
    is taken that leaves the least inertia. Distances are computed from differences ``x - center``,
    in the dtype of ``X``, about a point near the data; sums in more than float64. Rows that their
    bounds (after Hamerly, 2010) show to keep their label are not looked at, which changes no
    result. A cluster that loses all its rows goes to the row farthest from its center. From the
    same ``random_state`` float64 data get the labels that scikit-learn gives, unless two choices
    are equally good to the last digit; in float32 rounding decides more of the draws.
    Results do not depend on the number of threads.
    """
    if on_gpu(X):
        from elbokit._gpu_kmeans_op import gpu_kmeans

        return gpu_kmeans(
            X,
            n_clusters,
            sample_weight=sample_weight,
            random_state=random_state,
            max_iter=max_iter,
            tol=tol,
            offsets=offsets,
        )
    rows = _check_rows(X)
    splits = None if offsets is None else _check_offsets(offsets, rows)
    sizes = np.array([rows.X.shape[1]]) if splits is None else np.diff(splits)
    check_options(n_clusters, max_iter, tol, int(sizes.min(initial=_MOST_ROWS)))
    weight, scale = _check_weight(sample_weight, rows, splits)
    found, finite = solve_kmeans(
        rows.X,
        int(n_clusters),
        as_random_state(random_state),
        sample_weight=weight,
        max_iter=int(max_iter),
        tol=float(tol),
        offsets=splits,
        inertia=True,
    )
    if not finite.all():
        require_finite(rows.X.reshape(*rows.batch, *rows.X.shape[1:]), "X")
        raise ValueError(
            f"`X` has values up to {np.abs(rows.X).max():g}: squared distances overflow "
            f"{rows.X.dtype}; scale the data or pass float64"
        )
    assert found.labels is not None
    assert found.centers is not None
    assert found.inertia is not None
    batch = rows.batch if splits is None else (len(splits) - 1,)
    single = splits is None and not batch
    back = returns_like(X)
    return KMeansResult(
        labels=back(found.labels.reshape(*rows.batch, -1)),
        centers=back(found.centers.reshape(*batch, *found.centers.shape[1:]).astype(rows.X.dtype)),
        inertia=float(scale * found.inertia[0]) if single else scale * found.inertia.reshape(batch),
        n_iter=int(found.n_iter[0]) if single else found.n_iter.reshape(batch),
    )


def solve_kmeans(
    X: FloatArray,
    n_clusters: int,
    random_state: np.random.RandomState,
    *,
    sample_weight: FloatArray | None = None,
    max_iter: int = 300,
    tol: float = 1e-4,
    offsets: npt.NDArray[np.int64] | None = None,
    inertia: bool = False,
    weigh_tol: bool = False,
) -> tuple[KMeansArrays, npt.NDArray[np.bool_]]:
    """Draw and solve; the arguments are checked already.

    Parameters
    ----------
    X : ndarray of shape (n_problems, n_samples, n_features)
        With `offsets` of shape (1, n_rows, n_features).
    n_clusters, random_state, max_iter, tol
        As in :func:`kmeans`; ``max_iter=0`` asks for the seeds alone.
    sample_weight : ndarray of shape (n_problems, n_samples) or None
        In the dtype of X.
    offsets : ndarray of shape (n_problems + 1,) or None
        As in :func:`kmeans`.
    inertia : bool
        Whether it is wanted: it costs a pass.
    weigh_tol : bool
        Whether weights count in the variance that `tol` refers to, as repeated rows would; in
        scikit-learn they do not.

    Returns
    -------
    arrays : KMeansArrays
        Fields that were not asked for are None.
    finite : ndarray of shape (n_problems,)
        False where X has NaN or infinity, or squared distances overflow its dtype: what the
        arrays hold of such a problem is void.
    """
    n_problems = len(X) if offsets is None else len(offsets) - 1
    n_trials = trials_of(n_clusters)
    uniforms = random_state.random_sample((n_problems, draws_of(n_clusters)))
    lloyd = max_iter > 0
    found = KMeansArrays(
        seeds=np.empty((n_problems, n_clusters), np.int64),
        labels=np.empty(X.shape[:2], np.int32) if lloyd else None,
        centers=np.empty((n_problems, n_clusters, X.shape[2])) if lloyd else None,
        inertia=np.empty(n_problems) if inertia and lloyd else None,
        n_iter=np.empty(n_problems, np.int64),
    )
    finite = _core.kmeans(
        X, offsets, sample_weight, n_clusters, n_trials, max_iter, tol, weigh_tol, uniforms, *found
    )
    return found, np.array(finite)


def draws_of(n_clusters: int) -> int:
    """Return how many uniforms one problem takes."""
    # One chooses the first center, the others the candidates for each further one.
    return 1 + (n_clusters - 1) * trials_of(n_clusters)


def trials_of(n_clusters: int) -> int:
    """Return how many candidates there are for a center."""
    return 2 + int(math.log(n_clusters))


def _check_rows(X: Any) -> _Rows:
    rows = check_rows(X)
    if rows.shape[-2] > _MOST_ROWS:
        raise ValueError(f"`X` has {rows.shape[-2]} samples, expected at most {_MOST_ROWS}")
    batch = rows.shape[:-2]
    return _Rows(batch, rows.reshape(math.prod(batch), *rows.shape[-2:]))


def _check_offsets(offsets: Any, rows: _Rows) -> npt.NDArray[np.int64]:
    if rows.batch:
        raise ValueError(
            f"`X` has batch dimensions {rows.batch}; with `offsets` expected (n_rows, n_features)"
        )
    return check_offsets(offsets, rows.X.shape[1])


def check_options(n_clusters: Any, max_iter: Any, tol: Any, n_samples: int) -> None:
    """Raise TypeError or ValueError for what :func:`kmeans` cannot take."""
    check_count("n_clusters", n_clusters)
    check_count("max_iter", max_iter)
    if n_clusters > n_samples:
        raise ValueError(
            f"`n_clusters` is {n_clusters}, expected at most {n_samples}, the number of samples"
        )
    if not isinstance(tol, Real) or isinstance(tol, bool):
        raise TypeError(f"`tol` is {tol!r}, expected a number")
    if not float(tol) >= 0:
        raise ValueError(f"`tol` is {tol}, expected at least 0")


def _check_weight(
    sample_weight: Any, rows: _Rows, splits: npt.NDArray[np.int64] | None
) -> tuple[FloatArray | None, float]:
    weight, scale = check_sample_weight(sample_weight, rows)
    if weight is None:
        return None, 1.0
    sums = weight.sum(axis=1) if splits is None else np.add.reduceat(weight[0], splits[:-1])
    if not (sums > 0).all():
        which = "" if len(sums) == 1 else f" in problem {int(np.argmin(sums > 0))}"
        raise ValueError(f"`sample_weight` is all zeros{which}, expected a positive sum")
    return weight, scale


def as_random_state(seed: Any) -> np.random.RandomState:
    """Return scikit-learn's reading of a `random_state`."""
    if isinstance(seed, np.random.RandomState):
        return seed
    if seed is None or seed is np.random:
        return np.random.mtrand._rand
    if isinstance(seed, Integral):
        try:
            return np.random.RandomState(int(seed))
        except ValueError as error:
            raise ValueError(f"`random_state` is {seed}: {error}") from error
    raise TypeError(f"`random_state` is {seed!r}, expected an int, a RandomState or None")
