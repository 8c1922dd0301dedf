"""The driver's side: start a worker, ask it, and survive it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import environments

ANSWER_S = 180  # a worker that is silent for longer is ended


class PeerError(RuntimeError):
    """A peer cannot do what was asked; the text says why."""


@dataclass
class Client:
    """A worker process, started when first asked and again after it died."""

    name: str  # as the tables have it
    library: str  # its module in this package
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    versions: str = ""
    absent: str = ""  # why it cannot run here at all; found once, not tried again
    _process: subprocess.Popen[bytes] | None = None

    def load(self, case: Path) -> None:
        self._ask({"do": "load", "case": str(case)})

    def run(
        self, iterations: int, repeats: int = 1, answer: Path | None = None
    ) -> tuple[list[float], int]:
        """Return the seconds of each run, and the iterations that each really made."""
        path = None if answer is None else str(answer)
        reply = self._ask(
            {"do": "run", "iterations": iterations, "repeats": repeats, "answer": path}
        )
        return reply["seconds"], reply["iterations"]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                    pipe.close()
        self._process = None

    def _start(self) -> None:
        if self.absent:
            raise PeerError(self.absent)
        try:
            python = environments.python(self.library)
            self._spawn(python)
        except (environments.NoEnvironmentError, PeerError) as error:
            self.close()
            self.absent = str(error)
            raise PeerError(self.absent) from error

    def _spawn(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [str(python), "-m", f"peers.{self.library}", *self.arguments],
            cwd=Path(__file__).parents[1],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.versions = self._read()["ready"]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._start()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise PeerError("its process ended") from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            silent = f"no answer within {ANSWER_S} s" if not ready else self._cause_of_death()
            self.close()
            raise PeerError(silent)
        reply = json.loads(line)
        if "error" in reply:
            raise PeerError(_short(reply["error"]))
        return reply

    def _cause_of_death(self) -> str:
        return f"its process ended with {self._process.wait()}"


def _short(error: str) -> str:
    """One line, and one wording for the many ways of running out of memory."""
    if error.startswith("NotOffered"):
        return "not offered"
    if "memory" in error.lower() or "bad_alloc" in error or "RESOURCE_EXHAUSTED" in error:
        return "out of memory"
    return error.splitlines()[0][:80]
