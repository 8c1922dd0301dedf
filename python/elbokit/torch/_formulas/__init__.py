"""The gradients in plain, differentiable torch, one file per stem.

The kernels give the first derivative. A backward that must itself be differentiated
(``create_graph=True``), and the rare gradients with respect to targets and weights, use these.
The same formulas as the kernels' (``cpp/math``), in the same notation.
"""

from elbokit.torch._formulas._bernoulli import bernoulli_grads
from elbokit.torch._formulas._categorical import categorical_grads
from elbokit.torch._formulas._gaussian_kl import gaussian_kl_grads
from elbokit.torch._formulas._gaussian_kl_full import gaussian_kl_full_grads
from elbokit.torch._formulas._gaussian_loss import gaussian_loss_grads
from elbokit.torch._formulas._gmm import gmm_log_prob_grads
from elbokit.torch._formulas._logsumexp import logsumexp_grad
from elbokit.torch._formulas._multi_sample import multi_sample_grads

__all__ = [
    "bernoulli_grads",
    "categorical_grads",
    "gaussian_kl_full_grads",
    "gaussian_kl_grads",
    "gaussian_loss_grads",
    "gmm_log_prob_grads",
    "logsumexp_grad",
    "multi_sample_grads",
]
