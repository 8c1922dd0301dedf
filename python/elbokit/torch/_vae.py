"""A variational autoencoder with parts to choose."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from elbokit.torch._checks import check_positive_int
from elbokit.torch._generative_model import GenerativeModel
from elbokit.torch._latent_model import VAEOutput
from elbokit.torch._likelihoods import Likelihood
from elbokit.torch._networks import (
    Activation,
    check_activation,
    check_sizes,
    convolutional,
    dense,
)
from elbokit.torch._parts import make_likelihood, make_posterior, make_prior
from elbokit.torch._posteriors import Posterior
from elbokit.torch._priors import Prior

__all__ = ["VAE", "VAEOutput"]


class VAE(GenerativeModel):
    r"""Variational autoencoder.

    Give `n_features` for dense networks, or an `encoder` and a `decoder` of your own; or see
    `VAE.convolutional`.

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
        Maps data (n_samples, ...) to the posterior's parameters: one tensor of shape
        (n_samples, 2 * latent_dim), means first, or a pair of shape (n_samples, latent_dim) each.
        See `FullPosterior` for a full one, and `CategoricalLikelihood` for what it then sees.
    decoder : Module, optional
        Maps latent points (n, latent_dim) to logits of the shape of the data, or to what else
        the likelihood reads.
    likelihood : {"bernoulli", "gaussian", "categorical"} or Likelihood, default="bernoulli"
        p(x|z). Bernoulli data are in [0, 1]; "gaussian" learns one variance. `n_classes` belongs to
        "categorical".
    posterior : {"diagonal", "full"} or Posterior, default="diagonal"
        q(z|x).
    prior : {"standard", "learned", "mixture"} or Prior, default="standard"
        p(z): N(0, I), a learned diagonal Gaussian, or a mixture of 10 (`GaussianMixturePrior` for
        another number of components).
    n_classes : int, optional
        Number of classes of a categorical likelihood.

    Attributes
    ----------
    encoder, decoder : Module
        The networks.
    likelihood, posterior, prior : Likelihood, Posterior, Prior
        The parts; each may be replaced, which is checked as here.

    Raises
    ------
    TypeError
        A size is not an int, `hidden` no sequence, `activation` no function, a network is not
        a Module, or a part no such object.
    ValueError
        A size is not positive, a part's name is unknown, `prior` has another latent dimension, or
        `n_features` and own networks are both or neither given.

    Notes
    -----
    By default the model is
    :math:`p(x, z) = N(z; 0, I) \prod_i \mathrm{Bernoulli}(x_i; \sigma(l_i(z)))`
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
        activation: Activation = nn.ReLU,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        likelihood: str | Likelihood = "bernoulli",
        posterior: str | Posterior = "diagonal",
        prior: str | Prior = "standard",
        n_classes: int | None = None,
    ) -> None:
        latent_dim = check_positive_int("latent_dim", latent_dim)
        likelihood = make_likelihood(likelihood, n_classes)
        posterior = make_posterior(posterior)
        event_shape: tuple[int, ...] | None = None
        if n_features is not None:
            if encoder is not None or decoder is not None:
                raise ValueError("`n_features` is given, expected None beside encoder and decoder")
            n_features = check_positive_int("n_features", n_features)
            widths = check_sizes("hidden", hidden)
            check_activation(activation)
            n_encoded = posterior.n_outputs(latent_dim)
            event_shape = (n_features,)
            n_in, n_out = likelihood.n_inputs(n_features), likelihood.n_outputs(n_features)
            encoder = dense([n_in, *widths, n_encoded], activation)
            decoder = dense([latent_dim, *widths[::-1], n_out], activation)
            encoder, decoder = _adapted(encoder, decoder, likelihood, n_features)
        if encoder is None or decoder is None:
            raise ValueError("`n_features` is None, expected a number, or both encoder and decoder")
        for name, network in (("encoder", encoder), ("decoder", decoder)):
            if not isinstance(network, nn.Module):
                kind = type(network).__name__
                raise TypeError(f"`{name}` has type {kind}, expected torch.nn.Module")
        made_prior = make_prior(prior, latent_dim)
        super().__init__(
            encoder, decoder, latent_dim, likelihood, posterior, made_prior, event_shape
        )
        self.n_features = n_features

    @classmethod
    def convolutional(
        cls,
        image_shape: tuple[int, int, int],
        latent_dim: int = 2,
        channels: Sequence[int] = (32, 64),
        *,
        activation: Activation = nn.ReLU,
        batch_norm: bool = False,
        likelihood: str | Likelihood = "bernoulli",
        posterior: str | Posterior = "diagonal",
        prior: str | Prior = "standard",
        n_classes: int | None = None,
    ) -> VAE:
        """Return a VAE of images, with strided convolutions.

        Parameters
        ----------
        image_shape : tuple of int
            Channels, height and width of the data; any size.
        latent_dim : int, default=2
            Dimension of the latent space.
        channels : sequence of int, default=(32, 64)
            Channels of the encoder's layers, each of which halves height and width; the decoder
            has them in reverse.
        activation : callable returning a Module, default=torch.nn.ReLU
            Activation after each layer but the last.
        batch_norm : bool, default=False
            Whether to normalise over the batch before each activation of the images.
        likelihood, posterior, prior, n_classes
            See `VAE`.

        Returns
        -------
        VAE
            Its data are of shape (n_samples, channels, height, width).
        """
        latent_dim = check_positive_int("latent_dim", latent_dim)
        shape = check_sizes("image_shape", image_shape)
        if len(shape) != 3:
            raise ValueError(f"`image_shape` is {image_shape}, expected (channels, height, width)")
        widths = check_sizes("channels", channels)
        if not widths:
            raise ValueError("`channels` is empty, expected at least one number")
        check_activation(activation)
        likelihood = make_likelihood(likelihood, n_classes)
        posterior = make_posterior(posterior)
        encoder, decoder = convolutional(
            (shape[0], shape[1], shape[2]),
            widths,
            likelihood.n_inputs(shape[0]),
            posterior.n_outputs(latent_dim),
            latent_dim,
            likelihood.n_outputs(shape[0]),
            activation,
            batch_norm,
        )
        encoder, decoder = _adapted(encoder, decoder, likelihood, shape[0])
        vae = cls(
            latent_dim=latent_dim,
            encoder=encoder,
            decoder=decoder,
            likelihood=likelihood,
            posterior=posterior,
            prior=prior,
        )
        vae._event_shape = tuple(shape)
        return vae


def _adapted(
    encoder: nn.Sequential, decoder: nn.Sequential, likelihood: Likelihood, n: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return built networks with the layers that the likelihood of n features or channels asks."""
    first, last = likelihood.encoder_layers(), likelihood.decoder_layers(n)
    return nn.Sequential(*first, *encoder), nn.Sequential(*decoder, *last)
