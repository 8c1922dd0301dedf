"""Interleaved timing of peers that do the same work, and the tables that come of it.

Absolute times drift on shared machines, so peers run in turn, round by round, and ratios are taken
within a round. Every benchmark compares the answers before it times them.
"""

from __future__ import annotations

import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

import elbokit

RESULTS = Path(__file__).parent / "results"
Work = Callable[[], object]


@dataclass
class Timing:
    """Seconds of each peer, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.seconds[peer])

    def ratio(self, peer: str, to: str) -> float:
        """Median over the rounds of ``peer``'s time over ``to``'s in the same round."""
        pairs = zip(self.seconds[peer], self.seconds[to], strict=True)
        return statistics.median(a / b for a, b in pairs)


def interleave(peers: dict[str, Work], rounds: int, warm_up: int = 2) -> Timing:
    """Run every peer once per round, in turn; the first rounds do not count."""
    timing = Timing({name: [] for name in peers})
    gc.disable()
    try:
        for i in range(warm_up + rounds):
            for name, work in peers.items():
                start = time.perf_counter()
                work()
                elapsed = time.perf_counter() - start
                if i >= warm_up:
                    timing.seconds[name].append(elapsed)
    finally:
        gc.enable()
    return timing


def flops_per_second(size: int = 2048, rounds: int = 7) -> float:
    """Best float32 rate of torch's matrix product here: a measured stand-in for the FMA peak."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    timing = interleave({"product": lambda: torch.mm(a, b)}, rounds)
    return 2 * size**3 / min(timing.seconds["product"])


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> str:
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions() -> str:
    """Return one line on the machine, the commit and the versions."""
    import numpy
    import sklearn

    return (
        f"{_processor()}, {elbokit.get_num_threads()} threads, CPU level "
        f"{elbokit._core.cpu_level()}; commit {_commit()}; numpy {numpy.__version__}, "
        f"scikit-learn {sklearn.__version__}, torch {torch.__version__}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(stem: str, title: str, text: str, body: str) -> None:
    """Write ``results/<stem>.md`` and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{stem}.md"
    path.write_text(f"# {title}\n\n{text}\n\n{body}\n\nMeasured on: {conditions()}.\n")
    print(f"\n{body}\n\nwritten to {path}")


def progress(cases: Sequence[object], name: str) -> tqdm:
    return tqdm(cases, desc=name, unit="case")
