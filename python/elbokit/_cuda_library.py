"""The compiled CUDA kernels, imported when first asked for."""

from __future__ import annotations

import functools
from types import ModuleType

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
            "this installation of elbokit has no CUDA kernels: there was no CUDA compiler (nvcc) "
            "when it was built. Install a CUDA toolkit and build it again with "
            "`pip install --no-binary elbokit -Ccmake.define.ELBOKIT_CUDA=ON elbokit`, or move the "
            f"data to the CPU ({error})"
        ) from error
    return _cuda


def cuda_status() -> str:
    """Say in a line what was built, and whether there is a GPU for it."""
    try:
        kernels = cuda_kernels()
    except RuntimeError:
        return "not built; kernels run on the CPU"
    try:
        capability, name = kernels.describe_device(0)
    except RuntimeError as error:
        found = str(error)
    else:
        found = f"{name}, compute capability {capability / 10}"
    return f"kernels for {kernels.architectures}; {found}"
