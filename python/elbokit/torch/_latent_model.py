"""A latent-variable model of two networks and three parts: its pass, its loss, its terms."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elbokit.torch._checks import (
    check_densities,
    check_is_tensor,
    check_layout,
    check_tensors,
    check_weight,
)
from elbokit.torch._likelihoods import (
    BernoulliLikelihood,
    Likelihood,
    check_decoded,
    check_takes_mask,
)
from elbokit.torch._masks import given, present
from elbokit.torch._networks import check_fits_parameters, first_weight, narrowed
from elbokit.torch._parts import make_likelihood, make_posterior, make_prior
from elbokit.torch._posteriors import DiagonalPosterior, Posterior
from elbokit.torch._priors import Prior
from elbokit.torch._reduction import reduced
from elbokit.torch._vae_loss import VAELossOutput, check_options, drawn_to, vae_loss

__all__ = ["LatentModel", "VAEOutput"]


class VAEOutput(NamedTuple):
    """One pass through a `VAE`.

    Attributes
    ----------
    logits : Tensor of shape (n_samples, ...)
        Output of the decoder: logits, or what else the likelihood reads.
    mu : Tensor of shape (n_samples, latent_dim)
        Means of the posterior.
    logvar : Tensor of shape (n_samples, latent_dim)
        Log-variances of the posterior; its factor L, (n_samples, latent_dim, latent_dim), if it is
        a full one.
    z : Tensor of shape (n_samples, latent_dim)
        The sample that was decoded; in float32 even if the networks are narrower.
    """

    logits: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


class LatentModel(nn.Module):
    """Networks and parts, and the bound that they make together.

    Parameters
    ----------
    encoder, decoder : Module
        See `VAE`.
    latent_dim : int
        Dimension of the latent space.
    likelihood : Likelihood
        p(x|z).
    posterior : Posterior
        q(z|x).
    prior : Prior
        p(z).
    event_shape : tuple of int, optional
        Shape of one sample of data, where the networks were built for it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent_dim: int,
        likelihood: Likelihood,
        posterior: Posterior,
        prior: Prior,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim, self._event_shape = latent_dim, event_shape
        self.encoder, self.decoder = encoder, decoder
        self.likelihood, self.posterior, self.prior = likelihood, posterior, prior

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "likelihood":
            value = make_likelihood(value)
        elif name == "posterior":
            value = make_posterior(value)
        elif name == "prior":
            value = make_prior(value, self.latent_dim)
        super().__setattr__(name, value)

    def _like(self) -> Tensor:
        """Return a tensor of the dtype and on the device of the parameters."""
        weight = first_weight(self)
        return torch.empty(0) if weight is None else weight

    def as_input(self, x: Tensor) -> Tensor:
        """Return data as `encode` takes it.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Numbers, or classes. Of dtype uint8, numbers are scaled from [0, 255] to [0, 1].

        Returns
        -------
        Tensor of the shape of `x`
            Of the dtype (unless they are classes) and on the device of the parameters.
        """
        check_is_tensor("x", x)
        like = self._like()
        if self.likelihood.classes:
            return x.to(like.device)
        scaled = x.dtype == torch.uint8
        x = x.to(like)
        return x / 255 if scaled else x

    def encode(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Parameters of the posterior.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, of the dtype of the encoder's parameters; classes are of an integer dtype.
        mask : Tensor broadcasting to the shape of `x`, optional
            Where it is 0 (or False) an element is missing, whatever `x` holds there: the encoder
            sees 0 (of a class no indicator), and the likelihood is that of the others.

        Returns
        -------
        mu : Tensor of shape (n_samples, latent_dim)
            Means.
        logvar : Tensor of shape (n_samples, latent_dim)
            Log-variances; for a full posterior its factor L, (n_samples, latent_dim, latent_dim).

        Raises
        ------
        TypeError
            `x` or `mask` is no tensor, or `x` not of the dtype of the parameters of built networks
            (outside autocast).
        ValueError
            `x` has not the shape the networks were built for, or a class out of range, `mask` does
            not broadcast to it, or the encoder's output is not as promised.
        """
        if self.likelihood.classes:
            check_is_tensor("x", x)
            check_layout("x", x)
        else:
            check_tensors(x=x)
        shape = self._event_shape
        if shape is not None and x.shape[1:] != shape:
            expected = f"(n_samples, {', '.join(map(str, shape))})"
            raise ValueError(f"`x` has shape {tuple(x.shape)}, expected {expected}")
        seen = self._seen(x, mask)
        if shape is not None:  # networks of one's own may convert what they are given
            check_fits_parameters("x", seen, self.encoder)
        return self.posterior.parameters(self.encoder(seen), self.latent_dim)

    def _seen(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the encoder sees of the data, 0 where it is missing."""
        dtype = self._like().dtype
        if mask is None:
            return self.likelihood.encoder_input(x, dtype)
        mask = present(mask, x)
        seen = self.likelihood.encoder_input(torch.where(mask, x, 0), dtype)
        return self.likelihood.hide(seen, mask)

    def reparameterize(
        self, mu: Tensor, logvar: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Draw :math:`z = \mu + \sigma \epsilon`, differentiable in the parameters.

        Parameters
        ----------
        mu, logvar : Tensor
            What `encode` returns: for a diagonal posterior both of shape (..., latent_dim).
        generator : torch.Generator, optional
            Source of the noise; torch's default one if not given.

        Returns
        -------
        Tensor of shape (..., latent_dim)
            In float32 even if the networks are narrower; `decode` takes it.
        """
        return self.posterior.rsample(mu, logvar, generator=generator)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> VAEOutput:
        """Encode, draw one latent sample, decode.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, as for `encode`.
        mask : Tensor, optional
            Which of them are there, as for `encode`.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        VAEOutput
            `logits`, `mu`, `logvar` and `z`.
        """
        mu, logvar = self.encode(*given(x, mask))
        z = self.reparameterize(mu, logvar, generator=generator)
        return VAEOutput(self._decoded(z), mu, logvar, z)

    def _decoded(self, z: Tensor) -> Tensor:
        """Return the decoder's output; z is narrowed for it alone, and not for the densities."""
        decoded: Tensor = self.decoder(narrowed(z, self.decoder))
        return decoded

    def loss(
        self,
        x: Tensor,
        *,
        beta: float | Tensor = 1.0,
        free_bits: float = 0.0,
        capacity: float | Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: str = "batchmean",
        generator: torch.Generator | None = None,
    ) -> VAELossOutput:
        """One-sample estimate of the loss of a batch, to call ``backward`` on.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data, as for `encode`.
        beta, free_bits, capacity, weight, reduction
            See `vae_loss`. `free_bits` needs a diagonal posterior and a Gaussian prior.
        mask : Tensor broadcasting to the shape of `x`, optional
            Which elements are there, as for `encode`: the bound is that of log p of these. A
            likelihood of one's own needs a `loss` that takes it.
        generator : torch.Generator, optional
            Source of the noise.

        Returns
        -------
        VAELossOutput
            `loss`, `reconstruction` and `kl`.
        """
        mask = None if mask is None else present(mask, x)  # once for the encoder and the terms
        output = self(*given(x, mask), generator=generator)
        options = {"weight": weight, "mask": mask}
        return self.terms(
            x,
            output,
            beta=beta,
            free_bits=free_bits,
            capacity=capacity,
            reduction=reduction,
            # A subclass need not know of what is not given.
            **{name: value for name, value in options.items() if value is not None},
        )

    def terms(
        self,
        x: Tensor,
        output: VAEOutput,
        *,
        beta: float | Tensor = 1.0,
        free_bits: float = 0.0,
        capacity: float | Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        reduction: str = "batchmean",
    ) -> VAELossOutput:
        """Return the loss of a pass, as `loss` does.

        Parameters
        ----------
        x : Tensor of shape (n_samples, ...)
            Data.
        output : VAEOutput
            What the model returned for `x` (and `mask`).
        beta, free_bits, capacity, weight, mask, reduction
            As for `loss`.

        Returns
        -------
        VAELossOutput
            `loss`, `reconstruction` and `kl`.

        Raises
        ------
        TypeError, ValueError
            As for `loss`.
        """
        decoded, mu, scale, z = output
        check_is_tensor("x", x)
        if x.dtype == torch.uint8:  # bytes or numbers: `encode` does not guess either
            raise TypeError(
                "`x` has dtype torch.uint8, expected what the model was given, such as "
                "vae.as_input(x)"
            )
        mask = None if mask is None else present(mask, x)
        moments = self.prior.moments()
        # Exact types: a subclass may compute something else.
        if (
            type(self.likelihood) is BernoulliLikelihood
            and type(self.posterior) is DiagonalPosterior
            and moments is not None
        ):
            check_decoded(decoded, x)
            return vae_loss(
                decoded,
                x,
                mu,
                scale,
                beta=beta,
                free_bits=free_bits,
                capacity=capacity,
                reduction=reduction,
                prior_mu=moments[0],
                prior_logvar=moments[1],
                weight=weight,
                mask=mask,
            )
        beta, free_bits = check_options(beta, free_bits, reduction, capacity)
        by_row = reduction if weight is None else "none"
        reconstruction = self._reconstruction(decoded, x, by_row, mask)
        kl, charged = self.divergence(mu, scale, z, free_bits, by_row)
        # The loss is of the terms' dtype, whatever that of its factors.
        dtype = reconstruction.dtype
        if weight is not None:
            check_tensors(decoded=decoded, weight=weight)
            check_weight(weight, len(x))
            weight = weight.to(dtype)
            reconstruction, kl, charged = (
                reduced(weight * rows, reduction) for rows in (reconstruction, kl, charged)
            )
        beta = beta.to(dtype) if isinstance(beta, Tensor) else beta
        capacity = capacity.to(dtype) if isinstance(capacity, Tensor) else capacity
        charged = drawn_to(charged, capacity, len(x), reduction, weight)
        return VAELossOutput(reconstruction + beta * charged, reconstruction, kl)

    def _reconstruction(
        self, decoded: Tensor, x: Tensor, reduction: str, mask: Tensor | None
    ) -> Tensor:
        """Return the loss of the likelihood; one of one's own need take no mask."""
        options = {}
        if mask is not None:
            check_takes_mask(self.likelihood)
            options["mask"] = mask
        loss = self.likelihood.loss(decoded, x, reduction, **options)
        return check_densities(loss, "likelihood.loss", len(x)) if reduction == "none" else loss

    def divergence(
        self,
        mu: Tensor,
        scale: Tensor,
        z: Tensor,
        free_bits: float = 0.0,
        reduction: str = "none",
    ) -> tuple[Tensor, Tensor]:
        """KL of q(z|x) to the prior, and that floored at `free_bits`.

        In closed form if the prior is a diagonal Gaussian; else estimated by log q(z|x) - log p(z).

        Parameters
        ----------
        mu, scale : Tensor
            What `encode` returns.
        z : Tensor of shape (n_samples, latent_dim)
            A sample of q(z|x).
        free_bits : float, default=0.0
            Least KL of each latent dimension.
        reduction : {"none", "sum", "batchmean"}
            One value per sample, the sum, or the average.

        Returns
        -------
        kl, charged : Tensor
            In nats.
        """
        moments = self.prior.moments()
        if moments is not None:
            return self.posterior.kl(mu, scale, moments, free_bits, reduction)
        if free_bits > 0:
            raise ValueError(
                f"`free_bits` is {free_bits}, expected 0: the KL to this prior is no sum over "
                "dimensions"
            )
        log_prior = check_densities(self.prior.log_prob(z), "prior.log_prob", len(z))
        kl = self.posterior.log_prob(z, mu, scale) - log_prior
        kl = reduced(kl, reduction)
        return kl, kl
