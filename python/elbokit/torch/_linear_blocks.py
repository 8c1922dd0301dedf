"""Bernoulli loss of a linear layer's logits, block by block: they never exist as a whole.

For any device; the loss of one block is the device's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from elbokit.torch._reduction import computed_dtype, loss_scale, loss_shape, saved_dtype

__all__ = ["BlockLoss", "Grads", "backward", "loss_and_grads"]

# Rows of a block: as many as let the products run at their full speed, wherever there are more.
_MAX_ROWS = 4096
_MIN_COLS = 64

_ALIGNED = 16  # elements: so many make a whole vector in every dtype

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


class BlockLoss(Protocol):
    """The loss of the blocks on one device."""

    def add(
        self,
        logits: Tensor,
        target: Tensor,
        row_weight: Tensor | None,
        row_loss: Tensor | None,
        need_grad: bool,
    ) -> None:
        """Add the loss of a block to the sum, and write each row's loss to `row_loss`.

        The gradient is written over the logits.
        """

    def store(self, out: Tensor, scale: float) -> None:
        """Write the sum times `scale`."""


class _Layer(NamedTuple):
    """A linear layer with its input, without history."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    product: torch.dtype  # of the matrix products and of the block of logits
    largest_block: int  # elements of a block of logits, unless a chunk size is asked for

    @staticmethod
    def of(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        product: torch.dtype,
        largest_block: int,
    ) -> _Layer:
        bias = None if bias is None else bias.detach().to(product)
        hidden, weight, target = hidden.detach(), weight.detach(), target.detach()
        return _Layer(hidden.to(product), weight, bias, target, product, largest_block)

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
            largest = max(_MIN_COLS, self.largest_block // widest // _ALIGNED * _ALIGNED)
            n_chunks = max(1, -(-n_features // largest))
            chunk_size = -(-n_features // n_chunks)  # of one size, so none is too narrow
            chunk_size = -(-chunk_size // _ALIGNED) * _ALIGNED
        return rows, max(1, min(n_features, chunk_size))


class _Sums:
    """The gradients of one layer, to which each block of the logits' gradient is added.

    `scale` is the factor of what comes in: a factor of the products costs nothing and loses none
    of the digits of a narrow block.
    """

    def __init__(self, layer: _Layer, needs: tuple[bool, bool, bool], scale: float) -> None:
        self.layer, self.scale = layer, scale
        dtype = self.dtype = computed_dtype(layer.hidden)
        self.hidden = layer.hidden.new_zeros(layer.hidden.shape, dtype=dtype) if needs[0] else None
        # Written by the first rows of every chunk, if there are any.
        some = layer.weight.new_empty if len(layer.hidden) else layer.weight.new_zeros
        kept = saved_dtype(layer.weight)
        self.weight = some(layer.weight.shape, dtype=kept) if needs[1] else None
        self.bias = layer.weight.new_zeros(layer.weight.shape[0], dtype=dtype) if needs[2] else None

    @property
    def wanted(self) -> bool:
        return self.hidden is not None or self.weight is not None or self.bias is not None

    def start_chunk(self, cols: slice) -> None:
        """Prepare for the features `cols`."""
        self.cols, self.first = cols, True
        if self.weight is not None:
            own = self.chunk = self.weight[cols]
            if own.dtype != self.dtype:
                self.chunk = own.new_empty(own.shape, dtype=self.dtype)

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

    def grads(self, hidden: Tensor, bias: Tensor | None) -> Grads:
        """Gradients in the dtypes of the operands, float32 for float16."""
        in_hidden = None if self.hidden is None else self.hidden.to(saved_dtype(hidden))
        in_bias = None if self.bias is None or bias is None else self.bias.to(saved_dtype(bias))
        return in_hidden, self.weight, in_bias


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _pass(
    layer: _Layer,
    sums: _Sums,
    block_loss: BlockLoss,
    chunk_size: int | None,
    row_weight: Tensor | None,
    row_loss: Tensor | None,
) -> None:
    """Run over all blocks: add to the sum of the loss, to `row_loss` and to the gradients."""
    (n_samples, _), n_features = layer.hidden.shape, layer.weight.shape[0]
    block_rows, block_cols = layer.block(chunk_size)
    memory = layer.hidden.new_empty(block_rows * block_cols)
    of_rows = None if row_loss is None else memory.new_empty(block_rows, dtype=sums.dtype)
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
            partial = None if of_rows is None else of_rows[: shape[0]]
            weights = None if row_weight is None else row_weight[rows]
            block_loss.add(logits, layer.target[rows, cols], weights, partial, sums.wanted)
            if row_loss is not None and partial is not None:
                row_loss[rows].add_(partial)
            if sums.wanted:
                sums.add(logits, rows, weight)
        sums.end_chunk()


def loss_and_grads(
    block_loss: BlockLoss,
    largest_block: int,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    reduction: str,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the loss and its gradients in hidden, weight and bias."""
    layer = _Layer.of(hidden, weight, bias, target, product, largest_block)
    shape, dtype = target.shape, computed_dtype(hidden)
    scale = loss_scale(shape, reduction)
    sums = _Sums(layer, needs, scale)
    rows = layer.hidden.new_zeros(shape[0], dtype=torch.float64) if reduction == "rows" else None
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        _pass(layer, sums, block_loss, chunk_size, None, rows)
        if rows is not None:
            loss = rows.to(dtype, copy=True)
        else:
            loss = layer.hidden.new_empty(loss_shape(shape, reduction), dtype=dtype)
            block_loss.store(loss, scale)
        return loss, *sums.grads(hidden, bias)


def backward(
    block_loss: BlockLoss,
    largest_block: int,
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    product: torch.dtype,
    chunk_size: int | None,
    needs: tuple[bool, bool, bool],
) -> Grads:
    """Gradients of ``(grad * loss of each row).sum()``, from logits computed again."""
    layer = _Layer.of(hidden, weight, bias, target, product, largest_block)
    sums = _Sums(layer, needs, 1.0)
    if not sums.wanted:
        return None, None, None
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        row_weight = grad.detach().to(sums.dtype)
        _pass(layer, sums, block_loss, chunk_size, row_weight, None)
        return sums.grads(hidden, bias)
