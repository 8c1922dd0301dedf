"""EM of Gaussian mixtures on a GPU, beside scikit-learn's array-API path and EM in torch."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before scipy is imported

import numpy as np
import torch
from torch import Tensor

import elbokit
import gpu_em_torch
import gpu_timing
from gpu_timing import Clock, Row

SKLEARN, TORCH = "scikit-learn", "torch.compile"
ITERATIONS = 10  # of the long run above the short one's
SAMPLE = 2_000  # rows that are computed in float64
# On responsibilities. 1e-5 is promised near a component; a row off by more is shown, and one
# with a wrong answer is not timed.
ALLOWED = 3e-5


class Case(NamedTuple):
    """A row of the table; goals are those of an iteration, 0 where there is none."""

    n: int
    d: int
    k: int
    kind: str
    goal: float
    seconds: float  # what measuring it may take
    batch: int = 1
    spread: float = 2.0  # of the clusters' centers in each feature, in standard deviations

    def __str__(self) -> str:
        many = f"{self.batch:,} mixtures of " if self.batch > 1 else ""
        name = f"EM {many}{self.n:,} × {self.d}, {self.k}, {self.kind}"
        return name if self.spread > 1 else f"{name}, overlapping"

    def limit(self, bandwidth: float, flops: float) -> float:
        """Seconds of one iteration: reading the rows, or the products, whichever is more.

        A density takes d (d + 1) / 2 multiply-adds, a moment as many; diagonal ones 2 d and 2 d.
        """
        rows = self.batch * self.n
        each = self.d * (self.d + 1) / 2 if self.kind == "full" else 2 * self.d
        return max(4 * rows * self.d / bandwidth, 4 * rows * self.k * each / flops)


CASES = [
    Case(10_000_000, 2, 16, "full", 0.6e-3, 40),
    Case(1_000_000, 64, 32, "full", 8e-3, 40),
    Case(1_000_000, 128, 1_024, "diag", 10e-3, 50),
]
# At a spread of 2 in 64 features a row has but one component that matters, which ours makes use of
# and the peers do not. Here all of them matter.
OVERLAPPING = [case._replace(spread=0.1) for case in (CASES[2], CASES[1])]
# 20 iterations: the goal is that of the whole run
MANY = Case(200, 2, 3, "full", 15e-3, 40, batch=100_000)
WHOLE = Case(1_000_000, 32, 16, "full", 0.0, 60)


PEERS = {SKLEARN: 10.0, TORCH: 5.0}
WHOLE_GOALS = {SKLEARN: 30.0}
SEEDS = range(3)  # of the whole fits


def goals() -> list[Row]:
    rows = [Row(str(case), {}, goals={"seconds": case.goal} | PEERS) for case in CASES]
    rows.append(Row(f"{MANY}, 20 iterations", {}, goals={"seconds": MANY.goal} | PEERS))
    rows.append(Row(f"whole fit {WHOLE}", {}, goals=WHOLE_GOALS))
    return rows + [Row(str(c), {}, goals={"seconds": c.goal} | PEERS) for c in OVERLAPPING]


class Start(NamedTuple):
    weights: Tensor
    means: Tensor
    precisions_cholesky: Tensor


def data(case: Case, device: str) -> tuple[Tensor, Start]:
    """Clusters, and a start from rows of the data; of clusters that overlap, from means of rows.

    On a single row of theirs components would collapse, as no start of k-means' does.
    """
    generator = torch.Generator(device).manual_seed(case.k)
    size = (case.batch,) if case.batch > 1 else ()
    options: dict[str, Any] = {"generator": generator, "device": device}
    centers = case.spread * torch.randn(*size, case.k, case.d, **options)
    labels = torch.randint(case.k, (*size, case.n), **options)
    x = torch.randn(*size, case.n, case.d, **options)
    x += torch.take_along_dim(centers, labels[..., None], -2)
    together = 1 if case.spread > 1 else 64
    means = x[..., : case.k * together, :].unflatten(-2, (case.k, together)).mean(-2)
    if case.kind == "full":
        factors = torch.eye(case.d, device=device).expand(*size, case.k, -1, -1).clone()
    else:
        factors = torch.ones(*size, case.k, case.d, device=device)
    return x, Start(torch.full((*size, case.k), 1 / case.k, device=device), means, factors)


def error(case: Case, x: Tensor, start: Start) -> float:
    """The largest of sampled responsibilities, against the float64 reference on the same rows.

    At the parameters after three iterations: from those of the start many rows are farther away
    than the 20 standard deviations within which float32 keeps what is allowed.
    """
    if case.batch > 1:
        x, start = x[0], Start(*(p[0] for p in start))
    fit = elbokit.ops.gmm_fit(x, *start, case.kind, tol=0.0, max_iter=3)
    parameters = fit.weights, fit.means, fit.precisions_cholesky
    some = x[:: max(1, len(x) // SAMPLE)][:SAMPLE]
    _, ours = elbokit.ops.gmm_estep(some, *parameters, case.kind)
    host = [np.asarray(t.cpu(), dtype=np.float64) for t in (some, *parameters)]
    _, truth = elbokit.reference.gmm_estep(*host, case.kind)
    return float(np.abs(np.asarray(ours.cpu(), dtype=np.float64) - truth).max())


def fitted(case: Case, x: Tensor, start: Start) -> Callable[[int], object]:
    return lambda n: elbokit.ops.gmm_fit(x, *start, case.kind, tol=0.0, max_iter=n)


def by_torch(case: Case, x: Tensor, start: Start) -> Callable[[int], object]:
    plain = gpu_em_torch.step_diag
    if case.kind == "full":
        plain = gpu_em_torch.step_small if case.d <= 4 else gpu_em_torch.step_full
    step = torch.compile(plain)

    def run(n: int) -> object:
        parameters = tuple(start)
        for _ in range(n):
            parameters, bound = step(x, parameters)
        return parameters, bound

    return run


def by_sklearn(case: Case, x: Tensor, start: Start) -> Callable[[int], object]:
    import sklearn
    from sklearn.mixture import GaussianMixture

    factors = start.precisions_cholesky
    precisions = factors @ factors.mT if case.kind == "full" else factors.square()

    def run(n: int) -> object:
        model = GaussianMixture(
            case.k, covariance_type=case.kind, tol=0.0, max_iter=n,
            init_params="random_from_data", random_state=0, weights_init=start.weights,
            means_init=start.means, precisions_init=precisions,
        )  # fmt: skip
        with sklearn.config_context(array_api_dispatch=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge
            return model.fit(x)

    return run


def elapsed(run: Callable[[int], object], n: int) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run(n)
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def per_iteration(run: Callable[[int], object], rounds: int, more: int = ITERATIONS) -> list[float]:
    """Differences of a long and a short run leave out what is done once per fit."""
    for n in (1, 1 + more):
        elapsed(run, n)
    return [(elapsed(run, 1 + more) - elapsed(run, 1)) / more for _ in range(rounds)]


def peers_of(row: Row, peers: dict[str, Callable[[], list[float]]]) -> None:
    """Measure each; what a peer cannot do is a cell that says so."""
    for name, measured in peers.items():
        try:
            row.seconds[name] = measured()
        except Exception as error:  # whatever a peer raises, out of memory too
            row.notes[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            torch.cuda.empty_cache()


def iterations(clock: Clock, case: Case, limits: tuple[float, float]) -> None:
    torch.compiler.reset()
    x, start = data(case, "cuda")
    wrong = error(case, x, start)
    if not wrong <= ALLOWED:
        raise AssertionError(f"{case}: responsibilities are off by {wrong:.1e}")
    row = Row(str(case), {"elbokit": per_iteration(fitted(case, x, start), 9)})
    row.limit, row.errors = case.limit(*limits), {"responsibilities": wrong}
    row.goals = ({"seconds": case.goal} if case.goal else {}) | PEERS
    peers_of(
        row,
        {
            TORCH: lambda: per_iteration(by_torch(case, x, start), 5),
            SKLEARN: lambda: per_iteration(by_sklearn(case, x, start), 3, more=2),
        },
    )
    clock.add(row)


def many(clock: Clock, limits: tuple[float, float]) -> None:
    """Runs of 20 iterations; scikit-learn's are those of 10 mixtures times as many."""
    torch.compiler.reset()
    case, n, tried = MANY, 20, 10
    x, start = data(case, "cuda")
    wrong = error(case, x, start)
    if not wrong <= ALLOWED:
        raise AssertionError(f"{case}: responsibilities are off by {wrong:.1e}")
    run = fitted(case, x, start)
    elapsed(run, n)
    row = Row(f"{case}, {n} iterations", {"elbokit": [elapsed(run, n) for _ in range(15)]})
    row.limit, row.errors = n * case.limit(*limits), {"responsibilities": wrong}
    row.goals = {"seconds": case.goal} | PEERS

    def one_by_one() -> list[float]:
        runs = [
            by_sklearn(case, x[i].contiguous(), Start(*(p[i] for p in start))) for i in range(tried)
        ]
        runs[0](n)
        return [elapsed(lambda n: [r(n) for r in runs], n) * case.batch / tried for _ in range(2)]

    def together() -> list[float]:
        run = by_torch(case, x, start)
        elapsed(run, n)
        return [elapsed(run, n) for _ in range(5)]

    peers_of(row, {TORCH: together, SKLEARN: one_by_one})
    clock.add(row)


def whole(clock: Clock) -> None:
    """Whole fits with initialisation, default settings; scikit-learn has no k-means on the GPU."""
    import sklearn
    from sklearn.mixture import GaussianMixture

    x, _ = data(WHOLE, "cuda")

    def ours(init: str) -> Callable[[int], object]:
        return lambda seed: elbokit.GaussianMixture(
            WHOLE.k, init_params=init, random_state=seed
        ).fit(x)

    def theirs(seed: int) -> object:
        with sklearn.config_context(array_api_dispatch=True):
            model = GaussianMixture(WHOLE.k, init_params="random_from_data", random_state=seed)
            return model.fit(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge
        for run in (ours("kmeans"), ours("random_from_data")):
            elapsed(run, 0)
        # The same seeds for all: from the same start they make as many iterations.
        row = Row(f"whole fit {WHOLE}", {"elbokit": [elapsed(ours("kmeans"), s) for s in SEEDS]})
        row.seconds["elbokit, same start"] = [elapsed(ours("random_from_data"), s) for s in SEEDS]
        peers_of(row, {SKLEARN: lambda: [elapsed(theirs, s) for s in (SEEDS[0], *SEEDS)][1:]})
        row.goals = WHOLE_GOALS
    clock.add(row)


def main(given: Sequence[str] = ()) -> None:
    options = gpu_timing.arguments(__doc__.splitlines()[0], given)
    if gpu_timing.device_or_none() is None:
        return
    clock = Clock(options)
    limits = gpu_timing.copy_bandwidth(), gpu_timing.flops_per_second()
    print(f"copy {limits[0] / 1e12:.2f} TB/s, float32 products {limits[1] / 1e12:.1f} TFLOP/s")
    works: dict[Case, Callable[[], None]] = {
        case: (lambda case=case: iterations(clock, case, limits)) for case in CASES
    }
    works[MANY] = lambda: many(clock, limits)
    works[WHOLE] = lambda: whole(clock)
    works |= {case: (lambda case=case: iterations(clock, case, limits)) for case in OVERLAPPING}
    for case, work in works.items():
        if options.only in str(case):
            clock.run(str(case), case.seconds, work)
    if clock.failed:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
