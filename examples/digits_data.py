"""The digits, and one sample space for both models: images of 64 integers from 0 to 16.

A Bernoulli decoder speaks of bits and a Gaussian mixture of real numbers. Both are brought to
probabilities of the same integer images:

* A pixel of value x is x ones among 16 bits that share one probability. The decoder gives
  those 16 bits, so its loss is exact for integers, and P(x) counts the C(16, x) arrangements.
* The cell of an integer x is the interval [x, x + 1), the outer ones open to infinity. P(x) is
  the mixture's mass in the cell, and log p(x + u) averaged over uniform u bounds it from below.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, log_ndtr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from elbokit import GaussianMixture, ops

N_LEVELS = 16  # the largest value of a pixel
SIDE = 8


class Split(NamedTuple):
    """Integer images as float64, shape (n, 64), and the digits they show."""

    train: np.ndarray
    train_digits: np.ndarray
    test: np.ndarray
    test_digits: np.ndarray


def load_split(seed: int, n_test: int = 360) -> Split:
    """Return scikit-learn's 1,797 digits, `n_test` of them held out, every digit equally often."""
    X, digits = load_digits(return_X_y=True)
    train, test, train_digits, test_digits = train_test_split(
        X, digits, test_size=n_test, stratify=digits, random_state=seed
    )
    return Split(train, train_digits, test, test_digits)


def as_images(rows: np.ndarray) -> np.ndarray:
    """Return pixels as (..., 8, 8)."""
    return rows.reshape(*rows.shape[:-1], SIDE, SIDE)


def to_bits(X: np.ndarray) -> np.ndarray:
    """Return x ones among 16 bits for every pixel: float32, shape (n, 16, 64)."""
    return (X[:, None, :] > np.arange(N_LEVELS)[:, None]).astype(np.float32)


def log_arrangements(X: np.ndarray) -> np.ndarray:
    """Return sum over pixels of log C(16, x), the ways to arrange each image's bits."""
    pixels = gammaln(N_LEVELS + 1) - gammaln(X + 1) - gammaln(N_LEVELS - X + 1)
    return pixels.sum(axis=1)


def dequantise(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a uniformly random point in the cell of each pixel."""
    return X + rng.uniform(size=X.shape)


def mixture_bound(gm: GaussianMixture, X: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Return the mean of log p(x + u) over uniform u, a lower bound on log P(x) of each image."""
    rng = np.random.default_rng(seed)
    return np.mean([gm.score_samples(dequantise(X, rng)) for _ in range(n_draws)], axis=0)


def mixture_log_probability(gm: GaussianMixture, X: np.ndarray) -> np.ndarray:
    """Return log P(x) of each image under a mixture with diagonal covariances, exactly."""
    deviation = np.sqrt(gm.covariances_)
    lower = np.where(X == 0, -np.inf, X)[:, None, :]
    upper = np.where(X == N_LEVELS, np.inf, X + 1)[:, None, :]
    cells = log_normal_mass((lower - gm.means_) / deviation, (upper - gm.means_) / deviation)
    with np.errstate(divide="ignore"):
        joint = cells.sum(axis=2) + np.log(gm.weights_)
    return ops.logsumexp(joint, axis=1)


def log_normal_mass(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return log of the standard normal's mass in [lower, upper], accurate in both tails."""
    flip = lower > -upper
    a, b = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    log_b = log_ndtr(b)
    return log_b + np.log1p(-np.exp(log_ndtr(a) - log_b))
