"""EM driven step by step is the core's EM."""

from __future__ import annotations

import numpy as np
import pytest

from elbokit import ops
from elbokit._types import GmmStatistics, SingularCovarianceError
from elbokit.mixture._em_steps import em_steps
from elbokit.mixture._parameters import GmmParameters, covariances_from_cholesky
from gmm_starts import COVARIANCE_TYPES, clusters, start


def started(X: np.ndarray, k: int, covariance_type: str, rng: np.random.Generator) -> GmmParameters:
    weights, means, factors = start(rng, X, k, covariance_type)
    return GmmParameters(
        weights, means, covariances_from_cholesky(factors, covariance_type), factors
    )


def in_two_chunks(X: np.ndarray, covariance_type: str):
    def statistics_of(p: GmmParameters, wide: bool) -> GmmStatistics:
        parts = [
            ops.gmm_statistics(
                rows.astype(np.float64) if wide else rows,
                p.weights,
                p.means,
                p.precisions_cholesky,
                covariance_type,
            )
            for rows in np.array_split(X, 2)
        ]
        return GmmStatistics(*(a + b for a, b in zip(*parts, strict=True)))

    return statistics_of


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_steps_are_those_of_the_whole_run(covariance_type: str, dtype: type) -> None:
    rng = np.random.default_rng(3)
    X = clusters(rng, 503, 5, 3).astype(dtype)
    first = started(X, 3, covariance_type, rng)
    options = {"tol": 1e-4, "reg_covar": 1e-6, "max_iter": 50}
    whole = ops.gmm_fit(
        X, first.weights, first.means, first.precisions_cholesky, covariance_type, **options
    )
    runs = list(
        em_steps(
            in_two_chunks(X, covariance_type),
            first,
            covariance_type,
            mass=503,
            n_samples=503,
            **options,
        )
    )
    assert len(runs) == whole.n_iter
    assert [run.converged for run in runs] == [False] * (len(runs) - 1) + [bool(whole.converged)]
    tolerance = 1e-5 if dtype == np.float32 else 1e-10
    for name in GmmParameters._fields:
        np.testing.assert_allclose(
            getattr(runs[-1].parameters, name), getattr(whole, name), rtol=tolerance, atol=tolerance
        )
    assert runs[-1].lower_bound == pytest.approx(whole.lower_bound, rel=1e-6)
    assert runs[-1].lower_bounds[-1] == runs[-1].lower_bound


def test_what_float32_cannot_resolve_is_summed_in_float64() -> None:
    rng = np.random.default_rng(0)
    X = np.column_stack([1e3 * (x := rng.normal(size=400)), 1e3 * x + rng.normal(size=400) * 1e-2])
    X = X.astype(np.float32)
    first = started(X, 1, "full", rng)._replace(means=np.zeros((1, 2)))
    asked = []
    statistics_of = in_two_chunks(X, "full")

    def watched(p: GmmParameters, wide: bool) -> GmmStatistics:
        asked.append(wide)
        return statistics_of(p, wide)

    (run,) = em_steps(
        watched, first, "full", mass=400, n_samples=400, tol=0, reg_covar=0, max_iter=1
    )
    assert asked == [False, True]
    exact = np.cov(X.astype(np.float64).T, bias=True)
    np.testing.assert_allclose(run.parameters.covariances[0], exact, rtol=1e-9)


def test_a_singular_covariance_names_its_component() -> None:
    X = np.array([[0.0], [0.0], [5.0], [6.0]])
    first = GmmParameters(
        np.full(2, 0.5), np.array([[0.0], [5.5]]), np.full((2, 1), 0.1), np.full((2, 1), 10**0.5)
    )
    steps = em_steps(
        in_two_chunks(X, "diag"), first, "diag", mass=4, n_samples=4, tol=0, reg_covar=0, max_iter=3
    )
    with pytest.raises(SingularCovarianceError, match="component 0"):
        list(steps)


def test_exact_sums_are_asked_for_once() -> None:
    """Also where a covariance would be too small for sums of float32."""
    rng = np.random.default_rng(0)
    x = 1e3 * rng.normal(size=400)
    X = np.column_stack([x, x + 1e-2 * rng.normal(size=400)])
    first = started(X, 1, "full", rng)._replace(means=np.zeros((1, 2)))
    asked = []
    statistics_of = in_two_chunks(X, "full")

    def watched(p: GmmParameters, wide: bool) -> GmmStatistics:
        asked.append(wide)
        return statistics_of(p, wide)

    options = {"mass": 400, "n_samples": 400, "tol": 0, "reg_covar": 0, "max_iter": 2}
    list(em_steps(watched, first, "full", exact=True, **options))
    assert asked == [True, True]
