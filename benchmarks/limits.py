"""What the machine can do at most, measured in the run that quotes it."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import torch

import elbokit
import harness

SOURCE = Path(__file__).parent / "fma_peak.cpp"
BUILT = Path(__file__).parents[1] / "build" / "benchmarks"


@functools.cache
def _fma_peak(level: str) -> Path:
    """Build the loop of fused multiply-adds for a CPU level; a matrix product may not use it."""
    program = BUILT / f"fma_peak_{level}"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        BUILT.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX", "c++")
        options = ["-O3", f"-march=x86-64-{level}", "-pthread"]
        subprocess.run([compiler, *options, str(SOURCE), "-o", str(program)], check=True)
    return program


def flops_per_second(level: str, rounds: int = 3) -> dict[str, float]:
    """Best rate of multiply-adds in registers, by dtype, on as many threads as elbokit takes."""
    command = [str(_fma_peak(level)), str(elbokit.get_num_threads())]
    best = {"float32": 0.0, "float64": 0.0}
    for _ in range(rounds):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        for dtype, rate in zip(best, done.stdout.split(), strict=True):
            best[dtype] = max(best[dtype], 1e9 * float(rate))
    return best


def bytes_per_second(size: int = 100_000_000, rounds: int = 7) -> float:
    """Best rate of torch's sum of an array far larger than the caches: the memory's read rate."""
    a = torch.ones(size, dtype=torch.float32)
    timing = harness.interleave({"sum": a.sum}, rounds)
    return a.nbytes / min(timing.seconds["sum"])
