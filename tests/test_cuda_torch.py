"""elbokit.torch on a GPU's tensors: autograd, transforms, compilation, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import elbokit
from elbokit import _core, _cuda_library
from elbokit.torch import (
    VAE,
    VAELoss,
    VAELossOutput,
    VAEStatistics,
    _backends,
    _cpu,
    _cuda,
    binary_cross_entropy_with_logits,
    gaussian_kl,
    vae_loss,
)
from torch_cases import draw, reduce, targets, true_kl


def operands(
    device: torch.device, n: int = 5, d: int = 17, k: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, mu, logvar; the targets are not tracked."""
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    return (
        draw(n, d, dtype=dtype).to(device).requires_grad_(),
        targets(n, d, dtype=dtype).to(device),
        draw(n, k, seed=1, dtype=computed).to(device).requires_grad_(),
        draw(n, k, seed=2, dtype=computed).to(device).requires_grad_(),
    )


def plain(
    logits: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    beta: float = 1.0,
    reduction: str = "batchmean",
) -> VAELossOutput:
    """Compute the same in torch's own operators."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    terms = [reduce(x, reduction) for x in (each, 0.5 * (logvar.exp() + mu**2 - 1 - logvar))]
    return VAELossOutput(terms[0] + beta * terms[1], *terms)


def all_of(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """`operands` as of an autocast VAE, whose encoder's output is narrow too."""
    given = operands(device, dtype=dtype)
    return tuple(x.detach().to(dtype).requires_grad_(x.requires_grad) for x in given)


def tracked(given: tuple[Tensor, ...]) -> list[Tensor]:
    return [x for x in given if x.requires_grad]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_plain_losses_come_to_the_kernels(
    dispatched: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = mock.Mock(wraps=_cuda.vae_loss)
    monkeypatch.setattr(_cuda, "vae_loss", calls)
    given = operands(dispatched, dtype=dtype)
    vae_loss(*given).loss.backward()
    vae_loss(*(t.detach() for t in given))
    assert calls.call_count == 2


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize("upstream", [1.0, -2.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gradients(
    dispatched: torch.device, dtype: torch.dtype, upstream: float, beta: float, reduction: str
) -> None:
    given = all_of(dispatched, dtype)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in given]
    out = vae_loss(*given, beta=beta, reduction=reduction)
    right = plain(*exact, beta, reduction)  # type: ignore[misc]
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(dtype, 4e-3)
    torch.testing.assert_close(
        [o.double() for o in out], list(right), rtol=min(tolerance, 2e-6), atol=1e-12
    )
    grads, again, expected = (
        torch.autograd.grad(o.loss, x, torch.full_like(o.loss, upstream), retain_graph=keep)
        for o, x, keep in (
            (out, tracked(given), True),
            (out, tracked(given), False),
            (right, tracked(tuple(exact)), False),
        )
    )
    for grad, second, slope in zip(grads, again, expected, strict=True):
        assert torch.equal(grad, second)
        torch.testing.assert_close(grad.double(), slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_latents_are_read_as_they_are(
    dispatched: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = mock.Mock(wraps=_cuda.vae_loss)
    monkeypatch.setattr(_cuda, "vae_loss", calls)
    given = all_of(dispatched, dtype)
    vae_loss(*given).loss.backward()
    assert [x.dtype for x in calls.call_args.args[4:6]] == [dtype, dtype]
    assert [x.grad.dtype for x in tracked(given) if x.grad is not None] == [dtype] * 3
    vae_loss(*given, logvar_range=(-3.0, 3.0))
    vae_loss(*given, prior_mu=torch.ones((), device=dispatched))
    for call in calls.call_args_list[1:]:
        assert {x.dtype for x in call.args[4:8] if x is not None} == {torch.float32}


@pytest.mark.parametrize("free_bits", [0.0, 0.3])
def test_second_derivatives_of_narrow_latents(dispatched: torch.device, free_bits: float) -> None:
    given = all_of(dispatched, torch.bfloat16)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in given]
    found = []
    for each in (given, exact):
        leaves = tracked(tuple(each))
        loss = vae_loss(*each, beta=0.7, free_bits=free_bits).loss
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.double().square().sum() for g in first), leaves))
    for ours, right in zip(*found, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), right, rtol=2e-2, atol=2e-2 * right.abs().max())


LOSSES: dict[str, Callable[..., Tensor]] = {
    "vae_loss": lambda x: vae_loss(*x, beta=0.7).loss,
    "terms": lambda x: (lambda o: o.reconstruction.exp() * o.kl)(vae_loss(*x)),
    "capacity": lambda x: vae_loss(*x, capacity=2.0, beta=0.5).loss,
    "bernoulli": lambda x: binary_cross_entropy_with_logits(x[0], x[1]) + (x[2] * x[3]).sum(),
    "gaussian_kl": lambda x: gaussian_kl(x[2], x[3]) + x[0].sum(),
}


def saved_below(node: Any) -> list[Tensor]:
    """Return what the autograd functions of a graph saved."""
    if node is None:
        return []
    below = [x for next_node, _ in node.next_functions for x in saved_below(next_node)]
    return [*below, *(x for x in getattr(node, "saved_tensors", ()) if x is not None)]


@pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason="torch does not tell of hooks: gradients are copied",
)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_written_over_what_was_saved(dispatched: torch.device, name: str) -> None:
    """Only where the graph is not kept, and with the same bits."""
    given = operands(dispatched, 6, 33)
    inputs = {x.data_ptr() for x in given}
    results = []
    loss = LOSSES[name](given)
    packed = saved_below(loss.grad_fn)  # alive, so that no other tensor gets its memory
    saved = {x.data_ptr() for x in packed}
    for keep in (True, False):
        grads = torch.autograd.grad(loss, tracked(given), torch.tensor(3.0).to(loss), keep)
        addresses = {g.data_ptr() for g in grads}
        assert addresses.isdisjoint(inputs)
        assert addresses.isdisjoint(saved) == keep
        results.append([g.clone() for g in grads])
    for kept, freed in zip(*results, strict=True):
        assert torch.equal(kept, freed)


def test_batches_of_upstream_gradients(dispatched: torch.device) -> None:
    given = operands(dispatched)
    loss = vae_loss(*given, beta=0.7).loss
    upstream = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64, device=dispatched)
    wanted = tracked(given)
    batched = torch.autograd.grad(loss, wanted, upstream, is_grads_batched=True, retain_graph=True)
    for i, g in enumerate(upstream):
        single = torch.autograd.grad(loss, wanted, g, retain_graph=True)
        torch.testing.assert_close([b[i] for b in batched], list(single))


@pytest.mark.parametrize("reduction", ["batchmean", "none"])
def test_gradients_of_any_order(dispatched: torch.device, reduction: str) -> None:
    given = operands(dispatched, 3, 4, 2)

    def function(*x: Any) -> VAELossOutput:
        return vae_loss(*x, beta=0.7, free_bits=0.1, reduction=reduction)

    assert gradcheck(function, given)
    assert gradgradcheck(function, given)


def test_gradients_of_any_order_of_the_parts(dispatched: torch.device) -> None:
    logits, target, mu, logvar = operands(dispatched, 3, 4, 2)
    target = target.mul(0.8).add(0.1).requires_grad_()
    for reduction in ("none", "mean"):
        arguments = logits, target, None, reduction
        assert gradcheck(binary_cross_entropy_with_logits, arguments)
        assert gradgradcheck(binary_cross_entropy_with_logits, arguments)
    prior = tuple(draw(2, seed=s).to(dispatched).requires_grad_() for s in (3, 4))
    assert gradcheck(gaussian_kl, (mu, logvar, *prior))
    assert gradgradcheck(gaussian_kl, (mu, logvar, *prior))


def test_opcheck(dispatched: torch.device) -> None:
    logits, target, mu, logvar = operands(dispatched, dtype=torch.float32)
    kl = mu, logvar, None, None, None, 0.1, "batchmean"
    both = logits, target, None, None, mu, logvar, None, None
    one = torch.ones((), device=dispatched)
    calls: dict[str, tuple[Any, ...]] = {
        "vae_loss": (*both, 0.7, 1.0, 0.0, "batchmean", True, True, True),
        "bernoulli_loss": (logits, target, None, None, None, None, 1.0, "rows", True),
        "gaussian_kl": (*kl, True),
        "gaussian_kl_backward": (one, one, *kl, False),
    }
    for name, arguments in calls.items():
        detached = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        torch.library.opcheck(getattr(torch.ops.elbokit, name).default, tuple(detached))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_transforms(dispatched: torch.device) -> None:
    logits, target, mu, logvar = operands(dispatched)

    def loss(*x: Tensor) -> Tensor:
        return vae_loss(*x, reduction="sum").loss

    expected = torch.autograd.grad(loss(logits, target, mu, logvar), (logits, mu))
    detached = [x.detach() for x in (logits, target, mu, logvar)]
    whole = torch.func.grad(loss, argnums=(0, 2))(*detached)
    torch.testing.assert_close(whole, expected)

    def of_sample(*x: Tensor) -> Tensor:
        return loss(*(part[None] for part in x))

    each = torch.func.vmap(torch.func.grad(of_sample, argnums=(0, 2)))(*detached)
    torch.testing.assert_close(each, expected)


def test_autocast(dispatched: torch.device) -> None:
    logits, target, mu, logvar = operands(dispatched, dtype=torch.bfloat16)
    with torch.autocast(dispatched.type, torch.bfloat16):
        out = vae_loss(logits, target, mu, logvar)
        assert binary_cross_entropy_with_logits(logits, target).dtype == torch.float32
    assert out.loss.dtype == torch.float32
    (grad,) = torch.autograd.grad(3 * out.loss, logits)
    assert grad.dtype == torch.bfloat16
    right = plain(*(x.detach().double() for x in (logits, target, mu, logvar)))
    torch.testing.assert_close(out.loss.double(), right.loss, rtol=2e-6, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled(dispatched: torch.device) -> None:
    torch._dynamo.reset()

    def step(*x: Tensor) -> VAELossOutput:
        return vae_loss(*x, beta=0.7)

    given = operands(dispatched, dtype=torch.float32)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for function in (compiled, step):
        out = function(*given)
        results.append([*out, *torch.autograd.grad(3 * out.loss, tracked(given))])
    torch.testing.assert_close(*results)


def test_modules(dispatched: torch.device) -> None:
    given = operands(dispatched)
    out = VAELoss(beta=0.5, free_bits=0.1)(*given)
    for a, b in zip(out, vae_loss(*given, beta=0.5, free_bits=0.1), strict=True):
        assert torch.equal(a, b)
    torch.manual_seed(0)
    vae = VAE(17, 2, (5,)).to(dispatched).double()
    x = targets(9, 17).to(dispatched)
    generator = torch.Generator(dispatched).manual_seed(1)
    ours = vae.loss(x, beta=0.5, generator=generator)
    grads = torch.autograd.grad(ours.loss, list(vae.parameters()))
    passed = vae(x, generator=generator.manual_seed(1))
    expected = plain(passed.logits, x, passed.mu, passed.logvar, 0.5)
    torch.testing.assert_close(tuple(ours), tuple(expected))
    torch.testing.assert_close(grads, torch.autograd.grad(expected.loss, list(vae.parameters())))


def test_statistics(dispatched: torch.device) -> None:
    statistics = VAEStatistics()
    for shift in (0.0, 2.0):
        logits, target, mu, logvar = operands(dispatched)
        vae_loss(logits, target + shift, mu + shift, logvar, statistics=statistics)
    assert statistics.out_of_range.device == logits.device
    assert int(statistics.out_of_range) == target.numel()
    both = torch.cat([mu, mu + 2]).cpu(), torch.cat([logvar, logvar]).cpu()
    torch.testing.assert_close(statistics.kl_per_dimension.cpu(), true_kl(*both).mean(0))
    statistics.reset()
    assert int(statistics.out_of_range) == 0


@pytest.mark.parametrize(("n", "d", "k"), [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_empty_batches(dispatched: torch.device, n: int, d: int, k: int) -> None:
    for reduction in ("none", "sum", "batchmean"):
        given = operands(dispatched, n, d, k)
        ours, theirs = (f(*given, reduction=reduction) for f in (vae_loss, plain))
        torch.testing.assert_close(tuple(ours), tuple(theirs), equal_nan=True)
        sums = ours.loss.sum(), theirs.loss.sum()
        grads, expected = (torch.autograd.grad(s, tracked(given)) for s in sums)
        torch.testing.assert_close(grads, expected)


def test_channels_last(dispatched: torch.device) -> None:
    _, _, mu, logvar = operands(dispatched, 2)
    logits, target = (
        t.to(dispatched, memory_format=torch.channels_last)
        for t in (draw(2, 3, 4, 5), targets(2, 3, 4, 5))
    )
    logits.requires_grad_()
    given = logits, target, mu, logvar
    ours, theirs = (f(*given).loss for f in (vae_loss, plain))
    grads, expected = (torch.autograd.grad(3 * o, tracked(given)) for o in (ours, theirs))
    assert grads[0].stride() == logits.stride()
    torch.testing.assert_close(grads, expected)


def test_an_operator_without_a_kernel(
    dispatched: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_cuda, "gaussian_kl")
    _, _, mu, logvar = operands(dispatched)
    expected = rf"gaussian_kl was given tensors on device {mu.device}, expected CPU tensors"
    with pytest.raises(ValueError, match=expected):
        gaussian_kl(mu, logvar)
    with pytest.raises(ValueError, match=expected):
        torch.ops.elbokit.gaussian_kl(mu, logvar, None, None, None, 0.0, "sum", True)


class OnGPU(torch.Tensor):
    """A tensor that claims to be on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)


def test_a_build_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "elbokit._cuda", None)
    monkeypatch.delattr(elbokit, "_cuda", raising=False)
    monkeypatch.setattr(_core, "without_cuda", "there was no nvcc", raising=False)
    _cuda_library.cuda_kernels.cache_clear()
    x = torch.zeros(3, 2).as_subclass(OnGPU)
    with pytest.raises(RuntimeError, match=r"no CUDA kernels: .*nvcc.*ELBOKIT_CUDA=ON"):
        vae_loss(x, x, x, x)
    _cuda_library.cuda_kernels.cache_clear()


def test_each_device_has_its_implementation() -> None:
    if not _backends.on_cpu(torch.zeros(1)):
        pytest.skip("all tensors are emulated")
    for device, package in (("cpu", _cpu), ("meta", _cuda)):
        found = _backends.implementation("vae_loss", torch.zeros(1, device=device))
        assert found is package.vae_loss
