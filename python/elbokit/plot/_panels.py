"""The panels that a picture of a fit is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from elbokit.plot._ellipses import Components, draw_ellipses, marginal_density
from elbokit.plot._figure import bound_curves
from elbokit.plot._style import pad_limits, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Points", "draw_convergence", "draw_key", "draw_marginal", "draw_pair"]

Array = npt.NDArray[np.float64]

_MOST_NUMBERED = 20  # components whose means get a number, and that the key lists
_ROWS_OF_KEY = 7


class Points(NamedTuple):
    """Rows to draw, the component of each, and the names of the features."""

    X: Array
    labels: npt.NDArray[Any]
    names: list[str]


def draw_pair(
    components: Components,
    points: Points,
    features: tuple[int, int],
    n_std: list[float],
    ax: Axes,
) -> None:
    """Draw points, ellipses and numbered means of two features."""
    size = 9.0 if len(points.X) <= 1000 else 4.0
    for k in range(len(components.weights)):
        style = components.style(k)
        rows = points.X[points.labels == k]
        x, y = rows[:, features[0]], rows[:, features[1]]
        if len(rows):
            ax.scatter(
                x, y, s=size, color=style.color, marker=style.marker, alpha=0.45, linewidths=0
            )
    draw_ellipses(components, features, n_std, ax)
    if len(components.weights) > _MOST_NUMBERED:
        return
    for k, mean in enumerate(components.means[:, list(features)]):
        color = components.style(k).color
        ax.annotate(
            str(k),
            (float(mean[0]), float(mean[1])),
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": color, "alpha": 0.9},
        )


def draw_marginal(components: Components, points: Points, feature: int, ax: Axes) -> None:
    """Draw a histogram of one feature, the mixture's density, and each component's share."""
    values = points.X[:, feature]
    values = values[np.isfinite(values)]  # a missing value is in no bin
    deviations = np.sqrt(components.marginal_covariances([feature])[:, 0, 0])
    used = components.weights > 0.0
    means = components.means[:, feature]
    low = min(values.min(initial=np.inf), (means - 3 * deviations)[used].min())
    high = max(values.max(initial=-np.inf), (means + 3 * deviations)[used].max())
    low, high = pad_limits(float(low), float(high))
    if len(values):
        n_bins = int(np.clip(np.sqrt(len(values)), 10, 60))
        within = pad_limits(float(values.min()), float(values.max()))
        ax.hist(values, bins=n_bins, range=within, density=True, color="0.85")
    # An even grid for the picture, and a fine one around each mean for components that are narrow.
    near = means[used, None] + deviations[used, None] * np.linspace(-4.0, 4.0, 81)
    at = np.unique(np.concatenate([np.linspace(low, high, 400), near.ravel()]))
    at = at[(at >= low) & (at <= high)]
    mixture, parts = marginal_density(components, feature, at)
    for k in np.flatnonzero(used):
        style = components.style(int(k))
        ax.plot(at, parts[:, k], color=style.color, ls=style.line, lw=1.4)
    ax.plot(at, mixture, color="black", lw=1.0)
    ax.set_ylim(bottom=0.0)


def draw_convergence(gm: Any, ax: Axes) -> None:
    """Draw the bound over the iterations, after both half steps where they are known."""
    history = getattr(gm, "history_", None)
    bounds = getattr(gm, "lower_bounds_", None)
    bounds = [] if bounds is None else list(bounds)
    if not bounds and history is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no bounds recorded", ha="center", va="center", fontsize=9)
        return
    if history is None:
        bound_curves({"bound": bounds}, ax=ax)
        values = np.asarray(bounds, dtype=np.float64)
    else:
        values = _draw_half_steps(history, ax)
    finite = values[np.isfinite(values)]
    if len(finite):
        low, high = float(finite.min()), float(finite.max())
        if pad_limits(low, high) != (low, high):
            ax.set_ylim(pad_limits(low, high))
    whole_ticks(ax.xaxis)
    outcome = "converged" if gm.converged_ else "not converged"
    ax.set_title(f"{outcome}, {gm.n_iter_} iterations", fontsize=9)


def _draw_half_steps(history: Any, ax: Axes) -> Array:
    """Draw the bound after each E-step, at the iteration, and after its M-step, half on."""
    after_e = np.asarray(history.after_e, dtype=np.float64)
    after_m = np.asarray(history.after_m, dtype=np.float64)
    at = np.arange(1, len(after_e) + 1)
    path = np.column_stack([after_e, after_m]).ravel()
    ax.plot(np.column_stack([at, at + 0.5]).ravel(), path, color="0.6", lw=1.2)
    ax.plot(at, after_e, "o", color="#0072B2", ms=3.5, label="after E-step")
    ax.plot(at + 0.5, after_m, "^", color="#D55E00", ms=3.5, label="after M-step")
    ax.set_xlabel("iteration")
    ax.set_ylabel("bound (nats per sample)")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=8)
    return path


def draw_key(components: Components, n_std: list[float], ax: Axes) -> None:
    """List the components with their weights; `n_std` is empty where there are no ellipses."""
    from matplotlib.lines import Line2D

    ax.set_axis_off()
    handles = []
    for k, weight in enumerate(components.weights[:_MOST_NUMBERED]):
        color, marker, line = components.style(k)
        share = f"{weight:.3f}" if weight > 0.0 else "empty"
        handles.append(Line2D([], [], color=color, marker=marker, ls=line, label=f"{k}: {share}"))
    more = len(components.weights) - _MOST_NUMBERED
    if more > 0:
        handles.append(Line2D([], [], ls="", label=f"and {more} more"))
    title = "component: weight"
    if n_std:
        title += "\nellipses at " + ", ".join(f"{distance:g}" for distance in n_std) + " std"
    ax.legend(
        handles=handles,
        title=title,
        loc="center",
        frameon=False,
        fontsize=7,
        title_fontsize=7,
        ncols=-(-len(handles) // _ROWS_OF_KEY),
        columnspacing=0.8,
        handlelength=1.4,
    )
