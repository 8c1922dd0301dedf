"""Examples run, without a warning, and leave their pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_vae_comparisons(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "vae_comparisons.py", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"classic.png", "linear_gaussian.png", "autoencoder.png", "collapse.png"}
