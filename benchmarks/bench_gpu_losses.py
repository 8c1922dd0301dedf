"""The VAE loss on a GPU, forward and backward, beside torch eager, torch.compile and a copy."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import gpu_timing
from bench_vae_loss import fused, plain
from gpu_timing import Clock, Row

# batch, pixels, latent dimensions
LARGE = [(65_536, 784, 64), (16_384, 12_288, 256)]
SMALL = (128, 784, 20)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLE = 64  # rows that are computed in float64
# On the loss and the gradient, relative to the largest: the rounding of the dtype, and room.
ALLOWED = {"float32": (2e-6, 2e-6), "bfloat16": (2e-2, 1e-2)}
Loss = Callable[..., Tensor]


def inputs(
    batch: int, pixels: int, latent: int, dtype: torch.dtype, device: str, seed: int = 0
) -> list[Tensor]:
    generator = torch.Generator(device).manual_seed(seed)

    def normal(cols: int) -> Tensor:
        return torch.randn(batch, cols, generator=generator, device=device).to(dtype)

    target = torch.rand(batch, pixels, generator=generator, device=device).to(dtype)
    found = [normal(pixels), target, normal(latent), normal(latent)]
    return [t.requires_grad_() if i != 1 else t for i, t in enumerate(found)]


def step(loss: Loss, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Value and gradients."""
    value = loss(*given)
    leaves = [t for t in given if t.requires_grad]
    return (value.detach(), *torch.autograd.grad(value, leaves))


def errors(loss: Loss, given: Sequence[Tensor]) -> dict[str, float]:
    """Of the loss and the gradient in the logits, against float64 on the CPU, in sampled rows.

    The gradient's rows are those of the whole batch: the last ones, which a tail computes, and some
    spread over it. The value is that of these rows alone.
    """
    batch = len(given[0])
    some = torch.linspace(0, batch - 1, min(SAMPLE, batch), dtype=torch.int64)
    rows = [t.detach()[some.to(t.device)] for t in given]
    exact = [t.cpu().double().requires_grad_(i != 1) for i, t in enumerate(rows)]
    value, in_logits, *_ = step(plain, exact)
    ours = loss(*rows).cpu().double()
    grad = step(loss, given)[1][some.to(given[0].device)].cpu().double() * batch
    truth = in_logits * len(some)
    return {
        "loss": ((ours - value) / value).abs().item(),
        "gradient": ((grad - truth).abs().max() / truth.abs().max()).item(),
    }


def check(found: dict[str, float], dtype: str) -> None:
    for (name, error), allowed in zip(found.items(), ALLOWED[dtype], strict=True):
        if not error <= allowed:
            raise AssertionError(f"{name} of {dtype} is off by {error:.1e}, allowed {allowed}")


GOALS = {"limit": 1.15, "compile": 1.5, "eager": 5.0}
SMALL_GOALS, GRAPH_GOALS = {"eager": 3.0}, {"compile": 1.0}
LAUNCHES = 3.0  # eager's over ours


def name_of(batch: int, pixels: int, dtype: str) -> str:
    return f"vae_loss {batch:,} × {pixels:,}, {dtype}"


def goals() -> list[Row]:
    name = name_of(*SMALL[:2], "float32")
    small = Row(name, {}, goals=SMALL_GOALS | {"eager's launches": LAUNCHES})
    rows = [small, Row(f"{name}, CUDA graphs", {}, goals=GRAPH_GOALS)]
    return rows + [
        Row(name_of(*shape[:2], dtype), {}, goals=GOALS) for shape in LARGE for dtype in DTYPES
    ]


def large(clock: Clock, batch: int, pixels: int, latent: int, dtype: str, copy: float) -> None:
    case = name_of(batch, pixels, dtype)
    torch.compiler.reset()
    sets = [inputs(batch, pixels, latent, DTYPES[dtype], "cuda", seed) for seed in range(2)]
    found = errors(fused, sets[0])
    check(found, dtype)
    losses: dict[str, Any] = {"elbokit": fused, "eager": plain, "compile": torch.compile(plain)}
    peers = {name: (lambda i, loss=loss: step(loss, sets[i % 2])) for name, loss in losses.items()}
    seconds = gpu_timing.timed(peers, rounds=20)
    passes = 3 * batch * pixels * DTYPES[dtype].itemsize / copy
    clock.add(Row(case, seconds, passes, GOALS, found))


def captured(loss: Loss, given: Sequence[Tensor]) -> Callable[[int], object]:
    """Forward and backward as a CUDA graph, which is replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(loss, given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step(loss, given)
    return lambda _, kept=kept: graph.replay()  # the outputs' memory lives as long as the graph


def small(clock: Clock) -> None:
    case = name_of(*SMALL[:2], "float32")
    torch.compiler.reset()
    sets = [inputs(*SMALL, torch.float32, "cuda", seed) for seed in range(128)]  # beyond L2
    found = errors(fused, sets[0])
    check(found, "float32")
    compiled = torch.compile(plain)
    losses: dict[str, Any] = {"elbokit": fused, "eager": plain, "compile": compiled}
    peers = {
        name: (lambda i, loss=loss: step(loss, sets[i % 128])) for name, loss in losses.items()
    }
    counts: dict[str, int] = {}
    try:
        counts = {name: gpu_timing.launches(work) for name, work in peers.items()}
    except RuntimeError as error:  # no profiler: the times are still worth having
        uncounted = f"launches were not counted ({error})"
    seconds = gpu_timing.timed_calls(peers, rounds=15)
    row = Row(case, seconds, goals=SMALL_GOALS, errors=found)
    if counts:
        row.said = ", ".join(f"{name} {count} launches" for name, count in counts.items())
        row.said += f": {counts['eager'] / max(counts['elbokit'], 1):.1f} ≥ {LAUNCHES}"
    else:
        row.said = uncounted
    clock.add(row)
    graphs = {name: captured(loss, sets[0]) for name, loss in losses.items()}
    seconds = gpu_timing.timed_calls(graphs, rounds=15)
    clock.add(Row(f"{case}, CUDA graphs", seconds, goals=GRAPH_GOALS))


def main(given: Sequence[str] = ()) -> None:
    options = gpu_timing.arguments(__doc__.splitlines()[0], given)
    if gpu_timing.device_or_none() is None:
        return
    clock = Clock(options)
    copy = gpu_timing.copy_bandwidth()
    print(f"copy: {copy / 1e12:.2f} TB/s")
    if options.only in (name := name_of(*SMALL[:2], "float32")):
        clock.run(name, 25, lambda: small(clock))
    for shape in LARGE:
        for dtype in DTYPES:
            if options.only in (name := name_of(*shape[:2], dtype)):
                work = functools.partial(large, clock, *shape, dtype, copy)
                clock.run(name, 20, work)
    if clock.failed:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
