"""Training of a VAE on Lightning Fabric: devices, precision, checkpoints, history."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from elbokit.torch._batches import Batches, make_batches
from elbokit.torch._checkpoint import load_checkpoint, save_checkpoint
from elbokit.torch._checks import check_int, check_non_negative, check_positive_int
from elbokit.torch._epoch import METRICS, Epoch
from elbokit.torch._vae import VAE

if TYPE_CHECKING:
    import os

    from lightning_fabric import Fabric

__all__ = ["VAETrainer"]

_FILE = "last.ckpt"
_SHOWN = (*METRICS, "val_bound")  # beside the progress bar


def _requirements() -> tuple[Any, Any]:
    """Import what the extra [train] brings: Fabric and tqdm."""
    try:
        from lightning_fabric import Fabric
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            f"VAETrainer needs {error.name}, which is not installed: pip install elbokit[train]"
        ) from error
    return Fabric, tqdm


class VAETrainer:
    """Fits a `VAE` by stochastic gradient ascent on its bound.

    Parameters
    ----------
    vae : VAE
        Trained in place.
    max_epochs : int, default=50
        Number of passes over the data.
    batch_size : int, default=128
        Samples in a batch, on each device.
    lr : float, default=1e-3
        Learning rate of Adam.
    optimizer : callable, optional
        Makes another optimizer from the parameters; `lr` is then not used.
    beta, free_bits : float
        See `vae_loss`. The history holds the bound itself, without either.
    seed : int, default=0
        Determines the order of the data and the noise, but not the weights, which `vae` brings.
    accelerator, devices, strategy, precision
        As for `lightning_fabric.Fabric`, such as ``precision="64-true"``.
    checkpoint_dir : path, optional
        Folder for ``last.ckpt``, which is replaced after each epoch.
    progress : bool, default=True
        Whether to show a progress bar.

    Attributes
    ----------
    history : dict of lists of float
        ``"bound"``, ``"reconstruction"`` and ``"kl"`` per epoch, in nats per sample, averaged over
        the epoch as it ran; with ``X_val`` also ``"val_bound"``, ``"val_reconstruction"`` and
        ``"val_kl"`` after the epoch. ``bound == -(reconstruction + kl)``.
    epoch : int
        Number of complete epochs.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, or out of range.

    Notes
    -----
    Every epoch's order and noise derive from `seed` and the number of the epoch alone: two runs
    from the same weights are identical on a CPU, and so are a resumed and an uninterrupted run.
    The validation's noise is the same in each epoch. The caller's random state is left alone.

    If an epoch does not end, for an error or ``KeyboardInterrupt``, the exception is passed on and
    model, history and checkpoint are those of the last complete epoch.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        max_epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
        beta: float = 1.0,
        free_bits: float = 0.0,
        seed: int = 0,
        accelerator: str = "cpu",
        devices: int | str | list[int] = 1,
        strategy: str = "auto",
        precision: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> None:
        if not isinstance(vae, VAE):
            raise TypeError(f"`vae` has type {type(vae).__name__}, expected elbokit.torch.VAE")
        self.seed = check_int("seed", seed)
        check_non_negative("seed", self.seed)
        if optimizer is not None and not callable(optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"`optimizer` has type {kind}, expected a function of the parameters")
        self.vae = vae
        self.max_epochs = check_positive_int("max_epochs", max_epochs)
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.lr = check_non_negative("lr", lr)
        self.optimizer = optimizer
        self.beta = check_non_negative("beta", beta)
        self.free_bits = check_non_negative("free_bits", free_bits)
        self.accelerator, self.devices, self.strategy = accelerator, devices, strategy
        self.precision = precision
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.progress = progress
        self.history: dict[str, list[float]] = {}
        self.epoch = 0
        self._last: dict[str, Any] | None = None  # the state after the last complete epoch

    def fit(self, X_train: Any, X_val: Any = None, *, resume: bool = False) -> VAETrainer:
        """Train.

        Parameters
        ----------
        X_train : array-like of shape (n_samples, ...), Tensor, Dataset or DataLoader
            Data in [0, 1]. A Dataset gives x or (x, ...), and is shuffled; a DataLoader keeps its
            own batches and order (with several devices also its own distributed sampler).
        X_val : as `X_train`, optional
            Held-out data, for the history.
        resume : bool, default=False
            Continue after the last complete epoch: that of the checkpoint, or without a
            `checkpoint_dir` that of this object; start afresh if there is none. Otherwise training
            starts afresh from the weights that `vae` has.

        Returns
        -------
        VAETrainer
            self

        Raises
        ------
        ImportError
            The extra ``[train]`` is not installed.
        TypeError, ValueError
            The data is not as above (the error names the row), or the checkpoint is damaged or
            comes from other settings, another optimizer or data of another size.
        FloatingPointError
            The bound is no longer finite.
        """
        fabric_type, tqdm = _requirements()
        fabric = fabric_type(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            precision=self.precision,
        )
        fabric.launch()
        train = self._batches("X_train", X_train, self.seed, fabric)
        val = None if X_val is None else self._batches("X_val", X_val, None, fabric)
        optimizer = self._make_optimizer()
        settings = self._settings(optimizer, train, val)
        last = self._state(optimizer, self.epoch, self.history, settings)
        found = self._find_checkpoint(last) if resume else None
        modes = {module: module.training for module in self.vae.modules()}
        try:
            model, wrapped = fabric.setup(self.vae, optimizer)
            if found is not None:
                self._check_settings(found["settings"], settings)
                self._restore(found, optimizer)
                last = found
            else:
                self.epoch, self.history = 0, {}
            with _bar(tqdm, self, fabric, train) as bar, _own_rng(fabric.device):
                for epoch in range(self.epoch, self.max_epochs):
                    step = Epoch(self, fabric, model, wrapped, epoch)
                    row = step.train(train, bar)
                    if val is not None:
                        row |= step.validate(val)
                    bar.set_postfix({key: f"{row[key]:.4g}" for key in _SHOWN if key in row})
                    history = {key: [*self.history.get(key, []), row[key]] for key in row}
                    state = self._state(optimizer, epoch + 1, history, settings)
                    if self.checkpoint_dir is not None and fabric.is_global_zero:
                        save_checkpoint(self.checkpoint_dir / _FILE, state)
                    last = self._last = state
                    self.epoch, self.history = epoch + 1, history
        except BaseException:
            self._restore(last, optimizer)
            raise
        finally:
            self.vae.train(modes[self.vae])  # for modules that do more than set their flag
            for module, mode in modes.items():
                module.training = mode
        return self

    def _batches(self, name: str, data: Any, seed: int | None, fabric: Fabric) -> Batches:
        parameter = next(self.vae.parameters(), torch.empty(0))
        dtype = torch.float64 if str(self.precision).startswith("64") else parameter.dtype
        ranks = fabric.global_rank, fabric.world_size
        return make_batches(name, data, self.batch_size, seed, dtype, *ranks)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            return torch.optim.Adam(self.vae.parameters(), lr=self.lr)
        optimizer = self.optimizer(self.vae.parameters())
        if not isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"`optimizer` returned {kind}, expected a torch.optim.Optimizer")
        return optimizer

    def _settings(
        self, optimizer: torch.optim.Optimizer, train: Batches, val: Batches | None
    ) -> dict[str, Any]:
        """Return what must be the same when training is resumed; None stands for unknown."""
        lr = optimizer.defaults.get("lr")
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "beta": self.beta,
            "free_bits": self.free_bits,
            "optimizer": type(optimizer).__name__,
            "lr": None if lr is None else float(lr),  # it may be a tensor
            "validation": val is not None,
            "len(X_train)": train.n_samples,
        }

    def _state(
        self,
        optimizer: torch.optim.Optimizer,
        epoch: int,
        history: dict[str, list[float]],
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Return all that training depends on, by value. The random state follows from the seed."""
        return {
            "epoch": epoch,
            "history": history,
            "model": copy.deepcopy(self.vae.state_dict()),
            "optimizer": copy.deepcopy(optimizer.state_dict()),
            "settings": settings,
        }

    def _find_checkpoint(self, like: dict[str, Any]) -> dict[str, Any] | None:
        if self.checkpoint_dir is None:
            return self._last
        path = self.checkpoint_dir / _FILE
        return load_checkpoint(path, like) if path.exists() else None

    def _check_settings(self, found: dict[str, Any], own: dict[str, Any]) -> None:
        """Raise ValueError if `found` would not continue as the uninterrupted run."""
        for name, value in own.items():
            expected = found[name]
            if value != expected and value is not None and expected is not None:
                raise ValueError(
                    f"`{name}` is {value}, expected {expected} as in the checkpoint to resume"
                )

    def _restore(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        try:
            self.vae.load_state_dict(state["model"])
            # A copy, for the optimizer would go on to change the tensors of `state`.
            optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the checkpoint does not fit vae: {error}") from error
        self.epoch, self.history = state["epoch"], state["history"]


def _bar(tqdm: Any, trainer: VAETrainer, fabric: Fabric, train: Batches) -> Any:
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


def _own_rng(device: torch.device) -> AbstractContextManager[None]:
    """Keep the caller's random state from the seeds of training."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
