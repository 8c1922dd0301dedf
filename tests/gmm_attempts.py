"""Kernels that take some mixtures of many components: data, and their statistics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from elbokit import GaussianMixture, ops
from elbokit._gpu_fit import GpuMixture
from elbokit.torch._cuda import _gmm_kernels as kernels

Array = npt.NDArray[np.float64]


def mixture(
    n: int,
    d: int,
    k: int,
    kind: str,
    spread: float,
    offset: float = 0.0,
    widths: tuple[float, float] = (0.5, 1.5),
) -> list[Array]:
    """Return rows of a mixture, and parameters near its own."""
    rng = np.random.default_rng([n, d, k])
    means = rng.normal(size=(k, d)) * spread + offset
    sd = rng.uniform(*widths, size=(k, d) if kind == "diag" else (k, 1))
    label = rng.integers(0, k, n)
    X = means[label] + rng.normal(size=(n, d)) * sd[label]
    factors = 1 / (sd if kind == "diag" else sd[:, 0])
    weights = rng.dirichlet(np.full(k, 2.0))
    return [X, weights, means + rng.normal(size=means.shape) * 0.1, factors]


def sums_of(
    attempt: str,
    device: torch.device,
    X: Array,
    parameters: list[Array],
    kind: str,
    weight: Array | None,
    dtype: torch.dtype,
) -> tuple[list[torch.Tensor], int]:
    """Return the statistics that an attempt comes to, and how much did not fit."""
    tensors = (torch.from_numpy(a)[None].to(device) for a in parameters)
    found = kernels.attempted_statistics(
        attempt,
        torch.from_numpy(X).to(device, dtype)[None],
        None if weight is None else torch.from_numpy(weight)[None].to(device),
        kernels.parameters_of(kind, *tensors),
    )
    assert found is not None
    sums, failed = found
    return [each[0].cpu() for each in sums], int(failed)


def fits_as_on_the_cpu(
    device: torch.device, patch: pytest.MonkeyPatch, attempts: list[str], spread: float
) -> bool:
    """Compare statistics and a fit with the CPU's; say whether attempts served throughout."""
    patch.setattr(kernels, "ATTEMPTS", attempts)
    patch.setattr("elbokit._gpu_fit.ATTEMPTS", attempts)
    asked: list[bool] = []
    dense = GpuMixture.statistics

    def counted(self: GpuMixture, *arguments: object) -> object:
        asked.append(True)
        return dense(self, *arguments)  # type: ignore[arg-type]

    patch.setattr(GpuMixture, "statistics", counted)
    X, *parameters = mixture(900, 16, 64, "diag", spread)
    rows = X.astype(np.float32)
    ours = ops.gmm_statistics(torch.from_numpy(rows).to(device), *parameters, "diag")
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
        fit = GaussianMixture(**options).fit(torch.from_numpy(rows).to(device))
    with pytest.warns(match="did not converge"):
        expected = GaussianMixture(**options).fit(rows.astype(np.float64))
    np.testing.assert_allclose(fit.means_, expected.means_, rtol=0, atol=2e-4)
    np.testing.assert_allclose(fit.lower_bound_, expected.lower_bound_, rtol=1e-6)
    return not asked
