"""What float16 cannot hold, what float32 cannot, empty statistics, other default devices, views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import elbokit.torch as et
from torch_cases import draw, targets

SCALE = 32768.0  # of a gradient scaler
N = 4096


def scaled_gradient(loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf) * SCALE, leaf)
    return grad


def small_gradients() -> dict[str, tuple[Any, torch.Tensor]]:
    """Losses of one operand whose gradients, divided by the batch size, float16 rounds to 0."""
    torch.manual_seed(0)
    logits, zero = torch.randn(N, 16) - 9, torch.zeros(N, 16)
    close, classes = 1e-4 * torch.randn(N, 16), torch.zeros(N, dtype=torch.int64)
    sure = torch.randn(N, 16)
    sure[:, 0] += 12
    latent = torch.zeros(N, 2)
    return {
        "binary_cross_entropy": (
            lambda x: et.binary_cross_entropy_with_logits(x, zero.to(x.dtype)), logits),
        "bernoulli_loss": (lambda x: et.bernoulli_loss(x, zero.to(x.dtype)), logits),
        "vae_loss": (
            lambda x: et.vae_loss(x, zero.to(x.dtype), latent.to(x.dtype), latent.to(x.dtype)).loss,
            logits),
        "gaussian_loss": (lambda x: et.gaussian_loss(x, zero.to(x.dtype)), close),
        "categorical_loss": (lambda x: et.categorical_loss(x, classes), sure),
        "multi_sample_loss": (
            lambda x: et.multi_sample_loss(
                x[None], zero.to(x.dtype), *(latent.to(x.dtype),) * 2, latent.to(x.dtype)[None]),
            logits),
    }  # fmt: skip


@pytest.mark.parametrize("name", small_gradients())
def test_small_gradients_survive_until_they_are_scaled(name: str) -> None:
    loss, x = small_gradients()[name]
    half = x.half()
    exact = scaled_gradient(loss, half.double())
    grad = scaled_gradient(loss, half)
    assert grad.dtype == torch.float16
    error = (grad.double() - exact).abs().sum() / exact.abs().sum()
    assert error < 1e-3


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_float16() -> None:
    torch._dynamo.reset()
    loss, x = small_gradients()["bernoulli_loss"]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(scaled_gradient(compiled, x.half()), scaled_gradient(loss, x.half()))


@pytest.mark.parametrize("given", ["autocast", "half operands"])
def test_wide_layers_in_float16_do_not_overflow(given: str) -> None:
    hidden = torch.full((N, 8), 50.0)
    weight, target = torch.zeros(20, 8), torch.zeros(N, 20)
    if given == "half operands":
        hidden, weight = hidden.half(), weight.half()
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16, enabled=given == "autocast"):
        loss = et.linear_bernoulli_loss(hidden, weight, None, target)
    grad_hidden, grad_weight = torch.autograd.grad(loss, (hidden, weight))
    assert (grad_weight == 25).all()
    assert (grad_hidden == 0).all()


Z = torch.zeros(5, 1)
BEYOND: dict[str, Callable[[], torch.Tensor]] = {
    "gaussian_kl": lambda: et.gaussian_kl(Z, Z + 88.7, reduction="sum"),
    "gaussian_loss": lambda: et.gaussian_loss(Z + 1, Z, Z - 88.0, reduction="sum"),
    "categorical_loss": lambda: et.categorical_loss(
        torch.tensor([[2e38, -1e38, 0.0]] * 5), torch.ones(5, dtype=torch.int64), reduction="sum"
    ),
    "multi_sample_loss": lambda: et.multi_sample_loss(
        torch.full((1, 5, 1), 3e38), Z, Z, Z, Z[None], reduction="sum"
    ),
    "bernoulli_loss": lambda: et.bernoulli_loss(torch.full((5, 1), 3e38), Z, reduction="sum"),
    "vae_loss": lambda: et.vae_loss(torch.full((5, 1), 3e38), Z, Z, Z, reduction="sum").loss,
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_loss_beyond_float32_is_infinite(name: str) -> None:
    assert BEYOND[name]() == torch.inf


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1), (1, 5), (3, 5)])
@pytest.mark.parametrize("event", [(), (5,)])
def test_masks_of_classes_broadcast(shape: tuple[int, ...], event: tuple[int, ...]) -> None:
    if len(shape) > 1 + len(event) or (shape[-1:] == (5,) and not event):
        pytest.skip("does not broadcast")
    logits = draw(3, 4, *event)
    target = torch.arange(3 * (5 if event else 1)).reshape(3, *event) % 4
    mask = torch.ones(shape, dtype=torch.bool)
    expected = et.categorical_loss(logits, target)
    assert torch.equal(et.categorical_loss(logits, target, mask=mask), expected)
    assert et.categorical_loss(logits, target, mask=~mask) == 0


def test_statistics_of_empty_operands() -> None:
    zeros = torch.zeros
    statistics = et.VAEStatistics()
    for n in (4, 0):
        given = zeros(n, 3), zeros(n, 3), zeros(n, 2), zeros(n, 2)
        et.vae_loss(*given, statistics=statistics)
    assert statistics.n_samples == 4
    assert statistics.kl_per_dimension.tolist() == [0.0, 0.0]
    statistics = et.VAEStatistics()
    et.vae_loss(zeros(4, 0), zeros(4, 0), zeros(4, 2) + 1, zeros(4, 2), statistics=statistics)
    assert statistics.kl_per_dimension.tolist() == [0.5, 0.5]
    statistics = et.VAEStatistics()
    et.vae_loss(zeros(4, 3), zeros(4, 3) + 5, zeros(4, 0), zeros(4, 0), statistics=statistics)
    assert statistics.out_of_range == 12
    with pytest.raises(ValueError, match="the batch has 2 latent dimensions, expected 0"):
        et.vae_loss(*(zeros(4, 2),) * 4, statistics=statistics)


def test_operands_decide_the_device() -> None:
    logits, target, mu = draw(4, 5, grad=True), targets(4, 5), draw(4, 2, seed=1, grad=True)
    scale = torch.eye(2, dtype=torch.float64).expand(4, 2, 2)
    classes, z = torch.zeros(4, dtype=torch.int64), draw(3, 4, 2, seed=2)
    layer, words = draw(7, 5), targets(4, 7)
    statistics = et.VAEStatistics()
    with torch.device("meta"):
        terms = [
            et.bernoulli_loss(logits, target, reduction="none").sum(),
            et.binary_cross_entropy_with_logits(logits, target),
            et.gaussian_loss(logits, target, mu.sum()),
            et.categorical_loss(logits, classes),
            et.gaussian_kl(mu, mu),
            et.gaussian_kl_full(mu, scale),
            et.multi_sample_loss(logits.expand(3, 4, 5), target, mu, mu, z),
            et.vae_loss(logits, target, mu, mu, statistics=statistics).loss,
            et.linear_bernoulli_loss(logits, layer, None, words),
            et.logsumexp(logits, 1).sum(),
        ]
        grads = torch.autograd.grad(sum(terms), (logits, mu))
    assert {x.device.type for x in (*terms, *grads)} == {"cpu"}
    assert statistics.kl_per_dimension.device.type == "cpu"
    assert all(g.isfinite().all() for g in grads)


def test_views_that_torch_negates_on_reading() -> None:
    x, t = draw(5, 3), targets(5, 3)
    weight = torch.conj(torch.complex(draw(5), draw(5, seed=1).exp())).imag
    assert weight.is_neg()
    plain = et.bernoulli_loss(x, t, weight=weight.resolve_neg())
    assert torch.equal(et.bernoulli_loss(x, t, weight=weight), plain)
    view = torch._neg_view(x)
    assert torch.equal(et.bernoulli_loss(view, t), et.bernoulli_loss(view.resolve_neg(), t))
    mu = draw(5, 2)
    loss = et.vae_loss(view, t, torch._neg_view(mu), mu).loss
    assert torch.equal(loss, et.vae_loss(-x, t, -mu, mu).loss)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(("low", "high"), [(None, 0.5), (-0.5, None), (None, None)])
def test_limits_of_one_side(low: float | None, high: float | None) -> None:
    x, other, mu = draw(7, 3), draw(7, 3, seed=1), draw(7, 2, seed=2)
    limits = low, high
    for loss in (
        lambda v, **range_: et.gaussian_kl(x, v, **range_),
        lambda v, **range_: et.gaussian_loss(x, other, v, **range_),
        lambda v, **range_: et.vae_loss(x, other.sigmoid(), mu, v[:, :2], **range_).loss,
    ):
        logvar = draw(7, 3, seed=3).requires_grad_()
        found = loss(logvar, logvar_range=limits)
        expected = loss(logvar if limits == (None, None) else logvar.clamp(low, high))
        torch.testing.assert_close(found, expected)
        grads = (torch.autograd.grad(value, logvar)[0] for value in (found, expected))
        torch.testing.assert_close(*grads)
    compiled = torch.compile(et.gaussian_kl, fullgraph=True, backend="aot_eager")
    compiled(x, other, logvar_range=limits)


def test_errors_name_the_argument() -> None:
    given = (torch.zeros(2, 3),) * 4
    with pytest.raises(TypeError, match="`logvar_range` is \\('0', 2\\), expected a pair"):
        et.vae_loss(*given, logvar_range=("0", 2))  # type: ignore[arg-type]
    limit = et.cache_limit()
    try:
        et.set_cache_limit(2**70)
    finally:
        et.set_cache_limit(limit)
