"""Each operator once, forward and backward, at small odd sizes: what compute-sanitizer looks at.

``python tools/gpu_smoke.py [--device cuda]``; ends with one line per operator.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import elbokit
import elbokit.torch as et
from elbokit import ops

# With 227 KiB of shared memory: four rows of float32 at once, two, one, none; factors in place from
# 170 on.
WIDE = (300, 600, 1000, 1700)

Make = Callable[..., Tensor]


def maker(device: str) -> Make:
    generator = torch.Generator().manual_seed(0)  # drawn on the CPU: no kernels but ours
    return lambda *size: torch.randn(size, generator=generator).to(device)


def backward(loss: Tensor, *leaves: Tensor) -> None:
    torch.autograd.grad(loss.sum(), leaves)


def unaligned(x: Tensor) -> Tensor:
    """The same numbers, rows apart and none of them where 16 bytes begin."""
    return torch.cat([x[:, :1], x, x[:, :1]], 1)[:, 1:-1]


def losses(make: Make) -> dict[str, Callable[[], object]]:
    def leaf(*size: int) -> Tensor:
        return make(*size).requires_grad_()

    def vae(
        rows: int, cols: int, reduction: str = "batchmean", latent: int = 5, **options: Any
    ) -> None:
        mu, logvar = leaf(rows, latent), leaf(rows, latent)
        inputs = leaf(rows, cols), make(rows, cols).sigmoid(), mu, logvar
        found = et.vae_loss(*inputs, reduction=reduction, **options)
        backward(found.loss, inputs[0], *inputs[2:])

    def of_bytes(dtype: torch.dtype, cols: int, apart: bool = False, latent: int = 5) -> None:
        logits, *halves = make(7, cols).to(dtype), *make(7, 2 * latent).to(dtype).chunk(2, 1)
        mu, logvar = (h.detach().requires_grad_() for h in halves)
        target = (255 * make(7, cols).sigmoid()).byte()
        if apart:
            logits, target = unaligned(logits), unaligned(target)
        logits.requires_grad_()
        found = et.vae_loss(logits, target, mu, logvar, target_scale=1 / 255)
        backward(found.loss, logits, mu, logvar)

    def decoder(loss: Callable[..., Tensor], target: Tensor, *size: int) -> None:
        x = leaf(*size)
        backward(loss(x, target), x)

    def full() -> None:
        mu, factor = leaf(7, 5), make(7, 5, 5).tril(-1) + torch.eye(5).to(make(1))
        factor.requires_grad_()
        backward(et.gaussian_kl_full(mu, factor), mu, factor)

    def several(rows: int) -> None:
        z, mu, logvar = make(3, rows, 5), leaf(rows, 5), leaf(rows, 5)
        logits = leaf(3, rows, 33)
        loss = et.multi_sample_loss(logits, make(rows, 33).sigmoid(), mu, logvar, z)
        backward(loss, logits, mu, logvar)

    def linear() -> None:
        hidden, weight, bias = leaf(7, 19), leaf(33, 19), leaf(33)
        loss = et.linear_bernoulli_loss(hidden, weight, bias, make(7, 33).sigmoid())
        backward(loss, hidden, weight, bias)

    def kl() -> None:
        mu, logvar = leaf(7, 33), leaf(7, 33)
        backward(et.gaussian_kl(mu, logvar, free_bits=0.1), mu, logvar)

    def logsumexp() -> None:
        x = leaf(7, 33)
        backward(et.logsumexp(x, dim=-1), x)

    def scaled() -> None:
        inputs = leaf(7, 33), make(7, 33).sigmoid(), leaf(7, 5), leaf(7, 5)
        backward(3 * et.vae_loss(*inputs).loss, inputs[0])

    classes = (make(7, 13) > 0).long()
    return {
        "vae_loss 7 x 33": lambda: vae(7, 33),
        "vae_loss 5 x 784": lambda: vae(5, 784),
        "vae_loss 3 x 8196": lambda: vae(3, 8196, "sum"),
        "vae_loss by row": lambda: vae(9, 516, "none", beta=2.0),
        "vae_loss scaled": scaled,
        "vae_loss, latents in vectors": lambda: vae(65, 33, latent=24),
        "vae_loss bfloat16, bytes, latents in vectors": lambda: of_bytes(
            torch.bfloat16, 784, latent=16
        ),
        "vae_loss bfloat16, bytes": lambda: of_bytes(torch.bfloat16, 784),
        "vae_loss float32, bytes, unaligned": lambda: of_bytes(torch.float32, 516, True),
        "vae_loss bfloat16, bytes, unaligned": lambda: of_bytes(torch.bfloat16, 516, True),
        "gaussian_kl": kl,
        "bernoulli_loss": lambda: decoder(et.bernoulli_loss, make(7, 516).sigmoid(), 7, 516),
        "gaussian_loss": lambda: decoder(et.gaussian_loss, make(7, 516), 7, 516),
        "categorical_loss": lambda: decoder(et.categorical_loss, classes, 7, 3, 13),
        "gaussian_kl_full": full,
        "multi_sample_loss": lambda: several(7),
        # A block for each sample of a row, or from half as many rows as multiprocessors, for a row.
        "multi_sample_loss, 140 rows": lambda: several(140),
        "linear_bernoulli_loss": linear,
        "logsumexp": logsumexp,
    }


def mixtures(make: Make) -> dict[str, Callable[[], object]]:
    def start(d: int, k: int, kind: str, *batch: int) -> tuple[Tensor, Tensor, Tensor]:
        weights = (make(*batch, k) * 0).add(1 / k)
        shape = {"full": (*batch, k, d, d), "diag": (*batch, k, d), "spherical": (*batch, k)}
        if kind in ("full", "tied"):
            eye = torch.eye(d).to(weights)
            factors = eye.expand(shape["full"]).clone() if kind == "full" else eye
        else:
            factors = (make(*shape[kind]) * 0).add(1)
        return weights, make(*batch, k, d), factors

    def density(kind: str) -> None:
        x, (weights, means, factors) = make(131, 5), start(5, 3, kind)
        leaves = [t.requires_grad_() for t in (x, weights, means, factors)]
        backward(et.gmm_log_prob(*leaves, kind), *leaves)

    def sizes(d: int, k: int, kind: str) -> None:
        x, parameters = make(517, d), start(d, k, kind)
        ops.gmm_estep(x, *parameters, kind)
        ops.gmm_statistics(x, *parameters, kind)

    def wide(d: int) -> None:
        """Features of which shared memory holds few rows, or none; the M-step's factors too."""
        x, parameters = make(40, d), start(d, 2, "full")
        ops.gmm_estep(x, *parameters, "full")
        ops.gmm_statistics(x, *parameters, "full")
        ops.gmm_fit(x, *parameters, "full", max_iter=1, reg_covar=1.0)

    def sparse(
        kind: str, dtype: torch.dtype = torch.float32, apart: bool = False, together: int = 0
    ) -> None:
        """Few of many components matter to a row: lists of them, and sums over the lists.

        Where some lie together all of these matter: longer lists, and rows without a place for one.
        """
        weights, means, factors = start(40, 70, kind)
        means = 4 * means
        means[:together] = 0
        x = (means.repeat(9, 1)[:-13] + make(617, 40)).to(dtype)
        ops.gmm_statistics(unaligned(x) if apart else x, weights, means, factors, kind)

    def fit() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it did not converge
            elbokit.GaussianMixture(3, max_iter=3, random_state=0).fit(make(517, 5))

    found: dict[str, Callable[[], object]] = {}
    for kind in ("full", "tied", "diag", "spherical"):
        for d, k in ((2, 3), (17, 5), (33, 65), (36, 5)):
            found[f"gmm {kind} {d}, {k}"] = lambda d=d, k=k, kind=kind: sizes(d, k, kind)
    found |= {f"gmm full {d} features": lambda d=d: wide(d) for d in WIDE}
    return found | {
        "gmm sparse diag": lambda: sparse("diag"),
        "gmm sparse diag, 40 components together": lambda: sparse("diag", together=40),
        "gmm sparse spherical, unaligned": lambda: sparse("spherical", apart=True),
        "gmm sparse diag, bfloat16": lambda: sparse("diag", torch.bfloat16),
        "gmm sparse diag, bfloat16, unaligned": lambda: sparse("diag", torch.bfloat16, True),
        "gmm_log_prob full": lambda: density("full"),
        "gmm_log_prob diag": lambda: density("diag"),
        "gmm_fit": lambda: ops.gmm_fit(make(517, 5), *start(5, 3, "full"), max_iter=3),
        "gmm_fit many": lambda: ops.gmm_fit(make(9, 67, 2), *start(2, 3, "full", 9), max_iter=3),
        "kmeans": lambda: ops.kmeans(make(517, 5), 4, random_state=0, max_iter=3),
        "GaussianMixture": fit,
    }


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(given)
    make, failed = maker(options.device), 0
    for name, work in (losses(make) | mixtures(make)).items():
        try:
            work()
            if options.device == "cuda":
                torch.cuda.synchronize()
            print(f"ok {name}", flush=True)
        except Exception as error:  # the others are still worth a look
            failed += 1
            print(f"failed {name}: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
