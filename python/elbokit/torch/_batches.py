"""Training data as batches, in an order that the seed and the epoch determine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from elbokit.torch._checks import check_layout
from elbokit.torch._likelihoods import Likelihood

__all__ = ["Batches", "EpochSampler", "as_data", "make_batches", "stream_seed"]


def stream_seed(seed: int, stream: str, epoch: int = 0, rank: int = 0) -> int:
    """Return a seed for one purpose in one epoch, unrelated to that of any other."""
    entropy = (seed, *stream.encode(), epoch, rank)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


class Batches(Protocol):
    """An iterable of batches, each a tensor of shape (n, ...)."""

    @property
    def n_samples(self) -> int | None:
        """Size of the data, over all processes; None where the data sees to its own batches."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""

    def __iter__(self) -> Iterator[Tensor]:
        """Iterate over one epoch."""

    def __len__(self) -> int:
        """Return the number of batches; TypeError if the data does not know."""


class EpochSampler(Sampler[int]):
    """Indices of one process, in an order that depends on `seed` and the epoch alone.

    Parameters
    ----------
    n : int
        Number of samples.
    seed : int or None
        None keeps the order of the data.
    rank, world_size : int
        Which of how many processes; when shuffling, all get equally many indices.
    """

    def __init__(self, n: int, seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        self.n, self.seed, self.rank, self.world_size = n, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return the indices of this epoch and process."""
        if self.seed is None:
            return torch.arange(self.rank, self.n, self.world_size, device="cpu")
        generator = torch.Generator("cpu").manual_seed(stream_seed(self.seed, "order", self.epoch))
        # Of the CPU, whatever torch.set_default_device says.
        order = torch.randperm(self.n, generator=generator, device="cpu")
        # Gradients are averaged between processes: none may have a batch more.
        order = torch.cat([order, order[: -self.n % self.world_size]])
        return order[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[int]:
        """Iterate over the indices."""
        return iter(self.indices().tolist())

    def __len__(self) -> int:
        """Return the number of indices."""
        whole = self.n if self.seed is None else self.n + (-self.n % self.world_size)
        return len(range(self.rank, whole, self.world_size))


class _TensorBatches:
    """Batches gathered from one tensor, without a detour over single samples."""

    def __init__(self, X: Tensor, batch_size: int, sampler: EpochSampler, pin_memory: bool) -> None:
        self.X, self.batch_size, self.sampler = X, batch_size, sampler
        self.pin_memory = pin_memory and X.device.type == "cpu"
        self.n_samples = sampler.n

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Tensor]:
        indices = self.sampler.indices()
        if self.X.is_cuda:  # as a whole, and from where the host need not wait for the copy
            indices = indices.pin_memory()
        indices = indices.to(self.X.device, non_blocking=self.X.is_cuda)
        for index in torch.split(indices, self.batch_size):
            if self.pin_memory:
                size = len(index), *self.X.shape[1:]
                pinned = torch.empty(size, dtype=self.X.dtype, device="cpu", pin_memory=True)
                yield torch.index_select(self.X, 0, index, out=pinned)
            else:
                yield self.X[index]

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)


class _LoaderBatches:
    """The data of a DataLoader, without labels, checked batch by batch."""

    def __init__(
        self,
        name: str,
        loader: Any,
        likelihood: Likelihood,
        dtype: torch.dtype,
        pin_memory: bool,
    ) -> None:
        self.name, self.loader, self.dtype = name, loader, dtype
        self.likelihood, self.pin_memory = likelihood, pin_memory
        sampler = loader.sampler
        self.n_samples = sampler.n if isinstance(sampler, EpochSampler) else None

    def set_epoch(self, epoch: int) -> None:
        set_epoch = getattr(self.loader.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for batch in self.loader:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(x, Tensor):
                kind = type(x).__name__
                raise TypeError(f"`{self.name}` gives batches of {kind}, expected tensors")
            checked = _checked(self.name, x, self.likelihood, self.dtype, first_row=done)
            # Here, not by the loader: its batches may be in a GPU's memory, or get another dtype.
            pinned = self.pin_memory and checked.device.type == "cpu"
            yield checked.pin_memory() if pinned else checked
            done += len(x)

    def __len__(self) -> int:
        return len(self.loader)


def check_values(name: str, X: Tensor, support: tuple[float, float], first_row: int = 0) -> Tensor:
    """Return a batch `X` if all of it is in `support`; the error names the first bad row."""
    if X.dim() < 2 or X.numel() == 0:
        raise ValueError(
            f"`{name}` has shape {tuple(X.shape)}, expected (n_samples, ...), not empty"
        )
    least, greatest = support
    low, high = torch.aminmax(X)
    if bool((low >= least) & (high <= greatest) & low.isfinite() & high.isfinite()):
        return X  # NaN is not finite
    flat = X.flatten(1)
    bad = ~((flat >= least) & (flat <= greatest) & flat.isfinite())
    row, column = bad.nonzero()[0].tolist()
    expected = f"values in [{least:g}, {greatest:g}]" if greatest < np.inf else "finite values"
    raise ValueError(
        f"`{name}` has the value {flat[row, column].item():g} in row {first_row + row}, "
        f"expected {expected}"
    )


def as_data(name: str, X: Any, likelihood: Likelihood, dtype: torch.dtype) -> Tensor:
    """Return an array or tensor as checked data.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    X : array-like of shape (n_samples, ...) or Tensor
        Data.
    likelihood : Likelihood
        Knows which values are data.
    dtype : torch.dtype
        Dtype of the result, except of classes (int64) and of bytes, which stay as they are.

    Returns
    -------
    Tensor of shape (n_samples, ...)
    """
    if not isinstance(X, Tensor):
        array = np.asarray(X)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"`{name}` has dtype {array.dtype}, expected numbers")
        # torch refuses negative strides, and warns about arrays that it may not write to.
        X = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return _checked(name, X.detach(), likelihood, dtype)


def _checked(
    name: str, X: Tensor, likelihood: Likelihood, dtype: torch.dtype, first_row: int = 0
) -> Tensor:
    if X.is_complex():
        raise TypeError(f"`{name}` has dtype {X.dtype}, expected real numbers")
    check_layout(name, X)
    if likelihood.classes:
        if X.is_floating_point():
            raise TypeError(f"`{name}` has dtype {X.dtype}, expected integers, for classes")
        dtype = torch.int64
    elif X.dtype == torch.uint8:  # scaled to [0, 1] batch by batch, in a quarter of the memory
        return check_values(name, X, (0, 255), first_row)
    return check_values(name, X.to(dtype), likelihood.support, first_row)


def make_batches(
    name: str,
    data: Any,
    batch_size: int,
    seed: int | None,
    likelihood: Likelihood,
    dtype: torch.dtype,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """Batches of arrays, a Dataset or a DataLoader.

    Parameters
    ----------
    name : str
        Name of the argument, for errors.
    data : array-like of shape (n_samples, ...), Tensor, Dataset or DataLoader
        A Dataset gives x or (x, ...); a DataLoader keeps its own batches and its own order.
    batch_size : int
        Samples in a batch of this process.
    seed : int or None
        Determines the order, with the epoch; None keeps the order of the data.
    likelihood : Likelihood
        Knows which values are data.
    dtype : torch.dtype
        Dtype of the batches, except of classes and of bytes.
    rank, world_size : int
        Which of how many processes.
    pin_memory : bool, default=False
        Whether batches lie where a GPU copies them from while the host goes on.

    Returns
    -------
    Batches

    Raises
    ------
    TypeError
        The data is not numeric.
    ValueError
        The data is empty or sparse, or holds a value that is none of the likelihood's.
    """
    if isinstance(data, DataLoader):
        return _LoaderBatches(name, data, likelihood, dtype, pin_memory)
    if isinstance(data, IterableDataset):
        return _LoaderBatches(name, DataLoader(data, batch_size), likelihood, dtype, pin_memory)
    if isinstance(data, Dataset):
        n = len(data)  # type: ignore[arg-type]
        if n == 0:
            raise ValueError(f"`{name}` is empty, expected at least one sample")
        sampler = EpochSampler(n, seed, rank, world_size)
        # With a generator of its own, for a loader draws from it even without workers.
        loader = DataLoader(data, batch_size, sampler=sampler, generator=torch.Generator())
        return _LoaderBatches(name, loader, likelihood, dtype, pin_memory)
    X = as_data(name, data, likelihood, dtype)
    return _TensorBatches(X, batch_size, EpochSampler(len(X), seed, rank, world_size), pin_memory)
