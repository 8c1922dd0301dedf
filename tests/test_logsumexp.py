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


def test_torch_views_and_subclasses() -> None:
    torch = pytest.importorskip("torch")
    negated = torch.randn(3, dtype=torch.complex64).conj().imag
    torch.testing.assert_close(ops.logsumexp(negated), torch.logsumexp(negated, 0))
    with pytest.raises(ValueError, match="`a` is in no memory"):
        ops.logsumexp(torch.empty(3, device="meta"))
    with pytest.raises(TypeError, match=r"`a` is torch.Tensor of dtype torch.float32, .* dense"):
        ops.logsumexp(torch.eye(3).to_sparse())

    class Own(torch.Tensor):
        pass

    assert isinstance(ops.logsumexp(torch.zeros(3).as_subclass(Own)), torch.Tensor)


def test_array_namespace_of_the_caller() -> None:
    """A library whose arrays live in a module of another name says so itself, as JAX does."""

    class Array:
        def __init__(self, values: np.ndarray) -> None:
            self.values, self.dtype = values, values.dtype

        def __dlpack__(self, **keywords: object) -> object:
            return self.values.__dlpack__(**keywords)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.values.__dlpack_device__()

        def __array_namespace__(self) -> type:
            return Namespace

    class Namespace:
        from_dlpack = Array

    got = ops.logsumexp(Array(np.zeros(4)))
    assert isinstance(got, Array)
    np.testing.assert_allclose(got.values, np.log(4))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_long_sums_down_the_columns(cpu_level: str, dtype: type) -> None:
    """Float32 stops counting ones at 2^24, and loses digits long before."""
    n = 1_000_003
    a = np.broadcast_to(np.linspace(-1, 0, n, dtype=dtype)[:, None], (n, 3))
    exact = scipy.special.logsumexp(a[:, 0].astype(np.float64))
    np.testing.assert_allclose(ops.logsumexp(a, axis=0), exact, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("a", "axis", "error", "message"),
    [
        (np.arange(3), -1, TypeError, "`a` has dtype int64, expected float32 or float64"),
        (np.ones(3, np.float16), -1, TypeError, "`a` has dtype float16"),
        (np.ones(3, complex), -1, TypeError, "`a` has dtype complex128"),
        (np.array(["x"]), -1, TypeError, "`a` has dtype <U1"),
        (np.ones(3), 1, ValueError, "axis"),
        (np.ones(3), 0.0, TypeError, "`axis` is 0.0, expected an integer, a tuple of integers or"),
        (np.ones((3, 3)), (0, "1"), TypeError, r"`axis` is \(0, '1'\), expected an integer"),
        (np.ones((3, 3)), (0, 0), ValueError, "axis"),
        (np.float64(1), -1, ValueError, "axis"),
    ],
)
def test_bad_input(a: object, axis: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.logsumexp(a, axis=axis)
