"""What the machine can do at most, measured in the run that quotes it."""

from __future__ import annotations

import torch

import harness


def flops_per_second(dtype: str = "float32", size: int = 2048, rounds: int = 7) -> float:
    """Best rate of torch's matrix product here: a measured stand-in for the FMA peak."""
    a, b = (torch.rand(size, size, dtype=getattr(torch, dtype)) for _ in range(2))
    timing = harness.interleave({"product": lambda: torch.mm(a, b)}, rounds)
    return 2 * size**3 / min(timing.seconds["product"])


def bytes_per_second(size: int = 100_000_000, rounds: int = 7) -> float:
    """Best rate of torch's sum of an array far larger than the caches: the memory's read rate."""
    a = torch.ones(size, dtype=torch.float32)
    timing = harness.interleave({"sum": a.sum}, rounds)
    return a.nbytes / min(timing.seconds["sum"])
