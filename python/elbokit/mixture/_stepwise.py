"""Stepwise EM: a batch of rows per call, and a running average of the statistics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_random_state

from elbokit._arrays import as_float_array, as_numpy
from elbokit._types import GmmStatistics
from elbokit.mixture._chunks import Chunk, refuse_chunks
from elbokit.mixture._copies import weight_and_copy
from elbokit.mixture._em import EmRun
from elbokit.mixture._estimator_starts import drawn_starts, given_to, last_solution, single
from elbokit.mixture._interrupts import unchanged_on_failure
from elbokit.mixture._library import library_name
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._penalty import Penalty
from elbokit.mixture._problems import Problems
from elbokit.mixture._statistics import StatisticsSum
from elbokit.mixture._update import empty_below, m_step
from elbokit.mixture._validation import validate_rows

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["RunningStatistics", "StepwiseEM", "blend", "implied_statistics", "recentre"]

Array = npt.NDArray[np.float64]

# What partial_fit keeps beside the fitted attributes, and fit forgets.
_STREAM = ("n_batches_seen_", "n_samples_seen_", "_running")


class RunningStatistics(NamedTuple):
    """Statistics per sample, about any centers.

    Attributes
    ----------
    counts, first, second : ndarray
        As in :class:`elbokit.ops.GmmStatistics`, of a total weight of 1.
    centers : ndarray of shape (n_components, n_features)
        What the moments are about.
    """

    counts: Array
    first: Array
    second: Array
    centers: Array


def implied_statistics(
    parameters: GmmParameters, covariance_type: str, reg_covar: float
) -> RunningStatistics:
    """Return the statistics from which the M-step makes these parameters."""
    weights, means, covariances, _ = parameters
    counts = weights / weights.sum()
    if covariance_type == "full":
        second = counts[:, None, None] * (covariances - reg_covar * np.eye(means.shape[1]))
    elif covariance_type == "tied":
        second = covariances - reg_covar * np.eye(means.shape[1])
    elif covariance_type == "diag":
        second = counts[:, None] * (covariances - reg_covar)
    else:  # summed over features
        second = counts * means.shape[1] * (covariances - reg_covar)
    return RunningStatistics(counts, np.zeros_like(means), second, means)


def recentre(
    statistics: RunningStatistics, centers: Array, covariance_type: str
) -> RunningStatistics:
    """Take the moments about other centers.

    Notes
    -----
    With s the shift of a center, ``S1' = S1 - N s`` and
    ``S2' = S2 - s S1^T - S1 s^T + N s s^T``, of which 'tied' sums over components and the others
    take the diagonal or its sum.
    """
    counts, first, second, before = statistics
    shift = centers - before
    moved = first - counts[:, None] * shift
    # S2' - S2 = -(s S1^T + S1' s^T), by which N s s^T is not formed by itself.
    if covariance_type == "full":
        change = shift[:, :, None] * first[:, None] + moved[:, :, None] * shift[:, None]
        second = second - (change + change.swapaxes(1, 2)) / 2.0
    elif covariance_type == "tied":
        change = shift.T @ first + moved.T @ shift
        second = second - (change + change.T) / 2.0
    else:
        change = shift * (first + moved)
        second = second - (change if covariance_type == "diag" else change.sum(axis=1))
    return RunningStatistics(counts, moved, second, centers)


def blend(past: RunningStatistics, new: RunningStatistics, share: float) -> RunningStatistics:
    """Average two statistics about the same centers; the new ones have `share` in (0, 1]."""
    counts, first, second = (
        (1.0 - share) * a + share * b for a, b in zip(past[:3], new[:3], strict=True)
    )
    return RunningStatistics(counts, first, second, new.centers)


class StepwiseEM:
    """Gives :class:`GaussianMixture` its `partial_fit`."""

    n_batches_seen_: int
    n_samples_seen_: int
    _running: RunningStatistics

    def partial_fit(
        self,
        X: npt.ArrayLike,
        y: object = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> GaussianMixture:
        """Move the parameters by one step of stepwise EM on a batch of samples.

        The first call starts from `init_params` on its batch, or from `weights_init`, `means_init`
        and `precisions_init`; after :meth:`fit`, from the fitted parameters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Batch; for a start from `init_params`, at least `n_components` samples. Every batch
            counts the same, so they should be of about one size.
        y : ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; only ratios within the batch matter. An integer weight equals
            that many copies of the row.

        Returns
        -------
        self : GaussianMixture
            The estimator, with all fitted attributes; `lower_bound_` is the average, running as
            that of the statistics, of the batches' bounds before their steps.

        Raises
        ------
        ValueError
            If an argument has a wrong shape or value, or a covariance is not positive definite.
            The estimator is then as it was, and so it is on Ctrl-C.

        Notes
        -----
        With the statistics s_t of batch t per sample, under the current parameters, the running
        ones become ``s <- (1 - gamma_t) s + gamma_t s_t`` with
        ``gamma_t = (t + learning_offset) ** -learning_decay``, t = 1, 2, ..., and the M-step
        follows (Cappe & Moulines, On-line expectation-maximization algorithm for latent data
        models, 2009). Before the first batch, s is that from which the M-step makes the start:
        after T batches the start still has the weight of the product of all ``1 - gamma_t``.
        """
        estimator = cast("GaussianMixture", self)
        with unchanged_on_failure(estimator):
            _step(estimator, X, sample_weight)
        return estimator

    def _forget_stream(self) -> None:
        """Drop what earlier batches left."""
        for name in _STREAM:
            vars(self).pop(name, None)


def _step(estimator: GaussianMixture, X: Any, sample_weight: Any) -> None:
    estimator._validate_params()
    refuse_chunks(X, "partial_fit")
    fitted = hasattr(estimator, "converged_")
    _refuse_penalties(estimator)
    library = library_name(X)
    complete = "partial_fit takes complete rows only."
    data = validate_rows(estimator, as_numpy(X, "X"), "error", complete, reset=not fitted)
    weight, copy = weight_and_copy(sample_weight, len(data))
    if weight is not None and not weight.all():
        data, weight = data[weight > 0.0], weight[weight > 0.0]
    batch = Chunk(as_float_array(data, "X"), weight)
    parameters = _current(estimator, batch, copy, fitted)
    t = getattr(estimator, "n_batches_seen_", 0) + 1
    n_samples_seen = getattr(estimator, "n_samples_seen_", 0) + len(batch.rows)
    share = (t + estimator.learning_offset) ** -estimator.learning_decay
    past = getattr(estimator, "_running", None)
    if past is None:
        past = implied_statistics(parameters, estimator.covariance_type, estimator.reg_covar)
    else:  # about the means before the last step, or before they were set anew
        past = recentre(past, parameters.means, estimator.covariance_type)
    running, following, bound = _blended_step(estimator, batch, parameters, past, share)
    before = estimator.lower_bound_ if fitted else -math.inf
    if math.isfinite(before):
        bound = (1.0 - share) * before + share * bound
    estimator._store(EmRun(following, bound, [bound], False), data.dtype)
    estimator._library = library
    estimator._running = running
    estimator.n_batches_seen_ = t
    estimator.n_samples_seen_ = n_samples_seen


def _refuse_penalties(estimator: GaussianMixture) -> None:
    """Raise for what refers to all data, which no batch knows."""
    for name, none in (("prior", None), ("relative_reg_covar", 0.0)):
        value = getattr(estimator, name)
        if value != none:
            raise ValueError(
                f"{name} is {value!r}, which partial_fit cannot weigh against a stream without "
                f"end; expected {none!r}"
            )


def _blended_step(
    estimator: GaussianMixture,
    batch: Chunk,
    parameters: GmmParameters,
    past: RunningStatistics,
    share: float,
) -> tuple[RunningStatistics, GmmParameters, float]:
    """Return the running statistics with the batch, the parameters of the M-step, the bound."""
    covariance_type = estimator.covariance_type
    n_samples = len(batch.rows)
    mass = float(n_samples) if batch.weight is None else float(batch.weight.sum())
    threshold = float(empty_below(np.asarray(1.0), np.asarray(n_samples)))
    for wide in (True,) if batch.rows.dtype == np.float64 else (False, True):
        sums = StatisticsSum(parameters, covariance_type, wide)
        sums.add(batch)
        counts, first, second, log_likelihood = sums.result()
        # The sum of the weights, but for rows whose density is zero, which EM leaves out.
        total = float(counts.sum())
        if total == 0.0:
            if wide:
                raise ValueError(
                    "no component explains any sample: the density of every sample of the batch "
                    "under every component is zero"
                )
            continue
        new = RunningStatistics(counts / total, first / total, second / total, parameters.means)
        running = blend(past, new, share)
        bound = float(log_likelihood) / mass
        statistics = GmmStatistics(*running[:3], bound)
        try:
            following, coarse = m_step(
                statistics,
                parameters,
                covariance_type,
                reg_covar=estimator.reg_covar,
                threshold=threshold,
            )
        except ValueError:
            if wide:
                raise
            continue
        if not coarse:
            break
    return running, following, bound


def _current(estimator: GaussianMixture, batch: Chunk, copy: float, fitted: bool) -> GmmParameters:
    """Return the parameters before the batch: the fitted ones, or those of the start."""
    rows, weight = batch
    if fitted:
        starts = last_solution(estimator, rows.shape[1], "partial_fit")
    else:
        given = given_to(estimator, rows.shape[1])
        if len(rows) < estimator.n_components and any(array is None for array in given):
            raise ValueError(
                f"Expected n_samples >= n_components in the first batch but got n_components = "
                f"{estimator.n_components}, n_samples = {len(rows)}; pass a larger one, or all of "
                "weights_init, means_init and precisions_init"
            )
        problem = Problems(rows[None])
        if weight is not None:
            problem = Problems(rows[None], weight[None], copy=np.array([copy]))
        rng = check_random_state(estimator.random_state)
        penalty = Penalty(estimator.reg_covar, None)
        starts = drawn_starts(estimator, problem, given, rng, penalty)
    return single(starts, estimator.covariance_type, "the start")
