"""By-products of the loss: KL of each latent dimension, active units, targets out of range."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["VAEStatistics"]


class VAEStatistics:
    """What `vae_loss` can count while it computes the loss, added up over batches.

    Give the same object to every call of an epoch: ``vae_loss(..., statistics=statistics)``.
    Nothing here waits for the device until a value is read.

    Attributes
    ----------
    n_samples : int
        Samples seen.
    out_of_range : Tensor of shape (), int64
        Targets below 0 or above 1 among those that no mask hides.

    Examples
    --------
    >>> import torch
    >>> from elbokit.torch import VAEStatistics, vae_loss
    >>> statistics = VAEStatistics()
    >>> for _ in range(3):
    ...     logits, target = torch.zeros(4, 5), torch.ones(4, 5)
    ...     mu, logvar = torch.tensor([[0.0, 2.0]]).expand(4, 2), torch.zeros(4, 2)
    ...     loss = vae_loss(logits, target, mu, logvar, statistics=statistics)
    >>> statistics.kl_per_dimension
    tensor([0., 2.], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.n_samples = 0
        self.out_of_range = torch.zeros((), dtype=torch.int64, device="cpu")
        self._sums: Tensor | None = None

    def update(self, sums: Tensor, out_of_range: Tensor, n_samples: int) -> None:
        """Add a batch.

        Parameters
        ----------
        sums : Tensor of shape (3, latent_dim), float64
            Sums over the batch of each dimension's KL, posterior mean and squared mean.
        out_of_range : Tensor of shape (), int64
            Number of targets outside [0, 1].
        n_samples : int
            Size of the batch.
        """
        if self._sums is not None and sums.shape != self._sums.shape:
            raise ValueError(
                f"the batch has {sums.shape[1]} latent dimensions, expected {self._sums.shape[1]} "
                "as the batches before"
            )
        if self._sums is None:  # nor is anything moved to the device, which would wait for it
            self._sums, self.out_of_range = sums, out_of_range
        else:
            self._sums = self._sums + sums
            self.out_of_range = self.out_of_range + out_of_range
        self.n_samples += n_samples

    @property
    def kl_per_dimension(self) -> Tensor:
        """KL of each latent dimension, in nats, averaged over the samples; shape (latent_dim,)."""
        return self._means()[0]

    def active_units(self, threshold: float = 0.01) -> Tensor:
        """Count the latent dimensions whose posterior mean varies with the data.

        Parameters
        ----------
        threshold : float, default=0.01
            Least variance over the data of an active dimension's mean [1]_.

        Returns
        -------
        Tensor of shape (), int64

        References
        ----------
        .. [1] Y. Burda, R. Grosse and R. Salakhutdinov, "Importance Weighted Autoencoders", 2016,
           section 4.2, arXiv:1509.00519.
        """
        _, mean, square = self._means()
        active: Tensor = square - mean.square() > threshold
        return active.sum()

    def _means(self) -> Tensor:
        if self._sums is None or self.n_samples == 0:
            raise ValueError("no batch has been added, expected at least one")
        return self._sums / self.n_samples
