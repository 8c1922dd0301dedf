"""Gaussian negative log-likelihood, and its gradients in the mean and the log-variance."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit._cuda_library import cuda_kernels
from elbokit.torch._cuda._queue import gradient, queue
from elbokit.torch._operands import operand, output, permuted, vector
from elbokit.torch._reduction import (
    computed_dtype,
    gaussian_order,
    loss_scale,
    loss_shape,
    saved_dtype,
)
from elbokit.torch._slopes import cells, summed

__all__ = ["gaussian_loss"]


def gaussian_loss(
    mean: Tensor,
    target: Tensor,
    logvar: Tensor | None,
    mask: Tensor | None,
    row_weight: Tensor | None,
    low: float,
    high: float,
    target_scale: float,
    reduction: str,
    need_mean: bool,
    need_logvar: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the loss and its gradients in `mean` and `logvar`, each of its operand's shape."""
    kernels = cuda_kernels()
    dtype, given = computed_dtype(mean), mean.shape
    loss = mean.new_empty(loss_shape(given, reduction), dtype=dtype)
    scale = loss_scale(given, reduction)
    order = gaussian_order(mean, target, logvar, mask)
    grad_mean = gradient(mean, order) if need_mean else None
    wanted = logvar if need_logvar else None
    if mean.numel() == 0:
        nothing = None
        if wanted is not None:
            nothing = wanted.new_zeros(wanted.shape, dtype=saved_dtype(wanted))
        return loss.fill_(0.0 * scale), grad_mean, nothing
    rows = given[0]
    cols = mean.numel() // rows
    total = of_elements = of_rows = of_columns = slopes = None
    kind = "" if wanted is None else cells(wanted, mean)
    if kind == "elements" and wanted is not None:
        whole = wanted.shape == given
        slopes = of_elements = (
            gradient(wanted, order) if whole else mean.new_empty(given, dtype=dtype)
        )
    elif kind == "rows" and wanted is not None:
        of_rows = mean.new_empty(rows, dtype=dtype)
        slopes = of_rows.view(wanted.shape)
    elif kind == "columns":
        of_columns = mean.new_zeros((1, cols), dtype=torch.float64)
        slopes = of_columns.view(given[1:])
    elif wanted is not None:
        total = mean.new_empty((), dtype=dtype)
        slopes = total.view(wanted.shape)
    where = queue(mean, kernels.gaussian_loss_workspace(cols, of_columns is not None))
    if logvar is not None and logvar.numel() == 1:
        logvar = logvar.reshape((1,) * len(given))
    mean, target, logvar, mask, written, written_logvar = permuted(
        order, mean, target, logvar, mask, grad_mean, of_elements
    )
    shape = mean.shape
    by_row = reduction == "rows"
    kernels.gaussian_loss(
        where,
        operand(mean, shape, rows),
        operand(target, shape, rows),
        operand(logvar, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        low,
        high,
        target_scale,
        scale,
        None if by_row else output(loss, 1),
        vector(loss) if by_row else None,
        output(written, rows),
        output(written_logvar, rows),
        output(total, 1),
        vector(of_rows),
        output(of_columns, 1),
    )
    if wanted is None or slopes is None:
        return loss, grad_mean, None
    return loss, grad_mean, summed(slopes, wanted)
