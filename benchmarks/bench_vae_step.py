"""A whole training step of a VAE: what a faster loss buys, and whether it disturbs torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import harness
from elbokit.torch import vae_loss

PIXELS, HIDDEN, LATENT = 784, 400, 20
# batch, rounds
CASES = [(128, 120), (1_024, 40)]


class Network(nn.Module):
    """The networks of the classic example: one hidden layer on each side."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT)
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar


def eager(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (reconstruction + kl) / len(logits)


def fused(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return vae_loss(logits, target, mu, logvar).loss


class Step:
    """Training steps with one loss, and how long their parts took."""

    def __init__(self, loss, batches: Iterator[Tensor]) -> None:
        torch.manual_seed(0)
        self.network, self.loss, self.batches = Network(), loss, batches
        self.optimizer = torch.optim.Adam(self.network.parameters())
        self.networks: list[float] = []

    def __call__(self) -> float:
        x = next(self.batches)
        self.optimizer.zero_grad()
        begin = time.perf_counter()
        logits, mu, logvar = self.network(x)
        self.networks.append(time.perf_counter() - begin)
        loss = self.loss(logits, x, mu, logvar)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def batches(data: Tensor, batch: int, workers: int) -> Iterator[Tensor]:
    """Batches without end, in the same order for each peer."""
    loader = DataLoader(
        TensorDataset(data), batch, num_workers=workers, persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )  # fmt: skip
    while True:
        for (x,) in loader:
            yield x


def main() -> None:
    rows = []
    cases = [(batch, rounds, workers) for batch, rounds in CASES for workers in (0, 2)]
    for batch, rounds, workers in harness.progress(cases, "VAE step"):
        torch.manual_seed(0)
        data = torch.rand(8 * batch, PIXELS)
        torch.compiler.reset()
        losses = {"eager": eager, "compiled": torch.compile(eager), "elbokit": fused}
        peers = {name: Step(loss, batches(data, batch, workers)) for name, loss in losses.items()}
        # Same start, same data, same noise: the same losses.
        values = {}
        for name, step in peers.items():
            torch.manual_seed(1)
            values[name] = [step() for _ in range(5)]
        for name in ("compiled", "elbokit"):
            torch.testing.assert_close(values[name], values["eager"], rtol=1e-4, atol=0)
        for step in peers.values():
            step.networks.clear()
        timing = harness.interleave(dict(peers), rounds)
        networks = {name: statistics.median(step.networks) for name, step in peers.items()}
        rows.append(
            [
                f"{batch:,}",
                str(workers),
                *(harness.duration(timing.median(name)) for name in peers),
                f"{timing.ratio('eager', 'elbokit'):.2f}",
                f"{timing.ratio('compiled', 'elbokit'):.2f}",
                " · ".join(harness.duration(seconds) for seconds in networks.values()),
            ]
        )
    harness.write(
        "vae_step",
        "A training step of a VAE",
        "Networks 784-400-20-400-784, Adam, float32: data, forward, loss, backward and update, "
        "with torch's eager loss, the same under `torch.compile`, and `vae_loss`, everything else "
        "alike. Medians of interleaved rounds; the losses of five steps agree first. Workers: "
        "processes of the DataLoader (fork) that prepare the batches meanwhile. Networks: the "
        "forward pass alone, which is torch's own in all three: it should not notice which loss "
        "ran before.",
        harness.table(
            [
                "batch",
                "workers",
                "eager",
                "compiled",
                "elbokit",
                "eager ÷ ours",
                "compiled ÷ ours",
                "networks: eager · compiled · elbokit",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
