"""Checkpoints that are whole or absent: written to a temporary file, then renamed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

__all__ = ["check_folder", "load_checkpoint", "save_checkpoint"]

_FORMAT = 1


def check_folder(name: str, folder: Path) -> None:
    """Raise ValueError unless a folder can be written to, or made; nothing is made yet."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise ValueError(f"`{name}` is {folder}, expected a folder; {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"`{name}` is {folder}, expected a folder to write to; {nearest} is none")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`; on any failure `path` is what it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for only a rename within one file system is atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": _FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU.

    Parameters
    ----------
    path : Path
        The file.
    like : dict
        A state with the keys that the checkpoint must have, those of its ``"settings"`` included.

    Raises
    ------
    ValueError
        The file is damaged, or is not such a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != _FORMAT:
        raise ValueError(f"checkpoint {path} has format {found}, expected {_FORMAT}")
    settings = state.get("settings")
    known = settings if isinstance(settings, dict) else {}
    missing = [key for key in like if key not in state]
    missing += [f"settings[{key!r}]" for key in like["settings"] if key not in known]
    if missing:
        raise ValueError(f"checkpoint {path} has no {', '.join(missing)}")
    return state
