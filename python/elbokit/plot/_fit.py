"""A fitted mixture over its data, and how the fit came about."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elbokit.plot._ellipses import Components
from elbokit.plot._figure import new_figure
from elbokit.plot._panels import (
    Points,
    draw_convergence,
    draw_key,
    draw_marginal,
    draw_pair,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_fit"]

_MOST_FEATURES = 4  # unless more are named


def plot_fit(
    gm: Any,
    X: Any,
    *,
    features: int | str | Sequence[int | str] | None = None,
    ax: Axes | None = None,
    figure: Figure | SubFigure | None = None,
    n_std: float | Sequence[float] = (1, 2),
    max_points: int = 5000,
    sample_weight: npt.ArrayLike | None = None,
) -> Figure | SubFigure:
    """Draw a fitted Gaussian mixture over data, and the bound over the iterations.

    One feature gives a histogram with the densities, two a scatter plot with the components'
    ellipses, more a matrix of all pairs with the marginal densities on its diagonal. Points
    have the colour of the component that is most probable.

    Parameters
    ----------
    gm : GaussianMixture
        A fitted mixture, also scikit-learn's. Where it has ``history_``, the bound after each
        E- and M-step is drawn, else that of each iteration (``lower_bounds_``).
    X : array-like of shape (n_samples, n_features)
        Data, as for ``gm.predict``.
    features : int, str or sequence of them, default=None
        Features to draw, by number or by name; None takes the first four.
    ax : matplotlib.axes.Axes, default=None
        Where to draw the data, of one or two features; the bound is then not drawn.
    figure : matplotlib.figure.Figure or SubFigure, default=None
        Where to draw all; None makes a new figure.
    n_std : float or sequence of float, default=(1, 2)
        Distances of the ellipses from the mean, in standard deviations. In two dimensions 1
        encloses 39% of a component and 2 encloses 86%.
    max_points : int, default=5000
        Of more rows so many are drawn, chosen at random, the same each time.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, as for ``gm.fit``: in the histograms. Rows of weight 0 are not drawn.

    Returns
    -------
    figure : matplotlib.figure.Figure or SubFigure
        What was drawn on. ``figure.savefig("fit.png")`` writes it to a file.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    NotFittedError
        If `gm` is not fitted.
    TypeError
        If an argument has another type.
    ValueError
        If `features`, `n_std`, `max_points` or `sample_weight` is out of range, both `ax` and
        `figure` are given, `ax` is to hold more than two features, or X does not fit `gm`.

    Notes
    -----
    The ellipses are those of the marginal distribution: the covariance of the drawn features
    alone. A component of weight zero is drawn grey and dotted. The colours are Okabe and Ito's,
    which the colour-blind can tell apart; from the seventh component on they repeat, with other
    markers and lines.
    """
    components = _components(gm)
    chosen = _check_features(features, components.means.shape[1], gm)
    distances = _check_n_std(n_std)
    if isinstance(max_points, bool) or not isinstance(max_points, Integral):
        raise TypeError(f"`max_points` is {max_points!r}, expected an int")
    if max_points < 1:
        raise ValueError(f"`max_points` is {max_points}, expected at least 1")
    if ax is not None and figure is not None:
        raise ValueError("`ax` and `figure` were both given, expected one of them")
    if ax is not None and len(chosen) > 2:
        raise ValueError(
            f"`ax` holds one or two features, but {len(chosen)} are to be drawn; name them in "
            "`features` or give a `figure`"
        )
    points = _points(gm, X, int(max_points), _names(gm, components.means.shape[1]), sample_weight)
    if ax is not None:
        _draw_data(components, points, chosen, distances, ax)
        return ax.figure
    n = len(chosen)
    if n > 2:
        size = (2.1 * n + 0.4, 2.0 * n + 0.3)
        figure = new_figure(*size) if figure is None else figure
        _draw_matrix(gm, components, points, chosen, distances, figure)
        return figure
    figure = new_figure(8.6, 4.6) if figure is None else figure
    grid = figure.add_gridspec(2, 2, width_ratios=[1.7, 1.0], height_ratios=[1.3, 1.0])
    _draw_data(components, points, chosen, distances, figure.add_subplot(grid[:, 0]))
    draw_convergence(gm, figure.add_subplot(grid[0, 1]))
    draw_key(components, n, distances, figure.add_subplot(grid[1, 1]))
    return figure


def _draw_data(
    components: Components,
    points: Points,
    features: list[int],
    n_std: list[float],
    ax: Axes,
) -> None:
    """Draw one or two features."""
    ax.set_xlabel(points.names[features[0]])
    if len(features) == 1:
        draw_marginal(components, points, features[0], ax)
        ax.set_ylabel("density")
        return
    draw_pair(components, points, (features[0], features[1]), n_std, ax)
    ax.set_ylabel(points.names[features[1]])


def _draw_matrix(
    gm: Any,
    components: Components,
    points: Points,
    features: list[int],
    n_std: list[float],
    figure: Figure | SubFigure,
) -> None:
    """Draw all pairs below the diagonal, and the bound and the key above it."""
    n = len(features)
    grid = figure.add_gridspec(n, n)
    columns: list[Axes] = []
    for i in range(n):
        row: Axes | None = None
        for j in range(i + 1):
            below = columns[j] if j < i else None
            ax = figure.add_subplot(grid[i, j], sharex=below, sharey=row if j < i else None)
            if j == i:
                draw_marginal(components, points, features[i], ax)
                ax.set_yticks([])
                columns.append(ax)
            else:
                draw_pair(components, points, (features[j], features[i]), n_std, ax, fontsize=6)
                row = ax if row is None else row
            ax.tick_params(labelbottom=i == n - 1, labelleft=j == 0, labelsize=7)
            if i == n - 1:
                ax.set_xlabel(points.names[features[j]], fontsize=8)
            if j == 0:
                ax.set_ylabel(points.names[features[i]] if i else "density", fontsize=8)
    corner = grid[: n // 2, (n + 1) // 2 :] if n > 3 else grid[0, 1:]
    # As an inset: labels of a panel of its own would push the matrix apart.
    host = figure.add_subplot(corner)
    host.set_axis_off()
    inset = host.inset_axes((0.2, 0.2, 0.78, 0.68))
    inset.set_in_layout(False)
    draw_convergence(gm, inset)
    draw_key(components, n, n_std, figure.add_subplot(grid[n - 2, n - 1]))


def _components(gm: Any) -> Components:
    """Return the fitted parameters in float64."""
    from sklearn.utils.validation import check_is_fitted

    if not (hasattr(gm, "covariance_type") and hasattr(gm, "predict")):
        raise TypeError(f"`gm` is a {type(gm).__name__}, expected a GaussianMixture")
    check_is_fitted(gm, "means_")
    weights, means, covariances = (
        np.asarray(a, dtype=np.float64) for a in (gm.weights_, gm.means_, gm.covariances_)
    )
    return Components(weights, means, covariances, gm.covariance_type)


def _names(gm: Any, n_features: int) -> list[str]:
    """Return the features' names."""
    given = getattr(gm, "feature_names_in_", None)
    return [f"feature {j}" for j in range(n_features)] if given is None else list(given)


def _points(gm: Any, X: Any, max_points: int, names: list[str], sample_weight: Any) -> Points:
    """Draw rows at random where there are too many, and label them."""
    from sklearn.utils import _safe_indexing

    from elbokit.mixture._validation import checked_weight

    n = X.shape[0] if hasattr(X, "shape") else len(X)
    weight = np.ones(n) if sample_weight is None else checked_weight(sample_weight, n)
    rows = np.flatnonzero(weight)
    if len(rows) > max_points:
        rows = np.sort(np.random.default_rng(0).choice(rows, size=max_points, replace=False))
    if len(rows) < n:
        X, weight = _safe_indexing(X, rows), weight[rows]
    labels: npt.NDArray[Any] = np.asarray(gm.predict(X))
    return Points(np.asarray(X, dtype=np.float64), weight, labels, names)


def _check_features(features: Any, n_features: int, gm: Any) -> list[int]:
    """Return the numbers of the features."""
    if features is None:
        return list(range(min(n_features, _MOST_FEATURES)))
    given = [features] if isinstance(features, (str, Integral)) else list(features)
    if not given:
        raise ValueError("`features` is empty, expected at least one")
    known = list(getattr(gm, "feature_names_in_", []))
    chosen = [_feature_number(value, n_features, known) for value in given]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"`features` is {features!r}, expected each feature once")
    return chosen


def _feature_number(value: Any, n_features: int, known: list[str]) -> int:
    if isinstance(value, str):
        if value not in known:
            expected = ", ".join(map(repr, known)) or "numbers, as the fit saw no names"
            raise ValueError(f"`features` has {value!r}, expected some of {expected}")
        return known.index(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`features` has {value!r}, expected ints or names")
    if not 0 <= int(value) < n_features:
        raise ValueError(f"`features` has {value}, expected numbers from 0 to {n_features - 1}")
    return int(value)


def _check_n_std(n_std: Any) -> list[float]:
    """Return the distances in rising order."""
    given = [n_std] if isinstance(n_std, Real) else list(n_std)
    for value in given:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"`n_std` has {value!r}, expected numbers")
        if not 0.0 < float(value) < np.inf:
            raise ValueError(f"`n_std` has {value}, expected positive numbers")
    return sorted(float(value) for value in given)
