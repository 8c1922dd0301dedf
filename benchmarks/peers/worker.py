"""A peer's side of the talk: one JSON object per line, arrays in ``.npz`` files.

    {"do": "load", "case": path}                          -> {}
    {"do": "run", "iterations": N, "repeats": R}          -> {"seconds": [...], "iterations": n}
    {"do": "run", ..., "answer": path}                    the same; writes the parameters

Before anything is asked the worker says {"ready": versions}. What fails is answered with
{"error": text}; the worker lives on. ``n`` is the number of iterations that were really run: a peer
that stops by itself says so.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class Case(NamedTuple):
    """Data X (n, d) and start: weights (k,), means (k, d), covariances in scikit-learn's shapes."""

    X: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    kind: str


class Answer(NamedTuple):
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    iterations: int


REG_COVAR = 1e-6  # added to every variance, where the peer can


class Peer(Protocol):
    def versions(self) -> str:
        """Name what is measured."""

    def load(self, case: Case) -> None:
        """Take the data in the form that the library likes best."""

    def prepare(self, iterations: int) -> Callable[[], Any]:
        """Return a run of exactly so many iterations; what it returns goes to ``answer``."""

    def answer(self, result: Any) -> Answer:
        """Return the fitted parameters as arrays."""


class NotOffered(Exception):
    """The library has no such mixture."""


def read(path: str) -> Case:
    with np.load(path) as arrays:
        return Case(*(arrays[name] for name in Case._fields[:-1]), str(arrays["kind"]))


def run(peer: Peer, iterations: int, repeats: int, answer: str | None = None) -> dict[str, Any]:
    work = peer.prepare(iterations)
    seconds, result = [], None
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            result = None
            start = time.perf_counter()
            result = work()
            seconds.append(time.perf_counter() - start)
    finally:
        gc.enable()
    found = peer.answer(result)
    if answer is not None:
        np.savez(answer, **{name: getattr(found, name) for name in Answer._fields[:-1]})
    return {"seconds": seconds, "iterations": int(found.iterations)}


def limit_memory() -> None:
    """Refuse more than half of what is free, so that a greedy peer fails instead of swapping."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    resource.setrlimit(resource.RLIMIT_DATA, (free * 512, resource.RLIM_INFINITY))


def serve(make: Callable[[], Peer]) -> None:
    """Answer until the driver closes the pipe; ``make`` imports the library."""
    limit_memory()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints must not come between the lines

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        peer = make()
        reply({"ready": peer.versions()})
    except Exception as error:
        return reply({"error": f"{type(error).__name__}: {error}"})
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            reply(run(peer, **request) if do == "run" else peer.load(read(request["case"])) or {})
        except Exception as error:
            reply({"error": f"{type(error).__name__}: {error}"})
    return None
