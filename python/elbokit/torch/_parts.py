"""Likelihood, posterior and prior by name."""

from __future__ import annotations

from typing import Any

from elbokit.torch._likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from elbokit.torch._posteriors import DiagonalPosterior, FullPosterior, Posterior
from elbokit.torch._priors import GaussianMixturePrior, LearnedPrior, Prior, StandardPrior

__all__ = ["make_likelihood", "make_posterior", "make_prior"]

_DEFAULT_COMPONENTS = 10


def make_likelihood(value: str | Likelihood, n_classes: int | None = None) -> Likelihood:
    """Return the likelihood of a name, or the object itself."""
    by_name = isinstance(value, str) and value == "categorical"
    if by_name != (n_classes is not None):
        expected = "a number beside 'categorical'" if by_name else f"None beside {_named(value)}"
        raise ValueError(f"`n_classes` is {n_classes}, expected {expected}")
    makers = {
        "bernoulli": BernoulliLikelihood,
        "gaussian": GaussianLikelihood,
        "categorical": lambda: CategoricalLikelihood(n_classes),  # type: ignore[arg-type]
    }
    made: Likelihood = _part("likelihood", value, Likelihood, makers)
    return made


def make_posterior(value: str | Posterior) -> Posterior:
    """Return the posterior of a name, or the object itself."""
    makers = {"diagonal": DiagonalPosterior, "full": FullPosterior}
    made: Posterior = _part("posterior", value, Posterior, makers)
    return made


def make_prior(value: str | Prior, latent_dim: int) -> Prior:
    """Return the prior of a name, or the object itself."""
    makers = {
        "standard": lambda: StandardPrior(latent_dim),
        "learned": lambda: LearnedPrior(latent_dim),
        "mixture": lambda: GaussianMixturePrior(_DEFAULT_COMPONENTS, latent_dim),
    }
    made: Prior = _part("prior", value, Prior, makers)
    found = getattr(made, "latent_dim", latent_dim)  # one's own need not have it
    if found != latent_dim:
        raise ValueError(f"`prior` has latent_dim {found}, expected {latent_dim} as the model")
    return made


def _named(value: Any) -> str:
    return repr(value) if isinstance(value, str) else type(value).__name__


def _part(name: str, value: Any, base: type, makers: dict[str, Any]) -> Any:
    if isinstance(value, base):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"`{name}` has type {type(value).__name__}, expected a name or "
            f"elbokit.torch.{base.__name__}"
        )
    if value not in makers:
        raise ValueError(f"`{name}` is {value!r}, expected one of {', '.join(makers)}")
    return makers[value]()
