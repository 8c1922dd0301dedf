"""The operators of linear_bernoulli_loss: transforms, schemas, fake kernels, torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from elbokit.torch import linear_bernoulli_loss
from linear_bernoulli_cases import REDUCTIONS, operands, tracked
from torch_cases import draw

# Of torch's own making, as in test_torch_ops.py.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # one call per item
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_func_grad_and_vmap(reduction: str) -> None:
    hidden, weight, bias, target = operands(4, 3, 6, grad=False)
    assert bias is not None

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        return linear_bernoulli_loss(hidden, weight, bias, target, reduction=reduction).sum()

    leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
    expected = torch.autograd.grad(loss(*leaves, target), leaves)
    grads = torch.func.grad(loss, argnums=(0, 1, 2))(hidden, weight, bias, target)
    torch.testing.assert_close(grads, expected)
    # One layer for each of two models.
    two = [torch.stack([t, 2 * t]) for t in (weight, bias)]
    together = torch.func.vmap(torch.func.grad(loss, argnums=(1, 2)), in_dims=(None, 0, 0, None))(
        hidden, *two, target
    )
    for i in range(2):
        apart = torch.func.grad(loss, argnums=(1, 2))(hidden, *(t[i] for t in two), target)
        torch.testing.assert_close([g[i] for g in together], list(apart))
    values = torch.func.vmap(loss, in_dims=(None, 0, 0, None))(hidden, *two, target)
    torch.testing.assert_close(
        values, torch.stack([loss(hidden, *(t[i] for t in two), target) for i in range(2)])
    )


def calls() -> list[tuple[str, tuple[Any, ...]]]:
    f64, f32, bf16 = torch.float64, torch.float32, torch.bfloat16
    full, single = operands(4, 3, 6, grad=False), operands(4, 3, 6, f32, bias=False, grad=False)
    narrow = operands(4, 3, 6, bf16, grad=False)
    g = draw(4, seed=5)
    forward, backward = "linear_bernoulli_loss", "linear_bernoulli_loss_backward"
    return [
        (forward, (*full, f64, None, "batchmean", True, True, True)),
        (forward, (*full, f64, 4, "rows", False, False, False)),
        (forward, (*single, bf16, 4, "sum", True, False, False)),
        (forward, (*narrow, f32, 4, "sum", True, True, True)),
        (backward, (g, *full, f64, None, True, True, True)),
        (backward, (g.float(), *narrow, f32, 4, False, True, False)),
        (backward, (g.float(), *single, f32, 2, True, True, False)),
    ]


@pytest.mark.parametrize(("name", "arguments"), calls())
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    operator = getattr(torch.ops.elbokit, name).default
    torch.library.opcheck(operator, arguments)
    outputs = operator(*arguments)
    on_meta = operator(*(a.to("meta") if isinstance(a, Tensor) else a for a in arguments))
    for real, fake in zip(outputs, on_meta, strict=True):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_on_tensors_without_data(reduction: str) -> None:
    given: Any = [t if t is None else t.detach().to("meta") for t in operands(4, 3, 6)]
    leaves = [t.requires_grad_() for t in given[:3]]
    loss = linear_bernoulli_loss(*given, reduction=reduction)
    assert loss.shape == ((4,) if reduction == "none" else ())
    grads = torch.autograd.grad(loss.sum(), leaves)
    assert [g.shape for g in grads] == [t.shape for t in leaves]


def step(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    mean = linear_bernoulli_loss(torch.tanh(hidden), weight, bias, target)
    rows = linear_bernoulli_loss(hidden, 2 * weight, bias, target, reduction="none", chunk_size=4)
    return mean * rows.square().sum()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for n in (4, 6, 9)[: 1 if backend == "inductor" else 3]:
        given: Any = operands(n, 3, 7)
        results = []
        for function in (compiled, step):
            value = function(*given)
            results.append((value, *torch.autograd.grad(value, tracked(given))))
        torch.testing.assert_close(*results)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), step(*given))
    with torch.autocast("cpu", torch.bfloat16):
        given = operands(5, 3, 7, torch.float32)
        torch.testing.assert_close(compiled(*given), step(*given))


def test_one_compilation_serves_all_batch_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for n in (4, 6, 9):
        given: Any = operands(n, 3, 7)
        torch.autograd.backward(compiled(*given))
        counts.append(counter.frame_count)
    assert counts[0] > 0
    assert counts == counts[:1] * 3
