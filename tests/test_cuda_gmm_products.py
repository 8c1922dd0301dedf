"""Statistics of many components of which many matter to a row: against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from elbokit import ops
from gmm_attempts import fits_as_on_the_cpu, mixture, sums_of
from gmm_kernel_checks import chunks_of
from gpu import SCHEDULES, emulation

# Around the steps of the matrix units, their tiles of rows, components and features.
SHAPES = [(1, 16, 64), (65, 17, 65), (127, 40, 129), (200, 64, 70), (140, 65, 257), (129, 200, 64)]


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request: pytest.FixtureRequest, matrix_units: torch.device) -> Iterator[torch.device]:
    with chunks_of(request.param):
        yield matrix_units


def agree(ours: list[torch.Tensor], theirs: ops.GmmStatistics) -> None:
    """All sums are those of float64, to the rounding of float32 logits."""
    for a, b in zip(ours, theirs, strict=True):
        b = np.asarray(b)
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums(chunks: torch.device, n: int, d: int, k: int, kind: str, weighted: bool) -> None:
    # In many features, components of other widths are as easily told apart as those far away.
    X, *parameters = mixture(n, d, k, kind, 0.1, widths=(0.9, 1.1))
    X = X.astype(np.float32).astype(np.float64)
    weight = np.random.default_rng(0).uniform(0.1, 1.0, n) if weighted else None
    ours, failed = sums_of("products", chunks, X, parameters, kind, weight, torch.float32)
    for schedule in SCHEDULES[:2] if chunks.type == "cpu" and not weighted else ():
        with emulation(schedule, hopper=True):
            other, _ = sums_of("products", chunks, X, parameters, kind, weight, torch.float32)
        for a, b in zip(ours, other, strict=True):
            assert torch.equal(a, b)
    assert failed == 0 or n == 1  # of one row no component has a variance
    agree(ours, ops.gmm_statistics(X, *parameters, kind, sample_weight=weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_rows(matrix_units: torch.device, dtype: torch.dtype) -> None:
    X, *parameters = mixture(700, 20, 64, "diag", 0.1)
    X = torch.from_numpy(X).to(dtype).double().numpy()
    ours, failed = sums_of("products", matrix_units, X, parameters, "diag", None, dtype)
    assert failed == 0
    agree(ours, ops.gmm_statistics(X, *parameters, "diag"))


def test_features_in_units_of_their_own_and_far_off(matrix_units: torch.device) -> None:
    X, weights, means, factors = mixture(500, 20, 64, "diag", 0.1)
    rng = np.random.default_rng(0)
    unit = 10 ** rng.uniform(-12, 12, X.shape[1])
    shift = rng.uniform(-1e3, 1e3, X.shape[1])
    X = ((X + shift) * unit).astype(np.float32).astype(np.float64)
    parameters = [weights, (means + shift) * unit, factors / unit]
    ours, failed = sums_of("products", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    counts, first, second, total = ops.gmm_statistics(X, *parameters, "diag")
    agree(
        [ours[0], ours[1] / torch.from_numpy(unit), ours[2] / torch.from_numpy(unit**2), ours[3]],
        ops.GmmStatistics(counts, first / unit, second / unit**2, total),
    )


@pytest.mark.parametrize("spread", [0.3, 0.7])
def test_means_that_spread(matrix_units: torch.device, spread: float) -> None:
    X, *parameters = mixture(500, 48, 64, "diag", spread)
    X = X.astype(np.float32).astype(np.float64)
    ours, failed = sums_of("products", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    theirs = ops.gmm_statistics(X, *parameters, "diag")
    # Of each component its own, not of the largest alone.
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        size = 1e-2 + theirs.counts if b.ndim == 1 else 1e-2 + theirs.counts[:, None]
        assert (np.abs(a.numpy() - b) / size).max() < 1e-5
    np.testing.assert_allclose(ours[3], theirs[3], rtol=1e-6)


def test_components_of_any_width(matrix_units: torch.device) -> None:
    X, weights, means, factors = mixture(600, 32, 64, "diag", 0.2)
    factors[:, [3, 20]] *= np.geomspace(1.0, 1 / 30, 64)[:, None]
    X = X.astype(np.float32).astype(np.float64)
    parameters = [weights, means, factors]
    ours, failed = sums_of("products", matrix_units, X, parameters, "diag", None, torch.float32)
    theirs = ops.gmm_statistics(X, *parameters, "diag")
    assert failed == 0
    agree(ours, theirs)


BAD = ["nan", "inf", "far", "spread", "narrow", "tiny", "starved", "no weight", "heavy", "negative"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_what_does_not_fit_is_told(matrix_units: torch.device, bad: str, kind: str) -> None:
    X, weights, means, factors = mixture(1000, 16, 64, kind, 3.0 if bad == "spread" else 0.1)
    weight = None
    if bad == "nan":
        X[17, 3] = np.nan
    elif bad == "inf":
        X[999, 15] = np.inf
    elif bad == "far":
        X[5, 7] = 1e3
    elif bad == "narrow":  # rows much closer to the means than these are to the pivot
        means = np.random.default_rng(0).normal(size=means.shape)
        X, factors = means[np.arange(1000) % 64] + 1e-3 * X, np.ones_like(factors)
    elif bad == "tiny":  # beside what is expected: squares below float16's
        X, means = 5e-5 * X, 5e-5 * means
    elif bad == "starved":  # its rows count, but less than float16 tells apart
        weights[5] = 1e-14
    elif bad == "no weight":
        weights[:] = 0.0
    elif bad in ("heavy", "negative"):
        weight = np.ones(1000)
        weight[3] = 4.0 if bad == "heavy" else -1.0
    parameters = [weights, means, factors]
    _, failed = sums_of("products", matrix_units, X, parameters, kind, weight, torch.float32)
    assert failed > 0


def test_a_component_of_weight_zero_gets_nothing(matrix_units: torch.device) -> None:
    X, weights, means, factors = mixture(1000, 16, 64, "diag", 0.1)
    weights[7] = 0.0
    means[7], factors[7] = 1e9, 1e3
    parameters = [weights, means, factors]
    ours, failed = sums_of("products", matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    assert ours[0][7] == 0.0
    assert not ours[1][7].any()
    assert not ours[2][7].any()


@pytest.mark.parametrize("spread", [3.0, 0.1])
def test_statistics_and_fits_fall_back(
    matrix_units: torch.device, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the means lie near each other or not, results are those of the CPU."""
    assert fits_as_on_the_cpu(matrix_units, monkeypatch, ["products"], spread) == (spread < 1.0)


@pytest.mark.parametrize("spread", [3.0, 0.1])
def test_one_or_the_other_way_serves(
    matrix_units: torch.device, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fits_as_on_the_cpu(matrix_units, monkeypatch, ["sparse", "products"], spread)


@pytest.mark.parametrize("wide", [1.0, 0.1])
def test_launching_ahead_shows_nowhere(
    matrix_units: torch.device, wide: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which way an iteration takes depends on its number, not on when it was launched."""
    X, weights, means, factors = mixture(200, 16, 64, "diag", 2.0)
    factors *= wide  # at first all components matter, later few
    rows = torch.from_numpy(X.astype(np.float32)).to(matrix_units)
    fits = []
    for below in (0.0, np.inf):
        monkeypatch.setattr("elbokit._gpu_fit._AHEAD_BELOW", below)
        start = [torch.from_numpy(a).to(matrix_units) for a in (weights, means, factors)]
        fits.append(ops.gmm_fit(rows, *start, "diag", tol=0.0, max_iter=12))
    for a, b in zip(*(fit[:3] for fit in fits), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
