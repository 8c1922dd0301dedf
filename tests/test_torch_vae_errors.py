"""Parts of a VAE that do not fit, each with the error that names the argument."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from elbokit.torch import (
    VAE,
    CategoricalLikelihood,
    GaussianLikelihood,
    GaussianMixturePrior,
    LearnedPrior,
    StandardPrior,
)

D, K = 5, 3
X = torch.zeros(4, D)
LABELS = torch.zeros(4, D, dtype=torch.int64)
ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "likelihood": (
        lambda: VAE(D, likelihood="poisson"),
        ValueError,
        "`likelihood` is 'poisson', expected one of bernoulli, gaussian, categorical",
    ),
    "likelihood type": (
        lambda: VAE(D, likelihood=nn.Linear(1, 1)),  # type: ignore[arg-type]
        TypeError,
        "`likelihood` has type Linear, expected a name or elbokit.torch.Likelihood",
    ),
    "classes": (
        lambda: VAE(D, likelihood="categorical"),
        ValueError,
        "`n_classes` is None, expected a number beside 'categorical'",
    ),
    "no classes": (
        lambda: VAE(D, n_classes=3),
        ValueError,
        "`n_classes` is 3, expected None beside 'bernoulli'",
    ),
    "posterior": (
        lambda: VAE(D, posterior="tied"),
        ValueError,
        "`posterior` is 'tied', expected one of diagonal, full",
    ),
    "prior": (
        lambda: VAE(D, prior=3),  # type: ignore[arg-type]
        TypeError,
        "`prior` has type int, expected a name or elbokit.torch.Prior",
    ),
    **{
        f"latent dimension of {type(prior).__name__}": (
            lambda prior=prior: VAE(D, K, (4,), prior=prior),
            ValueError,
            f"`prior` has latent_dim 2, expected {K} as the model",
        )
        for prior in (StandardPrior(2), LearnedPrior(2), GaussianMixturePrior(3, 2))
    },
    "variance": (
        lambda: GaussianLikelihood("shared"),
        ValueError,
        "`variance` is 'shared', expected one of learned, fixed, decoder",
    ),
    "logvar": (
        lambda: GaussianLikelihood(logvar=math.nan),
        ValueError,
        "`logvar` is nan, expected a finite number",
    ),
    "covariance type": (
        lambda: GaussianMixturePrior(2, 2, "tied"),
        ValueError,
        "`covariance_type` is 'tied', expected one of full, diag",
    ),
    "free bits": (
        lambda: VAE(D, posterior="full").loss(X, free_bits=0.1),
        ValueError,
        "`free_bits` is 0.1, expected 0: the KL of a full posterior",
    ),
    "free bits of a mixture": (
        lambda: VAE(D, prior="mixture").loss(X, free_bits=0.1),
        ValueError,
        "`free_bits` is 0.1, expected 0: the KL to this prior",
    ),
    "numbers for classes": (
        lambda: VAE(D, likelihood="categorical", n_classes=2).loss(X),
        TypeError,
        "`x` has dtype torch.float32, expected an integer dtype",
    ),
    "decoder of classes": (
        lambda: VAE(
            encoder=nn.Sequential(nn.Flatten(), nn.Linear(3 * D, 4)),
            decoder=nn.Linear(2, D),
            likelihood=CategoricalLikelihood(3),
        ).loss(LABELS),
        ValueError,
        "`decoder` returned shape (4, 5), expected (4, 3, 5) for `x` of shape (4, 5)",
    ),
    "image": (
        lambda: VAE.convolutional((28, 28)),  # type: ignore[arg-type]
        ValueError,
        "`image_shape` is (28, 28), expected (channels, height, width)",
    ),
    "channels": (
        lambda: VAE.convolutional((1, 8, 8), channels=()),
        ValueError,
        "`channels` is empty",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_names_the_argument(case: str) -> None:
    call, error, message = ERRORS[case]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
