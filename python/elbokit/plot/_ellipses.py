"""The components of a mixture in some of its features: covariances, ellipses, densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit import ops
from elbokit.plot._style import EMPTY, Style, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Components", "covariance_ellipse", "draw_ellipses", "marginal_density"]

Array = npt.NDArray[np.float64]


class Components(NamedTuple):
    """Parameters of a fitted mixture, float64, in scikit-learn's shapes."""

    weights: Array
    means: Array
    covariances: Array
    covariance_type: str

    def style(self, component: int) -> Style:
        """Return how a component is drawn."""
        return style_of(component) if self.weights[component] > 0.0 else EMPTY

    def marginal_covariances(self, features: Sequence[int]) -> Array:
        """Return the covariances of some features, (n_components, n, n) for n of them."""
        n, chosen = len(features), list(features)
        if self.covariance_type == "full":
            return self.covariances[:, chosen][:, :, chosen]
        if self.covariance_type == "tied":
            return np.broadcast_to(
                self.covariances[np.ix_(chosen, chosen)], (len(self.weights), n, n)
            )
        per_feature = self.covariance_type == "diag"
        variances = self.covariances[:, chosen] if per_feature else self.covariances[:, None]
        return variances[:, :, None] * np.eye(n)


def covariance_ellipse(covariance: npt.ArrayLike, n_std: float) -> tuple[float, float, float]:
    """Compute the ellipse of points at `n_std` standard deviations (Mahalanobis) from the mean.

    Parameters
    ----------
    covariance : array-like of shape (2, 2)
        Covariance.
    n_std : float
        Distance. In two dimensions 1 encloses 39% of the probability, 2 encloses 86%.

    Returns
    -------
    width, height : float
        Whole lengths of the long and the short axis, ``2 n_std sqrt(eigenvalue)``.
    angle : float
        Of the long axis to the first feature, in degrees, anticlockwise.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    short, long = 2.0 * n_std * np.sqrt(np.maximum(values, 0.0))
    return float(long), float(short), float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))


def draw_ellipses(
    components: Components, features: tuple[int, int], n_std: Sequence[float], ax: Axes
) -> None:
    """Draw the ellipses of all components, inner ones stronger, and number the means."""
    from matplotlib.patches import Ellipse

    means = components.means[:, list(features)]
    covariances = components.marginal_covariances(features)
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        style = components.style(k)
        for i, distance in enumerate(sorted(n_std)):
            width, height, angle = covariance_ellipse(covariance, distance)
            patch = Ellipse(
                (float(mean[0]), float(mean[1])), width, height, angle=angle, fill=False
            )
            patch.set(edgecolor=style.color, linestyle=style.line, linewidth=1.8 / (1 + 0.5 * i))
            patch.set_gid(f"component {k}")
            if components.weights[k] > 0.0:
                ax.add_patch(patch)
            else:
                ax.add_artist(patch)  # which leaves the limits alone: it may be anywhere
    ax.autoscale_view()


def marginal_density(components: Components, feature: int, at: Array) -> tuple[Array, Array]:
    """Compute the density of one feature.

    Parameters
    ----------
    components : Components
        The mixture.
    feature : int
        Which feature.
    at : ndarray of shape (n_points,)
        Values of it.

    Returns
    -------
    mixture : ndarray of shape (n_points,)
        ``p(x)``.
    parts : ndarray of shape (n_points, n_components)
        What each component adds to it, ``w_k N(x | mean_k, variance_k)``.
    """
    variances = components.marginal_covariances([feature])[:, 0]
    log_prob, responsibilities = ops.gmm_estep(
        at[:, None], components.weights, components.means[:, [feature]], variances**-0.5, "diag"
    )
    mixture: Array = np.exp(log_prob)
    return mixture, mixture[:, None] * responsibilities
