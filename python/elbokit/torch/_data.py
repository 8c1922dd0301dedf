"""What data must be: values of a likelihood, in the shape that networks were built for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from elbokit.torch._checks import check_layout
from elbokit.torch._likelihoods import Likelihood

if TYPE_CHECKING:
    from elbokit.torch._vae import VAE

__all__ = ["Expected", "as_data", "checked", "expected_by"]


class Expected(NamedTuple):
    """What is asked of an argument.

    Attributes
    ----------
    name : str
        Name of the argument, for errors.
    likelihood : Likelihood
        Knows which values are data.
    dtype : torch.dtype
        Dtype of the result, except of classes (int64) and of bytes, which stay as they are.
    event_shape : tuple of int or None
        Shape of one sample; None for any.
    missing : bool, default=False
        Whether NaN stands for what is missing.
    """

    name: str
    likelihood: Likelihood
    dtype: torch.dtype
    event_shape: tuple[int, ...] | None
    missing: bool = False


def expected_by(
    vae: VAE, name: str, dtype: torch.dtype | None = None, missing: bool = False
) -> Expected:
    """Return what `vae` asks of the argument `name`, by default in the dtype of its parameters."""
    from elbokit.torch._vae import VAE

    if dtype is None:
        dtype = next(vae.parameters(), torch.empty(0)).dtype
    # The exact type: a subclass may bring data into shape itself.
    shape = vae._event_shape if type(vae) is VAE else None
    return Expected(name, vae.likelihood, dtype, shape, missing)


def as_data(X: Any, expected: Expected) -> Tensor:
    """Return an array-like or tensor of shape (n_samples, ...) as checked data."""
    if not isinstance(X, Tensor):
        X = _as_tensor(expected.name, X)
    data = checked(X.detach(), expected)
    if data.dtype == torch.uint8 and data.max() == 1:
        warnings.warn(
            f"`{expected.name}` is of dtype uint8 and holds 0 and 1 alone, which are read as 0 and "
            "1/255; give binary data as bool or floating-point",
            UserWarning,
            stacklevel=3,
        )
    return data


def _as_tensor(name: str, X: Any) -> Tensor:
    try:
        array = np.asarray(X)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of tensors with a gradient
        raise ValueError(
            f"`{name}` has type {type(X).__name__} and is no array, expected shape "
            "(n_samples, ...); data with labels go into a TensorDataset"
        ) from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` has dtype {array.dtype}, expected numbers")
    # torch refuses negative strides, and warns about arrays that it may not write to.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def checked(X: Tensor, expected: Expected, row_of: Callable[[int], int] = int) -> Tensor:
    """Return a batch in its dtype if it is as `expected`; `row_of` gives the row of a sample."""
    name, likelihood, dtype, event_shape, missing = expected
    if X.is_complex():
        raise TypeError(f"`{name}` has dtype {X.dtype}, expected real numbers")
    check_layout(name, X)
    _check_shape(name, X, event_shape)
    if likelihood.classes:
        if X.is_floating_point():
            raise TypeError(f"`{name}` has dtype {X.dtype}, expected integers, for classes")
        dtype = torch.int64
    elif X.dtype == torch.uint8:  # scaled to [0, 1] batch by batch, in a quarter of the memory
        return X
    return _check_values(name, X.to(dtype), likelihood.support, missing, row_of)


def _check_shape(name: str, X: Tensor, event_shape: tuple[int, ...] | None) -> None:
    shape = tuple(X.shape)
    if event_shape is not None and shape[1:] != event_shape:
        expected = f"(n_samples, {', '.join(map(str, event_shape))})"
        raise ValueError(f"`{name}` has shape {shape}, expected {expected}")
    if X.dim() < 2:
        raise ValueError(
            f"`{name}` has shape {shape}, expected (n_samples, ...) of two dimensions or more"
        )
    if X.numel() == 0:
        raise ValueError(f"`{name}` has shape {shape}, expected (n_samples, ...), not empty")


def _check_values(
    name: str,
    X: Tensor,
    support: tuple[float, float],
    missing: bool,
    row_of: Callable[[int], int],
) -> Tensor:
    """Return `X` if all of it, but for what is missing, is in `support`.

    The error names the first bad row.
    """
    least, greatest = support
    low, high = torch.aminmax(X)
    if bool((low >= least) & (high <= greatest) & low.isfinite() & high.isfinite()):
        return X  # NaN is not finite
    flat = X.flatten(1)
    bad = ~((flat >= least) & (flat <= greatest) & flat.isfinite())
    if missing:
        bad &= ~flat.isnan()
        if not bad.any():
            return X
    i, column = bad.nonzero()[0].tolist()
    expected = f"values in [{least:g}, {greatest:g}]" if greatest < np.inf else "finite values"
    raise ValueError(
        f"`{name}` has the value {flat[i, column].item():g} in row {row_of(i)}, expected {expected}"
    )
