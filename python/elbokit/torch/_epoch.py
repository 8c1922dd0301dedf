"""One epoch of training: steps, held-out data, averages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from elbokit.torch._batches import Batches, stream_seed
from elbokit.torch._vae_loss import VAELossOutput, vae_loss

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["METRICS", "Epoch"]

METRICS = ("bound", "reconstruction", "kl")


class Options(Protocol):
    """What an epoch wants to know of its trainer."""

    seed: int
    beta: float
    free_bits: float


class Epoch:
    """One pass over the training data, and over the held-out data."""

    def __init__(
        self, options: Options, fabric: Fabric, model: Any, optimizer: Any, epoch: int
    ) -> None:
        self.options, self.fabric, self.epoch = options, fabric, epoch
        self.model, self.optimizer = model, optimizer

    def train(self, batches: Batches, bar: Any) -> dict[str, float]:
        """Take one step per batch; return the metrics."""
        rank = self.fabric.global_rank
        torch.manual_seed(stream_seed(self.options.seed, "noise", self.epoch, rank))
        batches.set_epoch(self.epoch)
        self.model.train()
        sums = self._no_sums()
        for batch in batches:
            self.optimizer.zero_grad()
            terms, size = self._terms(batch)
            self.fabric.backward(terms.loss)
            self.optimizer.step()
            sums += _weighted(terms, size)
            bar.update(1)
        return self._metrics("", sums)

    @torch.no_grad()
    def validate(self, batches: Batches) -> dict[str, float]:
        """Return the metrics of held-out data, with the same noise in every epoch."""
        generator = torch.Generator(device=self.fabric.device)
        rank = self.fabric.global_rank
        generator.manual_seed(stream_seed(self.options.seed, "validation", rank=rank))
        self.model.eval()
        sums = self._no_sums()
        for batch in batches:
            sums += _weighted(*self._terms(batch, generator=generator))
        return self._metrics("val_", sums)

    def _no_sums(self) -> Tensor:
        return torch.zeros(3, dtype=torch.float64, device=self.fabric.device)

    def _terms(self, batch: Tensor, **noise: Any) -> tuple[VAELossOutput, int]:
        x = self.fabric.to_device(batch)
        logits, mu, logvar, _ = self.model(x, **noise)
        beta, free_bits = self.options.beta, self.options.free_bits
        x = x.to(logits.dtype)
        return vae_loss(logits, x, mu, logvar, beta=beta, free_bits=free_bits), len(x)

    def _metrics(self, prefix: str, sums: Tensor) -> dict[str, float]:
        """Average over all processes; the only place where the host waits for the device."""
        reduced: Any = self.fabric.all_reduce(sums, reduce_op="sum")
        reconstruction, kl, n = reduced.tolist()
        name = "X_val" if prefix else "X_train"
        if n == 0:
            raise ValueError(f"`{name}` gives no batches, expected at least one")
        row = dict(
            zip(METRICS, (-(reconstruction + kl) / n, reconstruction / n, kl / n), strict=True)
        )
        if not math.isfinite(row["bound"]):
            raise FloatingPointError(
                f"the bound of `{name}` is {row['bound']} in epoch {self.epoch}: training has "
                "diverged; a smaller lr may help"
            )
        return {prefix + key: value for key, value in row.items()}


def _weighted(terms: VAELossOutput, size: int) -> Tensor:
    """Return the sums over a batch, and its size, from the means."""
    sums = torch.stack([terms.reconstruction.detach(), terms.kl.detach()]).double() * size
    return torch.nn.functional.pad(sums, (0, 1), value=size)
