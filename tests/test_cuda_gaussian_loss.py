"""The Gaussian loss on the GPU against that of the CPU, which has oracles of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda
from gpu import SCHEDULES, agree, emulation, moved
from test_cuda_losses import PAIRS

# Around a vector, a short row, what a block has in flight.
SIZES = [(1, 1), (3, 8), (7, 33), (5, 520), (3, 4099), (2, 8200)]
INF = float("inf")
# Shapes of the log-variance of means of shape (70, 5, 4): more rows than a sum has chunks.
NOISES = [(), (1, 1, 1), (70, 5, 4), (5, 4), (1, 5, 4), (4,), (5, 1), (70, 1, 1), (70, 5, 1)]


def data(shape: tuple[int, ...], mean: torch.dtype, target: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    m, x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    if target == torch.uint8:
        x = x.sigmoid() * 255
    elif target == torch.bool:
        x = x > 0
    return m.to(mean), x.to(target)


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7 - 0.5).to(dtype)


def compare(gpu: torch.device, *arguments: Any) -> None:
    ours = _cuda.gaussian_loss(*moved(gpu, *arguments))
    agree(ours, _cpu.gaussian_loss(*arguments))


@pytest.mark.parametrize("kind", ["none", "number", "row", "elements"])
@pytest.mark.parametrize(("mean", "target"), PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_types(
    gpu: torch.device, size: tuple[int, int], mean: torch.dtype, target: torch.dtype, kind: str
) -> None:
    m, x = data(size, mean, target)
    shapes: dict[str, tuple[int, ...]] = {"number": (), "row": (size[0], 1), "elements": size}
    logvar = None if kind == "none" else noise(shapes[kind], mean)
    scale = 1 / 255 if target == torch.uint8 else 1.0
    for reduction in ("mean", "rows"):
        for needs in ((True, logvar is not None), (False, False)):
            compare(gpu, m, x, logvar, None, None, -INF, INF, scale, reduction, *needs)


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("shape", NOISES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_log_variances_of_any_shape(
    gpu: torch.device, dtype: torch.dtype, shape: tuple[int, ...], weighed: bool
) -> None:
    m, x = data((70, 5, 4), dtype, dtype)
    logvar = noise(shape, dtype)
    mask = row_weight = None
    if weighed:
        mask = (torch.arange(4) != 2).expand(70, 5, 4)
        m = torch.where(mask, m, float("nan"))
        row_weight = torch.linspace(0, 2, 70, dtype=torch.float64)
        row_weight = row_weight.to(torch.float64 if dtype == torch.float64 else torch.float32)
    for reduction in ("batchmean", "rows"):
        compare(gpu, m, x, logvar, mask, row_weight, -0.9, 0.1, 1.0, reduction, True, True)


def test_channels_last(gpu: torch.device) -> None:
    m, x = (
        t.to(memory_format=torch.channels_last) for t in data((2, 3, 5, 8), *[torch.float32] * 2)
    )
    logvar = noise((2, 3, 5, 8), torch.float32).to(memory_format=torch.channels_last)
    compare(gpu, m, x, logvar, None, None, -INF, INF, 1.0, "mean", True, True)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("operand", [0, 1, 2])
def test_unaligned(gpu: torch.device, shift: int, operand: int) -> None:
    m, x = data((3, 64), torch.float32, torch.float32)
    operands = [m, x, noise((3, 64), torch.float32)]
    wide = torch.zeros(3, 70)
    wide[:, shift : 64 + shift] = operands[operand]
    operands[operand] = wide[:, shift : 64 + shift]
    compare(gpu, *operands, None, None, -INF, INF, 1.0, "mean", True, True)


def test_nan_of_the_log_variance_passes_the_limits(gpu: torch.device) -> None:
    m, x = data((2, 8), torch.float32, torch.float32)
    logvar = noise((2, 8), torch.float32)
    logvar[1, 3] = float("nan")
    arguments = moved(gpu, m, x, logvar)
    loss, grad, slope = _cuda.gaussian_loss(
        *arguments, None, None, -1.0, 1.0, 1.0, "rows", True, True
    )
    assert grad is not None
    assert slope is not None
    assert loss.isnan().tolist() == [False, True]
    assert grad.isnan().nonzero().tolist() == [[1, 3]]
    assert slope.isnan().nonzero().tolist() == [[1, 3]]


def test_of_nothing(gpu: torch.device) -> None:
    for shape in ((0, 3), (2, 0)):
        m = torch.zeros(shape)
        for reduction in ("mean", "batchmean", "rows"):
            compare(gpu, m, m, m[:0], None, None, -INF, INF, 1.0, reduction, True, True)


@pytest.mark.parametrize("shape", [(), (300,), (70, 1), (70, 300)])
def test_schedules_give_the_same_bits(shape: tuple[int, ...]) -> None:
    m, x = data((70, 300), torch.float32, torch.float32)
    logvar = noise(shape, torch.float32)
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            results.append(
                _cuda.gaussian_loss(m, x, logvar, None, None, -INF, INF, 1.0, "rows", True, True)
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)
