from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import scipy.special
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from elbokit import ops, reference
from strided import LAYOUTS, with_layout

SIZES = (1, 2, 3, 15, 16, 17, 65, 507)
TOLERANCE = {np.float32: 1e-6, np.float64: 2e-15}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 2), (1, 2), None])
def test_against_float64(
    cpu_level: str, dtype: type, n: int, axis: int | None, rng: np.random.Generator
) -> None:
    for shape in ((3, n, 5), (n, 4, 3), (2, 3, n)):
        a = (10 * rng.normal(size=shape)).astype(dtype)
        got = ops.logsumexp(a, axis=axis)
        exact = scipy.special.logsumexp(a.astype(np.float64), axis=axis)
        assert got.dtype == dtype
        assert got.shape == np.shape(exact)
        np.testing.assert_allclose(got, exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1])
def test_layouts_give_the_same_bits(layout: str, axis: int, rng: np.random.Generator) -> None:
    a = rng.normal(size=(252, 507)).astype(np.float32)
    np.testing.assert_array_equal(
        ops.logsumexp(with_layout(a, layout), axis=axis), ops.logsumexp(a, axis=axis)
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("axis", [0, 1])
def test_infinities_and_nan(cpu_level: str, dtype: type, axis: int) -> None:
    inf, nan = np.inf, np.nan
    rows = np.array(
        [
            [-inf, -inf, -inf],
            [-inf, 0, -inf],
            [inf, 0, -inf],
            [inf, inf, 1],
            [nan, 0, 1],
            [inf, nan, -inf],
            [1e4, 1e4, -1e4],
        ],
        dtype,
    )
    a = rows if axis == 1 else np.ascontiguousarray(rows.T)
    expected = np.array([-inf, 0, inf, inf, nan, nan, 1e4 + np.log(2)], dtype)
    np.testing.assert_allclose(ops.logsumexp(a, axis=axis), expected, rtol=1e-6)


def test_empty() -> None:
    np.testing.assert_array_equal(ops.logsumexp(np.empty((3, 0))), np.full(3, -np.inf))
    assert ops.logsumexp(np.empty((0, 3))).shape == (0,)
    assert ops.logsumexp(np.empty((0, 3)), axis=None) == -np.inf


@hypothesis.given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=40),
        elements=st.floats(-1e3, 1e3) | st.just(-np.inf),
    ),
    st.floats(-500, 500),
)
def test_properties(a: np.ndarray, shift: float) -> None:
    value = ops.logsumexp(a)
    np.testing.assert_array_equal(np.isneginf(value), np.isneginf(a).all(axis=-1))
    a = np.where(np.isneginf(value)[..., None], 0.0, a)  # done with; infinities have no tolerance
    value = ops.logsumexp(a)
    np.testing.assert_allclose(value, reference.logsumexp(a), rtol=1e-13, atol=1e-12)
    # Bounds: the maximum, and the maximum plus log n.
    largest = a.max(axis=-1)
    assert (value >= largest).all()
    assert (value <= largest + np.log(a.shape[-1]) + 1e-12 * np.abs(largest)).all()
    np.testing.assert_allclose(ops.logsumexp(a + shift), value + shift, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(ops.logsumexp(a[..., ::-1]), value, rtol=1e-13, atol=1e-12)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    a = torch.randn(4, 5, requires_grad=True)
    got = ops.logsumexp(a, axis=0)
    assert isinstance(got, torch.Tensor)
    torch.testing.assert_close(got, torch.logsumexp(a.detach(), 0))


@pytest.mark.parametrize(
    ("a", "axis", "error", "message"),
    [
        (np.arange(3), -1, TypeError, "`a` has dtype int64, expected float32 or float64"),
        (np.ones(3, np.float16), -1, TypeError, "`a` has dtype float16"),
        (np.ones(3, complex), -1, TypeError, "`a` has dtype complex128"),
        (np.array(["x"]), -1, TypeError, "`a` has dtype <U1"),
        (np.ones(3), 1, ValueError, "axis"),
        (np.ones((3, 3)), (0, 0), ValueError, "axis"),
        (np.float64(1), -1, ValueError, "axis"),
    ],
)
def test_bad_input(a: object, axis: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.logsumexp(a, axis=axis)
