"""Pictures and table of the comparisons of VAEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from digits_data import as_images
from torch import Tensor

from elbokit.plot import image_rows, new_figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.45"

NOTES = """\
1. Same seed, same batches, float32: the two programs differ in the loss line alone. The curves
   differ by rounding, which training amplifies. Times are medians of single steps (or calls) in
   turns on random images, Adam included in a step; all gradients are compared before. A ratio is
   the median of the pairs' ratios, with the middle half of them. On a machine with other work,
   several threads wait for each other, most of all in plain torch's many operations: see the
   load average, and trust one thread more.
2. Encoder and decoder are linear, so log p(x) is a Gaussian's density, and p(z|x) is known. Gap
   and KL come by different ways (float64, training images).
3. Same networks, first weights, batches and epochs; a Gaussian decoder, 10 latent dimensions.
   The autoencoder minimises the squared error, without noise or KL. Reconstructions decode the
   posterior mean; the VAE's codes are draws from q(z|x). Distances are Euclidean, in grey values.
   One far above that of held-out images says that samples are unlike digits; a small one alone
   proves nothing, as copies and blurs have it too.
4. Dense networks with one hidden layer of 128, a Bernoulli decoder. A unit is active if its
   posterior mean has a variance above 0.01 over the held-out images. Free bits floor the KL of
   each sample and dimension, so their mean may stay below. Pixels are grey values in [0, 1]: the
   bound compares models, but bounds no probability of an image. Free bits bring the latent space
   back into use; that does not make the bound the best one, see β = 1.
"""


class Work(NamedTuple):
    """What is timed, on a batch of n, with so many threads."""

    name: str
    n: int
    threads: int

    @property
    def on(self) -> str:
        return "1 thread" if self.threads == 1 else f"{self.threads} threads"


class Section(NamedTuple):
    """A title, the names of three columns, and rows of a name and three cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(path: Path, sections: Sequence[Section], versions: str) -> None:
    """Write the table to `path`."""
    lines = ["# Four comparisons of VAEs on digits", "", "| | | | |", "|---|---:|---:|---:|"]
    for title, columns, rows in sections:
        lines.append("| " + " | ".join(f"**{cell}**" for cell in (title, *columns)) + " |")
        lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", NOTES, "```", versions.rstrip(), "```", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def draw_classic(
    plain: np.ndarray, fused: np.ndarray, times: Mapping[Work, np.ndarray], path: Path
) -> None:
    """Draw both curves, their difference, and the times."""
    figure = new_figure(10.8, 5.4)
    halves = figure.add_gridspec(1, 2, width_ratios=[1.15, 1.0])
    grid, panels = (
        halves[0].subgridspec(2, 1, height_ratios=[2.2, 1.0]),
        halves[1].subgridspec(2, 1),
    )
    epochs = np.arange(1, len(plain) + 1)
    top = figure.add_subplot(grid[0, 0])
    top.plot(epochs, plain, color="0.7", lw=5.0, label="plain torch")
    top.plot(epochs, fused, color=ORANGE, lw=1.4, ls="--", label="vae_loss")
    top.set(ylabel="training loss\n(nats per image)", title="Same curve")
    top.legend(frameon=False)
    bottom = figure.add_subplot(grid[1, 0], sharex=top)
    bottom.plot(epochs, np.abs(fused - plain), "o", color=GREY, ms=3)
    if (fused != plain).any():
        bottom.set_yscale("log")
    bottom.set(xlabel="epoch", ylabel="difference, float32\n(nats per image)")
    for ax in (top, bottom):
        ax.grid(alpha=0.25)
    top.tick_params(labelbottom=False)

    # Times of several threads are in the table alone: other work on the machine spoils them.
    for row, size in enumerate(dict.fromkeys(work.n for work in times)):
        chosen = {w: t for w, t in times.items() if w.n == size and w.threads == 1}
        ax = figure.add_subplot(panels[row, 0])
        y = np.arange(len(chosen))[::-1]
        for i, (name, color) in enumerate((("plain torch", "0.7"), ("vae_loss", ORANGE))):
            medians = [1e3 * np.median(t[:, i]) for t in chosen.values()]
            bars = ax.barh(y + 0.2 - 0.4 * i, medians, 0.38, color=color, label=name)
            ax.bar_label(bars, [f"{m:.2f}" for m in medians], padding=3, fontsize=8)
        ax.set_yticks(y, [w.name.replace(", ", ",\n") for w in chosen])
        ax.margins(x=0.15)
        ax.set_title(f"Batch of {size:,} × 784 pixels, 1 thread")
        ax.legend(frameon=False, loc="lower right")
    ax.set_xlabel("median time (ms)")
    figure.savefig(path)


def draw_linear_gaussian(
    steps: Sequence[int],
    log_likelihood: np.ndarray,
    bound: np.ndarray,
    kl: np.ndarray,
    best: float,
    path: Path,
) -> None:
    """Draw log-likelihood and bound, and their gap against the KL, over the steps."""
    figure = new_figure(10.4, 4.2)
    left, right = figure.subplots(1, 2)
    at, gap = np.array(steps) + 1, log_likelihood - bound
    left.axhline(best, color=GREY, lw=1.0, ls="--", label="maximum likelihood (PPCA)")
    left.plot(at, log_likelihood, color=BLUE, lw=1.8, label="log p(x), exact")
    left.plot(at, bound, color=ORANGE, lw=1.8, label="bound")
    left.fill_between(at, bound, log_likelihood, color=ORANGE, alpha=0.15, lw=0, label="gap")
    left.set(ylabel="nats per image", title="The bound reaches the log-likelihood")
    left.legend(frameon=False, loc="lower right")
    right.plot(at, gap, color=ORANGE, lw=1.8, label="gap: log p(x) − bound")
    right.plot(at, kl, "o", color=BLUE, mfc="none", ms=5, label="KL(q(z|x) ‖ p(z|x)), exact")
    right.set(yscale="log", ylabel="nats per image", title="Their gap is the KL at all times")
    right.legend(frameon=False, loc="lower left")
    for ax in (left, right):
        ax.set(xscale="log", xlabel="step + 1")
        ax.grid(alpha=0.25)
    figure.savefig(path)


def draw_autoencoder(
    X_test: Tensor, reconstructed: Sequence[Tensor], sampled: Sequence[Tensor], path: Path
) -> None:
    """Draw held-out digits, their reconstructions, and decoded points of N(0, I)."""
    names = ("autoencoder", "VAE")
    rows = {"held-out\ndigits": X_test}
    rows |= {f"{name}:\nreconstructed": r for name, r in zip(names, reconstructed, strict=True)}
    rows |= {f"{name}:\nz from N(0, I)": s for name, s in zip(names, sampled, strict=True)}
    images = {name: as_images(x[:12].numpy()).clip(0, 1) for name, x in rows.items()}
    figure = image_rows(images, vmax=1.0)
    figure.suptitle(
        "Same networks, trained as autoencoder and as VAE: reconstructions and samples", fontsize=10
    )
    figure.savefig(path)


def draw_collapse(
    kls: Mapping[str, np.ndarray], free_bits: float, active: Sequence[str], path: Path
) -> None:
    """Draw bars of the KL per dimension, largest first."""
    figure = new_figure(8.6, 4.2)
    ax = figure.subplots()
    width = 0.8 / len(kls)
    for i, ((name, kl), units) in enumerate(zip(kls.items(), active, strict=True)):
        at = np.arange(1, len(kl) + 1) + (i - (len(kls) - 1) / 2) * width
        label = f"{name}: {units} active units, {kl.sum():.2f} nats in all"
        ax.bar(at, np.sort(kl)[::-1], width, color=(ORANGE, BLUE, "0.7")[i], label=label)
    ax.axhline(free_bits, color=BLUE, lw=1.0, ls="--", label=f"free bits: {free_bits} nats")
    ax.set_xticks(np.arange(1, len(kl) + 1))
    ax.set(xlabel="latent dimension, sorted by KL", ylabel="KL, held-out digits (nats)")
    ax.set_title("KL of each dimension: collapse at β = 4, and what free bits change")
    ax.grid(axis="y", alpha=0.25)
    ax.legend(frameon=False)
    figure.savefig(path)
