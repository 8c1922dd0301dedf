"""The operators on CUDA tensors: as ``_cpu``, with the kernels launched on torch's current stream.

One file per stem. Nothing here waits for the GPU. Outputs and workspaces come from torch's
allocator; one that a call does not ask for is None.
"""

from elbokit.torch._cuda._bernoulli import bernoulli_loss
from elbokit.torch._cuda._categorical import categorical_loss
from elbokit.torch._cuda._gaussian_kl import gaussian_kl, gaussian_kl_backward
from elbokit.torch._cuda._gaussian_kl_full import gaussian_kl_full
from elbokit.torch._cuda._gaussian_loss import gaussian_loss
from elbokit.torch._cuda._gmm import gmm_log_prob, gmm_log_prob_backward
from elbokit.torch._cuda._linear_bernoulli import (
    linear_bernoulli_loss,
    linear_bernoulli_loss_backward,
)
from elbokit.torch._cuda._logsumexp import logsumexp, logsumexp_backward
from elbokit.torch._cuda._multi_sample import multi_sample_loss
from elbokit.torch._cuda._scale import scale
from elbokit.torch._cuda._vae_loss import vae_loss

__all__ = [
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "gaussian_kl_full",
    "gaussian_loss",
    "linear_bernoulli_loss",
    "linear_bernoulli_loss_backward",
    "logsumexp",
    "logsumexp_backward",
    "multi_sample_loss",
    "scale",
    "gmm_log_prob",
    "gmm_log_prob_backward",
    "vae_loss",
]
