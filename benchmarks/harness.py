"""Interleaved timing of peers that do the same work, and the tables that come of it.

Absolute times drift on shared machines, so peers run in turn, round by round, and ratios are taken
within a round. Every benchmark compares the answers before it times them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

import elbokit

# What is built to be measured stays in the checkout.
os.environ["ELBOKIT_CACHE_DIR"] = str(Path(__file__).parent.parent / "build" / "cache")

RESULTS = Path(__file__).parent / "results"
HIGHEST = "v4"
Work = Callable[[], object]


@dataclass
class Timing:
    """Seconds of each peer, round by round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.seconds[peer])

    def quartiles(self, peer: str) -> tuple[float, float]:
        seconds = self.seconds[peer]
        if len(seconds) < 2:
            return seconds[0], seconds[0]
        low, _, high = statistics.quantiles(seconds, method="inclusive")
        return low, high

    def ratio(self, peer: str, to: str) -> float:
        """Median of `ratios`."""
        return statistics.median(self.ratios(peer, to))

    def ratios(self, peer: str, to: str) -> list[float]:
        """Of each round, ``peer``'s time over ``to``'s.

        A slow peer may have left after the first rounds; then those count.
        """
        pairs = zip(self.seconds[peer], self.seconds[to], strict=False)
        return [a / b for a, b in pairs]


def interleave(peers: dict[str, Work], rounds: int, warm_up: int = 2, pause: float = 0.0) -> Timing:
    """Run every peer once per round, in turn; the first rounds do not count.

    `pause` seconds go by before each, for the threads of the one before (BLAS's wait actively for
    some 20 ms) to leave the cores.
    """
    timing = Timing({name: [] for name in peers})
    gc.disable()
    try:
        for i in range(warm_up + rounds):
            for name, work in peers.items():
                if pause > 0:
                    time.sleep(pause)
                start = time.perf_counter()
                work()
                elapsed = time.perf_counter() - start
                if i >= warm_up:
                    timing.seconds[name].append(elapsed)
    finally:
        gc.enable()
    return timing


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> str:
    """What was measured: "-dirty" where anything but earlier results differs from the commit."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        changed = git(
            "status", "--porcelain", "-uno", "--", ":/", ":(exclude,top)benchmarks/results"
        )
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions(versions: Sequence[str] = ()) -> str:
    """Return one line on the machine, the commit and the versions."""
    found = versions or [
        f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scikit-learn", "torch")
    ]
    return (
        f"{_processor()}, {elbokit.get_num_threads()} threads, CPU level "
        f"{elbokit._core.cpu_level()}; commit {_commit()}; " + ", ".join(found)
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def result(stem: str, suffix: str) -> Path:
    """Return the path of a result, which carries the CPU level where that is not the highest.

    So a processor without AVX-512 leaves the tables of those with it alone: ``gmm_v3.md``.
    """
    level = elbokit._core.cpu_level()
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{stem}{'' if level == HIGHEST else f'_{level}'}.{suffix}"


def write(stem: str, title: str, text: str, body: str, versions: Sequence[str] = ()) -> None:
    """Write ``results/<stem>.md`` and say where."""
    path = result(stem, "md")
    path.write_text(f"# {title}\n\n{text}\n\n{body}\n\nMeasured on: {conditions(versions)}.\n")
    print(f"\n{body}\n\nwritten to {path}")


def progress(cases: Sequence[object], name: str) -> tqdm:
    return tqdm(cases, desc=name, unit="case")
