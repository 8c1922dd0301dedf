"""gmmx's mixture, on JAX; compiled before it is timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from gmmx import EMFitter, GaussianMixtureModelJax

from peers import worker


class Peer:
    def versions(self) -> str:
        return f"gmmx {version('gmmx')} (jax {jax.__version__})"

    def load(self, case: worker.Case) -> None:
        if case.kind not in ("full", "diag"):
            raise worker.NotOffered(f"{case.kind} covariances")
        if case.X.dtype != np.float32:  # it checks its arrays for float32, whatever JAX allows
            raise worker.NotOffered(f"{case.X.dtype}")
        self.case = case
        self.X = jax.numpy.asarray(case.X)
        self.start = GaussianMixtureModelJax.from_squeezed(
            means=case.means,
            covariances=case.covariances,
            weights=case.weights,
            covariance_type=case.kind,
        )
        self.compiled: dict[int, Any] = {}

    def prepare(self, iterations: int) -> Callable[[], Any]:
        fitter = EMFitter(max_iter=iterations, tol=0.0, reg_covar=worker.REG_COVAR)
        if iterations not in self.compiled:
            lowered = type(fitter).fit.lower(fitter, self.X, self.start)
            self.compiled[iterations] = lowered.compile()
        fit = self.compiled[iterations]
        return lambda: jax.block_until_ready(fit(fitter, self.X, self.start))

    def answer(self, result: Any) -> worker.Answer:
        gmm = result.gmm
        covariances = np.asarray(gmm.covariances.values_numpy)
        weights = np.asarray(gmm.weights).ravel()
        means = np.asarray(gmm.means).reshape(len(weights), -1)
        return worker.Answer(
            weights, means, covariances.reshape(self.case.covariances.shape), int(result.n_iter)
        )


if __name__ == "__main__":
    worker.serve(Peer)
