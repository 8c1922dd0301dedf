"""What a fitted Gaussian mixture answers for rows on a GPU; results stay there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from elbokit._gpu_arrays import read_back, returns_gpu_like, to_host
from elbokit.mixture._gpu_fit import as_rows, require_finite
from elbokit.mixture._validation import check_sample_weight, checked_weight
from elbokit.torch._cuda._gmm_kernels import estep, parameters_of

if TYPE_CHECKING:
    from elbokit.mixture._inference import FittedGaussianMixture

__all__ = ["GpuAnswers"]


class GpuAnswers:
    """The density of one array's rows under a fitted mixture.

    Parameters
    ----------
    estimator : FittedGaussianMixture
    X : array of shape (n_samples, n_features)
        On a GPU, of any library that speaks DLPack.
    """

    def __init__(self, estimator: FittedGaussianMixture, X: Any) -> None:
        self._estimator = estimator
        self._rows = as_rows(X)
        n_features = estimator.means_.shape[1]
        if self._rows.shape[1] != n_features:
            raise ValueError(
                f"X has {self._rows.shape[1]} features, but {type(estimator).__name__} is "
                f"expecting {n_features} features as input."
            )
        self._back = returns_gpu_like(X)
        weights, means, factors = (
            torch.from_numpy(np.array(a))[None].to(self._rows.device)
            for a in estimator._density_parameters()
        )
        self._parameters = parameters_of(estimator.covariance_type, weights, means, factors)
        public = (estimator.weights_, estimator.means_, estimator.precisions_cholesky_)
        self._wide = np.result_type(*(np.asarray(a) for a in public)) == np.float64

    def log_prob(self) -> Any:
        """Return log p(x) of each row, as the caller's library has it."""
        return self._back(self._estep(False, False)[0])

    def responsibilities(self) -> Any:
        """Return the posterior probabilities."""
        return self._back(self._estep(True, False)[1])

    def labels(self) -> Any:
        """Return the most probable components."""
        return self._back(self._estep(False, True)[2])

    def total(self, sample_weight: Any, *, ratios: bool) -> tuple[float, float]:
        """Return the weighted sum of log p(x), and that of the weights; `ratios`: in any unit."""
        log_prob = self._estep(False, False)[0].double()
        n_samples = len(log_prob)
        weight = to_host(sample_weight, "sample_weight")
        if weight is not None:
            check = check_sample_weight if ratios else checked_weight
            weight = check(weight, n_samples)
        if weight is None:
            return float(read_back(log_prob.sum())), float(n_samples)
        on_gpu = torch.from_numpy(weight).to(log_prob.device)
        # A sample of weight zero may be as improbable as it likes: 0 times -inf is no number.
        terms = on_gpu * torch.where(on_gpu > 0.0, log_prob, 0.0)
        return float(read_back(terms.sum())), float(weight.sum())

    def _estep(self, responsibilities: bool, labels: bool) -> tuple[Tensor, Any, Any]:
        """Make the E-step; rows whose distances overflowed are done again in float64."""
        found = self._part(self._rows, self._wide, responsibilities, labels)
        log_prob = found[0]
        if bool(read_back(torch.isfinite(log_prob).all())):
            return found
        require_finite(self._rows, self._estimator)
        lost = torch.nonzero(~torch.isfinite(log_prob))[:, 0]
        exact, share, _ = self._part(self._rows[lost], True, True, False)
        assert share is not None
        log_prob[lost] = torch.where(exact.isnan(), -torch.inf, exact).to(log_prob.dtype)
        if responsibilities or labels:
            nowhere = ~(exact > -torch.inf) & ~(share.sum(1) > 0.0)
            far = read_back(lost[nowhere][:1])
            if len(far):
                raise ValueError(
                    f"row {far[0]} of X is so far from every component that all squared distances "
                    "overflow float64, so none of them is the most probable; rescale or drop it"
                )
        if responsibilities:
            found[1][lost] = share.to(found[1].dtype)
        if labels:
            found[2][lost] = share.argmax(1)
        return found

    def _part(
        self, rows: Tensor, wide: bool, responsibilities: bool, labels: bool
    ) -> tuple[Tensor, Any, Any]:
        found: list[Any] = [
            None if a is None else a[0]
            for a in estep(
                rows[None],
                self._parameters,
                wide=wide,
                responsibilities=responsibilities,
                labels=labels,
            )
        ]
        return found[0], found[1], found[2]
