"""Dense and convolutional networks of a VAE, and what is asked of any network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from elbokit.torch._checks import check_positive_int

__all__ = [
    "check_activation",
    "check_fits_parameters",
    "check_sizes",
    "convolutional",
    "dense",
    "kept_modes",
    "narrowed",
]

Activation = Callable[[], nn.Module]


def dense(sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Return linear layers between the given sizes, an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), _made(activation)]
    return nn.Sequential(*layers[:-1])


def convolutional(
    image_shape: tuple[int, int, int],
    channels: Sequence[int],
    n_in: int,
    n_encoded: int,
    latent_dim: int,
    n_out: int,
    activation: Activation,
    batch_norm: bool,
) -> tuple[nn.Sequential, nn.Sequential]:
    """Return an encoder and a decoder of images of any height and width.

    Parameters
    ----------
    image_shape : tuple of int
        Channels, height and width; the channels are replaced by `n_in` and `n_out`.
    channels : sequence of int
        Channels of the layers, each of which halves height and width, rounded up.
    n_in, n_out : int
        Channels that the encoder is given and the decoder emits.
    n_encoded, latent_dim : int
        Outputs of the encoder, inputs of the decoder.
    activation : callable returning a Module
        Activation after each layer but the last.
    batch_norm : bool
        Whether to normalise before each activation.
    """
    sizes = [tuple(image_shape[1:])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))

    def followed(layer: nn.Module, n: int) -> list[nn.Module]:
        return [layer, *([nn.BatchNorm2d(n)] if batch_norm else []), _made(activation)]

    down: list[nn.Module] = []
    for before, after in pairwise([n_in, *channels]):
        down += followed(nn.Conv2d(before, after, 3, stride=2, padding=1), after)
    n_flat = channels[-1] * sizes[-1][0] * sizes[-1][1]
    down += [nn.Flatten(), nn.Linear(n_flat, n_encoded)]

    up: list[nn.Module] = [nn.Linear(latent_dim, n_flat), _made(activation)]
    up.append(nn.Unflatten(1, (channels[-1], *sizes[-1])))
    widths = [*channels[::-1], n_out]
    for i, (before, after) in enumerate(pairwise(widths)):
        small, large = sizes[-1 - i], sizes[-2 - i]
        # Without padding of the output a layer makes 2 n - 1 of n.
        extra = (large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1))
        layer = nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=extra)
        up += followed(layer, after) if i < len(channels) - 1 else [layer]
    return nn.Sequential(*down), nn.Sequential(*up)


@contextmanager
def kept_modes(network: nn.Module) -> Iterator[None]:
    """Give every module within its mode back, training or not, at the end."""
    modes = {module: module.training for module in network.modules()}
    try:
        yield
    finally:
        network.train(modes[network])  # for modules that do more than set their flag
        for module, mode in modes.items():
            module.training = mode


def check_sizes(name: str, sizes: object) -> list[int]:
    """Return `sizes`, if it is a sequence of positive ints."""
    if not isinstance(sizes, Iterable):
        kind = type(sizes).__name__
        raise TypeError(f"`{name}` has type {kind}, expected a sequence of ints")
    return [check_positive_int(f"{name}[{i}]", size) for i, size in enumerate(sizes)]


def check_activation(activation: object) -> None:
    """Raise TypeError unless `activation` makes modules."""
    # A Module is callable too, but one object cannot stand in several places.
    if not callable(activation) or isinstance(activation, nn.Module):
        kind = type(activation).__name__
        raise TypeError(
            f"`activation` has type {kind}, expected a function that returns a "
            "torch.nn.Module, such as the class torch.nn.ReLU"
        )


def _made(activation: Activation) -> nn.Module:
    try:
        layer: object = activation()
    except TypeError as error:
        raise TypeError(
            f"`activation` cannot be called without arguments ({error}), expected a function that "
            "returns a torch.nn.Module, such as torch.nn.ReLU"
        ) from error
    if not isinstance(layer, nn.Module):
        kind = type(layer).__name__
        raise TypeError(f"`activation` returned {kind}, expected a torch.nn.Module")
    return layer


def first_weight(network: nn.Module, *, buffers: bool = False) -> Tensor | None:
    """Return the first floating-point parameter, or where there is none and if so asked, buffer."""
    # Not of `parameters()`, which keeps account of what it has seen: a small layer is faster.
    for module in network.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter
    floating = (buffer for buffer in network.buffers() if buffer.is_floating_point())
    return next(floating, None) if buffers else None


def check_fits_parameters(name: str, tensor: Tensor, network: nn.Module) -> None:
    """Raise TypeError unless `tensor` has the dtype of the parameters of a built network."""
    parameter = first_weight(network)  # a quantised network has none
    if (
        parameter is not None
        and tensor.dtype != parameter.dtype
        and not torch.is_autocast_enabled(tensor.device.type)
    ):
        raise TypeError(
            f"`{name}` has dtype {tensor.dtype}, expected {parameter.dtype} as the parameters"
        )


def narrowed(tensor: Tensor, network: nn.Module) -> Tensor:
    """Return a float32 `tensor` as a network in float16 or bfloat16 takes it (outside autocast)."""
    if tensor.dtype != torch.float32:
        return tensor
    like = first_weight(network, buffers=True)
    if (
        like is None
        or like.dtype not in (torch.float16, torch.bfloat16)
        or torch.is_autocast_enabled(tensor.device.type)
    ):
        return tensor
    return tensor.to(like.dtype)
