"""Gaussian negative log-likelihood, and its gradients in the mean and the log-variance."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import dense, empty, filled, gradient, zeros
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
    dtype, given = computed_dtype(mean), mean.shape
    loss = empty(loss_shape(given, reduction), dtype=dtype)
    scale = loss_scale(given, reduction)
    order = gaussian_order(mean, target, logvar, mask)
    grad_mean = gradient(mean, order) if need_mean else None
    wanted = logvar if need_logvar else None
    if mean.numel() == 0:
        nothing = None if wanted is None else zeros(wanted.shape, dtype=saved_dtype(wanted))
        return loss.fill_(0.0 * scale), grad_mean, nothing
    rows = given[0]
    of_elements = of_rows = of_columns = None
    kind = "" if wanted is None else cells(wanted, mean)
    if kind == "elements" and wanted is not None:
        whole = wanted.shape == given
        of_elements = gradient(wanted, order) if whole else dense(given, dtype)
    elif kind == "rows":
        of_rows = empty(rows, dtype=dtype)
    elif kind == "columns":
        of_columns = zeros((1, mean.numel() // rows), dtype=torch.float64)
    if logvar is not None and logvar.numel() == 1:
        logvar = logvar.reshape((1,) * len(given))
    mean, target, logvar, mask, written, written_logvar = permuted(
        order, mean, target, logvar, mask, grad_mean, of_elements
    )
    shape = mean.shape
    total, slope = _core.gaussian_loss(
        operand(mean, shape, rows),
        operand(target, shape, rows),
        operand(logvar, shape, rows),
        operand(mask, shape, rows),
        vector(row_weight),
        low,
        high,
        target_scale,
        scale,
        vector(loss) if reduction == "rows" else None,
        output(written, rows),
        output(written_logvar, rows),
        vector(of_rows),
        output(of_columns, 1),
    )
    if reduction != "rows":
        filled(loss, total * scale)
    if wanted is None:
        return loss, grad_mean, None
    if of_elements is not None:
        slopes = of_elements
    elif of_rows is not None:
        slopes = of_rows.view(wanted.shape)
    elif of_columns is not None:
        slopes = of_columns.view(given[1:])
    else:
        slopes = torch.full(wanted.shape, slope, dtype=dtype, device="cpu")
    return loss, grad_mean, summed(slopes, wanted)
