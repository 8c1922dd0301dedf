"""Fits to data that come in chunks, none of which is kept: one pass over them per iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from elbokit._types import GmmStatistics
from elbokit.mixture._chunks import Chunk, ChunkReader, into_blocks
from elbokit.mixture._copies import weight_of_copy
from elbokit.mixture._driven_fit import driven_restarts
from elbokit.mixture._estimator_starts import drawn_starts, given_to, single
from elbokit.mixture._interrupts import keep_best
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._penalty import as_penalty
from elbokit.mixture._problems import Problems
from elbokit.mixture._reservoir import Reservoir
from elbokit.mixture._statistics import StatisticsSum

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["ChunkedData", "fit_chunks"]

# The start is drawn from so many rows at most.
_START_ROWS = 100_000

# Two sums of the same weights in another order differ by less than this.
_SAME_MASS = 1e-9


def fit_chunks(
    estimator: GaussianMixture, X: Iterable[Any], sample_weight: Any, warm: bool
) -> None:
    """Run EM `n_init` times and keep the best run, as an estimator's fit does for an array.

    Parameters
    ----------
    estimator : GaussianMixture
        Its parameters are checked. It gets the fitted attributes.
    X, sample_weight
        As :class:`ChunkReader` takes them.
    warm : bool
        Whether to start from the estimator's last solution.

    Raises
    ------
    TypeError, ValueError
        If a chunk or its weights are not as expected; as from the fit of an array; and if the
        number of rows or the sum of the weights is not in every pass what it was in the first.

    Notes
    -----
    Statistics of a union of rows are the sum of the statistics, so each iterate is that of the
    array of all rows, to rounding. So is the start, if there are at most 100,000 rows; of more,
    it is that of 100,000 drawn without replacement, all with the same probability; of these are
    then also the moments that `prior` and `relative_reg_covar` refer to. The runs of `n_init` come
    one after the other, and `drop_restarts` drops none.
    """
    rng = check_random_state(estimator.random_state)
    data = ChunkedData(ChunkReader(X, sample_weight, estimator), estimator.covariance_type)
    sample = data.first_pass(rng)
    if data.n_samples < 2:
        raise ValueError(
            f"Found {data.n_samples} sample(s) in the chunks of X while a minimum of 2 is required."
        )
    if data.n_samples < estimator.n_components:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {estimator.n_components}, "
            f"n_samples = {data.n_samples}"
        )
    given = given_to(estimator, sample.X.shape[2])
    penalty = as_penalty(estimator, sample, data.unit)
    restarts = driven_restarts(
        estimator,
        data.statistics,
        lambda: single(
            drawn_starts(estimator, sample, given, rng, penalty), estimator.covariance_type
        ),
        penalty,
        mass=data.mass,
        n_samples=data.n_samples,
        n_features=sample.X.shape[2],
        exact=data.dtype == np.float64,
        warm=warm,
    )
    keep_best(restarts, lambda run, all_runs: estimator._store(run, data.dtype, all_runs))


class ChunkedData:
    """All rows of a reader: what the first pass finds, and the statistics of later ones.

    Attributes
    ----------
    n_samples : int
        Number of rows whose weight is not zero.
    mass : float
        Sum of their weights, the largest in [0.5, 1); `n_samples` where all are equal.
    dtype : dtype
        float32 if all chunks are, else float64.
    unit : float
        What the weights were divided by.
    """

    def __init__(self, reader: ChunkReader, covariance_type: str) -> None:
        self._reader = reader
        self._covariance_type = covariance_type
        self.n_samples = 0
        self.mass = 0.0
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self._weighted = False
        self._power = 0  # weights are divided by 2**power
        self.unit = 1.0

    def first_pass(self, rng: np.random.RandomState) -> Problems:
        """Check and count everything; return the rows that the start is drawn from."""
        reservoir = Reservoir(_START_ROWS, rng)
        total, least, most = _ScaledSum(), math.inf, 0.0
        for rows, weight in self._reader.read():
            reservoir.offer(rows, weight)
            if weight is not None and len(weight):
                self._weighted = True
                least, most = min(least, float(weight.min())), max(most, float(weight.max()))
                total.add(weight)
        self.n_samples = reservoir.n_seen
        X, weight = reservoir.content()
        if X is None:
            raise ValueError("X has no rows with a positive weight: no chunk has any")
        self.dtype = X.dtype
        # Equal weights are none, unless they count copies.
        self._weighted = self._weighted and (least < most or (least > 1.0 and least.is_integer()))
        if not self._weighted:
            self.mass = float(self.n_samples)
            self.unit = least if least < math.inf else 1.0
            return Problems(X[None])
        assert weight is not None
        self._power = total.power
        self.mass = total.sum
        self.unit = math.ldexp(1.0, self._power)
        scaled = np.ldexp(weight, -self._power)[None]
        return Problems(X[None], scaled, copy=weight_of_copy(weight[None], scaled))

    def statistics(self, parameters: GmmParameters, wide: bool) -> GmmStatistics:
        """Sum up the statistics of all rows about the means, in one pass.

        Parameters
        ----------
        parameters : GmmParameters
        wide : bool
            Whether to compute in float64 whatever the rows are.

        Raises
        ------
        ValueError
            If the rows are not those of the first pass, as far as their number, the sum of their
            weights, and NaN tell.
        """
        sums = StatisticsSum(parameters, self._covariance_type, wide)
        n_samples, mass = 0, 0.0
        for block in into_blocks(self._scaled()):
            n_samples += len(block.rows)
            mass += len(block.rows) if block.weight is None else float(block.weight.sum())
            if n_samples > self.n_samples:
                break
            sums.add(block)
        if n_samples != self.n_samples or abs(mass - self.mass) > _SAME_MASS * self.mass:
            what = f"{n_samples} rows" if n_samples != self.n_samples else "other weights"
            more = "or more " if n_samples > self.n_samples else ""
            raise ValueError(
                f"X gave {what} {more}in a later pass, but {self.n_samples} rows in the first: "
                "every pass must give the same data, and start anew with __iter__"
            )
        return sums.result()

    def _scaled(self) -> Iterator[Chunk]:
        for rows, weight in self._reader.read(self.dtype):
            used = np.ldexp(weight, -self._power) if self._weighted and weight is not None else None
            yield Chunk(rows, used)


class _ScaledSum:
    """A sum of weights of any size, in units of the power of two above the largest."""

    def __init__(self) -> None:
        self.sum, self.power = 0.0, -1100

    def add(self, weight: npt.NDArray[np.float64]) -> None:
        power = int(np.frexp(weight.max())[1])
        if power > self.power:
            self.sum = math.ldexp(self.sum, self.power - power)
            self.power = power
        self.sum += float(np.ldexp(weight, -self.power).sum())
