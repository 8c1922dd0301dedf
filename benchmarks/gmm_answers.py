"""Is a peer's answer the answer? Everything against scikit-learn in float64 on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import sklearn.mixture

from peers import scikit_learn
from peers.worker import Answer, Case

ITERATIONS = 3
TOLERANCE = 1e-2  # of parameters, in their own units: beyond it, it is another answer
OURS = 1e-3
SCORED = 20_000  # rows that the likelihood is evaluated on


class Errors(NamedTuple):
    """Largest deviations: weights times k, means in standard deviations, covariances, mean
    log-likelihood of a row."""

    weights: float
    means: float
    covariances: float
    likelihood: float

    @property
    def largest(self) -> float:
        return max(self) if np.isfinite(self).all() else np.inf


class Truth(NamedTuple):
    answer: Answer
    likelihood: float


def exact(case: Case) -> Truth:
    """Parameters after ``ITERATIONS`` iterations, in float64 from the rounded data and start."""
    wide = Case(*(array.astype(np.float64) for array in case[:-1]), case.kind)
    # Weights that were rounded to float32 do not add to one in float64.
    wide = wide._replace(weights=wide.weights / wide.weights.sum())
    peer = scikit_learn.Peer()
    peer.load(wide)
    answer = peer.answer(peer.prepare(ITERATIONS)())
    return Truth(answer, log_likelihood(case, answer))


def read(path: Path, iterations: int) -> Answer:
    with np.load(path) as arrays:
        return Answer(arrays["weights"], arrays["means"], arrays["covariances"], iterations)


def log_likelihood(case: Case, found: Answer) -> float:
    """Mean log-likelihood of a row under the parameters found, in float64."""
    weights, means, covariances = (np.asarray(a, dtype=np.float64) for a in found[:3])
    model = sklearn.mixture.GaussianMixture(len(weights), covariance_type=case.kind)
    if case.kind in ("full", "tied"):
        factors = np.swapaxes(np.linalg.inv(np.linalg.cholesky(covariances)), -1, -2)
    else:
        factors = 1 / np.sqrt(covariances)
    model.weights_, model.means_, model.precisions_cholesky_ = weights, means, factors
    return float(model.score(case.X[:SCORED].astype(np.float64)))


def errors(case: Case, found: Answer, truth: Truth) -> Errors:
    """Deviations of what was found; infinite where it is not even a mixture."""
    exact = truth.answer[:3]
    # A peer's diagonal covariances may come as matrices of one column, say.
    arrays = [
        np.asarray(a, dtype=np.float64).reshape(b.shape)
        for a, b in zip(found[:3], exact, strict=True)
    ]
    try:
        likelihood = log_likelihood(case, found)
    except (np.linalg.LinAlgError, ValueError):
        return Errors(*(np.inf,) * 4)
    scales = len(exact[0]), 1.0, 1.0
    far = [float(np.abs(a - b).max() * s) for a, b, s in zip(arrays, exact, scales, strict=True)]
    return Errors(*far, abs(likelihood - truth.likelihood))
