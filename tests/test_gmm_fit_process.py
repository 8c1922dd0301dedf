"""Runs of EM in a process of their own: interrupts, and what they may use of the memory."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals, getrusage")


def run(code: str, *arguments: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# A run that would take for ever, as a batch of small mixtures or one that is worth threads.
INTERRUPT = """
import signal, sys, threading, time, warnings
import numpy as np
import elbokit
from elbokit import GaussianMixture, ops

elbokit.set_num_threads(2)
rng = np.random.default_rng(0)
kind, n, size = sys.argv[1], 100, 9
if kind in ("large", "restarts"):
    n, size = 100_000, 1
X = rng.normal(size=(size * n, 2))
start = np.full((size, 3), 1 / 3), X[: 3 * size].reshape(size, 3, 2), np.ones((size, 3, 2))
options = {"tol": 0.0, "max_iter": 10**9}
gm = GaussianMixture(3, covariance_type="diag", random_state=0).fit(X[:50])
before = dict(vars(gm))


def interrupt():
    global sent
    sent = time.monotonic()
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
timer = threading.Timer(0.5, interrupt)
timer.start()
try:
    if kind == "estimator":
        gm.set_params(**options).fit(X)
    elif kind == "restarts":  # which share the passes over the rows
        gm.set_params(n_init=30, init_params="random_from_data", **options).fit(X)
    else:
        ops.gmm_fit(X, *start, "diag", offsets=np.arange(size + 1) * n, **options)
except KeyboardInterrupt:
    print(time.monotonic() - sent)
timer.join()
after = dict(vars(gm))
if kind in ("estimator", "restarts"):
    # What is there is what so many iterations make.
    assert gm.n_iter_ == len(gm.lower_bounds_) > 0 and not gm.converged_
    if kind == "estimator":
        again = GaussianMixture(3, covariance_type="diag", random_state=0, tol=0.0)
        warnings.simplefilter("ignore")
        again.set_params(max_iter=min(gm.n_iter_, 2000)).fit(X)
        same = again.lower_bounds_ == gm.lower_bounds_[:2000]
        assert same and (gm.n_iter_ > 2000 or (again.means_ == gm.means_).all())
    gm.score(X), gm.sample()
else:
    assert all(after[name] is before[name] for name in before if name.endswith("_"))
# The pool still works.
print(ops.gmm_fit(X[:n], *(a[0] for a in start), "diag", max_iter=2).n_iter)
"""


@pytest.mark.parametrize("kind", ["small", "large", "estimator", "restarts"])
def test_interrupt(kind):
    delay, n_iter = run(INTERRUPT, kind).split()
    assert float(delay) < 5.0
    assert n_iter == "2"


WITHOUT_THE_GIL = """
import threading, time
import numpy as np
from elbokit import ops

X = np.random.default_rng(0).normal(size=(2000, 2))
start = np.full(3, 1 / 3), X[:3], np.ones((3, 2)), "diag"
done = threading.Event()


def fit():
    for _ in range(20):
        ops.gmm_fit(X, *start, tol=0.0, max_iter=300)
    done.set()


worker = threading.Thread(target=fit)
worker.start()
turns = 0
while not done.is_set():
    turns += 1
    time.sleep(0.001)
worker.join()
print(turns)
"""


def test_other_python_threads_go_on_meanwhile():
    assert int(run(WITHOUT_THE_GIL)) > 20


# Every iteration is repeated in float64: float32 cannot resolve the difference of two columns that
# are nearly equal.
MEMORY = """
import resource, sys
import numpy as np
from elbokit import GaussianMixture, ops

n, k, kind, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
X = np.memmap(path, np.float32, "r", shape=(n, 8)) if path else None
if kind == "chunks":
    X = np.empty((10 * k, 8), np.float32)
elif X is None:
    rng = np.random.default_rng(0)
    X = np.empty((n, 8), np.float32)
    for begin in range(0, n, 10_000):
        X[begin : begin + 10_000] = rng.normal(size=(min(10_000, n - begin), 8))
        X[begin : begin + 10_000, 1] *= 1e-4
        X[begin : begin + 10_000, 1] += X[begin : begin + 10_000, 0]
means = X[:k].astype(np.float64)
factors = np.tile(np.eye(8), (k, 1, 1))


class Chunks:  # made when they are asked for
    def __iter__(self):
        for begin in range(0, n, 10_000):
            rng = np.random.default_rng(begin)
            rows = rng.normal(size=(10_000, 8)).astype(np.float32)
            rows[:, 1] = rows[:, 0] + 1e-4 * rows[:, 1]
            yield rows


def fit(rows):
    if kind == "chunks":
        gm = GaussianMixture(k, max_iter=2, tol=0.0, reg_covar=1e-10, random_state=0)
        factor = gm.fit(Chunks()).precisions_cholesky_
    elif kind == "estimator":
        gm = GaussianMixture(
            k,
            weights_init=np.full(k, 1 / k),
            means_init=means,
            precisions_init=factors,
            max_iter=2,
            tol=0.0,
            reg_covar=1e-10,
        )
        factor = gm.fit(rows).precisions_cholesky_
    else:
        weights, options = np.full(k, 1 / k), {"max_iter": 2, "tol": 0.0, "reg_covar": 1e-10}
        factor = ops.gmm_fit(rows, weights, means, factors, **options).precisions_cholesky
    assert factor.max() > 5e3  # more than sums in float32 may give


def touched():  # of the process's own memory, without the pages of mapped files
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


import threading, time, warnings
warnings.simplefilter("ignore")
if kind == "chunks":
    n, all_rows = 20_000, n
    fit(X)
    n = all_rows
else:
    fit(X[: 10 * k])
before = peak = touched()
done = threading.Event()


def watch():
    global peak
    while not done.is_set():
        peak = max(peak, touched())
        time.sleep(0.002)


watcher = threading.Thread(target=watch)
watcher.start()
fit(X)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.parametrize("kind", ["estimator", "ops"])
def test_memory_beyond_the_data(kind):
    # A copy of these rows would be 61 MiB, one in float64 122.
    assert float(run(MEMORY, "2000000", "2", kind, "")) < 16.0


def test_memory_of_chunks():
    # All rows are 32 MiB, in float64 64; the sample for the start is 3 MiB, and 3 while it is put
    # together, 4 for k-means.
    assert float(run(MEMORY, "1000000", "2", "chunks", "")) < 16.0


@pytest.mark.parametrize("kind", ["estimator", "ops"])
def test_a_read_only_memmap_is_not_copied(kind, tmp_path):
    path = tmp_path / "rows"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(200):
            rows = rng.normal(size=(10_000, 8)).astype(np.float32)
            rows[:, 1] = rows[:, 0] + 1e-4 * rows[:, 1]
            file.write(rows.tobytes())
    assert float(run(MEMORY, "2000000", "2", kind, str(path))) < 16.0
