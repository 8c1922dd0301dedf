"""``n_init=50`` beside 50 fits of the same draws, and how many different ends they have."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

import harness
from elbokit import GaussianMixture
from gmm_cases import Shape, clusters

N_INIT = 50
SHAPES = [
    Shape(1_000, 2, 3, "full"),
    Shape(10_000, 4, 5, "full"),
    Shape(20_000, 8, 8, "full"),
    Shape(100_000, 16, 8, "full"),
]


def cases() -> list[tuple[str, np.ndarray, int]]:
    found = [("iris", load_iris().data, 3), ("wine, scaled", scale(load_wine().data), 3)]
    found += [
        (f"{shape}, {data}", clusters(shape, data).X, shape.k)
        for shape in SHAPES
        for data in ("overlapping", "separated")
    ]
    return found


def one_by_one(X: np.ndarray, k: int) -> list[GaussianMixture]:
    draws = np.random.RandomState(0)
    return [GaussianMixture(k, random_state=draws).fit(X) for _ in range(N_INIT)]


def together(X: np.ndarray, k: int) -> GaussianMixture:
    return GaussianMixture(k, n_init=N_INIT, random_state=0).fit(X)


def main() -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for name, X, k in harness.progress(cases(), "restarts"):
        fits, batch = one_by_one(X, k), together(X, k)
        bounds = [fit.lower_bound_ for fit in fits]
        np.testing.assert_allclose(batch.restarts_["lower_bound"], bounds, rtol=1e-5)
        timing = harness.interleave(
            {
                "fits": lambda X=X, k=k: one_by_one(X, k),
                "batch": lambda X=X, k=k: together(X, k),
            },
            rounds=5,
        )
        rows.append(
            [
                name,
                str(len(np.unique(batch.restarts_["lower_bound"]))),
                harness.duration(timing.median("fits")),
                harness.duration(timing.median("batch")),
                f"{timing.ratio('fits', 'batch'):.1f}",
            ]
        )
    harness.write(
        "restarts",
        f"{N_INIT} restarts",
        f"`GaussianMixture(k, n_init={N_INIT})` beside {N_INIT} fits of one start each from the "
        "same draws, k-means starts; medians of interleaved rounds. Both find the same bounds, "
        "restart by restart, before anything is timed. Starts that are the same mixture but for "
        "the order of its components have one run between them.",
        harness.table(
            ["data", "different bounds", f"{N_INIT} fits", f"n_init={N_INIT}", "ratio"], rows
        ),
    )


if __name__ == "__main__":
    main()
