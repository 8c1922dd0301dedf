"""Errors of VAE, VAETrainer and what goes with them: data, networks, folders that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import elbokit.torch

# Without their types, which most of the calls below violate.
api: Any = elbokit.torch
VAE = api.VAE

X, Z = torch.rand(4, 6), torch.zeros(4, 2)
LABELS = torch.tensor([[0, 1, 2], [2, 1, 0]])
Case = tuple[Callable[[], Any], type[Exception], str]


def fit(*data: Any, vae: Any = None, **options: Any) -> Any:
    vae = VAE(6, 2, (5,)) if vae is None else vae
    return api.VAETrainer(vae, max_epochs=1, progress=False, **options).fit(*data)


def own(encoder: Any = None, decoder: Any = None, likelihood: str = "bernoulli") -> Any:
    """A model of linear networks, but for those given."""
    encoder, decoder = encoder or nn.Linear(6, 4), decoder or nn.Linear(2, 6)
    return VAE(encoder=encoder, decoder=decoder, likelihood=likelihood)


class Gives(nn.Module):
    """A network that returns whatever it was told."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    def forward(self, x: torch.Tensor) -> Any:
        return self.given


def estimate(posterior: Any, **options: Any) -> Any:
    def log_prob(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(z))

    return api.importance_log_likelihood(log_prob, X, posterior, 2, **options)


CLASSES: dict[str, Case] = {
    name: (
        lambda method=method, bad=bad: getattr(
            VAE(3, 2, (4,), likelihood="categorical", n_classes=3), method
        )(torch.where(LABELS == 2, bad, LABELS)),
        ValueError,
        f"`x` has the class {bad}, expected 0 to 2",
    )
    for name, method, bad in (
        ("class to encode", "encode", 3),
        ("class of a loss", "loss", -1),
        ("class to reconstruct", "reconstruct", 7),
        ("class to estimate", "log_likelihood", -2),
    )
}

DATA: dict[str, Case] = {
    "data and labels": (lambda: fit((X, torch.arange(4))), ValueError,
        "`X_train` has type tuple and is no array"),
    "arrays and labels": (lambda: fit((X.numpy(), torch.arange(4).numpy())), ValueError,
        "`X_train` has type tuple and is no array"),
    "ragged": (lambda: fit([[1, 2], [1]]), ValueError, "`X_train` has type list and is no array"),
    "ragged held-out": (lambda: fit(X, [[1, 2], [1]]), ValueError, "`X_val` has type list and"),
    "ragged for a prior": (
        lambda: api.GaussianMixturePrior.init_from(VAE(6), [[1, 2], [1]], 2), ValueError,
        "`X` has type list and is no array"),
    "features held out": (lambda: fit(X, X[:, :5]), ValueError,
        "`X_val` has shape (4, 5), expected (n_samples, 6)"),
    "features of a dataset": (lambda: fit(X, TensorDataset(X[:, :5])), ValueError,
        "`X_val` has shape (4, 5), expected (n_samples, 6)"),
    "features for a prior": (
        lambda: api.GaussianMixturePrior.init_from(VAE(6), X[:, :5], 2), ValueError,
        "`X` has shape (4, 5), expected (n_samples, 6)"),
    "one row": (lambda: fit(X[0], vae=own()), ValueError,
        "`X_train` has shape (6,), expected (n_samples, ...) of two dimensions or more"),
    "no rows": (lambda: fit(X[:0], vae=own()), ValueError,
        "`X_train` has shape (0, 6), expected (n_samples, ...), not empty"),
}  # fmt: skip

NETWORKS: dict[str, Case] = {
    **{
        f"output for {name} {likelihood}": (
            lambda use=use, likelihood=likelihood: use(own(None, nn.Linear(2, 5), likelihood)),
            ValueError, "`decoder` returned shape (4, 5), expected (4, 6) for `x` of shape (4, 6)")
        for likelihood in ("bernoulli", "gaussian")
        for name, use in (("loss", lambda vae: vae.loss(X)), ("fit", lambda vae: fit(X, vae=vae)),
            ("elbo", lambda vae: vae.elbo(X)), ("estimate", lambda vae: vae.log_likelihood(X, 1)))
    },
    "pair of a decoder": (lambda: own(None, Gives((X, X))).loss(X), TypeError,
        "`decoder` returned tuple, expected a tensor"),
    "decoder in double": (lambda: own(None, Gives(X.double())).loss(X), TypeError,
        "`decoder` returned dtype torch.float64, expected torch.float32 as `x`"),
    "integers of a decoder": (lambda: own(None, Gives(X.long())).loss(X), TypeError,
        "`decoder` returned dtype torch.int64, expected a floating-point dtype"),
    "empty encoder": (lambda: own(Gives(())).encode(X), ValueError,
        "`encoder` returned no tensors, expected one tensor of shape (n_samples, 4)"),
    "empty full encoder": (
        lambda: VAE(encoder=Gives(()), decoder=nn.Linear(2, 6), posterior="full").encode(X),
        ValueError, "`encoder` returned no tensors, expected one tensor of shape (n_samples, 5)"),
    "activation": (lambda: VAE(6, activation=lambda: None), TypeError,
        "`activation` returned NoneType, expected a torch.nn.Module"),
    "activation, a function of numbers": (lambda: VAE(6, activation=torch.relu), TypeError,
        "`activation` cannot be called without arguments (relu() missing"),
    "activation of images": (lambda: VAE.convolutional((1, 8, 8), activation=lambda: 3), TypeError,
        "`activation` returned int, expected a torch.nn.Module"),
}  # fmt: skip

REST: dict[str, Case] = {
    **{
        f"generator of {name}": (call, TypeError,
            "`generator` has type int, expected a torch.Generator")
        for name, call in (
            ("a pass", lambda: VAE(6)(X, generator=5)),
            ("loss", lambda: VAE(6).loss(X, generator=5)),
            ("elbo", lambda: VAE(6).elbo(X, generator=5)),
            ("estimate", lambda: VAE(6).log_likelihood(X, 2, generator=5)),
            ("sample", lambda: VAE(6).sample(2, generator=5)),
            ("importance sampling", lambda: estimate((Z, Z), generator=5)))
    },
    "single": (lambda: estimate((Z,)), ValueError,
        "`posterior` has length 1, expected a pair of tensors (means, log-variances)"),
    "means alone": (lambda: estimate(Z), TypeError,
        "`posterior` has type Tensor, expected a pair of tensors (means, log-variances)"),
    "points alone": (lambda: estimate(lambda x, n: torch.zeros(n, len(x), 2)), TypeError,
        "`posterior` gave Tensor, expected a pair of tensors (samples, log-densities)"),
    "no points": (lambda: estimate(lambda x, n: None), TypeError,
        "`posterior` gave NoneType, expected a pair of tensors"),
    "three": (lambda: estimate(lambda x, n: (Z, Z, Z)), TypeError,
        "`posterior` gave Tensor, Tensor, Tensor, expected a pair of tensors"),
    "folder": (lambda: fit(X, checkpoint_dir=5), TypeError,
        "`checkpoint_dir` has type int, expected a path"),
    "images": (lambda: api.load_idx(None), TypeError,
        "`folder` has type NoneType, expected a path"),
}  # fmt: skip

CASES = {**CLASSES, **DATA, **NETWORKS, **REST}


@pytest.mark.parametrize("case", CASES)
def test_error_names_the_argument(case: str) -> None:
    call, error, message = CASES[case]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_features_held_out_are_seen_before_training() -> None:
    vae = VAE(6, 2, (5,))
    rows: list[int] = []
    vae.encoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    with pytest.raises(ValueError, match="`X_val` has shape"):
        fit(X, X[:, :5], vae=vae)
    assert rows == []


def test_a_subclass_may_bring_data_into_shape() -> None:
    class Images(VAE):  # type: ignore[misc]
        def as_input(self, x: torch.Tensor) -> torch.Tensor:
            flat: torch.Tensor = super().as_input(x).flatten(1)
            return flat

    assert fit(X.view(4, 2, 3), vae=Images(6, 2, (5,))).epoch == 1


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_the_folder_is_seen_before_training(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    vae = VAE(6, 2, (5,))
    before = [p.clone() for p in vae.parameters()]
    with pytest.raises(ValueError, match=f"`checkpoint_dir` is .*, expected a folder; {file} is a"):
        fit(X, vae=vae, checkpoint_dir=file / below)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert fit(X, checkpoint_dir=tmp_path / "new" / "folder").epoch == 1
    assert (tmp_path / "new" / "folder" / "last.ckpt").is_file()


class _Densities:
    """Gives densities of a wrong shape: one too many dimensions, none summed, or one number."""

    wrong: str

    def log_prob(self, *given: torch.Tensor) -> torch.Tensor:
        each = -given[-1].square()
        if self.wrong == "column":
            return each.sum(1, keepdim=True)
        return each if self.wrong == "each" else each.sum()


class WrongPrior(_Densities, api.Prior):  # type: ignore[misc]
    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong


class WrongLikelihood(_Densities, api.Likelihood):  # type: ignore[misc]
    def __init__(self, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong


@pytest.mark.parametrize("wrong", ["column", "each", "sum"])
@pytest.mark.parametrize("reduction", ["none", "sum", "batchmean"])
def test_densities_of_a_wrong_shape(wrong: str, reduction: str) -> None:
    # As many latent dimensions and features as samples: nothing else would notice.
    x = torch.rand(4, 4)
    networks = {"encoder": nn.Linear(4, 8), "decoder": nn.Linear(4, 4), "latent_dim": 4}
    shape = {"column": r"\(4, 1\)", "each": r"\(4, 4\)", "sum": r"\(\)"}[wrong]
    for name, part in (("prior", WrongPrior(wrong)), ("likelihood", WrongLikelihood(wrong))):
        vae = VAE(**networks, **{name: part})
        for call in (lambda vae=vae: vae.loss(x, reduction=reduction), lambda vae=vae: vae.elbo(x)):
            with pytest.raises(
                ValueError, match=rf"`{name}\.log_prob` gave shape {shape}, expected \(4,\)"
            ):
                call()


def test_binary_data_in_bytes_are_told_of() -> None:
    binary = torch.tensor([[0, 1, 0, 1, 1, 0]] * 4, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="`X_train` is of dtype uint8 and holds 0 and 1 alone"):
        fit(binary)
    fit(binary * 255)
    fit(binary.bool())
