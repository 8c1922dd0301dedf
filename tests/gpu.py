"""Where the tests of the CUDA kernels run: on the model of a GPU, and on a GPU if there is one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import elbokit
from elbokit import _core, _cuda_library

# In order, reversed, shuffled.
SCHEDULES = (0, 1, 5)


def emulated_kernels() -> Any:
    """Return the module of the model, or skip the test."""
    return pytest.importorskip("elbokit._cuda_emulated", reason="built without ELBOKIT_EMULATION")


@contextmanager
def emulated_dispatch(schedule: int = 0) -> Iterator[None]:
    """Let all of ``elbokit.torch`` run CPU tensors through the CUDA implementations and the model.

    So does every operator, whether a call goes past the dispatcher, through it or is compiled.
    """
    with emulation(schedule), pytest.MonkeyPatch.context() as patch:
        patch.setattr("elbokit.torch._backends.on_cpu", lambda tensor: False)
        # The short ways of plain losses see for themselves what is in the CPU's memory.
        for name in dir(_core):
            if name.startswith("plain_"):
                patch.setattr(_core, name, lambda *operands: None)
        yield


@contextmanager
def emulation(
    schedule: int = 0, multiprocessors: int = 3, *, hopper: bool = False
) -> Iterator[None]:
    """Let the CUDA implementations launch on the model, for tensors in the CPU's memory."""
    kernels = emulated_kernels()
    # Of the least that is supported, or of the largest there is: shared memory, capability.
    kernels.set_machine(schedule, multiprocessors, *((227 * 1024, 90) if hopper else (65536, 75)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "elbokit._cuda", kernels)
        patch.setattr(elbokit, "_cuda", kernels, raising=False)
        patch.setattr("elbokit._gpu_arrays._GPU_KINDS", (1, 2))
        _cuda_library.cuda_kernels.cache_clear()
        try:
            yield
        finally:
            _cuda_library.cuda_kernels.cache_clear()


def agree(ours: Any, theirs: Any) -> None:
    """Outputs agree to the rounding of their types; both give None for the same ones."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is None:
            continue
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.stride() == b.stride()
        tolerance = {
            torch.float64: 1e-6 if b.dim() == 2 and b.shape[0] == 3 else 1e-12,
            torch.float32: 2e-6,
            torch.bfloat16: 8e-3,
            torch.float16: 1e-3,
            torch.int64: 0.0,
        }[b.dtype]
        torch.testing.assert_close(a.cpu(), b, rtol=tolerance, atol=tolerance * 0.1, equal_nan=True)


def moved(device: torch.device, *operands: Any) -> list[Any]:
    return [o.to(device) if isinstance(o, Tensor) else o for o in operands]


def has_gpu() -> bool:
    """Whether torch and the kernels of this build can use a GPU here."""
    if not torch.cuda.is_available():
        return False
    try:
        _cuda_library.cuda_kernels().describe_device(0)
    except RuntimeError:
        return False
    return True
