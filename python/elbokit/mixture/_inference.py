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
from elbokit.mixture._parameters import GmmParameters, covariance_shape, upper_triangular
from elbokit.mixture._validation import check_sample_weight, checked_weight

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
    _before_rounding: GmmParameters | None

    def score_samples(self, X: npt.ArrayLike) -> Floats:
        """Compute the log-likelihood of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            ``log p(x_n)``, float32 where `X` and the parameters are. -inf where a sample is so
            far away that its squared distances overflow.

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
        total, mass = _weighted_sum(log_prob, check_sample_weight(sample_weight, len(log_prob)))
        return total / mass

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
        ValueError
            If the squared distances of a sample to all components overflow float64.
        """
        labels: npt.NDArray[np.intp] = np.argmax(self.predict_proba(X), axis=1)
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
            Rows sum to one; float32 where `X` and the parameters are.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the squared distances of a sample to all components overflow float64.
        """
        log_prob, responsibilities = self._estep(X)
        rows = np.flatnonzero(np.isneginf(log_prob))
        rows = rows[~(responsibilities[rows].sum(axis=1) > 0.0)]
        if len(rows):
            raise ValueError(
                f"row {rows[0]} of X is so far from every component that all squared distances "
                "overflow float64, so none of them is the most probable; rescale or drop it"
            )
        return responsibilities

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
            If `n_samples` is below one, or `covariances_` has not the shape that
            `covariance_type` and `means_` ask for.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least "
                "one sample."
            )
        rng = check_random_state(self.random_state)
        given, means = np.asarray(self.weights_), np.asarray(self.means_)
        covariances = np.asarray(self.covariances_)
        # n_components may have been set anew since the fit: the arrays count.
        shape = covariance_shape(self.covariance_type, *means.shape)
        if covariances.shape != shape:
            raise ValueError(
                f"covariances_ has shape {covariances.shape}, expected {shape} for "
                f"covariance_type={self.covariance_type!r} and means_ of shape {means.shape}"
            )
        weights = given.astype(np.float64)
        if given.dtype != np.float64:
            weights /= weights.sum()  # float32 weights can sum to more than multinomial allows
        counts = rng.multinomial(n_samples, weights)
        groups = []
        if self.covariance_type in ("full", "tied"):
            covariances = np.broadcast_to(covariances, (len(means), *shape[-2:]))
            for mean, covariance, count in zip(means, covariances, counts, strict=True):
                groups.append(rng.multivariate_normal(mean, covariance, int(count)))
        else:
            for mean, variance, count in zip(means, covariances, counts, strict=True):
                noise = rng.standard_normal(size=(count, len(mean)))
                groups.append(mean + noise * np.sqrt(variance))
        labels = np.repeat(np.arange(len(means), dtype=np.int64), counts)
        return np.vstack(groups).astype(np.float64), labels

    def bic(self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Compute the Bayesian information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.
        sample_weight : array-like of shape (n_samples,), default=None
            Numbers of copies of the samples: their sum is the number of samples.

        Returns
        -------
        bic : float
            ``-2 log p(X) + n_parameters log(n_samples)``.
        """
        total, n_samples = self._total_log_prob(X, sample_weight)
        return -2.0 * total + self._n_parameters() * math.log(n_samples)

    def aic(self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Compute the Akaike information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.
        sample_weight : array-like of shape (n_samples,), default=None
            Numbers of copies of the samples.

        Returns
        -------
        aic : float
            ``-2 log p(X) + 2 n_parameters``.
        """
        return -2.0 * self._total_log_prob(X, sample_weight)[0] + 2.0 * self._n_parameters()

    def _total_log_prob(
        self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None
    ) -> tuple[float, float]:
        """Return the log-likelihood of all samples, and their number, copies counted."""
        log_prob = self.score_samples(X).astype(np.float64)
        if sample_weight is None:
            return _weighted_sum(log_prob, None)
        return _weighted_sum(log_prob, checked_weight(sample_weight, len(log_prob)))

    def _n_parameters(self) -> int:
        """Return the number of free parameters."""
        n_components, n_features = np.shape(self.means_)
        covariances = {
            "full": n_components * n_features * (n_features + 1) // 2,
            "tied": n_features * (n_features + 1) // 2,
            "diag": n_components * n_features,
            "spherical": n_components,
        }[self.covariance_type]
        return int(covariances + n_components * n_features + n_components - 1)

    def _estep(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return log p(x) and the responsibilities of validated data.

        Where all distances overflow the density is -inf and the responsibilities do not sum to 1.
        """
        check_is_fitted(self)
        data = validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=False)
        parameters = self._density_parameters()
        public = (self.weights_, self.means_, self.precisions_cholesky_)
        dtype = np.result_type(data, *(np.asarray(array) for array in public))
        data = data.astype(np.float32 if dtype == np.float32 else np.float64, copy=False)
        log_prob, responsibilities = ops.gmm_estep(data, *parameters, self.covariance_type)
        lost = np.flatnonzero(~np.isfinite(log_prob))
        if len(lost):
            # X is finite, so distances overflowed: float64 knows more, and infinities of both
            # signs (NaN) in one distance only say that it is large.
            rows = ops.gmm_estep(data[lost].astype(np.float64), *parameters, self.covariance_type)
            with np.errstate(over="ignore"):
                log_prob[lost] = np.where(np.isnan(rows[0]), -np.inf, rows[0])
            responsibilities[lost] = rows[1]
        return log_prob, responsibilities

    def _density_parameters(self) -> tuple[Floats, Floats, Floats]:
        """Return weights, means and upper triangular factors: what the density needs."""
        factors = upper_triangular(self._float64("precisions_cholesky"), self.covariance_type)
        return self._float64("weights"), self._float64("means"), factors

    def _float64(self, name: str) -> Floats:
        """Return a parameter as the fit left it, before it was rounded to X's dtype.

        Far from the origin a float32 mean is off by more than the densities can bear. The
        public attributes stay in charge: where one was changed, it is what counts.
        """
        public = np.asarray(getattr(self, f"{name}_"))
        exact: GmmParameters | None = getattr(self, "_before_rounding", None)
        if exact is not None and public.dtype == np.float32:
            fitted: Floats = getattr(exact, name)
            if np.array_equal(fitted.astype(np.float32), public):
                return fitted
        return np.asarray(public, dtype=np.float64)


def _weighted_sum(log_prob: Floats, weight: Floats | None) -> tuple[float, float]:
    """Return ``sum_n w_n log p(x_n)`` and ``sum_n w_n``."""
    if weight is None:
        return float(log_prob.sum()), float(len(log_prob))
    # A sample of weight zero may be as improbable as it likes: 0 times -inf is no number.
    terms = weight * np.where(weight > 0.0, log_prob, 0.0)
    return float(terms.sum()), float(weight.sum())
