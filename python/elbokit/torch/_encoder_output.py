"""What an encoder returned: tensors, and a diagonal posterior's parameters in them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["as_posterior", "encoder_outputs", "listed"]


def encoder_outputs(encoded: Any) -> tuple[list[Tensor], list[Any]]:
    """Return the tensors of an encoder's output, and their shapes (or types, for an error)."""
    parts = list(encoded) if isinstance(encoded, (tuple, list)) else [encoded]
    return parts, [
        tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts
    ]


def listed(shapes: list[Any]) -> str:
    """Return the shapes that an encoder returned, for an error."""
    return ", ".join(map(str, shapes)) or "no tensors"


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
    parts, shapes = encoder_outputs(encoded)
    if len(parts) == 1 and shapes[0][1:] == (2 * latent_dim,):
        mu, logvar = parts[0].chunk(2, dim=1)
        return mu, logvar
    if len(parts) == 2 and shapes[0] == shapes[1] == (*shapes[0][:1], latent_dim):
        return parts[0], parts[1]
    raise ValueError(
        f"`encoder` returned {listed(shapes)}, expected one tensor of shape "
        f"(n_samples, {2 * latent_dim}) or two of shape (n_samples, {latent_dim})"
    )
