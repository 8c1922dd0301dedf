"""How many Gaussians has the iris data? The comparison and the best fit, as pictures.

    python examples/choosing.py [folder]

writes a table and three pictures to the folder, out/choosing unless told otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sklearn.datasets import load_iris

from elbokit import select_n_components
from elbokit.plot import plot_fit

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def main(folder: Path) -> None:
    """Compare, and draw what was found."""
    X = load_iris(as_frame=True).data
    selection = select_n_components(
        X, range(1, 9), covariance_type=COVARIANCE_TYPES, n_init=10, random_state=0
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.txt").write_text(f"{selection}\n", encoding="utf-8")
    selection.plot().figure.savefig(folder / "criterion.png")
    plot_fit(selection.best_estimator, X).savefig(folder / "fit.png")
    petals = ["petal length (cm)", "petal width (cm)"]
    plot_fit(selection.best_estimator, X, features=petals).savefig(folder / "petals.png")
    print(selection)
    print(f"\npictures: {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/choosing"))
