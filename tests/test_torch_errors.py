"""Bad arguments of elbokit.torch: which error, and what it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import elbokit.torch

# Without their types, which most of the calls below violate.
api: Any = elbokit.torch
VAE, VAELoss, VAETrainer = api.VAE, api.VAELoss, api.VAETrainer
binary_cross_entropy_with_logits, logsumexp = api.binary_cross_entropy_with_logits, api.logsumexp
gaussian_kl, vae_loss = api.gaussian_kl, api.vae_loss

X = torch.zeros(4, 6)
Z = torch.zeros(4, 2)


class Elsewhere(torch.Tensor):
    """A tensor that claims to be on a device without kernels."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("xpu", 0)


ELSEWHERE = X.as_subclass(Elsewhere)
SPARSE, BLOCKED = X.to_sparse(), X.to_mkldnn()

Case = tuple[Callable[[], Any], type[Exception], str]

LOSSES: dict[str, Case] = {
    "bce array": (lambda: binary_cross_entropy_with_logits(np.zeros(3), X), TypeError,
        "`input` must be a torch.Tensor, got ndarray"),
    "bce integer": (lambda: binary_cross_entropy_with_logits(X.long(), X), TypeError,
        "`input` has dtype torch.int64, expected a floating-point dtype"),
    "bce complex": (lambda: binary_cross_entropy_with_logits(X.to(torch.complex64), X), TypeError,
        "`input` has dtype torch.complex64"),
    "bce integer target": (lambda: binary_cross_entropy_with_logits(X, X.long()), TypeError,
        "`target` has dtype torch.int64, expected a floating-point dtype, bool or uint8"),
    "bce mixed dtypes": (lambda: binary_cross_entropy_with_logits(X, X.double()), TypeError,
        "`target` has dtype torch.float64, expected torch.float32 to go with `input`"),
    "bce mixed weight": (lambda: binary_cross_entropy_with_logits(X, X, X.double()), TypeError,
        "`weight` has dtype torch.float64"),
    "bce shape": (lambda: binary_cross_entropy_with_logits(X, X[0]), ValueError,
        "`target` has shape (6,), expected (4, 6) as `input`"),
    "bce weight shape": (lambda: binary_cross_entropy_with_logits(X, X, X[0, :4]), ValueError,
        "`weight` has shape (4,), expected one that broadcasts to (4, 6), the shape of `input`"),
    "bce weight too large": (
        lambda: binary_cross_entropy_with_logits(X[0], X[0], pos_weight=X), ValueError,
        "`pos_weight` has shape (4, 6), expected one that broadcasts to (6,)"),
    "bce reduction": (lambda: binary_cross_entropy_with_logits(X, X, reduction="avg"), ValueError,
        "`reduction` is 'avg', expected one of none, mean, sum"),
    "bce rows": (lambda: binary_cross_entropy_with_logits(X, X, reduction="rows"), ValueError,
        "`reduction` is 'rows'"),
    "bce device": (lambda: binary_cross_entropy_with_logits(ELSEWHERE, ELSEWHERE), ValueError,
        "`input` is on device xpu:0, expected a CPU tensor"),
    "bce two devices": (lambda: binary_cross_entropy_with_logits(X, X.to("meta")), ValueError,
        "`target` is on device meta, expected cpu as `input`"),
    "bce sparse": (lambda: binary_cross_entropy_with_logits(X, SPARSE), ValueError,
        "`target` has layout torch.sparse_coo, expected torch.strided"),
    "bce mkldnn": (lambda: binary_cross_entropy_with_logits(BLOCKED, X), ValueError,
        "`input` has layout torch._mkldnn, expected torch.strided"),
    "bernoulli reduction": (lambda: api.bernoulli_loss(X, X, reduction="mean"), ValueError,
        "`reduction` is 'mean', expected one of none, sum, batchmean"),
    "bernoulli weight": (lambda: api.bernoulli_loss(X, X, weight=X[0]), ValueError,
        "`weight` has shape (6,), expected (4,)"),
    "bernoulli scale": (lambda: api.bernoulli_loss(X, X, target_scale=-1), ValueError,
        "`target_scale` is -1, expected a finite number >= 0"),
    "gaussian number": (lambda: api.gaussian_loss(X, X, 0.0), TypeError,
        "`logvar` must be a torch.Tensor, got float"),
    "gaussian shape": (lambda: api.gaussian_loss(X, X[:2]), ValueError,
        "`target` has shape (2, 6), expected (4, 6) as `mean`"),
    "gaussian noise": (lambda: api.gaussian_loss(X, X, X[0, :4]), ValueError,
        "`logvar` has shape (4,), expected one that broadcasts to (4, 6), the shape of `mean`"),
    "gaussian mask": (lambda: api.gaussian_loss(X, X, mask=X[:2]), ValueError,
        "`mask` has shape (2, 6), expected one that broadcasts to (4, 6)"),
    "gaussian scalar": (lambda: api.gaussian_loss(X[0, 0], X[0, 0]), ValueError,
        "`mean` has shape (), expected (n_samples, ...)"),
    "gaussian bytes": (lambda: api.gaussian_loss(X.byte(), X), TypeError,
        "`mean` has dtype torch.uint8, expected a floating-point dtype"),
    "gaussian range": (lambda: api.gaussian_loss(X, X, X, logvar_range=(1, -1)), ValueError,
        "`logvar_range` is (1, -1), expected its first number to be the smaller"),
    "gaussian range type": (lambda: api.gaussian_loss(X, X, X, logvar_range=3), TypeError,
        "`logvar_range` is 3, expected a pair of numbers"),
    "categorical dtype": (lambda: api.categorical_loss(X, X[:, 0]), TypeError,
        "`target` has dtype torch.float32, expected torch.int64"),
    "categorical array": (lambda: api.categorical_loss(X, [0, 1, 2, 3]), TypeError,
        "`target` must be a torch.Tensor, got list"),
    "categorical shape": (lambda: api.categorical_loss(X, X.long()), ValueError,
        "`target` has shape (4, 6), expected (4,): that of `logits` (4, 6) without the classes"),
    "categorical flat": (lambda: api.categorical_loss(X[0], X[0].long()), ValueError,
        "`logits` has shape (6,), expected (n_samples, n_classes, ...)"),
    "categorical no class": (lambda: api.categorical_loss(X[:, :0], X[:, 0].long()), ValueError,
        "`logits` has shape (4, 0), expected"),
    "categorical device": (
        lambda: api.categorical_loss(X, X[:, 0].long().to("meta")), ValueError,
        "`target` is on device meta, expected cpu as `logits`"),
    "categorical value": (lambda: api.categorical_loss(X, 2 * torch.arange(4)), ValueError,
        "`target` holds 6 at position (3,), expected classes from 0 to 5"),
    "kl sparse": (lambda: gaussian_kl(Z, Z, prior_mu=Z.to_sparse()), ValueError,
        "`prior_mu` has layout torch.sparse_coo"),
    "kl shape": (lambda: gaussian_kl(Z, Z[:3]), ValueError,
        "`logvar` has shape (3, 2), expected (4, 2) as `mu`"),
    "kl scalar": (lambda: gaussian_kl(Z[0, 0], Z[0, 0]), ValueError,
        "`mu` has shape (), expected (n_samples, ...)"),
    "kl prior": (lambda: gaussian_kl(Z, Z, prior_mu=Z[:, :1].repeat(1, 3)), ValueError,
        "`prior_mu` has shape (4, 3), expected one that broadcasts to (4, 2)"),
    "kl prior dtype": (lambda: gaussian_kl(Z, Z, prior_logvar=Z.double()), TypeError,
        "`prior_logvar` has dtype torch.float64, expected torch.float32 to go with `mu`"),
    "kl number": (lambda: gaussian_kl(Z, 0.0), TypeError,
        "`logvar` must be a torch.Tensor, got float"),
    "kl mean": (lambda: gaussian_kl(Z, Z, reduction="mean"), ValueError,
        "`reduction` is 'mean', expected one of none, sum, batchmean ('mean' over elements"),
    "kl reduction": (lambda: gaussian_kl(Z, Z, reduction=None), ValueError,
        "`reduction` is None"),
    "vae target": (lambda: vae_loss(X, X[:, :5], Z, Z), ValueError,
        "`target` has shape (4, 5), expected (4, 6) as `logits`"),
    "vae logvar": (lambda: vae_loss(X, X, Z, Z[:, :1]), ValueError,
        "`logvar` has shape (4, 1), expected (4, 2) as `mu`"),
    "vae batch": (lambda: vae_loss(X, X, Z[:3], Z[:3]), ValueError,
        "`mu` has 3 samples (shape (3, 2)), expected 4 as `logits` (shape (4, 6))"),
    "vae integer": (lambda: vae_loss(X.int(), X, Z, Z), TypeError,
        "`logits` has dtype torch.int32"),
    "vae mixed": (lambda: vae_loss(X, X, Z.double(), Z.double()), TypeError,
        "`mu` has dtype torch.float64, expected torch.float32 to go with `logits`"),
    "vae mean": (lambda: vae_loss(X, X, Z, Z, reduction="mean"), ValueError,
        "`reduction` is 'mean'"),
    "vae beta": (lambda: vae_loss(X, X, Z, Z, beta=-1.0), ValueError,
        "`beta` is -1.0, expected a finite number >= 0"),
    "vae NaN beta": (lambda: vae_loss(X, X, Z, Z, beta=float("nan")), ValueError,
        "`beta` is nan"),
    "vae text beta": (lambda: vae_loss(X, X, Z, Z, beta="1"), TypeError,
        "`beta` has type str, expected a number"),
    "vae bool beta": (lambda: vae_loss(X, X, Z, Z, beta=np.bool_(True)), TypeError,
        "`beta` has type bool, expected a number"),
    "vae tensor beta": (lambda: vae_loss(X, X, Z, Z, beta=torch.ones(4)), ValueError,
        "`beta` has shape (4,), expected ()"),
    "vae sparse": (lambda: vae_loss(X, X, Z.to_sparse(), Z), ValueError,
        "`mu` has layout torch.sparse_coo"),
    "vae free bits": (lambda: vae_loss(X, X, Z, Z, free_bits=-0.1), ValueError,
        "`free_bits` is -0.1, expected a finite number >= 0"),
    "module": (lambda: VAELoss(reduction="mean"), ValueError, "`reduction` is 'mean'"),
    "module tensor beta": (lambda: VAELoss(beta=torch.ones(1)), ValueError,
        "`beta` has shape (1,), expected ()"),
    "module beta": (lambda: VAELoss(beta=-1), ValueError, "`beta` is -1"),
    "lse range": (lambda: logsumexp(X, 2), ValueError,
        "`dim` is 2, expected dimensions of an input with 2"),
    "lse twice": (lambda: logsumexp(X, (0, -2)), ValueError,
        "`dim` is (0, -2), expected each dimension at most once"),
    "lse type": (lambda: logsumexp(X, 1.0), TypeError, "`dim` is 1.0, expected an int"),
    "lse bool": (lambda: logsumexp(X, np.bool_(True)), TypeError, "`dim` is "),
    "lse sparse": (lambda: logsumexp(SPARSE, 0), ValueError,
        "`input` has layout torch.sparse_coo"),
    "lse complex": (lambda: logsumexp(X.to(torch.complex64), 0), TypeError,
        "`input` has dtype torch.complex64"),
    "lse list": (lambda: logsumexp([1.0], 0), TypeError,
        "`input` must be a torch.Tensor, got list"),
}  # fmt: skip

LINEAR = torch.nn.Linear(6, 4)

MODELS: dict[str, Case] = {
    "latent_dim": (lambda: VAE(6, 0), ValueError, "`latent_dim` is 0, expected an int > 0"),
    "latent_dim type": (lambda: VAE(6, 2.0), TypeError, "`latent_dim` has type float"),
    "n_features": (lambda: VAE(-1), ValueError, "`n_features` is -1"),
    "hidden": (lambda: VAE(6, 2, (8, 0)), ValueError, "`hidden[1]` is 0"),
    "hidden number": (lambda: VAE(6, 2, 8), TypeError,
        "`hidden` has type int, expected a sequence of ints"),
    "bool": (lambda: VAE(np.bool_(True)), TypeError, "`n_features` has type bool"),
    "activation": (lambda: VAE(6, activation="relu"), TypeError,
        "`activation` has type str, expected a function that returns a torch.nn.Module"),
    "activation module": (lambda: VAE(6, activation=torch.nn.ReLU()), TypeError,
        "`activation` has type ReLU, expected a function"),
    "nothing": (lambda: VAE(), ValueError, "`n_features` is None"),
    "one network": (lambda: VAE(encoder=LINEAR), ValueError, "`n_features` is None"),
    "both": (lambda: VAE(6, encoder=LINEAR, decoder=LINEAR), ValueError, "`n_features` is given"),
    "function": (lambda: VAE(encoder=LINEAR, decoder=abs), TypeError,
        "`decoder` has type builtin_function_or_method, expected torch.nn.Module"),
    "data": (lambda: VAE(5).encode(X), ValueError, "`x` has shape (4, 6), expected (n_samples, 5)"),
    "array": (lambda: VAE(6).encode(X.numpy()), TypeError, "`x` must be a torch.Tensor"),
    "data dtype": (lambda: VAE(6).loss(X.double()), TypeError,
        "`x` has dtype torch.float64, expected torch.float32 as the parameters"),
    "array to estimate": (lambda: VAE(6).log_likelihood(X.numpy()), TypeError,
        "`x` must be a torch.Tensor, got ndarray"),
    "encoder": (lambda: VAE(latent_dim=3, encoder=LINEAR, decoder=LINEAR).encode(X), ValueError,
        "`encoder` returned (4, 4), expected one tensor of shape (n_samples, 6) or two of shape "
        "(n_samples, 3)"),
    "latent points": (lambda: VAE(6).decode(X), ValueError,
        "`z` has shape (4, 6), expected (n, 2)"),
    "array of latent points": (lambda: VAE(6).decode(Z.numpy()), TypeError,
        "`z` must be a torch.Tensor, got ndarray"),
    "latent dtype": (lambda: VAE(6).decode(Z.double()), TypeError,
        "`z` has dtype torch.float64, expected torch.float32 as the parameters"),
    "decoder": (lambda: VAE(encoder=LINEAR, decoder=torch.nn.Linear(2, 5)).elbo(X), ValueError,
        "`decoder` returned shape (4, 5), expected (4, 6) for `x` of shape (4, 6)"),
    "n": (lambda: VAE(6).sample(0), ValueError, "`n` is 0"),
    "n_steps": (lambda: VAE(6).interpolate(X, X, 0), ValueError, "`n_steps` is 0"),
    "ends": (lambda: VAE(6).interpolate(X, X[:1]), ValueError, "`x1` has shape (1, 6)"),
    "n_samples": (lambda: VAE(6).log_likelihood(X, 0), ValueError, "`n_samples` is 0"),
    "max_rows": (lambda: VAE(6).log_likelihood(X, max_rows=0), ValueError, "`max_rows` is 0"),
    "trained": (lambda: VAETrainer(LINEAR), TypeError,
        "`vae` has type Linear, expected elbokit.torch.VAE"),
    "max_epochs": (lambda: VAETrainer(VAE(6), max_epochs=0), ValueError, "`max_epochs` is 0"),
    "batch_size": (lambda: VAETrainer(VAE(6), batch_size=0), ValueError, "`batch_size` is 0"),
    "lr": (lambda: VAETrainer(VAE(6), lr=-1e-3), ValueError, "`lr` is -0.001"),
    "beta": (lambda: VAETrainer(VAE(6), beta=-1), ValueError, "`beta` is -1"),
    "free_bits": (lambda: VAETrainer(VAE(6), free_bits=-1), ValueError, "`free_bits` is -1"),
    "seed": (lambda: VAETrainer(VAE(6), seed=-1), ValueError, "`seed` is -1"),
    "seed type": (lambda: VAETrainer(VAE(6), seed=None), TypeError, "`seed` has type NoneType"),
    "optimizer": (lambda: VAETrainer(VAE(6), optimizer="adam"), TypeError,
        "`optimizer` has type str"),
}  # fmt: skip

CASES = {**LOSSES, **MODELS}


NUMPY_SCALARS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "beta": (lambda: vae_loss(X, X, Z + 1, Z, beta=np.float32(2)).loss,
        lambda: vae_loss(X, X, Z + 1, Z, beta=2).loss),
    "free bits": (lambda: VAELoss(free_bits=np.int64(1))(X, X, Z, Z).loss,
        lambda: VAELoss(free_bits=1)(X, X, Z, Z).loss),
    "dim": (lambda: logsumexp(X, np.int64(0)), lambda: logsumexp(X, 0)),
    "dims": (lambda: logsumexp(X, (np.int8(-1), np.int64(0))), lambda: logsumexp(X, (0, 1))),
    "sizes": (lambda: VAE(np.int64(6), np.int32(3), np.array([5])).encode(X)[0].new_zeros(()),
        lambda: X.new_zeros(())),
    "n": (lambda: VAE(6).sample(np.int64(3)) > 0, lambda: torch.ones(3, 6) > 0),
    "n_steps": (lambda: VAE(6).interpolate(X, X, np.int64(2)) > 0, lambda: torch.ones(2, 4, 6) > 0),
    "max_rows": (lambda: VAE(6).log_likelihood(X, np.int64(2), max_rows=np.int64(3)) < 0,
        lambda: torch.ones(4) > 0),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMPY_SCALARS)
def test_numbers_of_numpy_are_numbers(case: str) -> None:
    numpy_call, plain_call = NUMPY_SCALARS[case]
    assert torch.equal(numpy_call(), plain_call())


@pytest.mark.parametrize("case", CASES)
def test_error_names_the_argument(case: str) -> None:
    call, error, message = CASES[case]
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: elbokit.torch.vae_loss(None, x, x, x), "logits"),
        (lambda x: elbokit.torch.vae_loss(x, None, x, x), "target"),
        (lambda x: elbokit.torch.bernoulli_loss(None, x), "logits"),
        (lambda x: elbokit.torch.gaussian_loss(x, None), "target"),
        (lambda x: elbokit.torch.categorical_loss(None, x), "logits"),
        (lambda x: elbokit.torch.gaussian_kl(x, None), "logvar"),
        (lambda x: elbokit.torch.multi_sample_loss(x, x, x, x, None), "z"),
        (lambda x: elbokit.torch.linear_bernoulli_loss(x, None, None, x), "weight"),
        (lambda x: elbokit.torch.gmm_log_prob(None, x, x, x, "diag"), "x"),
        (lambda x: elbokit.torch.logsumexp(None, 1), "input"),
    ],
)
def test_nothing_where_a_tensor_is_needed(call: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"`{name}` must be a torch.Tensor, got NoneType"):
        call(torch.zeros(2, 3))


def test_a_number_that_is_true_is_none() -> None:
    """Nor on the short way of a usual batch."""
    x, z = torch.zeros(2, 3), torch.zeros(2, 1)
    for option in ("beta", "free_bits", "target_scale"):
        with pytest.raises(TypeError, match=f"`{option}` has type bool"):
            vae_loss(x, x, z, z, **{option: True})
