"""Argument checks: every error names the argument, what was given and what was expected."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels

__all__ = [
    "autocast_low_precision",
    "check_broadcast",
    "check_densities",
    "check_event_dims",
    "check_function",
    "check_generator",
    "check_int",
    "check_is_tensor",
    "check_layout",
    "check_limits",
    "check_non_negative",
    "check_path",
    "check_positive_int",
    "check_reduction",
    "check_same_shape",
    "check_tensors",
    "check_weight",
]

# Those of the packages of implementations (_backends.py); "meta" is served by the fake kernels.
_DEVICES = ("cpu", "cuda", "meta")
_LOW_PRECISION = (torch.float16, torch.bfloat16)
_BINARY = (torch.bool, torch.uint8)
_MAY_BE_BINARY = ("target", "mask")
_MAY_BE_NONE = (
    *("weight", "pos_weight", "mask", "bias", "logvar"),
    *("prior_mu", "prior_logvar", "prior_scale_tril"),
)


def check_is_tensor(name: str, value: object) -> None:
    """Raise TypeError unless `value` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}")


def check_function(name: str, value: object, expected: str) -> None:
    """Raise TypeError unless `value` can be called or is None; `expected` says as what."""
    if value is not None and not callable(value):
        raise TypeError(f"`{name}` has type {type(value).__name__}, expected {expected}")


def check_layout(name: str, tensor: Tensor) -> None:
    """Raise ValueError for a sparse tensor, and for any other that has no strides."""
    if tensor.layout is not torch.strided:
        raise ValueError(f"`{name}` has layout {tensor.layout}, expected torch.strided")


def check_tensors(**arguments: Tensor | None) -> torch.dtype:
    """Check type, dtype, device and layout of the operands of one call.

    Parameters
    ----------
    **arguments : Tensor or None
        Operands by name; None means "not given", where the name allows it. Those called
        ``target`` and ``mask`` may be of dtype bool or uint8.

    Returns
    -------
    torch.dtype
        The dtype to compute in: float64 if the operands are float64; float32 if they are any
        mixture of float32, bfloat16 and float16.

    Raises
    ------
    TypeError
        An operand is not a tensor, is not floating-point, or mixes float64 with a narrower type.
    ValueError
        The operands are on several devices, or on one without kernels, or are sparse.
    RuntimeError
        The operands are on a GPU, and this build has no CUDA kernels.
    """
    first = first_name = None
    dtype = None
    dtype_name = ""
    for name, value in arguments.items():
        if value is None and name in _MAY_BE_NONE:
            continue
        check_is_tensor(name, value)
        assert value is not None
        if first is None:
            first, first_name = value, name
            if value.device.type not in _DEVICES:
                raise ValueError(
                    f"`{name}` is on device {value.device}, expected a CPU tensor: this build has "
                    "no kernels for that device"
                )
            if value.device.type == "cuda" and not torch.compiler.is_compiling():
                cuda_kernels()  # the error of a build without them names what it lacks
        elif value.device != first.device:
            raise ValueError(
                f"`{name}` is on device {value.device}, expected {first.device} as `{first_name}`"
            )
        check_layout(name, value)
        if value.dtype in _BINARY and name in _MAY_BE_BINARY:
            continue
        if not value.dtype.is_floating_point:
            kinds = "a floating-point dtype" + (", bool or uint8" if name in _MAY_BE_BINARY else "")
            raise TypeError(f"`{name}` has dtype {value.dtype}, expected {kinds}")
        computed = torch.float32 if value.dtype in _LOW_PRECISION else value.dtype
        if computed not in (torch.float32, torch.float64):
            raise TypeError(
                f"`{name}` has dtype {value.dtype}, expected float64, float32, bfloat16 or float16"
            )
        if dtype is None:
            dtype, dtype_name = computed, name
        elif computed != dtype:
            raise TypeError(
                f"`{name}` has dtype {value.dtype}, expected {dtype} to go with `{dtype_name}`"
            )
    assert dtype is not None
    return dtype


def autocast_low_precision(tensor: Tensor) -> bool:
    """Whether `tensor` is a low-precision operand inside an autocast region."""
    return tensor.dtype in _LOW_PRECISION and torch.is_autocast_enabled(tensor.device.type)


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless `tensor` has the shape of `other`; TypeError if it is none."""
    check_is_tensor(name, tensor)
    if tensor.shape != other.shape:
        raise ValueError(
            f"`{name}` has shape {tuple(tensor.shape)}, expected {tuple(other.shape)} "
            f"as `{other_name}`"
        )


def check_broadcast(name: str, tensor: Tensor | None, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless `tensor`, if given, broadcasts to the shape of `other`."""
    if tensor is None:
        return
    missing = other.dim() - tensor.dim()
    fits = (
        missing >= 0
        and all(
            size == 1 or size == full  # not `in`, which misjudges traced sizes
            for size, full in zip(tensor.shape, other.shape[missing:], strict=True)
        )
    )
    if not fits:
        raise ValueError(
            f"`{name}` has shape {tuple(tensor.shape)}, expected one that broadcasts to "
            f"{tuple(other.shape)}, the shape of `{other_name}`"
        )


def check_weight(weight: Tensor | None, n_samples: int) -> None:
    """Raise ValueError unless `weight`, if given, is one number per sample."""
    if weight is not None and weight.shape != (n_samples,):
        raise ValueError(f"`weight` has shape {tuple(weight.shape)}, expected ({n_samples},)")


def check_event_dims(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless `tensor` has a batch dimension."""
    if tensor.dim() == 0:
        raise ValueError(f"`{name}` has shape (), expected (n_samples, ...)")


def check_reduction(value: object, allowed: Sequence[str], hint: str = "") -> None:
    """Raise ValueError unless `value` is one of the `allowed` reductions."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`reduction` is {value!r}, expected one of {', '.join(allowed)}{hint}")


def check_non_negative(name: str, value: object) -> float:
    """Return `value` as a float, if it is a finite number that is not negative."""
    # Real for the scalars of NumPy, and last: an abstract class takes its time to answer.
    if isinstance(value, bool) or not isinstance(value, (float, int, Real)):
        raise TypeError(f"`{name}` has type {type(value).__name__}, expected a number")
    number = float(value)
    if not 0 <= number < math.inf:  # also false for NaN; math.isfinite would break a traced graph
        raise ValueError(f"`{name}` is {value}, expected a finite number >= 0")
    return number


def check_densities(given: object, name: str, count: int) -> Tensor:
    """Return what a function of the caller's gave, if it is a number for each of `count` points."""
    if not isinstance(given, Tensor):
        raise TypeError(f"`{name}` gave {type(given).__name__}, expected a tensor")
    if given.shape != (count,):
        raise ValueError(f"`{name}` gave shape {tuple(given.shape)}, expected ({count},)")
    return given


def check_generator(generator: object) -> None:
    """Raise TypeError unless the argument `generator` is one, or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise TypeError(f"`generator` has type {kind}, expected a torch.Generator")


def check_path(name: str, value: object) -> Path:
    """Return `value` as a Path, if it is one or its text."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` has type {type(value).__name__}, expected a path")
    return Path(value)


def check_limits(name: str, limits: object) -> tuple[float, float]:
    """Return `limits` as two floats, -inf or inf for what is None, and for all if `limits` is."""
    if limits is None:
        return -math.inf, math.inf
    pair = tuple(limits) if isinstance(limits, (tuple, list)) else ()
    if len(pair) != 2 or not all(isinstance(x, (int, float, Real, type(None))) for x in pair):
        raise TypeError(f"`{name}` is {limits!r}, expected a pair of numbers or None")
    low = -math.inf if pair[0] is None else pair[0]
    high = math.inf if pair[1] is None else pair[1]
    if not low <= high:
        raise ValueError(f"`{name}` is {limits!r}, expected its first number to be the smaller")
    return float(low), float(high)


def check_int(name: str, value: object) -> int:
    """Return `value` as an int, if it is one, of Python or of NumPy."""
    if isinstance(value, bool) or not isinstance(value, (int, Integral)):
        raise TypeError(f"`{name}` has type {type(value).__name__}, expected an int")
    return int(value)


def check_positive_int(name: str, value: object) -> int:
    """Return `value` as an int, if it is one above zero."""
    number = check_int(name, value)
    if number <= 0:
        raise ValueError(f"`{name}` is {value}, expected an int > 0")
    return number
