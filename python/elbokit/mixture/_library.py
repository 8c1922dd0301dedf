"""The array library that a fit saw, by name: a pickle must not need it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy.typing as npt

from elbokit._arrays import library_of

__all__ = ["array_of", "library_name"]


def library_name(a: Any) -> str | None:
    """Return the name of the module that makes arrays of ``a``'s kind, or None for NumPy."""
    library = library_of(a)
    return None if library is None else str(library.__name__)


def array_of(library: str | None, result: npt.NDArray[Any], device: str | None = None) -> Any:
    """Return a NumPy array as one of a library, or itself where that is not installed.

    device: a GPU; without it, or for another library than torch, the array stays on the CPU.
    """
    if library is None:
        return result
    try:
        module = importlib.import_module(library)
    except ImportError:
        return result
    try:
        array = module.from_dlpack(result)
    except (BufferError, RuntimeError, TypeError, ValueError):  # CuPy takes none of the CPU
        return module.asarray(result)
    if device is None or library != "torch":
        return array
    try:
        return array.to(device)
    except (AssertionError, RuntimeError):  # torch's, where there is no such device
        return array
