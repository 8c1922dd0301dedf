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
_ROWS_OF_KEY = 8, 11  # beside one large panel, and in a cell of a matrix
_DASHED = (0, (4, 3))
_FLAT = 1e-4  # a bound that changes by less, relatively, is drawn as a level line


class Points(NamedTuple):
    """Rows to draw, the weight and the component of each, and the names of the features."""

    X: Array
    weight: Array
    labels: npt.NDArray[Any]
    names: list[str]


def draw_pair(
    components: Components,
    points: Points,
    features: tuple[int, int],
    n_std: list[float],
    ax: Axes,
    *,
    fontsize: float = 7,
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
            fontsize=fontsize,
            fontweight="bold",
            annotation_clip=True,
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": color, "alpha": 0.9},
        )


def draw_marginal(components: Components, points: Points, feature: int, ax: Axes) -> None:
    """Draw a histogram of one feature, the mixture's density, and each component's share."""
    values = points.X[:, feature]
    there = np.isfinite(values)  # a missing value is in no bin
    values, weight = values[there], points.weight[there]
    deviations = np.sqrt(components.marginal_covariances([feature])[:, 0, 0])
    used = components.weights > 0.0
    means = components.means[:, feature]
    low = min(values.min(initial=np.inf), (means - 3 * deviations)[used].min())
    high = max(values.max(initial=-np.inf), (means + 3 * deviations)[used].max())
    low, high = pad_limits(float(low), float(high))
    if len(values):
        n_bins = int(np.clip(np.sqrt(len(values)), 10, 60))
        within = pad_limits(float(values.min()), float(values.max()))
        ax.hist(values, bins=n_bins, range=within, weights=weight, density=True, color="0.85")
    # An even grid for the picture, and a fine one around each mean for components that are narrow.
    near = means[used, None] + deviations[used, None] * np.linspace(-6.0, 6.0, 121)
    at = np.unique(np.concatenate([np.linspace(low, high, 400), near.ravel()]))
    at = at[(at >= low) & (at <= high)]
    mixture, parts = marginal_density(components, feature, at)
    for k in np.flatnonzero(used):
        style = components.style(int(k))
        ax.fill_between(at, parts[:, k], color=style.color, alpha=0.2, lw=0)
        ax.plot(at, parts[:, k], color=style.color, ls=style.line, lw=1.4)
    # Dashed, as it would hide the components that stand alone.
    ax.plot(at, mixture, color="black", ls=_DASHED, lw=1.0)
    ax.set_ylim(bottom=0.0)


def draw_convergence(gm: Any, ax: Axes) -> None:
    """Draw the bound over the iterations, after both half steps where they are known."""
    history = getattr(gm, "history_", None)
    bounds = getattr(gm, "lower_bounds_", None)
    bounds = [] if bounds is None else list(bounds)
    if not bounds:
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
        if pad_limits(low, high, _FLAT) != (low, high):
            ax.set_ylim(pad_limits(low, high, _FLAT))
    whole_ticks(ax.xaxis)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel("iteration", fontsize=8)
    ax.set_ylabel("bound (nats per sample)", fontsize=8)
    outcome = "converged" if gm.converged_ else "not converged"
    plural = "" if gm.n_iter_ == 1 else "s"
    ax.set_title(f"{outcome}, {gm.n_iter_} iteration{plural}", fontsize=9)


def _draw_half_steps(history: Any, ax: Axes) -> Array:
    """Draw the bound after each E-step, at the iteration, and after its M-step, half on."""
    after_e = np.asarray(history.after_e, dtype=np.float64)
    after_m = np.asarray(history.after_m, dtype=np.float64)
    at = np.arange(1, len(after_e) + 1)
    path = np.column_stack([after_e, after_m]).ravel()
    ax.plot(np.column_stack([at, at + 0.5]).ravel(), path, color="0.6", lw=1.2)
    ax.plot(at, after_e, "o", color="#0072B2", ms=3.5, label="after E-step")
    if np.isfinite(after_m).any():  # there is none of partial_fit
        ax.plot(at + 0.5, after_m, "^", color="#D55E00", ms=3.5, label="after M-step")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=7)
    return path


def draw_key(components: Components, n_features: int, n_std: list[float], ax: Axes) -> None:
    """List the components with their weights, and what else is drawn of so many features."""
    from matplotlib.lines import Line2D

    ax.set_axis_off()
    handles = [Line2D([], [], color="black", ls=_DASHED, lw=1.0, label="mixture")]
    if n_features == 2:
        handles = []  # no density is drawn
    for k, weight in enumerate(components.weights[:_MOST_NUMBERED]):
        color, marker, line = components.style(k)
        share = f"{weight:.3f}" if weight > 0.0 else "empty"
        handles.append(Line2D([], [], color=color, marker=marker, ls=line, label=f"{k}: {share}"))
    more = len(components.weights) - _MOST_NUMBERED
    if more > 0:
        handles.append(Line2D([], [], ls="", label=f"and {more} more"))
    title = "component: weight"
    if n_std and n_features > 1:
        title += "\nellipses at " + ", ".join(f"{distance:g}" for distance in n_std) + " std"
    legend = ax.legend(
        handles=handles,
        title=title,
        loc="center",
        frameon=False,
        fontsize=7,
        title_fontsize=7,
        ncols=-(-len(handles) // _ROWS_OF_KEY[n_features > 2]),
        columnspacing=0.8,
        labelspacing=0.25,
        handlelength=1.4,
    )
    legend.set_in_layout(False)  # it must not push the panels apart
