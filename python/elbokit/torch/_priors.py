"""Priors of a VAE's latent variable."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from elbokit.torch._checks import check_positive_int
from elbokit.torch._data import as_data, expected_by
from elbokit.torch._gmm import gmm_log_prob
from elbokit.torch._masks import check_missing, given, mask_of
from elbokit.torch._networks import kept_modes
from elbokit.torch._noise import standard_normal
from elbokit.torch._reduction import widened

if TYPE_CHECKING:
    from elbokit import GaussianMixture
    from elbokit.torch._vae import VAE

__all__ = ["GaussianMixturePrior", "LearnedPrior", "Prior", "StandardPrior"]

_LOG_2_PI = math.log(2 * math.pi)
_ENCODED_ROWS = 4096  # encoded at once to start a mixture
_COVARIANCE_TYPES = ("full", "diag")


class Prior(nn.Module):
    """Base of priors p(z).

    A prior of one's own gives `log_prob` and `sample`; its KL is then estimated by the sample that
    is decoded. A diagonal Gaussian may give `moments`, for a KL in closed form. `log_prob` is given
    float32 even in a model of narrower dtype. An attribute `latent_dim` must be the model's.
    """

    def log_prob(self, z: Tensor) -> Tensor:
        """Log p(z) of points (n, latent_dim); of shape (n,)."""
        raise NotImplementedError

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, latent_dim)."""
        raise NotImplementedError

    def moments(self) -> tuple[Tensor | None, Tensor | None] | None:
        """Return means and log-variances if the prior is a diagonal Gaussian (None for 0)."""
        return None


class StandardPrior(Prior):
    """N(0, I).

    Parameters
    ----------
    latent_dim : int
        Dimension of the latent space.
    """

    _like: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = check_positive_int("latent_dim", latent_dim)
        # Follows the module's dtype and device.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of points (n, latent_dim); of shape (n,)."""
        return -0.5 * (widened(z).square() + _LOG_2_PI).sum(-1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, latent_dim)."""
        like = self._like
        return standard_normal((n, self.latent_dim), like, like.dtype, generator)

    def moments(self) -> tuple[Tensor | None, Tensor | None]:
        """Return None twice: means and log-variances are 0."""
        return None, None


class LearnedPrior(Prior):
    """N(mu, diag exp(logvar)) with both learned, from N(0, I) on.

    Parameters
    ----------
    latent_dim : int
        Dimension of the latent space.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = check_positive_int("latent_dim", latent_dim)
        self.mu = nn.Parameter(torch.zeros(self.latent_dim))
        self.logvar = nn.Parameter(torch.zeros(self.latent_dim))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of points (n, latent_dim); of shape (n,)."""
        z, mu, logvar = widened(z), widened(self.mu), widened(self.logvar)
        squares = (z - mu).square() * torch.exp(-logvar)
        return -0.5 * (squares + logvar + _LOG_2_PI).sum(-1)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, latent_dim)."""
        mu = self.mu
        noise = standard_normal((n, len(mu)), mu, mu.dtype, generator)
        return mu + torch.exp(0.5 * self.logvar) * noise

    def moments(self) -> tuple[Tensor | None, Tensor | None]:
        """Return means and log-variances, (latent_dim,) each."""
        return self.mu, self.logvar


class GaussianMixturePrior(Prior):
    r"""Mixture of Gaussians whose parameters are learned [1]_.

    Parameters
    ----------
    n_components : int
        Number of components; their means are drawn from N(0, I) with torch's random state.
    latent_dim : int
        Dimension of the latent space.
    covariance_type : {"diag", "full"}, default="diag"
        Shape of the components.

    Attributes
    ----------
    weight_logits : Parameter of shape (n_components,)
        Logits of the weights.
    means : Parameter of shape (n_components, latent_dim)
        Means.
    log_diagonal : Parameter of shape (n_components, latent_dim)
        Logarithms of the diagonal of the precisions' Cholesky factors.
    off_diagonal : Parameter of shape (n_components, latent_dim, latent_dim)
        What these factors have above the diagonal; for "full" alone.

    Raises
    ------
    TypeError, ValueError
        A number is no positive int, or `covariance_type` is unknown.

    References
    ----------
    .. [1] Z. Jiang et al., "Variational Deep Embedding: An Unsupervised and Generative Approach to
       Clustering", 2017, arXiv:1611.05148.
    """

    def __init__(self, n_components: int, latent_dim: int, covariance_type: str = "diag") -> None:
        super().__init__()
        n_components = check_positive_int("n_components", n_components)
        latent_dim = check_positive_int("latent_dim", latent_dim)
        if covariance_type not in _COVARIANCE_TYPES:
            raise ValueError(
                f"`covariance_type` is {covariance_type!r}, expected one of "
                + ", ".join(_COVARIANCE_TYPES)
            )
        self.n_components, self.latent_dim = n_components, latent_dim
        self.covariance_type = covariance_type
        self.weight_logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.randn(n_components, latent_dim))
        self.log_diagonal = nn.Parameter(torch.zeros(n_components, latent_dim))
        if covariance_type == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(n_components, latent_dim, latent_dim))

    @classmethod
    def init_from(
        cls,
        vae: VAE,
        X: Any,
        n_components: int,
        random_state: int | None = None,
        *,
        covariance_type: str = "diag",
        missing: str = "error",
    ) -> GaussianMixturePrior:
        """Return a prior fitted to the posteriors of data.

        EM fits `elbokit.GaussianMixture` to their means. Their covariances are then added to the
        components', each in the responsibilities' proportion, as in an M-step that maximises
        E_q[log p(z)]: the means alone are narrower than what the prior has to cover, and without
        any width in a dimension that the model does not use.

        Parameters
        ----------
        vae : VAE
            The model whose encoder is used; make the result its prior by ``vae.prior = ...``.
        X : array-like of shape (n_samples, ...) or Tensor
            Data, an array or a tensor with the values that the trainer takes.
        n_components : int
            Number of components.
        random_state : int, optional
            See `elbokit.GaussianMixture`.
        covariance_type : {"diag", "full"}, default="diag"
            Shape of the components.
        missing : {"error", "integrate"}, default="error"
            What NaN in X means: see `VAETrainer`.

        Returns
        -------
        GaussianMixturePrior
            Of the dtype and on the device of the means.
        """
        from elbokit import GaussianMixture

        prior = cls(n_components, vae.latent_dim, covariance_type)
        missing = check_missing(missing, vae.likelihood)
        data = as_data(X, expected_by(vae, "X", missing=missing == "integrate"))
        with kept_modes(vae), torch.no_grad():
            vae.eval()
            inputs = (vae.as_input(x) for x in torch.split(data, _ENCODED_ROWS))
            encoded = [vae.encode(*given(x, mask_of(x, missing))) for x in inputs]
        mu = torch.cat([each for each, _ in encoded])
        means = mu.double().cpu().numpy()
        mixture = GaussianMixture(
            n_components, covariance_type=covariance_type, random_state=random_state
        ).fit(means)

        within = torch.zeros(n_components, vae.latent_dim, vae.latent_dim, dtype=torch.float64)
        parts = torch.split(torch.from_numpy(mixture.predict_proba(means)), _ENCODED_ROWS)
        counts = torch.zeros(n_components, dtype=torch.float64)
        for responsibilities, (_, scale) in zip(parts, encoded, strict=True):
            covariance = vae.posterior.covariance(scale.double().cpu())
            within += torch.einsum("nc,njk->cjk", responsibilities, covariance)
            counts += responsibilities.sum(0)
        within /= counts.clamp_min(torch.finfo(torch.float64).tiny)[:, None, None]
        covariances = torch.from_numpy(mixture.covariances_)
        if covariance_type == "diag":
            factors = (covariances + within.diagonal(dim1=1, dim2=2)).rsqrt()
        else:
            lower = torch.linalg.cholesky(covariances + within)
            factors = torch.linalg.inv(lower).mT
        weights, centres = (torch.from_numpy(a) for a in (mixture.weights_, mixture.means_))
        return prior.to(mu).set_parameters(weights, centres, factors)

    @torch.no_grad()
    def set_parameters(
        self, weights: Tensor, means: Tensor, precisions_cholesky: Tensor
    ) -> GaussianMixturePrior:
        """Take the parameters of a mixture, in scikit-learn's conventions; return self."""
        # A component without weight would have no gradient, and a logit of -inf.
        self.weight_logits.copy_(weights.clamp_min(torch.finfo(torch.float32).tiny).log())
        self.means.copy_(means)
        if self.covariance_type == "full":
            self.off_diagonal.copy_(precisions_cholesky.triu(1))
            precisions_cholesky = precisions_cholesky.diagonal(dim1=1, dim2=2)
        self.log_diagonal.copy_(precisions_cholesky.log())
        return self

    @torch.no_grad()
    def to_mixture(self) -> GaussianMixture:
        """Return the prior as an estimator: for clusters of latent points, pictures, samples.

        Returns
        -------
        elbokit.GaussianMixture
            In float64, on the CPU. ``to_mixture().predict(mu)`` says to which component the latent
            means of data belong.
        """
        from elbokit import GaussianMixture

        weights, means, factors = (
            each.double().cpu()
            for each in (self.weight_logits, self.means, self.precisions_cholesky)
        )
        if self.covariance_type == "diag":
            covariances = factors.square().reciprocal()
        else:
            inverses = torch.linalg.inv(factors)  # of U, for a precision U Uᵀ
            covariances = inverses.mT @ inverses
        return GaussianMixture.from_parameters(
            torch.softmax(weights, 0).numpy(),
            means.numpy(),
            covariances.numpy(),
            self.covariance_type,
        )

    @property
    def weights(self) -> Tensor:
        """Weights of the components, (n_components,); they sum to one. At least in float32."""
        return torch.softmax(widened(self.weight_logits), 0)

    @property
    def precisions_cholesky(self) -> Tensor:
        """Cholesky factors of the precisions, in scikit-learn's conventions; as `weights`."""
        diagonal = widened(self.log_diagonal).exp()
        if self.covariance_type == "diag":
            return diagonal
        return widened(self.off_diagonal).triu(1) + torch.diag_embed(diagonal)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of points (n, latent_dim); of shape (n,)."""
        factors = self.precisions_cholesky
        parameters = self.weights, widened(self.means), factors
        return gmm_log_prob(z.to(factors), *parameters, self.covariance_type)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, (n, latent_dim)."""
        means, factors = widened(self.means), self.precisions_cholesky
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = standard_normal((n, self.latent_dim), means, means.dtype, generator)
        if self.covariance_type == "diag":
            return means[component] + noise / factors[component]
        # (x - mean) U is standard normal for a precision U Uᵀ.
        solved: Tensor = torch.linalg.solve_triangular(
            factors[component].mT, noise[..., None], upper=False
        )
        return means[component] + solved[..., 0]
