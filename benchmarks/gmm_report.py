"""The tables and the picture of the EM benchmark."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field

import gmm_answers
import gmm_plot
import harness
from gmm_answers import Errors
from gmm_cases import Shape, bytes_read, operations

OURS, ONEDAL = "elbokit", "oneDAL"
DATA = ("overlapping", "separated")
AVX2_GOALS = 0.75  # of the goals at the machine's best level
MARK = "†"  # another answer


@dataclass
class Measured:
    """What one case gave: errors and times of the peers, or why a peer has none."""

    shape: Shape
    data: str
    errors: dict[str, Errors] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    timing: harness.Timing = field(default_factory=harness.Timing)

    def __str__(self) -> str:
        return f"{self.shape}, {self.data}"

    @property
    def ours_is_right(self) -> bool:
        return OURS in self.errors and self.errors[OURS].largest <= gmm_answers.OURS

    def ratio(self, peer: str = ONEDAL) -> float | None:
        both = {peer, OURS} <= self.timing.seconds.keys()
        return self.timing.ratio(peer, OURS) if both else None

    def spread(self) -> float:
        """Between the quartiles of oneDAL's ratios to ours, in parts of their median."""
        if not {ONEDAL, OURS} <= self.timing.seconds.keys():
            return 0.0
        if len(self.timing.seconds[ONEDAL]) < 2:
            return math.inf
        low, middle, high = statistics.quantiles(
            self.timing.ratios(ONEDAL, OURS), method="inclusive"
        )
        return (high - low) / middle

    def time(self, peer: str) -> str:
        """Milliseconds, median and quartiles; a mark where the answer is another one."""
        if peer not in self.timing.seconds:
            return self.failures.get(peer, "–")
        low, high = (1e3 * seconds for seconds in self.timing.quartiles(peer))
        wrong = self.errors[peer].largest > gmm_answers.TOLERANCE
        mark = MARK if wrong else ""
        return f"{1e3 * self.timing.median(peer):.3g}{mark} ({low:.3g}–{high:.3g})"


@dataclass
class Section:
    title: str
    level: str  # the CPU level that ours runs at
    goal_factor: float = 1.0
    measured: list[Measured] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)

    def goal(self, case: Measured) -> float | None:
        goal = case.shape.goals.get(case.data)
        return None if goal is None else goal * self.goal_factor

    def peers(self) -> list[str]:
        """Every peer that was asked, the slowest column first, ours last."""
        seen = dict.fromkeys(
            name for case in self.measured for name in (*case.errors, *case.failures)
        )
        return [name for name in seen if name not in (ONEDAL, OURS)] + [ONEDAL, OURS]


def limit(shape: Shape, rates: dict[str, float], bandwidth: float) -> float:
    """Seconds that an iteration takes at least: arithmetic or reading, whichever is more."""
    return max(operations(shape) / rates[shape.dtype], bytes_read(shape) / bandwidth)


def times(section: Section, rates: dict[str, float], bandwidth: float) -> str:
    rows = []
    for case in section.measured:
        ratio, goal = case.ratio(), section.goal(case)
        least = limit(case.shape, rates, bandwidth)
        done = OURS in case.timing.seconds
        rows.append(
            [
                str(case.shape),
                case.data,
                *(case.time(name) for name in section.peers()),
                "–" if ratio is None else f"{ratio:.2f}",
                "–" if goal is None else f"{goal:.2g}",
                f"{1e3 * least:.3g}",
                f"{least / case.timing.median(OURS):.0%}" if done else "–",
            ]
        )
    header = ["n × d, k, covariance", "data", *section.peers()]
    return harness.table([*header, "oneDAL ÷ ours", "goal", "limit", "of the limit"], rows)


def line(case: Measured) -> str:
    """One case in short, for who waits."""
    each = ", ".join(f"{name} {case.time(name)}" for name in (*case.timing.seconds, *case.failures))
    ratio = case.ratio()
    return f"{case}: {each}" + ("" if ratio is None else f"; oneDAL ÷ ours {ratio:.2f}")


def errors(section: Section) -> str:
    """Largest error of a parameter, and that of the likelihood."""
    rows = [
        [
            str(case.shape),
            case.data,
            *(
                f"{max(case.errors[name][:3]):.0e}, {case.errors[name].likelihood:.0e}"
                if name in case.errors
                else "–"
                for name in section.peers()
            ),
        ]
        for case in section.measured
    ]
    return harness.table(["n × d, k, covariance", "data", *section.peers()], rows)


def write(
    sections: list[Section],
    rates: dict[str, dict[str, float]],
    bandwidth: float,
    rounds: tuple[int, int],
) -> None:
    parts, versions = [], {}
    picture = harness.result("gmm", "png")
    for section in sections:
        parts += [f"## {section.title}", times(section, rates[section.level], bandwidth)]
        parts += [
            "Errors: the largest of a parameter, that of the log-likelihood:",
            errors(section),
        ]
        versions |= dict.fromkeys(section.versions)
    rate = ", ".join(
        f"{name} at {level} {r / 1e9:.0f} GFLOP/s"
        for level, of_level in rates.items()
        for name, r in of_level.items()
    )
    text = (
        "Milliseconds per EM iteration: a long run less a short one, over the difference of their "
        "iterations, from the same data and the same start, the fit as each library offers it. "
        "Each library runs in a process of its own with its default number of threads; they take "
        f"turns for up to {rounds[0]} rounds (slow ones fewer), oneDAL and elbokit for up to "
        f"{rounds[1]} where their ratios differ. Median (quartiles); ratios are taken within a "
        "round. Overlapping: two means are 2.8 standard deviations apart. Separated: the "
        "nearest two are 20 apart.\n\n"
        f"Before anything is timed, the parameters after {gmm_answers.ITERATIONS} iterations are "
        "compared with scikit-learn in float64 on the same rows: weights times k, means in "
        "standard deviations, covariances, and the mean log-likelihood of a row evaluated in "
        f"float64. {MARK}: off by more than {gmm_answers.TOLERANCE:g}. "
        f"elbokit has to be within {gmm_answers.OURS:g}.\n\n"
        "Limit: the arithmetic that cannot be left out at the rate of multiply-adds in registers "
        f"({rate}) or the data read once at the rate of torch's sum ({bandwidth / 1e9:.0f} GB/s), "
        "whichever takes longer; the best of this run. Skipping on separated data can beat it. "
        "pomegranate and gmmx do the same work on any data; without `--all` they are not run on "
        "separated data."
        f"\n\n![ratios]({picture.name})"
    )
    harness.write("gmm", "EM, time per iteration", text, "\n\n".join(parts), list(versions))
    gmm_plot.draw(sections[0], picture)
