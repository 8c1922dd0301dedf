"""The short way of a plain VAE loss, through the core alone: the same numbers, or the long way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from elbokit import _core
from elbokit.torch import VAELossOutput, _vae_loss, vae_loss
from torch_cases import tells_of_hooks

Operands = tuple[Tensor, Tensor, Tensor, Tensor]


def operands(
    n: int = 5, event: tuple[int, ...] = (7,), latent: tuple[int, ...] = (3,), dtype=torch.float32
) -> Operands:
    generator = torch.Generator().manual_seed(n)
    x, mu, logvar = (
        torch.randn(n, *shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in (event, latent, latent)
    )
    return x, torch.rand(n, *event, generator=generator, dtype=dtype), mu, logvar


def grads(output: VAELossOutput, given: Operands, pick: Callable[..., Tensor]) -> list[Tensor]:
    leaves = [t for t in given if t.requires_grad]
    return list(torch.autograd.grad(pick(*output), leaves, allow_unused=True))


ORDER = ("prior_mu", "prior_logvar", "mask", "weight", "target_scale", "beta", "free_bits",
         "reduction")  # fmt: skip
USUAL = {"target_scale": 1.0, "beta": 1.0, "free_bits": 0.0, "reduction": "batchmean"}


def by_core(given: Sequence[Any], **options: Any) -> Any:
    chosen = {**USUAL, **options}
    enabled = torch.is_grad_enabled()
    return _core.plain_vae_loss(*given, *(chosen.get(name) for name in ORDER), enabled)


def by_both(
    given: Operands,
    pick: Callable[..., Tensor] | None = None,
    same_bits: bool = True,
    **options: Any,
) -> None:
    """Compare the two ways bit for bit, and make sure that the short one was taken."""
    with mock.patch.object(_vae_loss, "plain_vae_terms", wraps=_vae_loss.plain_vae_terms) as way:
        short = vae_loss(*given, **options)
    assert way.called
    assert by_core(given, **options) is not None
    with (
        mock.patch.object(_vae_loss, "plain_vae_terms", return_value=None),
        mock.patch.object(_core, "plain_vae_parts", return_value=None) as parts,
    ):
        long = vae_loss(*given, **options)
    assert parts.called
    for a, b in zip(short, long, strict=True):
        assert a.dtype == b.dtype
        assert a.requires_grad == b.requires_grad
        assert torch.equal(a, b)
    if pick is not None:
        given = (*given, *(t for t in options.values() if isinstance(t, Tensor)))
        for a, b in zip(grads(short, given, pick), grads(long, given, pick), strict=True):
            assert (a is None) == (b is None)
            if not same_bits:
                torch.testing.assert_close(a, b)
            else:
                assert b is None or torch.equal(a, b)


PICKS = {
    "loss": lambda loss, reconstruction, kl: loss,
    "scaled": lambda loss, reconstruction, kl: 2.5 * loss,
    "terms": lambda loss, reconstruction, kl: reconstruction + 3 * kl,
    "all": lambda loss, reconstruction, kl: loss + reconstruction - 0.5 * kl,
    "one term": lambda loss, reconstruction, kl: kl,
}


@pytest.mark.parametrize("pick", PICKS.values(), ids=PICKS.keys())
@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.3}, {"free_bits": 0.2, "reduction": "sum"}, {"beta": 2, "free_bits": 1}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits(
    cpu_level: str, dtype: torch.dtype, options: dict[str, object], pick: Callable[..., Tensor]
) -> None:
    for shape in ((1, (1,), (1,)), (5, (7,), (3,)), (33, (1, 4, 5), (2, 2)), (2, (), ())):
        # The long way multiplies by beta in its backward.
        by_both(operands(*shape, dtype=dtype), pick, "beta" not in options, **options)


@pytest.mark.parametrize("reduction", ["sum", "batchmean"])
@pytest.mark.parametrize(
    "options",
    [{"capacity": 2.0}, {"logvar_range": (-0.5, 0.5)}, {"beta": torch.tensor(0.5)}],
    ids=["capacity", "range", "beta of a tensor"],
)
def test_parts_in_the_core(cpu_level: str, options: dict[str, Any], reduction: str) -> None:
    """What the long way computes of plain operands, it computes in the core too: the same bits."""
    for shape in ((5, (7,), (3,)), (33, (1, 4, 5), (2, 2))):
        results = []
        for parts in (_core.plain_vae_parts, lambda *_: None):
            given = operands(*shape)
            with mock.patch.object(_core, "plain_vae_parts", side_effect=parts) as asked:
                output = vae_loss(*given, reduction=reduction, mask=given[1] > 0.3, **options)
            assert asked.called
            results.append((*output, *grads(output, given, PICKS["all"])))
        assert all(map(torch.equal, *results))


def of_rows(x: Tensor) -> Tensor:
    """Some number for each sample, of no gradient."""
    return x.detach().flatten(1)[:, 0].abs()


@pytest.mark.parametrize("pick", PICKS.values(), ids=PICKS.keys())
@pytest.mark.parametrize(
    "change",
    {
        "weights": lambda x, t, m: ((x, t), {"weight": of_rows(x)}),
        "mask": lambda x, t, m: ((x, t), {"mask": t > 0.3}),
        "mask of numbers": lambda x, t, m: ((x, t), {"mask": t.round(), "beta": 0.5}),
        "bytes": lambda x, t, m: ((x, (255 * t).byte()), {"target_scale": 1 / 255}),
        "bool": lambda x, t, m: ((x, t > 0.5), {"weight": of_rows(x), "mask": t > 0.3}),
        "scaled": lambda x, t, m: ((x, t), {"target_scale": 0.5}),
        "priors": lambda x, t, m: ((x, t), {"prior_mu": m, "prior_logvar": 0.3 * m}),
        "one prior": lambda x, t, m: (
            (x, t),
            {"prior_mu": m[0], "prior_logvar": m[0].square(), "weight": of_rows(x), "beta": 2.0},
        ),
        "fixed prior": lambda x, t, m: (
            (x, t),
            {"prior_mu": m.detach()[:1], "prior_logvar": m.detach()[:1], "free_bits": 0.2},
        ),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_operands(
    cpu_level: str,
    dtype: torch.dtype,
    change: tuple[str, Callable[..., Any]],
    pick: Callable[..., Tensor],
) -> None:
    name, changed = change
    for shape in ((1, (1,), (1,)), (33, (1, 4, 5), (2, 2)), (400, (130,), (21,))):
        x, t, mu, logvar = operands(*shape, dtype=dtype)
        prior = (0.7 * mu.roll(1, -1)).detach().requires_grad_()
        (x, t), options = changed(x, t, prior)
        options = {k: leaf(v) if "prior" in k else v for k, v in options.items()}
        same_bits = "prior" not in name and "beta" not in options
        by_both((x, t, mu, logvar), pick, same_bits, **options)


def leaf(t: Tensor) -> Tensor:
    return t.detach().clone().requires_grad_(t.requires_grad)


@tells_of_hooks
@pytest.mark.parametrize("pick", [PICKS["loss"], PICKS["scaled"]], ids=["loss", "scaled"])
def test_large_gradients_have_memory_of_the_pool(pick: Callable[..., Tensor]) -> None:
    given = operands(400, (784,), (64,))
    by_both(given, pick)
    before = _core.pooled_bytes()
    kept = grads(vae_loss(*given), given, pick)
    assert _core.pooled_bytes() < before
    del kept
    assert _core.pooled_bytes() == before


def test_without_gradients() -> None:
    given = operands()
    with torch.no_grad():
        by_both(given)
    by_both(tuple(t.detach() for t in given))


def test_parameters_and_inference_mode() -> None:
    x, t, mu, logvar = operands()
    parameter = nn.Parameter(mu.detach().clone())
    by_both((x, t, parameter, logvar), PICKS["loss"])
    with torch.inference_mode():
        by_both((x, t, mu, logvar))
    by_both((x, t, mu, logvar), PICKS["loss"])


def test_gradients_accumulate_and_are_the_callers_own() -> None:
    given = operands()
    (d_logits,) = torch.autograd.grad(vae_loss(*given).loss, given[0], retain_graph=True)
    output = vae_loss(*given).loss
    output.backward(retain_graph=True)
    given[0].grad.zero_()  # must not reach what the graph keeps
    output.backward()
    assert torch.equal(given[0].grad, d_logits)


def test_second_derivatives() -> None:
    given = operands(3, (4,), (2,), dtype=torch.float64)
    x, t, mu, logvar = given

    def loss(x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        return vae_loss(x, t, mu, logvar).loss

    assert torch.autograd.gradgradcheck(loss, (x, mu, logvar))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("latent", [1, 3, 16])
def test_halves_of_an_encoder(latent: int, n: int, dtype: torch.dtype) -> None:
    """What `chunk` gives has rows that lie apart."""
    x, t, mu, logvar = operands(n, (7,), (latent,), dtype)
    encoded = torch.cat([mu, logvar], 1).detach().requires_grad_()
    given = x, t, *encoded.chunk(2, 1)
    by_both(given)
    with torch.no_grad():
        by_both(given)
    tracked = x, encoded
    found = torch.autograd.grad(vae_loss(*given).loss, tracked)
    expected = torch.autograd.grad(vae_loss(x, t, mu, logvar).loss, (x, mu, logvar))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], torch.cat(expected[1:], 1))
    leaves = [half.detach().requires_grad_() for half in encoded.chunk(2, 1)]
    vae_loss(x, t, *leaves).loss.backward()
    assert all(leaf.grad is not None and leaf.grad.is_contiguous() for leaf in leaves)


def test_a_changed_operand_is_an_error() -> None:
    given = operands()
    output = vae_loss(given[0] * 1, *given[1:]).loss
    given[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


@pytest.mark.parametrize(
    "change",
    {
        "low precision": lambda x, t, m, v: (x.bfloat16(), t, m, v),
        "transposed": lambda x, t, m, v: (x.t().contiguous().t(), t, m, v),
        "transposed means": lambda x, t, m, v: (x, t, m.t().contiguous().t(), v),
        "repeated means": lambda x, t, m, v: (x, t, m[:1].expand(5, 3), v),
        "every other mean": lambda x, t, m, v: (x, t, m.repeat(1, 2)[:, ::2], v),
        "logits apart": lambda x, t, m, v: (x.repeat(1, 2)[:, :7], t, m, v),
        "images of means": lambda x, t, m, v: (x, t, m.repeat(1, 2)[:, :3, None], v[:, :, None]),
        "negative bit": lambda x, t, m, v: (torch._neg_view(x), t, m, v),
        "only some tracked": lambda x, t, m, v: (x.detach(), t, m, v),
        "tracked targets": lambda x, t, m, v: (x, t.requires_grad_(), m, v),
        "another class": lambda x, t, m, v: (x, t.as_subclass(nn.Buffer), m, v),
    }.items(),
    ids=lambda item: item[0],
)
def test_anything_else_goes_the_long_way(change: tuple[str, Callable[..., Operands]]) -> None:
    given = change[1](*operands())
    assert by_core(given) is None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.isfinite(vae_loss(*given).loss)


@pytest.mark.parametrize(
    "change",
    {
        "meta": lambda x: x.to("meta"),
        "sparse": lambda x: x.to_sparse(),
        "mkldnn": lambda x: x.to_mkldnn(),
        "empty": lambda x: x[:0],
        "nine dimensions": lambda x: x.view(5, *(1,) * 8, -1),
        "integers": lambda x: x.long(),
        "complex": lambda x: x.cfloat(),
        "list": lambda x: x.tolist(),
        "none": lambda x: None,
    }.items(),
    ids=lambda item: item[0],
)
def test_not_described(change: tuple[str, Callable[[Tensor], object]]) -> None:
    for i, operand in enumerate(operands()):
        given: list[object] = list(operands())
        given[i] = change[1](operand.detach())
        assert by_core(given) is None


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf, -1, 10**400, True, None, "1"])
def test_factors_that_have_to_be_looked_at(factor: object) -> None:
    given = operands()
    for name in ("beta", "free_bits", "target_scale"):
        assert by_core(given, **{name: factor}) is None
        assert by_core(given, **{name: torch.tensor(1.0)}) is None
    assert _core.plain_gaussian_kl(*given[2:], *(None,) * 3, factor, "batchmean", True) is None


@pytest.mark.parametrize(
    "options",
    {
        "one parameter alone": lambda t, m: {"prior_mu": m},
        "another dtype": lambda t, m: {"prior_mu": m.double(), "prior_logvar": m.double()},
        "a number": lambda t, m: {"prior_mu": m[0, 0], "prior_logvar": m[0, 0]},
        "two shapes": lambda t, m: {"prior_mu": m, "prior_logvar": m[0]},
        "of other rows": lambda t, m: {"prior_mu": m[1:], "prior_logvar": m[1:]},
        "rows repeated": lambda t, m: {
            "prior_mu": m[:1].expand(5, 3), "prior_logvar": m[:1].expand(5, 3)
        },
        "mask of a row": lambda t, m: {"mask": t[0] > 0.5},
        "mask of integers": lambda t, m: {"mask": (t > 0.5).long()},
        "tracked weights": lambda t, m: {"weight": m[:, 0].detach().clone().requires_grad_()},
        "weights of another dtype": lambda t, m: {"weight": t[:, 0].double()},
        "weights apart": lambda t, m: {"weight": t[:, 0]},
    }.items(),
    ids=lambda item: item[0],
)  # fmt: skip
def test_options_that_go_the_long_way(options: tuple[str, Callable[..., Any]]) -> None:
    given = operands()
    assert by_core(given, **options[1](given[1], given[2].detach())) is None


def test_errors_are_those_of_the_long_way() -> None:
    x, t, mu, logvar = operands()
    with pytest.raises(ValueError, match="`target` has shape"):
        vae_loss(x, t[:, 1:], mu, logvar)
    with pytest.raises(ValueError, match="`mu` has 4 samples"):
        vae_loss(x, t, mu[1:], logvar[1:])
    with pytest.raises(TypeError, match=r"`logits` must be a .*, got list"):
        vae_loss([1.0], t, mu, logvar)
    with pytest.raises(TypeError, match="`mu` has dtype"):
        vae_loss(x, t, mu.double(), logvar.double())
    with pytest.raises(ValueError, match="`logits` has shape"):
        vae_loss(x[0, 0], t[0, 0], mu, logvar)
