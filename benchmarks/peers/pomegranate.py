"""pomegranate's mixture, on torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pomegranate.distributions import Normal
from pomegranate.gmm import GeneralMixtureModel

from peers import worker


class Peer:
    def versions(self) -> str:
        return f"pomegranate {version('pomegranate')} (torch {torch.__version__})"

    def load(self, case: worker.Case) -> None:
        if case.kind not in ("full", "diag"):  # its spherical variance is not one number per row
            raise worker.NotOffered(f"{case.kind} covariances")
        self.X = torch.from_numpy(case.X)
        self.case = case

    def prepare(self, iterations: int) -> Callable[[], Any]:
        case = self.case
        parts = [
            Normal(mean.copy(), covariance.copy(), covariance_type=case.kind, check_data=False)
            for mean, covariance in zip(case.means, case.covariances, strict=True)
        ]
        priors = case.weights.astype(np.float64)
        model = GeneralMixtureModel(
            parts,
            priors=(priors / priors.sum()).astype(case.X.dtype),
            max_iter=iterations,
            tol=-torch.inf,
            check_data=False,
        )
        model.requires_grad_(False)
        self.iterations = iterations
        return lambda: model.fit(self.X)

    def answer(self, model: Any) -> worker.Answer:
        means = torch.stack([part.means for part in model.distributions])
        covariances = torch.stack([part.covs for part in model.distributions])
        return worker.Answer(
            model.priors.numpy(), means.numpy(), covariances.numpy(), self.iterations
        )


if __name__ == "__main__":
    worker.serve(Peer)
