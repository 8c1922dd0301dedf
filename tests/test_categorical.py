"""The categorical decoder's kernel, called without torch, against the float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from elbokit import _core, reference

DTYPES = (np.float32, np.float64)
RELATIVE = {np.float32: 2e-6, np.float64: 1e-14}
# (samples, classes, inner, rows of a sample)
SHAPES = [(3, 2, 1, 1), (5, 17, 1, 4), (2, 515, 1, 3), (3, 5, 33, 1), (2, 130, 600, 1)]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - reference.logsumexp(logits, axis=1)[:, None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_every_output(
    cpu_level: str,
    masked: bool,
    shape: tuple[int, int, int, int],
    dtype: type,
    rng: np.random.Generator,
) -> None:
    n_samples, n_classes, inner, together = shape
    rows = n_samples * together
    logits = (5 * rng.normal(size=(rows, n_classes, inner))).astype(dtype)
    target = rng.integers(n_classes, size=(rows, inner))
    weight = rng.uniform(size=n_samples).astype(dtype)
    mask = rng.uniform(size=(rows, inner)) > 0.3
    counts = np.repeat(weight.astype(np.float64), together)[:, None] * (mask if masked else 1)
    loss = counts * reference.categorical_loss(logits, target)
    own = np.arange(n_classes)[:, None] == target[:, None]
    slope = 0.5 * counts[:, None] * (softmax(logits.astype(np.float64)) - own)

    sample_out = np.full(n_samples, np.nan, dtype)
    grad = np.full((rows, n_classes * inner), np.nan, dtype)
    mask_given = mask.view(np.uint8).ravel() if masked else None
    arguments = (logits.reshape(rows, -1), target.ravel(), mask_given, weight, n_samples)
    total, outside = _core.categorical_loss(*arguments, n_classes, 0.5, sample_out, grad)
    assert outside == -1
    np.testing.assert_allclose(total, loss.sum(), rtol=RELATIVE[dtype])
    by_sample = loss.reshape(n_samples, -1).sum(axis=1)
    np.testing.assert_allclose(sample_out, by_sample, rtol=RELATIVE[dtype])
    np.testing.assert_allclose(grad.reshape(logits.shape), slope, rtol=0, atol=RELATIVE[dtype])
    # Without the samples' sums the rows may be cut elsewhere.
    again, _ = _core.categorical_loss(*arguments, n_classes, 0.5, None, None)
    np.testing.assert_allclose(again, loss.sum(), rtol=RELATIVE[dtype])


@pytest.mark.parametrize("inner", [1, 40])
def test_the_first_bad_target_is_found(inner: int, restore_threads: None) -> None:
    rows = 4_000
    logits = np.zeros((rows, 50 * inner), np.float32)
    target = np.zeros(rows * inner, np.int64)
    target[[1_234 * inner, 1_235 * inner, 3_999 * inner]] = 50, -1, 60
    for threads in (1, 3):
        _core.set_num_threads(threads)
        _, outside = _core.categorical_loss(logits, target, None, None, rows, 50, 1.0, None, None)
        assert outside == 1_234 * inner
    mask = (target == 0).astype(np.uint8)
    _, outside = _core.categorical_loss(logits, target, mask, None, rows, 50, 1.0, None, None)
    assert outside == -1


F32 = np.zeros((4, 6), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(logits=F32.astype(int)), TypeError, "`logits` has dtype int64"),
        (dict(target=np.zeros(8, np.int32)), TypeError, "`target` has dtype int32"),
        (dict(target=np.zeros(4, np.int64)), ValueError, r"`target` has shape \(4,\), expected"),
        (dict(mask=np.zeros(8, bool)), TypeError, "`mask` has dtype bool"),
        (dict(n_classes=4), ValueError, "`n_classes` is 4, expected a divisor of 6"),
        (dict(n_samples=0), ValueError, "`n_samples` is 0, expected a divisor of 4"),
        (dict(grad_out=F32[:2]), ValueError, r"`grad_out` has shape \(2, 6\)"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "logits": F32,
        "target": np.zeros(8, np.int64),
        "mask": None,
        "weight": None,
        "n_samples": 4,
        "n_classes": 3,
        "scale": 1.0,
        "sample_out": None,
        "grad_out": None,
    }
    _core.categorical_loss(**arguments)
    with pytest.raises(error, match=message):
        _core.categorical_loss(**(arguments | change))
