"""A run of ``gpu_check.py``: its time, its commands, their log, and what was found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "gpu-check"
SITE = BUILD / "site"
RESULT = ROOT / "benchmarks" / "results" / "gpu.md"
CUDA_BIN = Path("/usr/local/cuda/bin")
LOG, STATE = "gpu-check.log", "gpu-check.json"
TITLES = {
    "build": "Build",
    "tests": "Tests on the device",
    "losses": "Losses, forward and backward",
    "em": "EM",
    "memcheck": "compute-sanitizer memcheck",
    "racecheck": "compute-sanitizer racecheck",
    "initcheck": "compute-sanitizer initcheck",
}
# Seconds that a step may take, and below which it is not begun.
TIMES = {"build": (180, 60), "tests": (150, 30), "losses": (130, 50), "em": (320, 65)}
TIMES |= dict.fromkeys(("memcheck", "racecheck", "initcheck"), (160, 45))
GOOD, FAILED, UNFINISHED = "good", "failed", "out of time"
OUT_OF_TIME = 124  # the status of a command that was stopped
LOGGED = 1 << 20  # bytes of the beginning and of the end of a command's output

Work = Callable[[float], tuple[str, str]]  # of the seconds it may take: a verdict, a section


class Check:
    """The steps of one run, what they found, and the time that is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.machine: dict[str, str] = {}
        self.sections: dict[str, str] = {}
        self.verdicts: dict[str, str] = {}
        self.log = Path(os.environ.get("OUT") or BUILD) / LOG
        self._writing = threading.Lock()
        given = os.environ.get("PYTHONPATH")
        paths = [str(SITE), str(ROOT / "benchmarks"), *([given] if given else [])]
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "SCIPY_ARRAY_API": "1",
            "PYTHONUNBUFFERED": "1",
        }
        if CUDA_BIN.is_dir():  # not every image has it on the PATH
            path = os.environ.get("PATH", os.defpath)
            self.environment["PATH"] = path + os.pathsep + str(CUDA_BIN)

    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, command: list[str], seconds: float, **more: str) -> tuple[int, str]:
        """Exit status and output, which the log gets too."""
        begin = time.monotonic()
        status, said = self._run(command, max(1.0, min(seconds, self.left())), more)
        words = [*(f"{name}={value}" for name, value in more.items()), *command]
        half = said[:LOGGED], said[max(LOGGED, len(said) - LOGGED) :]
        with self._writing:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", errors="replace") as file:
                file.write(f"\n$ {shlex.join(words)}\n{half[0]}")
                if len(said) > 2 * LOGGED:
                    file.write(f"\n[{len(said) - 2 * LOGGED} characters are left out]\n")
                file.write(f"{half[1]}\n[status {status}, {time.monotonic() - begin:.0f} s]\n")
        return status, said

    def _run(self, command: list[str], seconds: float, more: dict[str, str]) -> tuple[int, str]:
        # To a file: a pipe ends only with the last of the children, some of which outlive a kill
        # (compilers in sessions of their own, whatever hangs in the driver).
        with tempfile.TemporaryFile() as file:
            try:
                child = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment | more,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                return 127, str(error)
            status, note = OUT_OF_TIME, f"\nstopped after {seconds:.0f} s"
            try:
                status, note = child.wait(seconds), ""
            except subprocess.TimeoutExpired:
                # Interrupted, pytest still reports what it found. Then its own children too: they
                # hold the GPU.
                for kind, grace in ((signal.SIGINT, 5), (signal.SIGKILL, 10)):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, kind)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(grace)
            file.seek(0)
            return status, file.read().decode(errors="replace") + note

    def step(self, name: str, work: Work) -> str:
        most, least = TIMES[name]
        left = self.left()
        if left < least:
            text = f"Skipped: {left:.0f} s were left, {least} are needed."
            print(f"{name}: {text}", flush=True)
            if name not in self.verdicts:  # else an earlier run's result stands
                self.sections[name] = text
            self.write()
            return UNFINISHED
        begin = time.monotonic()
        try:
            verdict, text = work(min(most, left))
        except Exception:  # the later steps and the file are still wanted
            verdict, text = FAILED, tail(traceback.format_exc())
        print(f"{name}: {verdict}, {time.monotonic() - begin:.0f} s\n{text}", flush=True)
        self.sections[name], self.verdicts[name] = text, verdict
        self.write()
        return verdict

    def identity(self) -> dict[str, str]:
        """What results must have in common to stand in one file."""
        return {name: self.machine.get(name, "") for name in ("GPU", "commit", "sources")}

    def recall(self) -> None:
        """Take over what earlier runs found for the same sources and commit."""
        try:
            state = json.loads((BUILD / STATE).read_text())
            if state["of"] == self.identity():
                self.sections, self.verdicts = state["sections"], state["verdicts"]
        except (OSError, ValueError, KeyError, TypeError):
            return

    def write(self) -> None:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(document(self.machine, self.sections, self.verdicts))
        files = [RESULT]
        if self.machine:
            BUILD.mkdir(parents=True, exist_ok=True)
            state = {"of": self.identity(), "sections": self.sections, "verdicts": self.verdicts}
            (BUILD / STATE).write_text(json.dumps(state, indent=1))
            files.append(BUILD / STATE)
        if out := os.environ.get("OUT"):
            for file in files:
                shutil.copy(file, out)


def document(machine: dict[str, str], sections: dict[str, str], verdicts: dict[str, str]) -> str:
    text = "# The CUDA kernels on a GPU\n\n"
    text += (
        "Written by `make gpu-check` (`tools/gpu_check.py`). Times are medians, quartiles in "
        "brackets. The limit of a loss is three passes over the batch at the copy bandwidth "
        "measured in the run; that of an EM iteration is reading the rows, or its products at the "
        "rate of torch's float32 matrix product. All that the commands printed is in "
        f"`{LOG}`, in `$OUT` or `build/gpu-check`.\n"
    )
    text += "".join(f"\n- {name}: {value}" for name, value in machine.items())
    for title, verdict in (("Failed", FAILED), ("Out of time", UNFINISHED)):
        if names := [name for name in TITLES if verdicts.get(name) == verdict]:
            text += f"\n\n**{title}: {', '.join(names)}.**"
    for name, title in TITLES.items():
        text += f"\n\n## {title}\n\n{sections.get(name, 'Not run.').strip()}"
    return text + "\n"


def tail(text: str, lines: int = 25) -> str:
    return "```\n" + "\n".join(text.strip().splitlines()[-lines:]) + "\n```"


def digest() -> str:
    """A number of what the package is built from."""
    found = hashlib.sha256()
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    for folder in ("cmake", "cpp", "cuda", "python"):
        files += (ROOT / folder).rglob("*.*")
    for file in sorted(files):
        if file.is_file() and file.suffix not in (".pyc", ".so"):
            found.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return found.hexdigest()[:12]
