"""Rows with missing entries: grouped by pattern, and what an EM iteration needs of them.

Ghahramani & Jordan (1994); Little & Rubin, Statistical Analysis with Missing Data. With the
observed features o and the missing ones m of a row, ``x_m | x_o, k`` is Gaussian with mean
``mu_m + B (x_o - mu_o)`` and covariance ``C`` (:mod:`elbokit.mixture._split`). So moments of the
observed features, which the fused kernel sums, give those of all:
``S1_m = B S1_o``, ``S2_mo = B S2_oo``, ``S2_mm = B S2_oo B^T + N C``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._types import GmmStatistics
from elbokit.mixture._estep import estep
from elbokit.mixture._parameters import GmmParameters, covariance_shape
from elbokit.mixture._split import Split, split

__all__ = ["PatternGroup", "estep_incomplete", "group_by_pattern", "statistics_of_groups"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

# A pattern with more rows is a group of its own; smaller ones are padded to equal numbers of rows.
_LARGE = 1024
# Entries of the matrices of a group: 1 MiB, so that they stay in the cache.
_MATRIX_ENTRIES = 1 << 17


class PatternGroup(NamedTuple):
    """Patterns with equally many observed features, side by side as a batch for the core.

    Attributes
    ----------
    order : ndarray of shape (n_patterns, n_features)
        The observed features in rising order, then the missing ones.
    n_observed : int
        How many are observed.
    X : ndarray of shape (n_patterns, n_rows, n_observed)
        The observed entries. Patterns with fewer rows repeat their first one.
    weight : ndarray of shape (n_patterns, n_rows) or None
        Weights of the rows, 0 for those that fill up; None means ones.
    rows : ndarray of shape (n_patterns, n_rows)
        Where each row was in the data, -1 for those that fill up.
    """

    order: Integers
    n_observed: int
    X: Rows
    weight: Rows | None
    rows: Integers

    def mass(self) -> Array:
        """Sum up the weights of each pattern."""
        if self.weight is None:
            return np.full(len(self.rows), float(self.rows.shape[1]))
        return np.asarray(self.weight.sum(axis=1, dtype=np.float64))


def group_by_pattern(
    X: Rows, n_components: int, covariance_type: str, weight: Array | None = None
) -> list[PatternGroup]:
    """Sort rows by which of their entries are NaN; the rows are copied once.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        NaN is missing.
    n_components : int
        Number of components; limits how many patterns make a group.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances, likewise.
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows.

    Returns
    -------
    groups : list of PatternGroup
        Each row is in one of them.
    """
    missing = np.isnan(X)
    by_pattern, begins = _sorted_patterns(missing)
    sizes = np.diff(begins)
    masks = missing[by_pattern[begins[:-1]]]
    n_observed = X.shape[1] - np.count_nonzero(masks, axis=1)
    order = np.argsort(masks, axis=1, kind="stable")
    # Of equal length but for a factor of two: at most half of a group is filling.
    lengths = np.where(sizes > _LARGE, -1, np.frexp(sizes - 0.5)[1])
    entries = int(np.prod(covariance_shape(covariance_type, n_components, X.shape[1])))
    at_once = max(1, _MATRIX_ENTRIES // entries)
    groups = []
    for patterns in _alike(n_observed, lengths, at_once):
        width = int(sizes[patterns].max())
        place = np.arange(width)
        present = place < sizes[patterns, None]
        rows = by_pattern[begins[patterns, None] + np.where(present, place, 0)]
        o = int(n_observed[patterns[0]])
        row_weight = None
        if weight is not None or not present.all():
            given = np.ones(rows.shape) if weight is None else weight[rows]
            row_weight = np.where(present, given, 0.0).astype(X.dtype)
        groups.append(
            PatternGroup(
                order[patterns],
                o,
                X[rows[:, :, None], order[patterns, None, :o]],
                row_weight,
                np.where(present, rows, -1),
            )
        )
    return groups


def _sorted_patterns(missing: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """Return the rows sorted by pattern, stably, and where patterns begin and the last ends."""
    n, d = missing.shape
    packed = np.zeros((n, -(-d // 64) * 8), np.uint8)
    packed[:, : -(-d // 8)] = np.packbits(missing, axis=1)
    words = packed.view(np.uint64)
    order = np.lexsort(words.T)
    words = words[order]
    new = np.append(True, (words[1:] != words[:-1]).any(axis=1))
    return order, np.append(np.flatnonzero(new), n)


def _alike(n_observed: Integers, lengths: Integers, at_once: int) -> Iterator[Integers]:
    """Yield patterns with equally many observed features and about as many rows."""
    order = np.lexsort((lengths, n_observed))
    keys = np.stack([n_observed[order], lengths[order]])
    cuts = np.flatnonzero((keys[:, 1:] != keys[:, :-1]).any(axis=0)) + 1
    for patterns in np.split(order, cuts):
        step = 1 if lengths[patterns[0]] < 0 else at_once
        for first in range(0, len(patterns), step):
            yield patterns[first : first + step]


def statistics_of_groups(
    groups: list[PatternGroup], parameters: GmmParameters, covariance_type: str, wide: bool = False
) -> GmmStatistics:
    """Sum the expected statistics of complete rows over all patterns.

    Parameters
    ----------
    groups : list of PatternGroup
        All data.
    parameters : GmmParameters
        Of the E-step.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    wide : bool, default=False
        Whether to compute in float64 what is float32.

    Returns
    -------
    statistics : GmmStatistics
        About the means of `parameters`; not finite where sums overflow.
    """
    total = None
    with np.errstate(over="ignore", invalid="ignore"):  # the M-step looks at what comes out
        for group in groups:
            part = _statistics(group, parameters, covariance_type, wide)
            total = part if total is None else _added(total, part)
    assert total is not None  # there are rows
    return total


def _added(one: GmmStatistics, other: GmmStatistics) -> GmmStatistics:
    return GmmStatistics(*(a + b for a, b in zip(one, other, strict=True)))  # type: ignore[arg-type]


def _statistics(
    group: PatternGroup, parameters: GmmParameters, covariance_type: str, wide: bool
) -> GmmStatistics:
    """Sum the expected statistics over the patterns of one group."""
    parts = split(parameters.precisions_cholesky, covariance_type, group.order, group.n_observed)
    counts, first, second, log_likelihood = _observed_statistics(
        group, parameters, parts, covariance_type, wide
    )
    first = _lift_first(first, parts.regression, group)
    second = _lift_second(counts, second, parts, group, covariance_type)
    return GmmStatistics(
        counts.sum(axis=0), first.sum(axis=0), second.sum(axis=0), float(log_likelihood.sum())
    )


def _observed_statistics(
    group: PatternGroup, parameters: GmmParameters, parts: Split, covariance_type: str, wide: bool
) -> tuple[Array, Array, Array, Array]:
    """Sum the observed features' statistics of each pattern: one call of the fused kernel."""
    size, o = len(group.order), group.n_observed
    weights = np.tile(parameters.weights, (size, 1))
    n_components = weights.shape[1]
    second = np.zeros((size, *covariance_shape(covariance_type, n_components, o)))
    sums = np.empty(weights.shape), np.zeros((*weights.shape, o)), second, np.zeros(size)
    if o == 0:
        # Nothing was seen: log p = 0, and the responsibilities are the weights.
        return (group.mass()[:, None] * (weights / weights.sum(axis=1)[:, None]), *sums[1:])
    _core.gmm_statistics(
        group.X.astype(np.float64) if wide else group.X,
        group.weight if group.weight is None or not wide else group.weight.astype(np.float64),
        weights,
        observed_means(parameters.means, group),
        parts.observed,
        covariance_type,
        *sums,
    )
    if not (wide or group.X.dtype == np.float64 or all(np.isfinite(a).all() for a in sums)):
        return _observed_statistics(group, parameters, parts, covariance_type, wide=True)
    return sums


def observed_means(means: Array, group: PatternGroup) -> Array:
    """Return the means of the observed features, (n_patterns, n_components, n_observed)."""
    chosen = means[:, group.order[:, : group.n_observed]]
    return np.ascontiguousarray(chosen.swapaxes(0, 1))


def _lift_first(first: Array, regression: Array | None, group: PatternGroup) -> Array:
    """Return first moments of all features in their order, of each pattern."""
    size, n_components, o = first.shape
    d = group.order.shape[1]
    lifted = np.zeros((size, n_components, d))
    lifted[..., :o] = first
    if regression is not None:
        lifted[..., o:] = (regression @ first[..., None])[..., 0]
    return np.take_along_axis(lifted, np.argsort(group.order, axis=1)[:, None], axis=2)


def _lift_second(
    counts: Array, second: Array, parts: Split, group: PatternGroup, covariance_type: str
) -> Array:
    """Return second moments of all features in their order, of each pattern."""
    d, o = group.order.shape[1], group.n_observed
    place = np.argsort(group.order, axis=1)
    own = parts.covariances
    if covariance_type == "spherical":
        return np.asarray(second + (d - o) * counts * own)
    if covariance_type == "diag":
        lifted = np.concatenate([second, counts[..., None] * own], axis=2)
        return np.take_along_axis(lifted, place[:, None], axis=2)
    tied = covariance_type == "tied"
    mass = counts.sum(axis=1, keepdims=True) if tied else counts
    seen = second[:, None] if tied else second
    assert parts.regression is not None
    lifted = np.empty((*mass.shape, d, d))
    lifted[..., :o, :o] = seen
    cross = np.matmul(parts.regression, seen, out=lifted[..., o:, :o])
    lifted[..., :o, o:] = cross.swapaxes(-1, -2)
    both = cross @ parts.regression.swapaxes(-1, -2)
    lifted[..., o:, o:] = (both + both.swapaxes(-1, -2)) / 2 + mass[..., None, None] * own
    at = np.arange(len(place))[:, None, None]
    ordered = lifted[at, :, place[:, :, None], place[:, None, :]]
    ordered = np.moveaxis(ordered, -1, 1)
    return np.asarray(ordered[:, 0] if tied else ordered)


def estep_incomplete(
    X: Rows, weights: Array, means: Array, factors: Array, covariance_type: str
) -> tuple[Rows, Rows]:
    """Return log-density and responsibilities by the observed entries of each row.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        NaN is missing.
    weights, means, factors : ndarray
        The parameters of the density.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the factors.

    Returns
    -------
    log_prob : ndarray of shape (n_samples,), of X's dtype
        Of the observed entries; 0 for a row without any.
    responsibilities : ndarray of shape (n_samples, n_components), of X's dtype
        The weights for a row without any.
    """
    log_prob = np.zeros(len(X), X.dtype)
    responsibilities = np.empty((len(X), len(weights)), X.dtype)
    for group in group_by_pattern(X, len(weights), covariance_type):
        observed = split(factors, covariance_type, group.order, group.n_observed).observed
        present = group.rows >= 0
        rows = group.rows[present]
        if group.n_observed == 0:
            responsibilities[rows] = weights / weights.sum()
            continue
        density, shares = estep(
            group.X, weights, observed_means(means, group), observed, covariance_type
        )
        log_prob[rows], responsibilities[rows] = density[present], shares[present]
    return log_prob, responsibilities
