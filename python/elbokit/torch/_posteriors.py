"""Approximate posteriors of a VAE: what an encoder's output stands for."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from elbokit.torch._checks import check_generator, check_limits, check_non_negative
from elbokit.torch._encoder_output import as_posterior, encoder_outputs, listed
from elbokit.torch._gaussian_kl import (
    BATCH_REDUCTIONS,
    both_of_prior,
    clamped,
    gaussian_kl,
    gaussian_kl_terms,
)
from elbokit.torch._gaussian_kl_full import gaussian_kl_full
from elbokit.torch._noise import standard_normal
from elbokit.torch._reduction import computed_dtype, widened

__all__ = ["DiagonalPosterior", "FullPosterior", "Posterior"]

_LOG_2_PI = math.log(2 * math.pi)
Moments = tuple[Tensor | None, Tensor | None]


class Posterior:
    """A Gaussian q(z|x) given by two tensors, its means and its scale; base of such families.

    A family of one's own gives `n_outputs`, `parameters`, `transform`, `standardize`, `log_det`,
    `covariance` and `kl`. What is drawn and the densities are in float32 where the parameters
    are narrower, outside autocast: a density is that of the very point.
    """

    def n_outputs(self, latent_dim: int) -> int:
        """Return how many numbers for each sample an encoder has to emit."""
        raise NotImplementedError

    def parameters(self, encoded: Any, latent_dim: int) -> tuple[Tensor, Tensor]:
        """Return means and scale from an encoder's output; ValueError if it does not fit."""
        raise NotImplementedError

    def transform(self, noise: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Map standard normal noise of shape ([n,] n_samples, latent_dim) to latent points."""
        raise NotImplementedError

    def standardize(self, z: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Invert `transform`."""
        raise NotImplementedError

    def log_det(self, scale: Tensor) -> Tensor:
        """Logarithm of the determinant of `transform`, of shape (n_samples,)."""
        raise NotImplementedError

    def covariance(self, scale: Tensor) -> Tensor:
        """Return the covariances, (n_samples, latent_dim, latent_dim)."""
        raise NotImplementedError

    def kl(
        self,
        mu: Tensor,
        scale: Tensor,
        moments: Moments,
        free_bits: float = 0.0,
        reduction: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """KL to a diagonal Gaussian, and that floored at `free_bits`.

        Parameters
        ----------
        mu, scale : Tensor
            As `parameters` returns them.
        moments : pair of Tensor or None
            Means and log-variances of the Gaussian, None for 0.
        free_bits : float, default=0.0
            Least KL of each latent dimension.
        reduction : {"none", "sum", "batchmean"}
            One value per sample, the sum, or the average.
        """
        raise NotImplementedError

    def noise(
        self, mu: Tensor, n: int | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw standard normal noise of shape ([n,] *mu.shape)."""
        check_generator(generator)
        shape = mu.shape if n is None else (n, *mu.shape)
        return standard_normal(tuple(shape), mu, computed_dtype(mu), generator)

    def rsample(
        self,
        mu: Tensor,
        scale: Tensor,
        n: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw latent points, differentiable in the parameters.

        Parameters
        ----------
        mu : Tensor of shape (n_samples, latent_dim)
            Means.
        scale : Tensor
            As `parameters` returns it.
        n : int, optional
            Number of points of each sample; one, and no dimension for it, if not given.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        Tensor of shape ([n,] n_samples, latent_dim)
            In float32, or float64 if the means are.
        """
        return self.draw(mu, scale, n, generator=generator)[0]

    def draw(
        self,
        mu: Tensor,
        scale: Tensor,
        n: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the points of `rsample`, and the noise behind them."""
        noise = self.noise(mu, n, generator=generator)
        with _without_autocast(mu):
            return self.transform(noise, widened(mu), widened(scale)), noise

    def log_prob(self, z: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Log q(z|x) of z, ([n,] n_samples, latent_dim); of shape ([n,] n_samples)."""
        with _without_autocast(mu):
            noise = self.standardize(widened(z), widened(mu), widened(scale))
        return self.log_prob_of_noise(noise, scale)

    def log_prob_of_noise(self, noise: Tensor, scale: Tensor) -> Tensor:
        """Log q(z|x) of the points that `transform` makes of `noise`."""
        exponent = 0.5 * (widened(noise).square() + _LOG_2_PI).sum(-1)
        with _without_autocast(scale):
            return -exponent - self.log_det(widened(scale))


class DiagonalPosterior(Posterior):
    """N(mu, diag exp(logvar)); an encoder emits mu and logvar.

    Parameters
    ----------
    logvar_range : pair of float or None, optional
        Limits that the log-variances are clamped to, None for no limit. As of `torch.clamp`, the
        gradient is 0 outside of them.

    Raises
    ------
    TypeError, ValueError
        `logvar_range` is no pair of numbers, or empty.
    """

    logvar_range: tuple[float | None, float | None] | None = None

    def __init__(self, logvar_range: tuple[float | None, float | None] | None = None) -> None:
        check_limits("logvar_range", logvar_range)
        self.logvar_range = logvar_range

    def n_outputs(self, latent_dim: int) -> int:
        """Return ``2 * latent_dim``."""
        return 2 * latent_dim

    def parameters(self, encoded: Any, latent_dim: int) -> tuple[Tensor, Tensor]:
        """Return means and log-variances, (n_samples, latent_dim) each."""
        mu, logvar = as_posterior(encoded, latent_dim)
        return mu, clamped("logvar_range", logvar, self.logvar_range)

    def transform(self, noise: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Return mu + sigma * noise."""
        return mu + torch.exp(0.5 * scale) * noise

    def standardize(self, z: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Return (z - mu) / sigma."""
        return (z - mu) * torch.exp(-0.5 * scale)

    def log_det(self, scale: Tensor) -> Tensor:
        """Return the sum of the logarithms of sigma."""
        return 0.5 * scale.sum(-1)

    def covariance(self, scale: Tensor) -> Tensor:
        """Return diag exp(logvar)."""
        return torch.diag_embed(scale.exp())

    def kl(
        self,
        mu: Tensor,
        scale: Tensor,
        moments: Moments,
        free_bits: float = 0.0,
        reduction: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """KL to a diagonal Gaussian, and with each dimension's floored."""
        prior_mu, prior_logvar = moments
        if free_bits == 0:
            kl = gaussian_kl(mu, scale, prior_mu, prior_logvar, reduction=reduction)
            return kl, kl
        dtype = computed_dtype(mu)
        mu, scale = mu.to(dtype), scale.to(dtype)
        if prior_mu is not None or prior_logvar is not None:
            prior_mu, prior_logvar = both_of_prior(mu, prior_mu, prior_logvar)
        terms = mu, scale, prior_mu, prior_logvar
        return gaussian_kl_terms(*terms, free_bits=free_bits, reduction=BATCH_REDUCTIONS[reduction])


class FullPosterior(Posterior):
    """N(mu, L Lᵀ) with a lower triangular L.

    An encoder emits mu, the logarithms of L's diagonal, and the entries below it row by row, of
    which there are ``latent_dim * (latent_dim - 1) // 2``; or the pair of mu and L, of shape
    (n_samples, latent_dim, latent_dim).
    """

    def n_outputs(self, latent_dim: int) -> int:
        """Return ``2 * latent_dim + latent_dim * (latent_dim - 1) // 2``."""
        return 2 * latent_dim + latent_dim * (latent_dim - 1) // 2

    def parameters(self, encoded: Any, latent_dim: int) -> tuple[Tensor, Tensor]:
        """Return mu (n_samples, latent_dim) and L (n_samples, latent_dim, latent_dim)."""
        parts, shapes = encoder_outputs(encoded)
        k = latent_dim
        if len(parts) == 1 and shapes[0][1:] == (self.n_outputs(k),):
            # Low precision serves layers, not a factorisation.
            flat = parts[0].to(computed_dtype(parts[0]))
            mu, log_diagonal, below = torch.split(flat, [k, k, k * (k - 1) // 2], dim=1)
            row, column = torch.tril_indices(k, k, -1, device=flat.device)
            scale_tril = torch.diag_embed(log_diagonal.exp())
            return mu, scale_tril.index_put((_all(flat), row, column), below)
        n = shapes[0][:1] if shapes else ()
        if len(parts) == 2 and shapes == [(*n, k), (*n, k, k)]:
            dtype = computed_dtype(parts[0])
            return parts[0].to(dtype), parts[1].to(dtype)
        raise ValueError(
            f"`encoder` returned {listed(shapes)}, expected one tensor of shape "
            f"(n_samples, {self.n_outputs(k)}) or two of shapes (n_samples, {k}) and "
            f"(n_samples, {k}, {k})"
        )

    def transform(self, noise: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Return mu + L noise."""
        # The factor of a sample serves all of its points in one product, without copies of it.
        if noise.dim() == mu.dim() + 1:
            return mu + (noise.transpose(0, 1) @ scale.mT).transpose(0, 1)
        return mu + (scale @ noise[..., None])[..., 0]

    def standardize(self, z: Tensor, mu: Tensor, scale: Tensor) -> Tensor:
        """Return L⁻¹ (z - mu)."""
        centred = z - mu
        if centred.dim() == mu.dim() + 1:
            columns = centred.movedim(0, -1)
            return _solve(scale, columns).movedim(-1, 0)
        return _solve(scale, centred[..., None])[..., 0]

    def log_det(self, scale: Tensor) -> Tensor:
        """Return the sum of the logarithms of L's diagonal."""
        return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def covariance(self, scale: Tensor) -> Tensor:
        """Return L Lᵀ."""
        return scale @ scale.mT

    def kl(
        self,
        mu: Tensor,
        scale: Tensor,
        moments: Moments,
        free_bits: float = 0.0,
        reduction: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """KL to a diagonal Gaussian; it has no dimensions to floor."""
        if check_non_negative("free_bits", free_bits) > 0:
            raise ValueError(
                f"`free_bits` is {free_bits}, expected 0: the KL of a full posterior is no sum "
                "over dimensions"
            )
        prior_mu, prior_logvar = moments
        if prior_mu is not None or prior_logvar is not None:
            # In the coordinates in which the prior is N(0, I).
            mu, scale = widened(mu), widened(scale)
            prior_mu, prior_logvar = both_of_prior(mu, prior_mu, prior_logvar)
            precision = torch.exp(-0.5 * prior_logvar)
            mu, scale = (mu - prior_mu) * precision, scale * precision[..., None]
        kl = gaussian_kl_full(mu, scale, reduction=reduction)
        return kl, kl


def _without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Keep products of float32 on the device of `tensor` from being narrowed."""
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _solve(lower: Tensor, columns: Tensor) -> Tensor:
    solved: Tensor = torch.linalg.solve_triangular(lower, columns, upper=False)
    return solved


def _all(x: Tensor) -> Tensor:
    """Return an index of all rows that broadcasts against others."""
    return torch.arange(len(x), device=x.device)[:, None]
