"""What a trained latent-variable model is asked: data, reconstructions, bounds."""

from __future__ import annotations

import torch
from torch import Tensor

from elbokit.torch._checks import (
    check_densities,
    check_generator,
    check_is_tensor,
    check_positive_int,
    check_same_shape,
)
from elbokit.torch._importance import importance_log_likelihood
from elbokit.torch._latent_model import LatentModel
from elbokit.torch._masks import given, present
from elbokit.torch._networks import check_fits_parameters, narrowed
from elbokit.torch._reduction import computed_dtype

__all__ = ["GenerativeModel"]

# Decoder outputs held at once by the estimates that draw many latent samples.
_MAX_DECODED_ROWS = 8192


class GenerativeModel(LatentModel):
    """A `LatentModel` with the methods of a `VAE` that use its networks."""

    def decode(self, z: Tensor) -> Tensor:
        """Means of the data at latent points.

        Parameters
        ----------
        z : Tensor of shape (n, latent_dim)
            Latent points, of the dtype of the decoder's parameters, or in float32 if these are
            narrower.

        Returns
        -------
        Tensor of shape (n, ...)
            Probabilities, or the means of a Gaussian likelihood; for classes their probabilities,
            (n, n_classes, ...).

        Raises
        ------
        TypeError, ValueError
            `z` is no tensor, or not of that shape, or as `encode`.
        """
        check_is_tensor("z", z)
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"`z` has shape {tuple(z.shape)}, expected (n, {self.latent_dim})")
        if self._event_shape is not None:
            check_fits_parameters("z", narrowed(z, self.decoder), self.decoder)
        return self.likelihood.mean(self._decoded(z))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Decode the posterior means of data.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data.
        mask : Tensor, optional
            Which of them are there, as for `encode`; the others are filled in.

        Returns
        -------
        Tensor of the shape of `x`
            As `decode`; for classes their probabilities, (n_samples, n_classes, ...).
        """
        return self.decode(self.encode(*given(x, mask))[0])

    @torch.no_grad()
    def sample(
        self, n: int, *, generator: torch.Generator | None = None, mean: bool = True
    ) -> Tensor:
        """Decode latent points drawn from the prior.

        Parameters
        ----------
        n : int
            Number of points.
        generator : torch.Generator, optional
            Source of the points, and of the data.
        mean : bool, default=True
            Whether to return the means of the data, as `decode`, or else draw data.

        Returns
        -------
        Tensor of shape (n, ...)
            Means (probabilities), or data.
        """
        n = check_positive_int("n", n)
        check_generator(generator)
        z = self.prior.sample(n, generator=generator).to(self._like())
        if mean:
            return self.decode(z)
        return self.likelihood.sample(self._decoded(z), generator=generator)

    @torch.no_grad()
    def interpolate(self, x0: Tensor, x1: Tensor, n_steps: int = 8) -> Tensor:
        """Decode the straight lines between the posterior means of two batches.

        Parameters
        ----------
        x0, x1 : Tensor of shape (n_samples, ...)
            Where the lines begin and end.
        n_steps : int, default=8
            Number of points on each line, ends included.

        Returns
        -------
        Tensor of shape (n_steps, n_samples, ...)
            Probabilities.
        """
        n_steps = check_positive_int("n_steps", n_steps)
        check_same_shape("x1", x1, "x0", x0)
        z0, z1 = self.encode(x0)[0], self.encode(x1)[0]
        t = torch.linspace(0.0, 1.0, n_steps, dtype=z0.dtype, device=z0.device)
        z = torch.lerp(z0, z1, t[:, None, None])
        decoded = self.decode(z.reshape(-1, self.latent_dim))
        return decoded.reshape(n_steps, len(x0), *decoded.shape[1:])

    def elbo(
        self,
        x: Tensor,
        n_samples: int = 1,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Estimate the bound of each sample, an average over latent samples.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, as for `encode`.
        n_samples : int, default=1
            Latent samples for each row of `x`, decoded one after another.
        mask : Tensor, optional
            Which elements of `x` are there, as for `loss`.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        Tensor of shape (len(x),)
            E_q[log p(x|z)] − KL, in nats; differentiable. The KL is in closed form if the prior is
            a Gaussian, and else averaged over the samples too.
        """
        n_samples = check_positive_int("n_samples", n_samples)
        mask = None if mask is None else present(mask, x)
        mu, logvar = self.encode(*given(x, mask))
        closed = self.prior.moments() is not None
        bound = torch.zeros((), dtype=computed_dtype(mu), device=mu.device)
        for i in range(n_samples):
            z = self.reparameterize(mu, logvar, generator=generator)
            bound = bound + self._log_prob(x, z, mask) / n_samples
            if i == 0 or not closed:
                kl, _ = self.divergence(mu, logvar, z)
                bound = bound - (kl if closed else kl / n_samples)
        return bound

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        n_samples: int = 1000,
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        max_rows: int = _MAX_DECODED_ROWS,
    ) -> Tensor:
        r"""Estimate log p(x) of each sample by importance sampling from the posterior.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, as for `encode`.
        n_samples : int, default=1000
            Latent samples for each row of `x`.
        mask : Tensor, optional
            Which elements of `x` are there, as for `loss`: log p of these is estimated.
        generator : torch.Generator, optional
            Source of the noise.
        max_rows : int, default=8192
            Decoder outputs held at once; bounds the memory.

        Returns
        -------
        Tensor of shape (len(x),)
            Log-likelihoods in nats. The expectation of the estimate lies between the ELBO
            (``n_samples=1``) and log p(x), and rises with `n_samples` [1]_.

        Notes
        -----
        .. math:: \log \frac1S \sum_s p(x|z_s)\, p(z_s) / q(z_s|x), \qquad z_s \sim q(z|x).

        References
        ----------
        .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
           arXiv:1509.00519.
        """
        check_is_tensor("x", x)
        n_samples = check_positive_int("n_samples", n_samples)
        max_rows = check_positive_int("max_rows", max_rows)

        mask = None if mask is None else present(mask, x)

        def estimate(rows: Tensor, there: Tensor | None) -> Tensor:
            mu, scale = self.encode(*given(rows, there))

            def log_prob(pairs: Tensor, z: Tensor) -> Tensor:
                if there is None:
                    return self._log_prob(pairs, z)
                size = len(pairs) // max(1, len(rows))
                return self._log_prob(pairs, z, there.expand(size, *there.shape).flatten(0, 1))

            def sample(_: Tensor, size: int) -> tuple[Tensor, Tensor]:
                z, noise = self.posterior.draw(mu, scale, size, generator=generator)
                return z, self.posterior.log_prob_of_noise(noise, scale)

            return importance_log_likelihood(
                log_prob,
                rows,
                sample,
                n_samples,
                log_prior=self.prior.log_prob,
                max_rows=max_rows,
            )

        parts = torch.split(x, max_rows)
        masks = [None] * len(parts) if mask is None else torch.split(mask, max_rows)
        return torch.cat([estimate(*part) for part in zip(parts, masks, strict=True)])

    def _log_prob(self, x: Tensor, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log p(x|z) of each row."""
        decoded = self._decoded(z)
        if mask is not None:
            return -self._reconstruction(decoded, x, "none", mask)
        log_prob = self.likelihood.log_prob(decoded, x)
        return check_densities(log_prob, "likelihood.log_prob", len(x))
