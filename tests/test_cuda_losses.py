"""The fused losses on the GPU against those of the CPU, which have oracles of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda
from gpu import SCHEDULES, agree, emulation, moved

# Around a vector, a warp, a short row, what a block has in flight; primes; the classic batch.
SIZES = [(1, 1), (3, 4), (7, 33), (2, 511), (5, 516), (3, 4099), (2, 8192), (128, 784)]
PAIRS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.uint8),
    (torch.float32, torch.bool),
    (torch.float64, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.uint8),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
]


def data(
    rows: int, cols: int, latent: int, logits: torch.dtype, target: torch.dtype
) -> tuple[Tensor, ...]:
    """Logits, targets, mu, logvar."""
    generator = torch.Generator().manual_seed(rows * 10_007 + cols)
    computed = torch.float64 if logits == torch.float64 else torch.float32
    x = torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    t = torch.rand(rows, cols, generator=generator, dtype=torch.float64)
    if target == torch.uint8:
        t *= 255
    elif target == torch.bool:
        t = t > 0.5
    mu, logvar = (
        torch.randn(rows, latent, generator=generator, dtype=torch.float64).to(computed)
        for _ in range(2)
    )
    return (3 * x).to(logits), t.to(target), mu, logvar


@pytest.mark.parametrize(("logits", "target"), PAIRS)
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_vae_loss(
    gpu: torch.device, rows: int, cols: int, logits: torch.dtype, target: torch.dtype
) -> None:
    x, t, mu, logvar = data(rows, cols, 5, logits, target)
    scale = 1 / 255 if target == torch.uint8 else 1.0
    for reduction in ("batchmean", "rows"):
        arguments = x, t, None, None, mu, logvar, None, None, 1.5, scale, 0.1, reduction
        ours = _cuda.vae_loss(*moved(gpu, *arguments), True, True, True)
        agree(ours, _cpu.vae_loss(*arguments, True, True, True))


@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_schedules_give_the_same_bits(rows: int, cols: int) -> None:
    x, t, mu, logvar = data(rows, cols, 3, torch.float32, torch.float32)
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            results.append(
                _cuda.vae_loss(
                    x, t, None, None, mu, logvar, None, None, 1.0, 1.0, 0.0, "sum", True, True, True
                )
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)
