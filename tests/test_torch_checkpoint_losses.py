"""Losses under torch's checkpoint and under batches of upstream gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from elbokit.torch import (
    bernoulli_loss,
    categorical_loss,
    gaussian_kl,
    gaussian_kl_full,
    gaussian_loss,
    gmm_log_prob,
    linear_bernoulli_loss,
    logsumexp,
    multi_sample_loss,
    vae_loss,
)
from torch_cases import draw, targets

N, D, L = 4, 5, 3
T = targets(N, D)
WEIGHT = draw(D, L, seed=9)
SAMPLES = draw(2, N, D, seed=8)
LOSSES: dict[str, Any] = {
    "bernoulli": lambda x, mu, v, r: bernoulli_loss(x, T, reduction=r),
    "categorical": lambda x, mu, v, r: categorical_loss(x, torch.arange(N), reduction=r),
    "gaussian": lambda x, mu, v, r: gaussian_loss(x, T, v[0, :1], reduction=r),
    "gaussian features": lambda x, mu, v, r: gaussian_loss(x, T, x[0], reduction=r),
    "kl": lambda x, mu, v, r: gaussian_kl(mu, v, reduction=r),
    "kl full": lambda x, mu, v, r: gaussian_kl_full(mu, torch.diag_embed(v.exp()), reduction=r),
    "linear": lambda x, mu, v, r: linear_bernoulli_loss(mu, WEIGHT, x[0], T, reduction=r),
    "samples": lambda x, mu, v, r: multi_sample_loss(
        SAMPLES + x, T, mu, v, torch.stack([mu, v]), reduction=r
    ),
    "vae": lambda x, mu, v, r: vae_loss(x, T, mu, v, reduction=r).loss,
    "logsumexp": lambda x, mu, v, r: logsumexp(x, 1),
    "mixture": lambda x, mu, v, r: gmm_log_prob(
        mu, v[:, 0].softmax(0), mu.detach(), v.exp(), "diag"
    ),
}


def operands() -> list[torch.Tensor]:
    return [draw(N, D, grad=True), *(draw(N, L, seed=s, grad=True) for s in (1, 2))]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_checkpointed(name: str, reduction: str, reentrant: bool) -> None:
    found = []
    for wrapped in (False, True):
        given = operands()
        if wrapped:
            loss = checkpoint(LOSSES[name], *given, reduction, use_reentrant=reentrant)
        else:
            loss = LOSSES[name](*given, reduction)
        loss.sum().backward()
        found.append([g.grad for g in given])
    for plain, recomputed in zip(*found, strict=True):
        assert (plain is None) == (recomputed is None)
        if plain is not None:
            assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("name", LOSSES)
def test_batches_of_upstream_gradients(name: str, reduction: str) -> None:
    given = operands()
    loss = LOSSES[name](*given, reduction)
    upstream = draw(3, *loss.shape, seed=7)
    options: Any = {"retain_graph": True, "allow_unused": True}
    batched = torch.autograd.grad(loss, given, upstream, is_grads_batched=True, **options)
    for i, one in enumerate(upstream):
        for many, single in zip(
            batched, torch.autograd.grad(loss, given, one, **options), strict=True
        ):
            if single is not None:
                torch.testing.assert_close(many[i], single)
