"""NumPy float64 reference of every kernel: the oracle that the compiled code is tested against.

Clear before fast, and independent of the compiled core. Every function converts its input
to float64 and accepts leading batch dimensions, written ``...``, that broadcast.
"""

from elbokit.reference._losses import (
    VaeLoss,
    bernoulli_loss,
    categorical_loss,
    gaussian_kl,
    gaussian_loss,
    vae_loss,
)
from elbokit.reference._mixtures import (
    gmm_estep,
    gmm_fit,
    gmm_log_density,
    gmm_statistics,
)
from elbokit.reference._sums import logsumexp

__all__ = [
    "VaeLoss",
    "bernoulli_loss",
    "categorical_loss",
    "gaussian_kl",
    "gaussian_loss",
    "gmm_estep",
    "gmm_fit",
    "gmm_log_density",
    "gmm_statistics",
    "logsumexp",
    "vae_loss",
]
