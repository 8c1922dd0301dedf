"""Four comparisons of VAEs on digits, in numbers and pictures.

(1) the classic VAE program with only its loss line changed, (2) a linear-Gaussian VAE, whose exact
log-likelihood is known, (3) a deterministic autoencoder with the VAE's networks, (4) collapse, and
what free bits do about it. Pictures and the table go to one folder:

    python examples/vae_comparisons.py [--out out/vae_comparisons] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from digits_data import N_LEVELS, load_split
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.nn import functional as F
from vae_comparisons_plot import (
    Section,
    Work,
    draw_autoencoder,
    draw_classic,
    draw_collapse,
    draw_linear_gaussian,
    write_report,
)

from elbokit import show_versions
from elbokit.torch import VAE, GaussianLikelihood, VAEStatistics, VAETrainer, vae_loss

SEED = 0

# --- 1: the classic program -----------------------------------------------------------------------


class ClassicVAE(nn.Module):
    """One hidden layer of 400 on each side of 20 latent dimensions; the decoder emits logits."""

    def __init__(self, n_pixels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_pixels, 400)
        self.mu, self.logvar = nn.Linear(400, 20), nn.Linear(400, 20)
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, n_pixels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.hidden(x))
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar


def plain_loss(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") + KLD


def fused_loss(logits: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return vae_loss(logits, x, mu, logvar, reduction="sum").loss


LOSSES = (plain_loss, fused_loss)


def train(
    parameters: Iterable[nn.Parameter], loss: Callable[[Tensor], Tensor], X: Tensor, epochs: int
) -> list[float]:
    """Train with Adam on a loss summed over a batch; return its mean per image of each epoch."""
    torch.manual_seed(SEED)
    order = torch.Generator().manual_seed(SEED)  # its own: not every model draws noise
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    curve = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(X), generator=order).split(64):
            value = loss(X[rows])
            optimizer.zero_grad()
            (value / len(rows)).backward()
            optimizer.step()
            total += value.item()
        curve.append(total / len(X))
    return curve


def in_turns(functions: list[Callable[[], object]], repeats: int) -> np.ndarray:
    """Return seconds of single calls, (n, n_functions); who comes first changes.

    On a busy machine n is less than `repeats`, and at least a tenth: it ends after some 4 seconds.
    """
    for function in functions * 3:
        function()
    seconds: list[list[float]] = []
    end = time.perf_counter() + 4.0
    while len(seconds) < repeats:
        if time.perf_counter() > end and 10 * len(seconds) >= repeats:
            break
        row = [0.0] * len(functions)
        for j in range(len(functions))[:: 1 if len(seconds) % 2 else -1]:
            start = time.perf_counter()
            functions[j]()
            row[j] = time.perf_counter() - start
        seconds.append(row)
    return np.array(seconds)


def time_classic(n: int, n_threads: int, repeats: int) -> dict[Work, np.ndarray]:
    """Time whole steps, and the loss with its gradients alone, on 784 synthetic pixels."""
    x = torch.rand(n, 784, generator=torch.Generator().manual_seed(SEED))
    steps, losses, answers = [], [], []
    for loss in LOSSES:
        torch.manual_seed(SEED)
        model = ClassicVAE(784)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        output = [t.detach().requires_grad_() for t in model(x)]

        def alone(output=output, loss=loss):
            return torch.autograd.grad(loss(output[0], x, *output[1:]), output)

        def step(model=model, optimizer=optimizer, loss=loss):
            logits, mu, logvar = model(x)
            value = loss(logits, x, mu, logvar)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        torch.manual_seed(SEED)
        logits, mu, logvar = model(x)
        answers.append(torch.autograd.grad(loss(logits, x, mu, logvar), list(model.parameters())))
        steps.append(step)
        losses.append(alone)
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    times = {}
    for threads in sorted({1, n_threads}):
        torch.set_num_threads(threads)  # elbokit's losses run on torch's threads
        times[Work("whole step", n, threads)] = in_turns(steps, repeats)
        times[Work("loss, gradients alone", n, threads)] = in_turns(losses, repeats)
    torch.set_num_threads(1)
    return times


def classic_curves(X: Tensor, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training loss of each epoch with either loss line, in the dtype of X."""
    curves = []
    for loss in LOSSES:
        torch.manual_seed(SEED)
        model = ClassicVAE(X.shape[1]).to(X.dtype)

        def of_batch(x, model=model, loss=loss):
            logits, mu, logvar = model(x)
            return loss(logits, x, mu, logvar)

        curves.append(np.array(train(model.parameters(), of_batch, X, epochs)))
    return curves[0], curves[1]


def classic(X: Tensor, out: Path, quick: bool, n_threads: int) -> Section:
    epochs = 2 if quick else 30
    curves = classic_curves(X, epochs)
    plain, fused = classic_curves(X.double(), epochs)
    in_double = np.abs(fused - plain).max()
    assert in_double < 1e-6, f"the curves differ by {in_double} in float64"
    times: dict[Work, np.ndarray] = {}
    for n, repeats in ((128, 200), (1024, 60)):
        times |= time_classic(n, n_threads, 5 if quick else repeats)
    draw_classic(*curves, times, out / "classic.png")

    difference = np.abs(curves[1] - curves[0])
    last = [f"{curve[-1]:.4f}" for curve in curves]
    rows = [
        (f"training loss, epoch {epochs} (nats per image)", *last, ""),
        ("largest difference in any epoch (nats per image)", "", f"{difference.max():.1e}", ""),
        ("the same in float64", "", f"{in_double:.1e}", ""),
    ]
    for work, seconds in times.items():
        low, ratio, high = np.percentile(seconds[:, 0] / seconds[:, 1], (25, 50, 75))
        medians = [f"{1e3 * t:.2f} ms" for t in np.median(seconds, axis=0)]
        name = f"{work.name}, {work.n:,} × 784, {work.on}"
        rows.append((name, *medians, f"{ratio:.2f} ({low:.2f} to {high:.2f})"))
    columns = "plain torch", "`vae_loss`", "plain ÷ `vae_loss`"
    return Section("1. The classic program, its loss line changed", columns, rows)


# --- 2: the linear-Gaussian VAE -------------------------------------------------------------------


class LinearPosterior(nn.Module):
    """Means linear in x and one factor for all x: the family that holds the exact posterior."""

    def __init__(self, n_features: int, latent_dim: int) -> None:
        super().__init__()
        self.mu = nn.Linear(n_features, latent_dim)
        self.factor = nn.Parameter(torch.zeros(latent_dim * (latent_dim + 1) // 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mu(x), self.factor.expand(len(x), -1)], 1)


def exact_terms(vae: VAE, X: Tensor) -> tuple[float, float, float]:
    """Return means over X of log p(x), of the bound, and of KL(q(z|x) || p(z|x)), all exact.

    The three come by three ways: the density of N(b, W Wᵀ + s² I); the expectation under q in
    closed form less the KL to the prior; and the posterior of the linear model.
    """
    W, b, s2 = vae.decoder.weight, vae.decoder.bias, vae.likelihood.logvar.exp()
    n_features, latent_dim = W.shape
    covariance = W @ W.T + s2 * torch.eye(n_features, dtype=W.dtype)
    log_likelihood = MultivariateNormal(b, covariance).log_prob(X)

    mu, factor = vae.encode(X)
    spread = (W @ factor).square().sum((1, 2))
    squares = (X - vae.decoder(mu)).square().sum(1) + spread
    expected = -0.5 * (squares / s2 + n_features * torch.log(2 * math.pi * s2))
    bound = expected - vae.divergence(mu, factor, mu)[0]

    precision = torch.eye(latent_dim, dtype=W.dtype) + W.T @ W / s2
    mean = torch.linalg.solve(precision, W.T @ (X - b).T / s2).T
    posterior = MultivariateNormal(mean, precision_matrix=precision)
    kl = kl_divergence(MultivariateNormal(mu, scale_tril=factor), posterior)
    return float(log_likelihood.mean()), float(bound.mean()), float(kl.mean())


def linear_gaussian(X: Tensor, out: Path, quick: bool) -> Section:
    X, latent_dim, n_steps = X.double(), 5, 20 if quick else 2000
    n_features = X.shape[1]
    torch.manual_seed(SEED)
    vae = VAE(
        latent_dim=latent_dim,
        encoder=LinearPosterior(n_features, latent_dim),
        decoder=nn.Linear(latent_dim, n_features),
        likelihood="gaussian",
        posterior="full",
    ).double()
    # Maximum likelihood of PPCA (Tipping and Bishop 1999): the noise is the mean of the discarded
    # eigenvalues.
    eigenvalues = torch.linalg.eigvalsh(torch.cov(X.T, correction=0)).flip(0)
    noise = eigenvalues[latent_dim:].mean()
    logs = eigenvalues[:latent_dim].log().sum() + (n_features - latent_dim) * noise.log()
    best = float(-0.5 * (n_features * math.log(2 * math.pi) + logs + n_features))

    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    measured = {0, *np.geomspace(1, n_steps, 50).astype(int).tolist()}
    steps, terms = [], []
    for step in range(n_steps + 1):
        if step in measured:
            steps.append(step)
            with torch.no_grad():
                terms.append(exact_terms(vae, X))
        if step < n_steps:
            optimizer.zero_grad()
            vae.loss(X).loss.backward()
            optimizer.step()
            schedule.step()
    log_likelihood, bound, kl = np.array(terms).T
    draw_linear_gaussian(steps, log_likelihood, bound, kl, best, out / "linear_gaussian.png")

    gap = log_likelihood - bound
    error = np.abs(gap - kl).max()
    assert error < 1e-6, f"gap and KL differ by {error}"
    assert log_likelihood.max() <= best + 1e-9, "more than maximum likelihood"
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        draws = [float(vae.elbo(X, 8, generator=generator).mean()) for _ in range(16)]
    sampled = f"{np.mean(draws):.3f} ± {np.std(draws, ddof=1) / 4:.3f}"
    rows = [
        ("exact log p(x)", f"{log_likelihood[0]:.3f}", f"{log_likelihood[-1]:.3f}", f"{best:.3f}"),
        ("bound, in closed form", f"{bound[0]:.3f}", f"{bound[-1]:.3f}", f"{best:.3f}"),
        ("bound, sampled (`vae.elbo`, 128 draws)", "", sampled, ""),
        ("gap: log p(x) − bound", f"{gap[0]:.6f}", f"{gap[-1]:.6f}", "0"),
        ("KL of q to the exact posterior", f"{kl[0]:.6f}", f"{kl[-1]:.6f}", "0"),
        (f"largest difference of gap and KL, {len(gap)} times", "", f"{error:.1e}", "0"),
    ]
    columns = "untrained", f"after {n_steps:,} steps", "maximum likelihood (PPCA)"
    return Section("2. Linear-Gaussian VAE (nats per image)", columns, rows)


# --- 3: autoencoder and VAE -----------------------------------------------------------------------


def kl_of_fit(codes: Tensor) -> float:
    """Return the KL of the Gaussian of the codes' moments to N(0, I)."""
    covariance, squares = torch.cov(codes.T, correction=0), codes.mean(0).square().sum()
    excess = covariance.trace() + squares - len(covariance) - covariance.logdet()
    return float(0.5 * excess)


def autoencoder(X: Tensor, X_test: Tensor, out: Path, quick: bool) -> Section:
    latent_dim, epochs = 10, 2 if quick else 80
    models = []
    for _ in range(2):
        torch.manual_seed(SEED)
        # Near the noise that it ends with: Adam would be long on the way from a variance of 1.
        likelihood = GaussianLikelihood("learned", logvar=-3.0)
        models.append(VAE(64, latent_dim, (256, 128), likelihood=likelihood))
    ae, vae = models

    def squared_error(x: Tensor) -> Tensor:
        mu, _ = ae.encode(x)  # no noise, no KL, the second half of the encoder's output unused
        return (ae.decoder(mu) - x).square().sum()

    train(ae.parameters(), squared_error, X, epochs)
    train(vae.parameters(), lambda x: vae.loss(x, reduction="sum").loss, X, epochs)

    generator = torch.Generator().manual_seed(SEED)
    z = torch.randn(1000, latent_dim, generator=generator)
    with torch.no_grad():
        reconstructed = [model.reconstruct(X_test) for model in models]
        sampled = [model.decode(z) for model in models]
        mu, logvar = vae.encode(X_test)
        codes = [ae.encode(X_test)[0], vae.reparameterize(mu, logvar, generator=generator)]
    draw_autoencoder(X_test, reconstructed, sampled, out / "autoencoder.png")

    fits = [kl_of_fit(c) for c in (*codes, z[: len(X_test)])]
    errors = [float((r - X_test).square().mean().sqrt()) for r in (*reconstructed, X.mean(0))]
    nearest = [float(torch.cdist(s, X).min(1).values.mean()) for s in (*sampled, X_test)]
    rows = [
        ("reconstruction, RMS error of a pixel", *(f"{e:.4f}" for e in errors[:2])),
        ("KL of a Gaussian fitted to the codes to N(0, I) (nats)", *(f"{k:.2f}" for k in fits[:2])),
        ("1,000 decoded z: distance to nearest training image", *(f"{d:.3f}" for d in nearest[:2])),
    ]
    references = (
        f"{errors[2]:.4f} (mean training image)",
        f"{fits[2]:.2f} (as many z from N(0, I))",
        f"{nearest[2]:.3f} (held-out images)",
    )
    rows = [(*row, reference) for row, reference in zip(rows, references, strict=True)]
    columns = "autoencoder", "VAE", "for reference"
    return Section("3. Deterministic autoencoder and VAE, held-out digits", columns, rows)


# --- 4: collapse ----------------------------------------------------------------------------------


def collapse(X: Tensor, X_test: Tensor, out: Path, quick: bool) -> Section:
    latent_dim, free_bits = 20, 0.25
    settings = {
        "β = 4": {"beta": 4.0},
        f"β = 4, free bits {free_bits} nats": {"beta": 4.0, "free_bits": free_bits},
        "β = 1": {"beta": 1.0},
    }
    kls, cells = {}, []
    for name, options in settings.items():
        torch.manual_seed(SEED)
        vae = VAE(64, latent_dim, (128,))
        epochs = 2 if quick else 60
        VAETrainer(vae, max_epochs=epochs, batch_size=64, seed=SEED, progress=False, **options).fit(
            X
        )
        statistics = VAEStatistics()
        generator = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            output = vae(X_test, generator=generator)
            vae_loss(output.logits, X_test, output.mu, output.logvar, statistics=statistics)
            bound = float(vae.elbo(X_test, n_samples=32, generator=generator).mean())
        kls[name] = statistics.kl_per_dimension.numpy()
        kl = float(kls[name].sum())
        cells.append(
            (str(int(statistics.active_units())), f"{kl:.3f}", f"{-bound - kl:.2f}", f"{bound:.2f}")
        )
    draw_collapse(kls, free_bits, [cell[0] for cell in cells], out / "collapse.png")
    names = (
        f"active units of {latent_dim}",
        "KL, all dimensions (nats)",
        "reconstruction: cross-entropy (nats)",
        "bound at β = 1 (nats)",
    )
    rows = [(name, *row) for name, row in zip(names, zip(*cells, strict=True), strict=True)]
    columns = tuple(settings)
    return Section("4. Collapse and free bits, held-out digits", columns, rows)


def main(arguments: list[str] | None = None) -> Path:
    """Run all four and return the folder with the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("out/vae_comparisons"), help="folder for results"
    )
    parser.add_argument("--quick", action="store_true", help="a short run that shows no result")
    options = parser.parse_args(arguments)
    quick, out = options.quick, options.out
    out.mkdir(parents=True, exist_ok=True)

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks as small as these gain nothing from more
    data = load_split(SEED)
    X, X_test = (torch.from_numpy(x / N_LEVELS).float() for x in (data.train, data.test))
    start = time.perf_counter()
    sections = []
    for run in (
        lambda: classic(X, out, quick, n_threads),
        lambda: linear_gaussian(X, out, quick),
        lambda: autoencoder(X, X_test, out, quick),
        lambda: collapse(X, X_test, out, quick),
    ):
        sections.append(run())
        print(f"{time.perf_counter() - start:5.1f} s  {sections[-1].title}", flush=True)
    torch.set_num_threads(n_threads)
    versions = io.StringIO()
    with contextlib.redirect_stdout(versions):
        show_versions()
        if hasattr(os, "getloadavg"):
            print(f"load average  {os.getloadavg()[0]:.1f}, this run included")
    write_report(out / "vae_comparisons.md", sections, versions.getvalue())
    print((out / "vae_comparisons.md").read_text(encoding="utf-8"))
    print(f"Pictures and table: {out}")
    return out


if __name__ == "__main__":
    main()
