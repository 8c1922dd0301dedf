"""The short way of mixtures of plain tensors, through the core alone: the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from elbokit import _core
from elbokit.torch import _gmm, gmm_log_prob

KINDS = ("full", "tied", "diag", "spherical")


def operands(
    kind: str, n: int = 37, d: int = 3, k: int = 4, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + d + k)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype) + 0.5

    factors = {
        "full": lambda: (uniform(k, d, d) - 0.8).triu(1) + torch.diag_embed(uniform(k, d)),
        "tied": lambda: (uniform(d, d) - 0.8).triu(1) + torch.diag(uniform(d)),
        "diag": lambda: uniform(k, d),
        "spherical": lambda: uniform(k),
    }[kind]()
    made = [3 * (uniform(n, d) - 1), uniform(k) / k, 2 * (uniform(k, d) - 1), factors]
    return [t.requires_grad_() for t in made]


def the_long_way() -> Any:
    return mock.patch.object(_gmm, "_plain_gmm_log_prob", return_value=None)


def gradients(given: list[Tensor], kind: str, upstream: Callable[[Tensor], Tensor]) -> Any:
    log_prob = gmm_log_prob(*given, kind)
    leaves = [t for t in given if t.requires_grad]
    return log_prob, *torch.autograd.grad(upstream(log_prob), leaves)


def by_both(given: list[Tensor], kind: str, upstream: Callable[[Tensor], Tensor]) -> None:
    assert _core.plain_gmm_log_prob(*given, kind) is not None
    short = gradients(given, kind, upstream)
    with the_long_way():
        long = gradients(given, kind, upstream)
    assert short[0].requires_grad
    for a, b in zip(short, long, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits(cpu_level: str, kind: str, dtype: torch.dtype) -> None:
    for shape in ((1, 1, 1), (37, 3, 4), (300, 17, 9), (5000, 2, 5)):
        given = operands(kind, *shape, dtype=dtype)
        by_both(given, kind, torch.sum)
        by_both(
            given, kind, lambda log_prob: (log_prob * torch.arange(-2.0, len(log_prob) - 2)).sum()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_only_some_operands_tracked(kind: str) -> None:
    for kept in range(4):
        given = operands(kind)
        given = [t if i == kept else t.detach() for i, t in enumerate(given)]
        by_both(given, kind, torch.mean)
    with torch.no_grad():
        assert not gmm_log_prob(*operands(kind), kind).requires_grad


def test_rows_apart_and_parameters_of_modules() -> None:
    x, *parameters = operands("diag", d=6, n=20)
    halves = x.detach().repeat(1, 2).requires_grad_()
    given = [halves.chunk(2, 1)[0], *(nn.Parameter(t.detach()) for t in parameters)]
    by_both(given, "diag", torch.sum)


def test_second_derivatives_and_batches_of_upstream_gradients() -> None:
    given = operands("full", n=4, d=2, k=2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda *o: gmm_log_prob(*o, "full"), given)
    log_prob = gmm_log_prob(*given, "full")
    upstream = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = torch.autograd.grad(log_prob, given, upstream, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        one = torch.autograd.grad(log_prob, given, upstream[i], retain_graph=True)
        torch.testing.assert_close([g[i] for g in each], list(one))


def test_a_changed_operand_is_noticed() -> None:
    given = operands("diag")
    log_prob = gmm_log_prob(2 * given[0], *given[1:], "diag")
    with torch.no_grad():
        given[2].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        log_prob.sum().backward()


def test_so_near_the_means_that_squares_underflow() -> None:
    """Gradients of float32 operands are then those of float64, which the core is not asked for."""
    x, weights, means, factors = operands("diag")
    given = [x, weights, means, (factors.detach() * 2.0**51).requires_grad_()]
    assert _core.plain_gmm_gradient(torch.ones(37), *given, "diag", True, True) is None
    by_both(given, "diag", torch.sum)


@pytest.mark.parametrize(
    "change",
    {
        "low precision": lambda x, w, m, p: (x.bfloat16(), w, m, p),
        "two dtypes": lambda x, w, m, p: (x, w, m.double(), p),
        "batched": lambda x, w, m, p: (x[None], w, m, p),
        "batched means": lambda x, w, m, p: (x, w, m[None], p),
        "every other feature": lambda x, w, m, p: (x.repeat(1, 2)[:, ::2], w, m, p),
        "transposed means": lambda x, w, m, p: (x, w, m.t().contiguous().t(), p),
        "no rows": lambda x, w, m, p: (x[:0], w, m, p),
        "other components": lambda x, w, m, p: (x, w[1:], m, p),
        "other features": lambda x, w, m, p: (x[:, 1:], w, m, p),
        "list": lambda x, w, m, p: ([[1.0]], w, m, p),
    }.items(),
    ids=lambda item: item[0],
)
def test_anything_else_goes_the_long_way(change: tuple[str, Callable[..., Any]]) -> None:
    given = change[1](*operands("diag"))
    assert _core.plain_gmm_log_prob(*given, "diag") is None
    for kind in ("full", "nothing", None):
        assert _core.plain_gmm_log_prob(*operands("diag"), kind) is None


def test_negative_bits() -> None:
    given = operands("full")
    negative = [torch._neg_view(-t.detach()).requires_grad_() for t in given]
    assert _core.plain_gmm_log_prob(*negative, "full") is None
    upstream = torch.arange(37.0)
    one, other = (
        gradients(each, "full", lambda log_prob: (log_prob * upstream).sum())
        for each in (given, negative)
    )
    torch.testing.assert_close(one, other)
    log_prob = gmm_log_prob(*given, "full")
    (grad,) = torch.autograd.grad(log_prob, given[0], torch._neg_view(-upstream))
    torch.testing.assert_close(grad, one[1])


def test_a_covariance_type_that_is_no_text() -> None:
    with pytest.raises(ValueError, match="`covariance_type` is "):
        gmm_log_prob(*operands("full"), "\ud800")
