"""Moments of the rows that a start gives to each component, for rows in NumPy's arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from elbokit import _core
from elbokit._kmeans import KMeansArrays, solve_kmeans
from elbokit.mixture._copies import copies, draw_rows, draw_shares
from elbokit.mixture._problems import Problems

__all__ = ["ArrayScatters", "Assigned", "Scatter", "ScatterSource", "draw_singles"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

_BLOCK_ROWS = 4096  # that are shared among the components at random, at once


class Scatter(NamedTuple):
    """Sums over each component's rows, of each problem: weights, mean, second moment about it.

    The second moment is a matrix for 'full' and 'tied', its diagonal otherwise.
    """

    counts: Array
    means: Array
    second: Array


class Assigned(NamedTuple):
    """What a start gave to the components."""

    scatter: Scatter
    finite: npt.NDArray[np.bool_]  # False: sums overflow, the rest is void
    left_out: Integers | None = None  # where each component got one sample: those samples


class ScatterSource(Protocol):
    """Rows of independent problems, wherever they are."""

    @property
    def size(self) -> int: ...

    @property
    def n_samples(self) -> Integers: ...

    def mass(self) -> Array: ...

    def assigned(
        self,
        n_components: int,
        init_params: str,
        matrices: bool,
        random_state: np.random.RandomState,
    ) -> Assigned:
        """Give samples to components, and sum up."""

    def raw_second_moment(self, left_out: Integers) -> Array:
        """Sum up all samples of each problem but some about the origin."""

    def whole(self, matrices: bool) -> Scatter:
        """Take all samples for one component."""


class ArrayScatters:
    """The source for rows in NumPy's arrays."""

    def __init__(self, problems: Problems) -> None:
        # As in scikit-learn's k-means and in the E-step.
        self._problems = problems.with_weight_like_rows()

    @property
    def size(self) -> int:
        return self._problems.size

    @property
    def n_samples(self) -> Integers:
        return self._problems.n_samples

    def mass(self) -> Array:
        return self._problems.mass()

    def assigned(
        self,
        n_components: int,
        init_params: str,
        matrices: bool,
        random_state: np.random.RandomState,
    ) -> Assigned:
        problems = self._problems
        if init_params == "kmeans":
            return Assigned(*_kmeans_scatter(problems, n_components, matrices, random_state))
        if init_params == "random":
            scatter = _soft_scatter(problems, n_components, matrices, random_state)
            return Assigned(scatter, np.full(problems.size, True))
        chosen, finite = _choose(problems, n_components, init_params, random_state)
        return Assigned(_single_rows(problems, chosen, matrices), finite, chosen)

    def raw_second_moment(self, left_out: Integers) -> Array:
        return _raw_second_moment(self._problems, left_out)

    def whole(self, matrices: bool) -> Scatter:
        return _whole_scatter(self._problems, matrices)


def _kmeans_scatter(
    problems: Problems, n_components: int, matrices: bool, random_state: np.random.RandomState
) -> tuple[Scatter, npt.NDArray[np.bool_]]:
    """Give each sample to the component of its k-means cluster."""
    found, finite = _solve(problems, n_components, random_state, max_iter=300)
    assert found.labels is not None
    assert found.centers is not None
    for problem in np.flatnonzero(~finite).tolist():
        found.centers[problem] = 0.0
        found.labels[problems.rows_of(problem)] = -1
    return _label_scatter(problems, found.labels, found.centers, matrices), finite


def _solve(
    problems: Problems, n_components: int, random_state: np.random.RandomState, max_iter: int
) -> tuple[KMeansArrays, npt.NDArray[np.bool_]]:
    """Run k-means, or its seeding alone with ``max_iter=0``, on every problem."""
    return solve_kmeans(
        problems.X,
        n_components,
        random_state,
        sample_weight=problems.weight,
        max_iter=max_iter,
        offsets=problems.offsets,
        weigh_tol=True,
    )


def _soft_scatter(
    problems: Problems, n_components: int, matrices: bool, random_state: np.random.RandomState
) -> Scatter:
    """Share every sample among all components at random."""
    n_samples, n_features = problems.n_samples, problems.X.shape[2]
    # All components have about the mean of the data, which serves as pivot.
    pivot = _label_scatter(problems, None, problems.first_rows(), False).means
    sums = Scatter(
        counts=np.zeros((problems.size, n_components)),
        means=np.zeros((problems.size, n_components, n_features)),
        second=np.zeros(_second_shape(problems, n_components, matrices)),
    )
    for group, rows in _tiles(n_samples):
        present = rows < n_samples[group, None]
        places = problems.places(np.minimum(rows, n_samples[group, None] - 1), group)
        data = problems.X[places] - pivot[group]
        number = _copies_at(problems, places, group)[present]
        share = np.zeros((*present.shape, n_components))
        share[present] = draw_shares(number, n_components, problems.X.dtype, random_state)
        if problems.weight is not None:
            share *= problems.weight[places][..., None]
        sums.counts[group] += share.sum(axis=1)
        sums.means[group] += share.swapaxes(1, 2) @ data
        if matrices:
            for k in range(n_components):
                sums.second[group, k] += (data * share[:, :, k, None]).swapaxes(1, 2) @ data
        else:
            sums.second[group] += share.swapaxes(1, 2) @ data**2
    counts, first, second = sums
    shift = first / np.where(counts > 0.0, counts, 1.0)[:, :, None]
    if matrices:
        second -= first[..., :, None] * shift[..., None, :]
    else:
        second -= first * shift
    return Scatter(counts, pivot + shift, second)


def _copies_at(
    problems: Problems, places: tuple[Integers, Integers], group: slice = slice(None)
) -> Integers:
    """Return how many copies each row of some problems stands for."""
    if problems.weight is None or problems.copy is None:
        return np.ones(np.broadcast_shapes(*(p.shape for p in places)), np.int64)
    return copies(problems.weight[places], problems.copy[group, None])


def _tiles(n_samples: Integers) -> Iterator[tuple[slice, Integers]]:
    """Cut the rows of all problems, in order, into groups of problems or parts of a large one."""
    sizes = n_samples.tolist()
    first = 0
    while first < len(sizes):
        width, last = sizes[first], first + 1
        while last < len(sizes):
            width = max(width, sizes[last])
            if (last + 1 - first) * width > _BLOCK_ROWS:
                break
            last += 1
        group = slice(first, last)
        width = max(sizes[group])
        for begin in range(0, width, _BLOCK_ROWS):
            yield group, np.arange(begin, min(width, begin + _BLOCK_ROWS))[None]
        first = last


def _choose(
    problems: Problems,
    n_components: int,
    init_params: str,
    random_state: np.random.RandomState,
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Choose a sample for each component."""
    if init_params == "k-means++":
        found, finite = _solve(problems, n_components, random_state, max_iter=0)
        found.seeds[~finite] = 0
        return found.seeds, finite
    chosen = np.empty((problems.size, n_components), np.int64)
    for problem, size in enumerate(problems.n_samples.tolist()):
        weight = None if problems.weight is None else problems.weight[problems.rows_of(problem)]
        copy = 0.0 if problems.copy is None else float(problems.copy[problem])
        chosen[problem] = draw_singles(size, weight, copy, n_components, random_state)
    return chosen, np.full(problems.size, True)


def draw_singles(
    n_samples: int,
    weight: Rows | None,
    copy: float,
    n_components: int,
    random_state: np.random.RandomState,
) -> Integers:
    """Draw a row for each component, by the weights, of which `copy` is what one copy weighs."""
    if weight is None:
        return random_state.choice(n_samples, size=n_components, replace=False)
    if copy > 0.0:
        return draw_rows(copies(weight, copy), n_components, random_state)
    share = weight / weight.sum(dtype=np.float64)
    return random_state.choice(n_samples, size=n_components, replace=False, p=share)


def _single_rows(problems: Problems, chosen: Integers, matrices: bool) -> Scatter:
    """Give each component one sample, or one copy of it where weights count copies."""
    places = problems.places(chosen)
    weight = problems.weight
    counts = np.ones(chosen.shape) if weight is None else weight[places].astype(np.float64)
    if problems.copy is not None:
        counts = np.where(problems.copy[:, None] > 0.0, problems.copy[:, None], counts)
    second = np.zeros(_second_shape(problems, chosen.shape[1], matrices))
    return Scatter(counts, problems.X[places].astype(np.float64), second)


def _raw_second_moment(problems: Problems, left_out: Integers) -> Array:
    """Sum over all samples of each problem but some of ``w x x^T``, about the origin.

    Where weights count copies, one copy of each of those is left out.
    """
    labels = np.zeros(problems.X.shape[:2], np.int32)
    places = problems.places(left_out)
    if problems.weight is None or problems.copy is None or not problems.copy.any():
        labels[places] = -1
    else:
        weight = np.array(problems.weight)
        # Without copies the whole sample; a sample that was chosen twice may have but one copy.
        lost = np.where(problems.copy[:, None] > 0.0, problems.copy[:, None], np.inf)
        np.subtract.at(weight, places, np.broadcast_to(lost, left_out.shape))
        problems = problems._replace(weight=np.maximum(weight, 0.0))
    counts, means, second = _label_scatter(problems, labels, problems.first_rows(), True)
    outer = means.swapaxes(1, 2) * means
    return np.asarray(second[:, 0] + counts[:, :, None] * outer)


def _whole_scatter(problems: Problems, matrices: bool) -> Scatter:
    """Take all samples for one component: first a mean, then the moments about it."""
    rough = _label_scatter(problems, None, problems.first_rows(), False)
    return _label_scatter(problems, None, rough.means, matrices)


def _label_scatter(
    problems: Problems, labels: npt.NDArray[np.int32] | None, near: Array, matrices: bool
) -> Scatter:
    """Sum up the rows of each label; `near` has a point near the mean of each."""
    scatter = Scatter(
        counts=np.empty(near.shape[:2]),
        means=near.copy(),
        second=np.empty(_second_shape(problems, near.shape[1], matrices)),
    )
    _core.label_moments(
        problems.X,
        problems.offsets,
        problems.weight,
        labels,
        matrices,
        scatter.means,
        scatter.counts,
        scatter.second,
    )
    return scatter


def _second_shape(problems: Problems, n_components: int, matrices: bool) -> tuple[int, ...]:
    n_features = problems.X.shape[2]
    return problems.size, n_components, *(n_features,) * (2 if matrices else 1)
