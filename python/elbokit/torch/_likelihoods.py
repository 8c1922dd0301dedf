"""Likelihoods of a VAE: what a decoder's output says about the data."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elbokit.torch._bernoulli import bernoulli_loss
from elbokit.torch._categorical import categorical_loss
from elbokit.torch._checks import (
    check_densities,
    check_is_tensor,
    check_layout,
    check_limits,
    check_positive_int,
    check_tensors,
)
from elbokit.torch._gaussian_kl import BATCH_REDUCTIONS, clamped
from elbokit.torch._gaussian_loss import gaussian_loss
from elbokit.torch._noise import standard_normal
from elbokit.torch._reduction import reduced

__all__ = [
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "check_decoded",
    "check_takes_mask",
]


def check_decoded(decoded: object, x: Tensor, axis: tuple[int, ...] = ()) -> None:
    """Raise an error unless a decoder returned numbers of the shape of `x`.

    `axis` is the length of a dimension before the features, if there is one.
    """
    check_is_tensor("x", x)
    if not isinstance(decoded, Tensor):
        raise TypeError(f"`decoder` returned {type(decoded).__name__}, expected a tensor")
    shape = x.shape[:1] + axis + x.shape[1:]
    if decoded.shape != shape:
        raise ValueError(
            f"`decoder` returned shape {tuple(decoded.shape)}, expected {tuple(shape)} for `x` of "
            f"shape {tuple(x.shape)}"
        )
    double = torch.float64
    if x.is_floating_point() and (decoded.dtype == double) != (x.dtype == double):
        raise TypeError(f"`decoder` returned dtype {decoded.dtype}, expected {x.dtype} as `x`")
    if not decoded.is_floating_point():
        raise TypeError(
            f"`decoder` returned dtype {decoded.dtype}, expected a floating-point dtype"
        )


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` has type {type(value).__name__}, expected a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"`{name}` is {value}, expected a finite number")
    return number


def check_takes_mask(likelihood: Likelihood, name: str = "mask") -> None:
    """Raise ValueError if a likelihood of one's own has a `log_prob` but no `loss` to go with it.

    `name` is the argument that asks for one.
    """
    own = next(c for c in type(likelihood).__mro__ if "log_prob" in vars(c) or "loss" in vars(c))
    if own is Likelihood or "loss" not in vars(own):
        raise _takes_no_mask(likelihood, name)


def _takes_no_mask(likelihood: Likelihood, name: str) -> ValueError:
    return ValueError(
        f"`{name}` asks for missing elements, but {type(likelihood).__name__} has no `loss` of its "
        "own that takes a mask"
    )


class Likelihood(nn.Module):
    """Base of likelihoods p(x|z).

    One of one's own gives `log_prob`, `mean` and `sample`, and the attributes that differ. Masks of
    missing elements ask for a `loss` that takes them, which `log_prob` then goes by, and for `hide`
    where the encoder sees the data in another shape.

    Attributes
    ----------
    support : pair of float
        Least and greatest value of the data.
    classes : bool
        Whether the data are classes, int64, rather than numbers of the networks' dtype. Numbers of
        dtype uint8 are read as 0 to 1 in steps of 1/255.
    """

    support: tuple[float, float] = (-math.inf, math.inf)
    classes: bool = False

    def n_inputs(self, n: int) -> int:
        """Return the input width of an encoder of n features or channels."""
        return n

    def n_outputs(self, n: int) -> int:
        """Return the output width of a decoder of n features or channels."""
        return n

    def encoder_layers(self) -> list[nn.Module]:
        """Return layers to put before a built encoder."""
        return []

    def decoder_layers(self, n: int) -> list[nn.Module]:
        """Return layers to put after a built decoder of n features or channels."""
        return []

    def encoder_input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what the encoder sees of the data."""
        return x

    def hide(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Return what `encoder_input` gave, 0 where the bool `mask`, of the data's shape, is False.

        To be given where the encoder sees the data in another shape.
        """
        if seen.shape != mask.shape:
            raise ValueError(
                f"`mask` is given, and `likelihood.encoder_input` returned shape "
                f"{tuple(seen.shape)} for data of shape {tuple(mask.shape)}: "
                f"{type(self).__name__} needs a `hide` that says what is then 0"
            )
        return torch.where(mask, seen, 0)

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Return log p(x|z) of each sample, (n_samples,), in nats."""
        raise NotImplementedError

    def loss(
        self, decoded: Tensor, x: Tensor, reduction: str = "none", *, mask: Tensor | None = None
    ) -> Tensor:
        """Return -log p(x|z), for each sample or reduced ("sum", "batchmean").

        Where `mask`, which broadcasts to `x`, is 0 an element does not count: for a likelihood of
        one's own to do, since `log_prob` has the sum of all.
        """
        if mask is not None:
            raise _takes_no_mask(self, "mask")
        log_prob = check_densities(self.log_prob(decoded, x), "likelihood.log_prob", len(x))
        return reduced(-log_prob, reduction)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the means (for classes the probabilities) that the decoder's output stands for."""
        raise NotImplementedError

    def sample(self, decoded: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw data."""
        raise NotImplementedError


class BernoulliLikelihood(Likelihood):
    """Data in [0, 1]; the decoder emits logits of the shape of the data."""

    support = (0.0, 1.0)

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Return the log-probability of each sample, (n_samples,)."""
        return -self.loss(decoded, x)

    def loss(
        self, decoded: Tensor, x: Tensor, reduction: str = "none", *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy, for each sample or reduced."""
        check_decoded(decoded, x)
        check_tensors(logits=decoded, target=x)
        return bernoulli_loss(decoded, x, mask=mask, reduction=BATCH_REDUCTIONS[reduction])

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the probabilities."""
        return torch.sigmoid(decoded)

    def sample(self, decoded: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw zeros and ones."""
        return torch.bernoulli(self.mean(decoded), generator=generator)


class GaussianLikelihood(Likelihood):
    """Real data with normal noise; the decoder emits means.

    Parameters
    ----------
    variance : {"learned", "fixed", "decoder"}, default="learned"
        One variance for all features, learned or as given; or one for each, from the decoder, which
        then emits means and log-variances along dimension 1: 2 * n_features, or 2 * channels.
    logvar : float, default=0.0
        The logarithm of the one variance, or what it starts from.
    logvar_range : pair of float or None, optional
        Limits that log-variances are clamped to, so that the density of data that are fitted
        exactly stays bounded; None for no limit. As of `torch.clamp`, the gradient is 0 outside of
        them.

    Raises
    ------
    TypeError, ValueError
        `variance` is unknown, `logvar` is no finite number, or `logvar_range` is no pair of numbers
        or empty.
    """

    logvar_range: tuple[float | None, float | None] | None = None

    def __init__(
        self,
        variance: str = "learned",
        logvar: float = 0.0,
        logvar_range: tuple[float | None, float | None] | None = None,
    ) -> None:
        super().__init__()
        check_limits("logvar_range", logvar_range)
        self.logvar_range = logvar_range
        if variance not in ("learned", "fixed", "decoder"):
            raise ValueError(f"`variance` is {variance!r}, expected one of learned, fixed, decoder")
        self.variance = variance
        start = torch.tensor(_finite("logvar", logvar))
        if variance == "learned":
            self.logvar: Tensor = nn.Parameter(start)
        elif variance == "fixed":
            self.register_buffer("logvar", start)

    def n_outputs(self, n: int) -> int:
        """Return n, or 2 n if the decoder emits variances."""
        return 2 * n if self.variance == "decoder" else n

    def split(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and log-variances, which broadcast to them."""
        if self.variance != "decoder":
            return decoded, self.logvar
        if decoded.dim() < 2 or decoded.shape[1] % 2:
            raise ValueError(
                f"`decoder` returned shape {tuple(decoded.shape)}, expected means and "
                "log-variances along dimension 1"
            )
        mean, logvar = decoded.chunk(2, dim=1)
        return mean, logvar

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Return the log-density of each sample, (n_samples,)."""
        return -self.loss(decoded, x)

    def loss(
        self, decoded: Tensor, x: Tensor, reduction: str = "none", *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the negative log-density, for each sample or reduced."""
        mean, logvar = self.split(decoded)
        check_decoded(mean, x)
        check_tensors(mean=mean, target=x)
        limits = self.logvar_range
        return gaussian_loss(mean, x, logvar, mask=mask, logvar_range=limits, reduction=reduction)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the means."""
        return self.split(decoded)[0]

    def sample(self, decoded: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the Gaussians."""
        mean, logvar = self.split(decoded)
        logvar = clamped("logvar_range", logvar, self.logvar_range)
        noise = standard_normal(tuple(mean.shape), mean, mean.dtype, generator)
        return mean + torch.exp(0.5 * logvar) * noise


class CategoricalLikelihood(Likelihood):
    """Classes, int64; the decoder emits logits (n_samples, n_classes, ...).

    The encoder sees indicators of the classes, of that shape too.

    Parameters
    ----------
    n_classes : int
        Number of classes; the data are 0 to ``n_classes - 1``.

    Raises
    ------
    TypeError, ValueError
        `n_classes` is no positive int.
    """

    classes = True

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = check_positive_int("n_classes", n_classes)
        self.support = (0, self.n_classes - 1)

    def n_inputs(self, n: int) -> int:
        """Return ``n_classes * n``."""
        return self.n_classes * n

    def n_outputs(self, n: int) -> int:
        """Return ``n_classes * n``."""
        return self.n_classes * n

    def encoder_layers(self) -> list[nn.Module]:
        """Return a layer that joins classes and features, or channels."""
        return [nn.Flatten(1, 2)]

    def decoder_layers(self, n: int) -> list[nn.Module]:
        """Return a layer that separates classes and features, or channels."""
        return [nn.Unflatten(1, (self.n_classes, n))]

    def encoder_input(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return indicators of the classes, (n_samples, n_classes, ...)."""
        if x.is_floating_point() or x.is_complex():
            raise TypeError(f"`x` has dtype {x.dtype}, expected an integer dtype, for classes")
        try:
            indicators = F.one_hot(x.long(), self.n_classes)
        except RuntimeError as error:  # not asked before, for that would wait for a GPU
            bad = x[(x < 0) | (x >= self.n_classes)]
            if len(bad) == 0:
                raise
            raise ValueError(
                f"`x` has the class {bad[0].item()}, expected 0 to {self.n_classes - 1}"
            ) from error
        return indicators.movedim(-1, 1).to(dtype)

    def hide(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Return the indicators, none where the bool `mask` is False."""
        return torch.where(mask[:, None], seen, 0)

    def log_prob(self, decoded: Tensor, x: Tensor) -> Tensor:
        """Return the log-probability of each sample, (n_samples,)."""
        return -self.loss(decoded, x)

    def loss(
        self, decoded: Tensor, x: Tensor, reduction: str = "none", *, mask: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy, for each sample or reduced."""
        check_layout("x", x)
        check_decoded(decoded, x, (self.n_classes,))
        return categorical_loss(decoded, x.long(), mask=mask, reduction=reduction)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the probabilities of the classes, (n, n_classes, ...)."""
        return torch.softmax(decoded, 1)

    def sample(self, decoded: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw classes, (n, ...)."""
        probabilities = self.mean(decoded).movedim(1, -1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.reshape(probabilities.shape[:-1])
