"""Starting parameters under a prior: the M-step on assigned samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elbokit._types import GmmStatistics
from elbokit.mixture._parameters import GmmParameters, covariance_shape
from elbokit.mixture._prior import CorePrior
from elbokit.mixture._update import Array, maximise

__all__ = ["at_mode"]


def at_mode(
    counts: Array,
    means: Array,
    second: Array,
    covariance_type: str,
    *,
    reg_covar: float | Array,
    threshold: Array,
    prior: CorePrior,
) -> tuple[Array, Array, Array, npt.NDArray[np.bool_]]:
    """Return weights, means and covariances at the posterior's mode, of many problems.

    Parameters
    ----------
    counts : ndarray of shape (n_problems, n_components)
        Weights of each component's samples.
    means : ndarray of shape (n_problems, n_components, n_features)
        Their means; void where a component is empty.
    second : ndarray
        Second moments about those means, (n_problems, n_components, n_features, n_features) for
        'full' and 'tied', else its diagonal.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
    reg_covar : float or ndarray
    threshold : ndarray of shape (n_problems,)
        Components with a count at or below it are empty.
    prior : CorePrior

    Returns
    -------
    weights, means, covariances : ndarray
    finite : ndarray of shape (n_problems,)
        False: sums overflow, the rest is void.

    Notes
    -----
    scikit-learn's tied covariance counts samples that 'k-means++' and 'random_from_data' leave out
    about the origin. Under a prior there is no trajectory of scikit-learn's to follow, and only
    the assigned ones count.
    """
    n_components, n_features = means.shape[1:]
    shape = covariance_shape(covariance_type, n_components, n_features)
    weights: Array = np.zeros(counts.shape)
    covariances: Array = np.ones((len(counts), *shape))
    means = np.where((counts > threshold[:, None])[..., None], means, prior.mean)
    if covariance_type in ("tied", "spherical"):
        second = second.sum(axis=1 if covariance_type == "tied" else 2)
    finite = np.asarray(np.isfinite(second).reshape(len(second), -1).all(axis=1))
    finite &= np.isfinite(means).all(axis=(1, 2))
    # Neither covariances nor weights from before play a part.
    matrices = covariance_type in ("full", "tied")
    unit = np.broadcast_to(np.eye(n_features) if matrices else np.ones(shape), shape)
    uniform = np.full(n_components, 1.0 / n_components)
    for problem in np.flatnonzero(finite).tolist():
        moments = GmmStatistics(counts[problem], np.zeros(means.shape[1:]), second[problem], 0.0)
        weights[problem], means[problem], covariances[problem], _ = maximise(
            moments,
            GmmParameters(uniform, means[problem], unit, unit),
            covariance_type,
            reg_covar=reg_covar,
            threshold=float(threshold[problem]),
            prior=prior,
        ).parameters
    return weights, means, covariances, finite
