"""One epoch of training: steps, held-out data, averages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from elbokit.torch._batches import Batches, stream_seed
from elbokit.torch._latent_model import VAEOutput
from elbokit.torch._masks import given, mask_of
from elbokit.torch._schedules import LearningRates, Schedule, value_at
from elbokit.torch._statistics import VAEStatistics
from elbokit.torch._vae import VAE
from elbokit.torch._vae_loss import VAELossOutput

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["METRICS", "Epoch"]

METRICS = ("bound", "reconstruction", "kl", "active_units")


class Options(Protocol):
    """What an epoch wants to know of its trainer."""

    vae: VAE
    seed: int
    beta: float | Schedule
    free_bits: float
    missing: str
    capacity: float | Schedule | None
    accumulate: int
    clip_grad_norm: float | None


class Epoch:
    """One pass over the training data, and over the held-out data.

    Attributes
    ----------
    step : int
        Number of the optimizer's steps since the first epoch.
    """

    def __init__(
        self,
        options: Options,
        fabric: Fabric,
        model: Any,
        optimizer: Any,
        learning_rates: LearningRates,
        epoch: int,
        step: int,
    ) -> None:
        self.options, self.fabric, self.epoch, self.step = options, fabric, epoch, step
        self.model, self.optimizer, self.learning_rates = model, optimizer, learning_rates

    def train(self, batches: Batches, bar: Any) -> dict[str, float]:
        """Take the steps; return the metrics, and what the schedules said for the last one."""
        self._seed("loader")
        batches.set_epoch(self.epoch)
        self.model.train()
        sums, scheduled = self._no_sums(), {}
        for i, group in enumerate(_grouped(batches, self.options.accumulate)):
            if i == 0:  # whatever a loader drew to begin with
                self._seed("noise")
            weights = self._weights()
            scheduled = weights | self.learning_rates.set(self.step)
            self.optimizer.zero_grad()
            size = sum(map(len, group))
            for number, batch in enumerate(group, 1):
                with self.fabric.no_backward_sync(self.model, enabled=number < len(group)):
                    sums += self._backward(batch, len(batch) / size, weights)
                bar.update(1)
            if self.options.clip_grad_norm is not None:
                self.fabric.clip_gradients(
                    self.model,
                    self.optimizer,
                    max_norm=self.options.clip_grad_norm,
                    error_if_nonfinite=False,  # would wait for the device; the bound tells
                )
            self.optimizer.step()
            self.step += 1
        return self._metrics("", sums) | scheduled

    def _backward(self, batch: Tensor, part: float, weights: dict[str, float]) -> Tensor:
        """Add a batch's gradients, its part of those of a step; return its sums."""
        x, mask = self._input(batch)
        output = self.model(*given(x, mask))
        terms = self._terms(x, mask, output, **weights)
        self.fabric.backward(terms.loss if part == 1 else part * terms.loss)
        return _summed(terms, output)

    @torch.no_grad()
    def validate(self, batches: Batches) -> dict[str, float]:
        """Return the metrics of held-out data, with the same noise in every epoch."""
        generator = torch.Generator(device=self.fabric.device)
        rank = self.fabric.global_rank
        generator.manual_seed(stream_seed(self.options.seed, "validation", rank=rank))
        self.model.eval()
        sums = self._no_sums()
        for batch in batches:
            x, mask = self._input(batch)
            # Not by `model`: processes may have different numbers of batches, and it would wait.
            with self.fabric.autocast():
                output = self.options.vae(*given(x, mask), generator=generator)
            sums += _summed(self._terms(x, mask, output), output)
        return self._metrics("val_", sums)

    def _seed(self, stream: str) -> None:
        rank = self.fabric.global_rank
        torch.manual_seed(stream_seed(self.options.seed, stream, self.epoch, rank))

    def _weights(self) -> dict[str, float]:
        """Return how this step weighs the KL."""
        beta, capacity = self.options.beta, self.options.capacity
        weights = {"beta": value_at("beta", beta, self.step)}
        if capacity is not None:
            weights["capacity"] = value_at("capacity", capacity, self.step)
        return weights

    def _no_sums(self) -> Tensor:
        size = 3 + 2 * self.options.vae.latent_dim
        return torch.zeros(size, dtype=torch.float64, device=self.fabric.device)

    def _input(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a batch as the model takes it, and which of its elements are there."""
        x = self.options.vae.as_input(self.fabric.to_device(batch))
        return x, mask_of(x, self.options.missing)

    def _terms(
        self,
        x: Tensor,
        mask: Tensor | None,
        output: VAEOutput,
        beta: float = 1.0,
        capacity: float | None = None,
    ) -> VAELossOutput:
        vae = self.options.vae
        if x.dtype == torch.float64:
            # Fabric narrows what the model returns; the parts are still in double precision.
            output = VAEOutput(*(each.double() for each in output))
        options: dict[str, Any] = {} if mask is None else {"mask": mask}
        try:
            return vae.terms(
                x,
                output,
                beta=beta,
                free_bits=self.options.free_bits,
                capacity=capacity,
                **options,
            )
        except ValueError as error:
            if all(bool(each.isfinite().all()) for each in output):
                raise
            raise self._diverged("what the networks return is not finite") from error

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} in epoch {self.epoch}: training has diverged; a smaller lr may help"
        )

    def _metrics(self, prefix: str, sums: Tensor) -> dict[str, float]:
        """Average over all processes; the only place where the host waits for the device."""
        reduced: Any = self.fabric.all_reduce(sums, reduce_op="sum")
        reconstruction, kl, n = reduced[:3].tolist()
        name = "X_val" if prefix else "X_train"
        if n == 0:
            raise ValueError(f"`{name}` gives no batches, expected at least one")
        bound = -(reconstruction + kl) / n
        if not math.isfinite(bound):
            raise self._diverged(f"the bound of `{name}` is {bound}")
        means, squares = reduced[3:].cpu().chunk(2)
        statistics = VAEStatistics()
        statistics.update(
            torch.stack([torch.zeros_like(means), means, squares]), torch.tensor(0), int(n)
        )
        values = bound, reconstruction / n, kl / n, float(statistics.active_units())
        return {prefix + key: value for key, value in zip(METRICS, values, strict=True)}


def _grouped(batches: Iterable[Tensor], n: int) -> Iterator[list[Tensor]]:
    """Return lists of `n` batches; the last may be shorter."""
    left = iter(batches)
    while group := list(islice(left, n)):
        yield group


def _summed(terms: VAELossOutput, output: VAEOutput) -> Tensor:
    """Return a batch's sums of both terms, its size, and its sums of mu and of mu squared."""
    mu = output.mu.detach().double()
    size = len(mu)
    both = torch.stack([terms.reconstruction.detach(), terms.kl.detach()]).double() * size
    return torch.cat([both, both.new_full((1,), size), mu.sum(0), mu.square().sum(0)])
