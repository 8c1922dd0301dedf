"""What a fitted Gaussian mixture answers: densities, labels, samples, criteria."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from elbokit._arrays import as_numpy, returns_like
from elbokit._gpu_arrays import on_gpu
from elbokit.mixture._chunks import refuse_chunks
from elbokit.mixture._density import labels_of, log_prob_of, posterior_of, require_nearest
from elbokit.mixture._library import array_of
from elbokit.mixture._missing import estep_incomplete
from elbokit.mixture._missing_fit import has_missing
from elbokit.mixture._parameters import GmmParameters, covariance_shape, upper_triangular
from elbokit.mixture._validation import (
    check_sample_weight,
    checked_weight,
    has_plain_layout,
    validate_rows,
)

if TYPE_CHECKING:
    from elbokit.mixture._gpu_inference import GpuAnswers

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
    _library: str | None
    _device: str | None  # of the GPU whose arrays the fit saw

    def score_samples(self, X: npt.ArrayLike) -> Any:
        """Compute the log-likelihood of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; an array of torch or another library that speaks DLPack too.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            ``log p(x_n)``, float32 where `X` and the parameters are. -inf where a sample is so
            far away that its squared distances overflow. An array of `X`'s library.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        """
        if on_gpu(X):
            return self._on_gpu(X).log_prob()
        return returns_like(X)(self._log_prob(X))

    def score(
        self, X: npt.ArrayLike, y: object = None, sample_weight: npt.ArrayLike | None = None
    ) -> float:
        """Compute the average log-likelihood per sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; an array of torch or another library that speaks DLPack too.
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
        if on_gpu(X):
            total, mass = self._on_gpu(X).total(sample_weight, ratios=True)
            return total / mass
        log_prob = self._log_prob(X)
        total, mass = _weighted_sum(log_prob, check_sample_weight(sample_weight, len(log_prob)))
        return total / mass

    def predict(self, X: npt.ArrayLike) -> Any:
        """Predict the most probable component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; an array of torch or another library that speaks DLPack too.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Component numbers: the first of the largest in :meth:`predict_proba`. An array of
            `X`'s library.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the squared distances of a sample to all components overflow float64.
        """
        if on_gpu(X):
            return self._on_gpu(X).labels()
        return returns_like(X)(self._labels(X))

    def predict_proba(self, X: npt.ArrayLike) -> Any:
        """Compute the posterior probability of each component for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; an array of torch or another library that speaks DLPack too.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_components)
            Rows sum to one; float32 where `X` and the parameters are. An array of `X`'s library.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If the squared distances of a sample to all components overflow float64.
        """
        if on_gpu(X):
            return self._on_gpu(X).responsibilities()
        log_prob, responsibilities = self._estep(X)
        require_nearest(log_prob, responsibilities)
        return returns_like(X)(responsibilities)

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draw samples from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples in float64, ordered by component. After a fit to a torch tensor, or to an
            array of another library, an array of that library and of the fit's dtype; NumPy's
            where the library is not installed.
        y : ndarray of shape (n_samples,)
            Component of each sample.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `n_samples` is no integer.
        ValueError
            If `n_samples` is below one, or `covariances_` has not the shape that
            `covariance_type` and `means_` ask for.
        """
        check_is_fitted(self)
        if isinstance(n_samples, bool) or not isinstance(n_samples, Integral):
            raise TypeError(
                f"n_samples is {n_samples!r} of type {type(n_samples).__name__}, expected an int"
            )
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
        rows = np.vstack(groups).astype(np.float64)
        library = getattr(self, "_library", None)
        if library is not None:
            rows = rows.astype(means.dtype)
        device = getattr(self, "_device", None)
        return array_of(library, rows, device), array_of(library, labels, device)

    def bic(self, X: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Compute the Bayesian information criterion; lower is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; an array of torch or another library that speaks DLPack too.
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
            Data; an array of torch or another library that speaks DLPack too.
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
        if on_gpu(X):
            return self._on_gpu(X).total(sample_weight, ratios=False)
        log_prob = self._log_prob(X)
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

    def _on_gpu(self, X: Any) -> GpuAnswers:
        """Return what answers for rows on a GPU; only then is torch imported."""
        from elbokit.mixture._gpu_inference import GpuAnswers

        check_is_fitted(self)
        return GpuAnswers(self, X)

    def _log_prob(self, X: npt.ArrayLike) -> Floats:
        """Return log p(x) of validated data, as a NumPy array."""
        data, parameters = self._as_density_reads(X)
        if self._has_missing(data):
            return estep_incomplete(data, *parameters, self.covariance_type)[0]
        return log_prob_of(data, parameters, self.covariance_type)

    def _estep(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return log p(x) and the responsibilities of validated data, as NumPy arrays.

        Where all distances overflow the density is -inf and the responsibilities do not sum to 1.
        """
        data, parameters = self._as_density_reads(X)
        if self._has_missing(data):
            return estep_incomplete(data, *parameters, self.covariance_type)
        return posterior_of(data, parameters, self.covariance_type)

    def _labels(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Return the most probable components, as a NumPy array."""
        data, parameters = self._as_density_reads(X)
        if not self._has_missing(data):
            return labels_of(data, parameters, self.covariance_type)
        log_prob, responsibilities = estep_incomplete(data, *parameters, self.covariance_type)
        require_nearest(log_prob, responsibilities)
        return np.asarray(responsibilities.argmax(axis=1))

    def _as_density_reads(self, X: npt.ArrayLike) -> tuple[Floats, tuple[Floats, Floats, Floats]]:
        """Return validated data, float32 where the parameters are too, and the parameters."""
        check_is_fitted(self)
        data = self._validated(as_numpy(X, "X"))
        public = (self.weights_, self.means_, self.precisions_cholesky_)
        dtype = np.result_type(data, *(np.asarray(array) for array in public))
        data = data.astype(np.float32 if dtype == np.float32 else np.float64, copy=False)
        return data, self._density_parameters()

    def _validated(self, X: npt.ArrayLike) -> Floats:
        """Return scikit-learn's reading of the data; of plain ones the density tells NaN."""
        named = hasattr(self, "feature_names_in_")
        if has_plain_layout(X) and not named and self.missing == "error":
            data: Floats = np.asarray(X)
            if data.shape[1] == getattr(self, "n_features_in_", None):
                return data
        refuse_chunks(X, "This method")
        return validate_rows(self, X, self.missing, reset=False)

    def _has_missing(self, data: Floats) -> bool:
        """Tell whether rows have entries that are to be integrated out."""
        return self.missing == "integrate" and has_missing(data)

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
        return float(log_prob.sum(dtype=np.float64)), float(len(log_prob))
    # A sample of weight zero may be as improbable as it likes: 0 times -inf is no number.
    terms = weight * np.where(weight > 0.0, log_prob, 0.0)
    return float(terms.sum()), float(weight.sum())
