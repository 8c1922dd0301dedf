"""E-step, log-density and statistics of Gaussian mixtures on a GPU.

What the values of the arguments are is found out with the results: a call waits for the GPU once,
and for statistics of many components two or three times.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from elbokit._arrays import not_finite
from elbokit._gmm_underflow import squares_underflow
from elbokit._gpu_arrays import as_gpu_tensor, returns_gpu_like
from elbokit._mixture_arguments import (
    check_covariance_type,
    check_parameter_values,
    check_row_shape,
    check_shapes,
    core_dimensions,
)
from elbokit._types import GmmStatistics
from elbokit.torch._cuda import _gmm_kernels as kernels
from elbokit.torch._cuda._powers import power_of_two

__all__ = [
    "check_parameters",
    "estep",
    "explain_parameters",
    "log_prob",
    "parameters_fit",
    "statistics",
]

# Second moments below this may have lost digits: _LEAST_SQUARE of _gmm_underflow.py.
_LEAST_SQUARE = 2.0**-120


class _Mixtures(NamedTuple):
    """Checked but for their values: a flat batch, and the shape that it had."""

    batch: tuple[int, ...]
    X: Tensor
    parameters: kernels.Parameters

    @property
    def computed(self) -> torch.dtype:
        return _computed(self.X)


def _computed(X: Tensor) -> torch.dtype:
    return torch.float64 if X.dtype == torch.float64 else torch.float32


def _check_mixtures(
    X: Any, weights: Any, means: Any, precisions_cholesky: Any, covariance_type: str
) -> _Mixtures:
    rows = as_gpu_tensor(X, "X")
    batch, parameters = check_parameters(rows, weights, means, precisions_cholesky, covariance_type)
    return _Mixtures(batch, _flat(rows, batch, 2), parameters)


def check_parameters(
    rows: Tensor,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str,
    n_ragged: int | None = None,
) -> tuple[tuple[int, ...], kernels.Parameters]:
    """Check all but values; return the batch dimensions, and the parameters of a flat batch.

    n_ragged: so many mixtures share the rows of a two-dimensional `rows`.
    """
    check_covariance_type(covariance_type)
    check_row_shape(tuple(rows.shape))
    given = {"weights": weights, "means": means, "precisions_cholesky": precisions_cholesky}
    tensors = {name: as_gpu_tensor(a, name, rows) for name, a in given.items()}
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    batch = check_shapes(tuple(rows.shape), shapes, covariance_type, n_ragged)
    flat = (
        _flat(t, batch, n_core)
        for t, n_core in zip(tensors.values(), core_dimensions(covariance_type), strict=True)
    )
    return batch, kernels.parameters_of(covariance_type, *flat)


def _flat(a: Tensor, batch: tuple[int, ...], n_core: int) -> Tensor:
    core = a.shape[a.dim() - n_core :]
    return a.expand(batch + core).reshape(math.prod(batch), *core)


def parameters_fit(parameters: kernels.Parameters, X: Tensor) -> Tensor:
    """Whether the parameters' values are allowed, beside rows `X`; on the device."""
    covariance_type, weights, means, factors = parameters
    largest = torch.finfo(_computed(X)).max / 2
    ok = (weights >= 0).all() & (weights.sum(1) > 0).all()
    for tensor in (weights, means, factors):
        ok &= (tensor.abs() <= largest).all()  # NaN is not
    if covariance_type in ("full", "tied"):
        ok &= (factors.diagonal(dim1=-2, dim2=-1) > 0).all() & ~factors.tril(-1).any()
        return ok
    return ok & (factors > 0).all()


def explain_parameters(parameters: kernels.Parameters, batch: tuple[int, ...], X: Tensor) -> None:
    """Raise the error that a value of the parameters deserves, if there is one."""
    covariance_type, *tensors = parameters
    weights, means, factors = (t.reshape(*batch, *t.shape[1:]).cpu().numpy() for t in tensors)
    computed = np.dtype(np.float64 if _computed(X) == torch.float64 else np.float32)
    check_parameter_values(weights, means, factors, covariance_type, computed)


def _explain(mixtures: _Mixtures) -> None:
    """Raise the error that a value of the arguments deserves, if there is one."""
    explain_parameters(mixtures.parameters, mixtures.batch, mixtures.X)
    X = mixtures.X.reshape(*mixtures.batch, *mixtures.X.shape[1:])
    bad = (~X.isfinite()).any(-1).nonzero()
    if len(bad):
        where = tuple(bad[0].tolist())
        raise not_finite("X", where, X[where].to(mixtures.computed).cpu().numpy())


def estep(
    X: Any, weights: Any, means: Any, precisions_cholesky: Any, covariance_type: str
) -> tuple[Any, Any]:
    """As `elbokit.ops.gmm_estep`."""
    mixtures = _check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    density, r, _ = kernels.estep(mixtures.X, mixtures.parameters, responsibilities=True)
    assert density is not None
    assert r is not None
    if not bool(parameters_fit(mixtures.parameters, mixtures.X) & density.isfinite().all()):
        _explain(mixtures)
    back = returns_gpu_like(X)
    return (
        back(density.reshape(*mixtures.batch, density.shape[1])),
        back(r.reshape(*mixtures.batch, *r.shape[1:])),
    )


def log_prob(
    X: Any, weights: Any, means: Any, precisions_cholesky: Any, covariance_type: str
) -> Any:
    """As `elbokit.ops.gmm_log_prob`."""
    mixtures = _check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    density, _, _ = kernels.estep(mixtures.X, mixtures.parameters)
    assert density is not None
    if not bool(parameters_fit(mixtures.parameters, mixtures.X) & density.isfinite().all()):
        _explain(mixtures)
    return returns_gpu_like(X)(density.reshape(*mixtures.batch, density.shape[1]))


def _check_sample_weight(given: Any, mixtures: _Mixtures) -> tuple[Tensor | None, Tensor]:
    """Return weights of about 1, and the power of two that the statistics are multiplied by."""
    if given is None:
        return None, mixtures.parameters.weights.new_ones(())
    weight = as_gpu_tensor(given, "sample_weight", mixtures.X)
    shape, expected = tuple(weight.shape), (*mixtures.batch, mixtures.X.shape[1])
    fits = len(shape) > 0 and shape[-1] == expected[-1]
    try:
        fits = fits and np.broadcast_shapes(shape, expected) == expected
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"`sample_weight` has shape {shape}, expected {expected}")
    weight = weight.to(torch.float64)
    _, exponent = torch.frexp(weight.amax())
    scale = power_of_two(exponent.clamp(-1000, 1000))
    flat = (weight / scale).expand(expected).reshape(mixtures.X.shape[:2])
    return flat.contiguous(), scale


def _explain_weights(weight: Tensor | None, scale: Tensor, batch: tuple[int, ...]) -> None:
    if weight is None:
        return
    given = (weight * scale).reshape(*batch, weight.shape[1])
    bad = (~given.isfinite()).nonzero()
    if len(bad):
        where = tuple(bad[0].tolist())
        raise not_finite("sample_weight", where, given[where].cpu().numpy())
    if bool((given < 0).any()):
        raise ValueError(f"`sample_weight` has the value {given.min()}, expected values >= 0")


def _may_underflow(sums: kernels.Statistics, covariance_type: str) -> Tensor:
    """Whether some second moment is so small that `squares_underflow` has to look."""
    second = sums.second_moments
    if covariance_type in ("full", "tied"):
        second = second.diagonal(dim1=-2, dim2=-1)
    total = sums.counts.sum(1).reshape(-1, *[1] * (second.dim() - 1))
    return (second <= _LEAST_SQUARE * total).any()


def statistics(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str,
    sample_weight: Any,
) -> GmmStatistics:
    """As `elbokit.ops.gmm_statistics`."""
    mixtures = _check_mixtures(X, weights, means, precisions_cholesky, covariance_type)
    weight, scale = _check_sample_weight(sample_weight, mixtures)
    for attempt in kernels.ATTEMPTS:
        found = kernels.attempted_statistics(attempt, mixtures.X, weight, mixtures.parameters)
        if found is not None and not bool(found[1]):
            sums = found[0]
            break
    else:
        sums = kernels.statistics(mixtures.X, weight, mixtures.parameters)
    ok = parameters_fit(mixtures.parameters, mixtures.X)
    if weight is not None:
        ok = ok & ((weight >= 0) & weight.isfinite()).all()
    for each in sums:
        ok = ok & each.isfinite().all()
    if mixtures.computed == torch.float32:
        ok = ok & ~_may_underflow(sums, covariance_type)
    if not bool(ok):
        sums = _mend(sums, mixtures, weight, scale)
    shaped = [(scale * each).reshape(mixtures.batch + each.shape[1:]) for each in sums]
    back = returns_gpu_like(X)
    counts, first, second, log_likelihood = (back(each) for each in shaped)
    return GmmStatistics(
        counts, first, second, log_likelihood if mixtures.batch else float(log_likelihood)
    )


def _mend(
    sums: kernels.Statistics, mixtures: _Mixtures, weight: Tensor | None, scale: Tensor
) -> kernels.Statistics:
    """Raise an error, or return statistics that lose nothing to underflow."""
    _explain(mixtures)
    _explain_weights(weight, scale, mixtures.batch)
    kind = mixtures.parameters.covariance_type
    if mixtures.computed == torch.float32:
        arrays = GmmStatistics(*(each.cpu().numpy() for each in sums))
        if squares_underflow(arrays, mixtures.X, kind):
            sums = kernels.statistics(mixtures.X, weight, mixtures.parameters, wide=True)
    for name, each in zip(sums._fields[:3], sums[:3], strict=True):
        if not bool(each.isfinite().all()):
            raise ValueError(
                f"`X` has values up to {mixtures.X.abs().max():g}: {name} overflow "
                f"{mixtures.computed}; scale the data or pass float64"
            )
    return sums
