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
from elbokit._gpu_m_step import GpuEstimate
from elbokit._mixture_arguments import Mixtures, check_mixtures, check_offsets
from elbokit._types import FitStatus, GmmFit

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
    # The checks look at the parameters, and of the rows at shape and dtype.
    dtype = np.float64 if rows.dtype == torch.float64 else np.float32
    mixtures = check_mixtures(
        np.broadcast_to(np.zeros((), dtype), tuple(rows.shape)),
        to_host(weights, "weights"),
        to_host(means, "means"),
        to_host(precisions_cholesky, "precisions_cholesky"),
        covariance_type,
        None if cut is None else len(cut) - 1,
    )
    per_row = (len(rows),) if cut is not None else (*mixtures.batch, rows.shape[-2])
    row_weight = check_fit_weight(to_host(sample_weight, "sample_weight"), per_row, cut)
    factors = mixtures.precisions_cholesky
    covariances = np.empty_like(factors)
    n_components, n_features = mixtures.means.shape[1:]
    _core.gmm_covariances(covariance_type, n_components, n_features, factors, covariances)
    start = (mixtures.weights, mixtures.means, covariances, factors)
    weight = None if row_weight is None else torch.from_numpy(row_weight).to(rows.device)
    if cut is None:
        rows = rows.expand(*mixtures.batch, *rows.shape[-2:])
    options = {"tol": tol, "max_iter": max_iter, "reg_covar": reg_covar}
    n_rows = math.prod(rows.shape[:-1])
    small = n_rows <= len(factors) * _MOST_ROWS and takes_fit_many(n_components, n_features)
    run = _at_once if small else _one_by_one
    fit = run(rows, cut, weight, mixtures, covariance_type, start, options)
    if max_iter == 0 or (fit.status != FitStatus.OK).any() or np.isnan(fit.lower_bound).any():
        _require_finite(rows)
    hand_back = returns_gpu_like(X)

    def back(array: Any) -> Any:
        return hand_back(torch.as_tensor(array, device=rows.device))

    given = "weights, means and precisions_cholesky"
    return as_gmm_fit(fit, mixtures.batch, not mixtures.batch, covariance_type, given, back)


def _one_by_one(
    rows: Tensor,
    cut: npt.NDArray[np.int64] | None,
    weight: Tensor | None,
    mixtures: Mixtures,
    covariance_type: str,
    start: tuple[npt.NDArray[np.float64], ...],
    options: dict[str, Any],
) -> FitOutcome:
    """Run one mixture after the other."""
    runs: list[GpuRun] = []
    for b, place in enumerate(np.ndindex(mixtures.batch)):
        part = slice(None) if cut is None else slice(*cut[b : b + 2].tolist())
        X = rows[place] if cut is None else rows[part]
        share = None if weight is None else weight[b] if cut is None else weight[part]
        mass = float(len(X)) if share is None else float(read_back(share.sum()))
        mixture = GpuMixture(X, share, mass, covariance_type, options["reg_covar"])
        arrays = tuple(array[b] for array in start)
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
    mixtures: Mixtures,
    covariance_type: str,
    start: tuple[npt.NDArray[np.float64], ...],
    options: dict[str, Any],
) -> FitOutcome:
    """Run many small mixtures in one launch."""
    X = rows if cut is not None else rows.reshape(math.prod(mixtures.batch), *rows.shape[-2:])
    estimate = GpuEstimate(*(torch.from_numpy(np.array(a)).to(rows.device) for a in start))
    splits = None if cut is None else torch.from_numpy(cut).to(rows.device)
    fit: Any = fit_many(
        X,
        splits,
        estimate.weights,
        estimate.means,
        estimate.covariances,
        estimate.precisions_cholesky,
        covariance_type,
        weight,
        **options,
    )
    ended = [read_back(a) for a in fit[4:]]
    return FitOutcome(
        fit[0], fit[1], fit[2], fit[3], ended[0], ended[1], ended[2], ended[3], ended[4], []
    )


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
