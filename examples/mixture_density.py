"""A mixture-density network: a regression with several answers.

    python examples/mixture_density.py [folder]

x = t + 0.3 sin(2 pi t) + noise has one x for each t, but up to three t for an x (Bishop, Mixture
density networks, 1994). A network emits, for each x, the weights, means and scales of a mixture
over t: one mixture per row, which is what the batch dimensions of gmm_log_prob are for. Writes a
picture to the folder, out/mixture_density unless told otherwise, and prints the log-likelihoods.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from elbokit.plot import new_figure
from elbokit.torch import gmm_log_prob

N_COMPONENTS = 3
N_STEPS = 1500
BATCH = 200


class MixtureDensity(nn.Module):
    """From x (n, 1) to a mixture over t for each row: weights, means, 1 / standard deviation."""

    def __init__(self, n_components: int, n_hidden: int = 40) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(1, n_hidden),
            nn.Tanh(),
            nn.Linear(n_hidden, n_hidden),
            nn.Tanh(),
            nn.Linear(n_hidden, 3 * n_components),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n, k), (n, k, 1) and (n, k), as gmm_log_prob takes them."""
        logits, means, log_precision = self.head(4 * x - 2).chunk(3, -1)
        return logits.softmax(-1), means[..., None], (log_precision + 1).exp()

    def log_prob(self, t: Tensor, x: Tensor) -> Tensor:
        """log p(t | x) of shape (n, m), for m values of t to each x."""
        return gmm_log_prob(t[..., None], *self(x), "spherical")


def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return x and t, both (n, 1)."""
    t = torch.rand(n, 1, generator=generator)
    noise = 0.05 * torch.randn(n, 1, generator=generator)
    return t + 0.3 * torch.sin(2 * torch.pi * t) + noise, t


def fit(model: MixtureDensity, x: Tensor, t: Tensor, generator: torch.Generator) -> None:
    """Maximise the mean of log p(t | x)."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    for _ in range(N_STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = -model.log_prob(t[rows], x[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def picture(model: MixtureDensity, x: Tensor, t: Tensor, path: Path) -> None:
    """Draw the data over the conditional density, and what the components are."""
    at = torch.linspace(-0.1, 1.1, 241)[:, None]
    levels = torch.linspace(-0.15, 1.15, 261)
    with torch.no_grad():
        density = model.log_prob(levels.expand(len(at), -1), at).exp().numpy()
        weights, means, _ = model(at)
    figure = new_figure(10.0, 4.3)
    left, right = figure.subplots(1, 2, sharex=True)
    box = (-0.1, 1.1, -0.15, 1.15)
    left.imshow(np.sqrt(density.T), origin="lower", extent=box, aspect="auto", cmap="Blues")
    left.plot(x[:500], t[:500], ".", color="#D55E00", ms=2.2, alpha=0.7, label="data")
    left.set_title("p(t | x) by the network (root scale), and data", fontsize=11)
    left.legend(frameon=False, loc="upper left")
    for k, color in enumerate(("#0072B2", "#D55E00", "#009E73")):
        opaque = np.column_stack([np.tile(_rgb(color), (len(at), 1)), weights[:, k].numpy()])
        right.scatter(at[:, 0], means[:, k, 0], c=opaque, s=14, lw=0, label=f"component {k + 1}")
    truth = torch.linspace(0, 1, 200)
    curve = truth + 0.3 * torch.sin(2 * torch.pi * truth)
    right.plot(curve, truth, color="0.45", lw=0.9, ls="--", zorder=0)
    right.set_title("means, as opaque as their weights; dashed: without noise", fontsize=11)
    right.set_ylim(-0.15, 1.15)
    for ax in (left, right):
        ax.set_xlim(-0.1, 1.1)
        ax.set_xlabel("x")
        ax.set_ylabel("t")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def main(folder: Path) -> None:
    """Fit mixtures of one and of several components, compare, draw."""
    generator = torch.Generator().manual_seed(0)
    x, t = draw(2000, generator)
    new_x, new_t = draw(2000, generator)
    for n_components in (1, N_COMPONENTS):
        torch.manual_seed(0)
        model = MixtureDensity(n_components)
        fit(model, x, t, generator)
        with torch.no_grad():
            held_out = model.log_prob(new_t, new_x).mean().item()
        print(f"{n_components} component(s): log p(t | x) of new data {held_out:7.3f} nats")
    picture(model, x, t, folder / "density.png")
    print(f"picture: {folder / 'density.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/mixture_density"))
