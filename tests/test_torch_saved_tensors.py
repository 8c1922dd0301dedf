"""Hooks of saved tensors: what they hand out is theirs, and is not written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from elbokit.torch import (
    bernoulli_loss,
    binary_cross_entropy_with_logits,
    categorical_loss,
    gaussian_kl,
    gaussian_kl_full,
    gaussian_loss,
    linear_bernoulli_loss,
    logsumexp,
    multi_sample_loss,
    vae_loss,
)
from torch_cases import draw, targets

N, D, K = 5, 7, 3
ROWS = torch.rand(N, dtype=torch.float64) + 0.5
CLASSES = torch.randint(D, (N,))


def operands(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [draw(*shape, seed=i, grad=True) for i, shape in enumerate(shapes)]


ND, NK = (N, D), (N, K)
CASES: dict[str, tuple[list[tuple[int, ...]], Callable[..., Tensor]]] = {
    "bernoulli": ([ND], lambda x: bernoulli_loss(x, targets(N, D))),
    "bernoulli, weighted": ([ND], lambda x: bernoulli_loss(x, targets(N, D), weight=ROWS)),
    "binary_cross_entropy": ([ND], lambda x: binary_cross_entropy_with_logits(x, targets(N, D))),
    "categorical": ([ND], lambda x: categorical_loss(x, CLASSES)),
    "categorical, weighted": ([ND], lambda x: categorical_loss(x, CLASSES, weight=ROWS)),
    "gaussian_kl": ([NK, NK], gaussian_kl),
    "gaussian_kl, weighted": ([NK, NK], lambda *given: gaussian_kl(*given, weight=ROWS)),
    "gaussian_kl_full": (
        [NK, (N, K, K)],
        lambda mu, a: gaussian_kl_full(mu, a.tril() + 9 * torch.eye(K)),
    ),
    "gaussian": ([ND, ND], lambda x, v: gaussian_loss(x, targets(N, D), v)),
    "gaussian, weighted": ([ND, ()], lambda x, v: gaussian_loss(x, targets(N, D), v, weight=ROWS)),
    "vae": ([ND, NK, NK], lambda x, *z: vae_loss(x, targets(N, D), *z).loss),
    "vae, beta": ([ND, NK, NK], lambda x, *z: vae_loss(x, targets(N, D), *z, beta=2.0).loss),
    "vae, weighted": ([ND, NK, NK], lambda x, *z: vae_loss(x, targets(N, D), *z, weight=ROWS).loss),
    "multi_sample": (
        [(4, N, D), NK, NK, (4, N, K)],
        lambda x, *z: multi_sample_loss(x, targets(N, D), *z),
    ),
    "linear_bernoulli": (
        [NK, (D, K), (D,)],
        lambda h, w, b: linear_bernoulli_loss(h, w, b, targets(N, D)),
    ),
    "logsumexp": ([ND], lambda x: logsumexp(x, 1).sum()),
}
every = pytest.mark.parametrize(("shapes", "loss"), CASES.values(), ids=CASES.keys())
scaled = pytest.mark.parametrize("scale", [1.0, 0.5])


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@every
@scaled
def test_offloaded_to_a_file_that_is_mapped(
    shapes: Any, loss: Any, scale: float, tmp_path: Path
) -> None:
    def pack(tensor: Tensor) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, tensor.detach().numpy())
        return path

    def unpack(path: Path) -> Tensor:
        return torch.from_numpy(np.load(path, mmap_mode="r"))

    given = operands(*shapes)
    expected = torch.autograd.grad(scale * loss(*given), given)
    with saved_tensors_hooks(pack, unpack):
        total = scale * loss(*given)
    found = torch.autograd.grad(total, given)
    for gradient in found:
        gradient.mul_(1.0)  # whoever gets it may write to it
    torch.testing.assert_close(found, expected)


@every
@scaled
def test_shared(shapes: Any, loss: Any, scale: float) -> None:
    stored: dict[Any, Tensor] = {}

    def pack(tensor: Tensor) -> Any:
        key = tensor.shape, tensor.numpy(force=True).tobytes()
        stored.setdefault(key, tensor.detach())
        return key

    given = operands(*shapes)
    expected = torch.autograd.grad(2 * scale * loss(*given), given)
    with saved_tensors_hooks(pack, stored.__getitem__):
        total = scale * loss(*given) + scale * loss(*given)
    torch.testing.assert_close(torch.autograd.grad(total, given), expected)


@every
@scaled
def test_kept_by_the_hooks(shapes: Any, loss: Any, scale: float) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor.detach(), tensor.detach().clone()))
        return tensor

    given = operands(*shapes)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total = scale * loss(*given)
    for gradient in torch.autograd.grad(total, given):
        gradient.fill_(7.0)
    assert kept
    for tensor, before in kept:
        assert torch.equal(tensor, before)
