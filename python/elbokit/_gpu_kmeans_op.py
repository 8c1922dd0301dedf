"""`elbokit.ops.kmeans` for arrays in a GPU's memory: checked arguments, a run for each problem."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbokit._gpu_arrays import as_gpu_tensor, returns_gpu_like, to_host
from elbokit._gpu_kmeans import GpuKMeans, solve
from elbokit._kmeans import as_random_state, check_options, draws_of
from elbokit._mixture_arguments import check_offsets
from elbokit._types import KMeansResult
from elbokit.torch._reduction import computed_dtype

__all__ = ["gpu_kmeans"]

_MOST_ROWS = 2**31 - 1


def gpu_kmeans(
    X: Any,
    n_clusters: int,
    *,
    sample_weight: Any,
    random_state: Any,
    max_iter: int,
    tol: float,
    offsets: Any,
) -> KMeansResult:
    """Run :func:`elbokit.ops.kmeans`, one problem after the other."""
    rows = as_gpu_tensor(X, "X")
    if rows.dim() < 2 or 0 in rows.shape[-2:] or rows.shape[-2] > _MOST_ROWS:
        raise ValueError(
            f"`X` has shape {tuple(rows.shape)}, expected (..., n_samples, n_features) with at "
            f"least one sample and feature, and at most {_MOST_ROWS} samples"
        )
    batch, n_rows = tuple(rows.shape[:-2]), rows.shape[-2]
    splits = None
    if offsets is not None:
        if batch:
            raise ValueError(
                f"`X` has batch dimensions {batch}; with `offsets` expected (n_rows, n_features)"
            )
        splits = check_offsets(to_host(offsets, "offsets"), n_rows).tolist()
    sizes = [n_rows] if splits is None else np.diff(splits).tolist()
    check_options(n_clusters, max_iter, tol, min(sizes))
    weight, scale = _check_weight(sample_weight, rows)
    if splits is None:
        problems = list(rows.reshape(-1, *rows.shape[-2:]))
        weights = None if weight is None else list(weight.reshape(-1, n_rows))
        batch_out = batch
    else:
        parts = [slice(*ends) for ends in itertools.pairwise(splits)]
        problems = [rows[part] for part in parts]
        weights = None if weight is None else [weight[part] for part in parts]
        batch_out = (len(sizes),)
    _check_sums(weights)
    source = as_random_state(random_state)
    uniforms = source.random_sample((len(problems), draws_of(n_clusters)))
    found = []
    for i, problem in enumerate(problems):
        result = solve(
            problem,
            int(n_clusters),
            uniforms[i],
            sample_weight=None if weights is None else weights[i],
            max_iter=int(max_iter),
            tol=float(tol),
            inertia=True,
        )
        if not result.finite:
            _raise_overflow(rows)
        found.append(result)
    return _collect(X, rows, found, scale, batch_out, splits is None and not batch)


def _collect(
    X: Any,
    rows: Tensor,
    found: list[GpuKMeans],
    scale: float,
    batch: tuple[int, ...],
    single: bool,
) -> KMeansResult:
    dtype = rows.dtype if rows.dtype == torch.float64 else torch.float32
    back = returns_gpu_like(X)
    if not found:
        return KMeansResult(
            labels=back(rows.new_empty(rows.shape[:-1], dtype=torch.int32)),
            centers=back(rows.new_empty((*batch, 0, rows.shape[-1]), dtype=dtype)),
            inertia=np.empty(batch),
            n_iter=np.empty(batch, np.int64),
        )
    labels = torch.cat([each.labels for each in found if each.labels is not None])
    centers = torch.stack([each.centers for each in found if each.centers is not None])
    total = torch.cat([each.inertia for each in found if each.inertia is not None])
    inertia = scale * total.cpu().numpy()
    return KMeansResult(
        labels=back(labels.reshape(rows.shape[:-1])),
        centers=back(centers.reshape(*batch, *centers.shape[1:]).to(dtype)),
        inertia=float(inertia[0]) if single else inertia.reshape(batch),
        n_iter=found[0].n_iter if single else np.array([f.n_iter for f in found]).reshape(batch),
    )


def _check_weight(sample_weight: Any, rows: Tensor) -> tuple[Tensor | None, float]:
    """Return weights of about 1 in the dtype that is computed in, and their unit."""
    if sample_weight is None:
        return None, 1.0
    given = as_gpu_tensor(sample_weight, "sample_weight", like=rows)
    expected = rows.shape[:-1]
    fits = given.dim() > 0 and given.shape[-1] == expected[-1] and given.dim() <= len(expected)
    if not fits or any(
        n not in (1, of) for n, of in zip(given.shape[::-1], expected[::-1], strict=False)
    ):
        raise ValueError(
            f"`sample_weight` has shape {tuple(given.shape)}, expected {tuple(expected)}"
        )
    if given.numel() == 0:
        return None, 1.0
    least, largest = torch.stack(torch.aminmax(given.double())).tolist()
    if not (math.isfinite(least) and math.isfinite(largest)):
        where = (~torch.isfinite(given)).nonzero()[0].tolist()
        raise ValueError(
            f"`sample_weight` has NaN or infinity in row {', '.join(map(str, where))}, expected "
            "finite values"
        )
    if least < 0:
        raise ValueError(f"`sample_weight` has the value {least}, expected values >= 0")
    # A power of two changes no digit, and keeps float64 weights of any size within float32.
    scale = 2.0 ** min(1000, max(-1000, math.frexp(largest)[1])) if largest > 0 else 1.0
    scaled = (given.double() / scale).to(computed_dtype(rows))
    return scaled.expand(expected), scale


def _check_sums(weights: list[Tensor] | None) -> None:
    if not weights:
        return
    positive = torch.stack([(each > 0).any() for each in weights]).tolist()
    if not all(positive):
        which = "" if len(positive) == 1 else f" in problem {positive.index(False)}"
        raise ValueError(f"`sample_weight` is all zeros{which}, expected a positive sum")


def _raise_overflow(rows: Tensor) -> None:
    bad = (~torch.isfinite(rows)).any(dim=-1).nonzero()
    if len(bad):
        where = bad[0].tolist()
        raise ValueError(
            f"`X` has NaN or infinity in row {', '.join(map(str, where))}, expected finite values; "
            f"the row is {rows[tuple(where)].tolist()}"
        )
    raise ValueError(
        f"`X` has values up to {rows.abs().max().item():g}: squared distances overflow "
        f"{computed_dtype(rows)}; scale the data or pass float64"
    )
