"""Arrays in a GPU's memory: seen as torch tensors, whose allocator gives the workspaces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from elbokit._arrays import as_float_array, library_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["as_gpu_tensor", "begin_read_back", "on_gpu", "read_back", "returns_gpu_like", "to_host"]

_GPU_KINDS = (2,)  # DLPack's number of CUDA's memory


def on_gpu(a: Any) -> bool:
    """Whether `a` is an array in the memory of a CUDA device."""
    if isinstance(a, np.ndarray) or not hasattr(a, "__dlpack_device__"):
        return False
    try:
        kind, _ = a.__dlpack_device__()
    except ValueError:  # such as torch's meta tensors
        return False
    return int(kind) in _GPU_KINDS


def as_gpu_tensor(a: Any, name: str, like: Tensor | None = None) -> Tensor:
    """Return `a` as a torch tensor, without a copy for one that is on the GPU.

    Parameters
    ----------
    a : array_like
        An array on the GPU, of any library that speaks DLPack; or, beside `like`, anything that
        NumPy understands, which is copied there.
    name : str
        The argument's name, for the errors.
    like : Tensor, optional
        A tensor of the device that `a` must be on, or is copied to.

    Raises
    ------
    TypeError
        If the dtype is not floating-point; narrower than 16 bits counts as not.
    ValueError
        If `a` is on another GPU.
    RuntimeError
        If torch is not installed, or without CUDA.
    """
    tensor = _as_tensor(a, name)
    import torch

    if tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(
            f"`{name}` has dtype {tensor.dtype}, expected float64, float32, bfloat16 or float16"
        )
    if like is None or tensor.device == like.device:
        return tensor
    if on_gpu(a):
        raise ValueError(f"`{name}` is on device {tensor.device}, expected {like.device}")
    return tensor.to(like.device)


def _as_tensor(a: Any, name: str) -> Tensor:
    """Return `a` as a tensor of any dtype, wherever it is."""
    try:
        import torch
        import torch.utils.dlpack
    except ImportError:
        raise RuntimeError(
            f"`{name}` is in a GPU's memory, for which elbokit needs torch: it gives the memory to "
            "work in. Install elbokit[torch]"
        ) from None
    if isinstance(a, torch.Tensor):
        return a.detach()
    if on_gpu(a):
        try:
            tensor: Tensor = torch.utils.dlpack.from_dlpack(a)
            return tensor
        except AssertionError as error:  # torch's, where it is built without CUDA
            raise RuntimeError(
                f"`{name}` is in a GPU's memory, which the installed torch cannot read: {error}. "
                "Install torch with CUDA, or copy the array to the CPU"
            ) from error
    return torch.from_numpy(np.ascontiguousarray(as_float_array(a, name)))


def returns_gpu_like(a: Any) -> Callable[[Tensor], Any]:
    """Return the function that turns a tensor into an array of the library of `a`, on the GPU."""
    import torch

    if isinstance(a, torch.Tensor):
        return lambda tensor: tensor
    library = library_of(a)

    def back(tensor: Tensor) -> Any:
        # torch exports tensors of its current device alone.
        with torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext():
            return library.from_dlpack(tensor)

    return back


def begin_read_back(tensor: Tensor) -> Callable[[], npt.NDArray[Any]]:
    """Begin to copy a tensor to the CPU; what is returned waits until it is there.

    It does not wait for what is launched after this call.
    """
    import torch

    if not tensor.is_cuda:
        host = tensor.detach().clone()
        return host.numpy
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor.detach(), non_blocking=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(tensor.device))

    def wait() -> npt.NDArray[Any]:
        event.synchronize()
        return host.numpy()

    return wait


def read_back(tensor: Tensor) -> npt.NDArray[Any]:
    """Copy a tensor to the CPU, which waits for the GPU: it and `begin_read_back` alone do."""
    return np.array(tensor.detach().cpu().numpy())


def to_host(a: Any, name: str) -> Any:
    """Return an array on a GPU as NumPy's, those of two bytes in float32, all else as it is."""
    if not on_gpu(a):
        return a
    tensor = _as_tensor(a, name)
    return read_back(tensor.float() if "float16" in str(tensor.dtype) else tensor)
