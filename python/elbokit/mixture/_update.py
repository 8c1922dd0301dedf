"""Closed-form M-step of a Gaussian mixture from its sufficient statistics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elbokit._types import GmmStatistics
from elbokit.mixture._parameters import GmmParameters, precisions_cholesky_from_covariances

__all__ = ["below_resolution", "empty_below", "regularise", "update_parameters"]

Array = npt.NDArray[np.float64]


def empty_below(mass: float, n_samples: int) -> float:
    """Return the count at or below which a component is empty.

    Parameters
    ----------
    mass : float
        Sum of the sample weights.
    n_samples : int
        Number of samples.

    Returns
    -------
    threshold : float
        Ten rounding errors of the average sample. scikit-learn adds this to every count;
        below it that term, not the data, would decide where the component goes.
    """
    return float(10.0 * np.finfo(np.float64).eps * mass / n_samples)


def update_parameters(
    statistics: GmmStatistics,
    previous: GmmParameters,
    covariance_type: str,
    reg_covar: float,
    threshold: float,
) -> GmmParameters:
    """Maximise the expected complete log-likelihood.

    Parameters
    ----------
    statistics : GmmStatistics
        Statistics with moments about ``previous.means``.
    previous : GmmParameters
        Parameters that the statistics were computed with.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to the diagonal of the covariances.
    threshold : float
        Components with a count at or below it are empty: they keep their mean and
        covariance and get weight zero.

    Returns
    -------
    parameters : GmmParameters
        The new parameters.

    Raises
    ------
    SingularCovarianceError
        If a covariance is not positive definite.
    ValueError
        If no component has any responsibility left.

    Notes
    -----
    With pivot ``c = previous.means`` and ``m_k = S1_k / N_k``: ``mu_k = c_k + m_k`` and
    ``Sigma_k = S2_k / N_k - m_k m_k^T + reg_covar I``, exact for any pivot and free of
    cancellation as the means settle. 'tied' pools over the components, 'spherical'
    averages over the features.
    """
    alive = statistics.counts > threshold
    if not alive.any():
        raise ValueError(
            "no component explains any sample: the density of every sample under every "
            "component is zero; check weights_init, means_init and precisions_init"
        )
    counts = np.where(alive, statistics.counts, 0.0)
    divisor = np.where(alive, counts, 1.0)
    shift = np.where(alive[:, None], statistics.first_moments / divisor[:, None], 0.0)
    means = previous.means + shift
    covariances = _covariances(statistics.second_moments, counts, divisor, shift, covariance_type)
    regularise(covariances, means, covariance_type, reg_covar)
    if covariance_type == "tied" or alive.all():
        factors = precisions_cholesky_from_covariances(covariances, covariance_type)
    else:
        factors = previous.precisions_cholesky.copy()
        covariances[~alive] = previous.covariances[~alive]
        factors[alive] = precisions_cholesky_from_covariances(
            covariances[alive], covariance_type, np.flatnonzero(alive)
        )
    return GmmParameters(
        weights=counts / counts.sum(),
        means=means,
        covariances=covariances,
        precisions_cholesky=factors,
    )


def below_resolution(
    statistics: GmmStatistics, parameters: GmmParameters, covariance_type: str
) -> bool:
    """Tell whether sums in float32 are too coarse for the covariances made from them.

    Parameters
    ----------
    statistics : GmmStatistics
        Statistics whose products were formed in float32.
    parameters : GmmParameters
        Parameters that :func:`update_parameters` made from them.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.

    Returns
    -------
    coarse : bool
        Whether some variance, given the features before it (the pivots of the Cholesky
        factorisation), is below four rounding errors of the second moment it came from.
    """
    counts, scale = statistics.counts, statistics.second_moments
    pivots = parameters.precisions_cholesky
    if covariance_type in ("full", "tied"):
        scale, pivots = (np.einsum("...ii->...i", array) for array in (scale, pivots))
    if covariance_type == "tied":
        counts, alive = counts.sum(keepdims=True), np.ones(1, dtype=bool)
    else:
        alive = parameters.weights > 0.0
    if covariance_type == "spherical":
        scale = scale / parameters.means.shape[1]
    scale, pivots = scale.reshape(len(counts), -1)[alive], pivots.reshape(len(counts), -1)[alive]
    resolution = 4.0 * np.finfo(np.float32).eps * scale / counts[alive, None]
    return bool(np.any(pivots**-2.0 < resolution))


def regularise(covariances: Array, means: Array, covariance_type: str, reg_covar: float) -> None:
    """Add `reg_covar` to the diagonal of the covariances, in place.

    Parameters
    ----------
    covariances : ndarray
        Covariances in the shape of `covariance_type`.
    means : ndarray of shape (n_components, n_features)
        Component means.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Shape of the covariances.
    reg_covar : float
        Added to each variance.

    Notes
    -----
    A deviation within the rounding of the mean is none: that variance is set to zero first,
    so that without regularisation a constant column is always an error, not a matter of luck.
    """
    rounding = (4.0 * np.finfo(np.float64).eps * means) ** 2
    if covariance_type == "tied":
        rounding = rounding.max(axis=0)
    elif covariance_type == "spherical":
        rounding = rounding.mean(axis=1)
    variances = covariances
    if covariance_type in ("full", "tied"):
        variances = np.einsum("...ii->...i", covariances)  # a view of the diagonal
    variances[...] = np.where(variances <= rounding, 0.0, variances) + reg_covar


def _covariances(
    second: Array, counts: Array, divisor: Array, shift: Array, covariance_type: str
) -> Array:
    """Return the covariances about the new means, without regularisation."""
    if covariance_type == "full":
        outer = shift[:, :, None] * shift[:, None, :]
        return np.asarray(second / divisor[:, None, None] - outer)
    if covariance_type == "tied":
        between = (counts[:, None] * shift).T @ shift
        return np.asarray((second - between) / counts.sum())
    if covariance_type == "diag":
        variances = second / divisor[:, None] - shift**2
    else:
        variances = (second / divisor - np.sum(shift**2, axis=1)) / shift.shape[1]
    return np.asarray(variances)
