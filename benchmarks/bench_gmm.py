"""EM of Gaussian mixtures: time per iteration of ``GaussianMixture.fit``, beside scikit-learn."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

import elbokit
import harness

# n_samples, n_features, n_components, covariance type, iterations of the long run
CASES = [
    (100_000, 16, 8, "full", 21),
    (100_000, 16, 8, "diag", 41),
    (200_000, 64, 32, "diag", 11),
    (50_000, 64, 32, "full", 6),
    (500_000, 2, 16, "full", 9),
    (1_000_000, 8, 64, "diag", 5),
]
SHORT = 1  # iterations; the difference of two runs leaves out what is done once per fit
CHECKED = 5  # iterations before answers are compared
ROUNDS = 3
PEERS = {"elbokit": elbokit.GaussianMixture, "scikit-learn": sklearn.mixture.GaussianMixture}


def overlapping(n: int, d: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Data on which no component can be left out, and the means to start from."""
    means = rng.normal(size=(k, d)) * 2 / np.sqrt(d)
    X = means[rng.integers(k, size=n)] + rng.normal(size=(n, d))
    start = means + 0.1 * rng.normal(size=(k, d))
    return X.astype(np.float32), start.astype(np.float32)


def operations(n: int, d: int, k: int, covariance_type: str) -> int:
    """Multiplications and additions that an iteration cannot do without.

    Full: a triangular product in the E-step and a symmetric one in the M-step. Diagonal: two
    fused multiply-adds per entry in each step.
    """
    return n * k * (2 * d * (d + 1) if covariance_type == "full" else 8 * d)


def fit(estimator: type, X: np.ndarray, means: np.ndarray, kind: str, iterations: int) -> Any:
    k, d = means.shape
    precisions = {"full": np.tile(np.eye(d, dtype=X.dtype), (k, 1, 1)), "diag": np.ones_like(means)}
    model = estimator(
        k,
        covariance_type=kind,
        tol=0.0,
        max_iter=iterations,
        weights_init=np.full(k, 1 / k, dtype=X.dtype),  # a wider one would widen the peer
        means_init=means,
        precisions_init=precisions[kind],
        init_params="random_from_data",
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is the point
        return model.fit(X)


def errors(X: np.ndarray, means: np.ndarray, kind: str) -> dict[str, float]:
    """Largest error of each peer's means, against scikit-learn in float64 on the same rows."""
    exact = fit(
        PEERS["scikit-learn"], X.astype(np.float64), means.astype(np.float64), kind, CHECKED
    )
    found = {}
    for name, estimator in PEERS.items():
        model = fit(estimator, X, means, kind, CHECKED)
        assert model.means_.dtype == np.float32, name
        np.testing.assert_allclose(model.lower_bound_, exact.lower_bound_, rtol=1e-4)
        found[name] = float(np.abs(model.means_ - exact.means_).max())
    assert found["elbokit"] <= min(1e-3, found["scikit-learn"] + 1e-5), found
    return found


def per_iteration(X: np.ndarray, means: np.ndarray, kind: str, long: int) -> harness.Timing:
    """Seconds per EM iteration of each peer."""
    fits = {
        f"{name} {iterations}": functools.partial(fit, estimator, X, means, kind, iterations)
        for name, estimator in PEERS.items()
        for iterations in (SHORT, long)
    }
    whole = harness.interleave(fits, rounds=ROUNDS, warm_up=1).seconds
    return harness.Timing(
        {
            name: [
                (more - less) / (long - SHORT)
                for more, less in zip(
                    whole[f"{name} {long}"], whole[f"{name} {SHORT}"], strict=True
                )
            ]
            for name in PEERS
        }
    )


def main() -> None:
    rate, cases = 0.0, []
    for n, d, k, kind, long in harness.progress(CASES, "EM"):
        X, means = overlapping(n, d, k, np.random.default_rng(0))
        error = errors(X, means, kind)
        timing = per_iteration(X, means, kind, long)
        cases.append((n, d, k, kind, error, timing))
        # The machine is shared: the best rate seen in the whole run is nearest to the limit.
        rate = max(rate, harness.flops_per_second())
    rows = []
    for n, d, k, kind, error, timing in cases:
        mine = timing.median("elbokit")
        limit = operations(n, d, k, kind) / rate
        rows.append(
            [
                f"{n:,} × {d}, {k}, {kind}",
                harness.duration(timing.median("scikit-learn")),
                harness.duration(mine),
                f"{timing.ratio('scikit-learn', 'elbokit'):.1f}",
                harness.duration(limit),
                f"{limit / mine:.0%}",
                *(f"{error[name]:.0e}" for name in ("scikit-learn", "elbokit")),
            ]
        )
    harness.write(
        "gmm",
        "EM, time per iteration",
        "float32, overlapping components, all from the same start; `GaussianMixture.fit` with "
        f"5 to 41 iterations less one with {SHORT}, per iteration; medians of {ROUNDS} "
        "interleaved rounds. Errors: of the means, the largest, against scikit-learn in float64 on "
        "the same rows, looked at before anything is timed. Limit: the "
        "arithmetic that cannot be left out at the rate of torch's float32 matrix product "
        f"({rate / 1e9:.0f} GFLOP/s, the best of this run).",
        harness.table(
            [
                "n × d, k, covariance",
                "scikit-learn",
                "elbokit",
                "ratio",
                "limit",
                "of the limit",
                "scikit-learn's error",
                "elbokit's error",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
