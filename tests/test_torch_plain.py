"""The short way of plain losses, through the core alone: the same numbers, or the long way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from elbokit import _core
from elbokit.torch import (
    bernoulli_loss,
    binary_cross_entropy_with_logits,
    categorical_loss,
    gaussian_kl,
    gaussian_loss,
)

Operands = tuple[Tensor, ...]
INFINITE = -math.inf, math.inf
SHAPES = ((1, 1), (5, 7), (33, 2, 4, 5), (2,), (400, 784))


def tracked(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def like(x: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)


class Case(NamedTuple):
    """A loss, its operands made of the first one, the core's function and what it is given."""

    loss: Callable[..., Tensor]
    operands: Callable[[Tensor], Operands]
    core: str
    options: tuple[Any, ...] = ()
    least_dims: int = 1
    reductions: Sequence[str] = ("batchmean", "sum")
    same_bits: bool = True  # of the gradients, which the long way may compute in its backward


def noise(*shape: int) -> Callable[[Tensor], Operands]:
    """Operands of `gaussian_loss`, with a tracked log-variance of `shape`."""
    return lambda x: (x, like(x), torch.full(shape, 0.3, dtype=x.dtype).requires_grad_())


def kl(*operands: Tensor | None, reduction: str = "batchmean", **options: Any) -> Tensor:
    return gaussian_kl(*operands[:4], reduction, weight=operands[4], **options)


def latent(
    prior: Callable[[Tensor], Tensor] | None, weighted: bool = False
) -> Callable[[Tensor], Operands]:
    """Operands of `kl`, with a prior made of the means."""

    def operands(x: Tensor) -> Operands:
        made: list[Tensor | None] = [x, (0.5 * x).detach().requires_grad_(), None, None]
        if prior is not None:
            made[2:] = [prior(s * x).detach().clone().requires_grad_() for s in (0.3, -0.2)]
        return *made, like(x).reshape(len(x), -1)[:, 0].clone() if weighted else None

    return operands


def classes(x: Tensor) -> Operands:
    shape = x.shape[:1] + x.shape[2:]
    return x, torch.randint(x.shape[1], shape, generator=torch.Generator().manual_seed(2))


CASES = {
    "gaussian_kl": Case(kl, latent(None), "gaussian_kl", (0.0,)),
    "gaussian_kl, weights": Case(kl, latent(None, True), "gaussian_kl", (0.0,)),
    "gaussian_kl, priors": Case(kl, latent(lambda x: x), "gaussian_kl", (0.0,), same_bits=False),
    "gaussian_kl, one prior": Case(
        kl, latent(lambda x: x[0], True), "gaussian_kl", (0.0,), same_bits=False
    ),
    "gaussian_kl, one prior, batched": Case(
        kl, latent(lambda x: x[:1]), "gaussian_kl", (0.0,), same_bits=False
    ),
    "bernoulli_loss": Case(bernoulli_loss, lambda x: (x, like(x)), "bernoulli_loss"),
    "binary_cross_entropy_with_logits": Case(
        binary_cross_entropy_with_logits,
        lambda x: (x, like(x)),
        "bernoulli_loss",
        reductions=("mean", "sum"),
    ),
    "gaussian_loss": Case(gaussian_loss, lambda x: (x, like(x), None), "gaussian_loss", INFINITE),
    "gaussian_loss, noise per element": Case(
        gaussian_loss,
        lambda x: (x, like(x), (0.4 * x).detach().requires_grad_()),
        "gaussian_loss",
        INFINITE,
    ),
    "gaussian_loss, a number": Case(gaussian_loss, noise(), "gaussian_loss", INFINITE),
    "gaussian_loss, one number": Case(gaussian_loss, noise(1), "gaussian_loss", INFINITE),
    "categorical_loss": Case(categorical_loss, classes, "categorical_loss", least_dims=2),
}


def by_core(case: Case, given: Sequence[Any], reduction: str, grad_enabled: bool = True) -> Any:
    return getattr(_core, f"plain_{case.core}")(*given, *case.options, reduction, grad_enabled)


def gradients(loss: Tensor, given: Sequence[Any]) -> list[Tensor]:
    tracked = [t for t in given if t is not None and t.requires_grad]
    return list(torch.autograd.grad(loss, tracked, allow_unused=True))


def the_long_way() -> Any:
    return mock.patch.multiple(
        _core, **{name: lambda *_: None for name in dir(_core) if name.startswith("plain_")}
    )


def by_both(
    case: Case, given: Operands, reduction: str, scale: float = 1.0, **options: object
) -> None:
    """Compare the two ways bit for bit, and make sure that the short one is taken."""
    name = f"plain_{case.core}"
    with mock.patch.object(_core, name, wraps=getattr(_core, name)) as way:
        short = case.loss(*given, reduction=reduction, **options)
    assert way.called
    assert by_core(case, given, reduction, torch.is_grad_enabled()) is not None
    with the_long_way():
        long = case.loss(*given, reduction=reduction, **options)
    assert short.dtype == long.dtype
    assert short.requires_grad == long.requires_grad
    assert torch.equal(short, long)
    if not short.requires_grad:
        return
    for a, b in zip(gradients(scale * short, given), gradients(scale * long, given), strict=True):
        assert (a is None) == (b is None)
        if not case.same_bits:
            torch.testing.assert_close(a, b)
        else:
            assert b is None or torch.equal(a, b)


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_bits(cpu_level: str, case: Case, dtype: torch.dtype, scale: float) -> None:
    for shape in SHAPES:
        if len(shape) < case.least_dims:
            continue
        for reduction in case.reductions:
            by_both(case, case.operands(tracked(*shape, dtype=dtype)), reduction, scale)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_without_gradients(case: Case) -> None:
    given = case.operands(tracked(5, 7))
    with torch.no_grad():
        by_both(case, given, "sum")
    with torch.inference_mode():
        by_both(case, given, "sum")
    by_both(case, tuple(None if t is None else t.detach() for t in given), "sum")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_only_some_operands_tracked(case: Case) -> None:
    given = case.operands(nn.Parameter(tracked(5, 7).detach()))
    by_both(case, given, "sum")
    for i, operand in enumerate(given):
        if i > 0 and operand is not None and operand.requires_grad:
            by_both(case, (*given[:i], operand.detach(), *given[i + 1 :]), "sum")
            by_both(case, (given[0].detach(), *given[1:]), "sum", 3.0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_second_derivatives(case: Case) -> None:
    given = case.operands(tracked(3, 4, dtype=torch.float64))
    tracked_ones = [t for t in given if t is not None and t.requires_grad]

    def loss(*changed: Tensor) -> Tensor:
        each = iter(changed)
        return case.loss(*(next(each) if t is not None and t.requires_grad else t for t in given))

    assert torch.autograd.gradgradcheck(loss, tracked_ones)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradients_accumulate_and_are_the_callers_own(case: Case) -> None:
    given = case.operands(tracked(5, 7))
    x = given[0]
    (expected,) = torch.autograd.grad(case.loss(*given), x)
    loss = case.loss(*given)
    loss.backward(retain_graph=True)
    x.grad.zero_()  # must not reach what the graph keeps
    loss.backward()
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_batched_upstream_gradients(case: Case) -> None:
    given = case.operands(tracked(5, 7))
    upstream = torch.tensor([1.0, -2.0, 0.5])
    loss = case.loss(*given)
    (each,) = torch.autograd.grad(loss, given[0], upstream, is_grads_batched=True)
    (one,) = torch.autograd.grad(case.loss(*given), given[0])
    torch.testing.assert_close(each, upstream.view(3, 1, 1) * one)


def test_log_variances_and_means_of_one_network() -> None:
    """What `chunk` gives has rows that lie apart."""
    both = tracked(9, 14)
    for name in ("gaussian_kl", "gaussian_loss, noise per element"):
        case = CASES[name]
        mean, logvar = both.chunk(2, 1)
        rest = (None,) * 3
        given = (mean, logvar, *rest) if case.loss is kl else (mean, like(mean), logvar)
        by_both(case, given, "sum")
        found = torch.autograd.grad(case.loss(*given), both)[0]
        parts = [half.detach().clone().requires_grad_() for half in (mean, logvar)]
        given = (*parts, *rest) if case.loss is kl else (parts[0], like(mean), parts[1])
        expected = torch.autograd.grad(case.loss(*given), parts)
        assert torch.equal(found, torch.cat(expected, 1))


@pytest.mark.parametrize("shape", [(3000, 70), (70, 5000), (1, 300)])
def test_one_prior_of_many_rows(shape: tuple[int, ...], restore_threads: None) -> None:
    """Its gradients are sums over the rows: as exact as those of few, whoever adds them up."""
    case = CASES["gaussian_kl, one prior"]
    given = case.operands(tracked(*shape))
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in given]
    expected = gradients(case.loss(*exact, reduction="sum"), exact)
    found = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        found.append(gradients(case.loss(*given, reduction="sum"), given))
    for one, two, three, truth in zip(*found, expected, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
        torch.testing.assert_close(one.double(), truth, rtol=1e-6, atol=3e-5)


def test_one_prior_of_halves() -> None:
    """A prior of two dimensions may lie in rows that are apart: not read as if it did not."""
    mu = tracked(5, 2, 3, dtype=torch.float64)
    row, half = like(tracked(2, 3)).double(), like(tracked(2, 6)).double().chunk(2, 1)[0]
    for prior in ((row, half), (half, row), (half, half)):
        exact = gaussian_kl(mu, 0.3 * mu, *(t.clone() for t in prior))
        assert torch.equal(gaussian_kl(mu, 0.3 * mu, *prior), exact)


def test_a_factor_of_any_size() -> None:
    x, logvar = (tracked(5, 7, dtype=torch.float64) for _ in range(2))
    for loss in (gaussian_kl(x, logvar, free_bits=10**30), kl(x, logvar, None, None, None)):
        assert torch.autograd.grad(loss, x, create_graph=True)[0].isfinite().all()


def test_options() -> None:
    by_both(CASES["gaussian_kl"], CASES["gaussian_kl"].operands(tracked(5, 7)), "sum",
            free_bits=0.2)  # fmt: skip
    case = CASES["gaussian_loss, noise per element"]
    by_both(case, case.operands(tracked(5, 7)), "sum", logvar_range=(-0.1, 0.2))


def test_tracked_targets_go_the_long_way() -> None:
    for name in ("bernoulli_loss", "gaussian_loss"):
        case = CASES[name]
        x, target, *rest = case.operands(tracked(5, 7))
        target.requires_grad_()
        assert by_core(case, (x, target, *rest), "sum") is None
        assert gradients(case.loss(x, target, *rest), (x, target))[1] is not None
        with torch.no_grad():
            assert by_core(case, (x, target, *rest), "sum", False) is not None


CHANGES = {
    "low precision": lambda t: t.bfloat16(),
    "transposed": lambda t: t.t().contiguous().t(),
    "every other": lambda t: t.repeat(1, 2)[:, ::2],
    "negative bit": torch._neg_view,
    "another class": lambda t: t.as_subclass(nn.Buffer),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_anything_else_goes_the_long_way(case: Case, change: Callable[[Tensor], Tensor]) -> None:
    given = case.operands(change(tracked(5, 7)))
    assert by_core(case, given, "sum") is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.isfinite(case.loss(*given))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_operands_that_do_not_fit(case: Case) -> None:
    given = case.operands(tracked(5, 7))
    assert by_core(case, given, "none") is None
    assert by_core(case, (given[0], given[1][1:], *given[2:]), "sum") is None
    assert by_core(case, (given[0][0, 0], given[1][0], *given[2:]), "sum") is None
    assert by_core(case, (given[0].double(), given[1].float(), *given[2:]), "sum") is None
    assert by_core(case, ([1.0], *given[1:]), "sum") is None
    assert by_core(case, (given[0][:0], given[1][:0], *given[2:]), "sum") is None


def test_categorical_targets() -> None:
    x, target = classes(tracked(5, 7))
    core = CASES["categorical_loss"]
    assert by_core(core, (x, target.int()), "sum") is None
    assert by_core(core, (x, target.repeat_interleave(2)[::2]), "sum") is None
    assert by_core(core, (x[:, 0], target[0]), "sum") is None
    target[3] = 7
    assert by_core(core, (x, target), "sum") is None
    with pytest.raises(ValueError, match=r"`target` holds 7 at position \(3,\)"):
        categorical_loss(x, target)


def test_what_is_one() -> None:
    one = torch.tensor(1.0)
    assert _core.is_one_tensor(one)
    assert _core.is_one_tensor(one.double())
    assert _core.is_one_tensor(one.expand(3)[1])
    near = torch.tensor(math.nextafter(1.0, 2.0), dtype=torch.float64)
    others: list[Any] = [near, torch.zeros(()), torch.ones(1), one.long(), one.bfloat16()]
    others += [one.to("meta"), torch._neg_view(one), one.to_sparse(), 1.0, None]
    assert not any(_core.is_one_tensor(other) for other in others)
