"""The Gaussian decoder's kernel, called without torch, against the float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from elbokit import _core, reference

DTYPES = (np.float32, np.float64)
RELATIVE = {np.float32: 2e-6, np.float64: 1e-14}
SHAPES = [(rows, cols) for rows in (1, 2, 17) for cols in (1, 3, 15, 16, 17, 100, 513)]


def run(
    mean: np.ndarray,
    target: np.ndarray,
    logvar: np.ndarray | None,
    mask: np.ndarray | None = None,
    row_weight: np.ndarray | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float, dict[str, np.ndarray]]:
    """Ask for everything that the kernel gives."""
    shape, dtype = mean.shape, mean.dtype
    out = {
        "row_out": np.full(shape[0], np.nan, dtype),
        "grad_mean": np.full(shape, np.nan, dtype),
        "grad_logvar": np.full(shape, np.nan, dtype),
        "row_grad_logvar": np.full(shape[0], np.nan, dtype),
        "col_grad_logvar": np.zeros((1, shape[1])),
    }
    total, slope = _core.gaussian_loss(
        mean, target, logvar, mask, row_weight, *limits, 1.0, 0.5, **out
    )
    return total, slope, out


def close(got: Any, exact: Any, dtype: type) -> None:
    scale = max(1.0, float(np.abs(exact).max(initial=0.0)))
    np.testing.assert_allclose(got, exact, rtol=0, atol=RELATIVE[dtype] * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", ["none", "elements", "features", "samples", "number"])
def test_every_output(
    cpu_level: str, noise: str, shape: tuple[int, int], dtype: type, rng: np.random.Generator
) -> None:
    rows, cols = shape
    mean, target = rng.normal(size=(2, *shape)).astype(dtype)
    of = {"elements": shape, "features": (1, cols), "samples": (rows, 1), "number": (1, 1)}
    logvar = None
    if noise != "none":
        logvar = np.broadcast_to(rng.normal(size=of[noise]).astype(dtype), shape)
    weight = rng.uniform(size=rows).astype(dtype)
    mask = (rng.uniform(size=shape) > 0.3).astype(dtype)
    v = np.zeros(shape) if logvar is None else logvar.astype(np.float64)

    for masked in (False, True):
        total, slope, out = run(mean, target, logvar, mask if masked else None, weight)
        counts = (mask if masked else 1) * weight.astype(np.float64)[:, None]
        loss = counts * reference.gaussian_loss(mean, target, v)
        close(total, loss.sum(), dtype)
        close(out["row_out"], loss.sum(axis=1), dtype)
        difference = mean.astype(np.float64) - target
        close(out["grad_mean"], 0.5 * counts * difference * np.exp(-v), dtype)
        slopes = 0.5 * counts * 0.5 * (1 - difference**2 * np.exp(-v))
        close(out["grad_logvar"], slopes, dtype)
        close(out["row_grad_logvar"], slopes.sum(axis=1), dtype)
        close(out["col_grad_logvar"][0], slopes.sum(axis=0), dtype)
        close(slope, slopes.sum(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_are_summed_down_the_columns_in_float64(
    dtype: type, restore_threads: None, rng: np.random.Generator
) -> None:
    mean, target = rng.normal(size=(2, 40_000, 33)).astype(dtype)
    logvar = np.broadcast_to(rng.normal(size=(1, 33)).astype(dtype), mean.shape)
    results = []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        sums = np.zeros((1, 33))
        _core.gaussian_loss(
            mean, target, logvar, None, None, -math.inf, math.inf, 1.0, 1.0, *[None] * 4, sums
        )
        results.append(sums)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    square = (mean.astype(np.float64) - target) ** 2
    exact = 0.5 * (1 - square * np.exp(-logvar.astype(np.float64)))
    np.testing.assert_allclose(results[0][0], exact.sum(axis=0), atol=RELATIVE[dtype] * 40_000)


def test_limits(cpu_level: str) -> None:
    mean, target = np.ones((1, 6)), np.zeros((1, 6))
    logvar = np.array([[-200.0, -1.0, 0.0, 1.0, 200.0, np.nan]])
    _, _, out = run(mean, target, logvar, limits=(-1.0, 1.0))
    inverse = np.exp(-np.clip(logvar, -1, 1))
    np.testing.assert_allclose(out["grad_mean"], 0.5 * inverse, rtol=1e-14)
    slopes = 0.25 * (1 - inverse) * [[0, 1, 1, 1, 0, 1]]
    np.testing.assert_allclose(out["grad_logvar"], slopes, rtol=1e-14)


F32 = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(mean=np.zeros((2, 3), int)), TypeError, "`mean` has dtype int64"),
        (dict(target=np.zeros((2, 3))), TypeError, "`target` has dtype float64"),
        (dict(target=F32[:1]), ValueError, r"`target` has shape \(1, 3\), expected \(2, 3\)"),
        (dict(logvar=F32.T), ValueError, r"`logvar` has shape \(3, 2\)"),
        (dict(row_weight=F32[:, 0].astype(float)), TypeError, "`row_weight` has another dtype"),
        (dict(col_grad_logvar=F32[:1]), TypeError, "`col_grad_logvar` has another dtype"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = dict.fromkeys(
        ("logvar", "mask", "row_weight", "row_out", "grad_mean", "grad_logvar"), None
    )
    arguments |= {"mean": F32, "target": F32, "low": -1.0, "high": 1.0, "target_scale": 1.0}
    arguments |= {"scale": 1.0, "row_grad_logvar": None, "col_grad_logvar": None}
    _core.gaussian_loss(**arguments)
    with pytest.raises(error, match=message):
        _core.gaussian_loss(**(arguments | change))
