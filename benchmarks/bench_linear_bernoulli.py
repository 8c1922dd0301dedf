"""The last linear layer of a decoder with its Bernoulli loss: time, and memory beyond the operands.

Time is taken interleaved in this process; what each peer holds at most, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

import harness
from bench_gmm_memory import MIB, Peak
from elbokit.torch import linear_bernoulli_loss

# samples, hidden units, features, rounds
CASES = [
    (128, 400, 784, 100),
    (1_024, 400, 784, 30),
    (128, 400, 12_288, 20),
    (1_024, 400, 12_288, 6),
    (128, 400, 100_000, 6),
]

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    logits = F.linear(hidden, weight, bias)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(hidden)


PEERS: dict[str, Callable[..., torch.Tensor]] = {"elbokit": linear_bernoulli_loss, "torch": plain}


def operands(n: int, k: int, d: int) -> Operands:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(n, k), torch.randn(d, k) / k**0.5, torch.randn(d)
    return *(t.requires_grad_() for t in (hidden, weight, bias)), torch.rand(n, d)


def step(loss: Callable[..., torch.Tensor], given: Operands) -> tuple[torch.Tensor, ...]:
    value = loss(*given)
    return value.detach(), *torch.autograd.grad(value, given[:3])


def child(peer: str, n: int, k: int, d: int) -> None:
    """In the process of one case: print the peak in MiB beyond the operands."""
    given = operands(n, k, d)
    step(PEERS[peer], operands(64, k, 64))  # threads and lazily loaded libraries
    with Peak() as peak:
        step(PEERS[peer], given)
    print(json.dumps(peak.mib))


def peak(*arguments: object) -> float:
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(arguments)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(json.loads(done.stdout))


def main() -> None:
    rows = []
    for n, k, d, rounds in harness.progress(CASES, "linear layer and loss"):
        given = operands(n, k, d)
        expected = step(plain, given)
        for got, exact in zip(step(linear_bernoulli_loss, given), expected, strict=True):
            scale = exact.abs().max().item()
            torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5 * scale)
        timing = harness.interleave(
            {
                name: (lambda loss=loss, given=given: step(loss, given))
                for name, loss in PEERS.items()
            },
            rounds,
        )
        gradients = sum(t.nbytes for t in given[:3]) / MIB
        held = {name: peak(name, n, k, d) - gradients for name in PEERS}
        rows.append(
            [
                f"{n:,} × {k} → {d:,}",
                *(harness.duration(timing.median(name)) for name in ("torch", "elbokit")),
                f"{timing.ratio('torch', 'elbokit'):.2f}",
                f"{n * d * 4 / MIB:.1f} MiB",
                *(f"{held[name]:.1f} MiB" for name in ("torch", "elbokit")),
            ]
        )
    harness.write(
        "linear_bernoulli",
        "Linear layer and Bernoulli loss, forward and backward",
        "float32, batch mean, gradients in the input, the weights and the bias, against "
        "`F.linear` with `F.binary_cross_entropy_with_logits`; medians of interleaved rounds. "
        "Values and gradients agree before anything is timed. Peak: the largest `RssAnon` during "
        "one step in a process of its own, less that before it, which holds the operands, and less "
        "the size of the gradients.",
        harness.table(
            [
                "samples × hidden → features",
                "torch",
                "elbokit",
                "torch ÷ ours",
                "logits",
                "peak, torch",
                "peak, elbokit",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    child(*json.loads(sys.argv[1])) if len(sys.argv) > 1 else main()
