"""This library, in the benchmark's own environment; ``ELBOKIT_CPU_LEVEL`` reaches it."""

from __future__ import annotations

import elbokit
from peers import scikit_learn, worker


class Peer(scikit_learn.Peer):
    estimator = elbokit.GaussianMixture

    def versions(self) -> str:
        level, threads = elbokit._core.cpu_level(), elbokit.get_num_threads()
        return f"elbokit {elbokit.__version__} ({level}, {threads} threads)"


if __name__ == "__main__":
    worker.serve(Peer)
