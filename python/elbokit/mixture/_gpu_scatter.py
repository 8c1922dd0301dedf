"""Moments of the rows that a start gives to each component, for rows on a GPU.

Draws are NumPy's, in the order of the CPU's, so that a start is the same on both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit._gpu_arrays import read_back
from elbokit._gpu_kmeans import kmeans_seeds, kmeans_start, label_moments
from elbokit.mixture._copies import copies, draw_shares
from elbokit.mixture._scatter import Assigned, Scatter, draw_singles

__all__ = ["GpuScatters"]

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Rows whose random shares are copied to the GPU at once.
_BLOCK_ROWS = 1 << 16


class GpuScatters:
    """The source of the starts of one problem.

    Parameters
    ----------
    X : Tensor of shape (n_samples, n_features)
    weight : ndarray of shape (n_samples,) or None
        Positive weights of the rows.
    copy : float
        What one copy of a row weighs, 0 where weights do not count copies.
    """

    size = 1

    def __init__(self, X: Tensor, weight: Array | None, copy: float) -> None:
        self._X = X
        self._dtype = np.float64 if X.dtype == torch.float64 else np.float32
        self._copy = copy
        # As in scikit-learn's k-means and in the E-step, weights have the precision of the rows.
        self._weight = None if weight is None else weight.astype(self._dtype)
        self._on_gpu = None
        if self._weight is not None:
            self._on_gpu = torch.from_numpy(self._weight).to(X.device)

    @property
    def n_samples(self) -> Integers:
        return np.array([len(self._X)])

    def mass(self) -> Array:
        if self._weight is None:
            return np.array([float(len(self._X))])
        return np.array([self._weight.sum(dtype=np.float64)])

    def assigned(
        self,
        n_components: int,
        init_params: str,
        matrices: bool,
        random_state: np.random.RandomState,
    ) -> Assigned:
        well = np.array([True])
        if init_params == "kmeans":
            sums, finite = kmeans_start(
                self._X,
                n_components,
                random_state,
                matrices=matrices,
                sample_weight=self._on_gpu,
            )
            return Assigned(_read(sums), np.array([finite]))
        if init_params == "random":
            return Assigned(self._soft(n_components, matrices, random_state), well)
        if init_params == "random_from_data":
            chosen = draw_singles(
                len(self._X), self._weight, self._copy, n_components, random_state
            )
        else:
            seeds, finite = kmeans_seeds(
                self._X, n_components, random_state, sample_weight=self._on_gpu
            )
            well = np.array([finite])
            chosen = read_back(seeds) if finite else np.zeros(n_components, np.int64)
        return Assigned(self._singles(chosen, matrices), well, chosen[None])

    def raw_second_moment(self, left_out: Integers) -> Array:
        """Sum up all samples but some, or but one copy of each, about the origin."""
        weight = np.ones(len(self._X)) if self._weight is None else self._weight.astype(np.float64)
        # Without copies the whole sample; one that was chosen twice may have but one copy.
        lost = self._copy if self._copy > 0.0 and self._weight is not None else np.inf
        np.subtract.at(weight, left_out[0], lost)
        rest = torch.from_numpy(np.maximum(weight, 0.0).astype(self._dtype)).to(self._X.device)
        counts, means, second = _read(label_moments(self._X, None, self._first_row(), True, rest))
        return np.asarray(second[:, 0] + counts[:, :, None] * (means.swapaxes(1, 2) * means))

    def whole(self, matrices: bool) -> Scatter:
        """Take all samples for one component: first a mean, then the moments about it."""
        return _read(label_moments(self._X, None, self._rough_mean(), matrices, self._on_gpu))

    def _first_row(self) -> Tensor:
        return self._X[:1].double()

    def _rough_mean(self) -> Tensor:
        return label_moments(self._X, None, self._first_row(), False, self._on_gpu).means

    def _singles(self, chosen: Integers, matrices: bool) -> Scatter:
        """Give each component one sample, or one copy of it where weights count copies."""
        counts = np.ones(len(chosen))
        if self._weight is not None:
            counts = self._weight[chosen].astype(np.float64)
            if self._copy > 0.0:
                counts = np.full(len(chosen), self._copy)
        means = read_back(self._X[torch.from_numpy(chosen).to(self._X.device)].double())
        second = np.zeros((*means.shape, *means.shape[1:]) if matrices else means.shape)
        return Scatter(counts[None], means[None], second[None])

    def _soft(
        self, n_components: int, matrices: bool, random_state: np.random.RandomState
    ) -> Scatter:
        """Share every sample among all components at random."""
        X = self._X
        n_samples, n_features = X.shape
        # All components have about the mean of the data, which serves as pivot.
        origin = self._rough_mean()[0]
        counts = origin.new_zeros(n_components)
        first = origin.new_zeros((n_components, n_features))
        second = origin.new_zeros((*first.shape, n_features) if matrices else first.shape)
        for begin in range(0, n_samples, _BLOCK_ROWS):
            rows = slice(begin, min(begin + _BLOCK_ROWS, n_samples))
            number = np.ones(rows.stop - begin, np.int64)
            if self._weight is not None:
                number = copies(self._weight[rows], self._copy)
            drawn = draw_shares(number, n_components, self._dtype, random_state)
            share = torch.from_numpy(drawn.astype(np.float64)).to(X.device)
            if self._on_gpu is not None:
                share *= self._on_gpu[rows, None]
            data = X[rows].double() - origin
            counts += share.sum(0)
            first += share.T @ data
            if matrices:
                for k in range(n_components):
                    second[k] += (data * share[:, k, None]).T @ data
            else:
                second += share.T @ data**2
        shift = first / torch.where(counts > 0.0, counts, 1.0)[:, None]
        second -= first[:, :, None] * shift[:, None, :] if matrices else first * shift
        return _read((counts, origin + shift, second))


def _read(sums: tuple[Tensor, Tensor, Tensor]) -> Scatter:
    """Return sums of one problem as a batch on the CPU."""
    counts, means, second = (read_back(a)[None] for a in sums)
    return Scatter(counts, means, second)
