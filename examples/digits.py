"""EM and VAE on real digits: one bound, two ways to climb it.

(a) a 10-component Gaussian mixture by EM, (b) VAEs trained by gradient, (c) one table in which
both give probabilities of the same held-out integer images. Pictures and the table go to one
folder:

    python examples/digits.py [--out out/digits] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from digits_data import (
    N_LEVELS,
    Split,
    as_images,
    dequantise,
    load_split,
    log_arrangements,
    mixture_bound,
    mixture_log_probability,
    to_bits,
)
from digits_report import Model, write_report
from digits_timing import time_em, time_loss
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score
from torch import nn

from elbokit import GaussianMixture, plot, show_versions
from elbokit.torch import VAE, VAETrainer

SEED = 0
N_COMPONENTS = 10
PAIRS = ((0, 6), (1, 7), (3, 8), (4, 9))


def fit_mixture(data: Split, n_starts: int, out: Path) -> tuple[GaussianMixture, dict[str, float]]:
    """Fit the mixture from several starts, draw bounds and means, compare with the digits."""
    points = dequantise(data.train, np.random.default_rng(SEED))
    fits = []
    for start in range(n_starts):
        gm = GaussianMixture(
            N_COMPONENTS,
            covariance_type="diag",
            reg_covar=0.0,  # the noise keeps variances up, and EM is exact without it
            tol=1e-6,
            max_iter=1000,
            random_state=start,
        ).fit(points)
        bounds = np.array(gm.lower_bounds_)
        # Exact E- and M-steps never lower the bound: rounding is all that is allowed.
        assert (np.diff(bounds) >= -1e-13 * np.abs(bounds[1:])).all(), (
            f"start {start}: the bound fell"
        )
        fits.append(gm)
    best = max(fits, key=lambda gm: gm.lower_bound_)

    ax = plot.bound_curves(
        {f"best of {n_starts} starts": best.lower_bounds_},
        others=[gm.lower_bounds_ for gm in fits if gm is not best],
        others_label="other starts",
        ylabel="bound = log-likelihood (nats per image)",
    )
    ax.set_title("EM never lowers the bound: mixture of 10 Gaussians")
    ax.figure.savefig(out / "mixture_bound.png")

    labels = best.predict(points)
    table = confusion_matrix(data.train_digits, labels, labels=np.arange(N_COMPONENTS))
    order = np.argsort(table.argmax(axis=0), kind="stable")
    titles = [f"mostly {table[:, k].argmax()}\n{best.weights_[k]:.0%}" for k in order]
    # The noise moved every pixel up by a half on average.
    means = as_images(best.means_[order] - 0.5)
    figure = plot.image_rows({"mean": means}, titles=titles, vmax=N_LEVELS, scale=1.0)
    figure.suptitle("Means of the components, their commonest digit and weight", fontsize=10)
    figure.savefig(out / "mixture_means.png")

    matched = linear_sum_assignment(-table)
    agreement = {
        "adjusted Rand index": adjusted_rand_score(data.train_digits, labels),
        "normalised mutual information": normalized_mutual_info_score(data.train_digits, labels),
        "accuracy of the best one-to-one assignment": table[matched].sum() / table.sum(),
    }
    return best, agreement


class MeanOfBits(nn.Module):
    """Gray value in [0, 1] of each pixel, from its 16 bits."""

    def forward(self, bits: torch.Tensor) -> torch.Tensor:
        return bits.mean(dim=1)


class SameForAllBits(nn.Module):
    """The logits of a pixel, for each of its 16 bits."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, None, :].expand(-1, N_LEVELS, -1)


def dense(*sizes: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train_vae(data: Split, latent_dim: int, epochs: int) -> VAETrainer:
    """Train a VAE on the images' bits, with the held-out bound after every epoch."""
    torch.manual_seed(SEED)
    vae = VAE(
        latent_dim=latent_dim,
        encoder=nn.Sequential(MeanOfBits(), dense(64, 256, 128, 2 * latent_dim)),
        decoder=nn.Sequential(dense(latent_dim, 128, 256, 64), SameForAllBits()),
    )
    trainer = VAETrainer(
        vae, max_epochs=epochs, batch_size=64, seed=SEED, progress=sys.stderr.isatty()
    )
    return trainer.fit(to_bits(data.train), to_bits(data.test))


def draw_vae(data: Split, trainer: VAETrainer, gm: GaussianMixture, out: Path) -> None:
    """Draw the bound, the latent map, the manifold, interpolations and samples."""
    vae, history = trainer.vae.eval(), trainer.history
    generator = torch.Generator().manual_seed(SEED)

    ax = plot.bound_curves(
        {
            "training images": np.add(history["bound"], log_arrangements(data.train).mean()),
            "held-out images": np.add(history["val_bound"], log_arrangements(data.test).mean()),
        },
        xlabel="epoch",
        ylabel="bound on log P(image) (nats)",
    )
    ax.set_ylim(bottom=np.percentile(ax.lines[1].get_ydata(), 3))
    ax.set_title("VAE with a 2-D latent space: bound per epoch")
    ax.figure.savefig(out / "vae_bound.png")

    with torch.no_grad():
        z = vae.encode(torch.from_numpy(to_bits(data.test)))[0].numpy()
    ax = plot.latent_map(z, data.test_digits, label="digit")
    ax.set_title("Held-out digits in the latent space (posterior means)")
    ax.figure.savefig(out / "vae_latent.png")

    n = 15
    levels = (np.arange(n) + 0.5) / n  # equal shares of the prior's mass
    quantiles = norm.ppf(levels)
    first, second = np.meshgrid(quantiles, quantiles[::-1])
    grid = torch.from_numpy(np.stack([first.ravel(), second.ravel()], axis=1)).float()
    with torch.no_grad():
        decoded = vae.decode(grid)[:, 0].numpy().reshape(n, n, 8, 8)
    ax = plot.new_figure(6.6, 6.8).subplots()
    plot.image_sheet(decoded, ax, vmin=0, vmax=1, extent=(0, 1, 0, 1))
    marks = (0.05, 0.25, 0.5, 0.75, 0.95)
    for axis, name in ((ax.xaxis, "$z_1$"), (ax.yaxis, "$z_2$")):
        axis.set_ticks(marks, [f"{norm.ppf(mark):.2f}" for mark in marks])
        axis.set_label_text(f"{name} (normal quantiles: equal steps in probability)")
    ax.set_title("Decoded manifold: means over the latent plane")
    ax.figure.savefig(out / "vae_manifold.png")

    # Of each digit the held-out image that the model knows best.
    bound, _ = evaluate_vae(vae, data.test, 1)
    ranked = np.argsort(-bound)
    ends = [
        [data.test[ranked][data.test_digits[ranked] == digit][0] for digit in digits]
        for digits in zip(*PAIRS, strict=True)
    ]
    start, stop = (torch.from_numpy(to_bits(np.array(rows))) for rows in ends)
    steps = vae.interpolate(start, stop, 10)[:, :, 0].numpy()  # (step, pair, pixel)
    rows = {}
    for i, (a, b) in enumerate(PAIRS):
        originals = [ends[0][i] / N_LEVELS, ends[1][i] / N_LEVELS]
        line = np.stack([originals[0], *steps[:, i], originals[1]])
        rows[f"{a} to {b}"] = as_images(line)
    titles = ["held-out\nimage", *[f"{t:.2f}" for t in np.linspace(0, 1, 10)], "held-out\nimage"]
    figure = plot.image_rows(rows, titles=titles, vmax=1.0)
    figure.suptitle("Decoded straight lines between two digits' posterior means", fontsize=10)
    figure.savefig(out / "vae_interpolation.png")

    means = vae.sample(12, generator=generator)
    drawn = torch.bernoulli(means, generator=generator).sum(dim=1).numpy()
    mixture = np.random.default_rng(SEED).permutation(gm.sample(500)[0])[:12] - 0.5
    rows = {
        "held-out\ndigits": as_images(data.test[:12]),
        "mixture:\nsamples": as_images(mixture.clip(0, N_LEVELS)),
        "VAE:\ndecoded z": as_images(N_LEVELS * means[:, 0].numpy()),
        "VAE:\nsamples": as_images(drawn),
    }
    figure = plot.image_rows(rows, vmax=N_LEVELS)
    figure.suptitle("Digits, and samples of both models", fontsize=10)
    figure.savefig(out / "samples.png")


def evaluate_vae(vae: VAE, X: np.ndarray, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bound and the importance-sampled estimate of log P(x) of each image."""
    bits, constant = torch.from_numpy(to_bits(X)), log_arrangements(X)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        bound = vae.eval().elbo(bits, n_samples=32, generator=generator).numpy()
    estimate = vae.log_likelihood(bits, n_samples, generator=generator).numpy()
    return bound + constant, estimate + constant


def main(arguments: list[str] | None = None) -> Path:
    """Run all three parts and return the folder with the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for results")
    parser.add_argument("--quick", action="store_true", help="a short run that shows no result")
    options = parser.parse_args(arguments)
    quick, out = options.quick, options.out
    out.mkdir(parents=True, exist_ok=True)

    data = load_split(SEED)
    print(f"{len(data.train)} training and {len(data.test)} held-out digits", flush=True)
    gm, agreement = fit_mixture(data, 2 if quick else 10, out)
    print(f"mixture: bound {gm.lower_bound_:.2f} nats per image after {gm.n_iter_} iterations")

    n_importance = 20 if quick else 1000
    n_parameters = 2 * gm.means_.size + N_COMPONENTS - 1
    models = [
        Model(
            "Gaussian mixture, 10 components, EM",
            n_parameters,
            mixture_bound(gm, data.test, 32, SEED),
            mixture_log_probability(gm, data.test),
            "exact",
        )
    ]
    for latent_dim in (2, 10):
        trainer = train_vae(data, latent_dim, 2 if quick else 100)
        print(f"VAE, {latent_dim}-D latent: {trainer.epoch} epochs", flush=True)
        bound, estimate = evaluate_vae(trainer.vae, data.test, n_importance)
        size = sum(parameter.numel() for parameter in trainer.vae.parameters())
        how = f"importance-sampled, {n_importance} draws"
        models.append(Model(f"VAE, {latent_dim}-D latent, gradient", size, bound, estimate, how))
        if latent_dim == 2:
            draw_vae(data, trainer, gm, out)
    for model in models:
        assert model.bound.mean() < model.log_probability.mean(), f"{model.name}: no lower bound"

    repeats = 3 if quick else 25
    points = dequantise(data.train, np.random.default_rng(SEED))
    timings = time_em(points, min(repeats, 5), 2 if quick else 10) + time_loss(
        to_bits(data.train), [64, len(data.train)], repeats
    )
    versions = io.StringIO()
    with contextlib.redirect_stdout(versions):
        show_versions()
        if hasattr(os, "getloadavg"):
            print(f"load average  {os.getloadavg()[0]:.1f}, this run included")
    write_report(out / "digits.md", models, agreement, timings, versions.getvalue())
    print((out / "digits.md").read_text())
    print(f"Pictures and table: {out.resolve()}")
    return out


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        main()
