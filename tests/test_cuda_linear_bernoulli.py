"""linear_bernoulli_loss on the GPU against float64 by torch, and the CPU's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda, _linear_blocks
from linear_bernoulli_cases import operands, tracked, truth
from test_cuda_losses import moved

SIZES = ((1, 1, 1, None), (3, 2, 15, 4), (4, 3, 16, 1), (9, 33, 530, 128), (6, 5, 40, 100))
NEEDS = (True, True, True)


def run(module: Any, device: torch.device, *arguments: Any) -> list[Tensor | None]:
    outputs = module.linear_bernoulli_loss(*moved(device, *arguments))
    return [None if o is None else o.detach().cpu() for o in outputs]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", ["batchmean", "rows"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients(
    gpu: torch.device, dtype: torch.dtype, size: tuple[Any, ...], reduction: str, bias: bool
) -> None:
    *sizes, chunk_size = size
    given = operands(*sizes, dtype=dtype, bias=bias)
    loss, *grads = run(_cuda, gpu, *given, dtype, chunk_size, reduction, True, True, bias)
    name = "none" if reduction == "rows" else reduction
    upstream = torch.ones(sizes[0] if reduction == "rows" else ())
    value, *slopes = truth(given, name, upstream)
    tolerance = 64 * torch.finfo(dtype).eps
    assert loss is not None
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), value, rtol=tolerance, atol=0)
    got = [g for g in grads if g is not None]
    assert len(got) == len(tracked(given))
    for grad, slope in zip(got, slopes, strict=True):
        atol = tolerance * slope.abs().max().item()
        torch.testing.assert_close(grad.double(), slope, rtol=0, atol=atol)


@pytest.mark.parametrize("product", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", [torch.float32, torch.uint8])
def test_low_precision(gpu: torch.device, product: torch.dtype, target: torch.dtype) -> None:
    """Blocks of narrow logits, whose gradient is written over them."""
    hidden, weight, bias, t = operands(7, 30, 64, dtype=torch.float32, grad=False)
    arguments = hidden, weight, bias, (t > 0.5).to(target), product, None, "batchmean", *NEEDS
    for a, b in zip(
        run(_cuda, gpu, *arguments), _cpu.linear_bernoulli_loss(*arguments), strict=True
    ):
        assert a is not None
        assert b is not None
        assert a.dtype == b.dtype
        eps = max(torch.finfo(product).eps, 1e-6)
        torch.testing.assert_close(a, b, rtol=eps, atol=4 * eps * b.abs().max().item())


def test_blocks_and_backward(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    given = operands(23, 6, 40, grad=False)
    whole = _cpu.linear_bernoulli_loss(*given, torch.float64, 40, "rows", *NEEDS)
    upstream = torch.linspace(-1, 1, 23, dtype=torch.float64)
    expected = _cpu.linear_bernoulli_loss_backward(upstream, *given, torch.float64, 40, *NEEDS)
    monkeypatch.setattr(_linear_blocks, "_MAX_ROWS", 5)
    loss = run(_cuda, gpu, *given, torch.float64, 7, "rows", *NEEDS)[0]
    torch.testing.assert_close(loss, whole[0])
    arguments = upstream, *given, torch.float64, 7, *NEEDS
    got = _cuda.linear_bernoulli_loss_backward(*moved(gpu, *arguments))
    for a, b in zip(got, expected, strict=True):
        assert a is not None
        torch.testing.assert_close(a.cpu(), b)
    none = _cuda.linear_bernoulli_loss_backward(
        *moved(gpu, upstream, *given), torch.float64, 7, False, False, False
    )
    assert none == (None, None, None)


@pytest.mark.parametrize("size", [(0, 3, 5), (3, 2, 0), (2, 0, 3)])
@pytest.mark.parametrize("reduction", ["sum", "rows"])
def test_nothing(gpu: torch.device, size: tuple[int, int, int], reduction: str) -> None:
    given = operands(*size, grad=False)
    arguments = *given, torch.float64, None, reduction, *NEEDS
    for a, b in zip(
        run(_cuda, gpu, *arguments), _cpu.linear_bernoulli_loss(*arguments), strict=True
    ):
        torch.testing.assert_close(a, b)
