"""The compiled CUDA kernels, imported when first asked for."""

from __future__ import annotations

import functools
from types import ModuleType

from elbokit import _core

__all__ = ["cuda_kernels", "cuda_status"]


@functools.cache
def cuda_kernels() -> ModuleType:
    """Return the extension module with the CUDA kernels.

    Raises
    ------
    RuntimeError
        If elbokit was built without them.
    """
    try:
        from elbokit import _cuda
    except ImportError as error:
        raise RuntimeError(
            f"this installation of elbokit has no CUDA kernels: {_core.without_cuda or error}. "
            "Install a CUDA toolkit of 12.0 or newer and build elbokit again, with "
            "`pip install -Ccmake.define.ELBOKIT_CUDA=ON .`, or move the data to the CPU"
        ) from error
    return _cuda


def cuda_status() -> str:
    """Say in a line what was built, and whether there is a GPU for it."""
    try:
        kernels = cuda_kernels()
    except RuntimeError:
        return f"not built: {_core.without_cuda or 'the module is missing'}; CPU only"
    try:
        capability, name = kernels.describe_device(0)
    except RuntimeError as error:
        found = str(error).removeprefix("looking for a GPU: ")
    else:
        found = f"{name}, compute capability {capability / 10}"
    return f"kernels for {kernels.architectures}; {found}"
