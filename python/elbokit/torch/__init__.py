"""VAE losses and models for torch, over the compiled kernels.

``import elbokit`` does not import torch; this package does. `VAETrainer` needs the extra
``[train]``.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"elbokit.torch needs torch, which cannot be imported ({error}): pip install elbokit[torch]"
    ) from error

from elbokit.torch import _extension
from elbokit.torch._bernoulli import binary_cross_entropy_with_logits
from elbokit.torch._bernoulli_loss import bernoulli_loss
from elbokit.torch._cache import cache_limit, empty_cache, set_cache_limit
from elbokit.torch._categorical import categorical_loss
from elbokit.torch._extension import extension_is_loaded, load_extension
from elbokit.torch._gaussian_kl import gaussian_kl
from elbokit.torch._gaussian_kl_full import gaussian_kl_full
from elbokit.torch._gaussian_loss import gaussian_loss
from elbokit.torch._gmm import gmm_log_prob
from elbokit.torch._idx import load_idx
from elbokit.torch._importance import importance_log_likelihood
from elbokit.torch._likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from elbokit.torch._linear_bernoulli import LinearBernoulliLoss, linear_bernoulli_loss
from elbokit.torch._logsumexp import logsumexp
from elbokit.torch._multi_sample import importance_bound, multi_sample_loss
from elbokit.torch._posteriors import DiagonalPosterior, FullPosterior, Posterior
from elbokit.torch._priors import GaussianMixturePrior, LearnedPrior, Prior, StandardPrior
from elbokit.torch._schedules import cosine_decay, cyclical, linear_warmup
from elbokit.torch._statistics import VAEStatistics
from elbokit.torch._trainer import VAETrainer
from elbokit.torch._vae import VAE, VAEOutput
from elbokit.torch._vae_loss import VAELoss, VAELossOutput, vae_loss

__all__ = [
    "bernoulli_loss",
    "binary_cross_entropy_with_logits",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_kl_full",
    "importance_bound",
    "importance_log_likelihood",
    "gaussian_loss",
    "linear_bernoulli_loss",
    "LinearBernoulliLoss",
    "gmm_log_prob",
    "logsumexp",
    "multi_sample_loss",
    "vae_loss",
    "VAELoss",
    "VAELossOutput",
    "extension_is_loaded",
    "load_extension",
    "VAE",
    "VAEOutput",
    "VAEStatistics",
    "VAETrainer",
    "cache_limit",
    "empty_cache",
    "set_cache_limit",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "DiagonalPosterior",
    "FullPosterior",
    "Posterior",
    "GaussianMixturePrior",
    "LearnedPrior",
    "Prior",
    "StandardPrior",
    "cosine_decay",
    "cyclical",
    "linear_warmup",
    "load_idx",
]

_extension.load_built()
