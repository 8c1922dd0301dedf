"""The result as Markdown: both models on one footing, agreement, wall time."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from digits_timing import Timing

CAPTION = """\
All numbers are log-probabilities of the same held-out images, 64 integers from 0 to 16 each,
in nats per image (mean ± standard error; higher is better), so they may be compared.

* A VAE's Bernoulli decoder gives 16 bits per pixel with one shared probability; a pixel of
  value x is x ones among them, so the bound on the bits plus log C(16, x) per pixel is the bound
  on the integers. Its *bound* is the ELBO with the encoder's q(z|x).
* The mixture is fitted to x + u with uniform noise u in [0, 1)^64. Its probability of an integer
  is its mass in the cell [x, x + 1) (outer cells open), exact for diagonal covariances. Its
  *bound* is the mean of log p(x + u): an ELBO whose q is the uniform noise. The E-step over
  components is exact and adds no gap.
* An importance-sampled log P is a lower bound in expectation, so the VAEs are not flattered.
"""


class Model(NamedTuple):
    """Bound and log-probability of every held-out image under one model."""

    name: str
    n_parameters: int
    bound: np.ndarray
    log_probability: np.ndarray
    how: str


def write_report(
    path: Path,
    models: list[Model],
    agreement: dict[str, float],
    timings: list[Timing],
    versions: str,
) -> None:
    """Write the tables to `path`."""
    n_images = len(models[0].bound)
    lines = [
        "# Digits: one bound, two ways to climb it",
        "",
        f"## Held-out images ({n_images})",
        "",
        "| model | parameters | bound | log P(image) | bits per pixel | log P is |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for model in models:
        bits = -model.log_probability.mean() / np.log(2) / 64
        lines.append(
            f"| {model.name} | {model.n_parameters:,} | {_mean(model.bound)} | "
            f"{_mean(model.log_probability)} | {bits:.3f} | {model.how} |"
        )
    lines += ["", CAPTION, "## Components and true digits (training images)", ""]
    lines += ["| measure | value |", "|---|---:|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in agreement.items()]
    lines += [
        "",
        "The mixture never sees the digits' names, and its best start is the one with the highest",
        "bound on the training images. 1 is perfect; chance gives about 0, 0 and just over 0.1.",
        "",
        "## Wall time",
        "",
        "| work | elbokit | peer | peer / elbokit | largest difference of the answers |",
        "|---|---:|---:|---:|---:|",
    ]
    for t in timings:
        lines.append(
            f"| {t.work} | {_time(t.seconds)} | {_time(t.peer_seconds)} | "
            f"{t.peer_seconds / t.seconds:.2f} | {t.difference:.0e} |"
        )
    lines += [
        "",
        "Medians of calls in turns, in one process. The peer of EM is scikit-learn's",
        "`GaussianMixture` from the same start in float64; the peer of the loss is",
        "`binary_cross_entropy_with_logits` and the KL in plain torch, float32. Differences are",
        "relative to the largest entry, of the means, and of loss and gradients.",
        "",
        "```",
        versions.rstrip(),
        "```",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _mean(values: np.ndarray) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.2f} ± {error:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
