"""Which package of implementations serves a tensor: ``_cpu`` or ``_cuda``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from elbokit.torch import _cpu, _cuda

__all__ = ["implementation", "on_cpu"]


def on_cpu(tensor: Tensor) -> bool:
    """Whether the kernels of the CPU are those for `tensor`.

    Asked here alone, as ``_backends.on_cpu``: tests let the CUDA kernels' model on the CPU answer.
    """
    return tensor.is_cpu


def implementation(name: str, tensor: Tensor) -> Any:
    """Return what computes the operator `name` where `tensor` is.

    Raises
    ------
    ValueError
        If there is no kernel of that operator for the device.
    """
    if on_cpu(tensor):
        return getattr(_cpu, name)
    found = getattr(_cuda, name, None)
    if found is None:
        raise ValueError(
            f"{name} was given tensors on device {tensor.device}, expected CPU tensors: it has no "
            "CUDA kernel yet"
        )
    return found
