"""Which elements of a VAE's data are there."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit.torch._checks import check_broadcast, check_is_tensor
from elbokit.torch._likelihoods import Likelihood, check_takes_mask

__all__ = ["check_missing", "given", "mask_of", "present"]


def given(x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Return the arguments of a pass: what a subclass overrides need not know of masks."""
    return (x,) if mask is None else (x, mask)


def present(mask: Tensor, x: Tensor) -> Tensor:
    """Return `mask` as bool, in the shape of `x`."""
    check_is_tensor("mask", mask)
    check_broadcast("mask", mask, "x", x)
    return (mask if mask.dtype == torch.bool else mask != 0).expand(x.shape)


def check_missing(missing: object, likelihood: Likelihood) -> str:
    """Return what `missing` says of NaN, if the likelihood can do so."""
    if missing not in ("error", "integrate"):
        raise ValueError(f"`missing` is {missing!r}, expected 'error' or 'integrate'")
    if missing == "integrate":
        check_takes_mask(likelihood, "missing")
    return str(missing)


def mask_of(x: Tensor, missing: str) -> Tensor | None:
    """Return which elements of data are there, None for all; classes and bytes have no NaN."""
    return ~x.isnan() if missing == "integrate" and x.is_floating_point() else None
