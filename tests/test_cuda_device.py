"""What only a GPU can show: no waiting, graphs, streams, memory, several devices, training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from elbokit._cuda_library import cuda_kernels
from elbokit.torch import (
    VAE,
    VAELossOutput,
    VAEStatistics,
    VAETrainer,
    binary_cross_entropy_with_logits,
    gaussian_kl,
    vae_loss,
)
from elbokit.torch._epoch import Epoch
from gpu import has_gpu
from torch_cases import draw, targets

pytestmark = [
    pytest.mark.skipif(not has_gpu(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

DTYPES = (torch.float32, torch.bfloat16)


def operands(
    n: int = 128, d: int = 784, k: int = 20, dtype: torch.dtype = torch.float32, device: int = 0
) -> list[Tensor]:
    """Logits, targets, mu, logvar."""
    where = torch.device("cuda", device)
    logits, target = draw(n, d, dtype=dtype), targets(n, d, dtype=dtype)
    mu, logvar = (draw(n, k, seed=s, dtype=torch.float32) for s in (1, 2))
    tensors = [x.to(where) for x in (logits, target, mu, logvar)]
    for i in (0, 2, 3):
        tensors[i].requires_grad_()
    return tensors


def step(x: list[Tensor], factor: float = 1.0, **options: Any) -> list[Tensor]:
    """Terms and gradients."""
    out = vae_loss(*x, **options)
    grads = torch.autograd.grad(factor * out.loss, [x[0], x[2], x[3]])
    return [*(t.detach() for t in out), *grads]


@pytest.fixture
def waiting_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_waits_for_the_gpu(waiting_is_an_error: None, dtype: torch.dtype) -> None:
    x = operands(dtype=dtype)
    weight = torch.linspace(0.0, 1.0, 128, device="cuda")
    statistics = VAEStatistics()

    def everything() -> None:
        for factor in (1.0, 3.0):
            step(x, factor)
            step(x, factor, beta=0.7, free_bits=0.1, weight=weight, statistics=statistics)
            step(x, factor, capacity=3.0, logvar_range=(-5.0, 5.0))
            out = vae_loss(*x, reduction="none")
            torch.autograd.grad(out.loss, [x[0], x[2]], torch.ones_like(out.loss))
            torch.autograd.grad(vae_loss(*x).kl, [x[2], x[3]])
            loss = binary_cross_entropy_with_logits(x[0], x[1]).float() + gaussian_kl(x[2], x[3])
            torch.autograd.grad(factor * loss, [x[0], x[2], x[3]])

    everything()  # loads the kernels, fills the allocator's cache
    torch.cuda.set_sync_debug_mode("error")
    everything()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_captured_graphs(dtype: torch.dtype, factor: float) -> None:
    x = operands(dtype=dtype)
    others = [t.detach().flip(0).clone() for t in x]
    expected = [step(x, factor, beta=0.7)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(x, factor, beta=0.7)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static = step(x, factor, beta=0.7)
    graph.replay()
    results = [[t.clone() for t in static]]
    with torch.no_grad():
        for t, other in zip(x, others, strict=True):
            t.copy_(other)
    graph.replay()
    results.append([t.clone() for t in static])
    expected.append(step(x, factor, beta=0.7))
    for ours, right in zip(results, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
    assert not torch.equal(results[0][3], results[1][3])


def test_side_streams() -> None:
    """Kernels run on the current stream, of the forward and of the backward pass."""
    x = operands(2048)
    expected = step(x, 3.0)
    streams = [torch.cuda.Stream() for _ in range(3)]
    results = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Work in front of the kernels: on another stream they would read too early.
            torch.cuda._sleep(20_000_000)
            late = [t.detach().clone().requires_grad_(t.requires_grad) for t in x]
            results.append(step(late, 3.0))
    for stream, ours in zip(streams, results, strict=True):
        torch.cuda.current_stream().wait_stream(stream)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_another_device_than_the_current_one() -> None:
    expected = step(operands(), 3.0)
    ours = step(operands(device=1), 3.0)
    assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in ours)
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ours, expected, strict=True))
    x, elsewhere = operands(), operands(device=1)
    with pytest.raises(ValueError, match="`target` is on device cuda:1, expected cuda:0"):
        vae_loss(x[0], elsewhere[1], *x[2:])


@pytest.mark.parametrize("i", range(4))
def test_operands_on_the_host_are_refused(i: int) -> None:
    x = operands()
    x[i] = x[i].detach().cpu()
    with pytest.raises(ValueError, match=r"is on device c.*, expected c"):
        vae_loss(*x)


def test_memory_is_the_outputs_and_the_workspace() -> None:
    n, d, k = 8192, 784, 20
    x = operands(n, d, k)
    step(x)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    out = vae_loss(*x)
    torch.autograd.grad(2 * out.loss, [x[0], x[2], x[3]])  # over what the forward pass saved
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    gradients = 4 * (n * d + 2 * n * k)
    workspace = cuda_kernels().gaussian_kl_workspace(k, False)
    scalars = 16 * 8  # terms, their product with 2, the gradients of these
    assert gradients < peak <= gradients + workspace + scalars


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()

    def function(*x: Tensor) -> VAELossOutput:
        return vae_loss(2 * x[0], x[1], *x[2:], beta=0.7)

    compiled = torch.compile(function, fullgraph=True)
    x = operands()
    results = []
    for each in (compiled, function):
        out = each(*x)
        results.append([*out, *torch.autograd.grad(3 * out.loss, [x[0], x[2], x[3]])])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


DATA = targets(96, 12, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["array", "bytes", "tensor", "on the GPU", "dataset", "loader"])
def test_training(waiting_is_an_error: None, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Steps do not wait for the GPU, wherever the data come from."""
    data: Any = {
        "array": DATA.numpy(),
        "bytes": (255 * DATA).numpy().astype(np.uint8),
        "tensor": DATA,
        "on the GPU": DATA.cuda(),
        "dataset": TensorDataset(DATA),
        "loader": DataLoader(TensorDataset(DATA.double()), batch_size=32),
    }[kind]
    torch.manual_seed(0)
    vae = VAE(12, 2, (8,))
    begin, end = Epoch._no_sums, Epoch._metrics

    def no_sums(self: Epoch) -> Tensor:
        sums = begin(self)
        if self.epoch > 0:  # the first one fills caches
            torch.cuda.set_sync_debug_mode("error")
        return sums

    def metrics(self: Epoch, prefix: str, sums: Tensor) -> dict[str, float]:
        torch.cuda.set_sync_debug_mode("default")
        return end(self, prefix, sums)

    monkeypatch.setattr(Epoch, "_no_sums", no_sums)
    monkeypatch.setattr(Epoch, "_metrics", metrics)
    trainer = VAETrainer(
        vae, max_epochs=3, batch_size=32, lr=0.02, accelerator="cuda", progress=False
    )
    trainer.fit(data, None if kind == "loader" else DATA)
    assert next(vae.parameters()).is_cuda
    assert trainer.history["bound"][-1] > trainer.history["bound"][0]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Any) -> None:
    def new(epochs: int, folder: str) -> VAETrainer:
        torch.manual_seed(0)
        return VAETrainer(
            VAE(12, 2, (8,)),
            max_epochs=epochs,
            batch_size=32,
            accelerator="cuda",
            checkpoint_dir=tmp_path / folder,
            progress=False,
        )

    whole = new(4, "whole").fit(DATA, DATA)
    new(2, "parts").fit(DATA, DATA)
    resumed = new(4, "parts").fit(DATA, DATA, resume=True)
    assert resumed.epoch == 4
    for key, values in whole.history.items():
        np.testing.assert_allclose(resumed.history[key], values, rtol=1e-5)
