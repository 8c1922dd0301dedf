"""Statistics of many components of which few matter to a row: against float64 on the CPU."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from elbokit import ops
from gmm_attempts import fits_as_on_the_cpu, mixture, sums_of
from gpu import SCHEDULES, emulation

# Around the steps of the matrix units, their tiles of components, the features of a block.
SHAPES = [(1, 16, 64), (64, 17, 65), (65, 40, 255), (200, 33, 70), (130, 130, 257), (70, 300, 64)]


@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums(
    matrix_units: torch.device, n: int, d: int, k: int, kind: str, weighted: bool
) -> None:
    X, *parameters = mixture(n, d, k, kind, 3.0)
    X = X.astype(np.float32).astype(np.float64)
    weight = np.random.default_rng(0).uniform(0.1, 1.0, n) if weighted else None
    ours, failed = sums_of("sparse", matrix_units, X, parameters, kind, weight, torch.float32)
    for schedule in SCHEDULES[:2] if matrix_units.type == "cpu" else ():
        with emulation(schedule, hopper=True):
            other, _ = sums_of("sparse", matrix_units, X, parameters, kind, weight, torch.float32)
        for a, b in zip(ours, other, strict=True):
            assert torch.equal(a, b)
    # Components without rows of their own are not what was promised, but rows fit their lists.
    assert failed <= k
    theirs = ops.gmm_statistics(X, *parameters, kind, sample_weight=weight)
    for a, b in zip(ours, theirs, strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=5e-7 * np.abs(b).max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_rows(matrix_units: torch.device, dtype: torch.dtype) -> None:
    X, *parameters = mixture(1500, 20, 64, "diag", 3.0)
    X = torch.from_numpy(X).to(dtype).double().numpy()
    ours, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, dtype)
    assert failed == 0
    for a, b in zip(ours, ops.gmm_statistics(X, *parameters, "diag"), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=5e-7 * np.abs(b).max())


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_clusters_far_apart_or_far_off_hold(matrix_units: torch.device, offset: float) -> None:
    X, *parameters = mixture(2000, 16, 64, "diag", 30.0, offset)
    X = X.astype(np.float32).astype(np.float64)
    ours, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    for a, b in zip(ours, ops.gmm_statistics(X, *parameters, "diag"), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=2e-6 * np.abs(b).max())


def crowd(n: int, rows: int) -> list[np.ndarray]:
    """Return a mixture of which 40 components lie together, that so many of the rows share."""
    X, weights, means, factors = mixture(n, 16, 104, "diag", 3.0)
    rng = np.random.default_rng(0)
    means[:40] = 0.02 * rng.normal(size=(40, 16)) + 12
    apart = rng.integers(40, 104, n)
    X = means[apart] + rng.normal(size=X.shape) / factors[apart]
    X[rng.choice(n, rows, replace=False)] = 12 + rng.normal(size=(rows, 16))
    weights[:40] = rows / n / 40
    weights[40:] = (1 - rows / n) / 64
    return [X.astype(np.float32).astype(np.float64), weights, means, factors]


@pytest.mark.parametrize("n", [1000, 3000])
def test_some_rows_to_which_many_components_matter(matrix_units: torch.device, n: int) -> None:
    X, *parameters = crowd(n, n // 40)
    weight = np.random.default_rng(1).uniform(0.1, 1.0, n)
    ours, failed = sums_of("sparse", matrix_units, X, parameters, "diag", weight, torch.float32)
    assert failed == 0
    theirs = ops.gmm_statistics(X, *parameters, "diag", sample_weight=weight)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=5e-7 * np.abs(b).max())
    # Each component's own, not beside the largest.
    shared = np.asarray(theirs.counts)[:40]
    np.testing.assert_allclose(ours[0].numpy()[:40], shared, rtol=2e-5)
    for schedule in SCHEDULES if matrix_units.type == "cpu" else ():
        with emulation(schedule, hopper=True):
            other, _ = sums_of("sparse", matrix_units, X, parameters, "diag", weight, torch.float32)
        for a, b in zip(ours, other, strict=True):
            assert torch.equal(a, b)


def test_more_of_such_rows_than_there_is_room_for(matrix_units: torch.device) -> None:
    X, *parameters = crowd(1000, 60)
    _, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed > 0


@pytest.mark.parametrize("bad", ["overlap", "nan", "inf", "starved", "no weight"])
def test_what_does_not_fit_is_told(matrix_units: torch.device, bad: str) -> None:
    spread = 0.05 if bad == "overlap" else 3.0
    X, weights, means, factors = mixture(1000, 16, 64, "diag", spread)
    if bad == "nan":
        X[17, 3] = np.nan
    elif bad == "inf":
        X[999, 15] = np.inf
    elif bad == "starved":
        means[5] += 100.0
    elif bad == "no weight":
        weights[:] = 0.0
    parameters = [weights, means, factors]
    _, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e19, -3e38])
@pytest.mark.parametrize(("k", "rows"), [(64, 7), (64, 64), (70, 64), (129, 64)])
def test_rows_without_bounds(matrix_units: torch.device, bad: float, k: int, rows: int) -> None:
    """All components may matter to them, but not those that only fill the units' tiles."""
    X, *parameters = mixture(256, 16, k, "diag", 3.0)
    X[-rows:] = bad
    for schedule in SCHEDULES if matrix_units.type == "cpu" else (0,):
        with emulation(schedule, hopper=True) if matrix_units.type == "cpu" else nullcontext():
            _, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, torch.float32)
        assert failed >= rows


def test_a_component_of_weight_zero_gets_nothing(matrix_units: torch.device) -> None:
    X, weights, means, factors = mixture(1000, 16, 64, "diag", 3.0)
    weights[7] = 0.0
    parameters = [weights, means, factors]
    ours, failed = sums_of("sparse", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    assert ours[0][7] == 0.0
    assert not ours[1][7].any()


@pytest.mark.parametrize("spread", [3.0, 0.05])
def test_statistics_and_fits_fall_back(
    matrix_units: torch.device, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the rows keep few components or not, results are those of the CPU."""
    assert fits_as_on_the_cpu(matrix_units, monkeypatch, ["sparse"], spread) == (spread > 1.0)
