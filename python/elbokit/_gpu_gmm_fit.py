"""`elbokit.ops.gmm_fit` for arrays on a GPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elbokit import _core
from elbokit._gmm_fit import FitOutcome, as_gmm_fit, check_fit_weight
from elbokit._gpu_arrays import as_gpu_tensor, read_back, returns_gpu_like, to_host
from elbokit._gpu_fit import GpuMixture, GpuRun
from elbokit._gpu_fit_many import fit_many, takes_fit_many
from elbokit._gpu_gmm import check_parameters, explain_parameters, parameters_fit
from elbokit._mixture_arguments import check_offsets
from elbokit._types import FitStatus, GmmFit
from elbokit.torch._cuda._gmm_kernels import Parameters

__all__ = ["gmm_fit"]

# A mixture has one block of the GPU to itself where many run in one launch. Up to so many rows, on
# average, that costs less than to launch every iteration of each.
_MOST_ROWS = 1 << 14


def gmm_fit(
    X: Any,
    weights: Any,
    means: Any,
    precisions_cholesky: Any,
    covariance_type: str,
    *,
    sample_weight: Any,
    offsets: Any,
    tol: float,
    max_iter: int,
    reg_covar: float,
) -> GmmFit:
    """Do what `elbokit.ops.gmm_fit` does, with results on the GPU; the options are checked."""
    rows = as_gpu_tensor(X, "X")
    cut = None
    if offsets is not None:
        if rows.ndim != 2:
            raise ValueError(
                f"`X` has shape {tuple(rows.shape)}, expected (n_rows, n_features) with `offsets`"
            )
        cut = check_offsets(to_host(offsets, "offsets"), len(rows))
    batch, start = check_parameters(
        rows,
        weights,
        means,
        precisions_cholesky,
        covariance_type,
        None if cut is None else len(cut) - 1,
    )
    if not bool(parameters_fit(start, rows)):
        explain_parameters(start, batch, rows)
    per_row = (len(rows),) if cut is not None else (*batch, rows.shape[-2])
    row_weight = check_fit_weight(to_host(sample_weight, "sample_weight"), per_row, cut)
    weight = None if row_weight is None else torch.from_numpy(row_weight).to(rows.device)
    if cut is None:
        rows = rows.expand(*batch, *rows.shape[-2:])
    options = {"tol": tol, "max_iter": max_iter, "reg_covar": reg_covar}
    size, n_components, n_features = start.means.shape
    n_rows = math.prod(rows.shape[:-1])
    small = n_rows <= size * _MOST_ROWS and takes_fit_many(n_components, n_features)
    run = _at_once if small else _one_by_one
    fit = run(rows, cut, weight, batch, start, options)
    failed, bound = fit.status != FitStatus.OK, torch.as_tensor(fit.lower_bound)
    if max_iter == 0 or bool(failed.any()) or bool(bound.isnan().any()):
        _require_finite(rows)
    hand_back = returns_gpu_like(X)

    def back(array: Any) -> Any:
        return hand_back(torch.as_tensor(array, device=rows.device))

    given = "weights, means and precisions_cholesky"
    return as_gmm_fit(fit, batch, not batch, covariance_type, given, back)


def _covariances(start: Parameters) -> npt.NDArray[np.float64]:
    """Return the covariances that the factors stand for."""
    factors = read_back(start.precisions_cholesky)
    covariances = np.empty_like(factors)
    _, n_components, n_features = start.means.shape
    _core.gmm_covariances(start.covariance_type, n_components, n_features, factors, covariances)
    return covariances


def _one_by_one(
    rows: Tensor,
    cut: npt.NDArray[np.int64] | None,
    weight: Tensor | None,
    batch: tuple[int, ...],
    start: Parameters,
    options: dict[str, Any],
) -> FitOutcome:
    """Run one mixture after the other."""
    first = [read_back(t) for t in (start.weights, start.means)]
    starts = (*first, _covariances(start), read_back(start.precisions_cholesky))
    runs: list[GpuRun] = []
    for b, place in enumerate(np.ndindex(batch)):
        part = slice(None) if cut is None else slice(*cut[b : b + 2].tolist())
        X = rows[place] if cut is None else rows[part]
        share = None if weight is None else weight[b] if cut is None else weight[part]
        mass = float(len(X)) if share is None else float(read_back(share.sum()))
        mixture = GpuMixture(X, share, mass, start.covariance_type, options["reg_covar"])
        arrays = tuple(array[b] for array in starts)
        runs.append(mixture.run(arrays, tol=options["tol"], max_iter=options["max_iter"]))
    estimates: list[Any] = [torch.cat(a) for a in zip(*(r.estimate for r in runs), strict=True)]
    return FitOutcome(
        estimates[0],
        estimates[1],
        estimates[2],
        estimates[3],
        np.array([r.lower_bound for r in runs]),
        np.array([len(r.lower_bounds) for r in runs]),
        np.array([r.converged for r in runs]),
        np.array([r.status for r in runs]),
        np.array([r.component for r in runs]),
        [],
    )


def _at_once(
    rows: Tensor,
    cut: npt.NDArray[np.int64] | None,
    weight: Tensor | None,
    batch: tuple[int, ...],
    start: Parameters,
    options: dict[str, Any],
) -> FitOutcome:
    """Run many small mixtures in one launch; what it leaves stays on the GPU."""
    # Those of the start show only where no iteration is made.
    covariances = torch.zeros_like(start.precisions_cholesky)
    if options["max_iter"] == 0:
        covariances = torch.from_numpy(_covariances(start)).to(rows.device)
    fit: Any = fit_many(
        rows if cut is not None else rows.reshape(math.prod(batch), *rows.shape[-2:]),
        None if cut is None else torch.from_numpy(cut).to(rows.device),
        start.weights,
        start.means,
        covariances,
        start.precisions_cholesky,
        start.covariance_type,
        weight,
        **options,
    )
    return FitOutcome(**fit._asdict(), lower_bounds=[])


def _require_finite(rows: Tensor) -> None:
    """Raise ValueError for the first row with NaN or infinity."""
    bad = read_back(torch.nonzero(~torch.isfinite(rows).all(-1))[:1])
    if len(bad):
        row = ", ".join(map(str, bad[0].tolist()))
        values = read_back(rows[tuple(bad[0].tolist())].double())
        raise ValueError(
            f"`X` has NaN or infinity in row {row}, expected finite values; "
            f"the row is {np.array2string(values, threshold=8)}"
        )
