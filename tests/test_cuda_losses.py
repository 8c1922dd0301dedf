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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("rows", "latent"), [(2, 8), (37, 24), (300, 64), (5, 2056)])
@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_latents_in_whole_vectors(
    gpu: torch.device,
    dtype: torch.dtype,
    rows: int,
    latent: int,
    halves: bool,
    free_bits: float,
) -> None:
    """As an encoder makes them, and by themselves; around what a block has in flight."""
    x, t, *_ = data(rows, 8, 1, dtype, dtype)
    both = torch.randn(rows, 2 * latent, generator=torch.Generator().manual_seed(latent))
    mu, logvar = (h if halves else h.contiguous() for h in both.to(dtype).chunk(2, 1))
    options = None, None, 1.5, 1.0, free_bits, "batchmean", True, True, False
    ours = _cuda.vae_loss(*moved(gpu, x, t, None, None, mu, logvar), *options)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = _cpu.vae_loss(x, t, None, None, mu.to(wide), logvar.to(wide), *options)
    d_mu, d_logvar = (g.to(dtype) for g in expected[4:6] if g is not None)
    agree(ours, (*expected[:4], d_mu, d_logvar, *expected[6:]))
    kl = _cuda.gaussian_kl(
        *moved(gpu, mu.to(wide), logvar.to(wide)), *options[:2], None, free_bits, "sum", True
    )
    agree(
        kl, _cpu.gaussian_kl(mu.to(wide), logvar.to(wide), None, None, None, free_bits, "sum", True)
    )


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("reduction", ["batchmean", "rows"])
def test_narrow_latents(gpu: torch.device, narrow: torch.dtype, both: bool, reduction: str) -> None:
    x, t, *_ = data(37, 50, 1, narrow, narrow)
    mu, logvar = torch.randn(37, 14, generator=torch.Generator().manual_seed(1)).chunk(2, 1)
    mu, logvar = mu.to(narrow), logvar.to(narrow) if both else logvar
    options = None, None, 1.5, 1.0, 0.1, reduction, True, True, True
    ours = _cuda.vae_loss(*moved(gpu, x, t, None, None, mu, logvar), *options)
    expected = _cpu.vae_loss(x, t, None, None, mu.float(), logvar.float(), *options)
    # The gradients of float16 are float32 until they are multiplied.
    kept = torch.float32 if narrow == torch.float16 else narrow
    d_mu, d_logvar = expected[4].to(kept), expected[5].to(kept if both else torch.float32)
    agree(ours, (*expected[:4], d_mu, d_logvar, *expected[6:]))


@pytest.mark.parametrize("latent", [3, 8])
@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_schedules_give_the_same_bits(rows: int, cols: int, latent: int) -> None:
    x, t, mu, logvar = data(rows, cols, latent, torch.float32, torch.float32)
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
