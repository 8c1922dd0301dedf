"""Colours, markers and lines that tell things apart, also for the colour-blind."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["EMPTY", "Style", "pad_limits", "style_of", "whole_ticks"]

# Okabe & Ito's colours without yellow, which is too pale on white, and black, the mixture's own.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "^", "s", "D", "v")
_LINES = ("-", "--", "-.", ":")


class Style(NamedTuple):
    """How one thing of several is drawn."""

    color: str
    marker: str
    line: str


#: A component without samples.
EMPTY = Style("0.6", "x", ":")


def style_of(index: int) -> Style:
    """Return the style of thing number `index`: colours repeat, with other markers and lines."""
    turn, color = divmod(index, len(_COLORS))
    return Style(_COLORS[color], _MARKERS[turn % len(_MARKERS)], _LINES[turn % len(_LINES)])


def whole_ticks(axis: Any) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def pad_limits(low: float, high: float, relative: float = 1e-12) -> tuple[float, float]:
    """Widen an interval that is too short, in relation to its values, for a readable scale."""
    shortest = relative * max(abs(low), abs(high), 1e-300)
    if high - low >= shortest:
        return low, high
    middle = 0.5 * (low + high)
    return middle - shortest, middle + shortest
