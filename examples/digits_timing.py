"""Wall time beside the peers: same work, same process, turn by turn; answers before times."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch.nn import functional as F

from elbokit import GaussianMixture
from elbokit.torch import vae_loss


class Timing(NamedTuple):
    """Median seconds of the work and of its peer, and how far their answers differ."""

    work: str
    seconds: float
    peer_seconds: float
    difference: float


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Return the median seconds of one call of each, taken in turns after a warm-up.

    Short work is called often enough for a turn to last some 20 ms.
    """
    ours(), peer()
    start = time.perf_counter()
    ours(), peer()
    calls = max(1, int(0.04 / (time.perf_counter() - start)))
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, times in zip((ours, peer), samples, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            times.append((time.perf_counter() - start) / calls)
    return float(np.median(samples[0])), float(np.median(samples[1]))


def time_em(X: np.ndarray, repeats: int, n_iter: int) -> list[Timing]:
    """Time `n_iter` EM iterations from one given start against scikit-learn."""
    n_features, k = X.shape[1], 10
    scale = 1.0 / X.var(axis=0).mean()
    precisions = {
        "full": np.tile(scale * np.eye(n_features), (k, 1, 1)),
        "tied": scale * np.eye(n_features),
        "diag": np.full((k, n_features), scale),
        "spherical": np.full(k, scale),
    }
    timings = []
    for covariance_type, precision in precisions.items():
        arguments = {
            "n_components": k,
            "covariance_type": covariance_type,
            "weights_init": np.full(k, 1 / k),
            "means_init": X[:k],
            "precisions_init": precision,
            "reg_covar": 1e-2,
            "max_iter": n_iter,
            "tol": 0.0,
        }
        ours, peer = GaussianMixture(**arguments), SklearnMixture(**arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0 never converges
            expected = peer.fit(X).means_
            difference = float(np.abs(ours.fit(X).means_ - expected).max() / np.abs(expected).max())
            assert difference < 1e-6, f"{covariance_type}: means differ by {difference}"
            seconds = interleaved(lambda o=ours: o.fit(X), lambda p=peer: p.fit(X), repeats)
        work = f"{n_iter} EM iterations, {covariance_type}, {len(X)} × {n_features}, {k} components"
        timings.append(Timing(work, *seconds, difference))
    return timings


def plain_loss(
    logits: torch.Tensor, target: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor
) -> torch.Tensor:
    """Return the negative bound as it is usually written in torch."""
    reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (reconstruction + kl) / len(logits)


def time_loss(bits: np.ndarray, batch_sizes: list[int], repeats: int) -> list[Timing]:
    """Time the loss and its gradients against plain torch, in float32."""
    generator = torch.Generator().manual_seed(0)
    timings = []
    for n in batch_sizes:
        target = torch.from_numpy(bits[:n]).flatten(1)
        shapes = (target.shape, (n, 2), (n, 2))
        inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]

        def ours(inputs=inputs, target=target):
            loss = vae_loss(inputs[0], target, *inputs[1:]).loss
            return loss, *torch.autograd.grad(loss, inputs)

        def peer(inputs=inputs, target=target):
            loss = plain_loss(inputs[0], target, *inputs[1:])
            return loss, *torch.autograd.grad(loss, inputs)

        difference = max(
            float(((a - b).abs().max() / b.abs().max()).detach())
            for a, b in zip(ours(), peer(), strict=True)
        )
        assert difference < 1e-5, f"batch of {n}: losses or gradients differ by {difference}"
        seconds = interleaved(ours, peer, repeats)
        work = f"VAE loss and gradients, batch of {n} × {target.shape[1]} bits"
        timings.append(Timing(work, *seconds, difference))
    return timings
