"""CPU levels, threads, fork: what stands between Python and the kernels."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import elbokit
from elbokit import _core, ops


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


PRINT_LEVEL = "import elbokit._core as c; print(c.cpu_level())"


def test_the_highest_usable_level_is_chosen() -> None:
    assert set(_core.cpu_levels()) <= set(_core.built_cpu_levels())
    environment = {"ELBOKIT_CPU_LEVEL": ""}
    assert run(PRINT_LEVEL, **environment).stdout.strip() == _core.cpu_levels()[-1]


@pytest.mark.parametrize("level", _core.cpu_levels())
def test_environment_overrides_the_level(level: str) -> None:
    assert run(PRINT_LEVEL, ELBOKIT_CPU_LEVEL=level).stdout.strip() == level


def test_an_unknown_level_is_refused() -> None:
    result = run(PRINT_LEVEL, ELBOKIT_CPU_LEVEL="v9")
    assert result.returncode != 0
    assert "ELBOKIT_CPU_LEVEL is 'v9', expected one of" in result.stderr
    with pytest.raises(ValueError, match="level is 'v9', expected one of"):
        _core.set_cpu_level("v9")


def test_levels_agree(rng: np.random.Generator) -> None:
    a = rng.normal(size=(100, 37))
    results = []
    before = _core.cpu_level()
    for level in _core.cpu_levels():
        _core.set_cpu_level(level)
        results.append(ops.logsumexp(a))
    _core.set_cpu_level(before)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-14)


def test_number_of_threads(restore_threads: None) -> None:
    elbokit.set_num_threads(3)
    assert elbokit.get_num_threads() == 3
    for given in (0, -(10**30)):
        with pytest.raises(ValueError, match=f"`n` is {given}, expected at least 1"):
            elbokit.set_num_threads(given)
    for wrong in ("2", 2.0, None, True):
        with pytest.raises(TypeError, match=f"`n` is {wrong!r}, expected an integer"):
            elbokit.set_num_threads(wrong)  # type: ignore[arg-type]
    assert elbokit.get_num_threads() == 3
    elbokit.set_num_threads(10**30)
    assert elbokit.get_num_threads() == 256
    elbokit.set_num_threads(np.int64(2))
    assert elbokit.get_num_threads() == 2
    code = "import elbokit; print(elbokit.get_num_threads())"
    assert run(code, ELBOKIT_NUM_THREADS="5").stdout.strip() == "5"
    assert run(code, ELBOKIT_NUM_THREADS="", OMP_NUM_THREADS="4").stdout.strip() == "4"
    assert run(code, ELBOKIT_NUM_THREADS=" +04,2").stdout.strip() == "4"
    for value in ("abc", "0", "-3"):
        found = run(code, ELBOKIT_NUM_THREADS=value, OMP_NUM_THREADS="4")
        assert found.stdout.strip() == "4"
        assert f"ELBOKIT_NUM_THREADS is {value!r}, expected a number of threads" in found.stderr


def statistics(seed: int) -> float:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(30_000, 4)).astype(np.float32)
    means = rng.normal(size=(3, 4))
    result = ops.gmm_statistics(X, np.full(3, 1 / 3), means, np.ones((3, 4)), "diag")
    return float(result.log_likelihood)


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 5, 64, 257])
@pytest.mark.parametrize("threads", [2, 3, 7, 64, 256])
def test_each_task_is_done_once(restore_threads: None, threads: int, n_tasks: int) -> None:
    """By whoever has time: here one task in eight takes much longer than the others."""
    X = np.random.default_rng(0).normal(size=(257, 40, 2))[:n_tasks]
    means = X[:, :2].copy()
    means[np.arange(n_tasks) % 8 > 0] = 0.0  # equal components stay so
    factors = np.broadcast_to(np.eye(2), (n_tasks, 2, 2, 2))
    weights = np.full((n_tasks, 2), 0.5)

    def fits() -> ops.GmmFit:
        return ops.gmm_fit(X, weights, means, factors, "full", tol=1e-9, max_iter=2000)

    _core.set_num_threads(1)
    expected = fits()
    assert expected.n_iter[0] > 5 * expected.n_iter[1:8].max(initial=1)
    _core.set_num_threads(threads)
    for a, b in zip(fits(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_after_fork(restore_threads: None) -> None:
    """A child gets a pool of its own, also when its parent's threads are at work."""
    elbokit.set_num_threads(2)
    expected = [statistics(seed) for seed in range(4)]
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            statistics(0)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(statistics, range(4)).get(timeout=60) == expected
    finally:
        stop.set()
        busy.join()


def test_callers_at_the_same_time(restore_threads: None) -> None:
    elbokit.set_num_threads(2)
    expected = [statistics(seed) for seed in range(6)]
    results: dict[int, float] = {}

    def work(seed: int) -> None:
        for _ in range(5):
            results[seed] = statistics(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert [results[seed] for seed in range(6)] == expected


OUT_OF_MEMORY = """
import resource
import numpy as np
import elbokit
from elbokit import ops

elbokit.set_num_threads(2)
ops.gmm_estep(np.zeros((4000, 2)), [1.0], [[0.0, 0]], [[1.0, 1]], "diag")  # starts the threads
d = 2_000_000
X = np.broadcast_to(np.zeros((200, 1), np.float32), (200, d))
arguments = [1.0], np.zeros((1, d)), np.ones((1, d)), "diag"
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for spare in (0.3, 0.8, 1.2, 1.8):
    resource.setrlimit(resource.RLIMIT_AS, (size + int(spare * 2**30), resource.RLIM_INFINITY))
    try:
        ops.gmm_estep(X, *arguments)
    except MemoryError:
        print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ops.gmm_estep(np.zeros((4000, 2)), [1.0], [[0.0, 0]], [[1.0, 1]], "diag")[1].sum())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its address space")
def test_out_of_memory_in_a_thread_is_an_error() -> None:
    result = run(OUT_OF_MEMORY)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split()
    assert lines[0] == "MemoryError"
    assert lines[-1] == "4000.0"


NO_MORE_THREADS = """
import resource
import numpy as np
import elbokit
from elbokit import ops

X = np.random.default_rng(0).normal(size=(40_000, 2))
arguments = X, [1.0], [[0.0, 0]], [[1.0, 1]], "diag"
elbokit.set_num_threads(1)
alone = ops.gmm_statistics(*arguments)
elbokit.set_num_threads(16)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 2**20, resource.RLIM_INFINITY))
together = ops.gmm_statistics(*arguments)  # no room for the stack of a thread
assert all(np.array_equal(a, b) for a, b in zip(alone, together))
print("same")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits its address space")
def test_without_room_for_threads_the_caller_does_the_work() -> None:
    result = run(NO_MORE_THREADS)
    assert result.stdout == "same\n", result.stderr


WOKEN_TOGETHER = """
import os
import subprocess
import sys
import time
import numpy as np
import elbokit
from elbokit import ops

X = np.random.default_rng(0).normal(size=(400_000, 2))
elbokit.set_num_threads(2)

def work():
    time.sleep(0.02)  # threads that have nothing to do sleep by then
    return ops.gmm_statistics(X, [1.0], [[0.0, 0]], [[1.0, 1]], "diag")

def own_threads():
    return {int(t) for t in os.listdir("/proc/self/task")}

def settles(thread, mask):
    # A thread gives its mask back when it runs, and others may be busy on every processor.
    give_up = time.monotonic() + 20
    while os.sched_getaffinity(thread) != mask and time.monotonic() < give_up:
        time.sleep(0.02)
    return os.sched_getaffinity(thread) == mask

before = own_threads()
expected = work()
(worker,) = own_threads() - before
everywhere = os.sched_getaffinity(0)
one = {min(everywhere)}
for mask in (one, everywhere, one, everywhere, everywhere):
    # Where there is no other processor, both wake up on the same.
    for thread in (0, worker):
        os.sched_setaffinity(thread, mask)
    for a, b in zip(work(), expected):
        assert np.array_equal(a, b)
    assert settles(worker, mask)
    assert os.sched_getaffinity(0) == mask

# Jobs that are over before anybody has come: the thread lets all others go first.
os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in everywhere]
try:
    for _ in range(50):
        work()
finally:
    for hog in hogs:
        hog.kill()
        hog.wait()
os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))
assert settles(worker, everywhere)
print("same")
"""


# The same of torch's threads, on which losses run.
TEAM_WOKEN_TOGETHER = """
import os
import time
import torch
import elbokit
from elbokit.torch import gaussian_kl

mu, logvar = torch.randn(4000, 64), torch.randn(4000, 64)
torch.set_num_threads(2)
elbokit.set_num_threads(2)

def work():
    time.sleep(0.02)
    return gaussian_kl(mu, logvar)

def own_threads():
    return {int(t) for t in os.listdir("/proc/self/task")}

before = own_threads()
expected = work()
mates = own_threads() - before
assert mates
everywhere = os.sched_getaffinity(0)
one = {min(everywhere)}
for mask in (one, everywhere, everywhere, one, everywhere):
    # Once both were on one processor, the mate is kept off its caller's when it is woken.
    for thread in (0, *mates):
        os.sched_setaffinity(thread, mask)
    for threads in (2, 1, 2):
        elbokit.set_num_threads(threads)
        assert torch.equal(work(), expected)
        # Whoever was kept off has come, or was let go by the caller: there is nothing to wait for.
        assert all(os.sched_getaffinity(thread) == mask for thread in (0, *mates))
print("same")
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2,
    reason="chooses among processors",
)
@pytest.mark.parametrize("program", [WOKEN_TOGETHER, TEAM_WOKEN_TOGETHER], ids=["own", "torch's"])
def test_threads_may_run_where_they_might_before_they_were_woken(program: str) -> None:
    if program is TEAM_WOKEN_TOGETHER:
        pytest.importorskip("torch")
    result = run(program)
    assert result.stdout == "same\n", result.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF objects")
def test_no_level_lends_code_to_another() -> None:
    """An object built for a CPU level may define weak symbols in its own namespace alone.

    The linker keeps one copy of a weak symbol: a shared inline function compiled for AVX-512
    would then run on every machine.
    """
    objects = sorted(
        (Path(__file__).parent.parent / "build").glob("*/**/elbokit_kernels_v*.dir/**/*.o")
    )
    if not objects or not shutil.which("nm"):
        pytest.skip("needs the objects of the editable build")
    for path in objects:
        level = re.search(r"elbokit_kernels_(\w+)\.dir", str(path))[1]
        symbols = subprocess.run(
            ["nm", "--demangle", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        names = [line.split(maxsplit=2) for line in symbols]
        foreign = [
            name for *_, kind, name in names if kind in "WVu" and f"elbokit::{level}::" not in name
        ]
        assert not foreign, f"{path.name}: {foreign}"
        initialisers = [name for *_, name in names if "_GLOBAL__sub_I" in name]
        assert not initialisers, f"{path.name} has static initialisers"
