"""VAETrainer on data with missing entries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from elbokit.torch import VAE, GaussianLikelihood, GaussianMixturePrior, VAETrainer
from test_torch_vae_masks import Own

N, D = 64, 6


def new_vae(**options: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(D, 2, (16,), **options)


def train(vae: VAE, *data: Any, **options: Any) -> VAETrainer:
    options = {
        "max_epochs": 2,
        "batch_size": 16,
        "missing": "integrate",
        "progress": False,
    } | options
    return VAETrainer(vae, **options).fit(*data)


def plane(n: int = N) -> torch.Tensor:
    """Points near a plane, in [0, 1]."""
    rng = torch.Generator().manual_seed(1)
    flat = torch.rand(n, 2, generator=rng) @ torch.rand(2, D, generator=rng)
    return (flat / 2).clamp(0, 1)


def holed(X: torch.Tensor, share: float = 0.3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(2)
    return torch.where(torch.rand(X.shape, generator=rng) < share, math.nan, X)


def test_whole_data_are_trained_as_ever() -> None:
    X = plane()
    runs = [train(new_vae(), X, X[:8], missing=missing) for missing in ("error", "integrate")]
    assert runs[0].history.keys() == runs[1].history.keys()
    for key, values in runs[0].history.items():
        np.testing.assert_allclose(runs[1].history[key], values, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_bound_of_what_is_there(likelihood: str) -> None:
    """Without a step and without noise in z the history has the model's own terms."""
    vae, X = new_vae(likelihood=likelihood), holed(plane())
    with torch.no_grad():
        vae.encoder[-1].bias[2:] = -80.0  # type: ignore[index]  # no noise
    trainer = train(vae, X, X[:20], max_epochs=1, lr=0.0)
    with torch.no_grad():
        for name, data in (("", X), ("val_", X[:20])):
            mask = ~data.isnan()
            terms = vae.loss(data, mask=mask)
            found = {key: trainer.history[name + key][0] for key in ("reconstruction", "kl")}
            assert found["reconstruction"] == pytest.approx(terms.reconstruction.item(), rel=1e-5)
            assert found["kl"] == pytest.approx(terms.kl.item(), rel=1e-5)


def test_what_is_missing_is_filled_in() -> None:
    X, noise = plane(400), GaussianLikelihood("fixed", -5.0)
    given = holed(X)
    vae = new_vae(likelihood=noise)
    train(vae, given, max_epochs=150, batch_size=50, lr=5e-3)
    missing = given.isnan()
    filled = vae.reconstruct(given, ~missing)
    by_mean = given.nanmean(0).expand(X.shape)
    ours, theirs = (((f - X)[missing] ** 2).mean() for f in (filled, by_mean))
    assert ours < 0.3 * theirs


def test_loaders_and_datasets() -> None:
    X = holed(plane())
    whole = train(new_vae(), X).history
    assert train(new_vae(), TensorDataset(X)).history == whole
    loader = DataLoader(TensorDataset(X), batch_size=16)
    assert all(map(math.isfinite, train(new_vae(), loader, loader).history["val_bound"]))
    assert train(new_vae(), X.numpy()).history == whole


def test_classes_and_bytes_have_nothing_missing() -> None:
    classes = torch.randint(3, (N, D))
    train(new_vae(likelihood="categorical", n_classes=3), classes)
    train(new_vae(), torch.randint(256, (N, D), dtype=torch.uint8))


@pytest.mark.parametrize("bad", [math.inf, 1.5])
def test_other_values_are_refused(bad: float) -> None:
    X = holed(plane())
    X[7, 3] = bad
    with pytest.raises(ValueError, match=f"`X_train` has the value {bad:g} in row 7, expected"):
        train(new_vae(), X)


def test_nan_is_refused_by_default() -> None:
    X = plane()
    X[5, 1] = math.nan
    with pytest.raises(ValueError, match="`X_train` has the value nan in row 5"):
        train(new_vae(), X, missing="error")


def test_unknown_word() -> None:
    with pytest.raises(ValueError, match="`missing` is 'ignore', expected 'error' or 'integrate'"):
        VAETrainer(new_vae(), missing="ignore")


def test_a_likelihood_that_knows_of_no_mask() -> None:
    with pytest.raises(ValueError, match="`missing` asks for missing elements, but Own has no"):
        VAETrainer(new_vae(likelihood=Own()), missing="integrate")


def test_prior_fitted_to_what_is_there() -> None:
    vae, X = new_vae(), holed(plane(200))
    train(vae, X, max_epochs=5)
    with torch.no_grad():
        mu, _ = vae.encode(X, ~X.isnan())
    prior = GaussianMixturePrior.init_from(vae, X, 2, random_state=0, missing="integrate")
    mean = (prior.weights[:, None] * prior.means).sum(0)
    torch.testing.assert_close(mean.detach(), mu.mean(0), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="`X` has the value nan in row 1"):
        GaussianMixturePrior.init_from(vae, X, 2)


class Before(VAE):
    """Overrides that know of no mask."""

    def encode(self, x: torch.Tensor) -> Any:  # type: ignore[override]
        return super().encode(x)

    def forward(self, x: torch.Tensor, *, generator: Any = None) -> Any:  # type: ignore[override]
        return super().forward(x, generator=generator)

    def terms(  # type: ignore[override]
        self,
        x: torch.Tensor,
        output: Any,
        *,
        beta: Any = 1.0,
        free_bits: float = 0.0,
        capacity: Any = None,
        reduction: str = "batchmean",
    ) -> Any:
        options = {"beta": beta, "free_bits": free_bits, "capacity": capacity}
        return super().terms(x, output, reduction=reduction, **options)


def test_subclasses_need_not_know() -> None:
    torch.manual_seed(0)
    vae, X = Before(D, 2, (16,)), plane()
    assert torch.isfinite(vae.loss(X).loss)
    history = train(vae, X, X[:8], missing="error").history
    assert history == train(new_vae(), X, X[:8], missing="error").history


def test_resumed(tmp_path: Path) -> None:
    X = holed(plane())
    whole = new_vae()
    history = train(whole, X, max_epochs=4).history
    train(new_vae(), X, checkpoint_dir=tmp_path)
    vae = new_vae()
    trainer = VAETrainer(
        vae,
        max_epochs=4,
        batch_size=16,
        missing="integrate",
        progress=False,
        checkpoint_dir=tmp_path,
    ).fit(X, resume=True)
    assert trainer.history == history
    torch.testing.assert_close(vae.state_dict(), whole.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="`missing` is error, expected integrate"):
        VAETrainer(vae, max_epochs=5, batch_size=16, progress=False, checkpoint_dir=tmp_path).fit(
            plane(), resume=True
        )
