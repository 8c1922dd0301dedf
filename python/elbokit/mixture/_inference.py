"""What a fitted Gaussian mixture answers: densities, labels, samples, criteria."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from elbokit import ops
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._validation import check_sample_weight

__all__ = ["FittedGaussianMixture"]

Floats = npt.NDArray[Any]


class FittedGaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Methods that need the fitted attributes only; see :class:`GaussianMixture`."""

    n_components: int
    covariance_type: str
    random_state: int | np.random.RandomState | None
    weights_: Floats
    means_: Floats
    covariances_: Floats
    precisions_cholesky_: Floats
    _fitted_parameters: GmmParameters

    def score_samples(self, X: npt.ArrayLike) -> Floats:
        """Compute the log-likelihood of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            ``log p(x_n)``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        return self._estep(X)[0]

    def score(
        self, X: npt.ArrayLike, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """Compute the average log-likelihood per sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.
        y : ignored
            Present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the samples in the average.

        Returns
        -------
        log_likelihood : float
            ``sum_n w_n log p(x_n) / sum_n w_n``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `sample_weight` has a wrong shape or value.
        """
        log_prob = self.score_samples(X).astype(np.float64)
        weight = check_sample_weight(sample_weight, len(log_prob))
        return float(np.average(log_prob, weights=weight))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Predict the most probable component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Component numbers.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        labels: npt.NDArray[np.intp] = np.argmax(self._estep(X)[1], axis=1)
        return labels

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Compute the posterior probability of each component for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_components)
            Rows sum to one.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        return self._estep(X)[1]

    def sample(self, n_samples: int = 1) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Draw samples from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples in float64, ordered by component.
        y : ndarray of shape (n_samples,)
            Component of each sample.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `n_samples` is below one.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least "
                "one sample."
            )
        rng = check_random_state(self.random_state)
        weights = self.weights_.astype(np.float64)
        if self.weights_.dtype != np.float64:
            weights /= weights.sum()  # float32 weights can sum to more than multinomial allows
        counts = rng.multinomial(n_samples, weights)
        shape = (self.n_components, *self.covariances_.shape[-2:])
        groups = []
        if self.covariance_type in ("full", "tied"):
            covariances = np.broadcast_to(self.covariances_, shape)
            for mean, covariance, count in zip(self.means_, covariances, counts, strict=True):
                groups.append(rng.multivariate_normal(mean, covariance, int(count)))
        else:
            for mean, variance, count in zip(self.means_, self.covariances_, counts, strict=True):
                noise = rng.standard_normal(size=(count, len(mean)))
                groups.append(mean + noise * np.sqrt(variance))
        labels = np.repeat(np.arange(self.n_components, dtype=np.int64), counts)
        return np.vstack(groups).astype(np.float64), labels

    def bic(self, X: npt.ArrayLike) -> float:
        """Compute the Bayesian information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        bic : float
            ``-2 log p(X) + n_parameters log(n_samples)``.
        """
        log_prob = self.score_samples(X).astype(np.float64)
        return float(-2.0 * log_prob.sum() + self._n_parameters() * math.log(len(log_prob)))

    def aic(self, X: npt.ArrayLike) -> float:
        """Compute the Akaike information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        aic : float
            ``-2 log p(X) + 2 n_parameters``.
        """
        log_prob = self.score_samples(X).astype(np.float64)
        return float(-2.0 * log_prob.sum() + 2.0 * self._n_parameters())

    def _n_parameters(self) -> int:
        """Return the number of free parameters."""
        n_components, n_features = self.means_.shape
        covariances = {
            "full": n_components * n_features * (n_features + 1) // 2,
            "tied": n_features * (n_features + 1) // 2,
            "diag": n_components * n_features,
            "spherical": n_components,
        }[self.covariance_type]
        return int(covariances + n_components * n_features + n_components - 1)

    def _estep(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return log p(x) and the responsibilities of validated data."""
        check_is_fitted(self)
        data = validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=False)
        parameters = self._float64_parameters()
        log_prob, responsibilities = ops.gmm_estep(
            data,
            parameters.weights,
            parameters.means,
            parameters.precisions_cholesky,
            self.covariance_type,
        )
        return log_prob, responsibilities

    def _float64_parameters(self) -> GmmParameters:
        """Return the parameters as the fit left them, before they were rounded to X's dtype.

        Far from the origin a float32 mean is off by more than the densities can bear. The
        public attributes stay in charge: where they were changed, they are what counts.
        """
        public = (self.weights_, self.means_, self.covariances_, self.precisions_cholesky_)
        exact: GmmParameters | None = getattr(self, "_fitted_parameters", None)
        if exact is not None and all(
            np.array_equal(array.astype(rounded.dtype), rounded)
            for array, rounded in zip(exact, public, strict=True)
        ):
            return exact
        return GmmParameters(*(np.asarray(array, dtype=np.float64) for array in public))
