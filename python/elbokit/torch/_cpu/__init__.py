"""The operators on CPU tensors: collapse to two dimensions, call the compiled kernels.

One file per stem. Outputs are allocated here; one that a call does not ask for is None.
"""

from elbokit.torch._cpu._bernoulli import bernoulli_loss
from elbokit.torch._cpu._categorical import categorical_loss
from elbokit.torch._cpu._gaussian_kl import gaussian_kl, gaussian_kl_backward
from elbokit.torch._cpu._gaussian_kl_full import gaussian_kl_full
from elbokit.torch._cpu._gaussian_loss import gaussian_loss
from elbokit.torch._cpu._gmm import gmm_log_prob, gmm_log_prob_backward
from elbokit.torch._cpu._linear_bernoulli import (
    linear_bernoulli_loss,
    linear_bernoulli_loss_backward,
)
from elbokit.torch._cpu._logsumexp import logsumexp, logsumexp_backward
from elbokit.torch._cpu._multi_sample import multi_sample_loss
from elbokit.torch._cpu._vae_loss import vae_loss

__all__ = [
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "gaussian_kl_full",
    "gaussian_loss",
    "linear_bernoulli_loss",
    "linear_bernoulli_loss_backward",
    "gmm_log_prob",
    "gmm_log_prob_backward",
    "logsumexp",
    "logsumexp_backward",
    "multi_sample_loss",
    "vae_loss",
]
