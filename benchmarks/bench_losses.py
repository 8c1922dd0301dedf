"""The losses beside the VAE's own, forward and backward, against torch eager and torch.compile."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import harness
from elbokit.torch import (
    binary_cross_entropy_with_logits,
    categorical_loss,
    gaussian_kl,
    gaussian_kl_full,
    gaussian_loss,
    gmm_log_prob,
    load_extension,
    logsumexp,
    multi_sample_loss,
    vae_loss,
)
from elbokit.torch._extension import without_extension

Loss = Callable[..., Tensor]
LOG_2PI = math.log(2 * math.pi)
SMALL_ROUNDS = 300


class Case(NamedTuple):
    """A loss, the same in plain torch, and their operands; those that track get a gradient."""

    name: str
    ours: Loss
    plain: Loss
    operands: Sequence[Tensor]
    rounds: int = 15


def normal(*shape: int) -> Tensor:
    return torch.randn(shape)


def tracked(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def plain_gaussian(mean: Tensor, target: Tensor, logvar: Tensor) -> Tensor:
    terms = (target - mean).square() * (-logvar).exp() + logvar + LOG_2PI
    return 0.5 * terms.sum() / len(mean)


def plain_categorical(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="sum") / len(logits)


def plain_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum() / len(mu)


def kl_terms(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    ratio = logvar - prior_logvar
    squares = (mu - prior_mu).square() * (-prior_logvar).exp()
    return 0.5 * (ratio.exp() - 1 - ratio + squares)


def plain_kl_prior(*operands: Tensor) -> Tensor:
    return kl_terms(*operands).sum() / len(operands[0])


def plain_kl_full(mu: Tensor, factor: Tensor) -> Tensor:
    lower = factor.tril()
    squares = lower.square().sum() + mu.square().sum() - mu.numel()
    return 0.5 * squares / len(mu) - lower.diagonal(dim1=1, dim2=2).log().sum() / len(mu)


def plain_iwae(logits: Tensor, target: Tensor, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
    image = F.binary_cross_entropy_with_logits(
        logits, target.expand_as(logits), reduction="none"
    ).sum(dim=2)
    prior = -0.5 * z.square().sum(dim=2)
    posterior = -0.5 * ((z - mu).square() * (-logvar).exp() + logvar).sum(dim=2)
    weights = prior - posterior - image
    return -(weights.logsumexp(dim=0) - math.log(len(z))).mean()


def ours_gmm(kind: str) -> Loss:
    return lambda *given: gmm_log_prob(*given, kind).sum()


def plain_gmm(x: Tensor, weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    shifted = x[:, None] - means
    if factors.dim() == 3:
        scaled = torch.einsum("nkd,kde->nke", shifted, factors.triu())
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    else:
        scaled, log_det = shifted * factors, factors.log().sum(dim=1)
    logits = weights.log() + log_det - 0.5 * (scaled.square().sum(dim=2) + x.shape[1] * LOG_2PI)
    return logits.logsumexp(dim=1).sum()


def categorical(name: str, *shape: int, rounds: int = 15) -> Case:
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    return Case(name, categorical_loss, plain_categorical, (tracked(*shape), target), rounds)


def gmm(n: int, d: int, k: int, kind: str, rounds: int = 7) -> Case:
    weights = torch.rand(k).add(0.5)
    factors = torch.rand(k, d).add(0.5)
    if kind == "full":
        factors = torch.diag_embed(factors) + 0.1 * torch.randn(k, d, d).triu(1)
    parameters = (weights / weights.sum(), torch.randn(k, d) / d**0.5, factors)
    operands = (tracked(n, d), *(p.requires_grad_() for p in parameters))
    return Case(
        f"gmm_log_prob, {kind}, {n:,} × {d}, {k}", ours_gmm(kind), plain_gmm, operands, rounds
    )


def cases() -> list[Callable[[], Case]]:
    """Return the cases, each made when its turn comes."""

    def bernoulli(n: int, d: int, rounds: int = 15) -> Case:
        def summed(f: Loss) -> Loss:
            return lambda *given: f(*given, reduction="sum") / n

        ours, plain = binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
        name = f"binary_cross_entropy_with_logits, {n:,} × {d}"
        return Case(name, summed(ours), summed(plain), (tracked(n, d), torch.rand(n, d)), rounds)

    def gaussian(n: int, noise: str, *shape: int, rounds: int = 15) -> Case:
        operands = tracked(n, 784), normal(n, 784), tracked(*shape)
        name = f"gaussian_loss, {n:,} × 784, {noise}"
        return Case(name, gaussian_loss, plain_gaussian, operands, rounds)

    def kl(n: int, d: int, rounds: int = 15) -> Case:
        # As a VAE has them: halves of one encoder output, whose rows lie apart.
        operands = [half.detach().requires_grad_() for half in normal(n, 2 * d).chunk(2, 1)]
        return Case(f"gaussian_kl, {n:,} × {d}", gaussian_kl, plain_kl, operands, rounds)

    def kl_prior(n: int, d: int, *shape: int, rounds: int = 15) -> Case:
        operands = [tracked(*of).mul(0.5).detach() for of in ((n, d), (n, d), shape, shape)]
        operands = tuple(x.requires_grad_() for x in operands)
        name = f"gaussian_kl, {n:,} × {d}, " + ("a prior each" if len(shape) > 1 else "one prior")
        return Case(name, gaussian_kl, plain_kl_prior, operands, rounds)

    def kl_full() -> Case:
        factor = (0.1 * normal(8_192, 32, 32) + torch.eye(32)).requires_grad_()
        factor.data.diagonal(dim1=1, dim2=2).abs_().add_(0.1)
        operands = tracked(8_192, 32), factor
        return Case("gaussian_kl_full, 8,192 × 32 × 32", gaussian_kl_full, plain_kl_full, operands)

    def iwae(samples: int, n: int) -> Case:
        mu, logvar, noise = normal(n, 32), 0.1 * normal(n, 32), normal(samples, n, 32)
        z = mu + (0.5 * logvar).exp() * noise
        latent = [t.requires_grad_() for t in (mu, logvar, z)]
        operands = 0.2 * normal(samples, n, 784), torch.rand(n, 784)
        return Case(
            f"multi_sample_loss, IWAE, {samples} × {n:,} × 784", multi_sample_loss, plain_iwae,
            (operands[0].requires_grad_(), operands[1], *latent),
        )  # fmt: skip

    def log_sum_exp(n: int, k: int, rounds: int = 15) -> Case:
        return Case(
            f"logsumexp, {n:,} × {k}",
            lambda x: logsumexp(x, -1).sum(),
            lambda x: torch.logsumexp(x, -1).sum(),
            (tracked(n, k),),
            rounds,
        )

    def vae_prior(n: int, d: int, latent: int) -> Case:
        weight = torch.rand(n)

        def ours(logits: Tensor, target: Tensor, *latent: Tensor) -> Tensor:
            names = "mu", "logvar", "prior_mu", "prior_logvar"
            given = dict(zip(names, latent, strict=True))
            return vae_loss(logits, target, **given, beta=0.5, weight=weight).loss

        def plain(logits: Tensor, target: Tensor, *latent: Tensor) -> Tensor:
            image = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
            divergence = kl_terms(*latent).sum(1)
            return (weight * (image + 0.5 * divergence)).mean()

        shapes = (n, latent), (n, latent), (latent,), (latent,)
        parameters = [tracked(*shape).mul(0.5).detach().requires_grad_() for shape in shapes]
        operands = tracked(n, d), torch.rand(n, d), *parameters
        name = f"vae_loss, {n:,} × {d}, {latent}, learned prior, beta, weights"
        return Case(name, ours, plain, operands, SMALL_ROUNDS)

    return [
        lambda: bernoulli(32, 64, SMALL_ROUNDS),
        lambda: bernoulli(128, 784, SMALL_ROUNDS),
        lambda: gaussian(128, "one noise", rounds=SMALL_ROUNDS),
        lambda: gaussian(128, "noise per element", 128, 784, rounds=SMALL_ROUNDS),
        lambda: categorical("categorical_loss, 10 classes, 128 rows", 128, 10, rounds=SMALL_ROUNDS),
        lambda: kl(128, 20, SMALL_ROUNDS),
        lambda: kl_prior(128, 20, 20, rounds=SMALL_ROUNDS),
        lambda: kl_prior(128, 20, 128, 20, rounds=SMALL_ROUNDS),
        lambda: vae_prior(128, 784, 20),
        lambda: log_sum_exp(128, 10, SMALL_ROUNDS),
        lambda: gmm(128, 10, 10, "diag", SMALL_ROUNDS),
        lambda: gmm(128, 10, 10, "full", SMALL_ROUNDS),
        lambda: bernoulli(16_384, 784),
        lambda: gaussian(16_384, "one noise"),
        lambda: gaussian(16_384, "noise per feature", 784),
        lambda: gaussian(16_384, "noise per element", 16_384, 784),
        lambda: categorical("categorical_loss, 10 classes, 65,536 rows", 65_536, 10),
        lambda: categorical("categorical_loss, 10 classes, 512 × 784", 512, 10, 784),
        lambda: categorical("categorical_loss, 256 classes, 64 × 784", 64, 256, 784),
        lambda: categorical("categorical_loss, 32,000 classes, 512 rows", 512, 32_000),
        lambda: kl(65_536, 64),
        lambda: kl_prior(65_536, 64, 64),
        lambda: kl_prior(65_536, 64, 65_536, 64),
        kl_full,
        lambda: iwae(8, 1_024),
        lambda: iwae(50, 256),
        lambda: log_sum_exp(131_072, 64),
        lambda: gmm(20_000, 16, 8, "diag"),
        lambda: gmm(20_000, 16, 8, "full"),
        lambda: gmm(5_000, 64, 32, "diag"),
    ]


def step(loss: Loss, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    value = loss(*operands)
    return value.detach(), *torch.autograd.grad(value, [t for t in operands if t.requires_grad])


def compare(loss: Loss, case: Case) -> None:
    """Value and gradients against plain torch in float64."""
    exact = [
        t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
        for t in case.operands
    ]
    for got, true in zip(step(loss, case.operands), step(case.plain, exact), strict=True):
        scale = true.abs().max().item()
        torch.testing.assert_close(got.double(), true, rtol=1e-4, atol=2e-5 * scale)


def least_bytes(case: Case) -> int:
    """Reading the operands and writing the gradients, once each."""
    return sum(t.nbytes * (2 if t.requires_grad else 1) for t in case.operands)


def rate() -> float:
    """Bytes per second of an addition into a third array."""
    a, b, out = (torch.ones(30_000_000) for _ in range(3))
    timing = harness.interleave({"add": lambda: torch.add(a, b, out=out)}, 7)
    return 3 * a.nbytes / min(timing.seconds["add"])


def main() -> None:
    load_extension()
    rows = []
    best = rate()
    for make in harness.progress(cases(), "losses"):
        torch.manual_seed(0)
        torch.compiler.reset()
        case = make()
        peers = {
            "elbokit": case.ours, "eager": case.plain, "compile": torch.compile(case.plain)
        }  # fmt: skip
        compare(case.ours, case)
        for extended in (True, False) if case.rounds == SMALL_ROUNDS else (True,):
            with nullcontext() if extended else without_extension():
                timing = harness.interleave(
                    {
                        name: (lambda loss=loss, case=case: step(loss, case.operands))
                        for name, loss in peers.items()
                    },
                    case.rounds,
                )
            best = max(best, rate())
            limit = least_bytes(case) / best
            rows.append(
                [
                    case.name + ("" if extended else ", no extension"),
                    *(harness.duration(timing.median(name)) for name in ("eager", "compile")),
                    harness.duration(timing.median("elbokit")),
                    f"{timing.ratio('eager', 'elbokit'):.1f}",
                    f"{timing.ratio('compile', 'elbokit'):.1f}",
                    harness.duration(limit),
                    f"{limit / timing.median('elbokit'):.0%}",
                ]
            )
            print(" | ".join(rows[-1]), flush=True)
    header = ["loss", "torch eager", "torch.compile", "elbokit", "eager ÷ ours", "compile ÷ ours"]
    harness.write(
        "losses",
        "Losses, forward and backward",
        "float32, gradients to every operand that can have one; medians of interleaved rounds. "
        "Values and gradients agree with plain torch in float64 before anything is timed. "
        "No extension: as where torch came after elbokit. Limit: the operands read and the "
        "gradients written once, at the best rate of `torch.add` into a third array in this run; "
        "the mixtures and the full covariances are bound by computing.",
        harness.table([*header, "limit", "of the limit"], rows),
    )


if __name__ == "__main__":
    main()
