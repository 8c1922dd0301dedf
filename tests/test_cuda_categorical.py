"""The categorical loss on the GPU against that of the CPU, which has oracles of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elbokit.torch import _cpu, _cuda
from elbokit.torch._formulas import categorical_grads
from gpu import SCHEDULES, agree, emulation, moved

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Around what a team keeps in registers, with classes as rows and as planes.
ROWS = [(1, 1), (70, 3), (9, 16), (300, 17), (17, 128), (9, 129), (5, 513), (3, 4097)]
PLANES = [(1, 2, 3), (2, 8, 37), (3, 9, 300), (2, 32, 5), (2, 33, 70), (1, 257, 33)]


def data(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits (n_samples, n_classes, ...) and classes."""
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.to(dtype), target


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*ROWS, *PLANES])
def test_shapes(gpu: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits, target = data(shape, dtype)
    for reduction in ("mean", "rows"):
        for need_grad in (True, False):
            arguments = logits, target, None, None, reduction, need_grad
            ours = _cuda.categorical_loss(*moved(gpu, *arguments))
            agree(ours, _cpu.categorical_loss(*arguments))


@pytest.mark.parametrize("shape", [(70, 5), (2, 5, 37), (3, 40, 6, 5), (2, 300, 7)])
@pytest.mark.parametrize("classes_last", [False, True])
def test_masks_and_weights(gpu: torch.device, shape: tuple[int, ...], classes_last: bool) -> None:
    logits, target = data(shape, torch.float64)
    if classes_last:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    mask = torch.arange(target.numel()).view(target.shape) % 3 != 1
    target[~mask] = -100  # what does not count may be anything
    weight = torch.linspace(0, 2, shape[0], dtype=torch.float64)
    for reduction in ("batchmean", "rows"):
        arguments = logits, target, mask, weight, reduction, True
        ours = _cuda.categorical_loss(*moved(gpu, *arguments))
        agree(ours, _cpu.categorical_loss(*arguments))


@pytest.mark.parametrize("shape", [(4, 3), (4, 5000), (2, 3, 2), (2, 300, 2)])
@pytest.mark.parametrize("off", [-1, 0])
def test_no_class_gives_nan(gpu: torch.device, shape: tuple[int, ...], off: int) -> None:
    logits, target = data(shape, torch.float32)
    target.view(-1)[1] = off if off < 0 else shape[1]
    loss, grad = _cuda.categorical_loss(*moved(gpu, logits, target), None, None, "rows", True)
    assert grad is not None
    spoilt = torch.zeros(target.shape, dtype=torch.bool)
    spoilt.view(-1)[1] = True
    assert torch.equal(loss.isnan().cpu(), spoilt.view(shape[0], -1).any(1))
    expected = spoilt.unsqueeze(1).expand(shape)
    assert torch.equal(grad.isnan().cpu(), expected)
    operands = moved(gpu, logits, target, None, torch.ones(shape[0], dtype=logits.dtype))
    grads = categorical_grads(operands, loss.new_ones(shape[0]), "rows", [False] * 3 + [True])
    assert grads[3] is not None
    assert torch.equal(grads[3].isnan(), loss.isnan())


@pytest.mark.parametrize("n_classes", [7, 200, 5000])
@pytest.mark.parametrize("values", [(-torch.inf, 0.0), (1e30, -1e30), (torch.nan, 1.0)])
def test_extremes(gpu: torch.device, values: tuple[float, float], n_classes: int) -> None:
    logits, target = data((6, n_classes), torch.float32)
    logits[::2, ::3] = values[0]
    logits[1::2, ::2] = values[1]
    logits[5] = -torch.inf
    arguments = logits, target, None, None, "rows", True
    ours = _cuda.categorical_loss(*moved(gpu, *arguments))
    for a, b in zip(ours, _cpu.categorical_loss(*arguments), strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a.cpu(), b, rtol=2e-6, atol=1e-7, equal_nan=True)


def test_ascending_logits_keep_their_digits(gpu: torch.device) -> None:
    logits = torch.linspace(0, 1, 20_000).expand(2, -1).contiguous()
    target = torch.tensor([0, 19_999])
    (loss, _) = _cuda.categorical_loss(*moved(gpu, logits, target), None, None, "rows", False)
    exact = torch.nn.functional.cross_entropy(logits.double(), target, reduction="none")
    torch.testing.assert_close(loss.cpu().double(), exact, rtol=2e-7, atol=0)


def test_of_nothing(gpu: torch.device) -> None:
    for shape in ((0, 3), (2, 3, 0)):
        logits, target = data(shape, torch.float32)
        for reduction in ("mean", "batchmean", "rows"):
            arguments = logits, target, None, None, reduction, True
            ours = _cuda.categorical_loss(*moved(gpu, *arguments))
            theirs = _cpu.categorical_loss(*arguments)
            assert torch.equal(ours[0].cpu().nan_to_num(7), theirs[0].nan_to_num(7))
            assert ours[1] is not None
            assert ours[1].shape == logits.shape


@pytest.mark.parametrize("shape", [(40, 10), (9, 700), (2, 5000), (2, 20, 37), (2, 270, 37)])
def test_schedules_give_the_same_bits(shape: tuple[int, ...]) -> None:
    logits, target = data(shape, torch.float32)
    for reduction in ("mean", "rows"):
        results = []
        for schedule in SCHEDULES:
            with emulation(schedule):
                results.append(_cuda.categorical_loss(logits, target, None, None, reduction, True))
        for loss, grad in results[1:]:
            assert torch.equal(loss, results[0][0])
            assert grad is not None
            assert results[0][1] is not None
            assert torch.equal(grad, results[0][1])
