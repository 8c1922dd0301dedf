"""elbokit.torch.linear_bernoulli_loss against torch's linear layer and loss, in float64."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import elbokit.torch
from elbokit.torch import (
    LinearBernoulliLoss,
    _linear_bernoulli,
    _linear_blocks,
    linear_bernoulli_loss,
)
from elbokit.torch._cpu._linear_bernoulli import _BLOCK
from linear_bernoulli_cases import REDUCTIONS, operands, tracked, truth
from torch_cases import (
    DTYPES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    targets,
    true_bernoulli,
)


@pytest.fixture(params=["in blocks", "at once"], autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a `chunk_size`, few logits are computed at once: here some, or none."""
    if request.param == "in blocks":
        monkeypatch.setattr(_linear_bernoulli, "_FEW", 0)


# n_samples, n_hidden, n_features, chunk_size
SIZES = (
    (1, 1, 1, None),
    (3, 2, 15, 4),
    (5, 7, 17, 17),
    (4, 3, 16, 1),
    (70, 33, 517, 128),
    (6, 5, 9, 100),
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: tuple[int, ...], reduction: str, bias: bool
) -> None:
    *sizes, chunk_size = size
    given = operands(*sizes, dtype=dtype, bias=bias)
    loss = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=chunk_size)
    assert loss.dtype == dtype
    upstream = torch.ones_like(loss)
    if reduction == "none":
        upstream = draw(len(loss), seed=5, dtype=dtype)
    grads = torch.autograd.grad(loss, tracked(given), upstream)
    value, *slopes = truth(given, reduction, upstream)
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), value, rtol=tolerance, atol=0)
    for grad, slope in zip(grads, slopes, strict=True):
        assert grad.dtype == dtype
        scale = slope.abs().max().item()
        torch.testing.assert_close(grad.double(), slope, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_blocks_of_samples(monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    given = operands(23, 6, 40)
    whole = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=40)
    upstream = draw(*whole.shape, seed=5)
    expected = torch.autograd.grad(whole, tracked(given), upstream)
    monkeypatch.setattr(_linear_blocks, "_MAX_ROWS", 5)
    loss = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=7)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(torch.autograd.grad(loss, tracked(given), upstream), expected)


def test_no_default_block_exceeds_its_memory() -> None:
    layer = _linear_blocks._Layer
    for n, k, d in [(1, 3, 10**6), (128, 400, 10**5), (10**5, 4, 784), (0, 3, 5), (3, 2, 0)]:
        for dtype in (torch.float32, torch.bfloat16):
            empty = torch.empty((), dtype=dtype).expand
            hidden = torch.empty(()).expand(n, k)
            operands = hidden, empty(d, k), None, empty(n, d), torch.float32, _BLOCK
            rows, cols = layer(*operands).block(None)
            assert 1 <= rows <= max(n, 1)
            assert 1 <= cols <= max(d, 1)
            assert rows * cols <= _BLOCK
            if dtype == torch.bfloat16:  # weights converted a chunk at a time
                assert cols * k <= _BLOCK


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_only_what_needs_a_gradient_gets_one(
    monkeypatch: pytest.MonkeyPatch, reduction: str, which: int
) -> None:
    given = operands(5, 4, 9, grad=False)
    leaf = given[which]
    assert leaf is not None
    leaf.requires_grad_()
    wanted = []
    start = _linear_blocks._Sums.__init__

    def spy(self: Any, layer: Any, needs: tuple[bool, ...], scale: float) -> None:
        wanted.append(tuple(needs))
        start(self, layer, needs, scale)  # type: ignore[arg-type]

    monkeypatch.setattr(_linear_blocks._Sums, "__init__", spy)
    loss = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=5)
    upstream = torch.ones_like(loss)
    (grad,) = torch.autograd.grad(loss, leaf, upstream)
    torch.testing.assert_close(grad, truth(given, reduction, upstream)[1])
    with torch.no_grad():
        assert not linear_bernoulli_loss(*given, reduction=reduction, chunk_size=5).requires_grad
    one, none = tuple(i == which for i in range(3)), (False,) * 3
    assert wanted == [none, one, none] if reduction == "none" else wanted == [one, none]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_layouts(reduction: str) -> None:
    hidden, weight, bias, target = operands(6, 5, 21, grad=False)
    assert bias is not None
    strided = (
        hidden.t().contiguous().t(),
        torch.stack([weight, weight], 2).flatten(1)[:, ::2],
        torch.stack([bias, bias], 1)[:, 1],
        target.t().contiguous().t(),
    )
    results = []
    for given in ((hidden, weight, bias, target), strided):
        leaves = [t.clone() if t.is_contiguous() else t for t in given[:3]]
        for t in leaves:
            t.requires_grad_()
        kept = [t.detach().clone() for t in (*leaves, given[3])]
        loss = linear_bernoulli_loss(*leaves, given[3], reduction=reduction, chunk_size=8)
        results.append((loss, *torch.autograd.grad(loss.sum(), leaves)))
        assert all(torch.equal(a, b) for a, b in zip((*leaves, given[3]), kept, strict=True))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_binary_targets(dtype: torch.dtype) -> None:
    hidden, weight, bias, target = operands(6, 5, 21)
    binary = (target > 0.5).to(dtype)
    ours = linear_bernoulli_loss(hidden, weight, bias, binary, chunk_size=8)
    torch.testing.assert_close(
        ours, linear_bernoulli_loss(hidden, weight, bias, binary.double()), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size", [(0, 3, 5), (4, 3, 0), (4, 0, 5), (0, 0, 0)])
def test_empty(size: tuple[int, ...], reduction: str) -> None:
    given = operands(*size)
    loss = linear_bernoulli_loss(*given, reduction=reduction)
    value, *_ = truth(given, reduction, torch.ones_like(loss))
    torch.testing.assert_close(loss, value, equal_nan=True)
    for grad, leaf in zip(
        torch.autograd.grad(loss.sum(), tracked(given)), tracked(given), strict=True
    ):
        assert grad.shape == leaf.shape
        assert size == (4, 0, 5) or not grad.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype, reduction: str) -> None:
    given = operands(7, 30, 65, dtype=dtype)
    hidden, weight, bias, target = given
    loss = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=64)
    assert loss.dtype == torch.float32
    upstream = torch.ones_like(loss)
    value, *slopes = truth(given, reduction, upstream)
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=0)
    logits = F.linear(hidden, weight, bias)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    theirs = torch.autograd.grad(reduce(each, reduction).sum(), tracked(given))
    ours = torch.autograd.grad(loss.sum(), tracked(given))
    half_ulp = torch.finfo(dtype).eps / 2
    for a, b, slope in zip(ours, theirs, slopes, strict=True):
        assert a.dtype == dtype
        # What cancels in the products is wrong by float32's rounding of their terms.
        atol = 1e-6 * slope.abs().max().item() + torch.finfo(dtype).smallest_normal
        assert_as_good_as(a, b, slope, rtol=1.001 * half_ulp, atol=atol)


def test_mixed_low_precision() -> None:
    given = operands(5, 6, 11, dtype=torch.float32)
    hidden = given[0].detach().bfloat16().requires_grad_()
    loss = linear_bernoulli_loss(hidden, *given[1:])
    expected = linear_bernoulli_loss(hidden.float(), *given[1:])
    assert torch.equal(loss, expected)
    grads = torch.autograd.grad(loss, (hidden, given[1]))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, reduction: str) -> None:
    """The products are those of torch's layer under autocast; the loss is float32."""
    given = operands(6, 30, 70, dtype=torch.float32)
    hidden, weight, bias, target = given
    with torch.autocast("cpu", dtype):
        ours = linear_bernoulli_loss(*given, reduction=reduction, chunk_size=64)
        logits = F.linear(hidden, weight, bias)
        assert logits.dtype == dtype
    theirs = reduce(true_bernoulli(logits, target), reduction)
    assert ours.dtype == torch.float32
    rough = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.double(), theirs, rtol=rough, atol=0)
    upstream = torch.ones_like(ours)
    grads = torch.autograd.grad(ours, tracked(given), upstream)
    for grad, slope in zip(grads, truth(given, reduction, upstream)[1:], strict=True):
        assert grad.dtype == torch.float32
        atol = 4 * rough * slope.abs().max().item()
        torch.testing.assert_close(grad.double(), slope, rtol=0, atol=atol)


def test_autocast_leaves_float64_alone() -> None:
    given = operands(6, 30, 70)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_bernoulli_loss(*given)
    assert torch.equal(loss, linear_bernoulli_loss(*given))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_any_order(reduction: str, bias: bool) -> None:
    hidden, weight, b, target = operands(3, 2, 5, bias=bias)
    target = target.mul(0.8).add(0.1).requires_grad_()
    leaves = tracked((hidden, weight, b, target))

    def function(*tensors: Tensor) -> Tensor:
        *layer, target = tensors
        hidden, weight, b = layer if bias else (*layer, None)
        assert hidden is not None
        assert weight is not None
        return linear_bernoulli_loss(hidden, weight, b, target, reduction=reduction, chunk_size=2)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)
    # Without the target's, the gradients are those of the forward pass and of the backward op.
    assert gradcheck(lambda *layer: function(*layer, target.detach()), leaves[:-1])
    loss = function(*leaves[:-1], target.detach())
    assert_differentiable_backward_agrees(loss, leaves[:-1])


def test_saved_gradients_survive_their_users() -> None:
    given = operands(3, 4, 5)
    leaves = tracked(given)
    loss = linear_bernoulli_loss(*given)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    expected = [g.clone() for g in first]
    for g in first:
        g.zero_()
    torch.autograd.backward(loss, retain_graph=True)
    torch.autograd.backward(3 * loss)
    for leaf, grad in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, 4 * grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_in_a_checkpoint(reduction: str) -> None:
    given = operands(3, 4, 5)

    def loss(*tensors: Any) -> Tensor:
        return linear_bernoulli_loss(*tensors, reduction=reduction).sum()

    again = checkpoint(loss, *given, use_reentrant=False)
    expected = torch.autograd.grad(loss(*given), tracked(given))
    torch.testing.assert_close(torch.autograd.grad(again, tracked(given)), expected)


def test_module() -> None:
    torch.manual_seed(0)
    loss = LinearBernoulliLoss(5, 12, reduction="sum", chunk_size=7)
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 12)
    assert torch.equal(loss.weight, layer.weight)
    layer.load_state_dict(loss.state_dict())
    hidden, target = draw(3, 5, dtype=torch.float32), targets(3, 12, dtype=torch.float32)
    assert torch.equal(loss.logits(hidden), layer(hidden))
    expected = F.binary_cross_entropy_with_logits(layer(hidden), target, reduction="sum")
    torch.testing.assert_close(loss(hidden, target), expected)
    torch.autograd.backward((loss(hidden, target), expected))
    torch.testing.assert_close(loss.weight.grad, layer.weight.grad)
    torch.testing.assert_close(loss.bias.grad, layer.bias.grad)
    assert "in_features=5, out_features=12, bias=True, reduction='sum'" in repr(loss)
    without = LinearBernoulliLoss(5, 12, bias=False)
    assert list(without.state_dict()) == ["weight"]
    torch.testing.assert_close(
        without(hidden, target), linear_bernoulli_loss(hidden, without.weight, None, target)
    )


api: Any = elbokit.torch
H, W, B, T = torch.zeros(4, 3), torch.zeros(6, 3), torch.zeros(6), torch.zeros(4, 6)
ERRORS = {
    "array": (lambda: api.linear_bernoulli_loss(H.numpy(), W, B, T), TypeError,
        "`hidden` must be a torch.Tensor, got ndarray"),
    "integers": (lambda: api.linear_bernoulli_loss(H, W.long(), B, T), TypeError,
        "`weight` has dtype torch.int64, expected a floating-point dtype"),
    "mixed": (lambda: api.linear_bernoulli_loss(H, W, B.double(), T), TypeError,
        "`bias` has dtype torch.float64, expected torch.float32 to go with `hidden`"),
    "sparse": (lambda: api.linear_bernoulli_loss(H, W.to_sparse(), B, T), ValueError,
        "`weight` has layout torch.sparse_coo"),
    "hidden": (lambda: api.linear_bernoulli_loss(H[0], W, B, T), ValueError,
        "`hidden` has shape (3,), expected (n_samples, n_hidden)"),
    "weight": (lambda: api.linear_bernoulli_loss(H, W.t(), B, T), ValueError,
        "`weight` has shape (3, 6), expected (n_features, 3) to go with `hidden`"),
    "bias": (lambda: api.linear_bernoulli_loss(H, W, B[:1], T), ValueError,
        "`bias` has shape (1,), expected (6,)"),
    "target": (lambda: api.linear_bernoulli_loss(H, W, B, T.t()), ValueError,
        "`target` has shape (6, 4), expected (4, 6)"),
    "mean": (lambda: api.linear_bernoulli_loss(H, W, B, T, reduction="mean"), ValueError,
        "`reduction` is 'mean', expected one of none, sum, batchmean ('mean' over elements"),
    "chunk size": (lambda: api.linear_bernoulli_loss(H, W, B, T, chunk_size=0), ValueError,
        "`chunk_size` is 0, expected an int > 0"),
    "chunk type": (lambda: api.linear_bernoulli_loss(H, W, B, T, chunk_size=8.0), TypeError,
        "`chunk_size` has type float, expected an int"),
    "module size": (lambda: api.LinearBernoulliLoss(0, 6), ValueError, "`in_features` is 0"),
    "module reduction": (lambda: api.LinearBernoulliLoss(3, 6, reduction="rows"), ValueError,
        "`reduction` is 'rows'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_the_argument(case: str) -> None:
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=re.escape(message)):
        call()
