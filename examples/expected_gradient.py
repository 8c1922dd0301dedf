"""EM and its gradient twin: one mixture fitted to the iris data both ways, from one start.

    python examples/expected_gradient.py [folder]

The gradient of log p(x) is the components' own, weighted by the responsibilities (the expected
gradient). EM solves for the parameters where it vanishes, at fixed responsibilities; here Adam
follows it, with unconstrained parameters: softmax weights, means, and Cholesky factors of the
precisions with the logarithms of their diagonals. Writes a picture to the folder,
out/expected_gradient unless told otherwise, and prints a table.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_iris

from elbokit import GaussianMixture, ops
from elbokit.plot import bound_curves
from elbokit.torch import gmm_log_prob

N_COMPONENTS = 3
N_STEPS = 600
LEARNING_RATE = 0.03


class Start(NamedTuple):
    """Weights, means, and upper triangular Cholesky factors of the precisions."""

    weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray


def start_from_kmeans(X: np.ndarray) -> Start:
    """Return the moments of the clusters of k-means."""
    labels = ops.kmeans(X, N_COMPONENTS, random_state=0).labels
    groups = [X[labels == k] for k in range(N_COMPONENTS)]
    roots = [np.linalg.cholesky(np.cov(g.T)) for g in groups]
    return Start(
        np.array([len(g) / len(X) for g in groups]),
        np.array([g.mean(0) for g in groups]),
        np.array([np.linalg.inv(r).T for r in roots]),
    )


def em_bounds(X: np.ndarray, start: Start) -> np.ndarray:
    """Return the bound after each iteration of EM, until it stands still."""
    gm = GaussianMixture(
        N_COMPONENTS,
        tol=1e-9,
        max_iter=1000,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.factors @ start.factors.swapaxes(1, 2),
    ).fit(X)
    return np.asarray(gm.lower_bounds_)


def gradient_bounds(X: np.ndarray, start: Start) -> np.ndarray:
    """Return the bound before each step of Adam from the same start."""
    x = torch.as_tensor(X)
    logits = torch.as_tensor(start.weights).log()
    means = torch.as_tensor(start.means).clone()
    upper = torch.as_tensor(start.factors).clone()
    log_diagonal = upper.diagonal(0, 1, 2).log()
    parameters = [p.requires_grad_() for p in (logits, means, log_diagonal, upper)]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    bounds = np.empty(N_STEPS)
    for step in range(N_STEPS):
        factors = torch.diag_embed(log_diagonal.exp()) + upper.triu(1)
        bound = gmm_log_prob(x, logits.softmax(0), means, factors).mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        schedule.step()
        bounds[step] = bound.item()
    return bounds


def main(folder: Path) -> None:
    """Fit twice, compare, draw."""
    X = load_iris().data
    X = (X - X.mean(0)) / X.std(0)
    start = start_from_kmeans(X)
    begin = time.perf_counter()
    em = em_bounds(X, start)
    middle = time.perf_counter()
    eg = gradient_bounds(X, start)
    end = time.perf_counter()

    print(f"{'':8}{'steps':>8}{'bound':>10}{'to EM':>11}{'ms':>8}")
    print(f"{'EM':8}{len(em):8d}{em[-1]:10.5f}{'':11}{1e3 * (middle - begin):8.0f}")
    for step in (1, 10, 30, 100, 300):
        print(f"{'EG':8}{step:8d}{eg[step - 1]:10.5f}{eg[step - 1] - em[-1]:+11.1e}")
    print(f"{'EG':8}{len(eg):8d}{eg[-1]:10.5f}{eg[-1] - em[-1]:+11.1e}{1e3 * (end - middle):8.0f}")

    ax = bound_curves({"EM": em, "EG: Adam on the gradient": eg}, xlabel="iteration or step")
    ax.axhline(em[-1], color="0.4", lw=0.9, ls="--", zorder=0)
    ax.annotate(
        f"EM's last bound: {em[-1]:.3f}",
        (1, em[-1]),
        xytext=(0, 4),
        textcoords="offset points",
        color="0.3",
        fontsize=9,
    )
    ax.set_xscale("log")
    ax.margins(y=0.1)
    ax.set_title(f"Iris, {N_COMPONENTS} full components, one start", fontsize=11)
    ax.legend(frameon=False, loc="lower right")
    folder.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(folder / "bounds.png")
    print(f"\npicture: {folder / 'bounds.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/expected_gradient"))
