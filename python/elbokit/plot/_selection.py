"""A criterion over the number of components."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from elbokit.plot._figure import new_figure
from elbokit.plot._style import style_of, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from elbokit.mixture import ComponentSelection

__all__ = ["criterion_curves"]


def criterion_curves(selection: ComponentSelection, *, ax: Axes | None = None) -> Axes:
    """Draw the criterion over the number of components, a line per covariance type.

    Parameters
    ----------
    selection : ComponentSelection
        From :func:`elbokit.select_n_components`.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; None makes a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes
        The axes; ``ax.figure`` is the figure. The best fit has a ring, and a fit that failed a
        cross at the top, where criteria are worst.
    """
    ax = new_figure(6.4, 4.0).subplots() if ax is None else ax
    kinds = list(dict.fromkeys(row.covariance_type for row in selection.table))
    for i, kind in enumerate(kinds):
        rows = sorted(row for row in selection.table if row.covariance_type == kind)
        style = style_of(i)
        at = [row.n_components for row in rows]
        values = [row.criterion if math.isfinite(row.criterion) else math.nan for row in rows]
        ax.plot(at, values, color=style.color, marker="o^sD"[i], ms=4, lw=1.6, label=kind)
        failed = [row.n_components for row in rows if row.error]
        if failed:
            high = ax.get_xaxis_transform()  # the top of the axes, whatever the values
            level = [0.98 - 0.03 * i] * len(failed)
            label = f"{kind}: failed"
            ax.plot(
                failed, level, "x", transform=high, color=style.color, clip_on=False, label=label
            )
    best = min((row for row in selection.table if not row.error), key=lambda row: row.criterion)
    label = f"best: {best.n_components}, {best.covariance_type}"
    ax.plot(
        [best.n_components],
        [best.criterion],
        "o",
        ms=12,
        mfc="none",
        mec="black",
        ls="",
        label=label,
    )
    ax.set_xlabel("number of components")
    known = selection.criterion in ("bic", "aic", "icl")
    ax.set_ylabel(selection.criterion.upper() if known else selection.criterion)
    whole_ticks(ax.xaxis)
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax
