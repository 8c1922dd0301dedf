"""The operators on CUDA tensors: as ``_cpu``, with the kernels launched on torch's current stream.

One file per stem. Nothing here waits for the GPU. Outputs and workspaces come from torch's
allocator; one that a call does not ask for is None.
"""

from elbokit.torch._cuda._bernoulli import bernoulli_loss
from elbokit.torch._cuda._gaussian_kl import gaussian_kl, gaussian_kl_backward
from elbokit.torch._cuda._scale import scale
from elbokit.torch._cuda._vae_loss import vae_loss

__all__ = [
    "bernoulli_loss",
    "gaussian_kl",
    "gaussian_kl_backward",
    "scale",
    "vae_loss",
]
