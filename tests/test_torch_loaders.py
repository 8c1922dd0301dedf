"""VAETrainer on a DataLoader: what its order derives from, resuming, rows named in errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from elbokit.torch import VAE, VAETrainer
from torch_cases import targets

X = targets(37, 6, dtype=torch.float32)
DATA = TensorDataset(X)
FORKED: dict[str, Any] = {"num_workers": 1, "multiprocessing_context": "fork"}


class Drawn(Sampler[int]):
    """An order from torch's global stream."""

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(37).tolist())

    def __len__(self) -> int:
        return 37


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def new_loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(DATA, **{"batch_size": 8, **options})


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "plain": lambda: new_loader(shuffle=True),
    "workers": lambda: new_loader(shuffle=True, **FORKED),
    "kept workers": lambda: new_loader(shuffle=True, persistent_workers=True, **FORKED),
    "generator": lambda: new_loader(shuffle=True, generator=generator()),
    "kept workers, generator": lambda: new_loader(
        shuffle=True, generator=generator(), persistent_workers=True, **FORKED
    ),
    "weights": lambda: new_loader(
        sampler=WeightedRandomSampler(torch.arange(37.0).tolist(), 40, generator=generator())
    ),
    "subset": lambda: new_loader(sampler=SubsetRandomSampler(range(20)), **FORKED),
    "batch sampler": lambda: DataLoader(
        DATA,
        batch_sampler=BatchSampler(RandomSampler(DATA, generator=generator()), 8, drop_last=True),
    ),
    "own sampler": lambda: new_loader(sampler=Drawn(), persistent_workers=True, **FORKED),
}


def fitted(data: Any, X_val: Any = None, resume: bool = False, **options: Any) -> VAETrainer:
    torch.manual_seed(0)
    vae = VAE(6, 2, (5,))
    settings = {"max_epochs": 3, "batch_size": 8, "progress": False, **options}
    return VAETrainer(vae, **settings).fit(data, X_val, resume=resume)


@pytest.mark.parametrize("case", LOADERS)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, case: str) -> None:
    whole = fitted(LOADERS[case]()).history["bound"]
    assert len(set(whole)) == 3
    fitted(LOADERS[case](), max_epochs=1, checkpoint_dir=tmp_path)
    assert fitted(LOADERS[case](), resume=True, checkpoint_dir=tmp_path).history["bound"] == whole


def test_order_does_not_depend_on_how_the_loader_works() -> None:
    same = ("plain", "workers", "kept workers", "generator", "kept workers, generator")
    histories = [fitted(LOADERS[case]()).history for case in same]
    assert all(history == histories[0] for history in histories)
    assert histories[0] != fitted(LOADERS["plain"](), seed=1).history


def test_a_generator_is_left_as_it_was() -> None:
    loader = new_loader(shuffle=True, generator=(own := generator()))
    fitted(loader)
    assert loader.generator is own
    assert loader.sampler.generator is own  # type: ignore[attr-defined]
    assert torch.equal(own.get_state(), generator().get_state())


@pytest.mark.parametrize("case", ["plain", "kept workers", "generator"])
def test_held_out_data_come_in_one_order(case: str) -> None:
    assert len(set(fitted(X, LOADERS[case](), lr=0.0).history["val_bound"])) == 1


def test_error_names_the_row_of_a_dataset() -> None:
    rows = X.clone()
    rows[5, 3] = 2.0
    for shuffled in (False, True):
        data = (X, TensorDataset(rows)) if not shuffled else (TensorDataset(rows), None)
        with pytest.raises(ValueError, match="has the value 2 in row 5, expected values in"):
            fitted(*data)
