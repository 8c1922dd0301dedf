"""EM of Gaussian mixtures: how the time per iteration grows, and what a second thread brings."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import elbokit
import harness
from gmm_cases import Shape, clusters
from peers.elbokit import Peer

ROUNDS = 5
THREAD_ROUNDS = 15  # another tenant of the machine takes a core, and with it the second thread
TURN_S = 0.15
# What varies, its values, the rest, and the power of the time that is expected.
SWEEPS = [
    ("n", (12_500, 25_000, 50_000, 100_000, 200_000, 400_000), Shape(0, 16, 16, "full"), 1),
    ("k", (4, 8, 16, 32, 64, 128), Shape(40_000, 16, 0, "full"), 1),
    ("d", (16, 24, 32, 48, 64, 96), Shape(20_000, 0, 16, "full"), 2),
    ("d", (8, 16, 32, 64, 128, 256), Shape(40_000, 0, 16, "diag"), 1),
]
THREADED = [Shape(100_000, 16, 8, "full"), Shape(50_000, 64, 32, "full"),
            Shape(200_000, 64, 32, "diag"), Shape(1_000_000, 8, 64, "diag")]  # fmt: skip
KINDS = ("diag", "spherical", "tied", "full")
SAME_SIZES = [(100_000, 16, 8), (200_000, 64, 32), (99_991, 29, 19)]


def per_iteration(
    shapes: Sequence[Shape], threads: Sequence[int] = (), rounds: int = ROUNDS
) -> harness.Timing:
    """Seconds per iteration of every shape, or of every shape and number of threads, in turn."""
    works, iterations = {}, {}
    for shape in shapes:
        peer = Peer()
        peer.load(clusters(shape, "overlapping"))
        started = harness.interleave({"once": peer.prepare(3)}, rounds=1, warm_up=1)
        long = 1 + int(np.clip(TURN_S / started.median("once") * 3, 1, 60))
        for count in threads or (0,):
            for n in (1, long):
                work = functools.partial(with_threads, count, peer.prepare(n))
                works[f"{shape} {count} {n > 1}"] = work
            iterations[f"{shape} {count}"] = long - 1
    whole = harness.interleave(works, rounds, warm_up=1).seconds
    return harness.Timing(
        {
            name: [
                (more - less) / count
                for more, less in zip(whole[f"{name} True"], whole[f"{name} False"], strict=True)
            ]
            for name, count in iterations.items()
        }
    )


def with_threads(count: int, work: harness.Work) -> object:
    """Run ``work`` on so many threads; 0 leaves their number alone."""
    before = elbokit.get_num_threads()
    elbokit.set_num_threads(count or before)
    try:
        return work()
    finally:
        elbokit.set_num_threads(before)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Power of x that y grows with: the line through the logarithms, least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def sweeps(axes: Sequence[plt.Axes]) -> str:
    rows = []
    for axis, (name, values, rest, expected) in zip(axes, SWEEPS, strict=True):
        shapes = [rest._replace(**{name: value}) for value in values]
        timing = per_iteration(shapes)
        seconds = [timing.median(f"{shape} 0") for shape in shapes]
        fixed = ", ".join(f"{key} = {getattr(rest, key):,}" for key in "ndk" if key != name)
        found, upper = slope(values, seconds), slope(values[-3:], seconds[-3:])
        each = ", ".join(harness.duration(s) for s in seconds)
        said = ", ".join(f"{value:,}" for value in values)
        rows.append(
            [
                f"{name}, {rest.kind} ({fixed})",
                said,
                each,
                f"{found:.2f}",
                f"{upper:.2f}",
                str(expected),
            ]
        )
        draw(axis, name, values, seconds, f"{rest.kind}, {fixed}", found, expected)
    header = ["grows", "values", "time per iteration", "slope", "of the last three", "expected"]
    return harness.table(header, rows)


def draw(
    axis: plt.Axes, name: str, x: Sequence[int], y: Sequence[float], title: str, found: float,
    expected: int,
) -> None:  # fmt: skip
    axis.loglog(x, [1e3 * seconds for seconds in y], "o-", label=f"measured, slope {found:.2f}")
    through_last = [1e3 * y[-1] * (value / x[-1]) ** expected for value in x]
    axis.loglog(x, through_last, "--", color="grey", label=f"slope {expected}")
    axis.set(title=title, xlabel=name, ylabel="ms per iteration")
    axis.set_xticks(x, [f"{value:,}" for value in x], rotation=30)
    axis.minorticks_off()
    axis.grid(alpha=0.4)
    axis.legend()


def threads() -> str:
    rows = []
    for shape in THREADED:
        timing = per_iteration([shape], (1, 2), THREAD_ROUNDS)
        one, two = (f"{shape} {count}" for count in (1, 2))
        rows.append(
            [
                str(shape),
                harness.duration(timing.median(one)),
                harness.duration(timing.median(two)),
                f"{timing.ratio(one, two):.2f}",
            ]
        )
    return harness.table(["n × d, k, covariance", "1 thread", "2 threads", "ratio"], rows)


def kinds() -> str:
    """Covariance types beside each other on the same sizes."""
    rows = []
    for n, d, k in SAME_SIZES:
        shapes = [Shape(n, d, k, kind) for kind in KINDS]
        timing = per_iteration(shapes)
        each = [
            f"{harness.duration(timing.median(f'{shape} 0'))} "
            f"({timing.ratio(f'{shape} 0', f'{shapes[0]} 0'):.2f})"
            for shape in shapes
        ]
        rows.append([f"{n:,} × {d}, {k}", *each])
    return harness.table(["n × d, k", *KINDS], rows)


def main() -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    parts = [
        sweeps(axes.ravel()),
        "## Threads",
        threads(),
        "## Covariance types",
        "Time per iteration, and its ratio to diag's.",
        kinds(),
    ]
    picture = harness.result("gmm_growth", "png")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    harness.write(
        "gmm_growth",
        "EM, growth of the time per iteration",
        "float32, overlapping data; `GaussianMixture.fit`, a long run less one with a single "
        f"iteration, medians of {ROUNDS} rounds ({THREAD_ROUNDS} of threads) in which all values "
        "of a row take turns. Slope: the power that the time grows with, by least squares on "
        "logarithms, over all values and "
        f"over the last three.\n\n![growth]({picture.name})",
        "\n\n".join(parts),
    )


if __name__ == "__main__":
    main()
