"""Dense networks, and what an encoder of any kind must return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["as_posterior", "check_fits_parameters", "dense"]


def dense(sizes: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Return linear layers between the given sizes, an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def check_fits_parameters(name: str, tensor: Tensor, network: nn.Module) -> None:
    """Raise TypeError unless `tensor` has the dtype of the parameters of a dense network."""
    parameter = next(network.parameters(), None)  # a quantised network has none
    if (
        parameter is not None
        and tensor.dtype != parameter.dtype
        and not torch.is_autocast_enabled(tensor.device.type)
    ):
        raise TypeError(
            f"`{name}` has dtype {tensor.dtype}, expected {parameter.dtype} as the parameters"
        )


def as_posterior(encoded: Any, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Return the means and log-variances in an encoder's output.

    Parameters
    ----------
    encoded : Tensor of shape (n_samples, 2 * latent_dim) or pair of (n_samples, latent_dim)
        Means first.
    latent_dim : int
        Dimension of the latent space.

    Returns
    -------
    mu, logvar : Tensor of shape (n_samples, latent_dim)

    Raises
    ------
    ValueError
        `encoded` is neither.
    """
    parts = encoded if isinstance(encoded, (tuple, list)) else [encoded]
    shapes = [
        tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]
    if len(parts) == 1 and shapes[0][1:] == (2 * latent_dim,):
        mu, logvar = parts[0].chunk(2, dim=1)
        return mu, logvar
    if len(parts) == 2 and shapes[0] == shapes[1] == (*shapes[0][:1], latent_dim):
        return parts[0], parts[1]
    raise ValueError(
        f"`encoder` returned {', '.join(map(str, shapes))}, expected one tensor of shape "
        f"(n_samples, {2 * latent_dim}) or two of shape (n_samples, {latent_dim})"
    )
