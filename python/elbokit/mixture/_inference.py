"""What a fitted Gaussian mixture answers: densities, labels, samples, criteria."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from elbokit.mixture._estep import estep, require_density
from elbokit.mixture._missing import estep_incomplete
from elbokit.mixture._missing_fit import has_missing, validate_rows
from elbokit.mixture._parameters import GmmParameters, covariance_shape, upper_triangular
from elbokit.mixture._validation import check_sample_weight

__all__ = ["FittedGaussianMixture"]

Floats = npt.NDArray[Any]


class FittedGaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Methods that need the fitted attributes only; see :class:`GaussianMixture`."""

    n_components: int
    covariance_type: str
    random_state: int | np.random.RandomState | None
    missing: str
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
        require_density(log_prob, responsibilities, "X")
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
        data = validate_rows(self, X, reset=False)
        parameters = self._density_parameters()
        public = (self.weights_, self.means_, self.precisions_cholesky_)
        dtype = np.result_type(data, *(np.asarray(array) for array in public))
        data = data.astype(np.float32 if dtype == np.float32 else np.float64, copy=False)
        of_rows = estep_incomplete if has_missing(data) else estep
        return of_rows(data, *parameters, self.covariance_type)

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
