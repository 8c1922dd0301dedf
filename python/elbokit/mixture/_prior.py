"""Conjugate priors of a mixture, as the pseudo-observations that they stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, multigammaln

from elbokit.mixture._parameters import covariance_shape, first_indefinite

__all__ = ["CorePrior", "MixturePrior", "resolve_prior"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MixturePrior:
    """Conjugate prior of a Gaussian mixture, for estimates at the posterior's mode.

    A Dirichlet density of the weights; a normal one of each mean given its covariance,
    ``N(mean, Sigma / mean_precision)``; an inverse Wishart one of each covariance ('full', and the
    one of 'tied'), or an inverse gamma one of each variance ('diag', 'spherical').

    Parameters
    ----------
    weight_concentration : float or array-like of shape (n_components,), default=1.0
        Parameters of the Dirichlet density, at least 1: it has a mode, and 1 is the uniform one.
    mean_precision : float, default=0.01
        How many observations at `mean` the prior of a mean is worth; 0 leaves the means free.
    mean : array-like of shape (n_features,), default=None
        Where the means are drawn to; None is the mean of the data.
    degrees_of_freedom : float, default=None
        How many observations the prior of a covariance is worth: above n_features - 1 for 'full'
        and 'tied', else above 0. None is the smallest integer for which the covariance has a
        mean: n_features + 2 for 'full' and 'tied', 3 for 'diag' and 'spherical'.
    covariance : array-like, default=None
        Scale: (n_features, n_features) and positive definite for 'full' and 'tied', (n_features,)
        for 'diag', a number for 'spherical'. None takes the variance of each feature (spherical:
        their mean) over ``n_components ** (2 / n_features)``; a feature that is constant lends its
        square, or 1 where it is 0.

    Notes
    -----
    The defaults are those of Fraley & Raftery (2007), Bayesian regularization for normal mixture
    estimation and model-based clustering, Journal of Classification 24, but for the
    covariances between features, which are left out of the scale (it is then never singular), and
    for the degrees of freedom of 'diag' and 'spherical', where the covariances are one-dimensional.

    Examples
    --------
    >>> import numpy as np
    >>> from elbokit import GaussianMixture, MixturePrior
    >>> X = np.repeat([[0.0, 1.0], [4.0, 1.0]], 10, axis=0)  # two points, one constant column
    >>> gm = GaussianMixture(2, prior=MixturePrior(), reg_covar=0.0, random_state=0).fit(X)
    >>> np.linalg.eigvalsh(gm.covariances_).min() > 0
    np.True_
    """

    weight_concentration: Any = 1.0
    mean_precision: float = 0.01
    mean: Any = None
    degrees_of_freedom: float | None = None
    covariance: Any = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MixturePrior):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all(
            (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs
        )

    __hash__ = None  # type: ignore[assignment]


class CorePrior(NamedTuple):
    """What the core adds to counts and moments: ``GmmPrior`` of ``elbokit/gmm_fit.h``.

    Attributes
    ----------
    weight_counts : ndarray of shape (n_components,)
    mean_count : float
    mean : ndarray of shape (n_features,)
    covariance_count : float
    scale : ndarray
        In the shape of one component's covariances, with a leading dimension.
    log_normaliser : float
        The constant of the log-density. A density that is flat has none.
    """

    weight_counts: Array
    mean_count: float
    mean: Array
    covariance_count: float
    scale: Array
    log_normaliser: float

    def per(self, unit: float) -> CorePrior:
        """Return the prior for statistics whose weights were divided by `unit`."""
        return CorePrior(
            self.weight_counts / unit,
            self.mean_count / unit,
            self.mean,
            self.covariance_count / unit,
            self.scale / unit,
            self.log_normaliser / unit,
        )


def resolve_prior(
    prior: MixturePrior,
    covariance_type: str,
    n_components: int,
    mean: Array,
    variance: Array,
) -> CorePrior:
    """Check a prior against the mixture's shape and put the data's moments where it has None.

    Parameters
    ----------
    prior : MixturePrior
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    n_components : int
    mean, variance : ndarray of shape (n_features,)
        Of the data.

    Returns
    -------
    prior : CorePrior

    Raises
    ------
    TypeError
        If a field is not numeric.
    ValueError
        If a field has a wrong shape or value.
    """
    n_features = len(mean)
    concentration = _concentration(prior.weight_concentration, n_components)
    precision = _number(prior.mean_precision, "mean_precision")
    if not 0.0 <= precision < math.inf:
        raise ValueError(f"`prior.mean_precision` is {precision}, expected a finite value >= 0")
    center = mean if prior.mean is None else _array(prior.mean, "mean", (n_features,))
    freedom = _degrees_of_freedom(prior.degrees_of_freedom, covariance_type, n_features)
    if prior.covariance is None:
        scale = _default_scale(covariance_type, n_components, mean, variance)
    else:
        scale = _scale(prior.covariance, covariance_type, n_features)
    # With free means the density has no |Sigma|^(-1/2) of theirs.
    located = float(precision > 0.0)
    count = {
        "full": freedom + n_features + 1.0 + located,
        "tied": freedom + n_features + 1.0 + located * n_components,
        "diag": freedom + 2.0 + located,
        "spherical": (freedom + 2.0) / n_features + located,
    }[covariance_type]
    constant = float(gammaln(concentration.sum()) - gammaln(concentration).sum())
    if located:
        constant += 0.5 * n_components * n_features * math.log(precision / (2.0 * math.pi))
    owners = 1 if covariance_type == "tied" else n_components
    batch = scale.reshape(1, *covariance_shape(covariance_type, 1, n_features))
    constant += owners * _covariance_constant(scale, freedom, covariance_type)
    return CorePrior(concentration - 1.0, precision, center, count, batch, constant)


def _covariance_constant(scale: Array, freedom: float, covariance_type: str) -> float:
    """Return the constant of one covariance's log-density."""
    if covariance_type in ("full", "tied"):
        n_features = len(scale)
        log_det = float(np.linalg.slogdet(scale)[1])
        constant = freedom * (log_det - n_features * math.log(2.0)) / 2.0
        return constant - float(multigammaln(freedom / 2.0, n_features))
    constants = freedom / 2.0 * np.log(scale / 2.0) - gammaln(freedom / 2.0)
    return float(constants.sum())


def _default_scale(covariance_type: str, n_components: int, mean: Array, variance: Array) -> Array:
    # Within the rounding of the mean there is no spread.
    spread = variance > (4.0 * np.finfo(np.float64).eps * mean) ** 2
    own = np.where(mean == 0.0, 1.0, mean**2)
    scale = np.where(spread, variance, own) / n_components ** (2.0 / len(mean))
    if covariance_type in ("full", "tied"):
        return np.diag(scale)
    return scale if covariance_type == "diag" else np.array([scale.mean()])


def _concentration(given: Any, n_components: int) -> Array:
    values = _numeric(given, "weight_concentration")
    if values.ndim == 0:
        values = np.full(n_components, float(values))
    _require_shape(values, "weight_concentration", (n_components,))
    if not (values >= 1.0).all():
        raise ValueError(
            f"`prior.weight_concentration` has the value {values.min()}, expected values >= 1"
        )
    return values


def _degrees_of_freedom(given: Any, covariance_type: str, n_features: int) -> float:
    matrices = covariance_type in ("full", "tied")
    if given is None:
        return n_features + 2.0 if matrices else 3.0
    freedom, above = _number(given, "degrees_of_freedom"), n_features - 1 if matrices else 0
    if not above < freedom < math.inf:
        raise ValueError(
            f"`prior.degrees_of_freedom` is {freedom}, expected a finite value above {above} for "
            f"covariance_type={covariance_type!r}"
        )
    return freedom


def _scale(given: Any, covariance_type: str, n_features: int) -> Array:
    """Return a given scale in the shape of one covariance, positive definite."""
    shape = covariance_shape(covariance_type, 1, n_features)
    expected = shape if covariance_type == "tied" else shape[1:]
    scale = _array(given, "covariance", () if covariance_type == "spherical" else expected)
    if covariance_type in ("diag", "spherical"):
        if not (scale > 0.0).all():
            raise ValueError(f"`prior.covariance` has the value {scale.min()}, expected values > 0")
        return scale.reshape(-1)
    symmetric = np.allclose(scale, scale.T, rtol=1e-5, atol=0.0)
    if not symmetric or first_indefinite(scale[None]) >= 0:
        raise ValueError("`prior.covariance` is not symmetric and positive definite")
    return (scale + scale.T) / 2.0


def _number(given: Any, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError(f"`prior.{name}` is {given!r}, expected a number")
    return float(given)


def _array(given: Any, name: str, shape: tuple[int, ...]) -> Array:
    values = _numeric(given, name)
    _require_shape(values, name, shape)
    return np.ascontiguousarray(values).reshape(shape)


def _numeric(given: Any, name: str) -> Array:
    values = np.asarray(given)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"`prior.{name}` is {given!r}, expected numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"`prior.{name}` has NaN or infinity, expected finite values")
    return values.astype(np.float64)


def _require_shape(values: Array, name: str, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"`prior.{name}` has shape {values.shape}, expected {shape}")
