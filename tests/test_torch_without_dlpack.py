"""The short way of plain losses with a torch that has no DLPack table, as older ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

# The core looks for the table once, at its first plain loss.
PROGRAM = """
import sys
import pytest, torch
torch.Tensor.__dlpack_c_exchange_api__ = None
sys.exit(pytest.main(sys.argv[1:]))
"""
SELECTED = (
    "same_bits or halves or one_network or anything_else or not_described or is_one or batched"
)


def test_attributes_tell_the_same() -> None:
    here = Path(__file__).parent
    files = [str(here / name) for name in ("test_torch_plain.py", "test_torch_plain_vae_loss.py")]
    options = ["-q", "-p", "no:cacheprovider", "-k", SELECTED]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options, *files], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
