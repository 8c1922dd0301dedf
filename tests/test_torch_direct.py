"""The short way past the dispatcher, and the memory of large gradients."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elbokit import _core
from elbokit.torch import (
    bernoulli_loss,
    binary_cross_entropy_with_logits,
    cache_limit,
    categorical_loss,
    empty_cache,
    gaussian_kl,
    gaussian_loss,
    set_cache_limit,
    vae_loss,
)
from elbokit.torch._extension import without_extension
from torch_cases import draw, targets, tells_of_hooks


class Calls(TorchDispatchMode):
    """Everything has to go through the dispatcher; remembers what did."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operands() -> tuple[torch.Tensor, ...]:
    return (
        draw(6, 33, grad=True),
        targets(6, 33),
        draw(6, 3, seed=1, grad=True),
        draw(6, 3, seed=2, grad=True),
    )


LOSSES: dict[str, Any] = {
    "vae_loss": lambda x: vae_loss(*x).loss,
    "rows": lambda x: vae_loss(*x, free_bits=0.3, reduction="none").loss.sum(),
    "capacity": lambda x: vae_loss(*x, capacity=2.0).loss,
    "bernoulli_loss": lambda x: binary_cross_entropy_with_logits(x[0], x[1]) + (x[2] * x[3]).sum(),
    "gaussian_kl": lambda x: gaussian_kl(x[2], x[3]) + x[0].sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_short_way_gives_the_same_bits(name: str) -> None:
    results = []
    for mode in (None, Calls()):
        given = operands()
        if mode is None:
            loss = LOSSES[name](given)
        else:
            with mode:
                loss = LOSSES[name](given)
            assert any("elbokit" in call for call in mode.names)
        results.append((loss, *torch.autograd.grad(loss, [given[0], *given[2:]])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# The short way has beta in the gradients that it saves, the long way in its backward.
WITH_BETA = {**LOSSES, "vae_loss, beta": lambda x: vae_loss(*x, beta=0.7).loss}


@pytest.mark.parametrize("name", WITH_BETA)
def test_batches_of_upstream_gradients(name: str) -> None:
    given = operands()
    wanted = [given[0], *given[2:]]
    loss = WITH_BETA[name](given)
    upstream = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    batched = torch.autograd.grad(loss, wanted, upstream, is_grads_batched=True, retain_graph=True)
    for i, g in enumerate(upstream):
        single = torch.autograd.grad(loss, wanted, g, retain_graph=True)
        torch.testing.assert_close([b[i] for b in batched], list(single))


def test_saved_tensors_pass_their_hooks() -> None:
    packed: list[torch.Tensor] = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        packed.append(x)
        return x

    given = operands()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = vae_loss(*given).loss
    assert any(x is given[0] or x.data_ptr() == given[0].data_ptr() for x in packed)
    torch.autograd.grad(loss, given[0])


@pytest.fixture
def by_python() -> Iterator[None]:
    """Without the C++ extension, which keeps what it saves to itself."""
    with without_extension():
        yield


@tells_of_hooks
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("loss", [bernoulli_loss, categorical_loss, gaussian_kl, gaussian_loss])
def test_a_scaled_gradient_takes_the_place_of_the_saved_one(
    loss: Any, reduction: str, by_python: None
) -> None:
    """Only where the graph dies: another backward would read it."""
    x = draw(6, 5, grad=True)
    other = torch.arange(6) % 5 if loss is categorical_loss else targets(6, 5)
    value = loss(x, other, reduction=reduction)
    held = *value.grad_fn.saved_tensors, *(getattr(value.grad_fn, "gradients", None) or ())
    saved = {tensor.data_ptr() for tensor in held if tensor is not None}
    upstream = torch.full_like(value, 0.25)
    kept, again = (torch.autograd.grad(value, x, upstream, retain_graph=True)[0] for _ in range(2))
    assert kept.data_ptr() not in saved
    (last,) = torch.autograd.grad(value, x, upstream)
    assert last.data_ptr() in saved - {x.data_ptr(), other.data_ptr()}
    assert torch.equal(kept, again)
    assert torch.equal(kept, last)
    (plain,) = torch.autograd.grad(loss(x, other, reduction=reduction).sum(), x)
    torch.testing.assert_close(last, 0.25 * plain)


def test_a_changed_operand_is_noticed() -> None:
    logits, target, mu, logvar = operands()
    source = 2 * logits
    loss = vae_loss(source, target, mu, logvar).loss
    with torch.no_grad():
        source.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.fixture
def pool() -> Iterator[None]:
    limit = cache_limit()
    empty_cache()
    yield
    set_cache_limit(limit)
    empty_cache()


def step(n: int = 600) -> torch.Tensor:
    logits = torch.randn(n, 1000, requires_grad=True)
    mu = torch.zeros(n, 2)
    loss = vae_loss(logits, torch.rand(n, 1000), mu, mu).loss
    (grad,) = torch.autograd.grad(loss, logits)
    return grad


@tells_of_hooks
def test_large_gradients_take_the_memory_of_the_last_ones(pool: None) -> None:
    assert _core.pooled_bytes() == 0
    grad = step()
    address = grad.data_ptr()
    assert address % 64 == 0
    del grad
    gc.collect()
    held = _core.pooled_bytes()
    assert held >= 600 * 1000 * 4
    again = step()
    assert again.data_ptr() == address
    assert _core.pooled_bytes() == 0
    other = step()
    assert other.data_ptr() != address  # the first is still alive
    kept = again.clone()
    del other
    gc.collect()
    step()
    assert torch.equal(again, kept)


def test_the_cache_keeps_to_its_limit(pool: None) -> None:
    set_cache_limit(6 << 20)
    blocks = [step() for _ in range(3)]
    del blocks
    gc.collect()
    assert 0 < _core.pooled_bytes() <= 6 << 20
    empty_cache()
    assert _core.pooled_bytes() == 0
    assert cache_limit() == 6 << 20
    set_cache_limit(0)
    step()
    gc.collect()
    assert _core.pooled_bytes() == 0
    for bad, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="`n_bytes`"):
            set_cache_limit(bad)  # type: ignore[arg-type]


def _child(queue: Any) -> None:
    queue.put(float(step().abs().sum()))


def test_the_cache_serves_a_forked_child(pool: None) -> None:
    step()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    torch.set_num_threads(1)
    child.start()
    assert queue.get(timeout=60) > 0
    child.join(60)
    assert child.exitcode == 0
