"""elbokit.torch.vae_loss: both terms, their combinations, free bits, beta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from elbokit.torch import (
    VAELoss,
    VAELossOutput,
    binary_cross_entropy_with_logits,
    gaussian_kl,
    vae_loss,
)
from torch_cases import (
    DTYPES,
    assert_as_good_as,
    assert_differentiable_backward_agrees,
    draw,
    reduce,
    targets,
    true_bernoulli,
    true_kl,
)

REDUCTIONS = ("none", "sum", "batchmean")
SIZES = ((1, 1, 1), (2, 3, 2), (3, 17, 5), (16, 15, 16), (252, 507, 17))


def operands(
    n: int = 5,
    d: int = 17,
    k: int = 3,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        (scale * draw(n, d, dtype=dtype)).requires_grad_(),
        targets(n, d, dtype=dtype),
        draw(n, k, seed=1, dtype=dtype, grad=True),
        draw(n, k, seed=2, dtype=dtype, grad=True),
    )


def plain(
    logits: torch.Tensor,
    target: torch.Tensor,
    mu: torch.Tensor,
    logvar: torch.Tensor,
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
    reduction: str = "batchmean",
) -> VAELossOutput:
    """Compute the same in torch's own operators."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    kl = 0.5 * (logvar.exp() + mu**2 - 1 - logvar)
    charged = kl.clamp(min=free_bits) if free_bits > 0 else kl
    terms = [reduce(x, reduction) for x in (each, kl, charged)]
    return VAELossOutput(terms[0] + beta * terms[2], *terms[:2])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_terms_at_every_cpu_level(
    cpu_level: str, dtype: torch.dtype, size: tuple[int, int, int]
) -> None:
    logits, target, mu, logvar = operands(*size, dtype=dtype)
    rtol = 16 * torch.finfo(dtype).eps
    for reduction in REDUCTIONS:
        out = vae_loss(logits, target, mu, logvar, reduction=reduction)
        reconstruction = reduce(true_bernoulli(logits, target), reduction)
        kl = reduce(true_kl(mu, logvar), reduction)
        torch.testing.assert_close(out.reconstruction.double(), reconstruction, rtol=rtol, atol=0)
        torch.testing.assert_close(out.kl.double(), kl, rtol=rtol, atol=rtol)
        assert out.loss.dtype == dtype
        assert torch.equal(out.loss, out.reconstruction + out.kl)


@pytest.mark.parametrize("options", [{}, {"beta": 0.3}, {"beta": 2.0, "free_bits": 0.4}])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_agrees_with_plain_torch(cpu_level: str, reduction: str, options: dict[str, Any]) -> None:
    given = operands()
    ours = vae_loss(*given, reduction=reduction, **options)
    theirs = plain(*given, reduction=reduction, **options)
    torch.testing.assert_close(ours, theirs)
    wanted = [x for x in given if x.requires_grad]
    for mine, yours in zip(ours, theirs, strict=True):
        upstream = torch.rand_like(mine)
        grads, expected = (
            torch.autograd.grad(x, wanted, upstream, retain_graph=True, allow_unused=True)
            for x in (mine, yours)
        )
        torch.testing.assert_close(grads, expected)


COMBINATIONS: dict[str, Callable[[VAELossOutput], torch.Tensor]] = {
    "loss": lambda o: o.loss,
    "reconstruction": lambda o: o.reconstruction,
    "kl": lambda o: o.kl,
    "the two by hand": lambda o: o.reconstruction + 0.5 * o.kl,
    "loss and kl": lambda o: 3 * o.loss - o.kl,
    "a function": lambda o: o.loss.exp() * o.kl + o.reconstruction.log(),
}


@pytest.mark.parametrize("free_bits", [0.0, 0.4])
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_combinations_of_the_outputs(combination: str, free_bits: float) -> None:
    combine = COMBINATIONS[combination]
    given = operands(scale=0.1)
    wanted = [x for x in given if x.requires_grad]
    grads, expected = (
        torch.autograd.grad(
            combine(function(*given, beta=0.7, free_bits=free_bits)), wanted, allow_unused=True
        )
        for function in (vae_loss, plain)
    )
    assert [g is None for g in grads] == [g is None for g in expected]
    torch.testing.assert_close(
        [g for g in grads if g is not None], [g for g in expected if g is not None]
    )


def test_equals_its_parts() -> None:
    logits, target, mu, logvar = operands()
    out = vae_loss(logits, target, mu, logvar)
    each = binary_cross_entropy_with_logits(logits, target, reduction="sum")
    torch.testing.assert_close(out.reconstruction, each / len(logits))
    torch.testing.assert_close(out.kl, gaussian_kl(mu, logvar))


def test_free_bits_charge_and_report() -> None:
    mu = torch.tensor([[0.1, 2.0]], dtype=torch.float64, requires_grad=True)
    logvar = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    logits, target = draw(1, 3), targets(1, 3)
    out = vae_loss(logits, target, mu, logvar, free_bits=0.5)
    torch.testing.assert_close(out.kl.item(), 0.1**2 / 2 + 2.0)
    torch.testing.assert_close((out.loss - out.reconstruction).item(), 0.5 + 2.0)
    (grad,) = torch.autograd.grad(out.loss, mu, retain_graph=True)
    assert grad.tolist() == [[0.0, 2.0]]
    (grad,) = torch.autograd.grad(out.kl, mu)
    assert grad.tolist() == [[0.1, 2.0]]


def test_beta_may_be_a_tensor() -> None:
    given = operands()
    beta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    out = vae_loss(*given, beta=beta)
    assert torch.equal(out.loss, vae_loss(*given, beta=0.3).loss)
    (grad,) = torch.autograd.grad(out.loss, beta)
    torch.testing.assert_close(grad, out.kl)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("tracked", [(), (0,), (1,), (2,), (3,), (0, 1), (2, 3), (1, 3)])
def test_terms_without_tracked_operands_require_no_gradient(
    tracked: tuple[int, ...], compiled: bool
) -> None:
    given = [x.detach().requires_grad_(i in tracked) for i, x in enumerate(operands())]
    function: Any = vae_loss
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(vae_loss, fullgraph=True, backend="aot_eager")
    out, expected = function(*given), plain(*given)  # type: ignore[arg-type]
    assert [x.requires_grad for x in out] == [x.requires_grad for x in expected]
    wanted = [given[i] for i in tracked]
    if wanted:
        grads = [torch.autograd.grad(o.loss, wanted) for o in (out, expected)]
        torch.testing.assert_close(*grads)


def test_terms_of_operands_tracked_at_different_levels() -> None:
    """What the inner transform does not track, the outer one still does."""
    logits, target, mu, logvar = (x.detach() for x in operands())

    def value(logits: torch.Tensor) -> torch.Tensor:
        def inner(mu: torch.Tensor) -> torch.Tensor:
            return vae_loss(2 * logits, target, mu, logvar).loss

        result: torch.Tensor = torch.func.grad_and_value(inner)(mu)[1]
        return result

    expected = torch.func.grad(lambda x: plain(2 * x, target, mu, logvar).loss)(logits)
    torch.testing.assert_close(torch.func.grad(value)(logits), expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("free_bits", [0.0, 0.6])
def test_gradients_of_any_order(free_bits: float, reduction: str) -> None:
    logits, target, mu, logvar = operands(3, 4, 2)
    target = target.mul(0.8).add(0.1).requires_grad_()

    def function(*x: Any) -> VAELossOutput:
        return vae_loss(*x, beta=0.7, free_bits=free_bits, reduction=reduction)

    given = logits, target, mu, logvar
    floored = true_kl(mu, logvar) < free_bits
    assert floored.any() == (free_bits > 0)
    assert not floored.all()
    assert gradcheck(function, given)
    assert gradgradcheck(function, given)
    for output, wanted in zip(function(*given), (given, given[:2], given[2:]), strict=True):
        assert_differentiable_backward_agrees(output, wanted)


@pytest.mark.parametrize(
    ("n", "event", "k"), [(0, (3,), 2), (3, (0,), 2), (3, (2,), 0), (4, (), 2)]
)
def test_empty_and_odd_shapes(n: int, event: tuple[int, ...], k: int) -> None:
    logits, target = draw(n, *event, grad=True), targets(n, *event)
    mu, logvar = draw(n, k, seed=1, grad=True), draw(n, k, seed=2, grad=True)
    for reduction in REDUCTIONS:
        options: dict[str, Any] = {"reduction": reduction, "free_bits": 0.3}
        ours = vae_loss(logits, target, mu, logvar, **options)
        theirs = plain(logits, target, mu, logvar, **options)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        grads = torch.autograd.grad(ours.loss.sum(), (logits, mu, logvar))
        expected = torch.autograd.grad(theirs.loss.sum(), (logits, mu, logvar))
        torch.testing.assert_close(grads, expected)


def test_images_and_spatial_latents() -> None:
    logits, target = draw(3, 1, 8, 8, grad=True), targets(3, 1, 8, 8)
    mu, logvar = draw(3, 4, 2, 2, seed=1, grad=True), draw(3, 4, 2, 2, seed=2, grad=True)
    ours, theirs = (f(logits, target, mu, logvar) for f in (vae_loss, plain))
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(o.loss, (logits, mu, logvar)) for o in (ours, theirs)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_away_parameters(cpu_level: str, dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=dtype)
    mu = torch.tensor([[0.0], [1e4]], dtype=dtype, requires_grad=True)
    logvar = torch.tensor([[-80.0], [80.0]], dtype=dtype, requires_grad=True)
    out = vae_loss(logits, target, mu, logvar, reduction="none")
    assert out.reconstruction.tolist() == [0.0, 2e4]
    truth = true_kl(mu.detach(), logvar.detach())[:, 0]
    torch.testing.assert_close(out.kl.double(), truth, rtol=2e-6, atol=0)
    grads = torch.autograd.grad(out.loss.sum(), (logits, mu, logvar))
    assert grads[0].tolist() == [[0.0, 0.0], [-1.0, 1.0]]
    assert grads[1].tolist() == [[0.0], [1e4]]
    assert grads[2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_torch(dtype: torch.dtype) -> None:
    given = operands(9, 33, 5, dtype=dtype)
    wanted = (given[0], given[2], given[3])
    truth = plain(*(x.detach().double() for x in given), reduction="none")
    ours, theirs = (f(*given, reduction="none") for f in (vae_loss, plain))
    for mine, yours, right in zip(ours, theirs, truth, strict=True):
        assert mine.dtype == torch.float32
        assert_as_good_as(mine, yours, right, rtol=2e-6)
    grads = torch.autograd.grad(ours.loss.sum(), wanted)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in given]
    exact_loss = plain(*exact, reduction="sum").loss
    slopes = torch.autograd.grad(exact_loss, [x for x in exact if x.requires_grad])
    their_grads = torch.autograd.grad(theirs.loss.sum(), wanted)
    for grad, their_grad, slope in zip(grads, their_grads, slopes, strict=True):
        assert grad.dtype == dtype
        half_ulp = torch.finfo(dtype).eps / 2
        assert_as_good_as(grad, their_grad, slope, rtol=1.001 * half_ulp, atol=1e-7)


@pytest.mark.parametrize("size", [(252, 507, 17), (1, 100_003, 5), (3, 9, 40_001)])
def test_same_bits_for_any_number_of_threads(
    restore_threads: None, size: tuple[int, int, int]
) -> None:
    from elbokit import set_num_threads

    given = operands(*size, dtype=torch.float32)
    torch.testing.assert_close(vae_loss(*given), plain(*given))
    results = []
    for n in (1, 2, 2):
        set_num_threads(n)
        out = vae_loss(*given)
        grads = torch.autograd.grad(out.loss, [x for x in given if x.requires_grad])
        results.append([*out, *grads])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_module() -> None:
    given = operands()
    module = VAELoss(beta=0.5, free_bits=0.1, reduction="sum")
    expected = vae_loss(*given, beta=0.5, free_bits=0.1, reduction="sum")
    assert all(torch.equal(a, b) for a, b in zip(module(*given), expected, strict=True))
    assert repr(module) == "VAELoss(beta=0.5, free_bits=0.1, reduction='sum')"
    options = {"capacity": 0.3, "target_scale": 0.5, "logvar_range": (-2.0, None)}
    tensors = {"weight": torch.rand(len(given[0]), dtype=given[0].dtype), "prior_mu": given[2] + 1}
    module = VAELoss(beta=0.5, **options)
    expected = vae_loss(*given, beta=0.5, **options, **tensors)
    assert all(torch.equal(a, b) for a, b in zip(module(*given, **tensors), expected, strict=True))
    assert "capacity=0.3, target_scale=0.5, logvar_range=(-2.0, None)" in repr(module)
    with pytest.raises(ValueError, match="`capacity` is -1"):
        VAELoss(capacity=-1.0)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_per_sample_gradients_by_vmap() -> None:
    logits, target, mu, logvar = (x.detach() for x in operands())

    def loss(*sample: torch.Tensor) -> torch.Tensor:
        return vae_loss(*(x[None] for x in sample)).loss

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 2)))(logits, target, mu, logvar)
    logits.requires_grad_()
    mu.requires_grad_()
    total = vae_loss(logits, target, mu, logvar, reduction="sum").loss
    torch.testing.assert_close(grads, torch.autograd.grad(total, (logits, mu)))
