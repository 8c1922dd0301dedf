"""A variational autoencoder with a Bernoulli decoder and a diagonal Gaussian posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from elbokit.torch._bernoulli import bernoulli_loss
from elbokit.torch._checks import (
    check_is_tensor,
    check_positive_int,
    check_same_shape,
    check_tensors,
)
from elbokit.torch._gaussian_kl import gaussian_kl
from elbokit.torch._importance import importance_log_likelihood
from elbokit.torch._networks import as_posterior, check_fits_parameters, dense
from elbokit.torch._vae_loss import VAELossOutput, vae_loss

__all__ = ["VAE", "VAEOutput"]

# Decoder outputs held at once by the estimates that draw many latent samples.
_MAX_DECODED_ROWS = 8192


class VAEOutput(NamedTuple):
    """One pass through a `VAE`.

    Attributes
    ----------
    logits : Tensor of shape (n_samples, ...)
        Output of the decoder.
    mu, logvar : Tensor of shape (n_samples, latent_dim)
        Means and log-variances of the posterior.
    z : Tensor of shape (n_samples, latent_dim)
        The sample that was decoded.
    """

    logits: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


class VAE(nn.Module):
    r"""Variational autoencoder for data in [0, 1].

    Give `n_features` for dense networks, or an `encoder` and a `decoder` of your own.

    Parameters
    ----------
    n_features : int, optional
        Number of features of the dense networks.
    latent_dim : int, default=2
        Dimension of the latent space.
    hidden : sequence of int, default=(256, 128)
        Layer sizes of the dense encoder; the decoder has them in reverse.
    activation : callable returning a Module, default=torch.nn.ReLU
        Activation of the dense networks.
    encoder : Module, optional
        Maps data (n_samples, ...) to means and log-variances: one tensor of shape
        (n_samples, 2 * latent_dim), means first, or a pair of shape (n_samples, latent_dim) each.
    decoder : Module, optional
        Maps latent points (n, latent_dim) to logits of the shape of the data.

    Raises
    ------
    TypeError
        A size is not an int, `hidden` no sequence, `activation` no function, or a network is not
        a Module.
    ValueError
        A size is not positive, or `n_features` and own networks are both or neither given.

    Notes
    -----
    The model is :math:`p(x, z) = N(z; 0, I) \prod_i \mathrm{Bernoulli}(x_i; \sigma(l_i(z)))`
    and the posterior :math:`q(z|x) = N(z; \mu(x), \mathrm{diag}\,\sigma^2(x))` [1]_. Methods
    leave the module in the mode it is in: call ``eval()`` first if a network has dropout.

    References
    ----------
    .. [1] D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", 2014, arXiv:1312.6114.
    """

    def __init__(
        self,
        n_features: int | None = None,
        latent_dim: int = 2,
        hidden: Sequence[int] = (256, 128),
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim = check_positive_int("latent_dim", latent_dim)
        self.n_features: int | None = None
        if n_features is not None:
            if encoder is not None or decoder is not None:
                raise ValueError("`n_features` is given, expected None beside encoder and decoder")
            self.n_features = n_features = check_positive_int("n_features", n_features)
            if not isinstance(hidden, Iterable):
                kind = type(hidden).__name__
                raise TypeError(f"`hidden` has type {kind}, expected a sequence of ints")
            widths = [check_positive_int(f"hidden[{i}]", h) for i, h in enumerate(hidden)]
            # A Module is callable too, but one object cannot stand in several places.
            if not callable(activation) or isinstance(activation, nn.Module):
                kind = type(activation).__name__
                raise TypeError(
                    f"`activation` has type {kind}, expected a function that returns a "
                    "torch.nn.Module, such as the class torch.nn.ReLU"
                )
            self.encoder: nn.Module = dense([n_features, *widths, 2 * latent_dim], activation)
            self.decoder: nn.Module = dense([latent_dim, *widths[::-1], n_features], activation)
            return
        if encoder is None or decoder is None:
            raise ValueError("`n_features` is None, expected a number, or both encoder and decoder")
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(network, nn.Module):
                kind = type(network).__name__
                raise TypeError(f"`{name}` has type {kind}, expected torch.nn.Module")
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the posterior.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, of the dtype of the encoder's parameters.

        Returns
        -------
        mu, logvar : Tensor of shape (n_samples, latent_dim)
            Means and log-variances.

        Raises
        ------
        TypeError
            `x` is no tensor, or not of the dtype of the parameters of the dense networks (outside
            autocast).
        ValueError
            `x` has not `n_features` features, or the encoder's output is not as promised.
        """
        check_tensors(x=x)
        if self.n_features is not None and (x.dim() != 2 or x.shape[1] != self.n_features):
            raise ValueError(
                f"`x` has shape {tuple(x.shape)}, expected (n_samples, {self.n_features})"
            )
        if self.n_features is not None:  # networks of one's own may convert what they are given
            check_fits_parameters("x", x, self.encoder)
        return as_posterior(self.encoder(x), self.latent_dim)

    def reparameterize(
        self, mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draw :math:`z = \mu + \sigma \epsilon`, differentiable in the parameters.

        Parameters
        ----------
        mu, logvar : Tensor of shape (..., latent_dim)
            Means and log-variances.
        generator : torch.Generator, optional
            Source of the noise; torch's default one if not given.

        Returns
        -------
        Tensor of shape (..., latent_dim)
        """
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * noise

    def forward(self, x: Tensor, *, generator: torch.Generator | None = None) -> VAEOutput:
        """Encode, draw one latent sample, decode.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data in [0, 1].
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        VAEOutput
            `logits`, `mu`, `logvar` and `z`.
        """
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar, generator=generator)
        return VAEOutput(self.decoder(z), mu, logvar, z)

    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor = 1.0,
        free_bits: float = 0.0,
        reduction: str = "batchmean",
        generator: torch.Generator | None = None,
    ) -> VAELossOutput:
        """One-sample estimate of the loss of a batch, to call ``backward`` on.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data in [0, 1].
        beta, free_bits, reduction
            See `vae_loss`.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        VAELossOutput
            `loss`, `reconstruction` and `kl`.
        """
        logits, mu, logvar, _ = self(x, generator=generator)
        return vae_loss(logits, x, mu, logvar, beta=beta, free_bits=free_bits, reduction=reduction)

    def decode(self, z: Tensor) -> Tensor:
        """Probabilities of latent points.

        Parameters
        ----------
        z : Tensor of shape (n, latent_dim)
            Latent points.

        Returns
        -------
        Tensor of shape (n, ...)
            The decoder's means, in (0, 1).

        Raises
        ------
        TypeError, ValueError
            `z` is no tensor, or not of that shape, or as `encode`.
        """
        check_is_tensor("z", z)
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"`z` has shape {tuple(z.shape)}, expected (n, {self.latent_dim})")
        if self.n_features is not None:
            check_fits_parameters("z", z, self.decoder)
        return torch.sigmoid(self.decoder(z))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Decode the posterior means of data.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data.

        Returns
        -------
        Tensor of the shape of `x`
            Probabilities.
        """
        return self.decode(self.encode(x)[0])

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Decode latent points drawn from the prior.

        Parameters
        ----------
        n : int
            Number of points.
        generator : torch.Generator, optional
            Source of the points.

        Returns
        -------
        Tensor of shape (n, ...)
            Probabilities; ``torch.bernoulli`` of them draws data.
        """
        n = check_positive_int("n", n)
        like = next(self.parameters(), torch.empty(0))
        shape = (n, self.latent_dim)
        z = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return self.decode(z)

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
        self, x: Tensor, n_samples: int = 1, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the bound of each sample, an average over latent samples.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data in [0, 1].
        n_samples : int, default=1
            Latent samples for each row of `x`, decoded one after another.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        Tensor of shape (len(x),)
            E_q[log p(x|z)] − KL, in nats; differentiable.
        """
        n_samples = check_positive_int("n_samples", n_samples)
        mu, logvar = self.encode(x)
        bound = -gaussian_kl(mu, logvar, reduction="none")
        for _ in range(n_samples):
            z = self.reparameterize(mu, logvar, generator=generator)
            bound = bound + self._log_prob(x, z) / n_samples
        return bound

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        n_samples: int = 1000,
        *,
        generator: torch.Generator | None = None,
        max_rows: int = _MAX_DECODED_ROWS,
    ) -> Tensor:
        r"""Estimate log p(x) of each sample by importance sampling from the posterior.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data in [0, 1].
        n_samples : int, default=1000
            Latent samples for each row of `x`.
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
        return torch.cat(
            [
                importance_log_likelihood(
                    self._log_prob,
                    rows,
                    self.encode(rows),
                    n_samples,
                    generator=generator,
                    max_rows=max_rows,
                )
                for rows in torch.split(x, max_rows)
            ]
        )

    def _log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Log p(x|z) of each row."""
        logits = self.decoder(z)
        check_same_shape("x", x, "the decoder's output", logits)
        check_tensors(logits=logits, target=x)
        return -bernoulli_loss(logits, x, reduction="rows")
