"""The Python that each peer needs, made at its first use under ``build/peers`` and kept.

A library with a file of requirements beside this one has an environment of its own; the others
run in the one that runs the benchmark.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "build" / "peers"
MAKING_S = 1200  # an index that does not answer must not hold up the rest


class NoEnvironmentError(RuntimeError):
    """A peer's requirements cannot be installed here."""


def python(library: str) -> Path:
    """Return the interpreter for ``library``, with its requirements installed."""
    requirements = HERE / f"{library}.txt"
    if not requirements.exists():
        return Path(sys.executable)
    wanted = requirements.read_text()
    place = ENVIRONMENTS / library
    stamp = place / "installed.txt"
    interpreter = place / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making the environment of {library} in {place}", file=sys.stderr)
        _call([sys.executable, "-m", "venv", "--clear", str(place)])
        _call([str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        stamp.write_text(wanted)  # last: an interrupted installation is begun anew
    return interpreter


def _call(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=MAKING_S)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if not line.startswith("WARNING")]
        raise NoEnvironmentError(f"not installed: {lines[-1] if lines else error}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEnvironmentError(f"not installed: {error}") from error
