"""Statistics of many components of which few matter to a row: against float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

from elbokit import GaussianMixture, ops
from elbokit._gpu_fit import GpuMixture
from elbokit.torch._cuda import _gmm_kernels as kernels
from gpu import SCHEDULES, emulation

Array = npt.NDArray[np.float64]
# Around the steps of the matrix units, their tiles of components, the features of a block.
SHAPES = [(1, 16, 64), (64, 17, 65), (65, 40, 255), (200, 33, 70), (130, 130, 257), (70, 300, 64)]


@pytest.fixture
def matrix_units(gpu: torch.device) -> Iterator[torch.device]:
    if gpu.type == "cuda":
        if torch.cuda.get_device_capability() < (9, 0):
            pytest.skip("no matrix units that the kernels know")
        yield gpu
    else:
        with emulation(schedule=5, hopper=True):
            yield gpu


def mixture(n: int, d: int, k: int, kind: str, spread: float, offset: float = 0.0) -> list[Array]:
    """Return rows of a mixture, and parameters near its own."""
    rng = np.random.default_rng([n, d, k])
    means = rng.normal(size=(k, d)) * spread + offset
    sd = rng.uniform(0.5, 1.5, size=(k, d) if kind == "diag" else (k, 1))
    label = rng.integers(0, k, n)
    X = means[label] + rng.normal(size=(n, d)) * sd[label]
    factors = 1 / (sd if kind == "diag" else sd[:, 0])
    weights = rng.dirichlet(np.full(k, 2.0))
    return [X, weights, means + rng.normal(size=means.shape) * 0.1, factors]


def sums_of(
    device: torch.device,
    X: Array,
    parameters: list[Array],
    kind: str,
    weight: Array | None,
    dtype: torch.dtype,
) -> tuple[list[torch.Tensor], int]:
    tensors = (torch.from_numpy(a)[None].to(device) for a in parameters)
    found = kernels.sparse_statistics(
        torch.from_numpy(X).to(device, dtype)[None],
        None if weight is None else torch.from_numpy(weight)[None].to(device),
        kernels.parameters_of(kind, *tensors),
    )
    assert found is not None
    sums, failed = found
    return [each[0].cpu() for each in sums], int(failed)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
@pytest.mark.parametrize(("n", "d", "k"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_sums(
    matrix_units: torch.device, n: int, d: int, k: int, kind: str, weighted: bool
) -> None:
    X, *parameters = mixture(n, d, k, kind, 3.0)
    X = X.astype(np.float32).astype(np.float64)
    weight = np.random.default_rng(0).uniform(0.1, 1.0, n) if weighted else None
    ours, failed = sums_of(matrix_units, X, parameters, kind, weight, torch.float32)
    for schedule in SCHEDULES[:2] if matrix_units.type == "cpu" else ():
        with emulation(schedule, hopper=True):
            other, _ = sums_of(matrix_units, X, parameters, kind, weight, torch.float32)
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
    ours, failed = sums_of(matrix_units, X, parameters, "diag", None, dtype)
    assert failed == 0
    for a, b in zip(ours, ops.gmm_statistics(X, *parameters, "diag"), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=5e-7 * np.abs(b).max())


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_clusters_far_apart_or_far_off_hold(matrix_units: torch.device, offset: float) -> None:
    X, *parameters = mixture(2000, 16, 64, "diag", 30.0, offset)
    X = X.astype(np.float32).astype(np.float64)
    ours, failed = sums_of(matrix_units, X, parameters, "diag", None, torch.float32)
    assert failed == 0
    for a, b in zip(ours, ops.gmm_statistics(X, *parameters, "diag"), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=2e-6 * np.abs(b).max())


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
    _, failed = sums_of(matrix_units, X, [weights, means, factors], "diag", None, torch.float32)
    assert failed > 0


def test_a_component_of_weight_zero_gets_nothing(matrix_units: torch.device) -> None:
    X, weights, means, factors = mixture(1000, 16, 64, "diag", 3.0)
    weights[7] = 0.0
    ours, failed = sums_of(matrix_units, X, [weights, means, factors], "diag", None, torch.float32)
    assert failed == 0
    assert ours[0][7] == 0.0
    assert not ours[1][7].any()


@pytest.mark.parametrize("spread", [3.0, 0.05])
def test_statistics_and_fits_fall_back(
    matrix_units: torch.device, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the rows keep few components or not, results are those of the CPU."""
    tried: list[bool] = []
    dense = GpuMixture.statistics

    def counted(self: GpuMixture, *arguments: object) -> object:
        tried.append(True)
        return dense(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GpuMixture, "statistics", counted)
    X, *parameters = mixture(900, 16, 64, "diag", spread)
    rows = X.astype(np.float32)
    ours = ops.gmm_statistics(torch.from_numpy(rows).to(matrix_units), *parameters, "diag")
    theirs = ops.gmm_statistics(rows.astype(np.float64), *parameters, "diag")
    for a, b in zip(ours, theirs, strict=True):
        a = a.cpu() if isinstance(a, torch.Tensor) else a
        np.testing.assert_allclose(np.asarray(a), b, rtol=0, atol=5e-6 * np.abs(b).max())
    options = {
        "n_components": 64,
        "covariance_type": "diag",
        "weights_init": parameters[0],
        "means_init": parameters[1],
        "precisions_init": parameters[2] ** 2,
        "max_iter": 4,
        "tol": 0.0,
    }
    with pytest.warns(match="did not converge"):
        fit = GaussianMixture(**options).fit(torch.from_numpy(rows).to(matrix_units))
    with pytest.warns(match="did not converge"):
        expected = GaussianMixture(**options).fit(rows.astype(np.float64))
    assert bool(tried) == (spread < 1.0)
    np.testing.assert_allclose(fit.means_, expected.means_, rtol=0, atol=2e-4)
    np.testing.assert_allclose(fit.lower_bound_, expected.lower_bound_, rtol=1e-6)
