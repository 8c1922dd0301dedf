"""The VAE loss, forward and backward, beside torch eager and torch.compile."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F

import harness
from elbokit.torch import load_extension, vae_loss
from elbokit.torch._autograd import direct_apply
from elbokit.torch._extension import without_extension

# batch, pixels, latent dimensions, rounds
CASES = [
    (128, 784, 20, 200),
    (1_024, 784, 64, 60),
    (16_384, 784, 64, 40),
    (512, 12_288, 256, 60),
]
SMALL = 1 << 20  # elements up to which it is measured without the C++ extension too
WORTH_THREADS = 1 << 17  # elements from which the way threads wake up shows
PAUSE = 0.02


def plain(
    logits: torch.Tensor, target: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor
) -> torch.Tensor:
    reconstruction = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (reconstruction + kl) / len(logits)


def fused(
    logits: torch.Tensor, target: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor
) -> torch.Tensor:
    return vae_loss(logits, target, mu, logvar).loss


def _keep(ctx, made, *operands):
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands)
    return made


def _hand_back(ctx, *upstream):
    logits, _, mu, logvar = ctx.saved_tensors
    return None, logits, None, mu, logvar


_nothing = direct_apply("Nothing", _keep, _hand_back)


def bookkeeping(*operands: torch.Tensor) -> torch.Tensor:
    """An autograd function of the same operands and outputs that computes nothing."""
    return _nothing(tuple(torch.empty(()) for _ in range(3)), *operands)[0]


def ways(batch: int, pixels: int) -> list[tuple[bool, float]]:
    """With the extension or not, and seconds that go by before each call."""
    if batch * pixels > SMALL:
        return [(True, 0.0)]
    # As for a batch of data that is late: the threads sleep by then.
    return [
        (True, 0.0),
        (False, 0.0),
        *([(True, PAUSE)] if batch * pixels > WORTH_THREADS else []),
    ]


def main() -> None:
    load_extension()
    rows = []
    for batch, pixels, latent, rounds in harness.progress(CASES, "VAE loss"):
        torch.manual_seed(0)
        torch.compiler.reset()
        inputs = [torch.randn(batch, pixels), torch.rand(batch, pixels)]
        # As a VAE has them: halves of one encoder output, whose rows lie apart.
        inputs += [half.detach() for half in torch.randn(batch, 2 * latent).chunk(2, 1)]
        leaves = [inputs[i].requires_grad_() for i in (0, 2, 3)]

        def step(loss, inputs=inputs, leaves=leaves):
            return torch.autograd.grad(loss(*inputs), leaves)

        peers = {"elbokit": fused, "eager": plain, "compiled": torch.compile(plain)}
        expected = step(plain)
        for loss in peers.values():
            torch.testing.assert_close(loss(*inputs), plain(*inputs), rtol=1e-5, atol=0)
            for got, exact in zip(step(loss), expected, strict=True):
                torch.testing.assert_close(got, exact, rtol=1e-5, atol=1e-8)
        peers["bookkeeping"] = bookkeeping
        # Reading logits and targets and writing the gradient: nothing can pass over less.
        a, b = torch.randn(batch, pixels), torch.randn(batch, pixels)
        out = torch.empty_like(a)
        peers = {name: (lambda f=loss, step=step: step(f)) for name, loss in peers.items()}
        peers["limit"] = lambda a=a, b=b, out=out: torch.add(a, b, out=out)
        for extended, pause in ways(batch, pixels):
            with nullcontext() if extended else without_extension():
                timing = harness.interleave(peers, rounds, pause=pause)
            limit = (
                harness.duration(timing.median("limit")),
                f"{timing.ratio('limit', 'elbokit'):.0%}",
            )
            if pause:  # it is that of torch's threads waking up, 0.4 ms or 6
                limit = "–", "–"
            how = "" if extended else ", no extension"
            how += f", after {pause * 1e3:.0f} ms" if pause else ""
            rows.append(
                [
                    f"{batch:,} × {pixels:,}, {latent}{how}",
                    *(harness.duration(timing.median(name)) for name in ("eager", "compiled")),
                    harness.duration(timing.median("elbokit")),
                    f"{timing.ratio('eager', 'elbokit'):.1f}",
                    f"{timing.ratio('compiled', 'elbokit'):.1f}",
                    harness.duration(timing.median("bookkeeping")),
                    *limit,
                ]
            )
    harness.write(
        "vae_loss",
        "VAE loss, forward and backward",
        "float32, Bernoulli decoder on logits and KL to N(0, I), batch mean; medians of "
        "interleaved rounds, Python overhead included. Values and gradients agree before anything "
        "is timed. Function: what torch takes for an autograd function of the same operands that "
        "computes nothing. No extension: as where torch came after elbokit. Limit: two reads and "
        "one write of the batch (`torch.add` into a third array). After 20 ms: each call comes "
        "after a pause, and all run on torch's threads, which have gone to sleep.",
        harness.table(
            [
                "batch × pixels, latent",
                "torch eager",
                "torch.compile",
                "elbokit",
                "eager ÷ ours",
                "compile ÷ ours",
                "function",
                "limit",
                "of the limit",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main()
