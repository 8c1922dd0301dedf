"""Training data as batches, in an order that the seed and the epoch determine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from elbokit.torch._data import Expected, as_data, checked

__all__ = ["Batches", "EpochSampler", "make_batches", "stream_seed"]

_RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


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
        self, loader: Any, expected: Expected, seed: int, rank: int, pin_memory: bool
    ) -> None:
        self.loader, self.expected, self.pin_memory = loader, expected, pin_memory
        self.seed, self.rank, self.epoch = seed, rank, 0
        self.sampler = sampler = loader.sampler
        self.n_samples = sampler.n if isinstance(sampler, EpochSampler) else None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Have the loader, and torch's samplers in it, draw from generators of this epoch.

        Others could not be resumed: those of the caller go on from one epoch to the next, and a
        loader that keeps its workers draws their seed in its first epoch alone.
        """
        samplers = self.sampler, getattr(self.loader.batch_sampler, "sampler", None)
        drawing = [self.loader, *(s for s in samplers if isinstance(s, _RANDOM_SAMPLERS))]
        generators = [each.generator for each in drawing]
        try:
            for each, generator in zip(drawing, generators, strict=True):
                stream = "loader" if each is self.loader else "order"
                device = torch.get_default_device() if generator is None else generator.device
                each.generator = torch.Generator(device).manual_seed(
                    stream_seed(self.seed, stream, self.epoch, self.rank)
                )
            yield
        finally:
            for each, generator in zip(drawing, generators, strict=True):
                each.generator = generator

    def __iter__(self) -> Iterator[Tensor]:
        with self._seeded():
            batches = iter(self.loader)
            first = tuple(islice(batches, 1))  # samplers take their generators with them
        done = 0
        for batch in chain(first, batches):
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(x, Tensor):
                kind = type(x).__name__
                name = self.expected.name
                raise TypeError(f"`{name}` gives batches of {kind}, expected tensors")
            data = checked(x, self.expected, partial(self._row, done))
            # Here, not by the loader: its batches may be in a GPU's memory, or get another dtype.
            pinned = self.pin_memory and data.device.type == "cpu"
            yield data.pin_memory() if pinned else data
            done += len(x)

    def _row(self, done: int, i: int) -> int:
        """Return the row of sample `i` of a batch after `done` samples."""
        sampler = self.sampler
        return int(sampler.indices()[done + i]) if isinstance(sampler, EpochSampler) else done + i

    def __len__(self) -> int:
        return len(self.loader)


def make_batches(
    data: Any,
    expected: Expected,
    batch_size: int,
    seed: int,
    shuffle: bool,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Batches:
    """Batches of arrays, a Dataset or a DataLoader.

    Parameters
    ----------
    data : array-like of shape (n_samples, ...), Tensor, Dataset or DataLoader
        A Dataset gives x or (x, ...); a DataLoader keeps its own batches and its own order.
    expected : Expected
        What the data must be.
    batch_size : int
        Samples in a batch of this process.
    seed : int
        Determines the order, with the epoch, and what a DataLoader draws.
    shuffle : bool
        Whether arrays and a Dataset get a new order in each epoch.
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
        The data is empty or sparse, of another shape, or holds a value that is none of the
        likelihood's.
    """
    own_order = seed if shuffle else None
    loaded = expected, seed, rank, pin_memory
    if isinstance(data, DataLoader):
        return _LoaderBatches(data, *loaded)
    if isinstance(data, IterableDataset):
        return _LoaderBatches(DataLoader(data, batch_size), *loaded)
    if isinstance(data, Dataset):
        n = len(data)  # type: ignore[arg-type]
        if n == 0:
            raise ValueError(f"`{expected.name}` is empty, expected at least one sample")
        sampler = EpochSampler(n, own_order, rank, world_size)
        return _LoaderBatches(DataLoader(data, batch_size, sampler=sampler), *loaded)
    X = as_data(data, expected)
    sampler = EpochSampler(len(X), own_order, rank, world_size)
    return _TensorBatches(X, batch_size, sampler, pin_memory)
