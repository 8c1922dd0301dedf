"""The KL of full covariances on the GPU against that of the CPU, which has oracles of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda
from gpu import SCHEDULES, agree, emulation, moved


def data(rows: int, dims: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + dims)
    mu = torch.randn(rows, dims, generator=generator, dtype=dtype)
    factor = torch.randn(rows, dims, dims, generator=generator, dtype=dtype) * 0.3
    diagonal = factor.diagonal(dim1=1, dim2=2)
    diagonal.copy_(diagonal.abs() + 0.05)
    upper = torch.triu(torch.ones(dims, dims, dtype=torch.bool), 1)
    return mu, factor.masked_fill(upper, torch.nan)  # which nobody reads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dims", [1, 2, 5, 6, 16, 22, 23, 33, 65])
@pytest.mark.parametrize("rows", [1, 9])
def test_shapes(gpu: torch.device, rows: int, dims: int, dtype: torch.dtype) -> None:
    mu, factor = data(rows, dims, dtype)
    weight = torch.linspace(0.5, 2, rows, dtype=dtype)
    for reduction in ("sum", "batchmean", "rows"):
        for row_weight in (None, weight):
            for need_grad in (True, False):
                arguments = mu, factor, row_weight, reduction, need_grad
                ours = _cuda.gaussian_kl_full(*moved(gpu, *arguments))
                agree(ours, _cpu.gaussian_kl_full(*arguments))


@pytest.mark.parametrize("dims", [2, 30])
@pytest.mark.parametrize("entry", [0.0, -0.5, torch.nan])
def test_diagonal_that_is_not_positive_gives_nan(
    gpu: torch.device, entry: float, dims: int
) -> None:
    mu, factor = data(3, dims, torch.float32)
    factor[1, 1, 1] = entry
    kl, _, grad = _cuda.gaussian_kl_full(*moved(gpu, mu, factor), None, "rows", True)
    assert kl.isnan().tolist() == [False, True, False]
    assert grad is not None
    assert grad.isnan().nonzero().tolist() == [[1, 1, 1]]
    total, _, _ = _cuda.gaussian_kl_full(*moved(gpu, mu, factor), None, "sum", False)
    assert total.isnan().item()


def test_of_nothing(gpu: torch.device) -> None:
    for rows, dims in ((0, 3), (2, 0)):
        arguments = torch.zeros(rows, dims), torch.zeros(rows, dims, dims), None
        for reduction in ("sum", "rows"):
            ours = _cuda.gaussian_kl_full(*moved(gpu, *arguments), reduction, True)
            agree(ours, _cpu.gaussian_kl_full(*arguments, reduction, True))


@pytest.mark.parametrize("dims", [7, 40])
def test_schedules_give_the_same_bits(dims: int) -> None:
    mu, factor = data(30, dims, torch.float32)
    for reduction in ("sum", "rows"):
        results = []
        for schedule in SCHEDULES:
            with emulation(schedule):
                results.append(_cuda.gaussian_kl_full(mu, factor, None, reduction, True))
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert a is not None
                assert b is not None
                assert torch.equal(a, b)
