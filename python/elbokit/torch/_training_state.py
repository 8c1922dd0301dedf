"""All that training depends on, by value: taken after each epoch, compared, given back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from elbokit.torch._batches import Batches
from elbokit.torch._schedules import is_schedule

if TYPE_CHECKING:
    from elbokit.torch._trainer import VAETrainer

__all__ = ["capture", "check_settings", "restore", "settings_of", "with_best"]

State = dict[str, Any]


def settings_of(
    trainer: VAETrainer, optimizer: torch.optim.Optimizer, train: Batches, val: Batches | None
) -> dict[str, Any]:
    """Return what must be the same when training is resumed; None stands for unknown."""
    lr = optimizer.defaults.get("lr")
    return {
        "seed": trainer.seed,
        "batch_size": trainer.batch_size,
        "beta": _named(trainer.beta),
        "free_bits": trainer.free_bits,
        "capacity": _named(trainer.capacity),
        "accumulate": trainer.accumulate,
        "missing": trainer.missing,
        "clip_grad_norm": trainer.clip_grad_norm or 0.0,
        "early_stopping": trainer.early_stopping or 0,
        "precision": _unified(trainer.precision),
        "optimizer": type(optimizer).__name__,
        "lr": None if lr is None else float(lr),  # it may be a tensor
        "lr_schedule": _named(trainer.lr_schedule),
        "validation": val is not None,
        "len(X_train)": train.n_samples,
    }


def _unified(precision: object) -> str:
    """Return Fabric's full name of a precision that may be a number, or without its kind."""
    name = "32-true" if precision is None else str(precision)
    kinds = {"16": "mixed", "bf16": "mixed", "32": "true", "64": "true"}
    return f"{name}-{kinds[name]}" if name in kinds else name


def _named(value: float | Callable[[int], float] | None) -> float | str | None:
    if not callable(value):
        return "none" if value is None else value
    return repr(value) if is_schedule(value) else None


def check_settings(found: dict[str, Any], own: dict[str, Any]) -> None:
    """Raise ValueError if `found` would not continue as the uninterrupted run."""
    for name, value in own.items():
        expected = _unified(found[name]) if name == "precision" else found[name]
        if value != expected and value is not None and expected is not None:
            raise ValueError(f"{_difference(name, value, expected)} as in the checkpoint to resume")


def _difference(name: str, value: object, expected: object) -> str:
    if name == "len(X_train)":
        return f"`X_train` has {value} samples, expected {expected}"
    if name == "validation":
        return "`X_val` is " + ("given, expected None" if value else "None, expected held-out data")
    return f"`{name}` is {value}, expected {expected}"


def capture(
    trainer: VAETrainer,
    optimizer: torch.optim.Optimizer,
    settings: dict[str, Any],
    epoch: int,
    step: int,
    history: dict[str, list[float]],
) -> State:
    """Return the state after an epoch. The random state follows from the seed."""
    return {
        "epoch": epoch,
        "history": history,
        "model": copy.deepcopy(trainer.vae.state_dict()),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "settings": settings,
        "step": step,
        "best": trainer.best,
    }


def with_best(state: State) -> State:
    """Return `state` with its weights as the best if their held-out bound is."""
    bound = state["history"]["val_bound"][-1]
    best = state["best"]
    if best is None or bound > best["bound"]:
        best = {"bound": bound, "epoch": state["epoch"], "model": state["model"]}
    return {**state, "best": best}


def restore(trainer: VAETrainer, state: State, optimizer: torch.optim.Optimizer) -> None:
    """Bring model, optimizer and trainer into a state."""
    try:
        trainer.vae.load_state_dict(state["model"])
        # A copy, for the optimizer would go on to change the tensors of `state`.
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the checkpoint does not fit vae: {error}") from error
    trainer.adopt(state)
