"""multi_sample_loss on the GPU against that of the CPU, which has an oracle of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda
from gpu import SCHEDULES, emulation
from test_cuda_losses import moved
from torch_cases import draw, targets

# samples, rows, pixels, latent: around a vector, a warp, a short row, the warps of a block, what a
# block may hold in shared memory.
SIZES = [
    (1, 1, 1, 1),
    (2, 3, 4, 2),
    (3, 2, 33, 40),
    (5, 7, 516, 3),
    (17, 3, 784, 9),
    (33, 4, 8, 5),
    (40, 2, 516, 3),
    (70, 1, 24, 1),
    (2, 2, 4099, 1),
]
PAIRS = [
    (torch.float32, torch.float32),
    (torch.float32, torch.uint8),
    (torch.float64, torch.float64),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.uint8),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.uint8),
]
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 8e-3,
    torch.float16: 1e-3,
}


def operands(size: tuple[int, ...], logits: torch.dtype, target: torch.dtype) -> tuple[Tensor, ...]:
    """Logits, target, mu, logvar, z."""
    samples, rows, cols, latent = size
    computed = torch.float64 if logits == torch.float64 else torch.float32
    t = targets(rows, cols)
    t = (255 * t).to(target) if target == torch.uint8 else t.to(target)
    x = draw(samples, rows, cols).to(logits)
    mu, logvar = (0.3 * draw(rows, latent, seed=s, dtype=computed) for s in (1, 2))
    return x, t, mu, logvar, draw(samples, rows, latent, seed=3, dtype=computed)


def agree(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is None:
            continue
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        rtol = ROUNDING[b.dtype]
        # A weight is e to the power of a difference of sums over all pixels, which float32 rounds,
        # in another order at each CPU level.
        largest = b.abs().max().item() if b.numel() else 0.0
        torch.testing.assert_close(
            a.cpu(), b, rtol=20 * rtol if rtol < 1e-5 else rtol, atol=40 * rtol * largest
        )


def both(device: torch.device, *arguments: Any) -> None:
    ours = _cuda.multi_sample_loss(*moved(device, *arguments))
    agree(ours, _cpu.multi_sample_loss(*arguments))


@pytest.mark.parametrize(("logits", "target"), PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(
    gpu: torch.device, size: tuple[int, ...], logits: torch.dtype, target: torch.dtype
) -> None:
    x, t, *latent = operands(size, logits, target)
    scale = 1 / 255 if target == torch.uint8 else 1.0
    for bound in ("iwae", "elbo"):
        both(gpu, x, t, None, None, *latent, scale, bound, "batchmean", True, True)


@pytest.mark.parametrize("bound", ["iwae", "elbo"])
@pytest.mark.parametrize("reduction", ["sum", "rows", "batchmean"])
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_options(gpu: torch.device, bound: str, reduction: str, needs: tuple[bool, bool]) -> None:
    x, t, mu, logvar, z = operands((4, 5, 36, 3), torch.float32, torch.float32)
    weight = torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5])
    both(gpu, x, t, None, weight, mu, logvar, z, 0.5, bound, reduction, *needs)
    mask = (draw(36, seed=7) > 0).float()
    x[:, :, mask == 0] = torch.nan
    both(gpu, x, t, mask, weight, mu, logvar, z, 0.5, bound, reduction, *needs)


@pytest.mark.parametrize("multiprocessors", [1, 4, 40])
@pytest.mark.parametrize("bound", ["iwae", "elbo"])
def test_ways_to_share_the_work(bound: str, multiprocessors: int) -> None:
    """Whole rows to blocks, or samples to warps or blocks: the machine's size decides."""
    for size in ((3, 9, 516, 2), (40, 2, 516, 3), (6, 40, 20, 3)):
        given = operands(size, torch.float32, torch.float32)
        with emulation(5, multiprocessors):
            both(torch.device("cpu"), *given[:2], None, None, *given[2:], 1.0, bound, "sum", True,
                 True)  # fmt: skip


@pytest.mark.parametrize("size", [(5, 7, 516, 3), (70, 1, 24, 1), (40, 3, 516, 33)])
@pytest.mark.parametrize("bound", ["iwae", "elbo"])
def test_schedules_give_the_same_bits(size: tuple[int, ...], bound: str) -> None:
    x, t, *latent = operands(size, torch.float32, torch.float32)
    results = []
    for schedule in SCHEDULES:
        with emulation(schedule):
            results.append(
                _cuda.multi_sample_loss(
                    x, t, None, None, *latent, 1.0, bound, "batchmean", True, True
                )
            )
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("best", [0, 3, 4])
def test_samples_far_apart(best: int) -> None:
    """All weight is one sample's; the others' are beyond what e^x reaches."""
    x, t, *latent = operands((5, 7, 516, 3), torch.float64, torch.float64)
    x = 20 * x
    x[best] = (2 * t - 1) * 30
    arguments = x, t, None, None, *latent, 1.0, "iwae", "sum", True, True
    for schedule in SCHEDULES:
        with emulation(schedule):
            both(torch.device("cpu"), *arguments)


@pytest.mark.parametrize("size", [(2, 0, 3, 2), (2, 3, 0, 2), (2, 3, 4, 0), (2, 3, 0, 0)])
@pytest.mark.parametrize("reduction", ["sum", "rows"])
def test_nothing(gpu: torch.device, size: tuple[int, ...], reduction: str) -> None:
    x, t, *latent = operands(size, torch.float32, torch.float32)
    for bound in ("iwae", "elbo"):
        both(gpu, x, t, None, None, *latent, 1.0, bound, reduction, True, True)


def test_impossible_samples(gpu: torch.device) -> None:
    """One whose loss is infinite has no weight; a row of these has an infinite loss."""
    x, t, mu, logvar, z = operands((3, 4, 8, 2), torch.float64, torch.float64)
    t.clamp_(0.25, 0.75)
    x[0, 0, 0] = x[:, 1, 3] = torch.inf
    x[2, 2, 0] = torch.nan
    arguments = x, t, None, None, mu, logvar, z, 1.0, "iwae", "rows", False, True
    loss, *rest = _cuda.multi_sample_loss(*moved(gpu, *arguments))
    assert loss[1] == torch.inf
    assert loss[2].isnan()
    assert loss[[0, 3]].isfinite().all()
    expected = _cpu.multi_sample_loss(*arguments)
    for a, b in zip((loss, *rest), expected, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a.cpu(), b, equal_nan=True)


def test_layouts(gpu: torch.device) -> None:
    """Strides, and rows that do not begin at whole vectors."""
    x, t, mu, logvar, z = operands((4, 3, 20, 5), torch.float32, torch.float32)
    for logits in (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x[..., 1:17],
        x[:1].expand(4, 3, 20),
    ):
        target = t[:, : logits.shape[2]]
        both(gpu, logits, target, None, None, mu, logvar, z.mT.contiguous().mT, 1.0, "iwae", "sum",
             True, True)  # fmt: skip
