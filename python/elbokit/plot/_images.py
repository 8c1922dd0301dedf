"""Rows and sheets of images, and maps of latent points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elbokit._arrays import as_numpy
from elbokit.plot._figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["image_rows", "image_sheet", "latent_map"]


def image_rows(
    rows: Mapping[str, npt.ArrayLike],
    *,
    titles: Sequence[str] | None = None,
    vmax: float | None = None,
    scale: float = 0.8,
) -> Figure:
    """Draw labelled rows of small images.

    Parameters
    ----------
    rows : mapping of str to array-like of shape (n_images, height, width)
        Label and images of each row; rows may have different lengths.
    titles : sequence of str, default=None
        Titles over the images of the first row.
    vmax : float, default=None
        Value drawn black; None takes the largest of all.
    scale : float, default=0.8
        Inches per image.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One axes per image.

    Raises
    ------
    ValueError
        There is no image, a row's images are not of shape (n_images, height, width), or there are
        fewer titles than images in the first row.
    """
    stacks = {label: np.asarray(images) for label, images in rows.items()}
    if not stacks:
        raise ValueError("`rows` is empty, expected at least one row of images")
    for label, images in stacks.items():
        if images.ndim != 3 or images.size == 0:
            raise ValueError(
                f"`rows` has images of shape {images.shape} in {label!r}, "
                "expected (n_images, height, width)"
            )
    first = len(next(iter(stacks.values())))
    if titles is not None and len(titles) < first:
        raise ValueError(
            f"`titles` has {len(titles)} entries, expected one for each of {first} images"
        )
    n_columns = max(len(images) for images in stacks.values())
    top = max(float(images.max()) for images in stacks.values()) if vmax is None else vmax
    longest = max(len(line) for label in stacks for line in label.split("\n"))
    lines = 1 + titles[0].count("\n") if titles else 0
    figure = new_figure(
        scale * n_columns + 0.09 * longest, scale * len(stacks) + 0.14 * lines + 0.3
    )
    axes = figure.subplots(len(stacks), n_columns, squeeze=False)
    for i, (label, images) in enumerate(stacks.items()):
        for j, ax in enumerate(axes[i]):
            ax.set_axis_off()
            if j < len(images):
                ax.imshow(images[j], cmap="gray_r", vmin=0.0, vmax=top)
                if titles is not None and i == 0:
                    ax.set_title(titles[j], fontsize=8)
        axes[i, 0].text(
            -0.15,
            0.5,
            label,
            transform=axes[i, 0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    return figure


def image_sheet(images: npt.ArrayLike, ax: Axes, *, gap: int = 1, **options: Any) -> Axes:
    """Draw a grid of images as one picture.

    Parameters
    ----------
    images : array-like of shape (n_rows, n_columns, height, width)
        Images; the first row is drawn at the top.
    ax : matplotlib.axes.Axes
        Where to draw.
    gap : int, default=1
        Pixels of value 0 between images.
    **options
        Passed on to ``Axes.imshow``.

    Returns
    -------
    ax : matplotlib.axes.Axes
        The axes given.
    """
    before, after = gap // 2, gap - gap // 2
    grid = np.pad(images, ((0, 0), (0, 0), (before, after), (before, after)))
    n_rows, n_columns, height, width = grid.shape
    sheet = grid.swapaxes(1, 2).reshape(n_rows * height, n_columns * width)
    ax.imshow(sheet, **({"cmap": "gray_r"} | options))
    return ax


def latent_map(
    z: npt.ArrayLike, labels: npt.ArrayLike, *, ax: Axes | None = None, label: str = "class"
) -> Axes:
    """Draw two-dimensional latent points, coloured by class, with each class's number.

    Parameters
    ----------
    z : array-like of shape (n_samples, 2)
        Latent points, e.g. posterior means.
    labels : array-like of int of shape (n_samples,)
        Class of each point, at most ten of them.
    ax : matplotlib.axes.Axes, default=None
        Where to draw; None makes a new figure.
    label : str, default="class"
        Name of the classes, for the legend.

    Returns
    -------
    ax : matplotlib.axes.Axes
        The axes; ``ax.figure`` is the figure.

    Raises
    ------
    ValueError
        The points are not of shape (n_samples, 2), or the labels are not one for each.
    """
    points, classes = (np.asarray(as_numpy(a, name)) for a, name in ((z, "z"), (labels, "labels")))
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"`z` has shape {points.shape}, expected (n_samples, 2)")
    if classes.shape != points.shape[:1]:
        raise ValueError(f"`labels` has shape {classes.shape}, expected ({len(points)},)")
    ax = new_figure(6.4, 5.6).subplots() if ax is None else ax
    for i, value in enumerate(np.unique(classes)):
        rows = points[classes == value]
        ax.scatter(rows[:, 0], rows[:, 1], s=9, alpha=0.7, color=f"C{i % 10}", label=str(value))
        middle = np.median(rows, axis=0)
        ax.annotate(
            str(value),
            (float(middle[0]), float(middle[1])),
            ha="center",
            va="center",
            fontsize=13,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": f"C{i % 10}", "alpha": 0.9},
        )
    ax.legend(title=label, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    ax.set_aspect("equal")
    return ax
