"""Times on a GPU by events, the limits of the device, and rows that survive a time limit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import harness

Work = Callable[[int], object]  # called with the number of the round, to rotate its inputs


@dataclasses.dataclass
class Row:
    """One case: the times of the peers, what bounds them, and how wrong ours was."""

    case: str
    seconds: dict[str, list[float]]  # of ours and each peer, round by round
    limit: float | None = None  # seconds that the device needs at least
    goals: dict[str, float] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)  # peers that have no time
    said: str = ""  # what else was measured

    def timing(self) -> harness.Timing:
        return harness.Timing(self.seconds)


class Clock:
    """What is left of a run's time, and where its rows are kept as they come."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.end = time.monotonic() + given.seconds
        self.path: Path | None = given.json
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.failed = False

    def room(self, case: str, seconds: float) -> bool:
        """Whether a case that may take so long can still begin; if not, the table will say so."""
        if time.monotonic() + seconds <= self.end:
            return True
        self.left_out.append(case)
        self._save()
        return False

    def run(self, case: str, seconds: float, work: Callable[[], None]) -> None:
        """Measure a case if there is room; one that fails leaves the others alone."""
        if not self.room(case, seconds):
            return
        try:
            work()
        except Exception as error:  # out of memory, wrong answers, whatever a peer raises
            self.failed = True
            self.left_out.append(f"{case} ({type(error).__name__}: {str(error)[:300]})")
            print(f"failed: {self.left_out[-1]}", flush=True)
            self._save()
        torch.cuda.empty_cache()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(as_line(row), flush=True)
        self._save()

    def _save(self) -> None:
        if self.path:
            text = {"rows": [dataclasses.asdict(r) for r in self.rows], "left_out": self.left_out}
            self.path.write_text(json.dumps(text))


def arguments(description: str, given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=900.0, help="begin no case after this")
    parser.add_argument("--json", type=Path, help="where the rows are kept as they come")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    return parser.parse_args(given)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    if not path.exists():
        return [], []
    found = json.loads(path.read_text())
    return [Row(**row) for row in found["rows"]], found["left_out"]


# Some 2 ms in which the device waits, so that a peer's launches are all queued when it begins:
# what is timed is the device's work, however long Python takes.
HEAD_START = 4_000_000


def timed(peers: dict[str, Work], rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds on the device by events; the peers in turn, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for i in range(warm_up + rounds):
        events = {}
        for name, work in peers.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HEAD_START)
            begin.record()
            work(i)
            end.record()
            events[name] = begin, end
        torch.cuda.synchronize()
        if i >= warm_up:
            for name, (begin, end) in events.items():
                seconds[name].append(begin.elapsed_time(end) / 1e3)
    return seconds


def timed_calls(peers: dict[str, Work], rounds: int, calls: int = 50) -> dict[str, list[float]]:
    """Seconds per call of many in a row, Python included: where launching is what takes time."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for i in range(2 + rounds):
        for name, work in peers.items():
            torch.cuda.synchronize()
            begin = time.perf_counter()
            for j in range(calls):
                work(i * calls + j)
            torch.cuda.synchronize()
            if i >= 2:
                seconds[name].append((time.perf_counter() - begin) / calls)
    return seconds


def launches(work: Work) -> int:
    """Kernels, copies and fills that one call puts on the device."""
    from torch.profiler import ProfilerActivity, profile

    work(0)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as run:
        work(1)
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in run.events())


def copy_bandwidth(size: int = 1 << 31) -> float:
    """Bytes per second of a copy, read and written, far beyond the caches."""
    a = torch.empty(size, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    seconds = timed({"copy": lambda i: (a if i % 2 else b).copy_(b if i % 2 else a)}, 15)
    return 2 * size / min(seconds["copy"])


def flops_per_second(size: int = 8192) -> float:
    """Best rate of torch's float32 product without TF32: a stand-in for the FMA peak."""
    a, b = (torch.rand(size, size, device="cuda") for _ in range(2))
    return 2 * size**3 / min(timed({"product": lambda i: torch.mm(a, b)}, 7)["product"])


def spread(row: Row, peer: str) -> str:
    """``1.2 ms (1.1 to 1.3)``."""
    if peer not in row.seconds:
        return row.notes.get(peer, "–")
    low, high = (harness.duration(q) for q in row.timing().quartiles(peer))
    return f"{harness.duration(row.timing().median(peer))} ({low} to {high})"


def verdicts(row: Row) -> str:
    """Each goal beside what was measured: ``elbokit / limit 1.08 ≤ 1.15``."""
    timing, cells = row.timing(), []
    ours = timing.median("elbokit")
    for goal, bound in row.goals.items():
        if goal == "limit" and row.limit:
            cells.append(f"of the limit {ours / row.limit:.2f} ≤ {bound}")
        elif goal == "seconds":
            cells.append(f"{harness.duration(ours)} ≤ {harness.duration(bound)}")
        elif goal in row.seconds:
            cells.append(f"{goal} ÷ ours {timing.ratio(goal, 'elbokit'):.1f} ≥ {bound}")
        else:
            cells.append(f"{goal}: not measured, goal {bound}")
    return "; ".join([*cells, row.said] if row.said else cells)


def as_line(row: Row) -> str:
    times = ", ".join(f"{peer} {spread(row, peer)}" for peer in row.seconds)
    return f"{row.case}: {times}; {verdicts(row)}"


def as_table(rows: list[Row]) -> str:
    peers = list(dict.fromkeys(p for row in rows for p in (*row.seconds, *row.notes)))
    lines = []
    for row in rows:
        errors = ", ".join(f"{name} {error:.1e}" for name, error in row.errors.items())
        limit = harness.duration(row.limit) if row.limit else "–"
        cells: list[Any] = [row.case, *(spread(row, p) for p in peers), limit, verdicts(row)]
        lines.append([*cells, errors or "–"])
    return harness.table(["case", *peers, "limit", "goals", "errors against float64"], lines)


def as_section(path: Path) -> str:
    """What a benchmark left in its file, however it ended."""
    rows, left_out = read_rows(path)
    text = as_table(rows) if rows else "No case was measured."
    return text + (f"\n\nLeft out: {'; '.join(left_out)}." if left_out else "")


def as_goals(rows: list[Row]) -> str:
    """The rows of a table that has no numbers yet."""
    peers = {"limit": "of the limit ≤ {}", "seconds": "{} s"}
    lines = [
        [
            row.case,
            "; ".join(peers.get(g, g + " ÷ ours ≥ {}").format(b) for g, b in row.goals.items()),
        ]
        for row in rows
    ]
    return harness.table(["case", "goals"], lines)


def device_or_none() -> str | None:
    """The GPU's name, or None, having said so."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    print("no GPU here: nothing to measure")
    return None
