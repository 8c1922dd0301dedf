"""EM of Gaussian mixtures: memory beyond the data, and data larger than the memory allowed.

Each case runs in a process of its own, and what it holds is read from ``/proc/self/status`` by a
thread: ``RssAnon`` is memory that the process itself asked for, ``RssFile`` the pages of a mapped
file that happen to be in memory and that the system may take back.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np

import harness

MIB = 2**20
ALLOWED_MIB = 64
ITERATIONS = 3
POLL_S = 0.002
# n_samples, n_features, n_components, covariance types
SIZES = [(625_000, 8, 64), (5_000_000, 8, 64)]
KINDS = ("full", "diag", "tied", "spherical")


def status_bytes(name: str) -> int:
    """Return a line of ``/proc/self/status``: RssAnon, VmData, ..."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


class Peak:
    """The largest ``RssAnon`` within a ``with``, beyond that at its start."""

    def __enter__(self) -> Peak:
        self.before = self.largest = status_bytes("RssAnon")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._poll)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.largest = max(self.largest, status_bytes("RssAnon"))

    def _poll(self) -> None:
        while not self.done.wait(POLL_S):
            self.largest = max(self.largest, status_bytes("RssAnon"))

    @property
    def mib(self) -> float:
        return (self.largest - self.before) / MIB


def fit(X: np.ndarray, k: int, kind: str) -> None:
    """Fit from given means; only the iterations are of interest."""
    from sklearn.exceptions import ConvergenceWarning

    from elbokit import GaussianMixture

    means = np.array(X[:: len(X) // k][:k], dtype=np.float64)
    start = {"init_params": "random_from_data", "means_init": means, "random_state": 0}
    model = GaussianMixture(k, covariance_type=kind, tol=0.0, max_iter=ITERATIONS, **start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)


def child(path: str, k: int, kind: str, copies: bool, allowed_mib: int) -> None:
    """In the process of one case: print the peak beyond what was there before the fit.

    ``allowed_mib`` limits what the process may allocate (``RLIMIT_DATA``: private memory, not the
    pages of a file). The data stay mapped from the file, unless ``copies``.
    """
    X = np.load(path, mmap_mode="r")
    X = np.array(X) if copies else X
    fit(X[:1000], k, kind)  # threads and lazily imported modules
    with Peak() as peak:  # its thread needs memory too, so the limit comes after
        if allowed_mib:
            limit = (status_bytes("VmData") + allowed_mib * MIB, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_DATA, limit)
        fit(X, k, kind)
    print(json.dumps(peak.mib))


def run(path: Path, k: int, kind: str, copies: bool, allowed_mib: int = 0) -> float:
    """Return the peak in MiB beyond the data."""
    arguments = json.dumps([str(path), k, kind, copies, allowed_mib])
    done = subprocess.run(
        [sys.executable, __file__, arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.splitlines() or [f"ended with {done.returncode}"]
        raise MemoryError(f"{kind}, k = {k}: {lines[-1]}")
    return float(json.loads(done.stdout))


def peaks(path: Path, n: int, d: int, k: int) -> list[list[str]]:
    """Rows of the table for one size: data in memory, and mapped under a limit."""
    rows = []
    for kind in KINDS:
        in_memory = run(path, k, kind, copies=True)
        try:
            mapped = f"{run(path, k, kind, copies=False, allowed_mib=ALLOWED_MIB):.1f} MiB"
        except MemoryError as error:
            mapped = f"fails: {error}"
        data = n * d * 4 / MIB
        rows.append(
            [f"{n:,} × {d}, {k}, {kind}", f"{data:.0f} MiB", f"{in_memory:.1f} MiB", mapped]
        )
    return rows


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n, d, k in harness.progress(SIZES, "EM, memory"):
            path = Path(folder) / "X.npy"
            X = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
            rng = np.random.default_rng(0)
            for start in range(0, n, 100_000):
                rows_here = X[start : start + 100_000]
                rows_here[:] = rng.normal(size=rows_here.shape) + rng.integers(
                    8, size=(len(rows_here), 1)
                )
            X.flush()
            del X
            rows += peaks(path, n, d, k)
            path.unlink()
    harness.write(
        "gmm_memory",
        "EM, memory beyond the data",
        f"float32; `GaussianMixture.fit` with {ITERATIONS} iterations from given means, each in a "
        "process of its own: the largest `RssAnon` during the fit, polled every "
        f"{POLL_S * 1e3:g} ms, less that before it (after a fit of 1,000 rows, which starts the "
        f"threads). The aim is at most {ALLOWED_MIB} MiB. Mapped: X is a read-only `np.memmap` and "
        f"the process may allocate no more than {ALLOWED_MIB} MiB beyond what it had "
        "(`RLIMIT_DATA`, which does not count pages of files); a copy of X would end the fit.",
        harness.table(
            ["n × d, k, covariance", "data", "peak, in memory", "peak, mapped and limited"], rows
        ),
    )


if __name__ == "__main__":
    child(*json.loads(sys.argv[1])) if len(sys.argv) > 1 else main()
