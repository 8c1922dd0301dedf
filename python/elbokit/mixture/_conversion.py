"""The estimator made of something else: of parameters, of scikit-learn's; and the way back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from elbokit._arrays import as_numpy
from elbokit._mixture_arguments import check_covariance_type, check_finite
from elbokit.mixture._em import EmRun
from elbokit.mixture._parameters import (
    GmmParameters,
    covariance_shape,
    precisions_cholesky_from_covariances,
)
from elbokit.mixture._sklearn import from_sklearn, to_sklearn

if TYPE_CHECKING:
    from elbokit.mixture.gaussian_mixture import GaussianMixture

__all__ = ["ConversionMixin"]

Array = npt.NDArray[np.float64]


class ConversionMixin:
    """Methods of :class:`GaussianMixture` that make one, or something else of it."""

    @classmethod
    def from_parameters(
        cls,
        weights: npt.ArrayLike,
        means: npt.ArrayLike,
        covariances: npt.ArrayLike,
        covariance_type: str = "full",
        **parameters: Any,
    ) -> GaussianMixture:
        """Return a mixture that is known, as a fitted estimator.

        Parameters
        ----------
        weights : array-like of shape (n_components,)
            Mixing proportions; they sum to 1, to float32's rounding, and then exactly.
        means : array-like of shape (n_components, n_features)
            Component means.
        covariances : array-like
            (n_components, n_features, n_features) for 'full', (n_features, n_features) for
            'tied', (n_components, n_features) for 'diag', (n_components,) for 'spherical'.
        covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
            Shape of the covariances.
        **parameters
            Further parameters of the estimator, `random_state` for example.

        Returns
        -------
        mixture : GaussianMixture
            Ready to predict, score, sample, and to be fitted further (`partial_fit`, or `fit` with
            `warm_start`). No data were seen: `lower_bound_` is -inf, `n_iter_` 0 and `converged_`
            False.

        Raises
        ------
        ValueError
            If shapes do not go together, a number is not finite, a weight is negative or they do
            not sum to 1, or a covariance is not symmetric or not positive definite.

        Examples
        --------
        >>> from elbokit import GaussianMixture
        >>> gm = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], "diag")
        >>> gm.predict([[0.1], [3.9]])
        array([0, 1])
        """
        made = _checked(weights, means, covariances, covariance_type)
        n_components, n_features = made.means.shape
        estimator = cast("type[GaussianMixture]", cls)(
            n_components, covariance_type=covariance_type, **parameters
        )
        estimator._store(EmRun(made, -math.inf, [], converged=False), np.float64)
        estimator.n_features_in_ = n_features
        return estimator

    @classmethod
    def from_sklearn(cls, gm: Any) -> GaussianMixture:
        """Return the same mixture as an estimator of this class.

        Parameters
        ----------
        gm : sklearn.mixture.GaussianMixture
            Fitted or not.

        Returns
        -------
        estimator : GaussianMixture
            With copies of all parameters and fitted attributes, dtypes kept.

        Raises
        ------
        TypeError
            If `gm` is of another class, a BayesianGaussianMixture for example.
        """
        return from_sklearn(cast("type[GaussianMixture]", cls), gm)

    def to_sklearn(self) -> Any:
        """Return the same mixture as a scikit-learn estimator.

        Returns
        -------
        gm : sklearn.mixture.GaussianMixture
            With copies of all parameters and fitted attributes, dtypes kept.

        Raises
        ------
        ValueError
            If a parameter that scikit-learn has not is set to something else than its default.

        Notes
        -----
        After a fit of float32 data the estimator also keeps its parameters in float64, beside the
        public ones; the result has those that are public.
        """
        return to_sklearn(cast("GaussianMixture", self))


def _checked(weights: Any, means: Any, covariances: Any, covariance_type: Any) -> GmmParameters:
    """Return the parameters of a mixture with their factors."""
    check_covariance_type(covariance_type)
    w, m, c = (
        _floats(name, value)
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances))
    )
    if m.ndim != 2 or 0 in m.shape:
        raise ValueError(f"`means` has shape {m.shape}, expected (n_components, n_features)")
    k, d = m.shape
    for name, array, shape in (
        ("weights", w, (k,)),
        ("covariances", c, covariance_shape(covariance_type, k, d)),
    ):
        if array.shape != shape:
            raise ValueError(
                f"`{name}` has shape {array.shape}, expected {shape} to go with `means` of shape "
                f"{m.shape} and covariance_type={covariance_type!r}"
            )
    total = w.sum()
    if w.min() < 0 or abs(total - 1) > 1e-5:  # float32 numbers are so far off
        raise ValueError(
            f"`weights` has the least value {w.min():g} and the sum {total:g}, expected none below "
            "0, and 1"
        )
    if covariance_type in ("full", "tied"):
        scale = np.sqrt(np.abs(np.diagonal(c, axis1=-2, axis2=-1)))
        away = np.abs(c - c.swapaxes(-1, -2))
        if (away > 1e-5 * scale[..., None] * scale[..., None, :]).any():
            raise ValueError("`covariances` is not symmetric, expected symmetric matrices")
    factors, failed = precisions_cholesky_from_covariances(c[None], covariance_type, k, d)
    if failed[0] >= 0:
        owner = "" if covariance_type == "tied" else f" of component {failed[0]}"
        raise ValueError(f"`covariances`{owner} is not positive definite")
    return GmmParameters(w / total, np.ascontiguousarray(m), np.ascontiguousarray(c), factors[0])


def _floats(name: str, value: Any) -> Array:
    """Return finite numbers in float64."""
    try:
        array = np.array(as_numpy(value, name), dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` is {value!r}, expected an array of numbers") from None
    check_finite(array, name)
    return array
