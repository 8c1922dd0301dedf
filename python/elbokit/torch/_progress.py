"""What surrounds a run of training: the extra it needs, optimizer, progress bar, random state."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from elbokit.torch._batches import Batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from elbokit.torch._trainer import VAETrainer

__all__ = ["make_optimizer", "own_rng", "progress_bar", "requirements"]


def requirements() -> tuple[Any, Any]:
    """Import what the extra [train] brings: Fabric and tqdm."""
    try:
        from lightning_fabric import Fabric
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            f"VAETrainer needs {error.name}, which is not installed: pip install elbokit[train]"
        ) from error
    return Fabric, tqdm


def make_optimizer(trainer: VAETrainer, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer that the trainer was given, or Adam."""
    if trainer.optimizer is None:
        parameters = list(trainer.vae.parameters())
        # One pass over parameters, gradients and moments, where torch makes eight by default: for
        # networks of 784, 400 and 20 a tenth of the time. It unscales gradients of float16 itself,
        # and Fabric then refuses to clip them.
        fused = device.type in ("cpu", "cuda") and str(trainer.precision) not in ("16", "16-mixed")
        fused = fused and all(p.is_floating_point() for p in parameters)
        return torch.optim.Adam(parameters, lr=trainer.lr, fused=fused)
    optimizer = trainer.optimizer(trainer.vae.parameters())
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"`optimizer` returned {kind}, expected a torch.optim.Optimizer")
    return optimizer


def progress_bar(trainer: VAETrainer, fabric: Fabric, train: Batches) -> Any:
    """Return a bar of all steps; it is hidden if the trainer says so, and in other processes."""
    _, tqdm = requirements()
    try:
        n_batches = len(train)
    except TypeError:  # an iterable data set
        n_batches = None
    return tqdm(
        total=None if n_batches is None else trainer.max_epochs * n_batches,
        initial=trainer.epoch * (n_batches or 0),
        disable=not (trainer.progress and fabric.is_global_zero),
        unit="batch",
    )


def own_rng(device: torch.device) -> AbstractContextManager[None]:
    """Keep the caller's random state from the seeds of training."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
