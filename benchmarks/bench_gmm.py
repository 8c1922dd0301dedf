"""EM of Gaussian mixtures: time per iteration, beside every other library that was found.

float64 and the AVX2 level are measured beside oneDAL alone. ``--all`` adds more shapes and the
other covariance types.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import elbokit
import gmm_answers
import gmm_report
import harness
import limits
from gmm_cases import DOUBLE, MORE, ODD, TABLE, Shape, clusters
from gmm_report import AVX2_GOALS, DATA, ONEDAL, OURS, Measured, Section
from peers.client import Client, PeerError

SHORT = 1  # iterations; the difference of two runs leaves out what is done once per fit
MOST = 40  # iterations of the long run above the short one's
TURN_S = 0.3  # how long the iterations of one turn should take
ROUNDS = 5
MOST_ROUNDS = 15  # of ours and oneDAL's, where the ratios of the first ones are far apart
SPREAD = 0.06  # between the quartiles of the ratios, in parts of their median
SLOW_S = 1.0
BUDGET_S = 3.0  # a peer that would need longer for all rounds of a case leaves early
# They work on every component of every row whatever the data, and take most of the time of the
# whole benchmark; the short form runs them on overlapping data alone.
INDIFFERENT = ("pomegranate", "gmmx")
UNREST = 0.2  # a difference below this part of the short run is measured again
SETTLE_S = 0.05  # idle threads of the last peer may spin this long


def peers() -> list[Client]:
    names = {"scikit-learn": "scikit_learn", "pomegranate": "pomegranate", "gmmx": "gmmx"}
    others = [Client(name, library) for name, library in names.items()]
    return [Client(OURS, "elbokit"), Client(ONEDAL, "onedal"), *others]


def beside_onedal() -> list[Client]:
    return [Client(OURS, "elbokit"), Client(ONEDAL, "onedal")]


def at_avx2() -> list[Client]:
    ours = Client(OURS, "elbokit", environment={"ELBOKIT_CPU_LEVEL": "v3"})
    return [ours, Client(ONEDAL, "onedal", ("avx2",))]


class Turns:
    """A peer's part in the rounds of one case: how many iterations, how often, how many rounds."""

    def __init__(self, peer: Client, seconds: float, iterations: int) -> None:
        """Plan by the ``seconds`` that a run of so many iterations took."""
        self.peer, self.repeats = peer, 1
        each = seconds / iterations
        self.long = SHORT + min(MOST, max(1, round(TURN_S / each)))
        if each < TURN_S:  # the first run was warm-up and may have been slow
            times, done = peer.run(self.long)
            each = min(each, times[0] / done)
            # A peer that stops by itself runs more often instead.
            self.repeats = min(50, max(1, math.ceil(TURN_S / each / (done - SHORT) / 2)))
            self.long = min(self.long, done)
        turn_s = each * (self.long + SHORT) * self.repeats
        fewest = 1 if each > SLOW_S else 3  # one round alone says little where others interfere
        self.rounds = int(min(ROUNDS, max(fewest, BUDGET_S / turn_s)))

    def seconds_per_iteration(self) -> float:
        seconds = 0.0
        for _ in range(3):
            time.sleep(SETTLE_S)
            less, few = self.peer.run(SHORT, self.repeats)
            more, many = self.peer.run(self.long, self.repeats)
            seconds = (statistics.median(more) - statistics.median(less)) / (many - few)
            if seconds > UNREST * statistics.median(less):
                return seconds
            self.long += self.long - SHORT  # the machine's unrest was more than the difference
        if seconds > 0:
            return seconds
        raise PeerError("no time above the noise")


def measure(
    shape: Shape, data: str, clients: Sequence[Client], folder: Path, left_out: Sequence[str]
) -> Measured:
    """Answers first, then times, the peers in turn and every other round in reverse."""
    case = clusters(shape, data)
    path, found_path = folder / "case.npz", folder / "answer.npz"
    np.savez(path, **case._asdict())
    truth = gmm_answers.exact(case)
    result = Measured(shape, data, failures=dict.fromkeys(left_out, "not run"))
    turns = []
    for peer in (peer for peer in clients if peer.name not in left_out):
        try:
            peer.load(path)
            seconds, iterations = peer.run(gmm_answers.ITERATIONS, answer=found_path)
            found = gmm_answers.read(found_path, iterations)
            result.errors[peer.name] = gmm_answers.errors(case, found, truth)
            turns.append(Turns(peer, seconds[0], iterations))
        except PeerError as error:
            result.failures[peer.name] = str(error)
    pair = [turn for turn in turns if turn.peer.name in (OURS, ONEDAL)]
    for turn in pair:  # the same rounds, for the sake of their ratio
        turn.rounds = max(each.rounds for each in pair)
    for i in range(MOST_ROUNDS):
        if i >= ROUNDS:
            turns = pair
            if result.spread() <= SPREAD:
                break
        for turn in turns[:: 1 if i % 2 == 0 else -1]:
            name = turn.peer.name
            if (i < turn.rounds or i >= ROUNDS) and name not in result.failures:
                try:
                    seconds_per_iteration = turn.seconds_per_iteration()
                    result.timing.seconds.setdefault(name, []).append(seconds_per_iteration)
                except PeerError as error:
                    result.failures[name] = str(error)
    return result


def best_is_avx2() -> bool:
    return elbokit._core.cpu_level() == "v3"


def sections(everything: bool) -> list[tuple[Section, list[Client], list[Shape]]]:
    level = elbokit._core.cpu_level()
    factor = AVX2_GOALS if best_is_avx2() else 1.0
    found = [
        (Section("float32", level, factor), peers(), [*TABLE, *ODD]),
        (Section("float64", level, factor), beside_onedal(), DOUBLE),
    ]
    if "v3" in elbokit._core.cpu_levels() and not best_is_avx2():
        found.append((Section("float32 at the AVX2 level", "v3", AVX2_GOALS), at_avx2(), TABLE))
    if everything:
        found.append((Section("float32, more shapes", level), peers(), MORE))
    return found


class Limits:
    """Rates of the machine. It is shared: the best of the whole run is nearest to the limit."""

    def __init__(self) -> None:
        self.flops: dict[str, dict[str, float]] = {}  # by CPU level and dtype
        self.bandwidth = 0.0

    def look(self, level: str) -> None:
        best = self.flops.setdefault(level, {})
        for dtype, seen in limits.flops_per_second(level).items():
            best[dtype] = max(best.get(dtype, 0.0), seen)
        self.bandwidth = max(self.bandwidth, limits.bytes_per_second(rounds=3))


def fill(
    section: Section,
    clients: list[Client],
    shapes: Sequence[Shape],
    machine: Limits,
    left_out: dict[str, Sequence[str]],
) -> None:
    """Measure every case of a section; the workers end with it."""
    cases = [(shape, data) for shape in shapes for data in DATA]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for shape, data in harness.progress(cases, f"EM, {section.title}"):
                found = measure(shape, data, clients, Path(folder), left_out.get(data, ()))
                section.measured.append(found)
                print(gmm_report.line(found), file=sys.stderr, flush=True)
                machine.look(section.level)
        section.versions = [peer.versions or f"{peer.name}: {peer.absent}" for peer in clients]
    finally:
        for peer in clients:
            peer.close()


def main(everything: bool = False) -> None:
    machine, filled = Limits(), []
    left_out = {} if everything else {"separated": INDIFFERENT}
    for section, clients, shapes in sections(everything):
        fill(section, clients, shapes, machine, left_out)
        filled.append(section)
    gmm_report.write(filled, machine.flops, machine.bandwidth, (ROUNDS, MOST_ROUNDS))
    wrong = [str(m) for section in filled for m in section.measured if not m.ours_is_right]
    if wrong:
        sys.exit("elbokit's answer is off: " + "; ".join(wrong))


if __name__ == "__main__":
    main("--all" in sys.argv[1:])
