"""Training of a VAE on Lightning Fabric: devices, precision, checkpoints, history."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from elbokit.torch._batches import Batches, make_batches
from elbokit.torch._checkpoint import check_folder, load_checkpoint, save_checkpoint
from elbokit.torch._checks import (
    check_function,
    check_int,
    check_non_negative,
    check_path,
    check_positive_int,
)
from elbokit.torch._data import expected_by
from elbokit.torch._epoch import METRICS, Epoch
from elbokit.torch._masks import check_missing
from elbokit.torch._networks import kept_modes
from elbokit.torch._progress import make_optimizer, own_rng, progress_bar, requirements
from elbokit.torch._schedules import LearningRates, Schedule
from elbokit.torch._training_state import (
    capture,
    check_settings,
    restore,
    settings_of,
    with_best,
)
from elbokit.torch._vae import VAE

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["VAETrainer"]

_FILE = "last.ckpt"
_SHOWN = (*METRICS, "val_bound")  # beside the progress bar


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
    lr_schedule : callable, optional
        A function of the number of steps taken that gives the factor of all learning rates, such as
        `linear_warmup` and `cosine_decay` return.
    beta : float or callable, default=1.0
        Weight of the KL, or a function of the number of steps taken that gives it, such as
        `linear_warmup` and `cyclical` return. The history holds the bound itself, without it.
    free_bits : float, default=0.0
        See `vae_loss`; not in the history's bound either.
    capacity : float or callable, optional
        See `vae_loss`; a number of nats, or a function of the number of steps taken as for `beta`.
    accumulate : int, default=1
        Number of batches whose gradients make one step, as of one batch with all of their samples
        (but batch norm sees each alone, and a `capacity` draws the KL of each).
    missing : {"error", "integrate"}, default="error"
        What NaN in the data means: an error, or a missing entry, which is integrated out of the
        likelihood; the encoder sees 0 in its place (`VAE.encode`). Classes and bytes have no NaN.
    clip_grad_norm : float, optional
        Greatest norm of the gradient of all parameters; a longer one is scaled down.
    early_stopping : int, optional
        Number of epochs without a better held-out bound after which training ends. With it, `vae`
        has the weights of the best epoch after `fit`.
    seed : int, default=0
        Determines the order of the data and the noise, but not the weights, which `vae` brings.
    accelerator, devices, strategy, precision
        As for `lightning_fabric.Fabric`, such as ``precision="bf16-mixed"``, or on a CPU
        ``devices=2, strategy="ddp"`` (starts the script once more) or ``"ddp_fork"``.
    checkpoint_dir : path, optional
        Folder for ``last.ckpt``, which is replaced after each epoch.
    progress : bool, default=True
        Whether to show a progress bar.
    callback : callable, optional
        Called with the trainer after each epoch, in every process; training ends if it returns
        something true.

    Attributes
    ----------
    history : dict of lists of float
        ``"bound"``, ``"reconstruction"`` and ``"kl"`` per epoch, in nats per sample, averaged over
        the epoch as it ran; with ``X_val`` also ``"val_bound"``, ``"val_reconstruction"`` and
        ``"val_kl"`` after the epoch. ``bound == -(reconstruction + kl)``. ``"active_units"`` (and
        ``"val_active_units"``) is the number of latent dimensions whose posterior mean varies over
        the data by more than 0.01 [1]_, ``"beta"`` the weight of the epoch's last step; so are
        ``"capacity"`` and ``"lr"`` (of the first group of parameters), if there is a `capacity` or
        an `lr_schedule`.
    epoch, step : int
        Number of complete epochs, and of steps in them.
    best : dict or None
        With `early_stopping` the ``"bound"``, ``"epoch"`` (counted from 1) and ``"model"`` (its
        state dict) of the best epoch so far.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, or out of range.

    Notes
    -----
    Every epoch's order and noise derive from `seed` and the number of the epoch alone: two runs
    from the same weights are identical on a CPU, and so are a resumed and an uninterrupted run.
    That holds for a DataLoader that shuffles by torch's samplers too, in place of whose `generator`
    another one is used meanwhile; not for what persistent workers draw, which are seeded once, nor
    for a sampler with a state of its own, unless its ``set_epoch`` sets it.
    The validation's order and noise are the same in each epoch. The caller's random state is left
    alone.

    If an epoch does not end, for an error or ``KeyboardInterrupt``, the exception is passed on and
    model, history and checkpoint are those of the last complete epoch.

    References
    ----------
    .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
       section 4.2, arXiv:1509.00519.
    """

    def __init__(
        self,
        vae: VAE,
        *,
        max_epochs: int = 50,
        batch_size: int = 128,
        lr: float = 1e-3,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer] | None = None,
        lr_schedule: Schedule | None = None,
        beta: float | Schedule = 1.0,
        free_bits: float = 0.0,
        capacity: float | Schedule | None = None,
        accumulate: int = 1,
        missing: str = "error",
        clip_grad_norm: float | None = None,
        early_stopping: int | None = None,
        seed: int = 0,
        accelerator: str = "cpu",
        devices: int | str | list[int] = 1,
        strategy: str = "auto",
        precision: Any = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        progress: bool = True,
        callback: Callable[[VAETrainer], object] | None = None,
    ) -> None:
        if not isinstance(vae, VAE):
            raise TypeError(f"`vae` has type {type(vae).__name__}, expected elbokit.torch.VAE")
        self.seed = check_int("seed", seed)
        check_non_negative("seed", self.seed)
        check_function("optimizer", optimizer, "a function of the parameters")
        check_function("lr_schedule", lr_schedule, "a function of the number of steps")
        check_function("callback", callback, "a function of the trainer")
        self.vae = vae
        self.max_epochs = check_positive_int("max_epochs", max_epochs)
        self.batch_size = check_positive_int("batch_size", batch_size)
        self.lr = check_non_negative("lr", lr)
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.beta = beta if callable(beta) else check_non_negative("beta", beta)
        self.free_bits = check_non_negative("free_bits", free_bits)
        self.capacity = capacity
        if capacity is not None and not callable(capacity):
            self.capacity = check_non_negative("capacity", capacity)
        self.accumulate = check_positive_int("accumulate", accumulate)
        self.missing = check_missing(missing, vae.likelihood)
        self.clip_grad_norm = clip_grad_norm
        if clip_grad_norm is not None:
            self.clip_grad_norm = check_non_negative("clip_grad_norm", clip_grad_norm)
        self.early_stopping = early_stopping
        if early_stopping is not None:
            self.early_stopping = check_positive_int("early_stopping", early_stopping)
        self.accelerator, self.devices, self.strategy = accelerator, devices, strategy
        self.precision = precision
        self.checkpoint_dir: Path | None = None
        if checkpoint_dir is not None:
            self.checkpoint_dir = check_path("checkpoint_dir", checkpoint_dir)
        self.progress, self.callback = progress, callback
        self.history: dict[str, list[float]] = {}
        self.epoch = self.step = 0
        self.best: dict[str, Any] | None = None
        self._last: dict[str, Any] | None = None  # the state after the last complete epoch

    def fit(self, X_train: Any, X_val: Any = None, *, resume: bool = False) -> VAETrainer:
        """Train.

        Parameters
        ----------
        X_train : array-like of shape (n_samples, ...), Tensor, Dataset or DataLoader
            Data as the likelihood has them: in [0, 1] for Bernoulli, finite for Gaussian, integer
            classes for categorical; numbers may be NaN, see `missing`. Those of dtype uint8 are
            scaled from [0, 255] to [0, 1]. A Dataset gives x or (x, ...), and is shuffled; a
            DataLoader keeps its own batches and order (with several devices also its own
            distributed sampler).
        X_val : as `X_train`, optional
            Held-out data, for the history and `early_stopping`.
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
            comes from other settings, another optimizer or data of another size; or there is
            no `X_val` for `early_stopping`; or `checkpoint_dir` is no folder to write to.
        FloatingPointError
            The bound is no longer finite.
        """
        fabric_type, _ = requirements()
        if self.early_stopping is not None and X_val is None:
            raise ValueError("`X_val` is None, expected held-out data for `early_stopping`")
        if self.checkpoint_dir is not None:
            check_folder("checkpoint_dir", self.checkpoint_dir)
        fabric = fabric_type(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            precision=self.precision,
        )
        home = os.getpid()
        saved = fabric.launch(self._fit, X_train, X_val, resume, home)
        if saved is not None:
            self._last = state = torch.load(io.BytesIO(saved), "cpu", weights_only=True)
            self.adopt(state)
            self.vae.load_state_dict(state["model"])
            self._load_best_weights()
        return self

    def _fit(
        self, fabric: Fabric, X_train: Any, X_val: Any, resume: bool, home: int
    ) -> bytes | None:
        """Train in one of the processes; return the last state if `home` is another one."""
        fabric.barrier()  # the first process may still be writing what another one is to resume
        train = self._batches("X_train", X_train, fabric)
        val = None if X_val is None else self._batches("X_val", X_val, fabric)
        optimizer = make_optimizer(self, fabric.device)
        rates = LearningRates(optimizer, self.lr_schedule)
        settings = settings_of(self, optimizer, train, val)
        last = capture(self, optimizer, settings, self.epoch, self.step, self.history)
        found = self._find_checkpoint(last) if resume else None
        with kept_modes(self.vae), own_rng(fabric.device):
            try:
                model, wrapped = fabric.setup(self.vae, optimizer)
                if found is not None:
                    check_settings(found["settings"], settings)
                    restore(self, found, optimizer)
                    last = found
                else:
                    self.epoch, self.step, self.history, self.best = 0, 0, {}, None
                with progress_bar(self, fabric, train) as bar:
                    ended = False
                    while self.epoch < self.max_epochs and not (ended or self._has_stopped()):
                        epoch = Epoch(self, fabric, model, wrapped, rates, self.epoch, self.step)
                        history = self._run(epoch, train, val, bar)
                        counts = self.epoch + 1, epoch.step
                        state = capture(self, optimizer, settings, *counts, history)
                        if self.early_stopping is not None:
                            state = with_best(state)
                        if self.checkpoint_dir is not None and fabric.is_global_zero:
                            save_checkpoint(self.checkpoint_dir / _FILE, state)
                        last = self._last = state
                        self.adopt(state)
                        ended = self.callback is not None and bool(self.callback(self))
                self._load_best_weights()
            except BaseException:
                restore(self, last, optimizer)
                raise
        if os.getpid() == home:
            return None
        # By value: tensors are handed over by a process that is still there when they are read.
        file = io.BytesIO()
        torch.save(last, file)
        return file.getvalue()

    def _run(
        self, epoch: Epoch, train: Batches, val: Batches | None, bar: Any
    ) -> dict[str, list[float]]:
        """Return the history with one epoch more."""
        row = epoch.train(train, bar)
        if val is not None:
            row |= epoch.validate(val)
        bar.set_postfix({key: f"{row[key]:.4g}" for key in _SHOWN if key in row})
        return {key: [*self.history.get(key, []), row[key]] for key in row}

    def adopt(self, state: dict[str, Any]) -> None:
        """Take the counts, the history and the best epoch of a state, not its weights."""
        self.epoch, self.step = state["epoch"], state["step"]
        self.history, self.best = state["history"], state["best"]

    def _has_stopped(self) -> bool:
        if self.early_stopping is None or self.best is None:
            return False
        return bool(self.epoch - self.best["epoch"] >= self.early_stopping)

    def _load_best_weights(self) -> None:
        if self.early_stopping is not None and self.best is not None:
            self.vae.load_state_dict(self.best["model"])

    def _batches(self, name: str, data: Any, fabric: Fabric) -> Batches:
        dtype = torch.float64 if str(self.precision).startswith("64") else None
        expected = expected_by(self.vae, name, dtype, self.missing == "integrate")
        order = self.seed, name == "X_train"
        ranks = fabric.global_rank, fabric.world_size
        pin = fabric.device.type == "cuda"
        return make_batches(data, expected, self.batch_size, *order, *ranks, pin)

    def _find_checkpoint(self, like: dict[str, Any]) -> dict[str, Any] | None:
        if self.checkpoint_dir is None:
            return self._last
        path = self.checkpoint_dir / _FILE
        return load_checkpoint(path, like) if path.exists() else None
