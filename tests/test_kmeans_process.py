"""k-means in processes of its own: its memory, and Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEMORY = """
import re
import sys
import numpy as np
from elbokit.mixture._initialization import starting_parameters
from elbokit.mixture._problems import Problems

def start(X):
    state = np.random.RandomState(0)
    starting_parameters(Problems(X[None]), (None,) * 3, 4, sys.argv[1], "full", 1e-6, state)

n = 1_500_000
X = np.random.default_rng(0).standard_normal((n, 8), dtype=np.float32)
start(X[:5000])

def memory(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak is from now on
before = memory("VmRSS")
start(X)
print((memory("VmHWM") - before) / n)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("init_params", "per_row"), [("kmeans", 8), ("k-means++", 4), ("random_from_data", 8)]
)
def test_no_copy_of_the_data(init_params, per_row):
    """A label and a distance per row: X itself has 32 bytes per row here, in float64 64."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, init_params], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < per_row + 6


INTERRUPT = """
import signal
import numpy as np
from elbokit import ops

X = np.random.default_rng(0).normal(size=(400_000, 20)).astype(np.float32)
signal.setitimer(signal.ITIMER_REAL, 0.2)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    while True:
        ops.kmeans(X, 64, random_state=0, tol=0, max_iter=100_000)
        raise AssertionError("ran to its end")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no itimer")
def test_ctrl_c_ends_a_long_run():
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout == "interrupted\n", result.stderr


# ---- Moments of labels -----------------------------------------------------------------------
