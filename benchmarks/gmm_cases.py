"""What the EM benchmark runs on: shapes, data, goals, and the least work an iteration can be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from peers.worker import Case

SEPARATION = 20  # standard deviations between the two nearest clusters of separated data


class Shape(NamedTuple):
    n: int
    d: int
    k: int
    kind: str
    goals: dict[str, float] = {}  # noqa: RUF012  oneDAL's time over ours
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.n:,} × {self.d}, {self.k}, {self.kind}"


def goals(overlapping: float, separated: float) -> dict[str, float]:
    return {"overlapping": overlapping, "separated": separated}


TABLE = [
    Shape(100_000, 16, 8, "full", goals(2.4, 3.5)),
    Shape(100_000, 16, 8, "diag", goals(3.0, 3.2)),
    Shape(200_000, 64, 32, "diag", goals(2.2, 3.0)),
    Shape(50_000, 64, 32, "full", goals(2.2, 4.0)),
    Shape(500_000, 2, 16, "full", goals(5.5, 6.0)),
    Shape(1_000_000, 8, 64, "diag", goals(7.0, 7.5)),
]
ODD = [  # no size is a multiple of anything
    Shape(77_777, 13, 7, "full"),
    Shape(55_555, 37, 11, "full"),
    Shape(99_991, 29, 19, "diag"),
    Shape(234_567, 166, 7, "diag"),
]
MORE = [  # with --all
    Shape(300_007, 3, 5, "full"),
    Shape(200_003, 5, 23, "diag"),
    Shape(20_011, 101, 3, "full"),
    Shape(50_000, 64, 256, "full"),
    *(shape._replace(kind="tied", goals={}) for shape in TABLE if shape.kind == "diag"),
    *(shape._replace(kind="spherical", goals={}) for shape in TABLE if shape.kind == "diag"),
]
DOUBLE = [  # the goal is for 12 features or more
    shape._replace(goals=goals(2.2, 2.2), dtype="float64")
    for shape in [*TABLE, *ODD]
    if shape.d >= 12
]


def spread_means(d: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Corners of a grid, the nearest two of them ``SEPARATION`` apart."""
    side = int(np.ceil(k ** (1 / d) - 1e-9))
    side = max(side, 2)
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < k:
        chosen.add(tuple(rng.integers(side, size=d)))
    corners = np.array(sorted(chosen), dtype=float)
    squares = ((corners[:, None] - corners[None]) ** 2).sum(axis=2)
    nearest = np.sqrt(squares[~np.eye(k, dtype=bool)].min()) if k > 1 else 1.0
    return SEPARATION / nearest * (corners - (side - 1) / 2)


def clusters(shape: Shape, data: str, seed: int = 0) -> Case:
    """Unit Gaussians around k means, and a start with every mean moved by 0.1 per feature.

    On overlapping data two means are 2.8 standard deviations apart whatever the number of
    features, so that every component has a say in every row. On separated data they are 20 or
    more, and all but one responsibility of a row are zero in float32.
    """
    n, d, k, kind, _, dtype = shape
    rng = np.random.default_rng(seed)
    if data == "overlapping":
        means = rng.normal(size=(k, d)) * 2 / np.sqrt(d)
    else:
        means = spread_means(d, k, rng)
    X = means[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    shapes = {"full": (k, 1, 1), "tied": (1, 1), "diag": (k, d), "spherical": (k,)}
    unit = np.eye(d) if kind in ("full", "tied") else np.ones(())
    start = means + 0.1 * rng.normal(size=(k, d))
    arrays = (X, np.full(k, 1 / k), start, np.ones(shapes[kind]) * unit)
    return Case(*(np.ascontiguousarray(a, dtype=dtype) for a in arrays), kind)


def operations(shape: Shape) -> float:
    """Multiplications and additions that an iteration cannot do without, if nothing is skipped.

    Full: a triangular product in the E-step and a symmetric one in the M-step. Diagonal: two
    fused multiply-adds per entry in each step. Spherical: the squared distance of the E-step
    serves the M-step too. Tied: as spherical, and one triangular and one symmetric product for
    all components together.
    """
    n, d, k, kind = shape[:4]
    products = 2 * d * (d + 1)
    per_row = {
        "full": k * products,
        "tied": products + 6 * d * k,
        "diag": 8 * d * k,
        "spherical": 6 * d * k,
    }
    return float(n * per_row[kind])


def bytes_read(shape: Shape) -> float:
    """The data, once."""
    return float(shape.n * shape.d * np.dtype(shape.dtype).itemsize)
