"""vae_loss: priors, weights, masks, capacity, limits of logvar, bytes, statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import VAEStatistics, vae_loss
from torch_cases import draw, reduce, targets, true_bernoulli, true_kl

REDUCTIONS = ("none", "sum", "batchmean")
N, D, K = 5, 37, 3


def operands(**kind: Any) -> tuple[torch.Tensor, ...]:
    mu, logvar = draw(N, K, seed=1, **kind), draw(N, K, seed=2, **kind)
    return draw(N, D, **kind), targets(N, D), mu, logvar


def grads_of(loss: torch.Tensor, wanted: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.autograd.grad(loss, wanted, torch.rand_like(loss))


def check(options: dict[str, Any], expected: Any, wanted: list[torch.Tensor], **kind: Any) -> None:
    """Compare values and gradients with those of an expression in torch, for every reduction."""
    for reduction in REDUCTIONS:
        given = operands(grad=True, **kind)
        ours = vae_loss(*given, reduction=reduction, **options)
        theirs = expected(*given, reduction)
        torch.testing.assert_close(ours.loss, theirs)
        leaves = [given[0], *given[2:], *wanted]
        torch.testing.assert_close(grads_of(ours.loss, leaves), grads_of(theirs, leaves))


def terms(
    logits: torch.Tensor, target: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor,
    m: Any = 0.0, s: Any = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Elementwise terms in torch's own operators."""
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    ratio = logvar - s
    precision = torch.exp(-s) if isinstance(s, torch.Tensor) else 1.0
    return each, 0.5 * (ratio.exp() - 1 - ratio + (mu - m) ** 2 * precision)


def test_learned_prior() -> None:
    m, s = draw(K, seed=3, grad=True), draw(N, K, seed=4, grad=True)

    def expected(*given: Any) -> torch.Tensor:
        each, kl = terms(*given[:4], m, s)
        return reduce(each, given[4]) + reduce(kl, given[4])

    check({"prior_mu": m, "prior_logvar": s}, expected, [m, s])


def test_weights() -> None:
    weight = draw(N, seed=5).exp().requires_grad_()

    def expected(*given: Any) -> torch.Tensor:
        each, kl = terms(*given[:4])
        by_row = weight[:, None]
        return reduce(each * by_row, given[4]) + 0.5 * reduce(kl * by_row, given[4])

    check({"weight": weight, "beta": 0.5}, expected, [weight])
    check({"weight": weight.detach(), "beta": 0.5}, expected, [])


def test_mask() -> None:
    mask = targets(N, D, seed=6) > 0.4

    def expected(*given: Any) -> torch.Tensor:
        each, kl = terms(*given[:4])
        return reduce(each * mask, given[4]) + reduce(kl, given[4])

    check({"mask": mask}, expected, [])
    row = mask[:1].float()
    given = operands(dtype=torch.float32)
    kept = vae_loss(*given[:1], given[1].float(), *given[2:], mask=row)
    whole = vae_loss(*given[:1], given[1].float(), *given[2:], mask=row.expand(N, D).contiguous())
    assert all(torch.equal(a, b) for a, b in zip(kept, whole, strict=True))


def test_a_mask_hides_nan_from_every_gradient() -> None:
    logits, target, mu, logvar = operands(grad=True)
    mask = targets(N, D, seed=6) > 0.4
    with torch.no_grad():
        logits[~mask] = torch.nan
    loss = vae_loss(logits, target, mu, logvar, mask=mask).loss
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    assert loss.isfinite()
    assert (first[~mask] == 0).all()
    (second,) = torch.autograd.grad(first.sum(), logits)
    assert (second[~mask] == 0).all()


@pytest.mark.parametrize("capacity", [1.0, 100.0, torch.tensor(2.0, dtype=torch.float64)])
@pytest.mark.parametrize("free_bits", [0.0, 0.4])
def test_capacity(capacity: Any, free_bits: float) -> None:
    def expected(*given: Any) -> torch.Tensor:
        each, kl = terms(*given[:4])
        kl = kl.clamp(min=free_bits) if free_bits else kl
        held = capacity * N if given[4] == "sum" else capacity
        return reduce(each, given[4]) + 3 * (reduce(kl, given[4]) - held).abs()

    check({"capacity": capacity, "beta": 3.0, "free_bits": free_bits}, expected, [])


@pytest.mark.parametrize("reduction", ["batchmean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, torch.zeros(0)])
def test_capacity_of_an_empty_batch(reduction: str, weight: Any) -> None:
    empty = torch.zeros(0, 3)
    options = {"reduction": reduction, "weight": weight}
    loss = vae_loss(empty, empty, empty, empty, capacity=1.0, **options).loss
    expected = vae_loss(empty, empty, empty, empty, **options).loss
    torch.testing.assert_close(loss, expected, equal_nan=True)


@pytest.mark.parametrize("name", ["beta", "capacity"])
def test_the_loss_has_the_dtype_of_its_operands(name: str) -> None:
    given = [x.float() for x in operands()]
    factor: Any = {name: torch.tensor(2.0, dtype=torch.float64)}
    assert vae_loss(*given, **factor).loss.dtype == torch.float32


def test_limits_of_logvar() -> None:
    def expected(*given: Any) -> torch.Tensor:
        each, kl = terms(*given[:3], given[3].clamp(-0.5, 0.7))
        return reduce(each, given[4]) + reduce(kl, given[4])

    check({"logvar_range": (-0.5, 0.7)}, expected, [])
    logits, target, mu, _ = operands(dtype=torch.float32)
    logvar = torch.tensor([-200.0, 200.0, 1.0]).expand(N, 3).clone().requires_grad_()
    out = vae_loss(logits, target.float(), mu, logvar, logvar_range=(-30.0, 20.0))
    (grad,) = torch.autograd.grad(out.loss, logvar)
    assert out.loss.isfinite()
    assert (grad[:, :2] == 0).all()
    assert (grad[:, 2] != 0).all()


def test_bytes_are_scaled_targets() -> None:
    logits, _, mu, logvar = operands(grad=True)
    target = torch.randint(0, 256, (N, D), dtype=torch.uint8)
    ours = vae_loss(logits, target, mu, logvar, target_scale=1 / 255)
    theirs = vae_loss(logits, target.double() / 255, mu, logvar)
    torch.testing.assert_close(ours, theirs)
    both = [torch.autograd.grad(o.loss, (logits, mu, logvar)) for o in (ours, theirs)]
    torch.testing.assert_close(*both)


def test_gradients_of_any_order() -> None:
    logits, target, mu, logvar = draw(3, 4), targets(3, 4), draw(3, 2, seed=1), draw(3, 2, seed=2)
    target = target.mul(0.8).add(0.1)
    weight, m, s = draw(3, seed=3).exp(), draw(2, seed=4), draw(3, 2, seed=5)
    mask = targets(3, 4, seed=6) > 0.4
    given = [x.requires_grad_() for x in (logits, target, mu, logvar, weight, m, s)]

    def function(*x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return vae_loss(
            *x[:4], weight=x[4], prior_mu=x[5], prior_logvar=x[6], mask=mask, beta=0.7,
            free_bits=0.2, target_scale=0.5, reduction="none",
        )  # fmt: skip

    assert gradcheck(function, given)
    assert gradgradcheck(function, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics(dtype: torch.dtype) -> None:
    statistics = VAEStatistics()
    given, everything = [], []
    for seed in range(3):
        n = 4 + seed
        mu = draw(n, K, seed=seed, dtype=dtype) * torch.tensor([1.0, 0.05, 0.0], dtype=dtype)
        target = targets(n, D, seed=seed).to(dtype)
        target[0, :2] = torch.tensor([-0.25, 1.5], dtype=dtype)
        mask = torch.ones(n, D, dtype=torch.bool)
        mask[0, 0] = False
        logvar = draw(n, K, seed=9 + seed, dtype=dtype)
        vae_loss(draw(n, D, dtype=dtype), target, mu, logvar, mask=mask, statistics=statistics)
        given.append(mu)
        everything.append(true_kl(mu, logvar))
    kl = torch.cat(everything)
    assert statistics.n_samples == len(kl) == 15
    torch.testing.assert_close(statistics.kl_per_dimension, kl.mean(0), rtol=1e-5, atol=1e-7)
    variance = torch.cat(given).double().var(0, unbiased=False)
    assert statistics.active_units() == (variance > 0.01).sum() == 1
    assert statistics.active_units(threshold=0.0) == 2
    assert statistics.out_of_range == 3
    statistics.reset()
    with pytest.raises(ValueError, match="no batch has been added"):
        statistics.active_units()


def test_statistics_change_no_value_and_no_gradient() -> None:
    results = []
    for statistics in (None, VAEStatistics()):
        given = operands(grad=True)
        out = vae_loss(*given, statistics=statistics)
        results.append((*out, *torch.autograd.grad(out.loss, [given[0], *given[2:]])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("layout", ["channels last", "padded", "transposed target"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_images_of_any_layout(layout: str, reduction: str) -> None:
    images = draw(4, 3, 5, 7), targets(4, 3, 5, 7)
    logits, target = (x.clone() for x in images)
    if layout == "channels last":
        logits, target = (x.contiguous(memory_format=torch.channels_last) for x in images)
    elif layout == "padded":
        logits = torch.zeros(4, 3, 5, 9, dtype=torch.float64)[..., 1:8].copy_(images[0])
    else:
        target = target.transpose(2, 3).contiguous().transpose(2, 3)
    logits.requires_grad_()
    mu, logvar = draw(4, 2, seed=1), draw(4, 2, seed=2)
    out = vae_loss(logits, target, mu, logvar, reduction=reduction)
    (grad,) = torch.autograd.grad(out.loss.sum(), logits)
    plain = images[0].clone().requires_grad_()
    expected = vae_loss(plain, images[1], mu, logvar, reduction=reduction)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.loss.sum(), plain)[0])
    if layout == "channels last":
        assert grad.stride() == logits.stride()


def test_reconstruction_of_low_precision_reads_it_in_place() -> None:
    logits, target, mu, logvar = operands(dtype=torch.float32)
    low = logits.bfloat16().requires_grad_(), target.to(torch.bfloat16), mu, logvar
    out = vae_loss(*low)
    exact = true_bernoulli(low[0], low[1]).sum() / N
    torch.testing.assert_close(out.reconstruction.double(), exact, rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(out.loss, low[0])
    assert grad.dtype == torch.bfloat16


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"weight": torch.ones(N, 1)}, ValueError, r"`weight` has shape \(5, 1\), expected \(5,\)"),
    ({"mask": torch.ones(D + 1)}, ValueError, "`mask` has shape"),
    ({"mask": torch.ones(D, dtype=torch.int64)}, TypeError, "`mask` has dtype torch.int64"),
    ({"prior_mu": torch.ones(K + 1)}, ValueError, "`prior_mu` has shape"),
    ({"capacity": -1.0}, ValueError, "`capacity` is -1.0"),
    ({"capacity": torch.ones(2)}, ValueError, r"`capacity` has shape \(2,\), expected \(\)"),
    ({"beta": None}, TypeError, "`beta` has type NoneType, expected a number"),
    ({"statistics": True}, TypeError, "`statistics` is True, expected a VAEStatistics"),
    ({"target_scale": -1.0}, ValueError, "`target_scale` is -1.0"),
    ({"logvar_range": 3.0}, TypeError, "`logvar_range` is 3.0, expected a pair"),
    ({"logvar_range": (1.0, -1.0)}, ValueError, "`logvar_range` is"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    given = [x.float() for x in operands()]
    with pytest.raises(error, match=message):
        vae_loss(*given, **options)  # type: ignore[arg-type]
