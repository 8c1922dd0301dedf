"""scikit-learn's mixture, and the way to run whatever has its interface."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
import sklearn.mixture
from sklearn.exceptions import ConvergenceWarning

from peers import worker


def inverse(covariances: np.ndarray, kind: str) -> np.ndarray:
    return np.linalg.inv(covariances) if kind in ("full", "tied") else 1 / covariances


class Peer:
    estimator: type = sklearn.mixture.GaussianMixture

    def versions(self) -> str:
        return f"scikit-learn {sklearn.__version__}"

    def load(self, case: worker.Case) -> None:
        self.case = case

    def prepare(self, iterations: int) -> Callable[[], Any]:
        case = self.case
        model = self.estimator(
            len(case.means),
            covariance_type=case.kind,
            tol=0.0,
            reg_covar=worker.REG_COVAR,
            max_iter=iterations,
            weights_init=case.weights,
            means_init=case.means,
            precisions_init=inverse(case.covariances, case.kind).astype(case.X.dtype),
            init_params="random_from_data",  # the cheapest; what it finds is not used
            random_state=0,
        )
        return lambda: self.fit(model)

    def fit(self, model: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is the point
            return model.fit(self.case.X)

    def answer(self, model: Any) -> worker.Answer:
        assert model.means_.dtype == self.case.X.dtype
        return worker.Answer(model.weights_, model.means_, model.covariances_, model.n_iter_)


if __name__ == "__main__":
    worker.serve(Peer)
