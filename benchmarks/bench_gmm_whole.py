"""Whole fits with default settings, start included; tiny fits; many small mixtures at once."""

from __future__ import annotations

import functools
import statistics
import warnings
from typing import Any

import numpy as np
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

import elbokit
import harness
from gmm_cases import Shape, clusters

PEERS = {"scikit-learn": sklearn.mixture.GaussianMixture, "elbokit": elbokit.GaussianMixture}
WHOLE = Shape(100_000, 16, 8, "full")
SEEDS = 20
TINY = Shape(1_000, 2, 3, "full")
TINY_ITERATIONS = 10
TINY_FITS = 20  # of each library in a row
SMALL = Shape(200, 2, 3, "full")
MIXTURES = 10_000
PAUSE = 0.05  # seconds before each fit, in which the other's threads go to sleep
SAMPLED = 20  # mixtures that scikit-learn fits; its loop is timed by these


def fit(estimator: type, X: np.ndarray, k: int, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator(k, **settings).fit(X)


def whole(data: str) -> list[list[str]]:
    """Default settings from the same seeds: time, and the likelihood that is reached."""
    X = clusters(WHOLE, data).X
    # Both are judged by the same float64 evaluation, not by what each says of itself.
    judged = X[:20_000].astype(np.float64)
    bounds: dict[str, list[float]] = {name: [] for name in PEERS}
    timing = harness.Timing({name: [] for name in PEERS})
    for seed in harness.progress(range(SEEDS), f"whole fits, {data}"):
        works = {
            name: functools.partial(fit, estimator, X, WHOLE.k, random_state=seed)
            for name, estimator in PEERS.items()
        }
        for name, work in works.items():
            found: list[Any] = []
            one = harness.interleave(
                {name: lambda work=work, found=found: found.append(work())}, 1, 0, PAUSE
            )
            timing.seconds[name] += one.seconds[name]
            bounds[name].append(score(found[0], judged))
    rows = []
    for name in PEERS:
        low, high = timing.quartiles(name)
        rows.append(
            [
                data,
                name,
                f"{harness.duration(timing.median(name))} "
                f"({harness.duration(low)}–{harness.duration(high)})",
                f"{timing.ratio('scikit-learn', name):.1f}",
                f"{statistics.mean(bounds[name]):.5f}",
                f"{min(bounds[name]):.5f}",
                f"{max(bounds[name]):.5f}",
            ]
        )
    return rows


def score(model: Any, X: np.ndarray) -> float:
    """Mean log-likelihood in float64 of the parameters that ``model`` found."""
    judge = sklearn.mixture.GaussianMixture(len(model.weights_))
    judge.weights_ = np.asarray(model.weights_, dtype=np.float64)
    judge.means_ = np.asarray(model.means_, dtype=np.float64)
    judge.precisions_cholesky_ = np.asarray(model.precisions_cholesky_, dtype=np.float64)
    return float(judge.score(X))


def tiny() -> list[list[str]]:
    """A fit that is nearly all overhead, as in a loop over small data."""
    case = clusters(TINY, "overlapping")
    start = {"weights_init": case.weights, "means_init": case.means, "random_state": 0}
    start |= {"precisions_init": case.covariances, "init_params": "random_from_data"}
    works = {
        name: functools.partial(
            fit, estimator, case.X, TINY.k, tol=0.0, max_iter=TINY_ITERATIONS, **start
        )
        for name, estimator in PEERS.items()
    }
    models = [work() for work in works.values()]
    np.testing.assert_allclose(models[1].means_, models[0].means_, rtol=1e-3, atol=1e-3)

    def in_a_row(work: harness.Work) -> None:
        for _ in range(TINY_FITS):
            work()

    rows = {name: functools.partial(in_a_row, work) for name, work in works.items()}
    timing = harness.interleave(rows, rounds=30, warm_up=2, pause=PAUSE)
    return [
        [
            name,
            harness.duration(timing.median(name) / TINY_FITS),
            f"{timing.ratio('scikit-learn', name):.1f}",
        ]
        for name in PEERS
    ]


def batch() -> list[list[str]]:
    """Many small mixtures in one call, start included, beside a loop of scikit-learn's fits."""
    X = np.stack([clusters(SMALL, "overlapping", seed).X for seed in range(MIXTURES)])

    def ours() -> Any:
        return elbokit.fit_mixtures(X, SMALL.k, random_state=0)

    def theirs() -> list[Any]:
        state = np.random.RandomState(0)
        return [
            fit(PEERS["scikit-learn"], rows, SMALL.k, random_state=state) for rows in X[:SAMPLED]
        ]

    # In float32 rounding decides some of the draws: the fits are as good, not the same.
    found = [model.lower_bound_ for model in theirs()]
    np.testing.assert_allclose(np.median(ours().lower_bound[:SAMPLED]), np.median(found), atol=0.05)
    timing = harness.interleave({"elbokit": ours, "scikit-learn": theirs}, 5, 1, PAUSE)
    ratio = timing.ratio("scikit-learn", "elbokit") * MIXTURES / SAMPLED
    return [
        ["scikit-learn", harness.duration(timing.median("scikit-learn") / SAMPLED), "1"],
        ["elbokit", harness.duration(timing.median("elbokit") / MIXTURES), f"{ratio:.0f}"],
    ]


def main() -> None:
    rows = whole("overlapping") + whole("separated")
    header = ["data", "library", "time (quartiles)", "scikit-learn ÷ it"]
    parts = [
        harness.table([*header, "mean log-likelihood", "worst", "best"], rows),
        f"## {TINY}, {TINY_ITERATIONS} iterations from a given start, {TINY_FITS} fits in a row",
        harness.table(["library", "time", "scikit-learn ÷ it"], tiny()),
        f"## {MIXTURES:,} mixtures of {SMALL}, default settings",
        harness.table(["library", "time per mixture", "scikit-learn ÷ it"], batch()),
    ]
    harness.write(
        "gmm_whole",
        "Gaussian mixtures, whole fits",
        f"{WHOLE}, float32, default settings, start included; medians over {SEEDS} seeds, the same "
        f"for both, which take turns, {1e3 * PAUSE:g} ms apart. The log-likelihood of a row under "
        "the parameters found, over the same seeds, is evaluated in float64 for both on 20,000 "
        "rows.",
        "\n\n".join(parts),
    )


if __name__ == "__main__":
    main()
