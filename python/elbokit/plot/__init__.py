"""Pictures of mixtures and VAEs with matplotlib: fits, criteria, images, bounds, latent maps.

Every function draws on the axes or figure that it is given, or makes a new figure without
touching pyplot's state, so it works without a display. Needs the extra ``[plot]``.
"""

from __future__ import annotations

from elbokit.plot._figure import bound_curves, new_figure
from elbokit.plot._fit import plot_fit
from elbokit.plot._images import image_rows, image_sheet, latent_map
from elbokit.plot._selection import criterion_curves

__all__ = [
    "bound_curves",
    "criterion_curves",
    "image_rows",
    "image_sheet",
    "latent_map",
    "new_figure",
    "plot_fit",
]
