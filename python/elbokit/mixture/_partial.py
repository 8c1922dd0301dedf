"""The estimator's methods for some of the features: impute, marginal, conditional."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import _get_feature_names, check_array, check_is_fitted

from elbokit._arrays import as_numpy, naming, returns_like
from elbokit.mixture._chunks import refuse_chunks
from elbokit.mixture._conditional import (
    ConditionalMixtures,
    chosen_features,
    condition,
    marginalise,
)
from elbokit.mixture._em import EmRun
from elbokit.mixture._imputation import impute
from elbokit.mixture._missing_fit import has_missing
from elbokit.mixture._parameters import GmmParameters
from elbokit.mixture._validation import validate_rows

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["PartialMixin"]

Floats = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]


class PartialMixin:
    """Methods of a fitted :class:`GaussianMixture` that tell its features apart."""

    def impute(self, X: npt.ArrayLike, *, draw: bool = False, random_state: Any = None) -> Any:
        """Replace missing entries by their expectation given the observed ones, or by a draw.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data; NaN is missing, whatever the parameter `missing` is.
        draw : bool, default=False
            Whether to draw the missing entries of each row from ``p(x_m | x_o)``, together.
        random_state : int, RandomState or None, default=None
            Source of the draws; None for the estimator's own `random_state`. The same int draws
            the same: for several imputations give several, or one RandomState.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), float32 or float64
            A copy in which NaN is ``E[x_m | x_o] = sum_k p(k | x_o) E[x_m | x_o, k]``, or a draw.
            Observed entries are as they were. An array of `X`'s library.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If `draw` is no bool, or X is a list of chunks.
        ValueError
            If X has an infinity or another number of features, or a row is so far out that no
            component has a density there.

        Notes
        -----
        The expectation has the smallest mean squared error. It is not a typical value: where a
        row may belong to one of several components it lies between them, and data filled in
        have too little variance. Draws have the mixture's.
        """
        self_ = self._fitted()
        if not isinstance(draw, (bool, np.bool_)):
            raise TypeError(f"draw has type {type(draw).__name__}, expected bool")
        refuse_chunks(X, "impute")
        data = validate_rows(self, as_numpy(X, "X"), "integrate", reset=False)
        rng = None
        if draw:
            rng = check_random_state(self_.random_state if random_state is None else random_state)
        parameters = self_._density_parameters()
        filled = impute(data, *parameters, self_.covariance_type, rng)
        return returns_like(X)(filled)

    def marginal(self, features: Any) -> GaussianMixture:
        """Return the mixture of some of the features.

        Parameters
        ----------
        features : int, str, array-like of them, or mask of shape (n_features_in_,)
            Indices, or names if the fit had names; in the order that the result shall have.

        Returns
        -------
        marginal : GaussianMixture
            Fitted, with the parameters of ``p(x_features)``, of the same covariance type. No data
            were seen: `lower_bound_` is -inf and `n_iter_` 0. `weights_init`, `means_init` and
            `precisions_init`, which belong to all features, are None, and so is `prior`.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If a feature is unknown or chosen twice, or none is chosen.
        """
        self_ = self._fitted()
        chosen = self._chosen(features, "features")
        parameters = marginalise(self._all_parameters(), self_.covariance_type, chosen)
        return self._of_features(parameters, chosen)

    def conditional(
        self, X_given: npt.ArrayLike, *, given: Any
    ) -> GaussianMixture | ConditionalMixtures:
        """Return the mixture of the other features, given the values of some.

        Parameters
        ----------
        X_given : array-like of shape (n_given,) or (n_samples, n_given)
            Values of the given features, in the order of `given`. A number will do for one feature.
        given : int, str, array-like of them, or mask of shape (n_features_in_,)
            The features that `X_given` has; indices, or names if the fit had names.

        Returns
        -------
        conditional : GaussianMixture or ConditionalMixtures
            For values in one dimension a fitted mixture of the other features, in their order, of
            the same covariance type; its weights are the responsibilities by the given values. As
            from :meth:`marginal` no data were seen. For values in two dimensions, also a single
            row, a named tuple: ``weights`` of shape (n_samples, n_components), ``means`` of shape
            (n_samples, n_components, n_rest), ``covariances`` and ``precisions_cholesky`` that
            all rows share, ``features``, the indices of the others, and ``covariance_type``. Its
            method ``sample`` draws once from each.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError, ValueError
            If a feature is unknown or chosen twice, none or all are given, `X_given` has another
            shape, NaN or infinity, or a row is so far out that no component has a density there.
        """
        self_ = self._fitted()
        chosen = self._chosen(given, "given")
        if len(chosen) == self_.n_features_in_:
            raise ValueError(f"given has all {len(chosen)} features, expected to leave some")
        names = _names_of(X_given)
        fitted_names = getattr(self, "feature_names_in_", None)
        if names is not None and fitted_names is not None:
            expected = fitted_names[chosen].tolist()
            if names.tolist() != expected:
                raise ValueError(f"X_given has the columns {names.tolist()}, expected {expected}")
        with naming("X_given"):
            values = check_array(
                as_numpy(X_given, "X_given"),
                dtype=[np.float64, np.float32],
                ensure_2d=False,
                ensure_all_finite="allow-nan",
                ensure_min_samples=0,
                input_name="X_given",
            )
        single = values.ndim < 2
        rows = values.reshape(1, -1) if single else values
        if rows.shape[1] != len(chosen) or not len(rows):
            raise ValueError(
                f"X_given has shape {values.shape}, expected ({len(chosen)},) or "
                f"(n_samples, {len(chosen)}), a value for each feature of given"
            )
        if has_missing(rows):
            row, column = np.argwhere(np.isnan(rows))[0].tolist()
            raise ValueError(
                f"X_given contains NaN, first in row {row}, column {column}; a feature without a "
                "value is not given: leave it out of `given`"
            )
        mixtures = condition(self._all_parameters(), self_.covariance_type, rows, chosen)
        if single:
            weights, means, *shared = mixtures[:4]
            parameters = GmmParameters(weights[0], means[0], *shared)
            return self._of_features(parameters, mixtures.features)
        dtype = np.asarray(self_.means_).dtype
        return mixtures._replace(
            weights=mixtures.weights.astype(dtype),
            means=mixtures.means.astype(dtype),
            covariances=mixtures.covariances.astype(dtype),
            precisions_cholesky=mixtures.precisions_cholesky.astype(dtype),
        )

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn whether NaN is allowed."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = self._fittable().missing == "integrate"
        return tags

    def _fittable(self) -> GaussianMixture:
        """Return self as what it is part of."""
        return cast("GaussianMixture", self)

    def _fitted(self) -> GaussianMixture:
        """Return self, which must be fitted."""
        check_is_fitted(self)
        return self._fittable()

    def _chosen(self, features: Any, name: str) -> Integers:
        """Return the indices of chosen features."""
        names = getattr(self, "feature_names_in_", None)
        return chosen_features(features, name, self._fittable().n_features_in_, names)

    def _all_parameters(self) -> GmmParameters:
        """Return the fitted parameters in float64."""
        self_ = self._fittable()
        weights, means, factors = self_._density_parameters()
        return GmmParameters(weights, means, self_._float64("covariances"), factors)

    def _of_features(self, parameters: GmmParameters, features: Integers) -> GaussianMixture:
        """Return a fitted mixture of these features."""
        self_ = self._fittable()
        mixture = cast("GaussianMixture", clone(self_))
        mixture.set_params(
            n_components=len(parameters.weights),
            weights_init=None,
            means_init=None,
            precisions_init=None,
            prior=None,
            # A clone has a copy of a RandomState, which would repeat the draws of the last one.
            random_state=self_.random_state,
        )
        run = EmRun(parameters, -math.inf, [], converged=bool(self_.converged_))
        mixture._store(run, np.asarray(self_.means_).dtype)
        mixture.n_features_in_ = len(features)
        names = getattr(self, "feature_names_in_", None)
        if names is not None:
            mixture.feature_names_in_ = names[features]
        return mixture


def _names_of(X_given: Any) -> npt.NDArray[Any] | None:
    """Return the names of the columns of a table, or of the values of one row of it."""
    if isinstance(X_given, Mapping):
        raise TypeError(
            f"X_given has type {type(X_given).__name__}, expected an array; of a mapping m it is "
            "list(m.values()), with given=list(m)"
        )
    index = getattr(X_given, "index", None)
    if getattr(X_given, "ndim", None) == 1 and index is not None and not callable(index):
        given = list(index)  # of a Series; callable in a list, say
        named = len(given) > 0 and all(isinstance(each, str) for each in given)
        return np.array(given, dtype=object) if named else None
    names: npt.NDArray[Any] | None = _get_feature_names(X_given)
    return names
