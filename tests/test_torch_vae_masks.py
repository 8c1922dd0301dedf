"""VAE: missing elements, weighted samples, limits of log-variances."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from elbokit.torch import (
    VAE,
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiagonalPosterior,
    GaussianLikelihood,
    Likelihood,
    vae_loss,
)

N, D, K = 7, 6, 2
MASK = torch.rand(N, D, generator=torch.Generator().manual_seed(5)) < 0.6


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make(kind: str, **options: Any) -> VAE:
    torch.manual_seed(1)
    likelihoods: dict[str, Any] = {
        "bernoulli": "bernoulli",
        "fixed": GaussianLikelihood("fixed", 0.7),
        "learned": GaussianLikelihood("learned", -0.3),
        "decoder": GaussianLikelihood("decoder"),
        "categorical": "categorical",
    }
    classes = {"n_classes": 3} if kind == "categorical" else {}
    return VAE(D, K, (5,), likelihood=likelihoods[kind], **classes, **options).double()


def data(kind: str) -> torch.Tensor:
    source = torch.Generator().manual_seed(2)
    if kind == "categorical":
        return torch.randint(3, (N, D), generator=source)
    return torch.rand(N, D, generator=source, dtype=torch.float64)


def elements(vae: VAE, kind: str, decoded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the elements, by torch.distributions."""
    if kind == "bernoulli":
        return -nn.functional.binary_cross_entropy_with_logits(decoded, x, reduction="none")
    if kind == "categorical":
        return decoded.log_softmax(1).gather(1, x[:, None])[:, 0]
    mean, logvar = vae.likelihood.split(decoded)  # type: ignore[operator]
    found: torch.Tensor = torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(x)
    return found


KINDS = ("bernoulli", "fixed", "learned", "decoder", "categorical")


@pytest.mark.parametrize("prior", ["standard", "mixture"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_of_the_elements_that_are_there(kind: str, prior: str) -> None:
    vae, x = make(kind, prior=prior), data(kind)
    junk = torch.where(MASK, x, -5 if kind == "categorical" else math.nan)
    out = vae(junk, MASK, generator=generator())
    rows = elements(vae, kind, out.logits, torch.where(MASK, x, 0))
    expected = -torch.where(MASK, rows, 0).sum(1)
    ours = vae.loss(junk, mask=MASK, reduction="none", generator=generator())
    torch.testing.assert_close(ours.reconstruction, expected)
    torch.testing.assert_close(ours.loss, expected + ours.kl)
    parameters = [*vae.encoder.parameters(), *vae.decoder.parameters()]
    grads = torch.autograd.grad(ours.loss.sum(), parameters, retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad((expected + ours.kl).sum(), parameters))
    bound = vae.elbo(junk, mask=MASK, generator=generator())
    torch.testing.assert_close(bound, -ours.loss)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_of_ones_is_none(kind: str) -> None:
    vae, x = make(kind), data(kind)
    ones = torch.ones(D, dtype=torch.bool)
    for method in ("loss", "elbo", "log_likelihood"):
        run = getattr(vae, method)
        torch.testing.assert_close(
            run(x, mask=ones, generator=generator()), run(x, generator=generator())
        )
    torch.testing.assert_close(vae.reconstruct(x, ones), vae.reconstruct(x))
    torch.testing.assert_close(vae(x, ones, generator=generator()), vae(x, generator=generator()))


def test_the_encoder_sees_zeros() -> None:
    seen = []
    for kind in ("bernoulli", "categorical"):
        vae = make(kind)
        vae.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        vae.encode(torch.where(MASK, data(kind), 9), MASK.double())
    x, indicators = seen
    assert torch.equal(x, torch.where(MASK, data("bernoulli"), 0))
    assert torch.equal(indicators.sum(1), MASK.double())
    assert torch.equal(indicators.argmax(1)[MASK], data("categorical")[MASK])


def test_a_mask_of_images_may_lack_their_channels() -> None:
    torch.manual_seed(0)
    vae = VAE.convolutional((3, 8, 8), 2, channels=(4, 4))
    x, mask = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8) < 0.5
    junk = torch.where(mask, x, math.nan)
    short, whole = (
        vae.loss(junk, mask=m, generator=generator()) for m in (mask, mask.expand(x.shape))
    )
    torch.testing.assert_close(short, whole)
    assert torch.isfinite(short.loss)
    assert torch.isfinite(vae.reconstruct(junk, mask)).all()


@pytest.mark.parametrize("max_rows", [3, 100_000])
def test_log_likelihood_of_what_is_there(max_rows: int) -> None:
    """Of a linear decoder with normal noise the density of any features is known."""
    torch.manual_seed(3)
    encoder, decoder = nn.Linear(D, 2 * K), nn.Linear(K, D)
    for parameter in encoder.parameters():  # a posterior near N(0, I)
        nn.init.normal_(parameter, std=0.05)
    likelihood = GaussianLikelihood("fixed", 0.5)
    vae = VAE(latent_dim=K, encoder=encoder, decoder=decoder, likelihood=likelihood).double()
    x = torch.randn(N, D, dtype=torch.float64)
    covariance = decoder.weight @ decoder.weight.T + math.exp(0.5) * torch.eye(D)
    n_samples = 200 if max_rows == 3 else 20_000
    given = torch.where(MASK, x, math.nan)
    found = vae.log_likelihood(
        given, n_samples, mask=MASK, max_rows=max_rows, generator=generator()
    )
    for i, there in enumerate(MASK):
        normal = torch.distributions.MultivariateNormal(
            decoder.bias[there], covariance[there][:, there]
        )
        expected = normal.log_prob(x[i, there])
        assert abs(found[i] - expected) < 5 / math.sqrt(n_samples)


@pytest.mark.parametrize("capacity", [None, 0.3])
@pytest.mark.parametrize("prior", ["standard", "learned", "mixture"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights(kind: str, prior: str, capacity: float | None) -> None:
    vae, x = make(kind, prior=prior), data(kind)
    weight = torch.rand(N, dtype=torch.float64)

    def loss(reduction: str, weight: torch.Tensor | None, **options: Any) -> Any:
        return vae.loss(
            x, reduction=reduction, weight=weight, beta=0.7, generator=generator(), **options
        )

    rows = loss("none", None)
    for reduction, share in (("none", 1), ("sum", 1), ("batchmean", N)):
        ours = loss(reduction, weight, capacity=capacity)
        image, kl = (
            weight * r if reduction == "none" else (weight * r).sum() / share for r in rows[1:]
        )
        torch.testing.assert_close(ours.reconstruction, image)
        torch.testing.assert_close(ours.kl, kl)
        charged = kl
        if capacity is not None:
            # Each sample has its weight of the capacity: one of weight 0 changes nothing.
            charged = (
                kl - capacity * (weight if reduction == "none" else weight.sum() / share)
            ).abs()
        torch.testing.assert_close(ours.loss, image + 0.7 * charged)


def test_terms_of_a_pass() -> None:
    vae, x = make("bernoulli"), data("bernoulli")
    out, weight = vae(x, MASK, generator=generator()), torch.rand(N, dtype=torch.float64)
    ours = vae.terms(x, out, weight=weight, mask=MASK)
    logits, mu, logvar, _ = out
    torch.testing.assert_close(ours, vae_loss(logits, x, mu, logvar, weight=weight, mask=MASK))


def test_terms_refuse_bytes() -> None:
    """They would be read as they are, though the model saw them scaled."""
    vae, x = make("bernoulli"), torch.randint(0, 256, (N, D), dtype=torch.uint8)
    out = vae(vae.as_input(x), generator=generator())
    with pytest.raises(TypeError, match=r"`x` has dtype torch.uint8, expected.*as_input\(x\)"):
        vae.terms(x, out)


class Own(Likelihood):
    def log_prob(self, decoded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -(decoded - x).square().sum(1)


def test_own_likelihoods() -> None:
    vae, x = VAE(D, K, (5,), likelihood=Own()), torch.rand(N, D)
    weight = torch.rand(N)
    rows = vae.loss(x, reduction="none", generator=generator()).loss
    ours = vae.loss(x, weight=weight, generator=generator()).loss
    torch.testing.assert_close(ours, (weight * rows).mean())
    for call in (vae.loss, vae.elbo, vae.log_likelihood):
        with pytest.raises(ValueError, match="`mask` asks for missing elements, but Own has no `l"):
            call(x, mask=MASK)  # type: ignore[operator]
    with pytest.raises(ValueError, match="`mask` asks"):
        vae.likelihood.loss(x, x, mask=MASK)  # type: ignore[operator]


class HandsOn(Own):
    def loss(self, *given: Any, **options: Any) -> torch.Tensor:
        return super().loss(*given, **options)


def test_the_base_has_no_masked_loss() -> None:
    vae, x = VAE(D, K, (5,), likelihood=HandsOn()), torch.rand(N, D)
    assert torch.isfinite(vae.loss(x).loss)
    with pytest.raises(ValueError, match="HandsOn has no `loss` of its own that takes a mask"):
        vae.loss(x, mask=MASK)


class OwnDensity(BernoulliLikelihood):
    def log_prob(self, decoded: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().log_prob(decoded, x)


class OwnLoss(Own):
    """Rows by default no more than a mean, as the functions of the package."""

    rows: tuple[int, ...] = ()

    def loss(
        self,
        decoded: torch.Tensor,
        x: torch.Tensor,
        reduction: str = "batchmean",
        *,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        squares = (decoded - x).square()
        rows = (squares if mask is None else torch.where(mask, squares, 0)).sum(1)
        if reduction == "none":
            return rows.reshape(-1, *self.rows)
        return rows.sum() if reduction == "sum" else rows.mean()


def test_losses_of_ones_own() -> None:
    vae, x = VAE(D, K, (5,), likelihood=OwnLoss()), torch.rand(N, D)
    out = vae(x, MASK, generator=generator())
    rows = torch.where(MASK, (out.logits - x).square(), 0).sum(1)
    ours = vae.loss(x, mask=MASK, reduction="none", generator=generator())
    torch.testing.assert_close(ours.reconstruction, rows)
    torch.testing.assert_close(vae.elbo(x, mask=MASK, generator=generator()), -ours.loss)
    vae.likelihood.rows = (1,)  # type: ignore[assignment]
    for call in (
        lambda: vae.elbo(x, mask=MASK),
        lambda: vae.log_likelihood(x, 3, mask=MASK),
        lambda: vae.loss(x, weight=torch.ones(N)),
    ):
        with pytest.raises(ValueError, match=r"`likelihood.loss` gave shape \(\d+, 1\), expected"):
            call()


def test_a_density_without_its_loss() -> None:
    vae, x = VAE(D, K, (5,), likelihood=OwnDensity()), torch.rand(N, D)
    with pytest.raises(ValueError, match="OwnDensity has no `loss` of its own"):
        vae.elbo(x, mask=MASK)


class Nominal(CategoricalLikelihood):
    """Its encoder sees the classes last."""

    def encoder_input(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return super().encoder_input(x, dtype).movedim(1, -1)

    hide = Likelihood.hide


class NominalHidden(Nominal):
    def hide(self, seen: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask[..., None], seen, 0)


def test_other_views_of_the_data() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(9, 2 * K))
    x, mask = torch.randint(3, (N, 3)), MASK[:, :3]
    vae = VAE(latent_dim=K, likelihood=Nominal(3), encoder=encoder, decoder=nn.Linear(K, 9))
    with pytest.raises(ValueError, match=r"returned shape \(7, 3, 3\) .* Nominal needs a `hide`"):
        vae.encode(x, mask)
    vae.likelihood = NominalHidden(3)
    seen = nn.functional.one_hot(x, 3) * mask[..., None].float()
    torch.testing.assert_close(vae.encode(x, mask)[0], vae.encoder(seen)[:, :K])


@pytest.mark.parametrize("kind", ["bernoulli", "fixed"])
def test_masks_and_factors_of_other_dtypes(kind: str) -> None:
    vae, x = make(kind).float(), data(kind).float()
    expected = vae.loss(x, mask=MASK, generator=generator())
    for mask in (MASK.long(), MASK.double(), MASK.byte()):
        torch.testing.assert_close(vae.loss(x, mask=mask, generator=generator()), expected)
        vae.elbo(x, mask=mask)
        vae.log_likelihood(x, 2, mask=mask)
    double = torch.tensor(2.0, dtype=torch.float64)
    loss = vae.loss(x, beta=double, capacity=double, weight=torch.rand(N)).loss
    assert loss.dtype == torch.float32
    with pytest.raises(TypeError, match=r"`weight` has dtype torch\.float64"):
        vae.loss(x, weight=torch.rand(N, dtype=torch.float64))


class Narrower(DiagonalPosterior):
    """Of a time when there was no range."""

    def __init__(self) -> None:
        pass


def test_a_posterior_that_was_made_without_a_range() -> None:
    vae = VAE(D, K, (5,), posterior=Narrower())
    assert torch.isfinite(vae.loss(torch.rand(N, D)).loss)


@pytest.mark.parametrize("kind", ["bernoulli", "fixed", "categorical"])
def test_what_does_not_fit(kind: str) -> None:
    vae, x = make(kind), data(kind)
    for call in (vae.loss, vae.elbo, vae.log_likelihood):
        with pytest.raises(ValueError, match=r"`mask` has shape \(2, 6\), expected one that broad"):
            call(x, mask=MASK[:2])  # type: ignore[operator]
        with pytest.raises(TypeError, match=r"`mask` must be a torch\.Tensor, got list"):
            call(x, mask=[1])  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"`weight` has shape \(6,\), expected \(7,\)"):
        vae.loss(x, weight=torch.ones(6, dtype=torch.float64))
    with pytest.raises(TypeError, match="`weight`"):
        vae.loss(x, weight=torch.ones(7, dtype=torch.int64))


def test_limits_of_the_posterior() -> None:
    vae, x = make("bernoulli", posterior=DiagonalPosterior((-0.1, 0.05))), data("bernoulli")
    plain = make("bernoulli")
    mu, logvar = plain.encode(x)
    assert logvar.min() < -0.1
    assert logvar.max() > 0.05
    torch.testing.assert_close(vae.encode(x), (mu, logvar.clamp(-0.1, 0.05)))
    everything = make("bernoulli", posterior=DiagonalPosterior((-50.0, -40.0)))
    bias = everything.encoder[-1].bias  # type: ignore[index]
    (grad,) = torch.autograd.grad(everything.loss(x).kl, bias)
    assert grad[:K].abs().sum() > 0
    assert grad[K:].abs().sum() == 0


@pytest.mark.parametrize("variance", ["learned", "fixed", "decoder"])
def test_limits_of_the_noise(variance: str) -> None:
    torch.manual_seed(0)
    likelihood = GaussianLikelihood(variance, logvar=-9.0, logvar_range=(-2.0, 0.1)).double()
    decoded = 3 * torch.randn(N, likelihood.n_outputs(D), dtype=torch.float64)
    x = data("fixed")
    mean, logvar = likelihood.split(decoded)
    normal = torch.distributions.Normal(mean, (0.5 * logvar.clamp(-2.0, 0.1)).exp())
    torch.testing.assert_close(likelihood.log_prob(decoded, x), normal.log_prob(x).sum(1))
    drawn = torch.stack([likelihood.sample(decoded, generator=generator()) for _ in range(2)])
    noise = torch.randn(mean.shape, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(drawn[0], mean + normal.stddev * noise)


@pytest.mark.parametrize(
    "make_part", [DiagonalPosterior, lambda r: GaussianLikelihood(logvar_range=r)]
)
def test_limits_that_are_none(make_part: Any) -> None:
    with pytest.raises(ValueError, match=r"`logvar_range` is \(1, 0\)"):
        make_part((1, 0))
    with pytest.raises(TypeError, match="`logvar_range` is 3"):
        make_part(3)
