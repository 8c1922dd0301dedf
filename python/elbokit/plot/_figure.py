"""New figures, and the bound over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bound_curves", "new_figure"]


def new_figure(width: float, height: float, *, pad: float = 0.06) -> Figure:
    """Make a figure that lays itself out and is known to no pyplot window.

    Parameters
    ----------
    width, height : float
        Size in inches.
    pad : float, default=0.06
        Inches around each axes.

    Returns
    -------
    figure : matplotlib.figure.Figure
        An empty figure.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ImportError("elbokit.plot needs matplotlib: pip install elbokit[plot]") from error
    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return Figure(figsize=(width, height), dpi=130, layout=layout)


def bound_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    others: Sequence[Sequence[float]] = (),
    others_label: str = "",
    xlabel: str = "iteration",
    ylabel: str = "bound (nats per sample)",
    ax: Axes | None = None,
) -> Axes:
    """Draw a bound over iterations or epochs, counted from 1.

    Parameters
    ----------
    curves : mapping of str to sequence of float
        Label and values of the curves that matter.
    others : sequence of sequences of float, default=()
        Curves for comparison, drawn thin and grey.
    others_label : str, default=""
        Their common label.
    xlabel, ylabel : str
        Names of the axes.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; None makes a new figure.

    Returns
    -------
    ax : matplotlib.axes.Axes
        The axes; ``ax.figure`` is the figure.
    """
    ax = new_figure(6.4, 4.0).subplots() if ax is None else ax
    for i, values in enumerate(others):
        label = others_label if i == 0 else None
        ax.plot(np.arange(1, len(values) + 1), values, color="0.75", lw=0.8, label=label)
    for label, values in curves.items():
        marker = "o" if len(values) <= 40 else None
        ax.plot(np.arange(1, len(values) + 1), values, lw=1.8, marker=marker, ms=3.5, label=label)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.25)
    if len(curves) + len(others) > 1:
        ax.legend(frameon=False)
    return ax
