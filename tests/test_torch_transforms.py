"""Every loss under torch.func: against finite differences and the derivatives backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import hessian, jacfwd, jacrev, jvp, vmap

import elbokit.torch as et

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # Of torch's own decompositions, compiled at the first dual number.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

N, P, Z, K, S = 3, 4, 2, 2, 2


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return 0.2 + 0.6 * torch.rand(*shape, dtype=torch.float64)


def factor(*shape: int) -> Tensor:
    return torch.tril(0.3 * normal(*shape)) + torch.eye(shape[-1], dtype=torch.float64)


def cases() -> dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Functions of tensors that all are differentiated; the values are a batch's or rows'."""
    torch.manual_seed(0)
    classes, mask, target = torch.tensor([0, 3, 1]), torch.rand(N, P) > 0.3, uniform(N, P)
    latent = normal(N, Z), normal(N, Z)

    def vae(**options: object) -> Callable[..., Tensor]:
        # Weights and prior come last; the three terms are told apart.
        def terms(logits: Tensor, mu: Tensor, logvar: Tensor, *rest: Tensor) -> Tensor:
            named = dict(zip(("prior_mu", "weight"), rest, strict=False))
            return torch.stack(et.vae_loss(logits, target, mu, logvar, **named, **options))

        return terms

    return {
        "bernoulli": (
            lambda x, t, w: et.bernoulli_loss(x, t, weight=w, mask=mask, reduction="none"),
            (normal(N, P), uniform(N, P), uniform(N)),
        ),
        "bce": (et.binary_cross_entropy_with_logits, (normal(N, P), uniform(N, P), uniform(P))),
        "gaussian": (
            lambda m, t, v: et.gaussian_loss(m, t, v, reduction="none"),
            (normal(N, P), normal(N, P), normal(P)),
        ),
        "categorical": (lambda x: et.categorical_loss(x, classes), (normal(N, P),)),
        "kl": (
            lambda m, v, pm, pv: et.gaussian_kl(m, v, pm, pv, free_bits=0.1),
            (*latent, normal(Z), normal(Z)),
        ),
        "kl full": (et.gaussian_kl_full, (normal(N, Z), factor(N, Z, Z))),
        "vae": (vae(beta=0.5), (normal(N, P), *latent)),
        "vae rows": (vae(reduction="none"), (normal(N, P), *latent, normal(Z), uniform(N))),
        "vae capacity": (vae(capacity=0.3, free_bits=0.1), (normal(N, P), *latent)),
        "iwae": (
            lambda x, m, v, z: et.multi_sample_loss(x, target, m, v, z, reduction="none"),
            (normal(S, N, P), *latent, normal(S, N, Z)),
        ),
        "mixture": (
            lambda x, w, m, p: et.gmm_log_prob(x, w, m, p.mT),
            (normal(N, Z), uniform(K), normal(K, Z), factor(K, Z, Z)),
        ),
        "logsumexp": (lambda x: et.logsumexp(x, (0, 2)), (normal(N, P, Z),)),
        "linear": (
            lambda h, w, b: et.linear_bernoulli_loss(h, w, b, target),
            (normal(N, Z), normal(P, Z), normal(P)),
        ),
    }


@pytest.mark.parametrize("name", cases())
def test_finite_differences(name: str) -> None:
    function, operands = cases()[name]
    tracked = tuple(x.requires_grad_() for x in operands)
    assert torch.autograd.gradcheck(
        function, tracked, check_forward_ad=True, check_backward_ad=False
    )
    assert torch.autograd.gradgradcheck(function, tracked, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", cases())
def test_transforms(name: str) -> None:
    function, operands = cases()[name]
    for i, operand in enumerate(operands):

        def one(x: Tensor, i: int = i, function: Callable[..., Tensor] = function) -> Tensor:
            return function(*operands[:i], x, *operands[i + 1 :])

        def total(x: Tensor, one: Callable[..., Tensor] = one) -> Tensor:
            return one(x).cos().sum()

        backward = torch.autograd.functional.jacobian(one, operand)
        torch.testing.assert_close(jacfwd(one)(operand), backward)
        second = torch.autograd.functional.hessian(total, operand)
        torch.testing.assert_close(hessian(total)(operand), second)
        torch.testing.assert_close(jacrev(jacfwd(total))(operand), second)
        many = torch.stack([operand, operand.flip(0)])
        along = vmap(lambda x, v, one=one: jvp(one, (x,), (v,))[1])(many, many.cos())
        expected = [jvp(one, (x,), (x.cos(),))[1] for x in many]
        torch.testing.assert_close(along, torch.stack(expected))


def test_one_backward_of_dual_numbers() -> None:
    """A backward without ``create_graph`` may not hand out what the kernel kept: it is not dual."""
    logits, target = normal(N, P).requires_grad_(), uniform(N, P)
    along = normal(N, P)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits, along)
        loss = et.bernoulli_loss(dual, target)
        (grad,) = torch.autograd.grad(loss, logits)
        found = forward_ad.unpack_dual(grad).tangent
    slope = torch.sigmoid(logits.detach())
    torch.testing.assert_close(found, slope * (1 - slope) * along / N)


def test_twice_forward_is_refused() -> None:
    """Torch would give zeros: the tangent of a tangent is lost in any autograd function."""
    x, target = normal(N, P), uniform(N, P)
    with pytest.raises(NotImplementedError, match=r"take one of them backward, as torch\.func\.h"):
        jacfwd(jacfwd(lambda x: et.bernoulli_loss(x, target)))(x)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin:UserWarning")
@pytest.mark.parametrize("name", ["bernoulli", "vae", "logsumexp"])
def test_compiled_transforms(name: str) -> None:
    """Of a compiled transform the loss itself is left out: traced, it would lose its gradient."""
    function, (operand, *rest) = cases()[name]

    def slope(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: function(x, *rest).sum())(x)

    compiled = torch.compile(slope, backend="aot_eager")
    torch.testing.assert_close(compiled(operand), slope(operand))
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(slope, backend="aot_eager", fullgraph=True)(operand)
