"""oneDAL's EM through daal4py.

It cannot be told not to stop: a negative threshold is refused, and with 0 it ends when the
likelihood stands still, after three iterations or so on separated data. The number of iterations
that it reports agrees with the time it takes.

oneDAL takes AVX-512 on Intel's processors only; elsewhere its best level is AVX2. ``avx2`` as
argument holds it to that everywhere.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import daal4py
import numpy as np

from peers import worker

STORAGE = {"full": "full", "diag": "diagonal"}
LEVELS = {0: "SSE2", 2: "SSE4.2", 4: "AVX2", 6: "AVX-512"}  # daal::CpuType
METHOD = "_ZN4daal8services10interface111Environment"  # daal::services::Environment::


class Level:
    """oneDAL's choice among its own CPU levels; there is no environment variable for it."""

    def __init__(self) -> None:
        core = ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libonedal_core.so.2"))
        instance = getattr(core, METHOD + "11getInstanceEv")
        instance.restype = ctypes.c_void_p
        self.environment = ctypes.c_void_p(instance())
        self.core = core

    def hold_to_avx2(self) -> None:
        """Works only before oneDAL has looked at the processor, that is, before any call."""
        getattr(self.core, METHOD + "8setCpuIdEi")(self.environment, 4)

    def name(self) -> str:
        return LEVELS[getattr(self.core, METHOD + "8getCpuIdEi")(self.environment, 0)]


class Peer:
    def __init__(self) -> None:
        self.level = Level()
        if "avx2" in sys.argv[1:]:
            self.level.hold_to_avx2()

    def versions(self) -> str:
        return f"oneDAL {version('daal4py')} ({self.level.name()}, {daal4py.num_threads()} threads)"

    def load(self, case: worker.Case) -> None:
        if case.kind not in STORAGE:
            raise worker.NotOffered(f"{case.kind} covariances")
        self.case = case
        d = case.X.shape[1]
        rows = d if case.kind == "full" else 1
        self.covariances = [np.ascontiguousarray(c.reshape(rows, d)) for c in case.covariances]

    def prepare(self, iterations: int) -> Callable[[], Any]:
        case = self.case
        em = daal4py.em_gmm(
            nComponents=len(case.means),
            fptype="float" if case.X.dtype == np.float32 else "double",
            maxIterations=iterations,
            accuracyThreshold=0.0,
            regularizationFactor=worker.REG_COVAR,
            covarianceStorage=STORAGE[case.kind],
        )
        weights = case.weights.reshape(1, -1)
        return lambda: em.compute(case.X, weights, case.means, self.covariances)

    def answer(self, result: Any) -> worker.Answer:
        covariances = np.stack(result.covariances)
        if self.case.kind == "diag":
            covariances = covariances[:, 0]
        iterations = int(result.nIterations.ravel()[0])
        return worker.Answer(result.weights.ravel(), result.means, covariances, iterations)


if __name__ == "__main__":
    worker.serve(Peer)
