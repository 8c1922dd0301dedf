"""The mixture's kernels on the GPU against the reference in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elbokit import _cuda_library, reference
from elbokit.torch._cuda import _gmm_kernels as kernels

CHUNK_BYTES = 24 << 20  # of the kernels, unless a test asks for others


@contextmanager
def chunks_of(kind: str) -> Iterator[None]:
    """Run with all rows in "one chunk", or with as few of them in each as there may be."""
    library = _cuda_library.cuda_kernels()
    library.set_gmm_chunk_bytes(CHUNK_BYTES if kind == "one chunk" else 1)
    try:
        yield
    finally:
        library.set_gmm_chunk_bytes(CHUNK_BYTES)


def parameters(device: torch.device, operands: tuple[Tensor, ...], kind: str) -> Any:
    return kernels.parameters_of(kind, *(t[None].to(device) for t in operands[1:]))


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(ours: Any, truth: Any, rtol: float, size: float | None = None) -> None:
    """The error is small against the largest entry, or against the size that is given."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.shape == truth.shape
    assert np.isfinite(ours).all()
    size = np.abs(truth).max() if size is None else size
    assert np.abs(ours - truth).max() <= rtol * max(1e-300, size)


def check(
    device: torch.device,
    x: Tensor,
    operands: tuple[Tensor, ...],
    kind: str,
    weight: Tensor | None,
    wide: bool = False,
) -> None:
    tolerance = 1e-11 if wide or x.dtype == torch.float64 else 1e-5
    arrays = [t.double().numpy() for t in (x, *operands[1:])]
    given = parameters(device, operands, kind)
    log_prob, r, labels = kernels.estep(
        x[None].to(device), given, responsibilities=True, labels=True, wide=wide
    )
    exact_log_prob, exact_r = reference.gmm_estep(*arrays, kind)
    assert log_prob is not None
    assert r is not None
    assert labels is not None
    near(log_prob[0].cpu(), exact_log_prob, tolerance)
    assert np.abs(r[0].cpu().numpy() - exact_r).max() <= tolerance
    torch.testing.assert_close(r.sum(2), torch.ones_like(r[..., 0]), rtol=1e-5, atol=0)
    assert torch.equal(labels, r.argmax(2))
    on_device = None if weight is None else weight[None].to(device)
    sums = kernels.statistics(x[None].to(device), on_device, given, wide=wide)
    exact = reference.gmm_statistics(
        *arrays, kind, sample_weight=None if weight is None else weight.numpy()
    )
    for ours, truth in zip(sums[:3], exact[:3], strict=True):
        near(ours[0].cpu(), truth, tolerance)
    # Rows' log-densities have both signs, and their sum may be far smaller than they are.
    terms = np.abs(exact_log_prob if weight is None else exact_log_prob * weight.numpy()).sum()
    near(sums.log_likelihood[0].cpu(), exact.log_likelihood, tolerance / 10, terms)
