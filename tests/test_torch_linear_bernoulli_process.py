"""What linear_bernoulli_loss may use of the memory, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from linear_bernoulli_cases import REDUCTIONS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA")

# 256 x 100,000 logits would be 98 MiB in float32; the weights' gradient is 6 MiB.
MEMORY = """
import resource, sys
from pathlib import Path
import torch
import torch.nn.functional as F
from elbokit.torch import linear_bernoulli_loss

torch.set_num_threads(1)
what, dtype = sys.argv[1], getattr(torch, sys.argv[2])


def step(n, d):
    hidden = torch.ones(n, 16, dtype=dtype, requires_grad=True)
    weight = torch.zeros(d, 16, dtype=dtype, requires_grad=True)
    target = torch.zeros((), dtype=torch.uint8).expand(n, d)
    yield
    if what == "plain":
        logits = F.linear(hidden, weight)
        loss = F.binary_cross_entropy_with_logits(logits, target.to(dtype), reduction="none").sum(1)
    else:
        loss = linear_bernoulli_loss(hidden, weight, None, target, reduction=what)
    loss.mean().backward()
    assert weight.grad.shape == weight.shape
    yield


small, large = step(8, 2000), step(256, 100_000)
next(small), next(small), next(large)
lines = Path("/proc/self/status").read_text().splitlines()
now = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (now + 48 * 2**20, resource.RLIM_INFINITY))
next(large)
"""


def run_limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MEMORY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_logits_are_never_whole(reduction: str, dtype: str) -> None:
    done = run_limited(reduction, dtype)
    assert done.returncode == 0, done.stderr


def test_the_limit_is_one() -> None:
    """What stores the logits exceeds the memory that the test above allows."""
    done = run_limited("plain", "float32")
    assert done.returncode != 0
    assert "allocate" in done.stderr
