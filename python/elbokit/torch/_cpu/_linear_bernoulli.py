"""Bernoulli loss of a linear layer's logits, block by block: they never exist as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elbokit import _core
from elbokit.torch._cpu._operands import empty, filled, zeros
from elbokit.torch._operands import operand, output, vector
from elbokit.torch._reduction import computed_dtype, loss_scale, loss_shape, saved_dtype

__all__ = ["linear_bernoulli_loss", "linear_bernoulli_loss_backward"]

# Elements of the block of logits: 8 MiB in float32. A quarter or twice as many take the same
# time; much smaller blocks pay for passing over `hidden` and its gradient once for each.
_BLOCK = 2**21
# Rows of a block: as many as let the products run at their full speed, wherever there are more.
_MAX_ROWS = 4096
_MIN_COLS = 64

_Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


class _Layer(NamedTuple):
    """A linear layer with its input, without history."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    product: torch.dtype  # of the matrix products and of the block of logits

    @staticmethod
    def of(
        hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, product: torch.dtype
    ) -> _Layer:
        bias = None if bias is None else bias.detach().to(product)
        return _Layer(hidden.detach().to(product), weight.detach(), bias, target, product)

    @property
    def converts(self) -> bool:
        """Whether each chunk of the weights is converted."""
        return self.weight.dtype != self.product

    def block(self, chunk_size: int | None) -> tuple[int, int]:
        """Rows and columns of the largest block of logits."""
        (n_samples, n_hidden), n_features = self.hidden.shape, self.weight.shape[0]
        rows = max(1, min(n_samples, _MAX_ROWS))
        if chunk_size is None:
            # A chunk of converted weights and of their gradient is as wide as the layer below.
            widest = max(rows, n_hidden) if self.converts else rows
            largest = max(_MIN_COLS, _BLOCK // widest)
            n_chunks = max(1, -(-n_features // largest))
            chunk_size = -(-n_features // n_chunks)  # of one size, so none is too narrow
        return rows, max(1, min(n_features, chunk_size))


class _Sums:
    """The gradients of one layer, to which each block of the logits' gradient is added.

    `scale` is the factor of what comes in: a factor of the products costs nothing and loses none
    of the digits of a narrow block.
    """

    def __init__(self, layer: _Layer, needs: tuple[bool, bool, bool], scale: float) -> None:
        self.layer, self.scale = layer, scale
        dtype = self.dtype = computed_dtype(layer.hidden)
        self.hidden = zeros(layer.hidden.shape, dtype=dtype) if needs[0] else None
        # Written by the first rows of every chunk, if there are any.
        some = empty if len(layer.hidden) else zeros
        kept = saved_dtype(layer.weight)
        self.weight = some(layer.weight.shape, dtype=kept) if needs[1] else None
        self.bias = zeros(layer.weight.shape[0], dtype=dtype) if needs[2] else None

    @property
    def wanted(self) -> bool:
        return self.hidden is not None or self.weight is not None or self.bias is not None

    def start_chunk(self, cols: slice) -> None:
        """Prepare for the features `cols`."""
        self.cols, self.first = cols, True
        if self.weight is not None:
            own = self.chunk = self.weight[cols]
            if own.dtype != self.dtype:
                self.chunk = empty(own.shape, dtype=self.dtype)

    def add(self, slope: Tensor, rows: slice, weight: Tensor) -> None:
        """Add the gradient `slope` in the logits of `rows` and of the features of the chunk."""
        if self.hidden is not None:
            self._add_product(self.hidden[rows], slope, weight, 1)
        if self.weight is not None:
            self._add_product(self.chunk, slope.t(), self.layer.hidden[rows], 1 - self.first)
        if self.bias is not None:
            self.bias[self.cols].add_(slope.sum(0, dtype=self.dtype), alpha=self.scale)
        self.first = False

    def _add_product(self, to: Tensor, a: Tensor, b: Tensor, beta: int) -> None:
        if self.layer.product == torch.float16:
            # A sum over many samples may be beyond float16 before it is divided by their number.
            a, b = a.to(self.dtype), b.to(self.dtype)
        if a.dtype == self.dtype:
            torch.addmm(to, a, b, beta=beta, alpha=self.scale, out=to)
        elif beta:
            to.add_(torch.mm(a, b), alpha=self.scale)
        else:
            to.copy_(torch.mm(a, b)).mul_(self.scale)

    def end_chunk(self) -> None:
        """Store what the chunk gave."""
        if self.weight is not None and self.chunk.dtype != self.weight.dtype:
            self.weight[self.cols] = self.chunk

    def grads(self, hidden: Tensor, bias: Tensor | None) -> _Grads:
        """Gradients in the dtypes of the operands, float32 for float16."""
        in_hidden = None if self.hidden is None else self.hidden.to(saved_dtype(hidden))
        in_bias = None if self.bias is None or bias is None else self.bias.to(saved_dtype(bias))
        return in_hidden, self.weight, in_bias


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _pass(
    layer: _Layer,
    sums: _Sums,
    chunk_size: int | None,
    row_weight: Tensor | None,
    row_loss: Tensor | None,
) -> float:
    """Run over all blocks: return the sum of the loss, add to `row_loss` and to the gradients."""
    (n_samples, _), n_features = layer.hidden.shape, layer.weight.shape[0]
    block_rows, block_cols = layer.block(chunk_size)
    memory = empty(block_rows * block_cols, dtype=layer.product)
    block_loss = None if row_loss is None else empty(block_rows, dtype=sums.dtype)
    loss = 0.0
    for cols in _pieces(n_features, block_cols):
        weight = layer.weight[cols].to(layer.product)
        sums.start_chunk(cols)
        for rows in _pieces(n_samples, block_rows):
            shape = rows.stop - rows.start, cols.stop - cols.start
            logits = memory[: shape[0] * shape[1]].view(shape)
            hidden = layer.hidden[rows]
            if layer.bias is None:
                torch.mm(hidden, weight.t(), out=logits)
            else:
                torch.addmm(layer.bias[cols], hidden, weight.t(), out=logits)
            described: Any = output(logits, shape[0])
            wanted: Any = operand(layer.target[rows, cols], shape, shape[0])
            partial = None if block_loss is None else block_loss[: shape[0]]
            # The gradient is written over the logits.
            total, _ = _core.bernoulli_loss(
                described,
                wanted,
                None,
                None,
                None,
                vector(None if row_weight is None else row_weight[rows]),
                1.0,
                1.0,
                None,
                vector(partial),
                described if sums.wanted else None,
            )
            loss += total
            if row_loss is not None and partial is not None:
                row_loss[rows].add_(partial)
            if sums.wanted:
                sums.add(logits, rows, weight)
        sums.end_chunk()
    return loss


def linear_bernoulli_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    reduction: str,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the loss and its gradients in hidden, weight and bias."""
    layer = _Layer.of(hidden, weight, bias, target.detach(), product)
    shape, dtype = target.shape, computed_dtype(hidden)
    scale = loss_scale(shape, reduction)
    sums = _Sums(layer, (need_hidden, need_weight, need_bias), scale)
    rows = zeros(shape[0], dtype=torch.float64) if reduction == "rows" else None
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        total = _pass(layer, sums, chunk_size, None, rows)
        if rows is not None:
            loss = rows.to(dtype, copy=True)
        else:
            loss = filled(empty(loss_shape(shape, reduction), dtype=dtype), total * scale)
        return loss, *sums.grads(hidden, bias)


def linear_bernoulli_loss_backward(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    need_hidden: bool,
    need_weight: bool,
    need_bias: bool,
) -> _Grads:
    """Gradients of ``(grad * loss of each row).sum()``, from logits computed again."""
    layer = _Layer.of(hidden, weight, bias, target.detach(), product)
    sums = _Sums(layer, (need_hidden, need_weight, need_bias), 1.0)
    if sums.wanted:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            row_weight = grad.detach().to(sums.dtype)
            _pass(layer, sums, chunk_size, row_weight, None)
            return sums.grads(hidden, bias)
    return None, None, None
